//! End to end: an app that goes for another deploy and for dozen itself. Each attempt's outcome stands in the table of docs/vi-processes.md.

use crate::deployed::{Deployed, Place, WEB, finish, is_root};
use crate::doctor::kernel;
use crate::machines::{HOST_VIEW, as_an_ordinary_user, dozen, host_view, level, where_namespaces_are_forbidden};
use crate::processes::fences::{ATTEMPTS, PYTHON, assert_outcomes};
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
/// What a build adds to the attempts of an app.
const BUILD: &str = include_str!("hostile/build.py");

#[test]
fn a_hostile_app_reaches_neither_another_deploy_nor_the_platform() {
    let place = victims_place();
    let mut victim = up(&place, place.folder());
    let (targets, guarded) = victimize(&place, &mut victim);

    let thief = place.beside("thief");
    std::fs::create_dir(&thief).expect("made");
    let attempts = format!("worker: {PYTHON} attempts.py && {PYTHON} stay.py\n");
    for (name, text) in [("Procfile", attempts.as_str()), ("attempts.py", ATTEMPTS), ("stay.py", STAY)] {
        std::fs::write(thief.join(name), text).expect("written");
    }
    std::fs::write(thief.join(".env"), format!("TARGETS='{targets}'\n")).expect("written");
    let hostile = up(&place, &thief);
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

#[test]
fn a_hostile_build_reaches_neither_another_app_nor_the_platform() {
    let place = victims_place();
    let mut victim = up(&place, place.folder());
    let (targets, guarded) = victimize(&place, &mut victim);
    // What dozen would find by links, and would remove, write or hand out.
    let outside = place.beside("outside");
    for folder in [".cache", "own"] {
        std::fs::create_dir_all(outside.join(folder)).expect("made");
    }
    let thief = place.beside("thief");
    std::fs::create_dir_all(thief.join("own")).expect("made");
    // Where there is a /tmp of its own, it is tried to be filled.
    let apart = if host_view() { "" } else { "env -u TMPDIR " };
    let scripts = format!("{apart}{PYTHON} attempts.py && {PYTHON} build.py");
    let package = |scripts: Value, more: Value| {
        let mut package = json!({"name": "thief", "version": "1.0.0", "scripts": scripts});
        package.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        std::fs::write(thief.join("package.json"), package.to_string()).expect("written");
    };
    package(json!({ "build": scripts }), json!({}));
    let files = [("Procfile", "clock: sleep 1000\n"), ("attempts.py", ATTEMPTS), ("build.py", BUILD), ("sealed.txt", "sealed\n")];
    for (name, text) in files {
        std::fs::write(thief.join(name), text).expect("written");
    }
    let dotenv = format!("TARGETS='{targets}'\nOUTSIDE={}\n", outside.display());
    std::fs::write(thief.join(".env"), dotenv).expect("written");
    let own = place.beside("own-home");
    std::fs::create_dir(&own).expect("made");
    std::fs::write(own.join(".npmrc"), "fund=false\n").expect("written");
    std::fs::set_permissions(own.join(".npmrc"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
    let once = || {
        let mut command = place.program(&dozen().to_string_lossy());
        finish(command.args(["up", "--port", "0", "--once", "--no-color"]).arg(&thief).env("HOME", &own))
    };
    let said = once().ok();
    let mut found = said.all().lines().filter_map(|l| serde_json::from_str(l.trim()).ok()).collect::<Vec<Map<String, Value>>>().into_iter();
    let mut wanted = wanted(guarded);
    wanted.iter_mut().filter(|(name, _)| name.starts_with("API")).for_each(|(_, outcomes)| {
        // Whose uid it has not, the socket's folder keeps out.
        *outcomes = if host_view() { &["refused", "ECONNRESET", "EPIPE", "EACCES"] } else { &["ENOENT"] };
    });
    assert_outcomes(found.next().expect("attempts"), &wanted);
    let found = found.next().expect("what was prepared");
    let is = |name: &str, outcomes: &[&str]| assert!(outcomes.contains(&found[name].as_str().expect("a word")), "{name}: {found:?}");
    // Where there are no mounts both lie on one disk; the slug gets a file of its own.
    is("keep a file by a hard link", if host_view() { &["done"] } else { &["EXDEV"] });
    is("write /usr", &["EROFS", "EACCES"]);
    is("write the script of the package manager", &["EROFS", "EACCES"]);
    is("list /root", &["ENOENT", "EACCES"]);
    is("read the owner's .npmrc", &["fund=false"]);
    is("write the owner's .npmrc", &["EROFS", "EACCES"]);
    let uid: u32 = found["uid"].as_str().and_then(|uid| uid.parse().ok()).expect("a number");
    let alone = is_root() && !host_view();
    assert!(if alone { (500_000..524_288).contains(&uid) } else { uid == rustix::process::geteuid().as_raw() }, "{uid}");
    assert_eq!(said.all().contains("the build runs as root"), is_root() && host_view(), "{}", said.all());

    let sealed = slug_with(&place, "sealed.txt");
    let text = || std::fs::read_to_string(&sealed).expect("readable");
    let before = text();
    assert_owned(sealed.parent().expect("a tree"));
    std::fs::write(thief.join("more.txt"), "").expect("written");
    once().ok();
    assert_eq!(text(), before, "the next build changed a slug");

    // The same by a script that comes before packages are put into the tree.
    let dependency = json!({"dependencies": {"own": "file:own"}});
    package(json!({"heroku-prebuild": format!("ln -s {} node_modules", outside.display())}), dependency);
    std::fs::write(thief.join("own/package.json"), r#"{"name": "own", "version": "1.0.0"}"#).expect("written");
    once().coded(1).has(&["cannot write"]);
    let left: Vec<_> = std::fs::read_dir(&outside).expect("there").flatten().map(|e| e.file_name()).collect();
    assert!(left.len() == 2 && outside.join("own").read_dir().expect("a folder").next().is_none(), "{left:?}");

    assert_eq!(victim.page("/env/SECRET"), "correct-horse");
    victim.stop();
    place.assert_nothing_left();
}

/// A file of a slug, which has such a file at its root.
fn slug_with(place: &Place, name: &str) -> PathBuf {
    let slugs = std::fs::read_dir(place.home().join("slugs")).expect("slugs").flatten();
    slugs.map(|slug| slug.path().join("tree").join(name)).find(|file| file.exists()).expect("one of them")
}

/// Nothing of a build is left in a slug: neither its files as somebody else's, nor what it ran with.
fn assert_owned(tree: &Path) {
    use std::os::unix::fs::MetadataExt;
    let beside = std::fs::read_dir(tree.parent().expect("a slug")).expect("listed").flatten();
    let mut names: Vec<_> = beside.map(|e| e.file_name()).collect();
    names.sort();
    assert_eq!(names, ["manifest.json", "slug.json", "tree"]);
    for entry in std::fs::read_dir(tree).expect("listed").flatten() {
        let meta = entry.metadata().expect("there");
        assert_eq!(meta.uid(), rustix::process::geteuid().as_raw(), "{}", entry.path().display());
        assert!(meta.is_dir() || meta.nlink() == 1, "{}", entry.path().display());
    }
}

fn up<'a>(place: &'a Place, folder: &Path) -> Deployed<'a> {
    let mut command = place.program(&dozen().to_string_lossy());
    command.args(["up", "--port", "0", "--json"]).arg(folder).env_remove(HOST_VIEW);
    place.started(&mut command)
}

fn victims_place() -> Place {
    let place = Place::named("victim", &[("web.py", WEB), (".env", "SECRET=correct-horse\n")]);
    place.write("app.json", r#"{"addons": ["sqlite"]}"#);
    place.write("Procfile", "web: python3 web.py\nkeeper: cd $(mktemp -d) && echo s > secret && echo keeps $PWD/secret && sleep 1000\n");
    place
}

/// Lets it come up and have something; answers all of its own, and whether its port is guarded.
fn victimize(place: &Place, victim: &mut Deployed<'_>) -> (Value, bool) {
    victim.ready();
    let database = victim.page("/env/DATABASE_URL");
    assert_eq!(victim.page("/add/word"), "1");
    let kept = victim.line("keeper.1", "keeps /");
    targets(place, victim, &[kept.trim_start_matches("keeps "), database.trim_start_matches("sqlite://")])
}

/// All that is not the thief's, and whether its port is guarded.
fn targets(place: &Place, victim: &Deployed<'_>, more: &[&str]) -> (Value, bool) {
    let home = place.home();
    let code = slug_with(place, "web.py");
    let socket = socket(&home.join("run")).expect("the API's socket");
    let token_file = socket.with_extension("token");
    // It is refused even if the token had leaked.
    let token = std::fs::read_to_string(&token_file).expect("the API's token");
    let ps = place.program(&dozen().to_string_lossy()).args(["ps", "--json"]).output().expect("asked");
    let ps: Value = serde_json::from_slice(&ps.stdout).expect("JSON");
    let web = ps["processes"].as_array().expect("a list").iter().find(|p| p["name"] == "web.1").expect("a web").clone();
    assert_eq!(web["isolation"], level());
    let guarded = !ps["not_enforced"].as_array().expect("a list").iter().any(|what| what.to_string().contains("guard"));
    let targets = json!({
        "files": [code, home.join("ledger.db"), key(&home), place.folder().join(".env"), more[0], more[1], home.join("cache/victim/sources.json"), token_file],
        "folders": [&home.join("slugs"), &home.join("logs"), place.folder(), &home.join("cache/victim"), &home],
        "pids": [web["pid"], web["jail_pid"], victim.pid(), victim.router()],
        "ports": [web["port"], victim.port()],
        "connect": [web["port"]],
        "apis": [[socket, "/v1/apps/victim/deploys/dev/processes", token]],
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

/// The outcomes. Within a view nothing of the others exists; without one Landlock refuses it.
fn wanted(guarded: bool) -> Vec<(&'static str, &'static [&'static str])> {
    let nowhere: &[&str] = if host_view() { &["EACCES"] } else { &["ENOENT"] };
    let nobody: &[&str] = if host_view() { &["EPERM"] } else { &["ESRCH"] };
    let hidden: &[&str] = if host_view() { &["EACCES", "EPERM"] } else { &["ENOENT"] };
    // Without rules for ports, those of others are taken all the same.
    let bound: &[&str] = if kernel() >= (6, 7) { &["EACCES"] } else { &["EADDRINUSE"] };
    let mut all: Vec<(&str, &[&str])> = vec![
        ("bind 0", bound),
        ("bind 1", bound),
        ("API 0", if host_view() { &["refused", "ECONNRESET", "EPIPE"] } else { &["ENOENT"] }),
        // Without the guard this is not enforced: the network is the host's.
        ("connect 0", if guarded { &["ECONNREFUSED"] } else { &["done"] }),
    ];
    all.extend(["read 0", "read 1", "read 2", "read 3", "read 4", "read 5", "read 6", "read 7"].map(|name| (name, nowhere)));
    all.extend(["write 0", "write 1", "write 2", "write 3", "write 4", "write 5", "write 6", "write 7"].map(|name| (name, nowhere)));
    all.extend(["list 0", "list 1", "list 2", "list 3", "list 4"].map(|name| (name, nowhere)));
    all.extend(["ptrace 0", "ptrace 1", "ptrace 2", "ptrace 3"].map(|name| (name, nobody)));
    let signalled: &[&str] = if host_view() && kernel() < (6, 12) { &["done"] } else { nobody };
    all.extend(["signal 0", "signal 1", "signal 2", "signal 3"].map(|name| (name, signalled)));
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
    as_an_ordinary_user(ALL);
}

#[test]
fn again_where_namespaces_are_forbidden() {
    where_namespaces_are_forbidden(ALL);
}
