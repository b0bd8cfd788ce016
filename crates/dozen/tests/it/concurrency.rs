//! End to end: concurrency. Scaling out and in, and what is said where that makes no sense.

use crate::deployed::Place;

const BOTH: &str = "web: python3 web.py\nworker: sleep 1000\n";

#[test]
fn a_formation_is_scaled_shown_and_kept() {
    let place = Place::web(BOTH);
    let up = place.up();
    assert_eq!(up.dozen(&["ps:scale"]).ok().out, "web=1 worker=1\n");
    up.dozen(&["ps", "scale", "web=3", "worker+1"]).ok().has(&["now running web=3 worker=2"]);
    let all = up.until_ps(&["web.1 up", "web.2 up", "web.3 up", "worker.1 up", "worker.2 up"]);
    let mut ports: Vec<i64> = all.iter().filter_map(|p| p["port"].as_i64()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 3, "{all:?}");
    let mut answered = std::collections::BTreeSet::new();
    for _ in 0..30 {
        answered.insert(up.page("/env/DYNO"));
    }
    assert_eq!(answered.into_iter().collect::<Vec<_>>(), ["web.1", "web.2", "web.3"]);
    up.dozen(&["ps", "scale", "web=1", "worker-1"]).ok();
    up.until_ps(&["web.1 up", "worker.1 up"]);
    // Global options may follow, as everybody types them for Heroku.
    up.dozen(&["ps:scale", "web=2", "--no-color"]).ok();
    up.until_ps(&["web.1 up", "web.2 up", "worker.1 up"]);
    up.stop();
    // What was scaled is still so the next time, and can be pasted back while nothing runs.
    assert_eq!(place.dozen(&["ps", "scale", "worker=0"]).ok().out, "Scaling processes... done, the next `dozen up` runs web=2 worker=0\n");
    let up = place.up();
    up.until_ps(&["web.1 up", "web.2 up"]);
    up.stop();
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let place = Place::web(BOTH);
    let up = place.up();
    for (words, code, needle) in [
        (["worke=2", "web=2"], 1, "worker"),
        (["web=two", "worker=1"], 2, "web=two"),
        (["web-2", "worker=1"], 1, "web has 1"),
        (["web=100000", "worker=1"], 2, "web=100000"),
        (["release=1", "worker=1"], 2, "release"),
    ] {
        up.dozen(&["ps", "scale", words[0], words[1]]).coded(code).has(&[needle]);
    }
    up.dozen(&["ps", "scale", "worke=2"]).coded(1).has(&["did you mean"]);
    up.dozen(&["ps", "scale", "web=1:huge"]).coded(2).has(&["web=1:huge: `huge` is not a size: write `512M`"]);
    assert_eq!(up.dozen(&["ps", "scale"]).ok().out, "web=1 worker=1\n");
    up.dozen(&["ps", "restart", "clock"]).coded(1).has(&["runs no process clock"]);
    up.dozen(&["ps", "restrat"]).coded(2).has(&["restart"]);
    up.stop();
}

#[test]
fn scaled_to_nothing_is_h14_and_back() {
    let place = Place::web(BOTH);
    let up = place.up();
    up.dozen(&["ps", "scale", "web=0"]).ok();
    up.until_ps(&["worker.1 up"]);
    let answer = up.get("/");
    assert_eq!(answer.status, 503);
    up.line("router", "code=H14 desc=\"No web processes running\"");
    up.dozen(&["ps", "scale", "web=1"]).ok();
    up.until_ps(&["web.1 up", "worker.1 up"]);
    assert_eq!(up.page("/"), "hello");
    up.stop();
}

#[test]
fn restarts_hit_what_they_name() {
    let place = Place::web(BOTH);
    let up = place.up();
    let (web, worker) = (up.pid_of("web.1"), up.pid_of("worker.1"));
    up.dozen(&["ps", "restart", "worker"]).ok().has(&["Restarting worker... done, 1"]);
    up.lines("worker.1", "State changed from starting to up", 2);
    assert_eq!(up.pid_of("web.1"), web);
    assert_ne!(up.pid_of("worker.1"), worker);
    up.dozen(&["restart", "web.1"]).ok();
    up.lines("web.1", "State changed from starting to up", 2);
    assert_ne!(up.pid_of("web.1"), web);
    up.dozen(&["ps", "restart"]).ok().has(&["done, 2"]);
    up.lines("worker.1", "State changed from starting to up", 3);
    up.lines("web.1", "State changed from starting to up", 3);
    // Started again because someone wished it: no crash, so none is counted.
    assert!(up.ps().iter().all(|p| p["restarts"] == 0), "{:?}", up.ps());
    up.stop();
}

#[test]
fn a_formation_without_web_runs_and_says_that_nothing_is_routed() {
    let place = Place::new(&[("Procfile", "clock: sleep 1000\n")]);
    let mut up = place.up();
    // Where the router listens; nothing says that somebody answers there.
    up.released();
    let warned = up.said().iter().any(|e| e["event"] == "warning" && e["text"].as_str().unwrap_or_default().contains("no web process"));
    assert!(warned, "{:?}", up.said());
    assert_eq!(up.get("/").status, 503);
    up.line("router", "code=H14");
    up.stop();
}

