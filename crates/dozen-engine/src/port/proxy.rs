//! One client's connection, served: the only function here that others call is [`serve`].
//!
//! A request is checked, led to an instance by the table of this moment, sent, and its answer streamed back. What each step refuses is a
//! [`Refusal`](super::pages::Refusal), which becomes a page and a log line.

use super::control::Limits;
use super::crowd::{Crowd, Guest};
use super::fields::Fields;
use super::fleet::Fleet;
use super::log::{Folder, Journal, Record};
use super::manners;
use super::pages::Code;
use super::pool::Pool;
use super::stream::Carrier;
use super::tally::Counter;
use super::tls::{Shown, Store};
use super::wire::FromRouter;
use dozen_core::port::{Manners, RouteTable};
use http::{HeaderValue, Method};
use hyper::body::Incoming;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use std::cell::RefCell;
use std::collections::HashSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Instant;
use tokio::sync::{mpsc, watch};

mod choose;
mod exchange;
mod gather;
mod h1;
mod head;
pub(super) mod http2;
mod refused;
mod talk;
mod tunnel;

/// Below this an authority looks for what it asked to be put there (RFC 8555, 8.3).
const PROOFS: &str = "/.well-known/acme-challenge/";

/// What all workers share.
pub(super) struct Shared {
    pub(super) started: Instant,
    pub(super) limits: Limits,
    /// The epoch of the table that requests are to be led by.
    pub(super) epoch: AtomicU64,
    /// Requests that wait for an app's start.
    pub(super) waiting: AtomicUsize,
    pub(super) events: mpsc::UnboundedSender<FromRouter>,
    pub(super) crowd: Arc<Crowd>,
    /// The port of HTTPS, where the router listens for it.
    pub(super) https: Option<u16>,
}

/// Whether a worker takes new connections, and what becomes of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stopping {
    No,
    /// A successor takes them. One that idles may ask once more, since its client cannot know.
    Yielding,
    /// One that idles is closed.
    Now,
}

/// One worker.
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    pub(super) table: watch::Receiver<Arc<Live>>,
    /// The table as this worker knows it: to look whether there is another one costs less than to ask for it.
    pub(super) live: Rc<RefCell<Arc<Live>>>,
    pub(super) store: watch::Receiver<Arc<Store>>,
    pub(super) stopping: watch::Receiver<Stopping>,
    pub(super) pool: Rc<Pool>,
    pub(super) journal: Rc<Journal>,
    /// Takes what an answered request has not said yet.
    pub(super) leftovers: mpsc::UnboundedSender<Incoming>,
    /// The second that it was last asked for, and how HTTP writes that.
    pub(super) dated: RefCell<(i64, String)>,
    /// Room for what came by HTTP/2: to be looked at as what comes by HTTP/1 is, and for headers.
    pub(super) strict: RefCell<head::Strict>,
    pub(super) spare: RefCell<Vec<Fields>>,
    /// Closed when the last connection or tunnel drops this core; the worker then ends.
    pub(super) _alive: mpsc::Sender<Infallible>,
}

/// So many headers' room is kept, and none that is larger.
const SPARE: usize = 64;
const ROOM: usize = 4 * 1024;

impl Core {
    /// Keeps the room of headers for those of another request.
    fn keep(&self, fields: Fields) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE && fields.text().len() <= ROOM {
            spare.push(fields);
        }
    }

    /// Now, as HTTP writes it.
    fn date(&self) -> String {
        let now = Timestamp::now();
        let mut dated = self.dated.borrow_mut();
        if dated.0 != now.as_second() {
            *dated = (now.as_second(), DateTimePrinter::new().timestamp_to_rfc9110_string(&now).unwrap_or_default());
        }
        dated.1.clone()
    }
}

/// The table of this moment.
pub(super) struct Live {
    /// Counts the tables that were applied; two of them may be of one generation.
    pub(super) epoch: u64,
    pub(super) table: RouteTable<Place>,
}

