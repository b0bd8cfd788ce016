//! HTTP/2 from clients: each stream of a connection is answered as a request of HTTP/1 is, and is one to its instance.
//!
//! **Invariant:** what one client can have the router keep has a bound: streams, their heads, and the bytes of each of them both ways.
//! **Invariant:** a connection without a stream, and a stream whose client takes nothing of it, last no longer than in HTTP/1.

use super::exchange::{Exchange, Outcome, answer};
use super::gather::Gather;
use super::head::{Ask, Length, Version, told};
use super::talk::{DRAIN, DRAIN_BYTES, chunk};
use super::{Client, Core, Stopping};
use crate::port::fields::Kind;
use crate::port::pages::Code;
use crate::port::stream::{ClientSocket, Patience};
use crate::port::upstream::{Rest, Source};
use bytes::Bytes;
use dozen_core::port::framing::may_trail;
use http::header::{CONTENT_LENGTH, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Streams that are open at once; browsers expect no fewer.
const STREAMS: u32 = 100;
/// All names and values of a head with 32 bytes for each (RFC 9113, 6.5.2).
const MAX_HEAD: u32 = 64 * 1024;
/// What a client may send before an instance has taken it: of a stream, and of all together.
const STREAM_WINDOW: u32 = 256 * 1024;
const WINDOW: u32 = 1024 * 1024;
/// What waits of an answer until the client takes it.
const SEND: usize = 64 * 1024;
/// An answer is handed on in pieces of this size, which is that of a frame: so slow a client is still seen to take something.
const PIECE: usize = 16 * 1024;
/// What is ready to be told waits for so many others, and for so many turns of all that this worker does, where there are others to wait for.
const GATHERED: u32 = 8;
const TURNS: u32 = 2;
/// A client that resets more than half of its streams, and more than so many, asks for work that it does not want.
const RESETS: u32 = 200;
/// Streams that the client reset before they were looked at, or that it broke; beyond that the connection ends.
const BROKEN: usize = 100;
/// A client that is silent for so long is asked whether it is there, and has the other time to say so.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

/// Serves one connection to its end, or until the router stops and its streams are answered.
pub(super) async fn serve<S>(core: Rc<Core>, client: Rc<Client>, io: S)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let limits = core.shared.limits;
    let stalled = Rc::new(Cell::new(false));
    let socket = Gather::new(ClientSocket::new(io, &limits, stalled.clone()));
    let mut stopping = core.stopping.clone();
    let tally = Rc::new(Tally {
        open: Cell::new(0),
        begun: Cell::new(0),
        left: Cell::new(0),
        rests: Cell::new(Instant::now()),
        enough: Notify::new(),
    });
    let streams = Streams { next: Rc::default(), idle: limits.idle, stalled: stalled.clone() };
    let service = {
        let (next, tally) = (streams.next.clone(), tally.clone());
        service_fn(move |request| {
            let stream = Stream::begin(tally.clone());
            next.replace(Some(stream.clone()));
            let (core, client, stalled) = (core.clone(), client.clone(), stalled.clone());
            let (ask, path, mut upload) = take(&core, request);
            // In a box: hyper and its executor hand it on some times, and it is hundreds of bytes.
            Box::pin(async move {
                let path = path.as_ref().map_or("/", PathAndQuery::as_str);
                let outcome = answer(&core, &client, &ask, path, &mut upload).await;
                let response = respond(&core, ask, outcome, upload, stalled);
                Ok::<_, Infallible>(response.map(|reply| Sent { reply, rest: Bytes::new(), stream }))
            })
        })
    };
    let connection = Builder::new(streams)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(MAX_HEAD)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(SEND)
        .max_pending_accept_reset_streams(BROKEN)
        .max_local_error_reset_streams(BROKEN)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .serve_connection(TokioIo::new(socket.clone()), service);
    let mut connection = pin!(connection);
    let mut end = None;
    let mut stops = false;
    loop {
        tokio::select! {
            biased;
            // However it ended, each stream has told of itself.
            () = carried(connection.as_mut(), &socket, &tally) => return,
            _ = stopping.wait_for(|stop| *stop != Stopping::No), if !stops => {
                connection.as_mut().graceful_shutdown();
                stops = true;
            }
            () = tally.rested(limits.head), if !stops && end.is_none() => {
                connection.as_mut().graceful_shutdown();
                // What is on its way may be read by a slow client; what begins anew is not.
                end = Some(Instant::now() + limits.idle);
            }
            () = super::until(end) => return,
            () = tally.enough.notified() => return,
        }
    }
}

