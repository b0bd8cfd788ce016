//! The messages between the control plane and the router.
//!
//! The router is started as `EXE __router` with a connected Unix stream socket as its standard input. Each message is one line of JSON; the
//! first, [`ToRouter::Start`], carries copies of the listeners as ancillary data. End of file on the socket means that the control plane is
//! lost: the router ends, unless it was told to last. Then it serves on, and waits on a socket in the run folder for the next control plane,
//! which says [`ToRouter::Adopt`] and is given copies of the listeners and the table.

use super::certificate::{Certificate, Proof, Secret};
use super::control::{Limits, RouterEvent};
use crate::home::Home;
use dozen_core::ids::Generation;
use dozen_core::ids::Version;
use dozen_core::port::tally::{BUCKETS, Tally};
use dozen_core::port::{Backend, Manners, Route, RouteTable, Sticky, Web};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt};

/// The version of these messages; N speaks N−1.
pub(super) const PROTOCOL: u32 = 3;
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
        limits: Box<Limits>,
        segment_bytes: u64,
        segments: u32,
        /// Whether it outlives the control plane; then the last of the descriptors is where it waits for the next one.
        #[serde(default)]
        lasting: bool,
        /// What it gives up everything else for; `None` from control planes that know nothing of it.
        #[serde(default)]
        held: Option<Held>,
        /// So many of the listeners, the last ones, are for TLS.
        #[serde(default)]
        tls: usize,
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
    /// What TLS is spoken with from now on, in place of all that was.
    Certificates {
        serial: u64,
        certificates: Vec<WireCertificate>,
        #[serde(default)]
        proofs: Vec<WireProof>,
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
    /// There is a successor: it accepts no more, answers what it has, says so on its connections, and ends as soon as they have.
    Yield {
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

/// A [`Certificate`] on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireCertificate {
    pub(super) names: Vec<String>,
    pub(super) chain: String,
    pub(super) key: Secret,
    /// Whether a client that names no host is shown it.
    pub(super) fallback: bool,
}

/// A [`Proof`] on the wire.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum WireProof {
    Http { token: String, answer: String },
    Alpn { host: String, chain: String, key: Secret },
}

impl From<&Proof> for WireProof {
    fn from(proof: &Proof) -> Self {
        match proof.clone() {
            Proof::Http { token, answer } => Self::Http { token, answer },
            Proof::Alpn { host, chain, key } => Self::Alpn { host, chain, key },
        }
    }
}

impl From<&Certificate> for WireCertificate {
    fn from(certificate: &Certificate) -> Self {
        let Certificate { names, chain, key, fallback, .. } = certificate;
        Self { names: names.clone(), chain: chain.clone(), key: key.clone(), fallback: *fallback }
    }
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
        /// So many of them, the last ones, are for TLS.
        #[serde(default)]
        tls: usize,
    },
    /// After that: what leads requests, if anything does.
    Table {
        table: Option<WireTable>,
    },
    Applied {
        generation: u64,
    },
    /// The certificates are shown from now on, but for these, each with its reason.
    Certified {
        serial: u64,
        wrong: Vec<String>,
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
    /// All that this process has counted of a split's releases, of those that have counted since they were last told of.
    Counted {
        deploy: String,
        split: i64,
        releases: Vec<WireTally>,
    },
}

/// A [`Tally`] on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireTally {
    pub(super) release: u32,
    pub(super) requests: u64,
    pub(super) errors: u64,
    /// Buckets, each with its count.
    times: Vec<(usize, u64)>,
}

impl WireTally {
    pub(super) fn of(release: u32, tally: &Tally) -> Self {
        Self { release, requests: tally.requests, errors: tally.errors, times: tally.times.iter().map(|(b, n)| (*b, *n)).collect() }
    }
}

impl From<&WireTally> for Tally {
    fn from(wire: &WireTally) -> Self {
        let times = wire.times.iter().copied().filter(|(bucket, _)| *bucket < BUCKETS).collect();
        Self { requests: wire.requests, errors: wire.errors, times }
    }
}

