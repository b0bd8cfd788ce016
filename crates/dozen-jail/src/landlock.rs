//! Landlock: what files the program reaches, what TCP ports it binds, whom it signals, whose abstract sockets it connects to.
//!
//! Where the jail has a view of its own the mounts decide about files already, and this holds what comes in beside them: a descriptor of a
//! folder outside. Where it sees the host's files this is the only thing that keeps it from those of others. Landlock also keeps the memory,
//! the environment and the descriptors (in /proc) of processes outside away, whosever they are.
//!
//! **Invariant:** what is not asked for here is not held: connecting, UDP, and Unix sockets that have a path.

use crate::{Failure, sys};
use dozen_core::processes::jail::{JailSpec, View};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetError, Scope,
};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is read and run where there is no view: as much of the system as a view would have, and what tells of the machine.
const SYSTEM: [&str; 9] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/proc"];
/// Of this, what everybody may read: root without a view is the owner of the rest.
const SETTINGS: &str = "/etc";
/// Devices that are written there, and shared memory: other deploys of the same user have the same.
const DEVICES: [&str; 8] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/shm", "/dev/ptmx"];
/// What is written within a view: all that a mount lets.
const OWN: [&str; 3] = ["/tmp", "/dev", "/proc"];

/// The newest rules that were tried; a newer kernel's are not asked for.
const NEWEST: ABI = ABI::V7;

/// Whom the program signals and whose abstract sockets it connects to: its own.
pub(crate) fn all_scopes() -> BitFlags<Scope> {
    Scope::from_all(NEWEST)
}

/// Makes the ruleset, in the jail, once its view is what the program will see. `tmp` is the program's own folder where it has no view. What
/// the kernel lacks is added to `missing`; `None` where it lacks all.
pub(crate) fn ruleset(
    spec: &JailSpec,
    tmp: Option<&Path>,
    scopes: BitFlags<Scope>,
    missing: &mut Vec<String>,
) -> Result<Option<RulesetCreated>, Failure> {
    let Some(abi) = version(missing) else { return Ok(None) };
    // The first version forbids to move a file from one folder to another, whatever the rules: too much for where mounts do the work.
    let files = spec.held && (abi >= 2 || spec.view == View::Host);
    if spec.held && !files {
        missing.push("landlock: files are held by mounts only (needs Linux 5.19)".to_owned());
    }
    tell_lacks(abi, files && spec.view == View::Host, spec.ports.is_some(), missing);
    make(spec, tmp, scopes, files).map(Some).map_err(Failure::of("make the Landlock rules"))
}

/// What this version of Landlock cannot hold, of what is asked of it.
fn tell_lacks(abi: u32, files: bool, ports: bool, missing: &mut Vec<String>) {
    let lacks = [
        (files && abi < 3, "any file can be truncated (needs Linux 6.2)"),
        (ports && abi < 4, "any TCP port can be bound (needs Linux 6.7)"),
        (abi < 6, "abstract sockets and processes of others are in reach (needs Linux 6.12)"),
    ];
    missing.extend(lacks.into_iter().filter(|(lacks, _)| *lacks).map(|(_, what)| format!("landlock: {what}")));
}

/// What the kernel offers; `None` where that is nothing, which is added to `missing`.
fn version(missing: &mut Vec<String>) -> Option<u32> {
    let why = match sys::landlock_version() {
        Ok(version) => return Some(version),
        Err(Errno::OPNOTSUPP) => "it is switched off; start the kernel with `lsm=landlock,...`".to_owned(),
        Err(Errno::NOSYS) => "this kernel has none (needs Linux 5.13)".to_owned(),
        Err(error) => error.to_string(),
    };
    missing.push(format!("landlock: {why}"));
    None
}

/// The ruleset of a process that needs the working folder only, and binds and signals nothing.
pub(crate) fn one_folder(missing: &mut Vec<String>) -> Option<RulesetCreated> {
    tell_lacks(version(missing)?, true, true, missing);
    let make = || {
        let asked = Ruleset::default().scope(Scope::from_all(NEWEST))?.handle_access(AccessFs::from_all(NEWEST))?;
        allow(asked.handle_access(AccessNet::BindTcp)?.create()?, &[".".into()], AccessFs::from_all(NEWEST))
    };
    make().map_err(|error: RulesetError| missing.push(format!("landlock: {error}"))).ok()
}

