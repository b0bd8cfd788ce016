//! What stands before hyper on a client's connection: nothing comes through of a request that is not strictly framed.
//!
//! Bytes go straight into hyper's buffer, and are looked at there. A head that is not whole yet is taken out again and kept until it is; in
//! the place of one that is refused hyper gets a request that stands in for it. So the refusal is answered in its turn, behind the answers
//! that are still due, with a page and a line in the log. A body that breaks is an error of the connection, and so is one that trickles.
//!
//! A client that ends its side has either gone or waits for its answer: it gets that, as long as it takes what it is sent.
//!
//! **Invariant:** hyper reads no head that was not cleared, whatever it would make of one.

use super::control::Limits;
use super::crowd::Guest;
use super::stream::{Pace, Reply};
use bytes::Bytes;
use dozen_core::port::framing::{About, Fault, Framing, Stop};
use hyper::body::{Body, Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Stands in for a head that was refused. What it says is never looked at.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
/// So much is taken of what a client says to another protocol before it was granted.
const EARLY: usize = 16 * 1024;
/// What a client still sends when it was refused is read for so long and so much: closing on it would take the answer away with a reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// What the gate of a connection and those who answer its requests tell each other.
#[derive(Debug, Default)]
pub(super) struct Doorbell {
    /// Requests whose answer was begun, and those whose answer came to its end.
    begun: AtomicU64,
    over: AtomicU64,
    /// The client has ended its side.
    half: AtomicBool,
    /// The number of the request that stands in for a refused one; 0 is none.
    refused: AtomicU64,
    why: Mutex<Option<(Fault, About)>>,
    /// The number of the request that asks for another protocol; 0 is none.
    asks: AtomicU64,
    turn: AtomicU8,
    waits: Mutex<Option<Waker>>,
}

/// Whether the client may change to the protocol that it asked for.
const UNDECIDED: u8 = 0;
const GRANTED: u8 = 1;
const DECLINED: u8 = 2;

impl Doorbell {
    /// Counts the request that is to be answered now.
    pub(super) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Why that request was refused, if it was.
    pub(super) fn refused(&self, request: u64) -> Option<(Fault, About)> {
        if self.refused.load(Ordering::Acquire) != request {
            return None;
        }
        self.why.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// That request is answered, by a change of protocols or otherwise.
    pub(super) fn decide(&self, request: u64, granted: bool) {
        if self.asks.load(Ordering::Acquire) == request {
            self.turn.store(if granted { GRANTED } else { DECLINED }, Ordering::Release);
            self.wake();
        }
    }

    /// An answer came to its end.
    fn end(&self) {
        self.over.fetch_add(1, Ordering::AcqRel);
        if self.half.load(Ordering::Acquire) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waits.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    fn wait(&self, cx: &Context<'_>) {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
    }

    fn refuse(&self, request: u64, fault: Fault, about: About) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = Some((fault, about));
        self.refused.store(request, Ordering::Release);
    }

    fn ask(&self, request: u64) {
        self.turn.store(UNDECIDED, Ordering::Relaxed);
        self.asks.store(request, Ordering::Release);
    }
}

/// An answer, whose end is told.
pub(super) struct Answered {
    reply: Reply,
    bell: Arc<Doorbell>,
}

impl Answered {
    pub(super) fn new(reply: Reply, bell: Arc<Doorbell>) -> Self {
        Self { reply, bell }
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.bell.end();
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = <Reply as Body>::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.reply).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.reply.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.reply.size_hint()
    }
}

/// A client's connection, behind its gate.
pub(super) struct Gate<S> {
    socket: S,
    patience: Duration,
    /// How fast bodies come, of the request that is being read.
    pace: Pace,
    paced: u64,
    /// Since the client has ended its side: when it is taken for gone, and whether something was sent since that was set.
    half: Option<Pin<Box<Sleep>>>,
    wrote: bool,
    /// What is to be sent waits for the client.
    blocked: bool,
    framing: Framing,
    state: State,
    /// What was read and not given: first what is cleared, then the beginning of something.
    held: Vec<u8>,
    given: usize,
    cleared: usize,
    bell: Arc<Doorbell>,
    lingers: Option<(Pin<Box<Sleep>>, usize)>,
    /// Counted as long as the connection is there, as whatever protocol.
    guest: Guest,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Reads,
    /// Behind a request for another protocol.
    Turn,
    /// Another protocol is spoken.
    Open,
    /// A head was refused.
    Refused,
    /// A body broke.
    Broken(&'static str),
}

impl<S> Gate<S> {
    pub(super) fn new(socket: S, limits: &Limits, bell: Arc<Doorbell>, guest: Guest) -> Self {
        Self {
            socket,
            patience: limits.half_closed,
            pace: Pace::new(limits),
            paced: 0,
            half: None,
            wrote: false,
            blocked: false,
            framing: Framing::default(),
            state: State::Reads,
            held: Vec::new(),
            given: 0,
            cleared: 0,
            bell,
            lingers: None,
            guest,
        }
    }

    /// What it stands before.
    pub(super) fn socket(&mut self) -> &mut S {
        &mut self.socket
    }

    /// The client has ended its side: whether hyper may know. To hyper it would be gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.framing.heads() != self.bell.over.load(Ordering::Acquire) || self.blocked;
        if !due || self.framing.in_body() {
            return Poll::Ready(());
        }
        self.bell.wait(cx);
        self.bell.half.store(true, Ordering::Release);
        // The last answer may have ended just now.
        if !self.blocked && self.framing.heads() == self.bell.over.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let patience = self.patience;
        let gone = self.half.get_or_insert_with(|| Box::pin(sleep(patience)));
        while gone.as_mut().poll(cx).is_ready() {
            if !std::mem::take(&mut self.wrote) {
                return Poll::Ready(());
            }
            gone.as_mut().reset(tokio::time::Instant::now() + patience);
        }
        Poll::Pending
    }

    fn sent<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.blocked = written.is_pending();
        self.wrote |= !self.blocked;
        written
    }

    /// Looks at `bytes`, and says how many of them are cleared.
    fn look(&mut self, bytes: &[u8]) -> usize {
        let scan = self.framing.read(bytes);
        match scan.stop {
            Stop::More => {}
            Stop::Turn => {
                self.state = State::Turn;
                self.bell.ask(self.framing.heads());
            }
            Stop::Head(fault) => {
                self.bell.refuse(self.framing.heads() + 1, fault, self.framing.about(&bytes[scan.cleared..]));
                self.state = State::Refused;
            }
            Stop::Body(fault) => self.state = State::Broken(fault.why),
        }
        scan.cleared
    }

    /// Keeps what was not cleared, or what stands in for it.
    fn keep(&mut self, rest: &[u8]) {
        match self.state {
            State::Reads | State::Turn => self.held.extend_from_slice(rest),
            State::Refused => {
                self.held.extend_from_slice(STAND_IN);
                self.cleared = self.held.len();
            }
            State::Broken(_) | State::Open => {}
        }
    }

    /// Looks at what is held.
    fn look_again(&mut self) {
        let held = std::mem::take(&mut self.held);
        let cleared = self.look(&held);
        // Where nothing is cleared, nothing moves: a head may come a byte at a time.
        if cleared == 0 && matches!(self.state, State::Reads | State::Turn) {
            self.held = held;
            return;
        }
        self.held.extend_from_slice(&held[..cleared]);
        self.cleared = cleared;
        self.keep(&held[cleared..]);
    }

    /// There is no room for this head.
    fn turn_away(&mut self) {
        let fault = Fault { status: 431, why: "too many clients are in the middle of long heads" };
        self.bell.refuse(self.framing.heads() + 1, fault, self.framing.about(&self.held));
        self.state = State::Refused;
        self.held = Vec::new();
        self.keep(&[]);
    }

    /// Gives what is held and cleared. `false` if there is nothing.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let ready = &self.held[self.given..self.cleared];
        if ready.is_empty() {
            return false;
        }
        let given = ready.len().min(buf.remaining());
        buf.put_slice(&ready[..given]);
        self.given += given;
        if self.given == self.cleared {
            self.held.drain(..self.cleared);
            (self.given, self.cleared) = (0, 0);
            if self.guest.held() > 0 {
                self.guest.hold(self.held.len());
            }
            if self.held.is_empty() {
                // An idle connection keeps nothing.
                self.held = Vec::new();
            }
        }
        true
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        let before = buf.filled().len();
        loop {
            if buf.remaining() == 0 || me.give(buf) {
                return Poll::Ready(Ok(()));
            }
            match me.state {
                State::Reads => {}
                State::Open => return Pin::new(&mut me.socket).poll_read(cx, buf),
                State::Broken(why) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why))),
                State::Turn => match me.bell.turn.load(Ordering::Acquire) {
                    GRANTED => {
                        me.state = State::Open;
                        me.cleared = me.held.len();
                        continue;
                    }
                    DECLINED => {
                        me.state = State::Reads;
                        me.framing.stay();
                        me.look_again();
                        continue;
                    }
                    _ if me.held.len() >= EARLY => {
                        me.bell.wait(cx);
                        // It may have been decided just now.
                        if me.bell.turn.load(Ordering::Acquire) == UNDECIDED {
                            return Poll::Pending;
                        }
                        continue;
                    }
                    _ => {}
                },
                State::Refused => {
                    // The end of the connection is not told, or the answer would not be sent any more.
                    ready!(Pin::new(&mut me.socket).poll_read(cx, buf))?;
                    if buf.filled().len() == before {
                        return Poll::Pending;
                    }
                    buf.set_filled(before);
                    continue;
                }
            }
            if me.half.is_some() {
                return me.poll_gone(cx).map(Ok);
            }
            let polled = Pin::new(&mut me.socket).poll_read(cx, buf);
            let came = &buf.filled()[before..];
            if me.framing.in_body() {
                if me.paced != me.framing.heads() {
                    me.paced = me.framing.heads();
                    me.pace.reset();
                }
                if me.pace.is_below(&polled, came.len()) {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            ready!(polled)?;
            if came.is_empty() {
                return me.poll_gone(cx).map(Ok);
            }
            let cleared = if me.held.is_empty() && me.state == State::Reads {
                let cleared = me.look(came);
                me.keep(&came[cleared..]);
                cleared
            } else {
                me.held.extend_from_slice(came);
                let fits = me.guest.hold(me.held.len());
                if me.state == State::Reads && fits {
                    me.look_again();
                } else if me.state == State::Reads {
                    me.turn_away();
                }
                0
            };
            buf.set_filled(before + cleared);
            if cleared > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.sent(written)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.sent(written)
    }
    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if me.lingers.is_none() {
            ready!(Pin::new(&mut me.socket).poll_shutdown(cx))?;
            if !matches!(me.state, State::Refused | State::Broken(_)) {
                return Poll::Ready(Ok(()));
            }
        }
        let (until, left) = me.lingers.get_or_insert_with(|| (Box::pin(sleep(LINGER)), LINGER_BYTES));
        let mut space = [0; 4096];
        while *left > 0 {
            let mut rest = ReadBuf::new(&mut space);
            match Pin::new(&mut me.socket).poll_read(cx, &mut rest) {
                Poll::Ready(Ok(())) if !rest.filled().is_empty() => *left = left.saturating_sub(rest.filled().len()),
                Poll::Ready(_) => break,
                Poll::Pending => return until.as_mut().poll(cx).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}
