//! End to end: the data plane outlives the control plane. The background half of `up --detach` is killed, and taken over by another.

mod interrupted;
mod rivals;
mod upgrade;

use crate::deployed::{Answer, DOZEN, PATIENCE, Place, Said, Sets, ask, children, finish, kill, pause, start_time};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Says what it is asked to, holds a request until another one tells it, and echoes what comes over an upgraded connection.
const WEB: &str = r#"
import http.server, os, threading

told = threading.Event()

class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers.get("Upgrade"):
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
            while line := self.rfile.readline():
                self.wfile.write(line)
            self.close_connection = True
            return
        what, _, rest = self.path[1:].partition("/")
        if what == "held":
            told.wait()
        elif what == "tell":
            told.set()
        elif what == "say":
            print("said " + rest + ".", flush=True)
        elif what == "exit":
            os._exit(int(rest))
        body = os.environ.get("GREETING", "hello").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
"#;
const BOTH: &str = "web: exec python3 web.py\nworker: exec sleep 1000\n";

fn shop() -> Place {
    // What has a size is not restarted for want of it.
    Place::new(&[("Procfile", BOTH), ("web.py", WEB), ("dozen.toml", "[process.web]\nsize = \"512M\"\n")])
}

/// `up --detach`, to the end of its foreground half; answers the router's port besides.
pub(crate) fn detach(place: &Place) -> (Said, u16) {
    let said = place.dozen(&["up", "--port", "0", "--detach", "--json"]);
    for pid in lasting(place) {
        place.family_of(pid);
    }
    let events: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let ready = events.iter().find(|e| e["event"] == "ready").unwrap_or_else(|| panic!("not ready: {}", said.all()));
    let port = ready["url"].as_str().and_then(|url| url.rsplit(':').next()?.parse().ok()).expect("a port");
    (said, port)
}

/// The background halves that run.
fn lasting(place: &Place) -> Vec<i32> {
    place.left().into_iter().filter(|(pid, line)| line.contains("--lasting") && start_time(*pid).is_some()).map(|(pid, _)| pid).collect()
}

/// Kills the control part and nothing else.
pub(crate) fn kill_control(place: &Place) {
    for pid in lasting(place) {
        place.family_of(pid);
        kill(pid, Signal::KILL);
        until("the control part's end", || start_time(pid).is_none());
    }
}

#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "no {what}");
        pause();
    }
}

fn get(port: u16, path: &str) -> Answer {
    ask(port, format!("GET {path} HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n").as_bytes())
}

/// What `ps` says of each instance.
fn ps(place: &Place) -> BTreeMap<String, Value> {
    let answer = place.dozen(&["ps", "--json"]).ok().json();
    let list = answer["processes"].as_array().expect("a list").clone();
    list.into_iter().map(|p| (p["name"].as_str().expect("a name").to_owned(), p)).collect()
}

