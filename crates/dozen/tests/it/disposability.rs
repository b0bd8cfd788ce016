//! End to end: disposability. What ends is started again or gone for good, whoever ended it; nothing is left behind.

use crate::deployed::{Deployed, Place, children, kill};
use rustix::process::Signal;
use std::time::{Duration, Instant};

const BOTH: &str = "web: python3 web.py\nworker: echo started; sleep 1000\n";

#[test]
fn a_crash_is_told_answered_and_started_again_with_back_off() {
    let place = Place::web("web: python3 web.py\n");
    let up = place.up();
    // The connection ends without an answer: H13.
    assert_eq!(up.get("/exit/7").status, 503);
    up.line("web.1", "Process exited with status 7");
    up.line("web.1", "State changed from up to crashed");
    up.line("router", "code=H13");
    assert_eq!(up.get("/").status, 503);
    up.line("router", "code=H10 desc=\"App crashed\"");
    up.lines("web.1", "State changed from starting to up", 2);
    assert_eq!(up.page("/"), "hello");
    let ps = up.ps();
    assert_eq!((&ps[0]["restarts"], &ps[0]["last_exit_code"]), (&1.into(), &7.into()));
    up.stop();
}

#[test]
fn what_an_app_died_of_is_named_with_its_cure() {
    let place = Place::new(&[("Procfile", "clock: echo \"KeyError: '$DYNO_KEY'\"; exit 1\n"), (".env", "DYNO_KEY=SHOP_KEY\n")]);
    let said = place.once().coded(1);
    said.has(&["dozen[clock.1]: Likely cause: the config var SHOP_KEY is not set. Give it with `dozen config set SHOP_KEY=…`"]);
    let place =
        Place::new(&[("Procfile", "release: echo \"OSError: [Errno 30] Read-only file system: 'made'\"; exit 1\nclock: sleep 1000\n")]);
    place.once().coded(1).has(&["dozen[release.1]: Refused to write made", "read-only, since a slug never changes"]);
    // Stopping is no failure, whatever was said.
    let place = Place::new(&[("Procfile", "clock: echo \"KeyError: 'SHOP_KEY'\"; sleep 1000\n")]);
    place.once().ok().lacks("Likely cause");
}

#[test]
fn each_wait_after_a_crash_is_longer() {
    let place = Place::new(&[("Procfile", "clock: echo ti''ck; exit 1\n")]);
    let up = place.start(&[]);
    up.lines("clock.1", "tick", 3);
    let said = up.said();
    let time = |e: &serde_json::Value| e["time"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok()).expect("a time");
    let starts: Vec<_> =
        said.iter().filter(|e| e["message"].as_str().is_some_and(|m| m.starts_with("Starting process"))).map(time).collect();
    let waits: Vec<f64> = starts.windows(2).map(|w| w[1].duration_since(w[0]).as_secs_f64()).collect();
    assert!(waits[0] >= 0.75 && waits[1] >= 1.5, "{waits:?}");
    assert!(!said.iter().any(|e| e["event"] == "ready"));
    up.stop();
    place.assert_nothing_left();
}

#[test]
fn ctrl_c_leaves_nothing_and_says_how_it_went() {
    let place = Place::web("web: sh -c 'python3 web.py; true'\nworker: sleep 1000 & sleep 1000 & wait\n");
    let up = place.up();
    let (running, router) = (place.left(), up.router());
    assert!(running.iter().any(|(pid, _)| *pid == router), "{running:?}");
    assert!(running.iter().filter(|(_, l)| l.contains("__jail")).count() >= 2, "{running:?}");
    assert!(running.iter().any(|(_, l)| l.contains("sleep 1000")), "{running:?}");
    up.signal(Signal::INT);
    let ended = up.wait();
    place.assert_nothing_left();
    assert_eq!(ended.code, 0);
    let messages = ended.texts("log");
    for line in ["State changed from up to stopping", "Stopping all processes with SIGTERM", "State changed from stopping to down"] {
        assert_eq!(messages.iter().filter(|m| **m == line).count(), 2, "{line}: {messages:?}");
    }
    // SIGTERM, a closed terminal and Ctrl-\ are no different.
    for signal in [Signal::TERM, Signal::HUP, Signal::QUIT] {
        let up = place.up();
        up.signal(signal);
        assert_eq!(up.wait().code, 0);
        place.assert_nothing_left();
    }
}

#[test]
fn who_ignores_sigterm_is_killed_with_all_that_it_started() {
    let stubborn = "trap '' TERM INT HUP; sleep 1000 & (setsid sleep 1000 &); echo stubborn; while :; do sleep 0.1; done";
    let place = Place::new(&[("Procfile", &format!("clock: {stubborn}\n")), ("dozen.toml", "[process.clock]\nstop-timeout = \"300ms\"\n")]);
    for signal in [Signal::TERM, Signal::HUP] {
        let up = place.up();
        up.line("clock.1", "stubborn");
        up.family();
        up.signal(signal);
        let ended = up.wait();
        assert_eq!(ended.code, 0);
        let messages = ended.texts("log");
        for line in ["Error R12", "Stopping remaining processes with SIGKILL", "Process exited with status 137"] {
            assert!(messages.iter().any(|m| m.starts_with(line)), "{line}: {messages:?}");
        }
        place.assert_nothing_left();
    }
}

