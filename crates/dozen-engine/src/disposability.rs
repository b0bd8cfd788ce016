//! IX. Maximise robustness with fast startup and graceful shutdown.
//! The driver's task, as far as it is about when: what a jail, the clock or a drained route means to an instance's life, and what then is done.
//!
//! **Invariant:** only [`Life::step`](dozen_core::disposability::Life::step) decides; what is here performs its actions.

use crate::concurrency::{Key, Reconciler, std_duration};
use crate::processes::adoption::{self, Birth};
use crate::processes::{JailEvent, missing_there_alone};
use dozen_core::disposability::health::Verdict;
use dozen_core::disposability::{Action, Event, last_words};
use dozen_core::processes::rules::{HealthKind, Probe};
use dozen_core::processes::{Exit, State, size};
use jiff::{SignedDuration, Timestamp};
use probe::Tried;

pub(crate) mod probe;

/// Out of the route table, with requests still in flight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leaving {
    /// No longer than this.
    pub(crate) until: Timestamp,
    /// What comes then: [`Event::Stop`] or [`Event::Restart`].
    pub(crate) then: Event,
}

impl Reconciler {
    pub(crate) async fn jail_event(&mut self, key: Key, incarnation: u64, event: JailEvent) {
        let one_off = self.instances.get(&key).is_none_or(|i| i.incarnation != incarnation);
        let found = if one_off { self.one_offs.get_mut(&key.1) } else { self.instances.get_mut(&key) };
        let Some(instance) = found.filter(|i| i.incarnation == incarnation) else { return };
        let ps = key.1.to_string();
        match event {
            JailEvent::Started { pid, isolation, missing } => {
                instance.missing = missing_there_alone(missing);
                instance.pid = Some(pid);
                instance.isolation = Some(isolation);
                if one_off {
                    self.report_one_off(&key.1, State::Up, None);
                } else {
                    self.report(&key);
                }
            }
            JailEvent::Listening { .. } => self.feed(&key, Event::Listening).await,
            JailEvent::Wrote => self.site.store.poke(),
            JailEvent::Refused(path) => self.line(&ps, &last_words::refused(&path)),
            JailEvent::Memory { used, quota, vastly } => {
                size::exceeded(used, quota, vastly).iter().for_each(|line| self.line(&ps, line));
                if vastly {
                    self.line(&ps, "Stopping process with SIGKILL");
                }
            }
            JailEvent::Crowded { most } => self.line(&ps, &size::crowded(most)),
            JailEvent::Killing => {
                let grace = seconds(instance.policy.grace);
                let text = format!("Error R12 (Exit timeout) -> At least one process failed to exit within {grace} seconds of SIGTERM");
                self.line(&ps, &text);
                self.line(&ps, "Stopping remaining processes with SIGKILL");
            }
            JailEvent::Exited(exit) => {
                let unasked = instance.life.state != State::Stopping && exit.code() != 0;
                self.line(&ps, &format!("Process exited with status {}", exit.code()));
                if unasked {
                    self.tell_cause(&ps);
                }
                self.ended(&key, one_off, exit).await;
            }
            JailEvent::Failed { attempt, error, code } => {
                self.line(&ps, &format!("Cannot start: {attempt}: {error}"));
                self.ended(&key, one_off, Exit::Code(code)).await;
            }
            JailEvent::Lost => {
                self.line(&ps, "The jail was killed from outside and its processes with it");
                self.ended(&key, one_off, Exit::Lost).await;
            }
        }
    }

    pub(crate) async fn tick(&mut self) {
        let now = Timestamp::now();
        let due: Vec<Key> =
            self.instances.iter().filter(|(_, i)| i.life.wake(&i.policy).is_some_and(|at| at <= now)).map(|(k, _)| k.clone()).collect();
        for key in due {
            self.feed(&key, Event::Tick).await;
        }
        self.try_checks(now);
        let over: Vec<Key> =
            self.instances.iter().filter(|(_, i)| i.leaving.is_some_and(|l| l.until <= now)).map(|(k, _)| k.clone()).collect();
        for key in over {
            self.drained(&key).await;
        }
        self.stop_overdue_one_offs(now);
    }

    /// Takes an instance out of the table, lets its requests in flight end, for the grace at most, and then has it stop or restart.
    pub(crate) async fn leave(&mut self, key: &Key, then: Event) {
        let Some(i) = self.instances.get_mut(key) else { return };
        match (&self.site.router, &i.port) {
            (Some(_), Some(lease)) if i.life.state == State::Up => {
                i.routed = false;
                if i.leaving.is_none() {
                    self.leaving.push(lease.port());
                }
                i.leaving = Some(Leaving { until: Timestamp::now() + i.policy.grace, then });
                self.report(key);
            }
            _ => self.feed(key, then).await,
        }
    }

    pub(crate) async fn drained(&mut self, key: &Key) {
        let then = self.instances.get_mut(key).and_then(|i| i.leaving.take()).map_or(Event::Stop, |l| l.then);
        self.feed(key, then).await;
    }

    pub(crate) async fn ended(&mut self, key: &Key, one_off: bool, exit: Exit) {
        self.site.store.poke();
        if one_off {
            self.report_one_off(&key.1, State::Down, Some(exit));
            self.one_offs.remove(&key.1);
            return self.forget(key);
        }
        if let Some(i) = self.instances.get_mut(key) {
            (i.jail, i.pid, i.port, i.leaving) = (None, None, None, None);
        }
        self.feed(key, Event::Ended(exit)).await;
        let crashed = self.instances.get(key).filter(|i| i.life.state == State::Crashed);
        if let (Some(notes), Some(i)) = (&self.site.lasting, crashed) {
            // The next control part is to wait as long as this one would.
            let before = Birth { started: i.life.since, crashes: i.life.crashes().saturating_sub(1), ..i.birth(key) };
            adoption::crashed(notes, &before, exit, i.life.since);
        }
    }

