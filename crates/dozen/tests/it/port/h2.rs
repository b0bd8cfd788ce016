//! HTTP/2 at the router: as curl and h2load speak it, by h2spec's list, and as nobody should speak it.

use super::stage::{PATIENCE, Upstream, Wire, ok, ready};
use super::tls::Secure;
use dozen_engine::port::Limits;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

const PEER: &str = include_str!("h2.py");

/// Runs a script with the peer of `h2.py`; what it printed.
fn peer(secure: &Secure, script: &str) -> String {
    let out = Command::new("python3").args(["-c", &format!("{PEER}\n{script}"), &secure.port.to_string()]).arg(&secure.root).output();
    let out = out.expect("python runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn secure(upstream: &Upstream) -> Secure {
    Secure::new(&[&["shop.test"]], upstream)
}

#[test]
fn a_head_becomes_one_of_http_1() {
    let upstream = Upstream::mirror();
    let secure = secure(&upstream);
    let script = r#"
p = Peer()
crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3"), ("te", "trailers"), ("x-own", "1")]
p.ask(1, "/x?y", host="shop.test:443", more=crumbs)
kind, flags, stream, _ = p.until(HEADERS)
body = b""
while not flags & END:
    kind, flags, stream, part = p.until(DATA)
    body += part
print(body.decode())
"#;
    let seen = peer(&secure, script);
    assert!(seen.starts_with("GET /x?y HTTP/1.1\n"), "{seen}");
    for line in ["host: shop.test:443", "cookie: a=1; b=2; c=3", "te: trailers", "connection: te", "x-own: 1", "via: 2.0 dozen"] {
        assert!(seen.lines().any(|l| l == line), "{line} is missing in {seen}");
    }
    for gone in [":authority", "content-length", "transfer-encoding"] {
        assert!(!seen.contains(gone), "{gone} is in {seen}");
    }
}

#[test]
fn bodies_and_trailers_pass_both_ways() {
    let upstream = Upstream::replying(|r| {
        let told = format!("{} {:?} {:?}", r.text(), r.header("trailer/x-sum"), r.header("transfer-encoding"));
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-After\r\n\r\n{:x}\r\n{told}\r\n0\r\nX-After: 7\r\n\r\n",
            told.len()
        )
    });
    let secure = secure(&upstream);
    let script = r#"
p = Peer()
p.ask(1, "/", method="POST", end=False, more=[("trailer", "x-sum")])
p.send(frame(DATA, 0, 1, b"one,"))
p.send(frame(DATA, 0, 1, b"two"))
p.send(frame(HEADERS, WHOLE | END, 1, field("x-sum", "42")))
p.until(HEADERS)
body = b""
while True:
    kind, flags, stream, part = p.until(DATA, HEADERS)
    if kind == HEADERS:
        break
    body += part
print(body.decode(), bool(flags & END), b"x-after" in part or len(part))
"#;
    let seen = peer(&secure, script);
    assert!(seen.starts_with("one,two Some(\"42\") Some(\"chunked\") True "), "{seen}");

    // Where nothing of the trailers is told, the answer ends with its body.
    let framing = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nContent-Length: 7\r\n\r\n";
    let upstream = Upstream::replying(|_| framing.to_owned());
    let secure = self::secure(&upstream);
    let script = r#"
p = Peer()
p.ask(1, "/")
p.until(HEADERS)
kinds, flags = [], 0
while not flags & END:
    kind, flags, stream, part = p.until(DATA, HEADERS)
    kinds.append(kind)
print(HEADERS in kinds)
"#;
    assert_eq!(peer(&secure, script), "False");

    // A file that is uploaded with its length, and a large answer.
    let upstream = Upstream::replying(|r| ok(&format!("{} {}", r.body.len(), "x".repeat(3_000_000))));
    let secure = self::secure(&upstream);
    let file = secure.stage.home.path().join("upload");
    std::fs::write(&file, vec![7; 5_000_000]).expect("written");
    let data = format!("@{}", file.display());
    let answer = secure.say(&["--http2", "--data-binary", &data, &secure.url("shop.test", "/")]);
    assert!(answer.starts_with("5000000 x") && answer.len() == 3_000_008, "{}", answer.len());
}

