//! Running a build's programs, by argument vector, with the environment that is given and no other, in a view of their own and not as root.
//!
//! **Invariant:** when the future that waits for a program is dropped, or dozen is killed, the program and all that it started are killed.

use super::builder::Builder;
use crate::processes::{self, JailEvent};
use dozen_core::processes::jail::{JailSpec, Mount, PROTOCOL, View};
use dozen_core::processes::size::Limits;
use dozen_core::processes::{Exit, Isolation};
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
    /// What it reaches beside the system. Arguments, environment and working folder name it by its place on this host.
    pub mounts: Vec<Mount>,
}

impl std::fmt::Debug for Command {
    /// Without the values of `env`, which hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Command").field("argv", &self.argv).field("cwd", &self.cwd).finish_non_exhaustive()
    }
}

impl Command {
    /// The same with what it names by where that is seen.
    fn inside(mut self) -> Self {
        // The folder within another one is meant where both are.
        self.mounts.sort_by_key(|m| std::cmp::Reverse(m.source.as_os_str().len()));
        let moved: Vec<(String, String)> = self.mounts.iter().filter(|m| m.source != m.target).map(names).collect();
        let place = |text: &str| moved.iter().fold(text.to_owned(), |text, (from, to)| replace_path(&text, from, to));
        self.argv.iter_mut().for_each(|word| *word = place(word));
        self.env.iter_mut().for_each(|(_, value)| *value = place(value));
        self.cwd = place(&self.cwd.to_string_lossy()).into();
        self
    }
}

fn names(mount: &Mount) -> (String, String) {
    (mount.source.to_string_lossy().into_owned(), mount.target.to_string_lossy().into_owned())
}

/// Puts a path in the place of another wherever a text has that one, whole.
fn replace_path(text: &str, from: &str, to: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(from) {
        let whole = !after.starts_with(|c: char| c.is_alphanumeric() || "-_.".contains(c));
        out.push_str(before);
        out.push_str(if whole { to } else { from });
        rest = after;
    }
    out + rest
}

/// Takes each line of a program's output, stdout and stderr as they come.
pub type OnLine = Arc<dyn Fn(&str) + Send + Sync>;

/// Runs programs for a build, each in a jail of its own: whatever becomes of dozen, nothing that a build started lives on.
///
/// The jail has the host's network. Of its files it has the system, read-only, and [`Command::mounts`]: by a view of its own, or where the host
/// allows none by Landlock.
#[derive(Debug, Clone, Copy)]
pub struct Runner<'a> {
    /// The dozen binary.
    pub exe: &'a Path,
    /// Whom they run as.
    pub builder: Builder,
    /// Whether mounts appear at their targets.
    pub mounted: bool,
    /// Whether programs may listen on ports.
    pub any_port: bool,
}

/// A longer line is handed on in pieces of this many bytes.
const MAX_LINE: u64 = 16 << 10;

impl<'a> Runner<'a> {
    /// As strong as this host allows. Whether programs have a uid of their own is `apart`'s to use.
    pub(super) async fn here<E>(exe: &'a Path, builder: impl FnOnce(bool) -> Result<Builder, E>) -> Result<Self, E> {
        let host = processes::isolation(exe).await;
        Ok(Self { exe, builder: builder(host.isolation == Isolation::Namespaces)?, mounted: host.view == View::Minimal, any_port: false })
    }

    /// Runs one to its end and hands on its lines. Dropping the future kills it and all that it started.
    ///
    /// # Errors
    /// It could not be started.
    pub async fn run(&self, command: Command, on_line: OnLine) -> io::Result<Exit> {
        let Command { argv, env, cwd, mounts } = if self.mounted { command.inside() } else { command };
        let spec = JailSpec {
            protocol: PROTOCOL,
            instance: "build.1".into(),
            hostname: "build".into(),
            argv,
            env,
            cwd,
            view: if self.mounted { View::Minimal } else { View::Host },
            held: true,
            ports: if self.any_port { None } else { Some(Vec::new()) },
            mounts,
            scratch: Vec::new(),
            user: self.builder.uid().map(|uid| (uid, uid)),
            limits: Some(Limits::of(None).into()),
            port: None,
            probes: false,
            log: None,
            lost_grace_ms: 0,
            lasting: false,
            shown: false,
        };
        let input = std::fs::File::open("/dev/null")?;
        let ((out, out_end), (err, err_end)) = (pipe_with(PipeFlags::CLOEXEC)?, pipe_with(PipeFlags::CLOEXEC)?);
        self.builder.give_file(&out_end)?;
        self.builder.give_file(&err_end)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_named_by_where_they_are_seen() {
        let mount = |source: &str, target: &str| Mount { source: source.into(), target: target.into(), writable: false };
        let command = Command {
            argv: vec!["/s/tree/.venv/bin/python".into(), "--out=/s/build/o.txt".into(), "/s/tree-2".into(), "/same".into()],
            env: vec![("PATH".into(), "/s/tree/bin:/s/build/x:/usr/bin".into())],
            cwd: "/s/tree".into(),
            mounts: vec![mount("/s/tree", "/app"), mount("/s/build", "/b"), mount("/s/tree/.venv", "/app/.venv"), mount("/same", "/same")],
        }
        .inside();
        assert_eq!(command.argv, ["/app/.venv/bin/python", "--out=/b/o.txt", "/s/tree-2", "/same"]);
        assert_eq!((command.env[0].1.as_str(), command.cwd), ("/app/bin:/b/x:/usr/bin", PathBuf::from("/app")));
    }
}