impl Live {
    /// The instances that it leads to.
    pub(super) fn ids(&self) -> HashSet<u64> {
        let ready = self.table.routes().filter_map(|(_, place)| match &place.web {
            Stand::Ready(fleet) => Some(fleet.targets()),
            Stand::Starting | Stand::Held | Stand::Crashed | Stand::None | Stand::Away => None,
        });
        ready.flatten().map(|target| target.id).collect()
    }
}

/// A route with the router's own knowledge.
pub(super) struct Place {
    pub(super) deploy: String,
    pub(super) log: Folder,
    pub(super) web: Stand,
    pub(super) manners: Manners,
    /// What browsers are told of coming by HTTPS only.
    pub(super) hsts: Option<HeaderValue>,
}

impl Place {
    pub(super) fn new(deploy: String, log: Folder, web: Stand, manners: Manners) -> Self {
        let hsts = manners.hsts.and_then(|hsts| HeaderValue::from_str(&format!("max-age={}", hsts.as_secs())).ok());
        Self { deploy, log, web, manners, hsts }
    }

    /// What counts the requests of a release, where anything does.
    pub(super) fn counter(&self, release: u32) -> Option<&Counter> {
        match &self.web {
            Stand::Ready(fleet) if self.manners.counted.is_some() => fleet.counter(release),
            _ => None,
        }
    }
}

/// [`dozen_core::port::Web`] with counted instances.
pub(super) enum Stand {
    Ready(Fleet),
    Starting,
    Held,
    Crashed,
    None,
    /// It is the platform's own, which is not there.
    Away,
}

/// How a connection came.
pub(super) struct Entry {
    pub(super) peer: IpAddr,
    /// The public port.
    pub(super) port: u16,
    /// Whether it is encrypted.
    pub(super) tls: bool,
    /// Counts it as long as it is there.
    pub(super) guest: Guest,
    /// The certificate that the client asked for by the name of its host.
    pub(super) shown: Option<Arc<Shown>>,
    /// Whether HTTP/2 was agreed on.
    pub(super) http2: bool,
}

/// What is the same for every request of a connection.
struct Client {
    peer: IpAddr,
    address: String,
    /// The public one.
    port: String,
    tls: bool,
    shown: Option<Arc<Shown>>,
}

impl Client {
    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// Whether it is one of the proxies that the deploy trusts. It is not where it is not known whose request it is.
    fn is_trusted(&self, record: &Record) -> bool {
        record.place.as_ref().is_some_and(|place| manners::trusts(&place.manners, self.peer))
    }

    /// Whether a request came by HTTPS, to the router or to a trusted proxy.
    fn is_secure(&self, record: &Record, fields: &Fields) -> bool {
        self.tls || self.is_trusted(record) && manners::came_by_https(fields)
    }
}

/// Serves one client's connection to its end, or until the router stops and what is in flight is answered.
pub(super) async fn serve<S: Carrier + 'static>(core: Rc<Core>, socket: S, entry: Entry) {
    let Entry { peer, port, tls, guest, shown, http2 } = entry;
    let client = Rc::new(Client { peer, address: peer.to_string(), port: port.to_string(), tls, shown });
    if http2 {
        // Counted to its end.
        let _guest = guest;
        // In a box: what speaks HTTP/1 does not hold the room for it.
        return Box::pin(http2::serve(core, client, socket)).await;
    }
    h1::keep(core, client, socket, guest).await;
}

/// A handshake ended because there is no certificate for this name; whose it would be is told.
pub(super) fn unrecognized(core: &Core, entry: &Entry, name: &str) {
    let Some(place) = core.table.borrow().table.lookup(name, "/").cloned() else { return };
    let mut record = Record::new(core.journal.clone(), Method::from_bytes(b"-").unwrap_or_default(), "", Instant::now());
    (record.place, record.tls) = (Some(place), true);
    record.says_host(name);
    record.says_forwarded(&entry.peer.to_string());
    record.fail(Code::H32, Code::H32.status());
}

/// Waits for a moment, if there is one.
pub(super) async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
