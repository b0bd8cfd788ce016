//! The clients of a soak: what they ask, what they find wrong, and what of it is excused.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::apps::{MARK, Wire, bytes, turned};

/// Whoever is answered later than this was forgotten.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request that was answered as it should be.
pub(super) struct Done {
    pub(super) status: u16,
    pub(super) bytes: u64,
    pub(super) at: Instant,
}

/// What all clients share.
#[derive(Default)]
pub(super) struct Load {
    pub(super) stop: AtomicBool,
    next: AtomicU64,
    /// Odd while something is killed: what is in flight then may fail.
    pub(super) struck: AtomicU32,
    pub(super) done: Mutex<std::collections::HashMap<u64, Done>>,
    /// Which app a request was meant for, whatever became of it.
    pub(super) asked: Mutex<std::collections::HashMap<u64, u8>>,
    pub(super) excused: AtomicU32,
    /// Those that the client itself broke off.
    pub(super) broken_off: AtomicU32,
    pub(super) wrong: Mutex<Vec<String>>,
}

/// A client that goes on until it is told to stop.
pub(super) async fn client(load: &Load, apps: &[u8], port: u16, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut kept, mut of) = (None, 0);
    while !load.stop.load(Ordering::Relaxed) {
        let app = apps[random.random_range(0..apps.len())];
        let id = load.next.fetch_add(1, Ordering::Relaxed) + 1;
        load.asked.lock().expect("no client panics with it").insert(id, app);
        let struck = load.struck.load(Ordering::SeqCst);
        // A connection to a router that was killed is over, which shows when it is used again.
        if struck != of {
            kept = None;
            of = struck;
        }
        let asking = ask(&mut kept, app, id, port, &mut random);
        match tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| bail!("no answer within {PATIENCE:?}")) {
            Ok(Some((status, bytes))) => {
                let done = Done { status, bytes, at: Instant::now() };
                load.done.lock().expect("no client panics with it").insert(id, done);
            }
            Ok(None) => drop(load.broken_off.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                kept = None;
                let now = load.struck.load(Ordering::SeqCst);
                // An answer of another app, or with other bytes, is wrong whatever happened.
                if (struck % 2 == 1 || now != struck) && !error.is::<Wrong>() {
                    load.excused.fetch_add(1, Ordering::Relaxed);
                } else {
                    load.wrong.lock().expect("no client panics with it").push(format!("soak-{id} to {}: {error:#}", char::from(app)));
                }
            }
        }
    }
}

/// What nothing excuses.
#[derive(Debug)]
struct Wrong(String);

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

/// Asks once, in one of the ways that there are. Answers the status and the bytes that came, or nothing if it broke off by itself.
async fn ask(kept: &mut Option<Wire>, app: u8, id: u64, port: u16, random: &mut StdRng) -> Result<Option<(u16, u64)>> {
    let fresh = async || -> Result<Wire> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.context("connect")?;
        socket.set_nodelay(true)?;
        Ok(Wire::new(socket))
    };
    let head = |method: &str, path: &str, more: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: {}.test\r\nX-Request-Id: soak-{id}\r\n{more}\r\n", char::from(app))
    };
    let count = match random.random_range(0..10) {
        0 => 0,
        1 => random.random_range(60_000..300_000),
        _ => random.random_range(1..8_000),
    };
    match random.random_range(0..20) {
        // A socket that is upgraded, and some messages.
        0 => {
            let mut wire = fresh().await?;
            wire.socket.write_all(head("GET", "/talk", "Connection: Upgrade\r\nUpgrade: soak\r\n").as_bytes()).await?;
            let answer = wire.head().await.context("upgrade")?;
            ensure!(answer.first.starts_with("HTTP/1.1 101"), "upgrade: {}", answer.first);
            of(app, answer.get(MARK))?;
            let mut told = 0;
            for n in 0..random.random_range(1..20) {
                let message = bytes(app, id ^ n, random.random_range(1..2_000));
                wire.say(&message).await?;
                let said = wire.message().await.context("message")?;
                if said != turned(app, &message) {
                    bail!(Wrong("a message came back as another".into()));
                }
                told += said.len() as u64 + 2;
            }
            wire.socket.shutdown().await?;
            // Its end is the instance's.
            let mut rest = Vec::new();
            let _ = wire.socket.read_to_end(&mut rest).await;
            Ok(Some((101, told)))
        }
        // One that reads slowly.
        1 => {
            let mut wire = fresh().await?;
            let count = 200_000;
            wire.socket.write_all(head("GET", &format!("/bytes/{count}"), "Connection: close\r\n").as_bytes()).await?;
            let answer = wire.head().await.context("slow")?;
            ensure!(answer.first.starts_with("HTTP/1.1 200"), "slow: {}", answer.first);
            of(app, answer.get(MARK))?;
            let mut body = Vec::new();
            while body.len() < count {
                let part = 20_000.min(count - body.len());
                body.extend(wire.exactly(part).await.context("slow")?);
                tokio::time::sleep(Duration::from_millis(random.random_range(0..5))).await;
            }
            same(&body, &bytes(app, id, count))?;
            Ok(Some((200, count as u64)))
        }
        // One that goes within its request, and one that goes within its answer.
        2 => {
            let mut wire = fresh().await?;
            let head = head("POST", "/bytes/10", "Content-Length: 1000\r\n");
            let cut = random.random_range(1..head.len());
            wire.socket.write_all(&head.as_bytes()[..cut]).await?;
            reset(&wire);
            Ok(None)
        }
        3 => {
            let mut wire = fresh().await?;
            wire.socket.write_all(head("GET", "/bytes/300000", "").as_bytes()).await?;
            wire.exactly(10).await.context("a beginning")?;
            reset(&wire);
            Ok(None)
        }
        way => {
            let mut wire = match kept.take() {
                Some(wire) if way % 4 != 0 => wire,
                _ => fresh().await?,
            };
            let path = format!("/{}/{count}", if way % 3 == 0 { "chunks" } else { "bytes" });
            let up = if way >= 15 { bytes(app, id, random.random_range(1..100_000)) } else { Vec::new() };
            let request = match up.is_empty() {
                true => head("GET", &path, ""),
                false => head("POST", &path, &format!("Content-Length: {}\r\n", up.len())),
            };
            let mut request = request.into_bytes();
            request.extend_from_slice(&up);
            wire.socket.write_all(&request).await.context("send")?;
            let answer = wire.head().await.context("head")?;
            let body = wire.body(&answer).await.context("body")?;
            let status = answer.first.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
            if status == 409 {
                bail!(Wrong("the app got another body than was sent".into()));
            }
            ensure!(status == 200, "{}: {}", answer.first, String::from_utf8_lossy(&body).chars().take(200).collect::<String>());
            of(app, answer.get(MARK))?;
            same(&body, &bytes(app, id, count))?;
            if answer.get("connection").is_none_or(|connection| !connection.eq_ignore_ascii_case("close")) {
                *kept = Some(wire);
            }
            Ok(Some((status, count as u64)))
        }
    }
}

fn of(app: u8, mark: Option<&str>) -> Result<()> {
    let own = mark.is_some_and(|mark| mark.as_bytes() == [app]);
    if own { Ok(()) } else { bail!(Wrong(format!("an answer of {}", mark.unwrap_or("nobody")))) }
}

fn same(came: &[u8], want: &[u8]) -> Result<()> {
    if came == want { Ok(()) } else { bail!(Wrong(format!("{} bytes came that are not the {} that were made", came.len(), want.len()))) }
}

/// Its end is a reset.
fn reset(wire: &Wire) {
    let _ = wire.socket.set_zero_linger();
}
