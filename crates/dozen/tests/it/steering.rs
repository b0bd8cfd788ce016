//! End to end: looking at a running deploy. What `ps` tells, once and again and again; `open`; and `logs` of what is not there.

use crate::deployed::{DOZEN, Place, finish};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

const BOTH: &str = "web: python3 web.py\nworker: sleep 1000\n";

#[test]
fn ps_tells_what_processes_use() {
    let place = Place::new(&[("Procfile", "busy: while :; do :; done\nidle: exec sleep 1000\n")]);
    let up = place.up();
    let of = |name: &str| up.ps().into_iter().find(|p| p["name"] == name).expect("it runs");
    let idle = of("idle.1");
    let (pid, jail) = (idle["pid"].as_i64().expect("a pid"), idle["jail_pid"].as_i64().expect("a pid"));
    assert_eq!(std::fs::read(format!("/proc/{pid}/cmdline")).expect("it runs"), b"sleep\x001000\x00");
    assert!(crate::deployed::children(jail.try_into().expect("a pid")).contains(&pid.try_into().expect("a pid")));
    let memory = idle["memory_bytes"].as_u64().expect("known");
    assert!((10_000..50_000_000).contains(&memory), "{idle}");
    assert!(["pss", "rss"].contains(&idle["memory_measure"].as_str().expect("known")), "{idle}");
    assert!(idle["cpu_percent"].as_f64().expect("known") < 50.0, "{idle}");
    // However busy this machine is, it gets some of it.
    let end = std::time::Instant::now() + crate::deployed::PATIENCE;
    while of("busy.1")["cpu_percent"].as_f64().is_none_or(|percent| percent < 2.0) {
        assert!(std::time::Instant::now() < end, "{:?}", of("busy.1"));
        crate::deployed::pause();
    }
    up.dozen(&["ps"]).ok().has(&["PROCESS  STATE  UPTIME  RELEASE  RESTARTS  CPU", "ISOLATION"]);
    up.stop();
}

#[test]
fn ps_watch_tells_each_change_to_programs() {
    let place = Place::web(BOTH);
    let up = place.up();
    let mut watch = place.program(DOZEN).args(["ps", "--watch", "0.1", "--json"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let mut until = |what: &str, wanted: &dyn Fn(&Value) -> bool| {
        let found = lines.by_ref().map(|l| serde_json::from_str::<Value>(&l.expect("text")).expect("JSON")).find(|v| wanted(v));
        found.unwrap_or_else(|| panic!("no {what}"))
    };
    until("first", &|v| v["formation"] == "web=1 worker=1");
    up.dozen(&["ps", "scale", "worker=2"]).ok();
    until("worker.2", &|v| v["processes"].as_array().is_some_and(|all| all.iter().any(|p| p["name"] == "worker.2" && p["state"] == "up")));
    up.stop();
    until("end", &|v| v["serving"] == false);
    watch.kill().expect("killed");
    watch.wait().expect("waited for");
    place.dozen(&["ps", "-w", "0"]).coded(2).has(&["from 0.1 to 3600"]);
}

#[test]
fn ps_watch_draws_on_a_terminal_and_leaves_it_as_it_was() {
    let place = Place::web(BOTH);
    let up = place.up();
    // Ctrl-C is for the whole group: without a trap it is up to the shell whether it still says the code.
    let command = format!("trap : INT; stty cols 60 rows 20; {DOZEN} ps -w 0.2; echo code $?");
    let mut terminal = place
        .program("script")
        .args(["-qc", &command, "/dev/null"])
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a terminal");
    let mut out = terminal.stdout.take().expect("piped");
    let mut said = Vec::new();
    let mut until = |needle: &str| {
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&said).contains(needle) {
            let n = out.read(&mut buffer).expect("readable");
            assert!(n > 0, "no {needle:?} in {:?}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&buffer[..n]);
        }
        String::from_utf8_lossy(&said).into_owned()
    };
    let drawn = until("worker.1  up");
    assert!(drawn.contains("\x1b[?1049h\x1b[?25l") && drawn.contains("PROCESS   STATE  UPTIME  "), "{drawn:?}");
    assert!(!drawn.contains("ISOLATION"), "60 columns have no room for it: {drawn:?}");
    terminal.stdin.as_mut().expect("piped").write_all(b"\x03").expect("Ctrl-C");
    let all = until("code 0");
    let after = all.split("\x1b[?25h\x1b[?1049l").nth(1).expect("the first screen is back");
    assert!(after.contains("=== shop/dev v1") && after.contains("worker.1  up"), "{after:?}");
    drop(terminal.stdin.take());
    terminal.wait().expect("waited for");
    up.stop();
}

#[test]
fn open_prints_the_url_and_hands_it_to_a_browser() {
    let place = Place::web("web: python3 web.py\n");
    let up = place.up();
    let open = |path: &[&str], browser: &str| {
        let mut command = place.program(DOZEN);
        command.arg("open").args(path).env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY").env("BROWSER", browser);
        finish(&mut command).ok()
    };
    // Over SSH there is neither a browser nor a display.
    assert_eq!(open(&[], "").out, format!("{}/\n", up.url()));
    assert_eq!(open(&[], "no-such-browser").out, format!("{}/\n", up.url()));
    let browser = place.beside("browser.sh");
    std::fs::write(&browser, "echo \"$1\" >\"$0.new\"; mv \"$0.new\" \"$0.opened\"\n").expect("written");
    let said = open(&["/a b?c=d", "--json"], &format!("no-such-browser:sh {} %s", browser.display())).json();
    let url = format!("{}/a%20b?c=d", up.url());
    assert_eq!(said, serde_json::json!({"url": url, "opened": true}));
    // It goes on by itself, so it is waited for here.
    let opened = place.beside("browser.sh.opened");
    let end = std::time::Instant::now() + crate::deployed::PATIENCE;
    while !opened.exists() {
        assert!(std::time::Instant::now() < end, "no browser was started");
        crate::deployed::pause();
    }
    assert_eq!(std::fs::read_to_string(opened).expect("readable").trim_end(), url);
    up.stop();
    place.dozen(&["open"]).coded(1).has(&["shop/dev is not running", "Start it with `dozen up`."]);
}

#[test]
fn logs_of_a_process_that_never_was_say_so() {
    let place = Place::new(&[("Procfile", "clock: echo tick; sleep 1000\nworker: sleep 1000\n")]);
    place.once().ok();
    place.write("Procfile", "clock: echo tick; sleep 1000\n");
    place.once().ok();
    let said = place.dozen(&["logs", "-p", "nope"]).coded(1);
    assert_eq!(
        (said.out.as_str(), said.err.as_str()),
        ("", " !     shop/dev has no process nope\n !     There are api, clock, release, router, run.\n")
    );
    place.dozen(&["logs", "-p", "clokc.1"]).coded(1).has(&["has no process clokc.1\n !     Did you mean clock?\n"]);
    // One that an earlier release had, and one that has not said anything yet.
    place.dozen(&["logs", "-p", "worker"]).ok().has(&["worker.1"]).lacks("has no process");
    assert_eq!(place.dozen(&["logs", "-p", "release"]).ok().err, "");
}
