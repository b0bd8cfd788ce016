//! End to end: processes.

use crate::machines::{APART, as_an_ordinary_user, dozen, host_view, is_apart, passes, where_namespaces_are_forbidden};
use dozen_core::processes::jail::{JailLog, JailSpec, Mount, PROTOCOL, View};
use dozen_core::processes::{Exit, Isolation};
use dozen_engine::processes::{Jail, JailEvent, isolation, spawn};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) mod fences;
mod probes;

const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// An app's folder, a log folder and the spec of a jail for them.
pub(crate) struct Bed {
    pub(crate) home: TempDir,
    pub(crate) spec: JailSpec,
}

impl Bed {
    pub(crate) fn new(argv: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let app = home.path().join("app");
        std::fs::create_dir(&app).expect("made");
        let root = rustix::process::geteuid().is_root();
        let spec = JailSpec {
            protocol: PROTOCOL,
            instance: "web.1".into(),
            hostname: "shop-web-1".into(),
            argv: argv.iter().map(|&a| a.into()).collect(),
            env: vec![("PATH".into(), PATH.into()), ("GREETING".into(), "hello".into())],
            cwd: if host_view() { app.clone() } else { "/app".into() },
            mounts: vec![Mount { source: app, target: "/app".into(), writable: false }],
            scratch: Vec::new(),
            view: if host_view() { View::Host } else { View::Minimal },
            user: (root && !host_view()).then_some((61_234, 61_234)),
            limits: None,
            port: None,
            held: true,
            ports: Some(Vec::new()),
            probes: false,
            log: Some(JailLog { folder: home.path().join("logs"), release: "v1".into(), segment_bytes: 64 << 20, segments: 2 }),
            lost_grace_ms: 300,
            lasting: false,
            shown: false,
        };
        Self { home, spec }
    }

    pub(crate) fn shell(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    pub(crate) async fn start(&self) -> Jail {
        spawn(&dozen(), self.spec.clone(), None).await.expect("a jail")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.home.path().join("logs")
    }

    /// All messages in the log, in order.
    pub(crate) fn messages(&self) -> Vec<String> {
        let Ok(files) = std::fs::read_dir(self.logs()) else { return Vec::new() };
        let mut files: Vec<PathBuf> = files.map(|e| e.expect("entry").path()).collect();
        files.sort();
        let bytes: Vec<u8> = files.iter().flat_map(|f| std::fs::read(f).expect("read")).collect();
        let lines = bytes.split_inclusive(|b| *b == b'\n');
        lines.map(|l| dozen_core::logs::LogLine::decode(l).expect("a whole line").text().into_owned()).collect()
    }

    /// Runs to the end; the exit and what was said.
    pub(crate) async fn run(&self) -> (Exit, Vec<String>) {
        let mut jail = self.start().await;
        let exit = end(&mut jail).await;
        (exit, self.messages())
    }

    /// Waits until the app has said this.
    async fn said(&self, jail: &mut Jail, word: &str) {
        while !self.messages().iter().any(|m| m == word) {
            let event = next(jail).await;
            assert!(!event.is_last(), "{event:?} before {word:?}: {:?}", self.messages());
        }
    }
}

/// Takes events until the jail's last.
pub(crate) async fn end(jail: &mut Jail) -> Exit {
    loop {
        match next(jail).await {
            JailEvent::Exited(exit) => return exit,
            JailEvent::Lost => return Exit::Lost,
            JailEvent::Failed { attempt, error, code } => panic!("{attempt}: {error} ({code})"),
            _ => {}
        }
    }
}

async fn next(jail: &mut Jail) -> JailEvent {
    tokio::time::timeout(Duration::from_secs(20), jail.next()).await.expect("an event in time")
}

/// The jail's process id and isolation.
async fn started(jail: &mut Jail) -> (u32, Isolation) {
    match next(jail).await {
        JailEvent::Started { pid, isolation, .. } => (pid, isolation),
        other => panic!("{other:?}"),
    }
}

/// A number that no other process on this machine has among its arguments.
fn token() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}.{}", 1_000_000 + std::process::id(), 1_000_000 + NEXT.fetch_add(1, Ordering::Relaxed))
}

