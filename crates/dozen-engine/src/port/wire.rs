//! The messages between the control plane and the router.
//!
//! The router is started as `EXE __router` with a connected Unix stream socket as its standard input. Each message is one line of JSON; the
//! first, [`ToRouter::Start`], carries copies of the listeners as ancillary data. End of file on the socket means that the control plane is
//! lost: the router ends, unless it was told to last. Then it serves on, and waits on a socket in the run folder for the next control plane,
//! which says [`ToRouter::Adopt`] and is given copies of the listeners and the table.

use super::control::{Limits, RouterEvent};
use crate::home::Home;
use dozen_core::ids::Generation;
use dozen_core::port::{Route, RouteTable, Web};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt};

/// The version of these messages; N speaks N−1.
pub(super) const PROTOCOL: u32 = 2;
/// Whether a router and a control plane of these versions understand each other.
pub(super) fn speaks(protocol: u32) -> bool {
    (PROTOCOL - 1..=PROTOCOL).contains(&protocol)
}

/// A longer message is refused: a table of 10,000 hosts has about 2 MB.
pub(super) const MAX_MESSAGE: u64 = 64 * 1024 * 1024;
/// So many listeners can be handed over.
pub(super) const MAX_LISTENERS: usize = 8;

/// Sends a message, and descriptors with its first byte.
pub(super) fn send_with(socket: BorrowedFd<'_>, message: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many listeners"));
    }
    let mut rest = message.as_bytes();
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL)?;
    rest = &rest[sent..];
    while !rest.is_empty() {
        let sent = rustix::net::send(socket, rest, SendFlags::NOSIGNAL)?;
        rest = &rest[sent..];
    }
    Ok(())
}

/// One message as its line.
pub(super) fn line(message: &impl Serialize) -> String {
    let mut text = serde_json::to_string(message).unwrap_or_default();
    text.push('\n');
    text
}

/// The next message; `Some(None)` for one that this version does not know, `None` at the end.
pub(super) async fn read_message<M: for<'de> Deserialize<'de>>(
    from: &mut (impl tokio::io::AsyncBufRead + Unpin),
) -> io::Result<Option<Option<M>>> {
    let mut text = Vec::new();
    let read = from.take(MAX_MESSAGE).read_until(b'\n', &mut text).await?;
    if read == 0 || text.last() != Some(&b'\n') {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&text).ok()))
}

/// Control plane to router.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(super) enum ToRouter {
    /// First, and once; the listeners come with it.
    Start {
        protocol: u32,
        workers: usize,
        limits: Limits,
        segment_bytes: u64,
        segments: u32,
        /// Whether it outlives the control plane; then the last of the descriptors is where it waits for the next one.
        #[serde(default)]
        lasting: bool,
        /// What it gives up everything else for; `None` from control planes that know nothing of it.
        #[serde(default)]
        held: Option<Held>,
    },
    /// From another control plane, before anything else.
    Adopt {
        protocol: u32,
        /// Whether it is to outlive this one, too.
        lasting: bool,
    },
    Set {
        table: WireTable,
    },
    Drain {
        port: u16,
    },
    InFlight {
        port: u16,
    },
    Stop {
        grace_ms: u64,
    },
}

/// What is left to a router.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Held {
    /// The folder of all log folders.
    pub(super) logs: PathBuf,
    /// The uid and gid to run as; `None` keeps the caller's.
    pub(super) user: Option<(u32, u32)>,
}

/// Router to control plane.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub(super) enum FromRouter {
    Started {
        protocol: u32,
        /// What it was to give up and could not, for people.
        #[serde(default)]
        missing: Vec<String>,
    },
    /// The answer to `Adopt`; copies of the listeners come with it.
    Adopted {
        protocol: u32,
    },
    /// After that: what leads requests, if anything does.
    Table {
        table: Option<WireTable>,
    },
    Applied {
        generation: u64,
    },
    Stale {
        generation: u64,
        current: u64,
    },
    Drained {
        port: u16,
    },
    InFlight {
        port: u16,
        count: usize,
    },
    Refused {
        deploy: String,
        instance: String,
        port: u16,
    },
    Wrote {
        deploy: String,
    },
}

