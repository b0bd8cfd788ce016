//! The control plane's side of the router.

use super::wire::{PROTOCOL, ToRouter, WireTable, line, speaks};
use super::{Listeners, PortError, ROUTER, Supply};
use crate::home::Home;
use crate::processes::notes::Notes;
use crate::tasks;
use dozen_core::ids::{DeployRef, Generation, Version};
use dozen_core::port::RouteTable;
use dozen_core::port::tally::Tally;
use link::{Counted, Link, Process, take_over};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::Permissions;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

mod link;

/// How long the router waits for what, and for how many (contract, section 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// For an instance to take a connection: H19.
    pub connect: Duration,
    /// For the first byte of an answer, counted from the end of the request: H12.
    pub first_byte: Duration,
    /// Between two bytes, then: H15, H28.
    pub idle: Duration,
    /// For a client that has ended its side, while nothing can be sent to it: then it is gone.
    pub half_closed: Duration,
    /// So many bytes a second are the least that a client sends of a body or takes of an answer, of the time that it is waited for: H28.
    pub slowest: u64,
    /// From so much of that time on.
    pub slow_grace: Duration,
    /// Clients' connections in all; more wait in the backlog. 0 is what the limit of open files leaves room for.
    pub connections: usize,
    /// Connections of one address, of IPv6 of one /64; more are closed at once. `None` is [`PER_ADDRESS`], and as many as they like for
    /// clients on this host.
    pub per_address: Option<usize>,
    /// For a request's head, and for the next request on a kept connection.
    pub head: Duration,
    /// For an app that is starting: H20.
    pub boot: Duration,
    /// For a change that stopped the app's instances, and for the end of a pause: H80. For an instance with room: H11.
    pub hold: Duration,
    /// So many requests wait for that at once: H11.
    pub waiting: usize,
    /// How long an instance that refused a connection is asked last.
    pub quarantine: Duration,
    /// For the handshake of TLS.
    #[serde(default = "handshake")]
    pub handshake: Duration,
}

fn handshake() -> Duration {
    Duration::from_secs(10)
}

/// So many connections one address has where nobody says otherwise.
pub const PER_ADDRESS: usize = 1_000;

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(55),
            half_closed: Duration::from_secs(5),
            slowest: 100,
            slow_grace: Duration::from_secs(30),
            connections: 0,
            per_address: None,
            head: Duration::from_secs(30),
            boot: Duration::from_secs(60),
            hold: Duration::from_secs(30),
            waiting: 1_000,
            quarantine: Duration::from_secs(5),
            handshake: handshake(),
        }
    }
}

/// What a router is made of.
#[derive(Debug, Clone)]
pub struct RouterSpec {
    /// The program that has the `__router` role: dozen itself, `/proc/self/exe`.
    pub exe: PathBuf,
    /// Where the deploys' log folders are.
    pub home: Home,
    /// Threads, each with a runtime, a pool and log files of its own.
    pub workers: usize,
    /// See [`Limits`].
    pub limits: Limits,
    /// A log segment that reaches this many bytes is closed and a new one begun.
    pub segment_bytes: u64,
    /// So many closed segments are kept for each deploy and worker.
    pub segments: u32,
    /// Where a router is written down that outlives this process; `None` where it ends with it.
    pub lasting: Option<Notes>,
}

impl RouterSpec {
    /// The default: a worker for each core and at most two, the contract's limits, segments of 4 MB of which eight are kept.
    pub fn new(exe: impl Into<PathBuf>, home: Home) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { exe: exe.into(), home, workers: cores.min(2), limits: Limits::default(), segment_bytes: 4 << 20, segments: 8, lasting: None }
    }
}

