//! End to end: build, release, run. What is released, in which order, and the way back.

use crate::deployed::{Answer, Deployed, Place, ask, finish, is_root};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

#[test]
fn the_release_phase_runs_before_any_process() {
    let place = Place::web(
        "release: echo \"phase of $DYNO in $HEROKU_RELEASE_VERSION\"; sleep 0.3; echo phase 'is' over\nweb: python3 web.py\nworker: echo working; sleep 1000\n",
    );
    let up = place.up();
    up.line("worker.1", "working");
    let said = up.said();
    let at = |ps: &str, text: &str| {
        let of = |e: &serde_json::Value| e["ps"] == ps && e["message"].as_str().is_some_and(|m| m.contains(text));
        said.iter().position(of).unwrap_or_else(|| panic!("no {text} of {ps}: {said:?}"))
    };
    assert!(at("release.1", "phase of release.1 in v1") < at("release.1", "phase is over"));
    assert!(at("release.1", "Process exited with status 0") < at("web.1", "Starting process"));
    assert!(at("release.1", "phase is over") < at("worker.1", "Starting process"));
    // And for a change of config as well.
    up.dozen(&["config", "set", "A=1"]).ok();
    up.line("release.2", "phase of release.2 in v2");
    up.lines("worker.1", "working", 2);
    let said = up.said();
    let all = |ps: &str, text: &str| {
        let of = |e: &serde_json::Value| e["ps"] == ps && e["message"].as_str().is_some_and(|m| m.contains(text));
        said.iter().enumerate().filter(|(_, e)| of(e)).map(|(at, _)| at).collect::<Vec<_>>()
    };
    assert!(all("release.2", "Process exited with status 0")[0] < all("worker.1", "Starting process")[1], "{said:?}");
    // The old release's lines are where they were.
    let logs = up.dozen(&["logs", "-n", "1000"]).ok().out;
    assert!(logs.contains("phase of release.1 in v1") && logs.matches("app[worker.1]: working").count() == 2, "{logs}");
    up.stop();
    assert_eq!(place.ledger("select group_concat(status) from releases"), "succeeded,succeeded");
}

#[test]
fn a_failed_release_phase_fails_the_release_and_starts_nothing() {
    let place = Place::web("release: echo no; exit 3\nweb: python3 web.py\n");
    let said = place.once().coded(1);
    said.has(&["app[release.1]: no", "the release phase of v1 (`echo no; exit 3`) failed with exit code 3", "dozen logs -p release.1"])
        .lacks("web.1")
        .lacks("Launching");
    assert_eq!(place.ledger("select version, status, failure from releases"), "1|failed|the release phase failed with exit code 3");
    assert_eq!(place.ledger("select ifnull(current_release, '-') from deploys"), "-");
    place.assert_nothing_left();
    place.dozen(&["logs", "-p", "release.1", "-s", "app"]).ok().has(&["app[release.1]: no"]);
    place.dozen(&["releases"]).ok().has(&["failed"]);
    place.write("Procfile", "release: true\nweb: python3 web.py\n");
    place.once().ok().has(&["Released v2"]);
}

#[test]
fn a_failed_release_leaves_the_old_one_serving() {
    let place = Place::web("release: test \"$BREAK\" != phase\nweb: test \"$BREAK\" != start && python3 web.py\n");
    let up = place.up();
    let pid = up.pid_of("web.1");
    let refused = up.dozen(&["config", "set", "BREAK=phase"]).coded(1);
    refused.has(&["the release phase of v2", "exit code 1"]);
    let refused = up.dozen(&["config", "set", "BREAK=start"]).coded(1);
    refused.has(&["v3 did not come up: web.1 ended with exit code 1; v1 keeps serving"]);
    assert_eq!((up.page("/env/BREAK"), up.pid_of("web.1")), ("(none)".to_owned(), pid));
    assert_eq!(place.ledger("select group_concat(status) from releases"), "succeeded,failed,failed");
    up.until_ps(&["web.1 up"]);
    up.dozen(&["config", "set", "BREAK=nothing"]).ok().has(&["done, v4"]);
    assert_eq!(up.page("/env/BREAK"), "nothing");
    up.dozen(&["rollback", "v2"]).coded(1).has(&["v2 failed and cannot be rolled back to"]);
    up.stop();
}

