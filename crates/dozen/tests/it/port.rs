//! End to end: port. A real router process between raw sockets on both sides, so that every byte is what the test says.

use dozen_core::ids::Generation;
use dozen_core::logs::{LogLine, Source};
use dozen_core::port::{Backend, Route, RouteTable, Web};
use dozen_engine::home::Home;
use dozen_engine::port::{Limits, Router, RouterEvent, RouterSpec, bind};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// No wait of a test is longer; every one of them ends by an event.
const PATIENCE: Duration = Duration::from_secs(20);

// What the tests stand on.

struct Stage {
    router: Router,
    runtime: tokio::runtime::Runtime,
    home: tempfile::TempDir,
    generation: u64,
}

impl Stage {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let spec = RouterSpec { limits, workers: 2, ..RouterSpec::new(env!("CARGO_BIN_EXE_dozen"), Home::at(home.path())) };
        let _within = runtime.enter();
        let router = Router::spawn(spec, bind(Some(0)).expect("a port")).expect("a router");
        drop(_within);
        Self { router, runtime, home, generation: 0 }
    }

    /// Everything goes to `shop/dev`.
    fn to(web: Web) -> Self {
        let mut stage = Self::new();
        stage.set(web);
        stage
    }

    fn set(&mut self, web: Web) {
        self.generation += 1;
        let route = Arc::new(Route { deploy: "shop/dev".parse().expect("valid"), web });
        self.table(RouteTable { generation: Generation(self.generation), fallback: Some(route), ..RouteTable::default() });
    }

    fn table(&mut self, table: RouteTable) {
        self.generation = table.generation.0;
        self.router.set(&table);
        let want = RouterEvent::Applied { generation: table.generation };
        self.until(|e| (*e == want).then_some(()));
    }

    fn next(&mut self) -> RouterEvent {
        let next = self.router.next();
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, next).await }).expect("an event in time")
    }

    fn until<T>(&mut self, found: impl Fn(&RouterEvent) -> Option<T>) -> T {
        loop {
            let event = self.next();
            assert_ne!(event, RouterEvent::Lost, "the router ended");
            if let Some(found) = found(&event) {
                return found;
            }
        }
    }

    fn client(&self) -> Wire {
        Wire::to(SocketAddr::from((Ipv4Addr::LOCALHOST, self.router.port())))
    }

    fn get(&self, path: &str) -> Answer {
        self.client().ask(&format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n"))
    }

    /// The messages of a deploy's lines, as soon as there are so many.
    fn lines_of(&mut self, deploy: &str, count: usize) -> Vec<String> {
        let folder = Home::at(self.home.path()).logs(&deploy.parse().expect("valid"));
        loop {
            let mut lines = Vec::new();
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let text = std::fs::read(entry.path()).expect("readable");
                lines.extend(text.split_inclusive(|b| *b == b'\n').map(|l| LogLine::decode(l).expect("a line of ours")));
            }
            if lines.len() >= count {
                lines.sort_by_key(|l| l.time);
                assert!(lines.iter().all(|l| l.source == Source::Dozen && l.ps == "router"));
                return lines.iter().map(|l| l.text().into_owned()).collect();
            }
            self.until(|e| matches!(e, RouterEvent::Wrote { .. }).then_some(()));
        }
    }

    fn line(&mut self) -> String {
        self.lines_of("shop/dev", 1).remove(0)
    }

    fn router_status(&self, field: &str) -> u64 {
        let pid = self.router.pid().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("readable");
        let line = status.lines().find(|l| l.starts_with(field)).expect("such a field");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
    }
}

fn ready(ports: &[u16]) -> Web {
    Web::Ready(ports.iter().zip(1..).map(|(port, n)| Backend { instance: format!("web.{n}"), port: *port }).collect())
}

/// A head and what follows, read from either side.
#[derive(Debug, Clone)]
struct Answer {
    first: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status")
    }
    fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }
    fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection, spoken byte by byte.
struct Wire {
    io: BufReader<TcpStream>,
}

