//! git's smart HTTP: what is pushed to a deploy is built while its pusher waits, and the commit runs or the push is refused.
//!
//! `/shop.git` is the app's production, `/shop/staging.git` its staging. The first push makes the repository, not the app.

use super::platform::Who;
use super::{Failure, Served};
use crate::house::{self, House};
use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use dozen_core::admin::people::Need;
use dozen_core::codebase::Commit;
use dozen_core::ids::{AppName, DeployName, DeployRef};
use dozen_engine::codebase::hook::{self, Door, Push};
use dozen_engine::codebase::repository::Repository;
use dozen_engine::codebase::smart::{self, Dialogue, Gunzip, Limits, Service};
use dozen_engine::deploy::{Build, BuildOptions, DeployError};
use dozen_engine::ledger::Principal;
use dozen_engine::output::Output;
use serde::Deserialize;
use std::io;
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_util::io::{ReaderStream, StreamReader};

/// Who pushes, to which deploy: to the one that was there when they came, and to none that is called so after its end.
pub(crate) struct Ticket {
    pub(super) who: Principal,
    pub(super) served: Arc<Served>,
}

/// Builds and releases what hooks ask for.
struct Pusher(Arc<House>);

impl hook::Deploys<Ticket> for Pusher {
    fn turn(&self, ticket: &Ticket) -> Arc<tokio::sync::Mutex<()>> {
        ticket.served.floor.pushes.clone()
    }

    async fn ask(&self, ticket: &Ticket, commit: &str) -> Result<Build, DeployError> {
        let commit = Commit { hash: commit.to_owned(), dirty: false };
        ticket.served.floor.ask_build(&ticket.who, "push", Some(commit)).await
    }

    async fn push(&self, ticket: Arc<Ticket>, push: Push, build: &Build, output: Arc<dyn Output>) -> Result<(), DeployError> {
        let Ticket { who, served } = &*ticket;
        let floor = &served.floor;
        // What is deployed in another way waits for this one too.
        let _line = floor.line(&*output).await;
        let (release, new) = floor.push(who, &push, build, &BuildOptions::default(), output.clone()).await?;
        let launched = floor.launch(who, release, new, served.url.as_deref(), &*output).await;
        self.0.collect(&floor.deploy);
        launched
    }
}

/// What the routes work with.
#[derive(Clone)]
pub(crate) struct Pushes {
    pub(super) house: Arc<House>,
    door: Arc<Door<Ticket>>,
}

impl Pushes {
    /// Takes pushes in from now on; with what answers their hooks.
    pub(super) fn open(house: &Arc<House>) -> io::Result<(Self, JoinHandle<()>)> {
        let (door, listener) = Door::bind(&house.settings.home, &house.settings.exe)?;
        let serving = dozen_engine::tasks::spawn("hooks", door.clone().serve(listener, Arc::new(Pusher(house.clone()))));
        Ok((Self { house: house.clone(), door }, serving))
    }

    /// Lets the hook of one push in.
    pub(super) fn admit(&self, repository: &Repository, ticket: Ticket) -> hook::Pass {
        self.door.admit(repository, ticket)
    }
}

/// The routes. Every other path of two or three words is of that shape, too.
pub(super) fn routes(pushes: Pushes) -> Router {
    Router::new()
        .route("/{repository}/info/refs", get(refs_of_production).fallback(super::platform::nothing))
        .route("/{repository}/{service}", post(talk_to_production).fallback(super::platform::nothing))
        .route("/{app}/{repository}/info/refs", get(refs).fallback(super::platform::nothing))
        .route("/{app}/{repository}/{service}", post(talk).fallback(super::platform::nothing))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(axum::middleware::map_response(super::refusals::told))
        .with_state(pushes)
}

/// `?service=git-receive-pack`
#[derive(Deserialize)]
struct Asked {
    service: Option<String>,
}

async fn refs_of_production(
    state: State<Pushes>,
    who: Who,
    Path(repository): Path<String>,
    query: Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    advertise(&state, &who, production(&repository)?, query.0, &headers).await
}

