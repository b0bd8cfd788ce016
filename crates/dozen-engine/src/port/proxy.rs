//! One client's connection, served: the only function here that others call is [`serve`], and behind it the engine could be another.
//!
//! A request is checked, led to an instance by the table of this moment, sent, and its answer streamed back. What each step refuses is a
//! [`Refusal`], which becomes a page and a log line.

use super::control::Limits;
use super::crowd::{Crowd, Guest};
use super::fleet::Fleet;
use super::gate::{Doorbell, Gate};
use super::log::{Folder, Journal, Record};
use super::manners;
use super::pages::{Code, Refusal, page};
use super::pool::{Lease, Pool, Unreachable};
use super::stream::{Answer, ClientSocket, Flow, Progress, Reply, Traffic, Upload};
use super::tls::{Shown, Store};
use super::wire::FromRouter;
use choose::{Asks, Led, Turned, choose, quarantine};
use dozen_core::port::{Manners, RouteTable};
use head::{check, forwarded, request_id, rewrite_request, rewrite_response, target_host, wants_upgrade};
use http::header::{ACCEPT, CONTENT_LENGTH, STRICT_TRANSPORT_SECURITY, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use kept::{Life, keep};
use std::collections::HashSet;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tunnel::tunnel;

mod choose;
mod head;
mod http2;
pub(super) mod kept;
mod refused;
mod tunnel;

/// Below this an authority looks for what it asked to be put there (RFC 8555, 8.3).
const PROOFS: &str = "/.well-known/acme-challenge/";

/// What all workers share.
pub(super) struct Shared {
    pub(super) started: Instant,
    pub(super) limits: Limits,
    /// The epoch of the table that requests are to be led by.
    pub(super) epoch: AtomicU64,
    /// Requests that wait for an app's start.
    pub(super) waiting: AtomicUsize,
    pub(super) events: mpsc::UnboundedSender<FromRouter>,
    pub(super) crowd: Arc<Crowd>,
    /// The port of HTTPS, where the router listens for it.
    pub(super) https: Option<u16>,
}

/// Whether a worker takes new connections, and what becomes of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stopping {
    No,
    /// A successor takes them. One that idles may ask once more, since its client cannot know.
    Yielding,
    /// One that idles is closed.
    Now,
}

/// One worker.
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    pub(super) table: watch::Receiver<Arc<Live>>,
    pub(super) store: watch::Receiver<Arc<Store>>,
    pub(super) stopping: watch::Receiver<Stopping>,
    pub(super) pool: Rc<Pool>,
    pub(super) journal: Rc<Journal>,
    /// Takes what an answered request has not said yet.
    pub(super) leftovers: mpsc::UnboundedSender<Incoming>,
    /// Closed when the last connection or tunnel drops this core; the worker then ends.
    pub(super) _alive: mpsc::Sender<Infallible>,
}

/// The table of this moment.
pub(super) struct Live {
    /// Counts the tables that were applied; two of them may be of one generation.
    pub(super) epoch: u64,
    pub(super) table: RouteTable<Place>,
}

impl Live {
    /// The instances that it leads to.
    pub(super) fn ids(&self) -> HashSet<u64> {
        let ready = self.table.routes().filter_map(|(_, place)| match &place.web {
            Stand::Ready(fleet) => Some(fleet.targets()),
            Stand::Starting | Stand::Held | Stand::Crashed | Stand::None => None,
        });
        ready.flatten().map(|target| target.id).collect()
    }
}

/// A route with the router's own knowledge.
pub(super) struct Place {
    pub(super) deploy: String,
    pub(super) log: Folder,
    pub(super) web: Stand,
    pub(super) manners: Manners,
    /// What browsers are told of coming by HTTPS only.
    pub(super) hsts: Option<HeaderValue>,
}

impl Place {
    pub(super) fn new(deploy: String, log: Folder, web: Stand, manners: Manners) -> Self {
        let hsts = manners.hsts.and_then(|hsts| HeaderValue::from_str(&format!("max-age={}", hsts.as_secs())).ok());
        Self { deploy, log, web, manners, hsts }
    }
}

/// [`dozen_core::port::Web`] with counted instances.
pub(super) enum Stand {
    Ready(Fleet),
    Starting,
    Held,
    Crashed,
    None,
}

