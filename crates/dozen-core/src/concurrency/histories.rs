//! Random histories: a driver in miniature, ruled by [`plan`] and [`Life::step`] alone, with events and faults of every kind.

use super::tests::{desired, seen};
use super::*;
use crate::disposability::{Event, Life, Policy, Signs};
use crate::processes::rules::{HealthKind, Rules};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Fate {
    /// A release shall run, of so many `web` and `worker`.
    Want(u32, u32, u32),
    /// Two releases shall share the requests.
    Split(u32, u32),
    /// What was wanted before is wanted again, since its successor was given up.
    GiveUp,
    /// An older intent comes late.
    Late,
    /// Some process dies.
    Crash(usize),
    /// Some process is asked to restart.
    Restart(usize),
    /// Some process's checks say this.
    Health(usize, HealthKind, bool),
    /// So many milliseconds.
    Wait(i64),
}

fn fate() -> impl Strategy<Value = Fate> {
    let kind = prop::sample::select(&HealthKind::ALL[..]);
    prop_oneof![
        3 => (1u32..5, 0u32..4, 0u32..3).prop_map(|(v, web, worker)| Fate::Want(v, web, worker)),
        1 => (1u32..5, 1u32..5).prop_map(|(a, b)| Fate::Split(a, b)),
        1 => Just(Fate::GiveUp),
        1 => Just(Fate::Late),
        3 => any::<usize>().prop_map(Fate::Crash),
        1 => any::<usize>().prop_map(Fate::Restart),
        3 => (any::<usize>(), kind, any::<bool>()).prop_map(|(n, kind, well)| Fate::Health(n, kind, well)),
        4 => (0i64..20_000).prop_map(Fate::Wait),
    ]
}

/// What the app says, for a whole history.
#[derive(Debug, Clone)]
struct Says {
    signs: Signs,
    worker_overlaps: bool,
    web_overlaps: bool,
    web_after_worker: bool,
}

fn says() -> impl Strategy<Value = Says> {
    (any::<[bool; 5]>()).prop_map(|[startup, readiness, worker_overlaps, web_overlaps, web_after_worker]| Says {
        signs: Signs { listens: false, startup, readiness },
        worker_overlaps,
        web_overlaps,
        web_after_worker,
    })
}

impl Says {
    fn want(&self, generation: u64, shares: &[(u32, u32, u32)]) -> Desired {
        let one = |(v, web, worker): &(u32, u32, u32)| desired(generation, *v, &[("web", *web), ("worker", *worker)]).releases.remove(0);
        let mut want = desired(generation, 1, &[]);
        want.releases = shares.iter().map(one).collect();
        let worker: TypeName = "worker".parse().expect("valid");
        for share in &mut want.releases {
            let rules = &mut Arc::make_mut(&mut share.release).slug.rules;
            let after = if self.web_after_worker { vec![worker.clone()] } else { vec![] };
            rules.insert("web".parse().expect("valid"), Rules { overlap: Some(self.web_overlaps), after, ..Rules::default() });
            rules.insert(worker.clone(), Rules { overlap: Some(self.worker_overlaps), ..Rules::default() });
        }
        want
    }
}

struct Model {
    signs: Signs,
    lives: BTreeMap<Key, (Life, bool)>,
    now: Timestamp,
    want: Desired,
}

impl Model {
    fn new(signs: Signs, want: Desired) -> Self {
        Self { signs, lives: BTreeMap::new(), now: Timestamp::UNIX_EPOCH, want }
    }

    /// As a driver does: an older intent is refused.
    fn apply(&mut self, want: Desired) {
        if want.supersedes(&self.want) {
            self.want = want;
        }
    }

    fn seen(&self) -> Vec<Seen> {
        let one = |((v, i), (life, routed)): (&Key, &(Life, bool))| Seen {
            instance: i.clone(),
            state: life.state,
            ready: life.ready,
            ..seen(v.0, "web.1", State::Up, *routed)
        };
        self.lives.iter().map(one).collect()
    }