#[test]
fn bodiless_answers_and_pages_end_where_they_should() {
    let upstream = Upstream::replying(|r| match r.first.split(' ').nth(1) {
        Some("/204") => "HTTP/1.1 204 No Content\r\n\r\n".into(),
        Some("/304") => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\n\r\n".into(),
        _ => ok("hello"),
    });
    let mut secure = secure(&upstream);
    let url = |secure: &Secure, path: &str| secure.url("shop.test", path);
    let told = ["--http2", "-o", "/dev/null", "-w", "%{http_code} %{size_download} %header{content-length} %header{keep-alive}|"];
    let say = |secure: &Secure, more: &[&str]| secure.say(&[&told, more].concat());
    assert_eq!(say(&secure, &["-I", &url(&secure, "/")]), "200 0 5 |");
    assert_eq!(say(&secure, &[&url(&secure, "/204")]), "204 0  |");
    assert_eq!(say(&secure, &[&url(&secure, "/304")]), "304 0  |");
    assert_eq!(say(&secure, &["-X", "POST", "-d", "x", &url(&secure, "/")]), "200 5 5 |");
    secure.stage.set(dozen_core::port::Web::None);
    let page = secure.say(&["--http2", "-w", "%{http_code}", &url(&secure, "/")]);
    assert!(page.contains("No web processes running") && page.ends_with("503"), "{page}");
    let head = say(&secure, &["-I", &url(&secure, "/")]);
    assert!(head.starts_with("503 0 ") && !head.starts_with("503 0 0"), "{head}");
}

#[test]
fn what_says_two_things_is_refused() {
    let upstream = Upstream::saying("hello");
    let secure = secure(&upstream);
    let script = r#"
def status(*args, **named):
    # Some end the whole connection, as they may.
    p = Peer()
    p.ask(1, *args, **named)
    got = p.until(HEADERS, RST, GOAWAY)
    return "reset" if got is None or got[0] != HEADERS else {0x88: "200", 0x8c: "400"}.get(got[3][0], got[3][:8].hex())
print(status(), status(more=[("host", "shop.test")]), status(more=[("host", "other.test")]), status(host=None),
      status(more=[("connection", "close")]), status(more=[("transfer-encoding", "chunked")]), status(more=[("Upper", "1")]),
      status(more=[("content-length", "5")]), status(host="shop.test@evil"))
# What HTTP/1 would be refused for.
print(status(more=[("x_forwarded_for", "6.6.6.6")]), status(path="*"), status(path="*", method="OPTIONS"),
      *(status(method="POST", end=False, more=[("content-length", each) for each in lengths]) for lengths in (["5", "5"], ["05"], [""])))
"#;
    assert_eq!(peer(&secure, script), "200 200 400 400 reset reset reset reset 400\n400 400 200 400 400 400");
}

#[test]
fn an_answer_may_come_before_the_request_has_ended() {
    let upstream = Upstream::each(|mut wire: Wire| {
        wire.head();
        wire.send(ok("early"));
        wire.closed();
    });
    let mut secure = secure(&upstream);
    let script = r#"
p = Peer()
p.ask(1, "/", method="POST", end=False)
p.send(frame(DATA, 0, 1, b"x" * 1000))
p.until(HEADERS)
print(p.until(DATA)[3].decode())
p.ask(3, "/")
print(p.until(HEADERS)[2])
"#;
    assert_eq!(peer(&secure, script), "early\n3");
    let lines = secure.stage.lines_of("shop/dev", 2);
    assert!(lines.iter().all(|l| l.contains("status=200")), "{lines:?}");
}

