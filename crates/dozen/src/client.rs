//! Speaking the API: to a server elsewhere, to the process that runs a deploy, or, where none does, to the same routes in this process.

use crate::api::{self, wire};
use crate::house::{self, House};
use crate::remote::Remote;
use crate::running::{self, Holder};
use crate::settings::Settings;
use anyhow::{Context, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use dozen_core::disposability::Policy;
use dozen_core::ids::DeployRef;
use dozen_core::port::Domain;
use dozen_engine::concurrency::Site;
use dozen_engine::deploy::Floor;
use dozen_engine::home::Home;
use dozen_engine::ledger::{Ledger, Principal};
use dozen_engine::logs::Store;
use dozen_engine::parity::{Local, Observed};
use dozen_engine::port::Line;
use dozen_engine::processes::notes::Notes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

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

/// How long a server elsewhere may take to begin its answer: a change of releases waits until the new one is up.
const ANSWER: Duration = Duration::from_secs(600);

/// A body that is sent while it is made.
pub(crate) type Sent = mpsc::Receiver<std::io::Result<Bytes>>;

/// A request's body.
type Whatever = UnsyncBoxBody<Bytes, std::io::Error>;

/// One connection for one deploy.
pub(crate) struct Client {
    /// The deploy it is for.
    pub(crate) deploy: DeployRef,
    connection: Connection,
    /// Processes of the deploy run, and nobody runs the deploy.
    /// Then: what helps.
    left: Option<String>,
}

impl Client {
    /// Connects to the server that is chosen, else to whoever runs the deploy, or serves it here.
    pub(crate) async fn connect(settings: &Settings, deploy: DeployRef) -> Result<Self> {
        if let Some(remote) = &settings.remote {
            return Ok(Self { deploy, connection: Connection::to(remote).await?, left: None });
        }
        if let Some(holder) = running::holder(&settings.home, &deploy) {
            return Self::of_holder(settings, deploy, &holder).await;
        }
        let left = running::is_left(&settings.home, &deploy).then(|| running::way_on(&settings.home, &deploy));
        Ok(Self { left, ..Self::here(settings, deploy).await? })
    }

    /// Connects to whoever runs the deploy.
    pub(crate) async fn of_holder(settings: &Settings, deploy: DeployRef, holder: &Holder) -> Result<Self> {
        let connection = Connection::to_holder(settings, &deploy, holder).await?;
        Ok(Self { deploy, connection, left: None })
    }

    /// Connects to whoever runs a one-off: the deploy's `up`, or a `dozen run`.
    pub(crate) async fn of_one_off(settings: &Settings, deploy: DeployRef, number: u32) -> Result<Self> {
        match running::connect_one_off(&settings.home, &deploy, number).await {
            Ok((stream, token)) => {
                let connection = Connection::over(deploy.to_string(), stream, token).await?;
                Ok(Self { deploy, connection, left: None })
            }
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
        let connection = Connection::within(deploy.to_string(), api::router(served)).await?;
        Ok(Self { deploy, connection, left: None })
    }

    /// `GET`
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, rest: &str) -> Result<T> {
        let path = self.path(&Method::GET, rest)?;
        self.connection.get(&path).await
    }

    /// A request with a body.
    pub(crate) async fn call<T: DeserializeOwned>(&mut self, method: Method, rest: &str, body: &impl Serialize) -> Result<T> {
        let path = self.path(&method, rest)?;
        self.connection.call(method, &path, body).await
    }

    /// `GET` of a stream.
    pub(crate) async fn stream(&mut self, rest: &str) -> Result<Incoming> {
        let path = self.path(&Method::GET, rest)?;
        let response = self.connection.send(Method::GET, &path, Bytes::new(), &[]).await?;
        Ok(self.connection.checked(response).await?.into_body())
    }

    /// `POST` of a body of any length, answered by a stream.
    pub(crate) async fn upload(&mut self, rest: &str, kind: &str, body: Sent) -> Result<Incoming> {
        let path = self.path(&Method::POST, rest)?;
        let body = UnsyncBoxBody::new(StreamBody::new(ReceiverStream::new(body).map(|piece| piece.map(Frame::data))));
        let response = self.connection.request(Method::POST, &path, body, &[(header::CONTENT_TYPE, kind)], None).await?;
        Ok(self.connection.checked(response).await?.into_body())
    }

    /// `POST` to a whole path, answered by a stream.
    pub(crate) async fn events(&mut self, path: &str, body: &impl Serialize) -> Result<Incoming> {
        let response = self.connection.send(Method::POST, path, serde_json::to_vec(body)?.into(), &[]).await?;
        Ok(self.connection.checked(response).await?.into_body())
    }

    /// `POST` that turns the connection into something else.
    pub(crate) async fn upgrade(&mut self, rest: &str, protocol: &str, body: &impl Serialize) -> Result<hyper::upgrade::Upgraded> {
        let path = self.path(&Method::POST, rest)?;
        let text = serde_json::to_vec(body)?;
        let mut headers = vec![(header::UPGRADE, protocol), (header::CONNECTION, "upgrade")];
        let in_head = self.connection.remote.as_ref().map(|_| BASE64.encode(&text));
        // A router passes an upgrade on where nothing follows the head.
        if let Some(text) = &in_head {
            if text.len() > api::MAX_RUN_HEAD {
                let hint = "Hand longer data over by standard input.".to_owned();
                bail!(Told::failed("the command and its variables are too long for a server", Some(hint)));
            }
            headers.push((api::RUN_HEAD, text));
        }
        let body = if in_head.is_some() { Bytes::new() } else { text.into() };
        let response = self.connection.send(Method::POST, &path, body, &headers).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            self.connection.checked(response).await?;
            return Err(anyhow!("the API did not switch to {protocol}"));
        }
        hyper::upgrade::on(response).await.context("the connection was not handed over")
    }

    fn path(&self, method: &Method, rest: &str) -> Result<String> {
        let about_processes = *method != Method::GET && !rest.starts_with("/runs") || rest.starts_with("/processes");
        if let Some(hint) = self.left.clone().filter(|_| about_processes) {
            let message = format!("{} runs without its control part, which was killed", self.deploy);
            return Err(Told::failed(message, Some(hint)).into());
        }
        Ok(api::path(&self.deploy, rest))
    }
}

