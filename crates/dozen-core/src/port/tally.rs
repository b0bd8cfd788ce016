//! What is counted of a release's requests: how many, how many failed, and how long they took.
//!
//! Times go into buckets of which 16 stand between a power of two and the next, so that a time that is told is at most 1/16 beside the true one.

use crate::ids::Version;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Buckets between two powers of two, as a power of two.
const FINE: u32 = 4;
/// Times of 2^32 microseconds and more, which is over an hour, are all one.
const LARGEST: u32 = 32;
/// So many buckets there are.
pub const BUCKETS: usize = ((LARGEST - FINE) as usize + 1) << FINE;

/// Which bucket a time is in.
pub fn bucket(micros: u64) -> usize {
    let micros = micros.min((1 << LARGEST) - 1);
    let power = micros.checked_ilog2().unwrap_or_default();
    match power.checked_sub(FINE) {
        // Up to the first power each microsecond has its own.
        None => usize::try_from(micros).unwrap_or_default(),
        Some(shift) => {
            let within = usize::try_from(micros >> shift).unwrap_or_default();
            ((shift as usize) << FINE) + within
        }
    }
}

/// The middle of a bucket.
fn middle(bucket: usize) -> Duration {
    let steps = 1_usize << FINE;
    let Some(above) = bucket.checked_sub(steps) else { return Duration::from_micros(bucket as u64) };
    let shift = above >> FINE;
    let low = ((steps + (above & (steps - 1))) as u64) << shift;
    Duration::from_micros(low + (1_u64 << shift) / 2)
}

/// The requests of one release.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// All of them.
    pub requests: u64,
    /// Those that were answered with a status of 500 or more, by the release or by the router in its place.
    pub errors: u64,
    /// How many took how long, by [`bucket`]. Clients that went away and tunnels (WebSocket) have no time.
    pub times: BTreeMap<usize, u64>,
}

impl Tally {
    /// Counts these, too.
    pub fn add(&mut self, more: &Self) {
        self.requests += more.requests;
        self.errors += more.errors;
        for (bucket, count) in &more.times {
            *self.times.entry(*bucket).or_default() += count;
        }
    }

    /// What came since `before`, which is a part of this.
    pub fn since(&self, before: &Self) -> Self {
        let left = |(bucket, count): (&usize, &u64)| {
            let left = count.saturating_sub(before.times.get(bucket).copied().unwrap_or_default());
            (left > 0).then_some((*bucket, left))
        };
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            times: self.times.iter().filter_map(left).collect(),
        }
    }

    /// The time that so many of a hundred took at most. `None` where none has a time.
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let all: u64 = self.times.values().sum();
        let rank = (all * percent).div_ceil(100).max(1);
        let mut passed = 0;
        let found = self.times.iter().find(|(_, count)| {
            passed += **count;
            passed >= rank
        });
        found.map(|(bucket, _)| middle(*bucket))
    }
}

/// What was counted of a split's releases, and lately.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    total: BTreeMap<Version, Tally>,
    /// What came when, the earliest first.
    recent: VecDeque<(Timestamp, BTreeMap<Version, Tally>)>,
}

impl Figures {
    /// What is lately.
    pub const LATELY: SignedDuration = SignedDuration::from_secs(60);

    /// Takes what came. What is not `fresh` came at a time that nobody knows.
    pub fn take(&mut self, more: BTreeMap<Version, Tally>, fresh: bool, now: Timestamp) {
        for (version, tally) in &more {
            self.total.entry(*version).or_default().add(tally);
        }
        if fresh {
            self.recent.push_back((now, more));
        }
        self.recent.retain(|(at, _)| is_recent(*at, now));
    }

    /// Since the split began.
    pub fn total(&self, version: Version) -> Tally {
        self.total.get(&version).cloned().unwrap_or_default()
    }

    /// In the last minute.
    pub fn lately(&self, version: Version, now: Timestamp) -> Tally {
        let mut sum = Tally::default();
        let recent = self.recent.iter().filter(|(at, _)| is_recent(*at, now));
        recent.filter_map(|(_, tallies)| tallies.get(&version)).for_each(|tally| sum.add(tally));
        sum
    }
}

fn is_recent(at: Timestamp, now: Timestamp) -> bool {
    now.duration_since(at) < Figures::LATELY
}

/// A part of requests that fail, in hundredths of a percent: `5%`, `0.25%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ErrorRate(u32);

impl ErrorRate {
    /// So many hundredths of a percent; `None` above all.
    pub fn of_hundredths(hundredths: u32) -> Option<Self> {
        (hundredths <= 10_000).then_some(Self(hundredths))
    }

    /// In hundredths of a percent.
    pub fn hundredths(self) -> u32 {
        self.0
    }