#[test]
fn a_stream_that_is_reset_is_told_and_its_neighbours_go_on() {
    let (begun, begins) = mpsc::channel();
    let begun = Mutex::new(begun);
    let upstream = Upstream::each(move |mut wire: Wire| {
        while let Some(request) = wire.answer(false) {
            if request.first.contains("/slow") {
                begun.lock().expect("ours").send(()).expect("waited for");
                // Closed when the client no longer wants it.
                assert!(wire.closed());
                return;
            }
            wire.send(ok("fast"));
        }
    });
    let mut secure = secure(&upstream);
    let script = format!(
        "{PEER}\n{}",
        r#"
p = Peer()
p.ask(1, "/slow")
sys.stdin.readline()
p.send(frame(RST, 0, 1, struct.pack(">I", 8)))
p.ask(3, "/fast")
print(p.until(DATA)[3].decode())
"#
    );
    let mut client = Command::new("python3");
    client.args(["-c", &script, &secure.port.to_string()]).arg(&secure.root).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = client.spawn().expect("python runs");
    begins.recv_timeout(PATIENCE).expect("the request came");
    std::io::Write::write_all(&mut client.stdin.take().expect("piped"), b"\n").expect("written");
    let out = client.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "fast\n");
    let lines = secure.stage.lines_of("shop/dev", 2);
    assert!(lines.iter().any(|l| l.contains("code=H27") && l.contains("path=\"/slow\"") && l.contains("status=499")), "{lines:?}");
}

#[test]
fn a_stream_that_nobody_reads_and_a_connection_that_nobody_uses_end() {
    let upstream = Upstream::replying(|r| ok(&"x".repeat(if r.first.contains("/large") { 4_000_000 } else { 5 })));
    let limits = Limits { idle: Duration::from_millis(700), head: Duration::from_millis(900), ..Limits::default() };
    let mut secure = Secure::with(limits, &[&["shop.test"]], &upstream);
    // It takes 64 KiB and no more, while another stream of it goes on.
    let script = r#"
p = Peer()
p.ask(1, "/large")
taken = 0
while True:
    kind, flags, stream, part = p.until(DATA, RST)
    if kind == RST:
        break
    taken += len(part)
p.ask(3, "/")
print(stream, taken, p.until(HEADERS)[2], p.goodbye())
"#;
    let said = peer(&secure, script);
    let words: Vec<&str> = said.split(' ').collect();
    assert!(words[0] == "1" && words[1] == "65535" && words[2] == "3" && words[3] == "0", "{said}");
    let lines = secure.stage.lines_of("shop/dev", 2);
    assert!(lines.iter().any(|l| l.contains("code=H28") && l.contains("path=\"/large\"")), "{lines:?}");
}

#[test]
fn a_router_that_stops_says_goodbye_and_answers_what_it_has() {
    let (answers, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let upstream = Upstream::each(move |mut wire: Wire| {
        while wire.answer(false).is_some() {
            // The test says when.
            let _ = told.lock().expect("ours").recv_timeout(PATIENCE);
            wire.send(ok("done"));
        }
    });
    let secure = secure(&upstream);
    let script = format!(
        "{PEER}\n{}",
        r#"
p = Peer()
p.ask(1, "/")
p.send(frame(PING, 0, 0, b"12345678"))
while p.until(PING) is None: pass
print("asked", flush=True)
p.until(GOAWAY)
print("goodbye", flush=True)
print(p.until(DATA)[3].decode(), p.goodbye() in (0, None), flush=True)
"#
    );
    let mut client = Command::new("python3");
    client.args(["-c", &script, &secure.port.to_string()]).arg(&secure.root).stdout(Stdio::piped());
    let mut client = client.spawn().expect("python runs");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(client.stdout.take().expect("piped")));
    let mut line = || lines.next().expect("a line").expect("read");
    assert_eq!(line(), "asked");
    secure.stage.signal(rustix::process::Signal::TERM);
    assert_eq!(line(), "goodbye");
    answers.send(()).expect("waited for");
    assert_eq!(line(), "done True");
    assert!(client.wait().expect("ended").success());
}

