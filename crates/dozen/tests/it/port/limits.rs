//! The limits of patience and of number: who is slow, who is many, who says too much.

use super::stage::{PATIENCE, Stage, Upstream, Wire, ready};
use crate::deployed::{Place, children};
use dozen_core::port::Web;
use dozen_engine::port::Limits;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Sends these bytes one at a time, a little apart, until the other side ends; how many there were, at most so many.
fn trickle(client: &mut Wire, bytes: impl Iterator<Item = u8>, apart: Duration) -> usize {
    client.io.get_ref().set_read_timeout(Some(apart)).expect("set");
    let mut sent = 0;
    let mut space = [0; 4096];
    for byte in bytes {
        if client.io.get_mut().write_all(&[byte]).is_err() {
            break;
        }
        sent += 1;
        loop {
            match client.io.get_mut().read(&mut space) {
                Ok(0) => return sent,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(_) => return sent,
            }
        }
    }
    sent
}

#[test]
fn a_head_that_trickles_has_no_more_time_than_another() {
    let mut stage = Stage::with(Limits { head: Duration::from_millis(300), ..Limits::default() });
    stage.set(Web::None);
    let begun = Instant::now();
    let head = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "y".repeat(6_000));
    let sent = trickle(&mut stage.client(), head.bytes(), Duration::from_millis(10));
    assert!(sent < 3_000 && begun.elapsed() < PATIENCE, "{sent} bytes were taken in {:?}", begun.elapsed());
}

#[test]
fn a_body_that_trickles_is_given_up() {
    let upstream = Upstream::each(|mut wire| {
        wire.answer(false);
    });
    let limits = Limits { slowest: 1_000_000, slow_grace: Duration::from_millis(200), ..Limits::default() };
    let mut stage = Stage::with(limits);
    stage.set(ready(&[upstream.port]));
    let mut client = stage.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6000\r\n\r\n");
    let sent = trickle(&mut client, std::iter::repeat_n(b'x', 6_000), Duration::from_millis(10));
    assert!(sent < 6_000, "{sent}");
    let line = stage.line();
    assert!(line.starts_with("at=error code=H28"), "{line}");
}

#[test]
fn an_answer_that_is_taken_in_sips_is_given_up() {
    let (endless, stops) = Upstream::endless();
    let limits = Limits { slowest: 1 << 40, slow_grace: Duration::from_millis(200), ..Limits::default() };
    let mut stage = Stage::with(limits);
    stage.set(ready(&[endless.port]));
    let mut client = stage.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    // It reads, so that silence is no reason; but not as fast as the limit of this test has it.
    let mut space = vec![0; 256 << 10];
    let over = loop {
        match stops.recv_timeout(Duration::from_millis(10)) {
            Ok(()) => break true,
            Err(_) => {
                if !matches!(client.io.get_mut().read(&mut space), Ok(1..)) {
                    break stops.recv_timeout(PATIENCE).is_ok();
                }
            }
        }
    };
    assert!(over);
    let line = stage.line();
    assert!(line.starts_with("at=error code=H28"), "{line}");
}

#[test]
fn one_address_has_so_many_connections() {
    let upstream = Upstream::saying("in");
    let mut stage = Stage::with(Limits { per_address: Some(2), ..Limits::default() });
    stage.set(ready(&[upstream.port]));
    const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut clients = [stage.client(), stage.client()];
    for client in &mut clients {
        assert_eq!(client.ask(GET).text(), "in");
    }
    assert!(stage.client().closed());
    let [first, _second] = clients;
    drop(first);
    // The router learns of its end in its own time.
    loop {
        let mut client = stage.client();
        client.send(GET);
        if client.answer(false).is_some() {
            break;
        }
    }
}

#[test]
fn there_are_so_many_connections_in_all_and_more_wait() {
    let upstream = Upstream::saying("in");
    let mut stage = Stage::with(Limits { connections: 8, ..Limits::default() });
    stage.set(ready(&[upstream.port]));
    const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut clients: Vec<Wire> = (0..40).map(|_| stage.client()).collect();
    for client in &mut clients {
        client.send(GET);
    }
    let mut answered = 0;
    while let Some(at) = clients.iter().position(|client| {
        client.io.get_ref().set_read_timeout(Some(Duration::from_millis(50))).expect("set");
        client.io.get_ref().peek(&mut [0]).is_ok()
    }) {
        let mut client = clients.swap_remove(at);
        client.io.get_ref().set_read_timeout(Some(PATIENCE)).expect("set");
        assert_eq!(client.answer(false).expect("an answer").text(), "in");
        answered += 1;
        // Who goes makes room.
        drop(client);
    }
    assert_eq!((answered, clients.len()), (40, 0));
}

#[test]
fn hostile_clients_do_not_make_it_grow() {
    let endless = Upstream::each(|mut wire| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\n\r\n");
        let chunk = [7_u8; 64 << 10];
        while wire.io.get_mut().write(&chunk).is_ok() {}
    });
    let stage = Stage::to(ready(&[endless.port]));
    let before = stage.router_status("VmRSS:");
    let line = format!("X: {}\r\n", "y".repeat(1_000));
    let head = format!("GET / HTTP/1.1\r\nHost: h\r\n{}", line.repeat(1_000));
    let clients: Vec<Wire> = (0..200)
        .map(|n| {
            let mut client = stage.client();
            client.io.get_ref().set_write_timeout(Some(Duration::from_millis(200))).expect("set");
            match n % 2 {
                // More headers than any request has, and nobody who reads that this is too much.
                0 => client.send(&head),
                // An answer without an end, of which nothing is taken.
                _ => client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
            }
            client
        })
        .collect();
    // Each has had its first byte: the router has read what it will read, and written what it can.
    for client in &clients {
        client.io.get_ref().peek(&mut [0]).expect("an answer");
    }
    let after = stage.router_status("VmRSS:");
    assert!(after - before.min(after) < 100 << 10, "from {before} to {after} KiB");
}

#[test]
fn up_is_told_how_many_workers_there_are_and_connections_an_address_has() {
    let place = Place::new(&[("index.html", "hello")]);
    let mut up = place.start(&["--max-connections-per-address", "2", "--workers", "5"]);
    up.ready();
    let threads = |pid: i32| {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).filter(|name| name.starts_with("router-")).count()
    };
    assert_eq!(children(up.pid()).into_iter().map(threads).max(), Some(5));
    let client = || Wire::to(SocketAddr::from((Ipv4Addr::LOCALHOST, up.port())));
    let mut clients = [client(), client()];
    for client in &mut clients {
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").text(), "hello");
    }
    assert!(client().closed());
    up.stop();
}
