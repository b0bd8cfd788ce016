//! What a client of HTTP/1 says and is told, on a connection that has something to say.
//!
//! A client that ends its side has either gone or waits for its answer: it gets that, as long as it takes what it is sent.
//!
//! **Invariant:** no head is acted on that is not whole and strict, and of a body nothing is handed on but its data and its trailers, framed
//! anew.

use super::head::{Ask, Length, Version};
use crate::port::control::Limits;
use crate::port::crowd::Guest;
use crate::port::fields::Fields;
use crate::port::pages::Code;
use crate::port::stream::{Carrier, Pace, Patience};
use crate::port::upstream::Source;
use dozen_core::port::framing::{About, Fault, Framing, Part, authority};
use http::Method;
use std::future::poll_fn;
use std::io::{self, IoSlice, Write as _};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::io::poll_read_buf;

/// A connection that has said nothing for so long keeps nothing but itself. To begin anew costs less than a microsecond: this is far above
/// what a client needs that asks one thing after the other.
pub(super) const REST: Duration = Duration::from_millis(100);
/// So much is read at once.
const READ: usize = 4 * 1024;
const READ_BODY: usize = 16 * 1024;
/// So much is taken of what a client says before its last request is answered.
const EARLY: usize = 16 * 1024;
/// What a client still sends when it is closed upon is read for so long and so much: closing on it would take the answer away with a reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;
/// The rest of a body whose request was answered: it is read, and forgotten. A client that has more to say is closed upon.
pub(super) const DRAIN: Duration = Duration::from_secs(10);
pub(super) const DRAIN_BYTES: usize = 64 << 20;

/// What a connection is while it idles.
pub(super) struct Wire<S> {
    pub(super) io: S,
    /// What was read; of it, `taken` bytes are done with.
    pub(super) input: Vec<u8>,
    taken: usize,
    /// The client has ended its side.
    ended: bool,
    pub(super) guest: Guest,
}

impl<S> Wire<S> {
    pub(super) fn new(io: S, guest: Guest) -> Self {
        Self { io, input: Vec::new(), taken: 0, ended: false, guest }
    }

    fn rest(&self) -> &[u8] {
        self.input.get(self.taken..).unwrap_or_default()
    }

    /// What was read of another protocol.
    pub(super) fn into_tunnel(mut self) -> (S, Vec<u8>, Guest) {
        let rest = self.input.split_off(self.taken);
        (self.io, rest, self.guest)
    }
}

impl<S: AsyncRead + Unpin> Wire<S> {
    /// Reads of a connection that idles, which has no room for it until something comes. `false` at the end.
    pub(super) fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut space = [std::mem::MaybeUninit::uninit(); READ];
        let mut first = ReadBuf::uninit(&mut space);
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut first));
        self.input.reserve(READ);
        self.input.extend_from_slice(first.filled());
        Poll::Ready(read.is_ok() && !first.filled().is_empty())
    }

    fn poll_input(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        if self.taken == self.input.len() {
            self.input.clear();
        } else if self.taken > 0 {
            self.input.drain(..self.taken);
        }
        self.taken = 0;
        self.input.reserve(most);
        let read = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input))?;
        self.ended = read == 0;
        Poll::Ready(Ok(read))
    }
}

/// What came of waiting for a request.
pub(super) enum Heard {
    /// A head, of so many bytes.
    Head(usize),
    Refused(Fault, About),
    /// Nothing, for a while.
    Nothing,
    /// The client has gone, or took too long.
    Over,
}

/// A connection with something to say.
pub(super) struct Talk<'w, S> {
    pub(super) wire: &'w mut Wire<S>,
    framing: Framing,
    /// What is to be told; of it, `told` bytes are.
    pub(super) out: Vec<u8>,
    told: usize,
    unflushed: bool,
    /// The request's body is chunked anew; of its trailers something was handed on.
    chunks: bool,
    trails: bool,
    /// The client waits until it hears that its body is wanted.
    pub(super) expects: bool,
    /// Of the body that is being read.
    patience: Patience,
    pace: Pace,
    /// Of what the client takes.
    takes: Patience,
    takes_pace: Pace,
    taken: u64,
    /// Since the client has ended its side: when it is taken for gone, and whether something was sent since that was set.
    half: Option<Pin<Box<Sleep>>>,
    wrote: bool,
    half_closed: Duration,
    /// Headers of the request before, for their room.
    spare: Fields,
}

