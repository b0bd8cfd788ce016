//! Commands that a driver has the jail run beside its program, in the same surroundings: they say how the instance is.
//!
//! ```text
//! jail ─┬─ the program
//!       └─ keeper     a copy of the jail that waits, and tells it
//!            └─ the command and all it starts
//! ```
//! **Invariant:** whatever a command starts stays below its keeper, which outlives none of it: SIGKILL when the command has ended, or has taken
//! too long, or the instance is to end.

use crate::cgroup::Cgroup;
use crate::inside::{Inside, end_descendants};
use crate::program::{Fences, Program};
use crate::{Failure, landlock, sys};
use ::landlock::{RulesetCreated, Scope};
use dozen_core::processes::jail::{FromJail, JailSpec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, set_child_subreaper, set_parent_process_death_signal, wait};
use seccompiler::BpfProgram;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// So much of the end of what a command says is kept.
const KEPT: usize = 4096;
/// So many characters of its last line are told. With the rest it fits into one write to a pipe.
const TOLD: usize = 300;

/// All that a command needs, kept from the making of the jail.
pub(crate) struct Surroundings {
    env: Vec<(String, String)>,
    cwd: PathBuf,
    user: Option<(u32, u32)>,
    landlock: Option<RulesetCreated>,
    seccomp: Vec<BpfProgram>,
    /// As the program has it.
    pub(crate) tasks: Option<u32>,
}

impl Surroundings {
    /// Before the program's own are made.
    pub(crate) fn of(
        spec: &JailSpec,
        user: Option<(u32, u32)>,
        inside: Inside,
        tmp: Option<&Path>,
        seccomp: &[BpfProgram],
    ) -> Result<Self, Failure> {
        // Landlock takes a command and the program for strangers. In a PID namespace nobody else is there to be signalled.
        let scopes = if inside == Inside::Namespace { Scope::AbstractUnixSocket.into() } else { landlock::all_scopes() };
        // What is missing was told of the program's own.
        let landlock = landlock::ruleset(spec, tmp, scopes, &mut Vec::new())?;
        Ok(Self { env: spec.env.clone(), cwd: spec.cwd.clone(), user, landlock, seccomp: seccomp.to_vec(), tasks: None })
    }

    /// The command, whose output goes here.
    fn program(&self, argv: &[String], output: OwnedFd) -> Result<Program, Failure> {
        let failed = Failure::of("prepare the command");
        let landlock = self.landlock.as_ref().map(RulesetCreated::try_clone).transpose().map_err(&failed)?;
        let fences = Fences { landlock, seccomp: self.seccomp.clone() };
        let both = (output.try_clone().map_err(&failed)?, output);
        let mut program = Program::new(argv, &self.env, self.cwd.clone(), self.user, Some(both), true, fences)?;
        program.tasks = self.tasks;
        Ok(program)
    }
}

/// A command that runs, as the jail sees it.
pub(crate) struct Probe {
    number: u64,
    /// Ends with the keeper; before that it has the answer.
    answer: OwnedFd,
}

impl Probe {
    /// Starts its keeper.
    pub(crate) fn begin(
        number: u64,
        argv: &[String],
        timeout: Duration,
        surroundings: &Surroundings,
        cgroup: Option<&Cgroup>,
    ) -> Result<Self, Failure> {
        let failed = Failure::of("start the command");
        let (answer, answer_end) = pipe_with(PipeFlags::CLOEXEC).map_err(&failed)?;
        ioctl_fionbio(&answer, true).map_err(&failed)?;
        if sys::fork_into(0).map_err(&failed)?.is_none() {
            let failure = keep(argv, timeout, surroundings, cgroup).unwrap_or_else(|failure| Some(failure.to_string()));
            let said = serde_json::to_vec(&FromJail::Probed { number, failure }).unwrap_or_default();
            let _ = write(&answer_end, &said);
            std::process::exit(0);
        }
        Ok(Self { number, answer })
    }

