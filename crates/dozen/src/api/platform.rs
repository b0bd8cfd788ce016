//! A server's own routes, beside those of its deploys: apps and deploys made and destroyed, and who one is. Reached by way of the router.
//!
//! **Invariant:** whoever comes by the router is nobody until they have shown a token.

use super::git::Pushes;
use super::{Deploys, Failure, wire};
use crate::client::Told;
use crate::house::{self, Addresses, House};
use crate::running::AlreadyRunning;
use anyhow::{Context, Result};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Extension, Json, Router};
use dozen_core::admin::people::Need;
use dozen_core::ids::{AppName, DeployName, DeployRef, Generation, Version};
use dozen_core::port::{Backend, Domain, Manners, Route, Web};
use dozen_engine::deploy::DeployError;
use dozen_engine::ledger::{Identity, Intent, LedgerError, Principal, TooOften};
use dozen_engine::port::ca::{self, Authority};
use dozen_engine::port::lease::Lease;
use dozen_engine::port::{Led, Line, Supply, Switchboard};
use jiff::Timestamp;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A change of releases is answered when it is done: a release phase may take an hour, and what it waits for besides.
const PATIENCE: Duration = Duration::from_secs(2 * 3_600);
/// What could not be renewed is tried again after so long.
const HOUR: Duration = Duration::from_secs(3_600);
/// A request's body is small: names at most.
const MAX_BODY: usize = 64 * 1024;

pub(super) type Here = State<Arc<House>>;
pub(super) type Who = Extension<Principal>;
type Answer<T> = Result<Json<T>, Failure>;

/// Answers requests that the router leads to the API's host, and the hooks of what is pushed there, until both tasks are ended.
pub(crate) async fn open(house: &Arc<House>, board: &Switchboard, itself: &DeployRef) -> Result<(Pushes, [JoinHandle<()>; 2])> {
    // A port as instances have one: where the host lets dozen guard it, nobody but the router reaches it.
    let mut lease = Lease::take().context("no port of dozen's range is free")?;
    let port = lease.port();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.context("cannot listen")?;
    let _ = dozen_engine::port::guard::probe().await;
    Lease::shut(std::iter::once(&mut lease), rustix::process::getuid().as_raw()).await;
    let host = house.addresses().map(|addresses| addresses.api_host.as_str()).unwrap_or_default();
    let domain: Domain = host.parse().context("the API's host")?;
    let web = Web::Ready(vec![Backend { instance: "api".to_owned(), port, release: Version(0), weight: 1 }]);
    let manners = Manners { first_byte: Some(PATIENCE), of_control: true, ..Manners::default() };
    let route = Arc::new(Route { deploy: itself.clone(), web, manners });
    let mut line = board.line(itself.clone());
    line.lead(Led { own: vec![domain], added: Vec::new(), route, any_host: false }, Generation(1));
    let mut shown = None;
    if house.addresses().is_some_and(|addresses| addresses.https_port.is_some()) {
        shown = certify(house, &mut line)?;
    }
    let (pushes, hooks) = Pushes::open(house).context("cannot take pushes in")?;
    let (router, here) = (public(house.clone(), pushes.clone()), house.clone());
    let api = dozen_engine::tasks::spawn("public api", async move {
        let _lease = lease;
        loop {
            tokio::select! {
                // What the router tells of the API needs no answer: there is one instance of it, here.
                _ = line.next() => {}
                () = until(shown) => shown = certify(&here, &mut line).unwrap_or_else(|_| Some(Timestamp::now() + HOUR)),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(dozen_engine::tasks::spawn("public api", super::answer_any(stream, router.clone()))),
                    // Out of descriptors, most likely; others will be given back.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                },
            }
        }
    });
    Ok((pushes, [api, hooks]))
}

/// Has TLS know the API's host, where nobody has that on the Internet; answers when that is to be done again. A host that others have too is known
/// by what `dozen certs` was given for it.
fn certify(house: &House, line: &mut Line) -> Result<Option<Timestamp>> {
    let Some(name) = house.addresses().map(|addresses| addresses.api_host.clone()).filter(|name| ca::may_certify(name)) else {
        return Ok(None);
    };
    let certificate = Authority::open(&house.settings.home)?.issue(&[name], Timestamp::now())?;
    let again = ca::renewal(&certificate);
    line.certify(Arc::new(Supply { certificates: vec![certificate], proofs: Vec::new() }));
    Ok(Some(again))
}

