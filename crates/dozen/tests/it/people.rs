//! `dozen server` from afar: who is let in and what they may, and the commands that work there as they do here.

use crate::deployed::{DOZEN, PATIENCE, Place, ask, finish_with, pause};
use crate::server::{Server, released};
use crate::terminal::Session;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

impl Server<'_> {
    fn url(&self) -> String {
        format!("http://dozen.localhost:{}", self.port)
    }

    /// A user with a token and these roles.
    fn user(&self, name: &str, admin: bool, roles: &[(&str, &str)]) -> String {
        self.call("POST", "/v1/users", &json!({"name": name, "admin": admin}));
        for (app, role) in roles {
            self.call("PUT", &format!("/v1/apps/{app}/grants/{name}"), &json!({"role": role}));
        }
        let made = self.call("POST", "/v1/tokens", &json!({"user": name}));
        made["token"].as_str().expect("a token").to_owned()
    }
}

/// Logged in as the first user.
fn logged_in(place: &Place, server: &Server<'_>) -> String {
    let url = server.url();
    place.dozen(&["login", &url, "--token", &server.token]).ok().has(&["as admin"]).lacks(&server.token);
    url
}

#[test]
fn who_is_logged_in_is_known_and_a_token_is_kept_for_its_owner_alone() {
    let place = Place::new(&[]);
    let server = Server::start(&place);
    let url = server.url();
    // A wrong one is tried, and not kept.
    place.dozen(&["login", &url, "--token", "dozen_wrong"]).coded(1).has(&["not known"]);
    place.dozen(&["whoami", "--server", &url]).coded(1).has(&["not logged in", "dozen login"]);
    finish_with(place.program(DOZEN).args(["login", &url]), format!("{}\n", server.token).as_bytes()).ok().lacks(&server.token);
    let file = place.folder().parent().expect("a parent").join("config/dozen/servers.json");
    assert_eq!(std::fs::metadata(&file).expect("kept").permissions().mode() & 0o777, 0o600);
    let who = place.dozen(&["whoami", "--server", &url, "--json"]).ok().json();
    assert_eq!((&who["user"], &who["admin"], &who["url"]), (&json!("admin"), &json!(true), &json!(url)));
    place.dozen(&["logout", "--json"]).ok();
    place.dozen(&["logout"]).coded(1);
    place.dozen(&["whoami", "--server", &url]).coded(1);
    // By the environment, for one command.
    let by_environment =
        |token: &str| finish_with(place.program(DOZEN).arg("whoami").env("DOZEN_SERVER", &url).env("DOZEN_TOKEN", token), b"");
    by_environment(&server.token).ok().has(&["admin", &url]);
    by_environment("dozen_other").coded(1).lacks("dozen_other");
    // What is about this machine says so.
    place.dozen(&["up", "--server", &url]).coded(2).has(&["this machine alone"]);
    place.dozen(&["ps", "--server", "dozen.localhost"]).coded(2).has(&["is no server"]);
    place.dozen(&["ps", "--server", "http://127.0.0.1:1"]).coded(1);
    server.stop();
}

#[test]
fn a_token_that_is_asked_for_is_not_shown() {
    let place = Place::new(&[]);
    let server = Server::start(&place);
    let mut session = Session::sized(&place, &["login", &server.url()], 100);
    session.until("Token for");
    let end = Instant::now() + PATIENCE;
    while session.modes().contains(rustix::termios::LocalModes::ECHO) {
        assert!(Instant::now() < end, "it shows what is typed");
        pause();
    }
    session.type_in(&format!("{}\n", server.token));
    let (code, said) = session.end();
    assert!(code == 0 && said.contains("as admin") && !said.contains(&server.token), "{code} {said}");
    server.stop();
}

