//! Certificates by ACME, from Debian's pebble: a real authority on loopback, which asks this machine for every name.

use super::certs::{curl, https_port, shop};
use crate::deployed::{Place, pause};
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
