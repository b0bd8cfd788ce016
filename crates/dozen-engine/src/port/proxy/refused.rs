//! Requests that were not let in: each gets a page and, where it is known whose it was, a line.

use super::{Client, Core};
use crate::port::fields::Fields;
use crate::port::log::Record;
use crate::port::pages::{Code, Refusal, page};
use bytes::Bytes;
use dozen_core::port::framing::{About, Fault};
use http::{Method, Response, StatusCode};
use std::time::Instant;

/// Answers what was not let in.
pub(super) fn answer(core: &Core, client: &Client, fault: Fault, about: About) -> Response<Bytes> {
    let mut record = Record::new(core.journal.clone(), method(&about.method), &about.target, Instant::now());
    record.says_id(super::head::request_id(&Fields::default(), &mut [0; 36]));
    record.says_forwarded(&client.address);
    record.tls = client.tls;
    if super::head::is_host(&about.host) {
        record.says_host(&about.host);
    }
    record.place = core.table.borrow().table.lookup(record.host(), record.path()).cloned();
    let refusal = Refusal { code: Code::H26, status: StatusCode::from_u16(fault.status).unwrap_or(StatusCode::BAD_REQUEST) };
    let response = page(refusal, &Fields::default(), record.request_id(), None);
    record.bytes = response.body().len() as u64;
    record.fail(refusal.code, refusal.status);
    record.reason = Some(fault.why);
    response
}

/// One that is not known is a dash in the log.
fn method(name: &str) -> Method {
    Method::from_bytes(name.as_bytes()).or_else(|_| Method::from_bytes(b"-")).unwrap_or_default()
}