/// What a router reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouterEvent {
    /// Requests are led by the table of this generation from now on.
    Applied {
        /// Which.
        generation: Generation,
    },
    /// The answer to [`Router::certify`].
    Certified {
        /// What that one answered.
        serial: u64,
        /// What is not shown, and why, for people.
        wrong: Vec<String>,
    },
    /// A table was refused, since the router had a newer one.
    Stale {
        /// The refused one's.
        generation: Generation,
        /// The router's.
        current: Generation,
    },
    /// The instance that listened here is in no table any more and has no request or tunnel in flight.
    Drained {
        /// Where it listened.
        port: u16,
    },
    /// The answer to [`Router::in_flight`].
    InFlight {
        /// Of the instance that listens here.
        port: u16,
        /// Requests and tunnels.
        count: usize,
    },
    /// An instance refused a connection. Told once for each quarantine.
    BackendRefused {
        /// `shop/dev`
        deploy: String,
        /// `web.1`
        instance: String,
        /// Where it should listen.
        port: u16,
    },
    /// Log lines of this deploy were written; a reader may look. Coalesced.
    Wrote {
        /// `shop/dev`
        deploy: String,
    },
    /// Requests of a split were counted: so many more, of these releases.
    Counted {
        /// `shop/dev`
        deploy: String,
        /// Its number: [`dozen_core::port::Manners::counted`].
        split: i64,
        /// By release.
        tallies: BTreeMap<Version, Tally>,
        /// Whether they came within the last seconds. Of those that a router tells that was taken over nobody knows when.
        fresh: bool,
    },
    /// The router keeps rights that it should have given up.
    Weak {
        /// Which, for people.
        missing: Vec<String>,
    },
    /// The router process ended. Call [`Router::revive`]; until then connections wait in the listeners' backlog.
    Lost,
    /// Another one could not be started, and is tried again.
    NotRevived {
        /// Why, for people.
        why: String,
    },
}

/// A running router process. Dropped, it ends with its socket.
#[derive(Debug)]
pub struct Router {
    spec: RouterSpec,
    listeners: Listeners,
    link: Link,
    /// Those that were replaced and still finish what they have.
    leaving: Vec<Link>,
    /// Events that are there before the next one is waited for.
    early: VecDeque<RouterEvent>,
    /// What was asked of how much is in flight, and what of it was told: an answer is of all processes together.
    counts: BTreeMap<u16, usize>,
    table: Option<WireTable>,
    /// Counts the tables that it was given.
    generation: Generation,
    /// Where it sends requests by the table that it had when it was taken over.
    found: BTreeSet<u16>,
    draining: BTreeSet<u16>,
    /// The last that it was given, and so many times it was.
    supply: (u64, Arc<Supply>),
}

/// What is written down of a router.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    protocol: u32,
    port: u16,
    #[serde(default)]
    https: Option<u16>,
}

/// The name of the note.
const NAME: &str = "router";
/// A router that does not answer its next control plane within this is stopped or stuck.
const ANSWER: Duration = Duration::from_secs(10);

/// A router that was left running.
#[derive(Debug)]
pub enum Left {
    /// It serves.
    Serving(Box<Router>),
    /// It served on these ports, of which the second is the one of HTTPS, and is gone.
    Gone(u16, Option<u16>),
}

impl Router {
    /// Starts the process and hands it copies of the listeners. It accepts nothing before the first [`Router::set`]. Needs a tokio runtime.
    ///
    /// # Errors
    /// The program could not be started.
    pub fn spawn(spec: RouterSpec, listeners: Listeners) -> Result<Self, PortError> {
        let link = Link::open(&spec, &listeners)?;
        Ok(Self::with(spec, listeners, link, None))
    }

    /// Whether the router that `notes` tell of, if any, can be taken over by this version.
    ///
    /// # Errors
    /// It speaks another one.
    pub fn check(notes: &Notes) -> Result<(), PortError> {
        match notes.read(NAME) {
            Some(Note { protocol, .. }) if !speaks(protocol) => Err(PortError::Version { theirs: protocol }),
            _ => Ok(()),
        }
    }

    /// The public ports of the router that `notes` tell of, if any; the second is the one of HTTPS.
    pub fn ports_of(notes: &Notes) -> Option<(u16, Option<u16>)> {
        notes.read(NAME).map(|Note { port, https, .. }| (port, https))
    }

