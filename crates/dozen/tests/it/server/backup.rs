//! `dozen backup` and `dozen restore`: a home in a file while it is written to, and a home of that file elsewhere.

use super::pushes::{commit, git};
use super::{Server, WEB, released, until};
use crate::deployed::{DOZEN, Place, finish, finish_with};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};

const DATA: &str = r#"
import http.server, os, sqlite3

path = os.environ["DATABASE_URL"].removeprefix("sqlite:///")

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with sqlite3.connect(path, timeout=60) as c:
            c.execute("PRAGMA journal_mode=WAL")
            c.execute("CREATE TABLE IF NOT EXISTS visits (n INTEGER)")
            c.execute("INSERT INTO visits VALUES (1)")
            count = c.execute("SELECT count(*) FROM visits").fetchone()[0]
        body = str(count).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
"#;

#[test]
fn a_home_goes_on_elsewhere_from_a_backup_that_was_made_under_writes() {
    let place = Place::new(&[("Procfile", "web: exec python3 web.py\n"), ("web.py", WEB)]);
    released(&place, "blog");
    let counter = place.beside("counter");
    std::fs::create_dir_all(&counter).expect("made");
    let files = [("Procfile", "web: exec python3 web.py\n"), ("web.py", DATA), ("app.json", r#"{"addons": ["sqlite"]}"#)];
    files.iter().for_each(|(name, text)| std::fs::write(counter.join(name), text).expect("written"));
    finish(place.program(DOZEN).args(["up", "-a", "counter/production", "--port", "0", "--once"]).current_dir(&counter)).ok();
    let server = Server::start(&place);
    server.call("POST", "/v1/apps", &json!({"name": "shop"}));
    let config = |value: &str| json!({"set": {"GREETING": value}});
    server.call("PATCH", "/v1/apps/shop/deploys/production/config", &config("first"));
    git(&place, &["init", "-qb", "main"]).ok();
    commit(&place, "one");
    let remote = |port: u16, token: &str| format!("http://git:{token}@dozen.localhost:{port}/shop.git");
    git(&place, &["push", "-q", &remote(server.port, &server.token), "main"]).ok();
    until("its page", || server.get("counter.localhost").status == 200);

    let file = place.beside("all.dozen");
    let file = file.to_str().expect("text");
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                assert_eq!(server.get("counter.localhost").status, 200);
                server.call("PATCH", "/v1/apps/blog/deploys/production/formation", &json!({"changes": [format!("web={}", 1 + n % 2)]}));
            }
            assert!(n > 0);
        });
        let made = place.dozen(&["backup", file, "--json"]);
        stop.store(true, Ordering::Relaxed);
        let made = made.ok().json();
        assert_eq!(made["deploys"], json!(["blog/production", "counter/production", "shop/production"]), "{made}");
        assert_eq!(made["warnings"], json!([]));
    });
    // What came after it is not in it.
    server.call("PATCH", "/v1/apps/shop/deploys/production/config", &config("later"));
    let visits: u32 = server.get("counter.localhost").body.parse().expect("a number");
    let token = server.token.clone();
    place.dozen(&["backup", file]).coded(2).has(&["is there already"]);
    server.stop();

    let another = place.beside("another");
    let there = |args: &[&str]| finish(place.program(DOZEN).args(args).env("DOZEN_HOME", &another));
    there(&["restore", file]).ok().has(&["Restored 3 deploys"]);
    there(&["restore", file]).coded(1).has(&["is not empty"]);
    there(&["server", "check"]).ok().has(&["Nothing is wrong"]);
    // The first home is gone, and so is all that could be found there by mistake.
    std::fs::rename(place.home(), place.beside("gone")).expect("moved");
    std::fs::rename(&another, place.home()).expect("moved");
    assert!(place.ledger("SELECT folder FROM resources").contains("/another/"), "it says where it was restored to");
    std::fs::remove_dir_all(place.home()).expect("removed");
    place.dozen(&["restore", file]).ok();
    let server = Server::start(&place);
    assert_eq!(server.token, "", "its people are known");
    for (host, is) in [("blog.localhost", "blog "), ("shop.localhost", "first ")] {
        until("its page", || server.get(host).status == 200);
        assert!(server.get(host).body.starts_with(is), "{host}: {}", server.get(host).body);
    }
    until("its data", || server.get("counter.localhost").status == 200);
    let kept: u32 = server.get("counter.localhost").body.parse().expect("a number");
    assert!((2..=visits + 1).contains(&kept), "{kept} of {visits}");
    let server = Server { token, ..server };
    server.call("PATCH", "/v1/apps/shop/deploys/production/config", &config("second"));
    assert!(server.get("shop.localhost").body.starts_with("second "));
    server.call("POST", "/v1/apps/shop/deploys/production/rollbacks", &json!({"to": "v1", "part": "all"}));
    assert!(server.get("shop.localhost").body.starts_with("first "));
    place.write("more.txt", "more");
    commit(&place, "two");
    git(&place, &["push", &remote(server.port, &server.token), "main"]).ok().has(&["Released v4"]);
    let events = server.call("GET", "/v1/events?n=50", &Value::Null).to_string();
    assert!(events.contains("restore a backup"), "{events}");
    server.stop();
    place.assert_nothing_left();
}

