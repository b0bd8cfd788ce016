//! A source as one tar file, to be built elsewhere: packed where its folder is, and unpacked into a folder of its own where it is built.
//!
//! **Invariant:** nothing is written outside of that folder, and memory does not grow with what a file claims.
//! **Invariant:** links are made last, and nothing lies below one: no write goes by way of what was sent.

use super::{MAX_BYTES, MAX_DEPTH, MAX_FILES, MAX_PATH, ReadError, bytes, left_out, open, stays_within};
use crate::home::Home;
use crate::release::scratch::Scratch;
use dozen_core::codebase::{Commit, FileKind, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// The most entries that a tar file may have, folders and what is left out among them.
const MAX_ENTRIES: usize = 2 * MAX_FILES;
/// The most bytes of a tar file once it is unpacked: all files, and beside each its headers.
const MAX_TAR: u64 = MAX_BYTES + (MAX_ENTRIES as u64) * 2048;
/// The most bytes of what stands before a member: a long name, or what pax has to say.
const MAX_BEFORE: u64 = 64 << 10;
/// The largest window that is unpacked with, as a power of two: 8 MiB of memory.
const WINDOW: u32 = 23;
/// Fast: what is saved on the way is soon lost in waiting.
const LEVEL: i32 = 1;

/// The files of a tar file. The folder is removed when this is dropped.
#[derive(Debug)]
pub struct Unpacked {
    /// What the file says that it is of, as `git archive` writes it there.
    pub commit: Option<Commit>,
    /// What was left out that a person may miss, as sentences without a full stop.
    pub warnings: Vec<String>,
    tree: PathBuf,
    _scratch: Scratch,
}

impl Unpacked {
    /// Where the files are.
    pub fn folder(&self) -> &Path {
        &self.tree
    }
}

/// Why a source cannot be packed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum TarballError {
    /// It is beyond what a source may be.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is something else, or it breaks off.
    #[error("this is no whole tar file, plain or packed with gzip or zstd. Nothing of it was kept")]
    Damaged(#[source] io::Error),
    /// A member that no source has.
    #[error("{member:?} in the tar file is refused: {why}. Nothing of it was kept")]
    Member {
        /// Its name, as far as it can be shown.
        member: String,
        /// Why.
        why: &'static str,
    },
    /// Beyond a limit.
    #[error("the tar file has more than {0}. Name what the app does not need in .slugignore")]
    TooLarge(String),
    /// A file was changed under way.
    #[error("{0} was changed while it was read; run the command again")]
    Changed(String),
    /// The disk.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// Writes a source to `to` as a tar file packed with zstd. Blocks.
pub fn pack(source: &Source, to: impl Write) -> Result<(), TarballError> {
    let written = |e| TarballError::Write("the tar file".into(), e);
    let mut tar = tar::Builder::new(zstd::Encoder::new(to, LEVEL).map_err(written)?);
    for file in &source.files {
        let mut header = Header::new_gnu();
        header.set_mtime(0);
        header.set_size(file.size);
        if let FileKind::Link(target) = &file.kind {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            tar.append_link(&mut header, &file.path, target).map_err(written)?;
            continue;
        }
        let path = source.folder.join(&file.path);
        let from = open(&path).map_err(|e| ReadError::Io(path.clone(), e))?;
        header.set_mode(if file.kind == FileKind::Executable { 0o755 } else { 0o644 });
        let mut content = from.take(file.size);
        tar.append_data(&mut header, &file.path, &mut content).map_err(written)?;
        if content.limit() > 0 {
            return Err(TarballError::Changed(file.path.clone()));
        }
    }
    let zstd = tar.into_inner().map_err(written)?;
    zstd.finish().and_then(|mut to| to.flush()).map_err(written)
}

/// Reads a tar file, plain or packed, to its end, and writes its files to a folder below the home. Blocks.
pub fn unpack(home: &Home, from: impl Read) -> Result<Unpacked, TarballError> {
    let mut from = BufReader::with_capacity(64 << 10, Capped { from, left: MAX_TAR });
    let head = io::BufRead::fill_buf(&mut from).map_err(fault)?;
    let (gzip, packed) = (head.starts_with(&[0x1f, 0x8b]), head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    let plain: Box<dyn Read + '_> = if gzip {
        Box::new(flate2::bufread::MultiGzDecoder::new(from))
    } else if packed {
        let mut zstd = zstd::Decoder::with_buffer(from).map_err(fault)?;
        zstd.window_log_max(WINDOW).map_err(fault)?;
        Box::new(zstd)
    } else {
        Box::new(from)
    };
    let checkouts = home.checkouts();
    let written = |e| TarballError::Write(checkouts.clone(), e);
    Home::private(&checkouts).map_err(written)?;
    let scratch = Scratch::new(&checkouts).map_err(written)?;
    let tree = scratch.path().join("tree");
    fs::create_dir(&tree).map_err(written)?;
    let mut making = Making { tree: &tree, made: PathBuf::new(), files: 0, bytes: 0, links: BTreeMap::new(), warnings: Vec::new() };
    let mut archive = tar::Archive::new(Capped { from: plain, left: MAX_TAR });
    let commit = members(&mut archive, &mut making)?;
    // Only at its end a packed file says whether all of it was right.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(fault)?;
    let warnings = making.end()?;
    Ok(Unpacked { commit, warnings, tree, _scratch: scratch })
}

/// What stands before a member and belongs to it.
#[derive(Default)]
struct Before {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

/// Answers the commit that the file names.
fn members<R: Read>(archive: &mut tar::Archive<R>, making: &mut Making<'_>) -> Result<Option<Commit>, TarballError> {
    let mut commit = None;
    let mut before = Before::default();
    // Raw: the library would read a long name into memory whole, however long it says it is.
    for (i, entry) in archive.entries().map_err(fault)?.raw(true).enumerate() {
        if i == MAX_ENTRIES {
            return Err(TarballError::TooLarge(format!("{MAX_ENTRIES} entries")));
        }
        let mut entry = entry.map_err(fault)?;
        match entry.header().entry_type() {
            EntryType::GNULongName => before.name = Some(small(&mut entry)?),
            EntryType::GNULongLink => before.link = Some(small(&mut entry)?),
            EntryType::XHeader => {
                let text = small(&mut entry)?;
                for (key, value) in records(&text) {
                    match key {
                        b"path" => before.name = Some(value.to_vec()),
                        b"linkpath" => before.link = Some(value.to_vec()),
                        // What the header says is another size, and what follows would be read as members.
                        b"size" => return Err(refused("a file of more than 8 GiB", "it is too large")),
                        _ => {}
                    }
                }
            }
            EntryType::XGlobalHeader => {
                let text = small(&mut entry)?;
                let hash = records(&text).into_iter().find(|(key, _)| *key == b"comment").map(|(_, value)| value);
                commit = hash.and_then(commit_of).or(commit);
            }
            kind => {
                let Before { name, link } = std::mem::take(&mut before);
                let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|e| ReadError::Name(e.to_string().into()));
                let raw = name.unwrap_or_else(|| entry.header().path_bytes().into_owned());
                let name =
                    String::from_utf8(raw).map_err(|e| ReadError::Name(String::from_utf8_lossy(e.as_bytes()).into_owned().into()))?;
                let executable = entry.header().mode().is_ok_and(|m| m & 0o111 != 0);
                match kind {
                    // Folders come of the files in them; an empty one is no part of a source.
                    EntryType::Directory => drop(path_of(&name)?),
                    EntryType::Symlink => {
                        let target = link.unwrap_or_else(|| entry.header().link_name_bytes().unwrap_or_default().into_owned());
                        making.link(&name, text(target)?)?;
                    }
                    EntryType::Regular | EntryType::Continuous => {
                        let size = entry.size();
                        making.file(&name, executable, size, &mut entry)?;
                    }
                    EntryType::Link => return Err(refused(&name, "it is a hard link; pack the file itself")),
                    _ => return Err(refused(&name, "it is no file, folder or symbolic link")),
                }
            }
        }
    }
    Ok(commit)
}

/// A folder under construction.
struct Making<'a> {
    tree: &'a Path,
    /// The folder that was made last.
    made: PathBuf,
    files: usize,
    bytes: u64,
    links: BTreeMap<String, String>,
    warnings: Vec<String>,
}

impl Making<'_> {
    /// Counts one more that is kept.
    fn count(&mut self, path: &str) -> Result<(), TarballError> {
        self.files += 1;
        if self.files > MAX_FILES {
            return Err(TarballError::TooLarge(format!("{MAX_FILES} files")));
        }
        if path.len() > MAX_PATH || path.matches('/').count() > MAX_DEPTH {
            return Err(ReadError::Path(path.chars().take(200).collect()).into());
        }
        Ok(())
    }

    fn file(&mut self, name: &str, executable: bool, size: u64, content: &mut impl Read) -> Result<(), TarballError> {
        let path = path_of(name)?;
        if path.is_empty() {
            return Err(refused(name, "it has no name"));
        }
        if left_out(&path, true) {
            return Ok(());
        }
        self.count(&path)?;
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > MAX_BYTES {
            return Err(TarballError::TooLarge(bytes(MAX_BYTES)));
        }
        let place = self.place(name, &path)?;
        let mode = if executable { 0o755 } else { 0o644 };
        let created = OpenOptions::new().write(true).create_new(true).mode(mode).open(&place);
        let mut out = created.map_err(|e| taken(name, &place, e))?;
        let mut left = size;
        let mut buffer = [0; 64 << 10];
        while left > 0 {
            let n = content.read(&mut buffer).map_err(fault)?;
            if n == 0 {
                return Err(fault(io::ErrorKind::UnexpectedEof.into()));
            }
            left = left.saturating_sub(n as u64);
            out.write_all(&buffer[..n]).map_err(|e| TarballError::Write(place.clone(), e))?;
        }
        Ok(())
    }

    fn link(&mut self, name: &str, target: String) -> Result<(), TarballError> {
        let path = path_of(name)?;
        if path.is_empty() {
            return Err(refused(name, "it has no name"));
        }
        if left_out(&path, true) {
            return Ok(());
        }
        self.count(&path)?;
        if !stays_within(&path, &target) || target.contains('\0') || target.len() > 4095 {
            self.warnings.push(format!("{path} is left out: it is a link that leads out of the app's folder"));
            return Ok(());
        }
        match self.links.insert(path, target) {
            None => Ok(()),
            Some(_) => Err(refused(name, "it is there twice")),
        }
    }

    /// Where a file is written, in a folder that is there.
    fn place(&mut self, name: &str, path: &str) -> Result<PathBuf, TarballError> {
        let place = self.tree.join(path);
        let folder = place.parent().unwrap_or(self.tree);
        if folder != self.made {
            fs::create_dir_all(folder).map_err(|e| taken(name, folder, e))?;
            folder.clone_into(&mut self.made);
        }
        Ok(place)
    }

    /// Makes the links. Answers what was left out.
    fn end(mut self) -> Result<Vec<String>, TarballError> {
        let links = std::mem::take(&mut self.links);
        let all: BTreeSet<&str> = links.keys().map(String::as_str).collect();
        for (path, target) in &links {
            if path.match_indices('/').any(|(i, _)| all.contains(&path[..i])) {
                return Err(refused(path, "it lies below a link"));
            }
            let place = self.place(path, path)?;
            std::os::unix::fs::symlink(target, &place).map_err(|e| taken(path, &place, e))?;
        }
        Ok(self.warnings)
    }
}

