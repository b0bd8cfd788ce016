//! What all proxies stand before: an nginx that answers from memory, instances of this program, and what echoes WebSocket messages. All of it
//! on the core that no proxy has.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::peers::{OTHERS, PATIENCE, nginx_head, nginx_kept, nginx_on, on_core};
use crate::process::{Running, free_port, listens, wait_until};

/// A small answer has so many bytes.
pub(super) const SMALL: usize = 1024;
const LARGE: usize = 64 * 1024;
/// Each message of a WebSocket has so many bytes of its own.
const MESSAGE: usize = 120;

/// What all proxies stand before: an nginx that answers from memory, and a program that echoes WebSocket messages.
pub(super) struct Behind {
    pages: Running,
    pub(super) pages_port: u16,
    pub(super) echo: Echo,
}

impl Behind {
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let port = free_port()?;
        let home = folder.join("behind");
        std::fs::create_dir(&home)?;
        std::fs::write(home.join("large"), "x".repeat(LARGE))?;
        let conf = format!(
            "{}http {{ {} access_log off; default_type text/html; sendfile on; open_file_cache max=10 inactive=1h; open_file_cache_valid 1h;\n\
             server {{ listen 127.0.0.1:{port} backlog=4096 reuseport; root {};\n  location / {{ return 200 '{}'; }}\n  location = /large {{ }} }} }}\n",
            nginx_head(&home),
            nginx_kept(&home),
            home.display(),
            "x".repeat(SMALL)
        );
        std::fs::write(home.join("conf"), conf)?;
        let pages = on_core(OTHERS, || Running::start(&mut nginx_on(&home)?, &home.join("log")))??;
        ensure!(wait_until(PATIENCE, || Ok(listens(port)))?, "what answers with pages does not listen; see {}", home.display());
        Ok(Self { pages, pages_port: port, echo: Echo::start()? })
    }

    pub(super) fn stop(self) -> Result<()> {
        self.pages.stop(Signal::TERM, PATIENCE).map(drop)
    }
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
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {SMALL}\r\n\r\n{}", "x".repeat(SMALL));
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
pub(super) async fn head(socket: &mut tokio::net::TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    Ok(head)
}

/// A message of a client: final, text, with a mask; the mask is zero, which spares the echo its arithmetic and no proxy anything.
pub(super) fn asked() -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | u8::try_from(MESSAGE).unwrap_or(0), 0, 0, 0, 0];
    frame.extend([b'm'; MESSAGE]);
    frame
}

/// The same from a server.
pub(super) fn echoed() -> Vec<u8> {
    let mut frame = vec![0x81, u8::try_from(MESSAGE).unwrap_or(0)];
    frame.extend([b'm'; MESSAGE]);
    frame
}
