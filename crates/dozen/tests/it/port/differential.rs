//! What is forwarded is read alike by another parser. Random requests, most of them spoiled, go through the router to Node's HTTP server,
//! which tells what it read: exactly the requests that were let in, in their order, each with its method, target, headers and body.

use super::stage::{Stage, ready};
use crate::fuzz::properties::framing::{Request, read, requests};
use dozen_engine::port::Limits;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Answers each whole request with what it read. A number counts all that were ever read, so that none is read unseen.
const NODE: &str = r#"
const http = require("http");
let count = 0;
const server = http.createServer((request, response) => {
    const pieces = [];
    request.on("data", (piece) => pieces.push(piece));
    request.on("end", () => {
        count += 1;
        const { method, url, rawHeaders: headers } = request;
        const bytes = (text) => Buffer.from(text, "latin1").toString("hex");
        const body = Buffer.concat(pieces).toString("hex");
        const told = JSON.stringify({ count, method, url: bytes(url), headers: headers.map(bytes), body });
        response.setHeader("X-Told", told);
        response.end(told);
    });
    request.on("error", () => {});
});
// What it does not read it closes on, and says nothing.
server.on("clientError", (error, socket) => socket.destroy());
server.keepAliveTimeout = 0;
server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port, methods: http.METHODS })));
"#;

/// Ends with the test.
struct Node {
    child: Child,
    port: u16,
    methods: BTreeSet<String>,
}

impl Node {
    fn start() -> Self {
        let mut node = Command::new("node");
        node.args(["--max-http-header-size=1000000", "-e", NODE]).stdout(Stdio::piped());
        let mut child = node.spawn().expect("node is installed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let told: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let methods = told["methods"].as_array().expect("a list").iter().filter_map(|m| m.as_str().map(str::to_owned)).collect();
        Self { child, port: told["port"].as_u64().and_then(|p| u16::try_from(p).ok()).expect("a port"), methods }
    }
}

impl Node {
    /// It knows a few methods only, and no letters in targets but ASCII. What it does not read it does not read otherwise.
    fn refuses(&self, request: &Request) -> bool {
        !self.methods.contains(&request.method) || !request.target.is_ascii()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// SplitMix64: the same numbers from the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).expect("below a usize")
    }
    fn one<'l, T: ?Sized>(&mut self, list: &[&'l T]) -> &'l T {
        list[self.below(list.len())]
    }
    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}

const METHODS: [&str; 8] = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "M-SEARCH"];
const TARGETS: [&str; 8] = ["/", "/a/b?c=d", "/%20%zz", "/..//.", "http://h.test/abs", "/\"{}|", "/?q=\\^`", "/a;b=c"];
const HEADERS: [&str; 14] = [
    "Accept: */*",
    "X-A: 1",
    "x-b:  two words \t",
    "X-C:",
    "X-D: \u{e4}\u{fc}",
    "Cookie: a=b; c=d",
    "Connection: keep-alive",
    "Connection: X-E",
    "X-E: gone",
    "TE: trailers",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "X-Forwarded-For: 1.2.3.4",
    "Content-Type: text/plain",
];
/// What goes wrong with framing.
const SPOILERS: [&str; 24] = [
    "Content-Length: 5",
    "Content-Length: 0",
    "Content-Length: 1, 1",
    "Content-Length: +4",
    "content-length : 3",
    "Content-Length: 007",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: chunked, chunked",
    "transfer-encoding:\tchunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding: gzip, chunked",
    " folded: yes",
    "Host: other.test",
    "Expect: 100-continue",
    "Expect: x",
    "X\u{0}: y",
    "X: a\rb",
    "X: a\nb: c",
    "no colon",
    ": no name",
    "Transfer_Encoding: chunked",
    "Connection: close",
    "Trailer: X-Sum",
];
const PIECES: [&str; 24] = [
    "\r",
    "\n",
    "\r\n",
    "\r\n\r\n",
    "\0",
    " ",
    "\t",
    ":",
    ";",
    ",",
    "0",
    "1",
    "a",
    "+",
    "-",
    "0x",
    "\u{b}",
    "\u{7f}",
    "\u{ff}",
    "0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: h.test\r\n\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "HTTP/1.1",
];

