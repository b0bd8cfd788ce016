//! End to end: admin processes on a terminal. A session is a real terminal with the real `dozen` in it; the test types and reads the screen.

use crate::deployed::{DOZEN, PATIENCE, Place, code, end, kill};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, Termios, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::Instant;

const CLOCK: &str = "clock: sleep 1000\n";

/// A terminal with one program in it.
pub(crate) struct Session {
    master: OwnedFd,
    /// Held so that its modes can be asked for when the program has ended.
    slave: OwnedFd,
    before: Termios,
    child: Child,
    said: Vec<u8>,
    /// So much of it was looked at.
    seen: usize,
}

impl Session {
    /// `dozen` with these arguments, of 24 lines and 80 columns.
    fn begin(place: &Place, args: &[&str]) -> Self {
        Self::sized(place, args, 80)
    }

    /// The same on so many columns.
    pub(crate) fn sized(place: &Place, args: &[&str], columns: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a terminal");
        unlockpt(&master).expect("unlocked");
        let slave = ioctl_tiocgptpeer(&master, flags).expect("its other side");
        set_size(&master, 24, columns);
        let before = tcgetattr(&slave).expect("modes");
        let io = || slave.try_clone().expect("cloned");
        let child = place
            .program("setsid")
            .args(["--ctty", DOZEN])
            .args(args)
            .env("TERM", "xterm-256color")
            .env_remove("COLORTERM")
            .stdin(io())
            .stdout(io())
            .stderr(io())
            .spawn()
            .expect("started");
        Self { master, slave, before, child, said: Vec::new(), seen: 0 }
    }

    /// `dozen run -- sh -c SCRIPT`
    fn script(place: &Place, script: &str) -> Self {
        Self::begin(place, &["run", "--", script])
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(crate) fn type_in(&self, keys: &str) {
        let mut left = keys.as_bytes();
        while !left.is_empty() {
            left = &left[rustix::io::write(&self.master, left).expect("typed")..];
        }
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        set_size(&self.master, rows, columns);
    }

    pub(crate) fn modes(&self) -> LocalModes {
        tcgetattr(&self.slave).expect("modes").local_modes
    }

    /// Waits until the screen shows this after what was waited for before. Answers all that came up to it.
    #[track_caller]
    pub(crate) fn until(&mut self, needle: &str) -> String {
        let limit = Instant::now() + PATIENCE;
        loop {
            let new = &self.said[self.seen..];
            if let Some(at) = new.windows(needle.len()).position(|w| w == needle.as_bytes()) {
                let text = String::from_utf8_lossy(&new[..at]).into_owned();
                self.seen += at + needle.len();
                return text;
            }
            let more = self.read(limit);
            assert!(more, "no {needle:?}; it said:\n{}", String::from_utf8_lossy(&self.said));
        }
    }

    /// Reads what comes next; answers whether anything did.
    fn read(&mut self, limit: Instant) -> bool {
        let left = Timespec::try_from(limit.saturating_duration_since(Instant::now())).expect("a short time");
        match poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&left)) {
            Ok(0) => return false,
            Ok(_) => {}
            // A child that stops or goes on is a signal to this process.
            Err(Errno::INTR) => return true,
            Err(e) => panic!("{e}"),
        }
        let mut buffer = [0; 8192];
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(n) => self.said.extend_from_slice(&buffer[..n]),
            Err(Errno::IO) => return false,
            Err(e) => panic!("{e}"),
        }
        true
    }

    /// Waits for its end, at which the terminal is as it was before. Answers the exit code and all that was said.
    #[track_caller]
    pub(crate) fn end(self) -> (i32, String) {
        let Self { master, slave, before, mut child, said, .. } = self;
        // Read while it ends, so that it is not held up.
        let reader = std::thread::spawn(move || {
            let mut said = said;
            let mut buffer = [0; 8192];
            while let Ok(n) = rustix::io::read(&master, &mut buffer) {
                said.extend_from_slice(&buffer[..n]);
            }
            said
        });
        let status = end(&mut child, "dozen on a terminal");
        let after = tcgetattr(&slave).expect("modes");
        drop(slave);
        let said = String::from_utf8_lossy(&reader.join().expect("read")).into_owned();
        assert_eq!(after.local_modes, before.local_modes, "{said}");
        assert_eq!((after.input_modes, after.output_modes), (before.input_modes, before.output_modes), "{said}");
        (code(status), said)
    }

    /// Closes the terminal. Answers how the program ended.
    fn hang_up(self) -> i32 {
        let Self { master, slave, mut child, .. } = self;
        drop((master, slave));
        code(end(&mut child, "dozen whose terminal was closed"))
    }
}