/// Carries a connection to its end. What its streams have to tell is sent when all that is ready was told; where others of them are still
/// waited for, their answers may be there in a moment and go with it.
async fn carried<C: Future, S: AsyncWrite + Unpin>(mut connection: Pin<&mut C>, socket: &Gather<S>, tally: &Tally) {
    let (mut before, mut gathered, mut turns) = (0, 0, 0);
    loop {
        let over = poll_fn(|cx| {
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(true);
            }
            let waits = socket.waits();
            if waits > before {
                gathered += 1
            } else {
                turns += 1
            }
            before = waits;
            if waits > 0 && tally.open.get() > 0 && gathered < GATHERED && turns < TURNS {
                return Poll::Ready(false);
            }
            (before, gathered, turns) = (0, 0, 0);
            match socket.poll_send(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(true),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            }
        });
        if over.await {
            return;
        }
        // Whatever is ready goes first, and what the system knows by now.
        tokio::task::yield_now().await;
    }
}

/// A stream's request, its path with the query, and its body.
fn take(core: &Core, request: Request<Incoming>) -> (Ask, Option<PathAndQuery>, Upload) {
    let (parts, body) = request.into_parts();
    let uri = parts.uri.into_parts();
    let mut fields = core.spare.borrow_mut().pop().unwrap_or_default();
    fields.copy(&parts.headers);
    let length = match fields.has(Kind::ContentLength) {
        _ if body.is_end_stream() => Length::None,
        true => Length::Known,
        false => Length::Unknown,
    };
    // Of HTTP/1 it is told that there is no body where there might be one.
    if length == Length::None && matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) && !fields.has(Kind::ContentLength) {
        fields.push(b"content-length", b"0");
    }
    let authority = uri.authority.map(|authority| authority.as_str().to_owned());
    let upload = Upload::new(body, length == Length::Unknown, core);
    (Ask { version: Version::Two, method: parts.method, authority, fields, length }, uri.path_and_query, upload)
}

/// What a stream is answered with.
fn respond(core: &Core, ask: Ask, outcome: Outcome, upload: Upload, stalled: Rc<Cell<bool>>) -> Response<Reply> {
    let bare = ask.method == Method::HEAD;
    core.keep(ask.fields);
    match outcome {
        Outcome::Page(page) => {
            let length = HeaderValue::from(page.body().len());
            let mut page = page.map(|body| Reply::Page(Full::new(if bare { Bytes::new() } else { body })));
            page.headers_mut().remove(http::header::CONNECTION);
            if bare {
                page.headers_mut().insert(CONTENT_LENGTH, length);
            }
            page
        }
        Outcome::Answer(exchange) => {
            let mut response = Response::new(());
            *response.status_mut() = exchange.answer().status;
            for field in exchange.answer().fields.iter().filter(told(exchange.answer())) {
                // What HTTP/2 cannot carry is not carried.
                if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(field.name), HeaderValue::from_bytes(field.value)) {
                    response.headers_mut().append(name, value);
                }
            }
            for (name, value) in &exchange.added {
                response.headers_mut().append(name, value.clone());
            }
            response.headers_mut().append(http::header::VIA, HeaderValue::from_static("1.1 dozen"));
            response.map(|()| Reply::Flow(Box::new(Flow { exchange: Some(exchange), upload, trailed: false, stalled })))
        }
        Outcome::Gone => {
            let mut gone = Response::new(Reply::Page(Full::default()));
            *gone.status_mut() = Code::H27.status();
            gone
        }
    }
}

/// A request's body.
struct Upload {
    /// Taken only when dropped.
    body: Option<Incoming>,
    chunks: bool,
    over: bool,
    patience: Patience,
    leftovers: tokio::sync::mpsc::UnboundedSender<Incoming>,
}

impl Upload {
    fn new(body: Incoming, chunks: bool, core: &Core) -> Self {
        let over = body.is_end_stream();
        Self { body: Some(body), chunks, over, patience: Patience::new(core.shared.limits.idle), leftovers: core.leftovers.clone() }
    }
}