/// What became of a connection that was to be something else.
pub(crate) enum Switched {
    /// That.
    To(hyper::upgrade::Upgraded),
    /// It is what it was; this was answered.
    Not(Response<Incoming>),
}

/// One connection to an API.
pub(crate) struct Connection {
    sender: hyper::client::conn::http1::SendRequest<Whatever>,
    /// What each request shows.
    token: Option<HeaderValue>,
    /// Who answers, for people: a deploy, a server.
    peer: String,
    host: String,
    /// Where to connect to once more: what lies between may close a connection on which nothing is said.
    remote: Option<Remote>,
    /// Of which dozen the last answer was, where it said so.
    version: Option<String>,
}

impl Connection {
    /// To a server elsewhere.
    pub(crate) async fn to(remote: &Remote) -> Result<Self> {
        let mut connection = Self::over(remote.url.to_string(), remote.connect().await?, Some(remote.token.clone())).await?;
        connection.host = remote.url.authority().to_owned();
        connection.remote = Some(remote.clone());
        Ok(connection)
    }

    /// To whoever runs a deploy, or is the server, on this machine.
    pub(crate) async fn to_holder(settings: &Settings, deploy: &DeployRef, holder: &Holder) -> Result<Self> {
        let connected = running::connect(&settings.home, deploy).await;
        let (stream, token) = connected.with_context(|| format!("{deploy} is starting or stopping; its API does not answer"))?;
        if token.is_none() && running::holder(&settings.home, deploy).as_ref() == Some(holder) {
            let message = format!("cannot ask {deploy} ({holder}): somebody has removed the token of its API, which lay beside its socket");
            return Err(Told::failed(message, Some(running::without_api(holder))).into());
        }
        Self::over(deploy.to_string(), stream, token).await
    }