async fn until(at: Option<Timestamp>) {
    match at {
        Some(at) => tokio::time::sleep(at.duration_since(Timestamp::now()).try_into().unwrap_or_default()).await,
        None => std::future::pending().await,
    }
}

/// For who comes by the router, and is known by a token.
fn public(house: Arc<House>, pushes: Pushes) -> Router {
    let known = axum::middleware::from_fn_with_state(house.clone(), known);
    let git = super::git::routes(pushes.clone()).merge(super::ssh::routes(pushes));
    named(routes(house).merge(git).layer(known))
}

/// For who is on this machine, and is known as peers of a deploy's own API are; where pushes are taken in, also for who comes by SSH.
pub(crate) fn local(house: &Arc<House>, pushes: Option<Pushes>) -> Router {
    let deploys: Arc<dyn Deploys> = Arc::new(house.clone());
    let owner = axum::middleware::from_fn_with_state(house.clone(), owner);
    let all = pushes.into_iter().fold(routes(house.clone()), |all, pushes| all.merge(super::ssh::routes(pushes)));
    named(all.layer(owner).layer(axum::middleware::from_fn_with_state(deploys, super::known)))
}

/// Nobody on this machine but the home's owner, who has shown that they are.
async fn owner(State(house): Here, Extension(who): Who, request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    match house.ledger.authorise(&who, "use this server", Need::Host) {
        Ok(()) => next.run(request).await,
        Err(e) => Failure::from(e).into_response(),
    }
}

/// Every answer says of which dozen it is.
fn named(router: Router) -> Router {
    router.layer(axum::middleware::map_response(async |mut response: Response| {
        response.headers_mut().insert(super::VERSION, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
        response
    }))
}

fn routes(house: Arc<House>) -> Router {
    let deploys: Arc<dyn Deploys> = Arc::new(house.clone());
    let own = Router::new()
        .route("/v1/openapi.json", get(specification))
        .route("/v1/account", get(account))
        .route("/v1/apps", get(apps).post(create_app))
        .route("/v1/apps/{app}", delete(destroy_app))
        .route("/v1/apps/{app}/deploys", get(deploys_of).post(create_deploy))
        .route("/v1/apps/{app}/deploys/{deploy}", delete(destroy_deploy))
        .merge(super::people::routes())
        .merge(super::slugs::routes())
        .merge(super::keys::routes())
        .merge(super::upgrade::routes())
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::map_response(super::refusals::told))
        .with_state(house);
    super::of_deploys(deploys).merge(own).fallback(nothing)
}

/// The API, for programs.
async fn specification() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("../../../../docs/openapi.json")).into_response()
}

pub(super) async fn nothing() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "there is no such route; do both sides run the same dozen?")
}

/// Who asks, by the token that they show. Whoever shows many that are not known has to wait before the next is looked at.
async fn known(house: Here, request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    let agent = request.headers().get(header::USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"git/"));
    let by_git = agent || request.uri().path().contains(".git/");
    let mut response = look(house, request, next).await;
    if !by_git {
        return response;
    }
    // git asks once more with what it knows only where it is asked for that, and shows its person plain text alone.
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"dozen\""));
    }
    if let Some(super::Plain(text)) = response.extensions_mut().remove() {
        let text = axum::body::Body::from(format!("{text}\n"));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = text;
    }
    response
}

async fn look(State(house): Here, mut request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    let from = asked_from(request.headers());
    let Some(token) = super::token::shown_in(request.headers()) else { return nobody("This needs a token").into_response() };
    let now = jiff::Timestamp::now();
    // The router always says it; without it all are one.
    let address = from.as_deref().and_then(|from| from.parse().ok()).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let tries = || house.tries.lock().unwrap_or_else(PoisonError::into_inner);
    let checked = tries().check(address, now);
    if let Err(too_often) = checked {
        return wait(&too_often);
    }
    match house.ledger.who_shows(&token, from.as_deref(), now).await {
        Ok(Some(who)) => {
            tries().succeeded(address, now);
            request.extensions_mut().insert(who);
            next.run(request).await
        }
        Ok(None) => {
            tries().failed(address, now);
            nobody("This token is not known here, has ended or was revoked").into_response()
        }
        Err(e) => Failure::from(DeployError::from(e)).into_response(),
    }
}

fn wait(too_often: &TooOften) -> Response {
    let mut response = Failure::new(StatusCode::TOO_MANY_REQUESTS, too_often.to_string()).into_response();
    // Rounded up: a little early is too early.
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(too_often.retry_after.as_secs().max(0).unsigned_abs() + 1));
    response
}

