//! The headers of a message as they came, for both protocols that clients speak: bytes, and where each header is in them.

use dozen_core::port::framing::Place;
use http::{HeaderMap, header};

/// Headers in their order. Names are in any case.
#[derive(Debug, Default)]
pub(super) struct Fields {
    text: Vec<u8>,
    places: Vec<Place>,
    /// One of each place.
    kinds: Vec<Kind>,
    /// Those that are there, a bit for each: most questions are about headers that are not.
    there: u32,
}

/// What a header is to the router. Most are nothing to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Other,
    Accept,
    Connection,
    ContentLength,
    Cookie,
    Date,
    Expect,
    Forwarded,
    ForwardedFor,
    ForwardedPort,
    ForwardedProto,
    Host,
    /// Of older clients, between two neighbours only.
    KeepAlive,
    ProxyAuthenticate,
    ProxyAuthorization,
    RequestId,
    RequestStart,
    StrictTransportSecurity,
    Te,
    TransferEncoding,
    Upgrade,
}

impl Kind {
    fn of(name: &[u8]) -> Self {
        let (known, kind): (&[u8], Self) = match name.len() {
            2 => (b"te", Self::Te),
            4 if name[0] | 0x20 == b'h' => (b"host", Self::Host),
            4 => (b"date", Self::Date),
            6 => match name[0] | 0x20 {
                b'a' => (b"accept", Self::Accept),
                b'c' => (b"cookie", Self::Cookie),
                _ => (b"expect", Self::Expect),
            },
            7 => (b"upgrade", Self::Upgrade),
            9 => (b"forwarded", Self::Forwarded),
            10 if name[0] | 0x20 == b'c' => (b"connection", Self::Connection),
            10 => (b"keep-alive", Self::KeepAlive),
            12 => (b"x-request-id", Self::RequestId),
            14 => (b"content-length", Self::ContentLength),
            15 if name[2] | 0x20 == b'f' => (b"x-forwarded-for", Self::ForwardedFor),
            15 => (b"x-request-start", Self::RequestStart),
            16 if name[0] | 0x20 == b'x' => (b"x-forwarded-port", Self::ForwardedPort),
            16 => (b"proxy-connection", Self::KeepAlive),
            17 if name[0] | 0x20 == b'x' => (b"x-forwarded-proto", Self::ForwardedProto),
            17 => (b"transfer-encoding", Self::TransferEncoding),
            18 => (b"proxy-authenticate", Self::ProxyAuthenticate),
            19 => (b"proxy-authorization", Self::ProxyAuthorization),
            25 => (b"strict-transport-security", Self::StrictTransportSecurity),
            _ => return Self::Other,
        };
        if name.eq_ignore_ascii_case(known) { kind } else { Self::Other }
    }

    fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// One header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'f> {
    pub(super) kind: Kind,
    pub(super) name: &'f [u8],
    pub(super) value: &'f [u8],
}

impl Fields {
    /// Takes the headers of a head, in place of those that it had; `places` says where they are in it.
    pub(super) fn take(&mut self, head: &[u8], places: impl FnOnce(&mut Vec<Place>)) {
        self.clear();
        self.text.extend_from_slice(head);
        places(&mut self.places);
        for place in &self.places {
            let begin = place.begin as usize;
            let kind = Kind::of(self.text.get(begin..begin + usize::from(place.name)).unwrap_or_default());
            self.kinds.push(kind);
            self.there |= kind.bit();
        }
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.places.clear();
        self.kinds.clear();
        self.there = 0;
    }

    /// All of them, line by line.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    fn field(&self, place: &Place, kind: Kind) -> Field<'_> {
        let begin = place.begin as usize;
        let name = self.text.get(begin..begin + usize::from(place.name)).unwrap_or_default();
        Field { kind, name, value: self.text.get(place.value as usize..place.end as usize).unwrap_or_default() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.places.iter().zip(&self.kinds).map(|(place, kind)| self.field(place, *kind))
    }

