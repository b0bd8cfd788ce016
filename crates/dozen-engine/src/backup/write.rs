//! A home as a stream.

use super::{BackupError, END, End, FOLDERS, HEAD, Head, Stage, Summary, WITHIN};
use crate::home::Home;
use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tar::{EntryType, Header};

const LEVEL: i32 = 3;
const SLUGS: &str = "slugs";
const REPOSITORIES: &str = "repositories";
/// Of git, in each of them.
const OBJECTS: &str = "objects";
/// What each database of SQLite begins with.
const SQLITE: &[u8; 16] = b"SQLite format 3\0";
/// So often a folder is listed again in which something went away meanwhile.
const LISTED: u32 = 20;
/// For a database that its app keeps locked.
const BUSY: Duration = Duration::from_secs(30);

/// Copies all of each repository but its objects: what they refer to is never newer than the ledger, which is copied after them.
pub(super) fn refs(home: &Home, to: &Path) -> Result<(), BackupError> {
    let repositories = home.repositories();
    if !repositories.is_dir() {
        return Ok(());
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::Read { path, source }
    };
    fs::create_dir(to).map_err(failed(to))?;
    for repository in fs::read_dir(&repositories).map_err(failed(&repositories))? {
        let repository = repository.map_err(failed(&repositories))?.path();
        let into = to.join(repository.file_name().unwrap_or_default());
        copy(&repository, &into).map_err(failed(&repository))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    let mut entries = fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
    // A ref that git packs meanwhile is in one of both, read in this order.
    entries.sort_by_key(|entry| entry.file_name() == "packed-refs");
    for entry in entries {
        let (at, into) = (entry.path(), to.join(entry.file_name()));
        if entry.file_name() == OBJECTS || !is_kept(&at) {
            continue;
        }
        let copied = if entry.file_type()?.is_dir() { copy(&at, &into) } else { fs::copy(&at, &into).map(drop) };
        match copied {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    let meta = fs::metadata(from)?;
    fs::set_permissions(to, meta.permissions())
}

pub(super) fn all<W: Write>(home: &Home, stage: &Stage, head: Head, to: W) -> Result<(Summary, W), BackupError> {
    let mut zstd = zstd::Encoder::new(to, LEVEL).map_err(BackupError::To)?;
    zstd.include_checksum(true).map_err(BackupError::To)?;
    let tar = tar::Builder::new(zstd);
    let mut writer =
        Writer { tar, hasher: blake3::Hasher::new(), members: 0, bytes: 0, warnings: Vec::new(), spool: stage.0.join("database") };
    let told = serde_json::to_vec_pretty(&head).map_err(|e| BackupError::To(e.into()))?;
    let mut first = plain(EntryType::Regular, 0o600, told.len() as u64);
    writer.tar.append_data(&mut first, HEAD, told.as_slice()).map_err(BackupError::To)?;
    writer.hasher.update(&told);
    writer.file(&stage.ledger(), "ledger.db".as_ref())?;
    writer.file(&home.key(), "key".as_ref())?;
    let root = fs::canonicalize(home.root()).map_err(|source| BackupError::Read { path: home.root().to_owned(), source })?;
    for folder in FOLDERS {
        let at = root.join(folder);
        match folder {
            _ if !at.is_dir() => {}
            REPOSITORIES => writer.repositories(&stage.refs(), &at)?,
            _ => writer.folder(&at, folder.as_ref())?,
        }
    }
    let Writer { mut tar, hasher, members, bytes, warnings, .. } = writer;
    let end = End { members, bytes, blake3: hasher.finalize().to_hex().to_string() };
    let told = serde_json::to_vec(&end).map_err(|e| BackupError::To(e.into()))?;
    tar.append_data(&mut plain(EntryType::Regular, 0o600, told.len() as u64), END, told.as_slice()).map_err(BackupError::To)?;
    let to = tar.into_inner().and_then(zstd::Encoder::finish).map_err(BackupError::To)?;
    Ok((Summary { head, members, bytes, warnings }, to))
}

fn plain(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// What the sum is made of, beside what files contain: the same where it is written and where it is read.
pub(super) fn note(hasher: &mut blake3::Hasher, name: &Path, kind: EntryType, mode: u32, owner: (u64, u64), size: u64) {
    let name = name.as_os_str().as_bytes();
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name);
    hasher.update(&[kind.as_byte()]).update(&mode.to_le_bytes());
    hasher.update(&owner.0.to_le_bytes()).update(&owner.1.to_le_bytes()).update(&size.to_le_bytes());
}

struct Writer<W: Write> {
    tar: tar::Builder<zstd::Encoder<'static, W>>,
    hasher: blake3::Hasher,
    members: u64,
    bytes: u64,
    warnings: Vec<String>,
    /// Where databases are copied to.
    spool: PathBuf,
}

impl<W: Write> Writer<W> {
    /// What was copied of each, and its objects as they are now: at least those that it refers to.
    fn repositories(&mut self, refs: &Path, live: &Path) -> Result<(), BackupError> {
        let name = Path::new(REPOSITORIES);
        self.folder(refs, name)?;
        for repository in fs::read_dir(refs).map_err(|source| BackupError::Read { path: refs.to_owned(), source })? {
            let repository = repository.map_err(|source| BackupError::Read { path: refs.to_owned(), source })?.file_name();
            self.folder(&live.join(&repository).join(OBJECTS), &name.join(&repository).join(OBJECTS))?;
        }
        Ok(())
    }

    /// A folder and all in it.
    fn folder(&mut self, at: &Path, name: &Path) -> Result<(), BackupError> {
        let failed = |source| BackupError::Read { path: at.to_owned(), source };
        // A slug is not collected while it is read.
        let held = if name.parent() == Some(Path::new(SLUGS)) { Some(held(at).map_err(failed)?) } else { None };
        let meta = fs::symlink_metadata(at).map_err(failed)?;
        self.member(name, EntryType::Directory, &meta, 0, io::empty(), at)?;
        let (mut done, mut again) = (BTreeSet::new(), 0);
        loop {
            let mut gone = false;
            let mut entries: Vec<_> = fs::read_dir(at).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed)?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                if !done.contains(&entry.file_name()) && is_kept(&entry.path()) {
                    match self.entry(&entry.path(), &name.join(entry.file_name())) {
                        Err(BackupError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => gone = true,
                        other => other?,
                    }
                    done.insert(entry.file_name());
                }
            }
            again += 1;
            // Packed meanwhile, what went away is in a file that was not there.
            if !gone || again == LISTED {
                drop(held);
                return Ok(());
            }
        }
    }

    fn entry(&mut self, at: &Path, name: &Path) -> Result<(), BackupError> {
        let failed = |source| BackupError::Read { path: at.to_owned(), source };
        let meta = fs::symlink_metadata(at).map_err(failed)?;
        if meta.is_dir() {
            return self.folder(at, name);
        }
        if meta.is_symlink() {
            let target = fs::read_link(at).map_err(failed)?;
            return self.link(name, &meta, &target);
        }
        if !meta.is_file() {
            // A socket or a pipe is whose process made it.
            return Ok(());
        }
        if name.starts_with("resources") && is_sqlite(at) {
            return self.database(at, name);
        }
        self.file(at, name)
    }

    fn file(&mut self, at: &Path, name: &Path) -> Result<(), BackupError> {
        let failed = |source| BackupError::Read { path: at.to_owned(), source };
        let file = open(at).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        self.contents(file, &meta, at, name)
    }

    fn contents(&mut self, file: File, meta: &fs::Metadata, at: &Path, name: &Path) -> Result<(), BackupError> {
        let size = meta.len();
        self.member(name, EntryType::Regular, meta, size, file, at)
    }

    /// As SQLite copies one while others write.
    fn database(&mut self, at: &Path, name: &Path) -> Result<(), BackupError> {
        let failed = |e: rusqlite::Error| BackupError::Read { path: at.to_owned(), source: io::Error::other(e) };
        let copy = self.spool.clone();
        // Its app may put a link in its place meanwhile.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let copied = || -> rusqlite::Result<()> {
            let from = Connection::open_with_flags(at, flags)?;
            from.busy_timeout(BUSY)?;
            let mut to = Connection::open(&copy)?;
            Backup::new(&from, &mut to)?.run_to_completion(i32::MAX, Duration::from_millis(100), None)
        };
        let done = copied().map_err(failed).and_then(|()| {
            let meta = fs::metadata(at).map_err(|source| BackupError::Read { path: at.to_owned(), source })?;
            let file = open(&copy).map_err(|source| BackupError::Read { path: copy.clone(), source })?;
            let size = file.metadata().map_err(|source| BackupError::Read { path: copy.clone(), source })?.len();
            self.member(name, EntryType::Regular, &meta, size, file, at)
        });
        // Where it cannot be removed the folder of copies is, at the end.
        let _ = fs::remove_file(&copy);
        done
    }

    fn link(&mut self, name: &Path, meta: &fs::Metadata, target: &Path) -> Result<(), BackupError> {
        let mut header = header(EntryType::Symlink, meta, 0);
        self.tar.append_link(&mut header, Path::new(WITHIN).join(name), target).map_err(BackupError::To)?;
        let bytes = target.as_os_str().as_bytes();
        self.count(name, EntryType::Symlink, meta, bytes.len() as u64);
        self.hasher.update(bytes);
        Ok(())
    }

    fn count(&mut self, name: &Path, kind: EntryType, meta: &fs::Metadata, size: u64) {
        let owner = (u64::from(meta.uid()), u64::from(meta.gid()));
        note(&mut self.hasher, name, kind, mode(meta), owner, size);
        self.members += 1;
    }

    fn member(
        &mut self,
        name: &Path,
        kind: EntryType,
        meta: &fs::Metadata,
        size: u64,
        from: impl Read,
        at: &Path,
    ) -> Result<(), BackupError> {
        self.count(name, kind, meta, size);
        self.bytes += size;
        let mut header = header(kind, meta, size);
        let mut exact = Exact { from, left: size, hasher: &mut self.hasher, short: false, failed: None };
        let written = self.tar.append_data(&mut header, Path::new(WITHIN).join(name), &mut exact);
        let (short, failed) = (exact.short, exact.failed);
        if let Some(source) = failed {
            return Err(BackupError::Read { path: at.to_owned(), source });
        }
        written.map_err(BackupError::To)?;
        if short {
            self.warnings.push(format!("{} became shorter while it was read, and is filled up with zeros", at.display()));
        }
        Ok(())
    }
}

fn mode(meta: &fs::Metadata) -> u32 {
    meta.mode() & 0o777
}

fn header(kind: EntryType, meta: &fs::Metadata, size: u64) -> Header {
    let mut header = plain(kind, mode(meta), size);
    header.set_uid(u64::from(meta.uid()));
    header.set_gid(u64::from(meta.gid()));
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or_default());
    header
}

