//! For how long nobody is answered when the router is killed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{Bench, PATIENCE, gauge, ms};
use crate::bench::{Spread, rounded};
use crate::process::{pause, read, wait_until};

const KILLS: usize = 20;
/// Between two kills: a router that does not live for a second is not replaced at once.
const BETWEEN: Duration = Duration::from_millis(1500);
/// One request each.
const RATE: Duration = Duration::from_millis(1);

/// What one client met.
#[derive(Default)]
struct Met {
    /// When answers came.
    answers: Vec<Instant>,
    /// Connections that the router broke off with its end.
    broken: usize,
    /// Connections that nobody took.
    refused: usize,
}

/// Kills the router again and again under one client that asks at a steady rate, with a connection for each request.
pub(super) fn measure(bench: &Bench) -> Result<Value> {
    let deploy = bench.start_none()?;
    bench.scale("web=1")?;
    let processes = bench.hub.up(1)?;
    let ps: Value = serde_json::from_str(&read(&mut bench.command(&["ps", "--json"]))?)?;
    let port: u16 = ps["url"].as_str().and_then(|url| url.rsplit(':').next()?.parse().ok()).context("no port in `ps`")?;
    ensure!(wait_until(PATIENCE, || Ok(ask(port).is_ok()))?, "the page is not served");
    let (met, stop) = (Mutex::new(Met::default()), AtomicBool::new(false));
    let kills = std::thread::scope(|threads| {
        threads.spawn(|| client(port, &met, &stop));
        let kills = (0..KILLS).map(|_| kill(deploy.running.pid(), &met)).collect::<Result<Vec<_>>>();
        stop.store(true, Ordering::Relaxed);
        kills
    })?;
    bench.scale("web=0")?;
    processes.gone()?;
    deploy.end()?;
    let met = met.into_inner().expect("the client does not panic");
    // Around each kill: from one answer to the next. What was answered already may still be on its way.
    let gap = |at: &Instant| {
        let around = met.answers.windows(2).filter(|two| two[1] > *at && two[0] < *at + BETWEEN);
        around.map(|two| ms(two[1].duration_since(two[0]))).max_by(f64::total_cmp)
    };
    let gaps: Vec<f64> = kills.iter().map(|at| gap(at).context("nobody was answered")).collect::<Result<_>>()?;
    ensure!(met.refused == 0, "{} connections were refused", met.refused);
    let Spread { min, median, max } = Spread::of(&gaps);
    println!("\nthe router killed {KILLS} times: no answer for {min:.1} ms at least, {median:.1} ms in the median, {max:.1} ms at most");
    println!("  {} requests answered, {} broken off in flight, none refused", met.answers.len(), met.broken);
    Ok(json!({
        "kills": KILLS,
        "gap_ms": { "min": rounded(min), "median": rounded(median), "max": rounded(max) },
        "answered": met.answers.len(),
        "broken_off": met.broken,
        "refused": met.refused,
    }))
}

/// Answers when, once somebody is answered again.
fn kill(up: Pid, met: &Mutex<Met>) -> Result<Instant> {
    pause(BETWEEN);
    let routers: Vec<Pid> = gauge::own_processes(&[up])?.into_iter().filter(gauge::Own::is_router).map(|own| own.pid).collect();
    ensure!(routers.len() == 1, "{} routers", routers.len());
    let at = Instant::now();
    kill_process(routers[0], Signal::KILL)?;
    let after = || Ok(met.lock().expect("the client does not panic").answers.last().is_some_and(|answer| *answer > at));
    ensure!(wait_until(PATIENCE, after)?, "no other router serves");
    Ok(at)
}

fn client(port: u16, met: &Mutex<Met>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let answer = ask(port);
        let mut met = met.lock().expect("nobody panics with it");
        match answer {
            Ok(()) => met.answers.push(Instant::now()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => met.refused += 1,
            Err(_) => met.broken += 1,
        }
        drop(met);
        pause(RATE);
    }
}

fn ask(port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: bench.localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(std::io::Error::other("no page")) }
}