    /// Whether more than this part of them failed.
    pub fn is_exceeded(self, tally: &Tally) -> bool {
        u128::from(tally.errors) * 10_000 > u128::from(tally.requests) * u128::from(self.0)
    }
}

/// A text that is no [`ErrorRate`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no part of all requests: write it as 5% or 0.25%")]
pub struct InvalidErrorRate(String);

impl FromStr for ErrorRate {
    type Err = InvalidErrorRate;

    fn from_str(text: &str) -> Result<Self, InvalidErrorRate> {
        let read = || {
            let bare = text.strip_suffix('%').unwrap_or(text);
            let (whole, part) = bare.split_once('.').unwrap_or((bare, "0"));
            let digits = |text: &str, most: usize| !text.is_empty() && text.len() <= most && text.bytes().all(|b| b.is_ascii_digit());
            let hundredths = if part.len() == 1 { 10 } else { 1 };
            (digits(whole, 3) && digits(part, 2)).then_some(())?;
            Self::of_hundredths(whole.parse::<u32>().ok()? * 100 + part.parse::<u32>().ok()? * hundredths)
        };
        read().ok_or_else(|| InvalidErrorRate(text.chars().take(100).collect()))
    }
}

impl fmt::Display for ErrorRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, part) => write!(f, "{whole}.{}%", format!("{part:02}").trim_end_matches('0')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tally(times: &[u64]) -> Tally {
        let mut tally = Tally { requests: times.len() as u64, ..Tally::default() };
        times.iter().for_each(|micros| *tally.times.entry(bucket(*micros)).or_default() += 1);
        tally
    }

    #[test]
    fn every_bucket_has_its_place_and_its_middle_is_in_it() {
        for n in 0..BUCKETS {
            assert_eq!(bucket(u64::try_from(middle(n).as_micros()).expect("small")), n);
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn error_rates_are_written_as_percents() {
        for (text, hundredths, back) in
            [("5%", 500, "5%"), ("0.25%", 25, "0.25%"), ("12.5", 1_250, "12.5%"), ("100%", 10_000, "100%"), ("0", 0, "0%")]
        {
            let rate: ErrorRate = text.parse().expect(text);
            assert_eq!((rate.hundredths(), rate.to_string().as_str()), (hundredths, back));
        }
        for text in ["", "%", "101%", "5.%", ".5%", "-1%", "5%%", "1e1", "0.125%", "five"] {
            assert!(text.parse::<ErrorRate>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_older_than_a_minute_is_not_lately() {
        let at = |s| Timestamp::from_second(s).expect("a time");
        let (v, mut figures) = (Version(2), Figures::default());
        let one = |errors| BTreeMap::from([(v, Tally { requests: 10, errors, ..Tally::default() })]);
        figures.take(one(9), false, at(0));
        figures.take(one(1), true, at(0));
        figures.take(one(2), true, at(59));
        assert_eq!((figures.lately(v, at(59)).errors, figures.total(v).errors), (3, 12));
        assert_eq!((figures.lately(v, at(60)).errors, figures.lately(v, at(200)).requests), (2, 0));
        figures.take(one(0), true, at(200));
        assert_eq!((figures.recent.len(), figures.total(v).requests, figures.total(Version(3))), (1, 40, Tally::default()));
    }

    proptest! {
        #[test]
        fn a_percentile_is_a_sixteenth_beside_the_true_one_at_most(mut times in prop::collection::vec(0_u64..4_000_000_000, 1..200), percent in 1_u64..=100) {
            let found = u64::try_from(tally(&times).percentile(percent).expect("some").as_micros()).expect("small");
            times.sort_unstable();
            let rank = (times.len() as u64 * percent).div_ceil(100).max(1);
            let truth = times[usize::try_from(rank).expect("small") - 1];
            prop_assert!(found.abs_diff(truth) <= truth / 16, "{found} and {truth}");
        }

        #[test]
        fn what_came_since_and_what_was_before_are_all(a in prop::collection::vec(0_u64..100_000, 0..50), b in prop::collection::vec(0_u64..100_000, 0..50)) {
            let (before, more) = (tally(&a), tally(&b));
            let mut all = before.clone();
            all.add(&more);
            prop_assert_eq!(all.since(&before), more);
        }

        #[test]
        fn a_rate_is_exceeded_where_more_fail(requests in 0_u64..10_000, errors in 0_u64..10_000, rate in 0_u32..=10_000) {
            let tally = Tally { requests: requests.max(errors), errors, ..Tally::default() };
            let truth = errors as f64 / (tally.requests.max(1) as f64) > f64::from(rate) / 10_000.0;
            let close = (errors as f64 * 10_000.0 - tally.requests as f64 * f64::from(rate)).abs() < 0.5;
            prop_assert!(close || ErrorRate(rate).is_exceeded(&tally) == truth);
        }
    }
}