#[test]
fn what_is_torn_changed_or_sealed_with_another_passphrase_becomes_no_home() {
    let place = Place::new(&[]);
    released(&place, "shop");
    let at = |name: &str| place.beside(name).to_str().expect("text").to_owned();
    for (name, text) in [("right", "correct horse\nbattery"), ("wrong", "correct house\n"), ("empty", "\nx")] {
        std::fs::write(at(name), text).expect("written");
    }
    // What lies there under a name that one could guess is not written to.
    std::fs::write(place.beside("others"), "theirs").expect("written");
    std::os::unix::fs::symlink(place.beside("others"), place.beside("plain.partial")).expect("linked");
    place.dozen(&["backup", &at("plain")]).ok().has(&["1 deploys"]);
    assert_eq!(std::fs::read_to_string(place.beside("others")).expect("there"), "theirs");
    place.dozen(&["backup", &at("sealed"), "--passphrase-file", &at("right")]).ok();
    place.dozen(&["backup", &at("none"), "--passphrase-file", &at("empty")]).coded(2);
    place.dozen(&["backup", &at("none"), "--encrypt"]).coded(2).has(&["no terminal"]);
    assert!(
        std::fs::read_dir(place.beside("")).expect("read").all(|e| !e.expect("an entry").file_name().to_string_lossy().starts_with("none"))
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(at("plain")).expect("there").permissions());
    assert_eq!(mode & 0o777, 0o600);
    let key = std::fs::read(place.home().join("key")).expect("a key");
    let (plain, sealed) = (std::fs::read(at("plain")).expect("read"), std::fs::read(at("sealed")).expect("read"));
    assert!(!sealed.windows(key.len()).any(|w| w == key));

    let empty = place.beside("fresh");
    let restore = |bytes: &[u8], more: &[&str]| {
        let mut dozen = place.program(DOZEN);
        finish_with(dozen.args(["restore", "-"]).args(more).env("DOZEN_HOME", &empty), bytes)
    };
    let nothing = || std::fs::read_dir(&empty).is_ok_and(|mut all| all.next().is_none());
    let changed = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 0x20;
        bytes
    };
    for bytes in [&b""[..], b"nonsense", &plain[..plain.len() / 2], &plain[..plain.len() - 1], &changed(&plain, plain.len() / 2)] {
        restore(bytes, &[]).coded(1).has(&["backup"]);
        assert!(nothing(), "{} bytes", bytes.len());
    }
    let right = ["--passphrase-file", &at("right")];
    restore(&sealed, &[]).coded(1).has(&["sealed", "--passphrase-file"]);
    restore(&sealed, &["--passphrase-file", &at("wrong")]).coded(1).has(&["another passphrase"]);
    restore(&sealed[..sealed.len() - 1], &right).coded(1);
    restore(&changed(&sealed, sealed.len() / 2), &right).coded(1);
    assert!(nothing());
    restore(&sealed, &right).ok();
    assert_eq!(std::fs::read(empty.join("key")).expect("a key"), key);
    finish(place.program(DOZEN).args(["server", "check"]).env("DOZEN_HOME", &empty)).ok();
}
