//! What a deploy's manners ask of a request and of its answer: HTTPS, the cookie of a split, whom to believe.

use super::fields::{Fields, Kind};
use super::fleet::COOKIE_NAME;
use bytes::Bytes;
use dozen_core::port::Manners;
use http::header::LOCATION;
use http::{HeaderValue, Method, Response, StatusCode};
use std::net::IpAddr;

/// Whether a neighbour is believed what it says of where a request came from.
pub(super) fn trusts(manners: &Manners, peer: IpAddr) -> bool {
    manners.trusted.iter().any(|network| network.contains(peer))
}

/// Whether a trusted neighbour says that the request came to it by HTTPS.
pub(super) fn came_by_https(fields: &Fields) -> bool {
    fields.get(Kind::ForwardedProto).is_some_and(|proto| proto.eq_ignore_ascii_case(b"https"))
}

/// What an instance is told of how a request came; `None` where what the neighbour has said stands.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Came<'c> {
    pub(super) proto: Option<&'static str>,
    pub(super) port: Option<&'c str>,
    /// Milliseconds since 1970.
    pub(super) start: Option<u64>,
    /// A trusted neighbour, as the last in its own `Forwarded`.
    pub(super) chain: Option<String>,
}

/// Says how a request came. What a neighbour that is not trusted has said of it is replaced; what a trusted one left out is said.
///
/// `now` is asked for milliseconds since 1970.
pub(super) fn came<'c>(
    fields: &Fields,
    scheme: &'static str,
    port: &'c str,
    peer: IpAddr,
    trusted: bool,
    now: impl FnOnce() -> u64,
) -> Came<'c> {
    let said = |kind, fine: &dyn Fn(&[u8]) -> bool| trusted && fields.get(kind).is_some_and(fine);
    let proto = said(Kind::ForwardedProto, &|v| [&b"http"[..], b"https"].iter().any(|known| v.eq_ignore_ascii_case(known)));
    let is_number = |v: &[u8]| !v.is_empty() && v.len() < 20 && v.iter().all(u8::is_ascii_digit);
    // Others write it with a unit or a fraction: `t=1700000000.123`.
    let is_time = |v: &[u8]| !v.is_empty() && v.iter().all(|b| b.is_ascii_digit() || b"t=.".contains(b));
    // The port of the router's own is none of a request that came to another one by HTTPS.
    let own_port = || if proto && came_by_https(fields) { "443" } else { port };
    let node = || if peer.is_ipv6() { format!("for=\"[{peer}]\"") } else { format!("for={peer}") };
    Came {
        proto: (!proto).then_some(scheme),
        port: (!said(Kind::ForwardedPort, &is_number)).then(own_port),
        start: (!said(Kind::RequestStart, &is_time)).then(now),
        chain: (trusted && fields.has(Kind::Forwarded)).then(node),
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

/// The cookie that has a client come back to a release.
pub(super) fn cookie(release: u32, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{COOKIE_NAME}=v{release}; Path=/; HttpOnly; SameSite=Lax{secure}")
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
        let of = |said: &[(&str, &str)]| {
            let mut fields = Fields::default();
            said.iter().for_each(|(name, value)| fields.push(name.as_bytes(), value.as_bytes()));
            fields
        };
        let peer = "::1".parse().expect("an address");
        let said = [("x-forwarded-proto", "https"), ("x-forwarded-port", "443"), ("x-request-start", "t=1.5"), ("forwarded", "for=a")];
        let all = of(&said);
        let Came { proto, port, start, chain } = came(&all, "http", "8000", peer, false, || 7);
        assert_eq!((proto, port, start, chain), (Some("http"), Some("8000"), Some(7), None));
        assert_eq!(came(&all, "http", "8000", peer, true, || 7), Came { chain: Some("for=\"[::1]\"".into()), ..Came::default() });
        // What it says badly it has not said.
        let bad = of(&[("X-Forwarded-Proto", "gopher"), ("X-Forwarded-Port", "x")]);
        let Came { proto, port, start, chain } = came(&bad, "http", "8000", peer, true, || 7);
        assert_eq!((proto, port, start.is_some(), chain), (Some("http"), Some("8000"), true, None));
        assert_eq!(came(&of(&said[..1]), "http", "8000", peer, true, || 7).port, Some("443"));
    }
}
