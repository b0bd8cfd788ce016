//! git pushes by way of the router.

use super::{Server, WEB};
use crate::deployed::{Place, Said, finish};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

pub(super) fn git(place: &Place, args: &[&str]) -> Said {
    let mut git = place.program("git");
    for (name, value) in [("NAME", "a"), ("EMAIL", "a@example.com")] {
        git.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
    }
    finish(git.env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_GLOBAL", "/dev/null").args(args))
}

pub(super) fn commit(place: &Place, message: &str) {
    git(place, &["add", "-A"]).ok();
    git(place, &["commit", "-qm", message]).ok();
}

#[test]
fn what_is_pushed_runs_and_each_deploy_has_its_own_branch() {
    let place = Place::new(&[("Procfile", "web: exec python3 web.py\nworker: sleep 1000\n"), ("web.py", WEB)]);
    let server = Server::start(&place);
    server.call("POST", "/v1/apps", &json!({"name": "shop"}));
    server.call("PATCH", "/v1/apps/shop/deploys/production/config", &json!({"set": {"GREETING": "first"}}));
    git(&place, &["init", "-qb", "main"]).ok();
    commit(&place, "one");
    let at = |token: &str, path: &str| format!("http://git:{token}@dozen.localhost:{}/{path}", server.port);
    for token in ["", "dozen_nonsense"] {
        git(&place, &["push", &at(token, "shop.git"), "main"]).coded(128);
    }
    let production = at(&server.token, "shop.git");
    git(&place, &["push", &production, "main"]).ok().has(&["Procfile declares types", "Released v1", "http://shop.localhost"]);
    let page = server.get("shop.localhost");
    assert_eq!((page.status, page.body.starts_with("first ")), (200, true), "{}", page.body);
    let processes = server.call("GET", "/v1/apps/shop/deploys/production/processes", &Value::Null);
    assert_eq!(processes["formation"], "web=1 worker=0", "the first formation is Heroku's");

    // What does not come up is refused, and what served serves on.
    place.write("Procfile", "web: exit 3\n");
    commit(&place, "two");
    git(&place, &["push", &production, "main"]).coded(1).has(&["v1 keeps serving", "pre-receive hook declined"]);
    assert_eq!(server.get("shop.localhost").body, page.body);
    git(&place, &["ls-remote", &production, "main"]).ok().lacks(git(&place, &["rev-parse", "HEAD"]).ok().out.trim());

    // The same commit goes to another deploy, and is cloned from there.
    git(&place, &["reset", "-q", "--hard", "HEAD~1"]).ok();
    server.call("POST", "/v1/apps/shop/deploys", &json!({"name": "staging", "from": "production"}));
    let staging = at(&server.token, "shop/staging.git");
    git(&place, &["push", &staging, "main"]).ok().has(&["Released v1", "http://shop-staging.localhost"]);
    assert_eq!(server.get("shop-staging.localhost").status, 200);
    let clone = place.beside("clone");
    git(&place, &["clone", "-q", &staging, &clone.to_string_lossy()]).ok();
    assert!(clone.join("web.py").is_file());
    git(&place, &["push", &at(&server.token, "nobody.git"), "main"]).coded(128).has(&["remote: there is no deploy nobody/production"]);
    server.stop();
    place.assert_nothing_left();
}

#[test]
fn a_person_logs_in_once_and_then_git_and_dozen_need_nothing_more() {
    let place = Place::new(&[("Procfile", "web: exec python3 web.py\n"), ("web.py", WEB)]);
    let server = Server::start(&place);
    let url = format!("http://dozen.localhost:{}", server.port);
    place.dozen(&["apps", "create", "shop", "--server", &url]).coded(1).has(&["not logged in", "dozen login"]);
    place.dozen(&["login", &url, "--token", &server.token]).ok().has(&["Logged in", "as admin"]);
    place.dozen(&["apps:create", "shop"]).ok().has(&["Creating shop... done", &format!("http://shop.localhost:{}", server.port)]);
    place.dozen(&["deploys", "create", "staging", "-a", "shop"]).ok();
    git(&place, &["init", "-qb", "main"]).ok();
    let remotes = place.dozen(&["git:remote", "-a", "shop", "--json"]).ok().json();
    let names: Vec<&str> = remotes["remotes"].as_array().expect("a list").iter().filter_map(|r| r["remote"].as_str()).collect();
    assert_eq!(names, ["dozen", "dozen-staging"]);
    // Once more changes nothing.
    place.dozen(&["git", "remote", "-a", "shop"]).ok();
    commit(&place, "one");
    // From here on the folder says which server and which deploy.
    place.dozen(&["config", "set", "GREETING=from afar"]).ok();
    git(&place, &["push", "dozen", "main"]).ok().has(&["Released v1"]);
    assert!(server.get("shop.localhost").body.starts_with("from afar "));
    place.dozen(&["ps"]).ok().has(&["=== shop/production v1", "web.1"]);
    place.dozen(&["config", "set", "GREETING=once more"]).ok().has(&["restarting shop... done, v2"]);
    assert!(server.get("shop.localhost").body.starts_with("once more "));
    place.dozen(&["logs", "-n", "all", "-p", "web"]).ok().has(&["State changed from starting to up"]);
    place.dozen(&["run", "--", "echo", "from inside"]).ok().has(&["from inside"]);
    assert!(!std::fs::read_to_string(place.folder().join(".git/config")).expect("read").contains(&server.token));
    place.dozen(&["logout", &url]).ok();
    git(&place, &["push", "dozen", "main:other"]).coded(128);
    server.stop();
    place.assert_nothing_left();
}

#[test]
fn a_push_that_is_refused_leaves_formation_and_processes_as_they_were_and_says_why() {
    let whole = "web: exec python3 web.py\nworker: exec sleep 1000\nclock: exec sleep 1000\n";
    let place = Place::new(&[("Procfile", whole), ("web.py", WEB), ("app.json", r#"{"formation": {"clock": {"quantity": 1}}}"#)]);
    let server = Server::start(&place);
    let at = "/v1/apps/shop/deploys/production";
    server.call("POST", "/v1/apps", &json!({"name": "shop"}));
    server.call("PATCH", &format!("{at}/config"), &json!({"set": {"GREETING": "s3cret-greeting"}}));
    git(&place, &["init", "-qb", "main"]).ok();
    commit(&place, "one");
    let remote = format!("http://git:{}@dozen.localhost:{}/shop.git", server.token, server.port);
    git(&place, &["push", &remote, "main"]).ok();
    server.call("PATCH", &format!("{at}/formation"), &json!({"changes": ["web=2", "worker=1"]}));
    server.call("POST", &format!("{at}/stops"), &json!({"types": ["clock"]}));
    let runs = || {
        let processes = server.call("GET", &format!("{at}/processes"), &Value::Null);
        let up = |p: &&Value| p["release"] == "v1" && (p["state"] == "up" || p["state"] == "starting");
        let of = |p: &Value| p["name"].as_str().unwrap_or_default().to_owned();
        let mut names: Vec<String> = processes["processes"].as_array().expect("a list").iter().filter(up).map(of).collect();
        names.sort();
        (processes["formation"].clone(), processes["types"].clone(), names)
    };
    let before = runs();
    assert_eq!(before.0, "clock=1 web=2 worker=1");
    let release = "release: echo $GREETING cannot; exit 4\nweb: exec python3 web.py\n";
    let hint = "Its output: `dozen logs -p release.";
    for (procfile, why) in [
        ("web: exit 3\n", &["v1 keeps serving", "More of it: `dozen logs`"][..]),
        (release, &["       ******** cannot", "failed with exit code 4", hint]),
    ] {
        place.write("Procfile", procfile);
        commit(&place, procfile);
        git(&place, &["push", &remote, "main"]).coded(1).has(why).lacks("s3cret-greeting");
        assert_eq!(runs(), before, "{procfile}");
    }
    // What succeeds has its own types, and the release phase comes before the launch.
    place.write("Procfile", "release: echo it is done\nweb: exec python3 web.py\nother: exec sleep 1000\n");
    commit(&place, "good");
    let said = git(&place, &["push", &remote, "main"]).ok();
    let said = said.has(&["Running release command", "it is done", "Launching...", "Released v4"]);
    assert!(said.err.find("it is done") < said.err.find("Launching..."), "{}", said.err);
    assert_eq!(runs().0, "other=0 web=2");
    server.stop();
    place.assert_nothing_left();
}

#[test]
fn a_push_to_a_deploy_that_is_destroyed_meanwhile_says_that() {
    let place = Place::new(&[("Procfile", "web: sleep 1000\nrelease: echo it begins; exec sleep 1000\n")]);
    let server = Server::start(&place);
    server.call("POST", "/v1/apps", &json!({"name": "shop"}));
    git(&place, &["init", "-qb", "main"]).ok();
    commit(&place, "one");
    let remote = format!("http://git:{}@dozen.localhost:{}/shop.git", server.token, server.port);
    let mut git = place.program("git");
    git.env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_GLOBAL", "/dev/null").args(["push", &remote, "main"]);
    let mut push = git.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("git starts");
    let mut lines = BufReader::new(push.stderr.take().expect("piped")).lines().map_while(Result::ok);
    // The release phase is heard of while it runs.
    assert!(lines.any(|line| line.contains("       it begins")));
    server.call("DELETE", "/v1/apps/shop/deploys/production", &Value::Null);
    let rest: Vec<String> = lines.collect();
    assert!(rest.iter().any(|line| line.contains("shop/production was destroyed meanwhile")), "{rest:#?}");
    assert!(!push.wait().expect("it ends").success());
    server.stop();
    place.assert_nothing_left();
}
