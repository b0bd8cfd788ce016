//! The heads of requests and answers: what is refused, what ends here, what is added. Looks at nothing else.

use super::{Client, Core};
use crate::port::fields::{Field, Fields, Kind};
use crate::port::log::{Record, number};
use crate::port::manners::{self, Came};
use crate::port::pages::{Code, Refusal};
use crate::port::tls::Shown;
use crate::port::upstream::{Answer, Rest};
use dozen_core::port::framing::{Fault, Framing};
use http::{HeaderMap, Method, StatusCode};
use std::borrow::Cow;
use std::cell::RefCell;

/// What an instance is told besides, mostly.
const ROOM: usize = 512;
/// A request id of the client's own is kept up to this length.
const MAX_REQUEST_ID: usize = 200;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// HTTP/1.0.
    Old,
    One,
    Two,
}

/// How the body of a request comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// There is none.
    None,
    /// Its length is in a header.
    Known,
    /// It ends where it ends.
    Unknown,
}

/// A request's head, of whichever protocol.
pub(super) struct Ask {
    pub(super) version: Version,
    pub(super) method: Method,
    /// The host and port of its target, where that has them.
    pub(super) authority: Option<String>,
    pub(super) fields: Fields,
    pub(super) length: Length,
}

impl Ask {
    /// The protocol that the client would change to. Not HTTP/2: what a client then says would pass every check here unseen. And not behind a
    /// body, of which a part may be on its way when the other protocol begins: any server may leave that wish alone (RFC 9110, 7.8).
    pub(super) fn upgrade(&self) -> Option<&[u8]> {
        let protocol = self.fields.get(Kind::Upgrade)?;
        let asked = self.version == Version::One && self.length == Length::None && self.fields.lists(Kind::Connection, "upgrade");
        let http2 = self.fields.tokens(Kind::Upgrade).any(|t| t.get(..2).is_some_and(|two| two.eq_ignore_ascii_case(b"h2")));
        (asked && !http2).then_some(protocol)
    }
}

fn refuse(status: StatusCode) -> Refusal {
    Refusal { code: Code::H26, status }
}

/// The host that a request is for: its target's in absolute form, else its `Host`. Exactly one, of characters that names and addresses have.
pub(super) fn target_host(ask: &Ask) -> Result<&str, Refusal> {
    let bad = Err(refuse(StatusCode::BAD_REQUEST));
    let mut hosts = ask.fields.all(Kind::Host);
    let header = hosts.next();
    if hosts.next().is_some() {
        return bad;
    }
    let host = match (&ask.authority, header) {
        // Where both are sent they must be the same (RFC 9113, 8.3.1).
        (Some(authority), Some(header)) if !header.eq_ignore_ascii_case(authority.as_bytes()) => return bad,
        (Some(authority), _) => authority.as_str(),
        (None, Some(header)) => match std::str::from_utf8(header) {
            Ok(host) => host,
            Err(_) => return bad,
        },
        (None, None) if ask.version == Version::Old => "",
        (None, None) => return bad,
    };
    if !is_host(host) {
        return bad;
    }
    Ok(host)
}

/// Whether this is a name or an address, with or without a port; or nothing, which is allowed where there is no name.
pub(super) fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((six, port)) if six.parse::<std::net::Ipv6Addr>().is_ok() => ("", port),
            _ => return false,
        },
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let number = |port: &str| port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
    host.len() <= 255 && name.bytes().all(plain) && (port.is_empty() || port.strip_prefix(':').is_some_and(number))
}

/// Looks at what came by HTTP/2 as if it had come by HTTP/1, and keeps its room for that.
#[derive(Default)]
pub(in crate::port) struct Strict {
    head: Vec<u8>,
    framing: Framing,
}

