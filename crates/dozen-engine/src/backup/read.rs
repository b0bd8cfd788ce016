//! A stream as a folder: each member is what it says, in a place that no earlier one has made to lead elsewhere.

use super::write::note;
use super::{BackupError, END, End, FOLDERS, FORMAT, HEAD, Head, Summary, WITHIN};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use tar::{Entry, EntryType};

/// The first and the last member are short.
const SHORT: u64 = 64 << 20;

pub(super) fn all(from: impl Read, into: &Path) -> Result<Summary, BackupError> {
    let zstd = zstd::Decoder::new(from).map_err(BackupError::From)?;
    let mut tar = tar::Archive::new(zstd);
    let mut entries = tar.entries().map_err(BackupError::From)?;
    let mut first = entries.next().ok_or_else(|| wrong("it is empty"))?.map_err(BackupError::From)?;
    if first.path_bytes().as_ref() != HEAD.as_bytes() {
        return Err(wrong("it does not begin as one"));
    }
    let told = short(&mut first)?;
    let head: Head = serde_json::from_slice(&told).map_err(|e| wrong(&e.to_string()))?;
    if head.format != FORMAT {
        return Err(BackupError::Newer { dozen: head.dozen });
    }
    let mut reader = Reader { into, folders: BTreeSet::new(), late: Vec::new(), hasher: blake3::Hasher::new(), members: 0, bytes: 0 };
    reader.hasher.update(&told);
    loop {
        // Without its last member it is cut off, however well it ends.
        let mut entry = entries.next().ok_or_else(|| wrong("its end is missing"))?.map_err(BackupError::From)?;
        if entry.path_bytes().as_ref() == END.as_bytes() {
            let end: End = serde_json::from_slice(&short(&mut entry)?).map_err(|e| wrong(&e.to_string()))?;
            let is = End { members: reader.members, bytes: reader.bytes, blake3: reader.hasher.finalize().to_hex().to_string() };
            if end != is {
                return Err(wrong("its sum is another one: it was changed"));
            }
            break;
        }
        reader.member(&mut entry)?;
    }
    // What a checksum of the stream has to say is said at its end.
    let rest = entries.next().transpose().map_err(BackupError::From)?;
    if rest.is_some() {
        return Err(wrong("something follows its end"));
    }
    let mut rest = tar.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(BackupError::From)?;
    reader.settle()?;
    Ok(Summary { head, members: reader.members, bytes: reader.bytes, warnings: Vec::new() })
}

fn wrong(why: &str) -> BackupError {
    BackupError::Wrong(why.to_owned())
}

fn short(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, BackupError> {
    let mut bytes = Vec::new();
    entry.take(SHORT).read_to_end(&mut bytes).map_err(BackupError::From)?;
    Ok(bytes)
}

struct Reader<'i> {
    into: &'i Path,
    /// That were made here: none of them is a link.
    folders: BTreeSet<PathBuf>,
    /// Folders get their mode at the end, so that what is in them can be written.
    late: Vec<(PathBuf, u32, (u32, u32))>,
    hasher: blake3::Hasher,
    members: u64,
    bytes: u64,
}

impl Reader<'_> {
    fn member(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), BackupError> {
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(&entry.path_bytes()));
        let name = path.strip_prefix(WITHIN).map_err(|_| wrong(&format!("{} is not within a home", path.display())))?.to_owned();
        let mut parts = name.components();
        let top = parts.clone().next().and_then(|part| part.as_os_str().to_str().map(str::to_owned)).unwrap_or_default();
        let known = FOLDERS.contains(&top.as_str()) || matches!(name.to_str(), Some("ledger.db" | "key"));
        let above = name.parent().unwrap_or(Path::new(""));
        let has_folder = above.as_os_str().is_empty() || self.folders.contains(above);
        if !known || !has_folder || !parts.all(|part| matches!(part, Component::Normal(_))) {
            return Err(wrong(&format!("{} has no place in a home", name.display())));
        }
        let header = entry.header();
        let (kind, size) = (header.entry_type(), entry.size());
        let number = |read: io::Result<u64>| read.map_err(BackupError::From);
        let owner = (number(header.uid())?, number(header.gid())?);
        let mode = header.mode().map_err(BackupError::From)? & 0o777;
        let ids = (u32::try_from(owner.0), u32::try_from(owner.1));
        let (Ok(uid), Ok(gid)) = ids else { return Err(wrong(&format!("{} is nobody's", name.display()))) };
        let at = self.into.join(&name);
        let failed = |source| BackupError::Write { path: at.clone(), source };
        self.members += 1;
        match kind {
            EntryType::Directory => {
                note(&mut self.hasher, &name, kind, mode, owner, 0);
                fs::DirBuilder::new().mode(0o700).create(&at).map_err(failed)?;
                self.folders.insert(name);
                self.late.push((at, mode, (uid, gid)));
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| wrong(&format!("{} leads nowhere", name.display())))?.into_owned();
                note(&mut self.hasher, &name, kind, mode, owner, target.len() as u64);
                self.hasher.update(&target);
                std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(&target), &at).map_err(failed)?;
                give(&at, uid, gid).map_err(failed)?;
            }
            EntryType::Regular => {
                note(&mut self.hasher, &name, kind, mode, owner, size);
                self.bytes += size;
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at).map_err(failed)?;
                let mut buffer = vec![0; 128 << 10];
                let mut left = size;
                while left > 0 {
                    let n = entry.read(&mut buffer).map_err(BackupError::From)?;
                    if n == 0 {
                        return Err(BackupError::From(io::ErrorKind::UnexpectedEof.into()));
                    }
                    self.hasher.update(&buffer[..n]);
                    file.write_all(&buffer[..n]).map_err(failed)?;
                    left -= n as u64;
                }
                give(&at, uid, gid).map_err(failed)?;
                file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
            }
            _ => return Err(wrong(&format!("{} is neither a file nor a folder nor a link", name.display()))),
        }
        Ok(())
    }

    fn settle(&self) -> Result<(), BackupError> {
        // The innermost first: who may not write into a folder can still change it.
        for (at, mode, (uid, gid)) in self.late.iter().rev() {
            let failed = |source| BackupError::Write { path: at.clone(), source };
            give(at, *uid, *gid).map_err(failed)?;
            fs::set_permissions(at, fs::Permissions::from_mode(*mode)).map_err(failed)?;
        }
        let synced = fs::File::open(self.into).and_then(|folder| Ok(rustix::fs::syncfs(&folder)?));
        synced.map_err(|source| BackupError::Write { path: self.into.to_owned(), source })
    }
}

/// Only root gives files away; for anybody else all of a home is their own.
fn give(at: &Path, uid: u32, gid: u32) -> io::Result<()> {
    if rustix::process::geteuid().is_root() { std::os::unix::fs::lchown(at, Some(uid), Some(gid)) } else { Ok(()) }
}
