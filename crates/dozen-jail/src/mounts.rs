//! What a jail sees: a root of its own on tmpfs with the system's programs, the app's folder and nothing else of the host.
//!
//! **Invariant:** sources are taken as detached trees before anything is covered, so that no mount can hide the source of another.
//! **Invariant:** no mount reaches the host's table: the namespace is private before the first one.
//! **Invariant:** everything is nosuid, and nodev but for the seven devices of our own /dev.

use crate::Failure;
use crate::sys::mount_setattr;
use dozen_core::processes::jail::{Mount, Scratch};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, chownat, mkdirat, openat, openat2, symlinkat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Folders that programs need; where the host has a link (merged /usr), the jail gets the same link. /nix holds the whole system on NixOS.
const SYSTEM: [&str; 9] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/nix"];
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// What is written below /proc would change the host.
const KERNEL: [&str; 5] = ["proc/sys", "proc/sysrq-trigger", "proc/irq", "proc/bus", "proc/fs"];
/// Bytes that a process may write to its /tmp and its /dev/shm: they are memory.
const TMP_SIZE: &str = "1g";
const SHM_SIZE: &str = "512m";
/// So many folders below a scratch folder are made anew.
const SCRATCH_FOLDERS: usize = 1000;

const RDONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;
const NOSUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const NODEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;

