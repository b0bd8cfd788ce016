//! A client's HTTP/1 connection over its life. While it has something to say an engine serves it; while it idles it is a socket, a timer and
//! who it belongs to, and nothing else is kept for it: most connections of most houses idle most of the time.

use super::{Client, Core, Stopping, answer, refused};
use crate::port::gate::{Answered, Gate};
use crate::port::stream::{Broken, ClientSocket};
use bytes::Bytes;
use dozen_core::port::framing::{MAX_HEAD, MAX_HEADERS, MAX_LINE};
use http::{Request, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

/// A connection that has said nothing for so long gives its engine back. A new one costs a microsecond: this is far above what a client
/// needs that asks one thing after the other.
const REST: Duration = Duration::from_millis(100);
/// What is read of a connection before it has an engine: most requests, whole.
const FIRST: usize = 4 * 1024;

/// What a connection is doing.
pub(crate) struct Life {
    /// Requests without a whole answer.
    in_flight: Cell<u32>,
    /// Bodies that were begun and not read to their end.
    pub(crate) unread: Cell<u32>,
    /// Whether the head of the answer to the last of them is on its way.
    answered: Cell<bool>,
    /// Another protocol is spoken.
    changed: Cell<bool>,
    /// When the last answer ended.
    since: Cell<Instant>,
}

impl Life {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            in_flight: Cell::new(0),
            unread: Cell::new(0),
            answered: Cell::new(false),
            changed: Cell::new(false),
            since: Cell::new(Instant::now()),
        })
    }

    /// Since when nothing has been asked; `None` while something is.
    fn idles(&self) -> Option<Instant> {
        (self.in_flight.get() == 0 && self.unread.get() == 0).then(|| self.since.get())
    }
}

/// A request in flight, until its answer has been written or given up.
struct Serving(Rc<Client>);

impl Serving {
    fn begin(client: &Rc<Client>) -> Self {
        client.life.in_flight.set(client.life.in_flight.get() + 1);
        client.life.answered.set(false);
        client.traffic.awaits_head(false);
        Self(client.clone())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let Client { life, traffic, .. } = &*self.0;
        life.in_flight.set(life.in_flight.get() - 1);
        life.since.set(Instant::now());
        traffic.awaits_head(!life.changed.get());
    }
}

/// An answer, and that it is under way.
struct Served {
    reply: Answered,
    _serving: Serving,
}

impl Body for Served {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Pin::new(&mut self.reply).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.reply.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.reply.size_hint()
    }
}

/// A connection, and what was read of it already.
struct Ahead<S> {
    first: Bytes,
    io: Gate<ClientSocket<S>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let some = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first.split_to(some));
        if self.first.is_empty() {
            // Even an empty one holds the room for many.
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// How an engine ended.
enum End {
    /// The connection is over.
    Over(hyper::Result<()>),
    /// It idles, or says more than this engine takes.
    Idle,
    /// It has said too little for too long.
    TooLate,
}

/// Serves a connection to its end, or until the router stops and what is in flight is answered.
pub(super) async fn keep<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    core: Rc<Core>,
    client: Rc<Client>,
    io: Gate<ClientSocket<S>>,
) {
    let mut io = Ahead { first: Bytes::new(), io };
    let mut stopping = pin!(told(core.stopping.clone(), Stopping::Yielding));
    let mut last = false;
    // One timer for all that is to happen in time: it is looked at when it ends, and set anew where that was too early.
    let mut timer = pin!(sleep(REST));
    loop {
        if io.first.is_empty() && !io.io.socket().roomy {
            let rested = poll_fn(|cx| {
                while stopping.as_mut().poll(cx).is_ready() {
                    if *core.stopping.borrow() != Stopping::Yielding {
                        return Poll::Ready(false);
                    }
                    last = true;
                    stopping.set(told(core.stopping.clone(), Stopping::Now));
                }
                // To ask whether there is something to read costs as much as to read it; and where a read says that there is nothing it has
                // to be asked again.
                let mut space = [MaybeUninit::uninit(); FIRST];
                let mut first = ReadBuf::uninit(&mut space);
                match Pin::new(&mut io.io).poll_read(cx, &mut first) {
                    Poll::Ready(Ok(())) if !first.filled().is_empty() => {
                        io.first = Bytes::copy_from_slice(first.filled());
                        return Poll::Ready(true);
                    }
                    // The client has gone.
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending if client.traffic.take_crowded() => {
                        io.io.socket().roomy = true;
                        return Poll::Ready(true);
                    }
                    Poll::Pending => {}
                }
                while timer.as_mut().poll(cx).is_ready() {
                    let end = client.life.since.get() + core.shared.limits.head;
                    if end <= Instant::now() {
                        return Poll::Ready(false);
                    }
                    timer.as_mut().reset(end);
                }
                Poll::Pending
            });
            if !rested.await {
                return;
            }
        }
        let soon = Instant::now() + REST;
        if timer.deadline() > soon {
            timer.as_mut().reset(soon);
        }
        // In a box: what idles does not hold the room for it.
        match Box::pin(speak(&core, &client, io, timer.as_mut(), stopping.as_mut(), last)).await {
            Some(rests) => io = rests,
            None => return,
        }
        // It may rest because it was told to: from now on it waits for the end alone.
        let stops = *core.stopping.borrow();
        if stops != Stopping::No {
            last |= stops == Stopping::Yielding;
            stopping.set(told(core.stopping.clone(), Stopping::Now));
        }
    }
}

