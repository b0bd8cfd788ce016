//! The router process: `dozen __router`, started by the control plane only.
//!
//! The main thread speaks with the control plane: tables in, events out. Each worker is a thread with a runtime, a pool of connections and
//! log files of its own; all accept from the same listeners. They share the table, the counters of the instances, and nothing else.
//!
//! **Invariant:** no worker accepts before there is a table.
//! **Invariant:** a router that was told to last goes by its last table while there is no control plane, and gives the next one copies of the
//! listeners.
//! **Invariant:** the process has no environment, no terminal and no rights but those to its sockets and the log folders; as root it has a uid
//! of its own.

use super::accept::accept;
use super::control::Limits;
use super::crowd::Crowd;
use super::fleet::{Fleet, Line};
use super::log::{Folder, Journal};
use super::planes::{Heard, Planes};
use super::pool::{Pool, Target};
use super::proxy::http2::discard;
use super::proxy::{Core, Live, Place, Shared, Stand, Stopping, until};
use super::tally::Counters;
use super::tls::{Maker, Store};
use super::wire::{
    FromRouter, Held, MAX_LISTENERS, MAX_MESSAGE, PROTOCOL, ToRouter, WireBackend, WireCertificate, WireProof, WireTable, WireWeb, speaks,
};
use dozen_core::ids::Generation;
use dozen_core::port::{Domain, Manners, RouteTable};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::LocalOptions;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};

/// Log lines wait at most so long.
const BATCH: Duration = Duration::from_millis(100);
/// So often idle connections and files are looked through, while there are any.
const REAP: Duration = Duration::from_secs(1);
/// So often it is told what was counted of a split, while there is one.
const COUNTED: Duration = Duration::from_secs(1);
/// The grace of a SIGTERM, which names none.
const GRACE: Duration = Duration::from_secs(30);

/// Runs the router on the socket that is its standard input, until it is told to stop or the control plane is gone.
///
/// The exit code is 0 then, 2 if it was not started by a control plane, 1 if it failed.
pub fn main() -> ExitCode {
    let (code, error) = match begin() {
        Ok(start) => match run(start) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(e) => (1, e),
        },
        Err(e) => (2, e),
    };
    let _ = writeln!(io::stderr(), "dozen __router: {error}");
    ExitCode::from(code)
}

