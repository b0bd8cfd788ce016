//! The memory of a cgroup: its limit, and when to tell of too much.

use super::{Kind, contents, value};
use dozen_core::processes::size::vast;
use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two looks at what is used, while no event of the kernel would tell: at most, and at least.
const LOOK: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_millis(10);
/// Between two times that the driver is told of too much.
const TELL: Duration = Duration::from_secs(20);

/// The memory of a cgroup, to be watched.
pub(crate) struct Memory {
    kind: Kind,
    /// The size.
    pub(crate) quota: u64,
    usage: OwnedFd,
    stat: OwnedFd,
    /// Counts the kernel's kills.
    events: OwnedFd,
    /// v1: rung when the size is crossed, and when the kernel runs out of what it may give.
    alarms: Vec<OwnedFd>,
    /// When to look next, where no event would tell.
    pub(crate) look_at: Option<Instant>,
    pace: Pace,
    told_at: Option<Instant>,
    ended: bool,
}

/// When to look next, so that who grows fast is seen between the size and the kernel's limit, and who does not costs nothing.
struct Pace {
    pause: Duration,
    /// What was used at the last look.
    seen: (u64, Instant),
}

/// What is to be told of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Excess {
    /// Bytes.
    pub(crate) used: u64,
    /// It is the instance's end.
    pub(crate) vastly: bool,
}

impl Memory {
    pub(super) fn limit(at: &Path, kind: Kind, quota: u64) -> Result<Self, String> {
        let failed = |file: &str, e: &dyn std::fmt::Display| format!("{}: {e}", at.join(file).display());
        let most = vast(quota).to_string();
        let put = |file: &str, value: &str| std::fs::write(at.join(file), value).map_err(|e| failed(file, &e));
        let open = |file: &str| openat(CWD, at.join(file), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| failed(file, &e));
        let (usage, stat) = (open(kind.usage())?, open("memory.stat")?);
        let mut alarms = Vec::new();
        let events = match kind {
            Kind::V1 => {
                put("memory.limit_in_bytes", &most)?;
                // Not there where the kernel does not count swap: then it is not used either.
                let _ = put("memory.memsw.limit_in_bytes", &most);
                let events = open("memory.oom_control")?;
                let ring = |file: &OwnedFd, at: Option<u64>| -> Result<OwnedFd, String> {
                    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| failed("eventfd", &e))?;
                    let threshold = at.map(|at| at.to_string()).unwrap_or_default();
                    put("cgroup.event_control", &format!("{} {} {threshold}", bell.as_raw_fd(), file.as_raw_fd()))?;
                    Ok(bell)
                };
                // A kernel that no longer rings is looked at by the clock.
                alarms = [ring(&usage, Some(quota)), ring(&events, None)].into_iter().collect::<Result<_, _>>().unwrap_or_default();
                events
            }
            Kind::V2 => {
                put("memory.max", &most)?;
                let _ = put("memory.swap.max", "0");
                // Who is short of memory ends as a whole: what is left of an app without one of its processes is no app.
                let _ = put("memory.oom.group", "1");
                open("memory.events")?
            }
        };
        let now = Instant::now();
        let pace = Pace { pause: SOON, seen: (0, now) };
        Ok(Self { kind, quota, usage, stat, events, alarms, look_at: Some(now), pace, told_at: None, ended: false })
    }

    /// What wakes the jail.
    pub(crate) fn wakes(&self) -> impl Iterator<Item = (&OwnedFd, PollFlags)> {
        let events = (self.kind == Kind::V2).then_some((&self.events, PollFlags::PRI));
        self.alarms.iter().map(|bell| (bell, PollFlags::IN)).chain(events)
    }

    /// Looks at what is used, whether rung for or not; answers what is to be told now.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Excess> {
        let rung = self.alarms.iter().fold(false, |rung, bell| rung | read(bell, &mut [0u8; 8]).is_ok());
        let due = self.look_at.is_some_and(|at| now >= at);
        let killed = value(&contents(&self.events), "oom_kill").is_some_and(|n| n > 0);
        if killed && !self.ended {
            self.ended = true;
            return Some(Excess { used: vast(self.quota), vastly: true });
        }
        if !(rung || due) || self.ended {
            return None;
        }
        let charged = contents(&self.usage).trim().parse().unwrap_or(0);
        // Below the size the bell tells; above it, what is charged may be cache now and the app's own later, without another ring.
        let pause = self.pace.next(charged, self.quota, now);
        self.look_at = (self.alarms.is_empty() || charged >= self.quota).then(|| now + pause);
        if charged <= self.quota {
            return None;
        }
        let used = in_use(self.kind, charged, &contents(&self.stat));
        self.ended = used >= vast(self.quota);
        let told_lately = self.told_at.is_some_and(|at| now < at + TELL);
        if used <= self.quota || told_lately && !self.ended {
            return None;
        }
        self.told_at = Some(now);
        Some(Excess { used, vastly: self.ended })
    }
}

