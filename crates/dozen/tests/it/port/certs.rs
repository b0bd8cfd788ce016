//! Certificates from end to end: `up --https-port`, `dozen certs`, and what a client then sees.

use crate::deployed::{Place, WEB, kill, pause};
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// `GET` by curl, which trusts `root` and finds `host` here; the body, or what curl says.
pub(super) fn curl(root: &Path, host: &str, port: u16) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "20", "--resolve", &format!("{host}:{port}:127.0.0.1"), "--cacert"]).arg(root);
    let out = curl.arg(format!("https://{host}:{port}/")).output().expect("curl runs");
    String::from_utf8_lossy(if out.status.success() { &out.stdout } else { &out.stderr }).into_owned()
}

/// A self-signed certificate and its key, by openssl.
fn signed(place: &Place, name: &str, names: &str) -> (String, String) {
    let file = |end: &str| place.beside(&format!("{name}.{end}")).display().to_string();
    let (chain, key) = (file("pem"), file("key"));
    let subject = format!("/CN={name}");
    let alternative = format!("subjectAltName={names}");
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", &subject]);
    let out = openssl.args(["-addext", &alternative, "-keyout", &key, "-out", &chain]).output().expect("openssl runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    (chain, key)
}

pub(super) fn https_port(ready: &Value) -> u16 {
    let url = ready["https_url"].as_str().unwrap_or_else(|| panic!("no HTTPS: {ready}"));
    assert!(url.starts_with("https://shop.localhost:"), "{url}");
    url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

pub(super) fn shop() -> Place {
    Place::new(&[("Procfile", "web: exec python3 web.py\n"), ("web.py", WEB)])
}

fn root(place: &Place) -> std::path::PathBuf {
    place.dozen(&["certs", "ca", "-q"]).ok().out.trim().into()
}

#[test]
fn local_names_are_certified_by_the_authority_of_the_home() {
    let place = shop();
    place.once().ok();
    place.dozen(&["domains", "add", "shop.test", "shop.example.com"]).ok();
    let mut up = place.start(&["--https-port", "0"]);
    let port = https_port(&up.ready());
    let root = root(&place);
    for host in ["shop.localhost", "shop.test", "localhost", "127.0.0.1"] {
        assert_eq!(curl(&root, host, port), up.page("/"), "{host}");
    }
    let refused = curl(&root, "shop.example.com", port);
    assert!(refused.contains("unrecognized name"), "{refused}");
    place.dozen(&["ps"]).ok().has(&[&format!(" at http://shop.localhost:{} and https://shop.localhost:{port}", up.port())]);
    let listed = place.dozen(&["certs", "--json"]).ok().json();
    assert_eq!(listed["local"], serde_json::json!(["shop.localhost", "shop.test"]), "{listed}");
    assert_eq!(listed["without"], serde_json::json!(["shop.example.com"]), "{listed}");
    let told = place.dozen(&["certs", "ca"]).ok();
    told.has(&[&format!("curl --cacert {}", root.display()), "NODE_EXTRA_CA_CERTS", "certutil"]);
    up.stop();
    place.assert_nothing_left();
}

#[test]
fn the_authority_certifies_nothing_else_whatever_it_signs() {
    let place = shop();
    let root = root(&place);
    let text = Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(&root).output().expect("openssl runs");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for part in ["X509v3 Name Constraints: critical", "DNS:localhost", "DNS:test", "IP:127.0.0.0/255.0.0.0", "CA:TRUE, pathlen:0"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    // Whoever has its key could sign more: nobody who checks believes it.
    let file = |name: &str| place.beside(name);
    let openssl = |args: &[&str]| {
        let out = Command::new("openssl").args(args).current_dir(root.parent().expect("a folder")).output().expect("openssl runs");
        (out.status.success(), format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
    };
    for (name, believed) in [("shop.test", true), ("example.com", false)] {
        let (request, leaf, extensions) = (file("leaf.csr"), file("leaf.pem"), file("leaf.ext"));
        std::fs::write(&extensions, format!("subjectAltName=DNS:{name}\n")).expect("written");
        let [request, leaf, extensions] = [&request, &leaf, &extensions].map(|p| p.display().to_string());
        let key = file("leaf.key").display().to_string();
        let made = openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            &key,
            "-subj",
            "/O=x",
            "-out",
            &request,
        ]);
        assert!(made.0, "{}", made.1);
        let made =
            openssl(&["x509", "-req", "-in", &request, "-CA", "root.pem", "-CAkey", "root.key", "-extfile", &extensions, "-out", &leaf]);
        assert!(made.0, "{}", made.1);
        let (ok, said) = openssl(&["verify", "-CAfile", "root.pem", &leaf]);
        assert_eq!(ok, believed, "{name}: {said}");
    }
}

#[test]
fn certificates_of_files_are_shown_kept_and_removed() {
    let place = shop();
    let mut up = place.start(&["--https-port", "0"]);
    let port = https_port(&up.ready());
    let (chain, key) = signed(&place, "one", "DNS:shop.example.com,DNS:*.wild.example.com");
    let (_, other) = signed(&place, "two", "DNS:two.example.com");
    for (args, why) in [
        ([&chain, &other], "the key is not the one of this certificate"),
        ([&key, &key], "there is no certificate in it"),
        ([&chain, &chain], "the key cannot be used"),
        ([&"/nowhere".to_owned(), &key], "cannot read /nowhere"),
    ] {
        place.dozen(&["certs", "add", args[0], args[1]]).coded(1).has(&[why]);
    }
    place.dozen(&["certs"]).ok().has(&["None. `dozen certs add"]);
    let added = place.dozen(&["certs", "add", &chain, &key, "--json"]).ok().json();
    assert_eq!((added["source"].as_str(), added["days_left"].as_i64()), (Some("file"), Some(29)), "{added}");
    let page = up.page("/");
    for host in ["shop.example.com", "a.wild.example.com"] {
        assert_eq!(curl(Path::new(&chain), host, port), page, "{host}");
    }
    place.dozen(&["certs"]).ok().has(&["shop.example.com, *.wild.example.com", "file", "in 29 days"]);
    // The same names again take its place.
    let (again, new) = signed(&place, "one", "DNS:shop.example.com,DNS:*.wild.example.com");
    place.dozen(&["certs", "add", &again, &new]).ok();
    assert_eq!(place.ledger("select count(*) from certificates"), "1");
    assert_eq!(curl(Path::new(&again), "shop.example.com", port), page);
    // The key is sealed, and no other row opens it.
    assert_eq!(place.ledger("select count(*) from certificates where instr(sealed_key, 'PRIVATE') > 0"), "0");
    up.stop();
    let mut up = place.start(&["--https-port", "0"]);
    let port = https_port(&up.ready());
    assert_eq!(curl(Path::new(&again), "shop.example.com", port), page);
    place.dozen(&["certs", "remove", "nobody.example.com"]).coded(1).has(&["has no certificate nobody.example.com", "`dozen certs` lists"]);
    place.dozen(&["certs:remove", "SHOP.example.com"]).ok().has(&["Removing certificate"]);
    let gone = curl(Path::new(&again), "shop.example.com", port);
    assert!(gone.contains("unrecognized name"), "{gone}");
    up.stop();
    // Without an `up` as well.
    place.dozen(&["certs", "add", &again, &new]).ok();
    place.dozen(&["certs"]).ok().has(&["shop.example.com", "HTTPS is not spoken"]);
    place.assert_nothing_left();
}

#[test]
fn https_lasts_is_taken_over_and_moves() {
    let place = shop();
    let detach = |more: &[&str]| -> Value {
        let said = place.dozen(&[&["up", "--port", "0", "--detach", "--json"], more].concat()).ok();
        let ready = said.out.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON")).find(|e| e["event"] == "ready");
        let lasting = place.left().into_iter().filter(|(_, line)| line.contains("--lasting"));
        lasting.for_each(|(pid, _)| drop(place.family_of(pid)));
        ready.expect("ready")
    };
    let named = |word: &str| -> Vec<i32> { place.left().into_iter().filter(|(_, line)| line.contains(word)).map(|(pid, _)| pid).collect() };
    let first = https_port(&detach(&["--https-port", "0"]));
    let root = root(&place);
    let page = curl(&root, "shop.localhost", first);
    assert!(!page.contains("curl:"), "{page}");
    let router = named("__router");
    // The control part is killed: the router goes on, and the next one finds it.
    for pid in named("--lasting") {
        kill(pid, Signal::KILL);
    }
    while !named("--lasting").is_empty() {
        pause();
    }
    assert_eq!(curl(&root, "shop.localhost", first), page);
    let ready = detach(&[]);
    assert_eq!((https_port(&ready), named("__router")), (first, router.clone()));
    assert_eq!(place.ledger("select kept_https_port from deploys"), first.to_string());
    // Another port for HTTPS: the one for HTTP stays.
    let spare = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("a port").port();
    let moved = detach(&["--https-port", &spare.to_string()]);
    assert_eq!((https_port(&moved), &moved["url"]), (spare, &ready["url"]));
    assert_ne!(named("__router"), router);
    assert_eq!(curl(&root, "shop.localhost", spare), page);
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
}
