//! The apps of a soak: instances that answer with bytes which only the right app makes for the right request.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What marks an answer as an app's own.
pub(super) const MARK: &str = "x-app";
/// What this app says to this request: so many bytes.
pub(super) fn bytes(app: u8, id: u64, count: usize) -> Vec<u8> {
    let mut state = (id << 8 | u64::from(app)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(count + 8);
    while out.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(count);
    out
}

/// What an app makes of a message on a socket that was upgraded.
pub(super) fn turned(app: u8, message: &[u8]) -> Vec<u8> {
    message.iter().map(|byte| byte ^ app).collect()
}

/// A connection that is read head by head.
pub(super) struct Wire {
    pub(super) socket: TcpStream,
    read: Vec<u8>,
}

/// A head: its first line, and the headers in lower case.
pub(super) struct Head {
    pub(super) first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn broken(what: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned())
}

impl Wire {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, read: Vec::new() }
    }

    async fn more(&mut self) -> std::io::Result<()> {
        match self.socket.read_buf(&mut self.read).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn until(&mut self, end: &[u8]) -> std::io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end) {
                let rest = self.read.split_off(at + end.len());
                return Ok(std::mem::replace(&mut self.read, rest));
            }
            self.more().await?;
        }
    }

    pub(super) async fn exactly(&mut self, count: usize) -> std::io::Result<Vec<u8>> {
        while self.read.len() < count {
            self.more().await?;
        }
        let rest = self.read.split_off(count);
        Ok(std::mem::replace(&mut self.read, rest))
    }

    pub(super) async fn head(&mut self) -> std::io::Result<Head> {
        let text = String::from_utf8(self.until(b"\r\n\r\n").await?).map_err(|_| broken("a head that is no text"))?;
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let pair = |line: &str| line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        Ok(Head { first, headers: lines.filter_map(pair).collect() })
    }

    /// The body behind a head.
    pub(super) async fn body(&mut self, head: &Head) -> std::io::Result<Vec<u8>> {
        if let Some(length) = head.get("content-length") {
            let length = length.parse().map_err(|_| broken("a length that is no number"))?;
            return self.exactly(length).await;
        }
        let mut body = Vec::new();
        while head.get("transfer-encoding").is_some() {
            let size = self.until(b"\r\n").await?;
            let size = std::str::from_utf8(&size).ok().and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
            let size = size.ok_or_else(|| broken("a chunk without a size"))?;
            let chunk = self.exactly(size + 2).await?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
        Ok(body)
    }

    /// One message of an upgraded socket: its length in two bytes, and itself.
    pub(super) async fn message(&mut self) -> std::io::Result<Vec<u8>> {
        let length = self.exactly(2).await?;
        self.exactly(usize::from(u16::from_be_bytes([length[0], length[1]]))).await
    }

    pub(super) async fn say(&mut self, message: &[u8]) -> std::io::Result<()> {
        let mut all = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        all.extend_from_slice(message);
        self.socket.write_all(&all).await
    }
}

/// An instance, which dies with this value, and every connection to it.
pub(super) struct Instance {
    pub(super) port: u16,
    _alive: watch::Sender<()>,
}

impl Instance {
    pub(super) fn start(runtime: &tokio::runtime::Handle, app: u8) -> Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (alive, mut dies) = watch::channel(());
        let serve = async move {
            let listener = TcpListener::from_std(listener)?;
            let mut open = tokio::task::JoinSet::new();
            let accepting = async {
                loop {
                    let (socket, _) = listener.accept().await?;
                    while open.try_join_next().is_some() {}
                    open.spawn(serve(app, socket));
                }
            };
            // With the set of its tasks go its connections.
            tokio::select! {
                ended = accepting => ended,
                _ = dies.changed() => std::io::Result::Ok(()),
            }
        };
        runtime.spawn(serve);
        Ok(Self { port, _alive: alive })
    }
}

async fn serve(app: u8, socket: TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut wire = Wire::new(socket);
    let name = char::from(app);
    loop {
        let head = wire.head().await?;
        let id = head.get("x-request-id").and_then(|id| id.strip_prefix("soak-")?.parse().ok()).unwrap_or(0);
        if head.get("upgrade").is_some() {
            let answer = format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: soak\r\nConnection: Upgrade\r\n{MARK}: {name}\r\n\r\n");
            wire.socket.write_all(answer.as_bytes()).await?;
            loop {
                let message = wire.message().await?;
                wire.say(&turned(app, &message)).await?;
            }
        }
        let asked = wire.body(&head).await?;
        let path: Vec<&str> = head.first.split(' ').nth(1).unwrap_or_default().split('/').collect();
        let count = path.get(2).and_then(|count| count.parse().ok()).unwrap_or(0);
        let known = asked.is_empty() || asked == bytes(app, id, asked.len());
        let status = if known { "200 OK" } else { "409 Conflict" };
        let body = bytes(app, id, count);
        let mut answer = format!("HTTP/1.1 {status}\r\n{MARK}: {name}\r\n").into_bytes();
        if path.get(1) == Some(&"chunks") {
            answer.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in body.chunks(5_000) {
                answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                answer.extend_from_slice(chunk);
                answer.extend_from_slice(b"\r\n");
            }
            answer.extend_from_slice(b"0\r\n\r\n");
        } else {
            answer.extend_from_slice(format!("Content-Length: {count}\r\n\r\n").as_bytes());
            answer.extend_from_slice(&body);
        }
        wire.socket.write_all(&answer).await?;
    }
}

/// What runs the apps, and what runs the clients.
pub(super) fn runtime() -> Result<Arc<tokio::runtime::Runtime>> {
    Ok(Arc::new(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?))
}
