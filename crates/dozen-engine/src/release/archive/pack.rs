//! Writes a slug of the store as a slug file.

use super::{ArchiveError, HEAD, Head, Limits, MANIFEST, TREE, checks, entries};
use crate::codebase::open;
use crate::home::Home;
use crate::release::machine::Machine;
use crate::release::store::{Entry, hex};
use dozen_core::ids::AppName;
use dozen_core::release::Slug;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// See `docs/v-build-release-run.md` for what was measured.
const LEVEL: i32 = 3;
/// zstd divides its input in the same way for any number of threads but none, so that a file does not depend on how many cores there are.
const MOST_WORKERS: u32 = 4;

/// Writes a slug of the store to `to`, as a slug file, and answers how many bytes that were. `go_on` is asked now and then.
pub fn pack(home: &Home, slug: &Slug, app: &AppName, to: impl Write, go_on: &dyn Fn() -> bool) -> Result<u64, ArchiveError> {
    pack_within(home, slug, app, to, go_on, &Limits::default())
}

fn pack_within(
    home: &Home,
    slug: &Slug,
    app: &AppName,
    to: impl Write,
    go_on: &dyn Fn() -> bool,
    limits: &Limits,
) -> Result<u64, ArchiveError> {
    let Checked { tree, entries, machine, links } = checked(home, slug, limits)?;
    let mut counted = Counted { to, written: 0, most: limits.packed };
    let result = members(&mut counted, &tree, &Head::of(slug, app, machine, &entries), &entries, &links, go_on);
    match result {
        Err(_) if counted.written > counted.most => Err(ArchiveError::bytes(counted.written, counted.most)),
        Err(Fault::Write(source)) => Err(ArchiveError::Io { what: "write", path: "the slug file".into(), source }),
        Err(Fault::Other(e)) => Err(e),
        Ok(()) => Ok(counted.written),
    }
}

/// A slug of the store that may leave this machine.
pub(super) struct Checked {
    pub(super) tree: PathBuf,
    pub(super) entries: Vec<Entry>,
    pub(super) machine: Machine,
    /// Where each link leads.
    pub(super) links: BTreeMap<String, String>,
}

/// Whatever would be refused on the other machine is told on this one.
pub(super) fn checked(home: &Home, slug: &Slug, limits: &Limits) -> Result<Checked, ArchiveError> {
    let tree = home.slug(&slug.id).join("tree");
    let entries = entries(home, &slug.id)?;
    let machine = Machine::of(slug, &tree, &entries);
    checks::list(&entries, limits)?;
    checks::facts(slug, slug.processes.len(), &entries, &machine)?;
    let mut links = BTreeMap::new();
    for entry in entries.iter().filter(|e| e.kind == 'l') {
        let path = tree.join(&entry.path);
        let target = fs::read_link(&path).map_err(|source| ArchiveError::Io { what: "read", path, source })?;
        links.insert(entry.path.clone(), target.to_string_lossy().into_owned());
    }
    if let Some((path, why)) = links.keys().find_map(|p| Some((p, checks::link_fault(p, &links, &machine)?))) {
        return Err(ArchiveError::member(format!("{TREE}{path}"), why));
    }
    Ok(Checked { tree, entries, machine, links })
}

/// What goes wrong on the way: with what is written, or with what is read.
pub(super) enum Fault {
    Write(io::Error),
    Other(ArchiveError),
}

fn members(
    to: impl Write,
    tree: &Path,
    head: &Head,
    entries: &[Entry],
    links: &BTreeMap<String, String>,
    go_on: &dyn Fn() -> bool,
) -> Result<(), Fault> {
    let mut zstd = zstd::Encoder::new(to, LEVEL).map_err(Fault::Write)?;
    let workers = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)).min(MOST_WORKERS);
    zstd.include_checksum(true).and_then(|()| zstd.multithread(workers)).map_err(Fault::Write)?;
    let mut tar = tar::Builder::new(zstd);
    let json = |e: serde_json::Error| Fault::Write(e.into());
    let head = serde_json::to_vec_pretty(head).map_err(json)?;
    member(&mut tar, HEAD, EntryType::Regular, 0o644, head.len() as u64, head.as_slice())?;
    let list = serde_json::to_vec(entries).map_err(json)?;
    member(&mut tar, MANIFEST, EntryType::Regular, 0o644, list.len() as u64, list.as_slice())?;
    for entry in entries {
        if !go_on() {
            return Err(Fault::Other(ArchiveError::Interrupted));
        }
        let name = format!("{TREE}{}", entry.path);
        if entry.kind == 'l' {
            link(&mut tar, &name, links.get(&entry.path).map_or("", String::as_str))?;
            continue;
        }
        let path = tree.join(&entry.path);
        let failed = |source| Fault::Other(ArchiveError::Io { what: "read", path: path.clone(), source });
        let mut file = Hashed { from: open(&path).map_err(failed)?.take(entry.size), hasher: blake3::Hasher::new() };
        member(&mut tar, &name, EntryType::Regular, if entry.kind == 'x' { 0o755 } else { 0o644 }, entry.size, &mut file)?;
        if hex(file.hasher.finalize().as_bytes()) != entry.hash {
            return Err(Fault::Other(ArchiveError::changed(&path)));
        }
    }
    let zstd = tar.into_inner().map_err(Fault::Write)?;
    zstd.finish().and_then(|mut to| to.flush()).map_err(Fault::Write)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// A member under exactly this name; what is longer than the header takes goes before it, as GNU tar has it.