impl Strict {
    /// What an instance is to be sent is as strict as if it had come so.
    fn check(&mut self, ask: &Ask, target: &str, host: &str) -> Result<(), Fault> {
        self.head.clear();
        for part in [ask.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            self.head.extend_from_slice(part.as_bytes());
        }
        if !ask.fields.has(Kind::Host) {
            line(&mut self.head, b"host", host.as_bytes());
        }
        self.head.extend_from_slice(ask.fields.text());
        self.head.extend_from_slice(b"\r\n");
        let fault = match self.framing.head(&self.head) {
            Ok(Some(length)) if length == self.head.len() => return Ok(()),
            Ok(_) => Fault { status: 400, why: "the head ends where it does not" },
            Err(fault) => fault,
        };
        // What has found a fault reads no further; and a large head is rare.
        *self = Self::default();
        Err(fault)
    }
}

/// What is refused whatever it is led to; `shown` is the certificate that the client asked for.
pub(super) fn check(
    strict: &RefCell<Strict>,
    ask: &Ask,
    target: &str,
    shown: Option<&Shown>,
    host: &str,
) -> Result<(), (Refusal, Option<&'static str>)> {
    // One that is for several hosts may be used for all of them (RFC 9113, 9.1.1); the client has seen no proof of any other.
    if shown.is_some_and(|shown| !shown.is_for(host)) {
        return Err((Code::H31.into(), None));
    }
    if ask.version == Version::Two
        && let Err(Fault { status, why }) = strict.borrow_mut().check(ask, target, host)
    {
        return Err((refuse(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST)), Some(why)));
    }
    if ask.fields.all(Kind::Expect).any(|e| !e.eq_ignore_ascii_case(b"100-continue")) {
        return Err((refuse(StatusCode::EXPECTATION_FAILED), Some("nothing can be expected but 100-continue")));
    }
    Ok(())
}

/// Headers between two neighbours end here, and those that a neighbour names with them.
struct Hop<'f> {
    named: Vec<&'f [u8]>,
}

impl<'f> Hop<'f> {
    fn of(fields: &'f Fields) -> Self {
        // A client cannot have what frames or routes its request taken out by naming it.
        let kept = [&b"content-length"[..], b"host", b"keep-alive", b"close", b"te", b"upgrade"];
        let named = fields.tokens(Kind::Connection).filter(|token| !kept.iter().any(|kept| kept.eq_ignore_ascii_case(token))).collect();
        Self { named }
    }

    fn ends(&self, field: &Field<'_>) -> bool {
        let between = matches!(field.kind, Kind::Connection | Kind::KeepAlive | Kind::Te | Kind::TransferEncoding | Kind::Upgrade);
        between || self.named.iter().any(|name| field.name.eq_ignore_ascii_case(name))
    }
}

pub(super) fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Writes the head that an instance is sent.
pub(super) fn write_request(out: &mut Vec<u8>, core: &Core, ask: &Ask, client: &Client, record: &Record) {
    let Ask { version, method, fields, .. } = ask;
    let upgrade = ask.upgrade();
    let trusted = client.is_trusted(record);
    let hop = Hop::of(fields);
    let now = || core.journal.micros(record.begun).max(0).unsigned_abs() / 1_000;
    let Came { proto, port, start, chain } = manners::came(fields, client.scheme(), &client.port, client.peer, trusted, now);

    out.reserve(fields.text().len() + record.forwarded().len() + ROOM);
    for part in [method.as_str(), " ", record.path(), " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    // The absolute form's host counts, and the instance gets the usual form.
    let host = match (&ask.authority, fields.get(Kind::Host)) {
        (Some(_), _) => record.host().as_bytes(),
        (None, host) => host.unwrap_or(b"localhost"),
    };
    line(out, b"host", host);
    fields.write(out, |field| match field.kind {
        _ if hop.ends(field) => false,
        Kind::Expect | Kind::Host | Kind::ProxyAuthorization | Kind::ForwardedFor | Kind::RequestId => false,
        Kind::ForwardedProto => proto.is_none(),
        Kind::ForwardedPort => port.is_none(),
        Kind::RequestStart => start.is_none(),
        Kind::Forwarded => trusted,
        _ => true,
    });
    if ask.length == Length::Unknown {
        line(out, b"transfer-encoding", b"chunked");
    }
    if let Some(protocol) = upgrade {
        line(out, b"connection", b"upgrade");
        line(out, b"upgrade", protocol);
    } else if fields.lists(Kind::Te, "trailers") {
        line(out, b"te", b"trailers");
        line(out, b"connection", b"te");
    }
    line(out, b"x-forwarded-for", record.forwarded().as_bytes());
    for (name, value) in [(&b"x-forwarded-proto"[..], proto), (b"x-forwarded-port", port), (b"forwarded", chain.as_deref())] {
        if let Some(value) = value {
            line(out, name, value.as_bytes());
        }
    }
    if let Some(start) = start {
        out.extend_from_slice(b"x-request-start: ");
        number(out, start.into());
        out.extend_from_slice(b"\r\n");
    }
    line(out, b"x-request-id", record.request_id().as_bytes());
    let via: &[u8] = match version {
        Version::Old => b"1.0 dozen",
        Version::One => b"1.1 dozen",
        Version::Two => b"2.0 dozen",
    };
    line(out, b"via", via);
    out.extend_from_slice(b"\r\n");
}

/// Which headers of an instance's answer a client is told; not what frames it in HTTP/1. To be asked of all in their order.
pub(super) fn told(answer: &Answer) -> impl FnMut(&Field<'_>) -> bool {
    let hop = Hop::of(&answer.fields);
    // Of a length that is said twice once is enough; and none is said of what has none (RFC 9110, 8.6).
    let mut lengths = u32::from(answer.status == StatusCode::NO_CONTENT);
    let mut chunks = answer.fields.lists(Kind::TransferEncoding, "chunked");
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        (lengths, chunks) = (1, true);
    }
    move |field| match field.kind {
        Kind::ProxyAuthenticate => false,
        Kind::ContentLength => {
            lengths += 1;
            lengths == 1 && !chunks
        }
        _ => !hop.ends(field),
    }
}

