//! How a deploy's requests are treated: maintenance and pause, turns at busy instances, splits, HTTPS, trusted proxies.

use super::stage::{Answer, PATIENCE, Stage, Upstream, Wire, closed_port, ok, ready};
use dozen_core::ids::{Generation, Version};
use dozen_core::port::{Backend, Manners, Route, RouteTable, Sticky, Web};
use dozen_engine::port::{Limits, RouterEvent};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

fn with(manners: Manners, web: Web) -> Stage {
    let mut stage = Stage::new();
    stage.manners = manners;
    stage.set(web);
    stage
}

/// Holds each request until it is told of one.
struct Holding {
    upstream: Upstream,
    came: mpsc::Receiver<String>,
    go: mpsc::Sender<()>,
    most: Arc<AtomicUsize>,
}

impl Holding {
    fn new() -> Self {
        let (said, came) = mpsc::channel();
        let (go, told) = mpsc::channel::<()>();
        let (told, said) = (Mutex::new(told), Mutex::new(said));
        let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let seen = most.clone();
        let upstream = Upstream::each(move |mut wire| {
            while let Some(request) = wire.head() {
                seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let path = request.first.split(' ').nth(1).expect("a path").to_owned();
                // Who held it may have gone.
                let _ = said.lock().expect("no panic").send(path);
                let told = told.lock().expect("no panic").recv();
                now.fetch_sub(1, Ordering::SeqCst);
                if told.is_err() {
                    return;
                }
                wire.send(ok("done"));
            }
        });
        Self { upstream, came, go, most }
    }

    fn path(&self) -> String {
        self.came.recv_timeout(PATIENCE).expect("a request")
    }

    fn go(&self) {
        self.go.send(()).expect("it listens");
    }
}

fn send(stage: &Stage, path: &str) -> Wire {
    let mut client = stage.client();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n"));
    client
}

#[test]
fn maintenance_answers_for_the_app_and_ends_nothing_that_runs() {
    let held = Holding::new();
    let echo = Upstream::each(|mut wire| {
        if wire.head().is_some_and(|head| head.header("upgrade").is_some()) {
            wire.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n");
            let mut line = String::new();
            while std::io::BufRead::read_line(&mut wire.io, &mut line).is_ok_and(|n| n > 0) {
                wire.send(std::mem::take(&mut line));
            }
        }
    });
    let mut stage = Stage::to(ready(&[echo.port]));
    let mut tunnel = stage.client();
    tunnel.send("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n");
    assert_eq!(tunnel.head().expect("an answer").status(), 101);
    stage.set(ready(&[held.upstream.port]));
    let mut before = send(&stage, "/before");
    assert_eq!(held.path(), "/before");
    stage.manners = Manners { maintenance: true, maintenance_page: Some("https://pages.test/m".into()), ..Manners::default() };
    stage.set(ready(&[held.upstream.port]));
    let page = stage.get("/");
    assert_eq!((page.status(), page.text().contains("<iframe src=\"https://pages.test/m\"")), (503, true), "{}", page.text());
    assert!(page.header("content-security-policy").is_some_and(|csp| csp.starts_with("default-src 'none'")));
    let json = stage.client().ask("GET / HTTP/1.1\r\nHost: h\r\nAccept: application/json\r\n\r\n");
    assert!(json.text().starts_with("{\"id\":\"H80\",\"message\":\"Maintenance mode\""), "{}", json.text());
    held.go();
    assert_eq!(before.answer(false).expect("an answer").text(), "done");
    tunnel.send("still here\n");
    let mut line = String::new();
    std::io::BufRead::read_line(&mut tunnel.io, &mut line).expect("an echo");
    assert_eq!(line, "still here\n");
    stage.manners = Manners::default();
    stage.set(Web::Crashed);
    assert!(stage.get("/").text().contains("App crashed"));
    let lines = stage.lines_of("shop/dev", 4);
    assert_eq!(lines.iter().filter(|l| l.starts_with("at=error code=H80 desc=\"Maintenance mode\"")).count(), 2, "{lines:?}");
}

