//! Who listens where on this host, as /proc tells. Other users' processes stay unknown to an ordinary user.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const PROC: &str = "/proc";

/// The process that listens on a port: `process 4711 (node)`.
pub(super) fn holder(port: u16) -> Option<String> {
    let listening: BTreeSet<String> = listening().into_iter().filter(|(_, p)| *p == port).map(|(link, _)| link).collect();
    if listening.is_empty() {
        return None;
    }
    let pid = processes().into_keys().find(|pid| links(*pid).iter().any(|link| listening.contains(link)))?;
    let name = std::fs::read_to_string(format!("{PROC}/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim()))
}

/// The TCP ports that a process and its descendants listen on.
pub fn ports_of_tree(root: u32) -> BTreeSet<u16> {
    let parents = processes();
    let within = |pid: u32| {
        let mut at = Some(pid);
        // A chain longer than there are processes is a race with a number that was given out again.
        for _ in 0..parents.len() {
            match at {
                Some(pid) if pid == root => return true,
                Some(pid) => at = parents.get(&pid).copied(),
                None => return false,
            }
        }
        false
    };
    let own: BTreeSet<String> = parents.keys().filter(|pid| within(**pid)).flat_map(|pid| links(*pid)).collect();
    listening().into_iter().filter(|(link, _)| own.contains(link)).map(|(_, port)| port).collect()
}

/// Every process and its parent.
fn processes() -> BTreeMap<u32, u32> {
    let all = std::fs::read_dir(PROC).into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("{PROC}/{pid}/stat")).ok()?;
        // The name in brackets may hold anything; the parent is the second word behind it.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    })
    .collect()
}

/// What a process's descriptors lead to: `socket:[4711]`.
fn links(pid: u32) -> Vec<String> {
    let descriptors = std::fs::read_dir(Path::new(PROC).join(pid.to_string()).join("fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|fd| std::fs::read_link(fd.path()).ok()?.into_os_string().into_string().ok()).collect()
}

/// Every listening TCP socket, by its link and port.
fn listening() -> Vec<(String, u16)> {
    let tables = ["net/tcp", "net/tcp6"].map(|table| std::fs::read_to_string(Path::new(PROC).join(table)).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines().filter_map(listener)).collect()
}

/// One line of /proc/net/tcp: `sl local rem st …`; state 0A listens; the tenth column is the inode.
fn listener(line: &str) -> Option<(String, u16)> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let port = u16::from_str_radix(columns.get(1)?.rsplit_once(':')?.1, 16).ok()?;
    (*columns.get(3)? == "0A").then(|| (format!("socket:[{}]", columns.get(9).copied().unwrap_or_default()), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_listens_where_its_processes_do() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        assert!(ports_of_tree(std::process::id()).contains(&port));
        let parent = std::os::unix::process::parent_id();
        assert!(ports_of_tree(parent).contains(&port), "a descendant's");
        assert_eq!(ports_of_tree(u32::MAX), BTreeSet::new());
        assert!(holder(port).expect("found").starts_with(&format!("process {} (", std::process::id())));
        drop(listener);
        assert!(!ports_of_tree(std::process::id()).contains(&port));
    }
}
