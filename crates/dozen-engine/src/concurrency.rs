//! VIII. Scale out via the process model.
//! The local driver's task: it owns every jail of this host, asks `plan` for the next steps and `Life` for each instance's, and does them.
//!
//! | in | out |
//! |---|---|
//! | commands: what is desired, one-offs, restarts | [`Seen`] and platform lines, through [`Report`] |
//! | events of jails (one small task each forwards them) | the route table, to the router |
//! | what came of the tries of health checks (one task each) | |
//! | events of the router: what has drained, that it is lost | |
//! | the earliest time that a life, a check or a drain waits for | |
//!
//! **Invariant:** after any event the same thing happens: plan, act, route. No path of its own for a first start, a crash or a stop.

use crate::disposability::Leaving;
use crate::disposability::probe::Tried;
use crate::home::Home;
use crate::logs::Store;
use crate::port::counts::Counts;
use crate::port::guard;
use crate::port::lease::Lease;
use crate::port::{Line, RouterEvent, Supply};
use crate::processes::adoption::{Birth, Found, spawn as spawn_lasting, spawn_once};
use crate::processes::notes::Notes;
use crate::processes::spec::{self, Place};
use crate::processes::{Jail, JailEvent, JailHandle, SpawnError};
use dozen_core::admin::{Deadline, OneOff};
use dozen_core::concurrency::resize::resize;
use dozen_core::concurrency::{Desired, Step, plan};
use dozen_core::disposability::health::Checks;
use dozen_core::disposability::{Event, Life, Policy, Signs};
use dozen_core::ids::{DeployRef, Generation, InstanceName, Version};
use dozen_core::parity::{Io, Report};
use dozen_core::port::{Domain, Front, Route};
use dozen_core::processes::jail::JailSpec;
use dozen_core::processes::size::{Limits, Size};
use dozen_core::processes::{Isolation, Seen, State, Stopped};
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
    /// The line to the router; `None` where only one-offs run.
    pub router: Option<Line>,
    /// The names that the deploy has by itself.
    pub names: Vec<Domain>,
    /// Where instances are written down that outlive this process; `None` where they end with it.
    pub lasting: Option<Notes>,
    /// Whether the only app answers any host name.
    pub any_host: bool,
    /// Whom to tell.
    pub report: Arc<dyn Report>,
    /// Where it is kept what the router counts.
    pub counts: Arc<Counts>,
}

/// What the driver is told.
pub enum Command {
    /// Make it so.
    Apply(Desired),
    /// Lead requests so, and treat them so.
    Front {
        /// How.
        front: Front,
        /// Told, or dropped, when the router goes by it, or there is none.
        answer: oneshot::Sender<()>,
    },
    /// Take over what another control part has left running, each with its release.
    Adopt {
        /// What was found.
        found: Vec<(Found, Arc<Release>)>,
        /// Told when all of it is seen.
        answer: oneshot::Sender<()>,
    },
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
    /// SIGTERM to a one-off, SIGKILL after the grace.
    Stop {
        /// Which.
        instance: InstanceName,
    },
    /// SIGKILL to everything.
    KillAll,
    /// Have the router show these certificates.
    Certify {
        /// All of them.
        supply: Arc<Supply>,
        /// Told when it does. Where no router is, at once.
        answer: oneshot::Sender<()>,
    },
    /// When nothing runs any more, have nothing lead here, and end the driver.
    Close(oneshot::Sender<()>),
}

mod adoption;
mod instance;
mod told;

pub(crate) type Key = (Version, InstanceName);

/// One instance and what belongs to it.
pub(crate) struct Instance {
    pub(crate) release: Arc<Release>,
    pub(crate) generation: Generation,
    pub(crate) life: Life,
    /// The times of its process type.
    pub(crate) policy: Policy,
    /// The checks of its health.
    pub(crate) checks: Checks,
    /// When its jail was started.
    pub(crate) started: Timestamp,
    pub(crate) port: Option<Lease>,
    pub(crate) jail: Option<JailHandle>,
    /// Tells the events of this jail from those of the one before.
    pub(crate) incarnation: u64,
    pub(crate) routed: bool,
    /// The first route table that it is in.
    pub(crate) table: u64,
    /// Its requests in flight are waited for before SIGTERM.
    pub(crate) leaving: Option<Leaving>,
    pub(crate) pid: Option<u32>,
    pub(crate) isolation: Option<Isolation>,
    /// What it was last started with.
    pub(crate) size: Option<Size>,
    pub(crate) missing: Vec<String>,
    /// Of a one-off that has not been told to stop.
    pub(crate) deadline: Option<Deadline>,
    /// Of a one-off that has: why.
    pub(crate) stopped: Option<Stopped>,
}

