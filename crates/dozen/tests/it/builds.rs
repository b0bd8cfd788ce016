//! Builds on record: who waits, who is cancelled, and what a killed server leaves.

use crate::deployed::{DOZEN, PATIENCE, Place, Said, finish, pause};
use crate::server::{Server, WEB};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::Instant;

const AT: &str = "/v1/apps/shop/deploys/production";

/// An app whose build says that it runs and then waits until it is told to go on.
pub(crate) struct Gate(TcpListener);

impl Gate {
    pub(crate) fn place() -> (Self, Place) {
        let gate = TcpListener::bind(("127.0.0.1", 0)).expect("bound");
        let port = gate.local_addr().expect("an address").port();
        let script = format!(
            "const s = require('net').connect({port}, '127.0.0.1'); s.on('data', () => process.exit(0)); s.on('close', () => process.exit(1));"
        );
        let package = r#"{"name": "shop", "version": "1.0.0", "scripts": {"build": "sh -c 'node gate.js'"}}"#;
        let place =
            Place::new(&[("Procfile", "web: exec python3 web.py\n"), ("web.py", WEB), ("package.json", package), ("gate.js", &script)]);
        (Self(gate), place)
    }

    /// Waits until a build has come so far.
    pub(crate) fn reached(&self) -> TcpStream {
        let (stream, _) = self.0.accept().expect("a build");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
    }
}

/// Fails where a build's program does not end.
fn ended(mut build: TcpStream) {
    let mut byte = [0];
    assert!(
        matches!(build.read(&mut byte), Ok(0)) || build.read(&mut byte).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
    );
}

fn git(place: &Place, args: &[&str]) -> std::process::Command {
    let mut git = place.program("git");
    for (name, value) in [("NAME", "a"), ("EMAIL", "a@example.com")] {
        git.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
    }
    git.env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_GLOBAL", "/dev/null").args(args);
    git
}

fn shop(place: &Place) -> (Server<'_>, String) {
    let server = Server::start(place);
    server.call("POST", "/v1/apps", &json!({"name": "shop"}));
    server.call("PATCH", &format!("{AT}/config"), &json!({"set": {"GREETING": "hello"}}));
    for args in [&["init", "-qb", "main"][..], &["add", "-A"], &["commit", "-qm", "one"]] {
        finish(&mut git(place, args)).ok();
    }
    let remote = format!("http://git:{}@dozen.localhost:{}/shop.git", server.token, server.port);
    (server, remote)
}

fn started(command: &mut std::process::Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts")
}

