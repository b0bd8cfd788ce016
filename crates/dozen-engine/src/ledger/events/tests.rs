use super::*;
use crate::ledger::people::tests::{Team, app, at, config, deploy, name, release};
use dozen_core::admin::people::{Need, Role};
use dozen_core::ids::Version;

impl Team {
    async fn events(&self, filter: EventFilter) -> Vec<EventRow> {
        self.ledger.events(filter).await.expect("read")
    }

    /// The latest of shop, as lines.
    async fn latest(&self, limit: u32) -> Vec<String> {
        let rows = self.events(EventFilter { app: Some(app("shop")), limit: Some(limit), ..EventFilter::default() }).await;
        rows.into_iter().map(|row| format!("{}: {} ({}) {}", row.who, row.what, row.detail, row.result.as_str())).collect()
    }
}

#[tokio::test]
async fn each_commit_leaves_a_line_without_any_secret() {
    let t = Team::new().await;
    let shop = deploy("shop/production");
    let alice = t.user("alice", false, &[("shop", Role::Owner)]).await;
    let commit = async |intent| t.ledger.commit(&alice, intent).await.expect("committed");
    commit(Intent::Configure { deploy: shop.clone(), config: config("sesame-sesame") }).await;
    commit(release(&shop, 1)).await;
    commit(Intent::Conclude { deploy: shop.clone(), version: Version(1), status: Status::Failed, failure: Some("sesame-sesame".into()) })
        .await;
    commit(Intent::Scale { deploy: shop.clone(), formation: [("web".parse().expect("a type"), 2)].into_iter().collect() }).await;
    commit(Intent::Run { deploy: shop.clone(), release: Version(1), command: "a\n\x1b[2Jb".into() }).await;
    commit(Intent::Ran { deploy: shop.clone(), number: 1, exit_code: 3 }).await;
    commit(Intent::Lead { deploy: shop.clone(), domains: vec!["a.test".parse().expect("a domain")] }).await;
    commit(Intent::DestroyDeploy { deploy: shop.clone() }).await;
    let wanted = [
        "alice: destroy a deploy (1 releases, freed a.test) done",
        "alice: add a domain (a.test) done",
        "alice: end a one-off (run.1 exit 3) failed",
        "alice: run a one-off (run.1 a …) done",
        "alice: scale (web=2) done",
        "alice: conclude a release (v1 failed) failed",
        "alice: make a release (v1 Deploy 1a2b3c4d (07070707)) done",
        "alice: change config (Set KEY config vars) done",
    ];
    assert_eq!(t.latest(8).await, wanted);
    let all = t.events(EventFilter { deploy: Some(shop), ..EventFilter::default() }).await;
    assert!(all.iter().take(8).all(|row| row.from.as_deref() == Some("192.0.2.1")));
    assert!(all.iter().all(|row| !format!("{row:?}").contains("sesame")));
    // What was not done has no line.
    let before = t.events(EventFilter::default()).await.len();
    t.ledger.commit(&t.host, Intent::CreateApp { app: app("blog") }).await.expect_err("there is one");
    assert_eq!(t.events(EventFilter::default()).await.len(), before);
}

#[tokio::test]
async fn a_line_is_found_by_app_who_and_time() {
    let t = Team::new().await;
    let chief = t.user("chief", true, &[]).await;
    t.ledger.commit(&chief, Intent::CreateApp { app: app("new") }).await.expect("made");
    let of = async |filter| t.events(filter).await.into_iter().map(|row| row.what).collect::<Vec<_>>();
    let chiefs = EventFilter { who: Some("chief".into()), ..EventFilter::default() };
    assert_eq!(of(chiefs).await, ["create an app"]);
    let filter = |since| EventFilter { app: Some(app("new")), since: Some(since), ..EventFilter::default() };
    assert_eq!((of(filter(at(-60))).await.len(), of(filter(at(60))).await.len()), (1, 0));
    // The latest come first, and not more than were asked for.
    let two: Vec<i64> = t.events(EventFilter { limit: Some(2), ..EventFilter::default() }).await.iter().map(|row| row.id).collect();
    assert!(two.len() == 2 && two[0] > two[1]);
    // Text compares as time does, also where a second is whole.
    let whole = Timestamp::from_second(1_800_000_000).expect("in range");
    assert!(stamp(whole) < stamp(whole.checked_add(jiff::SignedDuration::from_micros(1)).expect("in range")));
}

