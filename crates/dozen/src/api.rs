//! The API that every command speaks: HTTP and JSON. Over a Unix socket each peer is known by its credentials and the token that it shows, by
//! way of a server's router by its user's token alone.
//!
//! A server serves the same routes for many deploys. Where nothing runs, the command line serves itself the same routes in its own process, so
//! that there is one way to do a thing.

use anyhow::Result;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use axum::{Extension, Json};
use dozen_core::admin::people::Need;
use dozen_core::concurrency::formation::FormationError;
use dozen_core::config::{ConfigError, MASK, MASKED_FROM, Origin, Var};
use dozen_core::ids::DeployRef;
use dozen_core::logs::Filter;
use dozen_engine::deploy::{ConfigChange, DeployError, Floor};
use dozen_engine::ledger::{Intent, Ledger, LedgerError, Principal};
use dozen_engine::output::{Event, Output};
use dozen_engine::port::certificates::Keeper;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::sync::Arc;
use std::time::Duration;
use token::Token;
use tokio::net::UnixListener;
use tokio::sync::Notify;

mod builds;
mod certs;
mod delivery;
pub(crate) mod event;
mod front;
mod git;
pub(crate) mod keys;
mod peers;
mod people;
pub(crate) mod platform;
mod processes;
mod refusals;
mod releases;
mod runs;
#[cfg(test)]
mod schema;
mod slugs;
#[cfg(test)]
mod spec;
mod split;
mod ssh;
mod tests;
pub(crate) mod token;
mod upgrade;
pub(crate) mod wire;

pub(crate) use delivery::{SLUG, SOURCE};
pub(crate) use runs::{
    Frame, HEAD as RUN_HEAD, MAX_HEAD as MAX_RUN_HEAD, MAX_REQUEST as MAX_RUN, PROTOCOL as RUN_PROTOCOL, WINDOW as RUN_WINDOW,
};
pub(crate) use ssh::{HEAD as SESSION_HEAD, PROTOCOL as GIT_PROTOCOL};

/// Has splits of a deploy abort themselves that were told to.
pub(crate) fn watch_splits(served: Arc<Served>) -> tokio::task::JoinHandle<()> {
    dozen_engine::tasks::spawn("splits", async move { served.floor.watch_splits().await })
}

/// A request's body is small: names and values of config at most.
const MAX_BODY: usize = 256 * 1024;

/// The head of a server's answers that says which version of dozen it is.
pub(crate) const VERSION: &str = "dozen-version";
/// So often something is said on a stream of logs: a server's router takes one that is silent for twice as long for one that has ended.
const BEAT: Duration = Duration::from_secs(25);

/// One deploy, served.
pub(crate) struct Served {
    /// What acts on it.
    pub(crate) floor: Floor,
    /// Where its `web` answers.
    pub(crate) url: Option<String>,
    /// And where by HTTPS.
    pub(crate) https_url: Option<String>,
    /// What keeps the router supplied with certificates, where it speaks HTTPS.
    pub(crate) keeper: Option<Arc<Keeper>>,
    /// Whether what it runs outlives it.
    pub(crate) lasting: bool,
    /// Whether it is one of a server's, which neither ends with it nor leaves it to another.
    pub(crate) of_server: bool,
    /// Told when someone asks it to end.
    pub(crate) down: Notify,
    /// Told when it is to end and leave what runs to another control part.
    pub(crate) leave: Notify,
}

/// An error as the API tells it.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    message: String,
    hint: Option<String>,
    kind: wire::ProblemKind,
}

/// What an API serves: one deploy, or all of a server.
pub(crate) trait Deploys: Send + Sync + 'static {
    /// What everything here stands in.
    fn ledger(&self) -> &Ledger;
    /// A deploy that is served here.
    fn served(&self, deploy: &DeployRef) -> Option<Arc<Served>>;
    /// What is said of one that is not.
    fn unserved(&self, deploy: &DeployRef) -> String;
}

impl Deploys for Arc<Served> {
    fn ledger(&self) -> &Ledger {
        &self.floor.ledger
    }
    fn served(&self, deploy: &DeployRef) -> Option<Arc<Served>> {
        (*deploy == self.floor.deploy).then(|| self.clone())
    }
    fn unserved(&self, _: &DeployRef) -> String {
        format!("only {} is served here", self.floor.deploy)
    }
}

