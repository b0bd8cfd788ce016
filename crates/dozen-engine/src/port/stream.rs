//! Bodies on their way through, and the two ends of a tunnel: nothing is buffered, every silence has a limit.

use super::control::Limits;
use super::log::Record;
use super::pages::Code;
use super::pool::{Busy, Lease};
use super::proxy::kept::Life;
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, Sleep, sleep};

/// Why a body ended early; hyper then ends the connection that it was on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("no byte came for too long")]
    Idle,
    #[error("the other side ended early")]
    Ended(#[source] hyper::Error),
}

/// A limit on silence: armed by the first wait, disarmed by any progress. Costs nothing while bytes flow.
pub(super) struct Patience {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, armed: false }
    }
    pub(super) fn progress(&mut self) {
        self.armed = false;
    }
    /// Ready when nothing has happened for too long.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !self.armed {
            sleep.as_mut().reset(Instant::now() + limit);
            self.armed = true;
        }
        sleep.as_mut().poll(cx)
    }
}

/// A limit on slowness: how long a client was waited for, and what came of it. Costs nothing while nobody waits.
pub(super) struct Pace {
    grace: Duration,
    /// Bytes a second.
    least: u64,
    since: Option<Instant>,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { grace: limits.slow_grace, least: limits.slowest, since: None, waited: Duration::ZERO, bytes: 0 }
    }

    pub(super) fn reset(&mut self) {
        (self.since, self.waited, self.bytes) = (None, Duration::ZERO, 0);
    }

    /// Counts what was tried and brought so many bytes. Whether the client is too slow, all in all.
    pub(super) fn is_below<T>(&mut self, tried: &Poll<T>, bytes: usize) -> bool {
        if tried.is_pending() {
            self.since.get_or_insert_with(Instant::now);
            return false;
        }
        self.bytes += bytes as u64;
        let Some(since) = self.since.take() else { return false };
        self.waited += since.elapsed();
        self.waited > self.grace && u128::from(self.bytes) * 1_000 < u128::from(self.least) * self.waited.as_millis()
    }
}

/// How far a request's body has come.
pub(super) struct Progress {
    pub(super) done: Cell<bool>,
    pub(super) last: Cell<Instant>,
    pub(super) failed: Cell<Option<Code>>,
}

/// A request's body, client to instance.
pub(super) struct Upload {
    /// Taken only when dropped.
    body: Option<Incoming>,
    patience: Patience,
    progress: Rc<Progress>,
    /// Of the connection that it comes on.
    life: Rc<Life>,
    leftovers: UnboundedSender<Incoming>,
}

impl Upload {
    pub(super) fn new(body: Incoming, limit: Duration, life: Rc<Life>, leftovers: UnboundedSender<Incoming>) -> (Self, Rc<Progress>) {
        let done = body.is_end_stream();
        if !done {
            life.unread.set(life.unread.get() + 1);
        }
        let progress = Rc::new(Progress { done: Cell::new(done), last: Cell::new(Instant::now()), failed: Cell::new(None) });
        (Self { body: Some(body), patience: Patience::new(limit), progress: progress.clone(), life, leftovers }, progress)
    }

    fn done(&self) {
        if !self.progress.done.replace(true) {
            self.life.unread.set(self.life.unread.get() - 1);
        }
    }
}

impl Drop for Upload {
    /// A client that still sends does not read: closing on it would take the answer away with a reset. Its rest is read, and forgotten.
    fn drop(&mut self) {
        if !self.progress.done.get()
            && self.progress.failed.get().is_none()
            && let Some(body) = self.body.take()
        {
            let _ = self.leftovers.send(body);
        }
    }
}

/// Reads the rest of a body for at most so long and so much; a client that has more to say is closed upon.
pub(super) async fn discard(mut body: Incoming) {
    let mut left: usize = 64 << 20;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(10), reading).await;
}

