//! I. One codebase tracked in revision control, many deploys.
//! Reads the state of a folder as a source: what git would track, else everything but what tools make.
//!
//! **Invariant:** reading runs no program that the folder names, follows no link, and takes nothing from outside the folder.

use dozen_core::codebase::{Commit, FileKind, Source, SourceFile};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub mod commit;
pub mod fingerprint;
mod git;
pub mod hook;
pub mod repository;
pub mod smart;
pub mod ssh;
pub mod tarball;
#[cfg(test)]
mod tested;

/// The most bytes that a source may have: twice Heroku's limit for a packed slug.
pub const MAX_BYTES: u64 = 1 << 30;
/// The most files that a source may have.
pub const MAX_FILES: usize = 200_000;
/// The longest path, in bytes: with `/app/` before it, still a quarter of what Linux takes.
pub const MAX_PATH: usize = 1024;
/// The deepest path, in folders.
pub const MAX_DEPTH: usize = 64;

/// A source and what was remarked while it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The source.
    pub source: Source,
    /// What was left out that a person may miss, as sentences without a full stop.
    pub warnings: Vec<String>,
}

/// Why a folder cannot be read as a source.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is no folder.
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// Something in it cannot be read.
    #[error("cannot read {}", .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// git is there and did not answer.
    #[error("git cannot list {}: {stderr}. Repair the repository, or move its .git folder away to deploy the files as they are", folder.display())]
    Git {
        /// The folder.
        folder: PathBuf,
        /// What git said.
        stderr: String,
    },
    /// A name that is no text.
    #[error("the file name {0:?} is not UTF-8. Rename it, or name its folder in .slugignore")]
    Name(PathBuf),
    /// A path beyond the limits.
    #[error("the path {0} is longer than {MAX_PATH} bytes or deeper than {MAX_DEPTH} folders. Name it in .slugignore")]
    Path(String),
    /// Too many files.
    #[error("{} has more than {MAX_FILES} files. Name what the app does not need in .slugignore", .0.display())]
    TooMany(PathBuf),
    /// Too many bytes.
    #[error("the source has {} and may have {}. The largest files: {}. Name what the app does not need in .slugignore",
        bytes(*.total), bytes(MAX_BYTES), .largest.iter().map(|(p, s)| format!("{p} ({})", bytes(*s))).collect::<Vec<_>>().join(", "))]
    TooLarge {
        /// Bytes of all files.
        total: u64,
        /// The five largest.
        largest: Vec<(String, u64)>,
    },
}

/// Reads a folder. Blocks; 3,000 files take some tens of milliseconds.
pub fn read(folder: &Path) -> Result<Reading, ReadError> {
    let folder = fs::canonicalize(folder).map_err(|e| ReadError::Io(folder.to_owned(), e))?;
    if !folder.is_dir() {
        return Err(ReadError::NotAFolder(folder));
    }
    let slugignore = slugignore(&folder)?;
    let (listed, commit, warnings) = match git::list(&folder)? {
        Some(listing) => (listing.files, listing.commit, listing.warnings),
        None => (walk(&folder, &slugignore, false)?, None, Vec::new()),
    };
    gather(folder, listed, &slugignore, commit, warnings)
}

/// Reads the files of a commit, which is all that lies in this folder. git is not asked: they are taken as they are, and only what never goes
/// into a slug is left out.
pub fn read_commit(folder: &Path, commit: Commit) -> Result<Reading, ReadError> {
    read_all(folder, Some(commit))
}

/// The same of files that may be of no commit, or of one and some changes.
pub fn read_all(folder: &Path, commit: Option<Commit>) -> Result<Reading, ReadError> {
    let folder = fs::canonicalize(folder).map_err(|e| ReadError::Io(folder.to_owned(), e))?;
    let slugignore = slugignore(&folder)?;
    let listed = walk(&folder, &slugignore, true)?;
    gather(folder, listed, &slugignore, commit, Vec::new())
}