#[test]
fn no_signal_to_up_leaves_anything_behind() {
    let place = Place::web("web: python3 web.py\nworker: trap '' TERM HUP USR1 QUIT; echo started; while :; do sleep 0.1; done\n");
    let up = place.up();
    up.line("worker.1", "started");
    up.family();
    // Not meant for it: nothing happens.
    for signal in [Signal::USR1, Signal::USR2] {
        up.signal(signal);
        assert_eq!(up.page("/"), "hello");
    }
    // What it does not hear ends it, and all that it started.
    up.signal(Signal::ALARM);
    assert_eq!(up.wait().code, 128 + Signal::ALARM.as_raw());
    place.until_nothing_left(Duration::from_secs(3));
}

#[test]
fn a_second_ctrl_c_kills_what_will_not_stop() {
    let place = Place::new(&[("Procfile", "clock: trap '' TERM INT; echo stubborn; while :; do sleep 0.1; done\n")]);
    let up = place.up();
    up.line("clock.1", "stubborn");
    up.signal(Signal::INT);
    up.line("clock.1", "Stopping all processes with SIGTERM");
    let asked = Instant::now();
    up.signal(Signal::INT);
    let ended = up.wait();
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}: the grace is 10 s", asked.elapsed());
    assert_eq!(ended.code, 0);
    place.assert_nothing_left();
}

#[test]
fn ctrl_c_while_it_comes_up_leaves_nothing() {
    let place = Place::web("release: echo phase; sleep 1000\nweb: python3 web.py\n");
    let up = place.start(&[]);
    up.line("release.1", "phase");
    up.signal(Signal::INT);
    assert_eq!(up.wait().code, 130);
    place.assert_nothing_left();
    place.write("Procfile", "web: python3 web.py\n");
    let up = place.up();
    // The one that was cut short never counts as released.
    assert_eq!(place.ledger("select group_concat(status) from releases"), "failed,succeeded");
    up.stop();
}

/// The next `up` comes up as if nothing had been, and what is on the disk is whole.
fn recovers(place: &Place) {
    let up = place.up();
    assert_eq!(up.page("/"), "hello");
    assert_eq!(place.ledger("pragma integrity_check"), "ok");
    assert_eq!(place.ledger("select count(*) from releases where status = 'pending'"), "0");
    assert_eq!(place.ledger("select count(*) from one_offs where ended_at is null"), "0");
    up.stop();
    place.assert_nothing_left();
}

#[test]
fn a_killed_app_is_started_again() {
    let place = Place::web(BOTH);
    let up = place.up();
    let jail = up.pid_of("web.1");
    let app = children(jail);
    assert_eq!(app.len(), 1);
    kill(app[0], Signal::KILL);
    up.line("web.1", "Process exited with status 137");
    up.lines("web.1", "State changed from starting to up", 2);
    assert_ne!(up.pid_of("web.1"), jail);
    assert_eq!(up.page("/"), "hello");
    up.stop();
    place.assert_nothing_left();
}

#[test]
fn a_killed_jail_takes_its_processes_along_and_is_started_again() {
    let place = Place::web(BOTH);
    let up = place.up();
    let jail = up.pid_of("web.1");
    let app = children(jail)[0];
    kill(jail, Signal::KILL);
    up.lines("web.1", "State changed from starting to up", 2);
    let gone = Instant::now();
    while std::fs::exists(format!("/proc/{app}")).expect("looked") {
        assert!(gone.elapsed() < Duration::from_secs(2), "the app outlives its jail");
        crate::deployed::pause();
    }
    assert_eq!(up.page("/"), "hello");
    up.stop();
    place.assert_nothing_left();
}

/// The process from which its jails stem.
fn stock(up: &Deployed<'_>) -> i32 {
    let is_jail = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.ends_with(b"__jail\0"));
    let is_named = |pid: &i32| std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(b"dozen:"));
    up.family().into_iter().find(|pid| is_jail(pid) && !is_named(pid)).expect("a stock")
}

#[test]
fn jails_outlive_the_process_that_they_stem_from_and_the_next_ones_stem_from_another() {
    let place = Place::web(BOTH);
    let up = place.up();
    let (web, worker, killed) = (up.pid_of("web.1"), up.pid_of("worker.1"), stock(&up));
    kill(killed, Signal::KILL);
    up.dozen(&["ps", "scale", "worker=2"]).ok();
    up.line("worker.2", "State changed from starting to up");
    assert_ne!(stock(&up), killed);
    assert_eq!((up.pid_of("web.1"), up.pid_of("worker.1")), (web, worker));
    assert_eq!(up.page("/"), "hello");
    up.stop();
    place.assert_nothing_left();
}

