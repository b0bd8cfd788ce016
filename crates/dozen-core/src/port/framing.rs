//! Where one request ends and the next begins, in the bytes that a client sends; and what is wrong with them.
//!
//! Two readers that disagree on this can be made to read a request that nobody sent. So the router lets in only what all readers read
//! alike: one form of everything, and no mercy for what is nearly right.
//!
//! **Invariant:** nothing is cleared of a request whose head is not whole and strict.
//! **Invariant:** how the bytes are cut into pieces changes nothing.

mod chunks;
mod head;

use chunks::Chunks;
use head::Head;

/// A request line or a header longer than this is refused (contract, section 9).
pub const MAX_LINE: usize = 8 * 1024;
/// So many headers.
pub const MAX_HEADERS: usize = 1_000;
/// So many bytes of a head.
pub const MAX_HEAD: usize = 256 * 1024;

/// Follows the bytes of one connection, request after request.
#[derive(Debug, Default)]
pub struct Framing {
    stage: Stage,
    head: Head,
    heads: u64,
    turn: bool,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Head,
    /// So many bytes of a body are still to come.
    Length(u64),
    Chunks(Chunks),
    /// The client asked for another protocol; what it says next depends on the answer.
    Turn,
}

/// What was found in some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// So many of them are fit to be read by anybody. The rest is to be shown again, with what comes after it.
    pub cleared: usize,
    /// Why not all are.
    pub stop: Stop,
}

/// Where a [`Scan`] came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// At the end of the bytes, or at a head that is not whole.
    More,
    /// Behind a request for another protocol: [`Framing::stay`], or read no further.
    Turn,
    /// At a head that is refused.
    Head(Fault),
    /// Within a body whose head was cleared.
    Body(Fault),
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
    /// Reads on. `bytes` begin with what the last scan did not clear. After a fault nothing more may be read.
    pub fn read(&mut self, bytes: &[u8]) -> Scan {
        let mut at = 0;
        let stop = loop {
            let rest = &bytes[at..];
            match &mut self.stage {
                Stage::Turn => break Stop::Turn,
                _ if rest.is_empty() => break Stop::More,
                Stage::Head => match self.head.read(rest) {
                    Ok(None) => break Stop::More,
                    Ok(Some((length, body))) => {
                        at += length;
                        self.heads += 1;
                        self.turn = self.head.wants_turn();
                        self.head = Head::default();
                        self.stage = match body {
                            head::Body::None => self.after(),
                            head::Body::Length(length) => Stage::Length(length),
                            head::Body::Chunks => Stage::Chunks(Chunks::default()),
                        };
                    }
                    Err(fault) => break Stop::Head(fault),
                },
                Stage::Length(left) => {
                    let there = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    at += there;
                    *left -= there as u64;
                    if *left == 0 {
                        self.stage = self.after();
                    }
                }
                Stage::Chunks(chunks) => match chunks.read(rest) {
                    Ok((read, true)) => {
                        at += read;
                        self.stage = self.after();
                    }
                    Ok((read, false)) => {
                        at += read;
                        break Stop::More;
                    }
                    Err((read, fault)) => {
                        at += read;
                        break Stop::Body(fault);
                    }
                },
            }
        };
        Scan { cleared: at, stop }
    }

    fn after(&self) -> Stage {
        if self.turn { Stage::Turn } else { Stage::Head }
    }

    /// The client did not get the protocol that it asked for: it goes on in this one.
    pub fn stay(&mut self) {
        if matches!(self.stage, Stage::Turn) {
            self.stage = Stage::Head;
        }
    }

    /// So many heads were cleared.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether the last head that was cleared asks for another protocol.
    pub fn turns(&self) -> bool {
        self.turn
    }

    /// Whether a body is being read.
    pub fn in_body(&self) -> bool {
        matches!(self.stage, Stage::Length(_) | Stage::Chunks(_))
    }

    /// What `bytes`, which begin with the head that was refused, tell of their request.
    pub fn about(&self, bytes: &[u8]) -> About {
        self.head.about(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a scan of the whole says: how much is cleared, and the status of the fault, if there is one.
    fn scan(bytes: &[u8]) -> (usize, u16) {
        let whole = Framing::default().read(bytes);
        // Byte by byte it is the same.
        let (mut framing, mut begin, mut last) = (Framing::default(), 0, Stop::More);
        for end in 1..=bytes.len() {
            let step = framing.read(&bytes[begin..end]);
            begin += step.cleared;
            last = step.stop;
            if matches!(last, Stop::Head(_) | Stop::Body(_)) {
                break;
            }
        }
        let status = |stop| match stop {
            Stop::Head(fault) | Stop::Body(fault) => fault.status,
            Stop::More | Stop::Turn => 0,
        };
        let shown = String::from_utf8_lossy(bytes);
        let shown = shown.get(..200).unwrap_or(&shown);
        assert_eq!(status(last), status(whole.stop), "{shown:?} in pieces: {last:?}, {whole:?}");
        assert_eq!(begin, whole.cleared, "{shown:?} in pieces");
        (whole.cleared, status(whole.stop))
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
        assert_eq!(Framing::default().read(many.as_bytes()).stop, Stop::Head(Fault { status: 431, why: "too many headers" }));
        let wide = head(&format!("X: {}\r\n", "a".repeat(8_000)).repeat(33));
        assert!(matches!(Framing::default().read(wide.as_bytes()).stop, Stop::Head(Fault { status: 431, .. })));
    }

    #[test]
    fn behind_a_turn_nothing_is_read() {
        let asks = head("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n");
        let both = format!("{asks}\x01\x02");
        let mut framing = Framing::default();
        assert_eq!(framing.read(both.as_bytes()), Scan { cleared: asks.len(), stop: Stop::Turn });
        framing.stay();
        assert!(matches!(framing.read(b"\x01\x02\r\n").stop, Stop::Head(_)));
        passes(&(head("Upgrade: websocket\r\n") + &head("")));
        passes(&(head("Connection: upgrade\r\n") + &head("")));
    }

    #[test]
    fn of_a_refused_request_is_told_what_can_be() {
        let text = b"GET /x HTTP/1.1\r\nBad : 1\r\nhost: shop.test\r\n\r\n";
        let mut framing = Framing::default();
        assert!(matches!(framing.read(text).stop, Stop::Head(_)));
        let about = About { method: "GET".into(), target: "/x".into(), host: "shop.test".into() };
        assert_eq!(framing.about(text), about);
        let mut framing = Framing::default();
        assert!(matches!(framing.read(b"\x00\r\n").stop, Stop::Head(_)));
        assert_eq!(framing.about(b"\x00\r\n"), About::default());
    }
}