/// Makes the minimal view and moves into it. `user` is whom the program runs as. Layers that could not be had are added to `missing`.
pub(crate) fn enter_minimal(
    mounts: &[Mount],
    scratch: &[Scratch],
    user: (u32, u32),
    hostname: &str,
    missing: &mut Vec<String>,
) -> Result<(), Failure> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(Failure::of("mount namespace"))?;

    let system = take_system()?;
    let resolver = take_resolver();
    let devices = DEVICES.map(|name| (name, take(CWD, &Path::new("/dev").join(name), NOSUID | NOEXEC)));
    let terminal = take_terminal();
    let mut app = Vec::new();
    for mount in mounts {
        let what = format!("mount {}", mount.target.display());
        if !mount.target.is_absolute() || mount.target.components().any(|c| c == Component::ParentDir) {
            return Err(Failure { attempt: what, error: "the place inside is not an absolute path without `..`".into(), code: 1 });
        }
        let attributes = if mount.writable { NOSUID | NODEV } else { NOSUID | NODEV | RDONLY };
        let from = |e: Errno| Failure { attempt: what.clone(), error: format!("{}: {e}", mount.source.display()), code: 1 };
        app.push((mount.target.clone(), take(CWD, &mount.source, attributes).map_err(from)?));
    }
    // A folder before what lies in it.
    app.sort_by_key(|(target, _)| target.components().count());
    let proc = match own_proc() {
        Ok(proc) => proc,
        Err(error) => {
            missing.push(format!("own /proc: {error}"));
            take(CWD, Path::new("/proc"), NOSUID | NODEV | NOEXEC | RDONLY).map_err(Failure::of("mount /proc"))?
        }
    };

    // From here on the host's paths are not used any more. /usr is where the new root stands until it is the root.
    let root = tmpfs("755", "16m", NOSUID | NODEV).map_err(Failure::of("mount a new root"))?;
    attach(root.as_fd(), CWD, Path::new("/usr")).map_err(Failure::of("mount a new root"))?;
    for (place, entry) in system {
        match entry {
            Entry::Tree(tree) => put(&root, Path::new(place), &tree)?,
            Entry::Link(to) => symlinkat(to, &root, &place[1..]).map_err(Failure::of(place))?,
        }
    }
    put(&root, Path::new("/proc"), &proc)?;
    if user.0 == 0 {
        for place in KERNEL {
            if let Ok(tree) = take(root.as_fd(), Path::new(place), RDONLY | NOSUID | NODEV | NOEXEC) {
                put(&root, &Path::new("/").join(place), &tree)?;
            }
        }
    }
    let tmp = tmpfs("1777", TMP_SIZE, NOSUID | NODEV).map_err(Failure::of("mount /tmp"))?;
    put(&root, Path::new("/tmp"), &tmp)?;
    make(&root, Path::new("/run"), true).map_err(Failure::of("make /run"))?;
    make(&root, Path::new("/var"), true).map_err(Failure::of("make /var"))?;
    symlinkat("/tmp", &root, "var/tmp").map_err(Failure::of("make /var/tmp"))?;
    put_devices(&root, devices, terminal, missing)?;
    put_etc(&root, user, hostname).map_err(Failure::of("mount own files of /etc"))?;
    if let Some((place, tree)) = resolver {
        put(&root, &place, &tree)?;
    }
    for (place, tree) in app {
        put(&root, &place, &tree)?;
    }
    for scratch in scratch {
        put_scratch(&root, scratch, user)?;
    }
    mount_setattr(root.as_fd(), RDONLY.bits().into(), false).map_err(Failure::of("make the root read-only"))?;

    // Onto itself: the old root then lies on top of the new one, and is let go.
    fchdir(&root).map_err(Failure::of("enter the new root"))?;
    pivot_root(".", ".").map_err(Failure::of("pivot_root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(Failure::of("let go of the host's root"))?;
    chdir("/").map_err(Failure::of("enter the new root"))
}

/// Keeps the host's files as they are, but for a /proc that shows the jail's processes by the numbers they have inside.
pub(crate) fn keep_host(missing: &mut Vec<String>) {
    let done = mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .and_then(|()| own_proc())
        .and_then(|proc| attach(proc.as_fd(), CWD, Path::new("/proc")));
    if let Err(error) = done {
        missing.push(format!("own /proc: {error}"));
    }
}

enum Entry {
    Tree(OwnedFd),
    Link(PathBuf),
}

fn take_system() -> Result<Vec<(&'static str, Entry)>, Failure> {
    let mut found = Vec::new();
    for place in SYSTEM {
        let Ok(kind) = std::fs::symlink_metadata(place).map(|m| m.file_type()) else { continue };
        if kind.is_symlink() {
            let to = std::fs::read_link(place).map_err(|e| Failure { attempt: place.into(), error: e.to_string(), code: 1 })?;
            found.push((place, Entry::Link(to)));
        } else if kind.is_dir() {
            let tree = take(CWD, Path::new(place), RDONLY | NOSUID | NODEV).map_err(Failure::of(place))?;
            found.push((place, Entry::Tree(tree)));
        }
    }
    Ok(found)
}

/// Where /etc/resolv.conf is a link out of /etc (systemd: into /run), the file that it points to.
fn take_resolver() -> Option<(PathBuf, OwnedFd)> {
    let real = std::fs::canonicalize("/etc/resolv.conf").ok()?;
    if SYSTEM.iter().any(|place| real.starts_with(place)) {
        return None;
    }
    let tree = take(CWD, &real, RDONLY | NOSUID | NODEV | NOEXEC).ok()?;
    Some((real, tree))
}

/// The terminal of a one-off: our own /dev/pts does not have it, and programs look for its name.
fn take_terminal() -> Option<OwnedFd> {
    let stdin = rustix::stdio::stdin();
    let path = rustix::termios::isatty(stdin).then(|| std::fs::read_link("/proc/self/fd/0"))?.ok()?;
    take(CWD, &path, NOSUID | NOEXEC).ok()
}

fn put_devices(
    root: &OwnedFd,
    devices: [(&str, Result<OwnedFd, Errno>); 6],
    terminal: Option<OwnedFd>,
    missing: &mut Vec<String>,
) -> Result<(), Failure> {
    let dev = tmpfs("755", "64k", NOSUID | NOEXEC).map_err(Failure::of("mount /dev"))?;
    put(root, Path::new("/dev"), &dev)?;
    for (name, tree) in devices {
        let place = Path::new("/dev").join(name);
        match tree {
            Ok(tree) => put(root, &place, &tree)?,
            Err(error) => missing.push(format!("{}: {error}", place.display())),
        }
    }
    if let Some(terminal) = terminal {
        put(root, Path::new("/dev/console"), &terminal)?;
    }
    for (name, to) in [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")]
    {
        symlinkat(to, &dev, name).map_err(Failure::of("make /dev"))?;
    }
    let shm = tmpfs("1777", SHM_SIZE, NOSUID | NODEV | NOEXEC).map_err(Failure::of("mount /dev/shm"))?;
    put(root, Path::new("/dev/shm"), &shm)?;
    match filesystem("devpts", &[("mode", "620"), ("ptmxmode", "666")], NOSUID | NOEXEC) {
        Ok(pts) => {
            put(root, Path::new("/dev/pts"), &pts)?;
            symlinkat("pts/ptmx", &dev, "ptmx").map_err(Failure::of("make /dev/ptmx"))?;
        }
        Err(error) => missing.push(format!("own /dev/pts: {error}")),
    }
    mount_setattr(dev.as_fd(), RDONLY.bits().into(), false).map_err(Failure::of("make /dev read-only"))
}

/// Files of /etc that are the jail's own: accounts that name nobody of the host, the host's name, and nothing where passwords are kept.
fn put_etc(root: &OwnedFd, (uid, gid): (u32, u32), hostname: &str) -> std::io::Result<()> {
    let (app, system) = if uid == 0 { ("root", "") } else { ("app", "root:x:0:0:root:/root:/bin/sh\n") };
    let nobody = if uid == 65534 { "" } else { "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n" };
    let passwd = format!("{system}{app}:x:{uid}:{gid}:{app}:/app:/bin/sh\n{nobody}").into_bytes();
    let (app, system) = if gid == 0 { ("root", "") } else { ("app", "root:x:0:\n") };
    let nobody = if gid == 65534 { "" } else { "nogroup:x:65534:\n" };
    let group = format!("{system}{app}:x:{gid}:\n{nobody}").into_bytes();
    // Programs look their own host up; Java refuses to go on where that fails.
    let mut hosts = read_small(root, "etc/hosts");
    hosts.extend_from_slice(format!("\n127.0.1.1\t{hostname}\n").as_bytes());
    let name = format!("{hostname}\n").into_bytes();

    let shown = [("passwd", passwd), ("group", group), ("hosts", hosts), ("hostname", name)].map(|(place, bytes)| (place, bytes, 0o444));
    let hidden = ["shadow", "gshadow", "shadow-", "gshadow-"].map(|place| (place, Vec::new(), 0));
    for (name, bytes, mode) in shown.into_iter().chain(hidden) {
        let place = PathBuf::from("etc").join(name);
        let Ok(over) = openat2(root, &place, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), ResolveFlags::IN_ROOT)
        else {
            continue;
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        File::from(openat(root, ".own", flags, Mode::from_raw_mode(mode))?).write_all(&bytes)?;
        let tree = take(root.as_fd(), Path::new(".own"), RDONLY | NOSUID | NODEV | NOEXEC)?;
        attach(tree.as_fd(), over.as_fd(), Path::new(""))?;
        // The mount keeps the file; its name goes.
        unlinkat(root, ".own", AtFlags::empty())?;
    }
    Ok(())
}

/// A writable folder in memory over one of the app's. The folders in that one are made anew, since frameworks expect them; files are not.
fn put_scratch(root: &OwnedFd, scratch: &Scratch, (uid, gid): (u32, u32)) -> Result<(), Failure> {
    let what = format!("make the scratch folder {}", scratch.target.display());
    let failed = Failure::of(&what);
    let (size, uid_text, gid_text) = (scratch.bytes.to_string(), uid.to_string(), gid.to_string());
    let options = [("mode", "755"), ("size", size.as_str()), ("uid", uid_text.as_str()), ("gid", gid_text.as_str())];
    let fresh = filesystem("tmpfs", &options, NOSUID | NODEV).map_err(&failed)?;
    let owner = (Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)));
    for folder in folders_in(root, &scratch.target) {
        mkdirat(&fresh, &folder, Mode::from_raw_mode(0o755)).map_err(&failed)?;
        chownat(&fresh, &folder, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
    }
    put(root, &scratch.target, &fresh)
}

/// The folders below a place in the new root, outer ones first, relative to it.
fn folders_in(root: &OwnedFd, place: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    let mut next = 0;
    while next < found.len() && found.len() < SCRATCH_FOLDERS {
        let (within, full) = (found[next].clone(), place.join(&found[next]));
        next += 1;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(mut entries) = openat2(root, &full, flags, Mode::empty(), ResolveFlags::IN_ROOT).and_then(Dir::new) else { continue };
        while let Some(Ok(entry)) = entries.read() {
            let name = Path::new(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()));
            if entry.file_type() == FileType::Directory && name != "." && name != ".." {
                found.push(within.join(name));
            }
        }
    }
    found.split_off(1)
}

