//! The process that the driver started: makes the jail as strong as the host allows, strongest first.

use crate::control::Control;
use crate::init::{self, Place};
use crate::{Failure, inside, sys};
use dozen_core::processes::Isolation;
use dozen_core::processes::jail::{FromJail, JailSpec};
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, getegid, geteuid, set_child_subreaper, wait};
use std::ffi::c_int;
use std::os::fd::OwnedFd;
use std::time::Duration;

const SPACES: c_int = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// Makes the jail. Returns in the starter and, once it has ended, in the jail; answers the exit code.
pub(crate) fn start(spec: JailSpec, mut control: Control, next: Option<OwnedFd>) -> i32 {
    let (isolation, spaces) =
        if geteuid().is_root() { (Isolation::Namespaces, SPACES) } else { (Isolation::UserNamespaces, SPACES | libc::CLONE_NEWUSER) };
    // Inside a user namespace they would read as "nobody" until they are mapped.
    let ids = (geteuid().as_raw(), getegid().as_raw());
    let mut missing = Vec::new();
    // A sibling leaves no process between driver and jail. The first process of a PID namespace may not make siblings (EINVAL).
    for (isolation, flags, sibling) in [(isolation, spaces, true), (isolation, spaces, false), (Isolation::Session, 0, false)] {
        if isolation != Isolation::Session && !sibling && !missing.is_empty() {
            continue;
        }
        let (Ok((alive, alive_end)), Ok((word, word_end))) = (pipe_with(PipeFlags::CLOEXEC), pipe_with(PipeFlags::CLOEXEC)) else {
            return Failure { attempt: "make a pipe".into(), error: Errno::MFILE.to_string(), code: 1 }.tell(&mut control);
        };
        // From before the fork on, so that a jail that is killed at once leaves its children here.
        if !sibling {
            let _ = set_child_subreaper(Some(rustix::process::getpid()));
        }
        match sys::fork_into(flags | if sibling { libc::CLONE_PARENT } else { 0 }) {
            Err(error) => {
                // Where being a sibling was the trouble, the next try says whether the rest is.
                if !sibling || error != Errno::INVAL {
                    missing.push(format!("{}: {error}", isolation.as_str()));
                }
            }
            Ok(None) => {
                drop((alive_end, word));
                let mut pid = [0; 4];
                // The starter says how the driver knows this process. It was killed if it does not.
                if read(&alive, &mut pid) != Ok(4) {
                    return unannounced(sibling, control);
                }
                if let Err(error) = settle(isolation, ids) {
                    let _ = write(&word_end, error.to_string().as_bytes());
                    return 1;
                }
                let _ = write(&word_end, &[0]);
                drop(word_end);
                let guard = (!sibling).then_some(alive);
                return init::live(spec, control, Place { isolation, pid: u32::from_ne_bytes(pid), guard, next, missing });
            }
            Ok(Some(pid)) => {
                drop((alive, word_end));
                let number = pid.as_raw_nonzero().get().cast_unsigned();
                if sibling {
                    control.say(FromJail::Made { pid: number });
                    control.finish(Duration::from_secs(2));
                }
                let _ = write(&alive_end, &number.to_ne_bytes());
                let mut said = [0; 200];
                match read(&word, &mut said) {
                    Ok(1) if said[0] == 0 && sibling => return 0,
                    Ok(1) if said[0] == 0 => {
                        drop((control, next));
                        return guard(pid, alive_end);
                    }
                    Ok(n) => missing.push(format!("{}: {}", isolation.as_str(), String::from_utf8_lossy(&said[..n]))),
                    Err(error) => missing.push(format!("{}: {error}", isolation.as_str())),
                }
            }
        }
    }
    Failure { attempt: "make a process".into(), error: missing.join("; "), code: 1 }.tell(&mut control)
}

/// Has the driver reap a sibling of which a killed starter did not tell. /proc still is the host's and knows the number.
fn unannounced(sibling: bool, mut control: Control) -> i32 {
    let own = std::fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse().ok());
    if let Some(pid) = own.filter(|_| sibling) {
        control.say(FromJail::Made { pid });
        control.finish(Duration::from_secs(2));
    }
    1
}

/// In a user namespace, gives the caller its own uid and gid back: nobody else is mapped.
fn settle(isolation: Isolation, (uid, gid): (u32, u32)) -> std::io::Result<()> {
    if isolation == Isolation::UserNamespaces {
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    }
    Ok(())
}

/// Lets nothing of the jail outlive it where no PID namespace does that. Its own death tells the jail, by the pipe's end.
fn guard(jail: Pid, alive: OwnedFd) -> i32 {
    init::release_standard_descriptors();
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, _))) if pid == jail => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    inside::end_descendants();
    drop(alive);
    0
}