/// Asks for one line after the other until it is told to stop. Answers how many.
fn ask_on(port: u16, count: &AtomicU32, stop: &AtomicBool) -> u32 {
    while !stop.load(Ordering::Relaxed) {
        let n = count.load(Ordering::Relaxed);
        let answer = get(port, &format!("/say/{n}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        count.store(n + 1, Ordering::Relaxed);
    }
    count.load(Ordering::Relaxed)
}

/// Each line from 0 to `count` is in the log once.
fn assert_said_once(place: &Place, count: u32) {
    let log = place.dozen(&["logs", "-p", "web", "-n", "1000000"]).ok().out;
    let mut times: BTreeMap<u32, u32> = BTreeMap::new();
    let said = log.lines().filter_map(|line| line.rsplit_once("said ")?.1.strip_suffix('.')?.parse().ok());
    said.for_each(|n| *times.entry(n).or_default() += 1);
    assert_eq!(times.len(), usize::try_from(count).expect("small"), "of {count} lines");
    assert!(times.iter().all(|(n, times)| *n < count && *times == 1), "{times:?}");
}

#[test]
fn a_killed_control_part_loses_no_request_line_or_process() {
    let place = shop();
    let (said, port) = detach(&place);
    said.ok();
    let before = ps(&place);
    let (count, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let mut tunnel = TcpStream::connect(("127.0.0.1", port)).expect("the router listens");
    tunnel.set_read_timeout(Some(PATIENCE)).expect("set");
    tunnel.write_all(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n").expect("sent");
    let mut echo = BufReader::new(tunnel.try_clone().expect("copied"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(echo.read_line(&mut head).expect("an answer") > 0, "{head:?}");
    }
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut echoes = |word: &str| {
        tunnel.write_all(word.as_bytes()).expect("sent");
        let mut line = String::new();
        echo.read_line(&mut line).expect("echoed");
        assert_eq!(line, word);
    };
    std::thread::scope(|threads| {
        let _ends = Sets(&stop, true);
        let held = threads.spawn(|| get(port, "/held"));
        let client = threads.spawn(|| ask_on(port, &count, &stop));
        let goes_on = |more: u32| {
            let from = count.load(Ordering::Relaxed);
            until("more answers", || client.is_finished() || count.load(Ordering::Relaxed) >= from + more);
        };
        echoes("before\n");
        goes_on(20);
        kill_control(&place);
        goes_on(20);
        echoes("between\n");
        place.dozen(&["logs", "-n", "1"]).ok();
        for command in [&["ps"][..], &["restart"], &["stop", "worker"], &["ps", "scale", "web=2"], &["config", "set", "A=b"]] {
            let said = place.dozen(command).coded(1);
            said.has(&["shop/dev runs without its control part, which was killed", "`dozen up --detach` takes over"]);
        }
        let (said, again) = detach(&place);
        said.ok().has(&["Nothing changed: v1 again"]);
        assert_eq!(again, port);
        goes_on(20);
        echoes("after\n");
        assert_eq!(get(port, "/tell").status, 200);
        assert_eq!(held.join().expect("answered").status, 200);
        stop.store(true, Ordering::Relaxed);
        assert_said_once(&place, client.join().expect("every answer was 200"));
    });
    let after = ps(&place);
    for key in ["jail_pid", "pid", "port", "state", "release", "restarts", "isolation"] {
        for name in ["web.1", "worker.1"] {
            assert_eq!(before[name][key], after[name][key], "{key} of {name}");
        }
    }
    // The new control part holds the listeners again: a router that dies leaves connections waiting.
    let control = lasting(&place)[0];
    let router = place.left().into_iter().find(|(_, line)| line.ends_with("__router")).expect("a router").0;
    assert!(!children(control).contains(&router), "it was taken over");
    let drilled = place.dozen(&["drill", "--only", "kill-router", "--rate", "10", "--json"]).json();
    assert!(drilled["faults"][0]["skipped"].is_null() && drilled["faults"][0]["target"] == "router", "{drilled}");
    until("the end of the router", || !place.left().iter().any(|(pid, _)| *pid == router));
    assert_eq!(get(port, "/").body, "hello");
    assert!(place.family_of(control).len() > 1, "it is the new one's child");
    // It still steers what it took over.
    place.dozen(&["restart", "worker"]).ok();
    until("another worker", || {
        ps(&place).get("worker.1").is_some_and(|w| w["state"] == "up" && w["jail_pid"] != before["worker.1"]["jail_pid"])
    });
    place.family_of(control);
    place.dozen(&["down"]).ok().has(&["Stopped shop/dev"]);
    place.assert_nothing_left();
}

#[test]
fn what_ends_while_nobody_looks_is_seen_with_its_exit_code_and_started_again() {
    let place = shop();
    let (said, port) = detach(&place);
    said.ok();
    let before = ps(&place);
    kill_control(&place);
    let mut cut = TcpStream::connect(("127.0.0.1", port)).expect("the router listens");
    cut.write_all(b"GET /exit/7 HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n").expect("sent");
    cut.read_to_end(&mut Vec::new()).expect("an answer of the router's");
    let jail = |name: &str| i32::try_from(before[name]["jail_pid"].as_i64().expect("it ran")).expect("a pid");
    kill(jail("worker.1"), Signal::KILL);
    until("the worker's end", || start_time(jail("worker.1")).is_none());
    assert!(start_time(jail("web.1")).is_some(), "it waits to be asked");
    detach(&place).0.ok();
    let log = place.dozen(&["logs", "-n", "1000"]).ok().out;
    assert_eq!(log.matches("dozen[web.1]: Process exited with status 7").count(), 1, "{log}");
    assert!(log.contains("dozen[worker.1]: The jail was killed from outside"), "{log}");
    let after = ps(&place);
    assert_eq!((&after["web.1"]["restarts"], &after["web.1"]["last_exit_code"]), (&1.into(), &7.into()));
    assert_eq!((&after["worker.1"]["restarts"], &after["worker.1"]["last_exit_code"]), (&1.into(), &137.into()));
    assert_eq!(get(port, "/").body, "hello");
    until("the end of the jail that was collected", || start_time(jail("web.1")).is_none());
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
}

#[test]
fn down_reaches_what_runs_without_a_control_part() {
    let place = shop();
    let (said, port) = detach(&place);
    said.ok();
    kill_control(&place);
    assert_eq!(get(port, "/").body, "hello");
    assert_eq!(place.dozen(&["down"]).ok().out, "Stopped shop/dev\n");
    place.assert_nothing_left();
    let log = place.dozen(&["logs", "-n", "20"]).ok().out;
    assert!(log.contains("dozen[web.1]: State changed from stopping to down"), "{log}");
    place.dozen(&["down"]).coded(1).has(&["shop/dev is not running"]);
}

#[test]
fn a_foreground_up_takes_over_and_then_all_ends_with_it() {
    let place = shop();
    let (said, port) = detach(&place);
    said.ok();
    let before = ps(&place);
    kill_control(&place);
    let mut up = place.start(&[]);
    up.ready();
    assert_eq!(up.port(), port);
    assert_eq!(up.ps()[0]["jail_pid"], before["web.1"]["jail_pid"]);
    up.signal(Signal::KILL);
    drop(up.wait());
    place.until_nothing_left(Duration::from_secs(5));
    TcpStream::connect(("127.0.0.1", port)).expect_err("the router has ended");
    place.dozen(&["ps"]).ok().lacks("control part");
}

#[test]
fn what_is_brought_up_at_a_take_over_rolls_and_what_fails_harms_nothing() {
    let place = shop();
    let (said, port) = detach(&place);
    said.ok();
    kill_control(&place);
    // A folder that cannot be built.
    place.write("Procfile", "web: x\nweb: y\n");
    let (said, _) = detach(&place);
    said.coded(1).has(&["Procfile cannot be used"]);
    assert_eq!(ps(&place)["web.1"]["release"], "v1");
    kill_control(&place);
    // One that does not come up.
    place.write("Procfile", "web: echo oh no; exit 4\nworker: exec sleep 1000\n");
    let (said, _) = detach(&place);
    said.coded(1).has(&["v2", "ended with exit code 4"]);
    assert_eq!((get(port, "/").body.as_str(), &ps(&place)["web.1"]["release"]), ("hello", &"v1".into()));
    kill_control(&place);
    // And one that does: the old one serves until the new one is up.
    place.write("Procfile", "web: GREETING=new exec python3 web.py\nworker: exec sleep 1000\n");
    let (count, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|threads| {
        let _ends = Sets(&stop, true);
        let client = threads.spawn(|| ask_on(port, &count, &stop));
        detach(&place).0.ok().has(&["Released v3"]);
        assert_eq!(get(port, "/").body, "new");
        stop.store(true, Ordering::Relaxed);
        assert_said_once(&place, client.join().expect("every answer was 200"));
    });
    until("the old release's end", || ps(&place).values().all(|p| p["release"] == "v3"));
    assert_eq!(place.ledger("select group_concat(status) from releases"), "succeeded,failed,succeeded");
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
}

#[test]
fn what_another_boot_has_left_is_swept() {
    let place = shop();
    let (said, _) = detach(&place);
    said.ok();
    let all = place.left();
    kill_control(&place);
    // As after a reboot: everything is gone but the files.
    all.iter().for_each(|(pid, _)| kill(*pid, Signal::KILL));
    place.until_nothing_left(PATIENCE);
    place.dozen(&["ps"]).coded(1).has(&["without its control part"]);
    let run = std::fs::read_dir(place.home().join("run")).expect("a run folder").flatten().next().expect("one").path();
    let mut notes = 0;
    for file in std::fs::read_dir(&run).expect("readable").flatten().filter(|f| f.path().extension().is_some_and(|e| e == "note")) {
        let mut note: Value = serde_json::from_slice(&std::fs::read(file.path()).expect("readable")).expect("JSON");
        note["boot"] = "another".into();
        std::fs::write(file.path(), note.to_string()).expect("written");
        notes += 1;
    }
    assert_eq!(notes, 3, "web.1, worker.1 and the router");
    place.dozen(&["ps"]).ok().lacks("control part");
    place.once().ok().lacks("no control part was there");
    place.assert_nothing_left();
}

#[test]
fn what_ran_in_the_background_is_resumed_as_it_was() {
    let place = shop();
    let (said, port) = detach(&place);
    said.ok();
    place.dozen(&["config", "set", "GREETING=kept"]).ok();
    place.dozen(&["ps", "scale", "web=2"]).ok();
    place.dozen(&["stop", "worker"]).ok();
    until("its processes", || states(&place) == [("web.1", "up"), ("web.2", "up")]);
    // As a reboot does: everything ends, nobody says `down`, and the source may have changed since.
    let control = lasting(&place)[0];
    kill(control, Signal::TERM);
    place.until_nothing_left(PATIENCE);
    place.write("Procfile", "web: exit 3\n");
    let resume = || {
        let said = place.dozen(&["resume", "--json"]);
        lasting(&place).into_iter().for_each(|pid| drop(place.family_of(pid)));
        said
    };
    let runs = json!([{ "deploy": "shop/dev", "port": port, "runs": true }]);
    assert_eq!(resume().ok().json(), runs);
    assert_eq!(states(&place), [("web.1", "up"), ("web.2", "up")]);
    assert_eq!((get(port, "/").body.as_str(), &ps(&place)["web.1"]["release"]), ("kept", &"v2".into()));
    // Once more changes nothing; one that cannot have its port says why, and is tried again the next time.
    let before = ps(&place)["web.1"]["jail_pid"].clone();
    assert_eq!((resume().ok().json(), &ps(&place)["web.1"]["jail_pid"]), (runs.clone(), &before));
    kill(lasting(&place)[0], Signal::TERM);
    place.until_nothing_left(PATIENCE);
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).expect("free");
    let refused = place.dozen(&["resume"]).coded(1);
    refused.has(&["shop/dev did not come up", &format!("cannot listen on port {port}")]);
    drop(taken);
    // What is stopped on purpose stays so, even where nothing runs.
    assert_eq!(place.dozen(&["down"]).ok().out, "Stopped shop/dev\n");
    place.dozen(&["resume"]).ok().has(&["Nothing is to run in the background"]);
    place.assert_nothing_left();
}

#[test]
fn a_take_over_that_is_interrupted_harms_nothing() {
    let place = shop();
    let (said, port) = detach(&place);
    said.ok();
    let jail = ps(&place)["web.1"]["jail_pid"].clone();
    place.write("Procfile", format!("release: echo releas''ing; sleep 1000\n{BOTH}"));
    let mut half = place.program(DOZEN);
    half.args(["up", "--port", "0", "--detach"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut half = half.spawn().expect("dozen starts");
    until("the release phase", || place.dozen(&["logs", "-n", "100"]).out.contains("app[release.2]: releasing"));
    kill(i32::try_from(half.id()).expect("a pid"), Signal::INT);
    assert_eq!(crate::deployed::code(crate::deployed::end(&mut half, "the foreground half")), 130);
    place.family_of(lasting(&place)[0]);
    assert_eq!((get(port, "/").body.as_str(), &ps(&place)["web.1"]["jail_pid"]), ("hello", &jail));
    assert_eq!(place.ledger("select group_concat(status) from releases"), "succeeded,failed");
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
}

/// The processes and their states.
fn states(place: &Place) -> Vec<(&'static str, &'static str)> {
    let known = |text: &str| ["web.1", "web.2", "worker.1", "up", "starting", "stopping", "crashed"].into_iter().find(|k| *k == text);
    let all = ps(place);
    let one = |(name, seen): (&String, &Value)| Some((known(name)?, known(seen["state"].as_str()?)?));
    all.iter().filter_map(one).collect()
}

#[test]
fn whenever_the_control_part_is_killed_nothing_is_lost() {
    let place = shop();
    let (said, port) = detach(&place);
    said.ok();
    let jails = ["web.1", "worker.1"].map(|name| ps(&place)[name]["jail_pid"].clone());
    let (count, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|threads| {
        let _ends = Sets(&stop, true);
        let client = threads.spawn(|| ask_on(port, &count, &stop));
        // From before it takes anything over until it is done.
        for wait in [5, 40, 80, 160, 320, 640] {
            kill_control(&place);
            let mut half = place.program(DOZEN);
            half.args(["up", "--port", "0", "--detach"]).stdout(Stdio::null()).stderr(Stdio::null());
            let mut half = half.spawn().expect("dozen starts");
            until("a background half", || !lasting(&place).is_empty() || half.try_wait().expect("asked").is_some());
            std::thread::sleep(Duration::from_millis(wait));
            kill_control(&place);
            crate::deployed::end(&mut half, "the foreground half");
        }
        detach(&place).0.ok();
        stop.store(true, Ordering::Relaxed);
        assert_said_once(&place, client.join().expect("every answer was 200"));
    });
    assert_eq!(["web.1", "worker.1"].map(|name| ps(&place)[name]["jail_pid"].clone()), jails);
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
    assert_eq!(
        finish(std::process::Command::new("sqlite3").arg(place.home().join("ledger.db")).arg("pragma integrity_check")).ok().out,
        "ok\n"
    );
}