/// The routes of one deploy.
pub(crate) fn router(served: Arc<Served>) -> Router {
    let deploys: Arc<dyn Deploys> = Arc::new(served);
    Router::new().merge(of_deploys(deploys.clone())).layer(axum::middleware::from_fn_with_state(deploys, known))
}

/// The routes of each of these deploys, for who is known.
pub(crate) fn of_deploys(deploys: Arc<dyn Deploys>) -> Router {
    let deploy = Router::new()
        .route("/", get(info))
        .route("/processes", get(processes::list))
        .route("/formation", patch(processes::scale))
        .route("/restarts", post(processes::restart))
        .route("/stops", post(processes::stop))
        .route("/starts", post(processes::start))
        .route("/logs", get(logs))
        .route("/config", get(config).patch(configure))
        .route("/certificates", get(certs::list).post(certs::add))
        .route("/certificates/auto", post(certs::automate))
        .route("/certificates/remove", post(certs::remove))
        .route("/domains", get(front::domains).patch(front::change_domains))
        .route("/manners", get(front::manners).patch(front::treat))
        .route("/releases", get(releases::list))
        .route("/releases/{version}", get(releases::describe))
        .route("/diffs", get(releases::diff))
        .route("/builds", get(builds::list).post(delivery::build))
        .route("/builds/cancel", post(builds::cancel))
        .route("/slugs", get(slugs::list))
        .route("/slugs/{version}", get(slugs::export))
        .route("/tests", post(tests::run))
        .route("/gates", get(tests::gates).put(tests::require))
        .route("/split", get(split::show).put(split::change))
        .route("/split/status", get(split::status))
        .route("/split/promote", post(split::promote))
        .route("/split/abort", post(split::abort))
        .route("/rollbacks", post(releases::rollback))
        .route("/runs", get(runs::list).post(runs::run))
        .route("/runs/stop", post(runs::stop))
        .route("/handover", post(hand_over))
        .route("/stop", post(stop));
    Router::new()
        .nest("/v1/apps/{app}/deploys/{deploy}", deploy)
        .layer(axum::middleware::from_fn_with_state(deploys.clone(), found))
        // Two deploys are in it, so it finds them itself.
        .route("/v1/apps/{app}/promotions", post(delivery::promote).with_state(deploys))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::map_response(refusals::told))
}

/// Where an API is reached, and what its peers have to show.
pub(crate) struct Door {
    /// In a folder that nobody but its owner can enter.
    pub(crate) listener: UnixListener,
    /// Its text lies beside the socket.
    pub(crate) token: Token,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// As far as it is known from the connection alone.
    pub(crate) who: Principal,
    /// What each of its requests has to show; `None` where it is this process.
    pub(crate) token: Option<Token>,
}

/// Answers connections until the door is dropped.
pub(crate) async fn serve(Door { listener, token }: Door, router: Router) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely; others will be given back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(peer) = stream.peer_cred() else { continue };
        if peer.pid().is_none_or(peers::is_in_a_jail) {
            continue;
        }
        let peer = Peer { who: Principal::of(peer.uid()), token: Some(token.clone()) };
        dozen_engine::tasks::spawn("api", answer(stream, router.clone(), peer));
    }
}

/// Answers one connection of this peer.
pub(crate) async fn answer(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static, router: Router, peer: Peer) {
    answer_any(stream, router.layer(Extension(peer))).await;
}