    /// The values of all of a kind.
    pub(super) fn all(&self, kind: Kind) -> impl Iterator<Item = &[u8]> {
        let places = if self.has(kind) { self.places.as_slice() } else { &[] };
        places.iter().zip(&self.kinds).filter(move |(_, other)| **other == kind).map(|(place, kind)| self.field(place, *kind).value)
    }

    /// The first of a kind.
    pub(super) fn get(&self, kind: Kind) -> Option<&[u8]> {
        self.all(kind).next()
    }

    pub(super) fn has(&self, kind: Kind) -> bool {
        self.there & kind.bit() != 0
    }

    /// The first with this name.
    pub(super) fn named(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|field| field.name.eq_ignore_ascii_case(name.as_bytes())).map(|field| field.value)
    }

    /// The words of a list, over all lines of a kind, trimmed.
    pub(super) fn tokens(&self, kind: Kind) -> impl Iterator<Item = &[u8]> {
        self.all(kind).flat_map(|value| value.split(|b| *b == b',')).map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
    }

    /// Whether such a list has this word, in any case.
    pub(super) fn lists(&self, kind: Kind, word: &str) -> bool {
        self.tokens(kind).any(|token| token.eq_ignore_ascii_case(word.as_bytes()))
    }

    /// Appends those that are kept, one on a line. Lines that are as they should be are copied as they came, all that follow each other at once.
    pub(super) fn write(&self, out: &mut Vec<u8>, mut keeps: impl FnMut(&Field<'_>) -> bool) {
        let mut run: Option<(usize, usize)> = None;
        let copy = |out: &mut Vec<u8>, run: Option<(usize, usize)>| {
            out.extend_from_slice(run.and_then(|(begin, end)| self.text.get(begin..end)).unwrap_or_default());
        };
        for (place, kind) in self.places.iter().zip(&self.kinds) {
            let field = self.field(place, *kind);
            if !keeps(&field) {
                continue;
            }
            let (begin, value, end) = (place.begin as usize, place.value as usize, place.end as usize);
            let name = begin + usize::from(place.name);
            if self.text.get(name..value) == Some(b": ") && self.text.get(end..end + 2) == Some(b"\r\n") {
                match &mut run {
                    Some((_, last)) if *last == begin => *last = end + 2,
                    _ => copy(out, run.replace((begin, end + 2))),
                }
            } else {
                copy(out, run.take());
                for part in [field.name, b": ", field.value, b"\r\n"] {
                    out.extend_from_slice(part);
                }
            }
        }
        copy(out, run);
    }

    /// Adds one.
    pub(super) fn push(&mut self, name: &[u8], value: &[u8]) {
        let place = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let begin = self.text.len();
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(b": ");
        let from = self.text.len();
        self.text.extend_from_slice(value);
        let kind = Kind::of(name);
        self.kinds.push(kind);
        self.there |= kind.bit();
        self.places.push(Place {
            begin: place(begin),
            name: u16::try_from(name.len()).unwrap_or(u16::MAX),
            value: place(from),
            end: place(self.text.len()),
        });
        self.text.extend_from_slice(b"\r\n");
    }
}

