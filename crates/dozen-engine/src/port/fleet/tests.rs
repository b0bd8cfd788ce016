use super::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};

fn target(id: u64, release: u32, line: &Arc<Line>) -> Arc<Target> {
    Arc::new(Target {
        id,
        deploy: "shop/dev".into(),
        instance: format!("web.{id}"),
        port: 0,
        release,
        in_flight: AtomicUsize::new(0),
        six: AtomicBool::new(false),
        quarantined_until: AtomicU64::new(0),
        draining: AtomicBool::new(false),
        drained: Arc::new(Notify::new()),
        line: line.clone(),
    })
}

/// Instances by their releases, each release with its weight.
fn fleet(shares: &[(u32, u32, u64)]) -> Fleet {
    let line = Arc::new(Line::default());
    let mut id = 0;
    let mut all = Vec::new();
    for (release, weight, count) in shares {
        for _ in 0..*count {
            id += 1;
            all.push((target(id, *release, &line), *weight));
        }
    }
    Fleet::new(all, line)
}

/// A request with this header.
fn with(name: &str, value: &str) -> Fields {
    let mut fields = Fields::default();
    fields.push(name.as_bytes(), value.as_bytes());
    fields
}

const ANY: Wish<'_> = Wish { avoid: None, kept: None, limit: None, now: &|| 1 };

fn got(picked: Picked) -> Option<Busy> {
    match picked {
        Picked::Got(busy) => Some(busy),
        Picked::Full | Picked::Nobody => None,
    }
}

/// How many of 10,000 go to each release, each over at once.
fn split(fleet: &Fleet, wish: impl Fn(usize) -> Wish<'static>) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    for n in 0..10_000 {
        *counts.entry(got(fleet.pick(wish(n))).expect("one").target().release).or_default() += 1;
    }
    counts
}

#[test]
fn releases_get_their_weights_whatever_their_instances() {
    let counts = split(&fleet(&[(12, 90, 1), (13, 10, 5)]), |_| ANY);
    assert!((8_700..9_300).contains(&counts[&12]), "{counts:?}");
    let counts = split(&fleet(&[(12, 0, 1), (13, 3, 1)]), |_| ANY);
    assert_eq!(counts, BTreeMap::from([(13, 10_000)]));
    let counts = split(&fleet(&[(12, 0, 1), (13, 0, 1)]), |_| ANY);
    assert!(counts[&12] > 4_000 && counts[&13] > 4_000, "{counts:?}");
}

#[test]
fn a_release_that_cannot_be_reached_leaves_its_part_to_the_others() {
    let fleet = fleet(&[(12, 90, 1), (13, 10, 1)]);
    fleet.targets[0].quarantined_until.store(10, Ordering::Relaxed);
    assert_eq!(split(&fleet, |_| ANY), BTreeMap::from([(13, 10_000)]));
    // Also for those that belong to it.
    assert_eq!(split(&fleet, |_| Wish { kept: Some(12), ..ANY }), BTreeMap::from([(13, 10_000)]));
    fleet.targets[1].quarantined_until.store(10, Ordering::Relaxed);
    assert!(split(&fleet, |_| ANY).len() == 2, "where all are in quarantine all are asked");
    assert_eq!(got(fleet.pick(Wish { avoid: Some(1), ..ANY })).expect("one").target().id, 2);
    let alone = super::tests::fleet(&[(12, 1, 1)]);
    assert!(matches!(alone.pick(Wish { avoid: Some(1), ..ANY }), Picked::Nobody));
    assert!(matches!(super::tests::fleet(&[]).pick(ANY), Picked::Nobody));
}

#[test]
fn the_less_busy_is_asked() {
    let fleet = fleet(&[(1, 1, 2)]);
    let _five: Vec<Busy> = (0..5).filter_map(|_| Busy::within(&fleet.targets[0], None)).collect();
    let picked = (0..1_000).filter_map(|_| got(fleet.pick(ANY)).map(|busy| busy.target().id));
    // Two random ones are the same one in every second case.
    let second = picked.filter(|id| *id == 2).count();
    assert!((650..850).contains(&second), "{second}");
}

#[test]
fn a_client_is_known_by_its_cookie_while_its_release_is_there() {
    let fleet = fleet(&[(12, 1, 1), (13, 1, 1)]);
    let kept = |cookie: &str| fleet.kept(&Sticky::Cookie, &with("Cookie", cookie));
    assert_eq!(kept("a=b; dozen_release=v13"), Some(13));
    assert_eq!(kept("dozen_release=v12"), Some(12));
    for strange in ["dozen_release=v14", "dozen_release=12", "dozen_release=v", "xdozen_release=v12", "dozen_release", "", "=;=="] {
        assert_eq!(kept(strange), None, "{strange}");
    }
    assert_eq!(super::tests::fleet(&[(12, 1, 2)]).kept(&Sticky::Cookie, &Fields::default()), None);
    assert_eq!(split(&fleet, |_| Wish { kept: Some(13), ..ANY }), BTreeMap::from([(13, 10_000)]));
}

