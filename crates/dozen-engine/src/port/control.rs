//! The control plane's side of the router, and the messages between the two.
//!
//! The router is started as `EXE __router` with a connected Unix stream socket as its standard input. Each message is one line of JSON; the
//! first, [`ToRouter::Start`], carries copies of the listeners as ancillary data. End of file on the socket means that the control plane is
//! lost: the router ends.

use super::{Listeners, PortError};
use crate::home::Home;
use crate::tasks;
use dozen_core::ids::Generation;
use dozen_core::port::{Route, RouteTable, Web};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// The version of these messages; N speaks N−1.
pub(super) const PROTOCOL: u32 = 1;
/// A longer message is refused: a table of 10,000 hosts has about 2 MB.
pub(super) const MAX_MESSAGE: u64 = 64 * 1024 * 1024;
/// So many listeners can be handed over.
pub(super) const MAX_LISTENERS: usize = 8;

/// How long the router waits for what, and for how many (contract, section 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// For an instance to take a connection: H19.
    pub connect: Duration,
    /// For the first byte of an answer, counted from the end of the request: H12.
    pub first_byte: Duration,
    /// Between two bytes, then: H15, H28.
    pub idle: Duration,
    /// For a request's head, and for the next request on a kept connection.
    pub head: Duration,
    /// For an app that is starting: H20.
    pub boot: Duration,
    /// For a change that stopped the app's instances: H80.
    pub hold: Duration,
    /// So many requests wait for that at once: H11.
    pub waiting: usize,
    /// How long an instance that refused a connection is asked last.
    pub quarantine: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(55),
            head: Duration::from_secs(30),
            boot: Duration::from_secs(60),
            hold: Duration::from_secs(30),
            waiting: 1_000,
            quarantine: Duration::from_secs(5),
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
}

impl RouterSpec {
    /// The default: at most two workers, the contract's limits, segments of 4 MB of which eight are kept.
    pub fn new(exe: impl Into<PathBuf>, home: Home) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { exe: exe.into(), home, workers: cores.min(2), limits: Limits::default(), segment_bytes: 4 << 20, segments: 8 }
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
    /// The router process ended. Call [`Router::revive`]; until then connections wait in the listeners' backlog.
    Lost,
}

/// A running router process. Dropped, it ends with its socket.
#[derive(Debug)]
pub struct Router {
    spec: RouterSpec,
    listeners: Listeners,
    link: Link,
    table: Option<String>,
    draining: BTreeSet<u16>,
}

/// One process and the two tasks that speak with it.
#[derive(Debug)]
struct Link {
    child: Child,
    to: mpsc::UnboundedSender<String>,
    from: mpsc::UnboundedReceiver<RouterEvent>,
}

impl Router {
    /// Starts the process and hands it copies of the listeners. It accepts nothing before the first [`Router::set`]. Needs a tokio runtime.
    ///
    /// # Errors
    /// The program could not be started.
    pub fn spawn(spec: RouterSpec, listeners: Listeners) -> Result<Self, PortError> {
        let link = Link::open(&spec, &listeners)?;
        Ok(Self { spec, listeners, link, table: None, draining: BTreeSet::new() })
    }

    /// Leads requests by this table from now on; answered by [`RouterEvent::Applied`] or [`RouterEvent::Stale`]. Never blocks.
    pub fn set(&mut self, table: &RouteTable) {
        let message = line(&ToRouter::Set { table: WireTable::of(table, &self.spec.home) });
        self.link.send(message.clone());
        self.table = Some(message);
    }

    /// Asks for [`RouterEvent::Drained`] as soon as the instance that listens on `port` is in no table and has nothing in flight.
    pub fn drain(&mut self, port: u16) {
        self.draining.insert(port);
        self.link.send(line(&ToRouter::Drain { port }));
    }

    /// Asks for [`RouterEvent::InFlight`].
    pub fn in_flight(&mut self, port: u16) {
        self.link.send(line(&ToRouter::InFlight { port }));
    }

