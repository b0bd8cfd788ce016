//! A deploy's instances as a table knows them, and the line of requests that wait for one of them.
//!
//! **Invariant:** an instance that takes so many requests at a time never has more in flight, whichever workers they came to.
//! **Invariant:** where requests wait, the one that came first goes first, and a new one goes behind them.

use super::fields::{Fields, Kind};
use super::pool::{Busy, Target};
use super::tally::{Counter, OfReleases};
use dozen_core::port::Sticky;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The router's cookie, which names a release: `v12`.
pub(super) const COOKIE_NAME: &str = "dozen_release";

/// The instances that take requests, those of a release side by side.
pub(super) struct Fleet {
    targets: Vec<Arc<Target>>,
    shares: Vec<Share>,
    /// Of the deploy, over all its tables.
    pub(super) line: Arc<Line>,
}

/// One release's part.
struct Share {
    release: u32,
    weight: u64,
    /// Its instances.
    at: Range<usize>,
    /// Counts its requests, where the split is counted.
    counter: Option<Arc<Counter>>,
}

/// Which instance is asked for.
#[derive(Clone, Copy)]
pub(super) struct Wish<'w> {
    /// One that has just refused.
    pub(super) avoid: Option<u64>,
    /// The release that the client was led to before.
    pub(super) kept: Option<u32>,
    /// So many requests at a time are sent to one.
    pub(super) limit: Option<usize>,
    /// Milliseconds since the router's start; asked where an instance has refused since then.
    pub(super) now: &'w dyn Fn() -> u64,
}

/// What came of it.
pub(super) enum Picked {
    /// Counted at it.
    Got(Busy),
    /// All have as many as they take.
    Full,
    /// There is none, or none but the one to avoid.
    Nobody,
}

impl Fleet {
    /// Of a table: instances with the weights of their releases.
    pub(super) fn new(mut all: Vec<(Arc<Target>, u32)>, line: Arc<Line>) -> Self {
        all.sort_by_key(|(target, _)| target.release);
        let mut shares: Vec<Share> = Vec::new();
        for (i, (target, weight)) in all.iter().enumerate() {
            match shares.last_mut() {
                Some(share) if share.release == target.release => share.at.end = i + 1,
                _ => shares.push(Share { release: target.release, weight: (*weight).into(), at: i..i + 1, counter: None }),
            }
        }
        Self { targets: all.into_iter().map(|(target, _)| target).collect(), shares, line }
    }

    /// Has the requests of these releases counted.
    pub(super) fn counted(mut self, counters: &OfReleases) -> Self {
        self.shares.iter_mut().for_each(|share| share.counter = counters.get(&share.release).cloned());
        self
    }

    /// What counts the requests of a release.
    pub(super) fn counter(&self, release: u32) -> Option<&Counter> {
        self.shares.iter().find(|share| share.release == release)?.counter.as_deref()
    }

    pub(super) fn targets(&self) -> &[Arc<Target>] {
        &self.targets
    }

    /// Whether there is more than one release to choose from.
    pub(super) fn is_split(&self) -> bool {
        self.shares.len() > 1
    }

    /// The release that a client is known to belong to.
    pub(super) fn kept(&self, sticky: &Sticky, fields: &Fields) -> Option<u32> {
        match sticky {
            _ if !self.is_split() => None,
            Sticky::No => None,
            Sticky::Cookie => {
                let release = cookie(fields)?;
                self.shares.iter().any(|s| s.release == release).then_some(release)
            }
            Sticky::Header(name) => self.of_value(fields.named(name)?),
        }
    }

    /// Where equal values lead: to the release that draws the highest lot for it, weighted. Of a split that changes only those values move
    /// whose release lost or gained.
    fn of_value(&self, value: &[u8]) -> Option<u32> {
        let lot = |share: &Share| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&share.release.to_be_bytes()).update(value);
            let bytes = hasher.finalize().as_bytes()[..8].try_into().expect("32 bytes hold 8");
            // Uniform between 0 and 1, both excluded; then the usual draw by weight.
            let uniform = ((u64::from_be_bytes(bytes) >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
            share.weight as f64 / -uniform.ln()
        };
        let weighted = self.shares.iter().filter(|s| s.weight > 0);
        weighted.max_by(|a, b| lot(a).total_cmp(&lot(b))).map(|s| s.release)
    }

