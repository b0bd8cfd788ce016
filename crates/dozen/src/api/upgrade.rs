//! A server gives way to another binary of dozen: asked on its machine, done by its own process.

use super::platform::{Here, Who};
use super::{Failure, wire};
use crate::house::House;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Extension, Json, Router};
use dozen_core::admin::people::Need;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<House>> {
    Router::new().route("/v1/upgrades", post(give_way))
}

/// Once no build and no change of releases is under way; what would end with this process keeps it from going.
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/upgrades",
    tag = "host",
    summary = "Have another binary of dozen go on with what the server runs",
    request_body = wire::Upgrade,
    responses((status = 200, description = "Done", body = wire::Stopping))
))]
async fn give_way(State(house): Here, Extension(who): Who, Json(body): Json<wire::Upgrade>) -> Result<Json<wire::Stopping>, Failure> {
    house.ledger.authorise(&who, "put another dozen in its place", Need::Host)?;
    let deploys = house.ledger.deploys().await?;
    let all: Vec<_> = deploys.iter().filter_map(|deploy| house.served(deploy)).collect();
    let (mut lines, mut ending) = (Vec::new(), Vec::new());
    for served in &all {
        if !body.now {
            // What is pushed from now on waits, and is told by the end of this process that it has to come again.
            lines.push(served.floor.line(&super::Notes).await);
        }
        ending.extend(served.floor.rest().await.into_iter().map(|n| format!("run.{n} of {}", served.floor.deploy)));
    }
    if !ending.is_empty() && !body.now {
        let message = format!("{} would end with the server that runs now", ending.join(", "));
        let hint = "Wait for it, or `dozen runs stop` it; --now ends it.".to_owned();
        return Err(Failure { hint: Some(hint), ..Failure::new(StatusCode::CONFLICT, message) });
    }
    house.successor.send_replace(Some((body.binary, body.before)));
    Ok(Json(wire::Stopping { pid: std::process::id() }))
}
