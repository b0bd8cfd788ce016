//! What a deploy's manners ask of a request and of its answer: HTTPS, the cookie of a split, whom to believe.

use super::fleet::COOKIE_NAME;
use bytes::Bytes;
use dozen_core::port::Manners;
use http::header::{FORWARDED, LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const START: HeaderName = HeaderName::from_static("x-request-start");

/// Whether a neighbour is believed what it says of where a request came from.
pub(super) fn trusts(manners: &Manners, peer: IpAddr) -> bool {
    manners.trusted.iter().any(|network| network.contains(peer))
}

/// Whether a trusted neighbour says that the request came to it by HTTPS.
pub(super) fn came_by_https(headers: &HeaderMap) -> bool {
    headers.get(PROTO).is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// Says how a request came. What a neighbour that is not trusted has said of it is replaced; what a trusted one left out is said.
pub(super) fn forward(headers: &mut HeaderMap, scheme: &HeaderValue, port: &HeaderValue, peer: IpAddr, trusted: bool) {
    let is_proto = |v: &HeaderValue| [&b"http"[..], b"https"].iter().any(|known| v.as_bytes().eq_ignore_ascii_case(known));
    let is_number = |v: &HeaderValue| !v.is_empty() && v.len() < 20 && v.as_bytes().iter().all(u8::is_ascii_digit);
    let said = |headers: &HeaderMap, name: &HeaderName, fine: &dyn Fn(&HeaderValue) -> bool| trusted && headers.get(name).is_some_and(fine);
    let proto = said(headers, &PROTO, &is_proto);
    if !proto {
        headers.insert(PROTO, scheme.clone());
    }
    if !said(headers, &PORT, &is_number) {
        // The port of the router's own is none of a request that came to another one by HTTPS.
        let port = if proto && came_by_https(headers) { HeaderValue::from_static("443") } else { port.clone() };
        headers.insert(PORT, port);
    }
    // Others write it with a unit or a fraction: `t=1700000000.123`.
    let is_time = |v: &HeaderValue| !v.is_empty() && v.as_bytes().iter().all(|b| b.is_ascii_digit() || b"t=.".contains(b));
    if !said(headers, &START, &is_time) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        headers.insert(START, HeaderValue::from(now));
    }
    if !headers.contains_key(FORWARDED) {
        return;
    }
    if trusted {
        let node = if peer.is_ipv6() { format!("for=\"[{peer}]\"") } else { format!("for={peer}") };
        if let Ok(node) = HeaderValue::from_str(&node) {
            headers.append(FORWARDED, node);
        }
    } else {
        headers.remove(FORWARDED);
    }
}

/// Sends a client on to the same page by HTTPS, on this port; `None` is the usual one. `None` where it has not said which host it means.
pub(super) fn to_https(method: &Method, host: &str, path: &str, port: Option<u16>) -> Option<Response<Bytes>> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let path = if path.starts_with('/') { path } else { "/" };
    let port = port.filter(|port| *port != 443).map(|port| format!(":{port}")).unwrap_or_default();
    let location = HeaderValue::from_bytes(format!("https://{name}{port}{path}").as_bytes()).ok().filter(|_| !name.is_empty())?;
    let mut response = Response::new(Bytes::new());
    // What has a body is to be sent again with it: 308 says so, and old clients of pages know 301.
    let plain = matches!(*method, Method::GET | Method::HEAD);
    *response.status_mut() = if plain { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
    response.headers_mut().insert(LOCATION, location);
    Some(response)
}

/// Has a client come back to a release.
pub(super) fn remember(headers: &mut HeaderMap, release: u32, secure: bool) {
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE_NAME}=v{release}; Path=/; HttpOnly; SameSite=Lax{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        headers.append(SET_COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_requests_are_sent_to_the_same_page() {
        let to = |host, path, port| {
            let response = to_https(&Method::GET, host, path, port)?;
            Some(response.headers()[LOCATION].to_str().expect("text").to_owned())
        };
        for (host, path, port, want) in [
            ("shop.test:8000", "/a?b=c", Some(8443), "https://shop.test:8443/a?b=c"),
            ("shop.test", "/", Some(443), "https://shop.test/"),
            ("shop.test", "//evil.test/x", None, "https://shop.test//evil.test/x"),
            ("[::1]:8000", "/", Some(8443), "https://[::1]:8443/"),
            ("shop.test", "*", None, "https://shop.test/"),
        ] {
            assert_eq!(to(host, path, port).as_deref(), Some(want));
        }
        assert_eq!((to("", "/", None), to(":80", "/", None)), (None, None));
        let status = |method| to_https(&method, "h", "/", None).map(|r| r.status().as_u16());
        assert_eq!([Method::HEAD, Method::POST, Method::OPTIONS].map(status), [Some(301), Some(308), Some(308)]);
    }

    #[test]
    fn only_trusted_neighbours_are_believed() {
        let said = [("x-forwarded-proto", "https"), ("x-forwarded-port", "443"), ("x-request-start", "t=1.5"), ("forwarded", "for=a")];
        let given = || -> HeaderMap { said.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect() };
        let (http, port, peer) = (HeaderValue::from_static("http"), HeaderValue::from_static("8000"), "::1".parse().expect("an address"));
        let mut headers = given();
        forward(&mut headers, &http, &port, peer, false);
        assert_eq!((&headers[PROTO], &headers[PORT], headers.get(FORWARDED)), (&http, &port, None));
        assert_ne!(headers[START], "t=1.5");
        let mut headers = given();
        forward(&mut headers, &http, &port, peer, true);
        assert!(said.iter().all(|(name, value)| headers[*name] == *value), "{headers:?}");
        let chain: Vec<_> = headers.get_all(FORWARDED).into_iter().collect();
        assert_eq!(chain, ["for=a", "for=\"[::1]\""]);
        // What it says badly it has not said.
        headers.insert(PROTO, HeaderValue::from_static("gopher"));
        headers.insert(PORT, HeaderValue::from_static("x"));
        headers.remove(FORWARDED);
        forward(&mut headers, &http, &port, peer, true);
        assert_eq!((&headers[PROTO], &headers[PORT], headers.get(FORWARDED)), (&http, &port, None));
    }
}
