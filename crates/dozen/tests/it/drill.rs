//! End to end: drills. A real deploy is hit by what the platform must survive.

use crate::adoption::detach;
use crate::deployed::{Place, children};

const BOTH: &str = "web: exec python3 web.py\nworker: exec sleep 1000\n";

#[test]
fn a_drill_tells_what_users_would_have_seen() {
    let place = Place::web(BOTH);
    place.dozen(&["drill"]).coded(2).has(&["dozen up"]);
    let up = place.up();
    up.dozen(&["ps", "scale", "web=2"]).ok();
    let router = || {
        let words = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        children(up.pid()).into_iter().find(|pid| words(pid).contains("__router")).expect("a router")
    };
    let first = router();

    let said = up.dozen(&["drill", "--seed", "4", "--rate", "30", "--only", "kill-process,kill-jail,kill-router", "--json"]);
    let told = said.json();
    let faults = told["faults"].as_array().expect("faults");
    assert_eq!(
        faults.iter().map(|f| f["fault"].as_str().expect("a word")).collect::<Vec<_>>(),
        ["kill-process", "kill-jail", "kill-router"]
    );
    for fault in faults {
        assert!(fault["skipped"].is_null() && fault["back_after_seconds"].as_f64().is_some(), "{fault}");
    }
    assert_eq!(told["restarts"], 2, "{told}");
    let (requests, failed) = (told["requests"].as_u64().expect("a number"), told["failed"].as_u64().expect("a number"));
    assert!(requests > 30 && failed < requests / 2, "{told}");
    assert_eq!(told["causes"].as_object().expect("causes").values().filter_map(serde_json::Value::as_u64).sum::<u64>(), failed);
    assert_eq!(said.code, i32::from(failed > 0 || told["router_lines_lost"] != 0));
    assert_ne!(router(), first, "another one serves");

    // Who only stands still for a while is waited for, and goes on.
    let said = up.dozen(&["drill", "--only", "pause", "--rate", "20"]);
    said.ok().has(&["AT ", "pause ", "0 failed", "Lines of the router lost: 0", "Restarts after a crash: 0", "Nothing was lost."]);
    let stopped = up.dozen(&["ps", "--json"]).ok().json()["processes"].clone();
    for p in stopped.as_array().expect("processes") {
        let status = std::fs::read_to_string(format!("/proc/{}/status", p["pid"])).expect("it lives");
        assert!(!status.contains("State:\tT"), "{status}");
    }
    up.dozen(&["drill", "--path", "x"]).coded(2).has(&["begins with /"]);
    // With it all would end.
    let said = up.dozen(&["drill", "--only", "kill-control", "--rate", "20"]).ok();
    said.has(&["kill-control skipped: `dozen up` runs in the foreground", "Nothing was lost."]);
    up.stop();
    place.assert_nothing_left();
}

#[test]
fn a_drill_kills_the_control_part_and_brings_another_back() {
    let place = Place::web(BOTH);
    detach(&place).0.ok();
    place.dozen(&["stop", "worker"]).ok();
    let before = place.dozen(&["ps", "--json"]).ok().json();
    // What is not released yet is not to be.
    place.write("Procfile", "web: false\n");
    let told = place.dozen(&["drill", "--only", "kill-control", "--rounds", "2", "--rate", "30", "--json"]).ok().json();
    let faults = told["faults"].as_array().expect("faults");
    assert_eq!(faults.len(), 2);
    for fault in faults {
        assert_eq!((&fault["fault"], &fault["target"]), (&"kill-control".into(), &"control part".into()));
        assert!(fault["skipped"].is_null() && fault["back_after_seconds"].as_f64().is_some(), "{fault}");
    }
    assert!(told["requests"].as_u64().expect("a number") > 30, "{told}");
    assert_eq!((&told["failed"], &told["restarts"], &told["router_lines_lost"]), (&0.into(), &0.into(), &0.into()), "{told}");
    let after = place.dozen(&["ps", "--json"]).ok().json();
    let web = |ps: &serde_json::Value| (ps["release"].clone(), ps["formation"].clone(), ps["processes"][0]["jail_pid"].clone());
    assert_eq!(web(&after), web(&before));
    assert_eq!(after["processes"].as_array().map(Vec::len), Some(1), "what was stopped stays so");
    assert_eq!(place.dozen(&["logs", "-s", "dozen", "-p", "web", "-n", "1000"]).ok().out.matches("Taken over by another").count(), 2);
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
}
