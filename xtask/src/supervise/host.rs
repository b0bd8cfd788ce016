//! The soak's processes on this host: found by what they run, and killed.

use std::process::Child;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::load::ask;
use super::{Deploy, PATIENCE, Soak};
use crate::process::{pause, wait_until};

/// So long it is watched what is used while nothing happens.
const IDLE: Duration = Duration::from_secs(5);

impl Soak {
    /// The background half of a deploy's `up --detach`.
    pub(super) fn control(&self, deploy: &Deploy) -> Result<Option<Pid>> {
        let named = |words: &[String]| words.iter().any(|w| w == "--lasting") && words.contains(&deploy.name);
        Ok(self.processes()?.into_iter().find(|(_, words)| named(words)).map(|(pid, _)| pid))
    }

    pub(super) fn kill_control(&self, deploy: &Deploy) -> Result<()> {
        while let Some(pid) = self.control(deploy)? {
            let _ = kill_process(pid, Signal::KILL);
            ensure!(wait_until(PATIENCE, || Ok(!self.runs(pid)))?, "process {pid} does not die");
        }
        Ok(())
    }

    /// Kills what an `up --detach` has started, and waits for its foreground half.
    pub(super) fn kill_halves(&self, deploy: &Deploy, foreground: &mut Child) -> Result<()> {
        self.kill_control(deploy)?;
        // The background half may have begun a moment later.
        while !wait_until(Duration::from_millis(500), || Ok(foreground.try_wait()?.is_some()))? {
            self.kill_control(deploy)?;
        }
        Ok(())
    }

    /// Kills the router that holds this deploy's port, and waits for its successor.
    pub(super) fn kill_router(&self, deploy: &Deploy) -> Result<()> {
        let table = std::fs::read_to_string("/proc/net/tcp")?;
        let of_port = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let port = words.get(1)?.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok())?;
            (port == deploy.port && *words.get(3)? == "0A").then(|| format!("socket:[{}]", words.get(9).unwrap_or(&"")))
        };
        let socket = table.lines().find_map(of_port).context("nobody listens")?;
        let holds = |pid: Pid| {
            let all = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            all.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|to| to.to_str() == Some(&socket))
        };
        let routers = self.processes()?.into_iter().filter(|(_, words)| words.iter().any(|w| w == "__router"));
        let router = routers.map(|(pid, _)| pid).find(|pid| holds(*pid)).context("no router")?;
        deploy.struck.fetch_add(1, Ordering::SeqCst);
        kill_process(router, Signal::KILL)?;
        let answered = wait_until(PATIENCE, || Ok(ask(deploy.port, "/none").is_ok()))?;
        deploy.struck.fetch_add(1, Ordering::SeqCst);
        ensure!(answered, "no other router serves");
        Ok(())
    }

    /// All processes that run this soak's binary, with their words.
    pub(super) fn processes(&self) -> Result<Vec<(Pid, Vec<String>)>> {
        let words = |pid: &Pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&words).split('\0').map(str::to_owned).collect()
        };
        Ok(pids()?.filter(|pid| self.runs(*pid)).map(|pid| (pid, words(&pid))).collect())
    }

    fn runs(&self, pid: Pid) -> bool {
        std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == self.dozen)
    }

    /// The processes of the apps, or of one: known by their environment, whoever their parent is.
    pub(super) fn apps(&self, name: Option<&str>) -> Result<Vec<Pid>> {
        let marks: Vec<String> =
            std::iter::once(format!("SOAK={}", self.mark)).chain(name.map(|name| format!("DOZEN_APP_NAME={name}"))).collect();
        let is_one = |pid: &Pid| {
            let given = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            marks.iter().all(|mark| given.split(|b| *b == 0).any(|var| var == mark.as_bytes()))
        };
        Ok(pids()?.filter(is_one).collect())
    }

    /// Says what control parts and routers use while nobody asks for anything.
    pub(super) fn tell_idle(&self) -> Result<()> {
        let of = |word: &'static str| -> Result<Vec<Pid>> {
            let all = self.processes()?.into_iter();
            Ok(all.filter(|(_, words)| words.iter().any(|w| w == word)).map(|(pid, _)| pid).collect())
        };
        let roles = [("control parts", of("--lasting")?), ("routers", of("__router")?), ("jails", of("__jail")?)];
        let before: Vec<Used> = roles.iter().map(|(_, pids)| used(pids)).collect();
        pause(IDLE);
        for ((name, pids), before) in roles.iter().zip(before) {
            let now = used(pids);
            println!(
                "at rest {} {name} use {:.1} % of a processor, {} MB and {} descriptors",
                pids.len(),
                (now.ticks - before.ticks) as f64 / 100.0 / IDLE.as_secs_f64() * 100.0,
                now.kilobytes / 1024,
                now.descriptors,
            );
        }
        Ok(())
    }
}

/// Of some processes together.
#[derive(Default)]
struct Used {
    /// Hundredths of a second of a processor's time.
    ticks: u64,
    /// Private and shared memory, the latter in parts.
    kilobytes: u64,
    descriptors: usize,
}

/// A process that has ended meanwhile uses nothing.
fn used(pids: &[Pid]) -> Used {
    let mut all = Used::default();
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name, which may hold anything: user and system time are the 14th and 15th of all.
        let times = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2)).into_iter().flatten();
        all.ticks += times.filter_map(|t| t.parse::<u64>().ok()).sum::<u64>();
        let memory = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let pss = memory.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        all.kilobytes += pss.unwrap_or_default();
        all.descriptors += std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    }
    all
}

fn pids() -> Result<impl Iterator<Item = Pid>> {
    let all = std::fs::read_dir("/proc")?.flatten();
    Ok(all.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)))
}
