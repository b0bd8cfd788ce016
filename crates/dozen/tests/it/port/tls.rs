//! TLS at the router, as curl, openssl and Python see it.

use super::stage::{PATIENCE, Stage, Upstream, ready};
use dozen_engine::home::Home;
use dozen_engine::port::ca::{Authority, certificate_file};
use dozen_engine::port::{Certificate, Limits, RouterEvent, Supply};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// A stage with HTTPS, and certificates of the local authority of its home.
pub(super) struct Secure {
    pub(super) stage: Stage,
    pub(super) port: u16,
    pub(super) root: PathBuf,
}

impl Secure {
    pub(super) fn new(names: &[&[&str]], upstream: &Upstream) -> Self {
        Self::with(Limits::default(), names, upstream)
    }

    pub(super) fn with(limits: Limits, names: &[&[&str]], upstream: &Upstream) -> Self {
        let stage = Stage::secure(limits);
        let root = certificate_file(&Home::at(stage.home.path()));
        let port = stage.router.https_port().expect("it listens");
        let mut secure = Self { stage, port, root };
        secure.certify(names);
        secure.stage.set(ready(&[upstream.port]));
        secure
    }

    /// Has the router show a certificate for each of these, the first also to who names no host.
    pub(super) fn certify(&mut self, names: &[&[&str]]) {
        let home = Home::at(self.stage.home.path());
        let authority = Authority::open(&home).expect("an authority");
        let issue = |(n, names): (usize, &&[&str])| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            Certificate { fallback: n == 0, ..authority.issue(&names, jiff::Timestamp::now()).expect("issued") }
        };
        let serial =
            self.stage.router.certify(Arc::new(Supply { certificates: names.iter().enumerate().map(issue).collect(), proofs: vec![] }));
        let want = RouterEvent::Certified { serial, wrong: vec![] };
        self.stage.until(|e| (*e == want).then_some(()));
    }

    pub(super) fn url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.port)
    }

    /// curl, which trusts the authority and finds `shop.test` and `other.test` here.
    pub(super) fn curl(&self, args: &[&str]) -> Output {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "20", "--cacert"]).arg(&self.root);
        for host in ["shop.test", "other.test", "a.wild.test"] {
            curl.args(["--resolve", &format!("{host}:{}:127.0.0.1", self.port)]);
        }
        curl.args(args).output().expect("curl runs")
    }

    pub(super) fn say(&self, args: &[&str]) -> String {
        let out = self.curl(args);
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// `openssl s_client`, to its end; what it is given to say, and what it printed.
    fn openssl(&self, args: &[&str], input: &str) -> String {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-connect", &format!("127.0.0.1:{}", self.port), "-CAfile"]).arg(&self.root).args(args);
        let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("openssl runs");
        client.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
        let out = client.wait_with_output().expect("it ends");
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    }
}

#[test]
fn a_request_by_tls_is_one_like_any_other() {
    let upstream = Upstream::mirror();
    let mut secure = Secure::new(&[&["shop.test"]], &upstream);
    let port = secure.port;
    let url = secure.url("shop.test", "/p?q=1");
    for (version, via, told) in [("--http1.1", "1.1 dozen", "1.1"), ("--http2", "2.0 dozen", "2")] {
        let text = secure.say(&[version, "-w", "%{http_version}", &url]);
        for line in ["GET /p?q=1 HTTP/1.1", "x-forwarded-proto: https", &format!("x-forwarded-port: {port}"), &format!("via: {via}")] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in {text}");
        }
        assert!(text.contains(&format!("host: shop.test:{port}")), "{text}");
        assert!(text.ends_with(told), "{text}");
    }
    let lines = secure.stage.lines_of("shop/dev", 2);
    assert!(lines.iter().all(|l| l.starts_with("at=info method=GET") && l.ends_with(" protocol=https")), "{lines:?}");
    // Plain HTTP goes on beside it.
    assert_eq!(secure.stage.get("/").status(), 200);
}

