//! What the control plane knows of a split's requests: the sum of what its routers told.

use dozen_core::ids::Version;
use dozen_core::port::tally::{Figures, Tally};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Of one deploy.
#[derive(Debug)]
pub struct Counts {
    /// The number of the split, and what was counted of it.
    figures: Mutex<(i64, Figures)>,
    changes: watch::Sender<()>,
}

impl Default for Counts {
    fn default() -> Self {
        Self { figures: Mutex::default(), changes: watch::Sender::new(()) }
    }
}

impl Counts {
    /// Takes what came. Of another split than before all begins anew; what comes late of an earlier one is passed over.
    pub fn take(&self, split: i64, tallies: BTreeMap<Version, Tally>, fresh: bool) {
        let mut figures = self.lock();
        if split < figures.0 {
            return;
        }
        if split > figures.0 {
            *figures = (split, Figures::default());
        }
        figures.1.take(tallies, fresh, Timestamp::now());
        drop(figures);
        self.changes.send_replace(());
    }

    /// What was counted of this split.
    pub fn of(&self, split: i64) -> Figures {
        let figures = self.lock();
        if figures.0 == split { figures.1.clone() } else { Figures::default() }
    }

    /// Tells of each change.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, (i64, Figures)> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_split_begins_anew_and_an_earlier_one_is_passed_over() {
        let (counts, v) = (Counts::default(), Version(2));
        let one = || BTreeMap::from([(v, Tally { requests: 1, ..Tally::default() })]);
        counts.take(5, one(), true);
        counts.take(5, one(), false);
        assert_eq!((counts.of(5).total(v).requests, counts.of(6).total(v).requests), (2, 0));
        counts.take(6, one(), true);
        counts.take(5, one(), true);
        assert_eq!((counts.of(5).total(v).requests, counts.of(6).total(v).requests), (0, 1));
    }
}