impl Wire {
    fn to(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).expect("connected"))
    }
    fn on(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        socket.set_nodelay(true).expect("set");
        Self { io: BufReader::new(socket) }
    }
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The other side may have said enough and gone; what it said is asserted on.
        let _ = self.io.get_mut().write_all(bytes.as_ref());
    }
    fn ask(&mut self, request: &str) -> Answer {
        self.send(request);
        let head = request.starts_with("HEAD ");
        self.answer(head).expect("an answer")
    }
    /// A head; `None` at the end of the connection.
    fn head(&mut self) -> Option<Answer> {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            match self.io.read_until(b'\n', &mut text) {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next()?.to_owned();
        let pair = |l: &str| l.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned()));
        Some(Answer { first, headers: lines.filter_map(pair).collect(), body: Vec::new() })
    }
    /// A whole message. One without a length has a body, to the end of the connection, if it is an answer, none if it is a request.
    fn answer(&mut self, head_only: bool) -> Option<Answer> {
        let mut answer = self.head()?;
        if head_only || matches!(answer.first.split(' ').nth(1), Some("204" | "304" | "101" | "100")) {
            return Some(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            loop {
                let mut size = String::new();
                self.io.read_line(&mut size).ok()?;
                let size = usize::from_str_radix(size.trim(), 16).ok()?;
                if size == 0 {
                    // Trailers, and the blank line.
                    loop {
                        let mut line = String::new();
                        self.io.read_line(&mut line).ok()?;
                        match line.trim().split_once(':') {
                            Some((n, v)) => answer.headers.push((format!("trailer/{n}"), v.trim().to_owned())),
                            None => return Some(answer),
                        }
                    }
                }
                let mut chunk = vec![0; size + 2];
                self.io.read_exact(&mut chunk).ok()?;
                answer.body.extend_from_slice(&chunk[..size]);
            }
        }
        let length = answer.header("content-length").map(|v| v.parse::<usize>().expect("a length"));
        match length {
            Some(length) => {
                answer.body = vec![0; length];
                self.io.read_exact(&mut answer.body).ok()?;
            }
            None if answer.first.starts_with("HTTP/") => {
                self.io.read_to_end(&mut answer.body).ok()?;
            }
            None => {}
        }
        Some(answer)
    }
    /// Whether the other side has closed; waits for it.
    fn closed(&mut self) -> bool {
        matches!(self.io.fill_buf(), Ok([])) || self.io.fill_buf().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset)
    }
}

/// An instance: real connections, a closure for each.
struct Upstream {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Upstream {
    fn each(serve: impl Fn(Wire) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, serve) = (connections.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::SeqCst);
                let serve = serve.clone();
                std::thread::spawn(move || serve(Wire::on(socket)));
            }
        });
        Self { port, connections }
    }

    /// Answers every request by what `reply` makes of it.
    fn replying(reply: impl Fn(&Answer) -> String + Send + Sync + 'static) -> Self {
        Self::each(move |mut wire| {
            while let Some(request) = wire.answer(false) {
                let answer = reply(&request);
                wire.send(&answer);
                if answer.contains("Connection: close") {
                    return;
                }
            }
        })
    }

    fn saying(text: &'static str) -> Self {
        Self::replying(move |_| ok(text))
    }

    /// Answers with the head that it got.
    fn mirror() -> Self {
        Self::replying(|r| {
            let head: String = r.headers.iter().map(|(n, v)| format!("{n}: {v}\n")).collect();
            ok(&format!("{}\n{head}\n{}", r.first, r.text()))
        })
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A port that nothing listens on, and that nothing else is given while the listener lives unlistened: bound, never listening.
fn closed_port() -> (u16, rustix::fd::OwnedFd) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&fd, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("bound");
    let address = SocketAddr::try_from(getsockname(&fd).expect("an address")).expect("an IP address");
    (address.port(), fd)
}

// The tests.

#[test]
fn connections_are_kept_on_both_sides() {
    let upstream = Upstream::saying("hello");
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    for _ in 0..10 {
        let answer = client.ask("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"));
    }
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn a_request_gets_its_headers_and_its_line() {
    let upstream = Upstream::mirror();
    let mut stage = Stage::to(ready(&[upstream.port]));
    let port = stage.router.port();
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    let answer = stage.client().ask(
        "GET /p?q=1 HTTP/1.1\r\nHost: Shop.Test:80\r\nX-Forwarded-For: 1.2.3.4\r\nX-Request-Id: abc-123\r\nX-Forwarded-Proto: https\r\n\
         Connection: keep-alive, X-Secret\r\nKeep-Alive: 5\r\nX-Secret: s\r\nTE: gzip\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n\r\n",
    );
    let seen = answer.text();
    assert!(seen.starts_with("GET /p?q=1 HTTP/1.1\n"), "{seen}");
    for line in [
        "host: Shop.Test:80",
        "x-forwarded-for: 1.2.3.4, 127.0.0.1",
        "x-forwarded-proto: http",
        &format!("x-forwarded-port: {port}"),
        "x-request-id: abc-123",
        "via: 1.1 dozen",
    ] {
        assert!(seen.lines().any(|l| l == line), "{line} is missing in {seen}");
    }
    for gone in ["connection", "keep-alive", "x-secret", "te:", "proxy-connection", "upgrade", "https"] {
        assert!(!seen.contains(gone), "{gone} is in {seen}");
    }
    let start: u128 = seen.lines().find_map(|l| l.strip_prefix("x-request-start: ")).and_then(|v| v.parse().ok()).expect("a time");
    assert!(start >= before && start < before + 60_000);
    assert_eq!(answer.header("via"), Some("1.1 dozen"));

    let line = stage.line();
    let bytes = answer.body.len();
    assert!(
        line.starts_with(
            "at=info method=GET path=\"/p?q=1\" host=Shop.Test:80 request_id=abc-123 fwd=\"1.2.3.4, 127.0.0.1\" dyno=web.1 connect="
        ) && line.ends_with(&format!(" status=200 bytes={bytes} protocol=http")),
        "{line}"
    );
}

