//! HTTP/2 from clients: each stream of a connection is answered as a request of HTTP/1 is, and is one to its instance.
//!
//! **Invariant:** what one client can have the router keep has a bound: streams, their heads, and the bytes of each of them both ways.
//! **Invariant:** a connection without a stream, and a stream whose client takes nothing of it, last no longer than in HTTP/1.

use super::{Client, Core, Stopping, answer};
use crate::port::stream::{Broken, ClientSocket, Patience, Reply};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
/// A client that resets more than half of its streams, and more than so many, asks for work that it does not want.
const RESETS: u32 = 200;
/// Streams that the client reset before they were looked at, or that it broke; beyond that the connection ends.
const BROKEN: usize = 100;
/// A client that is silent for so long is asked whether it is there, and has the other time to say so.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

/// Serves one connection to its end, or until the router stops and its streams are answered.
pub(super) async fn serve<S>(core: Rc<Core>, client: Rc<Client>, socket: ClientSocket<S>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let limits = core.shared.limits;
    let mut stopping = core.stopping.clone();
    let tally = Rc::new(Tally {
        open: Cell::new(0),
        begun: Cell::new(0),
        left: Cell::new(0),
        rests: Cell::new(Instant::now()),
        enough: Notify::new(),
    });
    let streams = Streams { next: Rc::default(), idle: limits.idle, stalled: client.stalled.clone() };
    let service = {
        let (next, tally) = (streams.next.clone(), tally.clone());
        service_fn(move |request| {
            let stream = Stream::begin(tally.clone());
            next.replace(Some(stream.clone()));
            let (core, client) = (core.clone(), client.clone());
            async move {
                let response = answer(core, client, request).await;
                Ok::<_, Infallible>(response.map(|reply| Sent { reply, rest: Bytes::new(), stream }))
            }
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
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    let mut end = None;
    let mut stops = false;
    loop {
        tokio::select! {
            // However it ended, each stream has told of itself.
            _ = connection.as_mut() => return,
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
    stalled: Arc<AtomicBool>,
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
                    () = stream.stalls(idle) => stalled.store(true, Ordering::Relaxed),
                }
                // The answer, dropped here, says why in its line.
            }
            stalled.store(false, Ordering::Relaxed);
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