    fn feed(&mut self, key: &Key, event: Event) {
        if let Some((life, routed)) = self.lives.get_mut(key) {
            *life = life.clone().step(event, &Policy::UP, self.now).0;
            // The router sends nothing to what is not up, whoever ended it.
            *routed &= life.state == State::Up;
        }
    }

    fn nth(&self, n: usize, states: &[State]) -> Option<Key> {
        let fit: Vec<&Key> = self.lives.iter().filter(|(_, (l, _))| states.contains(&l.state)).map(|(k, _)| k).collect();
        (!fit.is_empty()).then(|| fit[n % fit.len()].clone())
    }

    fn serving(&self) -> usize {
        self.lives.iter().filter(|((_, i), (l, routed))| i.kind.is_web() && *routed && l.ready).count()
    }

    fn routed(&self) -> BTreeSet<Version> {
        self.lives.iter().filter(|(_, (_, routed))| *routed).map(|((v, _), _)| *v).collect()
    }

    /// Plans and acts until nothing more is to be done at this instant.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.lives.retain(|_, (l, _)| l.state != State::Down);
            let steps = plan(&self.want, &self.seen(), self.now);
            if steps.is_empty() {
                return;
            }
            for step in steps {
                match step {
                    Step::Start(v, i) => {
                        assert!(!self.lives.contains_key(&(v, i.clone())), "started twice");
                        if self.want.releases.len() == 1 && !self.want.releases[0].release.overlaps(&i.kind) {
                            assert!(!self.lives.keys().any(|k| k.1.kind == i.kind && k.0 != v), "started beside another release");
                        }
                        let life = Life::begin(Signs { listens: i.kind.is_web(), ..self.signs }, 1, self.now).0;
                        self.lives.insert((v, i), (life, false));
                    }
                    Step::Route(v, i) => {
                        let life = self.lives.get_mut(&(v, i)).expect("only what is there is routed");
                        assert!(life.0.state == State::Up && life.0.ready);
                        life.1 = true;
                    }
                    Step::Unroute(v, i) => self.lives.get_mut(&(v, i)).expect("only what is there is unrouted").1 = false,
                    Step::Stop(v, i) => {
                        assert!(!self.lives[&(v, i.clone())].1, "stopped while routed");
                        self.assert_may_stop(v, &i);
                        self.feed(&(v, i), Event::Stop);
                    }
                }
            }
        }
        panic!("plan does not come to rest");
    }

    /// All types become the new release together or none does: an older one that may run beside it stops when all of the new one is ready.
    fn assert_may_stop(&self, version: Version, instance: &InstanceName) {
        let older = self.want.releases.iter().all(|s| s.release.version > version);
        let overlaps = self.want.releases.iter().all(|s| s.release.overlaps(&instance.kind));
        if older && overlaps {
            let ready = |key: Key| self.lives.get(&key).is_some_and(|(life, _)| life.ready);
            for share in &self.want.releases {
                assert!(share.formation.instances().all(|i| ready((share.release.version, i))), "{version} {instance} stopped too early");
            }
        }
    }

    /// Lets time pass; what boots listens, what is checked is well, what stops ends.
    fn pass(&mut self, ms: i64) {
        self.now += jiff::SignedDuration::from_millis(ms);
        for key in self.lives.keys().cloned().collect::<Vec<_>>() {
            match self.lives[&key].0.state {
                State::Starting if key.1.kind.is_web() => self.feed(&key, Event::Listening),
                State::Stopping => self.feed(&key, Event::Ended(Exit::Code(0))),
                _ => self.feed(&key, Event::Tick),
            }
            self.feed(&key, Event::Healthy(HealthKind::Startup));
            self.feed(&key, Event::Healthy(HealthKind::Readiness));
        }
    }

    fn suffer(&mut self, fate: &Fate) {
        const RUNS: [State; 3] = [State::Starting, State::Up, State::Stopping];
        match fate {
            Fate::Crash(n) => {
                if let Some(key) = self.nth(*n, &RUNS) {
                    self.feed(&key, Event::Ended(Exit::Signal(9)));
                }
            }
            Fate::Restart(n) => {
                // The driver takes it out of the table first.
                if let Some(key) = self.nth(*n, &[State::Starting, State::Up, State::Crashed]) {
                    self.feed(&key, Event::Restart);
                }
            }
            Fate::Health(n, kind, well) => {
                if let Some(key) = self.nth(*n, &RUNS) {
                    self.feed(&key, if *well { Event::Healthy(*kind) } else { Event::Unhealthy(*kind) });
                }
            }
            Fate::Wait(ms) => self.pass(*ms),
            Fate::Want(..) | Fate::Split(..) | Fate::GiveUp | Fate::Late => {}
        }
    }
}

