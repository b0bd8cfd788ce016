//! The one place of these chores where programs are started, waited for and ended, and where we wait for anything at all.
//!
//! **Invariant:** a child that we started does not outlive us, unless we are killed ourselves; nothing else is ever signalled.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A program and its first arguments; everything else is said with `Command`'s own methods.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    Command::new(name)
}

/// The cargo that runs us, in the workspace's folder.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut cargo = program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).current_dir(crate::root());
    cargo
}

/// Runs to the end; anything but success is an error that names the program.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = shown(command);
    let status = command.status().with_context(|| format!("cannot start `{name}`"))?;
    if !status.success() {
        bail!("`{name}` ended with {status}");
    }
    Ok(())
}

/// Runs to the end in silence and returns standard output; on failure the error has what it said.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let name = shown(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{name}`"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("`{name}` ended with {}:\n{}", output.status, String::from_utf8_lossy(&said).trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{name}` did not answer in UTF-8"))
}

/// What to call it in a message: the program and its arguments, without its environment.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// A child in a process group of its own, which ends with this value.
pub(crate) struct Running {
    child: Child,
    pub(crate) since: Instant,
}

impl Running {
    /// Starts it with its output going to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let out =
            std::fs::File::options().create(true).append(true).open(log).with_context(|| format!("cannot write {}", log.display()))?;
        let name = shown(command);
        let since = Instant::now();
        let child = command.process_group(0).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn();
        Ok(Self { child: child.with_context(|| format!("cannot start `{name}`"))?, since })
    }

    /// Starts it with its standard output to be read, and the rest going to `log`.
    pub(crate) fn piped(command: &mut Command, log: &Path) -> Result<(Self, ChildStdout)> {
        let name = shown(command);
        let since = Instant::now();
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(std::fs::File::create(log)?);
        let mut child = command.spawn().with_context(|| format!("cannot start `{name}`"))?;
        let output = child.stdout.take().context("the pipe was just made")?;
        Ok((Self { child, since }, output))
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Asks it to stop and waits; an error if it takes longer than `patience`.
    pub(crate) fn stop(mut self, signal: Signal, patience: Duration) -> Result<ExitStatus> {
        if self.ended()?.is_none() {
            kill_process(self.pid(), signal)?;
        }
        let mut status = None;
        wait_until(patience, || {
            status = self.ended()?;
            Ok(status.is_some())
        })?;
        status.with_context(|| format!("process {} is still there {patience:?} after {signal:?}", self.pid()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A child that was waited for has no group any more that would be ours to signal.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Asks every 2 ms until `done` says so. Returns whether it did in time.
pub(crate) fn wait_until(patience: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    let begin = Instant::now();
    loop {
        if done()? {
            return Ok(true);
        }
        if begin.elapsed() > patience {
            return Ok(false);
        }
        pause(Duration::from_millis(2));
    }
}

/// Lets time pass.
#[expect(clippy::disallowed_methods, reason = "measuring from outside has no event to wait for")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A TCP port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Whether `GET path` on this port is answered with 200 right now.
pub(crate) fn answers(port: u16, host: &str, path: &str) -> bool {
    let patience = Duration::from_secs(5);
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), patience)?;
        stream.set_read_timeout(Some(patience))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

/// Whether anything listens on this port.
pub(crate) fn listens(port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Duration::from_secs(1)).is_ok()
}
