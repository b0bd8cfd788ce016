//! A router's process, and what is said to it and heard of it.

use super::{NAME, Note, RouterEvent, RouterSpec, Supply, own_user};
use crate::port::wire::{
    FromRouter, Held, MAX_LISTENERS, PROTOCOL, ToRouter, WireCertificate, WireProof, WireTable, line, read_message, send_with,
};
use crate::port::{Listeners, PortError};
use crate::tasks;
use dozen_core::ids::Version;
use dozen_core::port::tally::Tally;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// The process of a router.
#[derive(Debug)]
pub(super) enum Process {
    /// This process started it.
    Child(Child),
    /// It was taken over.
    Found(u32, AsyncFd<OwnedFd>),
}

/// One process and the two tasks that speak with it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) process: Process,
    /// What it speaks.
    pub(super) protocol: u32,
    /// The ports that it is to say `Drained` of, and those whose count it is to tell.
    pub(super) drains: BTreeSet<u16>,
    pub(super) tells: BTreeSet<u16>,
    pub(super) counted: Counted,
    pub(super) to: mpsc::UnboundedSender<String>,
    pub(super) from: mpsc::UnboundedReceiver<RouterEvent>,
}

/// What a process has told of the splits: it tells the sum each time, so that who takes it over misses nothing.
#[derive(Debug)]
pub(super) enum Counted {
    /// It was taken over and told nothing yet: what it tells first was counted at a time that nobody knows.
    Found,
    /// By deploy, split and release.
    Told(BTreeMap<(String, i64), BTreeMap<Version, Tally>>),
}

impl Default for Counted {
    fn default() -> Self {
        Self::Told(BTreeMap::new())
    }
}

impl Counted {
    /// What came since it told last.
    pub(super) fn more(&mut self, deploy: String, split: i64, tallies: BTreeMap<Version, Tally>) -> Option<RouterEvent> {
        let fresh = matches!(self, Self::Told(_));
        if !fresh {
            *self = Self::default();
        }
        let Self::Told(told) = self else { return None };
        // One split of a deploy follows another.
        told.retain(|(of, number), _| *of != deploy || *number >= split);
        let before = told.entry((deploy.clone(), split)).or_default();
        let mut more = BTreeMap::new();
        for (version, tally) in tallies {
            let known = before.entry(version).or_default();
            more.insert(version, tally.since(known));
            *known = tally;
        }
        Some(RouterEvent::Counted { deploy, split, tallies: more, fresh })
    }
}

impl Link {
    pub(super) fn open(spec: &RouterSpec, listeners: &Listeners) -> Result<Self, PortError> {
        let fail = |source: io::Error| PortError::Start { exe: spec.exe.clone(), source };
        // The router enters it before it hears of any deploy, and a new home has none.
        std::fs::create_dir_all(spec.home.all_logs()).map_err(fail)?;
        let (ours, theirs) = StdUnixStream::pair().map_err(fail)?;
        #[expect(clippy::disallowed_methods, reason = "the one place that starts a router")]
        let child = Command::new(&spec.exe)
            .arg("__router")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // A terminal's Ctrl-C is for the control plane, which then stops the router in order.
            .process_group(0)
            .spawn()
            .map_err(fail)?;
        let (public, tls) = listeners.sockets();
        let start = ToRouter::Start {
            protocol: PROTOCOL,
            workers: spec.workers,
            limits: Box::new(spec.limits),
            segment_bytes: spec.segment_bytes,
            segments: spec.segments,
            lasting: spec.lasting.is_some(),
            held: Some(Held { logs: spec.home.all_logs(), user: own_user() }),
            tls,
        };
        let mut sockets: Vec<BorrowedFd<'_>> = public.into_iter().map(AsFd::as_fd).collect();
        let next = match &spec.lasting {
            Some(notes) => {
                notes.write(NAME, &Note { protocol: PROTOCOL, port: listeners.port(), https: listeners.https_port() }).map_err(fail)?;
                Some(notes.bind(NAME).map_err(fail)?)
            }
            None => None,
        };
        sockets.extend(next.as_ref().map(AsFd::as_fd));
        send_with(ours.as_fd(), &line(&start), &sockets).map_err(fail)?;
        ours.set_nonblocking(true).map_err(fail)?;
        let (read, write) = UnixStream::from_std(ours).map_err(fail)?.into_split();
        let (to, from) = Self::speak(BufReader::new(read), write);
        let (drains, tells) = Default::default();
        Ok(Self { process: Process::Child(child), protocol: PROTOCOL, drains, tells, counted: Counted::default(), to, from })
    }

