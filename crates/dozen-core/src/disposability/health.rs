//! The checks of one instance's health: when each is tried, and what its tries say of the instance.
//!
//! **Invariant:** at most one try of a check is under way; what comes of a try that was given up is passed over.

use super::{Event, Signs};
use crate::processes::rules::{HealthCheck, HealthKind};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// The checks of one instance, from its start to its end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checks {
    all: Vec<Watch>,
    /// What was last said of its readiness.
    ready: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Watch {
    check: HealthCheck,
    /// Its next try; `None` before it has begun, while a try is under way, and when it is over.
    due: Option<Timestamp>,
    trying: bool,
    passed: bool,
    failures: u32,
    /// Of one whose failure is only told of: whether it was.
    told: bool,
}

/// What a try says, with those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// What is new of the instance.
    pub event: Option<Event>,
    /// Whether the check has now failed as often as it may. Said once.
    pub failed: bool,
}

impl Signs {
    /// What shows how an instance is that listens (a `web`) or does not, and has these checks.
    pub fn of(listens: bool, checks: &[HealthCheck]) -> Self {
        let any = |kind| checks.iter().any(|c| c.kind == kind && c.fits(listens));
        Self { listens, startup: any(HealthKind::Startup), readiness: any(HealthKind::Readiness) }
    }
}

impl Checks {
    /// Those that can be tried on an instance that has a port of its own, or has none. None has begun.
    pub fn new(checks: &[HealthCheck], own_port: bool) -> Self {
        let watch = |check: &HealthCheck| Watch { check: check.clone(), due: None, trying: false, passed: false, failures: 0, told: false };
        Self { all: checks.iter().filter(|c| c.fits(own_port)).map(watch).collect(), ready: None }
    }

    /// Those of a kind begin, of an instance that was started then.
    pub fn begin(&mut self, kind: HealthKind, started: Timestamp, now: Timestamp) {
        for watch in self.all.iter_mut().filter(|w| w.check.kind == kind) {
            let alive = watch.check.uptime.map_or(now, |uptime| later(started, uptime));
            watch.due = Some(later(now, watch.check.initial_delay).max(alive));
        }
    }

    /// None is tried any more.
    pub fn end(&mut self) {
        for watch in &mut self.all {
            (watch.due, watch.trying) = (None, false);
        }
    }

    /// When [`Checks::due`] next answers anything, if ever.
    pub fn wake(&self) -> Option<Timestamp> {
        self.all.iter().filter_map(|w| w.due).min()
    }

    /// Those to be tried now, by their numbers. What comes of each is told by [`Checks::tried`].
    pub fn due(&mut self, now: Timestamp) -> Vec<(usize, HealthCheck)> {
        let due = self.all.iter_mut().enumerate().filter(|(_, w)| w.due.is_some_and(|at| at <= now));
        due.map(|(number, watch)| {
            (watch.due, watch.trying) = (None, true);
            (number, watch.check.clone())
        })
        .collect()
    }

    /// What came of a try.
    pub fn tried(&mut self, number: usize, passed: bool, now: Timestamp) -> Verdict {
        let Some(watch) = self.all.get_mut(number).filter(|w| w.trying) else { return Verdict::default() };
        watch.trying = false;
        watch.failures = if passed { 0 } else { watch.failures.saturating_add(1) };
        let failed = watch.failures >= watch.check.attempts;
        // As far as the instance is concerned, one whose failure is only told of has passed then.
        let told = watch.check.warn && failed;
        let news = !std::mem::replace(&mut watch.told, told) && told;
        let event = self.decided(number, passed || told, failed && !told, now);
        Verdict { event, failed: news || matches!(event, Some(Event::Unhealthy(_))) }
    }

    fn decided(&mut self, number: usize, passed: bool, failed: bool, now: Timestamp) -> Option<Event> {
        let watch = self.all.get_mut(number)?;
        let kind = watch.check.kind;
        if passed || failed {
            watch.passed = passed;
        }
        if !(passed && kind == HealthKind::Startup) {
            watch.due = Some(later(now, watch.check.wait));
        }
        match kind {
            HealthKind::Startup if failed => {
                self.end();
                Some(Event::Unhealthy(kind))
            }
            HealthKind::Liveness if failed => {
                self.end();
                Some(Event::Unhealthy(kind))
            }
            HealthKind::Liveness => None,
            HealthKind::Startup => self.all_passed(kind).then_some(Event::Healthy(kind)),
            HealthKind::Readiness => {
                let ready = self.all_passed(kind);
                // One that was never ready is not to be told so with each try, and only once that it is not.
                let news = if ready { self.ready != Some(true) } else { failed && self.ready != Some(false) };
                news.then(|| {
                    self.ready = Some(ready);
                    if ready { Event::Healthy(kind) } else { Event::Unhealthy(kind) }
                })
            }
        }
    }