#[test]
fn a_strange_request_id_is_replaced_and_nothing_strange_enters_the_log() {
    let upstream = Upstream::mirror();
    let mut stage = Stage::to(ready(&[upstream.port]));
    let answer =
        stage.client().ask("GET /\"x\\ HTTP/1.1\r\nHost: shop.test\r\nX-Request-Id: a b\r\nX-Forwarded-For: \" status=500 x=\"\r\n\r\n");
    let id = answer.text().lines().find_map(|l| l.strip_prefix("x-request-id: ").map(str::to_owned)).expect("an id");
    assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'), "{id}");
    let line = stage.line();
    assert!(line.contains(r#"path="/\"x\\" host=shop.test"#), "{line}");
    assert!(line.contains(r#"fwd="\" status=500 x=\", 127.0.0.1" dyno"#), "{line}");
}

#[test]
fn what_an_instance_says_to_its_neighbour_ends_here() {
    let upstream = Upstream::replying(|_| {
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nhi"
            .to_owned()
    });
    let answer = Stage::to(ready(&[upstream.port])).get("/");
    assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
    for gone in ["connection", "x-hop", "keep-alive"] {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
}

#[test]
fn head_and_bodiless_answers_keep_their_lengths() {
    let upstream = Upstream::replying(|r| match r.first.split(' ').nth(1) {
        Some("/204") => "HTTP/1.1 204 No Content\r\n\r\n".into(),
        Some("/304") => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n".into(),
        Some("/unknown") => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".into(),
    });
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    let ask = |client: &mut Wire, method: &str, path: &str| client.ask(&format!("{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
    let head = ask(&mut client, "HEAD", "/");
    assert_eq!((head.status(), head.header("content-length")), (200, Some("1234")));
    let head = ask(&mut client, "HEAD", "/unknown");
    assert_eq!((head.status(), head.header("content-length")), (200, None));
    let empty = ask(&mut client, "GET", "/204");
    assert_eq!((empty.status(), empty.header("transfer-encoding"), empty.header("content-length")), (204, None, None));
    let same = ask(&mut client, "GET", "/304");
    assert_eq!((same.status(), same.header("etag")), (304, Some("\"x\"")));
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn chunks_and_trailers_pass_both_ways() {
    let upstream = Upstream::replying(|r| {
        let body = format!("{} {} {:?}", r.first, r.text(), r.header("trailer/X-Sum"));
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n{:x}\r\n{body}\r\n0\r\nX-End: yes\r\n\r\n",
            body.len()
        )
    });
    let stage = Stage::to(ready(&[upstream.port]));
    for method in ["POST", "GET"] {
        let answer = stage.client().ask(&format!(
            "{method} / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 7\r\n\r\n"
        ));
        assert_eq!(answer.text(), format!("{method} / HTTP/1.1 abcde Some(\"7\")"));
        assert_eq!(answer.header("trailer/X-End").or(answer.header("trailer/x-end")), Some("yes"));
    }
}

#[test]
fn an_old_client_gets_an_answer_that_it_can_read() {
    let upstream = Upstream::replying(|_| "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n".into());
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    let answer = client.ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((answer.first.as_str(), answer.header("transfer-encoding"), answer.text().as_str()), ("HTTP/1.0 200 OK", None, "hi"));
}

#[test]
fn a_client_that_waits_for_100_gets_it() {
    let upstream = Upstream::mirror();
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(client.head().expect("an interim answer").status(), 100);
    client.send("data");
    let answer = client.answer(false).expect("an answer");
    assert!(answer.text().ends_with("data") && !answer.text().contains("expect"), "{}", answer.text());

    let refused = stage.client().ask("POST / HTTP/1.1\r\nHost: h\r\nExpect: a-miracle\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(refused.status(), 417);
}

#[test]
fn what_two_readers_could_read_in_two_ways_is_refused() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let upstream = Upstream::replying(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        ok("never")
    });
    let stage = Stage::to(ready(&[upstream.port]));
    let long = "a".repeat(8 * 1024);
    let many = "X: y\r\n".repeat(1_001);
    for (request, status) in [
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_owned(), 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\na".into(), 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n".into(), 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".into(), 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), 400),
        ("POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nX: y\r\n z\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: h\"><x\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n".into(), 405),
        (format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nHost: h\r\nX: {long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: h\r\n{many}\r\n"), 431),
    ] {
        let mut client = stage.client();
        let answer = client.ask(&request);
        let shown = request.get(..80).unwrap_or(&request);
        assert_eq!(answer.status(), status, "{shown:?}");
        assert!(client.closed(), "{shown:?} left its connection open");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[test]
fn a_length_beside_chunks_smuggles_nothing() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = seen.clone();
    let upstream = Upstream::replying(move |r| {
        kept.lock().expect("unpoisoned").push((r.first.clone(), r.header("content-length").map(str::to_owned)));
        ok("ok")
    });
    let stage = Stage::to(ready(&[upstream.port]));
    for framing in ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 4"] {
        let mut client = stage.client();
        let answer =
            client.ask(&format!("POST /one HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n0\r\n\r\nGET /two HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert!(matches!(answer.status(), 200 | 400));
        // Read as chunks alone, and the connection is not used again: the second request, hidden or honest, is never read.
        assert!(client.closed());
    }
    let seen = seen.lock().expect("unpoisoned");
    assert!(seen.iter().all(|(first, length)| first.starts_with("POST /one") && length.is_none()), "{seen:?}");
}

#[test]
fn the_absolute_form_names_its_host() {
    let upstream = Upstream::mirror();
    let answer = Stage::to(ready(&[upstream.port])).client().ask("GET http://real.test/x HTTP/1.1\r\nHost: other.test\r\n\r\n");
    let seen = answer.text();
    assert!(seen.starts_with("GET /x HTTP/1.1\n") && seen.contains("host: real.test\n") && !seen.contains("other"), "{seen}");
}

/// 50 MB towards a side that does not read: the sender must come to a stop before half is sent, and the router stay small.
const STREAM: usize = 50 << 20;

/// Writes until done, or, once, until nothing was taken for a while; says so through `blocked` and goes on.
fn write_stream(io: &mut TcpStream, blocked: &mpsc::Sender<usize>) {
    io.set_write_timeout(Some(Duration::from_millis(300))).expect("set");
    let chunk = [7_u8; 64 << 10];
    let mut sent = 0;
    while sent < STREAM {
        match io.write(&chunk[..chunk.len().min(STREAM - sent)]) {
            Ok(n) => sent += n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                blocked.send(sent).expect("waited for");
                io.set_write_timeout(Some(PATIENCE)).expect("set");
            }
            Err(e) => panic!("after {sent} bytes: {e}"),
        }
    }
}

#[test]
fn a_large_answer_streams_with_back_pressure() {
    let (blocked, stops) = mpsc::channel();
    let upstream = Upstream::each(move |mut wire| {
        wire.head();
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {STREAM}\r\n\r\n"));
        write_stream(wire.io.get_mut(), &blocked);
    });
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(stops.recv_timeout(PATIENCE).expect("the instance was held back") < STREAM / 2);
    assert_eq!(client.answer(false).expect("an answer").body.len(), STREAM);
    let peak = stage.router_status("VmHWM:");
    assert!(peak < 40 << 10, "{peak} KiB");
}

#[test]
fn a_large_request_streams_with_back_pressure() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::each(move |mut wire| {
        let head = wire.head().expect("a head");
        assert_eq!(head.header("content-length"), Some(STREAM.to_string().as_str()));
        wait.lock().expect("unpoisoned").recv().expect("told");
        let read = std::io::copy(&mut (&mut wire.io).take(STREAM as u64), &mut std::io::sink()).expect("read");
        wire.send(ok(&read.to_string()));
    });
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {STREAM}\r\n\r\n"));
    let (blocked, stops) = mpsc::channel();
    let mut socket = client.io.get_ref().try_clone().expect("cloned");
    let writer = std::thread::spawn(move || write_stream(&mut socket, &blocked));
    assert!(stops.recv_timeout(PATIENCE).expect("the client was held back") < STREAM / 2);
    go.send(()).expect("waited for");
    assert_eq!(client.answer(false).expect("an answer").text(), STREAM.to_string());
    writer.join().expect("written");
    let peak = stage.router_status("VmHWM:");
    assert!(peak < 40 << 10, "{peak} KiB");
}

#[test]
fn a_client_that_still_sends_gets_its_answer() {
    let body = "x".repeat(8 << 20);
    let post = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut stage = Stage::to(Web::None);
    let mut client = stage.client();
    // The whole request is written before a byte is read, as browsers do; and the connection lives on.
    assert_eq!(client.ask(&post).status(), 503);
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").status(), 503);

    let upstream = Upstream::each(|mut wire| {
        wire.head();
        wire.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig");
        let _ = std::io::copy(&mut wire.io, &mut std::io::sink());
    });
    stage.set(ready(&[upstream.port]));
    let answer = stage.client().ask(&post);
    assert_eq!((answer.status(), answer.text().as_str()), (413, "big"));
}

#[test]
fn a_client_may_ask_to_close() {
    let upstream = Upstream::saying("bye");
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    let answer = client.ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("bye", Some("close")));
    assert!(client.closed());
}

/// The handshake of RFC 6455, section 1.3, and frames whose masks the instance takes off.
#[test]
fn a_web_socket_echoes() {
    let upstream = Upstream::each(|mut wire| {
        let request = wire.head().expect("a head");
        assert_eq!((request.header("upgrade"), request.header("connection")), (Some("websocket"), Some("upgrade")));
        assert_eq!(request.header("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
        wire.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        let mut frame = [0; 6];
        while wire.io.read_exact(&mut frame).is_ok() {
            let mut data = vec![0; usize::from(frame[1] & 0x7f)];
            wire.io.read_exact(&mut data).expect("a payload");
            data.iter_mut().enumerate().for_each(|(i, b)| *b ^= frame[2 + i % 4]);
            wire.send([&[frame[0], u8::try_from(data.len()).expect("short")], data.as_slice()].concat());
        }
    });
    let mut stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    let answer = client.ask(
        "GET /chat HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!((answer.status(), answer.header("upgrade")), (101, Some("websocket")));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    for text in ["hello", "again"] {
        let mask = [1, 2, 3, 4];
        let masked: Vec<u8> = text.bytes().enumerate().map(|(i, b)| b ^ mask[i % 4]).collect();
        client.send([&[0x81, 0x80 | 5], mask.as_slice(), &masked].concat());
        let mut echoed = [0; 7];
        client.io.read_exact(&mut echoed).expect("an echo");
        assert_eq!(&echoed[2..], text.as_bytes());
    }
    // It counts as in flight while it lives.
    stage.router.in_flight(upstream.port);
    let count = stage.until(|e| if let RouterEvent::InFlight { count, .. } = e { Some(*count) } else { None });
    assert_eq!(count, 1);
    stage.router.drain(upstream.port);
    stage.set(Web::None);
    drop(client);
    let drained = RouterEvent::Drained { port: upstream.port };
    stage.until(|e| (*e == drained).then_some(()));
    assert!(stage.line().contains("path=\"/chat\"") && stage.line().contains("status=101 bytes=14 "));
}

#[test]
fn hosts_do_not_mix() {
    let (shop, blog) = (Upstream::saying("shop"), Upstream::saying("blog"));
    let mut stage = Stage::new();
    let route = |deploy: &str, port| Arc::new(Route { deploy: deploy.parse().expect("valid"), web: ready(&[port]) });
    stage.table(RouteTable {
        generation: Generation(1),
        hosts: [("shop.test".to_owned(), route("shop", shop.port)), ("blog.test".to_owned(), route("blog", blog.port))].into(),
        fallback: None,
    });
    let mut client = stage.client();
    for (host, want) in [("shop.test", "shop"), ("BLOG.test:80", "blog"), ("shop.test.", "shop"), ("blog.test", "blog")] {
        assert_eq!(client.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).text(), want);
    }
    let unknown = client.ask("GET / HTTP/1.1\r\nHost: other.test\r\n\r\n");
    assert_eq!((unknown.status(), unknown.text().contains("No such app")), (404, true));
    assert_eq!(stage.lines_of("shop", 2).len(), 2);
    assert!(stage.lines_of("blog", 2).iter().all(|l| l.to_lowercase().contains("host=blog.test")));
}

#[test]
fn ipv6_listens_too() {
    let upstream = Upstream::mirror();
    let stage = Stage::to(ready(&[upstream.port]));
    if stage.router.listeners().addresses().len() < 2 {
        return; // This machine has no IPv6.
    }
    let mut client = Wire::to(SocketAddr::from((Ipv6Addr::LOCALHOST, stage.router.port())));
    let answer = client.ask("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n");
    assert!(answer.text().contains("x-forwarded-for: ::1\n"), "{}", answer.text());
}

// The router's own answers: each code with its page and its line.

fn fails_with(stage: &mut Stage, code: &str, description: &str) {
    let answer = stage.get("/x");
    assert_eq!(answer.status(), 503, "{code}");
    assert!(answer.text().contains(code) && answer.text().contains(description), "{}", answer.text());
    let mut count = 1;
    let line = loop {
        let lines = stage.lines_of("shop/dev", count);
        count = lines.len() + 1;
        if let Some(line) = lines.into_iter().find(|l| l.contains("path=\"/x\"")) {
            break line;
        }
    };
    assert!(line.starts_with(&format!("at=error code={code} desc=\"{description}\" method=GET path=\"/x\" host=shop.test")), "{line}");
    assert!(line.contains(&format!("status=503 bytes={} protocol=http", answer.body.len())), "{line}");
}

#[test]
fn h10_crashed_and_h14_no_web() {
    fails_with(&mut Stage::to(Web::Crashed), "H10", "App crashed");
    fails_with(&mut Stage::to(Web::None), "H14", "No web processes running");
    let json = Stage::to(Web::Crashed).client().ask("GET / HTTP/1.1\r\nHost: h\r\nAccept: application/json\r\nX-Request-Id: r1\r\n\r\n");
    assert_eq!(json.header("content-type"), Some("application/json"));
    let json: serde_json::Value = serde_json::from_slice(&json.body).expect("JSON");
    assert_eq!((json["id"].as_str(), json["request_id"].as_str()), (Some("H10"), Some("r1")));
}

#[test]
fn h11_too_many_wait() {
    let mut stage = Stage::with(Limits { waiting: 0, ..Limits::default() });
    stage.set(Web::Starting);
    fails_with(&mut stage, "H11", "Backlog too deep");
}

#[test]
fn h12_no_first_byte() {
    let upstream = Upstream::each(|mut wire| {
        wire.head();
        wire.closed();
    });
    let mut stage = Stage::with(Limits { first_byte: Duration::from_millis(100), ..Limits::default() });
    stage.set(ready(&[upstream.port]));
    fails_with(&mut stage, "H12", "Request timeout");
    assert!(stage.line().contains(" dyno=web.1 connect="));
}

#[test]
fn h13_closed_without_a_byte() {
    let upstream = Upstream::each(|mut wire| drop(wire.head()));
    fails_with(&mut Stage::to(ready(&[upstream.port])), "H13", "Connection closed without response");
    // It was sent: an instance may have acted on it, so no other is asked.
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn h15_silence_within_an_answer() {
    let upstream = Upstream::each(|mut wire| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        wire.closed();
    });
    let mut stage = Stage::with(Limits { idle: Duration::from_millis(100), ..Limits::default() });
    stage.set(ready(&[upstream.port]));
    let mut client = stage.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(client.answer(false).is_none());
    let line = stage.line();
    assert!(line.starts_with("at=error code=H15 desc=\"Idle connection\"") && line.contains("status=503 bytes=4"), "{line}");
}

#[test]
fn h17_not_http() {
    let upstream = Upstream::each(|mut wire| {
        wire.head();
        wire.send("220 mail.test ESMTP\r\n\r\n");
        wire.closed();
    });
    fails_with(&mut Stage::to(ready(&[upstream.port])), "H17", "Poorly formatted HTTP response");
}

#[test]
fn h18_broken_within_an_answer() {
    let upstream = Upstream::each(|mut wire| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
    });
    let mut stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    // The client sees that it is not whole: no last chunk comes.
    assert!(client.answer(false).is_none());
    let line = stage.line();
    assert!(line.starts_with("at=error code=H18 desc=\"Server request interrupted\"") && line.contains("status=503 bytes=4"), "{line}");
}

#[test]
fn h19_a_full_backlog() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    rustix::net::listen(&listener, 0).expect("a short backlog");
    let address = listener.local_addr().expect("bound");
    // Two fill it; what comes then gets no answer to its SYN.
    let _full: Vec<_> = (0..2).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(200))).collect();
    let mut stage = Stage::with(Limits { connect: Duration::from_millis(100), ..Limits::default() });
    stage.set(ready(&[address.port()]));
    fails_with(&mut stage, "H19", "Backend connection timeout");
}

#[test]
fn h20_never_started() {
    let mut stage = Stage::with(Limits { boot: Duration::from_millis(100), ..Limits::default() });
    stage.set(Web::Starting);
    fails_with(&mut stage, "H20", "App boot timeout");
}

#[test]
fn h21_refused_and_another_is_asked_first() {
    let (closed, _held) = closed_port();
    let mut stage = Stage::to(ready(&[closed]));
    assert_eq!(stage.get("/").status(), 503);
    stage
        .until(|e| matches!(e, RouterEvent::BackendRefused { instance, port, .. } if instance == "web.1" && *port == closed).then_some(()));
    fails_with(&mut stage, "H21", "Backend connection refused");

    let upstream = Upstream::saying("alive");
    stage.set(ready(&[closed, upstream.port]));
    for _ in 0..20 {
        assert_eq!(stage.get("/").text(), "alive");
    }
}

#[test]
fn h27_the_client_goes() {
    let (told, head_came) = mpsc::channel();
    let (gone, closed) = mpsc::channel();
    let upstream = Upstream::each(move |mut wire| {
        wire.head();
        told.send(()).expect("waited for");
        // The instance learns of it too.
        gone.send(wire.closed()).expect("waited for");
    });
    let mut stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    head_came.recv_timeout(PATIENCE).expect("a request");
    drop(client);
    assert!(closed.recv_timeout(PATIENCE).expect("an end"));
    let line = stage.line();
    assert!(line.starts_with("at=error code=H27 desc=\"Client request interrupted\"") && line.contains("status=499"), "{line}");
}

#[test]
fn h28_the_client_stalls() {
    let upstream = Upstream::each(|mut wire| {
        wire.answer(false);
    });
    let mut stage = Stage::with(Limits { idle: Duration::from_millis(100), ..Limits::default() });
    stage.set(ready(&[upstream.port]));
    let mut client = stage.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf");
    let _ = client.answer(false);
    let line = stage.line();
    assert!(line.starts_with("at=error code=H28 desc=\"Client connection idle\"") && line.contains("status=499"), "{line}");

    // Nor may one take an answer and not read it.
    let (blocked, stops) = mpsc::channel();
    let endless = Upstream::each(move |mut wire| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\n\r\n");
        let chunk = [7_u8; 64 << 10];
        while wire.io.get_mut().write(&chunk).is_ok() {}
        blocked.send(()).expect("waited for");
    });
    stage.set(ready(&[endless.port]));
    let mut client = stage.client();
    client.send("GET /endless HTTP/1.1\r\nHost: h\r\n\r\n");
    stops.recv_timeout(PATIENCE).expect("let go");
    let line = stage.lines_of("shop/dev", 2).pop().expect("a line");
    assert!(line.starts_with("at=error code=H28") && line.contains("/endless"), "{line}");
}

// The table.

#[test]
fn a_request_waits_for_the_start() {
    let upstream = Upstream::saying("at last");
    let mut stage = Stage::to(Web::Starting);
    let mut clients: Vec<Wire> = (0..3).map(|_| stage.client()).collect();
    clients.iter_mut().for_each(|c| c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
    // Still starting, in a newer table.
    stage.set(Web::Starting);
    stage.set(ready(&[upstream.port]));
    for client in &mut clients {
        assert_eq!(client.answer(false).expect("an answer").text(), "at last");
    }
}

#[test]
fn a_stale_table_is_refused() {
    let upstream = Upstream::saying("new");
    let mut stage = Stage::new();
    stage.generation = 7;
    stage.set(ready(&[upstream.port]));
    stage.router.set(&RouteTable { generation: Generation(7), ..RouteTable::default() });
    let stale = RouterEvent::Stale { generation: Generation(7), current: Generation(8) };
    stage.until(|e| (*e == stale).then_some(()));
    assert_eq!(stage.get("/").text(), "new");
}

#[test]
fn a_table_of_the_same_generation_replaces() {
    let upstream = Upstream::saying("up");
    let mut stage = Stage::to(Web::Crashed);
    stage.generation = 0;
    stage.set(ready(&[upstream.port]));
    assert_eq!(stage.get("/").text(), "up");
}

#[test]
fn swapping_the_table_under_load_fails_no_request() {
    let (a, b) = (Upstream::saying("a"), Upstream::saying("b"));
    let mut stage = Stage::to(ready(&[a.port]));
    let port = stage.router.port();
    let (done, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (done, served) = (done.clone(), served.clone());
            std::thread::spawn(move || {
                let mut client = Wire::to(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
                while !done.load(Ordering::SeqCst) {
                    let answer = client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
                    assert!(answer.status() == 200 && matches!(answer.text().as_str(), "a" | "b"), "{answer:?}");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for round in 0..40 {
        let (new, old) = if round % 2 == 0 { (&b, &a) } else { (&a, &b) };
        // Some requests between two swaps, or there would be no load.
        let before = served.load(Ordering::SeqCst);
        while served.load(Ordering::SeqCst) < before + 8 && !load.iter().any(std::thread::JoinHandle::is_finished) {
            std::thread::yield_now();
        }
        // Most tables differ in who is ready, not in the intent that they come from.
        stage.generation -= u64::from(round % 4 != 0);
        stage.router.drain(old.port);
        stage.set(ready(&[new.port]));
        let drained = RouterEvent::Drained { port: old.port };
        stage.until(|e| (*e == drained).then_some(()));
    }
    done.store(true, Ordering::SeqCst);
    load.into_iter().for_each(|t| t.join().expect("no request failed"));
}

#[test]
fn an_instance_is_drained_when_its_last_request_ends() {
    let (finish, told) = mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let (came, head_came) = mpsc::channel();
    let old = Upstream::each(move |mut wire| {
        wire.head();
        came.send(()).expect("waited for");
        told.lock().expect("unpoisoned").recv().expect("told");
        wire.send(ok("old"));
    });
    let new = Upstream::saying("new");
    let mut stage = Stage::to(ready(&[old.port]));
    let mut client = stage.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    head_came.recv_timeout(PATIENCE).expect("a request");
    stage.set(ready(&[new.port]));
    stage.router.drain(old.port);
    assert_eq!(stage.get("/").text(), "new");
    stage.router.in_flight(old.port);
    let first = stage.until(|e| matches!(e, RouterEvent::InFlight { .. } | RouterEvent::Drained { .. }).then(|| e.clone()));
    assert_eq!(first, RouterEvent::InFlight { port: old.port, count: 1 });
    finish.send(()).expect("waited for");
    assert_eq!(client.answer(false).expect("an answer").text(), "old");
    let drained = RouterEvent::Drained { port: old.port };
    stage.until(|e| (*e == drained).then_some(()));
}

#[test]
fn a_connection_that_an_instance_closed_loses_no_request() {
    // Each answers one request and closes without saying so.
    let upstream = Upstream::each(|mut wire| {
        if wire.head().is_some() {
            wire.send(ok("once"));
        }
    });
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    for n in 1..=20 {
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").text(), "once");
        // The next request leaves after the instance's end of file has arrived at this machine's kernel.
        while established(upstream.port) > 0 {
            std::thread::yield_now();
        }
        assert_eq!(upstream.connections.load(Ordering::SeqCst), n);
    }
}

/// Connections whose far end is this port and that are still open on both sides.
fn established(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("readable");
    let column = |line: &str, n: usize| line.split_whitespace().nth(n).unwrap_or_default().to_owned();
    table.lines().filter(|l| column(l, 2).ends_with(&format!(":{port:04X}")) && column(l, 3) == "01").count()
}

// The process.

#[test]
fn a_successor_answers_what_came_while_there_was_no_router() {
    let upstream = Upstream::saying("still here");
    let mut stage = Stage::to(ready(&[upstream.port]));
    assert_eq!(stage.get("/").text(), "still here");
    let pid = stage.router.pid().and_then(|p| rustix::process::Pid::from_raw(p.cast_signed())).expect("it runs");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    while stage.next() != RouterEvent::Lost {}
    let mut clients: Vec<Wire> = (0..10).map(|_| stage.client()).collect();
    clients.iter_mut().for_each(|c| c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
    stage.runtime.block_on(stage.router.revive()).expect("a successor");
    for client in &mut clients {
        assert_eq!(client.answer(false).expect("an answer").text(), "still here");
    }
}

#[test]
fn a_stop_lets_requests_finish_and_writes_the_last_lines() {
    let (finish, told) = mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let (came, head_came) = mpsc::channel();
    let upstream = Upstream::each(move |mut wire| {
        wire.head();
        came.send(()).expect("waited for");
        told.lock().expect("unpoisoned").recv().expect("told");
        wire.send(ok("bye"));
    });
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    let mut idle = stage.client();
    client.send("GET /last HTTP/1.1\r\nHost: h\r\n\r\n");
    head_came.recv_timeout(PATIENCE).expect("a request");
    let Stage { router, runtime, home, .. } = stage;
    let stopping = std::thread::spawn(move || {
        runtime.block_on(router.stop(PATIENCE));
    });
    // An idle connection is closed at once, the one in flight is waited for.
    assert!(idle.closed());
    finish.send(()).expect("waited for");
    let answer = client.answer(false).expect("an answer");
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("bye", Some("close")));
    stopping.join().expect("stopped");
    let folder = Home::at(home.path()).logs(&"shop/dev".parse().expect("valid"));
    let text: String =
        std::fs::read_dir(folder).expect("a folder").flatten().map(|e| std::fs::read_to_string(e.path()).expect("text")).collect();
    assert!(text.contains("dozen[router]: at=info method=GET path=\"/last\""), "{text}");
}

#[test]
fn a_router_ends_with_its_control_plane() {
    let upstream = Upstream::saying("hi");
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").text(), "hi");
    let began = Instant::now();
    let Stage { router, runtime, home, .. } = stage;
    drop(router);
    drop(runtime);
    assert!(client.closed());
    assert!(began.elapsed() < PATIENCE);
    drop(home);
}

#[test]
fn a_router_has_nothing_that_it_does_not_need() {
    let stage = Stage::to(Web::None);
    let pid = stage.router.pid().expect("it runs");
    assert_eq!(stage.router_status("NoNewPrivs:"), 1);
    assert!(std::fs::read(format!("/proc/{pid}/environ")).expect("readable").is_empty());
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).expect("readable"), std::path::Path::new("/"));
}

#[test]
fn the_role_is_not_for_people() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_dozen"))
        .arg("__router")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("started by the control plane only"));
}