    /// The next event; may be cancelled. After [`RouterEvent::Lost`] it is [`RouterEvent::Lost`] again until the router is revived.
    pub async fn next(&mut self) -> RouterEvent {
        let event = self.link.from.recv().await.unwrap_or(RouterEvent::Lost);
        if let RouterEvent::Drained { port } = event {
            self.draining.remove(&port);
        }
        event
    }

    /// Starts a successor on the same listeners and tells it the last table and what is still to be drained. How often is the caller's to
    /// pace.
    ///
    /// # Errors
    /// The program could not be started.
    pub async fn revive(&mut self) -> Result<(), PortError> {
        // A router whose socket broke may still live; two must not accept.
        let _ = self.link.child.kill().await;
        self.link = Link::open(&self.spec, &self.listeners)?;
        if let Some(table) = &self.table {
            self.link.send(table.clone());
        }
        for port in &self.draining {
            self.link.send(line(&ToRouter::Drain { port: *port }));
        }
        Ok(())
    }

    /// Lets the router finish what is in flight, for at most `grace`, and waits for its end; its last log lines are then written.
    pub async fn stop(mut self, grace: Duration) {
        self.link.send(line(&ToRouter::Stop { grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) }));
        // The events are read on, or the router could not say its last ones.
        let ended = tokio::time::timeout(grace + Duration::from_secs(2), self.link.child.wait()).await;
        if ended.is_err() {
            let _ = self.link.child.kill().await;
        }
    }

    /// The port of the public listeners.
    pub fn port(&self) -> u16 {
        self.listeners.port()
    }

    /// The public listeners.
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// The process id, while it lives.
    pub fn pid(&self) -> Option<u32> {
        self.link.child.id()
    }
}

impl Link {
    fn open(spec: &RouterSpec, listeners: &Listeners) -> Result<Self, PortError> {
        let fail = |source: io::Error| PortError::Start { exe: spec.exe.clone(), source };
        let (ours, theirs) = StdUnixStream::pair().map_err(fail)?;
        #[expect(clippy::disallowed_methods, reason = "the one place that starts a router")]
        let child = Command::new(&spec.exe)
            .arg("__router")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // A terminal's Ctrl-C is for the control plane, which then stops the router in order.
            .process_group(0)
            .spawn()
            .map_err(fail)?;
        let start = ToRouter::Start {
            protocol: PROTOCOL,
            workers: spec.workers,
            limits: spec.limits,
            segment_bytes: spec.segment_bytes,
            segments: spec.segments,
        };
        hand_over(&ours, &line(&start), listeners).map_err(fail)?;
        ours.set_nonblocking(true).map_err(fail)?;
        let (read, mut write) = UnixStream::from_std(ours).map_err(fail)?.into_split();

        let (to, mut outgoing) = mpsc::unbounded_channel::<String>();
        tasks::spawn("router-orders", async move {
            while let Some(message) = outgoing.recv().await {
                if write.write_all(message.as_bytes()).await.is_err() {
                    break;
                }
            }
        });
        let (events, from) = mpsc::unbounded_channel();
        tasks::spawn("router-events", async move {
            let mut read = BufReader::new(read);
            while let Ok(Some(message)) = read_message::<FromRouter>(&mut read).await {
                let Some(event) = message.and_then(FromRouter::event) else { continue };
                if events.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, to, from })
    }

    /// A message to a router that is gone is not lost: its successor is told all that still matters.
    fn send(&self, message: String) {
        let _ = self.to.send(message);
    }
}

fn hand_over(socket: &StdUnixStream, start: &str, listeners: &Listeners) -> io::Result<()> {
    let fds: Vec<BorrowedFd<'_>> = listeners.sockets().iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("too many listeners"));
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(start.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    io::Write::write_all(&mut &*socket, &start.as_bytes()[sent..])
}

/// One message as its line.
pub(super) fn line(message: &impl Serialize) -> String {
    let mut text = serde_json::to_string(message).unwrap_or_default();
    text.push('\n');
    text
}

/// The next message; `Some(None)` for one that this version does not know, `None` at the end.
pub(super) async fn read_message<M: for<'de> Deserialize<'de>>(
    from: &mut (impl tokio::io::AsyncBufRead + Unpin),
) -> io::Result<Option<Option<M>>> {
    let mut text = Vec::new();
    let read = from.take(MAX_MESSAGE).read_until(b'\n', &mut text).await?;
    if read == 0 || text.last() != Some(&b'\n') {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&text).ok()))
}

