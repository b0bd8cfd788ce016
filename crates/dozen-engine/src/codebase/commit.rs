//! The files of a commit, exactly, in a folder of their own that lasts as long as somebody builds them.
//!
//! The files are written here and not by git: no filter, attribute or hook has a say, and what may not go into a slug is never on the disk.
//!
//! **Invariant:** nothing is written before all of the commit is known to be within the limits of a source.
//! **Invariant:** links are made last, and nothing lies below one: no write goes by way of what was pushed.

use super::git::said;
use super::repository::{Repository, is_hash};
use super::{MAX_BYTES, MAX_DEPTH, MAX_FILES, MAX_PATH, ReadError, ignored, left_out, stays_within, too_large};
use crate::home::Home;
use crate::release::scratch::Scratch;
use dozen_core::codebase::Commit;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The most entries that a commit may have, those that `.slugignore` takes out and folders among them.
const MAX_ENTRIES: usize = 2 * MAX_FILES;
/// The most bytes of all their paths.
const MAX_NAMES: usize = 128 << 20;
/// A `.slugignore` of more is refused.
const MAX_SLUGIGNORE: u64 = 1 << 20;
/// A link's target of more leads nowhere.
const MAX_TARGET: u64 = 4096;
/// So small is every pointer that Git LFS makes, by its specification.
const MAX_POINTER: u64 = 1024;
/// What such a pointer begins with.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1";
/// So long git may take for the list of a commit's files: a few objects may make a tree that has no end.
const LISTING: Duration = Duration::from_secs(60);
/// And for their contents.
const READING: Duration = Duration::from_secs(300);

/// The files of a commit. The folder is removed when this is dropped.
#[derive(Debug)]
pub struct CheckedOut {
    /// Which commit.
    pub commit: Commit,
    /// What was left out that a person may miss, as sentences without a full stop.
    pub warnings: Vec<String>,
    tree: PathBuf,
    _scratch: Scratch,
}

impl CheckedOut {
    /// Where the files are.
    pub fn folder(&self) -> &Path {
        &self.tree
    }
}

/// Why a commit cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// It is none, or is not there.
    #[error("{0} is not a commit of this repository")]
    NotACommit(String),
    /// It is beyond what a source may be.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A name that no work tree can have.
    #[error("the commit has a file named {0:?}, which would lie outside of its folder, within another file or in git's own")]
    Hostile(String),
    /// `.slugignore` is no text file of its usual size.
    #[error(".slugignore is a link, or larger than {}", super::bytes(MAX_SLUGIGNORE))]
    Slugignore,
    /// Git LFS keeps contents elsewhere.
    #[error("{} Git LFS, and their content is not in what was pushed: {}{}. Put the files themselves into the codebase: `git lfs migrate export --include='*' --everything`. Or name them in .slugignore",
        if *.count == 1 { "1 file is a pointer of".to_owned() } else { format!("{} files are pointers of", .count) },
        .first.join(", "), if .count > &.first.len() { ", …" } else { "" })]
    Pointers {
        /// The first of them.
        first: Vec<String>,
        /// How many there are.
        count: usize,
    },
    /// git did not answer as it should.
    #[error("git cannot read the commit: {0}")]
    Git(String),
    /// git took too long, or cannot be started.
    #[error("cannot read the commit")]
    Run(#[source] io::Error),
    /// The disk.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// Writes the files of a commit into a folder of their own. Of a push that is not taken in yet `quarantine` says where its objects are. Blocks.
pub fn check_out(home: &Home, repository: &Repository, hash: &str, quarantine: Option<&Path>) -> Result<CheckedOut, CommitError> {
    if !is_hash(hash) {
        return Err(CommitError::NotACommit(hash.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()));
    }
    let objects = Objects { repository, quarantine, hash };
    objects.check()?;
    let plan = objects.plan()?;
    let checkouts = home.checkouts();
    let written = |e| CommitError::Write(checkouts.clone(), e);
    Home::private(&checkouts).map_err(written)?;
    let scratch = Scratch::new(&checkouts).map_err(written)?;
    let tree = scratch.path().join("tree");
    fs::create_dir(&tree).map_err(written)?;
    let mut warnings = plan.warnings;
    objects.write(plan.files, &tree, &mut warnings)?;
    Ok(CheckedOut { commit: Commit { hash: hash.to_owned(), dirty: false }, warnings, tree, _scratch: scratch })
}

/// Where a commit's objects are.
struct Objects<'a> {
    repository: &'a Repository,
    quarantine: Option<&'a Path>,
    hash: &'a str,
}

/// What is to be written.
struct Plan {
    files: Vec<Entry>,
    warnings: Vec<String>,
}

/// A file or a link of the commit.
struct Entry {
    path: String,
    mode: Mode,
    object: String,
    size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    Executable,
    Link,
}

/// A line of `git ls-tree`, before anybody has decided about it.
struct Listed {
    path: OsString,
    mode: String,
    object: String,
    size: u64,
}

