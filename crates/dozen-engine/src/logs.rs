//! XI. The log store: segment files, merged and followed.
//!
//! A deploy's folder holds files of many writers: one jail each, the router, the platform. Nobody but a file's writer writes it, so
//! writers need no lock among themselves and readers need nothing of writers.
//!
//! **Invariant:** a reader, however slow, never holds up a writer.
//! **Invariant:** within one file lines keep their order; between files the time decides, then the file's name.
//! **Invariant:** a file that its writer still has open is never pruned.

mod backward;
mod follower;

pub use dozen_jail::segment::{Limits, Segment};
pub use follower::Follower;

use backward::Backward;
use dozen_core::logs::{Filter, LogLine, MAX_LINE, Source, head};
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use std::collections::BinaryHeap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// A deploy's stream on disk. Cheap to clone; all clones wake the same followers.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    platform: Mutex<Segment>,
    pokes: watch::Sender<u64>,
}

/// Why the stream cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The folder.
    #[error("cannot open the log folder {}", folder.display())]
    Open {
        /// Which.
        folder: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file in it.
    #[error("cannot read the log file {}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What the platform says is little beside what apps say.
const PLATFORM: Limits = Limits { bytes: 4 << 20, segments: 3 };
/// A file's time of change may be this much older than its last line: the kernel's clock for files ticks, copies round to seconds.
const CLOCK_SLACK_MICROS: i64 = 2_000_000;

/// A file as it was when somebody began to read.
struct Part {
    name: String,
    file: File,
    /// The end of its last whole line.
    end: u64,
    /// No line of it is younger, in microseconds.
    until: i64,
}

impl Store {
    /// The stream in this folder, which is made where it is missing.
    ///
    /// # Errors
    /// [`LogError::Open`].
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, LogError> {
        let folder = folder.into();
        match Segment::open(&folder, "dozen", "platform", PLATFORM) {
            Ok(platform) => Ok(Self(Arc::new(Inner { folder, platform: Mutex::new(platform), pokes: watch::Sender::new(0) }))),
            Err(source) => Err(LogError::Open { folder, source }),
        }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Writes a line of the platform's own, `dozen[<ps>]: <message>`. A message of several lines becomes several. Where the disk is full it is counted and told of later.
    pub fn write(&self, ps: &str, message: &str) {
        let now = Timestamp::now();
        let head = head(now, Source::Dozen, ps);
        let mut batch = Vec::new();
        let mut lines = 0;
        for piece in message.lines().flat_map(|line| line.as_bytes().chunks(MAX_LINE)) {
            batch.extend_from_slice(head.as_bytes());
            batch.extend_from_slice(piece);
            batch.push(b'\n');
            lines += 1;
        }
        if lines > 0 {
            self.0.platform.lock().unwrap_or_else(PoisonError::into_inner).append(&batch, lines, now);
            self.poke();
        }
    }

    /// Says that something was written, so that followers look at once. Cheap.
    pub fn poke(&self) {
        self.0.pokes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// The last `count` lines that the filter wants (`None`: all), oldest first. Reads only as far back as it must.
    ///
    /// # Errors
    /// The folder or a file in it cannot be read.
    pub fn read_last(&self, count: Option<usize>, filter: &Filter) -> Result<Vec<LogLine>, LogError> {
        self.merge(self.parts()?, count, filter)
    }

    /// What a process itself wrote last, since it was started last: at most about so many lines. A log that cannot be read tells nothing.
    pub fn last_words(&self, ps: &str, lines: usize) -> Vec<String> {
        let filter = Filter { ps: Some(ps.to_owned()), source: None };
        // Half of them may be the platform's.
        let all = self.read_last(Some(2 * lines), &filter).unwrap_or_default();
        let start = all.iter().rposition(|l| l.source == Source::Dozen && l.text().starts_with("Starting process")).unwrap_or(0);
        all[start..].iter().filter(|l| l.source == Source::App).map(|l| l.text().into_owned()).collect()
    }

    /// The same as [`Store::read_last`], and a follower that goes on exactly where they end: no line is missed and none comes twice.
    ///
    /// # Errors
    /// The folder or a file in it cannot be read.
    pub fn tail(&self, count: Option<usize>, filter: &Filter) -> Result<(Vec<LogLine>, Follower), LogError> {
        let pokes = self.0.pokes.subscribe();
        let parts = self.parts()?;
        let follower = Follower::new(self.0.folder.clone(), filter.clone(), pokes, &parts);
        Ok((self.merge(parts, count, filter)?, follower))
    }

    /// What is said from now on.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn follow(&self, filter: &Filter) -> Result<Follower, LogError> {
        Ok(self.tail(Some(0), filter)?.1)
    }

    /// Deletes the oldest files that no writer has open any more until the folder holds at most `budget` bytes. Answers how many it deleted.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn prune(&self, budget: u64) -> Result<u64, LogError> {
        let mut files: Vec<(String, u64)> = Vec::new();
        for name in names(&self.0.folder)? {
            if let Ok(meta) = std::fs::metadata(self.0.folder.join(&name)) {
                files.push((name, meta.len()));
            }
        }
        let total: u64 = files.iter().map(|(_, len)| len).sum();
        let mut freed = 0;
        for (name, len) in files {
            if total - freed <= budget {
                break;
            }
            let path = self.0.folder.join(name);
            // A writer holds its file locked; locks of the dead are gone.
            let closed = File::open(&path).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
            if closed && std::fs::remove_file(&path).is_ok() {
                freed += len;
            }
        }
        Ok(freed)
    }

    fn parts(&self) -> Result<Vec<Part>, LogError> {
        let mut parts = Vec::new();
        for name in names(&self.0.folder)? {
            let path = self.0.folder.join(&name);
            // Its writer may have removed it since.
            let Ok(file) = File::open(&path) else { continue };
            let measured = file.metadata().and_then(|meta| {
                let changed = meta.modified().map_or(i64::MAX, |t| Timestamp::try_from(t).map_or(i64::MAX, Timestamp::as_microsecond));
                Ok((whole(&file, meta.len())?, changed.saturating_add(CLOCK_SLACK_MICROS)))
            });
            let (end, until) = measured.map_err(|source| LogError::Read { file: path, source })?;
            parts.push(Part { name, file, end, until });
        }
        Ok(parts)
    }

    /// Merges from the youngest line back. A file is looked into only when it may hold the next one.
    fn merge(&self, parts: Vec<Part>, count: Option<usize>, filter: &Filter) -> Result<Vec<LogLine>, LogError> {
        let mut lines = Vec::new();
        let mut readers: Vec<(String, Backward)> = Vec::new();
        // By time, then by file (they come sorted by name); a file that is not looked into yet has no line.
        let mut heads: BinaryHeap<(i64, usize, Head)> = BinaryHeap::new();
        for (index, Part { name, file, end, until }) in parts.into_iter().enumerate() {
            readers.push((name, Backward::new(file, end)));
            heads.push((until, index, Head(None)));
        }
        while count.is_none_or(|count| lines.len() < count) {
            let Some((_, index, Head(line))) = heads.pop() else { break };
            lines.extend(line.filter(|line| filter.wants(line)));
            let (name, reader) = &mut readers[index];
            match reader.next() {
                Ok(Some(line)) => heads.push((line.time.as_microsecond(), index, Head(Some(line)))),
                Ok(None) => {}
                Err(source) => return Err(LogError::Read { file: self.0.folder.join(name), source }),
            }
        }
        lines.reverse();
        Ok(lines)
    }
}

/// A line that takes no part in the order of the heap: time and file decide before it.
struct Head(Option<LogLine>);

impl PartialEq for Head {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Head {}
impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Head {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

/// The segment files of a folder, oldest first.
fn names(folder: &Path) -> Result<Vec<String>, LogError> {
    let failed = |source| LogError::Open { folder: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        // `<16 digits>-<writer>.log`; whatever else lies there is somebody else's.
        if let Some(name) = name.to_str().filter(|n| n.ends_with(".log") && n.as_bytes().get(16) == Some(&b'-')) {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Where the last whole line ends: a reader may come between a writer's line and its end.
fn whole(file: &File, len: u64) -> std::io::Result<u64> {
    let mut end = len;
    let mut block = vec![0; 4096];
    while end > 0 {
        // Nearly always the last byte is the answer.
        let size = if end == len { 1 } else { end.min(block.len() as u64) };
        let size_here = usize::try_from(size).unwrap_or(1);
        file.read_exact_at(&mut block[..size_here], end - size)?;
        if let Some(at) = block[..size_here].iter().rposition(|b| *b == b'\n') {
            return Ok(end - size + at as u64 + 1);
        }
        end -= size;
    }
    Ok(0)
}
