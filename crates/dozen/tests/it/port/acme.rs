//! Certificates by ACME, from Debian's pebble: a real authority on loopback, which asks this machine for every name.

use super::certs::{curl, https_port, shop};
use crate::deployed::{DOZEN, Place, finish, pause};
use dozen_engine::home::Home;
use dozen_engine::port::ca::Authority;
use serde_json::{Value, json};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const YEAR: u32 = 31_536_000;

/// An authority, and the names' server that it asks; they end with this.
struct Pebble {
    children: Vec<Child>,
    port: u16,
    /// Its own server's.
    root: PathBuf,
    folder: tempfile::TempDir,
    management: u16,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.end();
    }
}

/// Nobody has it at this moment, for TCP and UDP.
fn free() -> u16 {
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("a port").port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Pebble {
    /// It looks for names' proofs on these ports of this machine.
    fn asking(http: u16, tls: u16, env: &[(&str, &str)]) -> Self {
        Self::giving(YEAR, http, tls, env)
    }

    /// Its certificates last so many seconds.
    fn giving(seconds: u32, http: u16, tls: u16, env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::at(folder.path());
        home.make().expect("made");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let own = Authority::open(&home).and_then(|a| a.issue(&names, jiff::Timestamp::now())).expect("issued");
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("cert.pem"), &own.chain).expect("written");
        std::fs::write(file("key.pem"), String::from(own.key)).expect("written");
        let (port, management, dns, steering) = (free(), free(), free(), free());
        let config = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"), "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": file("cert.pem"), "privateKey": file("key.pem"), "httpPort": http, "tlsPort": tls,
            "ocspResponderURL": "", "externalAccountBindingRequired": false, "certificateValidityPeriod": seconds,
        }});
        std::fs::write(file("pebble.json"), config.to_string()).expect("written");
        let mut names = Command::new("pebble-challtestsrv");
        names.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", "", "-dns01", &format!("127.0.0.1:{dns}")]);
        names.args(["-management", &format!("127.0.0.1:{steering}")]);
        let mut pebble = Command::new("pebble");
        pebble.arg("-config").arg(file("pebble.json")).args(["-dnsserver", &format!("127.0.0.1:{dns}")]);
        pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "0").envs(env.iter().copied());
        let start = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let children = vec![start(&mut names), start(&mut pebble)];
        let root = file("ca").join("root.pem");
        let pebble = Self { children, port, root, folder, management };
        pebble.roots();
        pebble
    }

    fn end(&mut self) {
        for mut child in self.children.drain(..) {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    /// The certificate that it signs with, as soon as it answers.
    fn roots(&self) -> PathBuf {
        let file = self.folder.path().join("roots.pem");
        loop {
            let url = format!("https://localhost:{}/roots/0", self.management);
            let out = Command::new("curl").args(["-sf", "--cacert"]).arg(&self.root).args(["-o"]).arg(&file).arg(url).output();
            if out.expect("curl runs").status.success() {
                return file;
            }
            pause();
        }
    }
}

/// A deploy with these domains, which was brought up once.
fn with_domains(domains: &[&str]) -> Place {
    let place = shop();
    place.once().ok();
    place.dozen(&[&["domains", "add"], domains].concat()).ok();
    place
}

fn certs_until(place: &Place, found: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..600 {
        let certs = place.dozen(&["certs", "--json"]).ok().json();
        if found(&certs) {
            return certs;
        }
        pause();
    }
    panic!("{}", place.dozen(&["certs", "--json"]).out);
}

/// Has certificates ordered of this authority.
fn auto(place: &Place, pebble: &Pebble, more: &[&str]) {
    let (directory, root) = (pebble.directory(), pebble.root.display().to_string());
    place.dozen(&[&["certs", "auto", "--directory", &directory, "--ca-file", &root, "--agree-tos"], more].concat()).ok();
}

fn failure_of(place: &Place, host: &str) -> String {
    place.ledger(&format!("select times || ' ' || again_at from acme_failures where host = '{host}'"))
}

fn is_live_with_its_certificate(challenge: &str) {
    let place = shop();
    let mut up = place.start(&["--https-port", "0"]);
    let port = https_port(&up.ready());
    let pebble = Pebble::asking(up.port(), port, &[]);
    auto(&place, &pebble, &["--challenge", challenge]);
    let page = up.page("/");
    // Proofs are shown all the same.
    place.dozen(&["https", "on"]).ok().lacks("no port for HTTPS");
    let added = place.dozen(&["domains", "add", "shop.example.com", "shop.example.com/api", "shop.test"]).ok();
    added.has(&[
        "Adding shop.example.com, shop.example.com/api, shop.test to shop... done",
        "shop.example.com is live, with a certificate until 20",
    ]);
    // At once, and not a moment later.
    assert_eq!(curl(&pebble.roots(), "shop.example.com", port), page);
    assert_eq!(place.ledger("select min(d.created_at) > max(c.created_at) from domains d, certificates c"), "1");
    // What has one gets no other.
    let again = place.dozen(&["domains", "add", "shop.example.com", "--json"]).ok().json();
    assert_eq!((&again["changed"], &again["certificates"][0]["why"]), (&json!([]), &Value::Null), "{again}");
    assert!(again["certificates"][0]["not_after"].is_string(), "{again}");
    assert_eq!(place.ledger("select count(*) from certificates"), "1");
    up.stop();
}

#[test]
fn a_domain_is_live_with_the_certificate_that_http_proves() {
    is_live_with_its_certificate("http-01");
}

#[test]
fn a_domain_is_live_with_the_certificate_that_tls_proves() {
    is_live_with_its_certificate("tls-alpn-01");
}

#[test]
fn whoever_waits_for_a_certificate_gets_it_by_whichever_way_is_open() {
    let place = shop();
    let mut up = place.start(&["--https-port", "0"]);
    let port = https_port(&up.ready());
    // Nobody leads port 80 here.
    let pebble = Pebble::asking(free(), port, &[]);
    auto(&place, &pebble, &[]);
    place.dozen(&["domains", "add", "shop.example.com"]).ok().has(&["shop.example.com is live, with a certificate until 20"]);
    assert_eq!(curl(&pebble.roots(), "shop.example.com", port), up.page("/"));
    assert_eq!(failure_of(&place, "shop.example.com"), "");
    up.stop();
}

#[test]
fn a_domain_without_its_certificate_is_added_told_of_and_not_asked_for_again_by_a_restart() {
    let place = shop();
    let mut up = place.start(&["--https-port", "0"]);
    up.ready();
    let mut pebble = Pebble::asking(free(), free(), &[]);
    auto(&place, &pebble, &[]);
    let added = place.dozen(&["domains", "add", "shop.example.com"]).ok();
    added
        .has(&[
            "Adding shop.example.com to shop... done",
            "shop.example.com is not live by HTTPS yet: no certificate for shop.example.com",
            "does the name lead to this machine, and port 443 of it to dozen's router?",
            "It is ordered again at",
            "or at once by `dozen domains add shop.example.com`",
        ])
        .lacks("is live,")
        .lacks("`dozen https` is on");
    place.dozen(&["domains"]).ok().has(&["shop.example.com"]);
    assert_eq!(up.get("/").status, 200);
    // Both ways were tried, and the next time is further off.
    let first = failure_of(&place, "shop.example.com");
    assert!(first.starts_with("2 "), "{first}");
    place.dozen(&["https", "on"]).ok();
    let again = place.dozen(&["domains", "add", "shop.example.com"]).ok();
    again.has(&["Nothing to do", "shop.example.com is not live by HTTPS yet", "since `dozen https` is on"]);
    let second = failure_of(&place, "shop.example.com");
    assert!(second.starts_with("4 "), "{second}");
    up.stop();

    let mut up = place.start(&["--https-port", "0"]);
    up.ready();
    // Orders go one by one, so that one of the start would have been made before this.
    let added = place.dozen(&["domains", "add", "b.example.com", "--json"]).ok().json();
    let standing = &added["certificates"][0];
    assert_eq!((&standing["host"], &standing["too_often"]), (&json!("b.example.com"), &json!(false)), "{added}");
    assert!(standing["why"].is_string() && standing["again_at"].is_string(), "{added}");
    assert_eq!(failure_of(&place, "shop.example.com"), second);
    // An authority that is away is told of as well.
    pebble.end();
    place.dozen(&["domains", "add", "c.example.com"]).ok().has(&["c.example.com is not live by HTTPS yet: cannot use an account at"]);
    let listed = place.dozen(&["certs", "--json"]).ok().json();
    assert_eq!(listed["auto"]["failures"].as_array().map(Vec::len), Some(3), "{listed}");
    place.dozen(&["domains", "remove", "c.example.com"]).ok();
    let listed = place.dozen(&["certs", "--json"]).ok().json();
    assert_eq!(listed["auto"]["failures"].as_array().map(Vec::len), Some(2), "{listed}");

    // Nobody is asked for what leads elsewhere.
    let other = place.beside("blog");
    std::fs::create_dir(&other).expect("made");
    std::fs::write(other.join("Procfile"), "clock: sleep 999\n").expect("written");
    let of_other = |args: &[&str]| finish(place.program(DOZEN).current_dir(&other).args(args));
    of_other(&["up", "--once", "--port", "0"]).ok();
    of_other(&["domains", "add", "blog.example.com"]).ok().has(&["the next `dozen up` goes by it"]);
    place.dozen(&["domains", "add", "d.example.com", "blog.example.com"]).coded(1).has(&["blog.example.com leads to blog/dev already"]);
    assert_eq!(failure_of(&place, "d.example.com") + &failure_of(&place, "blog.example.com"), "");
    up.stop();
}

fn obtains(challenge: &str, env: &[(&str, &str)]) {
    let place = with_domains(&["shop.example.com"]);
    let mut up = place.start(&["--https-port", "0"]);
    let port = https_port(&up.ready());
    let mut pebble = Pebble::asking(up.port(), port, env);
    let (directory, root) = (pebble.directory(), pebble.root.display().to_string());
    let auto = |more: &[&str]| {
        let given = ["certs", "auto", "--directory", &directory, "--ca-file", &root, "--challenge", challenge];
        place.dozen(&[&given, more].concat())
    };
    auto(&[]).coded(1).has(&["agreeing to its terms of service", "--agree-tos"]);
    let on = auto(&["--agree-tos", "--email", "me@example.com", "--json"]).ok().json();
    assert_eq!((&on["hosts"], &on["others"]), (&json!(["shop.example.com"]), &json!([])), "{on}");
    let certs = certs_until(&place, |certs| certs["certificates"].as_array().is_some_and(|all| !all.is_empty()));
    let got = &certs["certificates"][0];
    assert_eq!(
        (&got["source"], &got["names"], &got["domains"]),
        (&json!("acme"), &json!(["shop.example.com"]), &json!(["shop.example.com"]))
    );
    let page = up.page("/");
    // The router has it a moment after the ledger.
    let kept = pebble.roots();
    while curl(&kept, "shop.example.com", port).contains("unrecognized name") {
        pause();
    }
    assert_eq!(curl(&kept, "shop.example.com", port), page);
    // What was for the authority alone is gone, and was never the app's.
    assert_eq!(up.get("/.well-known/acme-challenge/x").status, 200, "an app's own path");
    assert_eq!(place.ledger("select count(*) from acme_accounts where instr(sealed, 'key') > 0"), "0");
    up.stop();
    // It is kept: another `up` orders nothing, though nobody could be asked any more.
    pebble.end();
    let mut up = place.start(&["--https-port", "0"]);
    let port = https_port(&up.ready());
    assert_eq!(curl(&kept, "shop.example.com", port), page);
    let again = place.dozen(&["certs", "--json"]).ok().json();
    assert_eq!((&again["certificates"][0]["id"], &again["auto"]["failures"]), (&got["id"], &json!([])), "{again}");
    place.dozen(&["certs", "auto", "--off"]).ok();
    up.stop();
}

#[test]
fn a_domain_is_certified_by_http() {
    obtains("http-01", &[]);
}

#[test]
fn a_domain_is_certified_by_tls_though_nonces_are_rejected() {
    obtains("tls-alpn-01", &[("PEBBLE_WFE_NONCEREJECT", "25")]);
}

#[test]
fn a_certificate_is_renewed_before_it_ends_and_nobody_notices() {
    let place = with_domains(&["shop.example.com"]);
    let mut up = place.start(&["--https-port", "0"]);
    let port = https_port(&up.ready());
    let pebble = Pebble::giving(12, up.port(), port, &[]);
    let root = pebble.root.display().to_string();
    place.dozen(&["certs", "auto", "--directory", &pebble.directory(), "--ca-file", &root, "--agree-tos"]).ok();
    let begins = |certs: &Value| certs["certificates"][0]["not_before"].as_str().map(str::to_owned);
    let first = certs_until(&place, |certs| begins(certs).is_some());
    let next = certs_until(&place, |certs| begins(certs) != begins(&first));
    let end: jiff::Timestamp = first["certificates"][0]["not_after"].as_str().and_then(|t| t.parse().ok()).expect("a time");
    assert!(jiff::Timestamp::now() < end, "{next}");
    assert_eq!(next["certificates"].as_array().map(Vec::len), Some(1), "{next}");
    assert_eq!(next["auto"]["failures"], json!([]));
    assert_eq!(curl(&pebble.roots(), "shop.example.com", port), up.page("/"));
    up.stop();
}

#[test]
fn what_an_authority_does_not_find_is_told_and_tried_again_later() {
    let place = with_domains(&["shop.example.com", "*.example.com"]);
    let mut up = place.start(&["--https-port", "0"]);
    https_port(&up.ready());
    // It looks where nobody listens.
    let pebble = Pebble::asking(free(), free(), &[]);
    let root = pebble.root.display().to_string();
    let (directory, nobody) = (pebble.directory(), format!("https://localhost:{}/dir", free()));
    place.dozen(&["certs", "auto", "--directory", &nobody, "--ca-file", &root, "--agree-tos"]).coded(1).has(&["cannot use an account at"]);
    let on = place.dozen(&["certs", "auto", "--directory", &directory, "--ca-file", &root, "--agree-tos"]).ok();
    on.has(&["Ordering certificates from", "For shop.example.com", "Not for *.example.com"]);
    let certs = certs_until(&place, |certs| certs["auto"]["failures"].as_array().is_some_and(|all| !all.is_empty()));
    let failure = &certs["auto"]["failures"][0];
    assert_eq!((&failure["host"], &certs["certificates"]), (&json!("shop.example.com"), &json!([])), "{certs}");
    let why = failure["why"].as_str().expect("a reason");
    assert!(why.contains("no certificate for shop.example.com"), "{why}");
    let again: jiff::Timestamp = failure["again_at"].as_str().and_then(|t| t.parse().ok()).expect("a time");
    let wait = again.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((30..=60).contains(&wait), "{wait}");
    assert!(Path::new(&root).exists());
    up.stop();
}