#[test]
fn app_json_decides_the_first_formation() {
    let app_json = r#"{"formation": {"web": {"quantity": 2}, "worker": {"quantity": 0}, "wrker": {"quantity": 1}}}"#;
    let place = Place::new(&[("Procfile", BOTH), ("web.py", crate::deployed::WEB), ("app.json", app_json)]);
    place.once().ok().has(&[" !     app.json's formation: ", "wrker"]);
    assert_eq!(place.dozen(&["ps", "scale"]).ok().out, "web=2 worker=0\n");
}

#[test]
fn a_formation_of_what_is_not_there_is_told_and_waits_for_nothing() {
    let app_json = r#"{"formation": {"bogus": {"quantity": 1}}}"#;
    let place = Place::new(&[("Procfile", "clock: sleep 1000\n"), ("app.json", app_json)]);
    place.once().ok().has(&[" !     app.json's formation: ", "bogus", "State changed from starting to up"]);
    place.dozen(&["up", "-m", "bogus=1"]).coded(2).has(&["unexpected argument '-m'"]);
    place.dozen(&["ps", "scale", "bogus=1"]).coded(1).has(&["bogus"]);
    place.assert_nothing_left();
}

#[test]
fn what_is_stopped_stays_so_until_it_is_started() {
    let place = Place::web(BOTH);
    let up = place.up();
    up.dozen(&["ps", "scale", "worker=2"]).ok();
    up.until_ps(&["web.1 up", "worker.1 up", "worker.2 up"]);
    assert_eq!(up.dozen(&["stop", "worker"]).ok().out, "Stopping worker... done; `dozen start` brings back worker\n");
    up.until_ps(&["web.1 up"]);
    up.dozen(&["ps"]).ok().has(&["web (1): python3 web.py", "worker (2, stopped): sleep 1000"]);
    assert_eq!(up.dozen(&["ps:stop", "worker"]).ok().out, "Nothing to stop: worker is stopped already\n");
    up.dozen(&["ps", "scale", "worker=3"]).ok().has(&["web=1 worker=3", "None of worker runs until `dozen start worker`"]);
    up.dozen(&["restart", "worker"]).coded(1).has(&["worker of shop/dev is stopped", "`dozen start worker` starts it again."]);
    // A new release starts nothing of what is stopped.
    up.dozen(&["config", "set", "A=1"]).ok();
    up.until_ps(&["web.1 up"]);
    assert_eq!(up.dozen(&["start"]).ok().out, "Starting worker... done, now running web=1 worker=3\n");
    // It waits until they are up.
    assert_eq!(up.ps().iter().filter(|p| p["state"] == "up").count(), 4);
    up.dozen(&["start"]).ok().has(&["Nothing to start"]);

    up.dozen(&["stop"]).ok().has(&["Stopping shop... done; `dozen start` brings back web, worker"]);
    up.dozen(&["ps"]).ok().has(&["web (1, stopped)", "No processes. Start them again with `dozen start`."]);
    assert_eq!(up.get("/").status, 503);
    up.line("router", "code=H14");
    up.line("api", "Stopping web, worker by ");
    let done = up.dozen(&["start", "web", "--json"]).ok().json();
    assert_eq!(done, serde_json::json!({"changed": ["web"], "stopped": ["worker"], "formation": "web=1 worker=3"}));
    assert_eq!(up.page("/env/A"), "1");
    up.stop();
    // Whoever brings it up wants all of it.
    place.dozen(&["stop"]).coded(1).has(&["shop/dev is not running", "dozen up"]);
    place.dozen(&["start"]).coded(1).has(&["shop/dev is not running"]);
    let up = place.up();
    up.until_ps(&["web.1 up", "worker.1 up", "worker.2 up", "worker.3 up"]);
    up.line("api", "worker was stopped and runs again");
    up.dozen(&["stop", "web.1"]).coded(2).has(&["only all of a type", "`dozen restart web.1` replaces it, `dozen ps scale web-1`"]);
    up.dozen(&["stop", "wroker"]).coded(1).has(&["did you mean `worker`?"]);
    up.dozen(&["stop", "release"]).coded(2).has(&["release phase"]);
    up.dozen(&["stop", "run.9"]).coded(1).has(&["no run.9 that runs"]);
    up.stop();
    place.assert_nothing_left();
}

#[test]
fn what_does_not_start_again_is_told() {
    let place = Place::new(&[("Procfile", "clock: test \"$BROKEN\" != yes && sleep 1000; exit 4\n")]);
    let up = place.up();
    up.dozen(&["stop"]).ok();
    // Nothing of it runs, so that nothing shows that it is broken.
    up.dozen(&["config", "set", "BROKEN=yes"]).ok();
    up.dozen(&["start"]).coded(1).has(&["v2 did not come up: clock.1 ended with exit code 4; it is tried again", "dozen logs"]);
    up.dozen(&["ps"]).ok().has(&["crashed (4), again in "]);
    let crashed = up.until_ps(&["clock.1 crashed"]).remove(0);
    assert_eq!(crashed["last_exit_code"], 4);
    assert!(crashed["starts_again_at"].is_string() && crashed["cpu_percent"].is_null() && crashed["pid"].is_null(), "{crashed}");
    up.stop();
}
