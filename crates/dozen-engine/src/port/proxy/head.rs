//! The heads of requests and answers: what is refused, what ends here, what is added. Looks at nothing else.

use super::Client;
use crate::port::log::Record;
use crate::port::manners;
use crate::port::pages::{Code, Refusal};
use crate::port::stream::{Upload, tokens};
use crate::port::tls::Shown;
use dozen_core::port::framing::{MAX_HEADERS, MAX_LINE};
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
    VIA,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, uri::PathAndQuery};
use hyper::body::Body as _;

/// A request id of the client's own is kept up to this length.
const MAX_REQUEST_ID: usize = 200;

fn refuse(status: StatusCode) -> Refusal {
    Refusal { code: Code::H26, status }
}

/// The host that a request is for: its target's in absolute form, else its `Host`. Exactly one, of characters that names and addresses have.
pub(super) fn target_host(request: &Request<Upload>) -> Result<String, Refusal> {
    let bad = Err(refuse(StatusCode::BAD_REQUEST));
    let mut hosts = request.headers().get_all(HOST).into_iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return bad;
    }
    let host = match (request.uri().authority(), header) {
        // Of HTTP/2 both may be sent, and must then be the same (RFC 9113, 8.3.1).
        (Some(authority), Some(header))
            if request.version() == Version::HTTP_2 && !header.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            return bad;
        }
        (Some(authority), _) => authority.as_str(),
        (None, Some(header)) => match header.to_str() {
            Ok(host) => host,
            Err(_) => return bad,
        },
        (None, None) if request.version() == Version::HTTP_10 => "",
        (None, None) => return bad,
    };
    if !is_host(host) {
        return bad;
    }
    Ok(host.to_owned())
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

/// What is refused whatever it is led to; `shown` is the certificate that the client asked for.
pub(super) fn check(request: &Request<Upload>, shown: Option<&Shown>, host: &str) -> Result<(), Refusal> {
    let headers = request.headers();
    // One that is for several hosts may be used for all of them (RFC 9113, 9.1.1); the client has seen no proof of any other.
    if shown.is_some_and(|shown| !shown.is_for(host)) {
        return Err(Code::H31.into());
    }
    if request.method() == Method::CONNECT {
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED));
    }
    let target = request.uri().path_and_query().map_or(0, |p| p.as_str().len());
    // `GET`, a blank, the target, a blank, `HTTP/1.1`.
    if request.method().as_str().len() + target + 10 > MAX_LINE {
        return Err(refuse(StatusCode::URI_TOO_LONG));
    }
    // `name`, a colon, a blank, the value.
    if headers.iter().any(|(name, value)| name.as_str().len() + value.len() + 2 > MAX_LINE) {
        return Err(refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }
    if headers.len() > MAX_HEADERS {
        return Err(refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }
    let mut encodings = headers.get_all(TRANSFER_ENCODING).into_iter();
    if let Some(encoding) = encodings.next() {
        // hyper reads a coding before `chunked` as if it were not there; an instance might not.
        let chunked = encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        if !chunked || encodings.next().is_some() || headers.contains_key(CONTENT_LENGTH) {
            return Err(refuse(StatusCode::BAD_REQUEST));
        }
    }
    if headers.get_all(EXPECT).into_iter().any(|e| !e.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(refuse(StatusCode::EXPECTATION_FAILED));
    }
    Ok(())
}

/// The protocol that the client would change to. Not HTTP/2: what a client then says would pass every check here unseen.
pub(super) fn wants_upgrade(request: &Request<Upload>) -> Option<HeaderValue> {
    let headers = request.headers();
    let asked = request.version() == Version::HTTP_11 && tokens(headers, &CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"));
    let http2 = tokens(headers, &UPGRADE).any(|t| t.to_ascii_lowercase().starts_with("h2"));
    if asked && !http2 { headers.get(UPGRADE).cloned() } else { None }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers between two neighbours, which end here.
const HOP_BY_HOP: [HeaderName; 6] =
    [CONNECTION, HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection"), TE, TRANSFER_ENCODING, UPGRADE];

fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION).filter_map(|t| t.parse().ok()).collect();
        for name in named {
            // A client cannot have what frames or routes its request taken out by naming it.
            if name != CONTENT_LENGTH && name != HOST {
                headers.remove(name);
            }
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

pub(super) fn rewrite_request(request: &mut Request<Upload>, client: &Client, record: &Record, upgrade: Option<&HeaderValue>) {
    let http2 = request.version() == Version::HTTP_2;
    // HTTP/2 has a body end where it ends; HTTP/1 has to be told.
    let endless = http2 && !request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH);
    let chunked = endless || request.headers().contains_key(TRANSFER_ENCODING);
    let trailers = tokens(request.headers(), &TE).any(|t| t.eq_ignore_ascii_case("trailers"));
    let via = match request.version() {
        Version::HTTP_10 => "1.0 dozen",
        Version::HTTP_2 => "2.0 dozen",
        _ => "1.1 dozen",
    };
    if request.uri().authority().is_some() {
        // The absolute form's host counts, and the instance gets the usual form.
        if let Ok(host) = HeaderValue::from_str(&record.host) {
            request.headers_mut().insert(HOST, host);
        }
    }
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;

    let headers = request.headers_mut();
    strip(headers);
    if http2 {
        join_cookies(headers);
    }
    headers.remove(EXPECT);
    headers.remove(PROXY_AUTHORIZATION);
    if !headers.contains_key(HOST) {
        headers.insert(HOST, HeaderValue::from_static("localhost"));
    }
    if chunked {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    if let Ok(value) = HeaderValue::from_str(&record.forwarded) {
        headers.insert(X_FORWARDED_FOR, value);
    }
    manners::forward(headers, &client.scheme, &client.port, client.peer, client.is_trusted(record));
    if let Ok(value) = HeaderValue::from_str(&record.request_id) {
        headers.insert(X_REQUEST_ID, value);
    }
    headers.append(VIA, HeaderValue::from_static(via));
}

/// HTTP/2 may send a cookie in crumbs; HTTP/1 knows one line of them (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).into_iter();
    if let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) {
        let mut whole = first.as_bytes().to_vec();
        for crumb in std::iter::once(second).chain(crumbs) {
            whole.extend_from_slice(b"; ");
            whole.extend_from_slice(crumb.as_bytes());
        }
        if let Ok(whole) = HeaderValue::from_bytes(&whole) {
            headers.insert(COOKIE, whole);
        }
    }
}

pub(super) fn rewrite_response(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    strip(headers);
    headers.remove(PROXY_AUTHENTICATE);
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    headers.append(VIA, HeaderValue::from_static("1.1 dozen"));
}

/// The client's own id, where it is one that is safe anywhere; else a random one in the shape of a UUID.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'=' | b'+' | b'/' | b'.');
    let own = headers.get(X_REQUEST_ID).and_then(|v| v.to_str().ok());
    if let Some(own) = own.filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(plain)) {
        return own.to_owned();
    }
    let n: u128 = (rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let mut id = String::with_capacity(36);
    for (place, byte) in n.to_be_bytes().into_iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            id.push('-');
        }
        for digit in [byte >> 4, byte & 15] {
            id.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    id
}

/// What came in `X-Forwarded-For`, and this client's address after it.
pub(super) fn forwarded(headers: &HeaderMap, address: &str) -> String {
    let mut out = String::new();
    for value in headers.get_all(X_FORWARDED_FOR).into_iter().filter_map(|v| v.to_str().ok()) {
        out.push_str(value.trim());
        out.push_str(", ");
    }
    out.push_str(address);
    out
}
