//! VI. Starting jails and talking to them.
//!
//! **Invariant:** everything that dozen runs for an app is started by [`spawn`]; there is no second way.
//! **Invariant:** nobody waits for "any child": each process is reaped by its own number.

pub mod adoption;
pub mod notes;
mod own_binary;
mod probing;
mod reaping;
pub mod spec;
pub mod stock;
pub mod usage;

use crate::tasks;
use adoption::Lasting;
use dozen_core::processes::jail::{Asked, FromJail, JailSpec, PROTOCOL, ToJail, View};
use dozen_core::processes::size::Limits;
use dozen_core::processes::{Exit, Isolation};
use probing::Probing;
use reaping::Target;
pub use reaping::those_before as reap_those_before;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinHandle;

/// A jail that was started. Dropping it and all its handles is losing it: what is inside gets SIGTERM and, after the spec's grace, SIGKILL.
#[derive(Debug)]
pub struct Jail {
    events: mpsc::Receiver<JailEvent>,
    handle: JailHandle,
}

/// What is told of a jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JailEvent {
    /// The program runs.
    Started {
        /// The jail's process id on this host.
        pid: u32,
        /// What isolates it.
        isolation: Isolation,
        /// Layers that could not be had, for people.
        missing: Vec<String>,
    },
    /// Something inside listens on the spec's port.
    Listening {
        /// The port.
        port: u16,
    },
    /// Lines were written to its segment.
    Wrote,
    /// It could not write this path of the slug.
    Refused(String),
    /// It uses more memory than its size.
    Memory {
        /// So many bytes.
        used: u64,
        /// Its size.
        quota: u64,
        /// So much more that all of it was killed.
        vastly: bool,
    },
    /// It was refused another process, since it has as many as it may.
    Crowded {
        /// So many processes and threads.
        most: u32,
    },
    /// The grace ended and what was left got SIGKILL.
    Killing,
    /// The program and all that it started are gone. The last event.
    Exited(Exit),
    /// There is no jail, or no program in it. The last event.
    Failed {
        /// What was attempted.
        attempt: String,
        /// Why it failed.
        error: String,
        /// As a shell would exit: 126, 127, or 1.
        code: i32,
    },
    /// The jail vanished without a word: killed from outside, and all inside with it. The last event.
    Lost,
}

/// Steers a jail from anywhere. Nothing here waits; a jail that is gone is no error.
#[derive(Debug, Clone)]
pub struct JailHandle {
    orders: mpsc::UnboundedSender<ToJail>,
    probing: Probing,
    /// The jail's.
    protocol: u32,
}

