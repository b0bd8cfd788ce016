//! An app's repository at a server, bare: what was pushed. All deploys of the app share its objects; each has refs of its own, so that the
//! same commit is pushed to one after the other.
//!
//! **Invariant:** git reads no settings here but ours: none of the system's or of a person's, and nothing that is pushed is one.
//! **Invariant:** what a git that was killed has left is removed by the next one that receives, and never while another one does.

use super::git::{program, said};
use crate::home::Home;
use crate::release::scratch::{self, Scratch};
use dozen_core::ids::{AppName, DeployName, DeployRef};
use rustix::fs::{Access, FlockOperation, access, flock};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The most bytes that one push may bring.
pub const MAX_PUSH: u64 = 1 << 30;
/// The hook's program is told here which dozen it is to become.
pub const HOOK_PROGRAM: &str = "DOZEN_HOOK_PROGRAM";
/// What git runs before it takes a push in. Nothing is put into its text: the program's place is a variable that the hook's git was given.
const PRE_RECEIVE: &str = "#!/bin/sh\nexec \"$DOZEN_HOOK_PROGRAM\" __hook pre-receive\n";
/// The lock's file, in the repository.
const LOCK: &str = "dozen.lock";

/// What git is told besides where its hooks are.
const SETTINGS: &[&str] = &[
    // The home may be another user's than the one who runs dozen.
    "safe.directory=*",
    "receive.fsckObjects=true",
    "receive.maxInputSize=1g",
    "receive.denyCurrentBranch=refuse",
    "receive.denyDeleteCurrent=refuse",
    "receive.denyNonFastForwards=false",
    // A build says nothing for a while; whoever waits, and each proxy on the way, is to see that it goes on.
    "receive.keepAlive=5",
    // A shallow clone pushes what it has.
    "receive.shallowUpdate=true",
    // Packing anew is no work to have a person wait for.
    "receive.autogc=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.quotePath=false",
    // One flush to disk for all objects of a push, and refs are flushed after them.
    "core.fsync=committed,reference",
    "core.fsyncMethod=batch",
    // Larger files are not held in memory.
    "core.bigFileThreshold=16m",
    "pack.threads=2",
    "pack.windowMemory=128m",
    // What old histories of real projects have wrong in who and when. Nothing that is built depends on it.
    "receive.fsck.badDate=ignore",
    "receive.fsck.badDateOverflow=ignore",
    "receive.fsck.badEmail=ignore",
    "receive.fsck.badName=ignore",
    "receive.fsck.badTagName=ignore",
    "receive.fsck.badTimezone=ignore",
    "receive.fsck.missingEmail=ignore",
    "receive.fsck.missingNameBeforeEmail=ignore",
    "receive.fsck.missingSpaceBeforeDate=ignore",
    "receive.fsck.missingSpaceBeforeEmail=ignore",
    "receive.fsck.missingTaggerEntry=ignore",
    "receive.fsck.multipleAuthors=ignore",
    "receive.fsck.zeroPaddedDate=ignore",
    "receive.fsck.zeroPaddedFilemode=ignore",
];

/// A repository, as one deploy of its app sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    path: PathBuf,
    hooks: PathBuf,
    deploy: DeployName,
}

/// Why there is no repository.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// git is not installed, or cannot be started.
    #[error("cannot start git")]
    Start(#[source] io::Error),
    /// It could not be made.
    #[error("git cannot make the repository {}: {stderr}", path.display())]
    Init {
        /// Where.
        path: PathBuf,
        /// What git said.
        stderr: String,
    },
    /// It could not be packed.
    #[error("git cannot pack the repository {}: {stderr}", path.display())]
    Collect {
        /// Where.
        path: PathBuf,
        /// What git said.
        stderr: String,
    },
    /// Nothing was pushed to the app, nor could be.
    #[error("there is no repository {}", .0.display())]
    Missing(PathBuf),
    /// A file of it.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// git would pass over a hook that it cannot run, and take in what nobody builds.
    #[error("{} cannot be run, and without it nothing that is pushed would be built. Is its file system mounted noexec?", .0.display())]
    Hook(PathBuf),
}

