//! VIII. Scale out via the process model.
//! The local driver's task: it owns every jail of this host, asks `plan` for the next steps and `Life` for each instance's, and does them.
//!
//! | in | out |
//! |---|---|
//! | commands: what is desired, one-offs, restarts | [`Seen`] and platform lines, through [`Report`] |
//! | events of jails (one small task each forwards them) | the route table, to the router |
//! | events of the router: what has drained, that it is lost | |
//! | the earliest time that a life or a drain waits for | |
//!
//! **Invariant:** after any event the same thing happens: plan, act, route. No path of its own for a first start, a crash or a stop.

use crate::home::Home;
use crate::logs::Store;
use crate::port::lease::Lease;
use crate::port::{Router, RouterEvent};
use crate::processes::spec::{self, Place};
use crate::processes::{Jail, JailEvent, JailHandle};
use dozen_core::admin::OneOff;
use dozen_core::concurrency::{Desired, Step, plan};
use dozen_core::disposability::{Action, Event, Life, Policy};
use dozen_core::ids::{DeployRef, Generation, InstanceName, Version};
use dozen_core::parity::{Io, Report};
use dozen_core::port::Web;
use dozen_core::processes::{Exit, Isolation, Seen, State};
use dozen_core::release::Release;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// What the driver needs of its surroundings.
pub struct Site {
    /// The dozen binary, for the jails.
    pub exe: PathBuf,
    /// Slugs and logs.
    pub home: Home,
    /// The deploy's log, to be poked when a jail has written.
    pub store: Arc<Store>,
    /// What this machine gives.
    pub isolation: Isolation,
    /// The deploy's uid.
    pub uid: u32,
    /// Times.
    pub policy: Policy,
    /// The router; `None` where only one-offs run.
    pub router: Option<Router>,
    /// Whether the only app answers any host name.
    pub any_host: bool,
    /// Whom to tell.
    pub report: Arc<dyn Report>,
}

/// What the driver is told.
pub enum Command {
    /// Make it so.
    Apply(Desired),
    /// Run once.
    OneOff {
        /// Of this release.
        release: Arc<Release>,
        /// What.
        one_off: OneOff,
        /// Where it reads and writes.
        io: Io,
    },
    /// Stop all of a deploy.
    Forget(DeployRef),
    /// End and start again.
    Restart {
        /// All, a type, or one.
        target: Option<String>,
        /// How many.
        answer: oneshot::Sender<usize>,
    },
    /// To a one-off.
    Signal {
        /// Which.
        instance: InstanceName,
        /// Signal number.
        number: i32,
    },
    /// SIGKILL to everything.
    KillAll,
    /// When nothing runs any more, end the router and then the driver.
    Close(oneshot::Sender<()>),
}

/// How long the router may take to end what is in flight when everything ends.
const ROUTER_GRACE: std::time::Duration = std::time::Duration::from_secs(1);
/// A router that does not live this long is not replaced faster than this.
const ROUTER_PACE: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);

mod told;

type Key = (Version, InstanceName);

/// One instance and what belongs to it.
struct Instance {
    release: Arc<Release>,
    generation: Generation,
    life: Life,
    port: Option<Lease>,
    jail: Option<JailHandle>,
    /// Tells the events of this jail from those of the one before.
    incarnation: u64,
    routed: bool,
    /// The first route table that it is in.
    table: u64,
    /// Its requests in flight are waited for before SIGTERM.
    leaving: Option<Leaving>,
    pid: Option<u32>,
    isolation: Option<Isolation>,
}

/// Out of the route table, with requests still in flight.
#[derive(Debug, Clone, Copy)]
struct Leaving {
    /// No longer than this.
    until: Timestamp,
    /// What comes then: [`Event::Stop`] or [`Event::Restart`].
    then: Event,
}

struct Reconciler {
    site: Site,
    desired: Option<Desired>,
    instances: BTreeMap<Key, Instance>,
    one_offs: BTreeMap<InstanceName, Instance>,
    incarnations: u64,
    /// Counts route tables.
    tables: u64,
    /// The last one that the router goes by.
    applied: u64,
    routes: Option<Web>,
    /// Ports to be drained once the router has a table without them.
    leaving: Vec<u16>,
    /// The router is gone; another is started then.
    revive: Option<Timestamp>,
    revived: Option<Timestamp>,
    /// Told when nothing runs any more and the router has ended.
    closing: Option<oneshot::Sender<()>>,
    events: mpsc::UnboundedSender<(Key, u64, JailEvent)>,
}