/// What a body broke by: what the client sent, a chunk's head most likely; its slowness; or its going away.
fn fault(e: &hyper::Error) -> Code {
    let cause = std::error::Error::source(e).and_then(|c| c.downcast_ref::<io::Error>());
    match cause.map(io::Error::kind) {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => Code::H26,
        Some(io::ErrorKind::TimedOut) => Code::H28,
        _ => Code::H27,
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let me = &mut *self;
        let Some(body) = &mut me.body else { return Poll::Ready(None) };
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                me.patience.progress();
                me.progress.last.set(Instant::now());
                if body.is_end_stream() {
                    me.done();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(e))) => {
                me.progress.failed.set(Some(fault(&e)));
                Poll::Ready(Some(Err(Broken::Ended(e))))
            }
            Poll::Ready(None) => {
                me.progress.last.set(Instant::now());
                me.done();
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(me.patience.poll_over(cx));
                me.progress.failed.set(Some(Code::H28));
                Poll::Ready(Some(Err(Broken::Idle)))
            }
        }
    }
    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }
    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

/// What the router answers with: a page of its own, or an instance's answer as it comes.
pub(super) enum Reply {
    Page(Full<Bytes>),
    Flow(Box<Flow>),
}

/// An instance's answer, instance to client. Holds all that must last as long as the answer: the connection that it comes on, the
/// instance's count of requests in flight, the request's log line.
pub(super) struct Flow {
    body: Incoming,
    status: http::StatusCode,
    patience: Patience,
    lease: Option<Lease>,
    uploaded: Rc<Progress>,
    record: Record,
    stalled: Arc<AtomicBool>,
    ended: bool,
    _busy: Busy,
}

/// The parts of a [`Flow`].
pub(super) struct Answer {
    pub(super) body: Incoming,
    pub(super) status: http::StatusCode,
    pub(super) lease: Lease,
    pub(super) uploaded: Rc<Progress>,
    pub(super) record: Record,
    pub(super) stalled: Arc<AtomicBool>,
    pub(super) busy: Busy,
    pub(super) limit: Duration,
}

impl Flow {
    pub(super) fn new(answer: Answer) -> Self {
        let Answer { body, status, lease, uploaded, record, stalled, busy, limit } = answer;
        let patience = Patience::new(limit);
        Self { body, status, patience, lease: Some(lease), uploaded, record, stalled, ended: false, _busy: busy }
    }

    fn end(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        self.record.complete(self.status);
        // An instance that answered before it read the whole request leaves its connection in an unknown place: it is closed.
        if let Some(lease) = self.lease.take()
            && self.uploaded.done.get()
        {
            lease.give_back();
        }
    }

    fn fail(&mut self, code: Code) {
        self.ended = true;
        self.record.fail(code, code.status());
    }
}

impl Body for Flow {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let me = &mut *self;
        match Pin::new(&mut me.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                me.patience.progress();
                me.record.bytes += frame.data_ref().map_or(0, |d| d.len() as u64);
                if me.body.is_end_stream() {
                    me.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(e))) => {
                // An answer may break because its own request did: then it is the client's doing.
                me.fail(me.uploaded.failed.get().unwrap_or(Code::H18));
                Poll::Ready(Some(Err(Broken::Ended(e))))
            }
            Poll::Ready(None) => {
                me.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(me.patience.poll_over(cx));
                me.fail(Code::H15);
                Poll::Ready(Some(Err(Broken::Idle)))
            }
        }
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.end();
        } else if !self.ended && self.stalled.load(Ordering::Relaxed) {
            self.fail(Code::H28);
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

/// What is seen of a client's socket from outside, and what it is told.
#[derive(Default)]
pub(super) struct Traffic {
    /// Something was to be written, and not all of it is.
    writing: AtomicBool,
    /// Lines that were read since the last answer; [`UNCOUNTED`] while a request is in flight.
    lines: AtomicU32,
    /// A part of the next head has come.
    begun: AtomicBool,
    /// A head comes that may have more headers than the engine takes.
    crowded: AtomicBool,
}

/// A head of so many lines is for an engine that has room for it.
const FEW: u32 = 100;
const UNCOUNTED: u32 = u32::MAX;

impl Traffic {
    /// Whether all that was to be written is.
    pub(super) fn is_flushed(&self) -> bool {
        !self.writing.load(Ordering::Relaxed)
    }
    /// Whether nothing of the next request has come, and nothing of the last answer is left.
    pub(super) fn rests(&self) -> bool {
        self.is_flushed() && !self.begun.load(Ordering::Relaxed)
    }
    /// Whether a head is to come now, or anything else.
    pub(super) fn awaits_head(&self, awaits: bool) {
        self.lines.store(if awaits { 0 } else { UNCOUNTED }, Ordering::Relaxed);
        self.begun.store(false, Ordering::Relaxed);
    }
    /// Whether what was held back is for another engine; asked once.
    pub(super) fn take_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed) && self.crowded.swap(false, Ordering::Relaxed)
    }
}

