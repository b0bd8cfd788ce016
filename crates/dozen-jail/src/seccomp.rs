//! System calls that no app needs and attacks do: refused to the program and to all that it starts, the jail itself excepted.
//!
//! A list of what is denied, not of what is allowed: apps in any language run unchanged. Answers are those of a kernel that lacks the thing,
//! where libraries fall back by them.
//!
//! **Invariant:** what namespaces, capabilities or Landlock deny already is denied here once more only where the kernel's code behind it is
//! what attacks aim at, or where Landlock does not look.

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    sock_filter,
};
use std::collections::BTreeMap;

/// EPERM: what needs rights over the machine.
const REFUSED: &[c_long] = &[
    // The kernel's keyring is not divided by namespaces.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Programs within the kernel, and a look at others' from there.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_lookup_dcookie,
    libc::SYS_syslog,
    // Another kernel, or more of this one.
    libc::SYS_kexec_load,
    KEXEC_FILE_LOAD,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    // Mounts, by the old calls and the new.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Into namespaces of others.
    libc::SYS_setns,
    // Files by numbers instead of paths: past every view.
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    // Lets one thread hold the kernel up in the middle of another's call.
    libc::SYS_userfaultfd,
    // The machine's own affairs.
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_acct,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];
/// EPERM too, where neither a PID namespace nor Landlock keeps strangers' memory away. Within an own one, debuggers may work.
const STRANGERS: &[c_long] =
    &[libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_pidfd_getfd, libc::SYS_kcmp];
/// ENOSYS. `clone3` has its flags in memory, where no filter sees them: C libraries go back to `clone`. What is asked by io_uring passes by
/// every filter: programs go back to epoll.
const UNKNOWN: &[c_long] = &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Since Linux 6.15; libc does not have it yet.
const OPEN_TREE_ATTR: c_long = 467;
/// libc does not have it for every C library.
const KEXEC_FILE_LOAD: c_long = if cfg!(target_arch = "x86_64") { 320 } else { 294 };
/// New namespaces: an own user namespace would open most of the kernel to whoever has one.
const SPACES: [i32; 8] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWTIME,
];
/// Typing into the terminal that one was started from, and pasting into it.
const TERMINAL: [u64; 2] = [0x5412, 0x541c];
/// Families of sockets that apps speak. The others (VSOCK, ALG, PACKET, …) reach the hypervisor, or kernel code that few have read.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// What is spoken over IP. MPTCP and SMC carry what is TCP to apps, and Landlock does not look at them.
const PROTOCOLS: [i32; 6] = [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6, libc::IPPROTO_UDPLITE];
/// `personality(0xffffffff)` only asks.
const ASKING: u64 = 0xffff_ffff;
/// Numbers from here up are those of x32, a second set of calls on x86_64.
const X32: u32 = 0x4000_0000;

/// The filters, one for each answer. `strangers`: whether nothing else keeps the memory of other processes away.
pub(crate) fn filters(strangers: bool) -> Result<Vec<BpfProgram>, BackendError> {
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|n| (*n, Vec::new())).collect();
    if strangers {
        refused.extend(STRANGERS.iter().map(|n| (*n, Vec::new())));
    }
    let spaces: Vec<_> = SPACES.iter().map(|flag| all(vec![has(0, *flag)])).collect::<Result<_, _>>()?;
    refused.insert(libc::SYS_unshare, spaces.clone());
    refused.insert(libc::SYS_clone, spaces);
    refused.insert(libc::SYS_personality, vec![all(vec![is_not(0, 0), is_not(0, ASKING)])?]);
    refused.insert(libc::SYS_ioctl, TERMINAL.iter().map(|code| all(vec![is(1, *code)])).collect::<Result<_, _>>()?);
    let raw = [libc::AF_INET, libc::AF_INET6].map(|family| all(vec![is(0, number(family)), kind(libc::SOCK_RAW)]));
    refused.insert(libc::SYS_socket, raw.into_iter().collect::<Result<_, _>>()?);

    let unknown = UNKNOWN.iter().map(|n| (*n, Vec::new())).collect();

    let others = |argument: u8, known: &[i32]| known.iter().map(|k| is_not(argument, number(*k))).collect::<Vec<_>>();
    let families = BTreeMap::from([(libc::SYS_socket, vec![all(others(0, &FAMILIES))?])]);
    let over_ip = |family| all(std::iter::once(is(0, number(family))).chain(others(2, &PROTOCOLS)).collect());
    let protocols = BTreeMap::from([(libc::SYS_socket, vec![over_ip(libc::AF_INET)?, over_ip(libc::AF_INET6)?])]);

    let mut first = filter(refused, libc::EPERM)?;
    if cfg!(target_arch = "x86_64") {
        first.splice(0..0, without_x32());
    }
    Ok(vec![first, filter(unknown, libc::ENOSYS)?, filter(families, libc::EAFNOSUPPORT)?, filter(protocols, libc::EPROTONOSUPPORT)?])
}

/// EPERM for running any program.
pub(crate) fn no_programs() -> Result<BpfProgram, BackendError> {
    filter([libc::SYS_execve, libc::SYS_execveat].into_iter().map(|n| (n, Vec::new())).collect(), libc::EPERM)
}

/// What matches gets this error, everything else passes. Calls of another architecture (32-bit programs) end the process.
fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, error: i32) -> Result<BpfProgram, BackendError> {
    let here = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(error.cast_unsigned()), here)?.try_into()
}

/// ENOSYS for all of x32: with other numbers it would pass by everything that follows.
fn without_x32() -> [sock_filter; 3] {
    let step = |code: u32, jf, k| sock_filter { code: u16::try_from(code).unwrap_or_default(), jt: 0, jf, k };
    let number = 0;
    let unknown = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, number),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, X32),
        step(libc::BPF_RET | libc::BPF_K, 0, unknown),
    ]
}

type Condition = Result<SeccompCondition, BackendError>;

fn all(conditions: Vec<Condition>) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

/// The kernel takes these arguments as 32 bits; what stands above them must not tell them apart.
fn compare(argument: u8, how: SeccompCmpOp, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)
}

fn is(argument: u8, value: u64) -> Condition {
    compare(argument, SeccompCmpOp::Eq, value)
}

fn is_not(argument: u8, value: u64) -> Condition {
    compare(argument, SeccompCmpOp::Ne, value)
}

fn has(argument: u8, flag: i32) -> Condition {
    compare(argument, SeccompCmpOp::MaskedEq(number(flag)), number(flag))
}

/// The kind of a socket, without the flags that stand in the same argument.
fn kind(kind: i32) -> Condition {
    compare(1, SeccompCmpOp::MaskedEq(0xf), number(kind))
}

fn number(n: i32) -> u64 {
    n.cast_unsigned().into()
}