fn make(spec: &JailSpec, tmp: Option<&Path>, scopes: BitFlags<Scope>, files: bool) -> Result<RulesetCreated, RulesetError> {
    let mut asked = Ruleset::default().scope(scopes)?;
    if files {
        asked = asked.handle_access(AccessFs::from_all(NEWEST))?;
    }
    if spec.ports.is_some() {
        asked = asked.handle_access(AccessNet::BindTcp)?;
    }
    let mut rules = asked.create()?;
    for port in spec.ports.iter().flatten().copied().chain(spec.port).chain([EPHEMERAL]).filter(|_| spec.ports.is_some()) {
        rules = rules.add_rule(NetPort::new(port, AccessNet::BindTcp))?;
    }
    if files {
        let (read, write) = places(spec, tmp);
        rules = allow(rules, &read, AccessFs::from_read(NEWEST))?;
        if spec.view == View::Host {
            rules = allow(rules, &[SETTINGS.into()], AccessFs::ReadDir.into())?;
        }
        rules = allow(rules, &write, AccessFs::from_all(NEWEST))?;
        rules = allow_given(rules)?;
    }
    Ok(rules)
}

/// A port that the kernel chooses. To forbid it would hold nobody back, since `listen` without `bind` gets one unasked.
const EPHEMERAL: u16 = 0;

/// What is read and run, and what is written, too.
fn places(spec: &JailSpec, tmp: Option<&Path>) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let paths = |known: &[&str]| known.iter().map(PathBuf::from).collect::<Vec<_>>();
    let (writable, rest): (Vec<_>, Vec<_>) = spec.mounts.iter().partition(|m| m.writable);
    match spec.view {
        View::Minimal => {
            let app = writable.into_iter().map(|m| m.target.clone()).chain(spec.scratch.iter().map(|s| s.target.clone()));
            (paths(&["/"]), paths(&OWN).into_iter().chain(app).collect())
        }
        View::Host => {
            // systemd has it in /run.
            let resolver = std::fs::canonicalize("/etc/resolv.conf").ok();
            let read = paths(&SYSTEM).into_iter().chain(open_settings()).chain(resolver).chain(rest.into_iter().map(|m| m.source.clone()));
            let write = paths(&DEVICES).into_iter().chain(writable.into_iter().map(|m| m.source.clone()));
            (read.collect(), write.chain(tmp.map(Path::to_owned)).collect())
        }
    }
}

fn open_settings() -> Vec<PathBuf> {
    let everybody = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o004 != 0);
    let entries = std::fs::read_dir(SETTINGS).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(everybody).collect()
}

/// What is not there needs no rule.
fn allow(mut rules: RulesetCreated, places: &[PathBuf], access: BitFlags<AccessFs>) -> Result<RulesetCreated, RulesetError> {
    for place in places.iter().filter_map(|place| PathFd::new(place).ok()) {
        rules = rules.add_rule(PathBeneath::new(place, access))?;
    }
    Ok(rules)
}

/// What the program is handed as standard descriptors it may open again, by /dev/stdout or a terminal's name. Pipes and sockets need no rule.
fn allow_given(mut rules: RulesetCreated) -> Result<RulesetCreated, RulesetError> {
    let given: [BorrowedFd<'_>; 3] = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for fd in given {
        let kind = fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if !matches!(kind, Ok(FileType::RegularFile | FileType::CharacterDevice)) {
            continue;
        }
        let write = AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
        let access = match fcntl_getfl(fd).unwrap_or(OFlags::empty()) & OFlags::RWMODE {
            OFlags::RDWR => write | AccessFs::ReadFile,
            OFlags::WRONLY => write,
            _ => AccessFs::ReadFile | AccessFs::IoctlDev,
        };
        rules = rules.add_rule(PathBeneath::new(fd, access))?;
    }
    Ok(rules)
}
