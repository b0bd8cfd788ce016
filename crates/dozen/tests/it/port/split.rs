//! A split is counted release by release, compared, promoted and aborted, by hand and by itself.

use super::manners::releases;
use super::stage::{Stage, Upstream};
use crate::adoption::{detach, kill_control};
use crate::deployed::{Place, ask, pause};
use dozen_core::ids::Version;
use dozen_core::port::Manners;
use dozen_core::port::tally::Tally;
use dozen_engine::port::RouterEvent;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Sums what the routers tell of this split until so many requests were counted.
fn counted(stage: &mut Stage, of: i64, requests: u64, sums: &mut BTreeMap<Version, Tally>) {
    while sums.values().map(|tally| tally.requests).sum::<u64>() < requests {
        let more = stage.until(|e| match e {
            RouterEvent::Counted { deploy, split, tallies, fresh: true } if (deploy.as_str(), *split) == ("shop/dev", of) => {
                Some(tallies.clone())
            }
            _ => None,
        });
        more.iter().for_each(|(version, tally)| sums.entry(*version).or_default().add(tally));
    }
}

#[test]
fn a_router_counts_each_release_of_a_split_and_nothing_else() {
    let (old, new) = (Upstream::saying("v12"), Upstream::saying("v13"));
    let mut stage = Stage::new();
    stage.manners = Manners { counted: Some(7), ..Manners::default() };
    // Alone it is no split yet.
    stage.set(releases(&[(old.port, 12, 1)]));
    stage.get("/");
    stage.set(releases(&[(old.port, 12, 1), (new.port, 13, 1)]));
    let (mut sums, mut seen): (_, BTreeMap<String, u64>) = (BTreeMap::new(), BTreeMap::new());
    for _ in 0..40 {
        *seen.entry(stage.get("/").text()).or_default() += 1;
    }
    counted(&mut stage, 7, 40, &mut sums);
    // A router that takes another one's place counts on where that one ended.
    let Stage { runtime, router, .. } = &mut stage;
    runtime.block_on(router.replace(Duration::from_secs(5))).expect("replaced");
    for _ in 0..40 {
        *seen.entry(stage.get("/").text()).or_default() += 1;
    }
    counted(&mut stage, 7, 80, &mut sums);
    for (name, version) in [("v12", 12), ("v13", 13)] {
        let tally = &sums[&Version(version)];
        assert_eq!((tally.requests, tally.errors), (seen[name], 0));
        assert_eq!(tally.times.values().sum::<u64>(), seen[name]);
        assert!(tally.percentile(99).is_some_and(|time| time < Duration::from_secs(30)));
    }
    // Where nobody is there any more the router answers in its place.
    let ((closed, _held), mut sums) = (super::stage::closed_port(), BTreeMap::new());
    stage.manners.counted = Some(8);
    stage.set(releases(&[(old.port, 12, 1), (closed, 13, 1_000_000)]));
    for _ in 0..20 {
        stage.get("/");
    }
    counted(&mut stage, 8, 20, &mut sums);
    assert_eq!(sums.values().map(|tally| tally.requests).sum::<u64>(), 20);
}

/// A deploy with three releases: good, bad, and the good one's config again with another word.
fn three(place: &Place) -> u16 {
    let (_, port) = detach(place);
    place.dozen(&["config", "set", "--plain", "MOOD=500"]).ok();
    place.dozen(&["config", "set", "--plain", "MOOD=200", "WORD=three"]).ok();
    port
}

fn mood(port: u16) -> u16 {
    ask(port, b"GET /mood HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").status
}

fn status(place: &Place) -> Value {
    place.dozen(&["split", "status", "--json"]).ok().json()
}

/// Looks until this is so.
fn until(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        pause();
    }
}

