//! Speaking the API: to the process that runs a deploy, or, where none does, to the same routes in this process.

use crate::api::{self, wire};
use crate::running::{self, Holder};
use crate::settings::Settings;
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use dozen_core::disposability::Policy;
use dozen_core::ids::DeployRef;
use dozen_core::port::Domain;
use dozen_engine::concurrency::Site;
use dozen_engine::deploy::Floor;
use dozen_engine::ledger::{Ledger, Principal};
use dozen_engine::logs::Store;
use dozen_engine::parity::{Local, Observed};
use dozen_engine::port::Line;
use dozen_engine::processes::notes::Notes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tokio::sync::Notify;

/// A failure that the API told.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Told {
    /// What went wrong.
    pub(crate) message: String,
    /// What to do.
    pub(crate) hint: Option<String>,
    /// Of what kind it is.
    pub(crate) kind: wire::ProblemKind,
}

impl Told {
    /// An operation that failed.
    pub(crate) fn failed(message: impl Into<String>, hint: Option<String>) -> Self {
        Self { message: message.into(), hint, kind: wire::ProblemKind::Failed }
    }
}

/// One connection.
pub(crate) struct Client {
    /// The deploy it is for.
    pub(crate) deploy: DeployRef,
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    /// What each request shows.
    token: Option<HeaderValue>,
    /// Processes of the deploy run, and nobody runs the deploy.
    left: bool,
}

impl Client {
    /// Connects to whoever runs the deploy, or serves it here.
    pub(crate) async fn connect(settings: &Settings, deploy: DeployRef) -> Result<Self> {
        if let Some(holder) = running::holder(&settings.home, &deploy) {
            return Self::of_holder(settings, deploy, &holder).await;
        }
        let left = running::is_left(&settings.home, &deploy);
        Ok(Self { left, ..Self::here(settings, deploy).await? })
    }

    /// Connects to whoever runs the deploy.
    pub(crate) async fn of_holder(settings: &Settings, deploy: DeployRef, holder: &Holder) -> Result<Self> {
        let connected = running::connect(&settings.home, &deploy).await;
        let (stream, token) = connected.with_context(|| format!("{deploy} is starting or stopping; its API does not answer"))?;
        if token.is_none() && running::holder(&settings.home, &deploy).as_ref() == Some(holder) {
            let message = format!("cannot ask {deploy} ({holder}): somebody has removed the token of its API, which lay beside its socket");
            return Err(Told::failed(message, Some(running::without_api(holder))).into());
        }
        Self::over(deploy, stream, token).await
    }

    /// Connects to whoever runs a one-off: the deploy's `up`, or a `dozen run`.
    pub(crate) async fn of_one_off(settings: &Settings, deploy: DeployRef, number: u32) -> Result<Self> {
        match running::connect_one_off(&settings.home, &deploy, number).await {
            Ok((stream, token)) => Self::over(deploy, stream, token).await,
            Err(_) => Self::connect(settings, deploy).await,
        }
    }

    /// Serves the deploy in this process, whoever else does.
    pub(crate) async fn here(settings: &Settings, deploy: DeployRef) -> Result<Self> {
        let ledger = Ledger::open(&settings.home)?;
        let floor = floor(settings, ledger, &deploy, About::up(&deploy, None, None, false)).await?;
        let served = Arc::new(api::Served {
            floor,
            url: None,
            https_url: None,
            keeper: None,
            lasting: false,
            of_server: false,
            down: Notify::new(),
            leave: Notify::new(),
        });
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let peer = api::Peer { who: Principal::me(), token: None };
        dozen_engine::tasks::spawn("api", api::answer(theirs, api::router(served), peer));
        Self::over(deploy, ours, None).await
    }

    async fn over(
        deploy: DeployRef,
        stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        token: Option<HeaderValue>,
    ) -> Result<Self> {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("cannot speak to the API")?;
        // Its end is seen by whoever waits for an answer.
        dozen_engine::tasks::spawn("client", async move { drop(connection.with_upgrades().await) });
        Ok(Self { deploy, sender, token, left: false })
    }