#[test]
fn the_commands_of_a_deploy_work_from_afar() {
    let place = Place::new(&[]);
    released(&place, "shop");
    let server = Server::start(&place);
    let url = logged_in(&place, &server);
    let afar = |args: &[&str]| place.dozen(&[&["--server", &url, "-a", "shop"], args].concat());
    afar(&["ps", "--json"]).ok();
    afar(&["config", "set", "GREETING=hello there"]).ok().has(&["v2"]);
    afar(&["config", "get", "GREETING"]).ok().has(&["hello there"]);
    afar(&["ps:scale", "web=2"]).ok().has(&["web=2"]);
    afar(&["releases", "--json"]).ok();
    afar(&["rollback"]).ok().has(&["v3"]);
    afar(&["domains", "add", "shop.test"]).ok();
    afar(&["logs", "-n", "5"]).ok();
    afar(&["restart", "web.1"]).ok();
    let said = finish_with(place.program(DOZEN).args(["--server", &url, "-a", "shop/production", "run", "--", "wc", "-c"]), b"12345").ok();
    assert_eq!(said.out.trim(), "5");
    afar(&["run", "exit 7"]).coded(7);
    let began = afar(&["run", "--detach", "--json", "--", "sleep", "1000"]).ok().json();
    afar(&["runs", "stop", began["run"].as_str().expect("a name")]).ok().has(&["exit code 143"]);
    place.dozen(&["--server", &url, "-a", "shpo", "ps"]).coded(2).has(&["did you mean shop"]);
    place.dozen(&["--server", &url, "ps"]).coded(2).has(&["-a", "dozen apps"]);
    server.stop();
    place.assert_nothing_left();
}

#[test]
fn a_one_off_has_the_callers_terminal_from_afar() {
    let place = Place::new(&[]);
    released(&place, "shop");
    let server = Server::start(&place);
    let url = logged_in(&place, &server);
    let script = "stty size; trap 'stty size' WINCH; echo ready; while ! read line; do :; done; echo got-$line; exit 3";
    let mut session = Session::sized(&place, &["--server", &url, "-a", "shop", "run", "--", script], 90);
    session.until("24 90");
    session.until("ready");
    session.resize(40, 111);
    session.until("40 111");
    session.type_in("words\n");
    session.until("got-words");
    let (code, said) = session.end();
    assert_eq!(code, 3, "{said}");
    server.stop();
    place.assert_nothing_left();
}

#[test]
fn a_folder_that_is_pushed_to_a_server_is_about_that_one() {
    let place = Place::new(&[]);
    let server = Server::start(&place);
    server.call("POST", "/v1/apps", &json!({"name": "shop"}));
    server.call("POST", "/v1/apps/shop/deploys", &json!({"name": "staging"}));
    let git = |args: &[&str]| finish_with(place.program("git").args(args), b"").ok();
    git(&["init", "-q"]);
    git(&["remote", "add", "dozen-staging", &format!("{}/shop/staging.git", server.url())]);
    // Who is logged in nowhere is here.
    place.dozen(&["domains"]).coded(2);
    logged_in(&place, &server);
    place.dozen(&["domains"]).ok().has(&["=== shop/staging "]);
    git(&["remote", "add", "dozen", &format!("{}/shop.git", server.url())]);
    place.dozen(&["domains"]).ok().has(&["=== shop/production "]);
    place.dozen(&["domains", "-a", "shop/staging"]).ok().has(&["=== shop/staging "]);
    place.dozen(&["ps", "--server", "local"]).coded(2);
    server.stop();
}