#[test]
fn a_config_change_that_failed_is_made_when_it_is_tried_again() {
    let place = Place::new(&[("Procfile", "release: test -e \"$GATE\"\nclock: sleep 1000\n")]);
    let gate = place.beside("never-there");
    // The jail sees no file of the host's: /tmp is there for the first release, the gate never.
    place.write(".env", "GATE=/tmp\n");
    let up = place.up();
    up.dozen(&["config", "set", &format!("GATE={}", gate.display())]).coded(1);
    // Not "nothing changed": the release that serves does not have it.
    up.dozen(&["config", "set", &format!("GATE={}", gate.display())]).coded(1).has(&["the release phase of v3"]);
    up.stop();
}

#[test]
fn rollback_brings_back_code_and_config() {
    let place = Place::web("web: python3 web.py\n");
    place.write(".env", "COLOUR=green\n");
    place.once().ok();
    let changed = std::fs::read_to_string(place.folder().join("web.py")).expect("there").replace("\"hello\"", "\"good day\"");
    place.write("web.py", changed);
    place.write(".env", "COLOUR=red\n");
    let up = place.up();
    assert_eq!((up.page("/"), up.page("/env/COLOUR")), ("good day".to_owned(), "red".to_owned()));
    let said = up.dozen(&["rollback"]).ok();
    assert_eq!(said.out, "Rolling back shop to v1... done, v3\n");
    assert_eq!(
        (up.page("/"), up.page("/env/COLOUR"), up.page("/env/HEROKU_RELEASE_VERSION")),
        ("hello".into(), "green".into(), "v3".into())
    );
    assert_eq!(up.dozen(&["config", "get", "COLOUR"]).ok().out, "green\n");
    up.dozen(&["releases:rollback", "v2"]).ok();
    assert_eq!((up.page("/"), up.page("/env/COLOUR")), ("good day".to_owned(), "red".to_owned()));
    up.dozen(&["rollback", "v9"]).coded(1).has(&["v9"]);
    up.dozen(&["rollback", "latest"]).coded(2).has(&["latest"]);
    let list = up.dozen(&["releases", "--json"]).ok().json();
    let descriptions: Vec<&str> = list["releases"].as_array().expect("a list").iter().filter_map(|r| r["description"].as_str()).collect();
    assert_eq!(descriptions[..2], ["Rollback to v2", "Rollback to v1"]);
    assert_eq!((&list["releases"][0]["version"], &list["releases"][0]["current"]), (&"v4".into(), &true.into()));
    up.stop();
    place.dozen(&["rollback"]).coded(1).has(&["shop/dev is not running", "dozen up"]);
}

#[test]
fn a_part_of_a_release_is_rolled_back() {
    let place = Place::web("web: python3 web.py\n");
    place.write(".env", "COLOUR=green\n");
    place.once().ok();
    let changed = std::fs::read_to_string(place.folder().join("web.py")).expect("there").replace("\"hello\"", "\"good day\"");
    place.write("web.py", changed);
    place.write(".env", "COLOUR=red\n");
    let up = place.up();
    let now = || (up.page("/"), up.page("/env/COLOUR"));
    let said = up.dozen(&["rollback", "--code-only"]).ok();
    assert_eq!(said.out, "Rolling back shop to v1 (code only)... done, v3\n");
    assert_eq!(now(), ("hello".into(), "red".into()));
    let said = up.dozen(&["rollback", "v1", "--config-only"]).ok();
    assert_eq!(said.out, "Rolling back shop to v1 (config only)... done, v4\n");
    assert_eq!(now(), ("hello".into(), "green".into()));
    up.dozen(&["rollback", "v2", "--code-only"]).ok();
    assert_eq!(now(), ("good day".into(), "green".into()));
    up.dozen(&["rollback", "--code-only", "--config-only"]).coded(2);
    up.stop();
    let descriptions = "Rollback to v1 (code only),Rollback to v1 (config only),Rollback to v2 (code only)";
    assert_eq!(place.ledger("select group_concat(description) from releases where version > 2"), descriptions);
}

