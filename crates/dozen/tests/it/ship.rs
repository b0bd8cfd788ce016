//! Code that comes to a deploy other than by git, and goes from one deploy to another.

use crate::deployed::{Place, Said, ask, finish, finish_with};
use crate::server::{Server, WEB};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::process::Command;

const PROCFILE: &str = "web: exec python3 web.py\nrelease: echo releasing $DOZEN_RELEASE_VERSION of $GREETING\n";
const WHERE: &str = "/v1/apps/shop/deploys/production";

/// A place with an app's code, whose server has the app.
fn shop(place: &Place) -> Server<'_> {
    let server = Server::start(place);
    server.call("POST", "/v1/apps", &json!({"name": "shop"}));
    server.call("PATCH", &format!("{WHERE}/config"), &json!({"set": {"GREETING": "hello"}}));
    server
}

fn code() -> Place {
    Place::new(&[("Procfile", PROCFILE), ("web.py", WEB)])
}

fn deploy(place: &Place, args: &[&str]) -> Said {
    place.dozen(&[&["deploy", "-a", "shop/production", "--no-color"], args].concat())
}

fn git(place: &Place, args: &[&str]) -> Said {
    let mut git = place.program("git");
    for (name, value) in [("NAME", "a"), ("EMAIL", "a@example.com")] {
        git.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
    }
    finish(git.env("GIT_CONFIG_GLOBAL", "/dev/null").args(args))
}

/// What a page of it says, without the process' own number.
fn page(server: &Server<'_>, host: &str) -> String {
    let answer = server.get(host);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body.split(' ').next().unwrap_or_default().to_owned()
}

