//! What git asks before it takes a push in: the hook's side, which ends with the push, and the door of the control plane, which knows who pushes
//! and builds.
//!
//! A connection is one push: the hook says what it is about in one line of JSON, the door answers with the lines that the pusher sees, and at
//! last whether the push is taken in.
//!
//! **Invariant:** a push is taken in only where its deploy came about; whatever breaks in between refuses it.
//! **Invariant:** who comes without a token that is waited for is told nothing, and a token serves once.

use super::commit::{self, CheckedOut};
use super::repository::{HOOK_PROGRAM, Repository, is_hash};
use crate::deploy::{Build, DeployError};
use crate::home::Home;
use crate::output::{Event, Output};
use crate::tasks;
use dozen_core::codebase::push;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

mod run;

pub use run::run;

/// The hook finds the door here.
const SOCKET: &str = "DOZEN_HOOK_SOCKET";
/// And shows it this.
const TOKEN: &str = "DOZEN_HOOK_TOKEN";
/// A request of more is none.
const MAX_REQUEST: u64 = 64 << 10;
/// A hook asks as soon as it is connected.
const ASKING: Duration = Duration::from_secs(10);
/// So many bytes of lines wait for a pusher that does not read them; then lines are left out.
const BACKLOG: usize = 4 << 20;

/// What a hook asks.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    token: String,
    branch: String,
    old: Option<String>,
    commit: String,
    /// Where the objects are that came with the push.
    quarantine: Option<PathBuf>,
}

/// A line of the answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Answer {
    Line { text: String },
    Done { ok: bool },
}

/// What is pushed, with its files.
#[derive(Debug)]
pub struct Push {
    /// `main` or `master`.
    pub branch: String,
    /// The commit's files.
    pub checkout: CheckedOut,
    /// See [`Hold`].
    pub hold: Hold,
}

/// Until when a push is given up with the one who pushes. A build is; what has begun to change the deploy goes on to its end.
#[derive(Debug, Clone, Default)]
pub struct Hold(Arc<Mutex<Held>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Held {
    #[default]
    Loosely,
    Fast,
    GivenUp,
}

impl Hold {
    /// From now on the push goes on without the one who pushes. `false`: that one is gone already.
    pub fn fast(&self) -> bool {
        let mut held = locked(&self.0);
        if *held == Held::Loosely {
            *held = Held::Fast;
        }
        *held == Held::Fast
    }

    /// The one who pushes is gone. Answers whether the push is to end with that.
    fn give_up(&self) -> bool {
        let mut held = locked(&self.0);
        if *held == Held::Loosely {
            *held = Held::GivenUp;
        }
        *held == Held::GivenUp
    }
}

/// Who builds and releases what is pushed.
pub trait Deploys<T>: Send + Sync + 'static {
    /// Pushes to the deploy of a ticket wait for each other here.
    fn turn(&self, ticket: &T) -> Arc<tokio::sync::Mutex<()>>;

    /// Takes down that a commit is to be built. It may have to wait before it is.
    fn ask(&self, ticket: &T, commit: &str) -> impl Future<Output = Result<Build, DeployError>> + Send;

    /// Deploys it. The ticket is what [`Door::admit`] was given. Where nobody waits any more the future is dropped, until [`Hold::fast`] was called.
    fn push(
        &self,
        ticket: Arc<T>,
        push: Push,
        build: &Build,
        output: Arc<dyn Output>,
    ) -> impl Future<Output = Result<(), DeployError>> + Send;
}

/// Where hooks ask. `T` is what is known of a push before git has seen it: whose it is, and for which deploy.
#[derive(Debug)]
pub struct Door<T> {
    program: PathBuf,
    socket: PathBuf,
    home: Home,
    waited_for: Arc<Mutex<HashMap<Key, Arc<Expected<T>>>>>,
}

/// The hash of a token.
type Key = [u8; 32];

/// A push that git was started for.
#[derive(Debug)]
struct Expected<T> {
    ticket: Arc<T>,
    repository: Repository,
    asked: AtomicBool,
    /// Set when git has ended.
    gone: watch::Sender<bool>,
    /// The deploy's turn, from the end of the build until git has moved the branch or has ended otherwise.
    turn: Mutex<Option<OwnedMutexGuard<()>>>,
}

/// What a receiving git is given so that its hook is let in. Kept until that git has ended.
pub struct Pass {
    environment: Vec<(String, String)>,
    end: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl std::fmt::Debug for Pass {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pass").finish_non_exhaustive()
    }
}

impl Pass {
    pub(super) fn environment(&self) -> &[(String, String)] {
        &self.environment
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end();
        }
    }
}

