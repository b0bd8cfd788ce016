//! A split as a trial: which of its releases is tried, which one stays where that is aborted, and when that is done by itself.

use super::tally::{ErrorRate, Figures, Tally};
use crate::ids::Version;
use jiff::Timestamp;

/// Fewer requests in the last minute say nothing.
pub const LEAST: u64 = 20;

/// A release's part of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which.
    pub version: Version,
    /// Its part of the requests, relative to the others.
    pub weight: u32,
    /// The first release of this code and config: a rollback is as old as what it led back to.
    pub first: Version,
}

/// What a split tries, and what stays where it is aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// The one of the newest code and config.
    pub tried: Version,
    /// Of the others the one with most of the requests, of equal ones the newest.
    pub stays: Version,
}

impl Trial {
    /// Of a split of two releases or more; `None` of fewer.
    pub fn of(parts: &[Part]) -> Option<Self> {
        let tried = parts.iter().max_by_key(|p| (p.first, p.version))?.version;
        let others = parts.iter().filter(|p| p.version != tried);
        let stays = others.max_by_key(|p| (p.weight, p.first, p.version))?.version;
        Some(Self { tried, stays })
    }

    /// Why it is to be aborted, if it is: of the last minute's requests of what is tried, where they are enough to say anything, too many failed.
    pub fn failed(&self, above: ErrorRate, figures: &Figures, now: Timestamp) -> Option<Tally> {
        let lately = figures.lately(self.tried, now);
        (lately.requests >= LEAST && above.is_exceeded(&lately)).then_some(lately)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn parts(all: &[(u32, u32, u32)]) -> Vec<Part> {
        all.iter().map(|(version, weight, first)| Part { version: Version(*version), weight: *weight, first: Version(*first) }).collect()
    }

    #[test]
    fn the_newest_code_is_tried_and_the_one_with_most_requests_stays() {
        let of = |all: &[(u32, u32, u32)]| Trial::of(&parts(all)).map(|t| (t.tried.0, t.stays.0));
        assert_eq!(of(&[(41, 90, 41), (42, 10, 42)]), Some((42, 41)));
        // Also where it has most of them already.
        assert_eq!(of(&[(41, 1, 41), (42, 99, 42)]), Some((42, 41)));
        // v43 is a rollback to v41.
        assert_eq!(of(&[(43, 90, 41), (42, 10, 42)]), Some((42, 43)));
        assert_eq!(of(&[(40, 5, 40), (41, 80, 41), (42, 15, 42)]), Some((42, 41)));
        assert_eq!(of(&[(40, 5, 40), (41, 5, 41), (42, 15, 42)]), Some((42, 41)));
        assert_eq!((of(&[(1, 1, 1)]), of(&[])), (None, None));
    }

    proptest! {
        #[test]
        fn it_fails_by_the_last_minute_of_what_is_tried_alone(
            counts in prop::collection::vec((0_i64..200, 1_u32..=2, 0_u64..40, 0_u64..40), 0..40), rate in 0_u32..=10_000, now in 0_i64..260,
        ) {
            let at = |s| Timestamp::from_second(1_000 + s).expect("a time");
            let above = ErrorRate::of_hundredths(rate).expect("at most all");
            let trial = Trial::of(&parts(&[(1, 90, 1), (2, 10, 2)])).expect("two");
            let mut counts = counts;
            counts.sort_by_key(|(second, ..)| *second);
            let counts: Vec<_> = counts.into_iter().filter(|(second, ..)| *second <= now).collect();
            let mut figures = Figures::default();
            for (second, version, good, bad) in &counts {
                let tally = Tally { requests: good + bad, errors: *bad, ..Tally::default() };
                figures.take(BTreeMap::from([(Version(*version), tally)]), true, at(*second));
            }
            let of_it = counts.iter().filter(|(second, version, ..)| *version == 2 && *second > now - 60);
            let (all, failed) = of_it.fold((0, 0), |(all, failed), (_, _, good, bad)| (all + good + bad, failed + bad));
            let want = all >= LEAST && failed * 10_000 > all * u64::from(rate);
            let found = trial.failed(above, &figures, at(now));
            prop_assert_eq!(found.as_ref().map(|t| (t.requests, t.errors)), want.then_some((all, failed)));
        }

        #[test]
        fn what_is_tried_never_stays(all in prop::collection::btree_map(1_u32..30, (0_u32..100, 1_u32..30), 2..6)) {
            let all: Vec<_> = all.into_iter().map(|(version, (weight, first))| (version, weight, first.min(version))).collect();
            let trial = Trial::of(&parts(&all)).expect("two or more");
            prop_assert!(trial.tried != trial.stays);
            prop_assert!(all.iter().any(|(v, ..)| *v == trial.tried.0) && all.iter().any(|(v, ..)| *v == trial.stays.0));
        }
    }
}