/// Each with `--server`, and without one on the server's own machine.
#[test]
fn people_apps_and_deploys_are_looked_after_from_afar_and_here() {
    let place = Place::new(&[]);
    let look_after = |server: &[&str], app: &str, user: &str| {
        let dozen = |args: &[&str]| place.dozen(&[args, server].concat());
        dozen(&["apps:create", app, "--json"]).ok();
        dozen(&["apps", "create", app]).coded(1);
        dozen(&["apps"]).ok().has(&[app, "production"]);
        let created = ["deploys", "create", "staging", "--from", "production", "--ttl", "3d", "--branch", "next", "-a", app, "--json"];
        dozen(&created).ok().has(&["next"]);
        dozen(&["deploys", "-a", app]).ok().has(&["production", "staging", "next"]);
        dozen(&["deploys", "destroy", "staging", "-a", app]).coded(2).has(&["--confirm"]);
        dozen(&["deploys", "destroy", "staging", "-a", app, "--confirm", &format!("{app}/staging"), "--json"]).ok();
        dozen(&["users", "add", user, "--json"]).ok();
        dozen(&["users", "add", user, "--admin"]).coded(1).has(&["already"]);
        dozen(&["users", "grant", user, app, "deployer", "--json"]).ok();
        dozen(&["users"]).ok().has(&[user, &format!("{app} deployer")]);
        dozen(&["users", "-a", app]).ok().has(&[user, "deployer"]);
        let made = dozen(&["tokens", "create", "--user", user, "--label", "ci", "--expires", "30d", "--json"]).ok().json();
        assert!(made["token"].as_str().is_some_and(|text| text.starts_with("dozen_")), "{made}");
        let listed = dozen(&["tokens", "--user", user]).ok().has(&["ci", "good"]);
        assert!(!listed.all().contains(made["token"].as_str().expect("text")));
        dozen(&["tokens", "revoke", &made["id"].to_string(), "--json"]).ok();
        dozen(&["tokens", "revoke", &made["id"].to_string()]).coded(1);
        dozen(&["tokens", "--user", user]).ok().has(&["revoked"]);
        dozen(&["users", "ungrant", user, app, "--json"]).ok();
        dozen(&["users", "remove", user, "--json"]).ok();
        dozen(&["events", "-n", "3"]).ok().has(&["remove a user", user]);
        dozen(&["events", "-a", app, "--json"]).ok().has(&["create an app"]).lacks("remove a user");
        dozen(&["events", "-a", app, "--deploy", "staging", "--since", "1h"]).ok().has(&["destroy a deploy"]).lacks("create an app");
        dozen(&["apps", "destroy", app, "--confirm", app, "--json"]).ok();
        dozen(&["events", "-a", app]).ok().has(&["destroy an app"]);
    };
    // Where nothing runs,
    look_after(&[], "alone", "ann");
    let server = Server::start(&place);
    let who = |args: &[&str]| place.dozen(&[args, &["--json"]].concat()).ok().json()["user"].clone();
    assert_ne!(who(&["whoami"]), "admin");
    // on the server's machine by its socket,
    look_after(&[], "beside", "bob");
    // and by its address.
    let token = match server.token.as_str() {
        // There were users already.
        "" => {
            place.dozen(&["users", "add", "chief", "--admin"]).ok();
            place.dozen(&["tokens", "create", "--user", "chief"]).ok().out.trim().to_owned()
        }
        token => token.to_owned(),
    };
    let url = server.url();
    place.dozen(&["login", &url, "--token", &token]).ok();
    look_after(&["--server", &url], "afar", "cid");
    server.stop();
    place.assert_nothing_left();
}

#[test]
fn a_deploy_is_destroyed_when_its_time_comes() {
    let place = Place::new(&[]);
    let server = Server::start(&place);
    server.call("POST", "/v1/apps", &json!({"name": "shop"}));
    server.call("POST", "/v1/apps/shop/deploys", &json!({"name": "review", "ttl_seconds": 1}));
    let end = Instant::now() + PATIENCE;
    while server.call("GET", "/v1/apps/shop/deploys", &Value::Null)["deploys"].as_array().is_some_and(|all| all.len() == 2) {
        assert!(Instant::now() < end, "it is there still");
        pause();
    }
    let events = server.call("GET", "/v1/events?app=shop&deploy=review&n=1", &Value::Null);
    assert_eq!(events["events"][0]["what"], "destroy a deploy");
    server.stop();
    place.assert_nothing_left();
}

#[test]
fn who_guesses_tokens_waits_and_is_told_how_long() {
    let place = Place::new(&[]);
    let server = Server::start(&place);
    let wrong = |n: u32| server.ask_as(Some(&format!("dozen_{n:064}")), "GET", "/v1/account", &Value::Null);
    let answers: Vec<u16> = (0..10).map(|n| wrong(n).status).collect();
    assert_eq!(answers, [401; 10]);
    let refused = ask(
        server.port,
        format!(
            "GET /v1/account HTTP/1.1\r\nHost: dozen.localhost:{}\r\nConnection: close\r\nAuthorization: Bearer dozen_x\r\n\r\n",
            server.port
        )
        .as_bytes(),
    );
    assert_eq!(refused.status, 429, "{}", refused.body);
    let after = refused.head.to_ascii_lowercase().lines().find_map(|l| l.strip_prefix("retry-after: ")?.trim().parse::<u32>().ok());
    assert!(after.is_some_and(|seconds| (1..=11).contains(&seconds)), "{}", refused.head);
    // Who shows none is not counted.
    assert_eq!(server.ask_as(None, "GET", "/v1/account", &Value::Null).status, 401);
    server.stop();
}

/// What a route needs, by who may.
#[derive(Clone, Copy, PartialEq)]
enum Need {
    Anybody,
    View,
    Deploy,
    Own,
    Platform,
    Host,
    Git,
}