/// As many bytes as were announced, whatever becomes of the file meanwhile.
struct Exact<'h, R> {
    from: R,
    left: u64,
    hasher: &'h mut blake3::Hasher,
    short: bool,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Exact<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        if most == 0 {
            return Ok(0);
        }
        let mut n = match if self.short { Ok(0) } else { self.from.read(&mut into[..most]) } {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) => {
                self.failed = Some(io::Error::new(e.kind(), e.to_string()));
                return Err(e);
            }
            Ok(n) => n,
        };
        if n == 0 {
            self.short = true;
            into[..most].fill(0);
            n = most;
        }
        self.hasher.update(&into[..n]);
        self.left -= n as u64;
        Ok(n)
    }
}

/// A link that was put there meanwhile leads nowhere.
fn open(at: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(at)
}

fn held(at: &Path) -> io::Result<File> {
    let folder = File::open(at)?;
    flock(&folder, FlockOperation::LockShared)?;
    Ok(folder)
}

fn is_sqlite(at: &Path) -> bool {
    let mut begin = [0; SQLITE.len()];
    open(at).and_then(|mut file| file.read_exact(&mut begin)).is_ok() && begin == *SQLITE
}

/// What belongs to a database goes with its copy; what git has not finished is nothing.
fn is_kept(at: &Path) -> bool {
    let name = at.file_name().unwrap_or_default().to_string_lossy();
    let of_database = ["-wal", "-shm", "-journal"].iter().filter_map(|end| name.strip_suffix(end));
    let of_database = of_database.into_iter().any(|database| is_sqlite(&at.with_file_name(database)));
    let of_git = at.components().any(|part| part.as_os_str() == "repositories")
        && (name.starts_with("tmp_") || name.starts_with("incoming-") || name.ends_with(".lock"));
    !of_database && !of_git
}