/// Control plane to router.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(super) enum ToRouter {
    /// First, and once; the listeners come with it.
    Start {
        protocol: u32,
        workers: usize,
        limits: Limits,
        segment_bytes: u64,
        segments: u32,
    },
    Set {
        table: WireTable,
    },
    Drain {
        port: u16,
    },
    InFlight {
        port: u16,
    },
    Stop {
        grace_ms: u64,
    },
}

/// Router to control plane.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub(super) enum FromRouter {
    Started { protocol: u32 },
    Applied { generation: u64 },
    Stale { generation: u64, current: u64 },
    Drained { port: u16 },
    InFlight { port: u16, count: usize },
    Refused { deploy: String, instance: String, port: u16 },
    Wrote { deploy: String },
}

impl FromRouter {
    fn event(self) -> Option<RouterEvent> {
        Some(match self {
            Self::Started { .. } => return None,
            Self::Applied { generation } => RouterEvent::Applied { generation: Generation(generation) },
            Self::Stale { generation, current } => RouterEvent::Stale { generation: Generation(generation), current: Generation(current) },
            Self::Drained { port } => RouterEvent::Drained { port },
            Self::InFlight { port, count } => RouterEvent::InFlight { port, count },
            Self::Refused { deploy, instance, port } => RouterEvent::BackendRefused { deploy, instance, port },
            Self::Wrote { deploy } => RouterEvent::Wrote { deploy },
        })
    }
}

/// A [`RouteTable`] on the wire: each route once, with its hosts.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireTable {
    pub(super) generation: u64,
    pub(super) routes: Vec<WireRoute>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireRoute {
    pub(super) deploy: String,
    pub(super) log: PathBuf,
    pub(super) hosts: Vec<String>,
    pub(super) fallback: bool,
    pub(super) web: WireWeb,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum WireWeb {
    Ready(Vec<WireBackend>),
    Starting,
    Held,
    Crashed,
    None,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireBackend {
    pub(super) instance: String,
    pub(super) port: u16,
}

impl WireTable {
    fn of(table: &RouteTable, home: &Home) -> Self {
        let mut routes: Vec<WireRoute> = Vec::new();
        let mut known = std::collections::HashMap::new();
        let mut of = |route: &'_ Arc<Route>, host: Option<&String>| {
            let index = *known.entry(Arc::as_ptr(route)).or_insert_with(|| {
                routes.push(WireRoute::of(route, home));
                routes.len() - 1
            });
            match host {
                Some(host) => routes[index].hosts.push(host.clone()),
                None => routes[index].fallback = true,
            }
        };
        for (host, route) in &table.hosts {
            of(route, Some(host));
        }
        if let Some(route) = &table.fallback {
            of(route, None);
        }
        Self { generation: table.generation.0, routes }
    }
}

impl WireRoute {
    fn of(route: &Route, home: &Home) -> Self {
        let web = match &route.web {
            Web::Ready(backends) => {
                WireWeb::Ready(backends.iter().map(|b| WireBackend { instance: b.instance.clone(), port: b.port }).collect())
            }
            Web::Starting => WireWeb::Starting,
            Web::Held => WireWeb::Held,
            Web::Crashed => WireWeb::Crashed,
            Web::None => WireWeb::None,
        };
        Self { deploy: route.deploy.to_string(), log: home.logs(&route.deploy), hosts: Vec::new(), fallback: false, web }
    }
}