/// A client's socket. A client that takes no byte for too long is let go; `stalled` then says so.
pub(super) struct ClientSocket<S> {
    socket: S,
    /// What was read already.
    read: Bytes,
    /// Whether any head may be read of it.
    pub(super) roomy: bool,
    patience: Patience,
    pace: Pace,
    stalled: Arc<AtomicBool>,
    traffic: Arc<Traffic>,
}

impl<S> ClientSocket<S> {
    pub(super) fn new(socket: S, limits: &Limits, stalled: Arc<AtomicBool>, traffic: Arc<Traffic>) -> Self {
        let (patience, pace) = (Patience::new(limits.idle), Pace::new(limits));
        Self { socket, read: Bytes::new(), roomy: false, patience, pace, stalled, traffic }
    }

    /// Holds back what came behind `before`, if with it the head that is read has many lines: room for a thousand headers that none has costs
    /// more than all else in reading one.
    fn hold(&mut self, cx: &Context<'_>, buf: &mut ReadBuf<'_>, before: usize) -> Poll<io::Result<()>> {
        let lines = self.traffic.lines.load(Ordering::Relaxed);
        let came = &buf.filled()[before..];
        if lines == UNCOUNTED || came.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.traffic.begun.store(true, Ordering::Relaxed);
        if self.roomy {
            return Poll::Ready(Ok(()));
        }
        let lines = memchr::memchr_iter(b'\n', came).fold(lines, |lines, _| lines.saturating_add(1).min(UNCOUNTED - 1));
        self.traffic.lines.store(lines, Ordering::Relaxed);
        if lines <= FEW {
            return Poll::Ready(Ok(()));
        }
        self.read = Bytes::copy_from_slice(came);
        buf.set_filled(before);
        self.traffic.crowded.store(true, Ordering::Relaxed);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn watch(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.traffic.writing.store(true, Ordering::Relaxed);
        let bytes = if let Poll::Ready(Ok(bytes)) = written { bytes } else { 0 };
        let slow = self.pace.is_below(&written, bytes);
        if written.is_ready() && !slow {
            self.patience.progress();
            return written;
        }
        if !slow {
            ready!(self.patience.poll_over(cx));
        }
        self.stalled.store(true, Ordering::Relaxed);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.read.is_empty() {
            ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        } else {
            let some = self.read.len().min(buf.remaining());
            buf.put_slice(&self.read.split_to(some));
            if self.read.is_empty() {
                self.read = Bytes::new();
            }
        }
        self.hold(cx, buf, before)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.watch(cx, written)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }
    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whoever flushes has written all that it has.
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        self.traffic.writing.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// What both directions of a tunnel share: when a byte last moved, and how many went to the client.
pub(super) struct Beat {
    pub(super) last: Cell<Instant>,
    pub(super) bytes: Cell<u64>,
}

/// One end of a tunnel, with its reads counted.
pub(super) struct End<T> {
    pub(super) io: T,
    pub(super) beat: Rc<Beat>,
    /// Whether what is read here goes to the client.
    pub(super) counts: bool,
}

impl<T: AsyncRead + Unpin> AsyncRead for End<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let came = (buf.filled().len() - before) as u64;
        if came > 0 {
            self.beat.last.set(Instant::now());
            if self.counts {
                self.beat.bytes.set(self.beat.bytes.get() + came);
            }
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for End<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The tokens of a comma-separated header, over all its lines, trimmed.
pub(super) fn tokens<'h>(headers: &'h HeaderMap, name: &http::HeaderName) -> impl Iterator<Item = &'h str> {
    headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim).filter(|t| !t.is_empty())
}