/// The source of those files that may go into a slug.
fn gather(
    folder: PathBuf,
    listed: Vec<Listed>,
    slugignore: &Gitignore,
    commit: Option<Commit>,
    mut warnings: Vec<String>,
) -> Result<Reading, ReadError> {
    let mut files = Vec::with_capacity(listed.len());
    for listed in listed {
        if files.len() == MAX_FILES {
            return Err(ReadError::TooMany(folder));
        }
        let Some(path) = listed.path.to_str() else {
            if ignored(slugignore, &listed.path) || left_out(&listed.path.to_string_lossy(), listed.tracked) {
                continue;
            }
            return Err(ReadError::Name(listed.path));
        };
        if left_out(path, listed.tracked) || ignored(slugignore, &listed.path) {
            continue;
        }
        if path.len() > MAX_PATH || path.matches('/').count() > MAX_DEPTH {
            return Err(ReadError::Path(path.chars().take(200).collect()));
        }
        match look(&folder, path) {
            Ok(Some(file)) => files.push(file),
            Ok(None) => warnings.push(format!("{path} is left out: it is no file, folder or link within the app's folder")),
            // git knows files that were deleted since the last commit.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(ReadError::Io(folder.join(path), e)),
        }
    }
    drop_environments(&mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files.dedup_by(|a, b| a.path == b.path);
    let total: u64 = files.iter().map(|f| f.size).sum();
    if total > MAX_BYTES {
        return Err(too_large(total, files.into_iter().map(|f| (f.path, f.size)).collect()));
    }
    Ok(Reading { source: Source { folder, commit, files }, warnings })
}

fn too_large(total: u64, mut largest: Vec<(String, u64)>) -> ReadError {
    largest.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    largest.truncate(5);
    ReadError::TooLarge { total, largest }
}

/// The text of a file of a source, for a pack. At most 16 MiB: the largest lock files in the wild have a fourth of it.
pub fn text(source: &Source, path: &str) -> Option<String> {
    const MAX_TEXT: u64 = 16 << 20;
    let at = source.files.binary_search_by(|f| f.path.as_str().cmp(path)).ok()?;
    let file = &source.files[at];
    if file.size > MAX_TEXT || matches!(file.kind, FileKind::Link(_)) {
        return None;
    }
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(open(&source.folder.join(path)).ok()?, MAX_TEXT), &mut text).ok()?;
    Some(text)
}

