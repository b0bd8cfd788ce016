//! A folder for temporary files where there is no view with a /tmp of its own: only this instance reaches it, and it goes with its jail.

use crate::Failure;
use rustix::fs::{Mode, mkdir};
use rustix::io::Errno;
use rustix::process::getpid;
use std::path::{Path, PathBuf};

/// The variable by which programs find it.
const NAME: &str = "TMPDIR";
/// So many names are tried: what a killed jail of the same number left keeps its own.
const TRIES: u32 = 100;

pub(crate) struct Tmp(PathBuf);

impl Tmp {
    /// Makes it and names it in the environment, unless that names another.
    pub(crate) fn make(env: &mut Vec<(String, String)>) -> Result<Self, Failure> {
        let failed = Failure::of("make a folder for temporary files in /tmp");
        let mut number = 0;
        let path = loop {
            // Short, since sockets are made in it, whose paths have 107 bytes at most.
            let path = PathBuf::from(format!("/tmp/dozen-{}-{number}", getpid().as_raw_nonzero()));
            match mkdir(&path, Mode::RWXU) {
                Ok(()) => break path,
                Err(Errno::EXIST) if number < TRIES => number += 1,
                Err(error) => return Err(failed(error)),
            }
        };
        if env.iter().all(|(name, _)| name != NAME) {
            env.push((NAME.into(), path.to_string_lossy().into_owned()));
        }
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Tmp {
    fn drop(&mut self) {
        // Links in it are removed and not followed.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
