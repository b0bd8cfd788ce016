//! What the tests of `dozen up` stand on: an app's folder, a DOZEN_HOME of its own, and the real binary.
//!
//! **Invariant:** every wait ends by an event (a line of `--json`, a process's end, an answer) or fails at [`PATIENCE`].
//! **Invariant:** whatever a test leaves running is found by the name of its temporary folder, and ended by pid.

use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

mod family;
pub(crate) mod http;

pub(crate) use family::{children, start_time};
pub(crate) use http::{Answer, ask, ask_over};

/// No wait of a test is longer; a compiler of a language that compiles its own library first has needed more than a minute of a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// The binary under test.
pub(crate) const DOZEN: &str = env!("CARGO_BIN_EXE_dozen");
/// A `web` of the standard library that does as its path says.
pub(crate) const WEB: &str = include_str!("deployed/web.py");

/// An app's folder beside a DOZEN_HOME.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    folder: PathBuf,
    /// What was seen below an `up`: pid and start time, since the router's environment is empty and says nothing.
    family: Mutex<BTreeSet<(i32, String)>>,
}

impl Place {
    /// A `shop` with these files.
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        Self::named("shop", files)
    }

    /// A `shop` with a `web`, and this Procfile.
    pub(crate) fn web(procfile: &str) -> Self {
        Self::new(&[("Procfile", procfile), ("web.py", WEB)])
    }

    /// An app whose folder has this name.
    pub(crate) fn named(name: &str, files: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("dozen-it-").tempdir().expect("a folder");
        let folder = dir.path().join(name);
        let place = Self { dir, folder, family: Mutex::default() };
        std::fs::create_dir(&place.folder).expect("made");
        files.iter().for_each(|(path, text)| place.write(path, text));
        place
    }

    /// The app's.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A path beside the app.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// DOZEN_HOME.
    pub(crate) fn home(&self) -> PathBuf {
        self.beside("home")
    }

    /// Writes a file of the app.
    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.folder.join(path);
        std::fs::create_dir_all(path.parent().expect("within the app")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    /// uv, as if fetched before.
    pub(crate) fn share_tools(&self) {
        link(&self.home().join("tools"), "tools");
    }

    /// uv and its downloads, as if this app had been built here before.
    pub(crate) fn share_uv(&self, app: &str) {
        self.share_tools();
        let downloads = self.home().join("cache").join(app).join("downloads");
        link(&downloads, "downloads");
        are_a_builders(&downloads);
    }

    /// A program with this home, in the app's folder.
    pub(crate) fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env("DOZEN_HOME", self.home()).env_remove("NO_COLOR").stdin(Stdio::null());
        // Which servers whoever runs the tests is logged in to is no part of them.
        command.env("XDG_CONFIG_HOME", self.dir.path().join("config")).env_remove("DOZEN_SERVER").env_remove("DOZEN_TOKEN");
        command
    }

    /// `dozen` with these arguments, to its end.
    pub(crate) fn dozen(&self, args: &[&str]) -> Said {
        let said = finish(self.program(DOZEN).args(args));
        crate::json::check(args, &said.out);
        said
    }

    /// `dozen up --once`, to its end, in text.
    pub(crate) fn once(&self) -> Said {
        self.dozen(&["up", "--port", "0", "--once", "--no-color"])
    }

    /// `dozen up` with these further arguments, started.
    pub(crate) fn start(&self, more: &[&str]) -> Deployed<'_> {
        self.started(self.program(DOZEN).args(["up", "--port", "0", "--json", "--no-color"]).args(more))
    }

    /// The same by a command of the test's own.
    pub(crate) fn started(&self, command: &mut Command) -> Deployed<'_> {
        Deployed::begin(self, command)
    }

    /// `dozen up`, once every process is up.
    pub(crate) fn up(&self) -> Deployed<'_> {
        let mut up = self.start(&[]);
        up.ready();
        up
    }

    /// What the ledger says, by the sqlite3 program.
    pub(crate) fn ledger(&self, query: &str) -> String {
        finish(Command::new("sqlite3").arg(self.home().join("ledger.db")).arg(query)).ok().out.trim_end().to_owned()
    }

    /// Every process whose environment or mounts name this place, with what it runs.
    pub(crate) fn left(&self) -> Vec<(i32, String)> {
        let mark = self.dir.path().file_name().expect("named").to_string_lossy().into_owned();
        let names = |file: PathBuf| std::fs::read(file).is_ok_and(|b| String::from_utf8_lossy(&b).contains(&mark));
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            let proc = entry.path();
            let known = start_time(pid).is_some_and(|at| self.family.lock().expect("no panic").contains(&(pid, at)));
            let ours = known || ["environ", "cmdline"].iter().any(|f| names(proc.join(f)));
            let own_mounts = std::fs::read_link(proc.join("ns/mnt")).ok() != std::fs::read_link("/proc/self/ns/mnt").ok();
            if ours || own_mounts && names(proc.join("mountinfo")) {
                let line = std::fs::read(proc.join("cmdline")).unwrap_or_default();
                found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned()));
            }
        }
        found
    }

    /// Fails where a process, a socket or a mount is left.
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.left(), []);
        self.assert_no_run_folder();
    }

    /// Nothing of a run is in the home, and nothing of this place is mounted.
    pub(crate) fn assert_no_run_folder(&self) {
        let run: Vec<PathBuf> = std::fs::read_dir(self.home().join("run")).into_iter().flatten().flatten().map(|e| e.path()).collect();
        assert_eq!(run, Vec::<PathBuf>::new());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("readable");
        let mark = self.dir.path().to_string_lossy().into_owned();
        assert!(!mounts.contains(&mark), "{mounts}");
    }

    /// Waits until nothing of this place runs any more, for `limit` at most.
    pub(crate) fn until_nothing_left(&self, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "still there after {limit:?}: {left:?}");
            pause();
        }
    }
}