/// Answers one connection.
async fn answer_any(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static, router: Router) {
    let service = hyper_util::service::TowerToHyperService::new(router);
    // A peer that goes away mid-request is its own affair.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

/// Says who asks.
pub(crate) async fn known(
    State(_): State<Arc<dyn Deploys>>,
    Extension(Peer { who, token }): Extension<Peer>,
    mut request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    let proven = token.map_or(who.proven, |token| token.is_in(request.headers()));
    request.extensions_mut().insert(Principal { proven, ..who });
    next.run(request).await
}

/// Finds the deploy that a request is about, and refuses who may not ask that of it.
async fn found(
    State(deploys): State<Arc<dyn Deploys>>,
    Extension(who): Extension<Principal>,
    mut request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    let of = |text: &str| -> Option<(DeployRef, String)> {
        let mut parts = text.strip_prefix("/v1/apps/")?.splitn(4, '/');
        let (app, word, deploy) = (parts.next()?, parts.next()?, parts.next()?);
        let deploy = DeployRef { app: app.parse().ok()?, deploy: deploy.parse().ok()? };
        (word == "deploys").then(|| (deploy, parts.next().unwrap_or_default().to_owned()))
    };
    let Some((deploy, rest)) = of(request.uri().path()) else {
        return Failure::new(StatusCode::NOT_FOUND, "there is no such route; do both sides run the same dozen?").into_response();
    };
    let need = needs(request.method(), &rest, &deploy);
    if let Err(e) = deploys.ledger().authorise(&who, "use this deploy", need) {
        return Failure::from(DeployError::from(e)).into_response();
    }
    let Some(served) = deploys.served(&deploy) else {
        return Failure::new(StatusCode::NOT_FOUND, deploys.unserved(&deploy)).into_response();
    };
    request.extensions_mut().insert(served);
    next.run(request).await
}

/// What somebody has to be for a request about a deploy. What is done is asked once more where it is done, by what it needs itself.
fn needs(method: &Method, rest: &str, deploy: &DeployRef) -> Need {
    let app = deploy.app.clone();
    match (method, rest) {
        (_, "stop" | "handover") => Need::Host,
        (&Method::PUT, "gates") => Need::Own(app),
        // Values of config vars are among it.
        (&Method::GET, "config") => Need::Deploy(app),
        // Who may look at an app does not have its code by that.
        (&Method::GET, rest) if rest.starts_with("slugs/") => Need::Deploy(app),
        (&Method::GET, _) => Need::View(app),
        _ => Need::Deploy(app),
    }
}

type Shared = Extension<Arc<Served>>;
type Answer<T> = Result<Json<T>, Failure>;

#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}",
    tag = "deploys",
    summary = "What a deploy is and where it answers",
    responses((status = 200, description = "Done", body = wire::Info))
))]
async fn info(Extension(served): Shared) -> Answer<wire::Info> {
    let release = served.floor.ledger.current(&served.floor.deploy).await.map_err(DeployError::from)?;
    Ok(Json(wire::Info {
        deploy: served.floor.deploy.to_string(),
        serving: served.floor.serving,
        pid: std::process::id(),
        url: served.url.clone(),
        https_url: served.https_url.clone(),
        release: release.map(|v| v.to_string()),
    }))
}

#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}/logs",
    tag = "logs",
    summary = "The last log lines, and with `tail` each new one as it comes",
    params(wire::Logs),
    responses((status = 200, description = "Log lines, as they are stored", content_type = "application/x-dozen-log", body = Vec<u8>))
))]
async fn logs(Extension(served): Shared, Query(query): Query<wire::Logs>) -> Result<Response, Failure> {
    let (last, filter) = (query.number().map_err(Failure::usage)?, query.filter().map_err(Failure::usage)?);
    Ok(log_stream(&served, last, query.tail, filter).into_response())
}

/// The last lines, encoded, and then, where asked for, each new one as it comes.
fn log_stream(served: &Arc<Served>, last: Option<usize>, tail: bool, filter: Filter) -> axum::body::Body {
    let store = served.floor.observed.store().clone();
    let (pieces, stream) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(16);
    dozen_engine::tasks::spawn("logs", async move {
        let (lines, mut follower) = match store.tail(last, &filter) {
            Ok(both) => both,
            Err(e) => {
                // A reader that has gone needs no error.
                let _ = pieces.send(Err(std::io::Error::other(dozen_engine::chain(&e)))).await;
                return;
            }
        };
        let mut batch = lines;
        loop {
            let bytes: Vec<u8> = batch.iter().flat_map(dozen_core::logs::LogLine::encode).collect();
            if !bytes.is_empty() && pieces.send(Ok(bytes.into())).await.is_err() {
                return;
            }
            if !tail {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(BEAT) => {
                    // An empty line is none.
                    if pieces.send(Ok(bytes::Bytes::from_static(b"\n"))).await.is_err() {
                        return;
                    }
                    batch = Vec::new();
                }
                next = follower.next() => batch = next.into_iter().filter(|l| filter.wants(l)).collect(),
                () = pieces.closed() => return,
            }
        }
    });
    axum::body::Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(stream))
}

