//! What an installation has put on the machine: written down before it is there, so that all of it is found again, and nothing else.
//!
//! **Invariant:** what is not as it was written here is somebody's, and is neither replaced nor removed.

use crate::client::Told;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where it is written down.
pub(super) const RECORD: &str = "/etc/dozen/installed.json";

/// The root of the machine, or a folder that stands for it.
#[derive(Debug, Clone)]
pub(super) struct Machine(pub(super) PathBuf);

/// A file that is to be there.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    pub(super) mode: u32,
}

/// What was put there.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// The account that the server runs as.
    pub(super) account: String,
    /// Whether it was made for that.
    pub(super) made_account: bool,
    /// DOZEN_HOME.
    pub(super) home: PathBuf,
    /// Whether it was made for that.
    pub(super) made_home: bool,
    /// Each file with the hash of what was written.
    pub(super) files: BTreeMap<PathBuf, String>,
    /// Folders that were not there before.
    pub(super) folders: Vec<PathBuf>,
}

impl Machine {
    /// Where a path of it is.
    pub(super) fn at(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What was installed here before.
    pub(super) fn record(&self) -> Result<Option<Record>> {
        match fs::read(self.at(Path::new(RECORD))) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("{RECORD} is not what dozen wrote"))?)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {RECORD}")),
        }
    }

    /// Writes down what is there, or will be.
    pub(super) fn write_record(&self, record: &Record) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(record)?;
        text.push(b'\n');
        self.put(&Wanted { path: RECORD.into(), bytes: text, mode: 0o644 })
    }

    /// Removes it, and its folder where that is empty then.
    pub(super) fn forget(&self) -> Result<()> {
        self.remove(Path::new(RECORD))?;
        // Somebody's own files may be beside it.
        let _ = fs::remove_dir(self.at(Path::new("/etc/dozen")));
        Ok(())
    }

    /// Refuses where one of these files is there and is not ours; answers those that are not yet as they are to be.
    pub(super) fn missing<'w>(&self, wanted: &'w [Wanted], before: Option<&Record>) -> Result<Vec<&'w Wanted>> {
        let mut missing = Vec::new();
        for file in wanted {
            let there = self.hash(&file.path)?;
            if there.as_deref() == Some(hash(&file.bytes).as_str()) {
                continue;
            }
            let ours = before.and_then(|record| record.files.get(&file.path));
            if there.is_some() && there.as_ref() != ours {
                let message = format!("{} is there, and is not as dozen wrote it", file.path.display());
                let hint = "Move it away, or take back what was changed in it; nothing was installed.".to_owned();
                return Err(Told::failed(message, Some(hint)).into());
            }
            missing.push(file);
        }
        Ok(missing)
    }

    /// The folders above these files that are not there.
    pub(super) fn missing_folders(&self, wanted: &[Wanted]) -> Vec<PathBuf> {
        let above = |file: &Wanted| -> Vec<PathBuf> { file.path.ancestors().skip(1).map(Path::to_owned).collect() };
        let mut missing: Vec<PathBuf> = wanted.iter().flat_map(above).filter(|folder| !self.at(folder).exists()).collect();
        missing.sort();
        missing.dedup();
        missing
    }

    /// Puts a file there, whole or not at all.
    pub(super) fn put(&self, file: &Wanted) -> Result<()> {
        let at = self.at(&file.path);
        let attempt = || format!("cannot write {}", at.display());
        let folder = at.parent().context("a file is in a folder")?;
        fs::create_dir_all(folder).with_context(attempt)?;
        let fresh = folder.join(format!(".{}.dozen-new", file.path.file_name().unwrap_or_default().to_string_lossy()));
        let mut open = fs::OpenOptions::new();
        let mut to = open.write(true).create(true).truncate(true).mode(file.mode).open(&fresh).with_context(attempt)?;
        // Whatever the mask of who installs.
        to.set_permissions(fs::Permissions::from_mode(file.mode)).with_context(attempt)?;
        to.write_all(&file.bytes).and_then(|()| to.sync_all()).with_context(attempt)?;
        fs::rename(&fresh, &at).with_context(attempt)
    }

    /// Removes a file where it is as it was written. Answers whether it was; one that is gone was.
    pub(super) fn take_back(&self, path: &Path, written: &str) -> Result<bool> {
        match self.hash(path)? {
            Some(there) if there != written => Ok(false),
            Some(_) => self.remove(path).map(|()| true),
            None => Ok(true),
        }
    }

    fn remove(&self, path: &Path) -> Result<()> {
        match fs::remove_file(self.at(path)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e).with_context(|| format!("cannot remove {}", path.display())),
            _ => Ok(()),
        }
    }

    fn hash(&self, path: &Path) -> Result<Option<String>> {
        match fs::read(self.at(path)) {
            Ok(bytes) => Ok(Some(hash(&bytes))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

/// Of what is written.
pub(super) fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}
