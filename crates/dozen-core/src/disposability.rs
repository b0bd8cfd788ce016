//! IX. Maximise robustness with fast startup and graceful shutdown.
//! [`Life`] is one instance's whole life as a table, state by event: when to start, stop, kill and start again.
//!
//! **Invariant:** `now` is data and actions are data; nothing here waits, signals or asks the time.

use crate::processes::rules::{HealthKind, Rules};
use crate::processes::{Exit, Fault, State};
use jiff::{SignedDuration, Timestamp};

pub mod health;
pub mod last_words;

/// The times that rule a life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// A `web` must listen on its port within this (Heroku: 60 s), else R10.
    pub boot: SignedDuration,
    /// Another process counts as up when it has lived this long (500 ms).
    pub settle: SignedDuration,
    /// Between SIGTERM and SIGKILL: a server gives 30 s, `up` 10 s.
    pub grace: SignedDuration,
    /// When to start again after a crash.
    pub backoff: Backoff,
}

impl Policy {
    /// What `up` does: a laptop's user waits for Ctrl-C, so the grace is shorter than a server's.
    pub const UP: Self = Self {
        boot: SignedDuration::from_secs(60),
        settle: SignedDuration::from_millis(500),
        grace: SignedDuration::from_secs(10),
        backoff: Backoff::STANDARD,
    };

    /// What a server does (Heroku's times).
    pub const SERVER: Self = Self { grace: SignedDuration::from_secs(30), ..Self::UP };

    /// The times of one process type: what the app says of it goes over what the platform does.
    #[must_use]
    pub fn with(&self, rules: &Rules) -> Self {
        // What a file may say is far within the range of a signed duration.
        let signed = |d: std::time::Duration| SignedDuration::try_from(d).unwrap_or(SignedDuration::MAX);
        Self { settle: rules.settle.map_or(self.settle, signed), grace: rules.stop_timeout.map_or(self.grace, signed), ..self.clone() }
    }
}

/// Waiting longer after each crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    /// After the first crash.
    pub first: SignedDuration,
    /// Never longer than this.
    pub most: SignedDuration,
    /// Having been up this long makes the next crash the first again.
    pub reset: SignedDuration,
}

impl Backoff {
    /// 1 s × 2ⁿ, at most 60 s, forgotten after 60 s up.
    pub const STANDARD: Self =
        Self { first: SignedDuration::from_secs(1), most: SignedDuration::from_secs(60), reset: SignedDuration::from_secs(60) };

    /// The wait after the `crashes`th crash in a row (from 1), shortened by up to a quarter. The jitter is a hash of `seed` and the count,
    /// so that instances which crashed together do not start together and the same history gives the same waits.
    pub fn wait(&self, crashes: u32, seed: u64) -> SignedDuration {
        let doublings = crashes.saturating_sub(1).min(16);
        let full = self.first.checked_mul(1 << doublings).map_or(self.most, |w| w.min(self.most));
        let millis = full.as_millis().clamp(0, i64::MAX as i128) as i64;
        let jitter = (mix(seed ^ u64::from(crashes)) % 256) as i64;
        SignedDuration::from_millis(millis - millis * jitter / 1024)
    }
}

/// SplitMix64's finaliser: spreads nearby inputs over all outputs.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What happens to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its port is listened on.
    Listening,
    /// Time has passed.
    Tick,
    /// It ended, and so did every process of its jail.
    Ended(Exit),
    /// It is no longer wanted.
    Stop,
    /// It shall end and start again.
    Restart,
    /// All of its checks of this kind passed.
    Healthy(HealthKind),
    /// One of its checks of this kind failed as often as it may.
    Unhealthy(HealthKind),
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a jail.
    Start,
    /// SIGTERM now, SIGKILL after the grace; the jail does both.
    Terminate {
        /// Until SIGKILL.
        grace: SignedDuration,
    },
    /// SIGKILL now.
    Kill,
    /// Its state changed; tell it.
    Changed {
        /// From.
        from: State,
        /// To.
        to: State,
    },
    /// A `web` did not listen in time (R10).
    BootTimeout,
    /// Its checks of this kind begin.
    Check(HealthKind),
    /// It takes requests from now on, or no longer, by its readiness checks.
    Ready(bool),
}

