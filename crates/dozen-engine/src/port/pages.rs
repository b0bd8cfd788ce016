//! The router's own answers: a code, a page for people, JSON for programs.

use super::fields::{Fields, Kind};
use bytes::Bytes;
use dozen_core::port::Manners;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};

/// Why the router answered instead of the app, or ended an answer early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    H10,
    H11,
    H12,
    H13,
    H14,
    H15,
    H17,
    H18,
    H19,
    H20,
    H21,
    H26,
    H27,
    H28,
    H31,
    H32,
    H80,
    H81,
    H99,
}

/// A request that the router answers itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) status: StatusCode,
}

impl Code {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::H10 => "H10",
            Self::H11 => "H11",
            Self::H12 => "H12",
            Self::H13 => "H13",
            Self::H14 => "H14",
            Self::H15 => "H15",
            Self::H17 => "H17",
            Self::H18 => "H18",
            Self::H19 => "H19",
            Self::H20 => "H20",
            Self::H21 => "H21",
            Self::H26 => "H26",
            Self::H27 => "H27",
            Self::H28 => "H28",
            Self::H31 => "H31",
            Self::H32 => "H32",
            Self::H80 => "H80",
            Self::H81 => "H81",
            Self::H99 => "H99",
        }
    }

    /// The words of the contract's list.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::H10 => "App crashed",
            Self::H11 => "Backlog too deep",
            Self::H12 => "Request timeout",
            Self::H13 => "Connection closed without response",
            Self::H14 => "No web processes running",
            Self::H15 => "Idle connection",
            Self::H17 => "Poorly formatted HTTP response",
            Self::H18 => "Server request interrupted",
            Self::H19 => "Backend connection timeout",
            Self::H20 => "App boot timeout",
            Self::H21 => "Backend connection refused",
            Self::H26 => "Request error",
            Self::H27 => "Client request interrupted",
            Self::H28 => "Client connection idle",
            Self::H31 => "Misdirected request",
            Self::H32 => "TLS certificate mismatch",
            Self::H80 => "Maintenance mode",
            Self::H81 => "Blank app",
            Self::H99 => "Platform error",
        }
    }

    /// The status in the log where none was sent because of it.
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::H26 => StatusCode::BAD_REQUEST,
            // Nothing reaches a client that is gone; 499 is what routers log for it.
            Self::H27 | Self::H28 | Self::H32 => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Self::H31 => StatusCode::MISDIRECTED_REQUEST,
            Self::H81 => StatusCode::NOT_FOUND,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether it is the client that has gone, or is taken to have: then nothing is told it any more.
    pub(super) fn is_the_clients(self) -> bool {
        matches!(self, Self::H27 | Self::H28)
    }

    /// Whether it says that the app cannot answer, and not that the request or the router is at fault.
    fn is_the_apps(self) -> bool {
        !matches!(self, Self::H26 | Self::H27 | Self::H28 | Self::H81 | Self::H99)
    }

    fn advice(self) -> &'static str {
        match self {
            Self::H10 => "Every web process has crashed. `dozen logs` shows why; `dozen ps restart` starts them again.",
            Self::H11 => "More requests are waiting for the app than the router keeps, or for longer. Try again in a moment.",
            Self::H12 => "The app took the request and did not begin to answer in time. `dozen logs` shows what it was doing.",
            Self::H13 => "The app closed the connection without an answer. `dozen logs` usually shows a crash.",
            Self::H14 => "The app runs no web process. `dozen ps scale web=1` starts one.",
            Self::H17 => "The app's answer is not HTTP. Does something else than its web server listen on $PORT?",
            Self::H19 => "The app's port does not take connections in time: all its workers may be busy. `dozen logs` tells more.",
            Self::H20 => "The app did not bind its $PORT in time. `dozen logs` shows how far its start came.",
            Self::H21 => "Nothing listens on the app's port any more. `dozen ps` and `dozen logs` show what became of it.",
            Self::H26 => "The request is not well-formed HTTP, or exceeds a limit of the router.",
            Self::H31 => "The certificate of this connection is for another host. A browser that sees this opens a new connection for it.",
            Self::H80 => "The app is being changed or paused, and that takes longer than a request waits. Try again in a moment.",
            Self::H81 => "No app that runs here answers to this host name. `dozen up` in an app's folder starts it.",
            Self::H15 | Self::H18 | Self::H27 | Self::H28 | Self::H32 => "The connection ended early. `dozen logs` tells more.",
            Self::H99 => {
                "The platform is not there just now, or its router failed. Try again in a moment; its own lines are in `dozen logs`."
            }
        }
    }
}

/// What the page says during maintenance.
const MAINTENANCE: &str = "The app is offline for maintenance. Try again in a few minutes.";

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self { code, status: code.status() }
    }
}

