//! Real clients of git push to a server of the test's own, whose hook is this test's program.

use super::super::hook::{self, Deploys, Door, Push};
use super::super::repository::Repository;
use super::super::tested::{Place, Work, git};
use super::*;
use crate::deploy::{Build, Builds, DeployError};
use crate::ledger::{Intent, Ledger, Principal};
use crate::output::Output;
use dozen_core::ids::DeployRef;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output as Finished;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// git's hook becomes the program of these tests, and that one runs this.
#[test]
fn as_the_hook() {
    if std::env::var_os("DOZEN_TEST_HOOK").is_some() {
        std::process::exit(hook::run(["pre-receive".into()].into_iter()));
    }
}

/// Deploys what says in its own files what becomes of it.
struct Shop {
    ledger: Ledger,
    builds: Builds,
    turns: Mutex<BTreeMap<DeployRef, Arc<tokio::sync::Mutex<()>>>>,
    deployed: Mutex<Vec<String>>,
    begun: Semaphore,
    go: Semaphore,
    given_up: Arc<Semaphore>,
}

/// Tells that a build ended before its time.
struct Doing(Arc<Semaphore>, bool);

impl Drop for Doing {
    fn drop(&mut self) {
        if !self.1 {
            self.0.add_permits(1);
        }
    }
}

impl Deploys<DeployRef> for Shop {
    fn turn(&self, ticket: &DeployRef) -> Arc<tokio::sync::Mutex<()>> {
        self.turns.lock().expect("whole").entry(ticket.clone()).or_default().clone()
    }

    async fn ask(&self, ticket: &DeployRef, _commit: &str) -> Result<Build, DeployError> {
        Build::ask((&self.ledger, &self.builds), &Principal::me(), ticket, "push", None).await
    }

    async fn push(&self, ticket: Arc<DeployRef>, push: Push, _build: &Build, output: Arc<dyn Output>) -> Result<(), DeployError> {
        let has = |name: &str| push.checkout.folder().join(name).exists();
        output.step("Python app detected");
        let mut build = Doing(self.given_up.clone(), false);
        if has("fast") {
            assert!(push.hold.fast());
        }
        if has("wait") {
            self.begun.add_permits(1);
            self.go.acquire().await.expect("open").forget();
        }
        build.1 = true;
        if has("refuse") {
            return Err(DeployError::NotServing((*ticket).clone()));
        }
        let commit = &push.checkout.commit.hash;
        self.deployed.lock().expect("whole").push(format!("{} {} {commit}", ticket.deploy, push.branch));
        Ok(())
    }
}

struct Server {
    place: Place,
    shop: Arc<Shop>,
    door: Arc<Door<DeployRef>>,
    port: u16,
    limits: Option<Limits>,
    /// Whether a client has packed what it sent.
    packed: AtomicBool,
}

impl Server {
    async fn new() -> Arc<Self> {
        Self::limited(None).await
    }

    async fn limited(limits: Option<Limits>) -> Arc<Self> {
        let place = Place::new();
        let program = place.folder.path().join("dozen");
        let tests = std::env::current_exe().expect("known");
        let line =
            format!("#!/bin/sh\nDOZEN_TEST_HOOK=1 exec {} -q --exact codebase::smart::tests::as_the_hook --nocapture\n", tests.display());
        fs::write(&program, line).expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set");
        let (door, listener) = Door::bind(&place.home, &program).expect("bound");
        let none = || Semaphore::new(0);
        let (ledger, builds) = (Ledger::open(&place.home).expect("opened"), Builds::default());
        for deploy in ["shop/production", "shop/staging"] {
            let adopt = Intent::Adopt { deploy: deploy.parse().expect("valid"), folder: None };
            ledger.commit(&Principal::me(), adopt).await.expect("committed");
        }
        let (turns, deployed) = Default::default();
        let shop = Arc::new(Shop { ledger, builds, turns, deployed, begun: none(), go: none(), given_up: Arc::new(none()) });
        tasks::spawn("door", door.clone().serve(listener, shop.clone()));
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = tcp.local_addr().expect("bound").port();
        let server = Arc::new(Self { place, shop, door, port, limits, packed: AtomicBool::new(false) });
        let serving = server.clone();
        tasks::spawn("http", async move {
            while let Ok((stream, _)) = tcp.accept().await {
                tasks::spawn("client", visit(serving.clone(), stream));
            }
        });
        server
    }