impl Fields {
    /// Takes these headers, in place of those that it had.
    pub(super) fn copy(&mut self, headers: &HeaderMap) {
        self.clear();
        // HTTP/2 may send a cookie in crumbs; HTTP/1 knows one line of them (RFC 9113, 8.2.3).
        let mut crumbs = Vec::new();
        for (name, value) in headers {
            if *name == header::COOKIE {
                if !crumbs.is_empty() {
                    crumbs.extend_from_slice(b"; ");
                }
                crumbs.extend_from_slice(value.as_bytes());
            } else {
                self.push(name.as_str().as_bytes(), value.as_bytes());
            }
        }
        if headers.contains_key(header::COOKIE) {
            self.push(b"cookie", &crumbs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dozen_core::port::framing::Framing;
    use http::HeaderValue;

    /// What is written of headers in these lines, all but those called `x`.
    fn written(lines: &str) -> String {
        let text = format!("GET / HTTP/1.1\r\n{lines}\r\n");
        let (mut framing, mut fields, mut out) = (Framing::default(), Fields::default(), Vec::new());
        assert_eq!(framing.head(text.as_bytes()).map_err(|fault| fault.why), Ok(Some(text.len())));
        fields.take(text.as_bytes(), |places| framing.places(places));
        fields.write(&mut out, |field| !field.name.eq_ignore_ascii_case(b"x"));
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn lines_are_written_in_one_form() {
        for (lines, want) in [
            ("Host: h\r\nA: b\r\nC: d\r\n", "Host: h\r\nA: b\r\nC: d\r\n"),
            ("X: 1\r\nHost: h\r\nx: 2\r\nA: b\r\nX: 3\r\n", "Host: h\r\nA: b\r\n"),
            ("Host:h\r\nA:\tb\r\nC: d \t\r\nE:  f\r\nG: h\r\n", "Host: h\r\nA: b\r\nC: d\r\nE: f\r\nG: h\r\n"),
            ("Host: h\r\nA: b\r\nC:\r\nD: \r\nE: f\r\n", "Host: h\r\nA: b\r\nC: \r\nD: \r\nE: f\r\n"),
            ("Host: h\r\nx: y\r\n", "Host: h\r\n"),
        ] {
            assert_eq!(written(lines), want, "{lines:?}");
        }
        let mut pushed = Fields::default();
        for name in ["a", "x", "b"] {
            pushed.push(name.as_bytes(), b"v");
        }
        let mut out = Vec::new();
        pushed.write(&mut out, |field| field.name != b"x");
        assert_eq!(out, b"a: v\r\nb: v\r\n");
    }

    #[test]
    fn headers_are_found_whatever_their_case() {
        let mut fields = Fields::default();
        let said = [
            ("HOST", Kind::Host),
            ("Date", Kind::Date),
            ("te", Kind::Te),
            ("Accept", Kind::Accept),
            ("cookie", Kind::Cookie),
            ("Expect", Kind::Expect),
            ("Upgrade", Kind::Upgrade),
            ("Forwarded", Kind::Forwarded),
            ("Connection", Kind::Connection),
            ("Keep-Alive", Kind::KeepAlive),
            ("Proxy-Connection", Kind::KeepAlive),
            ("X-Request-ID", Kind::RequestId),
            ("Content-Length", Kind::ContentLength),
            ("X-Forwarded-For", Kind::ForwardedFor),
            ("X-Request-Start", Kind::RequestStart),
            ("X-Forwarded-Port", Kind::ForwardedPort),
            ("X-Forwarded-Proto", Kind::ForwardedProto),
            ("Transfer-Encoding", Kind::TransferEncoding),
            ("Proxy-Authenticate", Kind::ProxyAuthenticate),
            ("Proxy-Authorization", Kind::ProxyAuthorization),
            ("Strict-Transport-Security", Kind::StrictTransportSecurity),
            ("X-Forwarded-Fox", Kind::Other),
            ("Hose", Kind::Other),
        ];
        said.iter().for_each(|(name, _)| fields.push(name.as_bytes(), b"a, B"));
        let kinds: Vec<Kind> = fields.iter().map(|field| field.kind).collect();
        assert_eq!(kinds, said.map(|(_, kind)| kind));
        assert!(fields.lists(Kind::Connection, "b") && !fields.lists(Kind::Connection, "c"));
        assert_eq!((fields.named("hose"), fields.named("hosen"), fields.get(Kind::Host)), (Some(&b"a, B"[..]), None, Some(&b"a, B"[..])));
    }

    #[test]
    fn crumbs_of_a_cookie_become_one() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2"] {
            headers.append(header::COOKIE, HeaderValue::from_static(crumb));
        }
        headers.insert("x", HeaderValue::from_static("y"));
        let mut fields = Fields::default();
        fields.push(b"of", b"before");
        fields.copy(&headers);
        assert_eq!(fields.text, b"x: y\r\ncookie: a=1; b=2\r\n");
    }
}
