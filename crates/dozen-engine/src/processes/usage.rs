//! What instances use of this host, as /proc and the cgroup of an instance with a size tell: processor time and memory of the processes in each jail.
//!
//! Nothing is measured until someone asks. Who asks again soon gets the processor time in between; who asks once gets the average of the
//! instance's life, so that a single `ps` need not wait for a second look.
//!
//! **Invariant:** what cannot be read is absent, never 0.

use dozen_jail::cgroup::Hierarchies;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What one instance uses.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Usage {
    /// The first process in the jail that still lives: the app's own, by the host's number.
    pub leader: Option<u32>,
    /// Percent of one core.
    pub cpu: Option<f64>,
    /// Bytes of memory, and how shared pages are counted.
    pub memory: Option<(u64, Measure)>,
}

/// How memory that processes share is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Shared pages are divided among those that share them.
    Pss,
    /// Shared pages count for each: some process's share could not be read, or there are too many to ask.
    Rss,
    /// What the kernel holds against the instance's size, without the cache of files.
    Cgroup,
}

impl Measure {
    /// The word in `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pss => "pss",
            Self::Rss => "rss",
            Self::Cgroup => "cgroup",
        }
    }
}

/// Remembers the last looks, to tell what was used since.
#[derive(Debug, Default)]
pub struct Meter(Mutex<BTreeMap<u32, Looks>>);

/// Two looks at one jail: the older is what the next is compared with, so that two who ask do not shorten each other's interval.
#[derive(Debug, Clone, Copy)]
struct Looks {
    base: Look,
    last: Look,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    ticks: u64,
}

/// What a shorter time says of processor time is chance: the kernel counts in hundredths of a second.
const SHORTEST: Duration = Duration::from_millis(500);
/// After a longer pause the average since then is no better than that of the whole life.
const LONGEST: Duration = Duration::from_secs(10);

impl Meter {
    /// What each of these jails uses, by the jail's pid. Jails that are not asked for are forgotten.
    pub fn read(&self, jails: &[u32]) -> BTreeMap<u32, Usage> {
        let table = Table::of(jails);
        let hierarchies = Hierarchies::read();
        let now = Instant::now();
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.retain(|jail, _| jails.contains(jail));
        let mut all = BTreeMap::new();
        for jail in jails {
            let Some(own) = table.0.get(jail) else { continue };
            let inside = table.below(*jail);
            // What the jail has reaped is counted there; its own work is not the app's.
            let ticks = own.reaped + inside.iter().filter_map(|pid| table.0.get(pid)).map(|p| p.own + p.reaped).sum::<u64>();
            let look = Look { at: now, ticks };
            let cpu = match looks.get(jail).and_then(|l| since(*l, look)) {
                Some(percent) => Some(percent),
                None => table.uptime(*own).map(|lived| percent(ticks, lived)),
            };
            looks.entry(*jail).and_modify(|l| l.add(look)).or_insert(Looks { base: look, last: look });
            let leader = inside.iter().copied().min_by_key(|pid| table.0.get(pid).map(|p| (p.started, *pid)));
            // An instance with a size is measured as that is.
            let charged = leader.and_then(|pid| hierarchies.memory_of(pid)).map(|bytes| (bytes, Measure::Cgroup));
            all.insert(*jail, Usage { leader, cpu, memory: charged.or_else(|| memory(&inside)) });
        }
        all
    }
}

impl Looks {
    fn add(&mut self, look: Look) {
        if look.at.duration_since(self.last.at) >= SHORTEST {
            self.base = self.last;
            self.last = look;
        }
    }
}

/// Percent of a core since the latest look that is neither too near nor too far.
fn since(looks: Looks, now: Look) -> Option<f64> {
    let of = |look: Look| {
        let passed = now.at.duration_since(look.at);
        (SHORTEST..=LONGEST).contains(&passed).then(|| percent(now.ticks.saturating_sub(look.ticks), passed))
    };
    of(looks.last).or_else(|| of(looks.base))
}

fn percent(ticks: u64, time: Duration) -> f64 {
    let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    // A life of a moment is no basis for a number of thousands.
    100.0 * seconds / time.as_secs_f64().max(0.1)
}

/// One process. Times are in ticks of the kernel's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// Its own processor time.
    own: u64,
    /// That of the children it has waited for.
    reaped: u64,
    /// When it started, since the machine did.
    started: u64,
}

/// Processes of this host: at least those below the ones that are asked for.
struct Table(BTreeMap<u32, Process>);

impl Table {
    /// The trees of these processes. A host with many others is not read whole, unless its kernel does not list children.
    fn of(roots: &[u32]) -> Self {
        let mut all = BTreeMap::new();
        let mut queue = roots.to_vec();
        while let Some(pid) = queue.pop() {
            let Some(process) = stat(pid) else { continue };
            if all.insert(pid, process).is_some() {
                continue;
            }
            let Some(children) = children(pid) else { return Self::all() };
            queue.extend(children);
        }
        Self(all)
    }

    fn all() -> Self {
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        Self(pids.filter_map(|pid| Some((pid, stat(pid)?))).collect())
    }