    /// `GET`
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, rest: &str) -> Result<T> {
        let response = self.send(Method::GET, rest, Bytes::new(), &[]).await?;
        read(response).await
    }

    /// A request with a body.
    pub(crate) async fn call<T: DeserializeOwned>(&mut self, method: Method, rest: &str, body: &impl Serialize) -> Result<T> {
        let response = self.send(method, rest, serde_json::to_vec(body)?.into(), &[]).await?;
        read(response).await
    }

    /// `GET` of a stream.
    pub(crate) async fn stream(&mut self, rest: &str) -> Result<Incoming> {
        Ok(checked(self.send(Method::GET, rest, Bytes::new(), &[]).await?).await?.into_body())
    }

    /// `POST` that turns the connection into something else.
    pub(crate) async fn upgrade(&mut self, rest: &str, protocol: &str, body: &impl Serialize) -> Result<hyper::upgrade::Upgraded> {
        let headers = [(header::UPGRADE, protocol), (header::CONNECTION, "upgrade")];
        let response = self.send(Method::POST, rest, serde_json::to_vec(body)?.into(), &headers).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            checked(response).await?;
            return Err(anyhow!("the API did not switch to {protocol}"));
        }
        hyper::upgrade::on(response).await.context("the connection was not handed over")
    }

    async fn send(
        &mut self,
        method: Method,
        rest: &str,
        body: Bytes,
        headers: &[(header::HeaderName, &str)],
    ) -> Result<Response<Incoming>> {
        let about_processes = method != Method::GET && !rest.starts_with("/runs") || rest.starts_with("/processes");
        if self.left && about_processes {
            let message = format!("{} runs without its control part, which was killed", self.deploy);
            let hint = "`dozen up --detach` takes over what runs, `dozen down` stops it.".to_owned();
            return Err(Told::failed(message, Some(hint)).into());
        }
        let mut request = Request::builder().method(method).uri(api::path(&self.deploy, rest)).header(header::HOST, "dozen.localhost");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token);
        }
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Full::new(body))?;
        // The answer before may have been read to its end a moment before the connection knows.
        self.sender.ready().await.with_context(|| format!("{} has ended", self.deploy))?;
        self.sender.send_request(request).await.with_context(|| format!("{} ended while it was asked", self.deploy))
    }
}

async fn read<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T> {
    let body = checked(response).await?.into_body().collect().await.context("the answer broke off")?.to_bytes();
    serde_json::from_slice(&body).context("the API answered something else than was expected; do both sides run the same dozen?")
}

async fn checked(response: Response<Incoming>) -> Result<Response<Incoming>> {
    let status = response.status();
    if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let body = response.into_body().collect().await.context("the answer broke off")?.to_bytes();
    Err(match serde_json::from_slice::<wire::Problem>(&body) {
        Ok(problem) => Told { message: problem.message, hint: problem.hint, kind: problem.kind }.into(),
        Err(_) => anyhow!("the API answered {status}: {}", String::from_utf8_lossy(&body).trim()),
    })
}

/// How a deploy is to be served.
pub(crate) struct About {
    /// What leads requests to it, where anything does.
    pub(crate) line: Option<Line>,
    /// The names that it has by itself.
    pub(crate) names: Vec<Domain>,
    /// Whether it is the only app, and answers any host name.
    pub(crate) any_host: bool,
    /// Where what it starts is written down that outlives this process.
    pub(crate) lasting: Option<Notes>,
    /// Times.
    pub(crate) policy: Policy,
    /// Whether a formation is kept running.
    pub(crate) serving: bool,
}

impl About {
    /// As `up` does: it serves one app, and whatever name the router is called by, that is meant.
    pub(crate) fn up(deploy: &DeployRef, line: Option<Line>, lasting: Option<Notes>, serving: bool) -> Self {
        let names = Domain::of_app(&deploy.app).into_iter().collect();
        Self { line, names, any_host: true, lasting, policy: Policy::UP, serving }
    }
}

/// Everything that acts on a deploy of this home, with or without a formation to serve.
pub(crate) async fn floor(settings: &Settings, ledger: Ledger, deploy: &DeployRef, about: About) -> Result<Floor> {
    let About { line, names, any_host, lasting, policy, serving } = about;
    let store = Arc::new(Store::open(settings.home.logs(deploy))?);
    let observed = Observed::new(store.clone());
    let uid = ledger.deploy(deploy).await?.map_or_else(|| rustix::process::getuid().as_raw(), |(uid, _)| uid);
    let layers = dozen_engine::processes::isolation(&settings.exe).await;
    if line.is_some() {
        // What it could not do is said by `ps`.
        let _ = dozen_engine::port::guard::probe().await;
    }
    let driver = Local::start(Site {
        exe: settings.exe.clone(),
        home: settings.home.clone(),
        store,
        isolation: layers.isolation,
        uid,
        policy,
        router: line,
        lasting,
        names,
        any_host,
        report: observed.clone(),
    });
    Ok(Floor::new(ledger, deploy.clone(), settings.exe.clone(), driver, observed, serving))
}
