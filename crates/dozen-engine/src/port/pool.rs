//! Connections to instances: idle ones are kept per worker, the youngest is used first.
//!
//! **Invariant:** a connection is used only for the instance that it was opened to, told apart by a number that is never given twice.

use super::fleet::Line;
use super::upstream::Upstream;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::sleep;

/// Node closes a connection that idles for 5 s; what is younger than this is not yet being closed.
const IDLE: Duration = Duration::from_millis(3_500);
/// So many idle connections to one instance are kept by one worker.
const KEPT: usize = 256;
/// One instance, as all workers see it, for as long as any table or request knows it.
pub(super) struct Target {
    /// Never given twice in one router.
    pub(super) id: u64,
    pub(super) deploy: String,
    pub(super) instance: String,
    pub(super) port: u16,
    /// 12 for v12.
    pub(super) release: u32,
    pub(super) in_flight: AtomicUsize,
    /// Whether it was last reached on ::1: what listens on `localhost` may have that address only.
    pub(super) six: AtomicBool,
    /// Milliseconds since the router's start; it is asked last until then.
    pub(super) quarantined_until: AtomicU64,
    /// Whether someone waits for its last request.
    pub(super) draining: AtomicBool,
    pub(super) drained: Arc<Notify>,
    /// Who waits for it, or for another one of its deploy, to take more.
    pub(super) line: Arc<Line>,
}

/// A request in flight, counted at its instance until dropped.
pub(super) struct Busy(Arc<Target>);

impl Busy {
    /// `None` where it has as many as it takes already.
    pub(super) fn within(target: &Arc<Target>, limit: Option<usize>) -> Option<Self> {
        // Ordered against the swap of the table: either the swap sees this request, or this request sees the swap. See `choose`.
        match limit {
            None => drop(target.in_flight.fetch_add(1, Ordering::SeqCst)),
            Some(limit) => {
                let one_more = |count| (count < limit).then_some(count + 1);
                target.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok()?;
            }
        }
        Some(Self(target.clone()))
    }
    pub(super) fn target(&self) -> &Arc<Target> {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.draining.load(Ordering::SeqCst) {
            self.0.drained.notify_one();
        }
        self.0.line.call();
    }
}

/// An idle connection, and since when it is one.
type Kept = (Box<Upstream>, Instant);

/// A worker's idle connections.
#[derive(Default)]
pub(super) struct Pool {
    /// Of the instances of the current table, and of no other. A connection to any other is closed when its answer was read: a server that is to
    /// stop waits for its idle connections, gunicorn for two seconds.
    idle: RefCell<HashMap<u64, Vec<Kept>, Numbered>>,
}

/// Hashes numbers that are counted here. Nobody else chooses them, and a connection is looked for with each request.
pub(super) type Numbered = BuildHasherDefault<Spread>;

/// Spreads a number over all bits (Fibonacci hashing).
#[derive(Default)]
pub(super) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A connection in use.
pub(super) struct Lease {
    pub(super) upstream: Box<Upstream>,
    pool: Rc<Pool>,
    target: u64,
}

impl Lease {
    /// Its answer was read to the end just `now`: the next request may use it.
    pub(super) fn give_back(mut self, now: Instant) {
        if !self.upstream.is_reusable() {
            return;
        }
        let mut idle = self.pool.idle.borrow_mut();
        if let Some(kept) = idle.get_mut(&self.target).filter(|kept| kept.len() < KEPT) {
            self.upstream.shrink();
            kept.push((self.upstream, now));
        }
    }
}

/// Why there is no connection.
pub(super) enum Unreachable {
    Refused,
    Timeout,
    Other,
}

impl Pool {
    /// The youngest idle connection that is still open.
    pub(super) fn take(self: &Rc<Self>, target: u64, now: Instant) -> Option<Lease> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(&target)?;
        while let Some((upstream, since)) = kept.pop() {
            if now.saturating_duration_since(since) >= IDLE {
                // All below it are older.
                kept.clear();
                return None;
            }
            if upstream.is_quiet() {
                return Some(Lease { upstream, pool: self.clone(), target });
            }
        }
        None
    }

    /// Opens a connection.
    pub(super) async fn connect(self: &Rc<Self>, target: &Target, limit: Duration) -> Result<Lease, Unreachable> {
        let until = tokio::time::Instant::now() + limit;
        let six = target.six.load(Ordering::Relaxed);
        let socket = match open(target.port, six, until).await {
            Err(Unreachable::Refused) => {
                let socket = open(target.port, !six, until).await?;
                target.six.store(!six, Ordering::Relaxed);
                socket
            }
            other => other?,
        };
        let _ = socket.set_nodelay(true);
        let upstream = Box::new(Upstream::new(socket, Box::pin(sleep(limit))));
        Ok(Lease { upstream, pool: self.clone(), target: target.id })
    }

    /// Takes the instances of a new table; idle connections to those that left it are closed.
    pub(super) fn list(&self, ids: &HashSet<u64>) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|id, _| ids.contains(id));
        for id in ids {
            idle.entry(*id).or_default();
        }
    }

    /// Closes what has idled too long; the worker calls it about once a second.
    pub(super) fn reap(&self) {
        for kept in self.idle.borrow_mut().values_mut().filter(|kept| kept.capacity() > 0) {
            kept.retain(|(upstream, since)| since.elapsed() < IDLE && upstream.is_quiet());
            if kept.is_empty() {
                *kept = Vec::new();
            }
        }
    }

    /// Whether no connection is kept.
    pub(super) fn rests(&self) -> bool {
        self.idle.borrow().values().all(Vec::is_empty)
    }

    /// Closes all.
    pub(super) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }
}

async fn open(port: u16, six: bool, until: tokio::time::Instant) -> Result<TcpStream, Unreachable> {
    let address = if six { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
    match tokio::time::timeout_at(until, TcpStream::connect((address, port))).await {
        Ok(Ok(socket)) => Ok(socket),
        Err(_) => Err(Unreachable::Timeout),
        Ok(Err(e)) => Err(match e.kind() {
            io::ErrorKind::TimedOut => Unreachable::Timeout,
            // Where there is no IPv6, nothing listens on it.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset | io::ErrorKind::AddrNotAvailable => Unreachable::Refused,
            _ if six => Unreachable::Refused,
            _ => Unreachable::Other,
        }),
    }
}