    fn url(&self, deploy: &str) -> String {
        format!("http://127.0.0.1:{}/{deploy}", self.port)
    }

    /// Pushes to production with these words.
    async fn push(&self, work: &Work, words: &[&str]) -> Pushed {
        self.push_to(work, "production", words).await
    }

    async fn push_to(&self, work: &Work, deploy: &str, words: &[&str]) -> Pushed {
        Pushed::of(self.pushing(work, deploy, words).output().await.expect("git runs"))
    }

    fn pushing(&self, work: &Work, deploy: &str, words: &[&str]) -> Command {
        let mut push = Command::from(git(&work.0));
        push.arg("push").arg(self.url(deploy)).args(words).kill_on_drop(true).process_group(0);
        push.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        push
    }

    /// All of it: what git has begun for a push would go on without it.
    async fn kill(mut push: Child) {
        kill_process_group(pid(&push).expect("runs"), Signal::KILL).expect("killed");
        push.wait().await.expect("ends");
    }

    fn deployed(&self) -> Vec<String> {
        std::mem::take(&mut *self.shop.deployed.lock().expect("whole"))
    }

    fn tip(&self, branch: &str) -> Option<String> {
        self.place.repository.tip(branch).expect("git answers")
    }

    /// What of a push lies about that was not taken in.
    fn rest(&self) -> Vec<String> {
        let names = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.file_name()).collect::<Vec<_>>();
        let mut names = [names(&self.place.repository.path().join("objects")), names(&self.place.home.checkouts())].concat();
        names.retain(|n| n.to_string_lossy().starts_with("tmp_") || n.to_string_lossy().starts_with(".making"));
        names.iter().map(|n| n.to_string_lossy().into_owned()).collect()
    }
}

/// How a push ended.
#[derive(Debug)]
struct Pushed {
    ok: bool,
    said: String,
}

impl Pushed {
    fn of(finished: Finished) -> Self {
        Self { ok: finished.status.success(), said: String::from_utf8_lossy(&finished.stderr).into_owned() }
    }

    fn taken(self, lines: &[&str]) -> Self {
        assert!(self.ok, "{}", self.said);
        self.says(lines)
    }

    fn refused(self, lines: &[&str]) -> Self {
        assert!(!self.ok, "{}", self.said);
        self.says(lines)
    }

    fn says(self, lines: &[&str]) -> Self {
        lines.iter().for_each(|line| assert!(self.said.contains(line), "{line} is not in {}", self.said));
        self
    }
}

/// A connection: HTTP, or git's own protocol without one.
async fn visit(server: Arc<Server>, stream: TcpStream) {
    let mut first = [0; 4];
    let _ = stream.peek(&mut first).await;
    if first.iter().all(u8::is_ascii_hexdigit) {
        return session(server, stream).await;
    }
    let service = service_fn(move |request| answer(server.clone(), request));
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// As a forced command of SSH would be connected.
async fn session(server: Arc<Server>, mut stream: TcpStream) {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.expect("a line");
    let length = usize::from_str_radix(std::str::from_utf8(&length).expect("digits"), 16).expect("digits");
    let mut line = vec![0; length - 4];
    stream.read_exact(&mut line).await.expect("a line");
    let line = String::from_utf8(line).expect("text");
    let (name, rest) = line.split_once(' ').expect("a service");
    let service = Service::named(name).expect("one of git's");
    let deploy: DeployRef = format!("shop{}", rest.split('\0').next().expect("a path")).parse().expect("a deploy");
    let repository = Repository::make(&server.place.home, &deploy).expect("made");
    let pass = (service == Service::Receive).then(|| server.door.admit(&repository, deploy.clone()));
    let (read, mut write) = stream.into_split();
    let limits = server.limits.unwrap_or(Limits::of(service));
    let mut answer = serve(&repository, service, Dialogue::Session, None, read, pass, limits).await.expect("git runs");
    let _ = tokio::io::copy(&mut answer, &mut write).await;
}

async fn answer(server: Arc<Server>, request: Request<Incoming>) -> Result<Response<Body>, SmartError> {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let (deploy, rest) = path.split_once('/').expect("a path of git's");
    let deploy: DeployRef = format!("shop/{deploy}").parse().expect("a deploy");
    let repository = Repository::make(&server.place.home, &deploy).expect("made");
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (protocol, gzip) = (header("git-protocol"), header("content-encoding").is_some_and(|e| e == "gzip"));
    if rest == "info/refs" {
        let name = request.uri().query().and_then(|q| q.strip_prefix("service=")).expect("a service");
        let refs = advertise(&repository, Service::named(name).expect("one of git's"), protocol.as_deref()).await?;
        let kind = format!("application/x-{name}-advertisement");
        return Ok(Response::builder().header("content-type", kind).body(Body::Whole(Some(refs))).expect("valid"));
    }
    let service = Service::named(rest).expect("one of git's");
    let pass = (service == Service::Receive).then(|| server.door.admit(&repository, deploy.clone()));
    let (input, mut into) = tokio::io::duplex(64 << 10);
    let mut body = request.into_body();
    tasks::spawn("body", async move {
        while let Some(Ok(frame)) = body.frame().await {
            if into.write_all(frame.data_ref().expect("data")).await.is_err() {
                return;
            }
        }
    });
    let limits = server.limits.unwrap_or(Limits::of(service));
    let protocol = protocol.as_deref();
    server.packed.fetch_or(gzip, Ordering::Relaxed);
    let answer = match gzip {
        true => serve(&repository, service, Dialogue::Request, protocol, Gunzip::new(input, limits.input), pass, limits).await?,
        false => serve(&repository, service, Dialogue::Request, protocol, input, pass, limits).await?,
    };
    let kind = format!("application/x-{rest}-result");
    Ok(Response::builder().header("content-type", kind).body(Body::Git(answer)).expect("valid"))
}

enum Body {
    Whole(Option<Bytes>),
    Git(Answer),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Git(answer) => {
                let mut space = [0; 4096];
                let mut buffer = ReadBuf::new(&mut space);
                std::task::ready!(Pin::new(answer).poll_read(cx, &mut buffer))?;
                let bytes = Bytes::copy_from_slice(buffer.filled());
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
        }
    }
}