    /// What is down is written down no longer.
    pub(crate) fn forget(&self, key: &Key) {
        if let Some(notes) = &self.site.lasting {
            adoption::forget(notes, key.0, &key.1);
        }
    }

    /// Gives an instance's life an event and performs what it answers.
    pub(crate) async fn feed(&mut self, key: &Key, event: Event) {
        let Some(i) = self.instances.get_mut(key) else { return };
        let (life, todo) = i.life.clone().step(event, &i.policy, Timestamp::now());
        i.life = life;
        if i.life.state != State::Up {
            i.routed = false;
        }
        self.perform(key, todo).await;
    }

    pub(crate) async fn perform(&mut self, key: &Key, todo: Vec<Action>) {
        let ps = key.1.to_string();
        for action in todo {
            match action {
                Action::Start => self.start(key),
                Action::Terminate { grace } => {
                    self.line(&ps, "Stopping all processes with SIGTERM");
                    if let Some(jail) = self.instances.get(key).and_then(|i| i.jail.as_ref()) {
                        jail.stop(std_duration(grace));
                    }
                }
                Action::Kill => {
                    self.line(&ps, "Stopping process with SIGKILL");
                    if let Some(jail) = self.instances.get(key).and_then(|i| i.jail.as_ref()) {
                        jail.kill();
                    }
                }
                Action::Changed { from, to } => {
                    if let Some(i) = self.instances.get_mut(key).filter(|_| !matches!(to, State::Starting | State::Up)) {
                        i.checks.end();
                    }
                    self.line(&ps, &format!("State changed from {} to {}", from.as_str(), to.as_str()));
                    self.report(key);
                }
                Action::Check(kind) => {
                    if let Some(i) = self.instances.get_mut(key) {
                        i.checks.begin(kind, i.started, Timestamp::now());
                    }
                }
                Action::Ready(ready) => {
                    self.line(
                        &ps,
                        if ready { "Ready: takes requests" } else { "Not ready: takes no requests until its readiness checks pass" },
                    );
                    self.report(key);
                }
                Action::BootTimeout => {
                    let seconds = seconds(self.instances.get(key).map_or(self.site.policy.boot, |i| i.policy.boot));
                    let text =
                        format!("Error R10 (Boot timeout) -> Web process failed to bind to $PORT within {seconds} seconds of launch");
                    self.line(&ps, &text);
                    self.tell_other_ports(key);
                }
            }
        }
    }

    /// Starts a task for each check that is to be tried now.
    fn try_checks(&mut self, now: Timestamp) {
        for (key, i) in &mut self.instances {
            for (number, check) in i.checks.due(now) {
                let (key, incarnation, tries) = (key.clone(), i.incarnation, self.tries.clone());
                let (port, host) = (i.port.as_ref().map(crate::port::lease::Lease::port), format!("{}.localhost", i.release.deploy.app));
                let run = match (check.probe(port), &i.jail) {
                    (Some(Probe::Run { argv }), Some(jail)) => Some(jail.probe(argv, check.timeout)),
                    _ => None,
                };
                crate::tasks::spawn("health check", async move {
                    let result = match run {
                        Some(run) => run.await,
                        None => probe::attempt(&check, port, &host).await,
                    };
                    // The receiver lives as long as the reconciler.
                    let _ = tries.send(Tried { key, incarnation, number, check, result });
                });
            }
        }
    }

    /// What came of a try; a jail that has ended meanwhile is not meant.
    pub(crate) async fn tried(&mut self, tried: Tried) {
        let Tried { key, incarnation, number, check, result } = tried;
        let Some(i) = self.instances.get_mut(&key).filter(|i| i.incarnation == incarnation) else { return };
        let Verdict { event, failed } = i.checks.tried(number, result.is_ok(), Timestamp::now());
        let mask = i.release.mask();
        if let (true, Err(why)) = (failed, &result) {
            let tries = if check.attempts == 1 { "1 try".to_owned() } else { format!("{} tries", check.attempts) };
            let then = match event {
                Some(Event::Unhealthy(HealthKind::Liveness)) => "; it is started anew",
                _ if check.warn => "; it only warns",
                _ => "",
            };
            let text = format!("The {} check {} failed in {tries}: {why}{then}", check.kind.as_str(), check.label());
            self.line(&key.1.to_string(), &mask.apply(&text));
        }
        if let Some(event) = event {
            self.feed(&key, event).await;
        }
    }

    /// Says where a process that does not listen on its port listens instead: that is what most of them do.
    fn tell_other_ports(&self, key: &Key) {
        let Some(pid) = self.instances.get(key).and_then(|i| i.pid) else { return };
        let ports: Vec<String> = crate::port::sockets::ports_of_tree(pid).iter().map(u16::to_string).collect();
        let text = match ports.as_slice() {
            [] => "It listens on no port at all. A web process has to listen on the one that $PORT names".to_owned(),
            ports => format!("It listens on port {} instead; have it read the one that $PORT names", ports.join(", ")),
        };
        self.line(&key.1.to_string(), &text);
    }
}

/// `10`, or `1.5`.
fn seconds(d: SignedDuration) -> f64 {
    d.as_secs_f64()
}