impl Objects<'_> {
    fn git(&self, args: &[&str]) -> Command {
        let mut git = self.repository.git_within(self.quarantine);
        git.args(args);
        git
    }

    fn check(&self) -> Result<(), CommitError> {
        let out = self.git(&["cat-file", "-t", self.hash]).stdin(Stdio::null()).output().map_err(CommitError::Run)?;
        // A tag's object is none either: no branch could be set to it.
        if out.stdout.trim_ascii() == b"commit" { Ok(()) } else { Err(CommitError::NotACommit(self.hash.to_owned())) }
    }

    fn plan(&self) -> Result<Plan, CommitError> {
        let listed = self.list()?;
        let slugignore = self.slugignore(&listed)?;
        let (mut files, mut warnings) = (Vec::new(), Vec::new());
        for Listed { path, mode, object, size } in listed {
            let shown = path.to_string_lossy().into_owned();
            if shown.split('/').any(|part| matches!(part, "" | "." | ".." | ".git")) {
                return Err(CommitError::Hostile(shown));
            }
            if left_out(&shown, true) || ignored(&slugignore, Path::new(&path)) {
                continue;
            }
            let Ok(path) = path.into_string() else { return Err(ReadError::Name(shown.into()).into()) };
            if path.len() > MAX_PATH || path.matches('/').count() > MAX_DEPTH {
                return Err(ReadError::Path(path.chars().take(200).collect()).into());
            }
            if path.chars().any(char::is_control) {
                warnings.push(format!("{path:?} is left out: its name has control characters"));
                continue;
            }
            let mode = match mode.as_str() {
                "160000" => {
                    warnings.push(format!(
                        "the submodule {path} is left out: its files are in another repository. Put them into this one, as with `git subtree add`, where the app needs them"
                    ));
                    continue;
                }
                "120000" if size > MAX_TARGET => {
                    warnings.push(leads_out(&path));
                    continue;
                }
                "120000" => Mode::Link,
                "100755" => Mode::Executable,
                _ => Mode::Plain,
            };
            if files.len() == MAX_FILES {
                return Err(ReadError::TooMany(format!("the commit {}", &self.hash[..8]).into()).into());
            }
            files.push(Entry { path, mode, object, size });
        }
        let total: u64 = files.iter().map(|f| f.size).fold(0, u64::saturating_add);
        if total > MAX_BYTES {
            return Err(too_large(total, files.into_iter().map(|f| (f.path, f.size)).collect()).into());
        }
        let mut taken = HashSet::new();
        for file in &files {
            if !taken.insert(file.path.as_str()) {
                return Err(CommitError::Hostile(file.path.clone()));
            }
        }
        for file in &files {
            let mut folders = file.path.match_indices('/').map(|(at, _)| &file.path[..at]);
            if folders.any(|folder| taken.contains(folder)) {
                return Err(CommitError::Hostile(file.path.clone()));
            }
        }
        Ok(Plan { files, warnings })
    }

    /// All files of the commit. Folders are listed too, so that a tree without files cannot go on for ever unseen.
    fn list(&self) -> Result<Vec<Listed>, CommitError> {
        let mut running = Running::start(self.git(&["ls-tree", "-r", "-t", "-l", "-z", "--full-tree", self.hash]), LISTING)?;
        let mut listed = Vec::new();
        let (mut entries, mut names) = (0, 0);
        let mut line = Vec::new();
        loop {
            line.clear();
            let most = u64::try_from(8 * MAX_PATH).unwrap_or(u64::MAX);
            if (&mut running.out).take(most).read_until(0, &mut line).map_err(CommitError::Run)? == 0 {
                break;
            }
            if line.pop() != Some(0) {
                return Err(ReadError::Path(String::from_utf8_lossy(&line).chars().take(200).collect()).into());
            }
            entries += 1;
            names += line.len();
            if entries > MAX_ENTRIES || names > MAX_NAMES {
                return Err(ReadError::TooMany(format!("the commit {}", &self.hash[..8]).into()).into());
            }
            let entry = parse(&line).ok_or_else(|| CommitError::Git(format!("it lists {:?}", String::from_utf8_lossy(&line))))?;
            listed.extend(entry);
        }
        running.end()?;
        Ok(listed)
    }

    fn slugignore(&self, listed: &[Listed]) -> Result<Gitignore, CommitError> {
        let mut builder = GitignoreBuilder::new("");
        if let Some(file) = listed.iter().find(|l| l.path == ".slugignore") {
            if !file.mode.starts_with("100") || file.size > MAX_SLUGIGNORE {
                return Err(CommitError::Slugignore);
            }
            let out = self.git(&["cat-file", "blob", &file.object]).stdin(Stdio::null()).output().map_err(CommitError::Run)?;
            if !out.status.success() {
                return Err(CommitError::Git(said(&out)));
            }
            for line in String::from_utf8_lossy(&out.stdout).lines() {
                // A line that is no pattern is passed over, as when a folder is read.
                let _ = builder.add_line(None, line);
            }
        }
        builder.build().map_err(|_| CommitError::Slugignore)
    }

    fn write(&self, files: Vec<Entry>, tree: &Path, warnings: &mut Vec<String>) -> Result<(), CommitError> {
        let mut running = Running::start(self.git(&["cat-file", "--batch", "--buffer"]), READING)?;
        let input = running.child.stdin.take();
        let asked: Vec<u8> = files.iter().flat_map(|f| [f.object.as_bytes(), b"\n"].concat()).collect();
        let written = std::thread::scope(|scope| {
            // git answers while it is still asked; where it ends before that the pipe is closed, and the reader says why.
            scope.spawn(move || input.map(|mut input| input.write_all(&asked)));
            let written = write_all(&mut running.out, files, tree, warnings);
            if written.is_err() {
                running.kill();
            }
            written
        });
        written?;
        running.end()
    }
}

