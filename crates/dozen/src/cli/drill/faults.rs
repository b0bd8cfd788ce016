//! What a drill does to a deploy.

use crate::api::wire;
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

/// One kind of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// SIGKILL to an instance's own first process
    KillProcess,
    /// SIGKILL to an instance's jail, with all that is in it
    KillJail,
    /// An instance stands still for two seconds
    Pause,
    /// An instance's /tmp is full for two seconds
    FillTmp,
    /// SIGKILL to the router
    KillRouter,
    /// SIGKILL to the control part of `up --detach`, and another takes over
    KillControl,
}

/// No instance's /tmp holds more, so that a host without a limit is not filled.
const FULL: u64 = 2 << 30;
/// What a drill writes to fill it.
const FILE: &str = "tmp/dozen-drill";

/// One that was done.
#[derive(Debug, Clone)]
pub(crate) struct Struck {
    pub(crate) fault: Fault,
    /// Since the drill began.
    pub(crate) at: Duration,
    /// `web.1`, `router`
    pub(crate) target: Option<String>,
    /// Why it could not be done.
    pub(crate) skipped: Option<String>,
    /// How long after it everything was up again.
    pub(crate) back: Option<Duration>,
}

impl Struck {
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.fault.did(), self.target.as_deref().unwrap_or("-"))
    }
}

impl Fault {
    /// The word on the command line.
    pub(crate) fn word(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }

    fn did(self) -> &'static str {
        match self {
            Self::KillProcess => "killed the process of",
            Self::KillJail => "killed the jail of",
            Self::Pause => "paused",
            Self::FillTmp => "filled /tmp of",
            Self::KillRouter | Self::KillControl => "killed the",
        }
    }

    /// How long it goes on.
    pub(crate) fn lasts(self) -> Duration {
        match self {
            Self::Pause | Self::FillTmp => Duration::from_secs(2),
            Self::KillProcess | Self::KillJail | Self::KillRouter | Self::KillControl => Duration::ZERO,
        }
    }
}

/// What was killed.
#[derive(Debug, Clone)]
pub(crate) struct Gone {
    pub(crate) pid: u32,
    /// The jail that ends with it: another one stands for the instance then.
    pub(crate) holder: u32,
}

/// What was hit; dropping it ends what lasts.
pub(crate) struct Hit {
    pub(crate) target: String,
    pub(crate) gone: Option<Gone>,
    paused: Vec<Pid>,
    filled: Option<PathBuf>,
}

impl Drop for Hit {
    fn drop(&mut self) {
        for pid in &self.paused {
            // Gone is as good.
            let _ = kill_process(*pid, Signal::CONT);
        }
        if let Some(path) = &self.filled {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A deploy's control part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Control {
    pub(crate) pid: u32,
    /// What it has started outlives it.
    pub(crate) lasting: bool,
}

/// Does it, to an instance that `random` chooses.
pub(crate) fn strike(fault: Fault, seen: &wire::Processes, control: Control, random: u64) -> io::Result<Hit> {
    let mut hit = Hit { target: "router".into(), gone: None, paused: Vec::new(), filled: None };
    if fault == Fault::KillRouter {
        let router = router_of(control.pid).ok_or_else(|| io::Error::other("its router was not found"))?;
        kill(router, Signal::KILL)?;
        hit.gone = Some(Gone { pid: router, holder: router });
        return Ok(hit);
    }
    if fault == Fault::KillControl {
        if !control.lasting {
            return Err(io::Error::other("`dozen up` runs in the foreground, and all would end with it"));
        }
        kill(control.pid, Signal::KILL)?;
        hit.target = "control part".into();
        return Ok(hit);
    }
    let index = usize::try_from(mix(random) % u64::try_from(seen.processes.len().max(1)).unwrap_or(1)).unwrap_or_default();
    let instance = seen.processes.get(index).ok_or_else(|| io::Error::other("no process runs"))?;
    hit.target.clone_from(&instance.name);
    let unknown = || io::Error::other(format!("the process of {} is not known", instance.name));
    let (process, jail) = (instance.pid.ok_or_else(unknown), instance.jail_pid.ok_or_else(unknown)?);
    match fault {
        Fault::KillProcess | Fault::KillJail => {
            let pid = if fault == Fault::KillJail { jail } else { process? };
            kill(pid, Signal::KILL)?;
            hit.gone = Some(Gone { pid, holder: jail });
        }
        Fault::Pause => {
            for pid in below(jail) {
                kill(pid, Signal::STOP)?;
                hit.paused.extend(pid_of(pid));
            }
        }
        Fault::FillTmp => {
            if instance.isolation.as_deref() == Some("session") {
                return Err(io::Error::other("its /tmp is this host's own"));
            }
            let path = PathBuf::from(format!("/proc/{}/root/{FILE}", process?));
            let mut file = File::create(&path)?;
            hit.filled = Some(path);
            let chunk = vec![0; 1 << 20];
            let mut written = 0;
            while written < FULL && file.write_all(&chunk).is_ok() {
                written += chunk.len() as u64;
            }
        }
        Fault::KillRouter | Fault::KillControl => {}
    }
    Ok(hit)
}

/// Whether there is such a process.
pub(crate) fn lives(pid: u32) -> bool {
    pid_of(pid).is_some_and(|pid| !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH)))
}

fn kill(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = pid_of(pid).ok_or_else(|| io::Error::other("it has no process id"))?;
    Ok(kill_process(pid, signal)?)
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// The deploy's router: a child of the control part, or one that it took over, which has the same listeners.
fn router_of(control: u32) -> Option<u32> {
    let all = || std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let listeners = sockets(control);
    let shares = |pid: &u32| is_router(*pid) && !sockets(*pid).is_disjoint(&listeners);
    children(control).into_iter().find(|pid| is_router(*pid)).or_else(|| all().find(shares))
}

/// The sockets that a process has open, by their numbers.
fn sockets(pid: u32) -> HashSet<PathBuf> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    fds.filter_map(|fd| std::fs::read_link(fd.path()).ok().filter(|to| to.to_string_lossy().starts_with("socket:"))).collect()
}

fn is_router(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.split(|b| *b == 0).nth(1) == Some(b"__router"))
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// All processes below this one, parents first.
fn below(pid: u32) -> Vec<u32> {
    let mut found = children(pid);
    let mut next = 0;
    while next < found.len() {
        found.extend(children(found[next]));
        next += 1;
    }
    found
}

/// SplitMix64's finaliser.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