    /// Takes over the router that `notes` tell of. It outlives this process, too, where the spec says so. `None` where there was none.
    ///
    /// # Errors
    /// It runs and cannot be taken over.
    pub async fn find(spec: RouterSpec, notes: &Notes) -> Result<Option<Left>, PortError> {
        Self::check(notes)?;
        let Some(Note { protocol, port, https }) = notes.read(NAME) else { return Ok(None) };
        let Ok((stream, pid)) = notes.connect(NAME).await else {
            notes.remove(NAME);
            return Ok(Some(Left::Gone(port, https)));
        };
        let fail = |source: io::Error| PortError::TakeOver { pid, source };
        let process = Process::found(pid).map_err(fail)?;
        let answer = tokio::time::timeout(ANSWER, take_over(stream, spec.lasting.is_some())).await;
        let (listeners, table, link) = match answer {
            // It ended before it answered.
            Ok(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
                notes.remove(NAME);
                return Ok(Some(Left::Gone(port, https)));
            }
            Ok(answer) => answer.map_err(fail)?,
            Err(_) => return Err(fail(io::ErrorKind::TimedOut.into())),
        };
        if spec.lasting.is_none() {
            notes.remove(NAME);
        }
        let (to, from) = link;
        let link = Link { process, protocol, drains: BTreeSet::new(), tells: BTreeSet::new(), counted: Counted::Found, to, from };
        Ok(Some(Left::Serving(Box::new(Self::with(spec, listeners, link, table)))))
    }

    fn with(spec: RouterSpec, listeners: Listeners, link: Link, table: Option<WireTable>) -> Self {
        let generation = Generation(table.as_ref().map_or(0, |t| t.generation));
        let found = table.iter().flat_map(|t| &t.routes).flat_map(|route| route.web.ports()).collect();
        let (leaving, early, counts, draining) = (Vec::new(), VecDeque::new(), BTreeMap::new(), BTreeSet::new());
        let supply = Default::default();
        Self { spec, listeners, link, leaving, early, counts, table, generation, found, draining, supply }
    }

    /// Whether the process is of this version, or of one that knows less.
    pub fn is_current(&self) -> bool {
        self.link.protocol == PROTOCOL
    }

    /// The generation of the last table that the router was given, by this control plane or by the one before.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the router, when it was taken over, sent requests to an instance that listens on this port.
    pub fn routes(&self, port: u16) -> bool {
        self.found.contains(&port)
    }

    /// The ports that it sent requests to when it was taken over.
    pub(super) fn found(&self) -> &BTreeSet<u16> {
        &self.found
    }

    /// Leads requests by this table from now on; answered by [`RouterEvent::Applied`] or [`RouterEvent::Stale`]. Never blocks.
    pub fn set(&mut self, table: &RouteTable) {
        self.set_beside(table, &BTreeSet::new());
    }

    /// The same, and to these deploys as before.
    pub(super) fn set_beside(&mut self, table: &RouteTable, as_before: &BTreeSet<DeployRef>) {
        // A deploy has as many routes as names, and one folder.
        let deploys: BTreeSet<&DeployRef> = table.routes().map(|(_, route)| &route.deploy).collect();
        for deploy in deploys {
            if let Err(error) = self.open_logs(deploy) {
                tracing::warn!(%error, %deploy, "the router cannot write its log");
            }
        }
        let mut wire = WireTable::of(table, &self.spec.home);
        let before = self.table.iter().flat_map(|table| &table.routes);
        let stays = |deploy: &str| deploy.parse().is_ok_and(|deploy: DeployRef| as_before.contains(&deploy));
        wire.routes.extend(before.filter(|route| stays(&route.deploy)).cloned());
        (self.table, self.generation) = (Some(wire), table.generation);
        self.tell_table();
    }

    /// Has TLS connections be shown these from now on; those that there are go on. Answers the number by which [`RouterEvent::Certified`] tells
    /// that it was done. Never blocks.
    pub fn certify(&mut self, supply: Arc<Supply>) -> u64 {
        let serial = self.supply.0 + 1;
        self.supply = (serial, supply);
        self.tell_certificates();
        serial
    }

    fn tell_certificates(&self) {
        // One that was replaced has no more handshakes.
        self.link.certify(&self.supply);
    }