impl Repository {
    /// The repository of a deploy's app, made where there is none.
    pub fn make(home: &Home, deploy: &DeployRef) -> Result<Self, RepositoryError> {
        let made = Self::at(home, deploy);
        let written = |path: &Path| {
            let path = path.to_owned();
            move |source| RepositoryError::Write { path, source }
        };
        if !made.path.is_dir() {
            let all = home.repositories();
            Home::private(&all).map_err(written(&all))?;
            let making = Scratch::new(&all).map_err(written(&all))?;
            let fresh = making.path().join("fresh");
            let mut init = made.settled();
            init.args(["-c", "init.defaultBranch=main", "init", "--quiet", "--bare", "--template="]).arg(&fresh);
            let out = init.stdin(Stdio::null()).output().map_err(RepositoryError::Start)?;
            if !out.status.success() {
                return Err(RepositoryError::Init { path: made.path, stderr: said(&out) });
            }
            // Of two that make one at a time the first one's stays.
            making.keep("fresh", &made.path).map_err(written(&made.path))?;
        }
        let head = made.path.join("refs/namespaces").join(made.deploy.as_str()).join("HEAD");
        let main = format!("ref: {}\n", made.reference("refs/heads/main"));
        if !holds(&head, main.as_bytes()) {
            // Nobody sweeps meanwhile.
            let _lock = made.receiving().map_err(written(&head))?;
            replace(&head, main.as_bytes(), 0o600).map_err(written(&head))?;
        }
        let hook = made.hooks.join("pre-receive");
        Home::private(&made.hooks).map_err(written(&made.hooks))?;
        if !holds(&hook, PRE_RECEIVE.as_bytes()) {
            replace(&hook, PRE_RECEIVE.as_bytes(), 0o700).map_err(written(&hook))?;
        }
        access(&hook, Access::EXEC_OK).map_err(|_| RepositoryError::Hook(hook))?;
        Ok(made)
    }