/// Why a jail could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No socket to it.
    #[error("cannot make the control socket of a jail")]
    Socket(#[source] std::io::Error),
    /// It cannot be written down where it would be found again.
    #[error("cannot write down that a jail starts")]
    Note(#[source] std::io::Error),
    /// No process.
    #[error("cannot start {program} as a jail")]
    Start {
        /// The dozen binary.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The spec did not reach it.
    #[error("cannot send the spec to the jail of {instance}")]
    Send {
        /// `web.1`
        instance: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What this host allows a jail to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    /// The strongest isolation that worked.
    pub isolation: Isolation,
    /// [`View::Minimal`] where mounts are possible.
    pub view: View,
    /// Layers that could not be had, for people.
    pub missing: Vec<String>,
    /// Whether a program ran in a jail at all.
    pub runs: bool,
}

/// What [`isolation`] found.
static FOUND: OnceCell<Layers> = OnceCell::const_new();

/// The longest message taken from a jail.
const MAX_MESSAGE: u64 = 256 * 1024;
/// A jail that was told to kill and is still there after this is killed itself.
const KILL_PATIENCE: Duration = Duration::from_secs(2);
/// Within this a starter is there, however busy the machine is.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long a last event waits for the jail's processes to be reaped.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// Has a jail made by `exe __jail` and hands it the spec. `io` are the program's standard descriptors where the spec has no log.
///
/// # Errors
/// The process cannot be started or does not take the spec. What goes wrong later is a [`JailEvent::Failed`].
pub async fn spawn(exe: &Path, spec: JailSpec, io: Option<[OwnedFd; 3]>) -> Result<Jail, SpawnError> {
    start(exe, spec, io, None).await
}

/// The same, of a jail that the next control part finds, where it is `lasting`.
async fn start(exe: &Path, spec: JailSpec, io: Option<[OwnedFd; 3]>, lasting: Option<Lasting>) -> Result<Jail, SpawnError> {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        dozen_jail::cgroup::make_room();
        dozen_jail::sweep();
    });
    let (ours, theirs) = StdStream::pair().map_err(SpawnError::Socket)?;
    ours.set_nonblocking(true).map_err(SpawnError::Socket)?;
    let socket = UnixStream::from_std(ours).map_err(SpawnError::Socket)?;

    let mut fds = vec![OwnedFd::from(theirs)];
    if let Some(lasting) = &lasting {
        fds.push(lasting.bind().map_err(SpawnError::Socket)?);
    }
    let asked = Asked { lasting: lasting.is_some(), io: io.is_some() };
    fds.extend(io.into_iter().flatten());
    let stock = stock::order(exe, asked, &fds)?;
    // While one of them lives here, the end of a jail would not show.
    drop(fds);

    let instance = spec.instance.clone();
    let (reader, mut writer) = socket.into_split();
    let start = serde_json::to_vec(&ToJail::Start { spec: Box::new(spec) });
    let sent = match start {
        Ok(mut line) => {
            line.push(b'\n');
            writer.write_all(&line).await
        }
        Err(error) => Err(std::io::Error::other(error)),
    };
    sent.map_err(|source| SpawnError::Send { instance, source })?;

    // What ends with this process has nobody to write its end down for.
    let lasting = lasting.filter(Lasting::lasts);
    let wire = Wire {
        reader: BufReader::new(reader),
        writer,
        target: Target::default(),
        stock: Some(stock),
        ends: Vec::new(),
        lasting,
        protocol: PROTOCOL,
    };
    Ok(drive(wire, Vec::new()))
}

/// A jail's socket, its processes, and what is written down of it.
struct Wire {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    target: Target,
    /// What it stems from, where this process started it.
    stock: Option<u32>,
    /// Those that are waited for at its end.
    ends: Vec<JoinHandle<()>>,
    lasting: Option<Lasting>,
    /// What the jail speaks.
    protocol: u32,
}

/// `said` are messages that were read already.
fn drive(wire: Wire, said: Vec<FromJail>) -> Jail {
    let Wire { reader, writer, target, stock, ends, lasting, protocol } = wire;
    let probing = Probing::default();
    let (orders, queue) = mpsc::unbounded_channel();
    let (told, events) = mpsc::channel(64);
    let end = End { stock, ends, lasting, orders: orders.downgrade(), probing: probing.clone() };
    tasks::spawn("jail-orders", send(queue, writer, target.clone()));
    tasks::spawn("jail-events", listen(reader, said, target, told, end));
    Jail { events, handle: JailHandle { orders, probing, protocol } }
}

/// What is to be done when a jail has ended.
struct End {
    stock: Option<u32>,
    ends: Vec<JoinHandle<()>>,
    lasting: Option<Lasting>,
    orders: mpsc::WeakUnboundedSender<ToJail>,
    probing: Probing,
}

/// What every jail of this host lacks, once [`isolation`] was asked, beyond what its level of isolation says.
pub fn missing_here() -> Vec<String> {
    let beyond = |layers: &Layers| layers.missing.iter().filter(|what| !is_of_the_level(what)).cloned().collect();
    FOUND.get().map(beyond).unwrap_or_default()
}

/// What one jail lacks and not every jail of this host does.
pub(crate) fn missing_there_alone(missing: Vec<String>) -> Vec<String> {
    let everywhere = FOUND.get().map_or(&[][..], |layers| &layers.missing);
    missing.into_iter().filter(|what| !is_of_the_level(what) && !everywhere.contains(what)).collect()
}

/// Whether it is why a stronger level could not be had.
fn is_of_the_level(missing: &str) -> bool {
    ["namespaces: ", "user-namespaces: ", "mount namespace: "].iter().any(|level| missing.starts_with(level))
}

impl Layers {
    /// What Landlock and seccomp cannot refuse here.
    pub fn missing_fences(&self) -> impl Iterator<Item = &str> {
        self.missing.iter().map(String::as_str).filter(|what| what.starts_with("landlock: ") || what.starts_with("seccomp: "))
    }

    /// What of sizes cannot be had here.
    pub fn missing_limits(&self) -> impl Iterator<Item = &str> {
        self.missing.iter().map(String::as_str).filter(|what| what.starts_with("cgroup "))
    }
}

/// What this host allows; tried once with a real jail, then remembered.
pub async fn isolation(exe: &Path) -> &'static Layers {
    FOUND.get_or_init(|| probe(exe)).await
}