impl FromRouter {
    pub(super) fn event(self) -> Option<RouterEvent> {
        Some(match self {
            Self::Started { missing, .. } if !missing.is_empty() => RouterEvent::Weak { missing },
            Self::Started { .. } | Self::Adopted { .. } | Self::Table { .. } => return None,
            Self::Applied { generation } => RouterEvent::Applied { generation: Generation(generation) },
            Self::Stale { generation, current } => RouterEvent::Stale { generation: Generation(generation), current: Generation(current) },
            Self::Drained { port } => RouterEvent::Drained { port },
            Self::InFlight { port, count } => RouterEvent::InFlight { port, count },
            Self::Refused { deploy, instance, port } => RouterEvent::BackendRefused { deploy, instance, port },
            Self::Wrote { deploy } => RouterEvent::Wrote { deploy },
        })
    }
}

/// A [`RouteTable`] on the wire: each route once, with its hosts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WireTable {
    pub(super) generation: u64,
    pub(super) routes: Vec<WireRoute>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WireRoute {
    pub(super) deploy: String,
    pub(super) log: PathBuf,
    pub(super) hosts: Vec<String>,
    pub(super) fallback: bool,
    pub(super) web: WireWeb,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum WireWeb {
    Ready(Vec<WireBackend>),
    Starting,
    Held,
    Crashed,
    None,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WireBackend {
    pub(super) instance: String,
    pub(super) port: u16,
}

impl WireWeb {
    pub(super) fn ports(&self) -> Vec<u16> {
        match self {
            Self::Ready(backends) => backends.iter().map(|b| b.port).collect(),
            Self::Starting | Self::Held | Self::Crashed | Self::None => Vec::new(),
        }
    }
}

impl WireTable {
    pub(super) fn of(table: &RouteTable, home: &Home) -> Self {
        let mut routes: Vec<WireRoute> = Vec::new();
        let mut known = std::collections::HashMap::new();
        let mut of = |route: &'_ Arc<Route>, host: Option<&String>| {
            let index = *known.entry(Arc::as_ptr(route)).or_insert_with(|| {
                routes.push(WireRoute::of(route, home));
                routes.len() - 1
            });
            match host {
                Some(host) => routes[index].hosts.push(host.clone()),
                None => routes[index].fallback = true,
            }
        };
        for (host, route) in &table.hosts {
            of(route, Some(host));
        }
        if let Some(route) = &table.fallback {
            of(route, None);
        }
        Self { generation: table.generation.0, routes }
    }

    /// The same in words that a router of this version knows: a message with one that it does not is passed over as a whole.
    pub(super) fn for_protocol(mut self, protocol: u32) -> Self {
        // 1 does not know of waiting for a change. Requests wait there as for a start: longer, and with another error.
        let held = |route: &&mut WireRoute| protocol < 2 && matches!(route.web, WireWeb::Held);
        self.routes.iter_mut().filter(held).for_each(|route| route.web = WireWeb::Starting);
        self
    }
}

impl WireRoute {
    fn of(route: &Route, home: &Home) -> Self {
        let web = match &route.web {
            Web::Ready(backends) => {
                WireWeb::Ready(backends.iter().map(|b| WireBackend { instance: b.instance.clone(), port: b.port }).collect())
            }
            Web::Starting => WireWeb::Starting,
            Web::Held => WireWeb::Held,
            Web::Crashed => WireWeb::Crashed,
            Web::None => WireWeb::None,
        };
        Self { deploy: route.deploy.to_string(), log: home.logs(&route.deploy), hosts: Vec::new(), fallback: false, web }
    }
}