    fn tell_table(&self) {
        if let Some(table) = &self.table {
            // One that was replaced learns which instances are to be left, too.
            self.leaving.iter().chain([&self.link]).for_each(|link| link.set(table));
        }
    }

    /// Lets the router write its files into a deploy's log folder, where it has a uid of its own. Others' files there it cannot touch.
    fn open_logs(&self, deploy: &DeployRef) -> io::Result<()> {
        let folder = self.spec.home.logs(deploy);
        std::fs::create_dir_all(&folder)?;
        let Some((_, gid)) = own_user() else { return Ok(()) };
        let root = self.spec.home.all_logs();
        for folder in folder.ancestors().take_while(|f| f.starts_with(&root)) {
            let mode = if folder == self.spec.home.logs(deploy) { 0o1770 } else { 0o710 };
            if std::fs::metadata(folder)?.gid() != gid {
                std::os::unix::fs::chown(folder, None, Some(gid))?;
                std::fs::set_permissions(folder, Permissions::from_mode(mode))?;
            }
        }
        Ok(())
    }

    /// Asks for [`RouterEvent::Drained`] as soon as the instance that listens on `port` is in no table and has nothing in flight.
    pub fn drain(&mut self, port: u16) {
        self.draining.insert(port);
        self.leaving.iter_mut().chain([&mut self.link]).for_each(|link| link.drain(port));
    }

    /// Asks for [`RouterEvent::InFlight`].
    pub fn in_flight(&mut self, port: u16) {
        self.counts.insert(port, 0);
        for link in self.leaving.iter_mut().chain([&mut self.link]) {
            link.tells.insert(port);
            link.send(line(&ToRouter::InFlight { port }));
        }
    }

    /// The next event; may be cancelled. After [`RouterEvent::Lost`] it is [`RouterEvent::Lost`] again until the router is revived.
    pub async fn next(&mut self) -> RouterEvent {
        loop {
            if let Some(event) = self.early.pop_front() {
                return event;
            }
            let (leaving, link) = (&mut self.leaving, &mut self.link);
            let (of, event) = poll_fn(|cx| {
                for (n, link) in leaving.iter_mut().enumerate() {
                    if let Poll::Ready(event) = link.from.poll_recv(cx) {
                        return Poll::Ready((Some(n), event));
                    }
                }
                link.from.poll_recv(cx).map(|event| (None, event))
            })
            .await;
            match (of, event) {
                (None, None) => return RouterEvent::Lost,
                (None, Some(event)) => self.heard(None, event),
                // Which tables one that leaves has is of no interest.
                (Some(_), Some(RouterEvent::Applied { .. } | RouterEvent::Stale { .. })) => {}
                (Some(n), Some(event)) => self.heard(Some(n), event),
                (Some(n), None) => {
                    let mut gone = self.leaving.remove(n);
                    for port in std::mem::take(&mut gone.drains) {
                        self.drained(port);
                    }
                    for port in std::mem::take(&mut gone.tells) {
                        self.told(port);
                    }
                    tasks::spawn("router that left", async move { gone.process.wait().await });
                }
            }
        }
    }

    /// Takes an event of the running process, or of the nth of those that leave.
    fn heard(&mut self, of: Option<usize>, event: RouterEvent) {
        let link = match of {
            Some(n) => &mut self.leaving[n],
            None => &mut self.link,
        };
        match event {
            RouterEvent::Drained { port } => {
                link.drains.remove(&port);
                self.drained(port);
            }
            RouterEvent::InFlight { port, count } => {
                link.tells.remove(&port);
                *self.counts.entry(port).or_default() += count;
                self.told(port);
            }
            RouterEvent::Counted { deploy, split, tallies, .. } => self.early.extend(link.counted.more(deploy, split, tallies)),
            event => self.early.push_back(event),
        }
    }

    /// Says so when no process has anything in flight there.
    fn drained(&mut self, port: u16) {
        if !self.leaving.iter().chain([&self.link]).any(|link| link.drains.contains(&port)) && self.draining.remove(&port) {
            self.early.push_back(RouterEvent::Drained { port });
        }
    }

