//! The jail's end of the socket to its driver.
//!
//! A lasting jail has a second socket, where the next driver comes when the first is gone. What that one has to know is said again.
//!
//! **Invariant:** a driver that does not read never blocks the jail; what is said waits in order.
//! **Invariant:** the newest driver is the driver. Who drives a deploy is ruled by a lock, so the one before is gone, whether it shows or not.

use crate::sys;
use dozen_core::processes::jail::{FromJail, ToJail, speaks};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, listen, recv, send};
use rustix::process::{Pid, geteuid};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// The longest line taken from the driver: a spec with its whole environment.
const MAX_MESSAGE: usize = 1024 * 1024;
/// So much of what the next driver has not been told yet is kept for it.
const MAX_MISSED: usize = 16;

pub(crate) struct Control {
    /// `None` while there is no driver.
    socket: Option<OwnedFd>,
    /// Where the next driver comes; `None` where the jail ends with its driver.
    next: Option<OwnedFd>,
    /// Where others see that the jail is still there.
    shown: Option<OwnedFd>,
    /// Whether the driver has said who it is. The first one need not.
    known: bool,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// What every driver is told.
    lasting: Vec<FromJail>,
    /// What was said while there was none, for the next.
    missed: Vec<FromJail>,
    collected: bool,
}