#[test]
fn a_name_gets_its_own_certificate_or_none() {
    let upstream = Upstream::saying("hello");
    let mut secure = Secure::new(&[&["shop.test"], &["*.wild.test"]], &upstream);
    let shown = |secure: &Secure, args: &[&str]| secure.openssl(args, "Q");
    let shop = shown(&secure, &["-servername", "SHOP.test", "-verify_hostname", "shop.test"]);
    assert!(shop.contains("Verify return code: 0 (ok)"), "{shop}");
    let wild = shown(&secure, &["-servername", "a.wild.test", "-verify_hostname", "a.wild.test"]);
    assert!(wild.contains("Verify return code: 0 (ok)"), "{wild}");
    for name in ["b.a.wild.test", "wild.test", "other.test"] {
        let refused = shown(&secure, &["-servername", name]);
        assert!(refused.contains("unrecognized name") && refused.contains("no peer certificate available"), "{name}: {refused}");
    }
    // Who names no host has asked for an address.
    let fallback = shown(&secure, &["-noservername", "-verify_hostname", "shop.test"]);
    assert!(fallback.contains("Verify return code: 0 (ok)"), "{fallback}");
    let lines = secure.stage.lines_of("shop/dev", 3);
    assert!(
        lines[0].starts_with("at=error code=H32 desc=\"TLS certificate mismatch\" method=- path=\"\" host=b.a.wild.test "),
        "{lines:?}"
    );
}

#[test]
fn a_connection_is_for_the_hosts_of_its_certificate() {
    let upstream = Upstream::saying("hello");
    let mut secure = Secure::new(&[&["shop.test", "other.test"], &["a.wild.test"]], &upstream);
    let url = secure.url("shop.test", "/");
    for version in ["--http1.1", "--http2"] {
        let misled = secure.say(&[version, "-w", "\n%{http_code}", "-H", "Accept: application/json", "-H", "Host: a.wild.test", &url]);
        assert!(misled.contains(r#""id":"H31","message":"Misdirected request""#) && misled.ends_with("\n421"), "{misled}");
        for host in ["Host: other.test", "Host: OTHER.test.:80"] {
            assert_eq!(secure.say(&[version, "-H", host, &url]), "hello", "{host}");
        }
    }
    let lines = secure.stage.lines_of("shop/dev", 6);
    assert!(lines[0].contains("code=H31") && lines[0].contains("host=a.wild.test") && lines[0].contains("status=421"), "{lines:?}");
}

#[test]
fn certificates_are_swapped_and_connections_go_on() {
    let upstream = Upstream::saying("hello");
    let mut secure = Secure::new(&[&["shop.test"]], &upstream);
    // A client that asks, says so, waits for a line, and asks again on the same connection and on a new one.
    let script = r#"
import http.client, ssl, sys
port, root = int(sys.argv[1]), sys.argv[2]
class Here(http.client.HTTPSConnection):
    def connect(self):
        import socket
        self.sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="shop.test")
context = ssl.create_default_context(cafile=root)
def ask(c):
    c.request("GET", "/", headers={"Host": "shop.test"})
    return c.getresponse().read().decode()
old = Here("shop.test", port, context=context)
print(ask(old), flush=True)
before = old.sock.getpeercert()["serialNumber"]
sys.stdin.readline()
print(ask(old), old.sock.getpeercert()["serialNumber"] == before)
new = Here("shop.test", port, context=context)
print(ask(new), new.sock.getpeercert()["serialNumber"] == before)
"#;
    let mut client = Command::new("python3");
    client.args(["-c", script, &secure.port.to_string()]).arg(&secure.root).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = client.spawn().expect("python runs");
    let mut out = std::io::BufReader::new(client.stdout.take().expect("piped"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).expect("a line");
    assert_eq!(line, "hello\n");
    secure.certify(&[&["shop.test"]]);
    client.stdin.take().expect("piped").write_all(b"go on\n").expect("written");
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut out, &mut rest).expect("read");
    assert_eq!(rest, "hello True\nhello False\n");
    assert!(client.wait().expect("ended").success());
}

#[test]
fn a_session_is_resumed_at_whatever_worker() {
    let upstream = Upstream::saying("hello");
    let mut secure = Secure::new(&[&["shop.test"]], &upstream);
    let request = "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";
    for version in ["-tls1_3", "-tls1_2"] {
        let kept = secure.stage.home.path().join(format!("session{version}")).display().to_string();
        let common = ["-quiet", "-servername", "shop.test", version];
        let first = secure.openssl(&[&common[1..], &["-ign_eof", "-sess_out", &kept]].concat(), request);
        assert!(first.contains("hello") && first.contains("New, TLS"), "{first}");
        // Several connections reach all of the workers; a swap of the certificates changes nothing.
        for round in 0..6 {
            if round == 3 {
                secure.certify(&[&["shop.test"]]);
            }
            let again = secure.openssl(&[&common[1..], &["-ign_eof", "-sess_in", &kept]].concat(), request);
            assert!(again.contains("hello") && again.contains("Reused, TLS"), "{version}, {round}: {again}");
        }
    }
}

#[test]
fn a_handshake_has_its_time_and_others_are_not_kept_waiting() {
    let upstream = Upstream::saying("hello");
    let limits = Limits { handshake: Duration::from_millis(1_500), ..Limits::default() };
    let secure = Secure::with(limits, &[&["shop.test"]], &upstream);
    let address = ("127.0.0.1", secure.port);
    let mut silent: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(address).expect("connected")).collect();
    // The beginning of a handshake, and no end.
    silent[0].write_all(&[22, 3, 1, 2, 0, 1, 0]).expect("written");
    // What is no TLS at all is let go at once.
    let mut plain = std::net::TcpStream::connect(address).expect("connected");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").expect("written");
    plain.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut said = Vec::new();
    let _ = std::io::Read::read_to_end(&mut plain, &mut said);
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    assert_eq!(secure.say(&[&secure.url("shop.test", "/")]), "hello");
    for mut socket in silent {
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        assert!(matches!(std::io::Read::read(&mut socket, &mut [0; 64]), Ok(0) | Err(_)), "it is closed");
    }
}

