//! End to end: dev/prod parity. `up` in all its forms, beside another one, and on machines that lack something.

use crate::deployed::{DOZEN, Place, WEB, finish, is_root};
use crate::machines::given_to_an_ordinary_user;
use rustix::process::Signal;
use std::process::Command;
use std::time::Duration;

const BOTH: &str = "web: python3 web.py\nworker: sleep 1000\n";

#[test]
fn once_says_whether_it_comes_up() {
    let place = Place::web(BOTH);
    place.once().ok().has(&["dozen[web.1]: State changed from starting to up", "dozen[web.1]: State changed from stopping to down"]);
    place.assert_nothing_left();
    place.write("Procfile", "web: echo oh no; exit 4\n");
    place.once().coded(1).has(&["app[web.1]: oh no", "shop/dev v2 did not come up: web.1 ended with exit code 4"]);
    place.assert_nothing_left();
    // It listens first, and fails at what it loads then.
    let late = "import http.server, os, threading\nserver = http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), None)\n\
                threading.Timer(0.9, lambda: os._exit(5)).start()\nserver.serve_forever()\n";
    place.write("late.py", late);
    place.write("Procfile", "web: exec python3 late.py\n");
    place.once().coded(1).has(&["shop/dev v3 came up and did not stay up: web.1 ended with exit code 5"]);
    place.assert_nothing_left();
}