async fn probe(exe: &Path) -> Layers {
    let mut missing = Vec::new();
    for view in [View::Minimal, View::Host] {
        match attempt(exe, view).await {
            Ok((isolation, more)) => {
                missing.extend(more);
                // Instances get a view of their own or none of the rest: without one no path of their specs would be right.
                let isolation = if view == View::Minimal { isolation } else { Isolation::Session };
                return Layers { isolation, view, missing, runs: true };
            }
            Err(why) => missing.push(why),
        }
    }
    Layers { isolation: Isolation::Session, view: View::Host, missing, runs: false }
}

async fn attempt(exe: &Path, view: View) -> Result<(Isolation, Vec<String>), String> {
    let spec = JailSpec {
        protocol: PROTOCOL,
        instance: "probe.1".into(),
        hostname: "probe".into(),
        argv: vec!["/bin/sh".into(), "-c".into(), ":".into()],
        env: Vec::new(),
        cwd: "/".into(),
        mounts: Vec::new(),
        scratch: Vec::new(),
        view,
        user: None,
        // With a size, so that all that a size asks for is tried.
        limits: Some(Limits { memory: Some(512 << 20), ..Limits::of(None) }.into()),
        port: None,
        held: true,
        ports: Some(Vec::new()),
        probes: false,
        log: None,
        lost_grace_ms: 0,
        lasting: false,
        shown: false,
    };
    let mut jail = spawn(exe, spec, None).await.map_err(|e| e.to_string())?;
    let mut found = Err("the jail ended at once".to_owned());
    loop {
        match jail.next().await {
            JailEvent::Started { isolation, missing, .. } => found = Ok((isolation, missing)),
            JailEvent::Failed { attempt, error, .. } => return Err(format!("{attempt}: {error}")),
            JailEvent::Exited(_) | JailEvent::Lost => return found,
            _ => {}
        }
    }
}

impl Jail {
    /// The next event. After a last one it is [`JailEvent::Lost`] for ever. Safe to drop half-way.
    pub async fn next(&mut self) -> JailEvent {
        self.events.recv().await.unwrap_or(JailEvent::Lost)
    }

    /// Steers it, from anywhere.
    pub fn handle(&self) -> JailHandle {
        self.handle.clone()
    }
}

impl JailHandle {
    /// Sends a signal to every process inside.
    pub fn signal(&self, number: i32) {
        self.order(ToJail::Signal { number });
    }

    /// SIGTERM (and SIGCONT) to every process inside, SIGKILL to what is left after the grace.
    pub fn stop(&self, grace: Duration) {
        self.order(ToJail::Stop { grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) });
    }

    /// SIGKILL to every process inside, now; to the jail itself if it does not do that.
    pub fn kill(&self) {
        self.order(ToJail::Kill);
    }

    fn order(&self, order: ToJail) {
        // A jail that is gone takes no orders and needs none.
        let _ = self.orders.send(order);
    }
}

impl JailEvent {
    /// Whether nothing comes after it.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Exited(_) | Self::Failed { .. } | Self::Lost)
    }
}

/// Passes orders on until nobody can give any: then the writing side closes, and the jail sees its parent lost.
async fn send(mut queue: mpsc::UnboundedReceiver<ToJail>, mut writer: OwnedWriteHalf, target: Target) {
    while let Some(order) = queue.recv().await {
        let Ok(mut line) = serde_json::to_vec(&order) else { continue };
        line.push(b'\n');
        match order {
            ToJail::Kill => target.kill_after(KILL_PATIENCE),
            // It counts the grace itself, unless it is stopped or stuck.
            ToJail::Stop { grace_ms } => target.kill_after(Duration::from_millis(grace_ms).saturating_add(KILL_PATIENCE)),
            ToJail::Start { .. } | ToJail::Signal { .. } | ToJail::Probe { .. } | ToJail::Adopt { .. } | ToJail::Collect => {}
        }
        // A jail that does not read must not keep the driver from killing it: the next order may be that.
        if tokio::time::timeout(KILL_PATIENCE, writer.write_all(&line)).await.is_ok_and(|sent| sent.is_err()) {
            return;
        }
    }
}

