//! The content of a source as one hash, and of each file. Files that did not change since they were last hashed are known by their
//! stat, so that an unchanged tree costs milliseconds.
//!
//! **Invariant:** a stat is trusted only when the file was last changed well before it was hashed; a clock tick holds several writes.

use dozen_core::codebase::{FileKind, Source};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A blake3 hash.
pub type Hash = [u8; 32];

/// A source's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// Over paths, kinds and contents.
    pub whole: Hash,
    /// Of each file's content, in the source's order; of a link's target.
    pub files: Vec<Hash>,
}

/// Why a source cannot be hashed.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}, which was there a moment ago. Was the folder changed meanwhile? Run the command again", path.display())]
pub struct HashError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Hashes a source. `cache` is the file that keeps stats; that it cannot be read or written only costs time.
pub fn of(source: &Source, cache: &Path) -> Result<Fingerprint, HashError> {
    let known = Stats::load(cache);
    let mut kept = Stats::default();
    let mut files = Vec::with_capacity(source.files.len());
    let mut whole = blake3::Hasher::new();
    let mut changed = known.files.len() != source.files.len();
    let settled = now_ns().saturating_sub(SETTLED_NS);
    for file in &source.files {
        let (kind, hash) = match &file.kind {
            FileKind::Link(target) => ("l", *blake3::hash(target.as_bytes()).as_bytes()),
            kind => {
                let path = source.folder.join(&file.path);
                let failed = |source| HashError { path: path.clone(), source };
                let stat = Stat::of(&fs::symlink_metadata(&path).map_err(failed)?);
                let remembered =
                    known.files.get(&file.path).filter(|(old, _)| *old == stat).and_then(|(_, h)| blake3::Hash::from_hex(h).ok());
                let hash = match remembered {
                    Some(hash) => *hash.as_bytes(),
                    None => {
                        changed = true;
                        hash_file(&path).map_err(failed)?
                    }
                };
                if stat.ctime < settled && stat.mtime < settled {
                    kept.files.insert(file.path.clone(), (stat, blake3::Hash::from_bytes(hash).to_hex().to_string()));
                }
                (if *kind == FileKind::Executable { "x" } else { "f" }, hash)
            }
        };
        whole.update(kind.as_bytes());
        whole.update(&(file.path.len() as u64).to_le_bytes());
        whole.update(file.path.as_bytes());
        whole.update(&hash);
        files.push(hash);
    }
    if changed {
        kept.store(cache);
    }
    Ok(Fingerprint { whole: *whole.finalize().as_bytes(), files })
}

/// Hashes one file's content.
pub(crate) fn hash_file(path: &Path) -> io::Result<Hash> {
    hash(super::open(path)?)
}

/// The hash of an open file's content.
pub(crate) fn hash(mut file: fs::File) -> io::Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(*hasher.finalize().as_bytes()),
            n => hasher.update(&buffer[..n]),
        };
    }
}

/// Longer than a tick of any kernel's clock, shorter than a person takes for the next command.
const SETTLED_NS: u64 = 100_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stat {
    size: u64,
    mtime: u64,
    ctime: u64,
    ino: u64,
    dev: u64,
}

impl Stat {
    fn of(meta: &fs::Metadata) -> Self {
        let ns = |s: i64, n: i64| u64::try_from(s).unwrap_or(0) * 1_000_000_000 + u64::try_from(n).unwrap_or(0);
        Self {
            size: meta.size(),
            mtime: ns(meta.mtime(), meta.mtime_nsec()),
            ctime: ns(meta.ctime(), meta.ctime_nsec()),
            ino: meta.ino(),
            dev: meta.dev(),
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stats {
    /// Hashes in hexadecimal digits, which are read several times faster than a list of 32 numbers.
    files: HashMap<String, (Stat, String)>,
}

impl Stats {
    fn load(cache: &Path) -> Self {
        fs::read(cache).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    fn store(&self, cache: &Path) {
        if let (Ok(bytes), Some(folder)) = (serde_json::to_vec(self), cache.parent()) {
            let fresh = cache.with_extension(format!("{}.new", std::process::id()));
            let written = fs::create_dir_all(folder).and_then(|()| fs::write(&fresh, bytes)).and_then(|()| fs::rename(&fresh, cache));
            if written.is_err() {
                let _ = fs::remove_file(&fresh);
            }
        }
    }
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