fn said(child: Child) -> Said {
    let out = child.wait_with_output().expect("ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: crate::deployed::code(out.status), out: text(&out.stdout), err: text(&out.stderr), bytes: out.stdout }
}

/// The builds, as `number state`.
fn builds(place: &Place) -> Vec<String> {
    let told = place.dozen(&["builds", "-a", "shop/production", "--json"]).ok().json();
    let word = |b: &Value, name: &str| b[name].as_str().unwrap_or_default().to_owned();
    told["builds"].as_array().expect("a list").iter().map(|b| format!("{} {}", word(b, "build"), word(b, "state"))).collect()
}

fn until_builds(place: &Place, wanted: &[&str]) {
    let end = Instant::now() + PATIENCE;
    loop {
        let now = builds(place);
        if now == wanted {
            return;
        }
        assert!(Instant::now() < end, "{now:?}, not {wanted:?}");
        pause();
    }
}

#[test]
fn a_build_that_runs_or_waits_is_cancelled_and_whoever_waits_is_told_by_whom() {
    let (gate, place) = Gate::place();
    let (server, remote) = shop(&place);
    let push = started(&mut git(&place, &["push", &remote, "main"]));
    let building = gate.reached();
    until_builds(&place, &["build.1 running"]);
    let mut second = started(place.program(DOZEN).args(["deploy", "-a", "shop/production", "--no-color"]));
    let mut lines = BufReader::new(second.stdout.take().expect("piped"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("a line");
    assert!(line.contains("Waiting for the build that is under way"), "{line}");
    // And another push.
    let third = started(&mut git(&place, &["push", &remote, "main:master"]));
    until_builds(&place, &["build.3 waiting", "build.2 waiting", "build.1 running"]);
    let told = place.dozen(&["builds", "-a", "shop/production", "--no-color"]).ok().has(&["push ", "admin", "running", "waiting"]);
    let hash = finish(&mut git(&place, &["rev-parse", "HEAD"])).ok().out;
    told.has(&[&format!("push {}", &hash[..8])]);

    place.dozen(&["builds:cancel", "build.2", "-a", "shop/production", "--json"]).ok();
    said(second).coded(1).has(&["Build cancelled by "]);
    server.call("POST", &format!("{AT}/builds/cancel"), &json!({"build": "build.3"}));
    said(third).coded(1).has(&[" !     Build cancelled by admin"]);
    until_builds(&place, &["build.3 cancelled", "build.2 cancelled", "build.1 running"]);
    // Of none named the one that is under way.
    let done = server.call("POST", &format!("{AT}/builds/cancel"), &json!({}));
    assert_eq!(done["cancelled"], "build.1");
    ended(building);
    said(push).coded(1).has(&["remote:  !     Build cancelled by admin", "The push is refused: main stays as it was"]);
    assert_eq!(place.ledger("SELECT count(*) FROM releases"), "0");
    finish(&mut git(&place, &["ls-remote", &remote])).ok().lacks(hash.trim());
    for (number, why) in [("build.1", "no build.1 under way"), ("build.9", "no build.9 under way")] {
        place.dozen(&["builds", "cancel", number, "-a", "shop/production"]).coded(1).has(&[why, "dozen builds"]);
    }
    place.dozen(&["builds", "cancel", "-a", "shop/production"]).coded(1).has(&["has no build under way"]);
    place.dozen(&["builds", "cancel", "nine", "-a", "shop/production"]).coded(2);
    // Nothing of it stands against the next one, and what fails by itself says why.
    let push = started(&mut git(&place, &["push", &remote, "main"]));
    std::io::Write::write_all(&mut gate.reached(), b"x").expect("sent");
    said(push).ok().has(&["Released v1"]);
    place.write("Procfile", "no process\n");
    place.dozen(&["deploy", "-a", "shop/production"]).coded(1);
    until_builds(&place, &["build.5 failed", "build.4 succeeded", "build.3 cancelled", "build.2 cancelled", "build.1 cancelled"]);
    place.dozen(&["builds", "-a", "shop/production"]).ok().has(&["by admin", "Procfile cannot be used", "slug "]);
    place.dozen(&["events", "-a", "shop"]).ok().has(&["cancel a build", "build.1"]);
    server.stop();
    place.assert_nothing_left();
}

#[test]
fn a_pusher_who_leaves_ends_the_build_and_a_killed_server_has_failed_it() {
    let (gate, place) = Gate::place();
    let (server, remote) = shop(&place);
    let mut push = git(&place, &["push", &remote, "main"]);
    std::os::unix::process::CommandExt::process_group(&mut push, 0);
    let mut push = started(&mut push);
    let building = gate.reached();
    let group = rustix::process::Pid::from_child(&push);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).expect("killed");
    push.wait().expect("ended");
    ended(building);
    until_builds(&place, &["build.1 cancelled"]);

    let push = started(&mut git(&place, &["push", &remote, "main"]));
    let building = gate.reached();
    server.kill();
    ended(building);
    assert_ne!(said(push).code, 0);
    // As long as no server runs the ledger itself tells.
    assert_eq!(builds(&place), ["build.2 failed", "build.1 cancelled"]);
    let server = Server::start(&place);
    assert_eq!(place.ledger("SELECT failure FROM builds WHERE number = 2"), "interrupted: dozen ended before it was done");
    assert_eq!(builds(&place), ["build.2 failed", "build.1 cancelled"]);
    server.stop();
    place.assert_nothing_left();
}

#[test]
fn a_build_ends_with_its_deploy_and_the_next_one_of_that_name_has_nothing_of_it() {
    let (gate, place) = Gate::place();
    let (server, remote) = shop(&place);
    let push = started(&mut git(&place, &["push", &remote, "main"]));
    let building = gate.reached();
    let waiting = started(&mut git(&place, &["push", &remote, "main:master"]));
    until_builds(&place, &["build.2 waiting", "build.1 running"]);
    server.call("DELETE", AT, &Value::Null);
    // They have ended by then, and not only when somebody looks.
    ended(building);
    for push in [push, waiting] {
        said(push).coded(1).has(&["shop/production was stopped or destroyed meanwhile", "The push is refused"]);
    }
    server.call("POST", "/v1/apps/shop/deploys", &json!({"name": "production"}));
    server.call("PATCH", &format!("{AT}/config"), &json!({"set": {"GREETING": "second"}}));
    until_builds(&place, &[]);
    let push = started(&mut git(&place, &["push", &remote, "main"]));
    std::io::Write::write_all(&mut gate.reached(), b"x").expect("sent");
    said(push).ok().has(&["Released v1"]).lacks("Waiting for");
    until_builds(&place, &["build.1 succeeded"]);
    assert_eq!(place.ledger("SELECT count(*) FROM releases"), "1");
    server.stop();
    place.assert_nothing_left();
}

#[test]
fn a_slug_that_was_collected_while_it_waited_for_its_turn_is_told_of_as_that() {
    let other = Place::new(&[("Procfile", "web: exec python3 web.py\n"), ("web.py", WEB)]);
    let file = other.beside("app.slug").to_string_lossy().into_owned();
    other.dozen(&["build", "-o", &file]).ok();
    let (gate, place) = Gate::place();
    let (server, remote) = shop(&place);
    let push = started(&mut git(&place, &["push", &remote, "main"]));
    let mut building = gate.reached();
    let mut waits = started(place.program(DOZEN).args(["deploy", "-a", "shop/production", "--slug", &file, "--no-color"]));
    let mut lines = BufReader::new(waits.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("Waiting for the build that is under way")));
    crate::slugs::age(&place);
    place.dozen(&["slugs", "collect"]).ok().has(&["Removed 1 slug"]);
    std::io::Write::write_all(&mut building, b"x").expect("sent");
    said(push).ok().has(&["Released v1"]);
    let home = place.home().to_string_lossy().into_owned();
    said(waits).coded(1).has(&["waited so long to be released to shop/production that it was collected", "Send it again"]).lacks(&home);
    server.stop();
    place.assert_nothing_left();
}
