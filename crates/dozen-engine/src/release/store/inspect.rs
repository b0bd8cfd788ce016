//! Whether a slug of the store is what its name says: its files are read and hashed again, and nothing is changed.

use super::{Entry, Wire, hex, identify};
use crate::codebase::fingerprint::hash_file;
use crate::home::Home;
use dozen_core::ids::SlugId;
use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What is there of a whole slug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    /// Files and links.
    pub files: usize,
    /// Bytes of them.
    pub size: u64,
}

/// Reads all of a slug. Blocks for as long as that takes.
///
/// # Errors
/// The first thing that is not as it was when the slug was made, as words that follow "is torn: ".
pub fn inspect(home: &Home, id: &SlugId) -> Result<Whole, String> {
    let folder = home.slug(id);
    let read = |name: &str| fs::read(folder.join(name)).map_err(|e| format!("{name} cannot be read: {e}"));
    let wire: Wire = serde_json::from_slice(&read("slug.json")?).map_err(|e| format!("slug.json: {e}"))?;
    let entries: Vec<Entry> = serde_json::from_slice(&read("manifest.json")?).map_err(|e| format!("manifest.json: {e}"))?;
    if identify(&entries, &wire) != *id {
        return Err("slug.json and manifest.json are not those that it was made with".to_owned());
    }
    let mut missing: BTreeMap<&str, &Entry> = entries.iter().map(|entry| (entry.path.as_str(), entry)).collect();
    let tree = folder.join("tree");
    let mut folders = vec![String::new()];
    while let Some(relative) = folders.pop() {
        let failed = |path: &str| {
            let path = path.to_owned();
            move |e: io::Error| format!("tree/{path} cannot be read: {e}")
        };
        for entry in fs::read_dir(tree.join(&relative)).map_err(failed(&relative))? {
            let entry = entry.map_err(failed(&relative))?;
            let name = entry.file_name().into_string().map_err(|name| format!("tree/{relative} has {}", name.display()))?;
            let path = if relative.is_empty() { name } else { format!("{relative}/{name}") };
            let meta = entry.metadata().map_err(failed(&path))?;
            if meta.is_dir() {
                folders.push(path);
                continue;
            }
            let known = missing.remove(path.as_str()).ok_or_else(|| format!("tree/{path} was not in it"))?;
            if !is(known, &entry.path(), &meta).map_err(failed(&path))? {
                return Err(format!("tree/{path} is not what it was"));
            }
        }
    }
    match missing.into_keys().next() {
        Some(path) => Err(format!("tree/{path} is missing")),
        None => Ok(Whole { files: entries.len(), size: entries.iter().map(|entry| entry.size).sum() }),
    }
}

fn is(known: &Entry, path: &Path, meta: &Metadata) -> io::Result<bool> {
    if meta.is_symlink() {
        let target = fs::read_link(path)?;
        let hash = target.to_str().map(|target| hex(blake3::hash(target.as_bytes()).as_bytes()));
        return Ok(known.kind == 'l' && hash.as_deref() == Some(&known.hash));
    }
    let kind = if meta.mode() & 0o100 != 0 { 'x' } else { 'f' };
    Ok(meta.is_file() && known.kind == kind && known.size == meta.len() && hex(&hash_file(path)?) == known.hash)
}

#[cfg(test)]
mod tests {
    use super::super::{Facts, take};
    use super::*;
    use crate::release::scratch::Scratch;
    use dozen_core::dependencies::Stack;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn slug(home: &Home) -> SlugId {
        let scratch = Scratch::new(&home.slugs()).expect("made");
        let tree = scratch.path().join("tree");
        fs::create_dir_all(tree.join("bin")).expect("made");
        fs::write(tree.join("bin/web"), "#!/bin/sh\n").expect("written");
        fs::set_permissions(tree.join("bin/web"), fs::Permissions::from_mode(0o755)).expect("set");
        fs::write(tree.join("page"), "hello").expect("written");
        symlink("page", tree.join("index")).expect("linked");
        let (processes, env, needs, scratches) = Default::default();
        let stack = Stack { pack: "procfile".into(), runtime: None };
        let facts = Facts { stack, processes, env, needs, console: None, scratch: scratches, rules: BTreeMap::default(), commit: None };
        take(home, &scratch, &facts, &std::collections::HashMap::new()).expect("taken").0.id
    }

    #[test]
    fn a_slug_is_whole_until_anything_of_it_changes() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 8] = [
            ("tree/page is not what it was", |slug| fs::write(slug.join("tree/page"), "hullo").expect("written")),
            ("tree/page is not what it was", |slug| fs::write(slug.join("tree/page"), "").expect("written")),
            ("tree/page is missing", |slug| fs::remove_file(slug.join("tree/page")).expect("removed")),
            ("tree/more was not in it", |slug| fs::write(slug.join("tree/more"), "").expect("written")),
            ("tree/bin/web is not what it was", |slug| {
                fs::set_permissions(slug.join("tree/bin/web"), fs::Permissions::from_mode(0o644)).expect("set");
            }),
            ("tree/index is not what it was", |slug| {
                fs::remove_file(slug.join("tree/index")).expect("removed");
                symlink("/etc/passwd", slug.join("tree/index")).expect("linked");
            }),
            ("slug.json and manifest.json are not those that it was made with", |slug| {
                fs::write(slug.join("manifest.json"), "[]").expect("written");
            }),
            ("slug.json cannot be read: No such file or directory (os error 2)", |slug| {
                fs::remove_file(slug.join("slug.json")).expect("removed");
            }),
        ];
        for (flaw, change) in changes {
            let folder = tempfile::tempdir().expect("a folder");
            let home = Home::at(folder.path());
            home.make().expect("made");
            let id = slug(&home);
            assert_eq!(inspect(&home, &id), Ok(Whole { files: 3, size: 15 }));
            change(&home.slug(&id));
            assert_eq!(inspect(&home, &id), Err(flaw.to_owned()));
        }
    }
}