/// How a connection came.
pub(super) struct Entry {
    pub(super) peer: IpAddr,
    /// The public port.
    pub(super) port: u16,
    /// Whether it is encrypted.
    pub(super) tls: bool,
    /// Counts it as long as it is there.
    pub(super) guest: Guest,
    /// The certificate that the client asked for by the name of its host.
    pub(super) shown: Option<Arc<Shown>>,
    /// Whether HTTP/2 was agreed on.
    pub(super) http2: bool,
}

/// What is the same for every request of a connection.
struct Client {
    peer: IpAddr,
    address: String,
    port: HeaderValue,
    scheme: HeaderValue,
    tls: bool,
    shown: Option<Arc<Shown>>,
    stalled: Arc<AtomicBool>,
    bell: Arc<Doorbell>,
    traffic: Arc<Traffic>,
    life: Rc<Life>,
}

impl Client {
    /// Whether it is one of the proxies that the deploy trusts. It is not where it is not known whose request it is.
    fn is_trusted(&self, record: &Record) -> bool {
        record.place.as_ref().is_some_and(|place| manners::trusts(&place.manners, self.peer))
    }

    /// Whether a request came by HTTPS, to the router or to a trusted proxy.
    fn is_secure(&self, record: &Record, headers: &HeaderMap) -> bool {
        self.tls || self.is_trusted(record) && manners::came_by_https(headers)
    }
}

/// Serves one client's connection to its end, or until the router stops and what is in flight is answered.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(core: Rc<Core>, socket: S, entry: Entry) {
    let (stalled, limits) = (Arc::new(AtomicBool::new(false)), core.shared.limits);
    let client = Rc::new(Client {
        peer: entry.peer,
        address: entry.peer.to_string(),
        port: HeaderValue::from(entry.port),
        scheme: HeaderValue::from_static(if entry.tls { "https" } else { "http" }),
        tls: entry.tls,
        shown: entry.shown,
        stalled: stalled.clone(),
        bell: Arc::default(),
        traffic: Arc::default(),
        life: Life::new(),
    });
    let mut socket = ClientSocket::new(socket, &limits, stalled, client.traffic.clone());
    if entry.http2 {
        socket.roomy = true;
        // Counted to its end.
        let _guest = entry.guest;
        // In a box: what speaks HTTP/1 does not hold the room for it.
        return Box::pin(http2::serve(core, client, socket)).await;
    }
    let gate = Gate::new(socket, &limits, client.bell.clone(), entry.guest);
    keep(core, client, gate).await;
}

/// A handshake ended because there is no certificate for this name; whose it would be is told.
pub(super) fn unrecognized(core: &Core, entry: &Entry, name: &str) {
    let Some(place) = core.table.borrow().table.lookup(name, "/").cloned() else { return };
    let mut record = Record::new(core.journal.clone(), Method::from_bytes(b"-").unwrap_or_default(), String::new());
    (record.place, record.tls) = (Some(place), true);
    record.host = name.to_owned();
    record.forwarded = entry.peer.to_string();
    record.fail(Code::H32, Code::H32.status());
}

