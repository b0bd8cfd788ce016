//! What the tests of the port stand on: a router with its control plane, raw connections, instances that do as told.

use dozen_core::ids::{Generation, Version};
use dozen_core::logs::{LogLine, Source};
use dozen_core::port::{Backend, Manners, Route, RouteTable, Web};
use dozen_engine::home::Home;
use dozen_engine::port::{Limits, Listeners, Router, RouterEvent, RouterSpec, bind};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

/// No wait of a test is longer; every one of them ends by an event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Stage {
    pub(crate) router: Router,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) home: Folder,
    pub(crate) generation: u64,
    /// Of the next table.
    pub(crate) manners: Manners,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        Self::on(limits, bind(Some(0)).expect("a port"))
    }

    /// With HTTPS, and no certificate yet.
    pub(crate) fn secure(limits: Limits) -> Self {
        Self::on(limits, bind(Some(0)).and_then(|l| l.with_https(0)).expect("two ports"))
    }

    fn on(limits: Limits, listeners: Listeners) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        Home::at(dir.path()).make().expect("made");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let spec = RouterSpec { limits, workers: 2, ..RouterSpec::new(env!("CARGO_BIN_EXE_dozen"), Home::at(dir.path())) };
        let _within = runtime.enter();
        let router = Router::spawn(spec, listeners).expect("a router");
        drop(_within);
        let pid = router.pid().and_then(|p| rustix::process::Pid::from_raw(p.cast_signed())).expect("it runs");
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("a child");
        let home = Folder { dir, router: pidfd };
        Self { router, runtime, home, generation: 0, manners: Manners::default() }
    }

    /// Everything goes to `shop/dev`.
    pub(crate) fn to(web: Web) -> Self {
        let mut stage = Self::new();
        stage.set(web);
        stage
    }

    pub(crate) fn set(&mut self, web: Web) {
        self.generation += 1;
        let route = Arc::new(Route { deploy: "shop/dev".parse().expect("valid"), web, manners: self.manners.clone() });
        self.table(RouteTable::led([], Generation(self.generation), Some(route)));
    }

    pub(crate) fn table(&mut self, table: RouteTable) {
        self.generation = table.generation.0;
        self.router.set(&table);
        let want = RouterEvent::Applied { generation: table.generation };
        self.until(|e| (*e == want).then_some(()));
    }

    pub(crate) fn next(&mut self) -> RouterEvent {
        let next = self.router.next();
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, next).await }).expect("an event in time")
    }

    pub(crate) fn until<T>(&mut self, found: impl Fn(&RouterEvent) -> Option<T>) -> T {
        loop {
            let event = self.next();
            assert_ne!(event, RouterEvent::Lost, "the router ended");
            if let Some(found) = found(&event) {
                return found;
            }
        }
    }

    pub(crate) fn client(&self) -> Wire {
        Wire::to(SocketAddr::from((Ipv4Addr::LOCALHOST, self.router.port())))
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.client().ask(&format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n"))
    }

    /// The messages of a deploy's lines, as soon as there are so many.
    pub(crate) fn lines_of(&mut self, deploy: &str, count: usize) -> Vec<String> {
        let folder = Home::at(self.home.path()).logs(&deploy.parse().expect("valid"));
        loop {
            let mut lines = Vec::new();
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let text = std::fs::read(entry.path()).expect("readable");
                lines.extend(text.split_inclusive(|b| *b == b'\n').map(|l| LogLine::decode(l).expect("a line of ours")));
            }
            if lines.len() >= count {
                lines.sort_by_key(|l| l.time);
                assert!(lines.iter().all(|l| l.source == Source::Dozen && l.ps == "router"));
                return lines.iter().map(|l| l.text().into_owned()).collect();
            }
            self.until(|e| matches!(e, RouterEvent::Wrote { .. }).then_some(()));
        }
    }

    pub(crate) fn line(&mut self) -> String {
        self.lines_of("shop/dev", 1).remove(0)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.router.pid().and_then(|p| rustix::process::Pid::from_raw(p.cast_signed())).expect("it runs");
        rustix::process::kill_process(pid, signal).expect("signalled");
    }

    /// Stops the router where it is; returns when every thread of it stands.
    pub(crate) fn hold(&self) {
        self.signal(rustix::process::Signal::STOP);
        let tasks = format!("/proc/{}/task", self.router.pid().expect("it runs"));
        let stands = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("stat")).is_ok_and(|s| s.contains(") T "));
        while !std::fs::read_dir(&tasks).expect("readable").flatten().all(stands) {
            std::thread::yield_now();
        }
    }

    pub(crate) fn router_status(&self, field: &str) -> u64 {
        let pid = self.router.pid().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("readable");
        let line = status.lines().find(|l| l.starts_with(field)).expect("such a field");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
    }
}

/// The home of a router, which goes when that one does not write to it any more.
pub(crate) struct Folder {
    dir: tempfile::TempDir,
    router: std::os::fd::OwnedFd,
}

impl Folder {
    pub(crate) fn path(&self) -> &std::path::Path {
        self.dir.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        // It may have ended long ago.
        let _ = rustix::process::pidfd_send_signal(&self.router, rustix::process::Signal::KILL);
        let limit = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        let _ = rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&self.router, PollFlags::IN)], Some(&limit)));
    }
}

