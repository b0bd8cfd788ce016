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
/// packages that go. Packages named in `kept` stay as they were installed.
pub(super) fn prune(tree: &Path, installed: &Layer, needed: &Layer, kept: &[String]) -> io::Result<Pruned> {
    let before: BTreeMap<&str, &Entry> = installed.entries().iter().map(|e| (e.path.as_str(), e)).collect();
    let mut after: BTreeMap<&str, &Entry> = needed.entries().iter().map(|e| (e.path.as_str(), e)).collect();
    let mut of_all = BTreeSet::new();
    for (path, entry) in before.iter().filter(|(path, _)| !after.contains_key(*path)) {
        let target = if entry.kind == 'l' { installed.target(entry) } else { None };
        if kept.iter().any(|name| stays(path, target.as_deref(), name)) {
            of_all.insert(*path);
        }
    }
    after.extend(of_all.iter().map(|path| (*path, before[path])));
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
        if of_all.contains(path) { installed } else { needed }.link_one(entry, tree)?;
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

/// Whether a file is of the package with this name: of one that the app itself uses, not of one within another package.
fn stays(path: &str, target: Option<&str>, name: &str) -> bool {
    let command = path.rsplit_once('/').is_some_and(|(folder, _)| folder == "node_modules/.bin" || folder.ends_with("/node_modules/.bin"));
    let own = match package(path) {
        Some(package) => package,
        // A link to a program is of the package that it leads into.
        None if command => return target.is_some_and(|t| t.strip_prefix("../").is_some_and(|t| in_package(t, name))),
        None => return false,
    };
    let Some(folder) = own.strip_suffix(name).and_then(|f| f.strip_suffix("node_modules/")) else { return false };
    match folder.split_once("node_modules/.pnpm/") {
        // pnpm keeps each package in a folder of its own, `typescript@5.9.3`, and links to it.
        Some((_, store)) => store.is_empty() || store.replace('+', "/").starts_with(&format!("{name}@")),
        None => !folder.contains("node_modules/"),
    }
}

fn in_package(path: &str, name: &str) -> bool {
    path.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
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
    fn a_package_that_is_kept_stays_with_its_links() {
        let npm = [
            ("node_modules/typescript/lib/t.js", ""),
            ("node_modules/.bin/tsc", "../typescript/bin/tsc"),
            ("node_modules/next/i.js", ""),
            ("node_modules/x/node_modules/typescript/t.js", ""),
            ("node_modules/typescript-x/t.js", ""),
            ("node_modules/.bin/x", "../typescript-x/t.js"),
        ];
        assert_eq!(
            left(&npm, &["node_modules/next/i.js"]),
            ["node_modules/.bin/tsc", "node_modules/next/i.js", "node_modules/typescript/lib/t.js"]
        );
        let pnpm = [
            ("node_modules/.pnpm/next@15/node_modules/next/i.js", ""),
            ("node_modules/.pnpm/typescript@5.9.3/node_modules/typescript/t.js", ""),
            ("node_modules/.pnpm/x@1/node_modules/typescript", "../../typescript@5.9.3/node_modules/typescript"),
            ("node_modules/.pnpm/x@1/node_modules/x/i.js", ""),
            ("node_modules/typescript", ".pnpm/typescript@5.9.3/node_modules/typescript"),
            ("node_modules/x", ".pnpm/x@1/node_modules/x"),
        ];
        assert_eq!(left(&pnpm, &[pnpm[0].0]), [pnpm[0].0, pnpm[1].0, pnpm[4].0]);
    }

    /// The files that are left of all, where some are needed and `typescript` is kept.
    fn left(all: &[(&str, &str)], needed: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().expect("a folder");
        let layer = |name: &str, files: &[(&str, &str)]| {
            let scratch = crate::release::scratch::Scratch::new(dir.path()).expect("made");
            for (path, target) in files {
                let path = scratch.path().join("tree").join(path);
                fs::create_dir_all(path.parent().expect("a parent")).expect("made");
                let put = if target.is_empty() { fs::write(&path, "x") } else { std::os::unix::fs::symlink(target, &path) };
                put.expect("written");
            }
            Layer::keep(&scratch, &dir.path().join(name)).expect("kept")
        };
        let some: Vec<(&str, &str)> = all.iter().filter(|(p, _)| needed.contains(p)).copied().collect();
        let (installed, needed) = (layer("all", all), layer("some", &some));
        let tree = dir.path().join("app");
        installed.copy(&tree).expect("copied");
        prune(&tree, &installed, &needed, &["typescript".to_owned()]).expect("pruned");
        let there = |p: &str| fs::symlink_metadata(tree.join(p)).is_ok();
        let mut left: Vec<String> = all.iter().filter(|(p, _)| there(p)).map(|(p, _)| (*p).to_owned()).collect();
        left.sort();
        left
    }

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