impl Source for Upload {
    fn poll_body(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Result<bool, Code>> {
        let before = out.len();
        loop {
            let Some(body) = self.body.as_mut().filter(|_| !self.over) else { return Poll::Ready(Ok(true)) };
            let frame = match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => Some(frame),
                Poll::Ready(Some(Err(_))) => {
                    self.over = true;
                    return Poll::Ready(Err(Code::H27));
                }
                Poll::Ready(None) => None,
                Poll::Pending => {
                    ready!(self.patience.poll_over(cx));
                    self.over = true;
                    return Poll::Ready(Err(Code::H28));
                }
            };
            self.patience.progress();
            let mut trailers = None;
            match frame.map(Frame::into_data) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) if self.chunks => chunk(out, &data),
                Some(Ok(data)) => out.extend_from_slice(&data),
                Some(Err(frame)) => trailers = frame.into_trailers().ok(),
                None => self.over = true,
            }
            self.over |= body.is_end_stream() || trailers.is_some();
            if self.over && self.chunks {
                out.extend_from_slice(b"0\r\n");
                let may = |name: &HeaderName| may_trail(name.as_str().as_bytes());
                for (name, value) in trailers.iter().flatten().filter(|(name, _)| may(name)) {
                    super::head::line(out, name.as_str().as_bytes(), value.as_bytes());
                }
                out.extend_from_slice(b"\r\n");
            }
            if self.over || out.len() > before {
                return Poll::Ready(Ok(self.over));
            }
        }
    }

    /// hyper ends what nobody waits for.
    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<Code> {
        Poll::Pending
    }
}

impl Drop for Upload {
    /// A client that still sends may not read: its rest is read, and forgotten.
    fn drop(&mut self) {
        if !self.over
            && let Some(body) = self.body.take()
        {
            let _ = self.leftovers.send(body);
        }
    }
}

/// Reads the rest of a body, as far as one of HTTP/1 is.
pub(in crate::port) async fn discard(mut body: Incoming) {
    let mut left = DRAIN_BYTES;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN, reading).await;
}

/// Why an answer ended early; hyper then ends its stream.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.description())]
struct Broken(Code);

/// What a stream is answered with.
enum Reply {
    Page(Full<Bytes>),
    Flow(Box<Flow>),
}

/// An instance's answer.
struct Flow {
    /// `None` at its end.
    exchange: Option<Box<Exchange>>,
    upload: Upload,
    trailed: bool,
    stalled: Rc<Cell<bool>>,
}

/// Whether there is something behind a body that a client is told.
fn trails(exchange: &Exchange) -> bool {
    exchange.trailers().iter().any(|field| may_trail(field.name))
}

impl Flow {
    fn finish(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            exchange.finish();
        }
    }

    fn break_by(&mut self, code: Code) -> Broken {
        if let Some(exchange) = self.exchange.take() {
            exchange.fail(code);
        }
        Broken(code)
    }
}

impl Body for Flow {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let me = &mut *self;
        let Some(exchange) = &mut me.exchange else { return Poll::Ready(None) };
        if let Poll::Ready(Err(code)) = exchange.poll_upload(cx, &mut me.upload) {
            return Poll::Ready(Some(Err(me.break_by(code))));
        }
        match ready!(exchange.poll_piece(cx)) {
            Ok(Some(piece)) => {
                let data = Bytes::copy_from_slice(&exchange.bytes(piece));
                if exchange.rest() == Rest::None && !trails(exchange) {
                    me.finish();
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Ok(None) if !me.trailed && trails(exchange) => {
                me.trailed = true;
                let mut trailers = HeaderMap::new();
                for field in exchange.trailers().iter().filter(|field| may_trail(field.name)) {
                    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(field.name), HeaderValue::from_bytes(field.value)) {
                        trailers.append(name, value);
                    }
                }
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Ok(None) => {
                me.finish();
                Poll::Ready(None)
            }
            Err(code) => Poll::Ready(Some(Err(me.break_by(code)))),
        }
    }
    fn is_end_stream(&self) -> bool {
        self.exchange.as_ref().is_none_or(|exchange| exchange.rest() == Rest::None && (self.trailed || !trails(exchange)))
    }
    fn size_hint(&self) -> SizeHint {
        match self.exchange.as_ref().map(|exchange| exchange.rest()) {
            None | Some(Rest::None) => SizeHint::with_exact(0),
            Some(Rest::Length(left)) => SizeHint::with_exact(left),
            Some(Rest::Chunks(_) | Rest::Close) => SizeHint::default(),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let over = self.is_end_stream();
        if let Some(exchange) = self.exchange.take() {
            match over {
                true => drop(exchange.finish()),
                false if self.stalled.get() => exchange.fail(Code::H28),
                // Its client went away.
                false => drop(exchange),
            }
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Page(page) => Pin::new(page).poll_frame(cx).map_err(|never| match never {}),
            Self::Flow(flow) => Pin::new(flow.as_mut()).poll_frame(cx),
        }
    }
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Page(page) => page.is_end_stream(),
            Self::Flow(flow) => flow.is_end_stream(),
        }
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Page(page) => page.size_hint(),
            Self::Flow(flow) => flow.size_hint(),
        }
    }
}