#[test]
fn a_jail_that_answers_nothing_is_killed_after_the_grace() {
    let place = Place::web(BOTH);
    let up = place.up();
    kill(up.pid_of("worker.1"), Signal::STOP);
    up.stop();
    place.assert_nothing_left();
}

#[test]
fn a_killed_router_is_replaced_on_the_same_port() {
    let place = Place::web(BOTH);
    let up = place.up();
    let router = up.router();
    kill(router, Signal::KILL);
    up.line("router", "Router ended unexpectedly");
    // Connections wait meanwhile; none is refused.
    assert_eq!(up.page("/"), "hello");
    assert_ne!(up.router(), router);
    up.stop();
    place.assert_nothing_left();
}

/// SIGKILL of `up` at `moment`: nothing of it lives 2 s later, and the next `up` comes up.
fn killed(place: &Place, moment: impl FnOnce(&Deployed<'_>)) {
    let up = place.start(&[]);
    moment(&up);
    up.family();
    kill(up.pid(), Signal::KILL);
    assert_eq!(up.wait().code, 137);
    place.until_nothing_left(Duration::from_secs(2));
}

#[test]
fn a_killed_up_takes_everything_along_and_the_next_one_recovers() {
    let place = Place::web(BOTH);
    killed(&place, |up| drop(up.event("ready")));
    recovers(&place);
    // Its run folder is still there: what is locked by nobody is taken over.
    killed(&place, |up| drop(up.event("ready")));
    place.dozen(&["ps"]).ok().has(&["Not running"]);
    recovers(&place);
}

#[test]
fn a_stubborn_app_does_not_outlive_a_killed_up() {
    let place = Place::web("web: python3 web.py\nworker: trap '' TERM HUP INT; echo started; while :; do sleep 0.1; done\n");
    killed(&place, |up| drop(up.line("worker.1", "started")));
    place.write("Procfile", BOTH);
    recovers(&place);
}

#[test]
fn an_up_that_is_killed_in_its_release_phase_has_released_nothing() {
    let place = Place::web("release: echo phase; sleep 1000\nweb: python3 web.py\nworker: sleep 1000\n");
    killed(&place, |up| drop(up.line("release.1", "phase")));
    place.write("Procfile", BOTH);
    recovers(&place);
    assert_eq!(place.ledger("select group_concat(status) from releases"), "failed,succeeded");
}

#[test]
fn an_up_that_is_killed_while_it_changes_config_keeps_the_old_release() {
    let place = Place::web("web: test -z \"$SLOW\" || { echo wai''ting; sleep 1000; }; python3 web.py\nworker: sleep 1000\n");
    killed(&place, |up| {
        up.event("ready");
        up.family();
        std::thread::scope(|threads| {
            let set = threads.spawn(|| place.dozen(&["config", "set", "SLOW=yes"]));
            up.line("web.1", "waiting");
            kill(up.pid(), Signal::KILL);
            set.join().expect("ended").coded(2).lacks("panicked");
        });
    });
    place.dozen(&["config", "unset", "SLOW"]).ok();
    recovers(&place);
    assert_eq!(place.ledger("select group_concat(status) from releases"), "succeeded,failed");
}

#[test]
fn an_up_that_is_killed_while_it_builds_leaves_no_half_slug() {
    let place = Place::web(BOTH);
    killed(&place, |up| drop(up.event("step")));
    recovers(&place);
}

/// Answers only when told by a file, so that a request is in flight for as long as a test wants.
const PATIENT: &str = r#"
import http.server, os, time

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/held":
            print("holding", flush=True)
            while not os.path.exists(os.environ["TOLD"]):
                time.sleep(0.01)
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"whole")
    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
"#;

#[test]
fn a_restart_lets_the_request_in_flight_end_and_holds_the_next() {
    // The SQLite resource's folder is the one place that both the app and the test may write.
    let place = Place::new(&[
        ("Procfile", "web: TOLD=${DATABASE_URL#sqlite:///}.told exec python3 web.py\n"),
        ("web.py", PATIENT),
        ("app.json", r#"{"addons": ["sqlite"]}"#),
    ]);
    let up = place.up();
    let url = up.dozen(&["config", "get", "DATABASE_URL"]).ok().out;
    let told = format!("{}.told", url.trim().trim_start_matches("sqlite:///"));
    std::thread::scope(|threads| {
        let held = threads.spawn(|| up.page("/held"));
        up.line("web.1", "holding");
        up.dozen(&["ps", "restart", "web.1"]).ok();
        // The one that holds a request is out of the table; the next request waits for its successor.
        let next = threads.spawn(|| up.page("/"));
        std::fs::write(&told, "").expect("told");
        assert_eq!(held.join().expect("answered"), "whole");
        assert_eq!(next.join().expect("answered"), "whole");
    });
    up.lines("web.1", "State changed from starting to up", 2);
    up.stop();
}