#[test]
fn what_cannot_be_shown_is_told_and_the_rest_is_shown() {
    let upstream = Upstream::saying("hello");
    let mut secure = Secure::new(&[&["shop.test"]], &upstream);
    let authority = Authority::open(&Home::at(secure.stage.home.path())).expect("an authority");
    let issue = |name: &str| authority.issue(&[name.to_owned()], jiff::Timestamp::now()).expect("issued");
    let (one, other) = (issue("shop.test"), issue("other.test"));
    let damaged = Certificate { key: one.key.clone(), ..other };
    let serial = secure.stage.router.certify(Arc::new(Supply { certificates: vec![damaged, one], proofs: vec![] }));
    let wrong = secure.stage.until(|e| match e {
        RouterEvent::Certified { serial: told, wrong } if *told == serial => Some(wrong.clone()),
        _ => None,
    });
    assert!(wrong.len() == 1 && wrong[0].starts_with("other.test: "), "{wrong:?}");
    assert_eq!(secure.say(&[&secure.url("shop.test", "/")]), "hello");
}

#[test]
fn an_upgraded_connection_is_encrypted_too() {
    let upstream = Upstream::each(|mut wire| {
        wire.head();
        wire.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n");
        let mut line = String::new();
        while std::io::BufRead::read_line(&mut wire.io, &mut line).is_ok_and(|n| n > 0) {
            wire.send(&line);
            line.clear();
        }
    });
    let secure = Secure::new(&[&["shop.test"]], &upstream);
    let script = r#"
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
context.set_alpn_protocols(["http/1.1"])
s = context.wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1]))), server_hostname="shop.test")
s.sendall(b"GET / HTTP/1.1\r\nHost: shop.test\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
f = s.makefile("rb")
print(f.readline().split()[1].decode())
while f.readline() != b"\r\n": pass
for n in range(1000):
    s.sendall(b"%d\n" % n)
    assert f.readline() == b"%d\n" % n
print("echoed")
"#;
    let out = Command::new("python3").args(["-c", script, &secure.port.to_string()]).arg(&secure.root).output().expect("python runs");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "101\nechoed\n", "{}", String::from_utf8_lossy(&out.stderr));
}