/// What shows how an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signs {
    /// Whether listening, not living on, begins its being up.
    pub listens: bool,
    /// Whether startup checks must pass before it is up.
    pub startup: bool,
    /// Whether readiness checks say when it takes requests.
    pub readiness: bool,
}

/// One instance's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// What shows that it is up.
    signs: Signs,
    /// Spreads its back-off.
    seed: u64,
    /// State.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// How it last ended.
    pub exit: Option<Exit>,
    /// How often it was started again after a crash.
    pub restarts: u32,
    /// Whether it takes requests, where it is up.
    pub ready: bool,
    /// Why it is not ready, or why the platform ended it, where it did so last.
    pub fault: Option<Fault>,
    /// Crashes in a row.
    crashes: u32,
    /// When a crashed one starts again.
    retry: Option<Timestamp>,
    /// A stopping one that starts again when it has ended.
    again: bool,
    /// It did not start as it should, and SIGKILL was sent.
    condemned: bool,
    /// It listens, or has settled, and its startup checks are under way.
    checking: bool,
    /// A stopping one that has crashed when it has ended: its liveness checks failed.
    unwell: bool,
}

impl Life {
    /// A life begins: the caller performs the actions.
    pub fn begin(signs: Signs, seed: u64, now: Timestamp) -> (Self, Vec<Action>) {
        let life = Self {
            signs,
            seed,
            state: State::Starting,
            since: now,
            exit: None,
            restarts: 0,
            ready: false,
            fault: None,
            crashes: 0,
            retry: None,
            again: false,
            condemned: false,
            checking: false,
            unwell: false,
        };
        (life, vec![Action::Start])
    }

    /// A life that went on unwatched since it `started`: what happened is lived through with its times, so that it is as if somebody had
    /// looked. Of what that asks for, the checks that concern it now are left to be done. `restarts` and `crashes` are those from before.
    pub fn found(
        signs: Signs,
        seed: u64,
        started: Timestamp,
        (restarts, crashes): (u32, u32),
        events: &[(Timestamp, Event)],
        policy: &Policy,
        now: Timestamp,
    ) -> (Self, Vec<Action>) {
        let settled = started + policy.settle;
        let ended = events.iter().any(|(_, event)| matches!(event, Event::Ended(_)));
        let tick = (!signs.listens && !ended && settled <= now).then_some((settled, Event::Tick));
        let mut events: Vec<(Timestamp, Event)> = events.iter().copied().chain(tick).collect();
        events.sort_by_key(|(at, _)| *at);
        let begun = Self { restarts, crashes, ..Self::begin(signs, seed, started).0 };
        let (life, mut todo) = events.into_iter().fold((begun, Vec::new()), |(life, mut all), (at, event)| {
            let (life, todo) = life.step(event, policy, at);
            all.extend(todo);
            (life, all)
        });
        todo.retain(|action| match action {
            Action::Check(HealthKind::Startup) => life.checking,
            Action::Check(_) => life.state == State::Up,
            _ => false,
        });
        (life, todo)
    }

    /// How often it has crashed in a row.
    pub fn crashes(&self) -> u32 {
        self.crashes
    }

    /// When [`Event::Tick`] is next of use, if ever.
    pub fn wake(&self, policy: &Policy) -> Option<Timestamp> {
        match self.state {
            State::Starting if self.condemned || self.checking => None,
            State::Starting => Some(self.since + if self.signs.listens { policy.boot } else { policy.settle }),
            State::Crashed => self.retry,
            State::Up | State::Stopping | State::Down => None,
        }
    }

    /// When it starts again, where it has crashed.
    pub fn retry(&self) -> Option<Timestamp> {
        self.retry
    }

    /// Whether it starts again when it has ended, though it is stopping now.
    pub fn comes_back(&self) -> bool {
        self.again
    }