    /// Starts the two tasks.
    fn speak(
        mut read: impl tokio::io::AsyncBufRead + Unpin + Send + 'static,
        mut write: OwnedWriteHalf,
    ) -> (mpsc::UnboundedSender<String>, mpsc::UnboundedReceiver<RouterEvent>) {
        let (to, mut outgoing) = mpsc::unbounded_channel::<String>();
        tasks::spawn("router-orders", async move {
            while let Some(message) = outgoing.recv().await {
                if write.write_all(message.as_bytes()).await.is_err() {
                    break;
                }
            }
        });
        let (events, from) = mpsc::unbounded_channel();
        tasks::spawn("router-events", async move {
            while let Ok(Some(message)) = read_message::<FromRouter>(&mut read).await {
                let Some(event) = message.and_then(FromRouter::event) else { continue };
                if events.send(event).is_err() {
                    return;
                }
            }
        });
        (to, from)
    }

    pub(super) fn certify(&self, (serial, supply): &(u64, Arc<Supply>)) {
        if *serial > 0 {
            let certificates = supply.certificates.iter().map(WireCertificate::from).collect();
            let proofs = supply.proofs.iter().map(WireProof::from).collect();
            self.send(line(&ToRouter::Certificates { serial: *serial, certificates, proofs }));
        }
    }

    pub(super) fn set(&self, table: &WireTable) {
        self.send(line(&ToRouter::Set { table: table.clone().for_protocol(self.protocol) }));
    }

    pub(super) fn drain(&mut self, port: u16) {
        self.drains.insert(port);
        self.send(line(&ToRouter::Drain { port }));
    }

    /// A message to a router that is gone is not lost: its successor is told all that still matters.
    pub(super) fn send(&self, message: String) {
        let _ = self.to.send(message);
    }
}

impl Process {
    /// Somebody else's child. That it answers after this shows that the number meant it.
    pub(super) fn found(pid: u32) -> io::Result<Self> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        let pidfd = pidfd_open(number, PidfdFlags::NONBLOCK)?;
        #[expect(deprecated, reason = "its successor is unsafe for the sake of types that may change their descriptor; an OwnedFd cannot")]
        let ready = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        Ok(Self::Found(pid, ready))
    }

    /// Waits for its end.
    pub(super) async fn wait(&mut self) {
        // What cannot be waited for has ended.
        match self {
            Self::Child(child) => drop(child.wait().await),
            Self::Found(_, ended) => drop(ended.readable().await),
        }
    }

    pub(super) async fn kill(&mut self) {
        match self {
            Self::Child(child) => drop(child.kill().await),
            Self::Found(_, process) => {
                let _ = pidfd_send_signal(process.get_ref(), Signal::KILL);
                self.wait().await;
            }
        }
    }

    pub(super) fn id(&self) -> Option<u32> {
        match self {
            Self::Child(child) => child.id(),
            Self::Found(pid, _) => Some(*pid),
        }
    }
}

pub(super) type Speech = (mpsc::UnboundedSender<String>, mpsc::UnboundedReceiver<RouterEvent>);

/// Says who is there now, and takes the listeners and the table.
pub(super) async fn take_over(stream: UnixStream, lasting: bool) -> io::Result<(Listeners, Option<WireTable>, Speech)> {
    let hello = line(&ToRouter::Adopt { protocol: PROTOCOL, lasting });
    let mut sockets: Vec<TcpListener> = Vec::new();
    let mut text = Vec::new();
    let (read, mut write) = stream.into_split();
    write.write_all(hello.as_bytes()).await?;
    while !text.contains(&b'\n') {
        read.readable().await?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut chunk = [0; 4096];
        let got = read.as_ref().try_io(Interest::READABLE, || {
            Ok(rustix::net::recvmsg(read.as_ref(), &mut [IoSliceMut::new(&mut chunk)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?)
        });
        let got = match got {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            got => got?.bytes,
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                sockets.extend(fds.map(TcpListener::from));
            }
        }
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        text.extend_from_slice(&chunk[..got]);
    }
    let mut read = BufReader::new(io::Cursor::new(text).chain(read));
    let mut secure = 0;
    let table = loop {
        match read_message::<FromRouter>(&mut read).await? {
            Some(Some(FromRouter::Adopted { tls, .. })) => secure = tls,
            Some(Some(FromRouter::Table { table })) => break table,
            Some(_) => {}
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    };
    let listeners = Listeners::of(sockets, secure).ok_or_else(|| io::Error::other("it gave no listeners back"))?;
    Ok((listeners, table, Link::speak(read, write)))
}