impl Pace {
    /// Twice as long as before, but half as long as the rest of the quota would last at the speed since the last look.
    fn next(&mut self, charged: u64, quota: u64, now: Instant) -> Duration {
        let (before, at) = std::mem::replace(&mut self.seen, (charged, now));
        self.pause = (self.pause * 2).min(LOOK);
        if charged > before && charged < quota {
            let share = (quota - charged) as f64 / (charged - before) as f64 / 2.0;
            let rest = now.duration_since(at).min(LOOK).mul_f64(share.min(1000.0));
            self.pause = self.pause.min(rest).max(SOON);
        }
        self.pause
    }
}

impl Kind {
    pub(super) fn usage(self) -> &'static str {
        match self {
            Self::V1 => "memory.usage_in_bytes",
            Self::V2 => "memory.current",
        }
    }
}

/// Less the cache of files: the kernel takes it back before it kills anybody.
pub(super) fn in_use(kind: Kind, charged: u64, stat: &str) -> u64 {
    let keys = match kind {
        Kind::V1 => ["total_active_file", "total_inactive_file"],
        Kind::V2 => ["active_file", "inactive_file"],
    };
    let cache: u64 = keys.iter().filter_map(|key| value(stat, key)).sum();
    charged.saturating_sub(cache)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_grows_fast_is_seen_between_its_size_and_its_end() {
        const MIB: u64 = 1 << 20;
        // MiB a second, from the first look on or after a quiet hour.
        for (speed, quiet) in [(1, 0), (10, 0), (50, 0), (100, 0), (1000, 0), (10, 3600), (30, 3600)] {
            let (begin, quota) = (Instant::now(), 64 * MIB);
            let mut pace = Pace { pause: SOON, seen: (0, begin) };
            let (mut time, mut looks) = (Duration::ZERO, 0);
            let used = |time: Duration| (time.as_secs_f64() - f64::from(quiet)).max(0.0) * f64::from(speed) * MIB as f64;
            while used(time) < quota as f64 {
                time += pace.next(used(time) as u64, quota, begin + time);
                looks += 1;
            }
            assert!(used(time) < vast(quota) as f64, "{speed} MiB/s after {quiet} s: first seen with {}", used(time));
            assert!(looks < quiet + 150, "{looks} looks");
        }
    }

    #[test]
    fn cache_is_not_counted() {
        let v1 = "cache 9\nactive_file 1\ntotal_active_file 20\ntotal_inactive_file 30\n";
        assert_eq!(in_use(Kind::V1, 100, v1), 50);
        assert_eq!(in_use(Kind::V2, 100, "anon 1\ninactive_file 30\nactive_file 5\n"), 65);
        assert_eq!(in_use(Kind::V2, 10, "inactive_file 30\n"), 0);
        assert_eq!(value("oom 1\noom_kill 2\noom_kill_disable 3\n", "oom_kill"), Some(2));
    }
}