/// How many processes of this host sleep for `token` seconds.
fn sleepers(token: &str) -> usize {
    let wanted = format!("sleep\0{token}\0");
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    all.filter(|e| std::fs::read(e.path().join("cmdline")).is_ok_and(|c| c == wanted.as_bytes())).count()
}

async fn until_gone(token: &str) {
    let limit = Instant::now() + Duration::from_secs(2);
    while sleepers(token) > 0 {
        assert!(Instant::now() < limit, "something is left after 2 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A script whose grandchild leaves its session and its parent, ignores SIGTERM and sleeps.
fn escapee(token: &str) -> String {
    format!("(trap '' TERM; setsid sh -c 'sleep {token} & sleep {token} & echo ready') & wait; sleep {token}")
}

#[tokio::test]
async fn the_exit_code_is_the_programs() {
    for (script, exit) in [("exit 0", Exit::Code(0)), ("exit 3", Exit::Code(3)), ("kill -9 $$", Exit::Signal(9))] {
        assert_eq!(Bed::shell(script).run().await.0, exit, "{script}");
    }
}

#[tokio::test]
async fn what_cannot_be_run_is_told_as_a_shell_would() {
    let bed = Bed::shell("");
    std::fs::write(bed.home.path().join("app/plain"), "no program").expect("written");
    std::fs::write(bed.home.path().join("app/orphan"), "#!/nowhere/python\n").expect("written");
    std::fs::write(bed.home.path().join("app/script"), "exit 9\n").expect("written");
    for name in ["orphan", "script"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(bed.home.path().join("app").join(name), mode).expect("set");
    }
    for (program, code, words) in [
        ("no-such-program", 127, "not found in PATH"),
        ("./no-such-program", 127, "no such file"),
        ("./plain", 126, "ermission denied"),
        ("./orphan", 127, "interpreter"),
    ] {
        let mut spec = bed.spec.clone();
        spec.argv = vec![program.into()];
        let mut jail = spawn(&dozen(), spec, None).await.expect("a jail");
        match next(&mut jail).await {
            JailEvent::Failed { attempt, error, code: told } => {
                assert_eq!((attempt.as_str(), told), ("exec", code), "{program}: {error}");
                assert!(error.contains(words), "{program}: {error}");
            }
            other => panic!("{program}: {other:?}"),
        }
    }
    let mut spec = bed.spec.clone();
    spec.argv = vec!["./script".into()];
    let mut jail = spawn(&dozen(), spec, None).await.expect("a jail");
    assert_eq!(end(&mut jail).await, Exit::Code(9), "a script without #! is the shell's");
}

#[tokio::test]
async fn who_ignores_sigterm_is_killed_after_the_grace() {
    let bed = Bed::shell("trap '' TERM; echo ready; while :; do sleep 0.05; done");
    let mut jail = bed.start().await;
    bed.said(&mut jail, "ready").await;
    let begin = Instant::now();
    jail.handle().stop(Duration::from_millis(300));
    let mut killing = false;
    let exit = loop {
        match next(&mut jail).await {
            JailEvent::Killing => killing = true,
            JailEvent::Exited(exit) => break exit,
            _ => {}
        }
    };
    assert_eq!((killing, exit), (true, Exit::Signal(9)));
    assert!(begin.elapsed() >= Duration::from_millis(300), "the grace was cut");
}

#[tokio::test]
async fn stopped_means_that_the_whole_group_is_gone() {
    // The leader dies of SIGTERM at once, its child drains for a while.
    let bed = Bed::shell("(trap 'sleep 0.4; echo drained; exit' TERM; echo ready; while :; do sleep 0.02; done) & wait");
    let mut jail = bed.start().await;
    bed.said(&mut jail, "ready").await;
    jail.handle().stop(Duration::from_secs(10));
    assert_eq!(end(&mut jail).await, Exit::Signal(15));
    assert!(bed.messages().contains(&"drained".to_owned()), "{:?}", bed.messages());
}

#[tokio::test]
async fn what_a_leader_leaves_is_ended() {
    let token = token();
    let begin = Instant::now();
    assert_eq!(Bed::shell(&format!("sleep {token} & exit 4")).run().await.0, Exit::Code(4));
    assert_eq!(sleepers(&token), 0);
    assert!(begin.elapsed() < Duration::from_secs(4), "SIGTERM was enough");
}

#[tokio::test]
async fn a_stop_reaches_who_left_the_session() {
    let token = token();
    let bed = Bed::shell(&escapee(&token));
    let mut jail = bed.start().await;
    bed.said(&mut jail, "ready").await;
    let limit = Instant::now() + Duration::from_secs(10);
    while sleepers(&token) < 2 {
        assert!(Instant::now() < limit, "the sleepers do not start");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    jail.handle().stop(Duration::from_millis(200));
    end(&mut jail).await;
    assert_eq!(sleepers(&token), 0);
}

#[tokio::test]
async fn a_killed_jail_leaves_nothing() {
    let token = token();
    let bed = Bed::shell(&escapee(&token));
    let mut jail = bed.start().await;
    let (pid, _) = started(&mut jail).await;
    bed.said(&mut jail, "ready").await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("ours");
    while next(&mut jail).await != JailEvent::Lost {}
    until_gone(&token).await;
    assert!(rustix::process::test_kill_process(pid).is_err(), "the jail was not reaped");
}

#[tokio::test]
async fn a_killed_jail_leaves_no_temporary_files() {
    let bed = Bed::shell("touch ${TMPDIR:-/tmp}/x && echo ${TMPDIR:-/tmp} && sleep 1000");
    let mut jail = bed.start().await;
    let (pid, _) = started(&mut jail).await;
    while bed.messages().is_empty() {
        next(&mut jail).await;
    }
    let folder = PathBuf::from(bed.messages().remove(0));
    assert_eq!(folder.join("x").exists(), host_view(), "at the host's path only where there is no view");
    crate::deployed::kill(i32::try_from(pid).expect("a pid"), rustix::process::Signal::KILL);
    while next(&mut jail).await != JailEvent::Lost {}
    assert!(!folder.join("x").exists(), "{} is left", folder.display());
}

#[tokio::test]
async fn a_lost_driver_leaves_nothing() {
    let token = token();
    let bed = Bed::shell(&escapee(&token));
    let mut jail = bed.start().await;
    bed.said(&mut jail, "ready").await;
    drop(jail);
    until_gone(&token).await;
}

#[tokio::test]
async fn an_order_given_before_the_start_is_obeyed() {
    for _ in 0..5 {
        let bed = Bed::new(&["sleep", "60"]);
        let mut jail = bed.start().await;
        jail.handle().stop(Duration::from_secs(10));
        assert_eq!(end(&mut jail).await, Exit::Signal(15));
    }
}

#[tokio::test]
async fn kill_ends_all_at_once() {
    let token = token();
    let bed = Bed::shell(&escapee(&token));
    let mut jail = bed.start().await;
    bed.said(&mut jail, "ready").await;
    jail.handle().kill();
    assert_eq!(end(&mut jail).await, Exit::Signal(9));
    assert_eq!(sleepers(&token), 0);
}

#[tokio::test]
async fn a_closed_stdout_ends_nothing() {
    let (exit, said) = Bed::shell("echo before; exec >&-; sleep 0.1; echo after >&2; exit 5").run().await;
    assert_eq!((exit, said), (Exit::Code(5), vec!["before".to_owned(), "after".to_owned()]));
}

#[tokio::test]
async fn the_environment_is_exact() {
    let (_, mut said) = Bed::new(&["env"]).run().await;
    said.sort();
    if host_view() {
        assert!(said.pop().is_some_and(|last| last.starts_with("TMPDIR=/tmp/dozen-tmp-")), "{said:?}");
    }
    assert_eq!(said, ["GREETING=hello".to_owned(), format!("PATH={PATH}")]);
}

#[tokio::test]
async fn the_program_has_no_privileges_and_no_descriptors_of_ours() {
    let (_, said) = Bed::shell("grep -E '^(Uid|Cap|NoNewPrivs|SigBlk|SigIgn)' /proc/self/status; ls /proc/self/fd; umask").run().await;
    let line = |key: &str| said.iter().find(|l| l.starts_with(key)).unwrap_or_else(|| panic!("{key}: {said:?}")).as_str();
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(line(set), format!("{set}\t0000000000000000"));
    }
    if !host_view() {
        assert_eq!(line("CapBnd:"), "CapBnd:\t0000000000000000");
    }
    assert_eq!(line("NoNewPrivs:"), "NoNewPrivs:\t1");
    assert_eq!(line("SigBlk:"), "SigBlk:\t0000000000000000");
    assert_eq!(line("SigIgn:"), "SigIgn:\t0000000000000000");
    if rustix::process::geteuid().is_root() && !host_view() {
        assert_eq!(line("Uid:"), "Uid:\t61234\t61234\t61234\t61234");
    }
    // 3 is the folder that ls reads.
    assert_eq!(&said[said.len() - 5..], ["0", "1", "2", "3", "0022"], "{said:?}");
}

#[tokio::test]
async fn the_view_is_the_apps_and_the_systems_alone() {
    if host_view() {
        return;
    }
    let secret = tempfile::tempdir().expect("a folder");
    std::fs::write(secret.path().join("key"), "s").expect("written");
    let shown = secret.path().display();
    let script = format!(
        "cat /app/hello; cat /app/data/kept; touch /app/new && echo app-writable; touch /app/data/new && echo data-writable
         touch /tmp/new && echo tmp-writable; touch /new && echo root-writable; touch /usr/new && echo usr-writable; touch /dev/new && echo dev-writable
         test -e {shown} && echo secret; test -e /root && echo root; cat /etc/shadow && echo shadow
         id -un; hostname; echo $PWD; echo > /dev/null && echo null; cat /proc/1/comm; getent hosts shop-web-1; ls /proc/1/fd && echo descriptors; ls /proc | grep -c '^[0-9]'; ls -A /tmp /run; ls /home; true"
    );
    let mut bed = Bed::shell(&format!("{{ {script}; }} 2>/dev/null"));
    let data = bed.home.path().join("data");
    std::fs::create_dir_all(bed.home.path().join("app/data")).expect("made");
    std::fs::create_dir(&data).expect("made");
    std::fs::write(bed.home.path().join("app/hello"), "hello\n").expect("written");
    std::fs::write(data.join("kept"), "kept\n").expect("written");
    if let Some((uid, gid)) = bed.spec.user {
        std::os::unix::fs::chown(&data, Some(uid), Some(gid)).expect("root may");
    }
    bed.spec.mounts.insert(0, Mount { source: data.clone(), target: "/app/data".into(), writable: true });
    bed.spec.mounts.push(Mount { source: data.join("kept"), target: "/srv/deep/file".into(), writable: false });
    let (exit, said) = bed.run().await;
    assert_eq!(exit, Exit::Code(0), "{said:?}");
    let wanted = [
        "hello",
        "kept",
        "data-writable",
        "tmp-writable",
        "app",
        "shop-web-1",
        "/app",
        "null",
        "dozen:web.1",
        "127.0.1.1       shop-web-1",
    ];
    assert_eq!(&said[..wanted.len()], wanted, "{said:?}");
    let processes: u32 = said[wanted.len()].parse().expect("a count");
    assert!(processes <= 4, "other processes are seen: {said:?}");
    assert_eq!(&said[wanted.len() + 1..], ["/run:", "", "/tmp:", "new"], "{said:?}");
    assert!(data.join("new").exists());
}

#[tokio::test]
async fn a_jails_mounts_are_not_the_hosts() {
    if host_view() {
        return;
    }
    let bed = Bed::shell("echo ready; sleep 5");
    let mut jail = bed.start().await;
    bed.said(&mut jail, "ready").await;
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("a table");
    let own = bed.home.path().to_str().expect("text");
    assert!(!table.contains(own), "a jail's mount is in the host's table");
    assert!(!table.lines().any(|l| l.contains(" /usr ") && l.contains(" tmpfs ")), "a jail's root is in the host's table");
    jail.handle().kill();
    end(&mut jail).await;
}

#[tokio::test]
async fn a_mount_that_cannot_be_is_named() {
    if host_view() {
        return;
    }
    for (source, target, words) in
        [("/nowhere", "/app/x", "/nowhere"), ("/usr", "/app/../x", "absolute"), ("/usr", "/app/missing", "Read-only")]
    {
        let mut bed = Bed::shell("true");
        bed.spec.mounts.push(Mount { source: source.into(), target: target.into(), writable: true });
        match next(&mut bed.start().await).await {
            JailEvent::Failed { attempt, error, code: 1 } => {
                assert!(attempt == format!("mount {target}") && error.contains(words), "{attempt}: {error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn only_an_own_listener_is_ready() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut bed = Bed::shell("sleep 0.3");
    bed.spec.port = Some(taken.local_addr().expect("bound").port());
    let mut jail = bed.start().await;
    loop {
        match next(&mut jail).await {
            JailEvent::Listening { .. } => panic!("somebody else's listener was taken for the app's"),
            JailEvent::Exited(_) => break,
            _ => {}
        }
    }

    let port = taken.local_addr().expect("bound").port();
    drop(taken);
    let listen = "import socket, time; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', int(__import__('os').environ['PORT']))); s.listen(); time.sleep(60)";
    let mut bed = Bed::new(&["/usr/bin/python3", "-c", listen]);
    bed.spec.port = Some(port);
    bed.spec.env.push(("PORT".into(), port.to_string()));
    let mut jail = bed.start().await;
    started(&mut jail).await;
    assert_eq!(next(&mut jail).await, JailEvent::Listening { port });
    jail.handle().kill();
    end(&mut jail).await;
}

#[tokio::test]
async fn without_a_log_the_descriptors_are_the_callers() {
    use std::io::{Read, Write};
    let mut bed = Bed::shell("read line; echo \"got $line\"; echo err >&2; exit 6");
    bed.spec.log = None;
    let (stdin, mut to) = std::io::pipe().expect("a pipe");
    let (mut from, stdout) = std::io::pipe().expect("a pipe");
    let stderr = stdout.try_clone().expect("a copy");
    let mut jail = spawn(&dozen(), bed.spec.clone(), Some([stdin.into(), stdout.into(), stderr.into()])).await.expect("a jail");
    to.write_all(b"this\n").expect("written");
    assert_eq!(end(&mut jail).await, Exit::Code(6));
    let mut said = String::new();
    from.read_to_string(&mut said).expect("the end shows, since nobody else holds it");
    assert_eq!(said, "got this\nerr\n");
}

#[tokio::test]
async fn the_hosts_layers_are_found_by_trying() {
    let layers = isolation(&dozen()).await;
    if host_view() {
        assert_eq!((layers.isolation, layers.view), (Isolation::Session, View::Host), "{layers:?}");
        assert!(!layers.missing.is_empty());
    } else {
        let wanted = if rustix::process::geteuid().is_root() { Isolation::Namespaces } else { Isolation::UserNamespaces };
        assert_eq!((layers.isolation, layers.view), (wanted, View::Minimal), "{layers:?}");
        // An ordinary user need not have cgroups.
        assert_eq!(layers.missing.iter().filter(|what| !what.starts_with("cgroup ")).count(), 0, "{layers:?}");
    }
}

/// Kills all children of its process at every moment of a jail's making, so that process is one of its own.
#[tokio::test]
async fn chaos() {
    if !is_apart() {
        let mut command = Command::new(std::env::current_exe().expect("this"));
        return passes(command.args(["--exact", "processes::chaos"]).env(APART, "1"));
    }
    let token = token();
    for round in 0..30u64 {
        let bed = Bed::shell(&format!("(setsid sleep {token} &); sleep {token}"));
        let mut jail = bed.start().await;
        tokio::time::sleep(Duration::from_micros(round % 30 * 400)).await;
        for pid in children() {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        jail.handle().kill();
        while !next(&mut jail).await.is_last() {}
    }
    until_gone(&token).await;
    assert_eq!(children(), [], "not reaped");
}

fn children() -> Vec<rustix::process::Pid> {
    let own = std::process::id().to_string();
    let is_child = |stat: &str| stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)) == Some(own.as_str());
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    let children = all.filter(|e| std::fs::read_to_string(e.path().join("stat")).is_ok_and(|stat| is_child(&stat)));
    children.filter_map(|e| e.file_name().to_str()?.parse().ok().and_then(rustix::process::Pid::from_raw)).collect()
}

/// What each kind of host is tried with.
const ALL: &[&str] = &["processes::", "logs::", "--skip", "again_", "--skip", "small_disk"];
#[test]
fn again_as_an_ordinary_user() {
    as_an_ordinary_user(ALL);
}

#[test]
fn again_where_namespaces_are_forbidden() {
    where_namespaces_are_forbidden(ALL);
}