fn described(server: &Server<'_>, deploy: &str) -> String {
    let releases = server.call("GET", &format!("/v1/apps/shop/deploys/{deploy}/releases"), &Value::Null);
    releases["releases"][0]["description"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_folder_a_commit_an_archive_and_a_slug_are_deployed() {
    let place = code();
    place.write(".env", "GREETING=never\n");
    let server = shop(&place);
    deploy(&place, &[]).ok().has(&["Procfile declares types", "Running release command", "Launching...", "Released v1", "deployed"]);
    assert_eq!(page(&server, "shop.localhost"), "hello");
    deploy(&place, &[]).ok().has(&["Nothing changed: v1 again"]);

    // A commit goes out exactly, whatever lies in the folder.
    git(&place, &["init", "-qb", "main"]).ok();
    git(&place, &["add", "Procfile", "web.py"]).ok();
    git(&place, &["commit", "-qm", "one"]).ok();
    place.write("Procfile", "web: exit 3\n");
    let hash = git(&place, &["rev-parse", "HEAD"]).ok().out.trim().to_owned();
    deploy(&place, &["--commit", "main"]).ok().has(&["Released v2"]);
    assert_eq!(described(&server, "production"), format!("Deploy {}", &hash[..8]));
    deploy(&place, &["--commit", "nothing"]).coded(1).has(&["there is no commit nothing"]);

    // What fails is told, and what served serves on.
    deploy(&place, &[]).coded(1).has(&["v3 did not come up", "v2 keeps serving"]);
    assert_eq!(page(&server, "shop.localhost"), "hello");
    let events = deploy(&place, &["--json"]).coded(1);
    let last: Value = serde_json::from_str(events.out.lines().last().unwrap_or_default()).expect("JSON");
    assert_eq!(last["event"], "error", "{}", events.out);

    git(&place, &["checkout", "-q", "Procfile"]).ok();
    place.write("static/new.txt", "x");
    git(&place, &["add", "static"]).ok();
    git(&place, &["commit", "-qm", "two"]).ok();
    let archive = place.beside("shop.tar.gz");
    git(&place, &["archive", "-o", &archive.to_string_lossy(), "HEAD"]).ok();
    deploy(&place, &["--archive", &archive.to_string_lossy()]).ok().has(&["Released v5"]);
    // The same by way of the router.
    let tar = std::fs::read(&archive).expect("there");
    let head = format!(
        "POST {WHERE}/builds HTTP/1.1\r\nHost: dozen.localhost\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
        server.token,
        tar.len()
    );
    let told = ask(server.port, &[head.as_bytes(), &tar].concat());
    assert!(told.status == 200 && told.body.contains(r#"{"event":"ready""#), "{}", told.body);
    assert!(told.body.contains("Nothing changed: v5 again"), "{}", told.body);
    let hash = git(&place, &["rev-parse", "HEAD"]).ok().out.trim().to_owned();
    assert_eq!(described(&server, "production"), format!("Deploy {}", &hash[..8]), "git archive says of which commit it is");

    let slug = place.beside("shop.slug");
    place.write("static/newer.txt", "x");
    place.dozen(&["build", "-a", "shop", "-o", &slug.to_string_lossy()]).ok();
    let bytes = std::fs::read(&slug).expect("there");
    let sent = finish_with(place.program(crate::deployed::DOZEN).args(["deploy", "-a", "shop/production", "--slug", "-"]), &bytes);
    sent.ok().has(&["Released v6"]);
    assert_eq!(page(&server, "shop.localhost"), "hello");
    server.stop();
    place.assert_nothing_left();
}

#[test]
fn what_is_hostile_is_refused_and_nothing_is_left_behind() {
    let place = code();
    let server = shop(&place);
    let hostile = place.beside("hostile.tar");
    std::fs::write(place.beside("secret"), "x").expect("written");
    finish(Command::new("tar").current_dir(place.folder()).args(["-P", "-cf"]).arg(&hostile).arg("../secret")).ok();
    deploy(&place, &["--archive", &hostile.to_string_lossy()]).coded(1).has(&["leads out of the app's folder", "Nothing of it was kept"]);
    deploy(&place, &["--archive", &place.beside("secret").to_string_lossy()]).coded(1).has(&["no whole tar file"]);
    deploy(&place, &["--slug", &place.beside("secret").to_string_lossy()]).coded(1);
    deploy(&place, &["--archive", "/nonexistent"]).coded(2);
    place.write("Procfile", "no process at all\n");
    deploy(&place, &[]).coded(1).has(&["Procfile"]);
    let left = std::fs::read_dir(place.home().join("checkouts")).map_or(0, Iterator::count);
    assert_eq!(left, 0);
    assert_eq!(place.ledger("SELECT count(*) FROM releases"), "0");
    // Whoever may only look deploys nothing, and who is nobody does not even look.
    assert_eq!(server.ask_as(None, "POST", &format!("{WHERE}/builds"), &json!({})).status, 401);
    assert_eq!(server.ask_as(Some(&server.token), "POST", &format!("{WHERE}/builds"), &json!({})).status, 415);
    server.stop();
    place.assert_nothing_left();
}

#[test]
fn a_second_build_waits_its_turn_and_both_go_on_without_who_asked() {
    let place = code();
    let gate = TcpListener::bind(("127.0.0.1", 0)).expect("bound");
    let port = gate.local_addr().expect("an address").port();
    // Its release phase waits for the end of its connection, and the other build for that.
    place.write("release.py", format!("import socket\nsocket.create_connection(('127.0.0.1', {port})).recv(1)\n"));
    place.write("Procfile", "web: exec python3 web.py\nrelease: exec python3 release.py\n");
    let server = shop(&place);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| deploy(&place, &["--json"]));
        let (waits, _) = gate.accept().expect("the first is under way");
        let mut second = place.program(crate::deployed::DOZEN);
        let mut second =
            second.args(["deploy", "-a", "shop/production", "--json"]).stdout(std::process::Stdio::piped()).spawn().expect("runs");
        let mut said = std::io::BufReader::new(second.stdout.take().expect("piped"));
        let mut line = String::new();
        std::io::BufRead::read_line(&mut said, &mut line).expect("a line");
        assert!(line.contains("Waiting for the build that is under way"), "{line}");
        // Whoever asked goes.
        second.kill().expect("killed");
        second.wait().expect("ended");
        drop((waits, gate));
        first.join().expect("no panic").ok().has(&["\"released\"", "\"ready\""]);
    });
    assert_eq!(page(&server, "shop.localhost"), "hello");
    server.stop();
    place.assert_nothing_left();
}

#[test]
fn a_promotion_takes_the_code_alone() {
    let place = code();
    place.write("app.json", r#"{"env": {"GREETING": {"required": true}}}"#);
    let server = shop(&place);
    server.call("POST", "/v1/apps/shop/deploys", &json!({"name": "staging"}));
    place.dozen(&["config", "set", "-a", "shop/staging", "GREETING=hi", "ONLY_HERE=1"]).ok();
    place.dozen(&["deploy", "-a", "shop/staging"]).ok();
    assert_eq!(page(&server, "shop-staging.localhost"), "hi");

    let promote = |args: &[&str]| place.dozen(&[&["promote", "-a", "shop/staging", "--no-color"], args].concat());
    promote(&[]).ok().has(&["Promoting shop/staging v1 to shop/production", "Running release command", "Released v1"]);
    assert_eq!(page(&server, "shop.localhost"), "hello", "its own config");
    assert_eq!(described(&server, "production"), "Promote shop/staging v1");
    assert_eq!(place.ledger("SELECT count(DISTINCT slug) FROM releases"), "1", "the same slug, not built again");
    promote(&[]).ok().has(&["Nothing changed: v1 again"]);
    // By way of the router it needs a token.
    let asked = json!({"from": "staging", "to": "production"});
    assert_eq!(server.ask_as(None, "POST", "/v1/apps/shop/promotions", &asked).status, 401);
    let told = server.ask_as(Some(&server.token), "POST", "/v1/apps/shop/promotions", &asked);
    assert!(told.status == 200 && told.body.contains(r#"{"event":"ready","deploy":"shop/production""#), "{}", told.body);
    let unknown = json!({"from": "staging", "to": "nowhere"});
    assert_eq!(server.ask_as(Some(&server.token), "POST", "/v1/apps/shop/promotions", &unknown).status, 404);
    promote(&["--to", "nowhere"]).coded(2).has(&["there is no deploy shop/nowhere"]);
    promote(&["--to", "staging"]).coded(2).has(&["to itself"]);

    let diff = |args: &[&str]| place.dozen(&[&["config", "diff", "shop/staging", "production", "--no-color"], args].concat()).ok();
    diff(&[]).has(&["Only in shop/staging", "ONLY_HERE", "Different", "GREETING"]).lacks("hello");
    diff(&["--show"]).has(&["shop/staging: hi", "shop/production: hello"]);
    let told = diff(&["--json"]).json();
    assert_eq!((&told["only_from"], &told["only_to"], &told["different"]), (&json!(["ONLY_HERE"]), &json!([]), &json!(["GREETING"])));

    // What app.json requires and the other deploy lacks stands against it, before anything is released.
    server.call("POST", "/v1/apps/shop/deploys", &json!({"name": "empty"}));
    promote(&["--to", "empty"]).coded(1).has(&["shop/empty lacks config that app.json requires: GREETING", "dozen config set"]);
    assert_eq!(place.ledger("SELECT count(*) FROM releases WHERE deploy = 'shop/empty'"), "0");
    // Its release phase runs as for each release; where that fails the one before serves on.
    place.write("Procfile", "web: exec python3 web.py\nrelease: test $GREETING = hi\n");
    place.dozen(&["deploy", "-a", "shop/staging"]).ok();
    promote(&[]).coded(1).has(&["the release phase of v2"]);
    assert_eq!(page(&server, "shop.localhost"), "hello");
    server.stop();
    place.assert_nothing_left();
}
