//! End to end: port. A real router process between raw sockets on both sides, so that every byte is what the test says.

mod acme;
mod answers;
mod certs;
mod codes;
mod conformance;
mod differential;
mod domains;
mod framing;
mod h2;
mod limits;
mod manners;
mod split;
mod stage;
mod table;
mod tls;
mod websockets;

use dozen_core::ids::Generation;
use dozen_core::port::{Manners, Route, RouteTable, Web};
use dozen_engine::port::{Limits, RouterEvent};
use stage::{PATIENCE, Stage, Upstream, Wire, ok, ready};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

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
         Connection: keep-alive, X-Secret, Host\r\nKeep-Alive: 5\r\nX-Secret: s\r\nTE: gzip\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n\r\n",
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
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".into(), 501),
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
fn a_chunk_that_is_none_is_the_clients_fault() {
    // Reads what comes and never answers: the router has to.
    let upstream = Upstream::each(|mut wire| while wire.head().is_some() {});
    let stage = Stage::to(ready(&[upstream.port]));
    for chunk in ["zz\r\nab\r\n", "12345678901234567\r\nab\r\n"] {
        let mut client = stage.client();
        let answer = client.ask(&format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"));
        assert_eq!(answer.status(), 400, "{chunk:?}");
    }
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
fn a_head_may_have_a_thousand_headers_and_no_more() {
    let upstream = Upstream::mirror();
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    let head = |count: usize| {
        let more: String = (0..count).map(|n| format!("X-{n}: {n}\r\n")).collect();
        format!("GET /{count} HTTP/1.1\r\nHost: h\r\n{more}\r\n")
    };
    // On one connection, whatever came before; and in parts, wherever they begin.
    for count in [0, 97, 98, 99, 100, 101, 999, 3, 500] {
        let answer = client.ask(&head(count));
        assert_eq!(answer.status(), 200, "{count}");
        assert_eq!(
            answer.text().to_ascii_lowercase().lines().filter(|line| line.starts_with("x-") && line.contains(": ")).count(),
            count + 5,
            "{count}"
        );
    }
    let text = head(600);
    let (one, two) = text.split_at(text.len() / 2);
    client.send(format!("{}{one}", head(1)));
    assert_eq!(client.answer(false).expect("an answer").status(), 200);
    client.send(two);
    assert_eq!(client.answer(false).expect("an answer").status(), 200);
    // The lines of a body are no headers, and what follows one is read as a head.
    let body = "line\n".repeat(5_000);
    let post = format!("POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for _ in 0..2 {
        assert!(client.ask(&post).text().ends_with(&body));
        assert_eq!(client.ask(&head(200)).status(), 200);
    }
    assert_eq!(stage.client().ask(&head(1_000)).status(), 431);
}

#[test]
fn the_absolute_form_and_the_host_agree() {
    let upstream = Upstream::mirror();
    let stage = Stage::to(ready(&[upstream.port]));
    let seen = stage.client().ask("GET http://real.test/x HTTP/1.1\r\nHost: Real.test\r\n\r\n").text();
    assert!(seen.starts_with("GET /x HTTP/1.1\n") && seen.contains("host: real.test\n"), "{seen}");
    assert_eq!(stage.client().ask("GET http://real.test/x HTTP/1.1\r\nHost: other.test\r\n\r\n").status(), 400);
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
    let route =
        |deploy: &str, port| Arc::new(Route { deploy: deploy.parse().expect("valid"), web: ready(&[port]), manners: Manners::default() });
    let domains = [("shop.test", route("shop", shop.port)), ("blog.test", route("blog", blog.port))];
    stage.table(RouteTable::led(domains.map(|(domain, route)| (domain.parse().expect("a domain"), route)), Generation(1), None));
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

#[test]
fn an_instance_on_ipv6_only_is_reached() {
    // Of the same number on IPv4 nobody else is to be there.
    let (port, _kept) = stage::closed_port();
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, port)) else { return };
    let upstream = Upstream::on(listener, |mut wire| {
        while wire.head().is_some() {
            wire.send(ok("six"));
        }
    });
    assert_eq!(Stage::to(ready(&[upstream.port])).get("/").text(), "six");
}

#[test]
fn a_head_that_does_not_end_is_not_waited_for() {
    let mut stage = Stage::with(Limits { head: Duration::from_millis(100), ..Limits::default() });
    stage.set(Web::None);
    for begun in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: h\r\nX: "] {
        let mut client = stage.client();
        client.send(begun);
        assert!(client.closed(), "{begun:?}");
    }
}

#[test]
fn a_silent_tunnel_ends() {
    let upstream = Upstream::each(|mut wire| {
        wire.head();
        wire.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhello");
        wire.closed();
    });
    let mut stage = Stage::with(Limits { idle: Duration::from_millis(100), ..Limits::default() });
    stage.set(ready(&[upstream.port]));
    let mut client = stage.client();
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n").status(), 101);
    let mut said = String::new();
    let _ = client.io.read_to_string(&mut said);
    assert_eq!(said, "hello");
    let line = stage.line();
    assert!(line.starts_with("at=error code=H15") && line.contains("bytes=5 "), "{line}");
}