/// Links to what all tests share.
fn link(from: &Path, name: &str) {
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python").join(name);
    std::fs::create_dir_all(&shared).expect("made");
    std::fs::create_dir_all(from.parent().expect("a parent")).expect("made");
    std::os::unix::fs::symlink(shared, from).expect("linked");
}

/// Makes a folder the one of the downloads of the first app of a home.
pub(crate) fn are_a_builders(downloads: &Path) {
    if is_root() {
        std::os::unix::fs::chown(downloads, Some(500_000), Some(500_000)).expect("given");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for (pid, _) in self.left() {
            kill(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Ends what goes on beside a test, however that ends: a scope waits for its threads, even where the test has failed.
pub(crate) struct Sets<'f>(pub(crate) &'f AtomicBool, pub(crate) bool);

impl Drop for Sets<'_> {
    fn drop(&mut self) {
        self.0.store(self.1, Ordering::SeqCst);
    }
}

/// One look at what no event tells (another program's process table) is not followed by the next at once.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Sends a signal; a process that is gone already is as well.
pub(crate) fn kill(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether the tests may do what only root can.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What a program said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    /// As a shell says it.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// The same, byte by byte.
    pub(crate) bytes: Vec<u8>,
    /// Standard error.
    pub(crate) err: String,
}

impl Said {
    /// It ended with this code.
    #[track_caller]
    pub(crate) fn coded(self, code: i32) -> Self {
        assert_eq!(self.code, code, "standard output:\n{}\nstandard error:\n{}", self.out, self.err);
        self
    }

    /// It went well.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.coded(0)
    }

    /// Both streams have all of these.
    #[track_caller]
    pub(crate) fn has(self, needles: &[&str]) -> Self {
        for needle in needles {
            assert!(self.all().contains(needle), "no {needle:?} in:\n{}", self.all());
        }
        self
    }

    /// Neither stream has this.
    #[track_caller]
    pub(crate) fn lacks(self, needle: &str) -> Self {
        assert!(!self.all().contains(needle), "{needle:?} in:\n{}", self.all());
        self
    }

    /// Both streams.
    pub(crate) fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// Standard output as one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.all()))
    }
}

/// Runs a program to its end.
pub(crate) fn finish(command: &mut Command) -> Said {
    finish_with(command, &[])
}

/// The same with standard input.
pub(crate) fn finish_with(command: &mut Command, input: &[u8]) -> Said {
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (out, err, stdin) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"), child.stdin.take());
    std::thread::scope(|threads| {
        let out = threads.spawn(move || read_all(out));
        let err = threads.spawn(move || read_all(err));
        if let Some(mut stdin) = stdin {
            threads.spawn(move || drop(stdin.write_all(input)));
        }
        let status = end(&mut child, &format!("{command:?}"));
        let (bytes, err) = (out.join().expect("read"), err.join().expect("read"));
        Said {
            code: code(status),
            out: String::from_utf8_lossy(&bytes).into_owned(),
            bytes,
            err: String::from_utf8_lossy(&err).into_owned(),
        }
    })
}

