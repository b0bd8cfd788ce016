//! `dozen server check`.

use super::pushes::{commit, git};
use super::{Server, WEB};
use crate::deployed::Place;
use serde_json::json;

#[test]
fn a_home_is_sound_until_something_of_it_is_not_what_it_was() {
    let place = Place::new(&[("Procfile", "web: exec python3 web.py\n"), ("web.py", WEB)]);
    place.dozen(&["server", "check"]).coded(1).has(&["there is no ledger in", "DOZEN_HOME"]);
    assert!(!place.home().join("ledger.db").exists(), "looking makes nothing");

    let server = Server::start(&place);
    server.call("POST", "/v1/apps", &json!({"name": "shop"}));
    server.call("PATCH", "/v1/apps/shop/deploys/production/config", &json!({"set": {"GREETING": "hello"}}));
    git(&place, &["init", "-qb", "main"]).ok();
    commit(&place, "one");
    let remote = format!("http://git:{}@dozen.localhost:{}/shop.git", server.token, server.port);
    git(&place, &["push", &remote, "main"]).ok();
    // One that is asked for and that nothing was pushed to.
    server.call("POST", "/v1/apps/shop/deploys", &json!({"name": "staging"}));
    git(&place, &["ls-remote", &remote.replace("shop.git", "shop/staging.git")]).ok();
    // What real histories have wrong is taken in by a push, and is no fault afterwards.
    let tree = git(&place, &["write-tree"]).ok().out;
    let raw = format!("tree {}author a <a@b> 1700000000 +051800\ncommitter a <a@b> 1700000000 +051800\n\nold\n", tree);
    place.write("../raw", &raw);
    let odd = git(&place, &["hash-object", "-t", "commit", "-w", "--literally", "../raw"]).ok().out;
    git(&place, &["push", "--force", &remote, &format!("{}:refs/heads/main", odd.trim())]).ok();
    // While it runs, and where nothing does.
    place.dozen(&["server", "check"]).ok().has(&["2 deploys, 2 releases", "Nothing is wrong"]);
    server.stop();
    let whole = place.dozen(&["server:check", "--json"]).ok().json();
    assert_eq!((&whole["sound"], &whole["slugs"], &whole["repositories"]), (&json!(true), &json!(1), &json!(1)), "{whole}");

    let repository = place.home().join("repositories/shop.git");
    let repository = repository.to_str().expect("UTF-8");
    let here = place.folder().to_str().expect("UTF-8").to_owned();
    place.write("web.py", "another");
    commit(&place, "two");
    let branch = "refs/namespaces/production/refs/heads/main";
    let was = git(&place, &["-C", repository, "rev-parse", branch]).ok().out;
    git(&place, &["-C", repository, "fetch", "-q", &here, "main"]).ok();
    git(&place, &["-C", repository, "update-ref", branch, "FETCH_HEAD"]).ok();
    place.dozen(&["server", "check"]).coded(1).has(&["shop/production: main is at", "which no release of it was made of", "Wrong: 1."]);
    git(&place, &["-C", repository, "update-ref", branch, was.trim()]).ok();

    let slugs = place.home().join("slugs");
    let slug = std::fs::read_dir(&slugs).expect("slugs").map(|e| e.expect("an entry").path()).find(|path| path.join("tree").is_dir());
    let slug = slug.expect("a slug");
    std::fs::write(slug.join("tree/web.py"), "torn").expect("written");
    let torn = place.dozen(&["server", "check", "--json"]).coded(1).json();
    assert_eq!(torn["faults"].as_array().map(Vec::len), Some(1), "{torn}");
    assert!(torn["faults"][0]["what"].as_str().is_some_and(|what| what.contains("it is torn: tree/web.py is not what it was")), "{torn}");
    std::fs::remove_dir_all(&slug).expect("removed");
    place.dozen(&["server", "check"]).coded(1).has(&["shop/production v2: its slug", "is missing"]);
}