    /// One event. The table:
    ///
    /// | | Listening | Tick | Healthy | Unhealthy | Ended | Stop | Restart |
    /// |---|---|---|---|---|---|---|---|
    /// | Starting | begun if it listens | begun after `settle`, or R10 after `boot` | startup: Up | startup: killed | Crashed | Stopping | Stopping, again |
    /// | Up | – | – | readiness: ready | readiness: not ready; liveness: Stopping, unwell | Crashed | Stopping | Stopping, again |
    /// | Stopping | – | – | – | – | Down; Starting if again, Crashed if unwell | neither again nor unwell | again |
    /// | Crashed | – | Starting after the back-off | – | – | – | Down | Starting |
    /// | Down | – | – | – | – | – | – | – |
    ///
    /// One that has begun is Up, or is once its startup checks pass. One that is Up is ready, or is once its readiness checks pass.
    pub fn step(mut self, event: Event, policy: &Policy, now: Timestamp) -> (Self, Vec<Action>) {
        let mut todo = Vec::new();
        match (self.state, event) {
            (State::Starting, Event::Listening) if self.signs.listens && !self.condemned => self.begun(now, &mut todo),
            (State::Starting, Event::Tick) if self.condemned || self.checking => {}
            (State::Starting, Event::Tick) if self.signs.listens => {
                if now >= self.since + policy.boot {
                    self.condemn(Fault::Boot);
                    todo.extend([Action::BootTimeout, Action::Kill]);
                }
            }
            (State::Starting, Event::Tick) => {
                if now >= self.since + policy.settle {
                    self.begun(now, &mut todo);
                }
            }
            (State::Starting, Event::Healthy(HealthKind::Startup)) if self.checking && !self.condemned => self.up(now, &mut todo),
            (State::Starting, Event::Unhealthy(HealthKind::Startup)) if self.checking && !self.condemned => {
                self.condemn(Fault::Startup);
                todo.push(Action::Kill);
            }
            (State::Up, Event::Healthy(HealthKind::Readiness)) if !self.ready => self.be_ready(true, &mut todo),
            // Also one that never was: whoever waits for it is to know.
            (State::Up, Event::Unhealthy(HealthKind::Readiness)) if self.signs.readiness => self.be_ready(false, &mut todo),
            (State::Up, Event::Unhealthy(HealthKind::Liveness)) => {
                (self.unwell, self.fault) = (true, Some(Fault::Liveness));
                // For how long it was up counts as in any other crash.
                self.count_crash(policy, now);
                self.enter(State::Stopping, now, &mut todo);
                todo.push(Action::Terminate { grace: policy.grace });
            }
            (State::Starting | State::Up, Event::Ended(exit)) => {
                if !self.condemned {
                    self.fault = None;
                }
                self.count_crash(policy, now);
                self.crash(exit, policy, now, &mut todo);
            }
            (State::Starting | State::Up, Event::Stop | Event::Restart) => {
                self.again = event == Event::Restart;
                self.enter(State::Stopping, now, &mut todo);
                todo.push(Action::Terminate { grace: policy.grace });
            }
            (State::Stopping, Event::Stop) => (self.again, self.unwell) = (false, false),
            (State::Stopping, Event::Restart) if self.unwell => (self.again, self.unwell) = (true, false),
            (State::Stopping, Event::Ended(exit)) if self.unwell => self.crash(exit, policy, now, &mut todo),
            (State::Stopping, Event::Ended(exit)) => {
                self.exit = Some(exit);
                self.condemned = false;
                if self.again {
                    self.again = false;
                    self.start(now, &mut todo);
                } else {
                    self.enter(State::Down, now, &mut todo);
                }
            }
            (State::Crashed, Event::Tick) => {
                if self.retry.is_none_or(|at| now >= at) {
                    self.restarts = self.restarts.saturating_add(1);
                    self.start(now, &mut todo);
                }
            }
            (State::Crashed, Event::Restart) => {
                self.crashes = 0;
                self.start(now, &mut todo);
            }
            (State::Crashed, Event::Stop) => self.enter(State::Down, now, &mut todo),
            // What is left changes nothing: late or repeated news of what is already known.
            (State::Starting | State::Up | State::Stopping | State::Crashed, Event::Listening)
            | (State::Up | State::Stopping, Event::Tick)
            | (State::Stopping, Event::Restart)
            | (State::Crashed, Event::Ended(_))
            | (_, Event::Healthy(_) | Event::Unhealthy(_))
            | (State::Down, _) => {}
        }
        (self, todo)
    }

    /// It listens, or has settled: what is left are its startup checks.
    fn begun(&mut self, now: Timestamp, todo: &mut Vec<Action>) {
        if !self.signs.startup {
            self.up(now, todo);
        } else if !self.checking {
            self.checking = true;
            todo.push(Action::Check(HealthKind::Startup));
        }
    }