impl FromRouter {
    pub(super) fn event(self) -> Option<RouterEvent> {
        Some(match self {
            Self::Started { missing, .. } if !missing.is_empty() => RouterEvent::Weak { missing },
            Self::Started { .. } | Self::Adopted { .. } | Self::Table { .. } => return None,
            Self::Applied { generation } => RouterEvent::Applied { generation: Generation(generation) },
            Self::Stale { generation, current } => RouterEvent::Stale { generation: Generation(generation), current: Generation(current) },
            Self::Certified { serial, wrong } => RouterEvent::Certified { serial, wrong },
            Self::Drained { port } => RouterEvent::Drained { port },
            Self::InFlight { port, count } => RouterEvent::InFlight { port, count },
            Self::Refused { deploy, instance, port } => RouterEvent::BackendRefused { deploy, instance, port },
            Self::Wrote { deploy } => RouterEvent::Wrote { deploy },
            Self::Counted { deploy, split, releases } => {
                let tallies = releases.iter().map(|tally| (Version(tally.release), Tally::from(tally))).collect();
                RouterEvent::Counted { deploy, split, tallies, fresh: true }
            }
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
    /// `shop.example.com/api`
    pub(super) hosts: Vec<String>,
    pub(super) fallback: bool,
    pub(super) web: WireWeb,
    #[serde(default)]
    pub(super) manners: WireManners,
}

/// [`Manners`] on the wire.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct WireManners {
    maintenance: bool,
    paused: bool,
    https_only: bool,
    hsts_seconds: Option<u64>,
    trusted: Vec<String>,
    error_page: Option<String>,
    maintenance_page: Option<String>,
    concurrency: Option<u32>,
    queue: u32,
    sticky: WireSticky,
    first_byte_seconds: Option<u64>,
    pub(super) of_control: bool,
    counted: Option<i64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WireSticky {
    #[default]
    No,
    Cookie,
    Header(String),
}

impl From<&Manners> for WireManners {
    fn from(manners: &Manners) -> Self {
        let Manners {
            maintenance,
            paused,
            https_only,
            hsts,
            trusted,
            error_page,
            maintenance_page,
            concurrency,
            queue,
            sticky,
            first_byte,
            of_control,
            counted,
        } = manners.clone();
        let sticky = match sticky {
            Sticky::No => WireSticky::No,
            Sticky::Cookie => WireSticky::Cookie,
            Sticky::Header(name) => WireSticky::Header(name),
        };
        let (hsts_seconds, trusted) = (hsts.map(|d| d.as_secs()), trusted.iter().map(ToString::to_string).collect());
        let first_byte_seconds = first_byte.map(|d| d.as_secs());
        Self {
            maintenance,
            paused,
            https_only,
            hsts_seconds,
            trusted,
            error_page,
            maintenance_page,
            concurrency,
            queue,
            sticky,
            first_byte_seconds,
            of_control,
            counted,
        }
    }
}

impl From<WireManners> for Manners {
    fn from(wire: WireManners) -> Self {
        let WireManners {
            maintenance,
            paused,
            https_only,
            hsts_seconds,
            trusted,
            error_page,
            maintenance_page,
            concurrency,
            queue,
            sticky,
            first_byte_seconds,
            of_control,
            counted,
        } = wire;
        let sticky = match sticky {
            WireSticky::No => Sticky::No,
            WireSticky::Cookie => Sticky::Cookie,
            WireSticky::Header(name) => Sticky::Header(name),
        };
        let (hsts, trusted) = (hsts_seconds.map(Duration::from_secs), trusted.iter().filter_map(|network| network.parse().ok()).collect());
        let first_byte = first_byte_seconds.map(Duration::from_secs);
        Self {
            maintenance,
            paused,
            https_only,
            hsts,
            trusted,
            error_page,
            maintenance_page,
            concurrency,
            queue,
            sticky,
            first_byte,
            of_control,
            counted,
        }
    }
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
    #[serde(default)]
    pub(super) release: u32,
    #[serde(default = "one")]
    pub(super) weight: u32,
}

fn one() -> u32 {
    1
}

impl From<&Backend> for WireBackend {
    fn from(backend: &Backend) -> Self {
        let Backend { instance, port, release: Version(release), weight } = backend;
        Self { instance: instance.clone(), port: *port, release: *release, weight: *weight }
    }
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
        for (at, route) in table.routes() {
            let index = *known.entry(Arc::as_ptr(route)).or_insert_with(|| {
                routes.push(WireRoute::of(route, home));
                routes.len() - 1
            });
            match at {
                Some((host, path)) => routes[index].hosts.push(format!("{host}{path}")),
                None => routes[index].fallback = true,
            }
        }
        Self { generation: table.generation.0, routes }
    }

    /// The same in words that a router of this version knows: a message with one that it does not is passed over as a whole.
    pub(super) fn for_protocol(mut self, protocol: u32) -> Self {
        // 2 leads by hosts only, and treats all requests alike. What it reads of this is right as far as it goes, but for domains with paths.
        if protocol < 3 {
            self.routes.iter_mut().for_each(|route| route.hosts.retain(|host| !host.contains('/')));
        }
        self
    }
}

impl WireRoute {
    fn of(route: &Route, home: &Home) -> Self {
        let web = match &route.web {
            Web::Ready(backends) => WireWeb::Ready(backends.iter().map(WireBackend::from).collect()),
            Web::Starting => WireWeb::Starting,
            Web::Held => WireWeb::Held,
            Web::Crashed => WireWeb::Crashed,
            Web::None => WireWeb::None,
        };
        let (deploy, log, manners) = (route.deploy.to_string(), home.logs(&route.deploy), WireManners::from(&route.manners));
        Self { deploy, log, hosts: Vec::new(), fallback: false, web, manners }
    }
}