/// What one client sends: a few requests, most of them spoiled somewhere.
fn conversation(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..=random.below(4) {
        request(random, &mut bytes);
    }
    // A fifth stays as it is.
    for _ in 0..random.below(5) {
        let (at, piece) = (random.below(bytes.len() + 1), random.one(&PIECES));
        match random.below(4) {
            0 => drop(bytes.splice(at..at, piece.bytes())),
            1 => drop(bytes.splice(at..(at + piece.len()).min(bytes.len()), piece.bytes())),
            2 => drop(bytes.drain(at..(at + 1 + random.below(4)).min(bytes.len()))),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
    bytes
}

fn request(random: &mut Random, bytes: &mut Vec<u8>) {
    let version = if random.chance(12) { "HTTP/1.0" } else { "HTTP/1.1" };
    let mut lines = vec!["Host: h.test".to_owned()];
    lines.extend((0..random.below(5)).map(|_| random.one(&HEADERS).to_owned()));
    if random.chance(3) {
        lines.push(random.one(&SPOILERS).to_owned());
    }
    let length = random.below(40);
    let content: Vec<u8> = (0..length).map(|_| *random.one(&[b"a", b"\r", b"\n", b"0", b"G", b" "]).first().unwrap_or(&0)).collect();
    let body = match random.below(4) {
        0 | 1 => Vec::new(),
        2 => {
            lines.push(format!("Content-Length: {length}"));
            content
        }
        _ => {
            lines.push("Transfer-Encoding: chunked".into());
            let mut body = Vec::new();
            for chunk in content.chunks(1 + random.below(20)) {
                let extension = random.one(&["", "", ";a", ";a=b", ";a=\"b c\""]);
                body.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
                body.extend_from_slice(chunk);
                body.extend(b"\r\n");
            }
            body.extend(random.one(&["0\r\n\r\n", "0\r\n\r\n", "000\r\n\r\n", "0;x\r\n\r\n", "0\r\nX-Sum: 1\r\n\r\n"]).bytes());
            body
        }
    };
    let at = random.below(lines.len());
    lines.swap(0, at);
    bytes.extend(format!("{} {} {version}\r\n{}\r\n\r\n", random.one(&METHODS), random.one(&TARGETS), lines.join("\r\n")).bytes());
    bytes.extend(body);
}

/// What is let in, and whether a refusal or a broken body follows.
fn let_in(bytes: &[u8]) -> (Vec<Request>, Option<u16>) {
    let (cleared, status, _) = read(bytes, |_| bytes.len());
    (requests(&bytes[..cleared]), (status != 0).then_some(status))
}

/// Refused for what they mean, not for their form: these are no misreadings.
fn may_be_refused(request: &Request) -> bool {
    let plain = |host: &[u8]| host.eq_ignore_ascii_case(b"h.test") || host.eq_ignore_ascii_case(b"other.test");
    request.headers.iter().any(|(name, value)| (name == "expect" && value != b"100-continue") || (name == "host" && !plain(value)))
}

fn hex(text: &serde_json::Value) -> Vec<u8> {
    let text = text.as_str().expect("text").as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal");
    text.chunks(2).map(pair).collect()
}

/// Whether Node's telling is this very request.
fn is_read_alike(told: &serde_json::Value, request: &Request) -> bool {
    let list: Vec<Vec<u8>> = told["headers"].as_array().expect("a list").iter().map(hex).collect();
    let theirs: Vec<(String, Vec<u8>)> =
        list.chunks(2).map(|pair| (String::from_utf8_lossy(&pair[0]).to_ascii_lowercase(), pair[1].clone())).collect();
    let own = |(name, _): &&(String, Vec<u8>)| name.len() == 3 && name.starts_with("x-");
    let named: Vec<&[u8]> = request.headers.iter().filter(|(n, _)| n == "connection").map(|(_, v)| v.as_slice()).collect();
    let kept = |(name, _): &&(String, Vec<u8>)| {
        !named.iter().any(|v| v.split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(name.as_bytes())))
    };
    let ours: BTreeSet<_> = request.headers.iter().filter(own).filter(kept).collect();
    let absolute = |scheme: &[u8]| {
        let (start, rest) = request.target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then(|| rest.iter().position(|b| *b == b'/').map_or(&b"/"[..], |at| &rest[at..]))
    };
    let target = absolute(b"http://").or_else(|| absolute(b"https://")).unwrap_or(&request.target);
    told["method"].as_str() == Some(request.method.as_str())
        && hex(&told["url"]) == target
        && hex(&told["body"]) == request.body
        && theirs.iter().filter(own).collect::<BTreeSet<_>>() == ours
}

#[test]
fn node_reads_what_we_read() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let (rounds, seed) = (number("DOZEN_FRAMING_ROUNDS").unwrap_or(2_000), number("DOZEN_FRAMING_SEED").unwrap_or(1));
    let node = Node::start();
    let mut stage = Stage::with(Limits { first_byte: Duration::from_secs(5), ..Limits::default() });
    stage.set(ready(&[node.port]));
    let (mut read, mut refusals) = (0, 0);
    for round in 0..rounds {
        let mut random = Random(seed.wrapping_add(round.wrapping_mul(0x1234_5678_9abc_def1)));
        let bytes = conversation(&mut random);
        let (expected, fault) = let_in(&bytes);
        let shown = || format!("round {round} of seed {seed}: {:?}", String::from_utf8_lossy(&bytes));
        let mut client = stage.client();
        client.send(&bytes);
        let mut over = false;
        for request in expected.iter().filter(|r| r.whole) {
            let mut answer = client.answer(request.method == "HEAD");
            while answer.as_ref().is_some_and(|a| a.status() == 100) {
                answer = client.answer(request.method == "HEAD");
            }
            let Some(answer) = answer else { panic!("{}: no answer to {request:?}", shown()) };
            match answer.header("x-told").and_then(|told| serde_json::from_str::<serde_json::Value>(told).ok()) {
                Some(told) => {
                    read += 1;
                    assert_eq!(told["count"].as_u64(), Some(read), "{}: Node read a request that nobody sent", shown());
                    assert!(is_read_alike(&told, request), "{}: {request:?} was read as {told}", shown());
                }
                None => assert!(may_be_refused(request) || node.refuses(request), "{}: {answer:?} to {request:?}", shown()),
            }
            // An old client, or one that asked for it, is spoken with once.
            let connection = |word| answer.header("connection").is_some_and(|v| v.eq_ignore_ascii_case(word));
            over = connection("close") || (answer.first.starts_with("HTTP/1.0") && !connection("keep-alive"));
            if over {
                break;
            }
        }
        if let Some(status) = fault.filter(|_| !over) {
            let mut answer = client.answer(false);
            while answer.as_ref().is_some_and(|a| a.status() == 100) {
                answer = client.answer(false);
            }
            let answer = answer.unwrap_or_else(|| panic!("{}: no refusal", shown()));
            let in_body = expected.last().is_some_and(|r| !r.whole);
            let other = in_body && expected.last().is_some_and(|r| may_be_refused(r) || node.refuses(r));
            assert!(answer.status() == status || other, "{}: {answer:?} and not {status}", shown());
            refusals += 1;
        }
    }
    // What was let in is not little, and neither is what was refused.
    assert!(read > rounds / 4 && refusals > rounds / 8, "{read} read, {refusals} refused");
    assert!(stage.client().ask("GET / HTTP/1.1\r\nHost: h.test\r\n\r\n").text().contains(&format!("\"count\":{},", read + 1)));
}