impl<T: Send + Sync + 'static> Door<T> {
    /// A door of this home; `program` is the dozen that git's hook becomes. Also answers where it listens, for [`Door::serve`].
    pub fn bind(home: &Home, program: &Path) -> io::Result<(Arc<Self>, UnixListener)> {
        let socket = home.push_socket();
        let folder = socket.parent().unwrap_or(&socket);
        Home::private(folder)?;
        match fs::remove_file(&socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(through(&File::open(folder)?, &socket))?;
        fs::set_permissions(&socket, Permissions::from_mode(0o600))?;
        let waited_for = Arc::default();
        // Of whoever runs the hook "self" would be another one.
        let program = match program.strip_prefix("/proc/self") {
            Ok(rest) => Path::new("/proc").join(std::process::id().to_string()).join(rest),
            Err(_) => program.to_owned(),
        };
        Ok((Arc::new(Self { program, socket, home: home.clone(), waited_for }), listener))
    }

    /// Has the hook of one receiving git let in.
    pub fn admit(&self, repository: &Repository, ticket: T) -> Pass {
        let token = blake3::Hash::from_bytes(rand::random()).to_hex().to_string();
        let key = *blake3::hash(token.as_bytes()).as_bytes();
        let expected = Arc::new(Expected {
            ticket: Arc::new(ticket),
            repository: repository.clone(),
            asked: AtomicBool::new(false),
            gone: watch::Sender::new(false),
            turn: Mutex::default(),
        });
        locked(&self.waited_for).insert(key, expected.clone());
        let waited_for = self.waited_for.clone();
        let end = move || {
            locked(&waited_for).remove(&key);
            // Under the lock of the turn, so that a build that ends just now does not leave it there.
            let mut turn = locked(&expected.turn);
            expected.gone.send_replace(true);
            *turn = None;
        };
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let environment = vec![(SOCKET.into(), text(&self.socket)), (TOKEN.into(), token), (HOOK_PROGRAM.into(), text(&self.program))];
        Pass { environment, end: Some(Box::new(end)) }
    }

    /// Lets hooks in until the future is dropped.
    pub async fn serve(self: Arc<Self>, listener: UnixListener, deploys: Arc<impl Deploys<T>>) {
        let mut visits = JoinSet::new();
        loop {
            tokio::select! {
                stream = listener.accept() => match stream {
                    Ok((stream, _)) => {
                        let (door, deploys) = (self.clone(), deploys.clone());
                        // Their builds end with them, and they with this future.
                        visits.spawn(async move { door.answer(stream, deploys).await });
                    }
                    // No descriptor is free: those that are in use are given back.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
                Some(_) = visits.join_next() => {}
            }
        }
    }

    /// One hook's visit.
    async fn answer(&self, mut stream: UnixStream, deploys: Arc<impl Deploys<T>>) {
        if stream.peer_cred().is_ok_and(|peer| peer.uid() != rustix::process::geteuid().as_raw()) {
            return;
        }
        let (read, mut write) = stream.split();
        let mut read = BufReader::new(read);
        let Some((expected, request)) = self.take_in(&mut read).await else { return };
        let (lines, mut coming) = Lines::new();
        let lines = Arc::new(lines);
        let hold = Hold::default();
        let work = self.work(expected.clone(), request, deploys, lines.clone(), hold.clone());
        let mut work = tasks::spawn("push", work);
        let _leash = Leash(work.abort_handle(), hold.clone());
        let mut gone = expected.gone.subscribe();
        let (mut listens, mut ok) = (true, None);
        let mut byte = [0];
        while ok.is_none() {
            let mut lost = false;
            tokio::select! {
                biased;
                line = coming.recv() => if let Some(text) = line {
                    lines.took(&text);
                    lost = listens && tell(&mut write, &Answer::Line { text }).await.is_err();
                },
                done = &mut work => ok = Some(done.unwrap_or(false)),
                read = read.read(&mut byte), if listens => lost = !read.is_ok_and(|n| n > 0),
                () = is_set(&mut gone), if listens => lost = true,
            }
            if lost {
                listens = false;
                if hold.give_up() {
                    work.abort();
                }
            }
        }
        while let Ok(text) = coming.try_recv() {
            if listens {
                listens = tell(&mut write, &Answer::Line { text }).await.is_ok();
            }
        }
        let _ = tell(&mut write, &Answer::Done { ok: ok == Some(true) }).await;
    }

    /// Reads what a hook asks; `None` where nobody waits for it.
    async fn take_in(&self, read: &mut (impl AsyncBufReadExt + Unpin)) -> Option<(Arc<Expected<T>>, Request)> {
        let mut line = String::new();
        let mut read = read.take(MAX_REQUEST);
        tokio::time::timeout(ASKING, read.read_line(&mut line)).await.ok()?.ok()?;
        let request: Request = serde_json::from_str(&line).ok()?;
        let expected = locked(&self.waited_for).get(blake3::hash(request.token.as_bytes()).as_bytes()).cloned()?;
        let known = push::BRANCHES.contains(&request.branch.as_str()) && is_hash(&request.commit);
        (known && !expected.asked.swap(true, Ordering::Relaxed)).then_some((expected, request))
    }

    /// Deploys what a hook asks for, in its turn. Answers whether the push is to be taken in.
    fn work(
        &self,
        expected: Arc<Expected<T>>,
        request: Request,
        deploys: Arc<impl Deploys<T>>,
        lines: Arc<Lines>,
        hold: Hold,
    ) -> impl Future<Output = bool> + Send + 'static {
        let (turn, home) = (deploys.turn(&expected.ticket), self.home.clone());
        async move {
            let branch = request.branch.clone();
            let mut held = None;
            let carried = async {
                let build = deploys.ask(&expected.ticket, &request.commit).await?;
                let held = &mut held;
                let pushed = async {
                    *held = Some(match turn.clone().try_lock_owned() {
                        Ok(turn) => turn,
                        Err(_) => {
                            lines.step("Waiting for the build that is under way");
                            turn.lock_owned().await
                        }
                    });
                    let checkout = prepare(home, expected.repository.clone(), request).await.map_err(DeployError::Refused)?;
                    checkout.warnings.iter().for_each(|w| lines.warning(w));
                    let push = Push { branch: branch.clone(), checkout, hold };
                    deploys.push(expected.ticket.clone(), push, &build, lines.clone()).await
                };
                build.carry(pushed).await
            };
            let done = carried.await;
            if let Err(why) = &done {
                failure(why).iter().for_each(|line| lines.warning(line));
                lines.warning(&format!("The push is refused: {branch} stays as it was"));
            }
            // git moves the branch after its hook has ended; until then nobody else is to look at where it is.
            let mut kept = locked(&expected.turn);
            if !*expected.gone.borrow() {
                *kept = held;
            }
            done.is_ok()
        }
    }
}