#[test]
fn releases_are_compared_and_one_is_promoted() {
    let place = Place::web("web: python3 web.py\n");
    let port = three(&place);
    place.dozen(&["split", "status"]).ok().has(&["No split"]);
    place.dozen(&["split", "--promote"]).coded(1).has(&["not split", "dozen split v12=90 v13=10"]);
    place.dozen(&["split", "abort"]).coded(1).has(&["not split"]);
    for wrong in [&["--abort-above", "5%"][..], &["v2=1", "v3=1", "--abort-above", "much"], &["v2=1", "v3=1", "--promote", "v3"]] {
        place.dozen(&[&["split"], wrong].concat()).coded(2);
    }
    place.dozen(&["split", "v2=25", "v3=75", "--sticky", "cookie"]).ok().has(&["done, v2=25 v3=75 --sticky cookie"]);
    let failed = (0..80).filter(|_| mood(port) == 500).count();
    assert!((5..40).contains(&failed), "{failed}");
    let sum = |status: &Value, of: &str| -> u64 {
        status["releases"].as_array().expect("a list").iter().filter_map(|r| r[of]["requests"].as_u64()).sum()
    };
    until("all are counted", || sum(&status(&place), "since") == 80);
    let told = status(&place);
    assert_eq!((&told["tried"], &told["current"], &told["split"]["sticky"]), (&"v3".into(), &"v3".into(), &"cookie".into()));
    let (bad, good) = (&told["releases"][0], &told["releases"][1]);
    assert_eq!((&bad["release"], &bad["share_asked"], &good["share_asked"]), (&"v2".into(), &25.0.into(), &75.0.into()));
    assert_eq!((bad["since"]["errors"].as_u64(), bad["since"]["error_percent"].as_f64()), (Some(failed as u64), Some(100.0)));
    assert_eq!((good["since"]["errors"].as_u64(), good["since"]["requests"].as_u64()), (Some(0), Some(80 - failed as u64)));
    assert!(good["since"]["p50_ms"].as_f64() <= good["since"]["p99_ms"].as_f64() && good["since"]["p50_ms"].as_f64() > Some(0.0));
    let shown = place.dozen(&["split", "status"]).ok();
    shown.has(&["=== shop/dev split since", "v3 (tried)", "=== the last minute", "25.00%", "100.00%", "P95"]);
    // Over the end of its control part nothing is lost; when it was nobody knows.
    kill_control(&place);
    detach(&place);
    until("the router tells it again", || sum(&status(&place), "since") == 80);
    assert_eq!(sum(&status(&place), "last_minute"), 0);
    place.dozen(&["split", "promote", "v9"]).coded(1).has(&["v9 has no part"]);
    place.dozen(&["split", "--promote"]).ok().has(&["Promoting v3 of shop... done, it gets all requests"]).lacks(" as v");
    assert!((0..20).all(|_| mood(port) == 200));
    place.dozen(&["split"]).ok().has(&["No split"]);
    // One that is not the current release becomes that, as another one.
    place.dozen(&["split", "v1=1", "v3=1"]).ok();
    let settled = place.dozen(&["split", "promote", "v1", "--json"]).ok().json();
    assert_eq!((&settled["release"], &settled["made"]), (&"v1".into(), &"v4".into()));
    place.dozen(&["split"]).ok().has(&["No split"]);
    // v4 is as old as v1: v2 is tried.
    place.dozen(&["split", "v2=1", "v4=1"]).ok();
    assert_eq!(status(&place)["tried"], "v2");
    place.dozen(&["split", "--abort"]).ok().has(&["Going back to v4 of shop... done, it gets all requests"]);
    assert!((0..20).all(|_| mood(port) == 200));
    place.dozen(&["down"]).ok();
}

#[test]
fn a_split_aborts_itself_where_too_many_fail() {
    let place = Place::web("web: python3 web.py\n");
    let (_, port) = detach(&place);
    place.dozen(&["config", "set", "--plain", "MOOD=500"]).ok();
    // Of what is not tried as many may fail as like.
    place.dozen(&["config", "set", "--plain", "MOOD=200"]).ok();
    place.dozen(&["split", "v2=50", "v3=50", "--abort-above", "5%"]).ok().has(&["--abort-above 5%"]);
    let failed = (0..60).filter(|_| mood(port) == 500).count();
    let since = |n: usize| status(&place)["releases"][n]["since"]["requests"].as_u64().unwrap_or_default();
    until("all are counted", || since(0) + since(1) == 60);
    assert!(failed > 5 && status(&place)["split"]["abort_above"] == "5%");
    place.dozen(&["split", "off"]).ok();
    place.dozen(&["config", "set", "--plain", "MOOD=503"]).ok();

    place.dozen(&["split", "v3=50", "v4=50", "--abort-above", "5%"]).ok();
    until("it is aborted", || {
        mood(port);
        place.dozen(&["split"]).ok().all().contains("No split")
    });
    assert!((0..30).all(|_| mood(port) == 200), "v4 gets no more");
    place.dozen(&["releases"]).ok().has(&["v5", "Rollback to v3"]);
    place
        .dozen(&["logs", "-p", "api", "-n", "100"])
        .ok()
        .has(&["Aborting the split:", "requests of v4 failed in the last minute, above 5%"]);
    let events = place.dozen(&["events", "--json"]).ok().all();
    let told = |line: &str| line.contains("\"dozen\"") && line.contains("v3=1 v4=0, v4 is aborted: ") && line.contains("above 5%");
    assert!(events.lines().any(told) || told(&events), "{events}");
    place.dozen(&["down"]).ok();
}
