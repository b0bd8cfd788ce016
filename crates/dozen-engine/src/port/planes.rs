//! The router's end of the socket to its control plane, and to the next one when that is gone.
//!
//! **Invariant:** the newest control plane is the control plane: a lock rules who that is, so the one before is gone, whether it shows or not.

use super::wire::{FromRouter, PROTOCOL, ToRouter, line, read_message, send_with};
use rustix::process::Uid;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What is heard.
pub(super) enum Heard {
    Order(ToRouter),
    /// There is no control plane until the next one comes.
    Lost,
}

/// Whom the router hears and whom it tells.
pub(super) struct Planes {
    next: Option<UnixListener>,
    /// The user of every control plane.
    owner: Uid,
    /// Counts connections.
    last: u64,
    /// The one of the control plane.
    now: u64,
    /// Messages of any connection; `None` is its end.
    inbox: mpsc::Receiver<(u64, Option<ToRouter>)>,
    messages: mpsc::Sender<(u64, Option<ToRouter>)>,
    /// One that has connected and not yet said who it is.
    guest: Option<(u64, OwnedWriteHalf)>,
    writers: mpsc::UnboundedSender<OwnedWriteHalf>,
    telling: JoinHandle<()>,
}

impl Planes {
    /// `rest` was read of the control socket already. With `next` the router outlives who is there now; the next one is of `owner`'s, too.
    pub(super) fn begin(
        control: StdUnixStream,
        rest: Vec<u8>,
        next: Option<StdUnixListener>,
        owner: Uid,
        outgoing: mpsc::UnboundedReceiver<FromRouter>,
    ) -> io::Result<Self> {
        control.set_nonblocking(true)?;
        let (read, write) = UnixStream::from_std(control)?.into_split();
        let next = next.map(UnixListener::from_std).transpose()?;
        let (writers, fresh) = mpsc::unbounded_channel();
        let telling = crate::tasks::spawn("router events", tell(outgoing, write, fresh));
        let (messages, inbox) = mpsc::channel(16);
        let planes = Self { next, owner, last: 0, now: 0, inbox, messages, guest: None, writers, telling };
        planes.hear(0, rest, read);
        Ok(planes)
    }

    /// The next order, or that whoever gave them is gone; `None` when nobody will come to give another one. Safe to drop half-way.
    pub(super) async fn next(&mut self) -> Option<Heard> {
        loop {
            tokio::select! {
                Some((from, message)) = self.inbox.recv() => match message {
                    Some(ToRouter::Adopt { protocol, lasting }) if self.guest.as_ref().is_some_and(|(guest, _)| *guest == from) => {
                        self.now = from;
                        self.next = self.next.take().filter(|_| lasting);
                        return Some(Heard::Order(ToRouter::Adopt { protocol, lasting }));
                    }
                    _ if from != self.now => {}
                    Some(message) => return Some(Heard::Order(message)),
                    None if self.next.is_none() => return None,
                    None => return Some(Heard::Lost),
                },
                Ok((stream, _)) = accept(self.next.as_ref()) => {
                    // Nobody but who runs the router. The router itself runs no one.
                    if stream.peer_cred().is_ok_and(|peer| peer.uid() == self.owner.as_raw()) {
                        let (read, write) = stream.into_split();
                        self.last += 1;
                        self.guest = Some((self.last, write));
                        self.hear(self.last, Vec::new(), read);
                    }
                }
            }
        }
    }

    /// Has the guest be the control plane, and gives it copies of the listeners, of which the last are for TLS.
    pub(super) fn hand_back(&mut self, listeners: &[TcpListener], tls: usize) {
        let Some((_, write)) = self.guest.take() else { return };
        let copies: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
        // A few bytes fit into a socket that was not written to; where they do not, it is not there any more, and the next one is waited for.
        let _ = send_with(write.as_ref().as_fd(), &line(&FromRouter::Adopted { protocol: PROTOCOL, tls }), &copies);
        // The task lives as long as this.
        let _ = self.writers.send(write);
    }

    /// Waits until the last event was written. Ends when nobody can send one any more.
    pub(super) async fn end(self) {
        drop(self.writers);
        let _ = self.telling.await;
    }

    fn hear(&self, from: u64, rest: Vec<u8>, read: OwnedReadHalf) {
        let messages = self.messages.clone();
        crate::tasks::spawn("router orders", async move {
            let mut read = BufReader::new(io::Cursor::new(rest).chain(read));
            while let Ok(Some(message)) = read_message::<ToRouter>(&mut read).await {
                // What this version does not know is passed over.
                let Some(message) = message else { continue };
                if messages.send((from, Some(message))).await.is_err() {
                    return;
                }
            }
            // The router may have ended.
            let _ = messages.send((from, None)).await;
        });
    }
}

async fn accept(next: Option<&UnixListener>) -> io::Result<(UnixStream, tokio::net::unix::SocketAddr)> {
    match next {
        Some(next) => next.accept().await,
        None => std::future::pending().await,
    }
}

/// Writes events to whoever is the control plane until the last sender is gone. What is said while there is none is not kept: the next one
/// asks for what it needs.
async fn tell(
    mut outgoing: mpsc::UnboundedReceiver<FromRouter>,
    first: OwnedWriteHalf,
    mut fresh: mpsc::UnboundedReceiver<OwnedWriteHalf>,
) {
    let mut write = Some(first);
    loop {
        tokio::select! {
            biased;
            Some(next) = fresh.recv() => write = Some(next),
            event = outgoing.recv() => {
                let Some(event) = event else { return };
                if let Some(to) = &mut write
                    && to.write_all(line(&event).as_bytes()).await.is_err()
                {
                    write = None;
                }
            }
        }
    }
}
