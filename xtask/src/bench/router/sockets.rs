//! Who asks without a program for it: this one, with WebSockets and with connections that idle. On the core that no proxy has.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::behind::{SMALL, asked, echoed, head};
use super::load::{Cost, cost};
use super::peers::{ECHO, OTHERS, PAGES, on_core};
use crate::bench::supervise::gauge::{Own, own_processes};
use crate::process::pause;

/// What has just been opened settles for so long before it is called idle.
const SETTLE: Duration = Duration::from_secs(1);
/// An answer to one request, when nothing else is asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many WebSockets that each send a message when the last one has come back.
pub(super) fn messages(pid: Pid, port: u16, sockets: u32, seconds: u32) -> Result<Cost> {
    let time = Duration::from_secs(seconds.into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let open = async {
        let mut open = Vec::new();
        for _ in 0..sockets {
            open.push(web_socket(port).await?);
        }
        anyhow::Ok(open)
    };
    let open = on_core(OTHERS, || runtime.block_on(open))??;
    let talking = async {
        let until = tokio::time::Instant::now() + time;
        let mut talks = tokio::task::JoinSet::new();
        open.into_iter().for_each(|socket| drop(talks.spawn(talk(socket, until))));
        let mut count = 0;
        while let Some(said) = talks.join_next().await {
            count += said??;
        }
        Ok(count)
    };
    cost(pid, time, || on_core(OTHERS, || runtime.block_on(talking))?)
}

async fn web_socket(port: u16) -> Result<tokio::net::TcpStream> {
    let mut socket = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    socket.set_nodelay(true)?;
    let ask = format!(
        "GET /chat HTTP/1.1\r\nHost: {ECHO}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    socket.write_all(ask.as_bytes()).await?;
    let head = head(&mut socket).await?;
    ensure!(head.starts_with(b"HTTP/1.1 101"), "no WebSocket: {}", String::from_utf8_lossy(&head));
    Ok(socket)
}

/// Sends messages until then, each when the one before has come back; answers how many.
async fn talk(mut socket: tokio::net::TcpStream, until: tokio::time::Instant) -> Result<u64> {
    let (message, want) = (asked(), echoed());
    let mut answer = want.clone();
    let mut count = 0;
    while tokio::time::Instant::now() < until {
        socket.write_all(&message).await?;
        socket.read_exact(&mut answer).await?;
        ensure!(answer == want, "a message came back as another");
        count += 1;
    }
    Ok(count)
}

/// What each of so many idle connections costs a proxy of memory, in bytes. Each has had an answer, unless it is `fresh`.
pub(super) fn idle(pid: Pid, port: u16, count: u32, fresh: bool) -> Result<f64> {
    // What the first of all needs is not told of them.
    drop(open(port, false)?);
    pause(SETTLE);
    let memory = || own_processes(&[pid])?.iter().map(Own::memory).sum::<Result<f64>>();
    let before = memory()?;
    let open = (0..count).map(|_| open(port, fresh)).collect::<Result<Vec<_>>>().context("cannot open so many connections")?;
    pause(SETTLE);
    let after = memory()?;
    for mut socket in open {
        socket.set_nonblocking(true)?;
        let alive = matches!(socket.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        ensure!(alive, "a connection that idled was closed");
    }
    Ok((after - before) * 1024.0 / f64::from(count))
}

/// One connection, which has had an answer unless it is fresh.
fn open(port: u16, fresh: bool) -> Result<TcpStream> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    if !fresh {
        write!(socket, "GET / HTTP/1.1\r\nHost: {PAGES}\r\n\r\n")?;
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        // The head's end, and as much again as the small answer has.
        while answer.windows(4).position(|end| end == b"\r\n\r\n").is_none_or(|end| answer.len() < end + 4 + SMALL) {
            let got = socket.read(&mut chunk)?;
            ensure!(got > 0, "no answer: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&chunk[..got]);
        }
    }
    Ok(socket)
}