/// A file of the new root, at most a megabyte of it; nothing where it cannot be read.
fn read_small(root: &OwnedFd, path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = openat2(root, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT) {
        let _ = File::from(file).take(1 << 20).read_to_end(&mut bytes);
    }
    bytes
}

/// A detached copy of a tree of mounts, with these attributes added all over it.
fn take(folder: BorrowedFd<'_>, path: &Path, attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(folder, path, flags)?;
    mount_setattr(tree.as_fd(), attributes.bits().into(), true)?;
    Ok(tree)
}

fn tmpfs(mode: &str, size: &str, attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    filesystem("tmpfs", &[("mode", mode), ("size", size)], attributes)
}

fn own_proc() -> Result<OwnedFd, Errno> {
    filesystem("proc", &[], NOSUID | NODEV | NOEXEC)
}

fn filesystem(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&fs, *key, *value)?;
    }
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn attach(tree: BorrowedFd<'_>, folder: BorrowedFd<'_>, path: &Path) -> Result<(), Errno> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if path.as_os_str().is_empty() {
        flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    }
    move_mount(tree, "", folder, path, flags)
}

/// Mounts a tree in the new root, making the place where it is missing.
fn put(root: &OwnedFd, place: &Path, tree: &OwnedFd) -> Result<(), Failure> {
    let is_folder = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
    is_folder(tree)
        .and_then(|folder| make(root, place, folder))
        .and_then(|over| attach(tree.as_fd(), over.as_fd(), Path::new("")))
        .map_err(Failure::of(&format!("mount {}", place.display())))
}

/// Opens a place in the new root; what is missing on the way is made. Links lead where they would lead inside.
fn make(root: &OwnedFd, place: &Path, folder: bool) -> Result<OwnedFd, Errno> {
    let look = |path: &Path| openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT);
    let mut at = PathBuf::from("/");
    let mut names = place.components().filter(|c| matches!(c, Component::Normal(_))).peekable();
    let mut here = look(&at)?;
    while let Some(name) = names.next() {
        at.push(name);
        here = match look(&at) {
            Ok(there) => there,
            Err(Errno::NOENT) => {
                if folder || names.peek().is_some() {
                    mkdirat(&here, name.as_os_str(), Mode::from_raw_mode(0o755))?;
                } else {
                    openat(
                        &here,
                        name.as_os_str(),
                        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
                        Mode::from_raw_mode(0o644),
                    )?;
                }
                look(&at)?
            }
            Err(error) => return Err(error),
        };
    }
    Ok(here)
}
