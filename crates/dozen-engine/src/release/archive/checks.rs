//! What the list of a slug file, its links and its facts may say. Pure: nothing here touches a disk.

use super::{ArchiveError, Limits, MANIFEST};
use crate::release::machine::{Machine, is_interpreter};
use crate::release::store::Entry;
use dozen_core::ids::TypeName;
use dozen_core::release::Slug;
use std::collections::{BTreeMap, HashSet};

/// The longest path, in bytes: deeper than any that a source may have, since packages are installed below it.
const MAX_PATH: usize = 2048;
/// The longest name of one file, as of every file system in use.
const MAX_NAME: usize = 255;
/// More links on one way than this are a circle, as Linux has it.
const MOST_LINKS: usize = 40;

/// What a file says, as an error shows it: short, and without anything that a terminal would obey.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Whether a path is plain: relative, without empty parts, `.` and `..`.
fn path_fault(path: &str) -> Option<&'static str> {
    let parts = || path.split('/');
    match path {
        _ if path.is_empty() || path.starts_with('/') => Some("it is no path within the slug"),
        _ if parts().any(|p| matches!(p, "" | "." | "..")) => Some("its path has an empty part, `.` or `..`"),
        _ if path.contains('\0') => Some("its path has a NUL byte"),
        _ if path.len() > MAX_PATH || parts().any(|p| p.len() > MAX_NAME) => Some("its path is too long"),
        _ => None,
    }
}

/// The list as a whole: plain paths, sorted, none twice, none below a file, within the limits.
pub(super) fn list(entries: &[Entry], limits: &Limits) -> Result<(), ArchiveError> {
    if entries.len() > limits.entries {
        return Err(ArchiveError::TooLarge { what: format!("{} files", entries.len()), most: limits.entries.to_string() });
    }
    let total = entries.iter().try_fold(0u64, |sum, e| sum.checked_add(e.size));
    match total {
        Some(total) if total <= limits.unpacked => {}
        total => return Err(ArchiveError::bytes(total.unwrap_or(u64::MAX), limits.unpacked)),
    }
    let paths: HashSet<&str> = entries.iter().map(|e| e.path.as_str()).collect();
    let mut before: Option<&Entry> = None;
    for entry in entries {
        let fault = path_fault(&entry.path).or_else(|| {
            let below = entry.path.match_indices('/').any(|(at, _)| paths.contains(&entry.path[..at]));
            let hex = entry.hash.len() == 64 && entry.hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            match entry.kind {
                _ if before.is_some_and(|b| b.path == entry.path) => Some("it is there twice"),
                _ if before.is_some_and(|b| b > entry) => Some("the list is not sorted"),
                _ if below => Some("it lies below a file or a link"),
                'l' if entry.size != 0 => Some("a link has no size"),
                'f' | 'x' | 'l' if hex => None,
                'f' | 'x' | 'l' => Some("its hash is none"),
                _ => Some("it is neither a file nor a link"),
            }
        });
        if let Some(why) = fault {
            return Err(ArchiveError::member(format!("{MANIFEST}: {}", entry.path), why));
        }
        before = Some(entry);
    }
    Ok(())
}

/// What the facts say is what a build could have said.
pub(super) fn facts(slug: &Slug, named: usize, entries: &[Entry], machine: &Machine) -> Result<(), ArchiveError> {
    let refused = |why: String| Err(ArchiveError::member(super::HEAD, why));
    let bad = |text: &str| text.is_empty() || text.contains('\0');
    let stack = [Some(&slug.stack.pack), slug.stack.runtime.as_ref()];
    if stack.into_iter().flatten().any(|s| s.len() > 64 || s.chars().any(char::is_control)) {
        return refused("its stack is none".into());
    }
    if slug.processes.len() != named || slug.processes.iter().any(|p| bad(&p.command)) {
        return refused("a process type has no name or no command".into());
    }
    let types: HashSet<&TypeName> = slug.processes.iter().map(|p| &p.name).collect();
    if types.len() != named {
        return refused("a process type is there twice".into());
    }
    if slug.env.iter().any(|(name, value)| bad(name) || name.contains('=') || value.contains('\0')) {
        return refused("a variable has no name, or has one that no environment can carry".into());
    }
    if slug.console.as_deref().is_some_and(bad) {
        return refused("its console is no command".into());
    }
    if slug.commit.as_ref().is_some_and(|c| !matches!(c.hash.len(), 40 | 64) || !c.hash.bytes().all(|b| b.is_ascii_hexdigit())) {
        return refused("its commit is none".into());
    }
    if let Some(folder) = slug.needs.iter().find(|n| !n.is_absolute()) {
        return refused(format!("it needs {}, which is no absolute path", shown(&folder.to_string_lossy())));
    }
    for folder in &slug.scratch {
        let taken = |path: &str| entries.binary_search_by(|e| e.path.as_str().cmp(path)).is_ok();
        let ends = folder.match_indices('/').map(|(at, _)| at).chain([folder.len()]);
        if path_fault(folder).is_some() || ends.into_iter().any(|end| taken(&folder[..end])) {
            return refused(format!("its scratch folder {} is no folder of it", shown(folder)));
        }
    }
    let language = slug.stack.runtime.as_deref().and_then(|r| r.rsplit_once(' ')).map_or("", |(language, _)| language);
    match &machine.program {
        Some(program) if !is_interpreter(language, program) => {
            refused(format!("it names {} as its interpreter, which is none by its name", shown(&program.to_string_lossy())))
        }
        None if !slug.needs.is_empty() => refused("it needs folders of the machine and names no interpreter".into()),
        _ => Ok(()),
    }
}

