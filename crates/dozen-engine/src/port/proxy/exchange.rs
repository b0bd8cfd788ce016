//! One request: led to an instance, sent, and its answer on its way back, whichever protocol its client speaks.

use super::choose::{Asks, Turned, at_once, choose, quarantine};
use super::head::{Ask, Length, check, forwarded, request_id, target_host, write_request};
use super::{Client, Core, PROOFS};
use crate::port::fields::{Fields, Kind};
use crate::port::log::Record;
use crate::port::manners;
use crate::port::pages::{Code, Refusal, page};
use crate::port::pool::{Busy, Lease, Unreachable};
use crate::port::stream::Patience;
use crate::port::upstream::{Answer, NoAnswer, Rest, Source, Upload};
use bytes::Bytes;
use http::header::{HeaderName, SET_COOKIE, STRICT_TRANSPORT_SECURITY};
use http::{HeaderValue, Method, Response, StatusCode};
use std::future::poll_fn;
use std::io::IoSlice;
use std::ops::Range;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// What a request comes to.
pub(super) enum Outcome {
    /// An answer of the router's own.
    Page(Response<Bytes>),
    /// An instance's.
    Answer(Box<Exchange>),
    /// Nobody is there to be answered.
    Gone,
}

/// Has a request answered.
pub(super) async fn answer(core: &Core, client: &Client, ask: &Ask, path: &str, source: &mut impl Source) -> Outcome {
    // An authority that looks whether a host leads here. Whatever is not its business is the app's.
    if let Some(token) = path.strip_prefix(PROOFS)
        && let Some(proof) = core.store.borrow().proof(token)
    {
        return Outcome::Page(Response::new(proof));
    }
    let mut record = Record::new(core.journal.clone(), ask.method.clone(), path, Instant::now());
    record.says_id(request_id(&ask.fields, &mut [0; 36]));
    record.says_forwarded(&forwarded(&ask.fields, &client.address));
    record.tls = client.tls;
    let (refusal, mut record) = match lead(core, client, ask, record, source).await {
        Ok(Sent::There(exchange)) => return Outcome::Answer(exchange),
        Ok(Sent::Elsewhere(response)) => return Outcome::Page(response),
        Err(refused) => refused,
    };
    if refusal.code.is_the_clients() {
        record.fail(refusal.code, refusal.status);
        return Outcome::Gone;
    }
    Outcome::Page(refuse(refusal, client, &ask.fields, &mut record))
}

/// The page that says so, and the record of it.
fn refuse(refusal: Refusal, client: &Client, fields: &Fields, record: &mut Record) -> Response<Bytes> {
    let place = record.place.as_deref();
    let mut response = page(refusal, fields, record.request_id(), place.map(|place| &place.manners));
    if client.tls
        && let Some(hsts) = place.and_then(|place| place.hsts.clone())
    {
        response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, hsts);
    }
    record.bytes = if record.method == Method::HEAD { 0 } else { response.body().len() as u64 };
    record.fail(refusal.code, refusal.status);
    response
}

type Refused = (Refusal, Record);

/// Where a request went.
enum Sent {
    There(Box<Exchange>),
    /// Its client is sent on.
    Elsewhere(Response<Bytes>),
}

