//! End to end: from one release to the next on a running deploy. What must not run twice does not, and nobody's request fails for it.

use crate::deployed::{Deployed, PATIENCE, Place, Sets};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where the lines of these processes stand among all that was said.
fn positions(up: &Deployed<'_>, lines: &[(&str, &str, usize)]) -> Vec<usize> {
    for (ps, text, count) in lines {
        up.lines(ps, text, *count);
    }
    let said = up.said();
    let of = |(ps, text, count): &(&str, &str, usize)| {
        let hit = |e: &serde_json::Value| e["ps"] == *ps && e["message"].as_str().is_some_and(|m| m.contains(text));
        said.iter().enumerate().filter(|(_, e)| hit(e)).nth(count - 1).map(|(at, _)| at).expect("it was said")
    };
    lines.iter().map(of).collect()
}

#[test]
fn a_release_that_is_given_up_says_its_last_lines() {
    let place = Place::web("web: test \"$BREAK\" != yes || { echo no-$BREAK-no; echo password=$KEY; exit 4; }; python3 web.py\n");
    place.write(".env", "KEY=correct-horse\n");
    let up = place.up();
    let refused = up.dozen(&["config", "set", "BREAK=yes"]).coded(1);
    refused.has(&["v2 did not come up: web.1 ended with exit code 4; v1 keeps serving", "no-yes-no", "password=********"]);
    up.line("api", "Release v2 failed: web.1 ended with exit code 4; v1 keeps serving");
    up.until_ps(&["web.1 up"]);
    let failure = place.ledger("select failure from releases where version = 2");
    assert_eq!(failure, "web.1 ended with exit code 4\nno-yes-no\npassword=********");
    up.dozen(&["releases", "info", "v2"]).ok().has(&["Status:      failed: web.1 ended with exit code 4\n             no-yes-no\n"]);
    up.dozen(&["releases"]).ok().has(&["(web.1 ended with exit code 4)"]).lacks("no-yes-no");
    up.stop();
}

#[test]
fn a_change_goes_on_to_its_end_though_nobody_waits_for_it() {
    let place = Place::web("web: test -z \"$SLOW\" || { echo wai''ting; sleep 1; exit 5; }; python3 web.py\n");
    let up = place.up();
    let mut asking = place.program(crate::deployed::DOZEN).args(["config", "set", "SLOW=yes"]).spawn().expect("started");
    up.line("web.1", "waiting");
    asking.kill().expect("killed");
    asking.wait().expect("ended");
    up.line("api", "Release v2 failed");
    up.until_ps(&["web.1 up"]);
    assert_eq!(place.ledger("select group_concat(status) from releases"), "succeeded,failed");
    up.stop();
}

#[test]
fn a_type_that_must_not_overlap_ends_before_its_successor_starts() {
    let place = Place::web("web: python3 web.py\nbot: sleep 1000\n");
    place.write("dozen.toml", "[process.bot]\noverlap = false\n");
    let up = place.up();
    let before = up.pid_of("web.1");
    up.dozen(&["config", "set", "A=1"]).ok();
    let at = positions(&up, &[("bot.1", "Process exited", 1), ("bot.1", "Starting process", 2), ("web.1", "Process exited", 1)]);
    assert!(at.is_sorted(), "{at:?}");
    assert_ne!(up.pid_of("web.1"), before);
    up.stop();
}

#[test]
fn a_type_starts_after_those_that_it_waits_for() {
    let place = Place::web("web: python3 web.py\ncache: sleep 1000\nworker: sleep 1000\n");
    place.write("dozen.toml", "[process.web]\nafter = [\"worker\"]\n[process.worker]\nafter = [\"cache\"]\n");
    let up = place.up();
    let up_line = "State changed from starting to up";
    let at = positions(
        &up,
        &[("cache.1", up_line, 1), ("worker.1", "Starting process", 1), ("worker.1", up_line, 1), ("web.1", "Starting process", 1)],
    );
    assert!(at.is_sorted(), "{at:?}");
    up.stop();
}

/// Reads its SQLite database for each page, with the five seconds of patience that Python's module has by itself.
const READER: &str = r#"
import http.server, os, sqlite3

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            db = sqlite3.connect(os.environ["DATABASE_URL"].removeprefix("sqlite:///"))
            status, body = 200, db.execute("select text from pages").fetchone()[0]
            db.close()
        except sqlite3.Error as e:
            status, body = 500, str(e)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
