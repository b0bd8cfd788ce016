//! What the router lets in. An instance that keeps every byte stands behind it, and nothing may come there that was not strictly framed.

use super::stage::{Stage, Upstream, Wire, ok, ready};
use std::io::Read as _;
use std::sync::{Arc, Mutex};

/// What came to the instance: every byte, and what it read of them.
#[derive(Default)]
struct Seen {
    bytes: Vec<u8>,
    /// Targets of whole requests, and of heads whose body broke.
    whole: Vec<String>,
    broken: Vec<String>,
}

/// An instance that answers each whole request with 200, and is told of none that it would not read.
fn keeper() -> (Upstream, Arc<Mutex<Seen>>) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let kept = seen.clone();
    let upstream = Upstream::each(move |mut wire| {
        let mut text = Vec::new();
        loop {
            while let Some((target, length)) = request(&text) {
                text.drain(..length);
                kept.lock().expect("unpoisoned").whole.push(target);
                wire.send(ok("fine"));
            }
            let mut piece = [0; 4096];
            match wire.io.read(&mut piece) {
                Ok(came @ 1..) => {
                    text.extend_from_slice(&piece[..came]);
                    kept.lock().expect("unpoisoned").bytes.extend_from_slice(&piece[..came]);
                }
                _ => break,
            }
        }
        if !text.is_empty() {
            kept.lock().expect("unpoisoned").broken.push(target(&text));
        }
    });
    (upstream, seen)
}

fn target(text: &[u8]) -> String {
    String::from_utf8_lossy(text).split(' ').nth(1).unwrap_or_default().to_owned()
}

/// The target and the length of the first request, if it is whole.
fn request(text: &[u8]) -> Option<(String, usize)> {
    let find = |from: usize, what: &[u8]| text.get(from..)?.windows(what.len()).position(|w| w == what).map(|at| from + at);
    let head = find(0, b"\r\n\r\n")? + 4;
    let lower = String::from_utf8_lossy(&text[..head]).to_ascii_lowercase();
    let value = |name: &str| lower.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    let mut end = head;
    if value("transfer-encoding:") == Some("chunked") {
        loop {
            let line = find(end, b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&text[end..line]).expect("hexadecimal"), 16).expect("a size");
            if size == 0 {
                end = if text.get(line..)?.starts_with(b"\r\n\r\n") { line + 4 } else { find(line, b"\r\n\r\n")? + 4 };
                break;
            }
            end = line + 2 + size + 2;
        }
    } else if let Some(length) = value("content-length:") {
        end += length.parse::<usize>().expect("a length");
    }
    (end <= text.len()).then(|| (target(text), end))
}

/// The bytes that lines of the corpus stand for.
fn unescape(lines: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = lines.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (b'\n', _) => {}
            (b'\\', [b'x', high, low, after @ ..]) => {
                let hex = [*high, *low];
                out.push(u8::from_str_radix(std::str::from_utf8(&hex).expect("ASCII"), 16).expect("hexadecimal"));
                rest = after;
            }
            (b'\\', [letter, after @ ..]) => {
                out.push(match letter {
                    b'r' => b'\r',
                    b'n' => b'\n',
                    b't' => b'\t',
                    other => *other,
                });
                rest = after;
            }
            (b'{', _) => {
                let text = std::str::from_utf8(after).expect("UTF-8");
                let (times, what) = text.split_once('}').and_then(|(inner, _)| inner.split_once('*')).expect("{9*x}");
                out.extend(unescape(what).repeat(times.parse().expect("a number")));
                rest = &after[times.len() + 1 + what.len() + 1..];
            }
            (byte, _) => out.push(*byte),
        }
    }
    out
}

struct Case {
    name: String,
    /// `200`, `/a`
    want: Vec<(u16, String)>,
    bytes: Vec<u8>,
}

fn corpus() -> Vec<Case> {
    let text = include_str!("desync/cases.txt");
    let blocks = text.split("\n\n").map(|b| b.trim_start_matches('\n')).filter(|b| b.starts_with("case: "));
    let case = |block: &str| {
        let mut lines = block.splitn(3, '\n');
        let name = lines.next().and_then(|l| l.strip_prefix("case: ")).expect("a name").to_owned();
        let want = lines.next().and_then(|l| l.strip_prefix("want: ")).expect("what is wanted").split(", ").map(|w| {
            let (status, target) = w.split_once(' ').unwrap_or((w, ""));
            (status.parse().expect("a status"), target.to_owned())
        });
        Case { name, want: want.collect(), bytes: unescape(lines.next().expect("a request")) }
    };
    blocks.map(case).collect()
}

/// The answers to `bytes`, sent in pieces of this length, as many as are wanted, and whether the connection then ends.
fn answers(mut client: Wire, bytes: &[u8], piece: usize, want: &[(u16, String)]) -> Vec<u16> {
    for piece in bytes.chunks(piece) {
        client.send(piece);
    }
    let head_first = bytes.starts_with(b"HEAD ");
    let mut statuses = Vec::new();
    for number in 0..want.len() {
        match client.answer(head_first && number == 0) {
            Some(answer) => statuses.push(answer.status()),
            None => return statuses,
        }
    }
    // Nobody is spoken with any more who was refused.
    if want.last().is_some_and(|(status, _)| *status != 200) {
        assert!(client.closed(), "the connection is left open");
    }
    statuses
}

