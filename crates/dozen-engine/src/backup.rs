//! A home in one file, and a file as a home: the ledger, its key, the local authority, slugs, what was pushed, the data of resources.
//!
//! It is read while everything runs: what refers to something before that. First the refs of repositories, then the ledger as one state of it,
//! which knows each commit that they are at; then slugs, which are never changed, and objects of git. A database of SQLite is copied as SQLite
//! does it.
//!
//! **Invariant:** nothing of a file is a home before all of it was read and its sum is right.
//! **Absent on purpose:** logs, downloads, what builds cache, what a run leaves: they come again, or say nothing elsewhere.

use crate::home::Home;
use crate::ledger::{Intent, Ledger, LedgerError, Principal};
use dozen_core::admin::people::Need;
use seal::{MAGIC, Opening, Sealing};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

mod read;
mod seal;
mod write;

/// The format of what is written.
const FORMAT: u32 = 1;
/// The first member: what it is.
const HEAD: &str = "dozen-backup.json";
/// The last one: that nothing is missing.
const END: &str = "dozen-end.json";
/// What stands before all names of the home's.
const WITHIN: &str = "home";
/// The folders of a home that are in it.
const FOLDERS: [&str; 4] = ["ca", "slugs", "repositories", "resources"];

/// What a backup is of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Head {
    /// Of the file.
    format: u32,
    /// The version of dozen that wrote it.
    pub dozen: String,
    /// When.
    pub created: String,
    /// Where the home was.
    pub home: PathBuf,
    /// What there was.
    pub deploys: Vec<String>,
}

/// The last member.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    members: u64,
    bytes: u64,
    blake3: String,
}

/// What was written, or read.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Of what.
    pub head: Head,
    /// Files, links and folders.
    pub members: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// What a person may miss, as sentences without a full stop.
    pub warnings: Vec<String>,
}