async fn lead(core: &Core, client: &Client, ask: &Ask, mut record: Record, source: &mut impl Source) -> Result<Sent, Refused> {
    match target_host(ask) {
        Ok(host) => record.says_host(host),
        Err(refusal) => {
            // Without a host that makes sense, only a fallback can say whose log it is.
            record.place.clone_from(&core.table.borrow().table.fallback);
            record.reason = Some("the host is no name or address");
            return Err((refusal, record));
        }
    }
    if let Err((refusal, reason)) = check(&core.strict, ask, record.path(), client.shown.as_deref(), record.host()) {
        record.place = core.table.borrow().table.lookup(record.host(), record.path()).cloned();
        record.reason = reason;
        return Err((refusal, record));
    }
    let idles = ask.length == Length::None;
    let mut refused = None;
    let mut remember;
    let (busy, mut lease) = loop {
        let asks = Asks { fields: &ask.fields, client, refused };
        let (led, now) = match at_once(core, &mut record, &asks) {
            Some(led) => (led, record.begun),
            // In a box: a request that need not wait, as most need not, is not to hold the room for it.
            None => match watched(source, idles, Box::pin(choose(core, &mut record, &asks))).await {
                Ok(led) => (led, Instant::now()),
                Err(code) => return Err((code.into(), record)),
            },
        };
        let led = match led {
            Ok(led) => led,
            Err(Turned::Away(refusal)) => return Err((refusal, record)),
            // The client is sent on to the HTTPS port.
            Err(Turned::Elsewhere(port)) => match manners::to_https(&record.method, record.host(), record.path(), port) {
                Some(response) => {
                    record.complete(response.status());
                    return Ok(Sent::Elsewhere(response));
                }
                None => return Err((Code::H26.into(), record)),
            },
        };
        let busy = led.busy;
        remember = led.remember;
        record.target = Some(busy.target().clone());
        if let Some(lease) = core.pool.take(busy.target().id, now) {
            record.connect = Some(Duration::ZERO);
            break (busy, lease);
        }
        match connect(core, source, idles, &busy, &mut record).await {
            Ok(lease) => break (busy, lease),
            Err(Code::H21) => {
                quarantine(core, busy.target());
                if refused.is_some() {
                    return Err((Code::H21.into(), record));
                }
                refused = Some(busy.target().id);
            }
            Err(code) => return Err((code.into(), record)),
        }
    };
    let secure = client.is_secure(&record, &ask.fields);
    record.tls = secure;
    let mut upload = Upload::new(idles, record.begun.into());
    let mut fresh = record.connect != Some(Duration::ZERO);
    lease.upstream.begin();
    write_request(&mut lease.upstream.out, core, ask, client, &record);
    let limits = &core.shared.limits;
    let first_byte = record.place.as_ref().and_then(|place| place.manners.first_byte).unwrap_or(limits.first_byte);
    loop {
        match send(&mut lease, &mut upload, source, (first_byte, limits.idle), ask.method == Method::HEAD).await {
            Ok(()) => break,
            // The instance had closed the connection; nothing of this request was sent on it.
            Err(NoAnswer::Unsent) if !fresh => {
                fresh = true;
                (upload.over, upload.whole) = (false, false);
                let out = std::mem::take(&mut lease.upstream.out);
                match connect(core, source, false, &busy, &mut record).await {
                    Ok(another) => lease = another,
                    Err(code) => return Err((code.into(), record)),
                }
                lease.upstream.begin();
                lease.upstream.out = out;
            }
            Err(NoAnswer::Unsent) => return Err((Code::H13.into(), record)),
            Err(NoAnswer::Failed(code)) => return Err((code.into(), record)),
        }
    }
    let answer = &lease.upstream.answer;
    if answer.status == StatusCode::SWITCHING_PROTOCOLS && (ask.upgrade().is_none() || !upload.whole) {
        return Err((Code::H17.into(), record));
    }
    let mut added = Vec::new();
    if remember && let Ok(cookie) = HeaderValue::from_str(&manners::cookie(busy.target().release, secure)) {
        added.push((SET_COOKIE, cookie));
    }
    if secure
        && let Some(hsts) = record.place.as_ref().and_then(|place| place.hsts.clone())
        && !answer.fields.has(Kind::StrictTransportSecurity)
    {
        added.push((STRICT_TRANSPORT_SECURITY, hsts));
    }
    let patience = Patience::new(core.shared.limits.idle);
    Ok(Sent::There(Box::new(Exchange { lease, upload, record, busy, added, patience })))
}

/// Goes on with this, unless its client goes away; that is seen where it has nothing more to say.
async fn watched<T>(source: &mut impl Source, idles: bool, work: impl Future<Output = T>) -> Result<T, Code> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        if idles {
            return source.poll_gone(cx).map(Err);
        }
        Poll::Pending
    })
    .await
}

/// A new connection to an instance.
async fn connect(core: &Core, source: &mut impl Source, idles: bool, busy: &Busy, record: &mut Record) -> Result<Lease, Code> {
    let since = Instant::now();
    // In a box: a request that finds a connection, as most do, is not to hold the room for this.
    let connected = watched(source, idles, Box::pin(core.pool.connect(busy.target(), core.shared.limits.connect))).await?;
    match connected {
        Ok(lease) => {
            // Never nothing: that says that there was one.
            record.connect = Some(since.elapsed().max(Duration::from_nanos(1)));
            Ok(lease)
        }
        Err(Unreachable::Refused) => Err(Code::H21),
        Err(Unreachable::Timeout) => Err(Code::H19),
        Err(Unreachable::Other) => Err(Code::H99),
    }
}

