//! Who descends from whom, as /proc tells.

use super::Place;

impl Place {
    /// Remembers all processes below one, so that none is overlooked when it is gone. Answers their pids.
    pub(crate) fn family_of(&self, pid: i32) -> Vec<i32> {
        let mut all = vec![pid];
        let mut next = 0;
        while next < all.len() {
            all.extend(children(all[next]));
            next += 1;
        }
        self.family.lock().expect("no panic").extend(all.iter().filter_map(|pid| Some((*pid, start_time(*pid)?))));
        all
    }
}

/// The children of a process.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(list.split_whitespace().filter_map(|n| n.parse::<i32>().ok()));
    }
    found
}

/// When a process started, in ticks since the machine did. `None` for one that has ended.
pub(crate) fn start_time(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold blanks and brackets; the state of a zombie is Z.
    let rest: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    (rest.first() != Some(&"Z")).then(|| rest.get(19).map(|t| (*t).to_owned()))?
}