#[test]
fn detached_it_goes_on_until_down() {
    let place = Place::web(BOTH);
    let said = place
        .dozen(&["up", "--port", "0", "--detach", "--no-color"])
        .ok()
        .has(&["Released v1", "shop/dev runs in the background at http://"]);
    let url = said.out.split_once("background at ").and_then(|(_, rest)| rest.split(';').next()).expect("a URL").to_owned();
    let port: u16 = url.rsplit(':').next().and_then(|p| p.parse().ok()).expect("a port");
    let answer = crate::deployed::ask(port, b"GET /env/DYNO HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(answer.body, "web.1");
    place.dozen(&["ps"]).ok().has(&[&url, "web.1", "worker.1"]);
    place.dozen(&["up", "--port", "0"]).coded(1).has(&["shop/dev is already running: `dozen up` with pid ", "dozen down -a shop/dev"]);
    assert_eq!(place.dozen(&["down"]).ok().out, "Stopped shop/dev\n");
    place.assert_nothing_left();
    std::net::TcpStream::connect(("127.0.0.1", port)).expect_err("the router is gone");
    place.dozen(&["down"]).coded(1).has(&["shop/dev is not running"]);
}

#[test]
fn detached_that_fails_says_why_and_leaves_nothing() {
    let place = Place::web("web: echo oh no; exit 4\n");
    let said = place.dozen(&["up", "--port", "0", "--detach", "--no-color"]).coded(1);
    said.has(&["oh no", "did not come up: web.1 ended with exit code 4"]).lacks("background");
    place.until_nothing_left(Duration::from_secs(2));
    place.assert_no_run_folder();
}

#[test]
fn two_apps_share_a_home_and_one_deploy_runs_once() {
    let place = Place::web(BOTH);
    let first = place.up();
    let second = place.start(&["--app", "kiosk"]);
    second.event("ready");
    let third = place.start(&[]).wait();
    assert_eq!(third.code, 1);
    let message = third.texts("error").join("");
    assert!(message.contains(&format!("shop/dev is already running: `dozen up` with pid {}", first.pid())), "{}", third.text());
    let kiosk = first.dozen(&["ps", "--json", "-a", "kiosk"]).ok().json();
    assert_eq!((&kiosk["deploy"], &kiosk["serving"]), (&"kiosk/dev".into(), &true.into()));
    assert_ne!(kiosk["url"], first.url());
    // Both write the ledger at once.
    std::thread::scope(|threads| {
        for app in ["shop", "kiosk"] {
            let place = &place;
            threads.spawn(move || {
                for n in 0..3 {
                    place.dozen(&["config", "set", &format!("N={n}"), "-a", app]).ok();
                }
            });
        }
    });
    assert_eq!(place.ledger("select deploy, count(*) from releases group by 1"), "kiosk/dev|4\nshop/dev|4");
    second.stop();
    assert_eq!(first.page("/env/N"), "2");
    first.stop();
    place.assert_nothing_left();
}

#[test]
fn several_first_ups_agree_on_one_new_home() {
    let place = Place::new(&[("Procfile", "clock: sleep 1000\n")]);
    let ups: Vec<_> = ["a", "b", "c", "d", "e"].iter().map(|app| place.start(&["--app", app])).collect();
    ups.iter().for_each(|up| drop(up.event("ready")));
    assert_eq!(place.ledger("select count(*), count(distinct uid), count(current_release) from deploys"), "5|5|5");
    // The folder has no app of its own name: which one is meant has to be said.
    place.dozen(&["ps"]).coded(2).has(&["several apps were brought up from", "name one with -a: a, b, c, d, e"]);
    ups.into_iter().for_each(|up| drop(up.stop()));
    place.assert_nothing_left();
}

#[test]
fn what_is_no_app_is_refused_before_anything_is_made() {
    let place = Place::new(&[("file", "")]);
    for (args, needle) in [
        (["up", "nowhere"], "cannot find the folder nowhere"),
        (["up", "file"], "is not a folder"),
        (["up", "--app=Not/A/Name"], "app name \"Not\" is not valid"),
        (["up", "--port=70000"], "70000"),
        (["upp", "."], "up"),
    ] {
        place.dozen(&args).coded(2).has(&[needle]).lacks("panicked");
    }
    place.dozen(&["up", "--once", "--detach"]).coded(2).has(&["cannot be used with"]);
    assert!(!place.home().join("run").exists());
    // A folder without an app is none afterwards either.
    place.once().coded(1).has(&["no pack knows this app"]);
    assert_eq!(place.ledger("select count(*) from deploys"), "0");
}

#[test]
fn a_taken_port_is_told_at_once() {
    let place = Place::web(BOTH);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port().to_string();
    place.dozen(&["up", "--port", &port]).coded(1).has(&["port", &port]).lacks("detected");
    place.assert_nothing_left();
}

#[test]
fn json_is_one_value_a_line() {
    let place = Place::web("release: true\nweb: python3 web.py\n");
    let mut up = place.start(&[]);
    let released = up.released();
    assert_eq!((&released["deploy"], &released["release"], &released["new"]), (&"shop/dev".into(), &"v1".into(), &true.into()));
    assert_eq!(up.ready()["url"], released["url"]);
    let ended = up.stop();
    let kinds: Vec<&str> = ended.events.iter().filter_map(|e| e["event"].as_str()).collect();
    assert!(kinds.iter().all(|k| ["step", "detail", "warning", "done", "log", "released", "ready"].contains(k)), "{}", ended.text());
    assert_eq!(ended.err, "");
}

#[test]
fn a_home_that_cannot_be_written_is_named() {
    let place = Place::web(BOTH);
    place.once().ok();
    let home = place.home();
    if is_root() {
        // Root may write where the mode says no; a read-only mount it may not.
        let script =
            "mount --bind \"$DOZEN_HOME\" \"$DOZEN_HOME\" && mount -o remount,ro,bind \"$DOZEN_HOME\" && exec \"$0\" up --port 0 --once";
        let said = finish(place.program("unshare").args(["-m", "sh", "-c", script, DOZEN]));
        assert!(said.code == 1 || said.code == 2, "{said:?}");
        said.has(&[home.to_str().expect("text")]).lacks("panicked");
    } else {
        let mode = |m| std::fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(m)).expect("chmod");
        mode(0o500);
        let said = place.once();
        mode(0o700);
        assert!(said.code == 1 || said.code == 2, "{said:?}");
        said.has(&[home.to_str().expect("text")]).lacks("panicked");
    }
    place.once().ok();
    place.assert_nothing_left();
}

#[test]
fn a_home_may_lie_deep_or_within_the_app() {
    let place = Place::new(&[("Procfile", "clock: sleep 1000\n")]);
    let deep = place.beside(&"a-long-name/".repeat(20));
    let within = |home: &std::path::Path, args: &[&str]| finish(place.program(DOZEN).args(args).env("DOZEN_HOME", home));
    within(&deep, &["up", "--port", "0", "--detach"]).ok();
    within(&deep, &["ps"]).ok().has(&["clock.1"]);
    within(&deep, &["down"]).ok();

    let inside = std::path::Path::new(".dozen");
    within(inside, &["up", "--port", "0", "--once"]).ok().has(&["Released v1"]).lacks(".dozen");
    within(inside, &["up", "--port", "0", "--once"]).ok().has(&["Nothing changed: v1 again"]);
    assert_eq!(within(inside, &["run", "--", "ls -A"]).ok().out, "Procfile\n");
    within(std::path::Path::new("."), &["up", "--port", "0", "--once"]).coded(2).has(&["DOZEN_HOME is the app's own folder"]);
}

