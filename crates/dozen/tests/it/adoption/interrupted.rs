//! A control part that is killed in the middle of something: the next one decides it, or goes on with it where it was.

use super::{WEB, detach, get, kill_control, lasting, ps, until};
use crate::deployed::{DOZEN, Place, end, finish};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Waits for a word in the pipe beside its database where the file `wait` has the name of what it is. A release phase does not let itself be
/// interrupted, and whoever runs beside it says so.
const WAIT: &str = r#"
import fcntl, os, pathlib, signal, sys

who, folder = sys.argv[1], pathlib.Path(os.environ["DATABASE_URL"].removeprefix("sqlite:///")).parent
lock = open(folder / "lock", "w")
if who == "release":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
try:
    fcntl.flock(lock, fcntl.LOCK_NB | (fcntl.LOCK_EX if who == "release" else fcntl.LOCK_SH))
except BlockingIOError:
    print("beside a release phase", flush=True)
if open("wait").read() == who:
    open(folder / "pipe").read()
"#;
const PROCFILE: &str = "release: exec python3 wait.py release
web: python3 wait.py web && GREETING=$(cat greeting) exec python3 web.py
worker: python3 wait.py worker && exec sleep 1000
";

/// A deploy of two types that must not run in two releases at a time, since they share a database.
fn shop() -> (Place, u16, PathBuf) {
    let place = Place::new(&[
        ("Procfile", PROCFILE),
        ("web.py", WEB),
        ("wait.py", WAIT),
        ("wait", ""),
        ("greeting", "first"),
        ("app.json", r#"{"addons": ["sqlite"]}"#),
    ]);
    let (said, port) = detach(&place);
    said.ok();
    let folder = PathBuf::from(place.ledger("select folder from resources"));
    finish(Command::new("mkfifo").args(["-m", "666"]).arg(folder.join("pipe"))).ok();
    (place, port, folder)
}

/// Has the next release brought up by another control part, and that one killed while `who` of the release waits.
fn interrupt_at(place: &Place, who: &str, and: impl FnOnce()) {
    kill_control(place);
    place.write("wait", who);
    place.write("greeting", "second");
    let mut half = place.program(DOZEN);
    half.args(["up", "--port", "0", "--detach"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut half = half.spawn().expect("dozen starts");
    let waiting = format!("wait.py {who}");
    // Its input is open, so that it is behind all that it does before.
    until("waiting process", || place.left().iter().any(|(_, line)| line.ends_with(&waiting)));
    for pid in lasting(place) {
        place.family_of(pid);
    }
    and();
    kill_control(place);
    end(&mut half, "the foreground half");
}

#[test]
fn a_change_that_is_interrupted_brings_the_old_release_back_and_answers_who_waits() {
    for who in ["release", "web"] {
        let (place, port, _) = shop();
        let held = std::thread::scope(|threads| {
            interrupt_at(&place, who, || {});
            let held = threads.spawn(|| get(port, "/"));
            place.write("wait", "");
            place.write("greeting", "first");
            detach(&place).0.ok().has(&["Nothing changed: v1 again"]);
            held.join().expect("answered")
        });
        assert_eq!((held.status, held.body.as_str()), (200, "first"), "{who}");
        let now: Vec<_> = ps(&place).values().map(|p| format!("{} {} {}", p["name"], p["release"], p["state"])).collect();
        assert_eq!(now, [r#""web.1" "v1" "up""#, r#""worker.1" "v1" "up""#], "{who}");
        assert_eq!(place.ledger("select group_concat(status) from releases"), "succeeded,failed");
        assert_eq!(place.ledger("select failure from releases where version = 2"), "interrupted: dozen ended before it was concluded");
        let log = place.dozen(&["logs", "-n", "1000"]).ok().out;
        assert!(log.contains("dozen[api]: Release v2 was interrupted by the end of its control part: it has failed"), "{log}");
        assert!(!log.contains("beside a release phase"), "{log}");
        place.dozen(&["down"]).ok();
        place.assert_nothing_left();
    }
}

#[test]
fn the_old_release_comes_back_though_nothing_new_can_be_built() {
    let (place, port, _) = shop();
    // Nothing of the deploy runs at this moment but a router that has requests wait.
    interrupt_at(&place, "release", || {});
    place.write("Procfile", "web: x\nweb: y\n");
    detach(&place).0.coded(1).has(&["Procfile cannot be used"]);
    assert_eq!(get(port, "/").body, "first");
    assert_eq!(ps(&place).len(), 2);
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
}

#[test]
fn a_release_that_takes_requests_stays_though_its_control_part_could_not_record_it() {
    let (place, port, folder) = shop();
    let mut sqlite = Command::new("sqlite3");
    let sqlite = sqlite.arg(place.home().join("ledger.db")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut sqlite = sqlite.spawn().expect("sqlite3 starts");
    interrupt_at(&place, "web", || {
        sqlite.stdin.as_mut().expect("piped").write_all(b".timeout 60000\nbegin immediate;\nselect 'taken';\n").expect("written");
        let mut line = String::new();
        BufReader::new(sqlite.stdout.as_mut().expect("piped")).read_line(&mut line).expect("read");
        assert_eq!(line, "taken\n");
        std::fs::write(folder.join("pipe"), "go on").expect("written");
        assert_eq!(get(port, "/").body, "second");
    });
    drop(sqlite.stdin.take());
    sqlite.wait().expect("ended");
    assert_eq!(place.ledger("select group_concat(status) from releases"), "succeeded,pending");
    detach(&place).0.ok().has(&["Nothing changed: v2 again"]);
    assert_eq!(place.ledger("select group_concat(status) from releases where up_at is not null"), "succeeded,succeeded");
    assert_eq!(get(port, "/").body, "second");
    assert!(ps(&place).values().all(|p| p["release"] == "v2" && p["restarts"] == 0));
    let log = place.dozen(&["logs", "-n", "1000"]).ok().out;
    assert!(log.contains("Release v2 was interrupted by the end of its control part: it had taken over and is the current one"), "{log}");
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
}

#[test]
fn one_offs_end_with_the_control_part_and_whoever_waits_is_told() {
    let place = super::shop();
    detach(&place).0.ok();
    place.dozen(&["run", "--detach", "--", "sleep", "1001"]).ok();
    let mut attached = place.program(DOZEN);
    let attached = attached.args(["run", "--", "echo begun; exec sleep 1002"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut attached = attached.spawn().expect("dozen starts");
    let mut begun = String::new();
    BufReader::new(attached.stdout.take().expect("piped")).read_line(&mut begun).expect("read");
    kill_control(&place);
    let mut told = String::new();
    attached.stderr.take().expect("piped").read_to_string(&mut told).expect("read");
    assert_eq!(told, " !     run.2 was lost: the `dozen up` that ran it was killed, and it ends with that one\n");
    assert_eq!(end(&mut attached, "`dozen run`").code(), Some(137));
    // What runs without a control part is no reason not to run something else.
    assert_eq!(place.dozen(&["run", "--", "echo three"]).ok().out, "three\n");
    detach(&place).0.ok();
    assert!(!place.left().iter().any(|(_, line)| line.starts_with("sleep 1001") || line.starts_with("sleep 1002")), "they have ended");
    assert_eq!(place.ledger("select group_concat(exit_code) from one_offs"), "137,137,0");
    place.dozen(&["logs", "-p", "run.1"]).ok().has(&["dozen[run.1]: It was lost with the process that ran it, which was killed"]);
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
}

#[test]
fn an_instance_in_its_back_off_waits_on_under_the_next_control_part() {
    // Ends as soon as the file is there.
    let worker = "d=${DATABASE_URL#sqlite:///}; d=${d%/*}; until [ -e $d/end ]; do sleep 0.05; done; exit 3";
    let procfile = format!("web: exec python3 web.py\nworker: {worker}\n");
    let place = Place::new(&[("Procfile", &*procfile), ("web.py", WEB), ("app.json", r#"{"addons": ["sqlite"]}"#)]);
    detach(&place).0.ok();
    let folder = PathBuf::from(place.ledger("select folder from resources"));
    std::fs::write(folder.join("end"), "").expect("written");
    until("second crash", || ps(&place)["worker.1"]["restarts"] == 1 && ps(&place)["worker.1"]["state"] == "crashed");
    let before = ps(&place)["worker.1"].clone();
    kill_control(&place);
    // It has one more try, which it needs the next control part for.
    detach(&place).0.coded(1).has(&["worker.1 ended with exit code 3"]);
    let after = ps(&place)["worker.1"].clone();
    let time = |of: &serde_json::Value| of.as_str().expect("a time").parse::<jiff::Timestamp>().expect("a time");
    assert_eq!((&after["restarts"], &after["last_exit_code"]), (&2.into(), &3.into()), "{after}");
    assert!(time(&after["since"]) >= time(&before["starts_again_at"]), "{before} {after}");
    // The third wait is of four seconds, less a quarter at most; a first one is of one.
    let wait = time(&after["starts_again_at"]).duration_since(time(&after["since"]));
    assert!(wait.as_millis() >= 3_000, "{after}");
    let log = place.dozen(&["logs", "-p", "worker", "-n", "1000"]).ok().out;
    assert_eq!(log.matches("Process exited with status 3").count(), 3, "{log}");
    // A crash that waits is no reason to be found when all was stopped.
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
}
