//! One client's connection, served: the only function here that others call is [`serve`], and behind it the engine could be another.
//!
//! A request is checked, led to an instance by the table of this moment, sent, and its answer streamed back. What each step refuses is a
//! [`Refusal`], which becomes a page and a log line.

use super::control::Limits;
use super::log::{Journal, Record};
use super::pages::{Code, Refusal, page};
use super::pool::{Busy, Lease, MAX_HEAD, MAX_HEADERS, Pool, Target, Unreachable};
use super::stream::{Answer, Beat, ClientSocket, End, Flow, Progress, Reply, Upload, tokens};
use super::wire::FromRouter;
use dozen_core::port::RouteTable;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, uri::PathAndQuery};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::HashSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

/// A request line or a header longer than this is refused (contract, section 9).
const MAX_LINE: usize = 8 * 1024;
/// A request id of the client's own is kept up to this length.
const MAX_REQUEST_ID: usize = 200;

/// What all workers share.
pub(super) struct Shared {
    pub(super) started: Instant,
    pub(super) limits: Limits,
    /// The epoch of the table that requests are to be led by.
    pub(super) epoch: AtomicU64,
    /// Requests that wait for an app's start.
    pub(super) waiting: AtomicUsize,
    pub(super) events: mpsc::UnboundedSender<FromRouter>,
}

/// One worker.
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    pub(super) table: watch::Receiver<Arc<Live>>,
    pub(super) stopping: watch::Receiver<bool>,
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
        let places = self.table.hosts.values().chain(&self.table.fallback);
        let ready = places.filter_map(|place| match &place.web {
            Stand::Ready(targets) => Some(targets),
            Stand::Starting | Stand::Held | Stand::Crashed | Stand::None => None,
        });
        ready.flatten().map(|target| target.id).collect()
    }
}

/// A route with the router's own knowledge.
pub(super) struct Place {
    pub(super) deploy: String,
    pub(super) log: PathBuf,
    pub(super) web: Stand,
}

/// [`dozen_core::port::Web`] with counted instances.
pub(super) enum Stand {
    Ready(Vec<Arc<Target>>),
    Starting,
    Held,
    Crashed,
    None,
}

/// What is the same for every request of a connection.
struct Client {
    address: String,
    port: HeaderValue,
    stalled: Arc<AtomicBool>,
}

