//! End to end: sizes. What an instance may use of memory, processors and processes, and what happens beyond it.

use crate::deployed::{Deployed, PATIENCE, Place, WEB, finish, is_root, kill, pause};
use crate::machines::given_to_an_ordinary_user;
use rustix::process::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Takes so many mebibytes, one after the other, and lives on.
const EAT: &str = "import sys, time\n\
    eaten = []\n\
    for _ in range(int(sys.argv[1])):\n    eaten.append(bytearray(b'x' * (1 << 20)))\n    time.sleep(0.01)\n\
    print('eaten', flush=True)\n\
    time.sleep(1000)\n";

/// Whether this machine lets dozen make cgroups, by dozen's own word.
#[expect(clippy::print_stderr, reason = "a test that could not run says so")]
fn can_limit() -> bool {
    let place = Place::new(&[]);
    let found = place.dozen(&["doctor", "--json"]).json();
    let checks = found["checks"].as_array().expect("a list");
    let sizes = checks.iter().find(|check| check["name"] == "sizes").expect("a check of sizes");
    if sizes["state"] != "ok" {
        eprintln!("not run: {}", sizes["found"]);
    }
    sizes["state"] == "ok"
}

fn of(all: &[Value], name: &str) -> Value {
    all.iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("no {name}: {all:?}")).clone()
}

/// The folders of an instance's cgroup.
fn cgroups(process: &Value) -> Vec<PathBuf> {
    let membership = std::fs::read_to_string(format!("/proc/{}/cgroup", process["pid"])).expect("it runs");
    let top = Path::new("/sys/fs/cgroup");
    let folder = |line: &str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let at = if controllers.is_empty() { top.to_owned() } else { top.join(controllers) };
        path.contains("/dozen-").then(|| at.join(path.trim_start_matches('/')))
    };
    let found: Vec<PathBuf> = membership.lines().filter_map(folder).collect();
    assert!(!found.is_empty() && found.iter().all(|f| f.is_dir()), "{membership}");
    found
}

/// Waits for what no event tells: another process removes them.
fn until_gone(folders: &[PathBuf]) {
    let end = Instant::now() + PATIENCE;
    while let Some(left) = folders.iter().find(|f| f.exists()) {
        assert!(Instant::now() < end, "{} is left", left.display());
        pause();
    }
}

#[test]
fn who_eats_too_much_is_told_and_then_killed_while_its_neighbour_lives_on() {
    if !can_limit() {
        return;
    }
    let procfile = "web: python3 web.py\nglutton: python3 eat.py 200\nnibbler: python3 eat.py 30\n";
    let settings = "[process.glutton]\nsize = \"64M\"\n[process.nibbler]\nsize = \"32M\"\n";
    let place = Place::new(&[("Procfile", procfile), ("web.py", WEB), ("eat.py", EAT), ("dozen.toml", settings)]);
    let mut up = place.start(&[]);
    up.released();
    up.line("web.1", "State changed from starting to up");
    let web = of_now(&up, "web.1").expect("up");
    up.line("glutton.1", "Error R14 (Memory quota exceeded)");
    up.line("glutton.1", "Error R15 (Memory quota vastly exceeded)");
    up.line("glutton.1", "Stopping process with SIGKILL");
    up.line("glutton.1", "Process exited with status 137");
    up.line("glutton.1", "State changed from crashed to starting");
    up.lines("glutton.1", "Error R15 (Memory quota vastly exceeded)", 2);
    let told = up.line("nibbler.1", "Process running mem=");
    assert!(told.contains("M(1") && told.ends_with("%)"), "{told}");
    up.line("nibbler.1", "Error R14 (Memory quota exceeded)");
    up.line("nibbler.1", "eaten");
    let all = up.ps();
    let nibbler = of(&all, "nibbler.1");
    assert_eq!((&nibbler["state"], &nibbler["restarts"], &nibbler["size"]), (&"up".into(), &0.into(), &"32M".into()));
    assert_eq!(nibbler["memory_measure"], "cgroup");
    assert!((32 << 20..48 << 20).contains(&nibbler["memory_bytes"].as_u64().expect("measured")), "{nibbler}");
    assert_eq!(of(&all, "web.1")["jail_pid"], web["jail_pid"]);
    assert_eq!(up.page("/"), "hello");
    let folders = [cgroups(&nibbler), cgroups(&of(&all, "web.1"))].concat();
    let ended = up.stop();
    assert!(!ended.text().contains("R12"), "{}", ended.text());
    assert_eq!(folders.iter().find(|f| f.exists()), None, "an instance is gone when its cgroup is");
    place.assert_nothing_left();
}

