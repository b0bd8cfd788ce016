//! What is left of `node_modules` after a build: what is needed to run, and what scripts made there.

use crate::dependencies::layers::{EPOCH, Layer};
use crate::release::store::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is known of files, with their times.
pub(in crate::dependencies) type Known = HashMap<String, (Entry, i64)>;

/// What came of it.
pub(super) struct Pruned {
    pub(super) known: Known,
    /// How many packages are gone.
    pub(super) removed: usize,
}

/// Leaves of the packages that were installed those that are needed, as links to the layer of these; what scripts changed or added stays, but in
/// packages that go.
pub(super) fn prune(tree: &Path, installed: &Layer, needed: &Layer) -> io::Result<Pruned> {
    let before: BTreeMap<&str, &Entry> = installed.entries().iter().map(|e| (e.path.as_str(), e)).collect();
    let after: BTreeMap<&str, &Entry> = needed.entries().iter().map(|e| (e.path.as_str(), e)).collect();
    let packages = |entries: &BTreeMap<&str, &Entry>| entries.keys().filter_map(|p| package(p).map(str::to_owned)).collect::<BTreeSet<_>>();
    let (had, stay) = (packages(&before), packages(&after));
    let mut removed = 0;
    for gone in had.difference(&stay) {
        let path = tree.join(gone);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => crate::release::scratch::remove(&path)?,
            Ok(_) => fs::remove_file(&path)?,
            Err(_) => {}
        }
        removed += 1;
    }
    for path in before.keys().filter(|p| !after.contains_key(**p)) {
        match fs::remove_file(tree.join(path)) {
            // It went with its package, or a script removed it or made a folder of it.
            Err(e) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory, io::ErrorKind::IsADirectory].contains(&e.kind()) => {}
            other => other?,
        }
    }
    let mut known = Known::new();
    let time = i64::try_from(EPOCH).unwrap_or(i64::MAX);
    for (path, entry) in &after {
        let here = tree.join(path);
        let same = fs::symlink_metadata(&here).map(|meta| match before.get(path) {
            Some(old) if old.kind == 'l' => meta.is_symlink(),
            Some(old) => meta.is_file() && meta.len() == old.size && meta.mtime() == time && meta.mtime_nsec() == 0,
            None => false,
        });
        match same {
            // A script wrote it.
            Ok(false) => continue,
            Ok(true) => fs::remove_file(&here)?,
            // A script removed it.
            Err(_) if before.contains_key(path) => continue,
            Err(_) => {}
        }
        needed.link_one(entry, tree)?;
        if entry.kind != 'l' {
            known.insert((*path).to_owned(), ((*entry).clone(), time));
        }
    }
    drop_empty(&tree.join("node_modules"))?;
    Ok(Pruned { known, removed })
}

/// The folder of the package that a file of `node_modules` belongs to.
fn package(path: &str) -> Option<&str> {
    let (head, _) = path.rmatch_indices("node_modules/").find(|(i, _)| *i == 0 || path.as_bytes()[i - 1] == b'/')?;
    let start = head + "node_modules/".len();
    let mut parts = path[start..].split('/');
    let first = parts.next()?;
    let length = if first.starts_with('@') { first.len() + 1 + parts.next()?.len() } else { first.len() };
    (!first.starts_with('.')).then(|| &path[..start + length])
}

/// Removes empty folders; answers whether this one is gone.
fn drop_empty(folder: &Path) -> io::Result<bool> {
    let mut empty = true;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let gone = entry.file_type().is_ok_and(|t| t.is_dir()) && drop_empty(&entry.path())?;
        empty &= gone;
    }
    // Not there at all is as good.
    Ok(empty && fs::remove_dir(folder).is_ok())
}

/// What package managers note for themselves: times, and where they found things.
const NOTES: [&str; 8] = [
    ".package-lock.json",
    ".modules.yaml",
    ".yarn-integrity",
    ".package-map.json",
    ".pnpm-workspace-state.json",
    ".pnpm-workspace-state-v1.json",
    ".pnpm-debug.log",
    ".cache",
];
/// What node-gyp leaves beside what it made: paths of this machine.
const LEFT: [&str; 5] = ["config.gypi", "Makefile", "binding.Makefile", "gyp-mac-tool", "node_gyp_bins"];

/// Keeps the `node_modules` folders of a folder and nothing else, and of them what does not depend on where or when they were made.
pub(super) fn only_modules(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if !entry.file_type()?.is_dir() {
            fs::remove_file(&path)?;
        } else if entry.file_name() == "node_modules" {
            for name in NOTES {
                remove_any(&path.join(name))?;
            }
            remove_any(&path.join(".pnpm/lock.yaml"))?;
            clean(&path)?;
        } else {
            only_modules(&path)?;
            // A folder without modules below it.
            let _ = fs::remove_dir(&path);
        }
    }
    Ok(())
}

fn clean(folder: &Path) -> io::Result<()> {
    let compiled = folder.file_name().is_some_and(|n| n == "build") && folder.join("config.gypi").exists();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if compiled && (LEFT.contains(&&*name) || name.ends_with(".mk")) {
            remove_any(&path)?;
        } else if entry.file_type()?.is_dir() {
            if compiled {
                for left in [".deps", "obj", "obj.target", ".forge-meta"] {
                    remove_any(&path.join(left))?;
                }
            }
            clean(&path)?;
        }
    }
    Ok(())
}

fn remove_any(path: &PathBuf) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => crate::release::scratch::remove(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_belongs_to_its_innermost_package() {
        let cases = [
            ("node_modules/a/index.js", Some("node_modules/a")),
            ("node_modules/@x/a/lib/i.js", Some("node_modules/@x/a")),
            ("node_modules/a/node_modules/b/i.js", Some("node_modules/a/node_modules/b")),
            ("node_modules/.pnpm/a@1/node_modules/a/i.js", Some("node_modules/.pnpm/a@1/node_modules/a")),
            ("node_modules/.bin/tsc", None),
            ("apps/web/node_modules/a", Some("apps/web/node_modules/a")),
            ("node_modules/my_node_modules/x", Some("node_modules/my_node_modules")),
        ];
        for (path, want) in cases {
            assert_eq!(package(path), want, "{path}");
        }
    }
}
