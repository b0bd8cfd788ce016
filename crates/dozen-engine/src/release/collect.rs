//! Slugs that no release of now needs are removed, and build caches are kept within a budget, the oldest unused first.
//!
//! **Invariant:** only what dozen made is touched: slugs by their ids, layers and downloads by their places; never what a name alone tells.
//! **Invariant:** a slug is there as a whole or not at all: it leaves its place in one step, and what is left of it is swept by whoever builds next.
//! **Invariant:** whoever takes a slug up again claims it first; claimed or made within [`GRACE`], it stays.

use super::scratch;
use super::store::{self, StoreError};
use crate::home::Home;
use crate::ledger::{Ledger, LedgerError};
use dozen_core::ids::SlugId;
use rustix::fs::{FlockOperation, flock};
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Of each deploy the slugs of so many releases are kept.
pub const RELEASES: u32 = 10;
/// How much of the disk slugs and build caches may take where nobody says.
pub const BUDGET: u64 = 20_000_000_000;
/// What was made or claimed within this time is left: a release of it may be on its way.
const GRACE: Duration = Duration::from_secs(60 * 60);
/// From one look to the next.
const PAUSE: Duration = Duration::from_secs(10);

/// What was removed, or would be, and what is left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Slugs.
    pub slugs: Vec<SlugId>,
    /// Parts of build caches: `shop downloads`, `shop layer 1a2b3c4d`.
    pub caches: Vec<String>,
    /// Bytes of the disk that they had for themselves.
    pub freed: u64,
    /// Bytes of the disk that the slugs have that are left.
    pub slug_bytes: u64,
    /// Bytes that the caches have beside them.
    pub cache_bytes: u64,
}

/// Takes a slug up: it stays for the next hour, which is time enough for a release to be made of it.
///
/// # Errors
/// It is not there.
pub fn claim(home: &Home, id: &SlugId) -> Result<(), StoreError> {
    let place = home.slug(id);
    let missing = || StoreError::Missing { id: id.short(), slugs: home.slugs() };
    let folder = File::open(&place).map_err(|_| missing())?;
    let failed = |source| StoreError::Io { what: "write", path: place.clone(), source };
    // A collector has it for as long as it takes to rename it.
    flock(&folder, FlockOperation::LockShared).map_err(|e| failed(e.into()))?;
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    let here = fs::symlink_metadata(&place).and_then(|there| Ok(same(there, folder.metadata()?)));
    if !here.unwrap_or(false) || !store::has(home, id) {
        return Err(missing());
    }
    folder.set_modified(SystemTime::now()).map_err(failed)
}

/// Collects, for as long as the process lives, whenever releases were made. The first time at once: what was begun before is done then.
pub async fn keep(ledger: Ledger, budget: u64) {
    let mut commits = ledger.commits();
    let mut last = None;
    loop {
        commits.mark_unchanged();
        // A ledger that cannot be read now may be later.
        let made = ledger.concluded().await.ok();
        if made != last {
            last = made;
            drop(collect(&ledger, budget, false).await);
        }
        tokio::time::sleep(PAUSE).await;
        if commits.changed().await.is_err() {
            return;
        }
    }
}

/// Removes what is not needed any more; with `dry`, only says what that would be.
///
/// # Errors
/// The ledger or the folders cannot be read. What cannot be removed is passed over.
pub async fn collect(ledger: &Ledger, budget: u64, dry: bool) -> Result<Collected, LedgerError> {
    let wanted = ledger.wanted_slugs(RELEASES).await?;
    let home = ledger.home().clone();
    let path = home.root().to_owned();
    let work = tokio::task::spawn_blocking(move || collect_in(&home, &wanted, budget, dry, SystemTime::now()));
    work.await.map_err(|_| LedgerError::Stopped)?.map_err(|source| LedgerError::Home { path, source })
}

fn collect_in(home: &Home, wanted: &BTreeSet<SlugId>, budget: u64, dry: bool, now: SystemTime) -> io::Result<Collected> {
    let mut done = Collected::default();
    let mut seen = HashSet::new();
    let mut unwanted = Vec::new();
    for entry in entries(&home.slugs())? {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<SlugId>().ok()) else { continue };
        let old = !wanted.contains(&id) && store::has(home, &id) && is_old(&entry.path(), now);
        if old {
            unwanted.push(id);
        } else {
            done.slug_bytes += disk(&entry.path(), &mut seen);
        }
    }
    for id in unwanted {
        let own = disk(&home.slug(&id), &mut seen);
        if dry || remove_slug(home, &id, now) {
            done.slugs.push(id);
            done.freed += own;
        } else {
            done.slug_bytes += own;
        }
    }
    let mut items = caches(home)?;
    items.sort_by_key(|item| std::cmp::Reverse(item.used));
    let mut over = false;
    for item in items {
        let own = disk(&item.path, &mut seen);
        over |= done.slug_bytes + done.cache_bytes + own > budget;
        // What slugs have, too, is not freed by it.
        if over && own > 0 && (dry || item.remove(now)) {
            done.caches.push(item.name);
            done.freed += own;
        } else {
            done.cache_bytes += own;
        }
    }
    if !dry {
        forget_gone(home)?;
    }
    Ok(done)
}