/// How a client of HTTP/1 is told where an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// As its headers say.
    Said,
    InChunks,
    /// With the connection.
    WithConnection,
}

impl Ends {
    pub(super) fn of(rest: Rest, version: Version) -> Self {
        match rest {
            Rest::None | Rest::Length(_) => Self::Said,
            Rest::Chunks(_) | Rest::Close if version == Version::Old => Self::WithConnection,
            Rest::Chunks(_) | Rest::Close => Self::InChunks,
        }
    }
}

/// Writes the first line of an answer, in the version that the client speaks: some old ones read no other.
pub(super) fn status_line(out: &mut Vec<u8>, version: Version, status: StatusCode, reason: &[u8]) {
    let reason = if reason.is_empty() { status.canonical_reason().unwrap_or_default().as_bytes() } else { reason };
    let version: &[u8] = if version == Version::Old { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
    for part in [version, status.as_str().as_bytes(), b" ", reason, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// The headers of an answer of the router's own.
pub(super) fn own(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        line(out, name.as_str().as_bytes(), value.as_bytes());
    }
}

/// The client's own id, where it is one that is safe anywhere; else a random one in the shape of a UUID, for which there is `room`.
pub(super) fn request_id<'i>(fields: &'i Fields, room: &'i mut [u8; 36]) -> &'i str {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'=' | b'+' | b'/' | b'.');
    let own = fields.get(Kind::RequestId).and_then(|v| std::str::from_utf8(v).ok());
    if let Some(own) = own.filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(plain)) {
        return own;
    }
    let n: u128 = (rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let mut at = 0;
    for (place, byte) in n.to_be_bytes().into_iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            room[at] = b'-';
            at += 1;
        }
        for digit in [byte >> 4, byte & 15] {
            room[at] = b"0123456789abcdef"[usize::from(digit)];
            at += 1;
        }
    }
    std::str::from_utf8(room).unwrap_or_default()
}

/// What came in `X-Forwarded-For`, and this client's address after it.
pub(super) fn forwarded<'f>(fields: &Fields, address: &'f str) -> Cow<'f, str> {
    let mut values = fields.all(Kind::ForwardedFor).filter_map(|v| std::str::from_utf8(v).ok()).peekable();
    if values.peek().is_none() {
        return address.into();
    }
    let mut out = String::new();
    for value in values {
        out.push_str(value.trim());
        out.push_str(", ");
    }
    out.push_str(address);
    out.into()
}
