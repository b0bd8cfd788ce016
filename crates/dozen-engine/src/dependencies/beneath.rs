//! A folder that programs of a build wrote to, worked on without following a link of theirs.
//!
//! **Invariant:** what is done to a path is done in a folder that the kernel found beneath the root without a link on the way (`openat2`), by a
//! call that follows none at the path's end either.

use super::builder::Builder;
use crate::release::scratch;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// More of a file is not read.
const MAX_TEXT: u64 = 64 << 20;

/// Such a folder.
pub(super) struct Beneath {
    root: OwnedFd,
    /// The folder of the last path, since one comes after its neighbour.
    last: RefCell<Option<(PathBuf, OwnedFd)>>,
}

impl Beneath {
    /// Opens it; it must be no link itself.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { root: openat(CWD, root, flags, Mode::empty())?, last: RefCell::default() })
    }

    /// Does something to a path. `act` is given one that leads there by the opened folder.
    pub(super) fn at<T>(&self, path: impl AsRef<Path>, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let path = path.as_ref();
        let (folder, Some(name)) = (path.parent().unwrap_or(Path::new("")), path.file_name()) else {
            return Err(io::Error::other(format!("{} names no file", path.display())));
        };
        if self.last.borrow().as_ref().is_none_or(|(last, _)| last != folder) {
            let opened = self.folder(folder)?;
            *self.last.borrow_mut() = Some((folder.to_owned(), opened));
        }
        let last = self.last.borrow();
        let fd = last.as_ref().map_or(self.root.as_raw_fd(), |(_, fd)| fd.as_raw_fd());
        act(&Path::new("/proc/self/fd").join(fd.to_string()).join(name))
    }

    fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        Ok(openat2(&self.root, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), NO_LINKS)?)
    }

    /// The same where something is put: folders that are missing are made, and are the builder's.
    pub(super) fn put<T>(&self, path: impl AsRef<Path>, builder: Builder, act: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
        let path = path.as_ref();
        match self.at(path, &act) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
        if let Some(folder) = path.parent() {
            self.make(folder, builder)?;
        }
        self.at(path, act)
    }

    /// Makes a folder and those that it lies in.
    pub(super) fn make(&self, folder: &Path, builder: Builder) -> io::Result<()> {
        if folder.as_os_str().is_empty() || self.folder(folder).is_ok() {
            return Ok(());
        }
        if let Some(above) = folder.parent() {
            self.make(above, builder)?;
        }
        self.at(folder, |path| match fs::create_dir(path) {
            Ok(()) => builder.give(path),
            Err(e) => Err(e),
        })
    }

    /// A plain file's content.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(path.as_ref())?.take(MAX_TEXT).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A plain file's text.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> io::Result<String> {
        String::from_utf8(self.read(path)?).map_err(io::Error::other)
    }

    /// A plain file, for reading.
    pub(super) fn file(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = openat2(&self.root, path, flags, Mode::empty(), NO_LINKS)?;
        match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
            FileType::RegularFile => Ok(fd.into()),
            _ => Err(io::Error::other("it is no plain file")),
        }
    }

    /// Puts a new file, the builder's, in the place of whatever is there.
    pub(super) fn write(&self, path: impl AsRef<Path>, bytes: &[u8], builder: Builder) -> io::Result<()> {
        self.remove(path.as_ref())?;
        self.put(path, builder, |to| {
            let mut file = File::create_new(to)?;
            file.write_all(bytes)?;
            builder.give_file(&file)
        })
    }

    /// Copies a file, with its mode, in the place of one that is there; it is the builder's.
    pub(super) fn copy(&self, from: &Path, path: impl AsRef<Path>, builder: Builder) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let mut input = File::open(from)?;
        let meta = input.metadata()?;
        let path = path.as_ref();
        let copy = |to: &Path| {
            let mut output = fs::OpenOptions::new().write(true).create_new(true).mode(meta.permissions().mode()).open(to)?;
            io::copy(&mut input, &mut output)?;
            builder.give_file(&output)?;
            // The mode was the umask's to change, and a new owner's.
            output.set_permissions(meta.permissions())?;
            output.set_modified(meta.modified()?)
        };
        let copy = RefCell::new(copy);
        self.remove(path)?;
        self.put(path, builder, |to| (copy.borrow_mut())(to))
    }

    /// Removes a file, a link, or a folder with all that is in it. What is not there, or only by a link, needs no removing.
    pub(super) fn remove(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let gone = self.at(path, |path| match fs::symlink_metadata(path)? {
            meta if meta.is_dir() => scratch::remove(path),
            _ => fs::remove_file(path),
        });
        match gone {
            Err(e) if leads_nowhere(&e) => Ok(()),
            other => other,
        }
    }
}

/// Neither `..` nor a link leads out; there is no link at all on the way.
const NO_LINKS: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// Whether a path is not there: missing, or in a file or a link.
pub(super) fn leads_nowhere(error: &io::Error) -> bool {
    let link = [rustix::io::Errno::LOOP, rustix::io::Errno::XDEV].iter().any(|e| error.raw_os_error() == Some(e.raw_os_error()));
    link || matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_leads_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        for folder in [&root, &outside] {
            fs::create_dir(folder).expect("made");
        }
        fs::write(outside.join("key"), "secret").expect("written");
        symlink(&outside, root.join("folder")).expect("linked");
        symlink(outside.join("key"), root.join("file")).expect("linked");
        let beneath = Beneath::open(&root).expect("opened");
        for path in ["folder/key", "file", "../outside/key"] {
            assert!(beneath.read(path).is_err(), "{path}");
        }
        for path in ["folder/key", "folder/new", "folder/new/er"] {
            assert!(beneath.write(path, b"x", Builder::NOBODY).is_err(), "{path}");
            assert!(beneath.copy(&outside.join("key"), path, Builder::NOBODY).is_err(), "{path}");
            assert!(beneath.remove(path).is_ok(), "{path}");
        }
        assert!(beneath.make(Path::new("folder/new"), Builder::NOBODY).is_err());
        beneath.write("file", b"own", Builder::NOBODY).expect("written");
        assert_eq!(fs::read_to_string(outside.join("key")).expect("there"), "secret");
        assert_eq!(fs::read_dir(&outside).expect("there").count(), 1);
        assert_eq!(beneath.text("file").expect("read"), "own");
        beneath.remove("folder").expect("removed");
        assert!(outside.join("key").exists() && !root.join("folder").exists());
        assert!(Beneath::open(&dir.path().join("root/../nowhere")).is_err());
    }

    #[test]
    fn what_is_missing_on_the_way_is_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let beneath = Beneath::open(dir.path()).expect("opened");
        beneath.write("a/b/c", b"1", Builder::NOBODY).expect("written");
        beneath.copy(&dir.path().join("a/b/c"), "d/e", Builder::NOBODY).expect("copied");
        assert_eq!(beneath.text("d/e").expect("read"), "1");
        beneath.remove("a").expect("removed");
        assert!(!dir.path().join("a").exists());
    }
}
