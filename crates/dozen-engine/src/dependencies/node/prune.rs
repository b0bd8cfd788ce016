//! What is left of `node_modules` after a build: what is needed to run, and what scripts made there.

use crate::dependencies::beneath::{Beneath, leads_nowhere};
use crate::dependencies::builder::Builder;
use crate::dependencies::layers::{Layer, note};
use crate::release::store::{Entry, Known};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What of the packages that were installed is to stay.
pub(super) struct Pruning<'a> {
    installed: &'a Layer,
    needed: &'a Layer,
    before: BTreeMap<&'a str, &'a Entry>,
    after: BTreeMap<&'a str, &'a Entry>,
    /// Of those that stay, the files of packages that stay as they were installed.
    of_all: BTreeSet<&'a str>,
}

impl<'a> Pruning<'a> {
    /// Those that are needed, and those named in `kept`.
    pub(super) fn of(installed: &'a Layer, needed: &'a Layer, kept: &[String]) -> Self {
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
        Self { installed, needed, before, after, of_all }
    }

    /// Removes the packages that go, with what scripts made in them. Answers how many.
    pub(super) fn remove(&self, root: &Path) -> io::Result<usize> {
        let tree = Beneath::open(root)?;
        let packages = |entries: &BTreeMap<&str, &Entry>| entries.keys().filter_map(|p| package(p).map(str::to_owned)).collect();
        let (had, stay): (BTreeSet<String>, BTreeSet<String>) = (packages(&self.before), packages(&self.after));
        let mut removed = 0;
        for gone in had.difference(&stay) {
            tree.remove(gone)?;
            removed += 1;
        }
        for path in self.before.keys().filter(|p| !self.after.contains_key(**p)) {
            match tree.at(path, |path| fs::remove_file(path)) {
                // It went with its package, or a script removed it or made a folder of it.
                Err(e) if leads_nowhere(&e) || e.kind() == io::ErrorKind::IsADirectory => {}
                other => other?,
            }
        }
        let modules = root.join("node_modules");
        if fs::symlink_metadata(&modules).is_ok_and(|m| m.is_dir()) {
            drop_empty(&modules)?;
        }
        Ok(removed)
    }

    /// Puts links to the layers in the place of what looks as it was installed, once no script runs any more. What scripts changed or added
    /// stays. Answers what is known by that.
    pub(super) fn link(&self, root: &Path) -> io::Result<Known> {
        let tree = Beneath::open(root)?;
        let mut known = Known::new();
        for (path, entry) in &self.after {
            let same = match tree.at(path, |path| fs::symlink_metadata(path)) {
                Ok(meta) => Some(match self.before.get(path) {
                    Some(old) if old.kind == 'l' => meta.is_symlink(),
                    Some(old) => old.looks_like(&meta),
                    None => false,
                }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                // In a file, or by a link, that a script put where a folder was.
                Err(e) if leads_nowhere(&e) => continue,
                Err(e) => return Err(e),
            };
            match same {
                // A script wrote it.
                Some(false) => continue,
                Some(true) => tree.remove(path)?,
                // A script removed it.
                None if self.before.contains_key(path) => continue,
                None => {}
            }
            let layer = if self.of_all.contains(path) { self.installed } else { self.needed };
            layer.link_one(entry, &tree, Builder::NOBODY)?;
            note(entry, &mut known);
        }
        Ok(known)
    }
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
            Beneath::open(&path)?.remove(".pnpm/lock.yaml")?;
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
        fs::create_dir(&tree).expect("made");
        installed.copy(&tree, Builder::NOBODY).expect("copied");
        let kept = ["typescript".to_owned()];
        let pruning = Pruning::of(&installed, &needed, &kept);
        pruning.remove(&tree).expect("pruned");
        pruning.link(&tree).expect("linked");
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
