//! End to end: what this machine gives, and who insists on more.

use crate::deployed::{Place, Said, finish};
use crate::machines::{as_an_ordinary_user, dozen, level, where_namespaces_are_forbidden};
use serde_json::Value;

fn run(place: &Place, args: &[&str]) -> Said {
    let said = finish(place.program(&dozen().to_string_lossy()).args(args));
    crate::json::check(args, &said.out);
    said
}

/// The kernel's version. What Landlock refuses depends on it, as docs/vi-processes.md says.
pub(crate) fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().expect("a number"), numbers.next().expect("another"))
}

/// Whether this kernel has all that Landlock is asked for.
fn is_hardened() -> bool {
    kernel() >= (6, 12)
}

#[test]
fn each_thing_is_tried_and_what_lacks_has_a_cure() {
    let place = Place::new(&[]);
    let found = run(&place, &["doctor", "--json"]).ok().json();
    let (level, hardened) = (level(), is_hardened());
    assert_eq!((&found["isolation"], &found["ready"], &found["hardened"]), (&level.into(), &true.into(), &hardened.into()), "{found}");
    let check = |name: &str| -> Value {
        let all = found["checks"].as_array().expect("a list");
        all.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no {name}: {found}")).clone()
    };
    for name in ["home", "seccomp", "port", "instance ports"] {
        assert_eq!(check(name)["state"], "ok", "{found}");
    }
    assert_eq!(check("landlock")["state"], if hardened { "ok" } else { "weak" }, "{found}");
    let sizes = check("sizes");
    assert!(sizes["found"].as_str().is_some_and(|found| found.contains("cgroup v")), "{sizes}");
    assert_eq!(sizes["state"] == "ok", sizes["cure"].is_null(), "{sizes}");
    let isolation = check("isolation");
    assert_eq!(isolation["state"], if level == "namespaces" { "ok" } else { "weak" });
    if level == "session" {
        assert!(isolation["cure"].as_str().is_some_and(|cure| cure.contains("user.max_pid_namespaces=10000")), "{isolation}");
    }
    // For people the same.
    let lines = run(&place, &["doctor"]).ok().has(&["isolation", level]);
    assert_eq!(lines.out.contains("Nothing is missing."), found["checks"].as_array().expect("a list").iter().all(|c| c["state"] == "ok"));
}

#[test]
fn a_home_that_cannot_be_written_fails() {
    let place = Place::new(&[]);
    std::fs::write(place.home(), "a file").expect("written");
    let said = run(&place, &["doctor"]).coded(1).has(&["missing", "DOZEN_HOME"]);
    assert!(said.out.contains("Missing: 1 of "), "{}", said.out);
    let found = run(&place, &["doctor", "--json"]).coded(1).json();
    assert_eq!(found["ready"], false);
}

#[test]
fn who_insists_on_more_is_refused_before_anything_is_built() {
    let place = Place::new(&[("Procfile", "clock: sleep 1000\n")]);
    let given = ["namespaces", "user-namespaces", "session"];
    let found = run(&place, &["doctor", "--json"]).ok().json()["isolation"].as_str().expect("a level").to_owned();
    let rank = given.iter().position(|level| *level == found).expect("a level");
    for level in &given[..rank] {
        let words = format!("isolation by {level} is required, and this machine gives {found}");
        run(&place, &["up", "--port", "0", "--once", "--require-isolation", level]).coded(1).has(&[&words, "dozen doctor"]);
        run(&place, &["up", "--port", "0", "--detach", "--require-isolation", level]).coded(1).has(&[&words]);
        run(&place, &["doctor", "--require-isolation", level]).coded(1).has(&["missing  isolation"]);
    }
    assert!(!place.home().join("slugs").exists() || std::fs::read_dir(place.home().join("slugs")).expect("read").next().is_none());
    let (hardened, code) = (format!("{found},hardened"), i32::from(!is_hardened()));
    run(&place, &["up", "--port", "0", "--once", "--require-isolation", &found]).ok();
    run(&place, &["up", "--port", "0", "--once", "--require-isolation", &hardened]).coded(code);
    run(&place, &["doctor", "--require-isolation", &hardened]).coded(code);
    run(&place, &["up", "--require-isolation", "docker"]).coded(2).has(&["write namespaces, user-namespaces or session"]);
}

/// Every test here but these.
const ALL: &[&str] = &["doctor::", "--skip", "again_"];

#[test]
fn again_as_an_ordinary_user() {
    as_an_ordinary_user(ALL);
}

#[test]
fn again_where_namespaces_are_forbidden() {
    where_namespaces_are_forbidden(ALL);
}