#[test]
fn a_home_that_cannot_be_made_is_named() {
    let place = Place::web(BOTH);
    std::fs::write(place.home(), "a file").expect("written");
    let said = place.once().coded(2);
    said.has(&[place.home().to_str().expect("text"), "set DOZEN_HOME"]);
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that could not run says so")]
fn a_full_disk_is_told_and_the_ledger_stays_whole() {
    if !is_root() {
        eprintln!("not run: mounting a small tmpfs needs root");
        return;
    }
    let place = Place::web(BOTH);
    std::fs::create_dir(place.home()).expect("made");
    let script = r#"
        mount -t tmpfs -o size=4m none "$DOZEN_HOME" || exit 99
        "$0" up --port 0 --once --no-color || exit 98
        head -c 16m /dev/zero > "$DOZEN_HOME/filler" 2>/dev/null
        echo '# changed' >> web.py
        "$0" up --port 0 --once --no-color; echo "full: $?"
        for room in 16 32 64; do
            truncate -s -16K "$DOZEN_HOME/filler"
            "$0" up --port 0 --once --no-color; echo "with $room KiB: $?"
            # A copy elsewhere, since even to look at it sqlite3 needs a page of shared memory beside it.
            copy=$(mktemp -d) && cp "$DOZEN_HOME"/ledger.db "$DOZEN_HOME"/ledger.db-wal "$copy"
            sqlite3 "$copy/ledger.db" 'pragma integrity_check' | sed 's/^/integrity: /'
            rm -r "$copy"
        done
        rm "$DOZEN_HOME/filler"
        sqlite3 "$DOZEN_HOME/ledger.db" 'pragma integrity_check' | sed 's/^/integrity: /'
        "$0" up --port 0 --once --no-color; echo "again: $?"
        sqlite3 "$DOZEN_HOME/ledger.db" "select 'current: ' || current_release from deploys"
        sqlite3 "$DOZEN_HOME/ledger.db" "select 'pending: ' || count(*) from releases where status = 'pending'"
    "#;
    let said = finish(place.program("unshare").args(["-m", "sh", "-c", script, DOZEN])).ok();
    let said = said.has(&["full: 2\n", "integrity: ok\n", "again: 0\n", "pending: 0\n"]).lacks("panicked");
    assert_eq!(said.out.matches("integrity: ok\n").count(), 4, "{}", said.all());
    assert!(said.err.contains("No space left on device"), "{}", said.all());
    place.assert_nothing_left();
}

#[test]
fn an_empty_path_and_no_python_do_not_matter_to_what_needs_neither() {
    let place = Place::new(&[("Procfile", "clock: echo $PATH; sleep 1000\n")]);
    let said = finish(place.program(DOZEN).args(["up", "--port", "0", "--once", "--no-color"]).env("PATH", ""));
    said.ok().has(&["app[clock.1]: /usr/local/bin:/usr/bin:/bin"]);
}

const PYTHON: [(&str, &str); 2] = [
    ("requirements.txt", "six==1.16.0\n"),
    ("Procfile", "clock: python -c 'import six, time; print(six.__version__, flush=True); time.sleep(1000)'\n"),
];

#[test]
fn an_empty_path_hides_no_python() {
    let place = Place::new(&PYTHON);
    place.share_uv("shop");
    let said = finish(place.program(DOZEN).args(["up", "--port", "0", "--once", "--no-color"]).env("PATH", ""));
    said.ok().has(&["-----> Python app detected", "app[clock.1]: 1.16.0"]);
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that could not run says so")]
fn no_python_and_no_network_are_told_with_their_cure() {
    if !is_root() {
        eprintln!("not run: hiding the interpreters and the network needs root");
        return;
    }
    let place = Place::new(&PYTHON);
    let hide = r#"
        for p in /usr/bin/python3* /usr/local/bin/python3*; do [ -f "$p" ] && mount --bind /dev/null "$(readlink -f "$p")"; done
        for d in ~/.pyenv ~/.local/share/uv; do [ -d "$d" ] && mount -t tmpfs none "$d"; done
        PATH= exec "$0" up --port 0 --once --no-color
    "#;
    let said = finish(place.program("unshare").args(["-m", "sh", "-c", hide, DOZEN])).coded(1);
    said.has(&["there is no Python here that can be used", "apt install python3"]);

    place.share_tools();
    let said = finish(place.program("unshare").args(["-n", DOZEN, "up", "--port", "0", "--once", "--no-color"])).coded(1);
    said.has(&["No package index could be reached", "HTTPS_PROXY"]).lacks("Launching");
    assert_eq!(place.ledger("select count(*) from releases"), "0");
    place.assert_nothing_left();
}

#[test]
fn a_program_that_is_not_there_is_127_and_named() {
    let place = Place::new(&[("Procfile", "clock: no-such-program\n")]);
    place.once().coded(1).has(&["no-such-program: not found", "clock.1 ended with exit code 127"]);
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that could not run says so")]
fn an_ordinary_user_brings_up_the_same() {
    if !is_root() {
        eprintln!("not run: every other test runs as an ordinary user already");
        return;
    }
    let place = Place::new(&[("Procfile", BOTH), ("web.py", WEB), ("app.json", r#"{"addons": ["sqlite"]}"#)]);
    let as_user = given_to_an_ordinary_user(&place);
    let mut up = place.started(&mut as_user(&["up", "--port", "0", "--json"]));
    up.ready();
    assert_eq!(up.page("/add/one"), "1");
    finish(&mut as_user(&["ps", "scale", "web=2"])).ok();
    up.line("web.2", "State changed from starting to up");
    assert_eq!(finish(&mut as_user(&["run", "--", "id -u"])).ok().out.lines().count(), 1);
    // Root may steer it as well; the other way round not.
    up.dozen(&["ps"]).ok().has(&["web.2"]);
    up.signal(Signal::INT);
    assert_eq!(up.wait().code, 0);
    place.assert_nothing_left();
    std::os::unix::fs::chown(place.home(), Some(0), Some(0)).expect("taken back");
    finish(&mut as_user(&["ps"])).coded(1).has(&["only the owner of"]);
}

#[test]
fn the_ledger_reads_like_the_methodology() {
    let place = Place::web(BOTH);
    place.once().ok();
    place.dozen(&["run", "--", "exit 3"]).coded(3);
    assert_eq!(place.ledger("select name, app, current_release from deploys"), "shop/dev|shop|1");
    assert_eq!(place.ledger("select process_type, quantity from formations order by 1"), "web|1\nworker|1");
    assert_eq!(place.ledger("select number, command, exit_code from one_offs"), "1|exit 3|3");
    assert_eq!(place.ledger("select pack, json_extract(processes, '$.web') from slugs"), "procfile|python3 web.py");
    let mode = |file: &str| {
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(place.home().join(file)).expect("there").permissions()) & 0o777
    };
    assert_eq!((mode("key"), mode("")), (0o600, 0o700));
    let same = finish(Command::new("sqlite3").args(["-readonly"]).arg(place.home().join("ledger.db")).arg("pragma integrity_check"));
    assert_eq!(same.ok().out, "ok\n");
}

#[test]
fn what_other_platforms_would_do_is_said_once_with_what_to_do_instead() {
    let app_json = r#"{"addons": ["sentry:f1"], "buildpacks": [{"url": "heroku/ruby"}, {"url": "heroku/python"}], "scripts": {"postdeploy": "seed --all"}}"#;
    let place =
        Place::new(&[("Procfile", "clock: sleep 1000\n"), ("app.json", app_json), ("nltk.txt", "punkt\n"), ("bin/post_compile", "")]);
    let said = place.once().ok().has(&[
        "nltk.txt is not used",
        "bin/post_compile is not run",
        "buildpack heroku/ruby is not used",
        "`dozen run -- seed --all`",
        "dozen config set SENTRY_URL=…",
    ]);
    said.lacks("heroku/python");
    place.once().ok().lacks("is not used").lacks("is not run");
}

#[test]
fn a_home_that_others_can_enter_shows_them_nothing() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let place = Place::new(&[("Procfile", "clock: sleep 1000\n")]);
    std::fs::create_dir(place.home()).expect("made");
    std::fs::set_permissions(place.home(), std::fs::Permissions::from_mode(0o755)).expect("opened");
    let up = place.up();
    for entry in std::fs::read_dir(place.home()).expect("listed").flatten() {
        let meta = entry.metadata().expect("there");
        let mode = meta.permissions().mode() & 0o777;
        // The router, where it has a uid of its own, passes through one of them.
        let passed = if meta.gid() == 479_999 && entry.file_name() == "logs" { 0o010 } else { 0 };
        assert_eq!(mode & 0o077, passed, "{} is {mode:o}", entry.path().display());
    }
    up.stop();
}