impl<T> Drop for Door<T> {
    fn drop(&mut self) {
        // What cannot be removed now is replaced by the next one.
        let _ = fs::remove_file(&self.socket);
    }
}

/// The files of what is pushed, where the branch is still where the pusher saw it.
async fn prepare(home: Home, repository: Repository, request: Request) -> Result<CheckedOut, String> {
    let Request { branch, old, commit, quarantine, .. } = request;
    let work = move || {
        // git itself would see it only when all was built and released.
        let tip = repository.tip(&branch).map_err(|e| format!("cannot ask where {branch} is: {e}"))?;
        if tip != old {
            return Err(format!("somebody else pushed {branch} meanwhile: `git pull` brings that here, then push again"));
        }
        let place = match quarantine {
            Some(named) => Some(repository.quarantine(&named).ok_or("git names a folder that is not the repository's")?),
            None => None,
        };
        commit::check_out(&home, &repository, &commit, place.as_deref()).map_err(|e| crate::chain(&e))
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?
}

/// What a failure says to the one who pushes.
fn failure(error: &DeployError) -> Vec<String> {
    let mut lines: Vec<String> = crate::chain(error).lines().map(str::to_owned).collect();
    if let DeployError::Input { file, diagnostics, .. } = error {
        lines.extend(diagnostics.iter().map(|d| format!("{file}:{d}{}{}", if d.help.is_empty() { "" } else { ". " }, d.help)));
    }
    lines.extend(error.hint());
    lines
}

/// Ends a build with the visit that waits for it.
struct Leash(AbortHandle, Hold);

impl Drop for Leash {
    fn drop(&mut self) {
        if self.1.give_up() {
            self.0.abort();
        }
    }
}

async fn is_set(flag: &mut watch::Receiver<bool>) {
    // It is set before its sender goes.
    let _ = flag.wait_for(|set| *set).await;
}

async fn tell(to: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    to.write_all(&line).await
}

/// What a build tells, as lines for the one who pushes.
struct Lines {
    to: mpsc::UnboundedSender<String>,
    waiting: AtomicUsize,
}

impl Lines {
    fn new() -> (Self, mpsc::UnboundedReceiver<String>) {
        let (to, coming) = mpsc::unbounded_channel();
        (Self { to, waiting: AtomicUsize::new(0) }, coming)
    }

    fn took(&self, text: &str) {
        self.waiting.fetch_sub(text.len(), Ordering::Relaxed);
    }
}

impl Output for Lines {
    fn emit(&self, event: Event) {
        let text = match event {
            Event::Step(text) => format!("-----> {text}"),
            Event::Detail(text) | Event::App(text) => format!("       {text}"),
            Event::Warning(text) => format!(" !     {text}"),
            Event::Done(took) => format!("       ({:.1}s)", took.as_secs_f64()),
            Event::Busy(_) => return,
        };
        let before = self.waiting.fetch_add(text.len(), Ordering::Relaxed);
        if before > BACKLOG || self.to.send(text.clone()).is_err() {
            self.took(&text);
        }
    }
}

/// A socket's path by way of its open folder: a home may lie deeper than the 107 bytes that a socket's address holds.
fn through(folder: &File, socket: &Path) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(socket.file_name().unwrap_or_default())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
