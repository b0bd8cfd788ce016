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
    up.dozen(&["rollback", "latest"]).coded(1).has(&["latest"]);
    let list = up.dozen(&["releases", "--json"]).ok().json();
    let descriptions: Vec<&str> = list["releases"].as_array().expect("a list").iter().filter_map(|r| r["description"].as_str()).collect();
    assert_eq!(descriptions[..2], ["Rollback to v2", "Rollback to v1"]);
    assert_eq!((&list["releases"][0]["version"], &list["releases"][0]["current"]), (&"v4".into(), &true.into()));
    up.stop();
    place.dozen(&["rollback"]).coded(1).has(&["shop/dev is not running", "dozen up"]);
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