/// Runs until it is told to close and nothing is left running, or until every handle is gone.
pub async fn run(site: Site, mut commands: mpsc::UnboundedReceiver<Command>) {
    let (events, mut jail_events) = mpsc::unbounded_channel();
    let mut reconciler = Reconciler {
        site,
        desired: None,
        instances: BTreeMap::new(),
        one_offs: BTreeMap::new(),
        incarnations: 0,
        tables: 0,
        applied: 0,
        routes: None,
        leaving: Vec::new(),
        revive: None,
        revived: None,
        closing: None,
        events,
    };
    loop {
        let wake = reconciler.wake();
        let router = reconciler.site.router.as_mut().filter(|_| reconciler.revive.is_none());
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => reconciler.command(command).await,
                None => return,
            },
            Some((key, incarnation, event)) = jail_events.recv() => reconciler.jail_event(key, incarnation, event).await,
            event = next_router_event(router) => reconciler.router_event(event).await,
            () = sleep_until(wake) => reconciler.tick().await,
        }
        reconciler.settle().await;
        if reconciler.closing.is_some() && reconciler.instances.is_empty() && reconciler.one_offs.is_empty() {
            break;
        }
    }
    if let Some(router) = reconciler.site.router.take() {
        router.stop(ROUTER_GRACE).await;
    }
    if let Some(done) = reconciler.closing {
        // Whoever asked may have gone.
        let _ = done.send(());
    }
}