#[test]
fn a_pause_loses_nothing_and_lets_nothing_through() {
    let upstream = Upstream::saying("at last");
    let mut stage = with(Manners { paused: true, ..Manners::default() }, ready(&[upstream.port]));
    let mut clients: Vec<Wire> = (0..8).map(|n| send(&stage, &format!("/{n}"))).collect();
    // Still paused in a newer table: they have been seen by then.
    stage.set(ready(&[upstream.port]));
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 0);
    stage.manners.paused = false;
    stage.set(ready(&[upstream.port]));
    for client in &mut clients {
        assert_eq!(client.answer(false).expect("an answer").text(), "at last");
    }
}

#[test]
fn a_pause_is_bounded() {
    let upstream = Upstream::saying("never");
    let limits = Limits { hold: Duration::from_millis(100), waiting: 1, ..Limits::default() };
    let mut stage = Stage::with(limits);
    stage.manners.paused = true;
    stage.set(ready(&[upstream.port]));
    let page = stage.get("/long");
    assert!(page.status() == 503 && page.text().contains("H80"), "{}", page.text());
    let mut stage = Stage::with(Limits { waiting: 0, ..Limits::default() });
    stage.manners.paused = true;
    stage.set(ready(&[upstream.port]));
    assert!(stage.get("/many").text().contains("H11"));
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 0);
}

/// What each of some requests got, as they are answered.
fn all_at_once(stage: &Stage, paths: impl Iterator<Item = String>) -> mpsc::Receiver<Answer> {
    let (answered, answers) = mpsc::channel();
    for path in paths {
        let (mut client, answered) = (send(stage, &path), answered.clone());
        std::thread::spawn(move || answered.send(client.answer(false).expect("an answer")));
    }
    answers
}

#[test]
fn an_instance_gets_so_many_at_a_time_and_some_others_wait() {
    let held = Holding::new();
    let stage = with(Manners { concurrency: Some(1), queue: 3, ..Manners::default() }, ready(&[held.upstream.port]));
    let answers = all_at_once(&stage, (0..10).map(|n| format!("/{n}")));
    let next = || answers.recv_timeout(PATIENCE).expect("an answer");
    // One is there, three wait.
    for _ in 0..6 {
        let refused = next();
        assert!(refused.status() == 503 && refused.text().contains("H11"), "{}", refused.text());
    }
    for _ in 0..4 {
        held.path();
        held.go();
        assert_eq!(next().text(), "done");
    }
    assert_eq!(held.most.load(Ordering::SeqCst), 1);
}

#[test]
fn who_goes_away_leaves_the_line() {
    let held = Holding::new();
    let mut stage = with(Manners { concurrency: Some(1), queue: 1, ..Manners::default() }, ready(&[held.upstream.port]));
    let mut first = send(&stage, "/0");
    assert_eq!(held.path(), "/0");
    // Of two one waits and one is refused; the one that waits goes away.
    let (refused, which) = mpsc::channel();
    let both: Vec<TcpStream> = (1..=2)
        .map(|n| {
            let (mut client, refused) = (send(&stage, &format!("/{n}")), refused.clone());
            let socket = client.io.get_ref().try_clone().expect("a copy");
            std::thread::spawn(move || client.answer(false).map(|answer| refused.send((n, answer.text()))));
            socket
        })
        .collect();
    let (n, text) = which.recv_timeout(PATIENCE).expect("one is refused");
    assert!(text.contains("H11"), "{text}");
    both[2 - n].shutdown(Shutdown::Both).expect("closed");
    let lines = stage.lines_of("shop/dev", 2);
    assert!(lines.iter().any(|l| l.contains(&format!("path=\"/{}\"", 3 - n)) && l.contains("code=H27")), "{lines:?}");
    // Its place is another one's.
    let mut last = send(&stage, "/last");
    held.go();
    assert_eq!(first.answer(false).expect("an answer").text(), "done");
    assert_eq!(held.path(), "/last");
    held.go();
    assert_eq!(last.answer(false).expect("an answer").text(), "done");
}

