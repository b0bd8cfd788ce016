//! Layers: installed dependencies, kept under `cache/<app>/layers/<key>` and linked into every slug that declares the same.
//!
//! **Invariant:** a layer's bytes depend on its key only: no path of the build, no time, no order is left in it.
//! **Invariant:** no program of a build can write to a layer's files: it has copies, or another uid than their owner, or they lie on a read-only
//! mount.

use super::beneath::{Beneath, leads_nowhere};
use super::builder::Builder;
use crate::codebase::fingerprint::Hash;
use crate::release::scratch::Scratch;
use crate::release::store::{Entry, Known, StoreError, hex, settle};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The time of every file of a layer, and what builds of wheels are told to stamp: 2000-01-01, which zip files can hold.
pub(super) const EPOCH: u64 = 946_684_800;
/// The same as a file has it.
const EPOCH_TIME: (i64, i64) = (EPOCH.cast_signed(), 0);

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
        if whole {
            // Whoever makes room takes what was not used for longest.
            let _ = fs::File::open(place).and_then(|folder| folder.set_modified(SystemTime::now()));
        }
        whole.then_some(Self { tree, entries })
    }

    /// Keeps the folder `tree` of a scratch folder.
    pub(super) fn keep(scratch: &Scratch, place: &Path) -> Result<Self, StoreError> {
        let tree = scratch.path().join("tree");
        let written = |source| StoreError::Io { what: "write", path: place.to_owned(), source };
        strip(&tree).map_err(written)?;
        let entries = settle(&tree, &Known::new())?;
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

    /// Puts its files into `tree`, as links to the same bytes where the file system can. Folders that are missing are the builder's.
    pub(super) fn link(&self, tree: &Path, builder: Builder) -> io::Result<()> {
        let tree = Beneath::open(tree)?;
        self.entries.iter().try_for_each(|entry| self.link_one(entry, &tree, builder))
    }

    /// Puts one of its files into `tree`.
    pub(super) fn link_one(&self, entry: &Entry, tree: &Beneath, builder: Builder) -> io::Result<()> {
        let from = self.tree.join(&entry.path);
        let link =
            |to: &Path| if entry.kind == 'l' { std::os::unix::fs::symlink(fs::read_link(&from)?, to) } else { fs::hard_link(&from, to) };
        match tree.put(&entry.path, builder, link) {
            // The file system has no links, or the file has as many as it can have.
            Err(e) if entry.kind != 'l' && e.kind() != io::ErrorKind::AlreadyExists && !leads_nowhere(&e) => {
                tree.copy(&from, &entry.path, Builder::NOBODY)
            }
            other => other,
        }
    }

    /// Puts copies of its files into `tree`, for programs that write to them.
    pub(super) fn copy(&self, tree: &Path, builder: Builder) -> io::Result<()> {
        let tree = Beneath::open(tree)?;
        for entry in &self.entries {
            let from = self.tree.join(&entry.path);
            if entry.kind == 'l' {
                tree.put(&entry.path, builder, |to| std::os::unix::fs::symlink(fs::read_link(&from)?, to))?;
            } else {
                tree.copy(&from, &entry.path, builder)?;
            }
        }
        Ok(())
    }

    /// After programs had `tree`: puts links in the place of files that look as they did, and answers what is known by that. What a program
    /// changed stays as it is, and is not known.
    pub(super) fn relink(&self, tree: &Path) -> io::Result<Known> {
        let tree = Beneath::open(tree)?;
        let mut known = Known::new();
        for entry in self.entries.iter().filter(|e| e.kind != 'l') {
            let here = match tree.at(&entry.path, |path| fs::symlink_metadata(path)) {
                Err(e) if leads_nowhere(&e) => continue,
                meta => meta?,
            };
            let own = fs::symlink_metadata(self.tree.join(&entry.path))?;
            if (here.dev(), here.ino()) != (own.dev(), own.ino()) {
                if !entry.looks_like(&here) {
                    continue;
                }
                tree.remove(&entry.path)?;
                self.link_one(entry, &tree, Builder::NOBODY)?;
            }
            note(entry, &mut known);
        }
        Ok(known)
    }

    /// What is known of its files, so that nothing is hashed twice.
    pub(super) fn known(&self) -> Known {
        let mut known = Known::new();
        self.entries.iter().for_each(|entry| note(entry, &mut known));
        known
    }
}

