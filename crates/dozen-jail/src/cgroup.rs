//! The cgroup of one instance: how much memory, which part of the processors and how many processes it may have.
//!
//! The jail makes it below the cgroup that it finds itself in, or beside it where the kernel wants that, enters the program into it and
//! stays outside: what the program eats never costs the jail its life, and the limits are the program's alone. On cgroup v2 that is one
//! folder, on v1 one for each controller.
//!
//! **Invariant:** each folder is locked by its jail for as long as that lives, however it ends. A folder `dozen-…` that nobody has locked is
//! left over, and whoever comes next removes it.
//! **Invariant:** what cannot be had is told as missing, and never the end of an instance.

mod memory;

use dozen_core::processes::jail::JailLimits;
use jiff::Timestamp;
use rustix::event::{PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, fstat, mkdirat, openat, statat, unlinkat};
use rustix::io::{Errno, pread, write};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use memory::in_use;
pub(crate) use memory::{Excess, Memory};

/// How folders of jails begin.
const PREFIX: &str = "dozen-";
/// Where dozen itself goes, so that the cgroup it was started in may have others below it.
const OWN: &str = "dozen";
/// Those that dozen uses.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// A folder is refused to be removed until its last process has quite ended: so often, and so long in between.
const REMOVALS: u32 = 100;
const REMOVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// Which of the two kinds of cgroups a controller belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    V1,
    V2,
}

/// Where the cgroups of this host are, by controller.
#[derive(Debug, Default)]
pub struct Hierarchies {
    /// Mount point and the part of the hierarchy that it shows. The key is a controller of v1, or `""` for v2.
    mounts: BTreeMap<String, (PathBuf, PathBuf)>,
}

/// The cgroup of a jail's program.
pub(crate) struct Cgroup {
    folders: Vec<Folder>,
    /// Writing `0` to each of them enters the cgroup.
    doors: Vec<OwnedFd>,
    /// Writing `1` to it kills all that is inside.
    kill: Option<OwnedFd>,
    pub(crate) memory: Option<Memory>,
    /// `None` where the number of processes is not limited here.
    pub(crate) tasks: Option<Tasks>,
}

/// The number of processes and threads of a cgroup, to be watched.
pub(crate) struct Tasks {
    most: u32,
    /// Counts those that were refused. Not there before Linux 4.8; `None` also once it was told.
    events: Option<OwnedFd>,
}

struct Folder {
    parent: OwnedFd,
    name: String,
    path: PathBuf,
    /// Held until the end.
    _lock: OwnedFd,
}

impl Hierarchies {
    /// Those that are mounted and seen by this process.
    pub fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    fn parse(mountinfo: &str) -> Self {
        let mut mounts = BTreeMap::new();
        for line in mountinfo.lines() {
            let Some((mount, system)) = line.split_once(" - ") else { continue };
            let mount: Vec<&str> = mount.split(' ').collect();
            let system: Vec<&str> = system.split(' ').collect();
            let (Some(root), Some(point)) = (mount.get(3), mount.get(4)) else { continue };
            let place = (PathBuf::from(point), PathBuf::from(root));
            match system.as_slice() {
                ["cgroup2", ..] => drop(mounts.entry(String::new()).or_insert(place)),
                ["cgroup", _, options] => {
                    for controller in options.split(',') {
                        mounts.entry(controller.to_owned()).or_insert_with(|| place.clone());
                    }
                }
                _ => {}
            }
        }
        Self { mounts }
    }

    /// The folder of a process in the hierarchy that has this controller: `membership` is its `/proc/<pid>/cgroup`.
    fn folder(&self, membership: &str, controller: &str) -> Option<(Kind, PathBuf)> {
        let of = |wanted: &str, list: &str| if wanted.is_empty() { list.is_empty() } else { list.split(',').any(|c| c == wanted) };
        let path = |wanted: &str| {
            let mut lines = membership.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
            let (_, path) = lines.find(|(list, _)| of(wanted, list))?;
            let (point, root) = self.mounts.get(wanted)?;
            // Where only a part of the hierarchy is mounted, paths outside of it are not seen.
            Some(point.join(Path::new(path).strip_prefix(root).ok()?))
        };
        match path(controller) {
            Some(folder) => Some((Kind::V1, folder)),
            None => Some((Kind::V2, path("")?)),
        }
    }