fn set_size(terminal: &OwnedFd, rows: u16, columns: u16) {
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).expect("a size");
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < limit, "never: {what}");
        crate::deployed::pause();
    }
}

fn built() -> Place {
    let place = Place::new(&[("Procfile", CLOCK)]);
    place.once().ok();
    place
}

/// Tells of its size each time that it changes, as a full-screen program would.
const WATCHER: &str = "import os, signal
signal.signal(signal.SIGWINCH, lambda *_: print('now', *os.get_terminal_size(), flush=True))
print('ready', *os.get_terminal_size(), os.environ['TERM'], os.environ.get('NO_COLOR'), os.isatty(0), os.isatty(2), os.ttyname(1), flush=True)
while True: signal.pause()
";

#[test]
fn a_one_off_has_a_terminal_like_the_callers_beside_an_up_and_without_one() {
    let place = Place::new(&[("Procfile", CLOCK), ("watcher.py", WATCHER)]);
    let up = place.up();
    let check = || {
        let mut session = Session::begin(&place, &["run", "--no-color", "python3", "watcher.py"]);
        session.until("Running python3 watcher.py on shop... up, run.");
        session.until(" (v1)\r\n");
        session.until("ready 80 24 xterm-256color 1 True True /dev/");
        // While it runs, whatever is typed is for it.
        assert!(!session.modes().intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
        session.resize(50, 132);
        session.until("now 132 50");
        session.resize(10, 40);
        session.until("now 40 10");
        session.type_in("\x03");
        let (code, said) = session.end();
        assert_eq!(code, 130, "{said}");
        assert!(said.contains("KeyboardInterrupt"), "{said}");
    };
    check();
    up.stop();
    check();
    assert_eq!(place.ledger("select group_concat(exit_code) from one_offs"), "130,130");
    place.assert_nothing_left();
}

#[test]
fn ctrl_c_is_for_the_one_off_alone_and_exit_codes_are_its_own() {
    let place = built();
    let mut session = Session::script(&place, r#"trap 'echo "got"" it"; exit 3' INT; echo re''ady; while :; do sleep 0.05; done"#);
    session.until("ready");
    session.type_in("\x03");
    session.until("got it");
    assert_eq!(session.end().0, 3);
    // One that goes on after it: the client does, too.
    let mut session =
        Session::script(&place, r#"trap 'echo "ag""ain"' INT; echo re''ady; while ! read line; do :; done; echo "read"" $line""#);
    session.until("ready");
    session.type_in("\x03");
    session.until("again");
    session.type_in("words\r");
    session.until("read words");
    assert_eq!(session.end().0, 0);
    for (command, wanted) in [("true", 0), ("exit 1", 1), ("kill -9 $$", 137), ("no-such-program", 127), ("exit 130", 130)] {
        assert_eq!(Session::script(&place, command).end().0, wanted, "{command}");
    }
    let mut session = Session::script(&place, "echo re''ady; exec sleep 1000");
    session.until("ready");
    // Ctrl-Z does nothing where no shell could take it up again; Ctrl-\ is SIGQUIT.
    session.type_in("\x1a\x1c");
    assert_eq!(session.end().0, 131);
    let mut session = Session::script(&place, "echo re''ady; exec sleep 1000");
    session.until("ready");
    kill(session.pid(), Signal::TERM);
    assert_eq!(session.end().0, 143);
    // What is wrong is told on a terminal that is as it was.
    assert_eq!(Session::begin(&place, &["run", "--release", "v9", "true"]).end().0, 1);
    assert_eq!(place.ledger("select group_concat(exit_code) from one_offs"), "3,0,0,1,137,127,130,131,143");
}

/// Says when the shell has given it the terminal, so that no key comes too early. It starts nothing: what stops between vfork and exec holds up
/// its parent.
const JOB: &str = "import signal
# A handler's word would be lost where the stop comes between the look for it and the pause.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCONT})
signal.signal(signal.SIGINT, signal.SIG_DFL)
print('inside', flush=True)
while signal.sigwait({signal.SIGCONT}): print('continued', flush=True)
";

#[test]
fn a_client_that_was_stopped_and_goes_on_has_the_terminal_again() {
    let place = Place::new(&[("Procfile", CLOCK), ("watcher.py", WATCHER)]);
    place.once().ok();
    let mut session = Session::begin(&place, &["run", "python3", "watcher.py"]);
    session.until("ready 80 24");
    kill(session.pid(), Signal::STOP);
    wait_until("it is stopped", || {
        std::fs::read_to_string(format!("/proc/{}/stat", session.pid()))
            .is_ok_and(|s| s.rsplit(')').next().is_some_and(|s| s.starts_with(" T")))
    });
    // As the shell does that has the terminal meanwhile.
    tcsetattr(&session.slave, OptionalActions::Now, &session.before).expect("set");
    session.resize(50, 132);
    kill(session.pid(), Signal::CONT);
    session.until("now 132 50");
    wait_until("the terminal is raw", || !session.modes().intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
    session.type_in("\x03");
    assert_eq!(session.end().0, 130);
}

#[test]
fn a_one_off_that_is_stopped_says_why_on_the_terminal_that_is_given_back() {
    let place = built();
    let (code, said) = Session::begin(&place, &["run", "--timeout", "1s", "--", "sleep", "1000"]).end();
    assert_eq!(code, 143);
    assert!(said.ends_with(" !     run.1 was stopped: it ran for its 1s\r\n"), "{said:?}");
}

#[test]
fn a_shell_controls_its_jobs() {
    let place = Place::new(&[("Procfile", CLOCK), ("job.py", JOB)]);
    place.once().ok();
    let mut session = Session::begin(&place, &["run", "bash", "--norc"]);
    session.until("bash-");
    session.type_in("PS1='ps''1> '\r");
    session.until("ps1> ");
    session.type_in("python3 job.py\r");
    session.until("inside");
    session.type_in("\x1a");
    session.until("Stopped");
    session.until("ps1> ");
    session.type_in("jobs; echo 'job''s' done\r");
    assert!(session.until("jobs done").contains("Stopped"));
    session.until("ps1> ");
    session.type_in("fg\r");
    session.until("continued");
    session.type_in("\x03");
    session.until("ps1> ");
    session.type_in("echo \"code $?\"; exit 4\r");
    session.until("code 130");
    assert_eq!(session.end().0, 4);
}

#[test]
fn the_last_bytes_of_a_fast_program_arrive() {
    let place = built();
    for _ in 0..3 {
        let (code, said) = Session::script(&place, "seq 1 100000").end();
        assert_eq!(code, 0);
        let lines: Vec<String> = said.split("\r\n").skip(1).map(str::to_owned).collect();
        let wanted: Vec<String> = (1..=100_000).map(|n| n.to_string()).chain([String::new()]).collect();
        assert!(lines == wanted, "{} of {} lines, the last {:?}", lines.len(), wanted.len(), lines.last());
    }
}

#[test]
fn a_terminal_that_closes_hangs_up_on_the_one_off() {
    let place = Place::new(&[("Procfile", CLOCK)]);
    let up = place.up();
    let script = "trap 'exit 42' HUP; echo re''ady; while :; do sleep 0.05; done";
    let mut session = Session::script(&place, script);
    session.until("ready");
    session.hang_up();
    up.line("run.1", "Process exited with status 42");
    // A client that is killed is no different.
    let mut session = Session::script(&place, script);
    session.until("ready");
    kill(session.pid(), Signal::KILL);
    up.line("run.2", "Process exited with status 42");
    // What does not heed it is killed.
    let mut deaf = Session::script(&place, "trap '' HUP; echo re''ady; exec sleep 1000");
    deaf.until("ready");
    deaf.hang_up();
    up.line("run.3", "Process exited with status 137");
    up.stop();
    // Without an up the client stays until it is recorded.
    let mut session = Session::script(&place, script);
    session.until("ready");
    assert_eq!(session.hang_up(), 42);
    assert_eq!(place.ledger("select group_concat(exit_code) from one_offs"), "42,42,137,42");
    place.assert_nothing_left();
}

#[test]
fn a_console_is_what_the_app_names() {
    let app_json = r#"{"scripts": {"console": "python3 -q"}}"#;
    let place =
        Place::new(&[("Procfile", CLOCK), ("app.json", app_json), (".profile", "export FROM_PROFILE=sourced\n"), (".env", "A=config\n")]);
    place.once().ok();
    let mut session = Session::begin(&place, &["console", "-e", "A=given"]);
    session.until("Running python3 -q on shop... up, run.1 (v1)");
    session.until(">>> ");
    session.type_in("import os; os.environ['FROM_PROFILE'] + str(1 + 1) + os.environ['A']\r");
    session.until("'sourced2given'");
    // Before its prompt the end of input is nobody's yet.
    session.until(">>> ");
    session.type_in("\x04");
    assert_eq!(session.end().0, 0);
    // Without a terminal it reads what there is, and without a console it is a shell.
    let said = crate::deployed::finish_with(place.program(DOZEN).arg("console"), b"print(6 * 7)\n").ok();
    assert_eq!((said.out.as_str(), said.err.as_str()), ("42\n", ""));
    place.write("app.json", "{}");
    place.once().ok();
    let said = crate::deployed::finish_with(place.program(DOZEN).arg("console"), b"echo $((6 * 7))\n").ok();
    said.has(&["42\n", "names no console"]);
    // The earlier release has the earlier one.
    let said = crate::deployed::finish_with(place.program(DOZEN).args(["console", "--release", "v1"]), b"print(6 * 7)\n").ok();
    assert_eq!(said.out, "42\n");
}

#[test]
fn a_python_apps_console_is_python() {
    let place = Place::named("pyshop", &[("Procfile", CLOCK), ("requirements.txt", ""), ("shop.py", "price = 7\n")]);
    place.share_uv("pyshop");
    place.once().ok();
    let mut session = Session::begin(&place, &["console"]);
    session.until("Running python on pyshop... up, run.1");
    session.until(">>> ");
    session.type_in("import shop; shop.price * 6\r");
    session.until("42");
    session.type_in("exit()\r");
    assert_eq!(session.end().0, 0);
}

#[test]
fn a_console_of_the_procfile_runs_only_when_it_is_asked_for() {
    let place = Place::new(&[("Procfile", "clock: sleep 1000\nconsole: sed s/^/said:/\n")]);
    let up = place.up();
    up.until_ps(&["clock.1 up"]);
    let said = crate::deployed::finish_with(place.program(DOZEN).arg("console"), b"x\n").ok();
    assert_eq!(said.out, "said:x\n");
    up.stop();
}

#[test]
fn what_is_no_terminal_on_both_sides_is_passed_on_as_bytes() {
    let place = built();
    let show = "test -t 0 || echo no input terminal; test -t 1 || echo no output terminal";
    let (code, said) = Session::begin(&place, &["run", "--no-tty", "--", show]).end();
    assert!(code == 0 && said.contains("no input terminal\r\nno output terminal\r\n"), "{said}");
    let both = place.dozen(&["run", "--", show]).ok();
    assert_eq!((both.out.as_str(), both.err.as_str()), ("no input terminal\nno output terminal\n", ""));
}
