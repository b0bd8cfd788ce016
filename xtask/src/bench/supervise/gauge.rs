//! What is measured of a supervisor, from outside and the same for all: its processes by themselves say that they are up and gone.
//!
//! Each process is the same little program. It connects to the bench, and the kernel closes that connection with the process's end: so both
//! moments are events, through any isolation that lets a process connect to this host.

use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::process::{program, read};

/// How the kernel calls the program.
const NAME: &str = "bench-worker";
/// Whatever is waited for comes within this, or it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// With `PORT` it answers requests there, and says that it is up once it listens.
const WORKER: &str = r#"
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

fn main() {
    let hub = std::env::args().nth(1).expect("where the bench listens");
    let web = std::env::var("PORT").ok().map(|port| TcpListener::bind(format!("127.0.0.1:{port}")).expect("the port"));
    let mut up = TcpStream::connect(hub).expect("the bench");
    let Some(web) = web else {
        let _ = up.read(&mut [0]);
        return;
    };
    std::thread::spawn(move || {
        let _ = up.read(&mut [0]);
    });
    for stream in web.incoming() {
        std::thread::spawn(move || {
            let mut stream = stream?;
            let mut said = Vec::new();
            while !said.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte)? == 0 {
                    return Ok(());
                }
                said.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        });
    }
}
"#;

/// Builds the little program into `folder`.
pub(super) fn worker(folder: &Path) -> Result<PathBuf> {
    let (source, made) = (folder.join("worker.rs"), folder.join(NAME));
    std::fs::write(&source, WORKER)?;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    // Static, so that its own start weighs as little as can be.
    let flags = ["--edition", "2024", "-O", "-C", "panic=abort", "-C", "strip=symbols", "-C", "target-feature=+crt-static"];
    read(program(rustc).args(flags).arg(&source).arg("-o").arg(&made))?;
    std::fs::remove_file(source)?;
    Ok(made)
}

/// Where the processes connect.
pub(super) struct Hub {
    listener: TcpListener,
    pub(super) address: String,
}

impl Hub {
    pub(super) fn open() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        // The standard library's backlog is 128; all may come at once.
        rustix::net::listen(&listener, 1024)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?.to_string();
        Ok(Self { listener, address })
    }

    /// Waits until so many processes are up.
    pub(super) fn up(&self, count: usize) -> Result<Processes> {
        let limit = Instant::now() + PATIENCE;
        let mut here = Vec::new();
        while here.len() < count {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    here.push(stream);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ensure!(wait(self.listener.as_fd(), limit)?, "{} of {count} processes came up in {PATIENCE:?}", here.len());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Processes(here))
    }

    /// Nobody came who is not counted: a process that was started twice would be.
    pub(super) fn none_left(&self) -> Result<()> {
        match self.listener.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Ok(_) => bail!("a process more than was asked for came up"),
            Err(error) => Err(error.into()),
        }
    }
}

/// The connections of those that are up.
pub(super) struct Processes(Vec<TcpStream>);

impl Processes {
    /// Waits until all of them are gone.
    pub(super) fn gone(self) -> Result<()> {
        let limit = Instant::now() + PATIENCE;
        for mut stream in self.0 {
            loop {
                match stream.read(&mut [0]) {
                    Ok(0) => break,
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        ensure!(wait(stream.as_fd(), limit)?, "processes are still there after {PATIENCE:?}");
                    }
                    Ok(_) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

/// Waits until a process that we started has ended; who reaps it is somebody else.
pub(super) fn ended(pidfd: &OwnedFd) -> Result<()> {
    ensure!(wait(pidfd.as_fd(), Instant::now() + PATIENCE)?, "the supervisor is still there after {PATIENCE:?}");
    Ok(())
}

pub(super) fn pidfd(pid: Pid) -> Result<OwnedFd> {
    pidfd_open(pid, PidfdFlags::empty()).context("cannot watch a process")
}

fn wait(fd: std::os::fd::BorrowedFd<'_>, limit: Instant) -> Result<bool> {
    let left = limit.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left)?;
    let ready = rustix::io::retry_on_intr(|| poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)))?;
    Ok(ready > 0)
}

/// A supervisor's own processes: all below these, without what they supervise.
pub(in crate::bench) fn own_processes(roots: &[Pid]) -> Result<Vec<Own>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name, in parentheses, may hold anything; the parent is the second word after it.
        let Some((name, rest)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')) else { continue };
        let parent = rest.split_ascii_whitespace().nth(1).and_then(|word| word.parse().ok()).and_then(Pid::from_raw);
        all.push((pid, parent, name.to_owned()));
    }
    let mut tree: Vec<Pid> = roots.to_vec();
    let mut next = 0;
    while next < tree.len() {
        let here = tree[next];
        tree.extend(all.iter().filter(|(_, parent, _)| *parent == Some(here)).map(|(pid, ..)| *pid));
        next += 1;
    }
    let own = all.into_iter().filter(|(pid, _, name)| tree.contains(pid) && name != NAME);
    Ok(own.map(|(pid, _, name)| Own { pid, name }).collect())
}

/// One of a supervisor's own processes.
pub(in crate::bench) struct Own {
    pub(super) pid: Pid,
    pub(super) name: String,
}

impl Own {
    pub(super) fn is_router(&self) -> bool {
        let words = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == b"__router")
    }

    /// KiB of memory, pages that are shared divided among those that share them.
    pub(in crate::bench) fn memory(&self) -> Result<f64> {
        let file = format!("/proc/{}/smaps_rollup", self.pid);
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}; this needs root"))?;
        let pss = text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok());
        pss.with_context(|| format!("no Pss in {file}"))
    }

    /// So much time of a processor it has used, all its threads together. What has ended meanwhile used none.
    pub(in crate::bench) fn used(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let nanos =
            tasks.filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok());
        Duration::from_nanos(nanos.sum())
    }
}

/// The time of processors that all processes together have used which we started and waited for, and those that these did.
pub(super) fn used_by_the_ended() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let words: Vec<&str> = stat.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace().collect()).unwrap_or_default();
    // The 16th and 17th of all, in ticks of 10 ms.
    let ticks: u64 = words.get(13..15).context("/proc/self/stat is too short")?.iter().filter_map(|word| word.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}