    fn up(&mut self, now: Timestamp, todo: &mut Vec<Action>) {
        self.checking = false;
        self.ready = !self.signs.readiness;
        self.enter(State::Up, now, todo);
        todo.extend([Action::Check(HealthKind::Readiness), Action::Check(HealthKind::Liveness)]);
    }

    fn be_ready(&mut self, ready: bool, todo: &mut Vec<Action>) {
        (self.ready, self.fault) = (ready, (!ready).then_some(Fault::Readiness));
        todo.push(Action::Ready(ready));
    }

    fn condemn(&mut self, fault: Fault) {
        (self.condemned, self.fault) = (true, Some(fault));
    }

    fn count_crash(&mut self, policy: &Policy, now: Timestamp) {
        let long_up = self.state == State::Up && now.duration_since(self.since) >= policy.backoff.reset;
        self.crashes = if long_up { 1 } else { self.crashes.saturating_add(1) };
    }

    fn crash(&mut self, exit: Exit, policy: &Policy, now: Timestamp, todo: &mut Vec<Action>) {
        self.exit = Some(exit);
        (self.condemned, self.unwell) = (false, false);
        self.retry = Some(now + policy.backoff.wait(self.crashes, self.seed));
        self.enter(State::Crashed, now, todo);
    }

    fn start(&mut self, now: Timestamp, todo: &mut Vec<Action>) {
        self.retry = None;
        self.enter(State::Starting, now, todo);
        todo.push(Action::Start);
    }

