//! The table, swapped under way, and the process, which may die.

use super::stage::{PATIENCE, Stage, Upstream, Wire, ok, ready};
use dozen_core::ids::Generation;
use dozen_core::port::{RouteTable, Web};
use dozen_engine::home::Home;
use dozen_engine::port::RouterEvent;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

#[test]
fn a_request_waits_for_the_start() {
    let upstream = Upstream::saying("at last");
    let mut stage = Stage::to(Web::Starting);
    let mut clients: Vec<Wire> = (0..3).map(|_| stage.client()).collect();
    clients.iter_mut().for_each(|c| c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
    // Still starting, in a newer table.
    stage.set(Web::Starting);
    stage.set(ready(&[upstream.port]));
    for client in &mut clients {
        assert_eq!(client.answer(false).expect("an answer").text(), "at last");
    }
}

#[test]
fn a_stale_table_is_refused() {
    let upstream = Upstream::saying("new");
    let mut stage = Stage::new();
    stage.generation = 7;
    stage.set(ready(&[upstream.port]));
    stage.router.set(&RouteTable::led([], Generation(7), None));
    let stale = RouterEvent::Stale { generation: Generation(7), current: Generation(8) };
    stage.until(|e| (*e == stale).then_some(()));
    assert_eq!(stage.get("/").text(), "new");
}

#[test]
fn a_table_of_the_same_generation_replaces() {
    let upstream = Upstream::saying("up");
    let mut stage = Stage::to(Web::Crashed);
    stage.generation = 0;
    stage.set(ready(&[upstream.port]));
    assert_eq!(stage.get("/").text(), "up");
}

#[test]
fn swapping_the_table_under_load_fails_no_request() {
    let (a, b) = (Upstream::saying("a"), Upstream::saying("b"));
    let mut stage = Stage::to(ready(&[a.port]));
    let port = stage.router.port();
    let (done, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (done, served) = (done.clone(), served.clone());
            std::thread::spawn(move || {
                let mut client = Wire::to(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
                while !done.load(Ordering::SeqCst) {
                    let answer = client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
                    assert!(answer.status() == 200 && matches!(answer.text().as_str(), "a" | "b"), "{answer:?}");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for round in 0..40 {
        let (new, old) = if round % 2 == 0 { (&b, &a) } else { (&a, &b) };
        // Some requests between two swaps, or there would be no load.
        let before = served.load(Ordering::SeqCst);
        while served.load(Ordering::SeqCst) < before + 8 && !load.iter().any(std::thread::JoinHandle::is_finished) {
            std::thread::yield_now();
        }
        // Most tables differ in who is ready, not in the intent that they come from.
        stage.generation -= u64::from(round % 4 != 0);
        stage.router.drain(old.port);
        stage.set(ready(&[new.port]));
        let drained = RouterEvent::Drained { port: old.port };
        stage.until(|e| (*e == drained).then_some(()));
    }
    done.store(true, Ordering::SeqCst);
    load.into_iter().for_each(|t| t.join().expect("no request failed"));
}

#[test]
fn an_instance_is_drained_when_its_last_request_ends() {
    let (finish, told) = mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let (came, head_came) = mpsc::channel();
    let old = Upstream::each(move |mut wire| {
        wire.head();
        came.send(()).expect("waited for");
        told.lock().expect("unpoisoned").recv().expect("told");
        wire.send(ok("old"));
    });
    let new = Upstream::saying("new");
    let mut stage = Stage::to(ready(&[old.port]));
    let mut client = stage.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    head_came.recv_timeout(PATIENCE).expect("a request");
    stage.set(ready(&[new.port]));
    stage.router.drain(old.port);
    assert_eq!(stage.get("/").text(), "new");
    stage.router.in_flight(old.port);
    let first = stage.until(|e| matches!(e, RouterEvent::InFlight { .. } | RouterEvent::Drained { .. }).then(|| e.clone()));
    assert_eq!(first, RouterEvent::InFlight { port: old.port, count: 1 });
    finish.send(()).expect("waited for");
    assert_eq!(client.answer(false).expect("an answer").text(), "old");
    let drained = RouterEvent::Drained { port: old.port };
    stage.until(|e| (*e == drained).then_some(()));
}

#[test]
fn an_instance_that_leaves_the_table_sees_its_idle_connections_closed() {
    let (closed, saw_close) = mpsc::channel();
    let old = Upstream::each(move |mut wire| {
        // Answers until the router closes, which a server that stops gracefully waits for.
        while wire.head().is_some() {
            wire.send(ok("old"));
        }
        closed.send(()).expect("waited for");
    });
    let new = Upstream::saying("new");
    let mut stage = Stage::to(ready(&[old.port]));
    assert_eq!(stage.get("/").text(), "old");
    stage.set(ready(&[new.port]));
    // Well before the 3.5 s after which an idle connection is closed anyway.
    saw_close.recv_timeout(std::time::Duration::from_secs(2)).expect("closed with the table");
}

#[test]
fn a_connection_that_an_instance_closed_loses_no_request() {
    // Each answers one request and closes without saying so.
    let upstream = Upstream::each(|mut wire| {
        if wire.head().is_some() {
            wire.send(ok("once"));
        }
    });
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    for n in 1..=20 {
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").text(), "once");
        // The next request leaves after the instance's end of file has arrived at this machine's kernel.
        while established(upstream.port) > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(upstream.connections.load(Ordering::SeqCst), n);
    }
}

/// Connections whose far end is this port and that are still open on both sides.
fn established(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("readable");
    let column = |line: &str, n: usize| line.split_whitespace().nth(n).unwrap_or_default().to_owned();
    table.lines().filter(|l| column(l, 2).ends_with(&format!(":{port:04X}")) && column(l, 3) == "01").count()
}

#[test]
fn a_request_that_meets_a_closing_connection_is_sent_on_another() {
    let (close, told) = mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let upstream = Upstream::each(move |mut wire| {
        if wire.head().is_some() {
            wire.send(ok("once"));
            let _ = told.lock().expect("unpoisoned").recv();
        }
    });
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").text(), "once");
    for n in 2..=6 {
        // While the router is held, the request arrives first and the instance's end of file second: it is then taken up with a
        // connection that does not yet know that it is closed.
        stage.hold();
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        close.send(()).expect("waited for");
        while established(upstream.port) > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        stage.signal(rustix::process::Signal::CONT);
        assert_eq!(client.answer(false).expect("an answer").text(), "once");
        assert_eq!(upstream.connections.load(Ordering::SeqCst), n);
    }
}

// The process.

#[test]
fn a_successor_answers_what_came_while_there_was_no_router() {
    let upstream = Upstream::saying("still here");
    let mut stage = Stage::to(ready(&[upstream.port]));
    assert_eq!(stage.get("/").text(), "still here");
    stage.signal(rustix::process::Signal::KILL);
    while stage.next() != RouterEvent::Lost {}
    let mut clients: Vec<Wire> = (0..10).map(|_| stage.client()).collect();
    clients.iter_mut().for_each(|c| c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
    stage.runtime.block_on(stage.router.revive()).expect("a successor");
    for client in &mut clients {
        assert_eq!(client.answer(false).expect("an answer").text(), "still here");
    }
}

#[test]
fn a_successor_takes_over_and_what_the_one_before_has_goes_on() {
    let (finish, told) = mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let (came, head_came) = mpsc::channel();
    let old = Upstream::each(move |mut wire| {
        while let Some(request) = wire.answer(false) {
            if request.first.contains("/slow") {
                came.send(()).expect("waited for");
                told.lock().expect("unpoisoned").recv().expect("told");
            }
            wire.send(ok("old"));
        }
    });
    let new = Upstream::saying("new");
    let mut stage = Stage::to(ready(&[old.port]));
    let before = stage.router.pid();
    let mut idle = stage.client();
    let ask = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(idle.ask(ask).header("connection"), None);
    let mut silent = stage.client();
    let mut slow = stage.client();
    slow.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n");
    head_came.recv_timeout(PATIENCE).expect("a request");

    stage.runtime.block_on(stage.router.replace(PATIENCE)).expect("a successor");
    assert_ne!(stage.router.pid(), before);
    assert_eq!(stage.get("/").text(), "old");
    // The one before learns of tables, too.
    stage.set(ready(&[new.port]));
    assert_eq!(stage.get("/").text(), "new");
    // What is in flight is in flight in both.
    stage.router.drain(old.port);
    stage.router.in_flight(old.port);
    let first = stage.until(|e| matches!(e, RouterEvent::InFlight { .. } | RouterEvent::Drained { .. }).then(|| e.clone()));
    assert_eq!(first, RouterEvent::InFlight { port: old.port, count: 1 });
    finish.send(()).expect("waited for");
    let answer = slow.answer(false).expect("an answer");
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("old", Some("close")));
    let drained = RouterEvent::Drained { port: old.port };
    stage.until(|e| (*e == drained).then_some(()));
    // Those that idled may ask once more, and are told that it was the last time.
    for client in [&mut idle, &mut silent] {
        let answer = client.ask(ask);
        assert_eq!((answer.status(), answer.header("connection")), (200, Some("close")));
        assert!(client.closed());
    }
    // All its connections have ended, and so has it.
    let gone = || !std::path::Path::new(&format!("/proc/{}", before.expect("it ran"))).exists();
    while !gone() {
        let next = stage.router.next();
        // Its end is heard as an event of none of ours.
        let _ = stage.runtime.block_on(async { tokio::time::timeout(Duration::from_millis(10), next).await });
    }
}

#[test]
fn a_stop_lets_requests_finish_and_writes_the_last_lines() {
    let (finish, told) = mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let (came, head_came) = mpsc::channel();
    let upstream = Upstream::each(move |mut wire| {
        wire.head();
        came.send(()).expect("waited for");
        told.lock().expect("unpoisoned").recv().expect("told");
        wire.send(ok("bye"));
    });
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    let mut idle = stage.client();
    client.send("GET /last HTTP/1.1\r\nHost: h\r\n\r\n");
    head_came.recv_timeout(PATIENCE).expect("a request");
    let Stage { router, runtime, home, .. } = stage;
    let stopping = std::thread::spawn(move || {
        runtime.block_on(router.stop(PATIENCE));
    });
    // An idle connection is closed at once, the one in flight is waited for.
    assert!(idle.closed());
    finish.send(()).expect("waited for");
    let answer = client.answer(false).expect("an answer");
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("bye", Some("close")));
    stopping.join().expect("stopped");
    let folder = Home::at(home.path()).logs(&"shop/dev".parse().expect("valid"));
    let text: String =
        std::fs::read_dir(folder).expect("a folder").flatten().map(|e| std::fs::read_to_string(e.path()).expect("text")).collect();
    assert!(text.contains("dozen[router]: at=info method=GET path=\"/last\""), "{text}");
}

#[test]
fn a_router_ends_with_its_control_plane() {
    let upstream = Upstream::saying("hi");
    let stage = Stage::to(ready(&[upstream.port]));
    let mut client = stage.client();
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").text(), "hi");
    let began = Instant::now();
    let Stage { router, runtime, home, .. } = stage;
    drop(router);
    drop(runtime);
    assert!(client.closed());
    assert!(began.elapsed() < PATIENCE);
    drop(home);
}

#[test]
fn a_router_has_nothing_that_it_does_not_need() {
    let stage = Stage::to(Web::None);
    let pid = stage.router.pid().expect("it runs");
    assert_eq!(stage.router_status("NoNewPrivs:"), 1);
    // Filters, on every thread.
    let filtered =
        |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status")).expect("readable").contains("Seccomp:\t2\n");
    assert!(std::fs::read_dir(format!("/proc/{pid}/task")).expect("readable").flatten().all(filtered));
    assert_eq!(stage.router_status("CapEff:"), 0);
    let me = rustix::process::geteuid();
    assert_eq!(stage.router_status("Uid:"), if me.is_root() { 479_999 } else { u64::from(me.as_raw()) });
    assert!(std::fs::read(format!("/proc/{pid}/environ")).expect("readable").is_empty());
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).expect("readable"), stage.home.path().join("logs"));
}

#[test]
fn the_role_is_not_for_people() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_dozen"))
        .arg("__router")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("started by the control plane only"));
}