/// Why there is no backup, or no home.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A file of the home cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The backup cannot be written to where it goes.
    #[error("cannot write the backup")]
    To(#[source] io::Error),
    /// It cannot be read, or not as what it is.
    #[error("cannot read the backup: it is cut off, was changed, or is sealed with another passphrase")]
    From(#[source] io::Error),
    /// It is none.
    #[error("this is no backup of dozen's: {0}")]
    Wrong(String),
    /// It is of a dozen that knew more.
    #[error("this backup is of dozen {dozen}, and this one is too old to read it; use that one")]
    Newer {
        /// That one's version.
        dozen: String,
    },
    /// It is sealed, and nobody said with what.
    #[error("this backup is sealed with a passphrase; give it by --passphrase-file")]
    Sealed,
    /// There is something where the home would be.
    #[error("{} is not empty, and a backup becomes a home of its own; name another one by DOZEN_HOME, or move this one away", .0.display())]
    NotEmpty(PathBuf),
    /// The home is somebody else's.
    #[error("{} belongs to another account, whose backup it is to become; restore it as that one", .0.display())]
    Another(PathBuf),
}

/// Writes all of a home, sealed where there is a passphrase. Whatever runs goes on, and may write.
///
/// # Errors
/// Something cannot be read or written; what was written is no backup then, and is refused as one.
pub async fn write(
    ledger: &Ledger,
    who: &Principal,
    to: impl Write + Send + 'static,
    passphrase: Option<Zeroizing<String>>,
) -> Result<Summary, BackupError> {
    ledger.authorise(who, "back the home up", Need::Host)?;
    let home = ledger.home().clone();
    let stage = Stage(home.root().join(format!(".backup-{}", std::process::id())));
    Home::private(&stage.0).map_err(|source| BackupError::Write { path: stage.0.clone(), source })?;
    let (of, stage) = (home.clone(), stage);
    let stage = tokio::task::spawn_blocking(move || write::refs(&of, &stage.refs()).map(|()| stage));
    let stage = stage.await.map_err(|e| BackupError::To(io::Error::other(e)))??;
    ledger.copy_to(stage.ledger()).await?;
    let deploys = ledger.deploys().await?.iter().map(ToString::to_string).collect();
    let done = tokio::task::spawn_blocking(move || all(&home, &stage, deploys, to, passphrase.as_ref().map(|p| p.as_str())));
    done.await.map_err(|e| BackupError::To(io::Error::other(e)))?
}

fn all(home: &Home, stage: &Stage, deploys: Vec<String>, to: impl Write, passphrase: Option<&str>) -> Result<Summary, BackupError> {
    let created = jiff::Timestamp::now().to_string();
    let dozen = env!("CARGO_PKG_VERSION").to_owned();
    let head = Head { format: FORMAT, dozen, created, home: home.root().to_owned(), deploys };
    match passphrase {
        None => {
            let (summary, mut to) = write::all(home, stage, head, to)?;
            to.flush().map_err(BackupError::To)?;
            Ok(summary)
        }
        Some(passphrase) => {
            let sealing = Sealing::begin(to, passphrase).map_err(BackupError::To)?;
            let (summary, sealing) = write::all(home, stage, head, sealing)?;
            sealing.finish().and_then(|mut to| to.flush()).map_err(BackupError::To)?;
            Ok(summary)
        }
    }
}

/// Whether what begins so is sealed.
fn is_sealed(begin: &[u8]) -> bool {
    begin == MAGIC
}

/// Reads a backup into a folder that is to become a home, and checks all of it. Blocks.
///
/// # Errors
/// The file is not whole, or not as it was written; the folder is no home then.
fn read(from: impl Read, into: &Path, passphrase: impl FnOnce() -> io::Result<Option<Zeroizing<String>>>) -> Result<Summary, BackupError> {
    let mut from = from;
    let mut begin = Vec::new();
    (&mut from).take(MAGIC.len() as u64).read_to_end(&mut begin).map_err(BackupError::From)?;
    if is_sealed(&begin) {
        let Some(passphrase) = passphrase().map_err(BackupError::From)? else { return Err(BackupError::Sealed) };
        let opening = Opening::begin(from, &passphrase).map_err(BackupError::From)?;
        return read::all(opening, into);
    }
    read::all(begin.as_slice().chain(from), into)
}

/// Makes a home of a backup: in a folder within it, from where all of it moves to its place once it was read and is right.
///
/// # Errors
/// There is a home already, or it is another's, or the file is not as it was written.
pub async fn restore(
    home: &Home,
    from: impl Read + Send + 'static,
    passphrase: impl FnOnce() -> io::Result<Option<Zeroizing<String>>> + Send + 'static,
) -> Result<Summary, BackupError> {
    let root = home.root().to_owned();
    fn failed(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
        let path = path.to_owned();
        move |source| BackupError::Write { path, source }
    }
    Home::private(&root).map_err(failed(&root))?;
    let reading = |source| BackupError::Read { path: root.clone(), source };
    if fs::read_dir(&root).map_err(reading)?.next().is_some() {
        return Err(BackupError::NotEmpty(root));
    }
    // What root writes for somebody else they could not use.
    if fs::metadata(&root).map_err(reading)?.uid() != rustix::process::geteuid().as_raw() {
        return Err(BackupError::Another(root));
    }
    let stage = Stage(root.join(format!(".restoring-{}", std::process::id())));
    Home::private(&stage.0).map_err(failed(&stage.0))?;
    let into = stage.0.clone();
    let done = tokio::task::spawn_blocking(move || read(from, &into, passphrase));
    let summary = done.await.map_err(|e| BackupError::From(io::Error::other(e)))??;
    let ledger = Ledger::open(&Home::at(&stage.0))?;
    let of = summary.head.created.parse().map_err(|_| BackupError::Wrong("it does not say when it was made".to_owned()))?;
    let (from, to) = (summary.head.home.clone(), root.clone());
    ledger.commit(&Principal::me(), Intent::Restore { from, to, of }).await?;
    ledger.settle().await?;
    drop(ledger);
    let entries = fs::read_dir(&stage.0).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(|source| BackupError::Read { path: stage.0.clone(), source })?;
    // A home is one by its ledger.
    entries.sort_by_key(|entry| entry.path() == Home::at(&stage.0).ledger());
    for entry in entries {
        let to = root.join(entry.file_name());
        fs::rename(entry.path(), &to).map_err(failed(&to))?;
    }
    let synced = fs::File::open(&root).and_then(|folder| folder.sync_all());
    synced.map_err(failed(&root))?;
    Ok(summary)
}

/// A folder that is gone when this is.
struct Stage(PathBuf);

impl Stage {
    /// A copy of the ledger.
    fn ledger(&self) -> PathBuf {
        self.0.join("ledger")
    }
    /// Copies of what refers to the objects of repositories.
    fn refs(&self) -> PathBuf {
        self.0.join("refs")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What cannot be removed says by its name what it is.
        let _ = fs::remove_dir_all(&self.0);
    }
}