fn read_all(mut from: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).expect("readable");
    bytes
}

pub(crate) fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Waits for a child's end.
pub(crate) fn end(child: &mut Child, what: &str) -> ExitStatus {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let fd = rustix::process::pidfd_open(rustix::process::Pid::from_child(child), rustix::process::PidfdFlags::empty()).expect("a child");
    let limit = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    let ended = rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit))).expect("polled");
    if ended == 0 {
        child.kill().expect("killed");
    }
    let status = child.wait().expect("waited for");
    assert_ne!(ended, 0, "{what} did not end within {PATIENCE:?}");
    status
}

/// A running `dozen up --json`.
pub(crate) struct Deployed<'a> {
    place: &'a Place,
    child: Child,
    heard: Arc<Heard>,
    readers: Vec<std::thread::JoinHandle<()>>,
    url: String,
}

/// What it has said so far.
#[derive(Default)]
struct Heard {
    said: Mutex<Heap>,
    more: Condvar,
}

#[derive(Default)]
struct Heap {
    events: Vec<Value>,
    err: String,
    ended: bool,
}

impl Heard {
    fn add(&self, change: impl FnOnce(&mut Heap)) {
        change(&mut self.said.lock().expect("no panic"));
        self.more.notify_all();
    }
}

impl<'a> Deployed<'a> {
    fn begin(place: &'a Place, command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("dozen starts");
        let heard = Arc::new(Heard::default());
        let (out, mut err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let (events, errors) = (heard.clone(), heard.clone());
        let readers = vec![
            std::thread::spawn(move || {
                for line in BufReader::new(out).lines() {
                    let line = line.expect("text");
                    let event = serde_json::from_str(&line).unwrap_or_else(|_| serde_json::json!({"event": "no JSON", "text": line}));
                    events.add(|h| h.events.push(event));
                }
                events.add(|h| h.ended = true);
            }),
            std::thread::spawn(move || {
                let mut text = String::new();
                // What is no text is no message of dozen's.
                let _ = err.read_to_string(&mut text);
                errors.add(|h| h.err = text);
            }),
        ];
        Self { place, child, heard, readers, url: String::new() }
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().try_into().expect("a pid")
    }

    /// Remembers all processes below it, so that none is overlooked when it is gone. Answers their pids.
    pub(crate) fn family(&self) -> Vec<i32> {
        self.place.family_of(self.pid())
    }

    /// Its router's pid.
    pub(crate) fn router(&self) -> i32 {
        let is_router = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.ends_with(b"__router\0"));
        self.family().into_iter().find(is_router).expect("a router")
    }

    /// Where its `web` answers.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The router's port.
    pub(crate) fn port(&self) -> u16 {
        self.url.rsplit(':').next().and_then(|p| p.parse().ok()).expect("a URL with a port")
    }

    /// Waits until `find` answers something about what was said so far.
    #[track_caller]
    pub(crate) fn until<T>(&self, what: &str, find: impl Fn(&[Value]) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut said = self.heard.said.lock().expect("no panic");
        loop {
            if let Some(found) = find(&said.events) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            if said.ended || left.is_zero() {
                let all: Vec<String> = said.events.iter().map(Value::to_string).collect();
                let (ended, all) = (said.ended, all.join("\n"));
                drop(said);
                panic!("no {what}; {}:\n{all}", if ended { "it ended" } else { "it runs on" });
            }
            said = self.heard.more.wait_timeout(said, left).expect("no panic").0;
        }
    }

    /// Waits for an event of this kind.
    #[track_caller]
    pub(crate) fn event(&self, kind: &str) -> Value {
        self.until(kind, |events| events.iter().find(|e| e["event"] == kind).cloned())
    }

    /// Waits until the release is routed or about to be, for its URL.
    #[track_caller]
    pub(crate) fn released(&mut self) -> Value {
        let event = self.event("released");
        self.url = event["url"].as_str().expect("a URL").to_owned();
        event
    }

    /// Waits until every process is up.
    #[track_caller]
    pub(crate) fn ready(&mut self) -> Value {
        let event = self.event("ready");
        self.family();
        if let Some(url) = event["url"].as_str() {
            self.url = url.to_owned();
        }
        event
    }