    /// Bytes of memory that the instance uses which this process is part of, without what the kernel only keeps in case it is read again.
    /// `None` where the instance has no cgroup for memory.
    pub fn memory_of(&self, pid: u32) -> Option<u64> {
        let membership = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let (kind, folder) = self.folder(&membership, "memory")?;
        if !folder.file_name()?.to_str()?.starts_with(PREFIX) {
            return None;
        }
        let text = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        Some(in_use(kind, text(kind.usage())?.trim().parse().ok()?, &text("memory.stat")?))
    }
}

impl Cgroup {
    /// Makes the cgroup of this jail, as far as the host lets it.
    pub(crate) fn make(limits: &JailLimits, instance: &str, pid: u32, missing: &mut Vec<String>) -> Self {
        let mut cgroup = Self { folders: Vec::new(), doors: Vec::new(), kill: None, memory: None, tasks: None };
        let hierarchies = Hierarchies::read();
        let membership = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        // Processes of other PID namespaces, which may share this cgroup, have the same numbers.
        let name = format!("{PREFIX}{instance}-{pid}-{:x}", Timestamp::now().as_nanosecond());
        let mut refused = BTreeMap::<String, Vec<&str>>::new();
        for controller in CONTROLLERS.into_iter().filter(|c| *c != "memory" || limits.memory.is_some()) {
            if let Err(why) = cgroup.add(&hierarchies, &membership, controller, limits, &name) {
                refused.entry(why).or_default().push(controller);
            }
        }
        missing.extend(refused.into_iter().map(|(why, controllers)| format!("cgroup ({}): {why}", controllers.join(", "))));
        cgroup
    }