"#;

/// Holds its database for six seconds where it is told to: longer than anybody is patient.
const MIGRATION: &str = r#"
import os, sqlite3, time

db = sqlite3.connect(os.environ["DATABASE_URL"].removeprefix("sqlite:///"), isolation_level=None)
db.execute("begin exclusive")
db.execute("create table if not exists pages (text)")
db.execute("delete from pages")
db.execute("insert into pages values (?)", (os.environ.get("TEXT", "first"),))
if os.environ.get("TEXT"):
    print("migrating", flush=True)
    time.sleep(6)
db.execute("rollback" if os.environ.get("TEXT") == "bad" else "commit")
raise SystemExit(os.environ.get("TEXT") == "bad")
"#;

#[test]
fn a_migration_of_sqlite_locks_nobody_out() {
    let place = Place::new(&[
        ("Procfile", "release: python3 migrate.py\nweb: test -z \"$BREAK\" && exec python3 web.py\n"),
        ("web.py", READER),
        ("migrate.py", MIGRATION),
        ("app.json", r#"{"addons": ["sqlite"]}"#),
    ]);
    let up = place.up();
    assert_eq!(up.page("/"), "first");
    let changing = AtomicBool::new(true);
    let answers = std::thread::scope(|threads| {
        let _ends = Sets(&changing, false);
        let load: Vec<_> = (0..4)
            .map(|_| {
                threads.spawn(|| {
                    let mut answers = Vec::new();
                    while changing.load(Ordering::SeqCst) {
                        answers.push(up.get("/"));
                    }
                    answers
                })
            })
            .collect();
        // A start or a migration that fails brings the old release back, and nobody notices that either.
        let broken = up.dozen(&["config", "set", "BREAK=yes"]);
        up.dozen(&["config", "unset", "BREAK"]).ok();
        let changed = up.dozen(&["config", "set", "TEXT=second"]);
        let refused = up.dozen(&["config", "set", "TEXT=bad"]);
        changing.store(false, Ordering::SeqCst);
        broken.coded(1).has(&["v2 did not come up: web.1 ended with exit code 1; v1 keeps serving"]);
        changed.ok().has(&["v3"]);
        refused.coded(1).has(&["the release phase of v4"]);
        load.into_iter().flat_map(|t| t.join().expect("asked")).collect::<Vec<_>>()
    });
    let wrong: Vec<_> = answers.iter().filter(|a| a.status != 200).collect();
    assert!(wrong.is_empty(), "{} of {} failed: {:?}", wrong.len(), answers.len(), wrong[0]);
    assert!(answers.iter().any(|a| a.body == "first") && answers.iter().any(|a| a.body == "second"));
    assert_eq!(up.page("/"), "second");
    let at = positions(&up, &[("web.1", "Process exited", 3), ("release.3", "migrating", 1), ("web.1", "Starting process", 4)]);
    assert!(at.is_sorted(), "{at:?}");
    up.line("api", "Requests wait until v3 takes over from v1: the two must not run at a time");
    up.signal(Signal::INT);
    assert_eq!(up.wait().code, 0);
    place.assert_nothing_left();
}

#[test]
fn no_request_fails_while_releases_follow_each_other() {
    let place = Place::web("web: exec python3 web.py\nworker: sleep 1000\n");
    let up = place.up();
    up.dozen(&["ps", "scale", "web=2"]).ok();
    up.until_ps(&["web.1 up", "web.2 up", "worker.1 up"]);
    let changing = AtomicBool::new(true);
    let answers = std::thread::scope(|threads| {
        let _ends = Sets(&changing, false);
        let ask = || {
            let mut answers = Vec::new();
            while changing.load(Ordering::SeqCst) {
                answers.push(up.get("/env/HEROKU_RELEASE_VERSION"));
            }
            answers
        };
        let load: Vec<_> = (0..4).map(|_| threads.spawn(ask)).collect();
        let said: Vec<_> = ["A=1", "A=2", "A=3"].iter().map(|var| up.dozen(&["config", "set", var])).collect();
        let restarted = up.dozen(&["ps", "restart", "web.1"]);
        changing.store(false, Ordering::SeqCst);
        said.into_iter().chain([restarted]).for_each(|s| drop(s.ok()));
        load.into_iter().map(|t| t.join().expect("asked")).collect::<Vec<_>>()
    });
    for answers in &answers {
        let wrong: Vec<_> = answers.iter().filter(|a| a.status != 200).collect();
        assert!(wrong.is_empty(), "{} of {} failed: {:?}", wrong.len(), answers.len(), wrong[0]);
        // Never back to an older release.
        assert!(answers.is_sorted_by_key(|a| a.body.clone()), "{answers:?}");
    }
    assert!(answers.iter().flatten().any(|a| a.body == "v1") && up.page("/env/HEROKU_RELEASE_VERSION") == "v4");
    up.stop();
}

/// Holds a request until it is told, over an upgraded connection on which it says what it was started with.
const HOLDER: &str = r#"
import http.server, os, threading

told = threading.Event()
greeting = os.environ.get("GREETING", "first").encode()

class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers.get("Upgrade"):
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: greet\r\nConnection: Upgrade\r\n\r\n")
            while line := self.rfile.readline():
                if line == b"tell\n":
                    told.set()
                self.wfile.write(greeting + b"\n")
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(greeting)))
        self.end_headers()
        if self.path == "/held":
            print("holding", flush=True)
            told.wait()
        self.wfile.write(greeting)

    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
