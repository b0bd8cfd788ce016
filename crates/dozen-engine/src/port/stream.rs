//! Limits on silence and on slowness, and the two ends of a tunnel.

use super::control::Limits;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;

/// A limit on silence: from the first wait to any progress. Costs nothing while bytes flow.
pub(super) struct Patience {
    limit: Duration,
    until: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, until: None, sleep: None }
    }
    pub(super) fn progress(&mut self) {
        self.until = None;
    }
    /// Ready when nothing has happened for too long.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.until.get_or_insert_with(|| Instant::now() + self.limit);
        // It ends at the time of a wait before, if there was one, and is set anew then: setting it for each wait costs more.
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(until)));
        while sleep.as_mut().poll(cx).is_ready() {
            if until <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(until);
        }
        Poll::Pending
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

/// A client's socket. A client that takes no byte for too long is let go; `stalled` then says so.
pub(super) struct ClientSocket<S> {
    socket: S,
    patience: Patience,
    pace: Pace,
    stalled: Rc<Cell<bool>>,
}

impl<S> ClientSocket<S> {
    pub(super) fn new(socket: S, limits: &Limits, stalled: Rc<Cell<bool>>) -> Self {
        Self { socket, patience: Patience::new(limits.idle), pace: Pace::new(limits), stalled }
    }

    fn watch(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let bytes = if let Poll::Ready(Ok(bytes)) = written { bytes } else { 0 };
        let slow = self.pace.is_below(&written, bytes);
        if written.is_ready() && !slow {
            self.patience.progress();
            return written;
        }
        if !slow {
            ready!(self.patience.poll_over(cx));
        }
        self.stalled.set(true);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
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
        Pin::new(&mut self.socket).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// What a client's connection is carried by.
pub(super) trait Carrier: AsyncRead + AsyncWrite + Unpin {
    /// Counts the bytes that the system has taken, where something lies between it and who writes. TLS keeps some, and does not say how many.
    fn taken(&self) -> u64;
}

impl Carrier for TcpStream {
    fn taken(&self) -> u64 {
        0
    }
}

impl Carrier for TlsStream<Counted> {
    fn taken(&self) -> u64 {
        self.get_ref().0.taken
    }
}

/// A socket that counts what is taken of what is written to it.
pub(super) struct Counted {
    pub(super) socket: TcpStream,
    taken: u64,
}

impl Counted {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, taken: 0 }
    }

    fn count(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.taken += bytes as u64;
        }
        written
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.count(written)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.count(written)
    }
    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
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
