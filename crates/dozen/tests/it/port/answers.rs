//! What instances answer, byte by byte, and what becomes of it on its way to clients old and new.

use super::stage::{Answer, Stage, Upstream, ok, ready};
use std::sync::mpsc;

/// The answer to `GET`, of an instance that says this and closes the connection.
fn to(said: impl Into<Vec<u8>>, request: &str) -> (Answer, Stage) {
    let said = said.into();
    let upstream = Upstream::each(move |mut wire| {
        wire.head();
        wire.send(&said);
    });
    let stage = Stage::to(ready(&[upstream.port]));
    let answer = stage.client().ask(request);
    (answer, stage)
}

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
const OLD: &str = "GET / HTTP/1.0\r\n\r\n";

#[test]
fn where_an_answer_ends_is_told_in_one_way() {
    for (said, length, chunked, text) in [
        // Said twice alike, it is said once.
        ("Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", Some("2"), false, "hi"),
        // Chunks count, and the length beside them is not told.
        ("Content-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", None, true, "hi"),
        // Servers fill the size up with blanks, or say more behind it.
        ("Transfer-Encoding: CHUNKED\r\n\r\n002  \r\nhi\r\n1;x=\"y\"\r\n!\r\n0\r\n\r\n", None, true, "hi!"),
        ("Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nhi", Some("2"), false, "hi"),
        ("\r\nhi", None, true, "hi"),
        ("Content-Length: 0\r\n\r\n", Some("0"), false, ""),
    ] {
        let said = format!("HTTP/1.1 200 Fine\r\n{said}");
        let (answer, _stage) = to(said.clone(), GET);
        assert_eq!(
            (answer.all("content-length"), answer.header("transfer-encoding"), answer.text().as_str()),
            (length.into_iter().collect(), chunked.then_some("chunked"), text),
            "{said:?}"
        );
        assert!(answer.first.ends_with(" 200 Fine"), "{}", answer.first);
        // Whoever knows no chunks is told by the end of the connection.
        let (answer, _stage) = to(said.clone(), OLD);
        assert_eq!((answer.all("content-length"), answer.header("transfer-encoding")), (length.into_iter().collect(), None), "{said:?}");
        assert_eq!((answer.text().as_str(), answer.header("connection")), (text, Some("close")), "{said:?}");
    }
}

#[test]
fn an_answer_that_contradicts_itself_is_none() {
    for said in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 099 No\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/3.0 200 OK\r\n\r\n",
        &format!("HTTP/1.1 200 OK\r\nConnection: {}\r\nContent-Length: 0\r\n\r\n", "x,".repeat(1_000)),
    ] {
        let (answer, mut stage) = to(said, GET);
        assert_eq!(answer.status(), 503, "{said:?}: {}", answer.first);
        assert!(stage.line().contains("code=H17"), "{said:?}");
    }
}

#[test]
fn chunks_that_break_cut_the_answer_short() {
    for body in ["zz\r\n", "2\r\nhixx", "2\r\nh", "0\r\nBad trailer\r\n\r\n", "ffffffffffffffffff\r\n"] {
        let upstream = Upstream::each(move |mut wire| {
            wire.head();
            wire.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
        });
        let mut stage = Stage::to(ready(&[upstream.port]));
        let mut client = stage.client();
        client.send(GET);
        // There is a head, and no end; or a page, where nothing was told yet.
        assert!(client.answer(false).is_none_or(|page| page.status() == 503), "{body:?}");
        assert!(stage.line().contains("code=H18"), "{body:?}");
    }
}

#[test]
fn as_many_headers_pass_as_the_contract_says() {
    let many = |count: usize| (0..count).map(|n| format!("X-{n}: {n}\r\n")).collect::<String>();
    let (answer, _stage) = to(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{}\r\nhi", many(990)), GET);
    assert_eq!((answer.header("x-989"), answer.text().as_str()), (Some("989"), "hi"));
    let (answer, mut stage) = to(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{}\r\nhi", many(1_001)), GET);
    assert_eq!(answer.status(), 503);
    assert!(stage.line().contains("code=H17"));
}

#[test]
fn trailers_are_for_those_that_ask_for_them() {
    let said = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\nContent-Length: 50\r\n\r\n";
    for (asks, told) in [("TE: trailers\r\n", true), ("", false)] {
        let (answer, _stage) = to(said, &format!("GET / HTTP/1.1\r\nHost: h\r\n{asks}\r\n"));
        assert_eq!((answer.text().as_str(), answer.header("trailer/X-Sum")), ("hi", told.then_some("7")), "{asks}");
        // What frames is none.
        assert_eq!(answer.header("trailer/Content-Length"), None);
    }
}

#[test]
fn an_answer_that_breaks_before_it_was_told_is_answered_by_a_page() {
    // In one packet: of a head that comes alone it is not known whether more comes, and it is told.
    for said in ["Transfer-Encoding: chunked\r\n\r\nno size\r\n", "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nno size\r\n"] {
        let (answer, mut stage) = to(format!("HTTP/1.1 200 OK\r\n{said}"), "GET / HTTP/1.1\r\nHost: h\r\nAccept: application/json\r\n\r\n");
        assert!(answer.status() == 503 && answer.text().contains("\"H18\""), "{said:?}: {} {}", answer.first, answer.text());
        let line = stage.line();
        assert!(line.contains("code=H18") && line.contains("status=503") && !line.contains("bytes=0"), "{line}");
    }
}

#[test]
fn an_upgrade_with_a_body_is_none() {
    let upstream = Upstream::mirror();
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    let answer = client.ask("POST / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 4\r\n\r\nbody");
    assert!(answer.status() == 200 && !answer.text().to_ascii_lowercase().contains("upgrade"), "{}", answer.text());
    assert!(answer.text().ends_with("body"), "{}", answer.text());
}

#[test]
fn who_expects_100_and_has_said_all_is_kept() {
    let upstream = Upstream::mirror();
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    for (length, body) in [("Content-Length: 4\r\n", "body"), ("", ""), ("Transfer-Encoding: chunked\r\n", "4\r\nbody\r\n0\r\n\r\n")] {
        let answer = client.ask(&format!("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n{length}\r\n{body}"));
        assert_eq!((answer.status(), answer.header("connection")), (200, None), "{length}");
    }
}

#[test]
fn an_answer_may_begin_before_its_request_ends() {
    let (seen, sees) = mpsc::channel();
    let upstream = Upstream::each(move |mut wire| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n");
        seen.send(wire.some(9)).expect("the test waits");
        wire.send("0\r\n\r\n");
        // One that closed now could do so on a request that is on its way, which is nobody's to send again.
        if wire.head().is_some() {
            wire.send(ok(""));
        }
    });
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nfirst");
    let head = client.head().expect("a head");
    assert_eq!((head.status(), head.header("transfer-encoding")), (200, Some("chunked")));
    assert_eq!(client.some(10), b"5\r\nbegun\r\n");
    client.send("last");
    assert_eq!(sees.recv().expect("a body"), b"firstlast");
    assert_eq!(client.some(5), b"0\r\n\r\n");
    // And the connection goes on.
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.head().expect("a head").status(), 200);
}
