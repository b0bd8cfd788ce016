//! Who asks: `wrk` for requests, this program for WebSocket messages and for connections that idle. All of it on the core that no proxy has.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::peers::{ECHO, OTHERS, PAGES, on_core};
use crate::bench::supervise::gauge::own_processes;
use crate::process::{pause, program, read};

/// What a browser sends besides.
const BROWSER: [&str; 5] = [
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    "Accept: text/html,application/xhtml+xml",
    "Accept-Encoding: gzip, br",
    "Accept-Language: en-US,en;q=0.9",
    "Cookie: session=0123456789abcdef0123456789abcdef",
];
/// What has just been opened settles for so long before it is called idle.
const SETTLE: Duration = Duration::from_secs(1);
/// An answer to one request, when nothing else is asked.
const PATIENCE: Duration = Duration::from_secs(10);
/// Each message of a WebSocket has so many bytes of its own.
const MESSAGE: usize = 120;

/// The time of processors that a proxy used for each thing that was asked of it, in microseconds, and how many came in a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    pub(super) each: f64,
    pub(super) rate: f64,
}

/// What a proxy uses while this goes on, which answers how many things were asked.
fn cost(pid: Pid, time: Duration, ask: impl FnOnce() -> Result<u64>) -> Result<Cost> {
    let own = own_processes(&[pid])?;
    let used = || own.iter().map(crate::bench::supervise::gauge::Own::used).sum::<Duration>();
    let before = used();
    let count = ask()?;
    let spent = used().saturating_sub(before);
    ensure!(count > 0, "nothing was answered");
    #[expect(clippy::cast_precision_loss, reason = "some hundred thousand")]
    let count = count as f64;
    Ok(Cost { each: spent.as_secs_f64() * 1e6 / count, rate: count / time.as_secs_f64() })
}

/// What `wrk` is to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Requests<'a> {
    pub(super) connections: u32,
    pub(super) path: &'a str,
    /// Whether each request has a connection of its own.
    pub(super) closing: bool,
    /// A script that says what to ask, in place of the host of pages.
    pub(super) script: Option<&'a Path>,
}

/// Asks for so many seconds. One answer that is none, or an error of a socket, and it has failed.
pub(super) fn requests(pid: Pid, port: u16, what: Requests<'_>, seconds: u32) -> Result<Cost> {
    let mut wrk = program("wrk");
    wrk.args(["-t1", &format!("-c{}", what.connections), &format!("-d{seconds}s")]);
    for header in BROWSER {
        wrk.args(["-H", header]);
    }
    if what.closing {
        wrk.args(["-H", "Connection: close"]);
    }
    match what.script {
        Some(script) => drop(wrk.arg("-s").arg(script)),
        None => drop(wrk.args(["-H", &format!("Host: {PAGES}")])),
    }
    wrk.arg(format!("http://127.0.0.1:{port}{}", what.path));
    cost(pid, Duration::from_secs(seconds.into()), || {
        let said = on_core(OTHERS, || read(&mut wrk))??;
        let wrong = said.lines().find(|line| line.contains("Socket errors") || line.contains("Non-2xx"));
        // A server that closes after each answer is none of wrk's errors but for those of reading.
        if let Some(wrong) = wrong.filter(|_| !what.closing) {
            bail!("wrk says: {}", wrong.trim());
        }
        if let Some(wrong) = wrong.filter(|wrong| wrong.contains("Non-2xx")) {
            bail!("wrk says: {}", wrong.trim());
        }
        let count = said.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
        count.with_context(|| format!("wrk does not say how many it asked: {said}"))
    })
}

/// A message of a client: final, text, with a mask; the mask is zero, which spares the echo its arithmetic and no proxy anything.
fn asked() -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | u8::try_from(MESSAGE).unwrap_or(0), 0, 0, 0, 0];
    frame.extend([b'm'; MESSAGE]);
    frame
}

/// The same from a server.
fn echoed() -> Vec<u8> {
    let mut frame = vec![0x81, u8::try_from(MESSAGE).unwrap_or(0)];
    frame.extend([b'm'; MESSAGE]);
    frame
}

/// Instances that answer each request with a small page, one on each port, for as long as this program runs.
pub(super) fn instances(count: usize) -> Result<Vec<u16>> {
    let bind = || std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listeners = (0..count).map(|_| bind()).collect::<std::io::Result<Vec<_>>>().context("cannot listen on so many ports")?;
    let ports = listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<Result<_>>()?;
    serve(listeners, page)?;
    Ok(ports)
}

async fn page(mut socket: tokio::net::TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1024\r\n\r\n{}", "x".repeat(1024));
    let mut head = Vec::new();
    loop {
        if socket.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
        // A request has no body here, and none is sent before the last was answered.
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            socket.write_all(answer.as_bytes()).await?;
        }
    }
}

/// Serves each connection by this, on a thread of its own.
fn serve<F>(listeners: Vec<std::net::TcpListener>, each: fn(tokio::net::TcpStream) -> F) -> Result<()>
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serving = move || {
        runtime.block_on(async {
            let mut accepting = tokio::task::JoinSet::new();
            for listener in listeners {
                accepting.spawn(async move {
                    listener.set_nonblocking(true)?;
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    let mut open = tokio::task::JoinSet::new();
                    loop {
                        let (socket, _) = listener.accept().await?;
                        // One that ends is over; nobody waits for it.
                        while open.try_join_next().is_some() {}
                        open.spawn(each(socket));
                    }
                });
            }
            // None of them ends.
            let _: Option<Result<std::io::Result<()>, _>> = accepting.join_next().await;
        });
    };
    on_core(OTHERS, || std::thread::Builder::new().name("behind".into()).spawn(serving))??;
    Ok(())
}

/// Echoes WebSocket messages for as long as this program runs.
pub(super) struct Echo {
    pub(super) port: u16,
}

impl Echo {
    pub(super) fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        serve(vec![listener], echo)?;
        Ok(Self { port })
    }
}

async fn echo(mut socket: tokio::net::TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    head(&mut socket).await?;
    socket
        .write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )
        .await?;
    let (mut frame, answer) = (asked(), echoed());
    loop {
        socket.read_exact(&mut frame).await?;
        socket.write_all(&answer).await?;
    }
}

/// Reads to the end of a head, and answers it.
async fn head(socket: &mut tokio::net::TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    Ok(head)
}

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
    let memory = || own_processes(&[pid])?.iter().map(crate::bench::supervise::gauge::Own::memory).sum::<Result<f64>>();
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
        while answer.windows(4).position(|end| end == b"\r\n\r\n").is_none_or(|end| answer.len() < end + 4 + 1024) {
            let got = socket.read(&mut chunk)?;
            ensure!(got > 0, "no answer: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&chunk[..got]);
        }
    }
    Ok(socket)
}
