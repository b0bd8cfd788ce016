//! The processes inside a jail: how they are reached, and which port they listen on.

use crate::sys;
use rustix::io::Errno;
use rustix::net::netlink::SOCK_DIAG;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use rustix::process::{Pid, WaitOptions, getpid, wait};
use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

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

/// SIGKILL to all below this process, until none is left. It has nothing else to do.
pub(crate) fn end_descendants() {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => continue,
            Err(_) => return,
            Ok(None) => {}
        }
        // Where /proc is another namespace's nobody but the own children is found, and these are not found there.
        if own() != Some(getpid()) {
            return;
        }
        Inside::Descendants.signal(libc::SIGKILL);
        #[expect(clippy::disallowed_methods, reason = "the dying tell nobody but `wait`")]
        std::thread::sleep(Duration::from_millis(5));
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
    let families = [(AddressFamily::INET, "/proc/net/tcp"), (AddressFamily::INET6, "/proc/net/tcp6")];
    let of = |(family, table)| diagnosed(family, port).unwrap_or_else(|| listeners(table, port));
    let sockets: HashSet<String> = families.into_iter().flat_map(of).collect();
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

/// What [`listeners`] answers, by the kernel's own search. Its tables hold every connection of the host besides, and would be read in turn by
/// all jails that start. `None` where the kernel cannot: it has a module for that.
fn diagnosed(family: AddressFamily, port: u16) -> Option<Vec<String>> {
    const BY_FAMILY: u16 = 20;
    const DONE: u16 = 3;
    const REQUEST_ALL: u16 = 0x301;
    const LISTEN: u32 = 1 << 10;
    // `nlmsghdr`, then `inet_diag_req_v2`, in which all that is zero stands for any.
    let mut request = [0; 72];
    request[..4].copy_from_slice(&72u32.to_ne_bytes());
    request[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&REQUEST_ALL.to_ne_bytes());
    request[16] = u8::try_from(family.as_raw()).ok()?;
    request[17] = u8::try_from(libc::IPPROTO_TCP).ok()?;
    request[20..24].copy_from_slice(&LISTEN.to_ne_bytes());
    request[24..26].copy_from_slice(&port.to_be_bytes());
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(SOCK_DIAG)).ok()?;
    send(&socket, &request, SendFlags::empty()).ok()?;

    let mut found = Vec::new();
    let mut answer = [0; 8 * 1024];
    loop {
        let (got, _) = recv(&socket, &mut answer, RecvFlags::empty()).ok()?;
        let mut rest = &answer[..got];
        while let Some(head) = rest.first_chunk::<8>() {
            let size = usize::try_from(u32::from_ne_bytes(head[..4].try_into().ok()?)).ok()?;
            let message = rest.get(16..size)?;
            match u16::from_ne_bytes(head[4..6].try_into().ok()?) {
                DONE => return Some(found),
                // `inet_diag_msg`: its last word is the inode.
                BY_FAMILY => {
                    let inode = u32::from_ne_bytes(message.get(68..72)?.try_into().ok()?);
                    found.push(format!("socket:[{inode}]"));
                }
                _ => return None,
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        if got == 0 {
            return None;
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_find_the_same_listeners_and_no_connections() {
        let four = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = four.local_addr().expect("bound").port();
        let _connected = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        let listed = listeners("/proc/net/tcp", port);
        assert_eq!(listed.len(), 1);
        assert_eq!(diagnosed(AddressFamily::INET, port).unwrap_or_else(|| listed.clone()), listed);
        drop(four);
        // Whoever is forked off by another test at this moment has it until its exec; and anybody may have the port anew.
        let there = || diagnosed(AddressFamily::INET, port).is_some_and(|found| found.contains(&listed[0]));
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while there() {
            assert!(std::time::Instant::now() < until, "it is found still");
            std::thread::yield_now();
        }
    }
}