/// Sends a request and waits for the head of its answer: so long for its first byte, and so long for the request to make progress.
async fn send(
    lease: &mut Lease,
    upload: &mut Upload,
    source: &mut impl Source,
    (first_byte, idle): (Duration, Duration),
    bare: bool,
) -> Result<(), NoAnswer> {
    let upstream = &mut *lease.upstream;
    let begun = tokio::time::Instant::now();
    let mut deadline = begun + first_byte;
    upload.last = begun;
    // It is of the connection, and mostly still ends at the time of a request before: then it is set anew. Setting it for each request costs more.
    if upstream.timer.deadline() > deadline {
        upstream.timer.as_mut().reset(deadline);
    }
    poll_fn(|cx| {
        if let Poll::Ready(Err(code)) = upstream.poll_upload(cx, upload, source) {
            return Poll::Ready(Err(NoAnswer::Failed(code)));
        }
        if let Poll::Ready(answered) = upstream.poll_answer(cx, bare) {
            return Poll::Ready(answered);
        }
        if upload.read
            && let Poll::Ready(code) = source.poll_gone(cx)
        {
            return Poll::Ready(Err(NoAnswer::Failed(code)));
        }
        while upstream.timer.as_mut().poll(cx).is_ready() {
            if deadline <= tokio::time::Instant::now() {
                // The time for a first byte counts from the end of the request; until then it is the request that must make progress.
                let span = if upload.over { first_byte } else { idle };
                let extended = upload.last + span;
                if extended <= deadline {
                    return Poll::Ready(Err(NoAnswer::Failed(Code::H12)));
                }
                deadline = extended;
            }
            upstream.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    })
    .await
}

/// An answer on its way. Holds all that must last as long as it: the connection that it comes on, the instance's count of requests in
/// flight, the request's log line.
pub(super) struct Exchange {
    lease: Lease,
    upload: Upload,
    pub(super) record: Record,
    busy: Busy,
    /// Headers of the router's own.
    pub(super) added: Vec<(HeaderName, HeaderValue)>,
    patience: Patience,
}

impl Exchange {
    pub(super) fn answer(&self) -> &Answer {
        &self.lease.upstream.answer
    }

    /// What is still to come of the body.
    pub(super) fn rest(&self) -> Rest {
        self.lease.upstream.rest
    }

    /// Whether the client has said all that it has to say.
    pub(super) fn is_read(&self) -> bool {
        self.upload.read
    }

    /// Goes on with the request's body, as long as the instance takes it.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>, source: &mut impl Source) -> Poll<Result<(), Code>> {
        self.lease.upstream.poll_upload(cx, &mut self.upload, source)
    }

    /// The next piece of the answer's body, until more is asked for. `None` at its end.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Range<usize>>, Code>> {
        match self.lease.upstream.poll_piece(cx) {
            Poll::Ready(piece) => {
                self.patience.progress();
                if let Ok(Some(piece)) = &piece {
                    self.record.bytes += piece.len() as u64;
                }
                Poll::Ready(piece)
            }
            Poll::Pending => {
                ready!(self.patience.poll_over(cx));
                Poll::Ready(Err(Code::H15))
            }
        }
    }

    pub(super) fn bytes(&self, piece: Range<usize>) -> IoSlice<'_> {
        self.lease.upstream.bytes(piece)
    }

    /// What stands behind a body in chunks.
    pub(super) fn trailers(&self) -> &Fields {
        &self.lease.upstream.trailers
    }

    /// The answer came to its end, at this moment.
    pub(super) fn finish(mut self: Box<Self>) -> Instant {
        let (status, now) = (self.answer().status, Instant::now());
        self.record.complete_at(status, now);
        // An instance that answered before it took the whole request leaves its connection in an unknown place: it is closed.
        if self.upload.whole {
            self.lease.give_back(now);
        }
        now
    }

    /// Whether the request broke, and not its answer.
    pub(super) fn is_broken(&self) -> bool {
        self.upload.failed.is_some()
    }

    /// Why it did not: an answer may break because its own request did, and then it is the client's doing.
    pub(super) fn cause(&self, code: Code) -> Code {
        self.upload.failed.unwrap_or(code)
    }

    /// It did not.
    pub(super) fn fail(mut self: Box<Self>, code: Code) {
        let code = self.cause(code);
        self.record.fail(code, code.status());
    }

    /// It did not, and nothing of it was told: this is, in its place.
    pub(super) fn give_up(mut self: Box<Self>, code: Code, client: &Client, fields: &Fields) -> Response<Bytes> {
        refuse(self.cause(code).into(), client, fields, &mut self.record)
    }

    /// The client speaks to the instance by another protocol now.
    pub(super) fn into_tunnel(mut self: Box<Self>) -> (TcpStream, Vec<u8>, Record, Busy) {
        let status = self.answer().status;
        self.record.complete(status);
        let Self { lease, record, busy, .. } = *self;
        let (socket, early) = lease.upstream.into_tunnel();
        (socket, early, record, busy)
    }
}
