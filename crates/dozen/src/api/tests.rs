//! Tests over the API: run of what is sent, and as what stands before a release.

use super::delivery::{EVENTS, SOURCE, Told, ended, pass_on, receive, refused_source};
use super::event::Event;
use super::{Answer, Failure, Shared, wire};
use axum::body::Body;
use axum::extract::{Query, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use dozen_engine::codebase::{self, tarball};
use dozen_engine::deploy::{self, DeployError, Testing};
use dozen_engine::ledger::{Intent, Principal};
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;

/// `POST /tests`: a source, whose tests are run as long as whoever asked for it listens.
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys/{deploy}/tests",
    tag = "releases",
    summary = "Run the tests of a source (`application/x-tar`)",
    params(wire::BuildQuery),
    request_body(content((Vec<u8> = "application/x-tar"))),
    responses((status = 200, description = "What happens, one JSON value a line; the last one says how they ended", content_type = "application/x-ndjson", body = String))
))]
pub(super) async fn run(Extension(served): Shared, Query(query): Query<wire::BuildQuery>, request: Request) -> Result<Response, Failure> {
    let commit = query.commit()?;
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().unwrap_or_default().trim() != SOURCE {
        let message = format!("tests are run of {SOURCE}, and not of {kind:?}");
        return Err(Failure { kind: wire::ProblemKind::Usage, ..Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message) });
    }
    let home = served.floor.ledger.home().clone();
    let unpack = |from| async { tokio::task::spawn_blocking(move || tarball::unpack(&home, from)).await };
    let sent = receive(request.into_body(), unpack).await.map_err(|e| ended(&e))?.map_err(refused_source)?;
    let (events, heard) = mpsc::unbounded_channel();
    let output = Arc::new(Told(events.clone()));
    dozen_engine::tasks::spawn("tests", async move {
        let tested = async {
            let mut reading = codebase::read_all(sent.folder(), commit.or(sent.commit.clone())).map_err(DeployError::from)?;
            reading.warnings.extend(sent.warnings.iter().cloned());
            let floor = &served.floor;
            let testing = Testing { exe: &floor.exe, home: floor.ledger.home(), app: &floor.deploy.app, config: &[] };
            deploy::test(testing, reading, output.clone()).await
        };
        tokio::select! {
            tested = tested => match tested {
                Ok(tested) => output.say(Event::Tested { code: tested.code, slug: tested.slug.to_string() }),
                Err(e) => output.say(crate::printer::failed(&e)),
            },
            // Nobody wants to know any more.
            () = events.closed() => {}
        }
    });
    let (pieces, stream) = mpsc::channel::<Result<Bytes, io::Error>>(16);
    dozen_engine::tasks::spawn("tests' events", pass_on(heard, pieces));
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(stream));
    Ok(([(header::CONTENT_TYPE, EVENTS)], body).into_response())
}

/// `GET /gates`
#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}/gates",
    tag = "releases",
    summary = "What must pass before a release of a deploy",
    responses((status = 200, description = "Done", body = wire::Gates))
))]
pub(super) async fn gates(Extension(served): Shared) -> Answer<wire::Gates> {
    let floor = &served.floor;
    let requires = floor.ledger.gates(&floor.deploy).await.map_err(DeployError::from)?;
    Ok(Json(wire::Gates { deploy: floor.deploy.to_string(), requires: requires.into_iter().collect() }))
}

/// `PUT /gates`
#[cfg_attr(test, utoipa::path(
    put,
    path = "/v1/apps/{app}/deploys/{deploy}/gates",
    tag = "releases",
    summary = "Say what must pass before a release of a deploy",
    request_body = wire::Require,
    responses((status = 200, description = "Done", body = wire::Gates))
))]
pub(super) async fn require(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<wire::Require>,
) -> Answer<wire::Gates> {
    let floor = &served.floor;
    let require = Intent::Require { deploy: floor.deploy.clone(), gates: body.requires.into_iter().collect() };
    floor.ledger.commit(&who, require).await.map_err(DeployError::from)?;
    gates(Extension(served)).await
}
