//! Folders under construction: made beside their final place, renamed into it, and gone if that never happens.
//!
//! **Invariant:** what lies at a final place is whole. A folder whose maker died is swept by the next one that builds there.

use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What folders under construction are called.
pub(super) const PREFIX: &str = ".making-";
/// The time between making a folder and locking it, many times over.
const GRACE: Duration = Duration::from_secs(60);

/// A folder under construction, removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Locked as long as its maker lives; the kernel lets go of it, however that one ends.
    _lock: File,
}

impl Scratch {
    /// Makes one in `beside`, which is made where it is missing, and sweeps those that a dead maker left there.
    pub fn new(beside: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(beside)?;
        sweep(beside);
        let path = beside.join(format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        // A former process of this id may have left one.
        if path.exists() {
            remove(&path)?;
        }
        fs::create_dir(&path)?;
        let lock = File::open(&path)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves `part` of it (or all, for an empty part) to its final place. `false`: something is there already, which stays.
    pub fn keep(&self, part: &str, place: &Path) -> io::Result<bool> {
        let made = if part.is_empty() { self.path.clone() } else { self.path.join(part) };
        match fs::rename(made, place) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = remove(&self.path);
    }
}

/// Removes a folder, those within it that cannot be written too.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(path);
            fs::remove_dir_all(path)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn make_writable(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

fn sweep(beside: &Path) {
    for entry in fs::read_dir(beside).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let old = entry.metadata().and_then(|m| m.modified()).is_ok_and(|t| t.elapsed().is_ok_and(|age| age > GRACE));
        if ours
            && old
            && let Ok(folder) = File::open(entry.path())
            && flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = remove(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_folder_is_gone_and_a_kept_one_stays() {
        let dir = tempfile::tempdir().expect("temp dir");
        let a = Scratch::new(dir.path()).expect("made");
        fs::create_dir(a.path().join("tree")).expect("made");
        assert!(a.keep("tree", &dir.path().join("final")).expect("renamed"));
        let b = Scratch::new(dir.path()).expect("made");
        fs::create_dir_all(b.path().join("tree/x")).expect("made");
        fs::create_dir_all(dir.path().join("final/y")).expect("made");
        assert!(!b.keep("tree", &dir.path().join("final")).expect("answered"), "what is there stays");
        drop((a, b));
        let left: Vec<_> = fs::read_dir(dir.path()).expect("readable").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["final"]);
    }

    #[test]
    fn only_what_a_dead_maker_left_is_swept() {
        let dir = tempfile::tempdir().expect("temp dir");
        let alive = Scratch::new(dir.path()).expect("made");
        let dead = dir.path().join(".making-1-7");
        fs::create_dir(&dead).expect("made");
        let old = std::time::SystemTime::now() - 2 * GRACE;
        for path in [&dead, &alive.path().to_owned()] {
            File::open(path).and_then(|f| f.set_modified(old)).expect("aged");
        }
        let _next = Scratch::new(dir.path()).expect("made");
        assert!(!dead.exists() && alive.path().exists());
    }
}