    fn enter(&mut self, to: State, now: Timestamp, todo: &mut Vec<Action>) {
        todo.push(Action::Changed { from: self.state, to });
        if to != State::Up {
            (self.ready, self.checking) = (false, false);
        }
        self.state = to;
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).expect("in range")
    }

    fn listens(listens: bool) -> Signs {
        Signs { listens, ..Signs::default() }
    }

    fn walk(web: bool, events: &[(i64, Event)]) -> (Life, Vec<Action>) {
        walk_as(listens(web), events)
    }

    fn walk_as(signs: Signs, events: &[(i64, Event)]) -> (Life, Vec<Action>) {
        let (mut life, mut all) = Life::begin(signs, 7, at(0));
        for (ms, event) in events {
            let (next, todo) = life.step(*event, &Policy::UP, at(*ms));
            life = next;
            all.extend(todo);
        }
        (life, all)
    }

    #[test]
    fn a_web_is_up_when_it_listens_and_others_when_they_have_settled() {
        assert_eq!(walk(true, &[(10_000, Event::Tick)]).0.state, State::Starting);
        assert_eq!(walk(true, &[(300, Event::Listening)]).0.state, State::Up);
        assert_eq!(walk(false, &[(499, Event::Tick)]).0.state, State::Starting);
        assert_eq!(walk(false, &[(500, Event::Tick)]).0.state, State::Up);
    }

    #[test]
    fn a_web_that_does_not_listen_is_killed_once_and_restarts() {
        let (life, todo) = walk(true, &[(60_000, Event::Tick), (60_001, Event::Tick), (60_010, Event::Ended(Exit::Signal(9)))]);
        assert_eq!(todo.iter().filter(|a| **a == Action::Kill).count(), 1);
        assert!(todo.contains(&Action::BootTimeout));
        assert_eq!((life.state, life.exit), (State::Crashed, Some(Exit::Signal(9))));
        let retry = life.wake(&Policy::UP).expect("a crashed life wakes");
        let (life, todo) = life.step(Event::Tick, &Policy::UP, retry);
        assert_eq!((life.state, life.restarts), (State::Starting, 1));
        assert!(todo.contains(&Action::Start));
    }

    #[test]
    fn what_the_app_says_of_a_type_goes_over_what_the_platform_does() {
        let rules = Rules { stop_timeout: Some(std::time::Duration::from_millis(1_500)), ..Rules::default() };
        let policy = Policy::UP.with(&rules);
        assert_eq!((policy.grace, policy.settle), (SignedDuration::from_millis(1_500), Policy::UP.settle));
        let rules = Rules { settle: Some(std::time::Duration::from_secs(3)), ..Rules::default() };
        assert_eq!(Policy::UP.with(&rules).settle, SignedDuration::from_secs(3));
    }

    #[test]
    fn startup_checks_decide_whether_it_comes_up() {
        let signs = Signs { listens: true, startup: true, readiness: false };
        let (life, todo) = walk_as(signs, &[(10, Event::Listening), (90_000, Event::Tick)]);
        assert_eq!((life.state, life.wake(&Policy::UP)), (State::Starting, None));
        assert_eq!(todo, [Action::Start, Action::Check(HealthKind::Startup)]);
        assert_eq!(walk_as(signs, &[(10, Event::Healthy(HealthKind::Startup))]).0.state, State::Starting, "before it listens");
        let (life, _) = walk_as(signs, &[(10, Event::Listening), (20, Event::Healthy(HealthKind::Startup))]);
        assert!(life.state == State::Up && life.ready);
        let killed = Event::Ended(Exit::Signal(9));
        let (life, todo) = walk_as(signs, &[(10, Event::Listening), (20, Event::Unhealthy(HealthKind::Startup)), (30, killed)]);
        assert_eq!((life.state, life.fault, life.crashes), (State::Crashed, Some(Fault::Startup), 1));
        assert!(todo.contains(&Action::Kill));
    }

    #[test]
    fn readiness_comes_and_goes_and_liveness_ends_it() {
        let signs = Signs { listens: false, startup: false, readiness: true };
        let (life, _) = walk_as(signs, &[(500, Event::Tick)]);
        assert!(life.state == State::Up && !life.ready);
        let (life, todo) = life.step(Event::Healthy(HealthKind::Readiness), &Policy::UP, at(600));
        assert!(life.ready && todo == [Action::Ready(true)]);
        let (life, todo) = life.step(Event::Unhealthy(HealthKind::Readiness), &Policy::UP, at(700));
        assert!(!life.ready && life.state == State::Up && todo == [Action::Ready(false)]);
        assert_eq!(life.fault, Some(Fault::Readiness));
        let (life, todo) = life.step(Event::Unhealthy(HealthKind::Liveness), &Policy::UP, at(800));
        assert_eq!(life.state, State::Stopping);
        assert!(todo.contains(&Action::Terminate { grace: Policy::UP.grace }));
        let stopped = life.clone().step(Event::Stop, &Policy::UP, at(900)).0;
        let ended = Event::Ended(Exit::Code(0));
        assert_eq!(stopped.step(ended, &Policy::UP, at(1_000)).0.state, State::Down);
        let (life, _) = life.step(ended, &Policy::UP, at(1_000));
        assert_eq!((life.state, life.fault, life.crashes), (State::Crashed, Some(Fault::Liveness), 1));
        assert!(life.wake(&Policy::UP).is_some());
    }

    #[test]
    fn sixty_seconds_up_forget_the_crashes() {
        let (mut life, _) = Life::begin(Signs::default(), 1, at(0));
        let mut now = 0;
        for _ in 0..5 {
            life = life.step(Event::Ended(Exit::Code(1)), &Policy::UP, at(now)).0;
            now = life.wake(&Policy::UP).expect("crashed").as_millisecond();
            life = life.step(Event::Tick, &Policy::UP, at(now)).0;
        }
        assert_eq!(life.crashes, 5);
        life = life.step(Event::Tick, &Policy::UP, at(now + 500)).0;
        life = life.step(Event::Ended(Exit::Code(1)), &Policy::UP, at(now + 500 + 60_000)).0;
        assert_eq!(life.crashes, 1);
    }

    #[test]
    fn stop_wins_over_restart() {
        let ended = Event::Ended(Exit::Code(0));
        assert_eq!(walk(false, &[(1, Event::Restart), (2, ended)]).0.state, State::Starting);
        assert_eq!(walk(false, &[(1, Event::Restart), (2, Event::Stop), (3, ended)]).0.state, State::Down);
    }

    #[test]
    fn a_life_that_was_found_is_as_if_it_had_been_watched() {
        let found =
            |web, events: &[(Timestamp, Event)], now| Life::found(listens(web), 7, at(1_000), (2, 3), events, &Policy::UP, at(now)).0;
        let web = found(true, &[(at(1_300), Event::Listening)], 90_000);
        assert_eq!((web.state, web.since, web.restarts, web.crashes()), (State::Up, at(1_300), 2, 3));
        assert_eq!(found(true, &[], 2_000).wake(&Policy::UP), Some(at(61_000)), "its boot goes on");
        assert_eq!(found(false, &[], 1_400).state, State::Starting);
        let worker = found(false, &[], 9_000);
        assert_eq!((worker.state, worker.since), (State::Up, at(1_500)));
        let stopping = found(false, &[(at(8_000), Event::Stop)], 9_000);
        assert_eq!((stopping.state, stopping.since), (State::Stopping, at(8_000)));
        let crashed = worker.clone().step(Event::Ended(Exit::Code(3)), &Policy::UP, at(9_000)).0;
        assert_eq!(crashed.crashes(), 4, "not up for long: one more in a row");
        let again = Life::found(listens(false), 7, at(9_000), (2, 3), &[(at(9_000), Event::Ended(Exit::Code(3)))], &Policy::UP, at(99_000));
        assert_eq!((again.0.state, again.0.retry(), again.0.crashes()), (State::Crashed, crashed.retry(), 4), "it waits as long");

        let checked = Signs { listens: true, startup: true, readiness: true };
        let found = |events: &[(Timestamp, Event)]| Life::found(checked, 7, at(0), (0, 0), events, &Policy::UP, at(9_000));
        let (life, todo) = found(&[(at(300), Event::Listening)]);
        assert_eq!((life.state, todo), (State::Starting, vec![Action::Check(HealthKind::Startup)]), "nobody knows that it passed");
        let well = [Event::Listening, Event::Healthy(HealthKind::Startup), Event::Healthy(HealthKind::Readiness)];
        let (life, todo) = found(&well.map(|event| (at(300), event)));
        assert_eq!((life.state, life.ready, life.since), (State::Up, true, at(300)));
        assert_eq!(todo, [HealthKind::Readiness, HealthKind::Liveness].map(Action::Check));
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Listening),
            Just(Event::Tick),
            Just(Event::Ended(Exit::Code(1))),
            Just(Event::Ended(Exit::Lost)),
            Just(Event::Stop),
            Just(Event::Restart),
            kind().prop_map(Event::Healthy),
            kind().prop_map(Event::Unhealthy),
        ]
    }

    fn kind() -> impl Strategy<Value = HealthKind> {
        prop::sample::select(&HealthKind::ALL[..])
    }

    proptest! {
        #[test]
        fn back_off_grows_and_is_bounded(seed: u64, crashes in 1u32..100) {
            let b = Backoff::STANDARD;
            let wait = b.wait(crashes, seed);
            prop_assert!(wait <= b.most && wait >= SignedDuration::from_millis(750));
        }

        /// However events come: at most one jail runs at a time, nothing starts after Stop, and the time never goes unasked for.
        #[test]
        fn any_history_keeps_the_invariants(
            listens: bool, startup: bool, readiness: bool, events in proptest::collection::vec((0i64..30_000, event()), 0..60),
        ) {
            let (mut life, todo) = Life::begin(Signs { listens, startup, readiness }, 3, at(0));
            let mut running = todo.iter().filter(|a| **a == Action::Start).count();
            let (mut now, mut stopped) = (0, false);
            for (ms, event) in events {
                now += ms;
                // A driver reports an end only of what runs.
                if matches!(event, Event::Ended(_)) {
                    if running == 0 { continue; }
                    running -= 1;
                }
                stopped |= event == Event::Stop;
                let (next, todo) = life.step(event, &Policy::UP, at(now));
                life = next;
                let starts = todo.iter().filter(|a| **a == Action::Start).count();
                prop_assert!(!stopped || starts == 0);
                running += starts;
                prop_assert!(running <= 1);
                prop_assert_eq!(running == 1, matches!(life.state, State::Starting | State::Up | State::Stopping));
                if life.state == State::Crashed { prop_assert!(life.wake(&Policy::UP).is_some()); }
                // Only what is up is ready, and where there are no readiness checks it always is.
                prop_assert!(!life.ready || life.state == State::Up);
                prop_assert!(readiness || life.ready == (life.state == State::Up));
                // Whatever the health of what nobody stopped: it is waited for, or somebody was told to end it.
                if life.state == State::Starting && !life.checking && !life.condemned {
                    prop_assert!(life.wake(&Policy::UP).is_some());
                }
            }
        }
    }
}