async fn answer(core: Rc<Core>, client: Rc<Client>, request: Request<Incoming>) -> Response<Reply> {
    let number = client.bell.begin();
    if let Some((fault, about)) = client.bell.refused(number) {
        return refused::answer(&core, &client, fault, about);
    }
    let path = request.uri().path_and_query().map_or_else(String::new, |p| p.as_str().to_owned());
    // An authority that looks whether a host leads here. Whatever is not its business is the app's.
    if let Some(token) = path.strip_prefix(PROOFS)
        && let Some(proof) = core.store.borrow().proof(token)
    {
        return Response::new(Reply::Page(Full::new(proof)));
    }
    let mut record = Record::new(core.journal.clone(), request.method().clone(), path);
    record.request_id = request_id(request.headers());
    record.forwarded = forwarded(request.headers(), &client.address);
    record.tls = client.tls;
    let http2 = request.version() == Version::HTTP_2;
    // What a page needs of the request, should there be one; the request itself is given away.
    let accept = request.headers().get(ACCEPT).cloned();
    let id = record.request_id.clone();
    let led = lead(&core, &client, request, record).await;
    client.bell.decide(number, led.as_ref().is_ok_and(|response| response.status() == StatusCode::SWITCHING_PROTOCOLS));
    match led {
        Ok(response) => response,
        Err((refusal, mut record)) => {
            let accept: HeaderMap = accept.map(|v| (ACCEPT, v)).into_iter().collect();
            let place = record.place.as_deref();
            let mut response = page(refusal, &accept, &id, place.map(|place| &place.manners));
            if client.tls
                && let Some(hsts) = place.and_then(|place| place.hsts.clone())
            {
                response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, hsts);
            }
            let head = record.method == Method::HEAD;
            record.bytes = if head { 0 } else { response.body().len() as u64 };
            if head && http2 {
                // Of HTTP/1 hyper leaves the body out itself.
                let length = HeaderValue::from(response.body().len());
                response.headers_mut().insert(CONTENT_LENGTH, length);
                *response.body_mut() = bytes::Bytes::new();
            }
            let gone = matches!(refusal.code, Code::H27 | Code::H28);
            record.fail(refusal.code, if gone { refusal.code.status() } else { refusal.status });
            response.map(|body| Reply::Page(Full::new(body)))
        }
    }
}

type Refused = (Refusal, Record);

async fn lead(core: &Rc<Core>, client: &Client, request: Request<Incoming>, mut record: Record) -> Result<Response<Reply>, Refused> {
    let (parts, body) = request.into_parts();
    let (upload, uploaded) = Upload::new(body, core.shared.limits.idle, client.life.clone(), core.leftovers.clone());
    let mut request = Request::from_parts(parts, upload);
    let host = match target_host(&request) {
        Ok(host) => host,
        Err(refusal) => {
            // Without a host that makes sense, only a fallback can say whose log it is.
            record.place.clone_from(&core.table.borrow().table.fallback);
            record.reason = Some("the host is no name or address");
            return Err((refusal, record));
        }
    };
    record.host = host;
    if let Err(refusal) = check(&request, client.shown.as_deref(), &record.host) {
        record.place = core.table.borrow().table.lookup(&record.host, &record.path).cloned();
        record.reason = (refusal.status == StatusCode::EXPECTATION_FAILED).then_some("nothing can be expected but 100-continue");
        return Err((refusal, record));
    }
    let asks = Asks { headers: request.headers(), client, refused: None };
    let Led { mut busy, mut remember } = match choose(core, &mut record, asks).await {
        Ok(led) => led,
        Err(Turned::Away(refusal)) => return Err((refusal, record)),
        Err(Turned::Elsewhere(port)) => return to_https(port, &mut record).map_err(|refusal| (refusal, record)),
    };
    let secure = client.is_secure(&record, request.headers());
    record.tls = secure;

    let upgrade = wants_upgrade(&request);
    let on_client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    rewrite_request(&mut request, client, &record, upgrade.as_ref());

    let mut refused_once = false;
    let mut fresh = false;
    let (mut response, lease) = loop {
        record.dyno.clone_from(&busy.target().instance);
        let pooled = if fresh { None } else { core.pool.take(busy.target().id) };
        let reused = pooled.is_some();
        let mut lease = match pooled {
            Some(lease) => {
                record.connect = Some(Duration::ZERO);
                lease
            }
            None => {
                let since = Instant::now();
                // In a box: a request that finds a connection, as most do, is not to hold the room for this.
                match Box::pin(core.pool.connect(busy.target(), core.shared.limits.connect)).await {
                    Ok(lease) => {
                        record.connect = Some(since.elapsed());
                        lease
                    }
                    Err(Unreachable::Refused) => {
                        quarantine(core, busy.target());
                        if refused_once {
                            return Err((Code::H21.into(), record));
                        }
                        refused_once = true;
                        let avoid = busy.target().id;
                        drop(busy);
                        let asks = Asks { headers: request.headers(), client, refused: Some(avoid) };
                        match choose(core, &mut record, asks).await {
                            Ok(led) => Led { busy, remember } = led,
                            Err(Turned::Away(refusal)) => return Err((refusal, record)),
                            Err(Turned::Elsewhere(port)) => return to_https(port, &mut record).map_err(|refusal| (refusal, record)),
                        }
                        continue;
                    }
                    Err(Unreachable::Timeout) => return Err((Code::H19.into(), record)),
                    Err(Unreachable::Other) => return Err((Code::H99.into(), record)),
                }
            }
        };
        match send(&mut lease, request, &uploaded, &core.shared.limits).await {
            Ok(response) => break (response, lease),
            Err(Unsent::Request(again)) if reused => {
                // The instance had closed the connection; nothing of this request was written to it.
                request = *again;
                fresh = true;
            }
            Err(Unsent::Request(_)) => return Err((Code::H13.into(), record)),
            Err(Unsent::Failed(code)) => return Err((code.into(), record)),
        }
    };

    let status = response.status();
    if remember {
        manners::remember(response.headers_mut(), busy.target().release, secure);
    }
    if secure
        && let Some(hsts) = record.place.as_ref().and_then(|place| place.hsts.clone())
        && !response.headers().contains_key(STRICT_TRANSPORT_SECURITY)
    {
        response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, hsts);
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let Some(on_client) = on_client else { return Err((Code::H17.into(), record)) };
        let on_server = hyper::upgrade::on(&mut response);
        let protocol = response.headers().get(UPGRADE).cloned();
        rewrite_response(response.headers_mut(), protocol.as_ref());
        record.complete(status);
        tokio::task::spawn_local(tunnel(core.clone(), on_client, on_server, record, busy));
        return Ok(response.map(|_| Reply::Page(Full::default())));
    }
    rewrite_response(response.headers_mut(), None);
    *response.version_mut() = Version::HTTP_11;
    let (stalled, limit) = (client.stalled.clone(), core.shared.limits.idle);
    Ok(response.map(|body| Reply::Flow(Box::new(Flow::new(Answer { body, status, lease, uploaded, record, stalled, busy, limit })))))
}

