//! Layers: installed dependencies, kept under `cache/<app>/layers/<key>` and linked into every slug that declares the same.
//!
//! **Invariant:** a layer's bytes depend on its key only: no path of the build, no time, no order is left in it.

use crate::codebase::fingerprint::Hash;
use crate::release::scratch::Scratch;
use crate::release::store::{Entry, StoreError, hex, settle};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The time of every file of a layer, and what builds of wheels are told to stamp: 2000-01-01, which zip files can hold.
pub(super) const EPOCH: u64 = 946_684_800;

/// A layer in its place.
pub(super) struct Layer {
    tree: PathBuf,
    entries: Vec<Entry>,
}

/// The place of a layer.
pub(super) fn place(cache: &Path, key: &Hash) -> PathBuf {
    cache.join("layers").join(&hex(key)[..32])
}

impl Layer {
    /// One that was kept; `None` where there is none or it is damaged, and then it is made again.
    pub(super) fn open(place: &Path) -> Option<Self> {
        let entries: Vec<Entry> = serde_json::from_slice(&fs::read(place.join("manifest.json")).ok()?).ok()?;
        let tree = place.join("tree");
        // A build step that wrote through a link changed the time; a person who tidied up took files away.
        let whole = entries.iter().all(|entry| {
            let meta = fs::symlink_metadata(tree.join(&entry.path));
            meta.is_ok_and(|m| {
                entry.kind == 'l' || (m.len() == entry.size && m.modified().is_ok_and(|t| t == UNIX + Duration::from_secs(EPOCH)))
            })
        });
        whole.then_some(Self { tree, entries })
    }

    /// Keeps the folder `tree` of a scratch folder.
    pub(super) fn keep(scratch: &Scratch, place: &Path) -> Result<Self, StoreError> {
        let tree = scratch.path().join("tree");
        let written = |source| StoreError::Io { what: "write", path: place.to_owned(), source };
        strip(&tree.join(".venv")).map_err(written)?;
        let entries = settle(&tree, &HashMap::new())?;
        for entry in entries.iter().filter(|e| e.kind != 'l') {
            set_time(&tree.join(&entry.path), UNIX + Duration::from_secs(EPOCH)).map_err(written)?;
        }
        let bytes = serde_json::to_vec(&entries).map_err(|e| written(e.into()))?;
        fs::write(scratch.path().join("manifest.json"), bytes).map_err(written)?;
        if place.exists() && Self::open(place).is_none() {
            crate::release::scratch::remove(place).map_err(written)?;
        }
        scratch.keep("", place).map_err(written)?;
        Ok(Self { tree: place.join("tree"), entries })
    }

    /// Its files and links, sorted.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What one of its links leads to.
    pub(super) fn target(&self, entry: &Entry) -> Option<String> {
        Some(fs::read_link(self.tree.join(&entry.path)).ok()?.to_string_lossy().into_owned())
    }

    /// Puts its files into `tree`, as links to the same bytes where the file system can.
    pub(super) fn link(&self, tree: &Path) -> io::Result<()> {
        self.entries.iter().try_for_each(|entry| self.link_one(entry, tree))
    }

    /// Puts one of its files into `tree`.
    pub(super) fn link_one(&self, entry: &Entry, tree: &Path) -> io::Result<()> {
        let (from, to) = (self.tree.join(&entry.path), tree.join(&entry.path));
        let put = || if entry.kind == 'l' { std::os::unix::fs::symlink(fs::read_link(&from)?, &to) } else { fs::hard_link(&from, &to) };
        let done = put().or_else(|e| match (e.kind(), to.parent()) {
            // Its folder is made when its first file comes.
            (io::ErrorKind::NotFound, Some(folder)) => fs::create_dir_all(folder).and_then(|()| put()),
            _ => Err(e),
        });
        match done {
            Err(e) if entry.kind != 'l' && !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => {
                copy_one(&from, &to)
            }
            other => other,
        }
    }

    /// Puts copies of its files into `tree`, for programs that write to them.
    pub(super) fn copy(&self, tree: &Path) -> io::Result<()> {
        for entry in &self.entries {
            let (from, to) = (self.tree.join(&entry.path), tree.join(&entry.path));
            fs::create_dir_all(to.parent().unwrap_or(tree))?;
            if entry.kind == 'l' { std::os::unix::fs::symlink(fs::read_link(&from)?, &to)? } else { copy_one(&from, &to)? }
        }
        Ok(())
    }

    /// What is known of its files, so that nothing is hashed twice.
    pub(super) fn known(&self) -> HashMap<String, (Entry, i64)> {
        let time = i64::try_from(EPOCH).unwrap_or(i64::MAX);
        self.entries.iter().filter(|e| e.kind != 'l').map(|e| (e.path.clone(), (e.clone(), time))).collect()
    }
}

fn copy_one(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    set_time(to, UNIX + Duration::from_secs(EPOCH))
}

const UNIX: SystemTime = SystemTime::UNIX_EPOCH;

fn set_time(path: &Path, time: SystemTime) -> io::Result<()> {
    fs::File::open(path)?.set_modified(time)
}

/// Takes out of a virtual environment what depends on where or by what it was made.
pub(super) fn strip(venv: &Path) -> io::Result<()> {
    let config = venv.join("pyvenv.cfg");
    if let Ok(text) = fs::read_to_string(&config) {
        let kept: String =
            text.lines().filter(|l| !l.starts_with("uv =") && !l.starts_with("prompt =")).map(|l| format!("{l}\n")).collect();
        rewrite(&config, &text, kept)?;
    }
    for leftover in [".lock", ".gitignore", "CACHEDIR.TAG"] {
        match fs::remove_file(venv.join(leftover)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    for site in site_packages(venv) {
        for entry in fs::read_dir(&site)? {
            let info = entry?.path();
            if info.extension().is_some_and(|e| e == "dist-info") {
                strip_info(&info)?;
            }
        }
    }
    Ok(())
}

/// `lib/python3.11/site-packages`.
pub(super) fn site_packages(venv: &Path) -> Vec<PathBuf> {
    let versions = fs::read_dir(venv.join("lib")).into_iter().flatten().flatten();
    versions.map(|v| v.path().join("site-packages")).filter(|p| p.is_dir()).collect()
}

/// Where a package of the source was built, and when, is nobody's business at run time; `RECORD` must not list what is gone.
fn strip_info(info: &Path) -> io::Result<()> {
    let mut gone = Vec::new();
    for name in ["direct_url.json", "uv_cache.json", "uv_build.json"] {
        let path = info.join(name);
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if name != "direct_url.json" || text.contains("\"file:") {
            fs::remove_file(&path)?;
            gone.push(format!("/{name},"));
        }
    }
    let record = info.join("RECORD");
    if let Ok(text) = fs::read_to_string(&record) {
        let mut lines: Vec<&str> = text.lines().filter(|l| !gone.iter().any(|g| l.contains(g.as_str()))).collect();
        lines.sort_unstable();
        let kept = lines.iter().map(|l| format!("{l}\n")).collect();
        rewrite(&record, &text, kept)?;
    }
    Ok(())
}

/// Writes a new file in place of one that may be linked from elsewhere.
fn rewrite(path: &Path, old: &str, new: String) -> io::Result<()> {
    if old == new {
        return Ok(());
    }
    fs::remove_file(path)?;
    fs::write(path, new)
}
