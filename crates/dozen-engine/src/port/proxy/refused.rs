//! Requests that were not let in: each gets a page and, where it is known whose it was, a line.

use super::{Client, Core};
use crate::port::log::Record;
use crate::port::pages::{Code, Refusal, page};
use crate::port::stream::Reply;
use dozen_core::port::framing::{About, Fault};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::Full;

/// Answers what the gate refused.
pub(super) fn answer(core: &Core, client: &Client, fault: Fault, about: About) -> Response<Reply> {
    let mut record = Record::new(core.journal.clone(), method(&about.method), about.target);
    record.request_id = super::head::request_id(&HeaderMap::new());
    record.forwarded.clone_from(&client.address);
    record.tls = client.tls;
    if super::head::is_host(&about.host) {
        record.host = about.host;
    }
    record.place = core.table.borrow().table.lookup(&record.host, &record.path).cloned();
    let refusal = Refusal { code: Code::H26, status: StatusCode::from_u16(fault.status).unwrap_or(StatusCode::BAD_REQUEST) };
    let response = page(refusal, &HeaderMap::new(), &record.request_id, None);
    record.bytes = response.body().len() as u64;
    record.fail(refusal.code, refusal.status);
    record.reason = Some(fault.why);
    response.map(|body| Reply::Page(Full::new(body)))
}

/// hyper has answered a request that it could not read; only where a single app runs is it known whose log it belongs to.
pub(super) fn unread(core: &Core, client: &Client, too_large: bool) {
    let Some(place) = core.table.borrow().table.fallback.clone() else { return };
    let mut record = Record::new(core.journal.clone(), method(""), String::new());
    record.place = Some(place);
    record.forwarded.clone_from(&client.address);
    record.tls = client.tls;
    record.fail(Code::H26, if too_large { StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE } else { StatusCode::BAD_REQUEST });
}

/// One that is not known is a dash in the log.
fn method(name: &str) -> Method {
    Method::from_bytes(name.as_bytes()).or_else(|_| Method::from_bytes(b"-")).unwrap_or_default()
}