/// The next message that this version knows; `None` at the end.
async fn read(reader: &mut BufReader<OwnedReadHalf>) -> Option<FromJail> {
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.take(MAX_MESSAGE).read_until(b'\n', &mut line).await {
            Ok(1..) if line.ends_with(b"\n") => {}
            _ => return None,
        }
        if let Ok(message) = serde_json::from_slice(&line) {
            return Some(message);
        }
    }
}

/// Turns messages into events, and sees to it that each process of the jail is reaped, whether somebody takes the events or not.
async fn listen(mut reader: BufReader<OwnedReadHalf>, said: Vec<FromJail>, target: Target, told: mpsc::Sender<JailEvent>, end: End) {
    let End { stock, mut ends, lasting, orders, probing } = end;
    // The starter, and then the jail.
    let mut made = Vec::new();
    let mut last = JailEvent::Lost;
    let mut said = said.into_iter();
    loop {
        let message = match said.next() {
            Some(message) => message,
            None => {
                // A stock that hangs says nothing, and a starter says at once that it is there.
                let patience = if stock.is_some() && made.is_empty() { START_PATIENCE } else { Duration::MAX };
                match tokio::time::timeout(patience, read(&mut reader)).await {
                    Ok(Some(message)) => message,
                    Ok(None) => break,
                    Err(_) => {
                        stock.into_iter().for_each(stock::give_up);
                        break;
                    }
                }
            }
        };
        if let (Some(lasting), FromJail::Exited { .. } | FromJail::Failed { .. }) = (&lasting, &message) {
            // From now on it is written down, and the jail need not stay to say it.
            lasting.keep(&message);
            let _ = orders.upgrade().map(|orders| orders.send(ToJail::Collect));
        }
        let event = match message {
            FromJail::Made { pid } => {
                made.push(pid);
                ends.extend(target.adopt(pid));
                continue;
            }
            FromJail::Probed { number, failure } => {
                probing.answer(number, failure);
                continue;
            }
            FromJail::Stopping { .. } | FromJail::Told => continue,
            FromJail::Started { pid, isolation, missing, .. } => {
                let isolation = Isolation::parse(&isolation).unwrap_or(Isolation::Session);
                JailEvent::Started { pid, isolation, missing }
            }
            FromJail::Listening { port, .. } => JailEvent::Listening { port },
            FromJail::Wrote => JailEvent::Wrote,
            FromJail::Refused { path } => JailEvent::Refused(path),
            FromJail::Memory { used, quota, vastly } => JailEvent::Memory { used, quota, vastly },
            FromJail::Crowded { most } => JailEvent::Crowded { most },
            FromJail::Killing => JailEvent::Killing,
            FromJail::Exited { .. } => JailEvent::Exited(adoption::exit(&message).unwrap_or(Exit::Lost)),
            FromJail::Failed { attempt, error, code } => JailEvent::Failed { attempt, error, code },
        };
        if event.is_last() {
            last = event;
            break;
        }
        // Nobody may be interested any more; the jail is listened to until it ends all the same.
        let _ = told.send(event).await;
    }
    probing.end();
    // Only when its processes are reaped has the kernel ended all that was inside.
    let all = async {
        for end in ends {
            let _ = end.await;
        }
        match (stock, made.as_slice()) {
            (Some(stock), []) => reaping::untold(stock),
            (Some(_), [starter]) => reaping::unannounced(*starter).await,
            _ => {}
        }
    };
    let _ = tokio::time::timeout(END_PATIENCE, all).await;
    if last == JailEvent::Lost {
        // Nobody else removes what a jail that was killed had made.
        let _ = tokio::task::spawn_blocking(dozen_jail::sweep).await;
    }
    let _ = told.send(last).await;
}