    /// What came of it, once that is known.
    pub(crate) fn answer(&self) -> Option<FromJail> {
        let mut said = [0; KEPT];
        match read(&self.answer, &mut said) {
            Err(Errno::AGAIN | Errno::INTR) => None,
            read => {
                let killed = FromJail::Probed { number: self.number, failure: Some("it was killed with all that watched it".to_owned()) };
                Some(serde_json::from_slice(&said[..read.unwrap_or(0)]).unwrap_or(killed))
            }
        }
    }
}

impl AsFd for Probe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.answer.as_fd()
    }
}

/// The keeper's life; answers why the command did not end well.
fn keep(argv: &[String], timeout: Duration, surroundings: &Surroundings, cgroup: Option<&Cgroup>) -> Result<Option<String>, Failure> {
    let failed = Failure::of("watch the command");
    // A killed jail's PID namespace ends the keeper too; where there is none, this does.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(&failed)?;
    set_child_subreaper(Some(getpid())).map_err(&failed)?;
    let signals = sys::signals().map_err(&failed)?;
    let (said, said_end) = pipe_with(PipeFlags::CLOEXEC).map_err(&failed)?;
    ioctl_fionbio(&said, true).map_err(&failed)?;
    let leader = surroundings.program(argv, said_end)?.launch(cgroup, &mut Vec::new())?;
    let mut output = Output { pipe: Some(said), text: Vec::new() };
    let end = watch(leader, Instant::now() + timeout, &signals, &mut output);
    if !matches!(end, End::Itself(_)) {
        sys::kill(leader, libc::SIGKILL);
    }
    end_descendants();
    output.read();
    let why = match end {
        End::Itself(status) => match (status.exit_status(), status.terminating_signal()) {
            (Some(0), _) => return Ok(None),
            (Some(code), _) => format!("exited with status {code}"),
            (None, signal) => format!("was ended by signal {}", signal.unwrap_or_default()),
        },
        End::Late => format!("did not end within {} s", timeout.as_secs_f64()),
        End::Told => "was ended with the instance".to_owned(),
    };
    Ok(Some(match output.last_line() {
        Some(line) => format!("{why}: {line}"),
        None => why,
    }))
}

/// How a command's time ends.
enum End {
    Itself(WaitStatus),
    Late,
    /// By a signal to the keeper.
    Told,
}

fn watch(leader: Pid, limit: Instant, signals: &OwnedFd, output: &mut Output) -> End {
    loop {
        // Signals before exits: one that ends after the look for exits must leave its SIGCHLD to end the wait.
        let mut told = false;
        while let Some(signal) = sys::next_signal(signals.as_fd()) {
            told |= signal != libc::SIGCHLD;
        }
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == leader {
                return End::Itself(status);
            }
        }
        output.read();
        let left = limit.saturating_duration_since(Instant::now());
        if told || left.is_zero() {
            return if told { End::Told } else { End::Late };
        }
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        fds.extend(output.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        // An error is EINTR or no memory; the loop looks at everything anyway.
        let _ = poll(&mut fds, Timespec::try_from(left).ok().as_ref());
    }
}

/// What a command says.
struct Output {
    /// `None` when it has closed it.
    pipe: Option<OwnedFd>,
    text: Vec<u8>,
}

impl Output {
    /// Takes all that has come, and keeps the end of it.
    fn read(&mut self) {
        let mut chunk = [0; KEPT];
        while let Some(pipe) = &self.pipe {
            match read(pipe, &mut chunk) {
                Ok(n @ 1..) => {
                    self.text.extend_from_slice(&chunk[..n]);
                    self.text.drain(..self.text.len().saturating_sub(KEPT));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Ok(_) | Err(_) => self.pipe = None,
            }
        }
    }

    fn last_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.text);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        Some(line.chars().filter(|c| !c.is_control()).take(TOLD).collect())
    }
}
