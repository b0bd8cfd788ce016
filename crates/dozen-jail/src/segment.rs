//! One writer's part of a deploy's log: files of bounded size in the deploy's folder.
//!
//! **Invariant:** a file holds whole lines. A batch that cannot be written whole is taken back, counted and told of in the stream later.
//! **Invariant:** only files that this value made are removed by it.

use dozen_core::logs::{Source, head};
use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, ftruncate, openat, unlinkat};
use rustix::io::{Errno, write};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;

/// A file under way and how many lines could not be written.
#[derive(Debug)]
pub struct Segment {
    folder: OwnedFd,
    instance: String,
    release: String,
    limits: Limits,
    open: Option<Open>,
    closed: VecDeque<String>,
    dropped: Option<Dropped>,
}

/// How large files become and how many stay.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A file is closed before it would exceed this.
    pub bytes: u64,
    /// So many closed files of this writer are kept.
    pub segments: u32,
}

#[derive(Debug)]
struct Open {
    file: OwnedFd,
    name: String,
    len: u64,
}

#[derive(Debug)]
struct Dropped {
    lines: u64,
    since: Timestamp,
}

impl Segment {
    /// A writer into `folder`, which is made where it is missing. Its first file is made by the first line, so that a full disk keeps no app from starting.
    ///
    /// # Errors
    /// The folder cannot be made or opened; or a name holds a slash.
    pub fn open(folder: &Path, instance: &str, release: &str, limits: Limits) -> std::io::Result<Self> {
        if instance.contains('/') || release.contains('/') {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "a log file's name cannot hold a slash"));
        }
        std::fs::create_dir_all(folder)?;
        let folder = openat(CWD, folder, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self {
            folder,
            instance: instance.to_owned(),
            release: release.to_owned(),
            limits,
            open: None,
            closed: VecDeque::new(),
            dropped: None,
        })
    }

    /// Appends whole encoded lines with one write; `lines` is their number. Answers whether they are in the file.
    /// If not they are counted, and the stream tells of it as soon as it can be written again.
    pub fn append(&mut self, batch: &[u8], lines: u64, now: Timestamp) -> bool {
        if self.settle(now) && self.write(batch, now).is_ok() {
            return true;
        }
        self.lost(lines, now);
        false
    }

    /// Counts lines that were dropped before they came here; the stream tells of them with the next that can be written.
    pub fn lost(&mut self, lines: u64, since: Timestamp) {
        let dropped = self.dropped.get_or_insert(Dropped { lines: 0, since });
        dropped.lines += lines;
    }

    /// Whether lines were dropped of which the stream does not tell yet.
    pub fn owes(&self) -> bool {
        self.dropped.is_some()
    }

    /// Tells of dropped lines if there were any. Answers whether nothing is owed any more.
    pub fn settle(&mut self, now: Timestamp) -> bool {
        let Some(dropped) = &self.dropped else { return true };
        let mut line = head(now, Source::Dozen, &self.instance).into_bytes();
        let since = dropped.since;
        line.extend_from_slice(
            format!("Error L10 (output buffer overflow): {} messages dropped since {since:.6}.\n", dropped.lines).as_bytes(),
        );
        let written = self.write(&line, now).is_ok();
        if written {
            self.dropped = None;
        }
        written
    }

    fn write(&mut self, batch: &[u8], now: Timestamp) -> Result<(), Errno> {
        let size = batch.len() as u64;
        if self.open.as_ref().is_some_and(|open| open.len > 0 && open.len + size > self.limits.bytes)
            && let Some(full) = self.open.take()
        {
            self.closed.push_back(full.name);
            while self.closed.len() > self.limits.segments as usize {
                if let Some(oldest) = self.closed.pop_front() {
                    let _ = unlinkat(&self.folder, oldest, AtFlags::empty());
                }
            }
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(begin(&self.folder, &self.instance, &self.release, now)?),
        };
        let mut rest = batch;
        while !rest.is_empty() {
            match write(&open.file, rest) {
                Ok(0) => return Err(Errno::IO),
                Ok(n) => rest = &rest[n..],
                Err(Errno::INTR) => {}
                Err(error) => {
                    // No torn line stays behind. Where even that fails, readers skip it.
                    let _ = ftruncate(&open.file, open.len);
                    return Err(error);
                }
            }
        }
        open.len += size;
        Ok(())
    }
}

fn begin(folder: &OwnedFd, instance: &str, release: &str, now: Timestamp) -> Result<Open, Errno> {
    let mut micros = now.as_microsecond().max(0);
    loop {
        // Sixteen digits last until the year 2286 and sort as text.
        let name = format!("{micros:016}-{instance}-{release}.log");
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        match openat(folder, &name, flags, Mode::from_raw_mode(0o640)) {
            Ok(file) => {
                // Tells whoever prunes that this file has a writer. A file system without locks has none to ask for.
                let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
                return Ok(Open { file, name, len: 0 });
            }
            Err(Errno::EXIST) => micros += 1,
            Err(error) => return Err(error),
        }
    }
}