#[test]
fn equal_values_of_a_header_stay_together_and_move_no_more_than_they_must() {
    let of = |fleet: &Fleet, n: usize| fleet.kept(&Sticky::Header("x-user".into()), &with("X-User", &format!("user-{n}")));
    let (a, b) = (fleet(&[(12, 90, 1), (13, 10, 1)]), fleet(&[(12, 80, 1), (13, 20, 1)]));
    let all: Vec<_> = (0..10_000).map(|n| (of(&a, n), of(&b, n))).collect();
    let in_13 = all.iter().filter(|(a, _)| *a == Some(13)).count();
    assert!((850..1_150).contains(&in_13), "{in_13}");
    assert!(all.iter().all(|(a, b)| a == b || (*a, *b) == (Some(12), Some(13))), "one went the other way");
    assert_eq!(a.kept(&Sticky::Header("x-user".into()), &Fields::default()), None);
    // Who belongs to a release that gets nothing any more does not.
    let none = fleet(&[(12, 1, 1), (13, 0, 1)]);
    assert!((0..100).all(|n| of(&none, n) == Some(12)));
}

#[test]
fn no_instance_gets_more_than_it_takes() {
    let fleet = fleet(&[(1, 1, 3)]);
    let wish = Wish { limit: Some(2), ..ANY };
    let mut busy: Vec<Busy> = std::iter::from_fn(|| got(fleet.pick(wish))).collect();
    assert_eq!(busy.len(), 6);
    assert!(fleet.targets().iter().all(|t| t.in_flight.load(Ordering::SeqCst) == 2));
    assert!(matches!(fleet.pick(wish), Picked::Full));
    let freed = busy.pop().expect("one").target().id;
    assert_eq!(got(fleet.pick(wish)).expect("room").target().id, freed);
    // One that would do is full, one that would not is free.
    drop(busy);
    let held: Vec<Busy> = (0..2).filter_map(|_| Busy::within(&fleet.targets[0], wish.limit)).collect();
    assert_eq!(held.len(), 2);
    assert!(got(fleet.pick(Wish { avoid: Some(2), ..wish })).is_some_and(|b| b.target().id == 3));
}

/// Threads, each with a runtime of its own as workers have, that take turns at few instances; some give up while they wait.
#[test]
fn in_a_crowd_the_limit_holds_and_everybody_is_served() {
    const LIMIT: usize = 2;
    let fleet = Arc::new(fleet(&[(1, 1, 2)]));
    let (most, served, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let (fleet, most, served, left) = (fleet.clone(), most.clone(), served.clone(), left.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                let local = tokio::task::LocalSet::new();
                let all: Vec<_> = (0..100)
                    .map(|n| {
                        let (fleet, most, served, left) = (fleet.clone(), most.clone(), served.clone(), left.clone());
                        local.spawn_local(async move {
                            let one = async {
                                let busy = wait(&fleet, LIMIT).await;
                                most.fetch_max(busy.target().in_flight.load(Ordering::SeqCst), Ordering::SeqCst);
                                for _ in 0..(n + worker) % 7 {
                                    tokio::task::yield_now().await;
                                }
                                drop(busy);
                                served.fetch_add(1, Ordering::SeqCst);
                            };
                            // Every fifth has no patience.
                            if n % 5 == 0 {
                                tokio::select! {
                                    biased;
                                    () = one => {}
                                    () = async { for _ in 0..20 { tokio::task::yield_now().await } } => { left.fetch_add(1, Ordering::SeqCst); }
                                }
                            } else {
                                one.await;
                            }
                        })
                    })
                    .collect();
                runtime.block_on(local.run_until(async {
                    for one in all {
                        one.await.expect("no panic");
                    }
                }));
            })
        })
        .collect();
    workers.into_iter().for_each(|w| w.join().expect("no panic"));
    assert!(most.load(Ordering::SeqCst) <= LIMIT);
    assert_eq!(served.load(Ordering::SeqCst) + left.load(Ordering::SeqCst), 400);
    assert!(fleet.line.is_empty() && fleet.targets().iter().all(|t| t.in_flight.load(Ordering::SeqCst) == 0));
}

/// As a request does.
async fn wait(fleet: &Fleet, limit: usize) -> Busy {
    let mut ticket: Option<Ticket> = None;
    loop {
        let turn = ticket.as_ref().map_or_else(|| fleet.line.is_empty(), Ticket::is_first);
        if turn && let Some(busy) = got(fleet.pick(Wish { limit: Some(limit), ..ANY })) {
            return busy;
        }
        match &ticket {
            Some(ticket) => ticket.called().await,
            None => ticket = fleet.line.join(1_000),
        }
    }
}

#[test]
fn the_line_is_bounded_and_in_order() {
    let line = Arc::new(Line::default());
    let mut tickets: Vec<Ticket> = (0..3).filter_map(|_| line.join(3)).collect();
    assert!(tickets.len() == 3 && line.join(3).is_none() && line.join(0).is_none());
    assert_eq!(tickets.iter().map(Ticket::is_first).collect::<Vec<_>>(), [true, false, false]);
    // Who gives up in the middle changes nothing for the first; who is first makes the next one first.
    drop(tickets.remove(1));
    assert_eq!(tickets.iter().map(Ticket::is_first).collect::<Vec<_>>(), [true, false]);
    drop(tickets.remove(0));
    assert!(tickets[0].is_first() && line.join(3).is_some());
    drop(tickets);
    assert!(line.is_empty());
}