#[tokio::test]
async fn a_push_of_main_deploys_it_to_each_deploy() {
    let server = Server::new().await;
    let work = server.place.work("work", &[("app.py", "1")]);
    let one = work.git(&["rev-parse", "HEAD"]);
    server.push(&work, &["main"]).await.taken(&["remote: -----> Python app detected"]);
    server.push_to(&work, "staging", &["main:master"]).await.taken(&["-----> Python app detected"]);
    let two = work.commit(&[("app.py", "2")]);
    server.push(&work, &["main"]).await.taken(&[]);
    assert_eq!(server.deployed(), [format!("production main {one}"), format!("staging master {one}"), format!("production main {two}")]);
    assert_eq!((server.tip("main"), server.tip("master")), (Some(two.clone()), None));

    // Forced pushes and old commits deploy.
    server.push(&work, &[&format!("{one}:main")]).await.refused(&["non-fast-forward"]);
    server.push(&work, &["-f", &format!("{one}:main")]).await.taken(&[]);
    assert_eq!(server.deployed(), [format!("production main {one}")]);
    assert_eq!(server.rest(), Vec::<String>::new());

    let clone = server.place.folder.path().join("clone");
    let cloned = Command::from(git(server.place.folder.path())).args(["clone", "-q", &server.url("production"), "clone"]).output().await;
    Pushed::of(cloned.expect("git runs")).taken(&[]);
    assert_eq!(fs::read_to_string(clone.join("app.py")).expect("checked out"), "1");
}