/// Why the process ends early.
#[derive(Debug, thiserror::Error)]
enum RouterError {
    #[error("this role is started by the control plane only: {0}")]
    NotStarted(&'static str),
    #[error("cannot {attempt}: {source}")]
    System { attempt: &'static str, source: io::Error },
}

fn system(attempt: &'static str) -> impl Fn(io::Error) -> RouterError {
    move |source| RouterError::System { attempt, source }
}

struct Start {
    control: StdUnixStream,
    /// What was read of the socket behind the first message.
    rest: Vec<u8>,
    listeners: Vec<TcpListener>,
    /// So many of them, the last ones, are for TLS.
    tls: usize,
    /// Where the next control plane comes, of a router that outlives this one.
    next: Option<StdUnixListener>,
    workers: usize,
    limits: Limits,
    segment_bytes: u64,
    segments: u32,
    held: Option<Held>,
}

/// Takes the first message and the listeners.
fn begin() -> Result<Start, RouterError> {
    let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(system("take the control socket"))?;
    let control = StdUnixStream::from(stdin);
    let mut sockets: Vec<OwnedFd> = Vec::new();
    let mut text = Vec::new();
    let end = loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut chunk = [0; 4096];
        let got = rustix::net::recvmsg(&control, &mut [IoSliceMut::new(&mut chunk)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .map_err(|_| RouterError::NotStarted("standard input is no socket"))?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                sockets.extend(fds);
            }
        }
        text.extend_from_slice(&chunk[..got.bytes]);
        if let Some(end) = text.iter().position(|b| *b == b'\n') {
            break end;
        }
        if got.bytes == 0 || text.len() as u64 > MAX_MESSAGE {
            return Err(RouterError::NotStarted("no start message came"));
        }
    };
    let rest = text.split_off(end + 1);
    match serde_json::from_slice(&text) {
        Ok(ToRouter::Start { protocol, workers, limits, segment_bytes, segments, lasting, held, tls }) if speaks(protocol) => {
            let next = sockets.pop_if(|_| lasting).map(StdUnixListener::from);
            if let Some(next) = &next {
                // Who listens is who is seen by those that connect.
                rustix::net::listen(next, 4).map_err(|e| system("wait for the next control plane")(e.into()))?;
                next.set_nonblocking(true).map_err(system("wait for the next control plane"))?;
            }
            let listeners: Vec<TcpListener> = sockets.into_iter().map(TcpListener::from).collect();
            if listeners.len() <= tls {
                return Err(RouterError::NotStarted("the start message has no listeners"));
            }
            let (workers, limits) = (workers.clamp(1, 256), *limits);
            Ok(Start { control, rest, listeners, tls, next, workers, limits, segment_bytes, segments, held })
        }
        Ok(_) => Err(RouterError::NotStarted("the start message is of another version")),
        Err(_) => Err(RouterError::NotStarted("the start message cannot be read")),
    }
}

fn run(start: Start) -> Result<(), RouterError> {
    super::tls::install();
    raise_file_limit();
    let owner = rustix::process::geteuid();
    let missing = match &start.held {
        Some(Held { logs, user }) => dozen_jail::shed(*user, logs).map_err(system("give up the rights of who started it"))?,
        None => {
            rustix::thread::set_no_new_privs(true).map_err(|e| system("give up new privileges")(e.into()))?;
            Vec::new()
        }
    };
    let (events, outgoing) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        started: Instant::now(),
        limits: start.limits,
        epoch: AtomicU64::new(0),
        waiting: AtomicUsize::new(0),
        events: events.clone(),
        crowd: Arc::new(Crowd::new(&start.limits, rustix::process::getrlimit(rustix::process::Resource::Nofile).current)),
        https: start.listeners.get(start.listeners.len() - start.tls).and_then(|listener| Some(listener.local_addr().ok()?.port())),
    });
    let (table, tables) = watch::channel(Arc::new(Live { epoch: 0, table: RouteTable::default() }));
    let maker = Maker::new().map_err(|e| system("make keys for TLS sessions")(io::Error::other(e)))?;
    let (store, stores) = watch::channel(Arc::new(Store::default()));
    let (stop, stopping) = watch::channel(None);
    let (ended, worker_ended) = mpsc::unbounded_channel();
    let workers = (0..start.workers)
        .map(|number| {
            let listeners =
                start.listeners.iter().map(TcpListener::try_clone).collect::<io::Result<_>>().map_err(system("copy a listener"))?;
            let journal = Journal::new(number, start.segment_bytes, start.segments, events.clone());
            let (tables, stores, stopping) = (tables.clone(), stores.clone(), stopping.clone());
            let worker = Worker { listeners, tls: start.tls, shared: shared.clone(), tables, stores, stopping, journal };
            let ended = Ended(ended.clone());
            std::thread::Builder::new()
                .name(format!("router-{number}"))
                .spawn(move || {
                    let _ended = ended;
                    worker.run()
                })
                .map_err(system("start a worker"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    drop((events, stopping, tables, stores));
    let lasts = start.next.is_some();
    let house = House {
        shared,
        table,
        targets: HashMap::new(),
        next_id: 0,
        lines: HashMap::new(),
        folders: HashMap::new(),
        counters: Counters::new(start.workers),
        draining: BTreeSet::new(),
        drained: Arc::new(Notify::new()),
        last: None,
        alone: false,
        logs: start.held.map(|held| held.logs).unwrap_or_default(),
        listeners: if lasts { start.listeners } else { Vec::new() },
        tls: start.tls,
        maker,
        store,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("start the runtime"))?;
    runtime.block_on(async {
        let planes = Planes::begin(start.control, start.rest, start.next, owner, outgoing).map_err(system("read the control socket"))?;
        house.govern(planes, missing, stop, worker_ended, workers).await
    })
}

/// Two descriptors a request: the soft limit of 1,024 would be the limit of the whole house.
pub(super) fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Where it may not be raised, the old one holds.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Tells of a worker's end, even by a panic: a router without one of its workers must end too, so that a successor takes over.
struct Ended(mpsc::UnboundedSender<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// The main thread: the table's owner.
struct House {
    shared: Arc<Shared>,
    table: watch::Sender<Arc<Live>>,
    /// Every instance that the table knows, and those that still have something in flight.
    targets: HashMap<(String, String, u16), (Arc<Target>, bool)>,
    next_id: u64,
    /// Who waits for an instance of which deploy.
    lines: HashMap<String, Arc<Line>>,
    /// The numbers of log folders.
    folders: HashMap<PathBuf, u64>,
    counters: Counters,
    draining: BTreeSet<u16>,
    drained: Arc<Notify>,
    /// The table as it came, for the next control plane.
    last: Option<WireTable>,
    /// There is no control plane that has said what leads where.
    alone: bool,
    /// Copies for the next control plane; none where there will be none.
    listeners: Vec<TcpListener>,
    /// So many of them, the last ones, are for TLS.
    tls: usize,
    maker: Maker,
    store: watch::Sender<Arc<Store>>,
    /// The working folder, if any, by its whole path.
    logs: PathBuf,
}

impl House {
    async fn govern(
        mut self,
        mut planes: Planes,
        missing: Vec<String>,
        stop: watch::Sender<Option<(Duration, Stopping)>>,
        mut worker_ended: mpsc::UnboundedReceiver<()>,
        workers: Vec<JoinHandle<io::Result<()>>>,
    ) -> Result<(), RouterError> {
        let mut sigterm = signal(SignalKind::terminate()).map_err(system("watch for SIGTERM"))?;
        self.tell(FromRouter::Started { protocol: PROTOCOL, missing });
        // While a stop is under way messages are still taken: the control plane may ask what is in flight, or be lost meanwhile.
        let mut left = workers.len();
        let mut counted = tokio::time::interval(COUNTED);
        counted.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let failed = loop {
            tokio::select! {
                order = planes.next() => match order {
                    // The control plane is lost, and this process with it.
                    None => { let _ = stop.send(Some((Duration::ZERO, Stopping::Now))); break false }
                    Some(Heard::Lost) => self.stand_alone(),
                    Some(Heard::Order(order)) => match order {
                    ToRouter::Start { .. } => {}
                    // There is a new one. It is told what leads requests now, and what it asked for after that.
                    ToRouter::Adopt { .. } => {
                        self.stand_alone();
                        planes.hand_back(&self.listeners, self.tls);
                        self.tell(FromRouter::Table { table: self.last.clone() });
                        self.counters.untold();
                    }
                    ToRouter::Set { table } => { self.alone = false; self.apply(table); }
                    ToRouter::Certificates { serial, certificates, proofs } => self.certify(serial, certificates, proofs),
                    ToRouter::Drain { port } => { self.draining.insert(port); self.mark(); self.report_drained(); }
                    ToRouter::InFlight { port } => self.tell(FromRouter::InFlight { port, count: self.count(port) }),
                    ToRouter::Stop { grace_ms } => { let _ = stop.send(Some((Duration::from_millis(grace_ms), Stopping::Now))); }
                    ToRouter::Yield { grace_ms } => { let _ = stop.send(Some((Duration::from_millis(grace_ms), Stopping::Yielding))); }
                    }
                },
                () = self.drained.notified() => self.report_drained(),
                _ = counted.tick(), if !self.counters.is_empty() => self.report_counted(),
                _ = sigterm.recv() => { let _ = stop.send(Some((GRACE, Stopping::Now))); }
                _ = worker_ended.recv() => {
                    left -= 1;
                    if stop.borrow().is_none() {
                        let _ = stop.send(Some((Duration::ZERO, Stopping::Now)));
                        break true;
                    }
                    if left == 0 {
                        break false;
                    }
                }
            }
        };
        let dead = || RouterError::System { attempt: "serve", source: io::Error::other("a worker ended") };
        let mut outcome = if failed { Err(dead()) } else { Ok(()) };
        for worker in workers {
            match worker.join() {
                Ok(Ok(())) => {}
                Ok(Err(source)) => outcome = Err(RouterError::System { attempt: "serve", source }),
                Err(_) => outcome = Err(dead()),
            }
        }
        self.report_counted();
        // The last lines are written: say so before the end. The writer ends with the last sender, which goes with `self`.
        drop(self);
        let _ = tokio::time::timeout(Duration::from_secs(1), planes.end()).await;
        outcome
    }

    fn tell(&self, event: FromRouter) {
        let _ = self.shared.events.send(event);
    }

    /// Shows these from the next handshake on.
    fn certify(&mut self, serial: u64, certificates: Vec<WireCertificate>, proofs: Vec<WireProof>) {
        let (store, wrong) = self.maker.make(certificates, proofs);
        self.store.send_replace(Arc::new(store));
        self.tell(FromRouter::Certified { serial, wrong });
    }

    /// There is no control plane, or none that has said yet what leads where: what it answered itself is answered by nobody.
    fn stand_alone(&mut self) {
        self.alone = true;
        if let Some(table) = self.last.clone() {
            self.lay(table);
        }
    }

    /// Makes this the table, unless there is a newer one.
    fn apply(&mut self, wire: WireTable) {
        let Generation(current) = self.table.borrow().table.generation;
        let generation = wire.generation;
        if generation < current {
            return self.tell(FromRouter::Stale { generation, current });
        }
        self.lay(wire);
        self.tell(FromRouter::Applied { generation });
        self.report_drained();
    }

    fn lay(&mut self, wire: WireTable) {
        let (epoch, generation) = (self.table.borrow().epoch, wire.generation);
        self.last = Some(wire.clone());
        for (_, listed) in self.targets.values_mut() {
            *listed = false;
        }
        let (mut led, mut fallback) = (Vec::new(), None);
        // What is counted no longer has been told before.
        self.report_counted();
        let mut splits = HashSet::new();
        for route in wire.routes {
            let manners = Manners::from(route.manners);
            // It goes on where its instances are away for a moment.
            let split = manners.counted.map(|split| (route.deploy.clone(), split));
            splits.extend(split.clone());
            let web = match route.web {
                _ if self.alone && manners.of_control => Stand::Away,
                WireWeb::Starting => Stand::Starting,
                WireWeb::Held => Stand::Held,
                WireWeb::Crashed => Stand::Crashed,
                WireWeb::None => Stand::None,
                WireWeb::Ready(backends) => {
                    let line = self.lines.entry(route.deploy.clone()).or_default().clone();
                    let releases = backends.iter().map(|backend| backend.release);
                    let counters = split.map(|split| self.counters.of(split, releases));
                    let targets = backends.into_iter().map(|backend| self.target(&route.deploy, backend, &line)).collect();
                    Stand::Ready(Fleet::new(targets, line).counted(&counters.unwrap_or_default()))
                }
            };
            // What is above the working folder cannot be seen any more.
            let path = route.log.strip_prefix(&self.logs).map_or(route.log.clone(), Path::to_owned);
            let next = self.folders.len() as u64;
            let log = Folder { number: *self.folders.entry(path.clone()).or_insert(next), path };
            let place = Arc::new(Place::new(route.deploy, log, web, manners));
            led.extend(route.hosts.iter().filter_map(|host| host.parse().ok()).map(|domain: Domain| (domain, place.clone())));
            if route.fallback {
                fallback = Some(place);
            }
        }
        self.counters.keep(&splits);
        self.lines.retain(|_, line| Arc::strong_count(line) > 1);
        let table = RouteTable::led(led, Generation(generation), fallback);
        self.table.send_replace(Arc::new(Live { epoch: epoch + 1, table }));
        // After the table and before any look at the counters: see `choose`.
        self.shared.epoch.store(epoch + 1, Ordering::SeqCst);
        self.mark();
    }

    /// The instance as it was known before, with its counters, or a new one.
    fn target(
        &mut self,
        deploy: &str,
        WireBackend { instance, port, release, weight }: WireBackend,
        line: &Arc<Line>,
    ) -> (Arc<Target>, u32) {
        let (id, drained) = (&mut self.next_id, &self.drained);
        let (target, listed) = self.targets.entry((deploy.to_owned(), instance.clone(), port)).or_insert_with(|| {
            *id += 1;
            let target = Target {
                id: *id,
                deploy: deploy.to_owned(),
                instance,
                port,
                release,
                in_flight: AtomicUsize::new(0),
                six: AtomicBool::new(false),
                quarantined_until: AtomicU64::new(0),
                draining: AtomicBool::new(false),
                drained: drained.clone(),
                line: line.clone(),
            };
            (Arc::new(target), true)
        });
        *listed = true;
        (target.clone(), weight)
    }

    /// Has those whose last request is waited for say when it ends.
    fn mark(&self) {
        for (target, listed) in self.targets.values() {
            target.draining.store(!listed || self.draining.contains(&target.port), Ordering::SeqCst);
        }
    }

    /// Forgets instances that are in no table and have nothing in flight, and reports those that were asked about.
    fn report_drained(&mut self) {
        self.targets.retain(|_, (target, listed)| *listed || target.in_flight.load(Ordering::SeqCst) > 0);
        let over: Vec<u16> = self.draining.iter().copied().filter(|port| !self.targets.keys().any(|(_, _, known)| known == port)).collect();
        for port in over {
            self.draining.remove(&port);
            self.tell(FromRouter::Drained { port });
        }
    }

    /// Tells what was counted since it was last told.
    fn report_counted(&mut self) {
        self.counters.news().into_iter().for_each(|news| self.tell(news));
    }

    fn count(&self, port: u16) -> usize {
        self.targets.values().filter(|(t, _)| t.port == port).map(|(t, _)| t.in_flight.load(Ordering::SeqCst)).sum()
    }
}

struct Worker {
    listeners: Vec<TcpListener>,
    /// So many of them, the last ones, are for TLS.
    tls: usize,
    shared: Arc<Shared>,
    tables: watch::Receiver<Arc<Live>>,
    stores: watch::Receiver<Arc<Store>>,
    stopping: watch::Receiver<Option<(Duration, Stopping)>>,
    journal: Journal,
}

impl Worker {
    fn run(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        // In a task of its own: what is awaited here is asked whenever any task of this thread has something to do.
        let journal = runtime.block_on(async { tokio::task::spawn_local(self.work()).await }).map_err(io::Error::other)??;
        // What the grace did not wait for ends here, and has its lines written.
        drop(runtime);
        if let Some(journal) = journal {
            journal.flush();
        }
        Ok(())
    }

    async fn work(mut self) -> io::Result<Option<Rc<Journal>>> {
        // The first table arrives as a change of the empty one.
        let told = tokio::select! {
            changed = self.tables.changed() => changed.is_ok(),
            _ = self.stopping.wait_for(Option::is_some) => false,
        };
        if !told {
            return Ok(None);
        }
        let (alive, mut gone) = mpsc::channel(1);
        let (stop, stopping) = watch::channel(Stopping::No);
        let journal = Rc::new(self.journal);
        let pool = Rc::new(Pool::default());
        let mut tables = self.tables.clone();
        let live = tables.borrow_and_update().clone();
        pool.list(&live.ids());
        let live = Rc::new(RefCell::new(live));
        let (leftovers, mut left_over) = mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            while let Some(body) = left_over.recv().await {
                tokio::task::spawn_local(discard(body));
            }
        });
        let core = Rc::new(Core {
            leftovers,
            shared: self.shared,
            table: self.tables,
            live: live.clone(),
            store: self.stores,
            stopping,
            pool: pool.clone(),
            journal: journal.clone(),
            dated: RefCell::default(),
            strict: RefCell::default(),
            spare: RefCell::default(),
            _alive: alive,
        });
        let mut accepting = Vec::new();
        let plain = self.listeners.len() - self.tls;
        for (index, listener) in self.listeners.into_iter().enumerate() {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            accepting.push(tokio::task::spawn_local(accept(core.clone(), listener, index >= plain)));
        }
        drop(core);

        // Where nobody asks for anything there is nothing to do, and a house of many deploys is to use nothing for it.
        let mut batch: Option<tokio::time::Instant> = None;
        let mut reap: Option<tokio::time::Instant> = None;
        let mut grace: Option<tokio::time::Instant> = None;
        loop {
            tokio::select! {
                // Each use of a connection ends with a line.
                () = journal.waits(), if batch.is_none() => {
                    let now = tokio::time::Instant::now();
                    (batch, reap) = (Some(now + BATCH), reap.or(Some(now + REAP)));
                }
                () = until(batch) => {
                    journal.flush();
                    batch = None;
                }
                () = until(reap) => {
                    journal.reap();
                    pool.reap();
                    reap = (!(journal.rests() && pool.rests())).then(|| tokio::time::Instant::now() + REAP);
                }
                Ok(()) = tables.changed() => {
                    let now = tables.borrow_and_update().clone();
                    pool.list(&now.ids());
                    live.replace(now);
                }
                // Told to stop, or the main thread is gone.
                changed = self.stopping.changed() => {
                    let (told, how) = self.stopping.borrow_and_update().unwrap_or((Duration::ZERO, Stopping::Now));
                    let until = tokio::time::Instant::now() + told;
                    grace = Some(grace.map_or(until, |earlier| earlier.min(until)));
                    accepting.drain(..).for_each(|task| task.abort());
                    let _ = stop.send(how);
                    if changed.is_err() {
                        break;
                    }
                }
                // Every connection and tunnel has ended.
                None = gone.recv() => break,
                () = until(grace) => break,
            }
        }
        pool.clear();
        Ok(Some(journal))
    }
}
