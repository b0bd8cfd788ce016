//! The system calls that rustix does not offer safely; the only unsafe code of dozen.
//!
//! **Invariant:** the process has one thread. Whoever calls [`fork_into`] relies on it: the copy may allocate and lock as it likes.
#![allow(unsafe_code)]

use rustix::io::Errno;
use rustix::process::Pid;
use std::ffi::{CStr, CString, c_int, c_long};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Takes the socket that whoever started this process left at `fd`, and keeps it from programs. `None` where nothing is open there.
pub(crate) fn inherited(fd: c_int) -> Option<OwnedFd> {
    // SAFETY: F_GETFD only asks whether the number is open.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and `enter` or `given` calls this once for each number, before anything else could own it: nothing is opened before.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    let _ = rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC);
    Some(owned)
}

/// Forks with these `CLONE_*` flags. `None` in the new process, its id in the old one.
///
/// With `CLONE_PARENT` the new process is a sibling, and tells its parent of its end by the signal that this process would send.
pub(crate) fn fork_into(flags: c_int) -> Result<Option<Pid>, Errno> {
    let sibling = flags & libc::CLONE_PARENT != 0;
    let signal = if sibling { 0 } else { libc::SIGCHLD };
    // SAFETY: `clone_args` is plain numbers; zero means "none" for each.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags.cast_unsigned().into();
    args.exit_signal = signal.cast_unsigned().into();
    // SAFETY: no stack, no shared memory (CLONE_VM is never passed): this is fork, in a process of one thread. `args` outlives the call.
    let mut made = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    // Container engines refuse clone3 as "unknown", since their filters cannot look into its arguments.
    if made < 0 && last() == Errno::NOSYS {
        // SAFETY: as above; the order of the arguments does not matter where all but the flags are null (s390x would differ).
        made = unsafe { libc::syscall(libc::SYS_clone, c_long::from(flags | signal), 0 as c_long, 0 as c_long, 0 as c_long, 0 as c_long) };
    }
    match made {
        ..0 => Err(last()),
        0 => Ok(None),
        pid => Ok(i32::try_from(pid).ok().and_then(Pid::from_raw)),
    }
}

/// Adds `MOUNT_ATTR_*` to a mount, and with `recursive` to all below it. What is set already stays set.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, attributes: u64, recursive: bool) -> Result<(), Errno> {
    let mut args = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, `args` outlives the call and its size is given.
    let done = unsafe {
        libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), flags, &raw mut args, size_of::<libc::mount_attr>())
    };
    if done < 0 { Err(last()) } else { Ok(()) }
}

/// Blocks all signals and answers a descriptor from which those that the jail heeds are read.
pub(crate) fn signals() -> Result<OwnedFd, Errno> {
    // SAFETY: `sigset_t` is plain data which sigfillset and sigemptyset fill; the pointers are to locals.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            libc::sigaddset(&raw mut set, signal);
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(last()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Reads the number of one signal; `None` when none is waiting.
pub(crate) fn next_signal(fd: BorrowedFd<'_>) -> Option<c_int> {
    let mut bytes = [0u8; size_of::<libc::signalfd_siginfo>()];
    let n = rustix::io::read(fd, &mut bytes).ok()?;
    // `ssi_signo` is the first field, 32 bits.
    (n == bytes.len()).then(|| i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Gives every signal its default effect and blocks none, as a program expects to be started.
pub(crate) fn default_signals() {
    // The kernel's own `struct sigaction`: zero is SIG_DFL, no flags, an empty mask. Directly, since libc keeps 32 and 33 to itself.
    let default = [0u64; 4];
    // SAFETY: `default` is at least as long as that structure and outlives the calls; 8 is the size of the kernel's signal set. 9 and 19 are refused.
    unsafe {
        for signal in 1..=64 as c_long {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), 8 as c_long);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Sends a signal by its number to one process.
pub(crate) fn kill(pid: Pid, signal: c_int) {
    // SAFETY: no memory is involved; a `Pid` is positive, so never a group or everybody. A process that is gone is no error.
    let _ = unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) };
}

/// Sends a signal to every process of the PID namespace whose first process the caller is.
///
/// **Invariant:** nothing is sent by anybody else, since that would reach the whole host.
pub(crate) fn kill_namespace(signal: c_int) {
    if rustix::process::getpid() == Pid::INIT {
        // SAFETY: no memory is involved; −1 leaves out the caller.
        let _ = unsafe { libc::kill(-1, signal) };
    }
}

/// Has every descriptor but the three standard ones closed by the next exec.
pub(crate) fn close_others_on_exec() {
    // SAFETY: only a flag is set on open descriptors. Before Linux 5.11 this fails: dozen opens everything close-on-exec anyway.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Closes every descriptor from `first` up.
pub(crate) fn close_from(first: u32) {
    // SAFETY: called by `enter` before it opened anything; nothing owns a number from `first` up.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0u32) };
}

/// Empties the bounding set, so that no program regains a capability. Without the right to, nothing happens: `no_new_privs` holds too.
pub(crate) fn empty_bounding_set() {
    for capability in 0..64 {
        // SAFETY: numbers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) } < 0 && last() == Errno::INVAL {
            break;
        }
    }
}

/// The version of Landlock that the kernel offers.
pub(crate) fn landlock_version() -> Result<u32, Errno> {
    const VERSION: c_long = 1;
    // SAFETY: with this flag no memory is read.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0 as c_long, VERSION) };
    u32::try_from(version).map_err(|_| last())
}

/// Process and user at the other end of a Unix socket. Who is of another PID namespace has the number 0, for which rustix has no value.
pub(crate) fn peer(socket: BorrowedFd<'_>) -> Option<(libc::pid_t, libc::uid_t)> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = libc::socklen_t::try_from(size_of::<libc::ucred>()).ok()?;
    // SAFETY: `peer` is plain numbers, as large as is said, and outlives the call.
    let done = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut size) };
    (done == 0).then_some((peer.pid, peer.uid))
}

/// Replaces the process. Returns only when that failed.
pub(crate) fn exec(program: &CStr, argv: &[CString], env: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists end with null and their strings outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    last()
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