    /// The less busy of two random instances of the release that the weights give. Those in quarantine are asked where there is no other.
    pub(super) fn pick(&self, wish: Wish<'_>) -> Picked {
        for any in [false, true] {
            let is_free = |until| until == 0 || until <= (wish.now)();
            let fit = |t: &Target| Some(t.id) != wish.avoid && (any || is_free(t.quarantined_until.load(Ordering::Relaxed)));
            if !self.targets.iter().any(|t| fit(t)) {
                continue;
            }
            // Ordered against those that leave: see `Line`.
            let room = |t: &Target| fit(t) && wish.limit.is_none_or(|most| t.in_flight.load(Ordering::SeqCst) < most);
            // Where a worker was quicker there may be another one.
            while let Some(share) = self.share(wish.kept, fit, room) {
                if let Some(target) = less_busy(&self.targets[share.at.clone()], room)
                    && let Some(busy) = Busy::within(target, wish.limit)
                {
                    return Picked::Got(busy);
                }
            }
            return Picked::Full;
        }
        Picked::Nobody
    }

    /// The release to send to: the client's own where it can be, else by the weights of those that have room.
    fn share(&self, kept: Option<u32>, fit: impl Fn(&Target) -> bool, room: impl Fn(&Target) -> bool) -> Option<&Share> {
        let has = |share: &Share, wanted: &dyn Fn(&Target) -> bool| self.targets[share.at.clone()].iter().any(|t| wanted(t));
        if let [only] = self.shares.as_slice() {
            return has(only, &room).then_some(only);
        }
        if let Some(own) = self.shares.iter().find(|s| Some(s.release) == kept && has(s, &fit)) {
            return has(own, &room).then_some(own);
        }
        let open = || self.shares.iter().filter(|s| has(s, &room));
        let all: u64 = open().map(|s| s.weight).sum();
        if all == 0 {
            // Where no weight is left, all are equal.
            return open().nth(rand::random_range(0..open().count().max(1)));
        }
        let mut left = rand::random_range(0..all);
        open().find(|share| {
            let over = left < share.weight;
            left = left.saturating_sub(share.weight);
            over
        })
    }
}

/// The less busy of two random ones among those that will do.
fn less_busy(targets: &[Arc<Target>], fit: impl Fn(&Target) -> bool) -> Option<&Arc<Target>> {
    if let [only] = targets {
        return Some(only).filter(|t| fit(t));
    }
    let random = |n: usize| rand::random_range(0..n.max(1));
    let (first, second) = (targets.get(random(targets.len()))?, targets.get(random(targets.len()))?);
    let load = |t: &Target| t.in_flight.load(Ordering::Relaxed);
    let (first, second) = if fit(first) && fit(second) {
        (first, second)
    } else {
        let all = || targets.iter().filter(|t| fit(t));
        let count = all().count();
        let first = all().nth(random(count))?;
        (first, all().nth(random(count)).unwrap_or(first))
    };
    Some(if load(second) < load(first) { second } else { first })
}

/// The release that the router's cookie names.
fn cookie(fields: &Fields) -> Option<u32> {
    let pairs = fields.all(Kind::Cookie).filter_map(|v| std::str::from_utf8(v).ok()).flat_map(|v| v.split(';'));
    let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(name, _)| name.trim() == COOKIE_NAME)?.1;
    value.trim().strip_prefix('v')?.parse().ok()
}

/// The requests of a deploy that wait for an instance that takes more, over all workers.
///
/// Who ends a request lowers its instance's count and looks then whether anybody waits; who waits says so first and looks at the counts
/// then. So one of the two sees the other.
#[derive(Default)]
pub(super) struct Line {
    waiting: AtomicUsize,
    order: Mutex<VecDeque<Arc<Notify>>>,
}

/// A place in a line, left when dropped.
pub(super) struct Ticket {
    line: Arc<Line>,
    turn: Arc<Notify>,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }

    /// Goes to its end, unless so many wait already.
    pub(super) fn join(self: &Arc<Self>, most: usize) -> Option<Ticket> {
        let turn = Arc::new(Notify::new());
        let mut order = self.order();
        if order.len() >= most {
            return None;
        }
        order.push_back(turn.clone());
        self.waiting.store(order.len(), Ordering::SeqCst);
        Some(Ticket { line: self.clone(), turn })
    }

    /// An instance takes one more: whoever is first looks.
    pub(super) fn call(&self) {
        if !self.is_empty()
            && let Some(first) = self.order().front()
        {
            first.notify_one();
        }
    }

    fn order(&self) -> MutexGuard<'_, VecDeque<Arc<Notify>>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    pub(super) fn is_first(&self) -> bool {
        self.line.order().front().is_some_and(|first| Arc::ptr_eq(first, &self.turn))
    }

    /// Waits to be called. A call that came before is not lost.
    pub(super) async fn called(&self) {
        self.turn.notified().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut order = self.line.order();
        order.retain(|turn| !Arc::ptr_eq(turn, &self.turn));
        self.line.waiting.store(order.len(), Ordering::SeqCst);
        // Whoever is first now may have been passed over by a call that was for this one.
        if let Some(first) = order.front() {
            first.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