/// Serves one client's connection to its end, or until the router stops and what is in flight is answered.
pub(super) async fn serve(core: Rc<Core>, socket: TcpStream, peer: IpAddr, port: u16) {
    let _ = socket.set_nodelay(true);
    let stalled = Arc::new(AtomicBool::new(false));
    let mut stopping = core.stopping.clone();
    let limits = core.shared.limits;
    let client = Rc::new(Client { address: peer.to_string(), port: HeaderValue::from(port), stalled: stalled.clone() });
    let service = {
        let (core, client) = (core.clone(), client.clone());
        service_fn(move |request| {
            let (core, client) = (core.clone(), client.clone());
            async move { Ok::<_, Infallible>(answer(core, client, request).await) }
        })
    };
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(ClientSocket::new(socket, limits.idle, stalled)), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopping.wait_for(|stop| *stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended
        && (e.is_parse() || e.is_parse_too_large())
    {
        note_malformed(&core, &client, e.is_parse_too_large());
    }
}

/// hyper has answered a request that it could not read; only where a single app runs is it known whose log it belongs to.
fn note_malformed(core: &Core, client: &Client, too_large: bool) {
    let Some(place) = core.table.borrow().table.fallback.clone() else { return };
    let mut record = Record::new(core.journal.clone(), Method::from_bytes(b"-").unwrap_or_default(), String::new());
    record.place = Some(place);
    record.forwarded.clone_from(&client.address);
    record.fail(Code::H26, if too_large { StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE } else { StatusCode::BAD_REQUEST });
}

async fn answer(core: Rc<Core>, client: Rc<Client>, request: Request<Incoming>) -> Response<Reply> {
    let path = request.uri().path_and_query().map_or_else(String::new, |p| p.as_str().to_owned());
    let mut record = Record::new(core.journal.clone(), request.method().clone(), path);
    record.request_id = request_id(request.headers());
    record.forwarded = forwarded(request.headers(), &client.address);
    // What a page needs of the request, should there be one; the request itself is given away.
    let accept: HeaderMap = request.headers().get(http::header::ACCEPT).map(|v| (http::header::ACCEPT, v.clone())).into_iter().collect();
    let id = record.request_id.clone();
    match lead(&core, &client, request, record).await {
        Ok(response) => response,
        Err((refusal, mut record)) => {
            let response = page(refusal, &accept, &id);
            record.bytes = if record.method == Method::HEAD { 0 } else { response.body().len() as u64 };
            let gone = matches!(refusal.code, Code::H27 | Code::H28);
            record.fail(refusal.code, if gone { refusal.code.status() } else { refusal.status });
            response.map(|body| Reply::Page(Full::new(body)))
        }
    }
}

type Refused = (Refusal, Record);

async fn lead(core: &Rc<Core>, client: &Client, request: Request<Incoming>, mut record: Record) -> Result<Response<Reply>, Refused> {
    let (parts, body) = request.into_parts();
    let (upload, uploaded) = Upload::new(body, core.shared.limits.idle, core.leftovers.clone());
    let mut request = Request::from_parts(parts, upload);
    let host = match target_host(&request) {
        Ok(host) => host,
        Err(refusal) => {
            // Without a host that makes sense, only a fallback can say whose log it is.
            record.place.clone_from(&core.table.borrow().table.fallback);
            return Err((refusal, record));
        }
    };
    record.host = host;
    if let Err(refusal) = check(&request) {
        record.place = core.table.borrow().table.lookup(&record.host).cloned();
        return Err((refusal, record));
    }
    let mut busy = match choose(core, &mut record, None).await {
        Ok(busy) => busy,
        Err(refusal) => return Err((refusal, record)),
    };

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
                match core.pool.connect(busy.target(), core.shared.limits.connect).await {
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
                        match choose(core, &mut record, Some(avoid)).await {
                            Ok(other) => busy = other,
                            Err(refusal) => return Err((refusal, record)),
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

/// The instance to ask, counted; waits while the app starts. `refused` is one that was just tried: another is wanted, and where
/// there is none, H21.
async fn choose(core: &Core, record: &mut Record, refused: Option<u64>) -> Result<Busy, Refusal> {
    let mut table = core.table.clone();
    let mut waiting: Option<Waiting<'_>> = None;
    loop {
        let now = table.borrow_and_update().clone();
        let Some(place) = now.table.lookup(&record.host) else { return Err(Code::H81.into()) };
        if record.place.is_none() {
            record.place = Some(place.clone());
        }
        match &place.web {
            Stand::Crashed => return Err(Code::H10.into()),
            Stand::None => return Err(Code::H14.into()),
            Stand::Ready(targets) => {
                let Some(target) = core.pick(targets, refused) else {
                    return Err(if refused.is_some() { Code::H21 } else { Code::H14 }.into());
                };
                let busy = Busy::with(target);
                // Counted first, then compared: whoever swaps the table after this comparison finds the request in the count.
                if core.shared.epoch.load(Ordering::SeqCst) == now.epoch {
                    return Ok(busy);
                }
            }
            stand @ (Stand::Starting | Stand::Held) => {
                let limits = &core.shared.limits;
                let (limit, code) = if matches!(stand, Stand::Held) { (limits.hold, Code::H80) } else { (limits.boot, Code::H20) };
                // The first wait sets the end of all: a change that goes on to a start does not give a request more time.
                let waiting = match &mut waiting {
                    Some(waiting) => waiting,
                    None => waiting.insert(Waiting::begin(&core.shared, limit)?),
                };
                match tokio::time::timeout_at(waiting.until, table.changed()).await {
                    Err(_) => return Err(code.into()),
                    Ok(Err(_)) => return Err(Code::H99.into()),
                    Ok(Ok(())) => {}
                }
            }
        }
    }
}

impl Core {
    /// The less busy of two random instances, among those that are not in quarantine; if all are, among all.
    fn pick(&self, targets: &[Arc<Target>], avoid: Option<u64>) -> Option<Arc<Target>> {
        if let [only] = targets {
            return (avoid != Some(only.id)).then(|| only.clone());
        }
        let now = self.shared.now();
        let healthy = |t: &&Arc<Target>| Some(t.id) != avoid && t.quarantined_until.load(Ordering::Relaxed) <= now;
        let fit = match targets.iter().filter(healthy).count() {
            0 => targets.iter().filter(|t| Some(t.id) != avoid).collect::<Vec<_>>(),
            _ => targets.iter().filter(healthy).collect(),
        };
        let first = *fit.get(rand::random_range(0..fit.len().max(1)))?;
        let second = fit[rand::random_range(0..fit.len())];
        let load = |t: &Target| t.in_flight.load(Ordering::Relaxed);
        Some(if load(second) < load(first) { second } else { first }.clone())
    }
}

impl Shared {
    /// Milliseconds since the router's start.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A place among the requests that wait for an app's start, or for a change of it.
struct Waiting<'s> {
    shared: &'s Shared,
    until: tokio::time::Instant,
}

impl<'s> Waiting<'s> {
    fn begin(shared: &'s Shared, limit: Duration) -> Result<Self, Refusal> {
        let waiting = Self { shared, until: tokio::time::Instant::now() + limit };
        if shared.waiting.fetch_add(1, Ordering::Relaxed) >= shared.limits.waiting {
            return Err(Code::H11.into());
        }
        Ok(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Nothing listens on its port: others are asked first for a while, and the control plane is told once.
fn quarantine(core: &Core, target: &Target) {
    let now = core.shared.now();
    let span = u64::try_from(core.shared.limits.quarantine.as_millis()).unwrap_or(u64::MAX);
    if target.quarantined_until.swap(now.saturating_add(span), Ordering::Relaxed) <= now {
        let _ = core.shared.events.send(FromRouter::Refused {
            deploy: target.deploy.clone(),
            instance: target.instance.clone(),
            port: target.port,
        });
    }
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
    let mut sent = pin!(lease.sender.try_send_request(request));
    let mut deadline = tokio::time::Instant::now() + limits.first_byte;
    let outcome = loop {
        if let Ok(outcome) = tokio::time::timeout_at(deadline, sent.as_mut()).await {
            break outcome;
        }
        // The time for a first byte counts from the end of the request; until then it is the request that must make progress.
        let span = if uploaded.done.get() { limits.first_byte } else { limits.idle };
        let extended = uploaded.last.get() + span;
        if extended <= deadline {
            return Err(Unsent::Failed(uploaded.failed.get().unwrap_or(Code::H12)));
        }
        deadline = extended;
    };
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

/// Carries bytes both ways until both sides are done, or silent for too long.
async fn tunnel(core: Rc<Core>, client: OnUpgrade, server: OnUpgrade, mut record: Record, busy: Busy) {
    let idle = core.shared.limits.idle;
    let beat = Rc::new(Beat { last: std::cell::Cell::new(tokio::time::Instant::now()), bytes: std::cell::Cell::new(0) });
    let (Ok(client), Ok(server)) = tokio::join!(client, server) else {
        record.fail(Code::H27, Code::H27.status());
        return;
    };
    let mut client = End { io: TokioIo::new(client), beat: beat.clone(), counts: false };
    let mut server = End { io: TokioIo::new(server), beat: beat.clone(), counts: true };
    let silence = async {
        loop {
            let until = beat.last.get() + idle;
            if until <= tokio::time::Instant::now() {
                break;
            }
            tokio::time::sleep_until(until).await;
        }
    };
    tokio::select! {
        // However it ends, each side has seen the other's end; a reset is an end too.
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        () = silence => record.fail(Code::H15, Code::H15.status()),
    }
    record.bytes = beat.bytes.get();
    drop((busy, core));
}

// What follows looks at heads only.

fn refuse(status: StatusCode) -> Refusal {
    Refusal { code: Code::H26, status }
}

/// The host that a request is for: its target's in absolute form, else its `Host`. Exactly one, of characters that names and addresses have.
fn target_host(request: &Request<Upload>) -> Result<String, Refusal> {
    let bad = Err(refuse(StatusCode::BAD_REQUEST));
    let mut hosts = request.headers().get_all(HOST).into_iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return bad;
    }
    let host = match (request.uri().authority(), header) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(header)) => match header.to_str() {
            Ok(host) => host,
            Err(_) => return bad,
        },
        (None, None) if request.version() == Version::HTTP_10 => "",
        (None, None) => return bad,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    if host.len() > 255 || !host.bytes().all(plain) {
        return bad;
    }
    Ok(host.to_owned())
}

fn check(request: &Request<Upload>) -> Result<(), Refusal> {
    let headers = request.headers();
    if request.method() == Method::CONNECT {
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED));
    }
    let target = request.uri().path_and_query().map_or(0, |p| p.as_str().len());
    // `GET`, a blank, the target, a blank, `HTTP/1.1`.
    if request.method().as_str().len() + target + 10 > MAX_LINE {
        return Err(refuse(StatusCode::URI_TOO_LONG));
    }
    // `name`, a colon, a blank, the value.
    if headers.iter().any(|(name, value)| name.as_str().len() + value.len() + 2 > MAX_LINE) {
        return Err(refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }
    let mut encodings = headers.get_all(TRANSFER_ENCODING).into_iter();
    if let Some(encoding) = encodings.next() {
        // hyper reads a coding before `chunked` as if it were not there; an instance might not.
        let chunked = encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        if !chunked || encodings.next().is_some() || headers.contains_key(CONTENT_LENGTH) {
            return Err(refuse(StatusCode::BAD_REQUEST));
        }
    }
    if headers.get_all(EXPECT).into_iter().any(|e| !e.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(refuse(StatusCode::EXPECTATION_FAILED));
    }
    Ok(())
}

/// The protocol that the client would change to. Not HTTP/2: what a client then says would pass every check here unseen.
fn wants_upgrade(request: &Request<Upload>) -> Option<HeaderValue> {
    let headers = request.headers();
    let asked = request.version() == Version::HTTP_11 && tokens(headers, &CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"));
    let http2 = tokens(headers, &UPGRADE).any(|t| t.to_ascii_lowercase().starts_with("h2"));
    if asked && !http2 { headers.get(UPGRADE).cloned() } else { None }
}

/// Headers between two neighbours, which end here.
const HOP_BY_HOP: [HeaderName; 6] =
    [CONNECTION, HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection"), TE, TRANSFER_ENCODING, UPGRADE];

fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION).filter_map(|t| t.parse().ok()).collect();
        for name in named {
            // A client cannot have what frames or routes its request taken out by naming it.
            if name != CONTENT_LENGTH && name != HOST {
                headers.remove(name);
            }
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn rewrite_request(request: &mut Request<Upload>, client: &Client, record: &Record, upgrade: Option<&HeaderValue>) {
    let chunked = request.headers().contains_key(TRANSFER_ENCODING);
    let trailers = tokens(request.headers(), &TE).any(|t| t.eq_ignore_ascii_case("trailers"));
    let via = if request.version() == Version::HTTP_10 { "1.0 dozen" } else { "1.1 dozen" };
    if request.uri().authority().is_some() {
        // The absolute form's host counts, and the instance gets the usual form.
        if let Ok(host) = HeaderValue::from_str(&record.host) {
            request.headers_mut().insert(HOST, host);
        }
    }
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;

    let headers = request.headers_mut();
    strip(headers);
    headers.remove(EXPECT);
    headers.remove(PROXY_AUTHORIZATION);
    if !headers.contains_key(HOST) {
        headers.insert(HOST, HeaderValue::from_static("localhost"));
    }
    if chunked {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    if let Ok(value) = HeaderValue::from_str(&record.forwarded) {
        headers.insert("x-forwarded-for", value);
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
    headers.insert("x-forwarded-port", client.port.clone());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    headers.insert("x-request-start", HeaderValue::from(now));
    if let Ok(value) = HeaderValue::from_str(&record.request_id) {
        headers.insert("x-request-id", value);
    }
    headers.append(VIA, HeaderValue::from_static(via));
}

fn rewrite_response(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    strip(headers);
    headers.remove(PROXY_AUTHENTICATE);
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    headers.append(VIA, HeaderValue::from_static("1.1 dozen"));
}

/// The client's own id, where it is one that is safe anywhere; else a random one in the shape of a UUID.
fn request_id(headers: &HeaderMap) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'=' | b'+' | b'/' | b'.');
    let own = headers.get("x-request-id").and_then(|v| v.to_str().ok());
    if let Some(own) = own.filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(plain)) {
        return own.to_owned();
    }
    let n: u128 = (rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{n:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// What came in `X-Forwarded-For`, and this client's address after it.
fn forwarded(headers: &HeaderMap, address: &str) -> String {
    let mut out = String::new();
    for value in headers.get_all("x-forwarded-for").into_iter().filter_map(|v| v.to_str().ok()) {
        out.push_str(value.trim());
        out.push_str(", ");
    }
    out.push_str(address);
    out
}
