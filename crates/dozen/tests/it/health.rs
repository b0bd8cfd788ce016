//! End to end: signs of life. What the app says of its process types in dozen.toml and app.json holds.

use crate::deployed::{Deployed, Place, ask};

/// Is what it is told to be: `/sick/ready` has `/ready` fail from then on, `/well/ready` has it answer again.
const MOODY: &str = r#"
import http.server, os

sick = set()

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        mood, _, name = self.path[1:].partition("/")
        if mood == "sick":
            sick.add(name)
        if mood == "well":
            sick.discard(name)
        self.send_response(503 if mood in sick else 200)
        body = os.environ["DYNO"].encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
"#;

fn moody(dozen_toml: &str) -> Place {
    Place::new(&[("Procfile", "web: exec python3 web.py\n"), ("web.py", MOODY), ("dozen.toml", dozen_toml)])
}

/// Asks an instance, past the router.
fn tell(up: &Deployed<'_>, instance: &str, path: &str) {
    let all = up.ps();
    let port = all.iter().find(|p| p["name"] == instance).and_then(|p| p["port"].as_u64()).expect("it has a port");
    let answer = ask(port.try_into().expect("a port"), format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn a_type_has_its_own_settling_and_its_own_grace() {
    let place = Place::new(&[
        ("Procfile", "slow: sleep 1; exit 3\nquick: trap '' TERM; echo stubborn; while :; do sleep 0.1; done\n"),
        ("dozen.toml", "[process.slow]\nsettle = \"5s\"\n[process.quick]\nstop-timeout = \"300ms\"\n"),
    ]);
    let up = place.start(&[]);
    up.line("slow.1", "State changed from starting to crashed");
    up.line("quick.1", "State changed from starting to up");
    up.line("quick.1", "stubborn");
    up.dozen(&["stop", "quick"]).ok();
    up.line("quick.1", "Error R12 (Exit timeout) -> At least one process failed to exit within 0.3 seconds of SIGTERM");
    up.stop();
    place.assert_nothing_left();
}

#[test]
fn what_cannot_be_checked_is_said() {
    let place = Place::web("web: python3 web.py\nworker: sleep 1000\n");
    place.write(
        "app.json",
        r#"{"healthchecks": {
            "web": [{"type": "startup", "path": "/", "scheme": "https"}],
            "worker": [{"type": "startup", "name": "queue", "path": "/up"}]
        }}"#,
    );
    place.once().ok().has(&[
        "app.json:2:64: healthchecks.web[0]: the check is left out, since processes are asked by plain HTTP only",
        "app.json:3:24: healthchecks.worker[0]: the check is left out, since only a web process has a port of its own",
    ]);
}

#[test]
fn a_command_says_whether_a_worker_is_alive() {
    // Its heart is a file that only its own processes see.
    let place = Place::new(&[("Procfile", "worker: touch /tmp/heart; echo beating; exec sleep 1000\n")]);
    place.write("alive", "#!/bin/sh\necho no heart for $NAME\n[ -e /tmp/heart ]\n");
    std::fs::set_permissions(place.folder().join("alive"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    place.write(".env", "NAME=the-whole-worker\n");
    place.write(
        "app.json",
        r#"{"healthchecks": {"worker": [{"type": "startup", "command": ["./alive"]},
            {"type": "liveness", "command": ["./alive"], "attempts": 2, "wait": 1},
            {"type": "liveness", "command": ["false"], "attempts": 1, "wait": 1, "warn": true}]}}"#,
    );
    let up = place.start(&[]);
    up.line("worker.1", "State changed from starting to up");
    up.line("worker.1", "The liveness check by `false` failed in 1 try: exited with status 1; it only warns");
    let worker = up.until_ps(&["worker.1 up"])[0]["pid"].as_i64().expect("a process");
    std::fs::remove_file(format!("/proc/{worker}/root/tmp/heart")).expect("it had one");
    let said = up.line("worker.1", "The liveness check by `./alive` failed in 2 tries: exited with status 1: ");
    assert!(said.ends_with("no heart for ********; it is started anew"), "{said}");
    up.lines("worker.1", "beating", 2);
    up.until_ps(&["worker.1 up"]);
    up.stop();
    place.assert_nothing_left();
}