/// The answer: JSON where `Accept` prefers it, else a small page that needs nothing else.
///
/// Where the deploy has a page of its own for it, people are shown that one, in a frame that is as large as the window; programs are not.
pub(super) fn page(refusal: Refusal, request: &Fields, request_id: &str, manners: Option<&Manners>) -> Response<Bytes> {
    let Refusal { code, status } = refusal;
    let maintenance = code == Code::H80 && manners.is_some_and(|m| m.maintenance);
    let own = manners.and_then(|m| match code {
        Code::H80 if maintenance => m.maintenance_page.as_deref(),
        _ if code.is_the_apps() => m.error_page.as_deref(),
        _ => None,
    });
    let title = if code == Code::H81 { "No such app" } else { code.description() };
    let advice = if maintenance { MAINTENANCE } else { code.advice() };
    // Every part is ours or checked: a request id holds no character that HTML or JSON would read as its own.
    let (kind, body) = if prefers_json(request) {
        let json = serde_json::json!({ "id": code.name(), "message": title, "advice": advice, "request_id": request_id });
        ("application/json", json.to_string())
    } else if let Some(address) = own {
        ("text/html; charset=utf-8", frame(title, address))
    } else {
        ("text/html; charset=utf-8", html(code.name(), title, advice, request_id, status.as_u16()))
    };
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Nothing in a page of the router's runs or is fetched, but for the frame.
    headers
        .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-src http: https:"));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert("x-request-id", id);
    }
    // A client that speaks badly is not spoken to again on the same connection: where its next request begins is doubtful.
    if code == Code::H26 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A page that shows another one.
fn frame(title: &str, address: &str) -> String {
    // An address was checked where it came in; what could end the attribute is written in another way all the same.
    let address = address.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>html,body{{height:100%;margin:0;overflow:hidden}}iframe{{display:block;width:100%;height:100%;border:0}}\
         </style></head><body><iframe src=\"{address}\" title=\"{title}\"></iframe></body></html>\n"
    )
}

fn html(code: &str, title: &str, advice: &str, request_id: &str, status: u16) -> String {
    let mut shown = String::new();
    for (i, part) in advice.split('`').enumerate() {
        let (open, close) = if i % 2 == 1 { ("<code>", "</code>") } else { ("", "") };
        shown.push_str(open);
        shown.push_str(part);
        shown.push_str(close);
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title} ({code})</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:34em;margin:15vh auto;padding:0 1.5em;\
         color:#222;background:#fff}}h1{{font-size:1.5em;margin:0}}code{{background:#8882;padding:.1em .3em;border-radius:.2em}}\
         small{{color:#777}}@media(prefers-color-scheme:dark){{body{{color:#ddd;background:#181818}}}}</style></head>\
         <body><h1>{title}</h1><p>{shown}</p><p><small>{code} · {status} · request {request_id}</small></p></body></html>\n"
    )
}

/// Whether JSON stands in `Accept` with a weight above HTML's; a bare `*/*` gets the page.
fn prefers_json(request: &Fields) -> bool {
    let accept = request.get(Kind::Accept).and_then(|v| std::str::from_utf8(v).ok()).unwrap_or("");
    let mut weights = [0.0_f32; 2];
    for item in accept.split(',') {
        let mut parts = item.split(';').map(str::trim);
        let kind = parts.next().unwrap_or("");
        let weight = parts.find_map(|p| p.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
        let slot = match kind {
            "application/json" => 0,
            k if k.starts_with("application/") && k.ends_with("+json") => 0,
            "text/html" => 1,
            _ => continue,
        };
        weights[slot] = weights[slot].max(weight);
    }
    weights[0] > weights[1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(accept: &str) -> Fields {
        let mut fields = Fields::default();
        fields.push(b"Accept", accept.as_bytes());
        fields
    }

    #[test]
    fn people_see_the_deploys_own_pages_and_programs_do_not() {
        let manners = |maintenance| Manners {
            maintenance,
            error_page: Some("https://pages.test/e?a=1&b=\"".into()),
            maintenance_page: Some("https://pages.test/m".into()),
            ..Manners::default()
        };
        let text = |code: Code, maintenance, accept: &str| {
            String::from_utf8(page(code.into(), &accepts(accept), "r1", Some(&manners(maintenance))).body().to_vec()).expect("text")
        };
        assert!(text(Code::H80, true, "*/*").contains("<iframe src=\"https://pages.test/m\""));
        for code in [Code::H10, Code::H12, Code::H14, Code::H20] {
            assert!(text(code, false, "text/html").contains("<iframe src=\"https://pages.test/e?a=1&amp;b=&quot;\""), "{code:?}");
        }
        for code in [Code::H26, Code::H81, Code::H99] {
            assert!(!text(code, false, "text/html").contains("iframe"), "{code:?}");
        }
        assert!(text(Code::H80, true, "application/json").starts_with("{\"id\":\"H80\",\"message\":\"Maintenance mode\""));
        let bare = page(Code::H80.into(), &Fields::default(), "r1", Some(&Manners { maintenance: true, ..Manners::default() }));
        assert!(String::from_utf8_lossy(bare.body()).contains("offline for maintenance"));
    }

    #[test]
    fn json_only_where_it_is_preferred() {
        let prefers = |accept: &str| prefers_json(&accepts(accept));
        assert!(prefers("application/json"));
        assert!(prefers("text/html;q=0.5, application/problem+json"));
        assert!(!prefers("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(!prefers("*/*"));
        assert!(!prefers("application/json;q=x"));
        assert!(!prefers_json(&Fields::default()));
    }
}