#[test]
fn floods_end_the_connection_or_are_not_read() {
    let upstream = Upstream::saying("hello");
    let secure = secure(&upstream);
    // The first request makes the router what it is while it serves.
    assert_eq!(secure.say(&["--http2", &secure.url("shop.test", "/")]), "hello");
    let before = secure.stage.router_status("VmRSS");
    for (name, attack, fits) in [
        // CVE-2023-44487: streams that are reset as soon as they are asked for.
        ("rapid reset", "lambda n: p.send(frame(HEADERS, WHOLE | END, 2 * n + 1, head()) + frame(RST, 0, 2 * n + 1, bytes(4)))", "ended"),
        // CVE-2025-8671: streams that the client has the router reset.
        (
            "made resets",
            "lambda n: p.send(frame(HEADERS, WHOLE | END, 2 * n + 1, head()) + frame(WINDOW, 0, 2 * n + 1, bytes(4)))",
            "ended",
        ),
        // CVE-2024-27316: a head without an end.
        (
            "continuation",
            "lambda n: p.send(frame(CONTINUATION, 0, 1, field('x', 'y' * 1000)) if n else frame(HEADERS, END, 1, head()))",
            "ended",
        ),
        ("empty continuation", "lambda n: p.send(frame(CONTINUATION, 0, 1) if n else frame(HEADERS, END, 1, head()))", "ended"),
        // Each asks for an answer that is not read.
        ("ping", "lambda n: p.send(frame(PING, 0, 0, bytes(8)) * 1000)", "blocked"),
        ("settings", "lambda n: p.send(frame(SETTINGS, 0, 0, b'') * 1000)", "blocked"),
        // CVE-2019-9518: frames that say nothing.
        ("empty data", "lambda n: p.send(frame(DATA, 0, 1) if n else frame(HEADERS, WHOLE, 1, head(method='POST')))", ""),
    ] {
        let script = format!("p = Peer()\np.socket.settimeout(1)\nprint(ends(p, {attack}, 6000))");
        let how = peer(&secure, &script);
        assert!(how.starts_with(fits) || how == "closed", "{name}: {how}");
        assert_eq!(secure.say(&["--http2", &secure.url("shop.test", "/")]), "hello", "after {name}");
    }
    // A small head that becomes a large one: one long value in the table, named again and again.
    let script = r#"
p = Peer()
bomb = b"\x40" + text("x") + text("y" * 4000) + b"\xbe" * 16000
p.send(frame(HEADERS, WHOLE | END, 1, head() + bomb))
got = p.until(HEADERS, RST, GOAWAY)
print(got is None or got[0] != HEADERS or b"431" in got[3] or got[3][:1] != b"\x88")
"#;
    assert_eq!(peer(&secure, script), "True");
    let after = secure.stage.router_status("VmRSS");
    assert!(after < before + 48 * 1024, "the router grew from {before} to {after} KiB");
}

#[test]
fn h2load_gets_every_answer() {
    let upstream = Upstream::saying("hello");
    let mut secure = secure(&upstream);
    let url = secure.url("127.0.0.1", "/");
    let out = Command::new("h2load").args(["-n", "2000", "-c", "8", "-m", "20", &url, "-H", ":authority: shop.test"]).output();
    let out = out.expect("h2load runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout") && text.contains("status codes: 2000 2xx"), "{text}");
    assert!(text.contains("Application protocol: h2"), "{text}");
    let lines = secure.stage.lines_of("shop/dev", 2000);
    assert_eq!(lines.iter().filter(|l| l.contains("status=200") && l.contains("bytes=5 ")).count(), 2000);
}

/// What of h2spec's list does not pass, and why that is right.
const H2SPEC: &[(&str, &str)] = &[];

