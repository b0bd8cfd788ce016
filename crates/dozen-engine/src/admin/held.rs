//! Who runs a one-off: a folder with a lock that its process holds, so that nobody takes it for lost, and others can wait for its end.
//!
//! **Invariant:** a one-off that is in the ledger without an end is held, or nobody runs it any more. The home's door is shut in between.

use crate::home::Home;
use dozen_core::ids::DeployRef;
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;

/// When a deploy ends, its one-offs have this long to get into the ledger after their last process has ended.
const RECORDING: Duration = Duration::from_secs(2);

/// The lock of one one-off. Dropping it frees it and removes the folder.
#[derive(Debug)]
pub(crate) struct Held {
    folder: PathBuf,
    _lock: File,
}

impl Held {
    pub(crate) fn take(home: &Home, deploy: &DeployRef, number: u32) -> io::Result<Self> {
        let folder = home.one_off(deploy, number);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { folder, _lock: lock })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // What cannot be removed now is found by the next `up`.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

const LOCK: &str = "lock";

/// Whether a process runs this one-off now.
pub fn is_held(home: &Home, deploy: &DeployRef, number: u32) -> bool {
    open(home, deploy, number).is_some_and(|lock| flock(&lock, FlockOperation::NonBlockingLockShared).is_err())
}

/// Waits until nobody runs it any more; it is in the ledger then. Blocks the thread.
pub fn wait(home: &Home, deploy: &DeployRef, number: u32) {
    if let Some(lock) = open(home, deploy, number) {
        // An interrupted wait begins again; any other error is none to wait for.
        while flock(&lock, FlockOperation::LockShared) == Err(rustix::io::Errno::INTR) {}
    }
}

/// Removes what a process that was killed has left of it.
pub(crate) fn sweep(home: &Home, deploy: &DeployRef, number: u32) {
    let _ = std::fs::remove_dir_all(home.one_off(deploy, number));
}

fn open(home: &Home, deploy: &DeployRef, number: u32) -> Option<File> {
    File::open(home.one_off(deploy, number).join(LOCK)).ok()
}

/// The one-offs that this process runs.
#[derive(Debug)]
pub(crate) struct Holding {
    held: Mutex<BTreeMap<u32, Held>>,
    count: watch::Sender<usize>,
}

impl Default for Holding {
    fn default() -> Self {
        Self { held: Mutex::default(), count: watch::Sender::new(0) }
    }
}

impl Holding {
    pub(crate) fn add(&self, number: u32, held: Held) {
        self.change(|all| drop(all.insert(number, held)));
    }

    pub(crate) fn remove(&self, number: u32) {
        self.change(|all| drop(all.remove(&number)));
    }

    pub(crate) fn has(&self, number: u32) -> bool {
        self.lock().contains_key(&number)
    }

    pub(crate) fn numbers(&self) -> Vec<u32> {
        self.lock().keys().copied().collect()
    }

    /// Waits until none is left, but no longer than the ledger may take.
    pub(crate) async fn empty(&self) {
        let mut count = self.count.subscribe();
        let _ = tokio::time::timeout(RECORDING, count.wait_for(|n| *n == 0)).await;
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<u32, Held>)) {
        let mut all = self.lock();
        change(&mut all);
        let left = all.len();
        drop(all);
        self.count.send_replace(left);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Held>> {
        self.held.lock().expect("no one panics while holding it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_one_off_is_seen_and_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::at(folder.path());
        let shop: DeployRef = "shop".parse().expect("valid");
        assert!(!is_held(&home, &shop, 7));
        let held = Held::take(&home, &shop, 7).expect("free");
        assert!(is_held(&home, &shop, 7) && !is_held(&home, &shop, 8));
        assert!(Held::take(&home, &shop, 7).is_err());
        let waiter = std::thread::spawn({
            let (home, shop) = (home.clone(), shop.clone());
            move || wait(&home, &shop, 7)
        });
        drop(held);
        waiter.join().expect("waited");
        assert!(!is_held(&home, &shop, 7) && !home.one_off(&shop, 7).exists());
    }
}
