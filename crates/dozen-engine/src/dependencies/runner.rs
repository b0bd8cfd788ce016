//! Running a build's programs, by argument vector, with the environment that is given and no other.
//!
//! **Invariant:** when the future that waits for a program is dropped, or dozen is killed, the program and all that it started are killed.

use crate::processes::{self, JailEvent};
use dozen_core::processes::Exit;
use dozen_core::processes::jail::{JailSpec, Mount, PROTOCOL, View};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;

/// A program to run.
#[derive(Clone, Default)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The working folder.
    pub cwd: PathBuf,
    /// Folders that it writes.
    pub writable: Vec<PathBuf>,
    /// What it sees beside the system's programs; nothing: the host's files as they are.
    pub mounts: Vec<Mount>,
}

impl std::fmt::Debug for Command {
    /// Without the values of `env`, which hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Command").field("argv", &self.argv).field("cwd", &self.cwd).finish_non_exhaustive()
    }
}

/// Takes each line of a program's output, stdout and stderr as they come.
pub type OnLine = Arc<dyn Fn(&str) + Send + Sync>;

/// Runs programs for a build, each in a jail of its own: whatever becomes of dozen, nothing that a build started lives on.
///
/// The jail sees the host's network and, without [`Command::mounts`], its files, since installers and their settings are spread over both; what
/// a build may write is then not held to [`Command::writable`] yet.
#[derive(Debug, Clone, Copy)]
pub struct Runner<'a> {
    /// The dozen binary.
    pub exe: &'a Path,
}

/// A longer line is handed on in pieces of this many bytes.
const MAX_LINE: u64 = 16 << 10;

impl Runner<'_> {
    /// Runs one to its end and hands on its lines. Dropping the future kills it and all that it started.
    ///
    /// # Errors
    /// It could not be started.
    pub async fn run(&self, command: Command, on_line: OnLine) -> io::Result<Exit> {
        let spec = JailSpec {
            protocol: PROTOCOL,
            instance: "build.1".into(),
            hostname: "build".into(),
            argv: command.argv,
            env: command.env,
            cwd: command.cwd,
            view: if command.mounts.is_empty() { View::Host } else { View::Minimal },
            held: !command.mounts.is_empty(),
            ports: None,
            mounts: command.mounts,
            scratch: Vec::new(),
            user: None,
            limits: None,
            port: None,
            log: None,
            lost_grace_ms: 0,
            lasting: false,
            shown: false,
        };
        let input = std::fs::File::open("/dev/null")?;
        let ((out, out_end), (err, err_end)) = (pipe_with(PipeFlags::CLOEXEC)?, pipe_with(PipeFlags::CLOEXEC)?);
        let out = lines(pipe::Receiver::from_owned_fd(out)?, on_line.clone());
        let err = lines(pipe::Receiver::from_owned_fd(err)?, on_line);
        let spawned = processes::spawn(self.exe, spec, Some([input.into(), out_end, err_end])).await;
        let mut jail = spawned.map_err(io::Error::other)?;
        let end = async {
            loop {
                match jail.next().await {
                    JailEvent::Exited(exit) => return Ok(exit),
                    JailEvent::Lost => return Ok(Exit::Lost),
                    JailEvent::Failed { attempt, error, code } => {
                        let kind = if code == 127 { io::ErrorKind::NotFound } else { io::ErrorKind::Other };
                        return Err(io::Error::new(kind, format!("{attempt}: {error}")));
                    }
                    _ => {}
                }
            }
        };
        // The pipes end with the jail's last process, so nothing that was written is missed.
        tokio::join!(end, out, err).0
    }
}

async fn lines(stream: impl AsyncRead + Unpin, on_line: OnLine) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                // A progress bar rewrites its line; only what it ends with is of interest.
                let text = text.trim_end();
                on_line(text.rsplit('\r').next().unwrap_or(text));
            }
        }
    }
}