    /// One that is there.
    pub fn open(home: &Home, deploy: &DeployRef) -> Result<Self, RepositoryError> {
        let path = home.repository(&deploy.app);
        if path.is_dir() { Self::make(home, deploy) } else { Err(RepositoryError::Missing(path)) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The commit that a branch of this deploy is at.
    pub fn tip(&self, branch: &str) -> io::Result<Option<String>> {
        let mut git = self.git();
        let reference = self.reference(&format!("refs/heads/{branch}"));
        let out = git.args(["rev-parse", "--verify", "--quiet", &reference]).stdin(Stdio::null()).output()?;
        let hash = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        Ok(out.status.success().then_some(hash).filter(|h| is_hash(h)))
    }

    /// Packs what many pushes have brought, where it is worth it, and drops what has belonged to no branch for two weeks. Blocks, for seconds where
    /// there is much to do; pushes go on meanwhile.
    pub fn collect(&self) -> Result<(), RepositoryError> {
        let _lock = self.receiving().map_err(|source| RepositoryError::Write { path: self.path.clone(), source })?;
        let mut git = self.git();
        git.args(["-c", "gc.auto=2000", "-c", "gc.autoPackLimit=50", "-c", "gc.autoDetach=false", "gc", "--auto", "--quiet"]);
        let out = git.stdin(Stdio::null()).output().map_err(RepositoryError::Start)?;
        let failed = || RepositoryError::Collect { path: self.path.clone(), stderr: said(&out) };
        if out.status.success() { Ok(()) } else { Err(failed()) }
    }

    /// Forgets the branches and tags of this deploy, as of one that is destroyed: the next one of its name is not to find that what is pushed to it is
    /// there already.
    pub fn forget(&self) -> Result<(), RepositoryError> {
        let failed = |source| RepositoryError::Write { path: self.path.clone(), source };
        let _lock = self.receiving().map_err(failed)?;
        let mut git = self.git();
        let listed = git.args(["for-each-ref", "--format=delete %(refname)", &self.reference("refs/")]).stdin(Stdio::null()).output();
        let lines = listed.map_err(RepositoryError::Start)?.stdout;
        let mut git = self.git();
        let mut git = git.args(["update-ref", "--stdin"]).stdin(Stdio::piped()).spawn().map_err(RepositoryError::Start)?;
        let told = git.stdin.take().map_or(Ok(()), |mut input| input.write_all(&lines));
        let status = git.wait().map_err(failed)?;
        told.and_then(|()| if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }).map_err(failed)
    }

    /// Removes an app's repository with all that was pushed to any of its deploys. Nothing may be receiving any more.
    pub fn remove(home: &Home, app: &AppName) -> Result<(), RepositoryError> {
        let path = home.repository(app);
        scratch::remove(&path).map_err(|source| RepositoryError::Write { path, source })
    }

    /// A person's own repository, the one that a folder is of, and the hash of a commit of it by any name that git knows. It is only read from.
    /// Blocks.
    ///
    /// # Errors
    /// What git has to say.
    pub fn of_folder(home: &Home, deploy: &DeployRef, folder: &Path, name: &str) -> Result<(Self, String), String> {
        let ask = |words: &[&str]| {
            let mut git = Self::at(home, deploy).settled();
            let out =
                git.current_dir(folder).args(words).stdin(Stdio::null()).output().map_err(|e| format!("git cannot be started: {e}"))?;
            if !out.status.success() {
                return Err(said(&out));
            }
            Ok(out.stdout.trim_ascii().to_vec())
        };
        let path = ask(&["rev-parse", "--absolute-git-dir"])?;
        let commit = format!("{name}^{{commit}}");
        let hash = ask(&["rev-parse", "--verify", "--end-of-options", &commit])?;
        let path = PathBuf::from(OsString::from_vec(path));
        Ok((Self { path, ..Self::at(home, deploy) }, String::from_utf8_lossy(&hash).into_owned()))
    }

    /// Has git look whether all of it can be read and nothing is missing. Nothing is written. Blocks for as long as reading everything takes.
    ///
    /// # Errors
    /// What git found.
    pub fn fsck(&self) -> Result<(), String> {
        // What is no fault of a push is none of what was pushed.
        let passed_over = SETTINGS.iter().filter_map(|setting| setting.strip_prefix("receive.fsck."));
        let passed_over: Vec<String> = passed_over.flat_map(|setting| ["-c".to_owned(), format!("fsck.{setting}")]).collect();
        let ask = |words: &[&str]| {
            let out = self
                .git()
                .args(&passed_over)
                .args(words)
                .stdin(Stdio::null())
                .output()
                .map_err(|e| format!("git cannot be started: {e}"))?;
            if out.status.success() { Ok(String::from_utf8_lossy(&out.stdout).into_owned()) } else { Err(said(&out)) }
        };
        // By itself git takes the HEAD of a deploy that nothing was pushed to for a broken ref.
        let tips = ask(&["for-each-ref", "--format=%(objectname)"])?;
        let tips: BTreeSet<&str> = tips.lines().filter(|tip| is_hash(tip)).collect();
        let words: Vec<&str> = ["fsck", "--no-dangling", "--no-progress"].into_iter().chain(tips).collect();
        if words.len() > 3 { ask(&words).map(drop) } else { Ok(()) }
    }

    /// The repository of a deploy's app, whether it is there or not.
    pub(crate) fn at(home: &Home, deploy: &DeployRef) -> Self {
        Self { path: home.repository(&deploy.app), hooks: home.hooks(), deploy: deploy.deploy.clone() }
    }

    /// A ref of this deploy by its full name.
    fn reference(&self, name: &str) -> String {
        format!("refs/namespaces/{}/{name}", self.deploy)
    }

    /// git on this repository.
    pub(super) fn git(&self) -> Command {
        let mut git = self.settled();
        git.current_dir(&self.path).arg("--git-dir=.");
        git
    }

    /// git on what a push brought that is not taken in yet.
    pub(super) fn git_within(&self, quarantine: Option<&Path>) -> Command {
        let mut git = self.git();
        if let Some(quarantine) = quarantine {
            git.env("GIT_OBJECT_DIRECTORY", quarantine).env("GIT_ALTERNATE_OBJECT_DIRECTORIES", quoted(&self.path.join("objects")));
        }
        git
    }

    /// Where this repository keeps what a push brought until its hook has agreed; `None` for a folder that is no such place.
    pub(super) fn quarantine(&self, named: &Path) -> Option<PathBuf> {
        let real = named.canonicalize().ok()?;
        let objects = self.path.join("objects").canonicalize().ok()?;
        let name = real.strip_prefix(objects).ok()?.to_str()?;
        (name.starts_with(QUARANTINE) && !name.contains('/')).then_some(real)
    }

    /// git by our settings and an environment that has nothing else. Refs are those of the deploy where git knows of namespaces.
    fn settled(&self) -> Command {
        let mut git = program();
        git.env_clear().env("LC_ALL", "C").env("HOME", "/nonexistent").env("GIT_TERMINAL_PROMPT", "0");
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_ATTR_NOSYSTEM", "1");
        // A commit is what was pushed, whatever refs/replace says; and what is not here is not fetched.
        git.env("GIT_NO_REPLACE_OBJECTS", "1").env("GIT_NO_LAZY_FETCH", "1").env("GIT_NAMESPACE", self.deploy.as_str());
        if let Some(path) = std::env::var_os("PATH") {
            git.env("PATH", path);
        }
        for setting in SETTINGS {
            git.args(["-c", setting]);
        }
        let mut hooks = OsString::from("core.hooksPath=");
        hooks.push(&self.hooks);
        git.arg("-c").arg(hooks);
        git
    }

    /// Says that something is received. As long as this is open, or a program that was given it runs, nobody sweeps.
    pub(super) fn receiving(&self) -> io::Result<File> {
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.path.join(LOCK))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            self.sweep();
        }
        // Another one that sweeps is done in an instant.
        while let Err(e) = flock(&lock, FlockOperation::LockShared) {
            if e != rustix::io::Errno::INTR {
                return Err(e.into());
            }
        }
        Ok(lock)
    }

    /// Removes what a git that was killed has left: half a push, and locks that would keep refs as they are for ever.
    fn sweep(&self) {
        let objects = self.path.join("objects");
        for entry in entries(&objects) {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with(QUARANTINE) {
                let _ = fs::remove_dir_all(entry.path());
            } else if entry.file_type().is_ok_and(|t| t.is_dir()) {
                remove_files(&entry.path(), &|name| name.starts_with("tmp_"));
            }
        }
        let is_lock = |name: &str| name.ends_with(".lock") && name != LOCK;
        remove_files(&self.path, &is_lock);
        let mut folders = vec![self.path.join("refs")];
        while let Some(folder) = folders.pop() {
            remove_files(&folder, &is_lock);
            folders.extend(entries(&folder).filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        }
    }
}