pub(super) fn member<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    kind: EntryType,
    mode: u32,
    size: u64,
    data: impl Read,
) -> Result<(), Fault> {
    let mut header = header(kind, mode, size);
    put_name(tar, &mut header, name)?;
    header.set_cksum();
    tar.append(&header, data).map_err(Fault::Write)
}

pub(super) fn link<W: Write>(tar: &mut tar::Builder<W>, name: &str, target: &str) -> Result<(), Fault> {
    let mut header = header(EntryType::Symlink, 0o777, 0);
    let field = &mut header.as_old_mut().linkname;
    if target.len() <= field.len() {
        field[..target.len()].copy_from_slice(target.as_bytes());
    } else {
        long(tar, EntryType::GNULongLink, target)?;
    }
    put_name(tar, &mut header, name)?;
    header.set_cksum();
    tar.append(&header, io::empty()).map_err(Fault::Write)
}

fn put_name<W: Write>(tar: &mut tar::Builder<W>, header: &mut Header, name: &str) -> Result<(), Fault> {
    let field = &mut header.as_old_mut().name;
    if name.len() <= field.len() {
        field[..name.len()].copy_from_slice(name.as_bytes());
        return Ok(());
    }
    long(tar, EntryType::GNULongName, name)
}

fn long<W: Write>(tar: &mut tar::Builder<W>, kind: EntryType, text: &str) -> Result<(), Fault> {
    let mut header = header(kind, 0o644, text.len() as u64 + 1);
    let name = b"././@LongLink";
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    tar.append(&header, text.as_bytes().chain(&[0][..])).map_err(Fault::Write)
}

/// Hashes what is read, and fills up a file that has become shorter, so that its hash and not the tar file is wrong.
pub(super) struct Hashed<R> {
    pub(super) from: io::Take<R>,
    pub(super) hasher: blake3::Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut n = self.from.read(buffer)?;
        if n == 0 && self.from.limit() > 0 && !buffer.is_empty() {
            n = buffer.len().min(usize::try_from(self.from.limit()).unwrap_or(usize::MAX));
            buffer[..n].fill(0);
            self.from.set_limit(self.from.limit() - n as u64);
        }
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

/// Counts what is written, and ends it beyond the limit.
struct Counted<W> {
    to: W,
    written: u64,
    most: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.written += n as u64;
        if self.written > self.most {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Writes a slug file to a path: beside it first, and in its place only when all of it is on the disk. What is no plain file there (a pipe, a
/// device) is written to as it is.
pub fn write(home: &Home, slug: &Slug, app: &AppName, path: &Path, go_on: &dyn Fn() -> bool) -> Result<u64, ArchiveError> {
    let failed = |source| ArchiveError::Io { what: "write", path: path.to_owned(), source };
    // A link is not replaced, but what it leads to.
    let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(&place).is_ok_and(|m| !m.is_file()) {
        return pack(home, slug, app, BufWriter::new(File::options().write(true).open(&place).map_err(failed)?), go_on);
    }
    let name = place.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
    let mut fresh = Fresh { path: place.with_file_name(format!(".{}.{}.new", name.to_string_lossy(), std::process::id())), kept: false };
    // One that a dozen of this id left when it was killed; what else lies there is not written through.
    let _ = fs::remove_file(&fresh.path);
    let file = File::options().write(true).create_new(true).open(&fresh.path).map_err(failed)?;
    let bytes = pack(home, slug, app, BufWriter::new(&file), go_on).map_err(|e| match e {
        ArchiveError::Io { what: "write", source, .. } => failed(source),
        other => other,
    })?;
    file.sync_all().and_then(|()| fs::rename(&fresh.path, &place)).map_err(failed)?;
    fresh.kept = true;
    let folder = place.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The file is whole either way; not every file system can do this to a folder.
    let _ = File::open(folder).and_then(|f| f.sync_all());
    Ok(bytes)
}

/// A file under construction, removed unless it is kept.
struct Fresh {
    path: PathBuf,
    kept: bool,
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}
