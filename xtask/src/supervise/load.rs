//! The clients of a soak, what they saw, and what of it is no fault.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Deploy, PATIENCE};
use crate::process::pause;

/// Each of them asks one deploy after the other. As many as wait for slow answers, and then some.
const CLIENTS: u32 = 32;
/// Requests a second, of all clients.
pub(super) const RATE: u32 = 500;
/// Every so many requests one is answered slowly, so that something is in flight whenever a release ends.
const SLOW: u32 = 20;
/// A client that is late asks faster until it has made up for this at most.
const LATE: Duration = Duration::from_secs(1);

/// What came of the requests.
#[derive(Default)]
pub(super) struct Load {
    failures: Mutex<Vec<String>>,
    answers: AtomicU32,
    /// Those that were in flight in a router that was killed.
    excused: AtomicU32,
    /// Milliseconds.
    slowest: AtomicU64,
}

impl Load {
    pub(super) fn answers(&self) -> u32 {
        self.answers.load(Ordering::Relaxed)
    }

    pub(super) fn excused(&self) -> u32 {
        self.excused.load(Ordering::Relaxed)
    }

    pub(super) fn slowest(&self) -> Duration {
        Duration::from_millis(self.slowest.load(Ordering::Relaxed))
    }

    /// Fails where a request has.
    pub(super) fn check(&self) -> Result<()> {
        let failures = self.failures.lock().expect("no client panics with it");
        match failures.first() {
            Some(first) => bail!("{} requests failed, the first: {first}", failures.len()),
            None => Ok(()),
        }
    }
}

pub(super) fn begin<'s>(threads: &'s Scope<'s, '_>, deploys: &'s [Deploy], load: &'s Load, stop: &'s AtomicBool) {
    for client in 0..CLIENTS {
        threads.spawn(move || ask_on(deploys, client, load, stop));
    }
}

/// Asks one deploy after the other, at its part of the rate, until it is told to stop.
fn ask_on(deploys: &[Deploy], client: u32, load: &Load, stop: &AtomicBool) {
    let every = Duration::from_secs(1) * CLIENTS / RATE;
    let mut next = Instant::now() + every * client / CLIENTS;
    for turn in client as usize.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        pause(next.saturating_duration_since(Instant::now()));
        next = (next + every).max(Instant::now().checked_sub(LATE).unwrap_or(next));
        let deploy = &deploys[(turn * 7) % deploys.len()];
        let struck = deploy.struck.load(Ordering::SeqCst);
        let n = deploy.asked.fetch_add(1, Ordering::Relaxed);
        let path = if n.is_multiple_of(SLOW) { format!("/slow/{n}") } else { format!("/{n}") };
        let begun = Instant::now();
        let answer = ask(deploy.port, &path);
        load.slowest.fetch_max(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        match answer {
            Ok(_) => {
                deploy.answered.lock().expect("no client panics with it").insert(n);
                load.answers.fetch_add(1, Ordering::Relaxed);
            }
            // In flight in the router that was killed.
            Err(_) if struck % 2 == 1 || deploy.struck.load(Ordering::SeqCst) != struck => {
                load.excused.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                let failure = format!("{} {path} after {:.1} s: {error:#}", deploy.name, begun.elapsed().as_secs_f64());
                load.failures.lock().expect("no client panics with it").push(failure);
            }
        }
    }
}

/// One request on a connection of its own; answers the body.
pub(super) fn ask(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n").context("ask")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read")?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{}", answer.lines().next().unwrap_or("no answer"));
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