async fn refs(
    state: State<Pushes>,
    who: Who,
    Path((app, repository)): Path<(String, String)>,
    query: Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    advertise(&state, &who, deploy(&app, &repository)?, query.0, &headers).await
}

async fn talk_to_production(
    state: State<Pushes>,
    who: Who,
    Path((repository, service)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    serve(&state, &who, production(&repository)?, &service, &headers, body).await
}

async fn talk(
    state: State<Pushes>,
    who: Who,
    Path((app, repository, service)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    serve(&state, &who, deploy(&app, &repository)?, &service, &headers, body).await
}

fn production(repository: &str) -> Result<DeployRef, Failure> {
    let app: Option<AppName> = repository.strip_suffix(".git").and_then(|app| app.parse().ok());
    Ok(house::production(&app.ok_or_else(nothing)?))
}

fn deploy(app: &str, repository: &str) -> Result<DeployRef, Failure> {
    let deploy: Option<DeployName> = repository.strip_suffix(".git").and_then(|deploy| deploy.parse().ok());
    Ok(DeployRef { app: app.parse().map_err(|_| nothing())?, deploy: deploy.ok_or_else(nothing)? })
}

fn nothing() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "there is no such repository: an app's is /APP.git, that of one of its deploys /APP/DEPLOY.git")
}

/// A deploy that is served here and its repository, for who may deploy it.
pub(super) async fn repository(pushes: &Pushes, who: &Principal, deploy: &DeployRef) -> Result<(Arc<Served>, Repository), Failure> {
    let house = &pushes.house;
    house.ledger.authorise(who, "push to a deploy", Need::Deploy(deploy.app.clone())).map_err(DeployError::from)?;
    let served = house.served(deploy);
    let served = served.ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, super::Deploys::unserved(house, deploy)))?;
    let (home, of) = (house.settings.home.clone(), deploy.clone());
    let made = tokio::task::spawn_blocking(move || Repository::make(&home, &of)).await;
    Ok((served, made.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?))
}

fn failed(e: &dyn std::error::Error) -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, dozen_engine::chain(e))
}

fn protocol(headers: &HeaderMap) -> Option<&str> {
    headers.get(HeaderName::from_static("git-protocol")).and_then(|value| value.to_str().ok())
}

/// git is to see what is, and not what was.
fn answered(content_type: String, body: Body) -> Response {
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache".to_owned())], body).into_response()
}

async fn advertise(pushes: &Pushes, who: &Principal, deploy: DeployRef, asked: Asked, headers: &HeaderMap) -> Result<Response, Failure> {
    let service = asked.service.as_deref().and_then(Service::named);
    let (_, repository) = repository(pushes, who, &deploy).await?;
    let service = service.ok_or_else(|| Failure::new(StatusCode::FORBIDDEN, "only git's smart HTTP is spoken here; use a newer git"))?;
    let list = smart::advertise(&repository, service, protocol(headers)).await.map_err(|e| failed(&e))?;
    Ok(answered(format!("application/x-{}-advertisement", service.name()), Body::from(list)))
}

async fn serve(
    pushes: &Pushes,
    who: &Principal,
    deploy: DeployRef,
    service: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let service = Service::named(service).ok_or_else(nothing)?;
    let (served, repository) = repository(pushes, who, &deploy).await?;
    let pass = (service == Service::Receive).then(|| pushes.admit(&repository, Ticket { who: who.clone(), served }));
    let limits = Limits::of(service);
    let packed = headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding == "gzip" || coding == "x-gzip");
    let plain = StreamReader::new(body.into_data_stream().map(|piece| piece.map_err(io::Error::other)));
    let input: Box<dyn AsyncRead + Send + Unpin> = if packed { Box::new(Gunzip::new(plain, limits.input)) } else { Box::new(plain) };
    let answer = smart::serve(&repository, service, Dialogue::Request, protocol(headers), input, pass, limits).await;
    let answer = answer.map_err(|e| failed(&e))?;
    Ok(answered(format!("application/x-{}-result", service.name()), Body::from_stream(ReaderStream::new(answer))))
}