"#;

/// A connection to the app by way of the router that speaks something else than HTTP, and what comes over it.
fn tunnel(up: &Deployed<'_>) -> (TcpStream, impl Iterator<Item = String> + use<>) {
    let mut tunnel = TcpStream::connect(("127.0.0.1", up.port())).expect("the router listens");
    tunnel.set_read_timeout(Some(PATIENCE)).expect("set");
    tunnel.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: greet\r\nConnection: Upgrade\r\n\r\n").expect("sent");
    let mut said = BufReader::new(tunnel.try_clone().expect("copied")).lines().map(|line| line.expect("a line or the end"));
    assert!(said.next().expect("an answer").contains("101"));
    assert!(said.any(|line| line.is_empty()), "the head has no end");
    (tunnel, said)
}

#[test]
fn what_is_in_flight_ends_with_the_old_release() {
    let place = Place::new(&[("Procfile", "web: exec python3 web.py\n"), ("web.py", HOLDER)]);
    place.write("dozen.toml", "[process.web]\nstop-timeout = \"1h\"\n");
    let up = place.up();
    let (mut tunnel, mut said) = tunnel(&up);
    std::thread::scope(|threads| {
        let held = threads.spawn(|| up.page("/held"));
        up.line("web.1", "holding");
        up.dozen(&["config", "set", "GREETING=second"]).ok();
        assert_eq!(up.page("/"), "second");
        // The old release still has both, and answers them as itself.
        tunnel.write_all(b"hello\n").expect("sent");
        assert_eq!(said.next().expect("the tunnel goes on"), "first");
        assert!(!held.is_finished());
        tunnel.write_all(b"tell\n").expect("sent");
        assert_eq!(held.join().expect("answered"), "first");
        assert_eq!(said.next().expect("the tunnel goes on"), "first");
    });
    // It ends when nothing of it is in flight any more, whatever its grace.
    tunnel.shutdown(std::net::Shutdown::Write).expect("still open");
    assert_eq!(said.next(), None);
    up.line("web.1", "Process exited");
    up.until_ps(&["web.1 up"]);
    up.stop();
}

#[test]
fn a_connection_without_end_ends_with_its_releases_grace() {
    let place = Place::new(&[("Procfile", "web: exec python3 web.py\n"), ("web.py", HOLDER)]);
    place.write("dozen.toml", "[process.web]\nstop-timeout = \"1s\"\n");
    let up = place.up();
    let (_tunnel, mut said) = tunnel(&up);
    up.dozen(&["config", "set", "GREETING=second"]).ok();
    assert_eq!(said.next(), None);
    up.line("web.1", "Process exited");
    up.until_ps(&["web.1 up"]);
    assert_eq!(up.page("/"), "second");
    up.stop();
}
