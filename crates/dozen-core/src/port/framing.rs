//! Where one request ends and the next begins, in the bytes that a client sends; and what is wrong with them.
//!
//! Two readers that disagree on this can be made to read a request that nobody sent. So the router lets in only what all readers read
//! alike: one form of everything, and no mercy for what is nearly right.
//!
//! **Invariant:** nothing is read of a request whose head is not whole and strict.
//! **Invariant:** how the bytes are cut into pieces changes nothing.

mod chunks;
mod head;

use chunks::Chunks;
pub use chunks::may_trail;
use head::Head;
use std::ops::Range;

/// A request line or a header longer than this is refused (contract, section 9).
pub const MAX_LINE: usize = 8 * 1024;
/// So many headers.
pub const MAX_HEADERS: usize = 1_000;
/// So many bytes of a head.
pub const MAX_HEAD: usize = 256 * 1024;

/// Follows the bytes of one connection: a head, its body, the next head.
#[derive(Debug, Default)]
pub struct Framing {
    head: Head,
    stage: Stage,
    heads: u64,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Head,
    /// So many bytes of a body are still to come.
    Length(u64),
    Chunks(Chunks),
}

/// A part of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'b> {
    /// Some of its bytes.
    Data(&'b [u8]),
    /// A trailer without its end of line.
    Trailer(&'b [u8]),
}

/// Where a header is, from the head's first byte on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where its line begins, and with it its name.
    pub begin: u32,
    /// Bytes of the name.
    pub name: u16,
    /// Where the value begins, without the blanks before it.
    pub value: u32,
    /// Where it ends, without the blanks behind it.
    pub end: u32,
}

/// What is wrong, and the status that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// 400, 405, 414, 431, 501 or 505.
    pub status: u16,
    /// For people.
    pub why: &'static str,
}

impl Fault {
    const fn bad(why: &'static str) -> Self {
        Self { status: 400, why }
    }
}

/// What can be told of a request that was refused: empty where it is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// `GET`
    pub method: String,
    /// `/path`
    pub target: String,
    /// `shop.test`
    pub host: String,
}

impl Framing {
    /// Reads on in a head, of which `bytes` begin with the first byte: its length where it is whole, and nothing of it is fit to be read
    /// before. After a fault nothing more may be read.
    pub fn head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        if self.head.is_whole() {
            self.head.clear();
        }
        let Some((length, body)) = self.head.read(bytes)? else { return Ok(None) };
        self.heads += 1;
        self.stage = match body {
            head::Body::None => Stage::Head,
            head::Body::Length(length) => Stage::Length(length),
            head::Body::Chunks => Stage::Chunks(Chunks::default()),
        };
        Ok(Some(length))
    }

    /// Reads on in the body of the head that was read last, part by part: how much was read, and whether the body is over. A fault comes with
    /// how much was read before it.
    pub fn body<'b>(&mut self, bytes: &'b [u8], mut part: impl FnMut(Part<'b>)) -> Result<(usize, bool), (usize, Fault)> {
        let read = match &mut self.stage {
            Stage::Head => (0, true),
            Stage::Length(left) => {
                let there = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= there as u64;
                if there > 0 {
                    part(Part::Data(&bytes[..there]));
                }
                (there, *left == 0)
            }
            Stage::Chunks(chunks) => chunks.read(bytes, part)?,
        };
        if read.1 {
            self.stage = Stage::Head;
        }
        Ok(read)
    }

    /// So many heads were read whole.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether a body is being read.
    pub fn in_body(&self) -> bool {
        !matches!(self.stage, Stage::Head)
    }

    /// Of the last head: whether its body comes in chunks.
    pub fn in_chunks(&self) -> bool {
        matches!(self.stage, Stage::Chunks(_))
    }

    /// Of the last head: whether it asks for another protocol, at least where the router would grant it.
    pub fn turns(&self) -> bool {
        self.head.wants_turn()
    }

    /// Of the last head: whether it is of HTTP/1.0.
    pub fn is_old(&self) -> bool {
        self.head.is_old()
    }

    /// Of the last head: where its method and its target are.
    pub fn line(&self) -> (Range<usize>, Range<usize>) {
        self.head.line()
    }

    /// Of the last head: where its headers are. They are taken.
    pub fn places(&mut self, places: &mut Vec<Place>) {
        self.head.places(places);
    }

    /// What `bytes`, which begin with the head that was refused, tell of their request.
    pub fn about(&self, bytes: &[u8]) -> About {
        self.head.about(bytes)
    }
}

