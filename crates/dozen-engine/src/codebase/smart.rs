//! git's own protocol as streams of bytes: what a smart HTTP server answers, and what a forced command of SSH connects.
//!
//! **Invariant:** a git that nobody waits for is ended and reaped, and what it was given to keep is kept until then.
//! **Invariant:** what a client sends is limited in bytes and in time, and so is the memory that git may take for it.

use super::hook::Pass;
use super::repository::{MAX_PUSH, Repository};
use crate::tasks;
use bytes::Bytes;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};
use std::fs::File;
use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::time::Instant;

mod gunzip;

pub use gunzip::Gunzip;

/// What a client of git asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// A push.
    Receive,
    /// A fetch or a clone.
    Upload,
}

impl Service {
    /// By the name that clients use: `git-receive-pack`, `git-upload-pack`.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Receive, Self::Upload].into_iter().find(|service| service.name() == name)
    }

    /// That name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Receive => "git-receive-pack",
            Self::Upload => "git-upload-pack",
        }
    }

    fn command(self) -> &'static str {
        self.name().trim_start_matches("git-")
    }
}

/// How a client talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialogue {
    /// Smart HTTP: one request, one answer.
    Request,
    /// SSH: both talk in turn, and begin with what the other one has.
    Session,
}

/// What a client may send, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of input.
    pub input: u64,
    /// Without a byte in either direction.
    pub idle: Duration,
    /// In all.
    pub whole: Duration,
}

impl Limits {
    /// What is usual for a service.
    pub fn of(service: Service) -> Self {
        let idle = Duration::from_secs(120);
        match service {
            // git itself counts the pack; what stands before it are some bytes for each ref. A build and a release phase are within.
            Service::Receive => Self { input: MAX_PUSH + (64 << 20), idle, whole: Duration::from_secs(2 * 3600) },
            Service::Upload => Self { input: 64 << 20, idle, whole: Duration::from_secs(3600) },
        }
    }
}

/// Why git does not answer.
#[derive(Debug, thiserror::Error)]
pub enum SmartError {
    /// It cannot be started.
    #[error("cannot start git")]
    Start(#[source] io::Error),
    /// The repository's lock.
    #[error("cannot lock the repository")]
    Lock(#[source] io::Error),
    /// It did not say what there is.
    #[error("git does not say what the repository has: {0}")]
    Advertise(String),
}

/// The memory that one program of git's may take for what a stranger sends.
const MEMORY: u64 = 1 << 30;
/// For a list of refs.
const ADVERTISING: Duration = Duration::from_secs(60);
/// A list of more is none.
const MAX_LIST: u64 = 64 << 20;
/// So long git may take to end once it is told to, or has said all.
const ENDING: Duration = Duration::from_secs(5);
/// git's complaints that are kept for the trace.
const MAX_COMPLAINT: u64 = 4 << 10;

/// The answer to `GET …/info/refs?service=…`: what the repository has. `protocol` is the header `Git-Protocol`.
pub async fn advertise(repository: &Repository, service: Service, protocol: Option<&str>) -> Result<Bytes, SmartError> {
    let version = version(protocol);
    let mut git = repository.git();
    git.args([service.command(), "--stateless-rpc", "--advertise-refs", "."]);
    let mut child = start(git, version, &[])?;
    drop(child.stdin.take());
    let mut answer = Vec::new();
    // The second version says by itself what it is.
    if !(service == Service::Upload && version == Some("version=2")) {
        let line = format!("# service={}\n", service.name());
        answer.extend(format!("{:04x}{line}0000", line.len() + 4).into_bytes());
    }
    let out = child.stdout.take().ok_or_else(|| SmartError::Start(io::ErrorKind::BrokenPipe.into()))?;
    let read = async {
        out.take(MAX_LIST).read_to_end(&mut answer).await?;
        child.wait().await
    };
    match tokio::time::timeout(ADVERTISING, read).await {
        Ok(Ok(status)) if status.success() => Ok(answer.into()),
        Ok(Ok(status)) => Err(SmartError::Advertise(status.to_string())),
        Ok(Err(e)) => Err(SmartError::Advertise(e.to_string())),
        // Dropped, it is killed.
        Err(_) => Err(SmartError::Advertise("it took too long".to_owned())),
    }
}

/// Has git take `input` and answers what it answers. A push without a pass is refused by the hook.
pub async fn serve(
    repository: &Repository,
    service: Service,
    dialogue: Dialogue,
    protocol: Option<&str>,
    input: impl AsyncRead + Send + 'static,
    pass: Option<Pass>,
    limits: Limits,
) -> Result<Answer, SmartError> {
    let mut git = repository.git();
    git.arg(service.command());
    if dialogue == Dialogue::Request {
        git.arg("--stateless-rpc");
    }
    git.arg(".");
    let lock = match service {
        Service::Receive => {
            let repository = repository.clone();
            let locked = tokio::task::spawn_blocking(move || repository.receiving()).await;
            Some(locked.map_err(io::Error::other).flatten().map_err(SmartError::Lock)?)
        }
        Service::Upload => None,
    };
    if let Some(lock) = &lock {
        use command_fds::{CommandFdExt, FdMapping};
        // It lasts as long as any program of this push does, whatever becomes of this one.
        let parent_fd = lock.try_clone().map_err(SmartError::Lock)?.into();
        git.fd_mappings(vec![FdMapping { parent_fd, child_fd: 3 }]).map_err(|e| SmartError::Lock(io::Error::other(e)))?;
    }
    let environment = pass.as_ref().map(Pass::environment).unwrap_or_default();
    let mut child = start(git, version(protocol), environment)?;
    let broken = || SmartError::Start(io::ErrorKind::BrokenPipe.into());
    let (stdin, stdout) = (child.stdin.take().ok_or_else(broken)?, child.stdout.take().ok_or_else(broken)?);
    let activity = Arc::new(Activity(Mutex::new((Instant::now(), false))));
    let (end, gone) = oneshot::channel();
    let session = Session { child, activity: activity.clone(), limits, gone, _pass: pass, _lock: lock };
    tasks::spawn("git", session.attend(input, stdin));
    Ok(Answer { stdout, activity, _end: end })
}

fn start(mut git: std::process::Command, version: Option<&str>, environment: &[(String, String)]) -> Result<Child, SmartError> {
    use std::os::unix::process::CommandExt;
    // A group of its own: what git starts ends with it.
    git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    git.envs(environment.iter().map(|(name, value)| (name, value)));
    git.envs(version.map(|version| ("GIT_PROTOCOL", version)));
    let mut child = Command::from(git).kill_on_drop(true).spawn().map_err(SmartError::Start)?;
    if let Some(pid) = pid(&child) {
        // Before it has read a byte. A system that refuses that has no such limit.
        let _ = prlimit(Some(pid), Resource::Data, Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) });
    }
    if let Some(stderr) = child.stderr.take() {
        tasks::spawn("git-stderr", async move {
            let mut text = Vec::new();
            let mut stderr = stderr;
            let _ = (&mut stderr).take(MAX_COMPLAINT).read_to_end(&mut text).await;
            if !text.is_empty() {
                tracing::warn!(said = %String::from_utf8_lossy(&text).trim(), "git complains");
            }
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        });
    }
    Ok(child)
}