/// What the task owns; nothing else touches it.
pub(crate) struct Reconciler {
    pub(crate) site: Site,
    pub(crate) desired: Option<Desired>,
    pub(crate) instances: BTreeMap<Key, Instance>,
    pub(crate) one_offs: BTreeMap<InstanceName, Instance>,
    pub(crate) incarnations: u64,
    /// To be started before anything else is looked at.
    pub(crate) starting: Vec<Key>,
    /// Counts route tables.
    pub(crate) tables: u64,
    /// The last one that the router goes by.
    pub(crate) applied: u64,
    /// What leads to the deploy, and how it is treated.
    pub(crate) front: Front,
    /// It is not what the router was told last.
    pub(crate) front_is_new: bool,
    /// Who waits until the router goes by a front, each with the first table that it is in, as soon as there is one.
    pub(crate) asked: Vec<(Option<u64>, oneshot::Sender<()>)>,
    pub(crate) route: Option<Arc<Route>>,
    /// The parts of the requests that releases get, or got last.
    pub(crate) weights: BTreeMap<Version, u32>,
    /// The config vars of which was told that they are no addresses of pages.
    pub(crate) bad_pages: Vec<&'static str>,
    /// Ports to be drained once the router has a table without them.
    pub(crate) leaving: Vec<u16>,
    /// Who waits for which certificates to be shown.
    certifying: Vec<(u64, oneshot::Sender<()>)>,
    /// Told when nothing runs any more and nothing leads here.
    pub(crate) closing: Option<oneshot::Sender<()>>,
    pub(crate) events: mpsc::UnboundedSender<(Key, u64, JailEvent)>,
    pub(crate) tries: mpsc::UnboundedSender<Tried>,
}

/// Runs until it is told to close and nothing is left running, or until every handle is gone.
pub async fn run(site: Site, mut commands: mpsc::UnboundedReceiver<Command>) {
    let (events, mut jail_events) = mpsc::unbounded_channel();
    let (tries, mut tried) = mpsc::unbounded_channel();
    // A router that was taken over goes by a table already.
    let generation = site.router.as_ref().map_or(0, |router| router.generation().0);
    let mut reconciler = Reconciler {
        site,
        desired: None,
        instances: BTreeMap::new(),
        one_offs: BTreeMap::new(),
        incarnations: 0,
        starting: Vec::new(),
        tables: generation,
        applied: generation,
        front: Front::default(),
        front_is_new: true,
        asked: Vec::new(),
        route: None,
        weights: BTreeMap::new(),
        bad_pages: Vec::new(),
        leaving: Vec::new(),
        certifying: Vec::new(),
        closing: None,
        events,
        tries,
    };
    loop {
        let wake = reconciler.wake();
        let router = reconciler.site.router.as_mut();
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => reconciler.command(command).await,
                None => return,
            },
            Some((key, incarnation, event)) = jail_events.recv() => reconciler.jail_event(key, incarnation, event).await,
            Some(tried) = tried.recv() => reconciler.tried(tried).await,
            event = next_router_event(router) => reconciler.router_event(event).await,
            () = sleep_until(wake) => reconciler.tick().await,
        }
        reconciler.settle().await;
        if reconciler.closing.is_some() && reconciler.instances.is_empty() && reconciler.one_offs.is_empty() {
            break;
        }
    }
    if let Some(router) = reconciler.site.router.take() {
        router.close().await;
    }
    drop(reconciler.instances);
    guard::at_rest().await;
    if let Some(done) = reconciler.closing {
        // Whoever asked may have gone.
        let _ = done.send(());
    }
}

