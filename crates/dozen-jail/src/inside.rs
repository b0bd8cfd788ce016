//! The processes inside a jail: how they are reached, and which port they listen on.

use crate::sys;
use rustix::process::{Pid, getpid};
use std::collections::HashSet;
use std::path::Path;

/// How the jail reaches every process inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inside {
    /// They are all that the PID namespace holds.
    Namespace,
    /// They are the descendants of this process, which gets those whose parent ended (PR_SET_CHILD_SUBREAPER).
    Descendants,
}

impl Inside {
    /// Sends a signal to every process inside.
    pub(crate) fn signal(self, number: i32) {
        match self {
            Self::Namespace => sys::kill_namespace(number),
            // Numbers from a /proc of another PID namespace would name strangers.
            Self::Descendants if own() == Some(getpid()) => descendants().into_iter().for_each(|pid| sys::kill(pid, number)),
            Self::Descendants => {}
        }
    }
}

impl Inside {
    /// Whether a process, by the number that this one would use, is inside. In a PID namespace strangers have the number 0, which none has.
    pub(crate) fn has(self, pid: Pid) -> bool {
        self == Self::Descendants && own() == Some(getpid()) && descendants().contains(&pid)
    }
}

/// Whether the kernel counts a user's processes for each user namespace (from Linux 5.14 on), and not for the whole host.
pub(crate) fn counts_by_namespace() -> bool {
    let release = rustix::system::uname();
    let mut numbers = release.release().to_str().unwrap_or_default().split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(5), Some(14))
}

/// This process, by the number that the mounted /proc gives it.
fn own() -> Option<Pid> {
    std::fs::read_link("/proc/self").ok()?.to_str()?.parse().ok().and_then(Pid::from_raw)
}

/// All processes below this one, parents first. What forks meanwhile may be missed: whoever kills looks again until none is left.
pub(crate) fn descendants() -> Vec<Pid> {
    let Some(own) = own() else { return Vec::new() };
    let mut parents = Vec::new();
    for pid in numbers(Path::new("/proc")) {
        // The program's name, in parentheses, may hold anything; the parent is the second word after it.
        let Ok(stat) = std::fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())) else { continue };
        let Some(close) = stat.iter().rposition(|b| *b == b')') else { continue };
        let fields = String::from_utf8_lossy(&stat[close + 1..]);
        if let Some(parent) = fields.split_ascii_whitespace().nth(1).and_then(|p| p.parse().ok()).and_then(Pid::from_raw) {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![own];
    let mut next = 0;
    while next < found.len() {
        let here = found[next];
        found.extend(parents.iter().filter(|(_, parent)| *parent == here).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// Whether a process inside listens on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    /// It does.
    Ours,
    /// Somebody does, and a process inside hides its descriptors: it may be the one.
    Perhaps,
    /// Nobody inside.
    None,
}

/// Looks for a TCP listener on the port.
pub(crate) fn listens(port: u16) -> Listener {
    let sockets: HashSet<String> = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().flat_map(|table| listeners(table, port)).collect();
    if sockets.is_empty() {
        return Listener::None;
    }
    let mut unreadable = false;
    for pid in descendants() {
        let fds = match std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())) {
            Ok(fds) => fds,
            Err(error) => {
                unreadable |= error.kind() == std::io::ErrorKind::PermissionDenied;
                continue;
            }
        };
        for fd in fds.flatten() {
            if std::fs::read_link(fd.path()).is_ok_and(|to| to.to_str().is_some_and(|to| sockets.contains(to))) {
                return Listener::Ours;
            }
        }
    }
    if unreadable { Listener::Perhaps } else { Listener::None }
}

/// The sockets in the LISTEN state on a port, named as links in /proc/PID/fd name them.
fn listeners(table: &str, port: u16) -> Vec<String> {
    let text = std::fs::read_to_string(table).unwrap_or_default();
    let listener = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let local = words.nth(1)?;
        let state = words.nth(1)?;
        let inode = words.nth(5)?;
        let (_, local_port) = local.rsplit_once(':')?;
        // 0A is TCP_LISTEN.
        (state == "0A" && u16::from_str_radix(local_port, 16) == Ok(port)).then(|| format!("socket:[{inode}]"))
    };
    text.lines().skip(1).filter_map(listener).collect()
}

fn numbers(folder: &Path) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)).collect()
}
