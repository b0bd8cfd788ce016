//! The router counts the requests of a split: each release has a counter, of which each worker has a part of its own.
//!
//! **Invariant:** a request is counted without a lock, without an allocation, and without a word that another worker writes.

use super::wire::{FromRouter, WireTally};
use dozen_core::port::tally::{BUCKETS, Tally, bucket};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The requests of one release.
pub(super) struct Counter(Box<[Part]>);

/// One worker's; it shares no line of the processor's cache with another one's.
#[repr(align(128))]
struct Part {
    requests: AtomicU64,
    errors: AtomicU64,
    times: [AtomicU64; BUCKETS],
}

/// One more. Nobody else writes it, so that this needs no more than a load and a store.
fn count(one: &AtomicU64) {
    one.store(one.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Counter {
    fn new(workers: usize) -> Self {
        let zero = || AtomicU64::new(0);
        Self((0..workers).map(|_| Part { requests: zero(), errors: zero(), times: std::array::from_fn(|_| zero()) }).collect())
    }

    /// Counts a request in this worker's part.
    pub(super) fn count(&self, worker: usize, failed: bool, time: Option<Duration>) {
        let Some(part) = self.0.get(worker) else { return };
        count(&part.requests);
        if failed {
            count(&part.errors);
        }
        if let Some(time) = time {
            count(&part.times[bucket(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))]);
        }
    }

    fn requests(&self) -> u64 {
        self.0.iter().map(|part| part.requests.load(Ordering::Relaxed)).sum()
    }

    fn read(&self) -> Tally {
        let mut tally = Tally::default();
        for part in &self.0 {
            tally.requests += part.requests.load(Ordering::Relaxed);
            tally.errors += part.errors.load(Ordering::Relaxed);
            for (bucket, times) in part.times.iter().enumerate() {
                let times = times.load(Ordering::Relaxed);
                if times > 0 {
                    *tally.times.entry(bucket).or_default() += times;
                }
            }
        }
        tally
    }
}

/// A deploy and the number of its split.
pub(super) type Split = (String, i64);
/// By release.
pub(super) type OfReleases = BTreeMap<u32, Arc<Counter>>;

/// All counters of a router.
pub(super) struct Counters {
    workers: usize,
    all: BTreeMap<Split, (OfReleases, BTreeMap<u32, u64>)>,
}

impl Counters {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, all: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those of a split whose instances are of these releases. It begins as soon as there are several: what one got alone says nothing.
    pub(super) fn of(&mut self, split: Split, releases: impl Iterator<Item = u32>) -> OfReleases {
        let mut releases: Vec<u32> = releases.collect();
        releases.sort_unstable();
        releases.dedup();
        if releases.len() < 2 && !self.all.contains_key(&split) {
            return OfReleases::new();
        }
        let (counters, _) = self.all.entry(split).or_default();
        for release in releases {
            counters.entry(release).or_insert_with(|| Arc::new(Counter::new(self.workers)));
        }
        counters.clone()
    }

    /// Forgets all splits but these.
    pub(super) fn keep(&mut self, splits: &HashSet<Split>) {
        self.all.retain(|split, _| splits.contains(split));
    }

    /// What was counted of those that have counted since they were last told of.
    pub(super) fn news(&mut self) -> Vec<FromRouter> {
        let news = self.all.iter_mut().filter_map(|((deploy, split), (counters, told))| {
            let moved = |release: &u32, counter: &Counter| told.get(release).copied().unwrap_or_default() != counter.requests();
            let releases: Vec<WireTally> = counters
                .iter()
                .filter(|(release, counter)| moved(release, counter))
                .map(|(release, counter)| WireTally::of(*release, &counter.read()))
                .collect();
            told.extend(releases.iter().map(|tally| (tally.release, tally.requests)));
            (!releases.is_empty()).then(|| FromRouter::Counted { deploy: deploy.clone(), split: *split, releases })
        });
        news.collect()
    }

    /// Somebody new listens, who was told nothing yet.
    pub(super) fn untold(&mut self) {
        self.all.values_mut().for_each(|(_, told)| told.clear());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(news: &[FromRouter]) -> Vec<(i64, u32, u64, u64)> {
        let each = |news: &FromRouter| match news {
            FromRouter::Counted { split, releases, .. } => {
                releases.iter().map(|t| (*split, t.release, t.requests, t.errors)).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        };
        news.iter().flat_map(each).collect()
    }

    #[test]
    fn what_was_counted_is_told_once_and_again_to_who_is_new() {
        let mut counters = Counters::new(2);
        let split = || ("shop/dev".to_owned(), 7);
        assert!(counters.of(split(), [3].into_iter()).is_empty() && counters.is_empty());
        let both = counters.of(split(), [3, 2, 3].into_iter());
        both[&2].count(0, false, Some(Duration::from_millis(3)));
        both[&2].count(1, true, None);
        // No worker of this number.
        both[&2].count(2, true, None);
        assert_eq!(told(&counters.news()), [(7, 2, 2, 1)]);
        assert!(counters.news().is_empty());
        // The other one alone goes on with what it has.
        let one = counters.of(split(), [3].into_iter());
        one[&3].count(1, false, Some(Duration::from_secs(1)));
        assert_eq!(told(&counters.news()), [(7, 3, 1, 0)]);
        counters.untold();
        assert_eq!(told(&counters.news()), [(7, 2, 2, 1), (7, 3, 1, 0)]);
        counters.keep(&HashSet::from([("shop/dev".to_owned(), 8)]));
        assert!(counters.is_empty());
    }

    #[test]
    fn a_tally_is_the_same_behind_the_wire() {
        let counter = Counter::new(2);
        (0..1_000).for_each(|n| counter.count(n % 2, n % 10 == 0, Some(Duration::from_micros(n as u64 * 37))));
        let tally = counter.read();
        assert_eq!((tally.requests, tally.errors), (1_000, 100));
        assert_eq!(Tally::from(&WireTally::of(1, &tally)), tally);
    }
}