    /// Says how much is in flight there when every process has.
    fn told(&mut self, port: u16) {
        if !self.leaving.iter().chain([&self.link]).any(|link| link.tells.contains(&port))
            && let Some(count) = self.counts.remove(&port)
        {
            self.early.push_back(RouterEvent::InFlight { port, count });
        }
    }

    /// Has a successor accept from the same listeners, led by the same table; then the process that runs now accepts no more, finishes what it
    /// has within `grace`, and ends. No connection is refused, and none is cut before the grace is over. Until then
    /// [`RouterEvent::Drained`] and [`RouterEvent::InFlight`] are of both.
    ///
    /// # Errors
    /// The program could not be started, or does not serve. Then all is as it was, but that another control plane would not find it.
    pub async fn replace(&mut self, grace: Duration) -> Result<(), PortError> {
        let mut next = Link::open(&self.spec, &self.listeners)?;
        // Before the table, by which it begins to accept.
        next.certify(&self.supply);
        if let Some(table) = &self.table {
            next.set(table);
            let serves = async {
                while let Some(event) = next.from.recv().await {
                    if let RouterEvent::Applied { .. } = event {
                        return Ok(());
                    }
                    self.early.push_back(event);
                }
                Err(io::ErrorKind::UnexpectedEof)
            };
            let outcome = tokio::time::timeout(ANSWER, serves).await;
            if let Err(kind) = outcome.unwrap_or(Err(io::ErrorKind::TimedOut)) {
                next.process.kill().await;
                return Err(PortError::Start { exe: self.spec.exe.clone(), source: kind.into() });
            }
        }
        self.draining.iter().for_each(|port| next.drain(*port));
        let before = std::mem::replace(&mut self.link, next);
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        // 2 knows one way to stop, which closes connections that idle.
        let order = if before.protocol < 3 { ToRouter::Stop { grace_ms } } else { ToRouter::Yield { grace_ms } };
        before.send(line(&order));
        self.leaving.push(before);
        Ok(())
    }

    /// Starts a successor on the same listeners and tells it the last table and what is still to be drained. How often is the caller's to
    /// pace.
    ///
    /// # Errors
    /// The program could not be started.
    pub async fn revive(&mut self) -> Result<(), PortError> {
        // A router whose socket broke may still live; two must not accept.
        self.link.process.kill().await;
        let asked = std::mem::take(&mut self.link.tells);
        self.link = Link::open(&self.spec, &self.listeners)?;
        self.link.certify(&self.supply);
        if let Some(table) = &self.table {
            self.link.set(table);
        }
        self.draining.iter().for_each(|port| self.link.drain(*port));
        asked.into_iter().for_each(|port| self.told(port));
        Ok(())
    }

    /// Lets the router finish what is in flight, for at most `grace`, and waits for its end; its last log lines are then written.
    pub async fn stop(mut self, grace: Duration) {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let until = tokio::time::Instant::now() + grace + Duration::from_secs(2);
        let mut all: Vec<&mut Link> = self.leaving.iter_mut().chain([&mut self.link]).collect();
        all.iter().for_each(|link| link.send(line(&ToRouter::Stop { grace_ms })));
        for link in &mut all {
            // The events are read on, or the router could not say its last ones.
            if tokio::time::timeout_at(until, link.process.wait()).await.is_err() {
                link.process.kill().await;
            }
        }
        if let Some(notes) = &self.spec.lasting {
            notes.remove(NAME);
        }
    }

    /// The port of the public listeners.
    pub fn port(&self) -> u16 {
        self.listeners.port()
    }

    /// The port of those for HTTPS.
    pub fn https_port(&self) -> Option<u16> {
        self.listeners.https_port()
    }

    /// The public listeners.
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// The process id, while it lives.
    pub fn pid(&self) -> Option<u32> {
        self.link.process.id()
    }
}

/// The user that the routers of this host run as, where dozen is root.
fn own_user() -> Option<(u32, u32)> {
    rustix::process::geteuid().is_root().then_some((ROUTER, ROUTER))
}