async fn next_router_event(router: Option<&mut Router>) -> RouterEvent {
    match router {
        Some(router) => router.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(wake: Option<Timestamp>) {
    match wake {
        Some(at) => {
            let wait = at.duration_since(Timestamp::now());
            tokio::time::sleep(wait.try_into().unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}

impl Reconciler {
    fn wake(&self) -> Option<Timestamp> {
        let lives = self.instances.values().filter_map(|i| i.life.wake(&self.site.policy));
        let drains = self.instances.values().filter_map(|i| i.leaving.map(|l| l.until));
        lives.chain(drains).chain(self.revive).min()
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Apply(desired) => {
                if self.desired.as_ref().is_none_or(|d| d.generation <= desired.generation) {
                    self.desired = Some(desired);
                }
            }
            Command::Forget(deploy) => {
                if let Some(desired) = self.desired.as_mut().filter(|d| d.deploy == deploy) {
                    desired.releases.clear();
                }
                for one_off in self.one_offs.values() {
                    if let Some(jail) = &one_off.jail {
                        jail.stop(std_duration(self.site.policy.grace));
                    }
                }
            }
            Command::OneOff { release, one_off, io } => self.start_one_off(release, &one_off, io).await,
            Command::Restart { target, answer } => {
                let hit = |i: &InstanceName| target.as_ref().is_none_or(|t| i.kind.as_str() == t || i.to_string() == *t);
                let lives = |i: &Instance| !matches!(i.life.state, State::Stopping | State::Down) && i.leaving.is_none();
                let keys: Vec<Key> = self.instances.iter().filter(|((_, n), i)| hit(n) && lives(i)).map(|(k, _)| k.clone()).collect();
                for key in &keys {
                    self.leave(key, Event::Restart).await;
                }
                // Whoever asked may have gone.
                let _ = answer.send(keys.len());
            }
            Command::Signal { instance, number } => {
                if let Some(jail) = self.one_offs.get(&instance).and_then(|i| i.jail.as_ref()) {
                    jail.signal(number);
                }
            }
            Command::Close(done) => self.closing = Some(done),
            Command::KillAll => {
                for i in self.instances.values().chain(self.one_offs.values()) {
                    if let Some(jail) = &i.jail {
                        jail.kill();
                    }
                }
            }
        }
    }

    async fn router_event(&mut self, event: RouterEvent) {
        match event {
            RouterEvent::Drained { port } => {
                let of = |i: &Instance| i.leaving.is_some() && i.port.as_ref().is_some_and(|l| l.port() == port);
                if let Some(key) = self.instances.iter().find(|(_, i)| of(i)).map(|(k, _)| k.clone()) {
                    self.drained(&key).await;
                }
            }
            RouterEvent::Wrote { .. } => self.site.store.poke(),
            RouterEvent::Lost => {
                self.line("router", "Router ended unexpectedly; another one takes over its listeners");
                // At once, unless the last one did not even live that long: then no faster than that.
                let now = Timestamp::now();
                let soon = self.revived.is_some_and(|at| now.duration_since(at) < ROUTER_PACE);
                self.revive = Some(if soon { now + ROUTER_PACE } else { now });
            }
            RouterEvent::Applied { generation } => {
                self.applied = generation.0;
                self.instances.iter().filter(|(_, i)| i.routed).for_each(|(key, _)| self.report(key));
            }
            RouterEvent::Stale { .. } | RouterEvent::InFlight { .. } | RouterEvent::BackendRefused { .. } => {}
        }
    }

    async fn tick(&mut self) {
        let now = Timestamp::now();
        let policy = self.site.policy.clone();
        let due: Vec<Key> =
            self.instances.iter().filter(|(_, i)| i.life.wake(&policy).is_some_and(|at| at <= now)).map(|(k, _)| k.clone()).collect();
        for key in due {
            self.feed(&key, Event::Tick).await;
        }
        let over: Vec<Key> =
            self.instances.iter().filter(|(_, i)| i.leaving.is_some_and(|l| l.until <= now)).map(|(k, _)| k.clone()).collect();
        for key in over {
            self.drained(&key).await;
        }
        if self.revive.is_some_and(|at| at <= now) {
            self.revive = None;
            self.revived = Some(now);
            if let Some(router) = &mut self.site.router
                && let Err(e) = router.revive().await
            {
                self.line("router", &format!("Cannot start another router: {}", crate::chain(&e)));
                self.revive = Some(now + ROUTER_PACE);
            }
        }
    }

    async fn drained(&mut self, key: &Key) {
        let then = self.instances.get_mut(key).and_then(|i| i.leaving.take()).map_or(Event::Stop, |l| l.then);
        self.feed(key, then).await;
    }

    async fn jail_event(&mut self, key: Key, incarnation: u64, event: JailEvent) {
        let one_off = self.instances.get(&key).is_none_or(|i| i.incarnation != incarnation);
        let found = if one_off { self.one_offs.get_mut(&key.1) } else { self.instances.get_mut(&key) };
        let Some(instance) = found.filter(|i| i.incarnation == incarnation) else { return };
        let ps = key.1.to_string();
        match event {
            JailEvent::Started { pid, isolation, .. } => {
                instance.pid = Some(pid);
                instance.isolation = Some(isolation);
                if one_off {
                    self.report_one_off(&key.1, State::Up, None);
                } else {
                    self.report(&key);
                }
            }
            JailEvent::Listening { .. } => self.feed(&key, Event::Listening).await,
            JailEvent::Wrote => self.site.store.poke(),
            JailEvent::Killing => {
                let grace = self.site.policy.grace.as_secs();
                let text = format!("Error R12 (Exit timeout) -> At least one process failed to exit within {grace} seconds of SIGTERM");
                self.line(&ps, &text);
                self.line(&ps, "Stopping remaining processes with SIGKILL");
            }
            JailEvent::Exited(exit) => {
                let unasked = instance.life.state != State::Stopping && exit.code() != 0;
                self.line(&ps, &format!("Process exited with status {}", exit.code()));
                if unasked {
                    self.tell_cause(&ps);
                }
                self.ended(&key, one_off, exit).await;
            }
            JailEvent::Failed { attempt, error, code } => {
                self.line(&ps, &format!("Cannot start: {attempt}: {error}"));
                self.ended(&key, one_off, Exit::Code(code)).await;
            }
            JailEvent::Lost => {
                self.line(&ps, "The jail was killed from outside and its processes with it");
                self.ended(&key, one_off, Exit::Lost).await;
            }
        }
    }

    async fn ended(&mut self, key: &Key, one_off: bool, exit: Exit) {
        self.site.store.poke();
        if one_off {
            self.report_one_off(&key.1, State::Down, Some(exit));
            self.one_offs.remove(&key.1);
            return;
        }
        if let Some(i) = self.instances.get_mut(key) {
            (i.jail, i.pid, i.port, i.leaving) = (None, None, None, None);
        }
        self.feed(key, Event::Ended(exit)).await;
    }

    /// Asks `plan` until there is nothing more to do at this instant, then gives the router the table that comes of it.
    async fn settle(&mut self) {
        loop {
            self.instances.retain(|_, i| i.life.state != State::Down);
            let Some(desired) = self.desired.clone() else { break };
            let seen: Vec<Seen> = self.instances.iter().map(|(key, i)| self.seen(key, i)).collect();
            let steps = plan(&desired, &seen, Timestamp::now());
            let mut acted = false;
            for step in steps {
                tracing::debug!(?step, generation = desired.generation.0);
                acted |= self.act(&desired, step).await;
            }
            if !acted {
                break;
            }
        }
        self.publish_routes();
    }

    /// Does one step; answers whether it changed anything.
    async fn act(&mut self, desired: &Desired, step: Step) -> bool {
        match step {
            Step::Start(version, instance) => {
                let Some(share) = desired.releases.iter().find(|s| s.release.version == version) else { return false };
                self.begin(share.release.clone(), desired.generation, instance).await;
                true
            }
            Step::Route(version, name) => {
                let table = self.tables + 1;
                self.change((version, name), |i| {
                    // One that restarts is up until its last request has ended, and is not to get another.
                    let stays = i.leaving.is_none_or(|l| l.then == Event::Stop);
                    if stays {
                        // Wanted again before it was told to stop.
                        (i.leaving, i.routed, i.table) = (None, true, table);
                    }
                    stays
                })
            }
            Step::Unroute(version, name) => self.change((version, name), |i| std::mem::take(&mut i.routed)),
            Step::Stop(version, name) => {
                let key = (version, name);
                let leaving = self.instances.get(&key).and_then(|i| i.leaving);
                if leaving.is_some_and(|l| l.then == Event::Stop) {
                    return false;
                }
                self.leave(&key, Event::Stop).await;
                true
            }
        }
    }

    /// Takes an instance out of the table, lets its requests in flight end, for the grace at most, and then has it stop or restart.
    async fn leave(&mut self, key: &Key, then: Event) {
        let Some(i) = self.instances.get_mut(key) else { return };
        match (&self.site.router, &i.port) {
            (Some(_), Some(lease)) if i.life.state == State::Up => {
                i.routed = false;
                if i.leaving.is_none() {
                    self.leaving.push(lease.port());
                }
                i.leaving = Some(Leaving { until: Timestamp::now() + self.site.policy.grace, then });
                self.report(key);
            }
            _ => self.feed(key, then).await,
        }
    }

    /// Changes an instance; `change` says whether it did.
    fn change(&mut self, key: Key, change: impl FnOnce(&mut Instance) -> bool) -> bool {
        let changed = self.instances.get_mut(&key).is_some_and(change);
        if changed {
            self.report(&key);
        }
        changed
    }

    async fn begin(&mut self, release: Arc<Release>, generation: Generation, name: InstanceName) {
        let seed = blake3::hash(format!("{} {name}", release.deploy).as_bytes());
        let seed = u64::from_le_bytes(seed.as_bytes()[..8].try_into().expect("32 bytes hold 8"));
        let (life, todo) = Life::begin(name.kind.is_web(), seed, Timestamp::now());
        let instance = Instance {
            release,
            generation,
            life,
            port: None,
            jail: None,
            incarnation: 0,
            routed: false,
            table: 0,
            leaving: None,
            pid: None,
            isolation: None,
        };
        let key = (instance.release.version, name);
        self.instances.insert(key.clone(), instance);
        self.perform(&key, todo).await;
    }

    /// Gives an instance's life an event and performs what it answers.
    async fn feed(&mut self, key: &Key, event: Event) {
        let Some(i) = self.instances.get_mut(key) else { return };
        let (life, todo) = i.life.clone().step(event, &self.site.policy, Timestamp::now());
        i.life = life;
        if i.life.state != State::Up {
            i.routed = false;
        }
        self.perform(key, todo).await;
    }

    async fn perform(&mut self, key: &Key, todo: Vec<Action>) {
        let ps = key.1.to_string();
        for action in todo {
            match action {
                Action::Start => self.start(key).await,
                Action::Terminate { grace } => {
                    self.line(&ps, "Stopping all processes with SIGTERM");
                    if let Some(jail) = self.instances.get(key).and_then(|i| i.jail.as_ref()) {
                        jail.stop(std_duration(grace));
                    }
                }
                Action::Kill => {
                    self.line(&ps, "Stopping process with SIGKILL");
                    if let Some(jail) = self.instances.get(key).and_then(|i| i.jail.as_ref()) {
                        jail.kill();
                    }
                }
                Action::Changed { from, to } => {
                    self.line(&ps, &format!("State changed from {} to {}", from.as_str(), to.as_str()));
                    self.report(key);
                }
                Action::BootTimeout => {
                    let seconds = self.site.policy.boot.as_secs();
                    let text =
                        format!("Error R10 (Boot timeout) -> Web process failed to bind to $PORT within {seconds} seconds of launch");
                    self.line(&ps, &text);
                }
            }
        }
    }

    async fn start(&mut self, key: &Key) {
        let Some(i) = self.instances.get(key) else { return };
        let release = i.release.clone();
        let command = release.command(&key.1.kind).unwrap_or_default().to_owned();
        let lease = if key.1.kind.is_web() { Lease::take() } else { None };
        if key.1.kind.is_web() && lease.is_none() {
            self.line(&key.1.to_string(), "Cannot start: no port of dozen's range is free");
        }
        let port = lease.as_ref().map(Lease::port);
        self.line(&key.1.to_string(), &format!("Starting process with command `{}`", release.mask().apply(&command)));
        let place = self.place();
        let spec = place.spec(&release, &key.1, &command, port, Some(spec::log(&self.site.home, &release)));
        let (incarnation, jail) = self.launch(key.clone(), spec, None).await;
        if let Some(i) = self.instances.get_mut(key) {
            (i.incarnation, i.jail, i.port) = (incarnation, jail, lease);
        }
        self.report(key);
    }

    async fn start_one_off(&mut self, release: Arc<Release>, one_off: &OneOff, io: Io) {
        let (log, given) = match io {
            Io::Given(fds) => (None, Some(fds)),
            Io::Logged => (Some(spec::log(&self.site.home, &release)), None),
        };
        let name = one_off.instance.clone();
        self.line(&name.to_string(), &format!("Starting process with command `{}`", release.mask().apply(&one_off.command)));
        let spec = self.place().spec(&release, &name, &one_off.command, None, log);
        let key = (release.version, name.clone());
        let (life, _) = Life::begin(false, 0, Timestamp::now());
        let (incarnation, jail) = self.launch(key, spec, given).await;
        let generation = self.desired.as_ref().map_or(Generation(0), |d| d.generation);
        let instance = Instance {
            release,
            generation,
            life,
            port: None,
            jail,
            incarnation,
            routed: false,
            table: 0,
            leaving: None,
            pid: None,
            isolation: None,
        };
        self.one_offs.insert(name.clone(), instance);
        self.report_one_off(&name, State::Starting, None);
    }

    /// Starts a jail and a task that forwards its events. A jail that cannot even be started reports that as its one event.
    async fn launch(
        &mut self,
        key: Key,
        spec: dozen_core::processes::jail::JailSpec,
        io: Option<[std::os::fd::OwnedFd; 3]>,
    ) -> (u64, Option<JailHandle>) {
        self.incarnations += 1;
        let (incarnation, events) = (self.incarnations, self.events.clone());
        match crate::processes::spawn(&self.site.exe, spec, io).await {
            Ok(mut jail) => {
                let handle = jail.handle();
                crate::tasks::spawn("jail", async move { forward(&mut jail, key, incarnation, &events).await });
                (incarnation, Some(handle))
            }
            Err(e) => {
                let failed = JailEvent::Failed { attempt: "start the jail".into(), error: crate::chain(&e), code: 1 };
                // The receiver lives as long as the reconciler.
                let _ = events.send((key, incarnation, failed));
                (incarnation, None)
            }
        }
    }

    fn place(&self) -> Place<'_> {
        Place { home: &self.site.home, isolation: self.site.isolation, uid: self.site.uid }
    }
}

async fn forward(jail: &mut Jail, key: Key, incarnation: u64, events: &mpsc::UnboundedSender<(Key, u64, JailEvent)>) {
    loop {
        let event = jail.next().await;
        let last = matches!(event, JailEvent::Exited(_) | JailEvent::Failed { .. } | JailEvent::Lost);
        if events.send((key.clone(), incarnation, event)).is_err() || last {
            return;
        }
    }
}

fn std_duration(d: jiff::SignedDuration) -> std::time::Duration {
    d.try_into().unwrap_or_default()
}