impl<'w, S: Carrier> Talk<'w, S> {
    pub(super) fn new(wire: &'w mut Wire<S>, limits: &Limits) -> Self {
        Self {
            wire,
            framing: Framing::default(),
            out: Vec::new(),
            told: 0,
            unflushed: false,
            chunks: false,
            trails: false,
            expects: false,
            patience: Patience::new(limits.idle),
            pace: Pace::new(limits),
            takes: Patience::new(limits.idle),
            takes_pace: Pace::new(limits),
            taken: 0,
            half: None,
            wrote: false,
            half_closed: limits.half_closed,
            spare: Fields::default(),
        }
    }

    /// Waits for the next request; the one before was answered at `since`.
    pub(super) async fn hear(&mut self, mut timer: Pin<&mut Sleep>, since: Instant, most: Duration) -> Heard {
        // The time for a head counts from its first byte.
        let mut begun = None;
        poll_fn(|cx| {
            loop {
                let rest = self.wire.input.get(self.wire.taken..).unwrap_or_default();
                if !rest.is_empty() {
                    match self.framing.head(rest) {
                        Ok(Some(length)) => {
                            if self.wire.guest.held() > 0 {
                                self.wire.guest.hold(0);
                            }
                            return Poll::Ready(Heard::Head(length));
                        }
                        Ok(None) if self.wire.guest.hold(rest.len()) => {}
                        Ok(None) => {
                            let fault = Fault { status: 431, why: "too many clients are in the middle of long heads" };
                            return Poll::Ready(Heard::Refused(fault, self.framing.about(rest)));
                        }
                        Err(fault) => return Poll::Ready(Heard::Refused(fault, self.framing.about(rest))),
                    }
                }
                if self.wire.ended {
                    return Poll::Ready(Heard::Over);
                }
                match self.wire.poll_input(cx, READ) {
                    Poll::Ready(Ok(1..)) => continue,
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Heard::Over),
                    Poll::Pending => {}
                }
                let (until, then) = if self.wire.rest().is_empty() {
                    (since + REST, Heard::Nothing)
                } else {
                    (*begun.get_or_insert_with(Instant::now) + most, Heard::Over)
                };
                if timer.deadline() > until {
                    timer.as_mut().reset(until);
                }
                while timer.as_mut().poll(cx).is_ready() {
                    if until <= Instant::now() {
                        return Poll::Ready(then);
                    }
                    timer.as_mut().reset(until);
                }
                return Poll::Pending;
            }
        })
        .await
    }

    /// The request whose head was heard, and where its target is in that.
    pub(super) fn ask(&mut self, length: usize) -> (Ask, Range<usize>) {
        let mut fields = std::mem::take(&mut self.spare);
        let head = &self.wire.rest()[..length];
        fields.take(head, |places| self.framing.places(places));
        let (method, place) = self.framing.line();
        let target = std::str::from_utf8(&head[place.clone()]).unwrap_or("/");
        let version = if self.framing.is_old() { Version::Old } else { Version::One };
        (self.chunks, self.trails) = (self.framing.in_chunks(), false);
        let length_of = match (self.framing.in_body(), self.chunks) {
            (false, _) => Length::None,
            (true, false) => Length::Known,
            (true, true) => Length::Unknown,
        };
        let ask = Ask {
            version,
            method: Method::from_bytes(&head[method]).unwrap_or_default(),
            authority: authority(target).map(str::to_owned),
            fields,
            length: length_of,
        };
        self.wire.taken += length;
        self.patience.progress();
        self.pace.reset();
        (ask, place)
    }

    /// Done with a request.
    pub(super) fn forget(&mut self, ask: Ask) {
        self.spare = ask.fields;
        (self.expects, self.half, self.wrote) = (false, None, false);
    }

    /// Whether the client says more, or its last body is not read.
    pub(super) fn has_more(&self) -> bool {
        self.framing.in_body() || !self.wire.rest().is_empty()
    }

    /// Tells what is to be told, with `pieces` behind it. Ready when something was taken of it; answers how much of the pieces, and
    /// whether all is told.
    fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<Result<usize, Code>> {
        let out = self.out.get(self.told..).unwrap_or_default();
        let written = match pieces {
            [] => Pin::new(&mut self.wire.io).poll_write(cx, out),
            [piece] if out.is_empty() => Pin::new(&mut self.wire.io).poll_write(cx, piece),
            [piece, ..] if !self.wire.io.is_write_vectored() => {
                // Of a socket that takes one piece at a time.
                let piece = if out.is_empty() { piece } else { out };
                Pin::new(&mut self.wire.io).poll_write(cx, piece)
            }
            [piece] => Pin::new(&mut self.wire.io).poll_write_vectored(cx, &[IoSlice::new(out), IoSlice::new(piece)]),
            [piece, end, ..] => {
                Pin::new(&mut self.wire.io).poll_write_vectored(cx, &[IoSlice::new(out), IoSlice::new(piece), IoSlice::new(end)])
            }
        };
        let left = out.len();
        let bytes = if let Poll::Ready(Ok(bytes)) = written { bytes } else { 0 };
        let slow = self.takes_pace.is_below(&written, bytes);
        match written {
            Poll::Ready(_) if slow => return Poll::Ready(Err(Code::H28)),
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Code::H27)),
            Poll::Ready(Ok(_)) => {}
            Poll::Pending => return self.poll_stalled(cx).map(Err),
        }
        self.takes.progress();
        (self.wrote, self.unflushed) = (true, true);
        self.told += bytes.min(left);
        if self.told == self.out.len() {
            self.out.clear();
            self.told = 0;
        }
        Poll::Ready(Ok(bytes.saturating_sub(left)))
    }

    /// Tells all that is to be told, and has it sent.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Code>> {
        while !self.out.is_empty() {
            ready!(self.poll_write(cx, &[]))?;
        }
        if self.unflushed {
            let flushed = Pin::new(&mut self.wire.io).poll_flush(cx);
            let slow = self.takes_pace.is_below(&flushed, 0);
            match flushed {
                Poll::Ready(_) if slow => return Poll::Ready(Err(Code::H28)),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Code::H27)),
                Poll::Ready(Ok(())) => {}
                Poll::Pending => return self.poll_stalled(cx).map(Err),
            }
            self.takes.progress();
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the client has taken nothing for too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<Code> {
        let taken = self.wire.io.taken();
        if std::mem::replace(&mut self.taken, taken) != taken {
            self.takes.progress();
        }
        self.takes.poll_over(cx).map(|()| Code::H28)
    }

    /// Whether nothing was told of what is to be told, and nothing else is.
    pub(super) fn take_back(&mut self) -> bool {
        let untold = self.told == 0 && !self.out.is_empty() && !self.unflushed;
        if untold {
            self.out.clear();
        }
        untold
    }

    /// Tells what is to be told and this piece with what is to stand behind it; of both, `written` bytes are told.
    pub(super) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        piece: &IoSlice<'_>,
        end: &[u8],
        written: &mut usize,
    ) -> Poll<Result<(), Code>> {
        loop {
            if *written >= piece.len() + end.len() {
                return Poll::Ready(Ok(()));
            }
            let wrote = if *written < piece.len() {
                let rest = IoSlice::new(&piece[*written..]);
                if end.is_empty() { self.poll_write(cx, &[rest]) } else { self.poll_write(cx, &[rest, IoSlice::new(end)]) }
            } else {
                self.poll_write(cx, &[IoSlice::new(&end[*written - piece.len()..])])
            };
            *written += ready!(wrote)?;
        }
    }

    pub(super) async fn flush(&mut self) -> Result<(), Code> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Reads the rest of a body. Whether it came to its end.
    pub(super) async fn drain(&mut self) -> bool {
        let mut left = DRAIN_BYTES;
        let mut body = Vec::new();
        let reading = poll_fn(|cx| {
            while self.framing.in_body() {
                body.clear();
                let over = ready!(self.poll_body(cx, &mut body));
                left = left.saturating_sub(body.len());
                if over.is_err() || left == 0 {
                    return Poll::Ready(false);
                }
            }
            Poll::Ready(true)
        });
        tokio::time::timeout(DRAIN, reading).await.unwrap_or(false)
    }

    /// Ends the connection: nothing is said any more, which TLS tells. A client that did not ask for the end may have said more meanwhile.
    pub(super) async fn end(&mut self, tls: bool, asked: bool) {
        let listens = self.has_more() || !asked;
        if !tls && !listens {
            return;
        }
        let ending = async {
            let _ = poll_fn(|cx| Pin::new(&mut self.wire.io).poll_shutdown(cx)).await;
            if listens {
                self.linger().await;
            }
        };
        let _ = tokio::time::timeout(LINGER, ending).await;
    }

    async fn linger(&mut self) {
        let mut left = LINGER_BYTES;
        poll_fn(|cx| {
            while left > 0 {
                self.wire.input.clear();
                self.wire.taken = 0;
                match ready!(self.wire.poll_input(cx, READ_BODY)) {
                    Ok(read @ 1..) => left = left.saturating_sub(read),
                    Ok(0) | Err(_) => break,
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}

/// Appends a chunk.
pub(super) fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    size(out, data.len());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Appends the line before a chunk's data.
pub(super) fn size(out: &mut Vec<u8>, size: usize) {
    // Nothing is refused by memory.
    let _ = write!(out, "{size:x}\r\n");
}

impl<S: Carrier> Source for Talk<'_, S> {
    fn poll_body(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Result<bool, Code>> {
        loop {
            let before = out.len();
            let (chunks, trails) = (self.chunks, &mut self.trails);
            let read = self.framing.body(self.wire.input.get(self.wire.taken..).unwrap_or_default(), |part| match part {
                Part::Data(data) if chunks => chunk(out, data),
                Part::Data(data) => out.extend_from_slice(data),
                Part::Trailer(line) => {
                    if !std::mem::replace(trails, true) {
                        out.extend_from_slice(b"0\r\n");
                    }
                    out.extend_from_slice(line);
                    out.extend_from_slice(b"\r\n");
                }
            });
            let over = match read {
                Ok((read, over)) => {
                    self.wire.taken += read;
                    if read > 0 {
                        self.patience.progress();
                    }
                    over
                }
                Err(_) => return Poll::Ready(Err(Code::H26)),
            };
            if over {
                // There is nothing left that it could wait with.
                self.expects = false;
            }
            if over && chunks {
                out.extend_from_slice(if self.trails { b"\r\n" } else { b"0\r\n\r\n" });
            }
            if over || out.len() > before {
                return Poll::Ready(Ok(over));
            }
            if std::mem::take(&mut self.expects) {
                self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            if !self.out.is_empty()
                && let Poll::Ready(Err(code)) = self.poll_flush(cx)
            {
                return Poll::Ready(Err(code));
            }
            let polled = self.wire.poll_input(cx, READ_BODY);
            let came = if let Poll::Ready(Ok(came)) = polled { came } else { 0 };
            if self.pace.is_below(&polled, came) {
                return Poll::Ready(Err(Code::H28));
            }
            match polled {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Code::H27)),
                Poll::Pending => {
                    ready!(self.patience.poll_over(cx));
                    return Poll::Ready(Err(Code::H28));
                }
            }
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Code> {
        while !self.wire.ended {
            if self.wire.rest().len() >= EARLY {
                return Poll::Pending;
            }
            if ready!(self.wire.poll_input(cx, READ)).is_err() {
                return Poll::Ready(Code::H27);
            }
        }
        let patience = self.half_closed;
        let gone = self.half.get_or_insert_with(|| Box::pin(sleep(patience)));
        while gone.as_mut().poll(cx).is_ready() {
            if !std::mem::take(&mut self.wrote) {
                return Poll::Ready(Code::H27);
            }
            gone.as_mut().reset(Instant::now() + patience);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::crowd::Crowd;
    use std::sync::Arc;
    use tokio::io::AsyncWrite;

    /// Takes whatever is written, as TLS does, and has nothing of it sent, or a byte at each try.
    struct Keeps {
        trickles: bool,
        taken: u64,
    }

    impl AsyncRead for Keeps {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Keeps {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }
        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.taken += u64::from(self.trickles);
            Poll::Pending
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl Carrier for Keeps {
        fn taken(&self) -> u64 {
            self.taken
        }
    }

    #[tokio::test]
    async fn who_takes_nothing_of_what_tls_keeps_is_let_go() {
        let limits = Limits { idle: Duration::from_millis(20), ..Limits::default() };
        let guest = || Arc::new(Crowd::new(&limits, None)).admit([127, 0, 0, 1].into()).expect("room");
        let mut wire = Wire::new(Keeps { trickles: false, taken: 0 }, guest());
        let mut talk = Talk::new(&mut wire, &limits);
        talk.out.extend_from_slice(b"page");
        assert_eq!(talk.flush().await, Err(Code::H28));

        // Who takes a little at a time is not: it is looked at ten times as long.
        let mut wire = Wire::new(Keeps { trickles: true, taken: 0 }, guest());
        let mut talk = Talk::new(&mut wire, &limits);
        talk.out.extend_from_slice(b"page");
        let (mut looks, begun) = (tokio::time::interval(limits.idle / 4), Instant::now());
        let given_up = poll_fn(|cx| {
            let polled = talk.poll_flush(cx);
            while looks.poll_tick(cx).is_ready() {}
            if begun.elapsed() > 10 * limits.idle { Poll::Ready(Ok(())) } else { polled }
        });
        assert_eq!(given_up.await, Ok(()));
    }
}