#[test]
fn who_waits_too_long_is_told() {
    let held = Holding::new();
    let mut stage = Stage::with(Limits { hold: Duration::from_millis(100), ..Limits::default() });
    stage.manners = Manners { concurrency: Some(1), queue: 1, ..Manners::default() };
    stage.set(ready(&[held.upstream.port]));
    let _first = send(&stage, "/0");
    assert_eq!(held.path(), "/0");
    let late = stage.get("/late");
    assert!(late.status() == 503 && late.text().contains("H11"), "{}", late.text());
}

#[test]
fn those_that_wait_see_a_new_table() {
    let held = Holding::new();
    let free = Upstream::saying("free");
    let mut stage = with(Manners { concurrency: Some(1), queue: 10, ..Manners::default() }, ready(&[held.upstream.port]));
    let _first = send(&stage, "/0");
    assert_eq!(held.path(), "/0");
    let mut second = send(&stage, "/1");
    // Another instance comes: whoever waits goes there.
    stage.set(ready(&[held.upstream.port, free.port]));
    assert_eq!(second.answer(false).expect("an answer").text(), "free");
    // The limit goes.
    stage.set(ready(&[held.upstream.port]));
    let mut third = send(&stage, "/2");
    stage.manners = Manners { maintenance: true, ..stage.manners.clone() };
    stage.set(ready(&[held.upstream.port]));
    assert_eq!(third.answer(false).expect("an answer").status(), 503);
}