/// Why a link may not be there. Links stay within the slug, but for the one to the interpreter.
pub(super) fn link_fault(path: &str, links: &BTreeMap<String, String>, machine: &Machine) -> Option<String> {
    let target = links.get(path)?;
    if target.is_empty() || target.contains('\0') {
        return Some("it leads nowhere".into());
    }
    let interpreter = |t: &str| machine.program.as_deref().and_then(|p| p.to_str()) == Some(t);
    if target.starts_with('/') {
        return (!interpreter(target)).then(|| format!("it is a link to {}, outside of the slug", shown(target)));
    }
    // The way that the kernel goes, part by part: a link on it leads on from where it lies.
    let mut at: Vec<&str> = path.split('/').collect();
    at.pop();
    let mut ahead: Vec<&str> = target.split('/').rev().collect();
    let mut followed = 0;
    while let Some(part) = ahead.pop() {
        match part {
            "" | "." => {}
            ".." if at.pop().is_none() => return Some(format!("it is a link to {}, outside of the slug", shown(target))),
            ".." => {}
            name => {
                at.push(name);
                let Some(next) = links.get(&at.join("/")) else { continue };
                followed += 1;
                // A circle leads nowhere, and so not out.
                if followed > MOST_LINKS || interpreter(next) {
                    return None;
                }
                at.pop();
                ahead.extend(next.split('/').rev());
                if next.starts_with('/') {
                    // That one is refused by itself.
                    return None;
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: char) -> Entry {
        Entry { path: path.into(), kind, size: u64::from(kind != 'l'), hash: "0".repeat(64) }
    }

    fn fault(entries: &[Entry]) -> String {
        list(entries, &Limits { entries: 4, unpacked: 10, ..Limits::default() }).map_or_else(|e| e.to_string(), |()| "fine".into())
    }

    #[test]
    fn lists_are_plain_sorted_and_bounded() {
        assert_eq!(fault(&[entry("a", 'f'), entry("a b", 'x'), entry("b/c", 'l')]), "fine");
        for (paths, why) in [
            (vec!["/etc/passwd"], "no path within"),
            (vec![""], "no path within"),
            (vec!["../x"], "`..`"),
            (vec!["a/../../x"], "`..`"),
            (vec!["a//b"], "empty part"),
            (vec!["./a"], "`.`"),
            (vec!["a/"], "empty part"),
            (vec!["a\0b"], "NUL"),
            (vec!["b", "a"], "not sorted"),
            (vec!["a", "a"], "twice"),
            (vec!["a", "a/b"], "below a file"),
            (vec!["a", "a/b/c"], "below a file"),
            (vec!["a", "b", "c", "d", "e"], "5 files"),
        ] {
            let entries: Vec<Entry> = paths.iter().map(|p| entry(p, 'f')).collect();
            assert!(fault(&entries).contains(why), "{paths:?}: {}", fault(&entries));
        }
        assert!(fault(&[entry(&"x".repeat(256), 'f')]).contains("too long"));
        assert!(fault(&[Entry { size: u64::MAX, ..entry("a", 'f') }, entry("b", 'f')]).contains("may have"));
        assert!(fault(&[Entry { size: 11, ..entry("a", 'f') }]).contains("may have"));
        assert!(fault(&[Entry { kind: 'd', ..entry("a", 'f') }]).contains("neither"));
        assert!(fault(&[Entry { hash: "A".repeat(64), ..entry("a", 'f') }]).contains("hash"));
        assert!(fault(&[Entry { size: 1, ..entry("a", 'l') }]).contains("no size"));
    }

    #[test]
    fn links_stay_within() {
        let python = Machine { program: Some("/usr/bin/python3.11".into()), ..Machine::default() };
        let check = |links: &[(&str, &str)], want: bool| {
            let map: BTreeMap<String, String> = links.iter().map(|(p, t)| ((*p).to_owned(), (*t).to_owned())).collect();
            let out = map.keys().find_map(|p| link_fault(p, &map, &python));
            assert_eq!(out.is_none(), want, "{links:?}: {out:?}");
        };
        check(&[(".venv/bin/python", "/usr/bin/python3.11"), (".venv/bin/python3", "python"), (".venv/lib64", "lib")], true);
        check(&[("a", "/usr/bin/python3.12")], false);
        check(&[("a", "/etc/passwd")], false);
        check(&[("a", "..")], false);
        check(&[("a/b", "..")], true);
        check(&[("a/b", "../..")], false);
        check(&[("a/b", "../../c")], false);
        check(&[("a/b", "c/../../..")], false);
        check(&[("a", "")], false);
        check(&[("a", "a")], true);
        check(&[("a", "b"), ("b", "a")], true);
        check(&[("a", "./b//c/.")], true);
        // What looks like staying within, and does not by way of another link.
        check(&[("d/e/up", "../.."), ("x", "d/e/up/../secret")], false);
        check(&[("d/e/up", "../.."), ("x", "d/e/up/secret")], true);
        check(&[("deep", "a/b/c"), ("x", "deep/../../y")], true);
    }
}