/// An installed package, as it lies in a slug.
fn with_django(place: &Place, version: &str) {
    let old = place.folder().join("lib/site-packages");
    if old.exists() {
        std::fs::remove_dir_all(&old).expect("removed");
    }
    place.write(&format!("lib/site-packages/Django-{version}.dist-info/METADATA"), "Name: Django\n");
}

#[test]
fn releases_are_described_and_compared() {
    let place =
        Place::new(&[("Procfile", "clock: sleep 1000\n"), ("same.txt", "same"), ("gone.txt", "gone"), (".env", "A=secret-value-1\nB=2\n")]);
    with_django(&place, "5.0");
    place.once().ok();
    std::fs::remove_file(place.folder().join("gone.txt")).expect("removed");
    place.write("new.txt", "new");
    place.write("Procfile", "clock: sleep 2000\nworker: echo secret-value-2; sleep 1000\n");
    place.write(".env", "A=secret-value-2\nC=3\n");
    with_django(&place, "5.1");
    place.once().ok();

    let said = place.dozen(&["releases", "diff", "v1"]).ok().lacks("secret-value");
    let wanted = "=== shop/dev v1 → v2\n\nConfig vars\n  + C\n  - B\n  ~ A\n\n\
        Process types\n  - clock: sleep 1000\n  + clock: sleep 2000\n  + worker: echo ********; sleep 1000\n\n\
        Dependencies\n  ~ python django 5.0 → 5.1\n\n\
        Files\n  ~ Procfile (18 B → 58 B)\n  - gone.txt (4 B)\n  + new.txt (3 B)\n";
    assert_eq!(said.out, wanted);
    let json = place.dozen(&["releases:diff", "v2", "v1", "--json"]).ok().lacks("secret-value").json();
    assert_eq!((&json["from"], &json["to"], &json["same"]), (&"v2".into(), &"v1".into(), &false.into()));
    assert_eq!(json["packages"][0], serde_json::json!({"name": "python django", "before": "5.1", "after": "5.0"}));
    assert_eq!(json["config"], serde_json::json!({"added": ["B"], "removed": ["C"], "changed": ["A"]}));
    assert_eq!(place.dozen(&["releases", "diff", "v2"]).ok().out, "=== shop/dev v2 → v2\nNothing differs.\n");
    place.dozen(&["releases", "diff", "v7"]).coded(1).has(&["no release v7"]);

    let info = place.dozen(&["releases", "info"]).ok().lacks("secret-value");
    info.has(&["=== shop/dev v2\nStatus:      current\nDescription: Deploy ", "Process:     clock: sleep 2000\n"])
        .has(&["Config vars: A, C\n             since v1: set C; changed A; unset B\n", "Runtime:     none (procfile)\n"]);
    let info = place.dozen(&["releases", "info", "v1", "--json"]).ok().json();
    assert_eq!((&info["version"], &info["current"], &info["slug"]["present"]), (&"v1".into(), &false.into(), &true.into()));
    assert_eq!(info["config"], serde_json::json!(["A", "B"]));
    assert!(info["came_up_at"].is_string() && info["config_changes"].is_null(), "{info}");
    place.dozen(&["releases", "info", "../v1"]).coded(2).has(&["is not valid"]);

    // Without its slug the rest is told.
    std::fs::remove_dir_all(place.home().join("slugs").join(info["slug"]["id"].as_str().expect("an id"))).expect("removed");
    let said = place.dozen(&["releases", "diff", "v1"]).ok().lacks("Files");
    said.has(&["The slug of v1 is gone from the slug store", "+ clock: sleep 2000", "  ~ A"]);
    place.dozen(&["releases", "info", "v1"]).ok().has(&["gone from the slug store"]);
}