/// A tunnel takes an instance's place for as long as it lasts.
#[test]
fn a_tunnel_counts() {
    let (close, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let echo = Upstream::each(move |mut wire| match wire.head() {
        Some(head) if head.header("upgrade").is_some() => {
            wire.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n");
            let _ = told.lock().expect("no panic").recv();
        }
        Some(_) => wire.send(ok("plain")),
        None => {}
    });
    let stage = with(Manners { concurrency: Some(1), queue: 1, ..Manners::default() }, ready(&[echo.port]));
    let mut tunnel = stage.client();
    tunnel.send("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n");
    assert_eq!(tunnel.head().expect("an answer").status(), 101);
    // One waits behind it, one is refused.
    let answers = all_at_once(&stage, ["/a".to_owned(), "/b".to_owned()].into_iter());
    assert!(answers.recv_timeout(PATIENCE).expect("an answer").text().contains("H11"));
    assert_eq!(echo.connections.load(Ordering::SeqCst), 1);
    close.send(()).expect("it waits");
    drop(tunnel);
    assert_eq!(answers.recv_timeout(PATIENCE).expect("an answer").text(), "plain");
}

#[test]
fn under_load_no_instance_gets_more_than_it_takes_and_nobody_starves() {
    let most = Arc::new(AtomicUsize::new(0));
    let instance = || {
        let (now, most) = (AtomicUsize::new(0), most.clone());
        Upstream::replying(move |_| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::yield_now();
            now.fetch_sub(1, Ordering::SeqCst);
            ok("x")
        })
    };
    let (a, b) = (instance(), instance());
    let mut stage = with(Manners { concurrency: Some(3), queue: 1_000, ..Manners::default() }, ready(&[a.port, b.port]));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, stage.router.port()));
    let clients: Vec<_> = (0..40)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Wire::to(address);
                for _ in 0..50 {
                    let answer = client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
                    assert_eq!(answer.status(), 200, "{}", answer.text());
                }
            })
        })
        .collect();
    // Tables are swapped under way.
    for _ in 0..10 {
        stage.set(ready(&[a.port, b.port]));
    }
    clients.into_iter().for_each(|c| c.join().expect("everybody is served"));
    assert!((1..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    for port in [a.port, b.port] {
        stage.router.in_flight(port);
        assert_eq!(stage.until(|e| if let RouterEvent::InFlight { count, .. } = e { Some(*count) } else { None }), 0);
    }
}

pub(super) fn releases(shares: &[(u16, u32, u32)]) -> Web {
    let backend = |(port, release, weight): &(u16, u32, u32)| Backend {
        instance: "web.1".into(),
        port: *port,
        release: Version(*release),
        weight: *weight,
    };
    Web::Ready(shares.iter().map(backend).collect())
}

#[test]
fn a_split_goes_by_weights_and_a_cookie_keeps_who_has_come() {
    let (old, new) = (Upstream::saying("v12"), Upstream::saying("v13"));
    let web = || releases(&[(old.port, 12, 80), (new.port, 13, 20)]);
    let mut stage = with(Manners { sticky: Sticky::Cookie, ..Manners::default() }, web());
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut client = stage.client();
    for _ in 0..500 {
        let answer = client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        let cookie = format!("dozen_release={}; Path=/; HttpOnly; SameSite=Lax", answer.text());
        assert_eq!(answer.all("set-cookie"), [cookie.as_str()]);
        *counts.entry(answer.text()).or_default() += 1;
    }
    assert!((330..460).contains(&counts["v12"]), "{counts:?}");
    for release in ["v12", "v13"] {
        for _ in 0..50 {
            let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: h\r\nCookie: a=b; dozen_release={release}\r\n\r\n"));
            assert_eq!((answer.text().as_str(), answer.header("set-cookie")), (release, None));
        }
    }
    // A release that is gone keeps nobody.
    let answer = client.ask("GET / HTTP/1.1\r\nHost: h\r\nCookie: dozen_release=v9\r\n\r\n");
    assert!(answer.header("set-cookie").is_some());
    stage.set(releases(&[(new.port, 13, 100)]));
    let answer = stage.client().ask("GET / HTTP/1.1\r\nHost: h\r\nCookie: dozen_release=v12\r\n\r\n");
    assert_eq!((answer.text().as_str(), answer.header("set-cookie")), ("v13", None));

    stage.manners.sticky = Sticky::Header("x-user".into());
    stage.set(web());
    let mut seen = BTreeMap::new();
    for n in 0..200 {
        let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: h\r\nX-User: u{}\r\n\r\n", n % 50));
        assert_eq!(answer.header("set-cookie"), None);
        assert_eq!(*seen.entry(n % 50).or_insert_with(|| answer.text()), answer.text());
    }
    assert!(seen.values().any(|v| v == "v13") && seen.values().any(|v| v == "v12"), "{seen:?}");
}

#[test]
fn only_trusted_proxies_are_believed_and_what_came_plainly_is_sent_to_https() {
    let upstream = Upstream::mirror();
    let trusted = vec!["127.0.0.0/8".parse().expect("a network")];
    let hsts = Some(Duration::from_secs(60));
    let mut stage = with(Manners { https_only: true, hsts, ..Manners::default() }, ready(&[upstream.port]));
    let said =
        "X-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\nX-Forwarded-For: 192.0.2.9\r\nX-Request-Start: t=1.5\r\nForwarded: for=x\r\n";
    let ask =
        |stage: &Stage, request: &str, said: &str| stage.client().ask(&format!("{request} HTTP/1.1\r\nHost: shop.test:80\r\n{said}\r\n"));
    // Where there is no HTTPS to be sent to, and nobody is believed, it is as it was.
    let seen = ask(&stage, "GET /", said);
    assert_eq!((seen.status(), seen.header("strict-transport-security")), (200, None));
    for line in ["x-forwarded-proto: http", "x-forwarded-for: 192.0.2.9, 127.0.0.1"] {
        assert!(seen.text().lines().any(|l| l.eq_ignore_ascii_case(line)), "{line} is missing in {}", seen.text());
    }
    assert!(!seen.text().contains("t=1.5") && !seen.text().contains("for=x"), "{}", seen.text());

    stage.manners.trusted = trusted;
    stage.set(ready(&[upstream.port]));
    let seen = ask(&stage, "GET /", said);
    assert_eq!((seen.status(), seen.header("strict-transport-security")), (200, Some("max-age=60")));
    for line in [
        "x-forwarded-proto: https",
        "x-forwarded-port: 443",
        "x-forwarded-for: 192.0.2.9, 127.0.0.1",
        "x-request-start: t=1.5",
        "forwarded: for=x",
        "forwarded: for=127.0.0.1",
    ] {
        assert!(seen.text().lines().any(|l| l.eq_ignore_ascii_case(line)), "{line} is missing in {}", seen.text());
    }
    for (request, status) in [("GET /a?b", 301), ("HEAD /a?b", 301), ("POST /a?b", 308)] {
        let sent = ask(&stage, request, "X-Forwarded-Proto: http\r\nContent-Length: 0\r\n");
        assert_eq!((sent.status(), sent.header("location")), (status, Some("https://shop.test/a?b")), "{request}");
        assert_eq!(sent.header("strict-transport-security"), None);
    }
    let challenge = ask(&stage, "GET /.well-known/acme-challenge/x", "");
    assert_eq!(challenge.status(), 200);
    let lines = stage.lines_of("shop/dev", 6);
    assert!(lines.iter().any(|l| l.starts_with("at=info method=POST path=\"/a?b\"") && l.contains("status=308")), "{lines:?}");
}

/// Two paths of a host and a wildcard, of three deploys; the path comes as it was sent.
#[test]
fn domains_lead_by_host_and_path() {
    let (all, api, wild) = (Upstream::saying("all"), Upstream::mirror(), Upstream::saying("wild"));
    let mut stage = Stage::new();
    let route = |deploy: &str, port: u16| {
        Arc::new(Route { deploy: deploy.parse().expect("valid"), web: ready(&[port]), manners: Manners::default() })
    };
    let led =
        [("shop.test", route("shop", all.port)), ("shop.test/api", route("api", api.port)), ("*.shop.test", route("wild", wild.port))];
    let led = led.into_iter().map(|(domain, route)| (domain.parse().expect("a domain"), route));
    stage.table(RouteTable::led(led, Generation(1), None));
    let mut client = stage.client();
    let mut ask = |host: &str, path: &str| client.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).text();
    assert_eq!(ask("shop.test", "/"), "all");
    assert_eq!(ask("SHOP.test:80", "/apish"), "all");
    assert!(ask("shop.test", "/api/v1?x=1").starts_with("GET /api/v1?x=1 HTTP/1.1\n"));
    assert_eq!(ask("eu.shop.test", "/api"), "wild");
    assert!(ask("other.test", "/").contains("H81"));
}

