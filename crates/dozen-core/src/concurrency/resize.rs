//! Giving running instances another size: in place, since a size is no other release, and one after the other.

use super::Desired;
use crate::ids::{InstanceName, Version};
use crate::processes::{Seen, State};
use std::collections::BTreeSet;

/// The instances that are to be restarted now because they run with another size than is wanted.
///
/// - What is not ready, or has crashed, goes at once: nobody is served by it, and a larger size may be the cure.
/// - Of what is ready, one of each type, and only while none of that type is on its way up or down. A crashed one holds nothing up.
///
/// Like [`super::plan`] it may be called at any time; an instance that is told to restart is named until it has.
pub fn resize(want: &Desired, seen: &[Seen]) -> Vec<(Version, InstanceName)> {
    let mut restarts = Vec::new();
    for share in &want.releases {
        let version = share.release.version;
        let wanted: BTreeSet<InstanceName> = share.formation.instances().collect();
        let mut mine: Vec<&Seen> =
            seen.iter().filter(|s| s.deploy == want.deploy && s.release == version && wanted.contains(&s.instance)).collect();
        mine.sort_by_key(|s| &s.instance);
        let stale = |s: &&Seen| s.size != share.size(&s.instance.kind);
        let key = |s: &Seen| (version, s.instance.clone());
        let unready = |s: &Seen| s.state == State::Starting || s.state == State::Up && !s.ready;
        let idle = mine.iter().copied().filter(|s| unready(s) || s.state == State::Crashed).filter(stale);
        restarts.extend(idle.map(key));
        for (kind, _) in share.formation.iter() {
            let of_kind = || mine.iter().copied().filter(|s| s.instance.kind == *kind);
            let moving = of_kind().any(|s| unready(s) || s.state == State::Stopping);
            restarts.extend(of_kind().find(|s| s.state == State::Up && s.ready && stale(s)).filter(|_| !moving).map(key));
        }
    }
    restarts
}

#[cfg(test)]
mod tests {
    use super::super::tests::{desired, seen};
    use super::*;
    use crate::concurrency::formation::parse_scale;
    use crate::processes::ProcessType;
    use crate::processes::rules::Rules;
    use std::sync::Arc;

    /// Instances as `web.1 up 512M`; `unready` is up and not ready.
    fn check(declared: Option<&str>, words: &str, instances: &[&str], expect: &[&str]) {
        let mut want = desired(2, 1, &[("web", 0), ("worker", 0)]);
        let share = &mut want.releases[0];
        let types = ["web", "worker"].map(|n| ProcessType { name: n.parse().expect("valid"), command: "x".into() });
        share.formation = share.formation.scale(&parse_scale(&[words]).expect("valid"), &types).expect("scaled");
        if let Some(size) = declared {
            let rules = Rules { size: size.parse().ok(), ..Rules::default() };
            Arc::make_mut(&mut share.release).slug.rules.insert("web".parse().expect("valid"), rules);
        }
        let one = |line: &&str| {
            let words: Vec<&str> = line.split(' ').collect();
            let all = [State::Starting, State::Up, State::Stopping, State::Crashed, State::Down];
            let (word, ready) = if words[1] == "unready" { ("up", false) } else { (words[1], words[1] == "up") };
            let state = all.into_iter().find(|s| s.as_str() == word).expect("a state");
            Seen { ready, size: words.get(2).and_then(|w| w.parse().ok()), ..seen(1, words[0], state, true) }
        };
        let seen: Vec<Seen> = instances.iter().map(one).collect();
        assert_eq!(resize(&want, &seen).iter().map(|(_, i)| i.to_string()).collect::<Vec<_>>(), expect, "{words} of {instances:?}");
    }

    #[test]
    fn what_has_its_size_is_left_alone() {
        check(None, "web=2 worker=1", &["web.1 up", "web.2 crashed", "worker.1 up"], &[]);
        check(None, "web=1:512M", &["web.1 up 512M"], &[]);
        check(Some("512M"), "web=1", &["web.1 up 512M"], &[]);
        // What is not wanted stops and needs no size.
        check(None, "web=1:512M", &["web.1 up 512M", "web.2 up 1G"], &[]);
    }

    #[test]
    fn one_of_each_type_that_is_up_at_a_time() {
        check(None, "web=2:512M worker=2:1G", &["web.1 up", "web.2 up", "worker.1 up 512M", "worker.2 up 1G"], &["web.1", "worker.1"]);
        check(None, "web=2:512M", &["web.1 starting 512M", "web.2 up"], &[]);
        check(None, "web=2:512M", &["web.1 stopping", "web.2 up"], &[]);
        check(None, "web=2:512M", &["web.1 unready 512M", "web.2 up"], &[]);
        check(None, "web=2:512M", &["web.1 up 512M", "web.2 up"], &["web.2"]);
        check(None, "web=2:512M", &["web.1 crashed 512M", "web.2 up"], &["web.2"]);
    }

    #[test]
    fn what_serves_nobody_goes_at_once() {
        check(None, "web=3:1G", &["web.1 crashed 512M", "web.2 starting 512M", "web.3 crashed 512M"], &["web.1", "web.2", "web.3"]);
        check(None, "web=2:1G", &["web.1 unready 512M", "web.2 unready 1G"], &["web.1"]);
        check(Some("512M"), "web=2:unlimited", &["web.1 up 512M", "web.2 crashed 512M"], &["web.2", "web.1"]);
    }
}
