//! An app's tests: run by themselves here and afar, and as what stands before a release.

use crate::deployed::{Place, Said, finish};
use crate::server::{Server, WEB};
use serde_json::json;

const AT: &str = "/v1/apps/shop/deploys/production";

/// Its tests write beside the code, into a database of theirs, and listen on a port.
const TESTS: &str = r#"
import os, socket, sqlite3, sys
assert "GREETING" not in os.environ or os.environ["GREETING"] == "of tests", "a deploy's config"
assert os.environ["MODE"] == "test" and os.environ["BASE"] == "of all" and len(os.environ["SECRET"]) == 64
assert open("set-up").read() == "done\n"
open("coverage", "w").write("100")
database = os.environ["DATABASE_URL"].removeprefix("sqlite:///")
sqlite3.connect(database).execute("CREATE TABLE t (a)")
socket.create_server(("127.0.0.1", 0))
print("tests ran in", os.getcwd(), os.environ.get("CI"), os.environ["NODE_ENV"])
sys.exit(int(open("code").read()))
"#;

const APP_JSON: &str = r#"{
  "env": {"BASE": "of all", "MODE": "production", "SECRET": {"generator": "secret"}},
  "addons": ["sqlite"],
  "formation": {"web": {"quantity": 1}},
  "environments": {"test": {"env": {"MODE": "test"}, "scripts": {"test-setup": "echo done > set-up", "test": "python3 tests.py"}}}
}"#;

fn code() -> Place {
    Place::new(&[("Procfile", "web: exec python3 web.py\n"), ("web.py", WEB), ("tests.py", TESTS), ("code", "0"), ("app.json", APP_JSON)])
}

fn git(place: &Place, args: &[&str]) -> Said {
    let mut git = place.program("git");
    for (name, value) in [("NAME", "a"), ("EMAIL", "a@example.com")] {
        git.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
    }
    finish(git.env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_GLOBAL", "/dev/null").args(args))
}

fn commit(place: &Place) {
    git(place, &["add", "-A"]).ok();
    git(place, &["commit", "-qm", "one"]).ok();
}

#[test]
fn they_run_on_a_copy_with_a_config_of_their_own_and_their_exit_code_is_dozens() {
    let place = code();
    place.dozen(&["test", "--no-color"]).ok().has(&["$ echo done > set-up", "$ python3 tests.py", "tests ran in ", " true test"]);
    assert!(!place.folder().join("coverage").exists());
    place.dozen(&["test", "--env", "GREETING=of tests"]).ok();
    place.dozen(&["test", "-e", "GREETING"]).coded(2);
    place.write("code", "7");
    let told = place.dozen(&["test", "--json"]).coded(7);
    assert!(told.out.lines().last().is_some_and(|line| line.starts_with(r#"{"event":"tested","code":7"#)), "{}", told.out);
    // What fails first ends it.
    place.write("app.json", APP_JSON.replace("echo done > set-up", "exit 3"));
    place.dozen(&["test"]).coded(3).lacks("tests ran");
    place.write("app.json", APP_JSON.replace("\"BASE\": \"of all\"", "\"BASE\": {\"required\": true}"));
    place.dozen(&["test"]).coded(1).has(&["requires config that tests have not: BASE", "environments.test.env"]);
    place.write("app.json", "{}");
    place.dozen(&["test"]).coded(1).has(&["app.json has no tests"]);
    let made = std::fs::read_dir(place.home().join("slugs")).expect("slugs").flatten();
    assert!(made.into_iter().all(|e| !e.file_name().to_string_lossy().starts_with('.')), "something is left of them");
    place.assert_nothing_left();
}

#[test]
fn a_deploy_that_requires_them_takes_only_what_has_passed() {
    let place = code();
    let server = Server::start(&place);
    server.call("POST", "/v1/apps", &json!({"name": "shop"}));
    server.call("POST", "/v1/apps/shop/deploys", &json!({"name": "staging"}));
    for at in [AT, "/v1/apps/shop/deploys/staging"] {
        server.call("PATCH", &format!("{at}/config"), &json!({"set": {"GREETING": "hello"}}));
    }
    let url = format!("http://dozen.localhost:{}", server.port);
    place.dozen(&["login", &url, "--token", &server.token]).ok();
    // From afar, by who may deploy.
    let afar = |args: &[&str]| place.dozen(&[args, &["-a", "shop", "--server", &url, "--no-color"]].concat());
    afar(&["test"]).ok().has(&["tests ran in /app true test"]);
    afar(&["test", "-e", "A=1"]).coded(2);
    afar(&["deploys", "set"]).ok().has(&["requires nothing"]);
    afar(&["deploys", "set", "--require", "nonsense"]).coded(1).has(&["nothing called nonsense can be required"]);
    afar(&["deploys", "set", "--require", "tests", "--json"]).ok();

    git(&place, &["init", "-qb", "main"]).ok();
    place.write("code", "9");
    commit(&place);
    let remote = format!("http://git:{}@dozen.localhost:{}/shop.git", server.token, server.port);
    let refused = git(&place, &["push", &remote, "main"]).coded(1);
    refused.has(&["tests ran in ", "the tests failed with exit code 9", "The push is refused"]);
    assert_eq!(place.ledger("SELECT count(*) FROM releases"), "0");
    place.write("code", "0");
    commit(&place);
    git(&place, &["push", &remote, "main"]).ok().has(&["Running tests", "tests ran in ", "Released v1"]);
    // The same slug has passed.
    git(&place, &["commit", "-q", "--allow-empty", "-m", "empty"]).ok();
    git(&place, &["push", &remote, "main"]).ok().has(&["have passed before", "Released v2"]).lacks("tests ran");

    // Another deploy takes anything, and what comes from there is tested here.
    place.write("code", "5");
    commit(&place);
    let staging = format!("http://git:{}@dozen.localhost:{}/shop/staging.git", server.token, server.port);
    git(&place, &["push", &staging, "main"]).ok().has(&["Released v1"]).lacks("Running tests");
    let promote = |code: i32| place.dozen(&["promote", "-a", "shop/staging", "--no-color"]).coded(code);
    promote(1).has(&["tests ran in ", "the tests failed with exit code 5"]);
    assert_eq!(place.ledger("SELECT count(*) FROM releases WHERE deploy = 'shop/production'"), "2");
    // Code without a source that is here cannot be tested.
    let slug = place.beside("x.slug").to_string_lossy().into_owned();
    place.write("more", "x");
    place.dozen(&["build", "-a", "shop", "-o", &slug]).ok();
    place.dozen(&["deploy", "-a", "shop/production", "--slug", &slug]).coded(1).has(&["the source of this code is not here"]);
    place.write("code", "0");
    place.dozen(&["deploy", "-a", "shop/production", "--no-color"]).ok().has(&["tests ran in ", "Released v3"]);
    place.dozen(&["deploys", "set", "--require", "none", "-a", "shop/production"]).ok().has(&["requires nothing"]);
    promote(0);
    place.dozen(&["events", "-a", "shop"]).ok().has(&["run tests", "failed", "change what a release requires"]);
    server.stop();
    place.assert_nothing_left();
}