#[test]
fn a_request_that_no_instance_saw_goes_to_another_one_with_its_body() {
    let (closed, _held) = closed_port();
    let upstream = Upstream::mirror();
    for _ in 0..4 {
        // A new router has nobody in quarantine.
        let mut stage = Stage::to(ready(&[closed, upstream.port]));
        for n in 0..4 {
            let answer = stage.client().ask(&format!("POST /{n} HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"));
            assert!(answer.status() == 200 && answer.text().ends_with("body"), "{}", answer.text());
        }
        let lines = stage.lines_of("shop/dev", 4);
        assert!(lines.iter().all(|l| l.contains(" dyno=web.2 ") && l.contains("status=200")), "{lines:?}");
    }
}

#[test]
fn of_two_that_refuse_one_request_asks_both_and_ends_with_h21() {
    let ((a, _a), (b, _b)) = (closed_port(), closed_port());
    let mut stage = Stage::to(ready(&[a, b]));
    let answer = stage.get("/");
    assert!(answer.status() == 503 && answer.text().contains("H21"), "{}", answer.text());
    let refused = |e: &RouterEvent| if let RouterEvent::BackendRefused { port, .. } = e { Some(*port) } else { None };
    let mut both = [stage.until(refused), stage.until(refused)];
    both.sort_unstable();
    let mut want = [a, b];
    want.sort_unstable();
    assert_eq!(both, want);
}

#[test]
fn quarantine_ends() {
    let (port, held) = closed_port();
    let other = Upstream::saying("other");
    let mut stage = Stage::with(Limits { quarantine: Duration::from_millis(200), ..Limits::default() });
    stage.set(ready(&[port, other.port]));
    for _ in 0..30 {
        assert_eq!(stage.get("/").text(), "other");
    }
    stage.until(|e| matches!(e, RouterEvent::BackendRefused { .. }).then_some(()));
    // Now it listens, and is asked again.
    rustix::net::listen(&held, 16).expect("listens");
    let back = Upstream::on(TcpListener::from(held), |mut wire| {
        while wire.head().is_some() {
            wire.send(ok("back"));
        }
    });
    let end = std::time::Instant::now() + PATIENCE;
    while stage.get("/").text() != "back" {
        assert!(std::time::Instant::now() < end, "never asked again");
    }
    assert!(back.connections.load(Ordering::SeqCst) > 0);
}