/// How many `web` there are in all shares.
fn webs(want: &Desired) -> usize {
    want.releases.iter().flat_map(|s| s.formation.instances()).filter(|i| i.kind.is_web()).count()
}

proptest! {
    #[test]
    fn any_history_comes_to_rest_at_what_is_wanted(says in says(), fates in proptest::collection::vec(fate(), 1..50)) {
        let mut model = Model::new(says.signs, says.want(0, &[(1, 1, 1)]));
        let (mut generation, mut before) = (0, model.want.clone());
        let mut was_split = false;
        for fate in fates {
            let shares = match &fate {
                Fate::Want(v, web, worker) => Some(vec![(*v, *web, *worker)]),
                Fate::Split(a, b) if a != b => Some(vec![(*a, 1, 1), (*b, 2, 0)]),
                _ => None,
            };
            if let Some(shares) = shares {
                generation += 1;
                before = model.want.clone();
                model.apply(says.want(generation, &shares));
            } else if matches!(fate, Fate::GiveUp) {
                generation += 1;
                let back = Desired { generation: Generation(generation), ..before.clone() };
                before = std::mem::replace(&mut model.want, back);
            } else if matches!(fate, Fate::Late) {
                let want = model.want.clone();
                if before.generation < want.generation {
                    model.apply(before.clone());
                    prop_assert_eq!(&model.want, &want, "a stale generation took hold");
                }
            }
            model.suffer(&fate);
            let ready = model.serving();
            let unready: usize = model.lives.values().filter(|(l, routed)| *routed && !l.ready).count();
            model.settle();
            was_split |= model.want.releases.len() > 1;
            // No step of ours takes ready instances below the smaller of what was there and what is wanted, except where two releases
            // must not run at a time.
            if says.web_overlaps && unready == 0 {
                prop_assert!(model.serving() >= ready.min(webs(&model.want)));
            }
            let routed = model.routed();
            if !was_split {
                prop_assert!(routed.len() <= 1, "two releases routed: {:?}", routed);
            }
            was_split = was_split && (model.want.releases.len() > 1 || routed.len() > 1);
        }
        for _ in 0..40 { model.pass(61_000); model.settle(); }
        let left: BTreeSet<_> = model.lives.keys().cloned().collect();
        let wanted: BTreeSet<_> = model.want.releases.iter().flat_map(|s| s.formation.instances().map(|i| (s.release.version, i))).collect();
        prop_assert_eq!(left, wanted);
        prop_assert_eq!(model.serving(), webs(&model.want));
    }
}

/// Ten thousand instances over two simulated days, with thousands of crashes and a new release every twelve hours.
#[test]
fn a_large_formation_lives_for_days() {
    let says = Says { signs: Signs::default(), worker_overlaps: true, web_overlaps: true, web_after_worker: false };
    let mut deploys: Vec<Model> = (0..100).map(|_| Model::new(says.signs, says.want(1, &[(1, 60, 40)]))).collect();
    for step in 0..16_u32 {
        for (number, deploy) in deploys.iter_mut().enumerate() {
            if step % 4 == 2 {
                let version = 2 + step / 4;
                deploy.apply(says.want(u64::from(version), &[(version, 60, 40)]));
            }
            for n in 0..3 {
                deploy.suffer(&Fate::Crash(number * 31 + n * 7 + step as usize));
            }
            deploy.settle();
            deploy.pass(5_400_000);
            deploy.settle();
            deploy.pass(5_400_000);
        }
    }
    for deploy in &mut deploys {
        deploy.settle();
        assert_eq!((deploy.serving(), deploy.routed()), (60, BTreeSet::from([Version(5)])));
        assert_eq!(deploy.lives.len(), 100);
    }
}