// The example: a real Django app with a worker, a form and two databases.

/// The example's folder, with uv and its downloads as if fetched before.
fn guestbook() -> Place {
    let place = Place::named("guestbook", &[]);
    place.share_uv("guestbook");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/guestbook");
    copy(&example, place.folder());
    place
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("readable").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "__pycache__" {
            std::fs::create_dir_all(to.join(&name)).expect("made");
            copy(&path, &to.join(&name));
        } else if path.is_file() {
            std::fs::copy(&path, to.join(&name)).expect("copied");
        }
    }
}

fn page(up: &Deployed<'_>) -> Answer {
    let port = up.port();
    ask(port, format!("GET / HTTP/1.1\r\nHost: guestbook.localhost:{port}\r\nConnection: close\r\n\r\n").as_bytes())
}

/// Fills the form in as a browser does: the page's cookie and token, and where it came from.
fn sign(up: &Deployed<'_>, name: &str, message: &str) {
    let form = page(up);
    assert_eq!(form.status, 200, "{form:?}");
    let between = |text: &str, before: &str, after: &str| {
        let rest = text.split_once(before).unwrap_or_else(|| panic!("no {before} in {text}")).1;
        rest.split_once(after).expect("its end").0.to_owned()
    };
    let cookie = between(&form.head, "csrftoken=", ";");
    let token = between(&form.body, "name=\"csrfmiddlewaretoken\" value=\"", "\"");
    let body = format!("csrfmiddlewaretoken={token}&name={name}&message={message}");
    let (port, length) = (up.port(), body.len());
    let head = format!(
        "POST / HTTP/1.1\r\nHost: guestbook.localhost:{port}\r\nOrigin: http://guestbook.localhost:{port}\r\nCookie: csrftoken={cookie}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    let answer = ask(port, head.as_bytes());
    assert_eq!(answer.status, 302, "{answer:?}");
}

#[test]
fn the_guestbook_comes_up_keeps_its_entries_and_rolls_back() {
    let place = guestbook();
    let up = place.up();
    sign(&up, "Ada", "first+entry");
    up.line("worker.1", "greeted entry 1");
    assert!(page(&up).body.contains("first entry"));

    browse(&place, &up);

    up.dozen(&["ps", "restart"]).ok();
    up.lines("web.1", "State changed from starting to up", 2);
    up.lines("worker.1", "State changed from starting to up", 2);
    assert!(page(&up).body.contains("first entry"));
    sign(&up, "Grace", "second+entry");
    up.line("worker.1", "greeted entry 2");
    up.dozen(&["run", "--", "python", "manage.py", "entries", "--count"]).ok().has(&["2"]);
    up.stop();

    // Another greeting and another page: v2. Back: both as they were, and what was written stays.
    let template = "guestbook/templates/guestbook/page.html";
    let text = std::fs::read_to_string(place.folder().join(template)).expect("there");
    place.write(template, text.replace("<h1>Guestbook</h1>", "<h1>Visitors</h1>"));
    place.write(".env", "GREETING=Hail, {name}!\n");
    let up = place.up();
    assert!(page(&up).body.contains("<h1>Visitors</h1>"));
    sign(&up, "Mary", "third+entry");
    up.line("worker.1", "greeted entry 3");
    assert!(page(&up).body.contains("Hail, Mary!"));
    up.dozen(&["rollback"]).ok().has(&["Rolling back guestbook to v1... done, v3"]);
    sign(&up, "Joan", "fourth+entry");
    up.line("worker.1", "greeted entry 4");
    let body = page(&up).body;
    assert!(body.contains("<h1>Guestbook</h1>") && body.contains("Welcome, Joan!") && body.contains("first entry"), "{body}");
    up.stop();
    place.assert_nothing_left();
}

/// The page as a browser shows it.
fn browse(place: &Place, up: &Deployed<'_>) {
    let flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--virtual-time-budget=5000",
        "--dump-dom",
    ];
    let profile = format!("--user-data-dir={}", place.beside("chromium").display());
    // A name that ends in .localhost is this machine to a browser, so this is the address that a person is given.
    let dom = finish(Command::new("chromium").args(flags).arg(profile).arg(up.url()).env("HOME", place.beside("chromium-home"))).ok().out;
    assert!(dom.contains("<h1>Guestbook</h1>") && dom.contains("first entry") && dom.contains("Sign the guestbook</button>"), "{dom}");
}