impl Control {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Some(socket),
            next: None,
            shown: None,
            known: true,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            lasting: Vec::new(),
            missed: Vec::new(),
            collected: false,
        }
    }

    /// Outlives the driver from now on. To be called by the jail itself, since who listens is who is seen by those that connect, and before
    /// its program runs: where the driver is gone already, the next one may have met a socket without anybody behind it, and taken the jail
    /// for dead.
    pub(crate) fn last(&mut self, next: OwnedFd) -> Result<(), Errno> {
        listen(&next, 4)?;
        ioctl_fionbio(&next, true)?;
        while self.receive(RecvFlags::DONTWAIT) {}
        self.next = Some(next).filter(|_| self.socket.is_some());
        if self.next.is_some() { Ok(()) } else { Err(Errno::PIPE) }
    }

    /// Ends with its driver, and is seen to have ended: who connects waits for the end of a connection that nobody takes. To be called as
    /// [`Self::last`].
    pub(crate) fn show(&mut self, shown: OwnedFd) -> Result<(), Errno> {
        listen(&shown, 4)?;
        while self.receive(RecvFlags::DONTWAIT) {}
        self.shown = Some(shown);
        if self.socket.is_some() { Ok(()) } else { Err(Errno::PIPE) }
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

    /// Takes what has come. Messages that this version does not know are passed over. `refuses` says whom not to take for a driver.
    pub(crate) fn take(&mut self, refuses: impl Fn(Pid) -> bool) -> Vec<ToJail> {
        while self.receive(RecvFlags::DONTWAIT) {}
        let mut messages = Vec::new();
        while let Some(line) = self.line() {
            match serde_json::from_slice::<ToJail>(&line) {
                Ok(ToJail::Adopt { protocol, lasting }) => self.adopt(protocol, lasting),
                Ok(ToJail::Collect) => self.collected = true,
                Ok(message) if self.known => messages.push(message),
                Ok(_) | Err(_) => {}
            }
        }
        // Behind what the one before still said.
        self.welcome(refuses);
        messages
    }

    /// Whether the driver is gone and no other will come.
    pub(crate) fn lost(&self) -> bool {
        self.socket.is_none() && self.next.is_none()
    }

    /// Whether all that was said has left.
    pub(crate) fn idle(&self) -> bool {
        self.outgoing.is_empty()
    }

    pub(crate) fn say(&mut self, message: FromJail) {
        use FromJail::{Crowded, Exited, Failed, Killing, Listening, Refused, Started, Stopping};
        let present = self.socket.is_some() && self.known;
        if present {
            self.write(&message);
        }
        match message {
            Started { .. } | Listening { .. } | Stopping { .. } | Exited { .. } | Failed { .. } => self.lasting.push(message),
            Refused { .. } | Crowded { .. } | Killing if !present && self.missed.len() < MAX_MISSED => self.missed.push(message),
            _ => {}
        }
        self.push();
    }

    fn write(&mut self, message: &FromJail) {
        if let Ok(line) = serde_json::to_vec(message) {
            self.outgoing.extend_from_slice(&line);
            self.outgoing.push(b'\n');
        }
    }

    /// Sends as much as the socket takes now.
    pub(crate) fn push(&mut self) {
        while let (false, Some(socket)) = (self.outgoing.is_empty(), &self.socket) {
            match send(socket, &self.outgoing, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => drop(self.outgoing.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.lose(),
            }
        }
    }

    /// What is to be waited for.
    pub(crate) fn poll(&self) -> impl Iterator<Item = PollFd<'_>> {
        let out = if self.idle() { PollFlags::empty() } else { PollFlags::OUT };
        let socket = self.socket.as_ref().map(|socket| PollFd::new(socket, PollFlags::IN | out));
        socket.into_iter().chain(self.next.as_ref().map(|next| PollFd::new(next, PollFlags::IN)))
    }

    /// Whether the jail has nobody to tell its end any more: it was collected, or a jail that does not last has told it.
    pub(crate) fn over(&self) -> bool {
        self.collected || self.next.is_none()
    }

    /// Waits for the last words to leave, no longer than `limit`.
    pub(crate) fn finish(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        self.push();
        while let (false, Some(socket)) = (self.outgoing.is_empty(), &self.socket) {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(timeout) = Timespec::try_from(left) else { return };
            let wait = || poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&timeout));
            if left.is_zero() || rustix::io::retry_on_intr(wait).is_err() {
                return;
            }
            self.push();
        }
    }

    /// Takes the next driver in, in place of the one before.
    fn welcome(&mut self, refuses: impl Fn(Pid) -> bool) {
        while let Some(socket) = self.next.as_ref().and_then(|next| accept_with(next, SocketFlags::CLOEXEC).ok()) {
            let Some((pid, uid)) = sys::peer(socket.as_fd()) else { continue };
            // Nobody but who runs the jail, and nobody whom it runs.
            if uid == geteuid().as_raw() && !Pid::from_raw(pid).is_some_and(&refuses) {
                self.lose();
                self.socket = Some(socket);
            }
        }
    }

    /// Tells the new driver all that it has to know. One of a version that cannot be spoken with is not listened to.
    fn adopt(&mut self, protocol: u32, lasting: bool) {
        // The newer side knows both versions.
        if protocol < dozen_core::processes::jail::PROTOCOL && !speaks(protocol) {
            return self.lose();
        }
        self.known = true;
        if !lasting {
            self.next = None;
        }
        let missed = std::mem::take(&mut self.missed);
        for message in self.lasting.clone().into_iter().chain(missed).chain([FromJail::Told]) {
            self.write(&message);
        }
        self.push();
    }

    fn lose(&mut self) {
        (self.socket, self.known) = (None, false);
        self.incoming.clear();
        self.outgoing.clear();
    }

    /// One read. False at the end, when nothing has come, or when a message is too long to be meant.
    fn receive(&mut self, flags: RecvFlags) -> bool {
        let Some(socket) = &self.socket else { return false };
        let mut chunk = [0u8; 4 * 1024];
        match recv(socket, &mut chunk, flags) {
            Ok((n @ 1.., _)) => {
                self.incoming.extend_from_slice(&chunk[..n]);
                if self.incoming.len() <= MAX_MESSAGE {
                    return true;
                }
            }
            Err(Errno::INTR) => return true,
            Err(Errno::AGAIN) => return false,
            Ok(_) | Err(_) => {}
        }
        // What it has said before its end still counts.
        self.socket = None;
        self.outgoing.clear();
        false
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.incoming.iter().position(|b| *b == b'\n')?;
        let mut line: Vec<u8> = self.incoming.drain(..=end).collect();
        line.pop();
        Some(line)
    }
}
