//! The jail's end of the socket to its driver.
//!
//! **Invariant:** a driver that does not read never blocks the jail; what is said waits in order.

use dozen_core::processes::jail::{FromJail, ToJail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The longest line taken from the driver: a spec with its whole environment.
const MAX_MESSAGE: usize = 1024 * 1024;

pub(crate) struct Control {
    socket: OwnedFd,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    lost: bool,
}

impl Control {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, incoming: Vec::new(), outgoing: Vec::new(), lost: false }
    }

    /// Waits for one message. `None` when the driver is gone or says something else.
    pub(crate) fn wait(&mut self) -> Option<ToJail> {
        loop {
            if let Some(line) = self.line() {
                return serde_json::from_slice(&line).ok();
            }
            if !self.receive(RecvFlags::empty()) {
                return None;
            }
        }
    }

    /// Takes what has come. Messages that this version does not know are passed over.
    pub(crate) fn take(&mut self) -> Vec<ToJail> {
        while !self.lost && self.receive(RecvFlags::DONTWAIT) {}
        let mut messages = Vec::new();
        while let Some(line) = self.line() {
            messages.extend(serde_json::from_slice::<ToJail>(&line));
        }
        messages
    }

    /// Whether the driver is gone.
    pub(crate) fn lost(&self) -> bool {
        self.lost
    }

    /// Whether all that was said has left.
    pub(crate) fn idle(&self) -> bool {
        self.outgoing.is_empty()
    }

    pub(crate) fn say(&mut self, message: &FromJail) {
        if let Ok(line) = serde_json::to_vec(message) {
            self.outgoing.extend_from_slice(&line);
            self.outgoing.push(b'\n');
        }
        self.push();
    }

    /// Sends as much as the socket takes now.
    pub(crate) fn push(&mut self) {
        while !self.outgoing.is_empty() && !self.lost {
            match send(&self.socket, &self.outgoing, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => drop(self.outgoing.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.lost = true,
            }
        }
        if self.lost {
            self.outgoing.clear();
        }
    }

    /// Waits for the last words to leave, no longer than `limit`.
    pub(crate) fn finish(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        self.push();
        while !self.outgoing.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(timeout) = Timespec::try_from(left) else { return };
            let wait = || poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], Some(&timeout));
            if left.is_zero() || rustix::io::retry_on_intr(wait).is_err() {
                return;
            }
            self.push();
        }
    }

    /// One read. False at the end, when nothing has come, or when a message is too long to be meant.
    fn receive(&mut self, flags: RecvFlags) -> bool {
        let mut chunk = [0u8; 16 * 1024];
        match recv(&self.socket, &mut chunk, flags) {
            Ok((0, _)) => {
                self.lost = true;
                false
            }
            Ok((n, _)) => {
                self.incoming.extend_from_slice(&chunk[..n]);
                if self.incoming.len() > MAX_MESSAGE {
                    self.lost = true;
                }
                !self.lost
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            Err(_) => {
                self.lost = true;
                false
            }
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.incoming.iter().position(|b| *b == b'\n')?;
        let mut line: Vec<u8> = self.incoming.drain(..=end).collect();
        line.pop();
        Some(line)
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