    /// To these routes in this process.
    pub(crate) async fn within(peer: String, router: axum::Router) -> Result<Self> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        dozen_engine::tasks::spawn("api", api::answer(theirs, router, api::Peer { who: Principal::me(), token: None }));
        Self::over(peer, ours, None).await
    }

    /// To the server of a home, on this machine.
    pub(crate) async fn of_server(home: &Home) -> Result<Self> {
        let (stream, token) = running::connect(home, &house::itself()).await.context("there is none")?;
        Self::over("the server".to_owned(), stream, token).await
    }

    /// `POST` that turns the connection into something else, where the other side wants that.
    pub(crate) async fn switch(&mut self, path: &str, protocol: &str, head: (&'static str, &str)) -> Result<Switched> {
        let headers = [(header::UPGRADE, protocol), (header::CONNECTION, "upgrade"), (header::HeaderName::from_static(head.0), head.1)];
        let response = self.send(Method::POST, path, Bytes::new(), &headers).await?;
        let response = self.checked(response).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Switched::Not(response));
        }
        Ok(Switched::To(hyper::upgrade::on(response).await.context("the connection was not handed over")?))
    }

    async fn over(
        peer: String,
        stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        token: Option<HeaderValue>,
    ) -> Result<Self> {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("cannot speak to the API")?;
        // Its end is seen by whoever waits for an answer.
        dozen_engine::tasks::spawn("client", async move { drop(connection.with_upgrades().await) });
        Ok(Self { sender, token, peer, host: "dozen.localhost".to_owned(), remote: None, version: None })
    }

    /// `GET`
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        let response = self.send(Method::GET, path, Bytes::new(), &[]).await?;
        self.read(response).await
    }

    /// A request with a body.
    pub(crate) async fn call<T: DeserializeOwned>(&mut self, method: Method, path: &str, body: &impl Serialize) -> Result<T> {
        let response = self.send(method, path, serde_json::to_vec(body)?.into(), &[]).await?;
        self.read(response).await
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        headers: &[(header::HeaderName, &str)],
    ) -> Result<Response<Incoming>> {
        let json = [(header::CONTENT_TYPE, "application/json")];
        let headers: Vec<_> = json.into_iter().filter(|_| !body.is_empty()).chain(headers.iter().cloned()).collect();
        let body = UnsyncBoxBody::new(Full::new(body).map_err(|never| match never {}));
        self.request(method, path, body, &headers, Some(ANSWER)).await
    }

    /// `patience`: for how long a server elsewhere is waited for; who sends it much waits as long as that takes.
    async fn request(
        &mut self,
        method: Method,
        path: &str,
        body: Whatever,
        headers: &[(header::HeaderName, &str)],
        patience: Option<Duration>,
    ) -> Result<Response<Incoming>> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.host);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token);
        }
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(body)?;
        // The answer before may have been read to its end a moment before the connection knows.
        if self.sender.ready().await.is_err() {
            match self.remote.take() {
                Some(remote) => *self = Self::to(&remote).await?,
                None => bail!("{} has ended", self.peer),
            }
        }
        let answer = self.sender.send_request(request);
        let answer = match patience.filter(|_| self.remote.is_some()) {
            None => answer.await,
            Some(patience) => tokio::time::timeout(patience, answer)
                .await
                .map_err(|_| Told::failed(format!("{} did not answer within {} s", self.peer, patience.as_secs()), None))?,
        };
        let response = answer.with_context(|| format!("{} ended while it was asked", self.peer))?;
        self.version = response.headers().get(api::VERSION).and_then(|v| v.to_str().ok()).map(str::to_owned);
        Ok(response)
    }

    async fn read<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T> {
        let body = self.checked(response).await?.into_body().collect().await.context("the answer broke off")?.to_bytes();
        serde_json::from_slice(&body).with_context(|| match self.other_version() {
            Some(other) => format!("{other}, and answered something else than was expected"),
            None => "the API answered something else than was expected; do both sides run the same dozen?".to_owned(),
        })
    }

    async fn checked(&self, response: Response<Incoming>) -> Result<Response<Incoming>> {
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let body = response.into_body().collect().await.context("the answer broke off")?.to_bytes();
        Err(match (serde_json::from_slice::<wire::Problem>(&body), &self.remote) {
            (Ok(problem), _) => {
                // What the other side does not know it may know in another version.
                let unknown = matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::UNPROCESSABLE_ENTITY);
                let other = self.other_version().filter(|_| unknown && problem.hint.is_none()).map(|other| format!("{other}."));
                Told { message: problem.message, hint: problem.hint.or(other), kind: problem.kind }.into()
            }
            (Err(_), Some(_)) if self.version.is_none() => {
                let message = format!("{} answered {status}, and not as a dozen server does", self.peer);
                let hint =
                    "Is it the URL that `dozen server` prints, and does it run? `dozen login URL` says which one is meant.".to_owned();
                Told::failed(message, Some(hint)).into()
            }
            _ => {
                let other = self.other_version().map_or_else(String::new, |other| format!(" ({other})"));
                anyhow!("the API answered {status}{other}: {}", String::from_utf8_lossy(&body).trim())
            }
        })
    }

    fn other_version(&self) -> Option<String> {
        let (theirs, ours) = (self.version.as_deref()?, env!("CARGO_PKG_VERSION"));
        (theirs != ours).then(|| format!("{} runs dozen {theirs}, and this is {ours}", self.peer))
    }
}

/// Connects for what is no deploy's: to the server that is chosen, to the one that runs here, else to its routes in this process.
pub(crate) async fn platform(settings: &Settings) -> Result<Connection> {
    if let Some(remote) = &settings.remote {
        return Connection::to(remote).await;
    }
    let itself = house::itself();
    if let Some(holder) = running::holder(&settings.home, &itself) {
        return Connection::to_holder(settings, &itself, &holder).await;
    }
    let house = House::closed(settings.clone(), Ledger::open(&settings.home)?);
    Connection::within("dozen".to_owned(), api::platform::local(&house, None)).await
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
        counts: observed.counts().clone(),
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
