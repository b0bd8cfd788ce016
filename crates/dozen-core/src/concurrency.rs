//! VIII. Scale out via the process model.
//! [`plan`] compares what is wanted with what is seen and answers the next steps: how many of which instance, and which of them are routed.
//!
//! **Invariant:** level-triggered: it may be called at any time, as often as one likes, and after any fault; the same input gives the same steps.

use crate::ids::{DeployRef, Generation, InstanceName, Version};
use crate::processes::{Seen, State};
use crate::release::Release;
use formation::Formation;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::sync::Arc;

pub mod formation;

/// What a deploy shall be running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Whose.
    pub deploy: DeployRef,
    /// Counts the changes of intent; an older one is stale.
    pub generation: Generation,
    /// Normally one; several are a declared split.
    pub releases: Vec<Share>,
}

/// One release's part of a deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The release.
    pub release: Arc<Release>,
    /// Its part of the requests, relative to the other shares.
    pub weight: u32,
    /// How many of each process type.
    pub formation: Formation,
}

/// One step towards what is wanted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Start this instance of this release.
    Start(Version, InstanceName),
    /// The router shall send requests to it.
    Route(Version, InstanceName),
    /// The router shall send it no more requests.
    Unroute(Version, InstanceName),
    /// Stop it, after its requests in flight.
    Stop(Version, InstanceName),
}