    fn add(&mut self, all: &Hierarchies, membership: &str, controller: &str, limits: &JailLimits, name: &str) -> Result<(), String> {
        let (kind, own) = all.folder(membership, controller).ok_or("this host has none, or hides them")?;
        let at = match kind {
            Kind::V1 => self.folder(&own, name)?,
            Kind::V2 => {
                let top = all.mounts.get("").map_or(own.as_path(), |(point, _)| point);
                let parent = ancestors(&own, top).find(|p| gives(p, controller)).ok_or_else(|| {
                    format!(
                        "no cgroup from {} upward gives it to others; delegate one, as `systemd-run --user --scope -p Delegate=yes` does",
                        own.display()
                    )
                })?;
                self.folder(parent, name)?
            }
        };
        let put = |file: &str, value: String| std::fs::write(at.join(file), value).map_err(|e| format!("{}: {e}", at.join(file).display()));
        match (controller, kind) {
            ("memory", _) => self.memory = limits.memory.map(|quota| Memory::limit(&at, kind, quota)).transpose()?,
            ("pids", _) => {
                put("pids.max", limits.tasks.to_string())?;
                let events = openat(CWD, at.join("pids.events"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
                self.tasks = Some(Tasks { most: limits.tasks, events });
            }
            (_, Kind::V1) => put("cpu.shares", (u64::from(limits.weight) * 1024 / 100).max(2).to_string())?,
            (_, Kind::V2) => put("cpu.weight", limits.weight.to_string())?,
        }
        Ok(())
    }

    /// The folder of this jail in `parent`, made where it is not there yet.
    fn folder(&mut self, parent: &Path, name: &str) -> Result<PathBuf, String> {
        let path = parent.join(name);
        if self.folders.iter().any(|f| f.path == path) {
            return Ok(path);
        }
        let failed = |e: Errno| format!("{}: {e}", path.display());
        let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = openat(CWD, parent, folder, Mode::empty()).map_err(failed)?;
        let lock = loop {
            match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                // Made in the round before.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            }
            let made = openat(&parent, name, folder, Mode::empty()).and_then(|fd| flock(&fd, FlockOperation::LockExclusive).map(|()| fd));
            // Somebody may have taken it for left over before it was locked.
            match made {
                Ok(fd) if same(&fd, &parent, name) => break fd,
                Ok(_) | Err(Errno::NOENT | Errno::INTR) => {}
                Err(error) => return Err(failed(error)),
            }
        };
        self.folders.push(Folder { parent, name: name.to_owned(), path: path.clone(), _lock: lock });
        let open = |file: &str| openat(CWD, path.join(file), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        self.doors.push(open("cgroup.procs").map_err(failed)?);
        // Only v2 has it, from Linux 5.14 on.
        self.kill = self.kill.take().or(open("cgroup.kill").ok());
        Ok(path)
    }

    /// Enters the calling process; answers what refused it.
    pub(crate) fn enter(&self) -> Vec<String> {
        let refused = |door: &OwnedFd| write(door, b"0").err();
        self.doors.iter().zip(&self.folders).filter_map(|(door, f)| Some(format!("{}: {}", f.path.display(), refused(door)?))).collect()
    }

    /// What wakes the jail.
    pub(crate) fn wakes(&self) -> impl Iterator<Item = (&OwnedFd, PollFlags)> {
        let refused = self.tasks.iter().filter_map(|tasks| tasks.events.as_ref()).map(|events| (events, PollFlags::PRI));
        refused.chain(self.memory.iter().flat_map(Memory::wakes))
    }

    /// When to look next, where no event would tell.
    pub(crate) fn look_at(&self) -> Option<Instant> {
        self.memory.as_ref()?.look_at
    }

    /// SIGKILL to all inside, at once, where the kernel has that.
    pub(crate) fn kill(&self) {
        if let Some(kill) = &self.kill {
            let _ = write(kill, b"1");
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for Folder { parent, name, .. } in &self.folders {
            for _ in 0..REMOVALS {
                match unlinkat(parent, name, AtFlags::REMOVEDIR) {
                    // A process that was reaped is a member for a moment still, and no event tells of its end.
                    Err(Errno::BUSY) => drop(poll(&mut [], Some(&REMOVAL))),
                    _ => break,
                }
            }
        }
    }
}

impl Tasks {
    /// The limit, once a process was refused. Told once: who is refused tries again, and that thousands of times a second.
    pub(crate) fn look(&mut self) -> Option<u32> {
        let refused = value(&contents(self.events.as_ref()?), "max")?;
        self.events.take_if(|_| refused > 0).map(|_| self.most)
    }
}

/// Whether that is what the name stands for still.
fn same(fd: &OwnedFd, parent: &OwnedFd, name: &str) -> bool {
    let now = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    fstat(fd).is_ok_and(|was| now.is_ok_and(|now| (was.st_dev, was.st_ino) == (now.st_dev, now.st_ino)))
}

/// A cgroup of v2 and those above it, up to the top that is seen.
fn ancestors<'a>(own: &'a Path, top: &'a Path) -> impl Iterator<Item = &'a Path> {
    own.ancestors().take_while(move |p| p.starts_with(top))
}

/// Whether cgroups made in this one have the controller, and this process may move into them: for that the kernel wants the right to write here.
fn gives(parent: &Path, controller: &str) -> bool {
    let words = std::fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
    let writable = || rustix::fs::access(parent.join("cgroup.procs"), rustix::fs::Access::WRITE_OK).is_ok();
    words.split_whitespace().any(|word| word == controller) && writable()
}

/// The number behind a key, one pair a line.
fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?.trim().parse().ok()
}

/// A small file of the kernel's, from its beginning.
fn contents(file: &OwnedFd) -> String {
    let mut text = vec![0; 16 * 1024];
    let n = pread(file, &mut text, 0).unwrap_or(0);
    text.truncate(n);
    String::from_utf8_lossy(&text).into_owned()
}

/// Removes the cgroups of jails that were killed together with whoever would have done that.
pub(crate) fn sweep() {
    let hierarchies = Hierarchies::read();
    let membership = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let folders = CONTROLLERS.into_iter().chain([""]).filter_map(|c| hierarchies.folder(&membership, c));
    let top = hierarchies.mounts.get("").map(|(point, _)| point.clone()).unwrap_or_default();
    let mut parents: Vec<PathBuf> = folders
        .flat_map(|(kind, own)| match kind {
            Kind::V1 => vec![own],
            Kind::V2 => ancestors(&own, &top).map(Path::to_owned).collect(),
        })
        .collect();
    parents.sort();
    parents.dedup();
    for parent in parents {
        for entry in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
                remove_left(&parent, &name);
            }
        }
    }
}

/// Removes a folder that no jail has locked. One with processes in it is refused by the kernel.
fn remove_left(parent: &Path, name: &OsStr) {
    let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(lock) = openat(CWD, parent.join(name), folder, Mode::empty()) else { return };
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        let _ = unlinkat(CWD, parent.join(name), AtFlags::REMOVEDIR);
    }
}