async fn next_router_event(router: Option<&mut Line>) -> RouterEvent {
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
    pub(crate) fn wake(&self) -> Option<Timestamp> {
        let lives = self.instances.values().filter_map(|i| i.life.wake(&i.policy));
        let checks = self.instances.values().filter_map(|i| i.checks.wake());
        let drains = self.instances.values().filter_map(|i| i.leaving.map(|l| l.until));
        let deadlines = self.one_offs.values().filter_map(|i| i.deadline.as_ref().map(|d| d.at));
        lives.chain(checks).chain(drains).chain(deadlines).chain(self.front.wake()).min()
    }

    pub(crate) async fn command(&mut self, command: Command) {
        match command {
            Command::Apply(desired) => {
                // Who waits for a release while everything ends sees it end, and would have the one before it started again.
                if self.closing.is_none() && self.desired.as_ref().is_none_or(|before| desired.supersedes(before)) {
                    self.desired = Some(desired);
                }
            }
            Command::Forget(deploy) => {
                // Where nothing was wanted yet there may still be what was taken over.
                let desired = self.desired.get_or_insert_with(|| Desired {
                    deploy: deploy.clone(),
                    generation: Generation(0),
                    releases: vec![],
                    hold: false,
                });
                if desired.deploy == deploy {
                    desired.releases.clear();
                }
                for one_off in self.one_offs.values_mut() {
                    one_off.stopped.get_or_insert(Stopped::Deploy);
                    if let Some(jail) = &one_off.jail {
                        jail.stop(std_duration(self.site.policy.grace));
                    }
                }
            }
            Command::Front { front, answer } => {
                self.front_is_new |= self.front != front;
                self.front = front;
                self.asked.push((None, answer));
            }
            Command::Adopt { found, answer } => {
                for (found, release) in found {
                    self.adopt(found, release).await;
                }
                // Whoever asked may have gone.
                let _ = answer.send(());
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
            Command::Stop { instance } => self.stop_one_off(&instance, Stopped::Asked),
            Command::Certify { supply, answer } => self.certify(supply, answer),
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

    pub(crate) async fn router_event(&mut self, event: RouterEvent) {
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
            }
            RouterEvent::NotRevived { why } => self.line("router", &format!("Cannot start another router: {why}")),
            RouterEvent::Applied { generation } => {
                self.applied = generation.0;
                self.asked.retain(|(table, _)| table.is_none_or(|table| table > generation.0));
                self.instances.iter().filter(|(_, i)| i.routed).for_each(|(key, _)| self.report(key));
            }
            RouterEvent::Weak { missing } => {
                self.line("router", &format!("The router keeps rights that it should not have: {}", missing.join("; ")))
            }
            RouterEvent::Counted { split, tallies, fresh, .. } => self.site.counts.take(split, tallies, fresh),
            RouterEvent::Certified { serial, wrong } => self.certified(serial, &wrong),
            RouterEvent::Stale { .. } | RouterEvent::InFlight { .. } | RouterEvent::BackendRefused { .. } => {}
        }
    }

    /// Asks `plan` until there is nothing more to do at this instant, then gives the router the table that comes of it.
    pub(crate) async fn settle(&mut self) {
        loop {
            self.start_all().await;
            for (key, _) in self.instances.extract_if(.., |_, i| i.life.state == State::Down).collect::<Vec<_>>() {
                self.forget(&key);
            }
            let Some(desired) = self.desired.clone() else { break };
            let seen: Vec<Seen> = self.instances.iter().map(|(key, i)| self.seen(key, i)).collect();
            let steps = plan(&desired, &seen, Timestamp::now());
            let mut acted = false;
            for key in resize(&desired, &seen) {
                acted |= self.resize(&key).await;
            }
            for step in steps {
                tracing::debug!(?step, generation = desired.generation.0);
                acted |= self.act(&desired, step).await;
            }
            if !acted {
                break;
            }
        }
        self.publish_routes();
        self.settle_tables();
    }

    /// Does one step; answers whether it changed anything.
    pub(crate) async fn act(&mut self, desired: &Desired, step: Step) -> bool {
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

    /// Has an instance start again with the size that is wanted now; answers whether it was not about to already.
    async fn resize(&mut self, key: &Key) -> bool {
        let idle = self.instances.get(key).is_some_and(|i| i.leaving.is_none());
        if idle {
            self.leave(key, Event::Restart).await;
        }
        idle
    }

    /// Changes an instance; `change` says whether it did.
    pub(crate) fn change(&mut self, key: Key, change: impl FnOnce(&mut Instance) -> bool) -> bool {
        let changed = self.instances.get_mut(&key).is_some_and(change);
        if changed {
            self.report(&key);
        }
        changed
    }

    pub(crate) async fn begin(&mut self, release: Arc<Release>, generation: Generation, name: InstanceName) {
        let (rules, now) = (release.rules(&name.kind), Timestamp::now());
        let (life, todo) = Life::begin(Signs::of(name.kind.is_web(), &rules.checks), seed(&release.deploy, &name), now);
        let policy = self.site.policy.with(&rules);
        let instance = Instance::new(release, generation, life, policy, now);
        let key = (instance.release.version, name);
        self.instances.insert(key.clone(), instance);
        self.perform(&key, todo).await;
    }

    /// Gives an instance its port, and has it started when all are known that start now: [`Reconciler::start_all`].
    pub(crate) fn start(&mut self, key: &Key) {
        let lease = if key.1.kind.is_web() { Lease::take() } else { None };
        if key.1.kind.is_web() && lease.is_none() {
            self.line(&key.1.to_string(), "Cannot start: no port of dozen's range is free");
        }
        let Some(i) = self.instances.get_mut(key) else { return };
        (i.port, i.started) = (lease, Timestamp::now());
        i.checks = Checks::new(&i.release.rules(&key.1.kind).checks, key.1.kind.is_web());
        self.starting.push(key.clone());
    }

    /// Starts what is to be started, behind one guard for all ports that are open yet.
    async fn start_all(&mut self) {
        let uid = self.site.uid;
        Lease::shut(self.instances.values_mut().filter_map(|i| i.port.as_mut()), uid).await;
        for key in std::mem::take(&mut self.starting) {
            self.start_one(&key).await;
        }
    }

    async fn start_one(&mut self, key: &Key) {
        let Some(i) = self.instances.get(key) else { return };
        let (release, port) = (i.release.clone(), i.port.as_ref().map(Lease::port));
        let command = release.command(&key.1.kind).unwrap_or_default().to_owned();
        self.line(&key.1.to_string(), &format!("Starting process with command `{}`", release.mask().apply(&command)));
        let share = self.desired.as_ref().and_then(|d| d.releases.iter().find(|s| s.release.version == key.0));
        // One of a release that is no longer wanted, and serves until another does, keeps what it had.
        let size = share.map_or(i.size, |share| share.size(&key.1.kind));
        let spec = self.place().spec(&release, &key.1, &command, port, Some(spec::log(&self.site.home, &release)));
        let birth = Birth { port, size, ..i.birth(key) };
        let spec = JailSpec { limits: Some(Limits::of(size).into()), ..spec };
        let started = match &self.site.lasting {
            Some(notes) => spawn_lasting(&self.site.exe, spec, notes, &birth).await,
            None => crate::processes::spawn(&self.site.exe, spec, None).await,
        };
        let (incarnation, jail) = self.follow(key.clone(), started);
        if let Some(i) = self.instances.get_mut(key) {
            (i.incarnation, i.jail, i.size) = (incarnation, jail, size);
        }
        self.report(key);
    }

    /// Starts the jail of a one-off and a task that forwards its events. A jail that cannot even be started reports that as its one event.
    pub(crate) async fn launch(
        &mut self,
        key: Key,
        one_off: &Instance,
        spec: JailSpec,
        io: Option<[std::os::fd::OwnedFd; 3]>,
    ) -> (u64, Option<JailHandle>) {
        let started = match &self.site.lasting {
            Some(notes) => spawn_once(&self.site.exe, spec, io, notes, &one_off.birth(&key)).await,
            None => crate::processes::spawn(&self.site.exe, spec, io).await,
        };
        self.follow(key, started)
    }

    pub(crate) fn follow(&mut self, key: Key, started: Result<Jail, SpawnError>) -> (u64, Option<JailHandle>) {
        self.incarnations += 1;
        let (incarnation, events) = (self.incarnations, self.events.clone());
        match started {
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

    pub(crate) fn place(&self) -> Place<'_> {
        Place { home: &self.site.home, isolation: self.site.isolation, uid: self.site.uid }
    }
}

/// Spreads the back-offs of instances; the same for the same instance.
fn seed(deploy: &DeployRef, name: &InstanceName) -> u64 {
    let hash = blake3::hash(format!("{deploy} {name}").as_bytes());
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("32 bytes hold 8"))
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

pub(crate) fn std_duration(d: jiff::SignedDuration) -> std::time::Duration {
    d.try_into().unwrap_or_default()
}