/// `100644 blob 1a2b…      12\tpath`; `None` within for a folder.
fn parse(line: &[u8]) -> Option<Option<Listed>> {
    let tab = line.iter().position(|b| *b == b'\t')?;
    let mut fields = std::str::from_utf8(&line[..tab]).ok()?.split_ascii_whitespace();
    let (mode, kind, object, size) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    if kind == "tree" {
        return Some(None);
    }
    // A commit of a submodule has none.
    let size = if size == "-" { 0 } else { size.parse().ok()? };
    let path = OsString::from_vec(line[tab + 1..].to_vec());
    is_hash(object).then(|| Some(Listed { path, mode: mode.to_owned(), object: object.to_owned(), size }))
}

fn leads_out(path: &str) -> String {
    format!("{path} is left out: it is no file, folder or link within the app's folder")
}

fn write_all(answers: &mut impl BufRead, files: Vec<Entry>, tree: &Path, warnings: &mut Vec<String>) -> Result<(), CommitError> {
    let (mut links, mut pointers) = (Vec::new(), Vec::new());
    let mut folders: HashSet<PathBuf> = HashSet::new();
    let mut head = String::new();
    for file in files {
        head.clear();
        answers.take(200).read_line(&mut head).map_err(CommitError::Run)?;
        if head.trim_end() != format!("{} blob {}", file.object, file.size) {
            return Err(CommitError::Git(format!("of {} it says {:?}", file.path, head.trim_end())));
        }
        let place = tree.join(&file.path);
        let failed = |e| CommitError::Write(place.clone(), e);
        let mut content = answers.take(file.size);
        if file.mode == Mode::Link {
            let mut target = Vec::new();
            content.read_to_end(&mut target).map_err(CommitError::Run)?;
            match std::str::from_utf8(&target).ok().filter(|t| !t.contains('\0') && stays_within(&file.path, t)) {
                Some(_) => links.push((place.clone(), target)),
                None => warnings.push(leads_out(&file.path)),
            }
        } else {
            if let Some(folder) = place.parent().filter(|f| !folders.contains(*f)) {
                fs::create_dir_all(folder).map_err(failed)?;
                folders.insert(folder.to_owned());
            }
            let mode = if file.mode == Mode::Executable { 0o755 } else { 0o644 };
            let mut out = OpenOptions::new().write(true).create_new(true).mode(mode).open(&place).map_err(failed)?;
            if file.size < MAX_POINTER {
                let mut text = Vec::new();
                content.read_to_end(&mut text).map_err(CommitError::Run)?;
                if text.starts_with(POINTER) {
                    pointers.push(file.path.clone());
                }
                out.write_all(&text).map_err(failed)?;
            } else {
                io::copy(&mut content, &mut out).map_err(failed)?;
            }
        }
        let mut end = [0];
        answers.read_exact(&mut end).map_err(CommitError::Run)?;
    }
    if !pointers.is_empty() {
        let count = pointers.len();
        pointers.truncate(5);
        return Err(CommitError::Pointers { first: pointers, count });
    }
    for (place, target) in links {
        let failed = |e| CommitError::Write(place.clone(), e);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        std::os::unix::fs::symlink(OsStr::from_bytes(&target), &place).map_err(failed)?;
    }
    Ok(())
}

/// A git that answers. Dropped, it is killed.
struct Running {
    child: Child,
    out: BufReader<Timed>,
}

impl Running {
    fn start(mut git: Command, limit: Duration) -> Result<Self, CommitError> {
        git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = git.spawn().map_err(CommitError::Run)?;
        let out = child.stdout.take().ok_or_else(|| CommitError::Run(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { child, out: BufReader::with_capacity(64 << 10, Timed { out, until: Instant::now() + limit }) })
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Waits for its end, once all that it had to say was read.
    fn end(mut self) -> Result<(), CommitError> {
        drop(self.child.stdin.take());
        let status = self.child.wait().map_err(CommitError::Run)?;
        if status.success() { Ok(()) } else { Err(CommitError::Git(format!("it ended with {status}"))) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// A pipe that is read until a moment and no longer.
struct Timed {
    out: ChildStdout,
    until: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.out, PollFlags::IN)], Some(&left)) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::TimedOut, "git took too long")),
            Err(e) => Err(e.into()),
            Ok(_) => self.out.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests;