/// Ready when the worker stops, at least so far.
async fn told(mut stopping: watch::Receiver<Stopping>, at_least: Stopping) {
    // A worker that is gone has stopped.
    let _ = stopping.wait_for(|stopping| *stopping >= at_least).await;
}

/// Has an engine serve it until it idles or needs another one, which answers the socket, or ends. Where this is the `last` request the answer says so.
async fn speak<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    core: &Rc<Core>,
    client: &Rc<Client>,
    mut io: Ahead<S>,
    mut timer: Pin<&mut Sleep>,
    mut stopping: Pin<&mut impl Future<Output = ()>>,
    last: bool,
) -> Option<Ahead<S>> {
    let limits = core.shared.limits;
    let service = {
        let (core, client) = (core.clone(), client.clone());
        service_fn(move |request: Request<Incoming>| {
            let (core, client) = (core.clone(), client.clone());
            let serving = Serving::begin(&client);
            async move {
                let bell = client.bell.clone();
                let response = answer(core, client, request).await;
                serving.0.life.answered.set(true);
                serving.0.life.changed.set(response.status() == StatusCode::SWITCHING_PROTOCOLS);
                Ok::<_, Infallible>(response.map(|reply| Served { reply: Answered::new(reply, bell), _serving: serving }))
            }
        })
    };
    let mut engine = hyper::server::conn::http1::Builder::new();
    // This function has a timer of its own.
    engine.header_read_timeout(None).keep_alive(!last).max_buf_size(MAX_HEAD + 2 * MAX_LINE);
    if io.io.socket().roomy {
        engine.max_headers(MAX_HEADERS);
    }
    let mut connection = engine.serve_connection(TokioIo::new(io), service).with_upgrades();
    let (mut watched, mut yields, mut told, mut crowded) = (false, false, false, false);
    let end = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(End::Over(ended));
            }
            if client.traffic.take_crowded() {
                if client.life.idles().is_some() && client.traffic.is_flushed() && !told {
                    crowded = true;
                    return Poll::Ready(End::Idle);
                }
                // What comes is the rest of a body.
                client.traffic.awaits_head(false);
                continue;
            }
            // Asked once, so that this task is woken, and then when there is an answer: a look at it costs more than all else here.
            let stops = !told && (!watched || core.stopping.has_changed().unwrap_or(true));
            if stops && !yields && stopping.as_mut().poll(cx).is_ready() {
                yields = true;
            }
            watched = true;
            if stops && yields {
                // The client of an answer whose head says nothing of an end may ask again. It is not left alone with that.
                let gently = *core.stopping.borrow() == Stopping::Yielding && !last;
                let idles = client.life.idles().is_some();
                if gently && idles && client.traffic.rests() {
                    return Poll::Ready(End::Idle);
                }
                if !gently || !(idles || client.life.answered.get()) {
                    told = true;
                    Pin::new(&mut connection).graceful_shutdown();
                    continue;
                }
            }
            while timer.as_mut().poll(cx).is_ready() {
                let now = Instant::now();
                let next = match client.life.idles() {
                    Some(since) if since + limits.head <= now => return Poll::Ready(End::TooLate),
                    Some(since) if since + REST <= now && client.traffic.rests() && !told => return Poll::Ready(End::Idle),
                    Some(since) if since + REST > now => since + REST,
                    Some(_) | None => now + REST,
                };
                timer.as_mut().reset(next);
            }
            return Poll::Pending;
        }
    });
    match end.await {
        End::Over(ended) => {
            if let Err(e) = ended
                && (e.is_parse() || e.is_parse_too_large())
            {
                refused::unread(core, client, e.is_parse_too_large());
            }
            None
        }
        End::TooLate => None,
        End::Idle => {
            let parts = connection.into_parts()?;
            let mut io = parts.io.into_inner();
            // What was cleared is read whole; were anything left, it would be read again.
            if !parts.read_buf.is_empty() {
                io.first = [parts.read_buf, std::mem::take(&mut io.first)].concat().into();
            }
            io.io.socket().roomy = crowded;
            Some(io)
        }
    }
}
