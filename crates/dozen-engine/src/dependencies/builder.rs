//! Whom an app's builds run as, and the one folder that they keep from build to build.
//!
//! As root each app's builds have a uid of their own. No list says which: it is the owner of the app's downloads.
//!
//! **Invariant:** nobody else's files are a builder's: what a build leaves in a layer or a slug is taken from it when it is kept.
//! **Invariant:** an app's builds run one after the other, so that nobody who could hold a file of one open lives when that one is kept.

use super::BuildError;
use crate::home::Home;
use crate::release::scratch;
use dozen_core::ids::AppName;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, chown, fchown, lchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Above the uids of deploys, below those of containers.
const FIRST: u32 = 500_000;
const END: u32 = 524_288;
/// What is run for nobody's build in particular: `nobody`.
const NOBODY: u32 = 65_534;
/// What builds keep: what installers downloaded.
const DOWNLOADS: &str = "downloads";
/// Where earlier versions kept that, as whoever ran dozen.
const FORMER: [&str; 2] = ["uv", "node"];
/// Between two looks whether another build of the app is over: a lock's end is told to nobody who would not wait for it blindly.
const LOOK: Duration = Duration::from_millis(50);

/// Who gets what programs of a build are to write. Where they run as dozen's own user, nothing has to be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Builder(Option<u32>);

impl Builder {
    /// Gives nothing away.
    pub const NOBODY: Self = Self(None);

    /// The uid that programs run as; `None` keeps dozen's own.
    pub fn uid(self) -> Option<u32> {
        self.0
    }

    /// Gives a file or folder, or a link itself.
    pub fn give(self, path: &Path) -> io::Result<()> {
        self.0.map_or(Ok(()), |uid| lchown(path, Some(uid), Some(uid)))
    }

    /// Gives an open file, or a pipe: programs open /dev/stdout by its name.
    pub fn give_file(self, file: impl AsFd) -> io::Result<()> {
        self.0.map_or(Ok(()), |uid| fchown(file, Some(uid), Some(uid)))
    }

    /// Makes a folder that is given. One that was there is left alone.
    pub fn make(self, folder: &Path) -> io::Result<()> {
        match fs::create_dir(folder) {
            Ok(()) => self.give(folder),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Makes a folder within `root` and those that it lies in. For trees that no program of the build has touched yet.
    pub fn make_within(self, root: &Path, folder: &Path) -> io::Result<()> {
        match self.make(&root.join(folder)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
        if let Some(above) = folder.parent() {
            self.make_within(root, above)?;
        }
        self.make(&root.join(folder))
    }

    /// Somebody for what is run before there is a build: where there may be another than dozen's own user, a stranger to everything.
    pub(super) fn stranger(apart: bool) -> Self {
        Self(apart.then_some(NOBODY))
    }
}

/// A turn of an app: as long as it lives no other build of the app runs.
pub(super) struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits for it. `waiting` is told once, where another build runs.
    pub(super) async fn take(cache: &Path, waiting: impl FnOnce()) -> io::Result<Self> {
        fs::create_dir_all(cache)?;
        let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(cache.join("lock"))?;
        let mut waiting = Some(waiting);
        while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(error.into());
            }
            waiting.take().into_iter().for_each(|tell| tell());
            tokio::time::sleep(LOOK).await;
        }
        // Whoever makes room takes what was not used for longest.
        lock.set_modified(SystemTime::now())?;
        Ok(Self { _lock: lock })
    }
}

/// The folder of the app's downloads, made where it is missing or of the wrong owner, and the builder who owns it. `apart`: the builder can
/// have a uid of its own.
pub(super) fn downloads(home: &Home, app: &AppName, apart: bool) -> Result<(PathBuf, Builder), BuildError> {
    let cache = home.cache(app);
    let folder = cache.join(DOWNLOADS);
    let failed = |source| BuildError::Write { path: folder.clone(), source };
    let own = rustix::process::geteuid().as_raw();
    let right = |owner: u32| if apart { (FIRST..END).contains(&owner) } else { owner == own };
    if let Some(owner) = owner(&folder).filter(|owner| right(*owner)) {
        let real = fs::canonicalize(&folder).map_err(failed)?;
        return Ok((real, Builder(apart.then_some(owner))));
    }
    fs::create_dir_all(&cache).map_err(failed)?;
    // Two apps that are built for the first time at once must not get the same.
    let caches = cache.parent().unwrap_or(&cache);
    let door = File::open(caches).map_err(failed)?;
    flock(&door, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
    for left in FORMER.iter().chain([&DOWNLOADS]).map(|name| cache.join(name)) {
        scratch::remove(&left).map_err(failed)?;
    }
    fs::create_dir(&folder).map_err(failed)?;
    let builder = Builder(apart.then(|| free(caches)));
    if let Some(uid) = builder.uid() {
        chown(&folder, Some(uid), Some(uid)).map_err(failed)?;
    }
    let real = fs::canonicalize(&folder).map_err(failed)?;
    Ok((real, builder))
}

fn owner(folder: &Path) -> Option<u32> {
    fs::metadata(folder).ok().filter(fs::Metadata::is_dir).map(|meta| meta.uid())
}

/// A uid that owns no app's downloads.
fn free(caches: &Path) -> u32 {
    let apps = fs::read_dir(caches).into_iter().flatten().flatten();
    let taken: std::collections::BTreeSet<u32> = apps.filter_map(|app| owner(&app.path().join(DOWNLOADS))).collect();
    // With more apps than uids the last one is shared.
    (FIRST..END).find(|uid| !taken.contains(uid)).unwrap_or(END - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_app_has_a_builder_who_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::at(dir.path());
        let apart = rustix::process::geteuid().is_root();
        let of = |app: &str| downloads(&home, &app.parse().expect("a name"), apart).expect("made").1;
        let (shop, blog) = (of("shop"), of("blog"));
        assert_eq!((of("shop"), of("blog")), (shop, blog));
        assert_eq!(apart, shop != blog);
        assert_eq!(shop.uid(), apart.then_some(FIRST));
    }

    #[test]
    fn what_an_earlier_version_kept_is_made_anew() {
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::at(dir.path());
        let app: AppName = "shop".parse().expect("a name");
        let cache = home.cache(&app);
        for kept in ["uv/wheels", "node/npm", "downloads/x"] {
            fs::create_dir_all(cache.join(kept)).expect("made");
        }
        let apart = rustix::process::geteuid().is_root();
        let (folder, builder) = downloads(&home, &app, apart).expect("made");
        assert_eq!(folder.join("x").exists(), !apart, "only an owner of another kind is wrong");
        assert_eq!(owner(&folder), Some(builder.uid().unwrap_or(rustix::process::geteuid().as_raw())));
    }

    #[tokio::test]
    async fn builds_of_an_app_take_turns() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = Turn::take(dir.path(), || panic!("nobody is before")).await.expect("taken");
        let (told, heard) = tokio::sync::oneshot::channel();
        let second = Turn::take(dir.path(), || told.send(()).expect("heard"));
        tokio::pin!(second);
        tokio::select! {
            _ = &mut second => panic!("it is another's turn"),
            heard = heard => heard.expect("told"),
        }
        drop(first);
        second.await.expect("taken");
    }
}