/// Sends the client on to the HTTPS port.
fn to_https(port: Option<u16>, record: &mut Record) -> Result<Response<Reply>, Refusal> {
    let response = manners::to_https(&record.method, &record.host, &record.path, port).ok_or(Code::H26)?;
    record.complete(response.status());
    Ok(response.map(|body| Reply::Page(Full::new(body))))
}

/// Why a request has no answer.
enum Unsent {
    /// Nothing of it was written: it may be sent elsewhere.
    Request(Box<Request<Upload>>),
    /// It was, and this became of it.
    Failed(Code),
}

/// Sends a request and waits for the head of its answer.
async fn send(lease: &mut Lease, request: Request<Upload>, uploaded: &Progress, limits: &Limits) -> Result<Response<Incoming>, Unsent> {
    let Lease { sender, timer, .. } = lease;
    let mut sent = pin!(sender.try_send_request(request));
    let mut deadline = tokio::time::Instant::now() + limits.first_byte;
    // It is of the connection, and mostly still ends at the time of a request before: then it is set anew. Setting it for each request costs more.
    if timer.deadline() > deadline {
        timer.as_mut().reset(deadline);
    }
    let outcome = poll_fn(|cx| {
        if let Poll::Ready(outcome) = sent.as_mut().poll(cx) {
            return Poll::Ready(Ok(outcome));
        }
        while timer.as_mut().poll(cx).is_ready() {
            if deadline <= tokio::time::Instant::now() {
                // The time for a first byte counts from the end of the request; until then it is the request that must make progress.
                let span = if uploaded.done.get() { limits.first_byte } else { limits.idle };
                let extended = uploaded.last.get() + span;
                if extended <= deadline {
                    return Poll::Ready(Err(uploaded.failed.get().unwrap_or(Code::H12)));
                }
                deadline = extended;
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    });
    let outcome = outcome.await.map_err(Unsent::Failed)?;
    outcome.map_err(|mut e| {
        if let Some(code) = uploaded.failed.get() {
            return Unsent::Failed(code);
        }
        match e.take_message() {
            Some(request) => Unsent::Request(Box::new(request)),
            None if e.error().is_parse() || e.error().is_parse_too_large() => Unsent::Failed(Code::H17),
            None => Unsent::Failed(Code::H13),
        }
    })
}

/// Waits for a moment, if there is one.
async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