#[tokio::test]
async fn no_line_is_changed_or_deleted_by_whatever_sql() {
    let t = Team::new().await;
    let before = t.events(EventFilter::default()).await;
    let c = Connection::open(t.ledger.home().ledger()).expect("opened");
    for sql in [
        "UPDATE events SET who = 'nobody'",
        "UPDATE OR REPLACE events SET id = 1 WHERE id = 2",
        "DELETE FROM events",
        "DELETE FROM events WHERE id = 1",
        "INSERT OR REPLACE INTO events (id, at, who, what, detail, result) VALUES (1, '', 'nobody', '', '', 'done')",
        "REPLACE INTO events (id, at, who, what, detail, result) VALUES (1, '', 'nobody', '', '', 'done')",
        "INSERT INTO events (id, at, who, what, detail, result) VALUES (1, '', 'nobody', '', '', 'done') ON CONFLICT (id) DO UPDATE SET who = 'nobody'",
    ] {
        let refused = c.execute(sql, []).expect_err(sql).to_string();
        assert!(refused.contains("events are never"), "{sql}: {refused}");
    }
    assert_eq!(t.events(EventFilter::default()).await, before);
}

#[tokio::test]
async fn what_is_refused_is_written_with_who_and_what_and_not_without_end() {
    let t = Team::new().await;
    let viewer = t.user("viewer", false, &[("shop", Role::Viewer)]).await;
    let before = t.events(EventFilter::default()).await.len();
    let stop = Intent::Stop { deploy: deploy("shop/production"), types: std::collections::BTreeSet::new() };
    t.ledger.commit(&viewer, stop).await.expect_err("it is refused");
    let row = t.events(EventFilter { limit: Some(1), ..EventFilter::default() }).await.remove(0);
    assert_eq!((row.who.as_str(), row.what.as_str(), row.result), ("viewer", "stop and start processes", EventResult::Refused));
    assert_eq!((row.app, row.deploy, row.from.as_deref()), (Some(app("shop")), Some(deploy("shop/production")), Some("192.0.2.1")));
    for _ in 0..1_000 {
        let need = Need::Own(app("blog"));
        t.ledger.authorise(&viewer, "destroy an app", need).expect_err("it is refused");
    }
    // Two minutes at the most were begun.
    let written = t.events(EventFilter::default()).await.len() - before;
    assert!((20..=40).contains(&written), "{written}");
    // What is allowed is written all the same.
    t.commit(Intent::AddUser { user: name("bob"), admin: false }).await;
    assert_eq!(t.events(EventFilter { limit: Some(1), ..EventFilter::default() }).await[0].detail, "bob");
}

#[test]
fn refusals_are_bounded_in_a_minute_and_in_a_day() {
    let mut refusals = Refusals::default();
    let time = |minute: i64| Timestamp::from_second(1_800_000_000 / 86_400 * 86_400 + minute * 60).expect("in range");
    let mut noted = |who: &str, minute| match refusals.note(who, time(minute)) {
        Noted::No => 0,
        Noted::Yes => 1,
        Noted::Last => 100,
    };
    assert_eq!((0..30).map(|_| noted("a", 0)).sum::<i32>(), 19 + 100);
    assert_eq!(noted("a", 1), 1);
    // One in a day.
    let of_a: i32 = (2..600).map(|minute| noted("a", minute).min(1)).sum();
    assert_eq!(of_a, 200 - 21);
    assert_eq!(noted("b", 600), 1);
    let of_all: i32 =
        (601..1_440).flat_map(|minute| (0..20).map(move |n| (minute, n))).map(|(m, n)| noted(&format!("c{n}"), m).min(1)).sum();
    assert_eq!(of_all, 2_000 - 201);
    assert_eq!((noted("d", 1_439), noted("d", 1_440)), (0, 1));
}