#[test]
fn a_release_whose_startup_check_fails_is_given_up() {
    let place = Place::web("web: python3 web.py\n");
    place.write(".env", "COLOUR=green\n");
    place.write(
        "dozen.toml",
        "[health.web]\ntype = \"startup\"\npath = \"/env/COLOUR\"\ncontent = \"green\"\nattempts = 2\nwait = \"100ms\"\n",
    );
    let up = place.up();
    let refused = up.dozen(&["config", "set", "COLOUR=red"]).coded(1);
    refused.has(&["v2 did not come up: web.1 failed its startup check; v1 keeps serving"]);
    up.line("web.1", "The startup check of /env/COLOUR failed in 2 tries: answered 200 OK without `green`");
    assert_eq!(up.page("/env/COLOUR"), "green");
    up.dozen(&["config", "set", "COLOUR=evergreen"]).ok();
    assert_eq!(up.page("/env/COLOUR"), "evergreen");
    up.stop();
}

#[test]
fn a_release_that_does_not_become_ready_is_given_up() {
    let place = Place::web("web: python3 web.py\n");
    place.write(".env", "COLOUR=green\n");
    place.write(
        "dozen.toml",
        "[health.web]\ntype = \"readiness\"\npath = \"/env/COLOUR\"\ncontent = \"green\"\nattempts = 2\nwait = \"100ms\"\n",
    );
    let up = place.up();
    let refused = up.dozen(&["config", "set", "COLOUR=red"]).coded(1);
    refused.has(&["v2 did not come up: web.1 did not pass its readiness check; v1 keeps serving"]);
    assert_eq!(up.page("/env/COLOUR"), "green");
    up.until_ps(&["web.1 up"]);
    up.stop();
}

#[test]
fn what_is_not_ready_gets_no_requests_until_it_is() {
    let place = moody("[health.web]\ntype = \"readiness\"\npath = \"/ready\"\nattempts = 1\nwait = \"50ms\"\n");
    let up = place.up();
    up.dozen(&["ps", "scale", "web=2"]).ok();
    up.until_ps(&["web.1 up", "web.2 up"]);
    let answers = |who: &str| while up.page("/") != who {};
    answers("web.2");
    tell(&up, "web.1", "/sick/ready");
    up.line("web.1", "Not ready: takes no requests");
    up.line("web.1", "The readiness check of /ready failed in 1 try: answered 503 Service Unavailable");
    // The router has its table a moment after the line.
    let mut last = Vec::new();
    while last.len() < 20 {
        let who = up.page("/");
        if who == "web.1" { last.clear() } else { last.push(who) }
    }
    up.until_ps(&["web.1 up", "web.2 up"]);
    up.dozen(&["ps"]).ok().has(&["up, not ready"]);
    tell(&up, "web.1", "/well/ready");
    answers("web.1");
    up.stop();
}

#[test]
fn what_is_not_alive_is_started_anew() {
    let place = moody("[[health.web]]\ntype = \"liveness\"\nname = \"heart\"\npath = \"/alive\"\nattempts = 2\nwait = \"50ms\"\n");
    let up = place.up();
    let before = up.pid_of("web.1");
    up.page("/sick/alive");
    up.line("web.1", "The liveness check `heart` failed in 2 tries: answered 503 Service Unavailable; it is started anew");
    up.line("web.1", "State changed from stopping to crashed");
    up.lines("web.1", "State changed from starting to up", 2);
    assert_ne!(up.pid_of("web.1"), before);
    assert_eq!(up.ps()[0]["restarts"], 1);
    assert_eq!(up.page("/alive"), "web.1");
    up.stop();
    place.assert_nothing_left();
}