/// The address that the router saw: it is the last that it adds.
fn asked_from(headers: &HeaderMap) -> Option<String> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    last.rsplit(',').next().map(|address| address.trim().to_owned())
}

fn nobody(message: &str) -> Failure {
    let hint =
        "`dozen login URL` shows dozen your token; who runs the server gives you one. `--server local` asks this machine's own dozen."
            .to_owned();
    Failure { hint: Some(hint), ..Failure::new(StatusCode::UNAUTHORIZED, message) }
}

#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/account",
    tag = "people",
    summary = "Who one is",
    responses((status = 200, description = "Done", body = wire::Account))
))]
async fn account(State(house): Here, Extension(who): Who) -> Answer<wire::Account> {
    let admin = !matches!(&who.identity, Identity::User { user, .. } if !user.admin);
    let url = house.addresses().map(Addresses::api);
    let ssh = house.addresses().and_then(|addresses| addresses.ssh.clone());
    Ok(Json(wire::Account { user: who.name, admin, server: env!("CARGO_PKG_VERSION").to_owned(), url, ssh }))
}

#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps",
    tag = "apps",
    summary = "The apps that one may see, with their deploys",
    responses((status = 200, description = "Done", body = wire::Apps))
))]
async fn apps(State(house): Here, Extension(who): Who) -> Answer<wire::Apps> {
    let mut apps = Vec::new();
    for row in house.ledger.apps_of(&who).await? {
        let deploys = shown(&house, &row.name).await?;
        apps.push(wire::App { name: row.name.to_string(), deploys });
    }
    Ok(Json(wire::Apps { apps }))
}

#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys",
    tag = "apps",
    summary = "The deploys of an app",
    responses((status = 200, description = "Done", body = wire::App))
))]
async fn deploys_of(State(house): Here, Extension(who): Who, Path(app): Path<String>) -> Answer<wire::App> {
    let app = app_of(&house, &who, &app, Need::View).await?;
    Ok(Json(wire::App { name: app.to_string(), deploys: shown(&house, &app).await? }))
}

/// An app that there is, asked for by who may do to it what needs this.
pub(super) async fn app_of(house: &House, who: &Principal, app: &str, need: fn(AppName) -> Need) -> Result<AppName, Failure> {
    let app: AppName = app.parse().map_err(|e| Failure::usage(format!("{e}")))?;
    house.ledger.authorise(who, "use this app", need(app.clone()))?;
    match house.ledger.apps().await?.iter().any(|row| row.name == app) {
        true => Ok(app),
        // What is said to who may not see it, too.
        false => Err(LedgerError::NotFound(format!("there is no app {app}")).into()),
    }
}

async fn shown(house: &House, app: &AppName) -> Result<Vec<wire::Deploy>, Failure> {
    let mut all = Vec::new();
    for row in house.ledger.deploys_of(app).await? {
        let release = house.ledger.current(&row.deploy).await?;
        let (url, https_url) = house.addresses().map_or((None, None), |addresses| addresses.urls(&row.deploy));
        all.push(wire::Deploy {
            name: row.deploy.to_string(),
            serving: house.served(&row.deploy).is_some(),
            release: release.map(|v| v.to_string()),
            url,
            https_url,
            expires: row.expires.map(|at| at.to_string()),
            branch: row.branch,
        });
    }
    Ok(all)
}

#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps",
    tag = "apps",
    summary = "Create an app with its production",
    request_body = wire::CreateApp,
    responses((status = 200, description = "Done", body = wire::App))
))]
async fn create_app(State(house): Here, Extension(who): Who, Json(body): Json<wire::CreateApp>) -> Answer<wire::App> {
    let app: AppName = body.name.parse().map_err(|e| Failure::usage(format!("{e}")))?;
    let deploy = house::production(&app);
    carried(async move {
        house.ledger.commit(&who, Intent::CreateApp { app: app.clone() }).await?;
        let made = make(&house, &who, deploy, None, None, None).await?;
        Ok(Json(wire::App { name: app.to_string(), deploys: vec![made] }))
    })
    .await
}

