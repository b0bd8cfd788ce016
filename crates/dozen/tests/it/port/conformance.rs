//! HTTP/1 as its specification has it, byte by byte.

use super::stage::{PATIENCE, Stage, Upstream, Wire, ok, ready};
use std::net::Shutdown;
use std::sync::mpsc;

/// The next answer that is no interim one.
fn last(client: &mut Wire) -> super::stage::Answer {
    loop {
        let answer = client.answer(false).expect("an answer");
        if answer.status() >= 200 {
            return answer;
        }
    }
}

#[test]
fn an_old_client_is_kept_where_it_asks_for_it() {
    let upstream = Upstream::saying("hello");
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    for _ in 0..3 {
        let answer = client.ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!((answer.header("connection"), answer.text().as_str()), (Some("keep-alive"), "hello"));
    }
    let answer = client.ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(answer.text(), "hello");
    assert!(client.closed());
}

#[test]
fn interim_answers_confuse_nobody() {
    let upstream = Upstream::replying(|r| match r.first.split(' ').nth(1) {
        Some("/hints") => format!("HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n{}", ok("hints")),
        Some("/three") => {
            format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n{}", ok("three"))
        }
        _ => ok("plain"),
    });
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    for (path, text) in [("/hints", "hints"), ("/", "plain"), ("/three", "three"), ("/", "plain")] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(last(&mut client).text(), text);
    }
}

#[test]
fn who_waits_for_100_may_get_the_answer_instead() {
    let upstream = Upstream::each(|mut wire| {
        wire.head();
        wire.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        wire.closed();
    });
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n");
    assert_eq!(last(&mut client).status(), 403);
    // An instance that waits for its own 100 gets none, and no `Expect` either: the body comes.
    let upstream = Upstream::mirror();
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n");
    assert!(last(&mut client).text().ends_with("body"));
}

#[test]
fn what_an_instance_says_too_much_is_nobodys_answer() {
    let upstream = Upstream::replying(|r| {
        let evil = "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 4\r\n\r\nevil";
        match r.first.split(' ').next() {
            Some("HEAD") => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{evil}", evil.len()),
            Some("PUT") => format!("HTTP/1.1 204 No Content\r\nContent-Length: {}\r\n\r\n{evil}", evil.len()),
            Some("POST") => format!("HTTP/1.1 304 Not Modified\r\nContent-Length: {}\r\n\r\n{evil}", evil.len()),
            Some("DELETE") => format!("{}{evil}", ok("gone")),
            _ => ok("fine"),
        }
    });
    let stage = Stage::to(ready(&[upstream.port]));
    for method in ["HEAD", "PUT", "POST", "DELETE"] {
        for _ in 0..5 {
            let mut client = stage.client();
            client.send(format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n"));
            let answer = client.answer(method == "HEAD").expect("an answer");
            assert!(matches!(answer.status(), 200 | 204 | 304) && answer.header("x-evil").is_none(), "{method}: {answer:?}");
            let next = client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            assert_eq!((next.text().as_str(), next.header("x-evil")), ("fine", None), "behind {method}");
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let upstream = Upstream::replying(|r| ok(&format!("{}{}", r.first, r.text())));
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    let all: String = (0..50)
        .map(|n| match n % 3 {
            0 => format!("GET /{n} HTTP/1.1\r\nHost: h\r\n\r\n"),
            1 => format!("POST /{n} HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"),
            _ => format!("PUT /{n} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
        })
        .collect();
    // Cut anywhere: heads, bodies and chunks come in parts.
    for piece in all.as_bytes().chunks(61) {
        client.send(piece);
    }
    for n in 0..50 {
        let text = client.answer(false).expect("an answer").text();
        assert!(text.contains(&format!(" /{n} HTTP/1.1")) && text.ends_with("body") == (n % 3 != 0), "{n}: {text}");
    }
}

#[test]
fn a_client_that_ended_its_side_gets_its_answers() {
    let (told, came) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let large = "x".repeat(1 << 20);
    let upstream = Upstream::replying(move |r| {
        if r.first.contains("/slow") {
            told.send(()).expect("waited for");
            wait.lock().expect("unpoisoned").recv().expect("told");
        }
        ok(&large)
    });
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    client.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n");
    came.recv_timeout(PATIENCE).expect("a request");
    client.io.get_ref().shutdown(Shutdown::Write).expect("ended");
    go.send(()).expect("waited for");
    for _ in 0..2 {
        assert_eq!(client.answer(false).expect("an answer").body.len(), 1 << 20);
    }
    // Then there is nothing to wait for.
    assert!(client.closed());
    let mut client = stage.client();
    client.io.get_ref().shutdown(Shutdown::Write).expect("ended");
    assert!(client.closed());
}

#[test]
fn a_body_that_ends_early_is_no_request() {
    let (gone, ended) = mpsc::channel();
    let upstream = Upstream::each(move |mut wire| {
        let whole = wire.answer(false).is_some();
        let _ = gone.send(whole);
    });
    let mut stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf");
    client.io.get_ref().shutdown(Shutdown::Write).expect("ended");
    assert!(!ended.recv_timeout(PATIENCE).expect("an end"), "an instance took half a body for a whole one");
    let line = stage.line();
    assert!(line.starts_with("at=error code=H27"), "{line}");
}
