//! The headers of a message as they came, for both protocols that clients speak: bytes, and where each header is in them.

use dozen_core::port::framing::Place;
use http::{HeaderMap, HeaderValue, header};

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
    pub(super) fn tokens(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.all(kind)
            .filter_map(|value| std::str::from_utf8(value).ok())
            .flat_map(|v| v.split(','))
            .map(str::trim)
            .filter(|t| !t.is_empty())
    }

    /// Whether such a list has this word, in any case.
    pub(super) fn lists(&self, kind: Kind, word: &str) -> bool {
        self.tokens(kind).any(|token| token.eq_ignore_ascii_case(word))
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

impl From<&HeaderMap> for Fields {
    fn from(headers: &HeaderMap) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers.iter().filter(|(name, _)| *name != header::COOKIE) {
            fields.push(name.as_str().as_bytes(), value.as_bytes());
        }
        // HTTP/2 may send a cookie in crumbs; HTTP/1 knows one line of them (RFC 9113, 8.2.3).
        let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).into_iter().map(HeaderValue::as_bytes).collect();
        if !crumbs.is_empty() {
            fields.push(b"cookie", &crumbs.join(&b"; "[..]));
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let fields = Fields::from(&headers);
        assert_eq!(fields.text, b"x: y\r\ncookie: a=1; b=2\r\n");
    }
}