/// A PostgreSQL of the test's own, run by a user that is not root.
struct Postgres {
    server: Child,
    port: u16,
}

impl Postgres {
    fn start(folder: PathBuf) -> Self {
        let bin = Path::new("/usr/lib/postgresql/15/bin");
        let program = |name: &str| {
            let mut command = Command::new(bin.join(name));
            if is_root() {
                command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(bin.join(name));
            }
            command.env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
            command
        };
        std::fs::create_dir(&folder).expect("made");
        if is_root() {
            let parent = folder.parent().expect("a parent");
            std::fs::set_permissions(parent, std::os::unix::fs::PermissionsExt::from_mode(0o711)).expect("a way in");
            std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).expect("handed over");
        }
        let data = folder.join("data");
        finish(program("initdb").args(["-A", "trust", "-U", "shop", "--no-sync", "-D"]).arg(&data)).ok();
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let mut server = program("postgres")
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(&folder)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("postgres starts");
        let mut lines = BufReader::new(server.stderr.take().expect("piped")).lines();
        let ready = lines.find_map(|l| l.ok().filter(|l| l.contains("ready to accept connections")));
        assert!(ready.is_some(), "postgres ended");
        // Read on, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { server, port }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT: end without waiting for clients.
        crate::deployed::kill(self.server.id().cast_signed(), Signal::INT);
        let _ = self.server.wait();
    }
}

#[test]
fn the_guestbook_uses_postgresql_by_its_url_alone() {
    let place = guestbook();
    let postgres = Postgres::start(place.beside("postgres"));
    let url = format!("postgres://shop@127.0.0.1:{}/postgres", postgres.port);
    place.write(".env", format!("DATABASE_URL={url}\n"));
    let up = place.up();
    sign(&up, "Ada", "in+postgres");
    up.line("worker.1", "greeted entry 1");
    assert!(page(&up).body.contains("in postgres"));
    up.dozen(&["ps", "restart", "web"]).ok();
    up.lines("web.1", "State changed from starting to up", 2);
    assert!(page(&up).body.contains("in postgres"));
    let ask = "select message from guestbook_entry";
    let row = finish(Command::new("/usr/lib/postgresql/15/bin/psql").args(["-At", "-c", ask, &url])).ok();
    assert_eq!(row.out, "in postgres\n");
    up.stop();
    assert_eq!(place.ledger("select count(*) from resources"), "0");
}

#[test]
fn a_bare_rollback_passes_over_a_release_that_never_came_up() {
    let place = Place::web("web: python3 web.py\n");
    place.once().ok();
    place.write("Procfile", "web: exit 3\n");
    place.once().coded(1).has(&["did not come up"]);
    place.write("Procfile", "web: python3 web.py --again\n");
    let up = place.up();
    assert_eq!(up.dozen(&["releases", "--json"]).ok().json()["releases"][1]["came_up"], false);
    up.dozen(&["releases"]).ok().has(&["v2       never up"]);
    up.dozen(&["rollback"]).ok().has(&["to v1... done, v4"]);
    up.stop();
}

#[test]
fn a_release_of_code_and_config_names_both() {
    let place = Place::web("web: python3 web.py\n");
    place.once().ok();
    place.write("note.txt", "new");
    place.dozen(&["config", "set", "GREETING=four-and-more"]).ok();
    place.once().ok().has(&["Released v2"]);
    place.dozen(&["releases"]).ok().has(&["; Set GREETING config vars"]);
}