/// A member's name as a path within the folder; empty for the folder itself.
fn path_of(name: &str) -> Result<String, TarballError> {
    if name.starts_with('/') {
        return Err(refused(name, "it is no path within the app's folder"));
    }
    if name.contains('\0') {
        return Err(refused(name, "its name has a NUL"));
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(refused(name, "it leads out of the app's folder"));
    }
    Ok(parts.join("/"))
}

fn refused(member: &str, why: &'static str) -> TarballError {
    TarballError::Member { member: member.chars().take(200).collect(), why }
}

fn taken(name: &str, place: &Path, e: io::Error) -> TarballError {
    match e.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            refused(name, "it is there twice, or lies below a file")
        }
        _ => TarballError::Write(place.to_owned(), e),
    }
}

/// What stands before a member, whole; a C string of GNU's ends with NUL.
fn small(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>, TarballError> {
    let size = entry.size();
    if size > MAX_BEFORE {
        return Err(refused("a header", "it is too long"));
    }
    let mut all = Vec::new();
    entry.read_to_end(&mut all).map_err(fault)?;
    if all.len() as u64 != size {
        return Err(fault(io::ErrorKind::UnexpectedEof.into()));
    }
    all.truncate(all.iter().position(|b| *b == 0).unwrap_or(all.len()));
    Ok(all)
}

/// The records of a pax header: `12 path=a.py\n`. What cannot be read ends them.
fn records(mut text: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut out = Vec::new();
    while let Some(blank) = text.iter().position(|b| *b == b' ') {
        let length = std::str::from_utf8(&text[..blank]).ok().and_then(|n| n.parse::<usize>().ok());
        let Some(record) = length.filter(|n| *n > blank + 1).and_then(|n| text.get(blank + 1..n - 1)) else { break };
        if let Some(equals) = record.iter().position(|b| *b == b'=') {
            out.push((&record[..equals], &record[equals + 1..]));
        }
        text = text.get(length.unwrap_or(text.len())..).unwrap_or_default();
    }
    out
}

/// A commit by its hash: as much as `git archive` writes.
fn commit_of(hash: &[u8]) -> Option<Commit> {
    let hash = std::str::from_utf8(hash).ok().filter(|h| super::repository::is_hash(h))?;
    Some(Commit { hash: hash.to_owned(), dirty: false })
}

fn fault(e: io::Error) -> TarballError {
    if e.get_ref().is_some_and(|inner| inner.is::<Beyond>()) { TarballError::TooLarge(bytes(MAX_BYTES)) } else { TarballError::Damaged(e) }
}

#[derive(Debug, thiserror::Error)]
#[error("too large")]
struct Beyond;

/// Ends with an error beyond a limit.
struct Capped<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| io::Error::other(Beyond))?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codebase::{read, read_all};
    use std::os::unix::fs::symlink;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().expect("temp dir");
        let home = Home::at(dir.path().join("home"));
        home.make().expect("made");
        (dir, home)
    }

    type Members<'a> = &'a [(&'a str, EntryType, &'a str)];

    /// A tar file of these: a name, its kind, and a link's target or a file's text.
    fn tar_of(members: Members<'_>) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, kind, text) in members {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            // As it is: the library would refuse what is hostile.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
            if is_link {
                header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
            }
            let body = if is_link { "" } else { text };
            header.set_size(body.len() as u64);
            header.set_cksum();
            tar.append(&header, body.as_bytes()).expect("written");
        }
        tar.into_inner().expect("written")
    }

    #[test]
    fn what_is_packed_is_read_again_as_it_was() {
        let (dir, home) = home();
        let app = dir.path().join("app");
        let long = "d/".repeat(40) + &"x".repeat(60);
        fs::create_dir_all(app.join(&long).parent().expect("a parent")).expect("made");
        for (path, text) in
            [("Procfile", "web: x\n"), (".env", "SECRET=1"), (long.as_str(), "deep"), ("run.sh", "#!/bin/sh\n"), ("empty", "")]
        {
            fs::write(app.join(path), text).expect("written");
        }
        fs::set_permissions(app.join("run.sh"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
        symlink("run.sh", app.join("start")).expect("linked");
        let before = read(&app).expect("readable").source;
        let mut packed = Vec::new();
        pack(&before, &mut packed).expect("packed");
        let unpacked = unpack(&home, packed.as_slice()).expect("unpacked");
        let after = read_all(unpacked.folder(), None).expect("readable").source;
        assert_eq!(after.files, before.files);
        assert!(after.has("start") && !after.has(".env"));
        assert_eq!(fs::read_to_string(unpacked.folder().join(&long)).expect("there"), "deep");
        let tree = unpacked.folder().to_owned();
        drop(unpacked);
        assert!(!tree.exists());
        for cut in [1, 20, packed.len() / 2, packed.len() - 1] {
            assert!(unpack(&home, &packed[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn what_is_hostile_is_refused_and_leaves_nothing() {
        let (dir, home) = home();
        let outside = dir.path().join("outside");
        use EntryType::{Block, Char, Fifo, Link, Regular, Symlink};
        let refusals: [(Members<'_>, &str); 13] = [
            (&[("../outside", Regular, "x")], "leads out"),
            (&[("a/../../outside", Regular, "x")], "leads out"),
            (&[("/etc/cron.d/x", Regular, "x")], "no path within"),
            (&[("../x/", EntryType::Directory, "")], "leads out"),
            (&[("a", Link, "/etc/passwd")], "hard link"),
            (&[("a", Fifo, "")], "no file"),
            (&[("a", Char, "")], "no file"),
            (&[("a", Block, "")], "no file"),
            (&[("a", Regular, "x"), ("a", Regular, "y")], "twice"),
            (&[("a", Regular, "x"), ("a/b", Regular, "y")], "below a file"),
            (&[("a", Symlink, "."), ("a", Regular, "y")], "twice"),
            (&[("a", Symlink, "b"), ("a/c", Regular, "y")], "twice"),
            (&[("a", Symlink, "."), ("a/b", Symlink, "x")], "below a link"),
        ];
        for (members, why) in refusals {
            let refused = unpack(&home, tar_of(members).as_slice()).map(|u| u.warnings).expect_err("hostile").to_string();
            assert!(refused.contains(why), "{members:?}: {refused}");
        }
        assert!(!outside.exists());
        assert_eq!(fs::read_dir(home.checkouts()).expect("there").count(), 0, "nothing is left behind");
        // A link that leads out is left out, as of a folder.
        let unpacked = unpack(&home, tar_of(&[("a", Symlink, "/etc/passwd"), ("./b", Regular, "x")]).as_slice()).expect("fine");
        assert!(unpacked.warnings[0].starts_with("a is left out"), "{:?}", unpacked.warnings);
        assert!(unpacked.folder().join("b").is_file() && !unpacked.folder().join("a").exists());
    }

    #[test]
    fn bombs_and_long_names_are_refused_before_they_fill_anything() {
        let (_dir, home) = home();
        let mut huge = Header::new_gnu();
        huge.set_size(MAX_BYTES + 1);
        huge.as_old_mut().name[0] = b'a';
        huge.set_cksum();
        let refused = unpack(&home, huge.as_bytes().as_slice()).expect_err("too large").to_string();
        assert!(refused.contains("1.0G"), "{refused}");
        let mut long = Header::new_gnu();
        long.set_entry_type(EntryType::GNULongName);
        long.set_size(MAX_BEFORE + 1);
        long.set_cksum();
        let refused = unpack(&home, long.as_bytes().as_slice()).expect_err("too long").to_string();
        assert!(refused.contains("too long"), "{refused}");
        for nonsense in
            [&b"no tar file at all, but longer than one would think it is"[..], &[0x1f, 0x8b, 0, 0], &[0x28, 0xb5, 0x2f, 0xfd, 9]]
        {
            assert!(unpack(&home, nonsense).is_err());
        }
        let left = fs::read_dir(home.checkouts()).map_or(0, Iterator::count);
        assert_eq!(left, 0);
    }

    #[test]
    fn a_pax_header_names_the_commit_and_long_paths() {
        let record = |key: &str, value: &str| {
            let rest = key.len() + value.len() + 3;
            let length = (rest + 2..).find(|n| n.to_string().len() + rest == *n).unwrap_or_default();
            format!("{length} {key}={value}\n")
        };
        let (_dir, home) = home();
        let hash = "0123456789abcdef0123456789abcdef01234567";
        let tar = tar_of(&[
            ("pax_global_header", EntryType::XGlobalHeader, &record("comment", hash)),
            ("x", EntryType::XHeader, &record("path", "a/long one.py")),
            ("short", EntryType::Regular, "x"),
        ]);
        let unpacked = unpack(&home, tar.as_slice()).expect("fine");
        assert_eq!(unpacked.commit.as_ref().map(|c| c.hash.as_str()), Some(hash));
        assert!(unpacked.folder().join("a/long one.py").is_file());
    }
}