/// Opens a plain file, and nothing that took its place meanwhile: no link is followed, no FIFO waited for.
pub(crate) fn open(path: &Path) -> io::Result<fs::File> {
    use rustix::fs::{Mode, OFlags};
    let file =
        fs::File::from(rustix::fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file any more")) }
}

/// Bytes for people: `38.2M`.
pub fn bytes(n: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    match UNITS.iter().find(|(size, _)| n >= *size) {
        #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
        Some((size, unit)) => format!("{:.1}{unit}", n as f64 / *size as f64),
        None => format!("{n}B"),
    }
}

/// A path that may go into the source.
struct Listed {
    path: PathBuf,
    /// Whether git tracks it; then only what never goes into a slug is left out.
    tracked: bool,
}

/// What never goes into a slug, whatever lists it; and what only tools make.
fn left_out(path: &str, tracked: bool) -> bool {
    path.split('/').any(|part| part == ".git" || part.starts_with(".env") || part == ".gitmodules")
        || (!tracked && path.split('/').any(|part| part == "node_modules" || part == "__pycache__"))
}

fn look(folder: &Path, path: &str) -> io::Result<Option<SourceFile>> {
    let full = folder.join(path);
    let meta = fs::symlink_metadata(&full)?;
    let kind = meta.file_type();
    let file = |kind, size| Ok(Some(SourceFile { path: path.to_owned(), kind, size }));
    if kind.is_symlink() {
        let target = fs::read_link(&full)?;
        return match target.to_str().filter(|t| stays_within(path, t)) {
            Some(target) => file(FileKind::Link(target.to_owned()), 0),
            None => Ok(None),
        };
    }
    if !kind.is_file() || kind.is_fifo() || kind.is_socket() {
        return Ok(None);
    }
    let executable = meta.permissions().mode() & 0o100 != 0;
    file(if executable { FileKind::Executable } else { FileKind::Plain }, meta.len())
}

/// Whether a link at `path` with this target points into the tree.
fn stays_within(path: &str, target: &str) -> bool {
    let mut depth = path.matches('/').count();
    if target.starts_with('/') || target.is_empty() {
        return false;
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if depth == 0 => return false,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    true
}

/// Drops what lies in a virtual environment: it belongs to this machine and is made anew in the slug.
fn drop_environments(files: &mut Vec<SourceFile>) {
    let marker = "pyvenv.cfg";
    let environments: Vec<String> =
        files.iter().filter_map(|f| f.path.strip_suffix(marker)).filter(|p| p.ends_with('/')).map(str::to_owned).collect();
    files.retain(|f| !environments.iter().any(|e| f.path.starts_with(e)));
}

fn slugignore(folder: &Path) -> Result<Gitignore, ReadError> {
    let file = folder.join(".slugignore");
    let mut builder = GitignoreBuilder::new(folder);
    if file.is_file()
        && let Some(e) = builder.add(&file)
        && !e.is_partial()
    {
        return Err(ReadError::Io(file, e.into_io_error().unwrap_or_else(|| io::ErrorKind::InvalidData.into())));
    }
    builder.build().map_err(|e| ReadError::Io(file, io::Error::new(io::ErrorKind::InvalidData, e)))
}

fn ignored(slugignore: &Gitignore, path: &Path) -> bool {
    !slugignore.is_empty() && slugignore.matched_path_or_any_parents(path, false).is_ignore()
}

/// Every file of a folder that no revision control knows, or where all of it is `tracked`.
fn walk(folder: &Path, slugignore: &Gitignore, tracked: bool) -> Result<Vec<Listed>, ReadError> {
    let mut out = Vec::new();
    let mut queue = vec![PathBuf::new()];
    while let Some(relative) = queue.pop() {
        let here = folder.join(&relative);
        let failed = |e| ReadError::Io(here.clone(), e);
        if relative.components().count() > MAX_DEPTH {
            return Err(ReadError::Path(relative.to_string_lossy().chars().take(200).collect()));
        }
        for entry in fs::read_dir(&here).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name: OsString = entry.file_name();
            let path = relative.join(&name);
            let skipped = left_out(&String::from_utf8_lossy(name.as_bytes()), tracked);
            let kind = entry.file_type().map_err(failed)?;
            if skipped {
                continue;
            }
            if kind.is_dir() {
                // By its own word a folder is this machine's: a virtual environment, what cargo has compiled.
                let made = !tracked && ["pyvenv.cfg", "CACHEDIR.TAG"].iter().any(|mark| here.join(&name).join(mark).is_file());
                if !made && !slugignore.matched(&path, true).is_ignore() {
                    queue.push(path);
                }
            } else {
                if out.len() > MAX_FILES {
                    return Err(ReadError::TooMany(folder.to_owned()));
                }
                out.push(Listed { path, tracked });
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "tests run git as its users do")]

    use super::*;
    use std::process::Command;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = Self(tempfile::tempdir().expect("temp dir"));
            for (path, text) in files {
                let path = folder.0.path().join(path);
                fs::create_dir_all(path.parent().expect("a parent")).expect("made");
                fs::write(path, text).expect("written");
            }
            folder
        }
        fn git(self, args: &[&str]) -> Self {
            let identity = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main"];
            let out = Command::new("git").args(identity).args(args).current_dir(self.0.path()).output().expect("git runs");
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            self
        }
        fn commit(self) -> Self {
            self.git(&["init", "-q"]).git(&["add", "-A"]).git(&["commit", "-qm", "one"])
        }
        fn paths(&self) -> Vec<String> {
            read(self.0.path()).expect("readable").source.files.into_iter().map(|f| f.path).collect()
        }
    }

    #[test]
    fn a_plain_folder_goes_in_without_what_tools_make() {
        let folder = Folder::new(&[
            ("app.py", ""),
            (".env", "A=1"),
            ("sub/.env.local", ""),
            ("venv/pyvenv.cfg", ""),
            ("venv/lib/x.py", ""),
            ("target/CACHEDIR.TAG", ""),
            ("target/debug/x", ""),
            ("node_modules/x.js", ""),
            ("pkg/__pycache__/a.pyc", ""),
            (".gitmodules", ""),
            (".python-version", "3.11"),
            ("docs/a.md", ""),
            ("docs/keep.md", ""),
            ("big.bin", ""),
            (".slugignore", "docs/*\n!docs/keep.md\n/big.bin\n"),
        ]);
        assert_eq!(folder.paths(), [".python-version", ".slugignore", "app.py", "docs/keep.md"]);
    }

    #[test]
    fn a_work_tree_goes_in_as_git_sees_it() {
        let folder = Folder::new(&[
            (".gitignore", "*.log\n"),
            ("a.log", ""),
            ("app.py", ""),
            ("gone.py", ""),
            ("node_modules/tracked.js", ""),
            ("sub/x.py", ""),
        ])
        .commit();
        let root = folder.0.path();
        let first = read(root).expect("readable").source.commit.expect("a commit");
        assert!(!first.dirty && first.hash.len() == 40);
        fs::write(root.join("new.py"), "").expect("written");
        fs::create_dir_all(root.join("env/lib")).expect("made");
        fs::write(root.join("env/pyvenv.cfg"), "").expect("written");
        fs::write(root.join("env/lib/y.py"), "").expect("written");
        fs::remove_file(root.join("gone.py")).expect("removed");
        assert_eq!(folder.paths(), [".gitignore", "app.py", "new.py", "node_modules/tracked.js", "sub/x.py"]);
        let now = read(root).expect("readable").source.commit.expect("a commit");
        assert_eq!((now.hash, now.dirty), (first.hash.clone(), true));
        let sub = read(&root.join("sub")).expect("readable").source;
        assert_eq!(sub.files.len(), 1);
        assert_eq!((sub.files[0].path.as_str(), sub.commit.map(|c| c.dirty)), ("x.py", Some(false)), "only what lies below counts");
        fs::create_dir(root.join("a.log.d")).expect("made");
        fs::write(root.join(".git/info/exclude"), "a.log.d\n").expect("written");
        fs::write(root.join("a.log.d/x"), "").expect("written");
        assert_eq!(read(&root.join("a.log.d")).expect("readable").source.files.len(), 1, "an ignored folder is read as it is");
    }

    #[test]
    fn a_hostile_repository_runs_nothing() {
        let folder = Folder::new(&[("a.txt", "1"), (".gitattributes", "* filter=evil\n")]).commit();
        let root = folder.0.path();
        let mark = root.join("ran");
        let program = format!("touch {}; cat", mark.display());
        for (name, value) in [
            ("core.fsmonitor", &program),
            ("filter.evil.clean", &program),
            ("filter.evil.process", &program),
            ("core.hooksPath", &".".to_owned()),
        ] {
            let set = Command::new("git").args(["config", name, value]).current_dir(root).status().expect("git runs");
            assert!(set.success());
        }
        fs::write(root.join("a.txt"), "2").expect("written");
        let control = Command::new("git").args(["status"]).current_dir(root).output().expect("git runs");
        assert!(mark.exists(), "the trap works: {control:?}");
        fs::remove_file(&mark).expect("removed");
        fs::File::open(root.join("a.txt")).and_then(|f| f.set_modified(std::time::UNIX_EPOCH)).expect("aged");
        let reading = read(root).expect("readable");
        assert!(!mark.exists(), "a program that the repository names was run");
        assert!(reading.source.commit.is_some_and(|c| c.dirty));
    }

    #[test]
    fn submodules_and_nested_repositories_go_in() {
        let inner = Folder::new(&[("lib.py", "")]).commit();
        let folder = Folder::new(&[("app.py", "")]).commit();
        let folder = folder.git(&[
            "-c",
            "protocol.file.allow=always",
            "submodule",
            "--quiet",
            "add",
            &inner.0.path().to_string_lossy(),
            "vendor/lib",
        ]);
        assert_eq!(folder.paths(), ["app.py", "vendor/lib/lib.py"]);
        let lib = folder.0.path().join("vendor/lib");
        fs::remove_dir_all(&lib).and_then(|()| fs::create_dir(&lib)).expect("emptied");
        let reading = read(folder.0.path()).expect("readable");
        assert!(reading.warnings[0].contains("git submodule update --init"), "{:?}", reading.warnings);
    }

    #[test]
    fn what_no_slug_can_hold_is_left_out_or_refused() {
        let folder = Folder::new(&[("a", ""), ("d/x", "")]);
        let root = folder.0.path();
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, root.join(name)).expect("linked");
        link("../a", "d/fine");
        link("/etc/passwd", "absolute");
        link("d/../../x", "outside");
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).expect("bound");
        let reading = read(root).expect("readable");
        assert_eq!(reading.warnings.len(), 3, "{:?}", reading.warnings);
        assert_eq!(folder.paths(), ["a", "d/fine", "d/x"]);
        fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff.txt")), "").expect("written");
        assert!(matches!(read(root), Err(ReadError::Name(_))));
        fs::write(root.join(".slugignore"), "*.txt\n").expect("written");
        assert!(read(root).is_ok(), ".slugignore is a cure");
    }

    #[test]
    fn a_huge_file_is_refused_by_name() {
        let folder = Folder::new(&[("a", ""), ("small.bin", "x")]);
        let file = fs::File::create(folder.0.path().join("dump.sql")).expect("made");
        file.set_len(2 << 30).expect("sparse");
        let error = read(folder.0.path()).expect_err("refused").to_string();
        assert!(error.contains("2.0G") && error.contains("dump.sql (2.0G), small.bin") && error.contains(".slugignore"), "{error}");
    }

    #[test]
    fn links_that_leave_are_told_from_those_that_stay() {
        for (path, target, stays) in [
            ("a", "b", true),
            ("d/a", "../b", true),
            ("d/a", "../../b", false),
            ("a", "..", false),
            ("a", "/b", false),
            ("a", "d/../..", false),
            ("d/e/a", "../../x/../y", true),
        ] {
            assert_eq!(stays_within(path, target), stays, "{path} -> {target}");
        }
    }

    #[test]
    fn a_fingerprint_sees_content_mode_and_name_only() {
        let cache = tempfile::tempdir().expect("temp dir");
        let stats = cache.path().join("stats.json");
        let folder = Folder::new(&[("a", "1"), ("b", "2")]);
        let whole = |f: &Folder| fingerprint::of(&read(f.0.path()).expect("readable").source, &stats).expect("hashed").whole;
        let first = whole(&folder);
        assert_eq!(whole(&folder), first);
        assert_eq!(whole(&Folder::new(&[("a", "1"), ("b", "2")])), first, "the place does not count");
        assert_ne!(whole(&Folder::new(&[("a", "12"), ("b", "")])), first);
        // The same size within one tick of the clock: the stat alone would not tell.
        fs::write(folder.0.path().join("a"), "3").expect("written");
        assert_ne!(whole(&folder), first);
        fs::write(folder.0.path().join("a"), "1").expect("written");
        assert_eq!(whole(&folder), first);
        fs::set_permissions(folder.0.path().join("a"), fs::Permissions::from_mode(0o755)).expect("set");
        assert_ne!(whole(&folder), first);
    }

    #[test]
    fn a_file_that_vanished_is_an_error_with_its_name() {
        let folder = Folder::new(&[("a", "1")]);
        let source = read(folder.0.path()).expect("readable").source;
        fs::remove_file(folder.0.path().join("a")).expect("removed");
        let error = fingerprint::of(&source, &folder.0.path().join("stats")).expect_err("gone").to_string();
        assert!(error.contains("/a, which was there a moment ago"), "{error}");
    }
}