/// Takes down what is known of a file that is a layer's.
pub(super) fn note(entry: &Entry, known: &mut Known) {
    if entry.kind != 'l' {
        known.insert(entry.path.clone(), (entry.clone(), EPOCH_TIME));
    }
}

impl Entry {
    /// Whether a file has a layer's time, and this size.
    pub(super) fn looks_like(&self, meta: &fs::Metadata) -> bool {
        meta.is_file() && meta.len() == self.size && (meta.mtime(), meta.mtime_nsec()) == EPOCH_TIME
    }
}

const UNIX: SystemTime = SystemTime::UNIX_EPOCH;

fn set_time(path: &Path, time: SystemTime) -> io::Result<()> {
    fs::File::open(path)?.set_modified(time)
}

/// Takes out of the virtual environment in `tree` what depends on where or by what it was made.
pub(super) fn strip(tree: &Path) -> io::Result<()> {
    let venv = tree.join(".venv");
    let tree = Beneath::open(tree)?;
    let config = Path::new(".venv/pyvenv.cfg");
    if let Ok(text) = tree.text(config) {
        let kept: String =
            text.lines().filter(|l| !l.starts_with("uv =") && !l.starts_with("prompt =")).map(|l| format!("{l}\n")).collect();
        rewrite(&tree, config, &text, &kept)?;
    }
    for leftover in [".lock", ".gitignore", "CACHEDIR.TAG"] {
        tree.remove(Path::new(".venv").join(leftover))?;
    }
    for site in site_packages(&venv) {
        for entry in fs::read_dir(&site)? {
            let info = entry?.path();
            if let Ok(within) = info.strip_prefix(&venv)
                && info.extension().is_some_and(|e| e == "dist-info")
            {
                strip_info(&tree, &Path::new(".venv").join(within))?;
            }
        }
    }
    Ok(())
}

/// `lib/python3.11/site-packages`.
pub(super) fn site_packages(venv: &Path) -> Vec<PathBuf> {
    let real = |path: &Path| fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    if ![venv, &venv.join("lib")].into_iter().all(real) {
        return Vec::new();
    }
    let versions = fs::read_dir(venv.join("lib")).into_iter().flatten().flatten().map(|v| v.path()).filter(|v| real(v));
    versions.map(|v| v.join("site-packages")).filter(|p| real(p)).collect()
}

/// Where a package of the source was built, and when, is nobody's business at run time; `RECORD` must not list what is gone.
fn strip_info(tree: &Beneath, info: &Path) -> io::Result<()> {
    let mut gone = Vec::new();
    for name in ["direct_url.json", "uv_cache.json", "uv_build.json"] {
        let path = info.join(name);
        let Ok(text) = tree.text(&path) else { continue };
        if name != "direct_url.json" || text.contains("\"file:") {
            tree.remove(&path)?;
            gone.push(format!("/{name},"));
        }
    }
    let record = info.join("RECORD");
    if let Ok(text) = tree.text(&record) {
        let mut lines: Vec<&str> = text.lines().filter(|l| !gone.iter().any(|g| l.contains(g.as_str()))).collect();
        lines.sort_unstable();
        let kept: String = lines.iter().map(|l| format!("{l}\n")).collect();
        rewrite(tree, &record, &text, &kept)?;
    }
    Ok(())
}

/// Writes a new file in place of one that may be linked from elsewhere.
fn rewrite(tree: &Beneath, path: &Path, old: &str, new: &str) -> io::Result<()> {
    if old == new { Ok(()) } else { tree.write(path, new.as_bytes(), Builder::NOBODY) }
}