    /// All descendants of a process.
    fn below(&self, root: u32) -> Vec<u32> {
        let mut found = vec![root];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            next += 1;
            let children = self.0.iter().filter(|(_, p)| p.parent == parent).map(|(pid, _)| *pid);
            let new: Vec<u32> = children.filter(|pid| !found.contains(pid)).collect();
            found.extend(new);
        }
        found.split_off(1)
    }

    /// How long a process has lived.
    fn uptime(&self, process: Process) -> Option<Duration> {
        let text = std::fs::read_to_string("/proc/uptime").ok()?;
        let up: f64 = text.split_whitespace().next()?.parse().ok()?;
        let started = process.started as f64 / rustix::param::clock_ticks_per_second() as f64;
        Duration::try_from_secs_f64(up - started).ok()
    }
}

fn stat(pid: u32) -> Option<Process> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The children of all threads of a process; `None` where the kernel does not list them.
fn children(pid: u32) -> Option<Vec<u32>> {
    let mut found = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        match std::fs::read_to_string(thread.path().join("children")) {
            Ok(list) => found.extend(list.split_whitespace().filter_map(|n| n.parse::<u32>().ok())),
            // The thread ended meanwhile, or no thread has such a list.
            Err(_) if thread.path().join("stat").exists() => return None,
            Err(_) => {}
        }
    }
    Some(found)
}

/// One `/proc/<pid>/stat`. The name in brackets may hold anything; the words are counted from behind it.
fn parse(stat: &str) -> Option<Process> {
    let words: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| words.get(at)?.parse::<u64>().ok();
    Some(Process {
        parent: u32::try_from(number(1)?).ok()?,
        own: number(11)? + number(12)?,
        reaped: number(13)? + number(14)?,
        started: number(19)?,
    })
}

/// Of so many processes shares are looked up. That waits for each that is just forking, and so for ever where a fork bomb does.
const FEW: usize = 200;

/// What these processes have in memory. Where one's share of what is shared cannot be read, all are counted the other way.
fn memory(pids: &[u32]) -> Option<(u64, Measure)> {
    let sum = |file: &str, key: &str| {
        let mut sum = None;
        for pid in pids {
            match std::fs::read_to_string(format!("/proc/{pid}/{file}")).map(|text| kilobytes(&text, key)) {
                Ok(Some(kb)) => sum = Some(sum.unwrap_or(0) + kb * 1024),
                // It ended meanwhile, or is a zombie, which has none.
                Ok(None) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                Err(_) => return None,
            }
        }
        sum
    };
    let shares = || sum("smaps_rollup", "Pss:").map(|bytes| (bytes, Measure::Pss));
    let pss = (pids.len() <= FEW).then(shares).flatten();
    pss.or_else(|| sum("status", "VmRSS:").map(|bytes| (bytes, Measure::Rss)))
}

/// `Pss:   1234 kB`
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_process_table_is_read_from_behind_its_name() {
        let line = "12 (a) b (c) S 7 12 12 0 -1 4194560 1 2 3 4 50 6 70 8 20 0 1 0 4711 0 0";
        assert_eq!(parse(line), Some(Process { parent: 7, own: 56, reaped: 78, started: 4711 }));
        assert_eq!(parse("12 (a) S 7"), None);
    }

    #[test]
    fn a_tree_is_all_below_its_root() {
        let process = |parent| Process { parent, own: 0, reaped: 0, started: 0 };
        let table = Table([(2, 1), (3, 2), (4, 3), (5, 1), (6, 2)].into_iter().map(|(pid, parent)| (pid, process(parent))).collect());
        let mut below = table.below(2);
        below.sort_unstable();
        assert_eq!(below, [3, 4, 6]);
        assert_eq!(table.below(9), Vec::<u32>::new());
    }

    #[test]
    fn processor_time_is_of_the_last_interval_that_says_something() {
        let start = Instant::now();
        let hz = rustix::param::clock_ticks_per_second();
        let look = |ms: u64, ticks: u64| Look { at: start + Duration::from_millis(ms), ticks };
        let mut looks = Looks { base: look(0, 0), last: look(0, 0) };
        assert_eq!(since(looks, look(100, hz)), None, "too soon");
        assert_eq!(since(looks, look(1000, hz / 2)), Some(50.0));
        looks.add(look(1000, hz / 2));
        // Who asks just after another gets the longer interval.
        assert_eq!(since(looks, look(1250, hz)), Some(80.0));
        assert_eq!(since(looks, look(60_000, hz)), None, "too long ago");
    }

    #[test]
    fn this_process_has_memory_and_what_is_gone_has_none() {
        let (bytes, _) = memory(&[std::process::id()]).expect("one's own is readable");
        assert!(bytes > 100_000, "{bytes}");
        assert_eq!(memory(&[u32::MAX]), None);
        assert_eq!(Meter::default().read(&[u32::MAX]), BTreeMap::new());
        let parent = std::os::unix::process::parent_id();
        for table in [Table::of(&[parent]), Table::all()] {
            assert!(table.below(parent).contains(&std::process::id()));
        }
        let seen = Meter::default().read(&[parent]);
        assert!(seen.get(&parent).is_some_and(|u| u.leader.is_some() && u.cpu.is_some()), "{seen:?}");
    }
}