/// What a connection's streams have come to.
struct Tally {
    open: Cell<u32>,
    begun: Cell<u32>,
    /// Those that the client reset before their answer was there.
    left: Cell<u32>,
    /// Since when there is none.
    rests: Cell<Instant>,
    /// The client has reset too many.
    enough: Notify,
}

impl Tally {
    /// Waits until there was no stream for so long.
    async fn rested(&self, span: Duration) {
        loop {
            let now = Instant::now();
            let until = if self.open.get() > 0 { now + span } else { self.rests.get() + span };
            if until <= now {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// One stream, as its answer and its watch see it.
struct Stream {
    tally: Rc<Tally>,
    /// Counts the pieces that were handed on.
    pieces: Cell<u64>,
    /// Whether it is the client that is waited for.
    handed: Cell<bool>,
    answered: Cell<bool>,
}

impl Stream {
    fn begin(tally: Rc<Tally>) -> Rc<Self> {
        tally.open.set(tally.open.get() + 1);
        tally.begun.set(tally.begun.get().saturating_add(1));
        Rc::new(Self { tally, pieces: Cell::new(0), handed: Cell::new(false), answered: Cell::new(false) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let tally = &self.tally;
        tally.open.set(tally.open.get() - 1);
        tally.rests.set(Instant::now());
        if !self.answered.get() {
            tally.left.set(tally.left.get().saturating_add(1));
            if tally.left.get() > RESETS && tally.left.get() > tally.begun.get() / 2 {
                tally.enough.notify_one();
            }
        }
    }
}

/// Runs the streams on this worker, each under a watch.
#[derive(Clone)]
struct Streams {
    /// The one that was just begun: hyper asks for its answer and at once has it run.
    next: Rc<RefCell<Option<Rc<Stream>>>>,
    idle: Duration,
    stalled: Rc<Cell<bool>>,
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, work: F) {
        let (stream, idle, stalled) = (self.next.take(), self.idle, self.stalled.clone());
        tokio::task::spawn_local(async move {
            let Some(stream) = stream else { return work.await };
            {
                let mut work = pin!(work);
                tokio::select! {
                    biased;
                    () = work.as_mut() => return,
                    () = stream.stalls(idle) => stalled.set(true),
                }
                // The answer, dropped here, says why in its line.
            }
            stalled.set(false);
        });
    }
}

impl Stream {
    /// Waits until the client has taken nothing of what is there for it for so long. To be polled after the stream.
    async fn stalls(&self, idle: Duration) {
        let (mut patience, mut seen) = (Patience::new(idle), 0);
        poll_fn(|cx| {
            if seen != self.pieces.get() {
                seen = self.pieces.get();
                patience.progress();
            }
            if !self.handed.get() {
                return Poll::Pending;
            }
            patience.poll_over(cx)
        })
        .await;
    }
}

/// An answer in pieces.
struct Sent {
    reply: Reply,
    /// What is still to be handed on of what came.
    rest: Bytes,
    stream: Rc<Stream>,
}

impl Sent {
    fn piece(&mut self) -> Frame<Bytes> {
        self.stream.handed.set(true);
        self.stream.pieces.set(self.stream.pieces.get() + 1);
        let size = self.rest.len().min(PIECE);
        Frame::data(self.rest.split_to(size))
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let me = &mut *self;
        if !me.rest.is_empty() {
            return Poll::Ready(Some(Ok(me.piece())));
        }
        me.stream.handed.set(false);
        let frame = ready!(Pin::new(&mut me.reply).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(match frame.into_data() {
                Ok(data) => {
                    me.rest = data;
                    me.piece()
                }
                Err(trailers) => trailers,
            })),
            Some(Err(e)) => {
                // Not the client's doing.
                me.stream.answered.set(true);
                Some(Err(e))
            }
            None => {
                me.stream.answered.set(true);
                None
            }
        })
    }
    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.reply.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        // hyper asks once, before the first piece.
        self.reply.size_hint()
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if self.is_end_stream() {
            self.stream.answered.set(true);
        }
    }
}
