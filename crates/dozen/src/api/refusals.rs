//! What the framework refuses before any route has it, told as our own failures are: a body that is no JSON or has a field that there is not, a
//! method that a path does not take, a path that is no text.

use super::{Failure, Plain, wire};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// What it says is a line or two.
const MOST: usize = 16 * 1024;

/// A response of a route as it is, one of the framework as ours.
pub(super) async fn told(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_text = kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if response.extensions().get::<Plain>().is_some() || !status.is_client_error() || !is_text {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let said = axum::body::to_bytes(body, MOST).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let message = match (status, said.trim()) {
        (StatusCode::METHOD_NOT_ALLOWED, _) => "this path takes no such method; do both sides run the same dozen?".to_owned(),
        (_, "") => format!("the request is refused: {status}"),
        (_, said) => format!("the request is not what this path takes: {said}"),
    };
    let mut told = Failure { kind: wire::ProblemKind::Usage, ..Failure::new(status, message) }.into_response();
    if let Some(allow) = parts.headers.remove(header::ALLOW) {
        told.headers_mut().insert(header::ALLOW, allow);
    }
    told
}
