//! What dozen's own command asks that sshd runs for who shows a key: one service of git's, as the user whose key it is.
//!
//! **Invariant:** only the owner of the home, on its machine, says which key was shown; what its user may is decided as for any request.

use super::Failure;
use super::git::{Pushes, Ticket, repository};
use super::wire;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use dozen_core::admin::people::Need;
use dozen_core::codebase::ssh::{Asked, asked};
use dozen_core::ids::DeployRef;
use dozen_engine::codebase::smart::{self, Dialogue, Limits, Service};
use dozen_engine::ledger::Principal;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::io::AsyncWriteExt;

/// What the connection becomes: git's own protocol, both ways.
pub(crate) const PROTOCOL: &str = "dozen-git";
/// The head that says what is asked, as JSON in base64.
pub(crate) const HEAD: &str = "dozen-session";

pub(super) fn routes(pushes: Pushes) -> Router {
    Router::new().route("/v1/sessions", post(session)).with_state(pushes)
}

#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/sessions",
    tag = "host",
    summary = "What sshd's command asks of who comes by SSH: git's protocol by an upgraded connection, or who they are",
    responses((status = 200, description = "Nothing was asked for", body = wire::Greeting), (status = 101, description = "git's own protocol"))
))]
pub(super) async fn session(
    State(pushes): State<Pushes>,
    Extension(host): Extension<Principal>,
    mut request: Request,
) -> Result<Response, Failure> {
    let ledger = &pushes.house.ledger;
    ledger.authorise(&host, "say who comes by SSH", Need::Host)?;
    let unread = || Failure::new(StatusCode::UNPROCESSABLE_ENTITY, format!("a session says what it is in its head {HEAD}"));
    let said = request.headers().get(HEAD).and_then(|text| BASE64.decode(text).ok()).ok_or_else(unread)?;
    let said: wire::Session = serde_json::from_slice(&said).map_err(|_| unread())?;
    let Some(who) = ledger.who_holds(&said.key, said.from.as_deref(), Timestamp::now()).await? else {
        let hint = "`dozen ssh-keys add` has a server know one.".to_owned();
        let nobody = Failure::new(StatusCode::UNAUTHORIZED, format!("the key {} is not known here, has ended or was removed", said.key));
        return Err(Failure { hint: Some(hint), ..nobody });
    };
    let refused = |e: dozen_core::codebase::ssh::Refused| Failure::new(StatusCode::FORBIDDEN, e.to_string());
    let (service, deploy) = match asked(&said.command).map_err(refused)? {
        Asked::Nothing => return Ok(Json(wire::Greeting { user: who.name, key: said.key }).into_response()),
        Asked::Service { service, deploy } => (service, deploy),
    };
    let service = Service::named(service).ok_or_else(unread)?;
    let (served, repository) = repository(&pushes, &who, &deploy).await?;
    let upgrade = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
    let asks = request.headers().get(header::UPGRADE).is_some_and(|protocol| protocol == PROTOCOL);
    let upgrade = upgrade.filter(|_| asks);
    let upgrade = upgrade.ok_or_else(|| Failure::new(StatusCode::UPGRADE_REQUIRED, format!("git needs `Upgrade: {PROTOCOL}`")))?;
    let protocol = said.protocol;
    dozen_engine::tasks::spawn("ssh", async move {
        let Ok(connection) = upgrade.await else { return };
        let (input, mut output) = tokio::io::split(TokioIo::new(connection));
        let pass = (service == Service::Receive).then(|| pushes.admit(&repository, Ticket { who, served }));
        match smart::serve(&repository, service, Dialogue::Session, protocol.as_deref(), input, pass, Limits::of(service)).await {
            // Whoever went away is told nothing more: git ends as its answer is dropped.
            Ok(mut answer) => drop(tokio::io::copy(&mut answer, &mut output).await),
            Err(e) => told(&mut output, service, &deploy, &e).await,
        }
        // As is the end of what is said.
        let _ = output.shutdown().await;
    });
    let headers = [(header::UPGRADE, PROTOCOL), (header::CONNECTION, "upgrade")];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// Tells git why there is no git here to talk to, as it is told of errors.
async fn told(output: &mut (impl tokio::io::AsyncWrite + Unpin), service: Service, deploy: &DeployRef, e: &smart::SmartError) {
    let line = format!("ERR cannot answer {} of {deploy}: {}", service.name(), dozen_engine::chain(e));
    let line: String = line.chars().take(900).collect();
    // One who went away is told nothing.
    let _ = output.write_all(format!("{:04x}{line}", line.len() + 4).as_bytes()).await;
}