#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}/config",
    tag = "config",
    summary = "All config vars with their values",
    responses((status = 200, description = "Done", body = wire::Config))
))]
async fn config(Extension(served): Shared) -> Answer<wire::Config> {
    let floor = &served.floor;
    let (version, config) = floor.ledger.config(&floor.deploy).await.map_err(DeployError::from)?;
    let ids = floor.ledger.attachments(&floor.deploy).await.map_err(DeployError::from)?;
    let attachments = floor.ledger.resolve(ids).await.map_err(DeployError::from)?;
    let mut vars: std::collections::BTreeMap<String, wire::Var> = attachments
        .iter()
        .map(|a| (a.variable(), wire::Var { value: a.url.expose().to_owned(), origin: "attachment".to_owned(), secret: false }))
        .collect();
    vars.extend(config.vars.iter().map(|(k, v)| {
        let secret = !v.plain && v.value.len() >= MASKED_FROM;
        (k.clone(), wire::Var { value: v.value.clone(), origin: v.origin.as_str().to_owned(), secret })
    }));
    Ok(Json(wire::Config { version, vars }))
}

impl wire::Var {
    /// The value as a listing shows it.
    pub(crate) fn masked(&self) -> &str {
        if self.secret { MASK } else { &self.value }
    }
}

#[cfg_attr(test, utoipa::path(
    patch,
    path = "/v1/apps/{app}/deploys/{deploy}/config",
    tag = "config",
    summary = "Set and unset config vars, which makes a release",
    request_body = wire::Configure,
    responses((status = 200, description = "Done", body = wire::Configured))
))]
async fn configure(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<wire::Configure>,
) -> Answer<wire::Configured> {
    let set = body.set.into_iter().map(|(k, value)| (k, Var { value, origin: Origin::Set, plain: body.plain })).collect();
    let change = ConfigChange { set, unset: body.unset, keep_plain: body.keep_plain, at: body.at };
    let changed = async move {
        let floor = &served.floor;
        let done = floor.configure(&who, change, &Notes).await?;
        Ok((done, floor.serving && floor.ledger.current(&floor.deploy).await?.is_some()))
    };
    let (done, serving) = lasting(changed).await?;
    Ok(Json(wire::Configured {
        set: done.changes.set,
        marked: done.changes.marked,
        unset: done.changes.unset,
        release: done.version.map(|v| v.to_string()),
        serving,
    }))
}

/// A change of releases goes on to its end, though whoever asked for it may have gone: half of one would leave the new release beside the old.
async fn lasting<T: Send + 'static>(work: impl Future<Output = Result<T, DeployError>> + Send + 'static) -> Result<T, Failure> {
    let done = dozen_engine::tasks::spawn("change", work).await;
    Ok(done.map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the change ended early: {e}")))??)
}

#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys/{deploy}/stop",
    tag = "host",
    summary = "End a deploy that `up` runs",
    responses((status = 200, description = "Done", body = wire::Stopping))
))]
async fn stop(Extension(served): Shared, Extension(who): Extension<Principal>) -> Answer<wire::Stopping> {
    served.floor.ledger.authorise(&who, "stop a deploy", Need::Host).map_err(DeployError::from)?;
    if served.of_server {
        return Err(of_server(&served.floor.deploy));
    }
    if !served.floor.serving {
        return Err(DeployError::NotServing(served.floor.deploy.clone()).into());
    }
    let (ledger, deploy) = (&served.floor.ledger, served.floor.deploy.clone());
    ledger.commit(&who, Intent::Keep { deploy, port: None, https_port: None }).await.map_err(DeployError::from)?;
    served.down.notify_one();
    Ok(Json(wire::Stopping { pid: std::process::id() }))
}

fn of_server(deploy: &DeployRef) -> Failure {
    let message = format!("{deploy} is one of `dozen server`'s (pid {}), and ends with it", std::process::id());
    Failure { hint: Some(format!("`dozen stop -a {deploy}` stops its processes.")), ..Failure::new(StatusCode::CONFLICT, message) }
}

/// Leaves all that lasts to another control part, once no change of releases is under way.
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys/{deploy}/handover",
    tag = "host",
    summary = "Leave what runs to another control part",
    responses((status = 200, description = "Done", body = wire::Stopping))
))]
async fn hand_over(Extension(served): Shared, Extension(who): Extension<Principal>) -> Answer<wire::Stopping> {
    served.floor.ledger.authorise(&who, "take over a deploy", Need::Host).map_err(DeployError::from)?;
    let deploy = &served.floor.deploy;
    if served.of_server {
        return Err(of_server(deploy));
    }
    if !served.lasting {
        return Err(Failure::new(StatusCode::CONFLICT, format!("what runs of {deploy} ends with its `dozen up`")));
    }
    let ending = served.floor.rest().await;
    if !ending.is_empty() {
        let names = ending.iter().map(|n| format!("run.{n}")).collect::<Vec<_>>().join(", ");
        let message = format!("{names} of {deploy} would end with the `dozen up` that runs now (pid {})", std::process::id());
        let hint = "Wait for it, or `dozen runs stop` it.".to_owned();
        return Err(Failure { hint: Some(hint), ..Failure::new(StatusCode::CONFLICT, message) });
    }
    served.leave.notify_one();
    Ok(Json(wire::Stopping { pid: std::process::id() }))
}