/// The version that a client asks for, where it is one that git has. The rest of what it sends is not git's business.
fn version(protocol: Option<&str>) -> Option<&'static str> {
    let known = ["version=2", "version=1"];
    known.into_iter().find(|version| protocol.is_some_and(|p| p.split(':').any(|word| word == *version)))
}

fn pid(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
}

/// When a byte was seen last, and whether git has said all.
#[derive(Debug)]
struct Activity(Mutex<(Instant, bool)>);

impl Activity {
    fn seen(&self, all: bool) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now = (Instant::now(), now.1 || all);
    }

    fn last(&self) -> (Instant, bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn idle(&self, limit: Duration) {
        loop {
            let until = self.last().0 + limit;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// What git answers. Dropped, git is ended.
#[derive(Debug)]
pub struct Answer {
    stdout: ChildStdout,
    activity: Arc<Activity>,
    _end: oneshot::Sender<()>,
}

impl AsyncRead for Answer {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stdout).poll_read(cx, buffer);
        if matches!(polled, Poll::Ready(Ok(()))) && buffer.remaining() + buffer.filled().len() > before {
            self.activity.seen(buffer.filled().len() == before);
        }
        polled
    }
}

/// A git that runs for somebody.
struct Session {
    child: Child,
    activity: Arc<Activity>,
    limits: Limits,
    gone: oneshot::Receiver<()>,
    _pass: Option<Pass>,
    _lock: Option<File>,
}

impl Session {
    /// Hands the input on until git ends, and sees to it that it does.
    async fn attend(mut self, input: impl AsyncRead + Send, stdin: ChildStdin) {
        let deadline = tokio::time::sleep(self.limits.whole);
        let activity = self.activity.clone();
        let idle = activity.idle(self.limits.idle);
        let handed = hand_on(input, stdin, &activity, self.limits.input);
        tokio::pin!(deadline, idle, handed);
        let mut handing = true;
        let over = loop {
            tokio::select! {
                _ = self.child.wait() => {
                    let Self { _pass, _lock, .. } = self;
                    drop((_pass, _lock));
                    // Who is still sending reads the answer only then.
                    tokio::select! {
                        _ = &mut handed, if handing => {}
                        () = &mut idle => {}
                        () = &mut deadline => {}
                    }
                    return;
                }
                done = &mut handed, if handing => match done {
                    Ok(()) => handing = false,
                    Err(e) => break e.to_string(),
                },
                _ = &mut self.gone => break "nobody waits for it".to_owned(),
                () = &mut idle => break "no byte was seen for too long".to_owned(),
                () = &mut deadline => break "it takes too long".to_owned(),
            }
        };
        tracing::debug!(over, "git is ended");
        // It may have said all and be about to end.
        if self.activity.last().1 && tokio::time::timeout(ENDING, self.child.wait()).await.is_ok() {
            return;
        }
        let Some(group) = pid(&self.child) else { return };
        // So told it takes half a push away itself.
        let _ = kill_process_group(group, Signal::TERM);
        if tokio::time::timeout(ENDING, self.child.wait()).await.is_err() {
            let _ = kill_process_group(group, Signal::KILL);
            let _ = self.child.wait().await;
        }
    }
}

async fn hand_on(input: impl AsyncRead, stdin: ChildStdin, activity: &Activity, most: u64) -> io::Result<()> {
    tokio::pin!(input);
    let mut buffer = vec![0; 64 << 10];
    let mut left = most;
    let mut stdin = Some(stdin);
    loop {
        let n = input.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        activity.seen(false);
        left = left.checked_sub(n as u64).ok_or_else(|| io::Error::other("more was sent than may be"))?;
        if let Some(git) = &mut stdin
            && git.write_all(&buffer[..n]).await.is_err()
        {
            // What git does not want any more is no fault: it says so itself.
            stdin = None;
        }
    }
}

#[cfg(test)]
mod tests;
