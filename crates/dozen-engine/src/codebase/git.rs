//! Asking git what a folder holds. git reads the folder's own configuration, which may be a stranger's: whatever in it names a
//! program is switched off first.

use super::{Listed, MAX_DEPTH, MAX_FILES, ReadError};
use dozen_core::codebase::Commit;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What git knows of a folder.
pub(super) struct Listing {
    pub(super) files: Vec<Listed>,
    pub(super) commit: Option<Commit>,
    pub(super) warnings: Vec<String>,
}

/// `None` where the folder is no git work tree, or is wholly ignored by the one around it, or git is not installed.
pub(super) fn list(folder: &Path) -> Result<Option<Listing>, ReadError> {
    if !folder.ancestors().any(|a| a.join(".git").exists()) {
        return Ok(None);
    }
    let Some(git) = Git::at(folder)? else { return Ok(None) };
    let (files, status) = std::thread::scope(|scope| {
        let status = scope.spawn(|| git.commit());
        (git.files(), status.join())
    });
    let (files, warnings) = files?;
    let nothing_listed =
        files.is_empty() && std::fs::read_dir(folder).is_ok_and(|mut d| d.any(|e| e.is_ok_and(|e| e.file_name() != ".git")));
    if nothing_listed && !folder.join(".git").exists() {
        return Ok(None);
    }
    Ok(Some(Listing { files, commit: status.unwrap_or(None), warnings }))
}

struct Git<'a> {
    folder: &'a Path,
    /// `-c name=value`: filters that the repository's configuration declares, each made empty.
    neutral: Vec<String>,
}

impl<'a> Git<'a> {
    fn at(folder: &'a Path) -> Result<Option<Self>, ReadError> {
        let mut git = Self { folder, neutral: Vec::new() };
        let inside = match git.run(folder, &["rev-parse", "--is-inside-work-tree"]) {
            Ok(out) => out,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(ReadError::Git { folder: folder.to_owned(), stderr: e.to_string() }),
        };
        if !inside.status.success() {
            let stderr = String::from_utf8_lossy(&inside.stderr);
            // A stray empty `.git` folder makes no repository.
            if stderr.contains("not a git repository") {
                return Ok(None);
            }
            return Err(ReadError::Git { folder: folder.to_owned(), stderr: said(&inside) });
        }
        if inside.stdout.trim_ascii() != b"true" {
            return Ok(None);
        }
        if let Ok(filters) = git.run(folder, &["config", "-z", "--name-only", "--get-regexp", "^filter\\."]) {
            for name in filters.stdout.split(|b| *b == 0).filter_map(|n| std::str::from_utf8(n).ok()).filter(|n| !n.is_empty()) {
                let value = if name.ends_with(".required") { "false" } else { "" };
                // `-c` splits at the first `=`, which a filter's own name could hold: such a name is passed over by failing closed.
                if name.contains('=') {
                    return Err(ReadError::Git { folder: folder.to_owned(), stderr: format!("the filter name {name:?} holds a `=`") });
                }
                git.neutral.push(format!("{name}={value}"));
            }
        }
        Ok(Some(git))
    }

    /// Tracked files and untracked ones that nothing ignores, those of submodules among them.
    fn files(&self) -> Result<(Vec<Listed>, Vec<String>), ReadError> {
        let mut files = Vec::new();
        let mut warnings = Vec::new();
        let mut queue = vec![(PathBuf::new(), 0usize)];
        while let Some((relative, depth)) = queue.pop() {
            let here = self.folder.join(&relative);
            let out = self
                .run(&here, &["ls-files", "-c", "-o", "--exclude-standard", "-t", "-z"])
                .map_err(|e| ReadError::Git { folder: here.clone(), stderr: e.to_string() })?;
            if !out.status.success() {
                return Err(ReadError::Git { folder: here, stderr: said(&out) });
            }
            for entry in out.stdout.split(|b| *b == 0).filter(|e| e.len() > 2) {
                let tracked = entry[0] != b'?';
                let name = entry[2..].strip_suffix(b"/").unwrap_or(&entry[2..]);
                let path = relative.join(OsStr::from_bytes(name));
                let full = self.folder.join(&path);
                if full.symlink_metadata().is_ok_and(|m| m.is_dir()) {
                    if !full.join(".git").exists() {
                        warnings.push(format!("the submodule {} is empty; fetch it with `git submodule update --init`", path.display()));
                    } else if depth < MAX_DEPTH {
                        queue.push((path, depth + 1));
                    }
                    continue;
                }
                if files.len() > MAX_FILES {
                    return Err(ReadError::TooMany(self.folder.to_owned()));
                }
                files.push(Listed { path, tracked });
            }
        }
        Ok((files, warnings))
    }

    fn commit(&self) -> Option<Commit> {
        let out = self.run(self.folder, &["status", "--porcelain=v2", "--branch", "-z", "--ignore-submodules=all", "--", "."]).ok()?;
        if !out.status.success() {
            return None;
        }
        let mut hash = None;
        let mut dirty = false;
        for line in out.stdout.split(|b| *b == 0).filter(|l| !l.is_empty()) {
            match line.strip_prefix(b"# branch.oid ") {
                Some(oid) => hash = std::str::from_utf8(oid).ok().map(str::to_owned),
                None => dirty |= !line.starts_with(b"#"),
            }
        }
        let hash = hash.filter(|h| h.len() >= 40 && h.bytes().all(|b| b.is_ascii_hexdigit()))?;
        Some(Commit { hash, dirty })
    }

    fn run(&self, folder: &Path, args: &[&str]) -> io::Result<Output> {
        let mut command = program();
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.as_bytes().starts_with(b"GIT_")) {
            command.env_remove(name);
        }
        // Reading must not write (optional locks), ask, fetch what a partial clone lacks, or refuse a folder of another user's.
        command.env("GIT_OPTIONAL_LOCKS", "0").env("GIT_TERMINAL_PROMPT", "0").env("GIT_NO_LAZY_FETCH", "1").env("LC_ALL", "C");
        for setting in
            ["core.fsmonitor=false", "core.hooksPath=/dev/null", "safe.directory=*", "core.quotePath=false", "core.untrackedCache=false"]
        {
            command.args(["-c", setting]);
        }
        for setting in &self.neutral {
            command.args(["-c", setting]);
        }
        command.arg("-C").arg(folder).args(args).stdin(Stdio::null()).output()
    }
}

/// git, by nothing but its name. Who starts it says what it may read and what it is given.
pub(super) fn program() -> Command {
    #[expect(clippy::disallowed_methods, reason = "the one place that starts git")]
    Command::new("git")
}

/// The first lines of what git said, as one.
pub(super) fn said(out: &Output) -> String {
    let text = String::from_utf8_lossy(&out.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).take(3).collect();
    if lines.is_empty() { format!("it ended with {}", out.status) } else { lines.join("; ") }
}