/// How many. The old release serves until the new one is ready, and all types become the new one together or none does.
///
/// - What is wanted and not there is started, beside whatever runs.
/// - While an instance of another release is routed, the wanted ones are routed only when every wanted instance of every type is up; then
///   the routes switch in one batch and the others stop. Where nothing else is routed, each `web` is routed as soon as it is up.
/// - Surplus instances of a wanted release stop as soon as the wanted ones of their type are up. What is not up is not routed.
///
/// `now` is unused as yet: draining and settling are [`crate::disposability::Life`]'s and the driver's.
pub fn plan(want: &Desired, seen: &[Seen], _now: Timestamp) -> Vec<Step> {
    let wanted: BTreeSet<(Version, InstanceName)> = want
        .releases
        .iter()
        .flat_map(|share| {
            let version = share.release.version;
            share.formation.instances().map(move |i| (version, i))
        })
        .collect();
    let key = |s: &Seen| (s.release, s.instance.clone());
    let mine: Vec<&Seen> = seen.iter().filter(|s| s.deploy == want.deploy).collect();
    let present: BTreeSet<_> = mine.iter().filter(|s| s.state != State::Down).map(|s| key(s)).collect();
    let up: BTreeSet<_> = mine.iter().filter(|s| s.state == State::Up).map(|s| key(s)).collect();

    let ready = wanted.iter().all(|w| up.contains(w));
    let current: BTreeSet<Version> = want.releases.iter().map(|s| s.release.version).collect();
    let others_routed = mine.iter().any(|s| s.routed && s.state == State::Up && !current.contains(&s.release));

    let mut steps: Vec<Step> = wanted.iter().filter(|w| !present.contains(*w)).map(|(v, i)| Step::Start(*v, i.clone())).collect();
    let mut leave = Vec::new();
    for s in &mine {
        let (version, instance) = key(s);
        let wanted_here = wanted.contains(&(version, instance.clone()));
        let fills_in = s.state == State::Up && !wanted.iter().all(|w| w.1.kind != instance.kind || up.contains(w));
        let stays = wanted_here || if current.contains(&version) { fills_in } else { !ready };
        if wanted_here && s.state == State::Up && s.instance.kind.is_web() && !s.routed && (ready || !others_routed) {
            steps.push(Step::Route(version, instance.clone()));
        }
        if s.routed && (!stays || s.state != State::Up) {
            leave.push(Step::Unroute(version, instance.clone()));
        }
        if !stays && !matches!(s.state, State::Down | State::Stopping) {
            leave.push(Step::Stop(version, instance));
        }
    }
    // Routes are added before any is taken away, and nothing stops that is still routed.
    leave.sort();
    steps.extend(leave);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::dependencies::Stack;
    use crate::disposability::{Event, Life, Policy};
    use crate::ids::SlugId;
    use crate::processes::Exit;
    use crate::release::Slug;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn desired(generation: u64, version: u32, counts: &[(&str, u32)]) -> Desired {
        let release = Release {
            deploy: "shop".parse().expect("valid"),
            version: Version(version),
            slug: Slug {
                id: SlugId([0; 32]),
                stack: Stack { pack: "procfile".into(), runtime: None },
                processes: vec![],
                env: vec![],
                needs: vec![],
                console: None,
                scratch: vec![],
                rules: BTreeMap::new(),
                commit: None,
                size: 0,
                files: 0,
            },
            config: Config::default(),
            attachments: vec![],
            description: String::new(),
            created: Timestamp::UNIX_EPOCH,
        };
        let counts: BTreeMap<_, _> = counts.iter().map(|(k, n)| (k.parse().expect("valid"), *n)).collect();
        Desired {
            deploy: "shop".parse().expect("valid"),
            generation: Generation(generation),
            releases: vec![Share { release: Arc::new(release), weight: 1, formation: counts.into_iter().collect() }],
        }
    }

    fn seen(version: u32, instance: &str, state: State, routed: bool) -> Seen {
        Seen {
            deploy: "shop".parse().expect("valid"),
            generation: Generation(1),
            instance: instance.parse().expect("valid"),
            release: Version(version),
            state,
            since: Timestamp::UNIX_EPOCH,
            port: None,
            routed,
            pid: None,
            restarts: 0,
            exit: None,
            retry: None,
            isolation: None,
            stopped: None,
        }
    }

    fn check(want: &Desired, seen: &[Seen], expect: &[&str]) {
        let name = |s: &Step| match s {
            Step::Start(v, i) => format!("start {v} {i}"),
            Step::Route(v, i) => format!("route {v} {i}"),
            Step::Unroute(v, i) => format!("unroute {v} {i}"),
            Step::Stop(v, i) => format!("stop {v} {i}"),
        };
        let got: Vec<_> = plan(want, seen, Timestamp::UNIX_EPOCH).iter().map(name).collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn the_first_release_routes_each_web_as_it_comes_up() {
        let want = desired(1, 1, &[("web", 2), ("worker", 1)]);
        check(&want, &[], &["start v1 web.1", "start v1 web.2", "start v1 worker.1"]);
        let now =
            [seen(1, "web.1", State::Up, false), seen(1, "web.2", State::Starting, false), seen(1, "worker.1", State::Crashed, false)];
        check(&want, &now, &["route v1 web.1"]);
    }

    #[test]
    fn a_new_release_switches_when_all_of_it_is_up() {
        let want = desired(2, 2, &[("web", 1), ("worker", 1)]);
        let old = [seen(1, "web.1", State::Up, true), seen(1, "worker.1", State::Up, false)];
        check(&want, &old, &["start v2 web.1", "start v2 worker.1"]);
        let half = [old.to_vec(), vec![seen(2, "web.1", State::Up, false), seen(2, "worker.1", State::Starting, false)]].concat();
        check(&want, &half, &[]);
        let all = [old.to_vec(), vec![seen(2, "web.1", State::Up, false), seen(2, "worker.1", State::Up, false)]].concat();
        check(&want, &all, &["route v2 web.1", "unroute v1 web.1", "stop v1 web.1", "stop v1 worker.1"]);
    }

    #[test]
    fn scaling_down_unroutes_before_it_stops_and_a_crashed_web_leaves_the_table() {
        let want = desired(2, 1, &[("web", 1)]);
        let now = [seen(1, "web.1", State::Up, true), seen(1, "web.2", State::Up, true)];
        check(&want, &now, &["unroute v1 web.2", "stop v1 web.2"]);
        check(&want, &[seen(1, "web.1", State::Crashed, true)], &["unroute v1 web.1"]);
        check(&want, &[seen(1, "web.1", State::Down, false)], &["start v1 web.1"]);
    }

    #[derive(Debug, Clone)]
    enum Fate {
        Want(u32, u32, u32),
        Crash(usize),
        Wait(i64),
    }

    fn fate() -> impl Strategy<Value = Fate> {
        prop_oneof![
            (1u32..5, 0u32..4, 0u32..3).prop_map(|(v, web, worker)| Fate::Want(v, web, worker)),
            any::<usize>().prop_map(Fate::Crash),
            (0i64..20_000).prop_map(Fate::Wait),
        ]
    }

    /// A driver in miniature: lives, and the routed flag, ruled by `plan` and `Life::step` alone.
    struct Model {
        lives: BTreeMap<(Version, InstanceName), (Life, bool)>,
        now: Timestamp,
    }

    impl Model {
        fn seen(&self) -> Vec<Seen> {
            let one = |((v, i), (life, routed)): (&(Version, InstanceName), &(Life, bool))| Seen {
                state: life.state,
                ..seen(v.0, &i.to_string(), State::Up, *routed)
            };
            self.lives.iter().map(one).collect()
        }

        fn feed(&mut self, key: &(Version, InstanceName), event: Event) {
            if let Some((life, _)) = self.lives.get_mut(key) {
                *life = life.clone().step(event, &Policy::UP, self.now).0;
            }
        }

        fn ready_web(&self) -> usize {
            self.lives.iter().filter(|((_, i), (l, routed))| i.kind.is_web() && *routed && l.state == State::Up).count()
        }

        /// Plans and acts until nothing more is to be done at this instant.
        fn settle(&mut self, want: &Desired) {
            for _ in 0..100 {
                self.lives.retain(|_, (l, _)| l.state != State::Down);
                let steps = plan(want, &self.seen(), self.now);
                if steps.is_empty() {
                    return;
                }
                for step in steps {
                    match step {
                        Step::Start(v, i) => {
                            let life = Life::begin(i.kind.is_web(), 1, self.now).0;
                            self.lives.insert((v, i), (life, false));
                        }
                        Step::Route(v, i) => {
                            let life = self.lives.get_mut(&(v, i)).expect("only what is there is routed");
                            assert_eq!(life.0.state, State::Up);
                            life.1 = true;
                        }
                        Step::Unroute(v, i) => self.lives.get_mut(&(v, i)).expect("only what is there is unrouted").1 = false,
                        Step::Stop(v, i) => {
                            assert!(!self.lives[&(v, i.clone())].1, "stopped while routed");
                            self.feed(&(v, i), Event::Stop);
                        }
                    }
                }
            }
            panic!("plan does not come to rest");
        }

        /// Lets time pass; what boots listens, what stops ends.
        fn pass(&mut self, ms: i64) {
            self.now += jiff::SignedDuration::from_millis(ms);
            let keys: Vec<_> = self.lives.keys().cloned().collect();
            for key in keys {
                let state = self.lives[&key].0.state;
                match state {
                    State::Starting if key.1.kind.is_web() => self.feed(&key, Event::Listening),
                    State::Stopping => self.feed(&key, Event::Ended(Exit::Code(0))),
                    _ => self.feed(&key, Event::Tick),
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_history_comes_to_rest_at_what_is_wanted(fates in proptest::collection::vec(fate(), 1..40)) {
            let mut model = Model { lives: BTreeMap::new(), now: Timestamp::UNIX_EPOCH };
            let mut want = desired(0, 1, &[("web", 1), ("worker", 1)]);
            let mut generation = 0;
            for fate in fates {
                match fate {
                    Fate::Want(v, web, worker) => {
                        generation += 1;
                        want = desired(generation, v, &[("web", web), ("worker", worker)]);
                    }
                    Fate::Crash(n) => {
                        let alive: Vec<_> = model.lives.iter().filter(|(_, (l, _))| matches!(l.state, State::Up | State::Starting)).map(|(k, _)| k.clone()).collect();
                        if !alive.is_empty() { model.feed(&alive[n % alive.len()], Event::Ended(Exit::Signal(9))); }
                    }
                    Fate::Wait(ms) => model.pass(ms),
                }
                let wanted_web = want.releases[0].formation.instances().filter(|i| i.kind.is_web()).count();
                let before = model.ready_web();
                model.settle(&want);
                // No step of ours takes ready instances below the smaller of what was there and what is wanted.
                prop_assert!(model.ready_web() >= before.min(wanted_web));
                let routed: BTreeSet<_> = model.lives.iter().filter(|(_, (_, r))| *r).map(|((v, _), _)| *v).collect();
                prop_assert!(routed.len() <= 1, "two releases routed: {:?}", routed);
            }
            for _ in 0..20 { model.pass(61_000); model.settle(&want); }
            let left: BTreeSet<_> = model.lives.keys().cloned().collect();
            let wanted: BTreeSet<_> = want.releases[0].formation.instances().map(|i| (want.releases[0].release.version, i)).collect();
            prop_assert_eq!(left, wanted);
        }
    }
}