#[test]
fn h2spec_finds_what_it_looks_for() {
    let upstream = Upstream::replying(|_| ok(&"hello ".repeat(100)));
    let secure = secure(&upstream);
    let report = secure.stage.home.path().join("h2spec.xml");
    let mut h2spec = Command::new(h2spec_program());
    h2spec.args(["-h", "127.0.0.1", "-p", &secure.port.to_string(), "-t", "-k", "-o", "3", "-j"]).arg(&report);
    let out = h2spec.output().expect("h2spec runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let summary = text.lines().rev().find(|l| l.contains("tests,")).unwrap_or_else(|| panic!("{text}"));
    let number = |word: &str| -> usize {
        let part = summary.split(',').find(|p| p.contains(word)).and_then(|p| p.split_whitespace().next());
        part.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no {word} in {summary}"))
    };
    assert!(number("tests") >= 140 && number("passed") + number("skipped") + H2SPEC.len() >= number("tests"), "{text}");
    let xml = std::fs::read_to_string(&report).expect("a report");
    let failed: Vec<&str> = xml.split("<testcase").skip(1).filter(|case| case.contains("<failure") || case.contains("<error")).collect();
    for case in &failed {
        assert!(H2SPEC.iter().any(|(known, _)| case.contains(known)), "{case}");
    }
    assert_eq!(failed.len(), H2SPEC.len(), "a known failure passes now: {failed:?}");
}

/// Where `go install` puts it, or on the path.
fn h2spec_program() -> std::path::PathBuf {
    let home = std::env::var_os("HOME").map(std::path::PathBuf::from).unwrap_or_default();
    let installed = home.join("go/bin/h2spec");
    if installed.exists() { installed } else { "h2spec".into() }
}

#[test]
fn a_browser_loads_a_page_by_http_2() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let upstream = Upstream::replying(move |r| {
        let path = r.first.split(' ').nth(1).unwrap_or_default().to_owned();
        seen.lock().expect("ours").push((path.clone(), r.header("via").unwrap_or_default().to_owned()));
        let (kind, body) = match path.as_str() {
            "/" => ("text/html", "<!doctype html><body><p id=said>no</p><script src=/a.js></script>".to_owned()),
            "/a.js" => {
                ("text/javascript", "fetch('/b').then(r => r.text()).then(t => document.getElementById('said').textContent = t)".to_owned())
            }
            _ => ("text/plain", "by HTTP/2".to_owned()),
        };
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let secure = Secure::new(&[&["shop.localhost"]], &upstream);
    // The browser trusts what stands in its own store, as a person would have it: nothing is ignored.
    let home = secure.stage.home.path().join("person");
    let store = home.join(".pki/nssdb");
    std::fs::create_dir_all(&store).expect("made");
    let database = format!("sql:{}", store.display());
    let certutil = |args: &[&str]| {
        let out = Command::new("certutil").args(["-d", &database]).args(args).output().expect("certutil runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    certutil(&["-N", "--empty-password"]);
    certutil(&["-A", "-t", "C,,", "-n", "dozen", "-i", &secure.root.display().to_string()]);
    let mut chromium = Command::new("chromium");
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=10000", "--dump-dom"]);
    chromium.arg(format!("--user-data-dir={}", home.join("profile").display())).env("HOME", &home);
    let out = chromium.arg(secure.url("shop.localhost", "/")).output().expect("chromium runs");
    let dom = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(dom.contains("<p id=\"said\">by HTTP/2</p>"), "{dom}\n{}", String::from_utf8_lossy(&out.stderr));
    let asked = asked.lock().expect("ours").clone();
    assert!(asked.iter().all(|(_, via)| via == "2.0 dozen"), "{asked:?}");
}

#[test]
fn many_streams_are_balanced_and_bounded() {
    let upstream = Upstream::saying("hello");
    let mut secure = secure(&upstream);
    secure.stage.set(ready(&[upstream.port]));
    let script = r#"
p = Peer()
p.send(b"".join(frame(HEADERS, WHOLE | END, 2 * n + 1, head(f"/{n}")) for n in range(150)))
answered, refused = 0, 0
while answered + refused < 150:
    kind, flags, stream, part = p.until(HEADERS, RST)
    if kind == HEADERS: answered += 1
    else: refused += int.from_bytes(part, "big") == 7
print(answered >= 100, answered + refused)
"#;
    assert_eq!(peer(&secure, script), "True 150");
}