/// What the folder of a push that is not taken in yet is called in `objects`.
const QUARANTINE: &str = "tmp_objdir-incoming-";

/// Whether a text is an object's whole name.
pub(super) fn is_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn entries(folder: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(folder).into_iter().flatten().flatten()
}

fn remove_files(folder: &Path, which: &dyn Fn(&str) -> bool) {
    let plain = entries(folder).filter(|e| e.file_type().is_ok_and(|t| t.is_file()));
    for entry in plain.filter(|e| which(&e.file_name().to_string_lossy())) {
        let _ = fs::remove_file(entry.path());
    }
}

fn holds(path: &Path, content: &[u8]) -> bool {
    fs::read(path).is_ok_and(|now| now == content)
}

/// A folder as git reads it from a list that colons part.
fn quoted(folder: &Path) -> OsString {
    let bytes = folder.as_os_str().as_bytes();
    if !bytes.contains(&b':') && bytes.first() != Some(&b'"') {
        return folder.into();
    }
    let mut text = vec![b'"'];
    for byte in bytes {
        if matches!(byte, b'"' | b'\\') {
            text.push(b'\\');
        }
        text.push(*byte);
    }
    text.push(b'"');
    OsString::from_vec(text)
}

/// A file with this content, whole at any time.
fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let fresh = folder.join(format!("{name}.{}-{:x}.lock", std::process::id(), rand::random::<u64>()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
    let written = file.write_all(content).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}
