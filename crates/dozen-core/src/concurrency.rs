//! VIII. Scale out via the process model.
//! [`plan`] compares what is wanted with what is seen and answers the next steps: how many of which instance, and which of them are routed.
//!
//! **Invariant:** level-triggered: it may be called at any time, as often as one likes, and after any fault; the same input gives the same steps.

use crate::ids::{DeployRef, Generation, InstanceName, TypeName, Version};
use crate::processes::size::Size;
use crate::processes::{Exit, Fault, Seen, State};
use crate::release::Release;
use formation::Formation;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

pub mod formation;
#[cfg(test)]
mod histories;
pub mod resize;

/// What a deploy shall be running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Whose.
    pub deploy: DeployRef,
    /// Counts the changes of intent; an older one is stale.
    pub generation: Generation,
    /// Normally one; several are a declared split.
    pub releases: Vec<Share>,
    /// Requests wait while no instance can take them: a change is under way that began by stopping some.
    pub hold: bool,
}

impl Desired {
    /// Whether it takes the place of what was desired before: an intent that comes late changes nothing.
    pub fn supersedes(&self, before: &Self) -> bool {
        self.generation >= before.generation
    }
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

impl Share {
    /// The size of a type's instances: what `ps scale` said, else what the app declares, else none.
    pub fn size(&self, kind: &TypeName) -> Option<Size> {
        self.formation.size(kind).or_else(|| self.release.slug.rules.get(kind)?.size)
    }
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
/// - What is wanted and not there is started, beside whatever runs: after the types that its own waits for, and, where it must not run
///   beside those of another release, after they are gone. Such others stop at once.
/// - While another release runs, the wanted instances are routed only when every one of every type is ready (up, and its readiness checks
///   passed); then the routes switch in one batch and the others stop. Where nothing else runs, each `web` is routed as soon as it is ready.
/// - In a split, the instances of a release that joins others are routed when all of that release is ready.
/// - A release that is newer than all wanted ones and not routed was given up: it stops at once.
/// - Surplus instances of a wanted release stop as soon as the wanted ones of their type are ready. What is not ready is not routed.
///
/// `now` is unused as yet: draining and settling are [`crate::disposability::Life`]'s and the driver's.
pub fn plan(want: &Desired, seen: &[Seen], _now: Timestamp) -> Vec<Step> {
    let now = Now::of(want, seen);
    let mut steps: Vec<Step> = now.wanted.iter().filter(|w| now.may_start(w)).map(|(v, i)| Step::Start(*v, i.clone())).collect();
    let mut leave = Vec::new();
    for s in &now.mine {
        let key = (s.release, s.instance.clone());
        let (ready, stays) = (is_ready(s), now.stays(s, &key));
        if ready && !s.routed && s.instance.kind.is_web() && now.wanted.contains(&key) && now.routable.contains(&s.release) {
            steps.push(Step::Route(key.0, key.1.clone()));
        }
        if s.routed && (!stays || !ready) {
            leave.push(Step::Unroute(key.0, key.1.clone()));
        }
        if !stays && !matches!(s.state, State::Down | State::Stopping) {
            leave.push(Step::Stop(key.0, key.1));
        }
    }
    // Routes are added before any is taken away, and nothing stops that is still routed.
    leave.sort();
    steps.extend(leave);
    steps
}

type Key = (Version, InstanceName);

fn is_ready(s: &Seen) -> bool {
    s.state == State::Up && s.ready
}

/// What is wanted and what is there, looked at together.
struct Now<'s> {
    want: &'s Desired,
    mine: Vec<&'s Seen>,
    wanted: BTreeSet<Key>,
    present: BTreeSet<(Version, &'s InstanceName)>,
    ready: BTreeSet<(Version, &'s InstanceName)>,
    /// Whether every wanted instance is.
    all_ready: bool,
    /// The releases that have a routed instance.
    serving: BTreeSet<Version>,
    /// Whether another release than the wanted ones runs, and not only to its last request.
    others: bool,
    /// The wanted releases whose ready instances are routed, or shall be.
    routable: BTreeSet<Version>,
}

impl<'s> Now<'s> {
    fn of(want: &'s Desired, seen: &'s [Seen]) -> Self {
        let mine: Vec<&Seen> = seen.iter().filter(|s| s.deploy == want.deploy).collect();
        let all = want.releases.iter().flat_map(|share| share.formation.instances().map(|i| (share.release.version, i)));
        let wanted: BTreeSet<Key> = all.collect();
        let present = mine.iter().filter(|s| s.state != State::Down).map(|s| (s.release, &s.instance)).collect();
        let ready: BTreeSet<_> = mine.iter().filter(|s| is_ready(s)).map(|s| (s.release, &s.instance)).collect();
        let current = |v: Version| want.releases.iter().any(|s| s.release.version == v);
        // An old `web` that is up and not routed ends its last requests, or never had any.
        let runs = |s: &&&Seen| {
            let alive = matches!(s.state, State::Starting | State::Up | State::Crashed);
            s.routed || alive && !s.instance.kind.is_web()
        };
        let mut now = Self {
            all_ready: wanted.iter().all(|(v, i)| ready.contains(&(*v, i))),
            serving: mine.iter().filter(|s| s.routed).map(|s| s.release).collect(),
            others: mine.iter().filter(runs).any(|s| !current(s.release)),
            want,
            wanted,
            present,
            ready,
            mine,
            routable: BTreeSet::new(),
        };
        now.routable = want.releases.iter().map(|s| s.release.version).filter(|v| now.may_route(*v)).collect();
        now
    }

    fn share(&self, version: Version) -> Option<&Share> {
        self.want.releases.iter().find(|s| s.release.version == version)
    }

    /// Whether instances of a type may run in several releases at a time, by what each wanted one says of it.
    fn overlaps(&self, kind: &TypeName) -> bool {
        // Whoever declares a split says that they may.
        self.want.releases.len() > 1 || self.want.releases.iter().all(|s| s.release.overlaps(kind))
    }

    fn may_start(&self, key: &Key) -> bool {
        let (version, instance) = key;
        let Some(share) = self.share(*version).filter(|_| !self.present.contains(&(*version, instance))) else { return false };
        let after = share.release.rules(&instance.kind).after;
        let first_come = after.iter().all(|kind| {
            let mut wanted = share.formation.instances().filter(|i| i.kind == *kind);
            wanted.all(|i| self.ready.contains(&(*version, &i)))
        });
        let other = |s: &&Seen| s.instance.kind == instance.kind && s.release != *version && s.state != State::Down;
        first_come && (self.overlaps(&instance.kind) || !self.mine.iter().any(other))
    }

    fn may_route(&self, version: Version) -> bool {
        let of_it = |key: &&Key| key.0 == version;
        let whole = || self.wanted.iter().filter(of_it).all(|(v, i)| self.ready.contains(&(*v, i)));
        let alone = || !self.mine.iter().any(|s| s.release != version && s.state != State::Down && self.share(s.release).is_some());
        self.all_ready || self.serving.contains(&version) || !self.others && (alone() || whole())
    }

    fn stays(&self, s: &Seen, key: &Key) -> bool {
        let kind = &s.instance.kind;
        if self.wanted.contains(key) {
            true
        } else if self.share(s.release).is_some() {
            let mut successors = self.wanted.iter().filter(|w| w.1.kind == *kind);
            let takes_over = |(v, i): &Key| self.ready.contains(&(*v, i)) && (!kind.is_web() || self.routable.contains(v));
            s.state == State::Up && !successors.all(takes_over)
        } else {
            let newest = self.want.releases.iter().map(|s| s.release.version).max();
            let given_up = newest.is_some_and(|newest| s.release > newest) && !self.serving.contains(&s.release);
            !self.all_ready && !given_up && self.overlaps(kind)
        }
    }
}

/// Why a new release did not come up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// The first of its instances that ended, or did not become ready.
    pub instance: InstanceName,
    /// What the platform has against it.
    pub fault: Option<Fault>,
    /// How it ended.
    pub exit: Option<Exit>,
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instance = &self.instance;
        match self.fault {
            Some(Fault::Boot) => write!(f, "{instance} did not listen on its port in time (R10)"),
            Some(Fault::Startup) => write!(f, "{instance} failed its startup check"),
            Some(Fault::Readiness) => write!(f, "{instance} did not pass its readiness check"),
            Some(Fault::Liveness) => write!(f, "{instance} failed its liveness check"),
            None => write!(f, "{instance} ended with exit code {}", self.exit.map_or(1, Exit::code)),
        }
    }
}

/// Whether a release that was started has come up as a whole, or is to be given up: the first of its instances that ends, whatever the
/// reason, or that is found not to be ready, decides. `None` while neither is so.
pub fn outcome(version: Version, formation: &Formation, seen: &[Seen]) -> Option<Result<(), GivenUp>> {
    let mut all_up = true;
    for instance in formation.instances() {
        match seen.iter().find(|s| s.release == version && s.instance == instance) {
            Some(s) if matches!(s.state, State::Crashed | State::Down) || s.restarts > 0 => {
                return Some(Err(GivenUp { instance, fault: s.fault, exit: s.exit }));
            }
            Some(s) if s.state == State::Up && s.fault == Some(Fault::Readiness) => {
                return Some(Err(GivenUp { instance, fault: s.fault, exit: s.exit }));
            }
            Some(s) if is_ready(s) && (s.routed || !instance.kind.is_web()) => {}
            _ => all_up = false,
        }
    }
    all_up.then_some(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::dependencies::Stack;
    use crate::ids::SlugId;
    use crate::processes::rules::Rules;
    use crate::release::Slug;
    use std::collections::BTreeMap;

    pub(super) fn desired(generation: u64, version: u32, counts: &[(&str, u32)]) -> Desired {
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
            hold: false,
        }
    }

    pub(super) fn seen(version: u32, instance: &str, state: State, routed: bool) -> Seen {
        Seen {
            deploy: "shop".parse().expect("valid"),
            generation: Generation(1),
            instance: instance.parse().expect("valid"),
            release: Version(version),
            state,
            since: Timestamp::UNIX_EPOCH,
            port: None,
            ready: state == State::Up,
            routed,
            pid: None,
            restarts: 0,
            exit: None,
            fault: None,
            retry: None,
            isolation: None,
            size: None,
            missing: vec![],
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

    /// The same with what the app says of a type.
    fn ruled(mut want: Desired, kind: &str, rules: Rules) -> Desired {
        for share in &mut want.releases {
            Arc::make_mut(&mut share.release).slug.rules.insert(kind.parse().expect("valid"), rules.clone());
        }
        want
    }

    #[test]
    fn what_is_up_and_not_ready_is_not_routed_and_holds_the_switch() {
        let unready = |version, routed| Seen { ready: false, ..seen(version, "web.1", State::Up, routed) };
        let one = desired(1, 1, &[("web", 1)]);
        check(&one, &[unready(1, false)], &[]);
        check(&one, &[unready(1, true)], &["unroute v1 web.1"]);
        let two = desired(2, 2, &[("web", 1)]);
        check(&two, &[seen(1, "web.1", State::Up, true), unready(2, false)], &[]);
    }

    #[test]
    fn types_that_must_not_overlap_stop_before_their_successors_start() {
        let alone = Rules { overlap: Some(false), ..Rules::default() };
        let want = ruled(desired(2, 2, &[("web", 1), ("worker", 1)]), "worker", alone);
        let old = [seen(1, "web.1", State::Up, true), seen(1, "worker.1", State::Up, false)];
        check(&want, &old, &["start v2 web.1", "stop v1 worker.1"]);
        let stopping = [old[0].clone(), seen(1, "worker.1", State::Stopping, false), seen(2, "web.1", State::Up, false)];
        check(&want, &stopping, &[]);
        check(&want, &[old[0].clone(), seen(2, "web.1", State::Up, false)], &["start v2 worker.1"]);
        let all = [old[0].clone(), seen(2, "web.1", State::Up, false), seen(2, "worker.1", State::Up, false)];
        check(&want, &all, &["route v2 web.1", "unroute v1 web.1", "stop v1 web.1"]);
    }

    #[test]
    fn types_start_after_those_that_they_wait_for() {
        let after = Rules { after: vec!["worker".parse().expect("valid")], ..Rules::default() };
        let want = ruled(desired(1, 1, &[("web", 1), ("worker", 2)]), "web", after.clone());
        check(&want, &[], &["start v1 worker.1", "start v1 worker.2"]);
        let half = [seen(1, "worker.1", State::Up, false), seen(1, "worker.2", State::Starting, false)];
        check(&want, &half, &[]);
        let up = ["worker.1", "worker.2"].map(|i| seen(1, i, State::Up, false));
        check(&want, &up, &["start v1 web.1"]);
        // Of what does not run nothing is waited for.
        check(&ruled(desired(1, 1, &[("web", 1)]), "web", after), &[], &["start v1 web.1"]);
    }

    #[test]
    fn a_release_that_was_given_up_stops_though_the_old_one_is_not_well() {
        let want = desired(3, 1, &[("web", 1), ("worker", 1)]);
        let old = [seen(1, "web.1", State::Up, true), seen(1, "worker.1", State::Crashed, false)];
        let new = [seen(2, "web.1", State::Up, false), seen(2, "worker.1", State::Crashed, false)];
        check(&want, &[old.to_vec(), new.to_vec()].concat(), &["stop v2 web.1", "stop v2 worker.1"]);
        // But not where it serves and the old one does not.
        check(&want, &[seen(2, "web.1", State::Up, true), seen(1, "web.1", State::Starting, false)], &["start v1 worker.1"]);
    }

    #[test]
    fn a_release_that_joins_a_split_is_routed_as_a_whole() {
        let mut want = desired(2, 1, &[("web", 1)]);
        want.releases.extend(desired(2, 2, &[("web", 1), ("worker", 1)]).releases);
        let old = seen(1, "web.1", State::Up, true);
        let half = [old.clone(), seen(2, "web.1", State::Up, false), seen(2, "worker.1", State::Starting, false)];
        check(&want, &half, &[]);
        let all = [old, seen(2, "web.1", State::Up, false), seen(2, "worker.1", State::Up, false)];
        check(&want, &all, &["route v2 web.1"]);
    }

    #[test]
    fn the_first_end_of_a_new_release_gives_it_up_with_its_reason() {
        let formation = desired(1, 2, &[("web", 1), ("worker", 1)]).releases[0].formation.clone();
        let told = |seen: &[Seen]| outcome(Version(2), &formation, seen).map(|o| o.map_err(|e| e.to_string()));
        let web = seen(2, "web.1", State::Up, true);
        assert_eq!(told(&[web.clone(), seen(1, "worker.1", State::Crashed, false)]), None);
        assert_eq!(told(&[web.clone(), seen(2, "worker.1", State::Up, false)]), Some(Ok(())));
        assert_eq!(told(&[Seen { ready: false, ..web.clone() }, seen(2, "worker.1", State::Up, false)]), None);
        let unready = Seen { ready: false, fault: Some(Fault::Readiness), ..web.clone() };
        assert_eq!(told(&[unready]), Some(Err("web.1 did not pass its readiness check".to_owned())));
        for (fault, want) in [
            (None, "worker.1 ended with exit code 3"),
            (Some(Fault::Boot), "worker.1 did not listen on its port in time (R10)"),
            (Some(Fault::Startup), "worker.1 failed its startup check"),
            (Some(Fault::Liveness), "worker.1 failed its liveness check"),
        ] {
            let ended = Seen { exit: Some(Exit::Code(3)), fault, ..seen(2, "worker.1", State::Crashed, false) };
            assert_eq!(told(&[web.clone(), ended]), Some(Err(want.to_owned())));
        }
    }
}