/// The path and the query of a target in either form: `/x?y` of `http://host/x?y`.
pub fn path(target: &str) -> &str {
    match head::authority(target.as_bytes()) {
        Some(authority) => {
            let begin = target.find("://").map_or(0, |place| place + 3) + authority.len();
            target.get(begin..).filter(|path| !path.is_empty()).unwrap_or("/")
        }
        None => target,
    }
}

/// The host of a target in absolute form: `host:80` of `http://host:80/x`.
pub fn authority(target: &str) -> Option<&str> {
    head::authority(target.as_bytes()).and_then(|authority| std::str::from_utf8(authority).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads what comes in pieces: how much was fit to be read, and the status of the fault, if there is one.
    fn read(bytes: &[u8], piece: usize) -> (usize, u16) {
        let (mut framing, mut begin, mut end) = (Framing::default(), 0, 0);
        loop {
            let rest = &bytes[begin..end];
            let step = if framing.in_body() {
                framing.body(rest, |_| ()).map(|(read, over)| (read, over || read > 0))
            } else if rest.is_empty() {
                Ok((0, false))
            } else {
                framing.head(rest).map(|length| (length.unwrap_or(0), length.is_some())).map_err(|fault| (0, fault))
            };
            match step {
                Ok((read, true)) => begin += read,
                Ok((_, false)) if end == bytes.len() => return (begin, 0),
                Ok((_, false)) => end = bytes.len().min(end + piece),
                Err((read, fault)) => return (begin + read, fault.status),
            }
        }
    }

    /// What is read of the whole, and byte by byte it is the same.
    fn scan(bytes: &[u8]) -> (usize, u16) {
        let whole = read(bytes, bytes.len());
        let shown = String::from_utf8_lossy(bytes);
        assert_eq!(read(bytes, 1), whole, "{:?} in pieces", shown.get(..200).unwrap_or(&shown));
        whole
    }

    fn passes(text: &str) {
        assert_eq!(scan(text.as_bytes()), (text.len(), 0), "{text:?}");
    }

    /// Nothing of it is cleared.
    fn refused(text: &str, status: u16) {
        assert_eq!(scan(text.as_bytes()), (0, status), "{text:?}");
    }

    /// The head `POST / HTTP/1.1`, `Host: h` and these.
    fn head(lines: &str) -> String {
        format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n")
    }

    #[test]
    fn what_is_strict_passes() {
        for text in [
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /?a=b&c=%20 HTTP/1.1\r\nhOST:\th \t\r\nX:\r\nY: \u{e4}\t.\r\n\r\n",
            "GET http://h/x HTTP/1.1\r\nHost: H\r\n\r\n",
            "GET http://h HTTP/1.0\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /\u{e4}\"{}|?`\u{e4} HTTP/1.1\r\nHost: h\r\n\r\n",
        ] {
            passes(text);
        }
        passes(&(head("Content-Length: 3\r\n") + "abc" + &head("Content-Length: 0\r\n")));
        passes(&(head("transfer-encoding: Chunked\r\n") + "3\r\nabc\r\n0a;x=\"y z\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n" + &head("")));
    }

    #[test]
    fn a_line_is_a_request_line_or_refused() {
        for line in [
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "GET /",
            "GET",
            "GET / ",
            "G(T / HTTP/1.1",
            "GET / a HTTP/1.1",
            "GET\t/ HTTP/1.1",
            "GET /\u{1} HTTP/1.1",
            "GET /#f HTTP/1.1",
            "GET /< HTTP/1.1",
            "GET /` HTTP/1.1",
            "GET /?\" HTTP/1.1",
            "GET x HTTP/1.1",
            "GET h:80 HTTP/1.1",
            "GET * HTTP/1.1",
            "GET http://i/ HTTP/1.1",
            "GET http://u@h/ HTTP/1.1",
            "GET ftp://h/ HTTP/1.1",
            "GET http:/// HTTP/1.1",
            "GET / http/1.1",
            "GET / HTTP/1.1a",
            "GET / HTTP/1",
            "GET / HTTP/1.",
            "GET / HTTP/ 1.1",
            "GET / HTTP/11",
            "GET / HTTP/-1.1",
            "GET /\r HTTP/1.1",
        ] {
            refused(&format!("{line}\r\nHost: h\r\n\r\n"), 400);
        }
        for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "HTTP/9.9"] {
            refused(&format!("GET / {version}\r\nHost: h\r\n\r\n"), 505);
        }
        refused("CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", 405);
        refused("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400);
        refused("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400);
        refused("GET / HTTP/1.1\nHost: h\r\n\r\n", 400);
    }

    #[test]
    fn a_header_is_one_or_refused() {
        for lines in [
            "X : y\r\n",
            ": y\r\n",
            "X\r\n",
            " X: y\r\n",
            "A: b\r\n c\r\n",
            "A: b\r\n\tc\r\n",
            "X\u{0}: y\r\n",
            "X: \u{0}\r\n",
            "X: \u{7f}\r\n",
            "X: a\rb\r\n",
            "X: a\nb: c\r\n",
            "X: a\r\r\n",
            "X(: a\r\n",
            "X\u{e4}: a\r\n",
            "Host: h\r\n",
            "X: \u{b}y\r\n",
        ] {
            refused(&head(lines), 400);
        }
        refused("GET / HTTP/1.1\r\n\r\n", 400);
        refused("GET / HTTP/1.1\r\nHost: h\r\n\n", 400);
        refused("GET / HTTP/1.1\r\nHost: h\r\nX: y\n\r\n", 400);
        refused("GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400);
    }

    #[test]
    fn a_length_is_one_plain_number() {
        for value in ["", "+1", "-1", "1, 1", "1 1", "0x1", "1_0", "1.0", "a", "01", "9223372036854775808", "99999999999999999999999", "1;"]
        {
            refused(&head(&format!("Content-Length: {value}\r\n")), 400);
        }
        refused(&head("Content-Length: 1\r\nContent-Length: 1\r\n"), 400);
        refused(&head("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400);
        refused(&head("Content_Length: 1\r\n"), 400);
    }

    #[test]
    fn a_coding_is_chunked_alone() {
        for value in
            ["", "identity", "chunked, identity", "chunked, chunked", "xchunked", "chunked;q=1", "\"chunked\"", "chunked,", ",chunked"]
        {
            refused(&head(&format!("Transfer-Encoding: {value}\r\n")), 400);
        }
        refused(&head("Transfer-Encoding: gzip, chunked\r\n"), 501);
        refused(&head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400);
        refused(&head("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"), 400);
        refused(&head("Transfer_Encoding: chunked\r\n"), 400);
        refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
    }

    #[test]
    fn a_bad_chunk_breaks_the_body_and_what_went_before_is_cleared() {
        let open = head("Transfer-Encoding: chunked\r\n");
        for (good, bad) in [
            ("", "g\r\n"),
            ("", "\r\n"),
            ("", " 3\r\n"),
            ("3", " \r\nabc"),
            ("", "+3\r\n"),
            ("", "-3\r\n"),
            ("0", "x3\r\n"),
            ("3", "\nabc"),
            ("3\r", "abc"),
            ("0000000000000000", "0\r\n"),
            ("f", "fffffffffffffff\r\n"),
            ("3\r\nabc", "0\r\n"),
            ("3\r\nabc", "\n0\r\n"),
            ("3\r\nabc\r", "0\r\n"),
            ("3;a", "\u{1}\r\nabc"),
            ("3;a", "\nabc"),
            ("3;a\r", "x"),
            ("0\r\n", "\n"),
            ("0\r\n\r", "x"),
        ] {
            let bytes = format!("{open}{good}{bad}");
            let (cleared, status) = scan(bytes.as_bytes());
            assert!(status == 400 && (open.len()..=open.len() + good.len() + 16).contains(&cleared), "{bytes:?}: {cleared} {status}");
        }
        for trailer in [
            "Content-Length: 1\r\n",
            "transfer-encoding: chunked\r\n",
            "HOST: x\r\n",
            "X : y\r\n",
            " X: y\r\n",
            "X: a\r b\r\n",
            "X\r\n",
            "X: a\n",
            "X-Forwarded-For: 1.1.1.1\r\n",
        ] {
            let bytes = format!("{open}0\r\n{trailer}\r\n");
            let (cleared, status) = scan(bytes.as_bytes());
            assert!(status == 400 && cleared < bytes.len() - 2, "{bytes:?}: {cleared} {status}");
        }
        let long = format!("{open}1;{}\r\n", "x".repeat(20_000));
        assert_eq!(scan(long.as_bytes()).1, 400);
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_ends() {
        let long = "a".repeat(MAX_LINE);
        refused(&format!("GET /{long}"), 414);
        refused(&head(&format!("X: {long}\r\n")), 431);
        refused(&format!("GET / HTTP/1.1\r\nHost: h\r\nX: {long}"), 431);
        let many = head(&"X: y\r\n".repeat(MAX_HEADERS));
        assert_eq!(Framing::default().head(many.as_bytes()), Err(Fault { status: 431, why: "too many headers" }));
        let wide = head(&format!("X: {}\r\n", "a".repeat(8_000)).repeat(33));
        assert!(matches!(Framing::default().head(wide.as_bytes()), Err(Fault { status: 431, .. })));
    }

    #[test]
    fn connection_names_a_few() {
        passes(&head(&format!("Connection: {}x\r\n", "x,".repeat(99))));
        refused(&head(&format!("Connection: {}x\r\n", "x,".repeat(100))), 400);
        refused(&head(&"connection: x\r\n".repeat(101)), 400);
    }

    #[test]
    fn a_turn_is_asked_for_by_two_headers() {
        let turns = |lines: &str| {
            let mut framing = Framing::default();
            assert!(framing.head(head(lines).as_bytes()).expect("strict").is_some());
            framing.turns()
        };
        assert!(turns("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"));
        assert!(!turns("Upgrade: websocket\r\n") && !turns("Connection: upgrade\r\n"));
    }

    #[test]
    fn a_head_tells_where_its_parts_are() {
        let text = "\r\nGET http://h:1/x?y HTTP/1.0\r\nHost:h:1\r\nX:  a b \t\r\nY:\r\n\r\nGET /z HTTP/1.1\r\nHost: h\r\n\r\n";
        let (mut framing, mut places) = (Framing::default(), Vec::new());
        let length = framing.head(text.as_bytes()).expect("strict").expect("whole");
        framing.places(&mut places);
        let (method, target) = framing.line();
        assert_eq!((&text[method], &text[target.clone()], framing.is_old()), ("GET", "http://h:1/x?y", true));
        assert_eq!((path(&text[target.clone()]), authority(&text[target])), ("/x?y", Some("h:1")));
        assert_eq!((path("http://h"), path("/x"), path("*"), authority("/x")), ("/", "/x", "*", None));
        let at = |from: u32, to: u32| &text[from as usize..to as usize];
        let fields: Vec<_> = places.iter().map(|p| (at(p.begin, p.begin + u32::from(p.name)), at(p.value, p.end))).collect();
        assert_eq!(fields, [("Host", "h:1"), ("X", "a b"), ("Y", "")]);
        let next = &text[length..];
        assert_eq!(framing.head(next.as_bytes()), Ok(Some(next.len())));
        framing.places(&mut places);
        assert_eq!((&next[framing.line().1], framing.is_old(), places.len(), framing.heads()), ("/z", false, 1, 2));
    }

    #[test]
    fn a_body_comes_in_parts() {
        let text = head("Transfer-Encoding: chunked\r\n") + "3;x\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\nrest";
        let mut framing = Framing::default();
        let length = framing.head(text.as_bytes()).expect("strict").expect("whole");
        assert!(framing.in_body() && framing.in_chunks());
        let mut parts = Vec::new();
        let (read, over) = framing.body(&text.as_bytes()[length..], |part| parts.push(part)).expect("strict");
        assert_eq!((&text[length + read..], over, framing.in_body()), ("rest", true, false));
        assert_eq!(parts, [Part::Data(b"abc"), Part::Data(b"de"), Part::Trailer(b"X-Sum: 1")]);
    }

    #[test]
    fn of_a_refused_request_is_told_what_can_be() {
        let text = b"GET /x HTTP/1.1\r\nBad : 1\r\nhost: shop.test\r\n\r\n";
        let mut framing = Framing::default();
        assert!(framing.head(text).is_err());
        let about = About { method: "GET".into(), target: "/x".into(), host: "shop.test".into() };
        assert_eq!(framing.about(text), about);
        let mut framing = Framing::default();
        assert!(framing.head(b"\x00\r\n").is_err());
        assert_eq!(framing.about(b"\x00\r\n"), About::default());
    }
}
