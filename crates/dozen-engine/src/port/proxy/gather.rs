//! What is to be told by HTTP/2 is gathered, and sent when all that is ready was told: the answers of several streams are one record of TLS
//! and one packet, and cost the system little more than a single one.
//!
//! **Invariant:** so much waits here and no more; who has more to tell waits for the client.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A record of TLS holds so much. What waits is no more than this, and what is larger does not wait.
const MOST: usize = 16 * 1024;
/// So many buffers a worker keeps for the next connections that have something to tell.
const SPARE: usize = 16;

thread_local! {
    /// Buffers of this worker's that nothing waits in: a connection without an answer on its way has none.
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A client's socket and what is gathered for it. Who speaks the protocol has one handle, who sends has another.
pub(super) struct Gather<S>(Rc<RefCell<Gathered<S>>>);

struct Gathered<S> {
    socket: S,
    /// What waits; of it, `told` bytes are sent.
    out: Vec<u8>,
    told: usize,
    /// Something may still be on its way within the socket.
    unflushed: bool,
}

impl<S> Clone for Gather<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    pub(super) fn new(socket: S) -> Self {
        Self(Rc::new(RefCell::new(Gathered { socket, out: Vec::new(), told: 0, unflushed: false })))
    }

    /// So much waits.
    pub(super) fn waits(&self) -> usize {
        self.0.borrow().out.len()
    }

    /// Sends what waits.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_send(cx)
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.out[self.told..]))?;
            self.sent(sent)?;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// So much was taken of what waits, and perhaps of what came behind it; answers how much of that.
    fn sent(&mut self, bytes: usize) -> io::Result<usize> {
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.unflushed = true;
        let left = self.out.len() - self.told;
        self.told += bytes.min(left);
        if self.told == self.out.len() {
            let mut empty = std::mem::take(&mut self.out);
            empty.clear();
            self.told = 0;
            if empty.capacity() > 0 {
                BUFFERS.with_borrow_mut(|buffers| {
                    if buffers.len() < SPARE {
                        buffers.push(empty);
                    }
                });
            }
        }
        Ok(bytes.saturating_sub(left))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let all: usize = pieces.iter().map(|piece| piece.len()).sum();
        let pieces = &pieces[pieces.iter().take_while(|piece| piece.is_empty()).count()..];
        loop {
            if self.out.len() + all <= MOST {
                if self.out.capacity() == 0 {
                    self.out = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(MOST));
                }
                pieces.iter().for_each(|piece| self.out.extend_from_slice(piece));
                return Poll::Ready(Ok(all));
            }
            let written = match pieces {
                [piece] if self.out.is_empty() => ready!(Pin::new(&mut self.socket).poll_write(cx, piece))?,
                // What HTTP/2 has to tell at once is the head of a frame and its data.
                [first, second, ..] if self.socket.is_write_vectored() => {
                    let waits = IoSlice::new(&self.out[self.told..]);
                    let three = [waits, IoSlice::new(first), IoSlice::new(second)];
                    ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, &three))?
                }
                [first, ..] if self.socket.is_write_vectored() => {
                    let two = [IoSlice::new(&self.out[self.told..]), IoSlice::new(first)];
                    ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, &two))?
                }
                [first, ..] => {
                    let first = if self.out.is_empty() { first } else { &self.out[self.told..] };
                    ready!(Pin::new(&mut self.socket).poll_write(cx, first))?
                }
                [] => return Poll::Ready(Ok(0)),
            };
            match self.sent(written)? {
                // Of what came with it nothing was taken yet.
                0 => {}
                more => return Poll::Ready(Ok(more)),
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, &[IoSlice::new(buf)])
    }
    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    /// It is for who gathers to say when.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.borrow_mut();
        ready!(gathered.poll_send(cx))?;
        Pin::new(&mut gathered.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// Takes so much, and says of how many writes it came.
    #[derive(Default)]
    struct Socket {
        room: usize,
        got: Vec<u8>,
        writes: usize,
        vectored: bool,
    }

    impl AsyncWrite for Socket {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }
        fn poll_write_vectored(mut self: Pin<&mut Self>, _: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Poll::Pending;
            }
            self.room -= taken;
            self.writes += 1;
            self.got.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }
        fn is_write_vectored(&self) -> bool {
            self.vectored
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Tells these pieces, two at a time, as far as they are taken; gives the socket more room each time it takes no more.
    fn told(pieces: &[Vec<u8>], mut rooms: impl Iterator<Item = usize>, vectored: bool) -> (Vec<u8>, usize) {
        let mut gather = Gather::new(Socket { vectored, ..Socket::default() });
        let cx = &mut Context::from_waker(Waker::noop());
        let more = |gather: &Gather<Socket>, rooms: &mut dyn Iterator<Item = usize>| {
            assert!(gather.waits() <= MOST);
            gather.0.borrow_mut().socket.room += rooms.next().expect("more room");
        };
        for pair in pieces.chunks(2) {
            let (mut first, mut second) = (&pair[0][..], pair.get(1).map_or(&[][..], Vec::as_slice));
            while !(first.is_empty() && second.is_empty()) {
                let slices = [IoSlice::new(first), IoSlice::new(second)];
                let slices = if first.is_empty() { &slices[1..] } else { &slices[..] };
                match Pin::new(&mut gather).poll_write_vectored(cx, slices) {
                    Poll::Ready(taken) => {
                        let taken = taken.expect("taken");
                        let of_first = taken.min(first.len());
                        (first, second) = (&first[of_first..], &second[taken - of_first..]);
                    }
                    Poll::Pending => more(&gather, &mut rooms),
                }
            }
        }
        while gather.poll_send(cx).is_pending() {
            more(&gather, &mut rooms);
        }
        assert_eq!(gather.waits(), 0);
        let socket = &gather.0.borrow().socket;
        (socket.got.clone(), socket.writes)
    }

    #[test]
    fn what_is_small_is_sent_at_once_and_what_is_large_with_what_waits() {
        let small: Vec<Vec<u8>> = (0..8).map(|n| vec![n; 500]).collect();
        assert_eq!(told(&small, std::iter::repeat(1 << 20), true), (small.concat(), 1));
        let large = [vec![1; 9], vec![2; 900], vec![3; 9], vec![4; MOST], vec![5; 9]];
        assert_eq!(told(&large, std::iter::repeat(1 << 20), true), (large.concat(), 2));
        let (got, writes) = told(&large, std::iter::repeat(1 << 20), false);
        assert!(got == large.concat() && writes > 2);
    }

    #[test]
    fn nothing_is_lost_or_told_twice_however_little_is_taken_at_a_time() {
        let pieces: Vec<Vec<u8>> =
            (0_u8..24).map(|n| (0..usize::from(n) * 211 % 5_003 + 1).map(|b| n ^ (b % 251) as u8).collect()).collect();
        for vectored in [false, true] {
            for room in [499, 5_000, MOST, MOST + 1] {
                assert_eq!(told(&pieces, std::iter::repeat(room), vectored).0, pieces.concat(), "{room}");
            }
        }
    }
}