#[test]
fn a_smuggler_gets_nothing_through() {
    let (upstream, seen) = keeper();
    let stage = Stage::to(ready(&[upstream.port]));
    let cases = corpus();
    assert!(cases.len() >= 200, "{}", cases.len());
    let (mut wrong, mut may_break) = (Vec::new(), 0);
    for Case { name, want, bytes } in &cases {
        for piece in [bytes.len(), 7] {
            // Long ones are not sent in small pieces.
            if piece < bytes.len() && bytes.len() > 2_000 {
                continue;
            }
            {
                let mut seen = seen.lock().expect("unpoisoned");
                seen.bytes.clear();
                seen.whole.clear();
            }
            let got = answers(stage.client(), bytes, piece, want);
            let statuses: Vec<u16> = want.iter().map(|(status, _)| *status).collect();
            let targets: Vec<&str> = want.iter().filter(|(status, _)| *status == 200).map(|(_, target)| target.as_str()).collect();
            may_break += want.iter().filter(|(_, target)| target.ends_with('!')).count();
            let seen = seen.lock().expect("unpoisoned");
            let all = String::from_utf8_lossy(&seen.bytes);
            if got != statuses
                || seen.whole != targets
                || all.contains("smuggled")
                || all.to_ascii_lowercase().matches("transfer-encoding:").any(|_| !all.contains("transfer-encoding: chunked\r\n"))
            {
                wrong.push(format!(
                    "{name} (in pieces of {piece}): wanted {want:?}, got {got:?}, the instance saw {:?} of {all:?}",
                    seen.whole
                ));
            }
        }
    }
    let seen = seen.lock().expect("unpoisoned");
    assert!(seen.broken.len() <= may_break && seen.broken.iter().all(|target| target == "/a"), "{:?}", seen.broken);
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_refusal_has_its_page_and_its_line() {
    let (upstream, _) = keeper();
    let mut stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    client.send("GET /first HTTP/1.1\r\nHost: shop.test\r\n\r\nPOST /bad?x HTTP/1.1\r\nX : y\r\nHost: shop.test\r\n\r\n");
    assert_eq!(client.answer(false).expect("an answer").status(), 200);
    let refused = client.answer(false).expect("an answer");
    assert_eq!(
        (refused.status(), refused.header("connection"), refused.header("content-type")),
        (400, Some("close"), Some("text/html; charset=utf-8"))
    );
    assert!(refused.text().contains("H26"), "{}", refused.text());
    assert!(client.closed());
    let lines = stage.lines_of("shop/dev", 2);
    let line = lines.iter().find(|l| l.contains("H26")).expect("a line");
    assert!(
        line.starts_with("at=error code=H26 desc=\"Request error\" method=POST path=\"/bad?x\" host=shop.test request_id=")
            && line.ends_with(&format!(
                " status=400 bytes={} protocol=http reason=\"a blank stands before a header's colon, or there is none\"",
                refused.body.len()
            )),
        "{line}"
    );
    // What cannot be told is left out, and nothing strange comes into the line.
    let mut client = stage.client();
    assert_eq!(client.ask("\"GET\" /\" HTTP/1.1\r\nHost: x status=200\r\n\r\n").status(), 400);
    let lines = stage.lines_of("shop/dev", 3);
    let line = lines.iter().find(|l| l.contains(" method=- ")).expect("a line");
    assert!(line.contains(" host= request_id="), "{line}");
}

#[test]
fn who_is_refused_and_still_sends_gets_the_answer() {
    let (upstream, seen) = keeper();
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    let body = "x".repeat(256 << 10);
    client.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length : {}\r\n\r\n{body}", body.len()));
    assert_eq!(client.answer(false).expect("an answer").status(), 400);
    assert!(seen.lock().expect("unpoisoned").bytes.is_empty());
}

#[test]
fn a_body_that_breaks_cuts_the_instance_off() {
    let (upstream, seen) = keeper();
    let stage = Stage::to(ready(&[upstream.port]));
    assert_eq!(stage.get("/warm").status(), 200);
    let mut client = stage.client();
    client.send("POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    while !String::from_utf8_lossy(&seen.lock().expect("unpoisoned").bytes).contains("hello") {
        std::thread::yield_now();
    }
    client.send("zz\r\n");
    assert_eq!(client.answer(false).expect("an answer").status(), 400);
    assert!(client.closed());
    // The instance sees the end of that connection: nothing more comes over it.
    while seen.lock().expect("unpoisoned").broken.is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(stage.get("/b").status(), 200);
    let seen = seen.lock().expect("unpoisoned");
    assert_eq!((seen.whole.join(" "), seen.broken.join(" ")), ("/warm /b".to_owned(), "/a".to_owned()));
}