/// All routes, each with a request that changes nothing where it is let in. `D` is a deploy of the app that everybody is asked about.
const ROUTES: &[(&str, &str, Need, &str)] = {
    use Need::{Anybody, Deploy, Git, Host, Own, Platform, View};
    &[
        ("GET", "/v1/openapi.json", Anybody, ""),
        ("GET", "/v1/account", Anybody, ""),
        ("GET", "/v1/apps", Anybody, ""),
        ("POST", "/v1/apps", Platform, r#"{"name": "shop"}"#),
        ("DELETE", "/v1/apps/{app}", Own, ""),
        ("GET", "/v1/apps/{app}/deploys", View, ""),
        ("POST", "/v1/apps/{app}/deploys", Deploy, r#"{"name": "production"}"#),
        ("DELETE", "/v1/apps/{app}/deploys/{deploy}", Own, ""),
        ("GET", "/v1/apps/{app}/grants", Own, ""),
        ("PUT", "/v1/apps/{app}/grants/{user}", Own, r#"{"role": "viewer"}"#),
        ("DELETE", "/v1/apps/{app}/grants/{user}", Own, ""),
        ("POST", "/v1/apps/{app}/promotions", Deploy, r#"{"from": "gone", "to": "production"}"#),
        ("GET", "/v1/users", Platform, ""),
        ("POST", "/v1/users", Platform, r#"{"name": "viewer"}"#),
        ("DELETE", "/v1/users/{user}", Platform, ""),
        ("GET", "/v1/tokens", Anybody, ""),
        ("POST", "/v1/tokens", Anybody, r#"{"seconds": 60}"#),
        ("DELETE", "/v1/tokens/{id}", Anybody, ""),
        ("GET", "/v1/ssh-keys", Anybody, ""),
        ("POST", "/v1/ssh-keys", Anybody, r#"{"key": "none"}"#),
        ("DELETE", "/v1/ssh-keys/{fingerprint}", Anybody, ""),
        // Nobody from afar says who comes by SSH.
        ("POST", "/v1/sessions", Host, ""),
        ("POST", "/v1/upgrades", Host, r#"{"binary": "/a", "before": "/b"}"#),
        ("GET", "/v1/events", Platform, ""),
        ("POST", "/v1/collections", Platform, r#"{"dry_run": true}"#),
        // git's own answers: of what one may not see, and of a service that is none, there is nothing.
        ("GET", "/{repository}/info/refs", Git, ""),
        ("POST", "/{repository}/{service}", Git, ""),
        ("GET", "/{app}/{repository}/info/refs", Git, ""),
        ("POST", "/{app}/{repository}/{service}", Git, ""),
        ("GET", "D/", View, ""),
        ("GET", "D/processes", View, ""),
        ("PATCH", "D/formation", Deploy, r#"{"changes": ["nothing"]}"#),
        ("POST", "D/restarts", Deploy, r#"{"target": "nothing"}"#),
        ("POST", "D/stops", Deploy, r#"{"types": ["nothing"]}"#),
        ("POST", "D/starts", Deploy, r#"{"types": ["nothing"]}"#),
        ("GET", "D/logs", View, ""),
        ("GET", "D/config", Deploy, ""),
        ("PATCH", "D/config", Deploy, r#"{"set": {"DOZEN_NO": "x"}}"#),
        ("GET", "D/certificates", View, ""),
        ("POST", "D/certificates", Deploy, r#"{"chain": "", "key": ""}"#),
        ("POST", "D/certificates/auto", Deploy, r#"{}"#),
        ("POST", "D/certificates/remove", Deploy, r#"{"which": "nothing"}"#),
        ("GET", "D/domains", View, ""),
        ("PATCH", "D/domains", Deploy, r#"{"add": ["a.test:80"], "remove": []}"#),
        ("GET", "D/manners", View, ""),
        ("PATCH", "D/manners", Deploy, r#"{}"#),
        ("GET", "D/releases", View, ""),
        ("GET", "D/releases/{version}", View, ""),
        ("GET", "D/diffs", View, ""),
        // Of a kind that it does not take.
        ("POST", "D/builds", Deploy, r#"{}"#),
        ("GET", "D/builds", View, ""),
        ("POST", "D/builds/cancel", Deploy, r#"{"build": "build.9"}"#),
        ("GET", "D/slugs", View, ""),
        ("GET", "D/slugs/{version}", Deploy, ""),
        ("POST", "D/tests", Deploy, r#"{}"#),
        ("GET", "D/gates", View, ""),
        ("PUT", "D/gates", Own, r#"{"requires": ["nothing-like-it"]}"#),
        ("GET", "D/split", View, ""),
        ("PUT", "D/split", Deploy, r#"{"parts": ["v9=1"]}"#),
        ("GET", "D/split/status", View, ""),
        ("POST", "D/split/promote", Deploy, r#"{"release": "v99"}"#),
        ("POST", "D/split/abort", Deploy, ""),
        ("POST", "D/rollbacks", Deploy, r#"{"to": "v99", "part": "all"}"#),
        ("GET", "D/runs", View, ""),
        ("POST", "D/runs", Deploy, r#"{"command": []}"#),
        ("POST", "D/runs/stop", Deploy, r#"{"run": "run.9"}"#),
        ("POST", "D/handover", Host, ""),
        ("POST", "D/stop", Host, ""),
    ]
};

const DEPLOY: &str = "/v1/apps/{app}/deploys/{deploy}";
const DEPLOY_OF: &str = "/v1/apps/{app}/deploys/{deploy}/";
const SPECIFICATION: &str = include_str!("../../../../docs/openapi.json");

/// Each method and path of the specification.
fn in_the_specification() -> BTreeSet<(String, String)> {
    let spec: Value = serde_json::from_str(SPECIFICATION).expect("JSON");
    let of_path = |(path, item): (&String, &Value)| {
        let methods = item.as_object().expect("an item").keys().map(|method| (method.to_uppercase(), path.clone()));
        methods.collect::<Vec<_>>()
    };
    spec["paths"].as_object().expect("paths").iter().flat_map(of_path).collect()
}

/// Every `.route(…)` of the API's source: its method and path.
fn declared() -> BTreeSet<(String, String)> {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let api: Vec<_> = std::fs::read_dir(folder.join("api")).expect("read").map(|entry| entry.expect("an entry").path()).collect();
    let files = api.into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs")).chain([folder.join("api.rs")]);
    let mut all = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("read");
        let nested = file.ends_with("api.rs");
        for piece in text.split(".route(").skip(1) {
            let path = piece.trim_start().trim_start_matches('"').split('"').next().unwrap_or_default();
            let handlers = piece.split_once(',').expect("handlers").1.split(".route(").next().unwrap_or_default();
            let handlers = handlers.split([';', '\n']).next().unwrap_or_default();
            for method in ["get", "post", "put", "patch", "delete", "any"] {
                let named = handlers.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '(');
                if named.into_iter().any(|word| word.starts_with(&format!("{method}("))) {
                    all.insert((
                        method.to_uppercase(),
                        if nested && !path.starts_with("/v1") { format!("D{path}") } else { path.to_owned() },
                    ));
                }
            }
        }
    }
    all
}

#[test]
fn every_route_lets_in_who_may_and_tells_nobody_else() {
    let told: BTreeSet<(String, String)> = ROUTES.iter().map(|(method, path, ..)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(told, declared(), "a route without a line in this table, or a line without a route");
    let ours = |(method, path): &(String, String)| (method.clone(), path.replacen("D/", DEPLOY_OF, 1).trim_end_matches('/').to_owned());
    let specified: BTreeSet<_> = told.iter().map(ours).filter(|(_, path)| path.starts_with("/v1") && path != "/v1/openapi.json").collect();
    assert_eq!(specified, in_the_specification(), "a route that docs/openapi.json does not have, or one that there is not");

    let place = Place::new(&[]);
    let server = Server::start(&place);
    for app in ["shop", "secret-other"] {
        server.call("POST", "/v1/apps", &json!({ "name": app }));
    }
    let people: Vec<(&str, Option<String>, Option<u8>)> = vec![
        ("nobody", None, None),
        ("stranger", Some(server.user("stranger", false, &[("secret-other", "owner")])), None),
        ("viewer", Some(server.user("viewer", false, &[("shop", "viewer")])), Some(0)),
        ("deployer", Some(server.user("deployer", false, &[("shop", "deployer")])), Some(1)),
        ("owner", Some(server.user("owner", false, &[("shop", "owner")])), Some(2)),
        ("admin", Some(server.token.clone()), Some(3)),
    ];
    let mut wrong = Vec::new();
    for (method, path, need, body) in ROUTES {
        let of_app = path.starts_with('D') || path.starts_with("/v1") && path.contains("{app}");
        for app in ["shop", "no-such-app"] {
            let path = path.replacen('D', if path.starts_with('D') { DEPLOY } else { "D" }, 1);
            let path = path.strip_suffix('/').filter(|p| p.ends_with("{deploy}")).unwrap_or(&path);
            // What would be destroyed is not there; who may is told so.
            let deploy = if *method == "DELETE" { "gone" } else { "production" };
            let app_named = if *path == *"/v1/apps/{app}" && app == "shop" { "shop" } else { app };
            let path = path
                .replace("{app}", app_named)
                .replace("{deploy}", deploy)
                .replace("{service}", "git-none")
                .replace("{repository}", &format!("{app}.git"))
                .replace("{user}", "nobody-here");
            let path = path.replace("{id}", "9999").replace("{version}", "v9").replace("/diffs", "/diffs?from=v1&to=v2");
            for (who, token, rank) in &people {
                if method == &"DELETE" && path == "/v1/apps/shop" && rank.is_some_and(|rank| rank >= 2) {
                    continue;
                }
                let body: Value = serde_json::from_str(body).unwrap_or(Value::Null);
                let answer = server.ask_as(token.as_deref(), method, &path, &body);
                let sees = rank.is_some() && (app == "shop" || *rank == Some(3));
                let may = match need {
                    // Which service is asked for decides.
                    Need::Git => sees,
                    Need::Anybody => true,
                    Need::View => rank.is_some(),
                    Need::Deploy => *rank >= Some(1),
                    Need::Own => *rank >= Some(2),
                    Need::Platform => *rank == Some(3),
                    Need::Host => false,
                };
                let status = answer.status;
                let fits = match () {
                    () if token.is_none() => status == 401 && answer.body.contains("dozen login"),
                    () if *need == Need::Git => matches!(status, 200 | 403 | 404 | 422) && (may || status == 404),
                    () if *need == Need::Host => status == 403,
                    () if of_app && (!sees || app != "shop") => {
                        status == 404 && (*rank == Some(3) || answer.body.contains(&format!("there is no app {app}")))
                    }
                    () if !may => status == 403,
                    () => status < 500 && status != 401 && status != 403 && status != 405,
                };
                let leaks = answer.body.contains("secret-other") && !matches!(*who, "stranger" | "admin");
                let broken = status >= 500 || status == 400 || (status == 415 && !path.ends_with("/builds") && !path.ends_with("/tests"));
                if !fits || leaks || broken {
                    wrong.push(format!("{method} {path} by {who}: {status} {}", answer.body));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let served = server.ask_as(people[1].1.as_deref(), "GET", "/v1/openapi.json", &Value::Null);
    assert_eq!((served.status, &*served.body), (200, SPECIFICATION));
    // What the framework refuses is told as everything else is.
    let token = Some(server.token.as_str());
    for (method, path, body, status) in [
        ("POST", "/v1/apps", json!({"name": "x", "colour": "red"}), 422),
        ("POST", "/v1/apps", json!({}), 422),
        ("PUT", "/v1/apps", json!({}), 405),
        ("GET", "/v1/events/more?n=x", Value::Null, 404),
        ("PUT", "/v1/account/of", json!({}), 404),
        ("PUT", "/v1/nothing", json!({}), 404),
        ("GET", "/v1/apps/shop/deploys/production/logs?n=-1", Value::Null, 422),
        ("GET", "/v1/apps/shop/deploys/production/runs?n=many", Value::Null, 400),
        ("GET", "/v1/events?colour=red", Value::Null, 400),
        ("DELETE", "/v1/tokens/many", Value::Null, 400),
        ("PATCH", "/v1/apps/shop/deploys/production/manners", json!({"hsts_seconds": 1_u64 << 63}), 422),
        ("PATCH", "/v1/apps/shop/deploys/production/manners", json!({"paused": true, "pause_seconds": u64::MAX}), 422),
        ("POST", "/v1/apps/shop/deploys/production/certificates/auto", json!({"directory": "", "agree_tos": false}), 422),
    ] {
        let answer = server.ask_as(token, method, path, &body);
        let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let kind = if status == 404 { "failed" } else { "usage" };
        assert_eq!((answer.status, &problem["kind"]), (status, &json!(kind)), "{method} {path}: {}", answer.body);
        assert!(problem["message"].as_str().is_some_and(|message| !message.is_empty()), "{}", answer.body);
    }
    // And what is no route is none, to anybody.
    for token in [None, Some(server.token.as_str())] {
        let status = server.ask_as(token, "GET", "/v1/no/such/route/anywhere", &Value::Null).status;
        assert_eq!(status, if token.is_none() { 401 } else { 404 });
    }
    server.stop();
    place.assert_nothing_left();
}