    /// Waits until a process's line has this text.
    #[track_caller]
    pub(crate) fn line(&self, ps: &str, needle: &str) -> String {
        self.lines(ps, needle, 1).remove(0)
    }

    /// Waits until so many of them have.
    #[track_caller]
    pub(crate) fn lines(&self, ps: &str, needle: &str, count: usize) -> Vec<String> {
        self.until(&format!("line of {ps} with {needle:?}, {count} times"), |events| {
            let text = |e: &Value| e["message"].as_str().unwrap_or_default().to_owned();
            let found: Vec<String> =
                events.iter().filter(|e| e["event"] == "log" && e["ps"] == ps).map(text).filter(|m| m.contains(needle)).collect();
            (found.len() >= count).then_some(found)
        })
    }

    /// All that was said so far.
    pub(crate) fn said(&self) -> Vec<Value> {
        self.heard.said.lock().expect("no panic").events.clone()
    }

    /// `GET` by way of the router.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        let head = format!("GET {path} HTTP/1.1\r\nHost: shop.localhost:{}\r\nConnection: close\r\n\r\n", self.port());
        ask(self.port(), head.as_bytes())
    }

    /// The body of a page that is there.
    #[track_caller]
    pub(crate) fn page(&self, path: &str) -> String {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// `dozen` with these arguments, beside it.
    pub(crate) fn dozen(&self, args: &[&str]) -> Said {
        self.place.dozen(args)
    }

    /// `dozen ps --json`.
    #[track_caller]
    pub(crate) fn ps(&self) -> Vec<Value> {
        let answer = self.dozen(&["ps", "--json"]).ok().json();
        answer["processes"].as_array().expect("a list").clone()
    }

    /// Asks `ps` until the instances and their states are these, as in `web.1 up`.
    #[track_caller]
    pub(crate) fn until_ps(&self, wanted: &[&str]) -> Vec<Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            let all = self.ps();
            let text = |p: &Value, key: &str| p[key].as_str().unwrap_or_default().to_owned();
            let now: Vec<String> = all.iter().map(|p| format!("{} {}", text(p, "name"), text(p, "state"))).collect();
            if now == wanted {
                return all;
            }
            assert!(Instant::now() < end, "{now:?}, not {wanted:?}");
            pause();
        }
    }

    /// The host's pid of an instance's jail.
    #[track_caller]
    pub(crate) fn pid_of(&self, name: &str) -> i32 {
        let all = self.ps();
        let one = all.iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("no {name}: {all:?}"));
        i32::try_from(one["jail_pid"].as_i64().expect("it runs")).expect("a pid")
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        kill(self.pid(), signal);
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Ended {
        let status = end(&mut self.child, "dozen up");
        for reader in self.readers.drain(..) {
            reader.join().expect("read");
        }
        let said = self.heard.said.lock().expect("no panic");
        said.events.iter().for_each(crate::json::event);
        Ended { code: code(status), events: said.events.clone(), err: said.err.clone() }
    }

    /// Ctrl-C, and waits for its end, which is a good one.
    #[track_caller]
    pub(crate) fn stop(self) -> Ended {
        self.signal(rustix::process::Signal::INT);
        let ended = self.wait();
        assert_eq!(ended.code, 0, "{}", ended.text());
        ended
    }
}

impl Drop for Deployed<'_> {
    fn drop(&mut self) {
        // One that was waited for cannot be killed any more; its jails and router end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `dozen up` that is over.
#[derive(Debug)]
pub(crate) struct Ended {
    /// As a shell says it.
    pub(crate) code: i32,
    /// All that it said.
    pub(crate) events: Vec<Value>,
    /// Standard error.
    pub(crate) err: String,
}

impl Ended {
    /// All of it, for a failed test.
    pub(crate) fn text(&self) -> String {
        let lines: Vec<String> = self.events.iter().map(Value::to_string).collect();
        format!("{}\n{}", lines.join("\n"), self.err)
    }

    /// The texts of all events of a kind.
    pub(crate) fn texts(&self, kind: &str) -> Vec<&str> {
        let of = |e: &&Value| e["event"] == kind;
        self.events.iter().filter(of).filter_map(|e| e["text"].as_str().or(e["message"].as_str())).collect()
    }
}