/// What a release made by the API says on its way goes to its log; the caller gets the result.
struct Notes;

impl Output for Notes {
    fn emit(&self, _event: Event) {}
}

impl Failure {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), hint: None, kind: wire::ProblemKind::Failed }
    }

    /// What was asked for makes no sense, whatever the deploy's state.
    fn usage(message: impl Into<String>) -> Self {
        Self { kind: wire::ProblemKind::Usage, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, message) }
    }
}

impl From<DeployError> for Failure {
    fn from(e: DeployError) -> Self {
        let status = match &e {
            DeployError::Ledger(LedgerError::Forbidden { .. }) => StatusCode::FORBIDDEN,
            DeployError::Ledger(LedgerError::Unproven { .. }) => StatusCode::UNAUTHORIZED,
            DeployError::Ledger(LedgerError::NotFound(_)) => StatusCode::NOT_FOUND,
            DeployError::Formation(_) | DeployError::Config(_) => StatusCode::UNPROCESSABLE_ENTITY,
            DeployError::NoRelease(_) | DeployError::NoEarlier(_) | DeployError::FailedRelease(_) | DeployError::NotServing(_) => {
                StatusCode::CONFLICT
            }
            DeployError::NotReleased { .. } | DeployError::OwnDomain { .. } | DeployError::SplitWithout(_) => StatusCode::CONFLICT,
            DeployError::NoSplit(_) | DeployError::NotInSplit(_) => StatusCode::CONFLICT,
            DeployError::Ledger(LedgerError::Led { .. } | LedgerError::Own { .. }) => StatusCode::CONFLICT,
            DeployError::Ledger(LedgerError::Taken { .. } | LedgerError::Conflict(_)) => StatusCode::CONFLICT,
            DeployError::NotHeld { .. } | DeployError::NotBuilding { .. } => StatusCode::NOT_FOUND,
            DeployError::SlugGone { .. } => StatusCode::CONFLICT,
            DeployError::NoTests | DeployError::TestsRequire(_) | DeployError::TestsFailed { .. } | DeployError::Untested(_) => {
                StatusCode::CONFLICT
            }
            DeployError::Collected { .. } | DeployError::Cancelled(_) | DeployError::BuildDone { .. } => StatusCode::CONFLICT,
            DeployError::ReleasePhase { .. } | DeployError::Start { .. } | DeployError::Required { .. } => StatusCode::CONFLICT,
            DeployError::NotUp { .. } | DeployError::ConfigMoved(_) | DeployError::Destroyed(_) | DeployError::Stopped(_) => {
                StatusCode::CONFLICT
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let hint = e.hint();
        let kind = match &e {
            DeployError::Formation(FormationError::Release)
            | DeployError::Command(_)
            | DeployError::Config(ConfigError::Name(_) | ConfigError::Reserved(_) | ConfigError::Nul(_)) => wire::ProblemKind::Usage,
            DeployError::ConfigMoved(_) => wire::ProblemKind::Moved,
            _ => wire::ProblemKind::Failed,
        };
        Self { status, message: dozen_engine::chain(&e), hint, kind }
    }
}

impl From<LedgerError> for Failure {
    fn from(e: LedgerError) -> Self {
        DeployError::from(e).into()
    }
}

/// What a failure says, for whom JSON says nothing.
#[derive(Clone)]
struct Plain(String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = self.status;
        let plain = self.hint.as_ref().map_or_else(|| self.message.clone(), |hint| format!("{}\n{hint}", self.message));
        let mut response = (status, Json(wire::Problem { message: self.message, hint: self.hint, kind: self.kind })).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(Plain(plain));
        response
    }
}

/// The path of a deploy's routes.
pub(crate) fn path(deploy: &DeployRef, rest: &str) -> String {
    format!("/v1/apps/{}/deploys/{}{rest}", deploy.app, deploy.deploy)
}