/// The bytes of the disk that slugs have, and that build caches have beside them.
///
/// # Errors
/// The folders cannot be read.
pub fn used(home: &Home) -> io::Result<(u64, u64)> {
    let mut seen = HashSet::new();
    let slugs = disk(&home.slugs(), &mut seen);
    let caches = caches(home)?;
    Ok((slugs, caches.iter().map(|item| disk(&item.path, &mut seen)).sum()))
}

fn is_old(path: &Path, now: SystemTime) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|meta| meta.modified());
    modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > GRACE))
}

/// Whether it was removed.
fn remove_slug(home: &Home, id: &SlugId, now: SystemTime) -> bool {
    let place = home.slug(id);
    let Ok(folder) = File::options().read(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()).open(&place) else {
        return false;
    };
    // Somebody claims it just now, or has since it was looked at.
    if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() || !is_old(&place, now) {
        return false;
    }
    put_away(&place, &home.slugs())
}

/// Takes a folder from its place in one step, and removes it. Whether it is gone from there.
fn put_away(place: &Path, beside: &Path) -> bool {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let gone = beside.join(format!("{}{}-gone-{}", scratch::PREFIX, std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let moved = fs::create_dir_all(beside).and_then(|()| fs::rename(place, &gone)).is_ok();
    if moved {
        // What cannot be removed now is swept with what dead makers left.
        let _ = scratch::remove(&gone);
    }
    moved
}

/// A part of an app's build cache.
struct Item {
    name: String,
    path: PathBuf,
    /// The app's.
    cache: PathBuf,
    used: SystemTime,
}

impl Item {
    /// Whether it was removed: not while the app is built.
    fn remove(&self, now: SystemTime) -> bool {
        let Ok(lock) = File::options().create(true).truncate(false).write(true).open(self.cache.join("lock")) else { return false };
        let free = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        let unused = last_used(&self.path, &self.cache).is_none_or(|at| at <= self.used) && self.used <= now;
        free && unused && put_away(&self.path, &self.cache.join("layers"))
    }
}

/// When a layer was last used, or an app last built.
fn last_used(path: &Path, cache: &Path) -> Option<SystemTime> {
    let of = if path.ends_with("downloads") { &cache.join("lock") } else { path };
    fs::symlink_metadata(of).and_then(|meta| meta.modified()).ok()
}

fn caches(home: &Home) -> io::Result<Vec<Item>> {
    let mut items = Vec::new();
    for app in entries(&home.caches())?.into_iter().filter(is_folder) {
        let cache = app.path();
        let app = app.file_name().to_string_lossy().into_owned();
        let mut add = |name: String, path: PathBuf| {
            let used = last_used(&path, &cache).unwrap_or(SystemTime::UNIX_EPOCH);
            items.push(Item { name, path, cache: cache.clone(), used });
        };
        for layer in entries(&cache.join("layers"))?.into_iter().filter(is_folder) {
            let key = layer.file_name().to_string_lossy().into_owned();
            if key.len() == 32 && key.bytes().all(|b| b.is_ascii_hexdigit()) {
                add(format!("{app} layer {}", &key[..8]), layer.path());
            }
        }
        let downloads = cache.join("downloads");
        if fs::symlink_metadata(&downloads).is_ok_and(|meta| meta.is_dir()) {
            add(format!("{app} downloads"), downloads);
        }
    }
    Ok(items)
}

/// What says of a source which slug was built of it, where that slug is gone.
fn forget_gone(home: &Home) -> io::Result<()> {
    for app in entries(&home.caches())?.into_iter().filter(is_folder) {
        for index in entries(&app.path().join("builds"))? {
            let id = fs::read_to_string(index.path()).ok().and_then(|text| text.trim().parse::<SlugId>().ok());
            if id.is_some_and(|id| !home.slug(&id).exists()) {
                let _ = fs::remove_file(index.path());
            }
        }
    }
    Ok(())
}

fn is_folder(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

/// A folder that is not there has nothing.
fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// The bytes of the disk that a folder has and none that was looked at before: files may have several names.
fn disk(folder: &Path, seen: &mut HashSet<(u64, u64)>) -> u64 {
    let mut bytes = 0;
    let mut queue = vec![folder.to_owned()];
    while let Some(folder) = queue.pop() {
        // What goes meanwhile has nothing.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                queue.push(entry.path());
            }
            if seen.insert((meta.dev(), meta.ino())) {
                bytes += meta.blocks() * 512;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn aged(path: &Path, hours: u64) {
        File::open(path).and_then(|f| f.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600))).expect("aged");
    }

    /// A slug with a file of so many KiB, made so many hours ago.
    fn slug(home: &Home, n: u8, kib: usize, hours: u64) -> SlugId {
        let id = SlugId([n; 32]);
        fs::create_dir_all(home.slug(&id).join("tree")).expect("made");
        fs::write(home.slug(&id).join("slug.json"), "{}").expect("written");
        fs::write(home.slug(&id).join("tree/file"), vec![1; kib << 10]).expect("written");
        aged(&home.slug(&id), hours);
        id
    }

    fn layer(home: &Home, app: &str, kib: usize, hours: u64) -> PathBuf {
        let place = home.caches().join(app).join("layers").join(KEY);
        fs::create_dir_all(place.join("tree")).expect("made");
        fs::write(place.join("tree/file"), vec![1; kib << 10]).expect("written");
        aged(&place, hours);
        place
    }

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::at(dir.path());
        home.make().expect("made");
        (dir, home)
    }

    #[test]
    fn what_is_wanted_new_claimed_or_nobodys_stays() {
        let (_dir, home) = home();
        let [wanted, old, new, claimed] = [(1, 9), (2, 9), (3, 0), (4, 9)].map(|(n, hours)| slug(&home, n, 8, hours));
        claim(&home, &claimed).expect("there");
        for other in ["notes", ".making-1-1", &"a".repeat(64)] {
            fs::create_dir_all(home.slugs().join(other)).expect("made");
            aged(&home.slugs().join(other), 9);
        }
        let wanted_ids = BTreeSet::from([wanted]);
        let dry = collect_in(&home, &wanted_ids, BUDGET, true, SystemTime::now()).expect("read");
        assert_eq!((dry.slugs, home.slug(&old).exists()), (vec![old], true));
        let done = collect_in(&home, &wanted_ids, BUDGET, false, SystemTime::now()).expect("read");
        assert_eq!(done.slugs, [old]);
        assert!(done.freed >= 8 << 10 && done.slug_bytes >= 24 << 10, "{done:?}");
        assert!([wanted, new, claimed].iter().all(|id| home.slug(id).exists()) && !home.slug(&old).exists());
        assert!(home.slugs().join("notes").exists() && home.slugs().join("a".repeat(64)).exists());
        assert!(matches!(claim(&home, &old), Err(StoreError::Missing { .. })));
        // One that somebody holds is passed over.
        let held = slug(&home, 5, 8, 9);
        let lock = File::open(home.slug(&held)).expect("there");
        flock(&lock, FlockOperation::LockShared).expect("locked");
        assert_eq!(collect_in(&home, &wanted_ids, BUDGET, false, SystemTime::now()).expect("read").slugs, []);
        drop(lock);
        assert_eq!(collect_in(&home, &wanted_ids, BUDGET, false, SystemTime::now()).expect("read").slugs, [held]);
    }

    #[test]
    fn caches_are_kept_within_the_budget_the_oldest_unused_first() {
        let (_dir, home) = home();
        let id = slug(&home, 1, 64, 9);
        let (fresh, stale, busy) = (layer(&home, "blog", 64, 1), layer(&home, "shop", 64, 5), layer(&home, "wiki", 64, 7));
        // Of these bytes nothing is freed: a slug has them.
        let shared = layer(&home, "tied", 1, 8);
        fs::remove_file(shared.join("tree/file")).expect("removed");
        fs::hard_link(home.slug(&id).join("tree/file"), shared.join("tree/file")).expect("linked");
        aged(&shared, 8);
        let builds = File::create(home.caches().join("wiki/lock")).expect("made");
        flock(&builds, FlockOperation::LockExclusive).expect("locked");
        let wanted = BTreeSet::from([id]);
        let under = collect_in(&home, &wanted, 1 << 30, false, SystemTime::now()).expect("read");
        assert_eq!(under.caches, Vec::<String>::new());
        let done = collect_in(&home, &wanted, 180 << 10, false, SystemTime::now()).expect("read");
        assert_eq!(done.caches[0], "shop layer 01234567");
        assert!(fresh.exists() && !stale.exists(), "{done:?}");
        assert!(busy.exists(), "it is being built with");
        drop(builds);
        assert!(
            collect_in(&home, &wanted, 180 << 10, false, SystemTime::now()).expect("read").caches.contains(&"wiki layer 01234567".into())
        );
        assert!(home.slug(&id).exists(), "a slug that is wanted stays, whatever the budget");
    }
}