#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys",
    tag = "apps",
    summary = "Create a deploy of an app",
    request_body = wire::CreateDeploy,
    responses((status = 200, description = "Done", body = wire::Deploy))
))]
async fn create_deploy(
    State(house): Here,
    Extension(who): Who,
    Path(app): Path<String>,
    Json(body): Json<wire::CreateDeploy>,
) -> Answer<wire::Deploy> {
    let deploy = DeployRef { app: app.parse().map_err(|e| Failure::usage(format!("{e}")))?, deploy: name(&body.name)? };
    let like = body.from.map(|from| Ok::<_, Failure>(DeployRef { app: deploy.app.clone(), deploy: name(&from)? })).transpose()?;
    let until = body.ttl_seconds.map(|seconds| jiff::Timestamp::now() + Duration::from_secs(seconds.min(10 * 366 * 86_400)));
    app_of(&house, &who, &app, Need::Deploy).await?;
    carried(async move { Ok(Json(make(&house, &who, deploy, like, until, body.branch).await?)) }).await
}

/// Goes on to its end, though whoever asked for it may have gone: nothing is to be made or destroyed by half.
async fn carried<T: Send + 'static>(work: impl Future<Output = Result<T, Failure>> + Send + 'static) -> Result<T, Failure> {
    let done = dozen_engine::tasks::spawn("change", work).await;
    done.map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the change ended early: {e}")))?
}

async fn make(
    house: &House,
    who: &Principal,
    deploy: DeployRef,
    like: Option<DeployRef>,
    expires: Option<jiff::Timestamp>,
    branch: Option<String>,
) -> Result<wire::Deploy, Failure> {
    let create = Intent::CreateDeploy { deploy: deploy.clone(), like, expires, branch };
    house.ledger.commit(who, create).await?;
    house.open(&deploy).await.map_err(inside)?;
    let made = shown(house, &deploy.app).await?.into_iter().find(|row| row.name == deploy.to_string());
    made.ok_or_else(|| LedgerError::NotFound(format!("there is no deploy {deploy}")).into())
}

fn inside(e: anyhow::Error) -> Failure {
    let e = match e.downcast::<LedgerError>() {
        Ok(e) => return e.into(),
        Err(e) => e,
    };
    let status = if e.is::<AlreadyRunning>() || e.is::<Told>() { StatusCode::CONFLICT } else { StatusCode::INTERNAL_SERVER_ERROR };
    Failure { hint: crate::cli::hint_of(&e), ..Failure::new(status, dozen_engine::chain(&*e)) }
}

#[cfg_attr(test, utoipa::path(
    delete,
    path = "/v1/apps/{app}/deploys/{deploy}",
    tag = "apps",
    summary = "Destroy a deploy",
    responses((status = 200, description = "Done", body = wire::Destroyed))
))]
async fn destroy_deploy(State(house): Here, Extension(who): Who, Path((app, deploy)): Path<(String, String)>) -> Answer<wire::Destroyed> {
    let deploy = DeployRef { app: app.parse().map_err(|e| Failure::usage(format!("{e}")))?, deploy: name(&deploy)? };
    carried(async move {
        destroy(&house, &who, &deploy).await?;
        Ok(Json(wire::Destroyed { destroyed: deploy.to_string() }))
    })
    .await
}

async fn destroy(house: &House, who: &Principal, deploy: &DeployRef) -> Result<(), Failure> {
    house.ledger.authorise(who, "destroy a deploy", Need::Own(deploy.app.clone()))?;
    if house.ledger.deploy(deploy).await?.is_none() {
        return Err(LedgerError::NotFound(format!("there is no deploy {deploy}")).into());
    }
    house.destroy(who, deploy).await.map_err(inside)
}

#[cfg_attr(test, utoipa::path(
    delete,
    path = "/v1/apps/{app}",
    tag = "apps",
    summary = "Destroy an app with all of its deploys",
    responses((status = 200, description = "Done", body = wire::Destroyed))
))]
async fn destroy_app(State(house): Here, Extension(who): Who, Path(app): Path<String>) -> Answer<wire::Destroyed> {
    let app = app_of(&house, &who, &app, Need::Own).await?;
    carried(async move {
        for deploy in house.ledger.deploys().await?.into_iter().filter(|deploy| deploy.app == app) {
            destroy(&house, &who, &deploy).await?;
        }
        house.destroy_app(&who, &app).await.map_err(inside)?;
        Ok(Json(wire::Destroyed { destroyed: app.to_string() }))
    })
    .await
}

fn name(text: &str) -> Result<DeployName, Failure> {
    text.parse().map_err(|e| Failure::usage(format!("{e}")))
}
