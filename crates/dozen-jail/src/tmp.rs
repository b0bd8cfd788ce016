//! A folder for temporary files where there is no view with a /tmp of its own: only this instance reaches it, and it goes with its jail.
//!
//! **Invariant:** it is locked by its jail for as long as that lives, however it ends. A folder of this name that nobody has locked is left
//! over, and whoever of the same user comes next removes it.

use crate::Failure;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, fstat, mkdir, openat, stat};
use rustix::io::Errno;
use rustix::process::{geteuid, getpid};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The variable by which programs find it.
const NAME: &str = "TMPDIR";
/// Where they are, and how their names begin. Short, since sockets are made in them, whose paths have 107 bytes at most.
const TOP: &str = "/tmp";
const PREFIX: &str = "dozen-tmp-";
/// So many names are tried: processes of other PID namespaces have the same numbers.
const TRIES: u32 = 100;

pub(crate) struct Tmp {
    path: PathBuf,
    /// Held until the end.
    _lock: OwnedFd,
}

impl Tmp {
    /// Makes it and names it in the environment, unless that names another.
    pub(crate) fn make(env: &mut Vec<(String, String)>) -> Result<Self, Failure> {
        let failed = Failure::of("make a folder for temporary files in /tmp");
        let mut number = 0;
        let (path, lock) = loop {
            let path = Path::new(TOP).join(format!("{PREFIX}{}-{number}", getpid().as_raw_nonzero()));
            match mkdir(&path, Mode::RWXU).and_then(|()| lock(&path, FlockOperation::LockExclusive)) {
                Ok(lock) => break (path, lock),
                // Or somebody took it for left over before it was locked.
                Err(Errno::EXIST | Errno::NOENT) if number < TRIES => number += 1,
                Err(error) => return Err(failed(error)),
            }
        };
        if env.iter().all(|(name, _)| name != NAME) {
            env.push((NAME.into(), path.to_string_lossy().into_owned()));
        }
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Tmp {
    fn drop(&mut self) {
        // Links in it are removed and not followed.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Locks a folder of this user's own, if it still is what the path stands for.
fn lock(path: &Path, how: FlockOperation) -> Result<OwnedFd, Errno> {
    let folder = openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let own = fstat(&folder)?;
    if own.st_uid != geteuid().as_raw() {
        return Err(Errno::PERM);
    }
    flock(&folder, how)?;
    let now = stat(path)?;
    if (own.st_dev, own.st_ino) == (now.st_dev, now.st_ino) { Ok(folder) } else { Err(Errno::NOENT) }
}

/// Removes what jails of this user left that were killed.
pub(crate) fn sweep() {
    for entry in std::fs::read_dir(TOP).into_iter().flatten().flatten() {
        let path = entry.path();
        let named = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        if named && lock(&path, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_locked_is_swept() {
        let mut env = vec![];
        let held = Tmp::make(&mut env).expect("made");
        assert_eq!(env, [(NAME.to_owned(), held.path().display().to_string())]);
        let left = PathBuf::from(TOP).join(format!("{PREFIX}left-{}", getpid().as_raw_nonzero()));
        std::fs::create_dir_all(left.join("a/b")).expect("made");
        sweep();
        assert!(held.path().exists() && !left.exists());
        let path = held.path().to_owned();
        drop(held);
        assert!(!path.exists());
    }
}
