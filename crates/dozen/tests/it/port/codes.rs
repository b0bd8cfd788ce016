//! The router's own answers: each code with its page and its line.

use super::stage::{PATIENCE, Stage, Upstream, closed_port, ready};
use dozen_core::port::Web;
use dozen_engine::port::{Limits, RouterEvent};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

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
    let told = Arc::new(Barrier::new(2));
    let tells = told.clone();
    let upstream = Upstream::each(move |mut wire| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
        tells.wait();
    });
    let mut stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    client.head().expect("a head");
    assert_eq!(client.some(9), b"4\r\nhalf\r\n");
    told.wait();
    // The client sees that it is not whole: no last chunk comes.
    assert!(client.closed());
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
fn h80_held_too_long() {
    let mut stage = Stage::with(Limits { hold: Duration::from_millis(100), ..Limits::default() });
    stage.set(Web::Held);
    fails_with(&mut stage, "H80", "Maintenance mode");
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
    let mut stage = Stage::with(Limits { half_closed: Duration::from_millis(100), ..Limits::default() });
    stage.set(ready(&[upstream.port]));
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
    let (endless, stops) = Upstream::endless();
    stage.set(ready(&[endless.port]));
    let mut client = stage.client();
    client.send("GET /endless HTTP/1.1\r\nHost: h\r\n\r\n");
    stops.recv_timeout(PATIENCE).expect("let go");
    let line = stage.lines_of("shop/dev", 2).pop().expect("a line");
    assert!(line.starts_with("at=error code=H28") && line.contains("/endless"), "{line}");
}