pub(crate) fn ready(ports: &[u16]) -> Web {
    let backend = |(port, n): (&u16, u32)| Backend { instance: format!("web.{n}"), port: *port, release: Version(1), weight: 1 };
    Web::Ready(ports.iter().zip(1..).map(backend).collect())
}

/// A head and what follows, read from either side.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) first: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status")
    }
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection, spoken byte by byte.
pub(crate) struct Wire {
    pub(crate) io: BufReader<TcpStream>,
}

impl Wire {
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).expect("connected"))
    }
    pub(crate) fn on(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        socket.set_nodelay(true).expect("set");
        Self { io: BufReader::new(socket) }
    }
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The other side may have said enough and gone; what it said is asserted on.
        let _ = self.io.get_mut().write_all(bytes.as_ref());
    }
    pub(crate) fn ask(&mut self, request: &str) -> Answer {
        self.send(request);
        let head = request.starts_with("HEAD ");
        self.answer(head).expect("an answer")
    }
    /// A head; `None` at the end of the connection.
    pub(crate) fn head(&mut self) -> Option<Answer> {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            match self.io.read_until(b'\n', &mut text) {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next()?.to_owned();
        let pair = |l: &str| l.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned()));
        Some(Answer { first, headers: lines.filter_map(pair).collect(), body: Vec::new() })
    }
    /// A whole message. One without a length has a body, to the end of the connection, if it is an answer, none if it is a request.
    pub(crate) fn answer(&mut self, head_only: bool) -> Option<Answer> {
        let mut answer = self.head()?;
        if head_only || matches!(answer.first.split(' ').nth(1), Some("204" | "304" | "101" | "100")) {
            return Some(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            loop {
                let mut size = String::new();
                self.io.read_line(&mut size).ok()?;
                let size = usize::from_str_radix(size.trim(), 16).ok()?;
                if size == 0 {
                    // Trailers, and the blank line.
                    loop {
                        let mut line = String::new();
                        self.io.read_line(&mut line).ok()?;
                        match line.trim().split_once(':') {
                            Some((n, v)) => answer.headers.push((format!("trailer/{n}"), v.trim().to_owned())),
                            None => return Some(answer),
                        }
                    }
                }
                let mut chunk = vec![0; size + 2];
                self.io.read_exact(&mut chunk).ok()?;
                answer.body.extend_from_slice(&chunk[..size]);
            }
        }
        let length = answer.header("content-length").map(|v| v.parse::<usize>().expect("a length"));
        match length {
            Some(length) => {
                answer.body = vec![0; length];
                self.io.read_exact(&mut answer.body).ok()?;
            }
            None if answer.first.starts_with("HTTP/") => {
                self.io.read_to_end(&mut answer.body).ok()?;
            }
            None => {}
        }
        Some(answer)
    }
    /// The next so many bytes.
    pub(crate) fn some(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.io.read_exact(&mut bytes).expect("so many bytes");
        bytes
    }
    /// Whether the other side has closed; waits for it.
    pub(crate) fn closed(&mut self) -> bool {
        matches!(self.io.fill_buf(), Ok([])) || self.io.fill_buf().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset)
    }
}

/// An instance: real connections, a closure for each.
pub(crate) struct Upstream {
    pub(crate) port: u16,
    pub(crate) connections: Arc<AtomicUsize>,
}

impl Upstream {
    pub(crate) fn each(serve: impl Fn(Wire) + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"), serve)
    }

    pub(crate) fn on(listener: TcpListener, serve: impl Fn(Wire) + Send + Sync + 'static) -> Self {
        let port = listener.local_addr().expect("bound").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, serve) = (connections.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::SeqCst);
                let serve = serve.clone();
                std::thread::spawn(move || serve(Wire::on(socket)));
            }
        });
        Self { port, connections }
    }

    /// Answers every request by what `reply` makes of it.
    pub(crate) fn replying(reply: impl Fn(&Answer) -> String + Send + Sync + 'static) -> Self {
        Self::each(move |mut wire| {
            while let Some(request) = wire.answer(false) {
                let answer = reply(&request);
                wire.send(&answer);
                if answer.contains("Connection: close") {
                    return;
                }
            }
        })
    }

    /// Begins an answer that has no end, and says when it can write no more of it.
    pub(crate) fn endless() -> (Self, Receiver<()>) {
        let (blocked, stops) = mpsc::channel();
        let endless = Self::each(move |mut wire| {
            wire.head();
            wire.send("HTTP/1.1 200 OK\r\n\r\n");
            let chunk = [7_u8; 64 << 10];
            while wire.io.get_mut().write(&chunk).is_ok() {}
            // A test that has ended waits for nothing.
            let _ = blocked.send(());
        });
        (endless, stops)
    }

    pub(crate) fn saying(text: &'static str) -> Self {
        Self::replying(move |_| ok(text))
    }

    /// Answers with the head that it got.
    pub(crate) fn mirror() -> Self {
        Self::replying(|r| {
            let head: String = r.headers.iter().map(|(n, v)| format!("{n}: {v}\n")).collect();
            ok(&format!("{}\n{head}\n{}", r.first, r.text()))
        })
    }
}

pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A port that nothing listens on, and that nothing else is given while the listener lives unlistened: bound, never listening.
pub(crate) fn closed_port() -> (u16, rustix::fd::OwnedFd) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&fd, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("bound");
    let address = SocketAddr::try_from(getsockname(&fd).expect("an address")).expect("an IP address");
    (address.port(), fd)
}
