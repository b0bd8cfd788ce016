//! A reader that stays: what is appended to any file of a deploy's folder, in batches.

use super::{Part, names};
use dozen_core::logs::{Filter, LogLine};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// Read at most so much of one file at once, so that a chatty writer does not starve the others.
const READ: usize = 64 * 1024;
/// Looks this often when nobody says that something was written: writers of another process may not know of this one.
const POLL: Duration = Duration::from_millis(200);

/// Follows a deploy's stream. It holds its place by offsets, so that being slow costs no writer anything.
#[derive(Debug)]
pub struct Follower {
    folder: PathBuf,
    filter: Filter,
    pokes: watch::Receiver<u64>,
    places: HashMap<String, Place>,
}

#[derive(Debug)]
struct Place {
    offset: u64,
    /// Kept open while its writer may go on, so that a file which is rotated away is read to its end.
    file: Option<File>,
}

impl Follower {
    pub(super) fn new(folder: PathBuf, filter: Filter, pokes: watch::Receiver<u64>, parts: &[Part]) -> Self {
        let place = |part: &Part| (part.name.clone(), Place { offset: part.end, file: part.file.try_clone().ok() });
        Self { folder, filter, pokes, places: parts.iter().map(place).collect() }
    }

    /// The next lines, at least one, merged by time. Safe to drop half-way.
    pub async fn next(&mut self) -> Vec<LogLine> {
        loop {
            self.pokes.mark_unchanged();
            let (lines, more) = self.read();
            if !lines.is_empty() {
                return lines;
            }
            if more {
                // What was read was not wanted. There is more, and others want to run too.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                changed = self.pokes.changed() => if changed.is_err() {
                    // The store is gone; writers in other processes may not be.
                    tokio::time::sleep(POLL).await;
                },
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// What is there by now, without waiting for more.
    pub fn take(&mut self) -> Vec<LogLine> {
        let mut all = Vec::new();
        loop {
            let (lines, more) = self.read();
            all.extend(lines);
            if !more {
                return all;
            }
        }
    }

    /// One look at every file. Also answers whether there is more to read at once.
    fn read(&mut self) -> (Vec<LogLine>, bool) {
        // Where the folder cannot be read now, what is open still can.
        let names = names(&self.folder).unwrap_or_default();
        for name in &names {
            let place = self.places.entry(name.clone()).or_insert(Place { offset: 0, file: None });
            if place.file.is_none() {
                let path = self.folder.join(name);
                let grown = std::fs::metadata(&path).is_ok_and(|meta| meta.len() > place.offset);
                place.file = grown.then(|| File::open(&path).ok()).flatten();
            }
        }
        let mut batch: Vec<(i64, LogLine)> = Vec::new();
        let mut more = false;
        let mut block = vec![0; READ];
        let mut order: Vec<String> = self.places.keys().cloned().collect();
        order.sort_unstable();
        for name in &order {
            let Some(place) = self.places.get_mut(name) else { continue };
            let full = place.read(&self.filter, &mut block, &mut batch);
            more |= full;
            if !full {
                let gone = names.binary_search(name).is_err();
                if gone {
                    self.places.remove(name);
                } else if place.file.is_some() && superseded(name, &names) {
                    // Nothing is lost by closing it: it is opened again should it grow all the same.
                    place.file = None;
                }
            }
        }
        batch.sort_by_key(|(time, _)| *time);
        (batch.into_iter().map(|(_, line)| line).collect(), more)
    }
}

impl Place {
    /// Takes whole lines from the offset on. Answers whether there may be more.
    fn read(&mut self, filter: &Filter, block: &mut [u8], batch: &mut Vec<(i64, LogLine)>) -> bool {
        let Some(file) = &self.file else { return false };
        let Ok(n) = file.read_at(block, self.offset) else { return false };
        let full = n == block.len();
        let end = match block[..n].iter().rposition(|b| *b == b'\n') {
            Some(end) => end + 1,
            // Longer than any line of ours.
            None if full => n,
            None => return false,
        };
        self.offset += end as u64;
        // A clock that was set back does not change the order within a file.
        let mut latest = i64::MIN;
        for line in block[..end].split_inclusive(|b| *b == b'\n') {
            if let Some(line) = LogLine::decode(line).filter(|line| filter.wants(line)) {
                latest = latest.max(line.time.as_microsecond());
                batch.push((latest, line));
            }
        }
        full
    }
}

/// Whether its writer, or the next one of that name, has begun a newer file.
fn superseded(name: &str, names: &[String]) -> bool {
    let (_, writer) = name.split_at(16);
    names.iter().any(|other| other.as_str() > name && other.ends_with(writer) && other.len() == name.len())
}