/// An instance that is up, if it is.
fn of_now(up: &Deployed<'_>, name: &str) -> Option<Value> {
    up.ps().into_iter().find(|p| p["name"] == name && p["state"] == "up")
}

#[test]
fn a_fork_bomb_is_contained_and_stopped_at_once() {
    if !can_limit() {
        return;
    }
    let place = Place::web("web: python3 web.py\nbomb: f() { f 2>/dev/null & f 2>/dev/null & wait; }; while :; do f 2>/dev/null; done\n");
    let mut up = place.start(&[]);
    up.released();
    up.line("bomb.1", "State changed from starting to up");
    let bomb = of_now(&up, "bomb.1").expect("it does not end by itself");
    let folders = cgroups(&bomb);
    let most = folders.iter().find_map(|f| std::fs::read_to_string(f.join("pids.max")).ok()).expect("a number of processes");
    assert_eq!(most, "2048\n");
    up.line("bomb.1", "Refused to start another process: 2048 processes and threads are this instance's limit");
    // The rest of the machine goes on.
    assert_eq!(up.page("/"), "hello");
    let begun = Instant::now();
    up.dozen(&["stop", "bomb"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(folders.iter().find(|f| f.exists()), None);
    assert_eq!(up.page("/"), "hello");
    let ended = up.stop();
    assert_eq!(ended.texts("log").iter().filter(|text| text.contains("Refused to start")).count(), 1, "{}", ended.text());
    place.assert_nothing_left();
}

#[test]
fn a_size_is_declared_scaled_kept_and_given_up_again() {
    let app_json = r#"{"formation": {"web": {"quantity": 2, "size": "Standard-1X"}, "worker": {"quantity": 1, "size": "colossal"}}}"#;
    let settings = "[process.web]\nsize = \"2G\"\n[process.worker]\nsize = \"256MB\"\n";
    let procfile = "web: python3 web.py\nworker: sleep 1000\n";
    let place = Place::new(&[("Procfile", procfile), ("web.py", WEB), ("app.json", app_json), ("dozen.toml", settings)]);
    let up = place.up();
    let sizes = || up.ps().iter().map(|p| format!("{}:{}", p["name"], p["size"]).replace('"', "")).collect::<Vec<_>>();
    assert_eq!(sizes(), ["web.1:512M", "web.2:512M", "worker.1:256M"]);
    up.dozen(&["ps"]).ok().has(&["web (2:512M): python3 web.py", "worker (1:256M): sleep 1000"]);
    // Only what somebody set is printed: pasted back, the rest follows the app as before.
    assert_eq!(up.dozen(&["ps", "scale"]).ok().out, "web=2 worker=1\n");
    let worker = up.pid_of("worker.1");
    let webs = [up.pid_of("web.1"), up.pid_of("web.2")];
    assert_eq!(up.dozen(&["ps", "scale", "web+0:1G"]).ok().out, "Scaling processes... done, now running web=2:1G worker=1\n");
    // One after the other, so that there is always one to answer.
    let end = Instant::now() + PATIENCE;
    while sizes() != ["web.1:1G", "web.2:1G", "worker.1:256M"] || up.ps().iter().any(|p| p["state"] != "up") {
        assert_eq!(up.page("/"), "hello");
        assert!(Instant::now() < end, "{:?}", up.ps());
    }
    assert!(!webs.contains(&up.pid_of("web.1")) && !webs.contains(&up.pid_of("web.2")));
    assert_eq!(up.pid_of("worker.1"), worker, "a type whose size is the same runs on");
    assert_eq!(place.ledger("select process_type, quantity, size from formations order by 1"), "web|2|1G\nworker|1|");
    let ended = up.stop();
    let said = ended.text();
    assert!(said.contains("formation.worker.size") && said.contains("`colossal` is not a size"), "{said}");
    assert!(!said.contains("not applied yet"), "{said}");
    let up = place.up();
    assert_eq!(of(&up.ps(), "web.1")["size"], "1G");
    up.dozen(&["ps", "scale", "web=1:default", "worker+0:unlimited"]).ok().has(&["web=1 worker=1:unlimited"]);
    up.line("worker.1", "State changed from stopping to starting");
    let all = up.until_ps(&["web.1 up", "worker.1 up"]);
    assert_eq!((of(&all, "web.1")["size"].clone(), of(&all, "worker.1")["size"].clone()), ("512M".into(), "unlimited".into()));
    up.stop();
}

#[test]
fn no_cgroup_outlives_a_killed_jail_or_a_killed_up() {
    if !can_limit() {
        return;
    }
    let place = Place::new(&[("Procfile", "worker: sleep 1000\n"), ("dozen.toml", "[process.worker]\nsize = \"64M\"\n")]);
    let up = place.up();
    let worker = || of_now(&up, "worker.1").expect("up");
    let folders = cgroups(&worker());
    kill(up.pid_of("worker.1"), Signal::KILL);
    up.line("worker.1", "State changed from crashed to starting");
    until_gone(&folders);
    // Without whoever started it, the jail itself cleans up.
    up.lines("worker.1", "State changed from starting to up", 2);
    let folders = cgroups(&worker());
    up.family();
    kill(up.pid(), Signal::KILL);
    assert_eq!(up.wait().code, 137);
    place.until_nothing_left(Duration::from_secs(5));
    until_gone(&folders);
    // Both at once: the next one does.
    let up = place.up();
    let folders = cgroups(&of_now(&up, "worker.1").expect("up"));
    let jail = up.pid_of("worker.1");
    up.family();
    kill(up.pid(), Signal::STOP);
    kill(jail, Signal::KILL);
    kill(up.pid(), Signal::KILL);
    assert_eq!(up.wait().code, 137);
    place.until_nothing_left(Duration::from_secs(5));
    let up = place.up();
    until_gone(&folders);
    up.stop();
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that could not run says so")]
fn an_ordinary_user_is_told_what_cannot_be_had() {
    if !is_root() {
        eprintln!("not run: this needs root to become somebody else");
        return;
    }
    let place = Place::new(&[
        ("Procfile", "worker: grep processes /proc/self/limits; sleep 1000\n"),
        ("dozen.toml", "[process.worker]\nsize = \"64M\"\n"),
    ]);
    let as_user = given_to_an_ordinary_user(&place);
    let mut up = place.started(&mut as_user(&["up", "--port", "0", "--json"]));
    up.ready();
    let worker = of(&up.ps(), "worker.1");
    let missing = worker["missing"].as_array().expect("a list");
    let all = up.dozen(&["ps", "--json"]).ok().json()["not_enforced"].clone();
    let everywhere = all.as_array().expect("a list");
    // With cgroup v2 it is the same for every instance, and told of the host.
    let is_of_memory = |m: &Value| m.as_str().is_some_and(|m| m.starts_with("cgroup (memory"));
    assert!(missing.iter().chain(everywhere).any(is_of_memory), "{worker} {all}");
    assert!(!everywhere.is_empty() && missing.iter().all(|m| !everywhere.contains(m)), "told twice: {missing:?}, {everywhere:?}");
    let text = up.dozen(&["ps"]).ok().has(&["Not enforced here: cgroup (memory"]);
    let lines: Vec<&str> = text.out.lines().filter(|line| line.starts_with("Not enforced")).collect();
    assert_eq!(lines.iter().collect::<std::collections::BTreeSet<_>>().len(), lines.len(), "{lines:?}");
    if worker["isolation"] == "user-namespaces" {
        // A fork bomb ends all the same.
        let limit = up.line("worker.1", "Max processes");
        assert_eq!(limit.split_whitespace().nth(2), Some("2048"), "{limit}");
    }
    finish(&mut as_user(&["down"])).ok();
    assert_eq!(up.wait().code, 0);
    place.assert_nothing_left();
}
