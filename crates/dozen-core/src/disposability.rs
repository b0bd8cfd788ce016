//! IX. Maximise robustness with fast startup and graceful shutdown.
//! [`Life`] is one instance's whole life as a table, state by event: when to start, stop, kill and start again.
//!
//! **Invariant:** `now` is data and actions are data; nothing here waits, signals or asks the time.

use crate::processes::{Exit, State};
use jiff::{SignedDuration, Timestamp};

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
}

/// One instance's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// Whether listening, not living on, makes it up.
    listens: bool,
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
    /// Crashes in a row.
    crashes: u32,
    /// When a crashed one starts again.
    retry: Option<Timestamp>,
    /// A stopping one that starts again when it has ended.
    again: bool,
    /// R10 was told and SIGKILL sent.
    condemned: bool,
}

impl Life {
    /// A life begins: the caller performs the actions.
    pub fn begin(listens: bool, seed: u64, now: Timestamp) -> (Self, Vec<Action>) {
        let life = Self {
            listens,
            seed,
            state: State::Starting,
            since: now,
            exit: None,
            restarts: 0,
            crashes: 0,
            retry: None,
            again: false,
            condemned: false,
        };
        (life, vec![Action::Start])
    }

    /// When [`Event::Tick`] is next of use, if ever.
    pub fn wake(&self, policy: &Policy) -> Option<Timestamp> {
        match self.state {
            State::Starting if self.condemned => None,
            State::Starting => Some(self.since + if self.listens { policy.boot } else { policy.settle }),
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
    /// | | Listening | Tick | Ended | Stop | Restart |
    /// |---|---|---|---|---|---|
    /// | Starting | Up if it listens | Up after `settle`, or R10 after `boot` | Crashed | Stopping | Stopping, again |
    /// | Up | – | – | Crashed | Stopping | Stopping, again |
    /// | Stopping | – | – | Down, or Starting if again | not again | – |
    /// | Crashed | – | Starting after the back-off | – | Down | Starting |
    /// | Down | – | – | – | – | – |
    pub fn step(mut self, event: Event, policy: &Policy, now: Timestamp) -> (Self, Vec<Action>) {
        let mut todo = Vec::new();
        match (self.state, event) {
            (State::Starting, Event::Listening) if self.listens && !self.condemned => self.enter(State::Up, now, &mut todo),
            (State::Starting, Event::Tick) if self.condemned => {}
            (State::Starting, Event::Tick) if self.listens => {
                if now >= self.since + policy.boot {
                    self.condemned = true;
                    todo.extend([Action::BootTimeout, Action::Kill]);
                }
            }
            (State::Starting, Event::Tick) => {
                if now >= self.since + policy.settle {
                    self.enter(State::Up, now, &mut todo);
                }
            }
            (State::Starting | State::Up, Event::Ended(exit)) => {
                let long_up = self.state == State::Up && now.duration_since(self.since) >= policy.backoff.reset;
                self.crashes = if long_up { 1 } else { self.crashes.saturating_add(1) };
                self.exit = Some(exit);
                self.condemned = false;
                self.retry = Some(now + policy.backoff.wait(self.crashes, self.seed));
                self.enter(State::Crashed, now, &mut todo);
            }
            (State::Starting | State::Up, Event::Stop | Event::Restart) => {
                self.again = event == Event::Restart;
                self.enter(State::Stopping, now, &mut todo);
                todo.push(Action::Terminate { grace: policy.grace });
            }
            (State::Stopping, Event::Stop) => self.again = false,
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
            | (State::Down, _) => {}
        }
        (self, todo)
    }

    fn start(&mut self, now: Timestamp, todo: &mut Vec<Action>) {
        self.retry = None;
        self.enter(State::Starting, now, todo);
        todo.push(Action::Start);
    }

    fn enter(&mut self, to: State, now: Timestamp, todo: &mut Vec<Action>) {
        todo.push(Action::Changed { from: self.state, to });
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

    fn walk(listens: bool, events: &[(i64, Event)]) -> (Life, Vec<Action>) {
        let (mut life, mut all) = Life::begin(listens, 7, at(0));
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
    fn sixty_seconds_up_forget_the_crashes() {
        let (mut life, _) = Life::begin(false, 1, at(0));
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

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Listening),
            Just(Event::Tick),
            Just(Event::Ended(Exit::Code(1))),
            Just(Event::Ended(Exit::Lost)),
            Just(Event::Stop),
            Just(Event::Restart),
        ]
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
        fn any_history_keeps_the_invariants(listens: bool, events in proptest::collection::vec((0i64..30_000, event()), 0..60)) {
            let (mut life, todo) = Life::begin(listens, 3, at(0));
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
            }
        }
    }
}