    fn all_passed(&self, kind: HealthKind) -> bool {
        self.all.iter().filter(|w| w.check.kind == kind).all(|w| w.passed)
    }
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    // What a file may say is at most hours.
    at.checked_add(SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).expect("in range")
    }

    fn check(kind: HealthKind) -> HealthCheck {
        HealthCheck {
            kind,
            name: None,
            path: Some("/".to_owned()),
            port: None,
            headers: vec![],
            content: None,
            command: vec![],
            uptime: None,
            listening: false,
            attempts: 3,
            wait: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            initial_delay: Duration::ZERO,
            warn: false,
        }
    }

    /// Tries whenever something is due, with these results; answers when what was said.
    fn run(checks: &mut Checks, results: &[bool]) -> Vec<(i64, Event)> {
        let mut said = Vec::new();
        for passed in results {
            let Some(now) = checks.wake() else { break };
            for (number, _) in checks.due(now) {
                said.extend(checks.tried(number, *passed, now).event.map(|e| (now.as_millisecond(), e)));
            }
        }
        said
    }

    #[test]
    fn a_startup_check_has_its_attempts_and_ends() {
        let slow = HealthCheck { initial_delay: Duration::from_secs(2), ..check(HealthKind::Startup) };
        let begun = || {
            let mut checks = Checks::new(std::slice::from_ref(&slow), true);
            checks.begin(HealthKind::Startup, at(0), at(1_000));
            checks
        };
        assert_eq!(begun().wake(), Some(at(3_000)));
        assert_eq!(run(&mut begun(), &[false, false, true, false]), [(13_000, Event::Healthy(HealthKind::Startup))]);
        let mut checks = begun();
        assert_eq!(run(&mut checks, &[false; 9]), [(13_000, Event::Unhealthy(HealthKind::Startup))]);
        assert_eq!(checks.wake(), None);
    }

    #[test]
    fn readiness_is_said_when_it_changes_and_liveness_once() {
        let mut checks = Checks::new(&[check(HealthKind::Readiness)], true);
        checks.begin(HealthKind::Readiness, at(0), at(0));
        let said = run(&mut checks, &[false, true, true, false, false, false, false, true]);
        let (yes, no) = (Event::Healthy(HealthKind::Readiness), Event::Unhealthy(HealthKind::Readiness));
        assert_eq!(said, [(5_000, yes), (25_000, no), (35_000, yes)]);
        let mut checks = Checks::new(&[check(HealthKind::Liveness)], true);
        checks.begin(HealthKind::Liveness, at(0), at(0));
        assert_eq!(run(&mut checks, &[true, false, false, true, false, false, false, false]).len(), 1);
        assert_eq!(checks.wake(), None);
    }

    #[test]
    fn what_only_warns_says_so_once_and_decides_nothing() {
        let check = |kind| HealthCheck { warn: true, attempts: 2, ..check(kind) };
        let warned = |kind, results: &[bool]| {
            let mut checks = Checks::new(&[check(kind)], true);
            checks.begin(kind, at(0), at(0));
            let mut said = Vec::new();
            for passed in results {
                let Some(now) = checks.wake() else { break };
                checks.due(now);
                said.push(checks.tried(0, *passed, now));
            }
            (said.iter().filter_map(|v| v.event).collect::<Vec<_>>(), said.iter().map(|v| v.failed).collect::<Vec<_>>())
        };
        let failing = [false, false, false, true, false, false];
        assert_eq!(warned(HealthKind::Liveness, &failing), (vec![], vec![false, true, false, false, false, true]));
        let ready = Event::Healthy(HealthKind::Readiness);
        assert_eq!(warned(HealthKind::Readiness, &failing), (vec![ready], vec![false, true, false, false, false, true]));
        assert_eq!(warned(HealthKind::Startup, &failing), (vec![Event::Healthy(HealthKind::Startup)], vec![false, true]));
    }

    #[test]
    fn all_of_a_kind_must_pass_and_uptime_is_waited_for() {
        let uptime = HealthCheck { path: None, uptime: Some(Duration::from_secs(4)), ..check(HealthKind::Startup) };
        let mut checks = Checks::new(&[check(HealthKind::Startup), uptime], true);
        checks.begin(HealthKind::Startup, at(0), at(1_000));
        assert_eq!(run(&mut checks, &[true, true]), [(4_000, Event::Healthy(HealthKind::Startup))]);
    }

    #[test]
    fn a_try_that_was_given_up_says_nothing() {
        let mut checks = Checks::new(&[check(HealthKind::Liveness)], true);
        checks.begin(HealthKind::Liveness, at(0), at(0));
        let (number, _) = checks.due(at(0)).remove(0);
        assert!(checks.due(at(9_000)).is_empty(), "one try at a time");
        checks.end();
        assert_eq!(checks.tried(number, false, at(9_000)), Verdict::default());
        assert_eq!((checks.tried(99, false, at(9_000)), checks.wake()), (Verdict::default(), None));
    }

    proptest! {
        /// Whatever the results: a check that has begun is due or under way until it has said its last, and is never tried more often than
        /// its wait allows.
        #[test]
        fn no_check_is_forgotten_or_hurried(kinds in proptest::collection::vec(0usize..3, 1..4), results in proptest::collection::vec(any::<bool>(), 1..60)) {
            let all: Vec<HealthCheck> = kinds.iter().map(|k| check(HealthKind::ALL[*k])).collect();
            let mut checks = Checks::new(&all, true);
            HealthKind::ALL.into_iter().for_each(|kind| checks.begin(kind, at(0), at(0)));
            let mut results = results.into_iter();
            let mut last = vec![None; all.len()];
            let mut over = false;
            'all: while let Some(now) = checks.wake() {
                for (number, _) in checks.due(now) {
                    let Some(passed) = results.next() else { break 'all };
                    prop_assert!(last[number].is_none_or(|at: Timestamp| now >= later(at, Duration::from_secs(5))));
                    last[number] = Some(now);
                    let said = checks.tried(number, passed, now).event;
                    over |= matches!(said, Some(Event::Unhealthy(HealthKind::Startup | HealthKind::Liveness)));
                }
            }
            if results.next().is_some() {
                prop_assert!(over || all.iter().all(|c| c.kind == HealthKind::Startup));
            }
        }
    }
}