#[tokio::test]
async fn a_refused_build_refuses_the_push() {
    let server = Server::new().await;
    let work = server.place.work("work", &[("app.py", "1")]);
    let one = work.git(&["rev-parse", "HEAD"]);
    server.push(&work, &["main"]).await.taken(&[]);
    let bad = work.commit(&[("refuse", "")]);
    let lines = ["remote:  !     shop/production is not running", "The push is refused: main stays as it was", "pre-receive hook declined"];
    server.push(&work, &["main"]).await.refused(&lines);
    assert_eq!(server.tip("main"), Some(one));
    let missing = git(server.place.repository.path()).args(["cat-file", "-e", &bad]).output().expect("git runs");
    assert!(!missing.status.success(), "its objects are not kept");
    assert_eq!(server.rest(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_not_deployed_is_kept_or_refused_and_told() {
    let server = Server::new().await;
    let work = server.place.work("work", &[("app.py", "1")]);
    let told = ["the branch feature/x is kept and not deployed; `git push dozen feature/x:main` deploys it", "nothing is deployed"];
    server.push(&work, &["main:feature/x"]).await.taken(&told);
    assert!(server.tip("feature/x").is_some() && server.deployed().is_empty());
    work.git(&["tag", "-a", "v1", "-m", "one"]);
    server.push(&work, &["v1", "main"]).await.taken(&["the tag v1 is kept", "Python app detected"]);
    server.push(&work, &[":feature/x"]).await.taken(&["the branch feature/x is deleted"]);
    server.push(&work, &[":main"]).await.refused(&["the branch main is what is deployed, and cannot be deleted"]);
    work.commit(&[("app.py", "2")]);
    server.push(&work, &["main:main", "main~1:refs/heads/master"]).await.refused(&["main and master are pushed at once and differ"]);
    assert!(server.tip("main").is_some() && server.tip("master").is_none());
    // A tag's object is no commit: git would not set the branch to it after all was built.
    server.push(&work, &["-f", "v1:main"]).await.refused(&["is not a commit of this repository"]);
    assert_eq!(server.deployed().len(), 1);
}

#[tokio::test]
async fn a_shallow_clone_pushes_what_it_has() {
    let server = Server::new().await;
    let work = server.place.work("work", &[("app.py", "1")]);
    work.commit(&[("app.py", "2")]);
    work.git(&["clone", "-q", "--depth", "1", &format!("file://{}", work.0.display()), "../shallow"]);
    let shallow = Work(server.place.folder.path().join("shallow"));
    server.push(&shallow, &["main"]).await.taken(&["Python app detected"]);
    assert_eq!(server.tip("main"), Some(work.git(&["rev-parse", "HEAD"])));
}

#[tokio::test]
async fn pushes_to_one_deploy_wait_for_each_other() {
    let server = Server::new().await;
    let first = server.place.work("first", &[("wait", "")]);
    let second = server.place.work("second", &[("app.py", "2")]);
    let (one, two) = (first.git(&["rev-parse", "HEAD"]), second.git(&["rev-parse", "HEAD"]));
    let slow = server.pushing(&first, "production", &["main"]).spawn().expect("git runs");
    server.shop.begun.acquire().await.expect("open").forget();
    // Another deploy's turn is another one.
    server.push_to(&second, "staging", &["main"]).await.taken(&[]);
    let mut master = server.pushing(&second, "production", &["main:master"]).spawn().expect("git runs");
    let mut said = BufReader::new(master.stderr.take().expect("a pipe")).lines();
    while let Some(line) = said.next_line().await.expect("readable") {
        if line.contains("Waiting for the build that is under way") {
            break;
        }
    }
    let mut same = server.pushing(&second, "production", &["main"]).spawn().expect("git runs");
    let mut same_said = BufReader::new(same.stderr.take().expect("a pipe")).lines();
    let mut all = String::new();
    while let Some(line) = same_said.next_line().await.expect("readable") {
        all = format!("{all}{line}\n");
        if line.contains("Waiting for the build") {
            server.shop.go.add_permits(1);
        }
    }
    assert!(!same.wait().await.expect("ends").success() && all.contains("somebody else pushed main meanwhile"), "{all}");
    Pushed::of(slow.wait_with_output().await.expect("ends")).taken(&[]);
    while said.next_line().await.expect("readable").is_some() {}
    assert!(master.wait().await.expect("ends").success());
    let expected = [format!("staging main {two}"), format!("production main {one}"), format!("production master {two}")];
    assert_eq!(server.deployed(), expected);
}

#[tokio::test]
async fn a_pusher_that_is_killed_leaves_nothing() {
    let server = Server::new().await;
    let work = server.place.work("work", &[("wait", "")]);
    let push = server.pushing(&work, "production", &["main"]).spawn().expect("git runs");
    server.shop.begun.acquire().await.expect("open").forget();
    Server::kill(push).await;
    server.shop.given_up.acquire().await.expect("open").forget();
    fs::remove_file(work.0.join("wait")).expect("removed");
    work.commit(&[("app.py", "1")]);
    // It has its turn as soon as the one before has ended, and what that one left is gone.
    server.push(&work, &["main"]).await.taken(&["Python app detected"]);
    assert_eq!((server.deployed().len(), server.rest()), (1, Vec::new()));
}

#[tokio::test]
async fn what_changes_the_deploy_already_goes_on_without_its_pusher() {
    let server = Server::new().await;
    let work = server.place.work("work", &[("wait", ""), ("fast", "")]);
    let commit = work.git(&["rev-parse", "HEAD"]);
    let push = server.pushing(&work, "production", &["main"]).spawn().expect("git runs");
    server.shop.begun.acquire().await.expect("open").forget();
    Server::kill(push).await;
    // The next one is not let in before it has ended.
    fs::remove_file(work.0.join("wait")).expect("removed");
    work.commit(&[]);
    let mut next = server.pushing(&work, "production", &["main"]).spawn().expect("git runs");
    let mut said = BufReader::new(next.stderr.take().expect("a pipe")).lines();
    while let Some(line) = said.next_line().await.expect("readable") {
        if line.contains("Waiting for the build") {
            server.shop.go.add_permits(1);
        }
    }
    assert!(next.wait().await.expect("ends").success());
    assert_eq!(server.deployed()[0], format!("production main {commit}"));
    assert_eq!(server.shop.given_up.available_permits(), 0);
}

#[tokio::test]
async fn more_than_may_be_sent_is_refused() {
    let limits = Limits { input: 100_000, ..Limits::of(Service::Receive) };
    let server = Server::limited(Some(limits)).await;
    let noise: String = (0..100_000_u32).map(|n| format!("{:08x}", n.wrapping_mul(2_654_435_761))).collect();
    let work = server.place.work("work", &[("app.py", &noise)]);
    server.push(&work, &["main"]).await.refused(&[]);
    assert_eq!((server.tip("main"), server.deployed()), (None, Vec::new()));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_not_waited_for_for_ever() {
    let place = Place::new();
    let limits = Limits { idle: Duration::from_millis(200), ..Limits::of(Service::Receive) };
    let (_silent, input) = tokio::io::duplex(64);
    let mut answer = serve(&place.repository, Service::Receive, Dialogue::Request, None, input, None, limits).await.expect("git runs");
    let mut all = Vec::new();
    answer.read_to_end(&mut all).await.expect("ends");
}

#[tokio::test]
async fn who_is_still_sending_is_heard_out() {
    let place = Place::new();
    let limits = Limits::of(Service::Receive);
    let (mut client, input) = tokio::io::duplex(64 << 10);
    let mut answer = serve(&place.repository, Service::Receive, Dialogue::Request, None, input, None, limits).await.expect("git runs");
    // git has had enough at its first line.
    let sent = async {
        for _ in 0..100 {
            client.write_all(&[b'z'; 64 << 10]).await.expect("taken");
        }
        drop(client);
    };
    let mut all = Vec::new();
    let (read, ()) = tokio::join!(answer.read_to_end(&mut all), sent);
    read.expect("an end");
}

#[tokio::test]
async fn a_session_talks_in_turn() {
    let server = Server::new().await;
    let work = server.place.work("work", &[("app.py", "1")]);
    let url = server.url("production").replace("http://", "git://");
    let run = |words: Vec<String>| async { Pushed::of(Command::from(git(&work.0)).args(words).output().await.expect("git runs")) };
    let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    run(words(&["push", &url, "main"])).await.taken(&["remote: -----> Python app detected"]);
    run(words(&["fetch", "-q", &url, "main"])).await.taken(&[]);
    work.commit(&[("refuse", "")]);
    run(words(&["push", &url, "main"])).await.refused(&["The push is refused"]);
    assert_eq!(server.deployed().len(), 1);
}

#[tokio::test]
async fn a_fetch_that_is_packed_is_unpacked() {
    let server = Server::new().await;
    let work = server.place.work("work", &[("app.py", "1")]);
    server.push(&work, &["main"]).await.taken(&[]);
    // What it says that it has is more than git sends as it is.
    let clone = server.place.work("clone", &[("theirs.py", "")]);
    (0..60).for_each(|n| drop(clone.git(&["commit", "-q", "--allow-empty", "-m", &n.to_string()])));
    let fetched = Command::from(git(&clone.0)).args(["fetch", "-q", &server.url("production"), "main"]).output().await;
    Pushed::of(fetched.expect("git runs")).taken(&[]);
    assert!(server.packed.load(Ordering::Relaxed));
}

#[tokio::test]
async fn the_hook_becomes_the_program_that_serves() {
    let place = Place::new();
    let (door, _listener) = Door::<()>::bind(&place.home, Path::new("/proc/self/exe")).expect("bound");
    let pass = door.admit(&place.repository, ());
    assert_eq!(pass.environment()[2].1, format!("/proc/{}/exe", std::process::id()));
    drop((pass, door));
    assert!(!place.home.push_socket().exists());
}

#[tokio::test]
async fn only_who_is_waited_for_is_let_in() {
    let server = Server::new().await;
    let (home, repository) = (&server.place.home, &server.place.repository);
    let deploy: DeployRef = "shop/production".parse().expect("valid");
    let commit = server.place.commit(&server.place.tree(&[]));
    let ask = |token: String, quarantine: Option<&Path>| {
        let place = quarantine.map(|q| format!(",\"quarantine\":{q:?}")).unwrap_or_default();
        let line = format!("{{\"token\":\"{token}\",\"branch\":\"main\",\"commit\":\"{commit}\"{place}}}\n");
        let socket = home.push_socket();
        async move {
            let mut stream = tokio::net::UnixStream::connect(socket).await.expect("there");
            stream.write_all(line.as_bytes()).await.expect("written");
            let mut all = String::new();
            stream.read_to_string(&mut all).await.expect("ends");
            all
        }
    };
    assert_eq!(ask("0".repeat(64), None).await, "");
    let pass = server.door.admit(repository, deploy.clone());
    let token = pass.environment()[1].1.clone();
    let elsewhere = ask(token.clone(), Some(server.place.folder.path())).await;
    assert!(elsewhere.contains("a folder that is not the repository's") && elsewhere.contains("\"ok\":false"), "{elsewhere}");
    assert_eq!(ask(token, None).await, "", "it serves once");
    drop(pass);
    let pass = server.door.admit(repository, deploy.clone());
    let token = pass.environment()[1].1.clone();
    assert!(!format!("{pass:?}").contains(&token));
    drop(pass);
    assert_eq!(ask(token, None).await, "", "its git has ended");
    assert_eq!(fs::metadata(home.push_socket()).expect("there").permissions().mode() & 0o777, 0o600);
    assert!(server.deployed().is_empty());
}

#[tokio::test]
async fn what_a_killed_git_left_stops_nobody() {
    let server = Server::new().await;
    let work = server.place.work("work", &[("app.py", "1")]);
    let path = server.place.repository.path();
    let branch = path.join("refs/namespaces/production/refs/heads");
    fs::create_dir_all(&branch).expect("made");
    fs::create_dir_all(path.join("objects/tmp_objdir-incoming-dead/pack")).expect("made");
    fs::create_dir_all(path.join("objects/pack")).expect("made");
    for file in [branch.join("main.lock"), path.join("packed-refs.lock"), path.join("objects/pack/tmp_pack_dead")] {
        fs::write(file, "").expect("written");
    }
    let receiving = path.join("objects/tmp_objdir-incoming-dead");
    // While another one receives, what lies there may be its own.
    let other = server.place.repository.receiving().expect("locked");
    assert!(!receiving.exists());
    fs::create_dir_all(&receiving).expect("made");
    let _second = server.place.repository.receiving().expect("locked");
    assert!(receiving.exists());
    drop((other, _second));
    server.push(&work, &["main"]).await.taken(&["Python app detected"]);
    assert_eq!(server.rest(), Vec::<String>::new());
}

#[tokio::test]
async fn trees_that_would_leave_their_folder_are_refused_by_git_already() {
    let server = Server::new().await;
    let work = server.place.work("work", &[("app.py", "1")]);
    let odd = Place::new();
    let file = odd.object("blob", b"[core]\nfsmonitor=touch /tmp/x\n");
    let config = odd.tree(&[("100644", b"config", &file)]);
    for (mode, name, hash) in [("40000", b".git".as_slice(), &config), ("100644", b"..", &file), ("40000", b".GIT", &config)] {
        let commit = odd.commit(&odd.tree(&[(mode, name, hash)]));
        let mut push = Command::from(git(odd.repository.path()));
        let pushed = push.args(["push", &server.url("production"), &format!("{commit}:refs/heads/main")]).output().await;
        Pushed::of(pushed.expect("git runs")).refused(&["unpacker error"]);
    }
    assert_eq!((server.tip("main"), server.rest()), (None, Vec::new()));
    // Hooks and settings of the codebase are files as others are.
    work.commit(&[("hooks/pre-receive", "#!/bin/sh\nexit 1\n"), ("config", "[core]\nhooksPath=/nonexistent\n")]);
    server.push(&work, &["main"]).await.taken(&["Python app detected"]);
}
