//! Running a build's programs, by argument vector, with the environment that is given and no other.
//!
//! **Invariant:** when the future that waits for a program is dropped, the program's whole process group is killed.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// A program to run.
#[derive(Clone, Default)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The working folder.
    pub cwd: PathBuf,
    /// Folders that it may write, for a runner that can hold it to them.
    pub writable: Vec<PathBuf>,
}

impl std::fmt::Debug for Command {
    /// Without the values of `env`, which hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Command").field("argv", &self.argv).field("cwd", &self.cwd).finish_non_exhaustive()
    }
}

/// Takes each line of a program's output, stdout and stderr as they come.
pub type OnLine = Arc<dyn Fn(&str) + Send + Sync>;

/// What a runner answers.
pub type Running<'a> = Pin<Box<dyn Future<Output = io::Result<ExitStatus>> + Send + 'a>>;

/// Runs programs for a build.
pub trait Runner: Send + Sync {
    /// Runs one to its end.
    fn run<'a>(&'a self, command: Command, on_line: OnLine) -> Running<'a>;
}

/// Runs programs as plain processes of this user, each in a process group of its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl Runner for Plain {
    fn run<'a>(&'a self, command: Command, on_line: OnLine) -> Running<'a> {
        Box::pin(plain(command, on_line))
    }
}

/// A longer line is handed on in pieces of this many bytes.
const MAX_LINE: u64 = 16 << 10;
/// How long output is waited for that a left-over child might still write.
const LINGER: Duration = Duration::from_secs(2);

async fn plain(command: Command, on_line: OnLine) -> io::Result<ExitStatus> {
    let (program, args) = command.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    #[expect(clippy::disallowed_methods, reason = "the one place that runs a step of a build")]
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .env_clear()
        .envs(command.env)
        .current_dir(&command.cwd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw));
    let out = child.stdout.take().map(|s| lines(s, on_line.clone()));
    let err = child.stderr.take().map(|s| lines(s, on_line));
    let output = async {
        tokio::join!(
            async {
                if let Some(s) = out {
                    s.await
                }
            },
            async {
                if let Some(s) = err {
                    s.await
                }
            }
        );
    };
    tokio::pin!(output);
    let status = tokio::select! {
        status = child.wait() => status?,
        () = &mut output => return child.wait().await,
    };
    drop(group);
    let _ = tokio::time::timeout(LINGER, output).await;
    Ok(status)
}

/// A process group, killed when dropped.
struct Group(Option<rustix::process::Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
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
    use std::sync::Mutex;

    fn sh(script: &str) -> Command {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        Command { argv, env: vec![("PATH".into(), "/usr/bin:/bin".into())], cwd: "/".into(), writable: Vec::new() }
    }

    fn collect() -> (OnLine, Arc<Mutex<Vec<String>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        (Arc::new(move |line: &str| sink.lock().expect("no panic").push(line.to_owned())), seen)
    }

    #[tokio::test]
    async fn output_of_both_streams_and_the_code_arrive() {
        let (on_line, seen) = collect();
        let status = Plain.run(sh("echo one; echo two >&2; env | grep -c SECRET; printf 'last'; exit 3"), on_line).await.expect("ran");
        assert_eq!(status.code(), Some(3));
        let mut lines = seen.lock().expect("no panic").clone();
        lines.sort();
        assert_eq!(lines, ["0", "last", "one", "two"]);
    }

    #[tokio::test]
    async fn dropping_the_future_kills_the_group() {
        let (tx, rx) = tokio::sync::oneshot::channel();
        let tx = Mutex::new(Some(tx));
        let on_line: OnLine = Arc::new(move |line: &str| {
            if let Some(tx) = tx.lock().expect("no panic").take() {
                let _ = tx.send(line.to_owned());
            }
        });
        let task = crate::tasks::spawn("build", Plain.run(sh("sleep 600 & echo $!; wait"), on_line));
        let pid: i32 = rx.await.expect("a line").parse().expect("a pid");
        task.abort();
        let _ = task.await;
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        let gone = || std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).map_or(true, |s| s.contains(") Z "));
        for _ in 0..200 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the grandchild {pid:?} lives on");
    }
}