/// Has the cgroup of v2 that this process is in give its controllers to cgroups below it, where it may. One that holds nobody else is left for
/// one of dozen's own below it, since the kernel wants no processes beside such: that is how a delegated cgroup, or that of a container, becomes
/// of use. In the host's top cgroup, where processes are on hosts without systemd, there may be both. Elsewhere nothing changes.
pub fn make_room() {
    let membership = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some((Kind::V2, own)) = Hierarchies::read().folder(&membership, "memory") else { return };
    if !is_top(&own) && !enter_own(&own) {
        return;
    }
    // One by one: a host may have some and not others.
    for controller in CONTROLLERS.iter().filter(|controller| !gives(&own, controller)) {
        let _ = std::fs::write(own.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// The host's top cgroup has no type.
fn is_top(cgroup: &Path) -> bool {
    cgroup.join("cgroup.procs").exists() && !cgroup.join("cgroup.type").exists()
}

fn enter_own(cgroup: &Path) -> bool {
    let members = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let alone = members.split_whitespace().eq([std::process::id().to_string()]);
    if !alone || gives(cgroup, "memory") || cgroup.file_name() == Some(OsStr::new(OWN)) {
        return false;
    }
    let inner = cgroup.join(OWN);
    let entered = std::fs::create_dir(&inner).is_ok() && std::fs::write(inner.join("cgroup.procs"), "0").is_ok();
    if !entered {
        let _ = std::fs::remove_dir(&inner);
    }
    entered
}

/// Which version of cgroups has each controller here; those that the host does not show are left out.
pub fn versions() -> Vec<(&'static str, u8)> {
    let membership = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let hierarchies = Hierarchies::read();
    let version = |controller| hierarchies.folder(&membership, controller).map(|(kind, _)| if kind == Kind::V1 { 1 } else { 2 });
    CONTROLLERS.into_iter().filter_map(|controller| Some((controller, version(controller)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "30 23 0:26 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
        31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        32 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn a_controller_is_where_the_host_has_it() {
        let at = |mounts: &str, membership: &str, controller: &str| Hierarchies::parse(mounts).folder(membership, controller);
        let hybrid = "5:memory:/box/7\n4:cpu,cpuacct:/\n0::/user.slice\n";
        let v1 = |path: &str| Some((Kind::V1, path.into()));
        let v2 = |path: &str| Some((Kind::V2, path.into()));
        assert_eq!(at(HYBRID, hybrid, "memory"), v1("/sys/fs/cgroup/memory/box/7"));
        assert_eq!(at(HYBRID, hybrid, "cpu"), v1("/sys/fs/cgroup/cpu,cpuacct/"));
        assert_eq!(at(HYBRID, hybrid, "pids"), v2("/sys/fs/cgroup/unified/user.slice"));
        assert_eq!(at(V2, "0::/user.slice/a b.scope\n", "memory"), v2("/sys/fs/cgroup/user.slice/a b.scope"));
        assert_eq!(at("", "0::/\n", "memory"), None);
        // A container sees a part of v1's hierarchy under the same path.
        let part = "31 23 0:27 /docker/1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        assert_eq!(at(part, "5:memory:/docker/1/x\n", "memory"), v1("/sys/fs/cgroup/memory/x"));
        assert_eq!(at(part, "5:memory:/elsewhere\n", "memory"), None);
    }

    #[test]
    fn the_nearest_cgroup_that_gives_a_controller_is_taken() {
        let top = std::env::temp_dir().join(format!("dozen-cgroup-{}", std::process::id()));
        let own = top.join("app.slice/term.scope");
        std::fs::create_dir_all(&own).expect("made");
        let put = |folder: &Path, controllers: &str| {
            std::fs::write(folder.join("cgroup.subtree_control"), controllers).expect("written");
            std::fs::write(folder.join("cgroup.procs"), "").expect("written");
        };
        put(&top, "cpu memory pids\n");
        put(&top.join("app.slice"), "memory pids\n");
        put(&own, "");
        let parent = |controller: &str| ancestors(&own, &top).find(|p| gives(p, controller)).map(Path::to_owned);
        let found = ["memory", "pids", "cpu", "io"].map(parent);
        std::fs::remove_dir_all(&top).expect("removed");
        assert_eq!(found, [Some(top.join("app.slice")), Some(top.join("app.slice")), Some(top), None]);
    }
}
