//! End to end: an app that goes for another deploy and for dozen itself. Each attempt's outcome stands in the table of docs/vi-processes.md.

use crate::deployed::{self, Deployed, Place, WEB};
use crate::processes::fences::{ATTEMPTS, PYTHON, assert_outcomes};
use crate::processes::{again, dozen, has_user_namespaces};
use rustix::process::Signal;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Leaves its session and its parents, closes what it was given, and does not go when asked.
const STAY: &str = "
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3): os.close(fd)
    time.sleep(1000)
print('staying', flush=True)
os.close(1)
time.sleep(1000)
";
/// Set where namespaces are forbidden.
const SESSION: &str = "DOZEN_TEST_HOST_VIEW";

#[test]
fn a_hostile_app_reaches_neither_another_deploy_nor_the_platform() {
    let place = Place::named("victim", &[("web.py", WEB), (".env", "SECRET=correct-horse\n")]);
    place.write("app.json", r#"{"addons": ["sqlite"]}"#);
    place.write("Procfile", "web: python3 web.py\nkeeper: cd $(mktemp -d) && echo s > secret && echo keeps $PWD/secret && sleep 1000\n");
    let up = |folder: &Path| {
        let mut command = place.program(&dozen().to_string_lossy());
        command.args(["up", "--port", "0", "--json"]).arg(folder).env_remove(SESSION);
        place.started(&mut command)
    };
    let mut victim = up(place.folder());
    victim.ready();
    let database = victim.page("/env/DATABASE_URL");
    assert_eq!(victim.page("/add/word"), "1");
    let kept = victim.line("keeper.1", "keeps /");
    let (targets, guarded) = targets(&place, &victim, &[kept.trim_start_matches("keeps "), database.trim_start_matches("sqlite://")]);

    let thief = place.beside("thief");
    std::fs::create_dir(&thief).expect("made");
    let attempts = format!("worker: {PYTHON} attempts.py && {PYTHON} stay.py\n");
    for (name, text) in [("Procfile", attempts.as_str()), ("attempts.py", ATTEMPTS), ("stay.py", STAY)] {
        std::fs::write(thief.join(name), text).expect("written");
    }
    std::fs::write(thief.join(".env"), format!("TARGETS='{targets}'\n")).expect("written");
    let hostile = up(&thief);
    let found = hostile.line("worker.1", "\"keyctl\"");
    let found: Map<String, Value> = serde_json::from_str(&found).expect("what was found");
    assert_outcomes(found, &wanted(guarded));

    // Another one runs on as if nothing had been.
    assert_eq!(victim.page("/env/SECRET"), "correct-horse");
    assert_eq!(victim.page("/add/word"), "2");
    hostile.line("worker.1", "staying");
    hostile.family();
    hostile.signal(Signal::INT);
    hostile.until("end", |events| events.iter().any(|e| e["message"].as_str().is_some_and(|m| m.contains("Stopping"))).then_some(()));
    hostile.signal(Signal::INT);
    hostile.wait();
    victim.stop();
    place.assert_nothing_left();
}

/// All that is not the thief's, and whether its port is guarded.
fn targets(place: &Place, victim: &Deployed<'_>, more: &[&str]) -> (Value, bool) {
    let home = place.home();
    let slugs: Vec<PathBuf> = std::fs::read_dir(home.join("slugs")).expect("slugs").flatten().map(|e| e.path()).collect();
    let code = slugs.iter().map(|slug| slug.join("tree/web.py")).find(|code| code.exists()).expect("the victim's slug");
    let socket = socket(&home.join("run")).expect("the API's socket");
    let ps = place.program(&dozen().to_string_lossy()).args(["ps", "--json"]).output().expect("asked");
    let ps: Value = serde_json::from_slice(&ps.stdout).expect("JSON");
    let web = ps["processes"].as_array().expect("a list").iter().find(|p| p["name"] == "web.1").expect("a web").clone();
    assert_eq!(
        web["isolation"],
        if is_session() {
            "session"
        } else if deployed::is_root() {
            "namespaces"
        } else {
            "user-namespaces"
        }
    );
    let guarded = !ps["not_enforced"].as_array().expect("a list").iter().any(|what| what.to_string().contains("guard"));
    let targets = json!({
        "files": [code, home.join("ledger.db"), key(&home), place.folder().join(".env"), more[0], more[1]],
        "folders": [&home, &home.join("slugs"), &home.join("logs"), place.folder()],
        "pids": [web["pid"], web["jail_pid"], victim.pid(), victim.router()],
        "ports": [web["port"], victim.port()],
        "connect": [web["port"]],
        "sockets": [socket],
    });
    (targets, guarded)
}

fn key(home: &Path) -> PathBuf {
    let entries = std::fs::read_dir(home).expect("a home").flatten().map(|e| e.path());
    entries.into_iter().find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("key"))).expect("a key")
}

fn socket(folder: &Path) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| match entry.file_name() == "api.sock" {
        true => Some(entry.path()),
        false => socket(&entry.path()),
    })
}

fn is_session() -> bool {
    std::env::var_os(SESSION).is_some()
}

/// The outcomes. Within a view nothing of the others exists; without one Landlock refuses it.
fn wanted(guarded: bool) -> Vec<(&'static str, &'static [&'static str])> {
    let nowhere: &[&str] = if is_session() { &["EACCES"] } else { &["ENOENT"] };
    let nobody: &[&str] = if is_session() { &["EPERM"] } else { &["ESRCH"] };
    let hidden: &[&str] = if is_session() { &["EACCES", "EPERM"] } else { &["ENOENT"] };
    let mut all: Vec<(&str, &[&str])> = vec![
        ("bind 0", &["EACCES"]),
        ("bind 1", &["EACCES"]),
        ("API 0", if is_session() { &["refused", "ECONNRESET", "EPIPE"] } else { &["ENOENT"] }),
        // Without the guard this is not enforced: the network is the host's.
        ("connect 0", if guarded { &["ECONNREFUSED"] } else { &["done"] }),
    ];
    all.extend(["read 0", "read 1", "read 2", "read 3", "read 4", "read 5"].map(|name| (name, nowhere)));
    all.extend(["write 0", "write 1", "write 2", "write 3", "write 4", "write 5"].map(|name| (name, nowhere)));
    all.extend(["list 0", "list 1", "list 2", "list 3"].map(|name| (name, nowhere)));
    all.extend(["signal 0", "signal 1", "signal 2", "signal 3", "ptrace 0", "ptrace 1", "ptrace 2", "ptrace 3"].map(|name| (name, nobody)));
    let looks =
        ["environ of 0", "environ of 1", "environ of 2", "environ of 3", "memory of 0", "memory of 1", "memory of 2", "memory of 3"];
    all.extend(looks.map(|name| (name, hidden)));
    all.extend(["root of 0", "root of 1", "root of 2", "root of 3"].map(|name| (name, hidden)));
    all
}

/// Every test here but these.
const ALL: &[&str] = &["hostile::", "--skip", "again_"];

#[test]
fn again_as_an_ordinary_user() {
    if deployed::is_root() {
        again(&["setpriv", "--reuid", "64321", "--regid", "64321", "--clear-groups"], &[], Some(64_321), ALL);
    }
}

#[test]
fn again_where_namespaces_are_forbidden() {
    let forbid = "echo 0 > /proc/sys/user/max_pid_namespaces && exec \"$@\"";
    if has_user_namespaces() {
        again(&["unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh"], &[(SESSION, "1")], None, ALL);
    }
}
