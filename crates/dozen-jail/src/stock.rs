//! The process that all jails of a driver stem from. It is started once, holds nothing of any of them, and makes a starter when it is asked.
//!
//! **Invariant:** no spec, and so no secret, is ever read here: each jail reads its own, in a process that no other one stems from.

use crate::control::Control;
use crate::{Failure, starter, sys};
use dozen_core::processes::jail::{Asked, FromJail, PROTOCOL, ToJail, speaks};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{getpid, setpgid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

/// What is handed in for one jail.
struct Order {
    control: OwnedFd,
    /// Where its next driver comes, of one that lasts.
    next: Option<OwnedFd>,
    /// Its standard descriptors; without them it has those of this process.
    io: Option<[OwnedFd; 3]>,
}

/// Serves until the driver is gone. Returns in the stock and in each process that stems from it; answers the exit code.
pub(crate) fn serve(socket: OwnedFd) -> i32 {
    loop {
        let order = match take(&socket) {
            Ok(Some(order)) => order,
            Ok(None) => return 0,
            // What is no order is passed over; who sent it sees its descriptors closed.
            Err(Errno::INTR | Errno::INVAL) => continue,
            Err(_) => return 1,
        };
        match sys::fork_into(libc::CLONE_PARENT) {
            Ok(Some(_)) => {}
            Ok(None) => {
                drop(socket);
                return start(order);
            }
            Err(error) => {
                // The driver reads it, and the stock must not wait for that.
                let failure = Failure { attempt: "make a process".into(), error: error.to_string(), code: 1 };
                Control::new(order.control).say(failure.into());
            }
        }
    }
}

/// The next order; `None` when the driver is gone.
fn take(socket: &OwnedFd) -> Result<Option<Order>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(Asked::MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut kinds = [0; Asked::MOST];
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut kinds)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    let asked = Asked::of(kinds[0]);
    if fds.len() != asked.descriptors() {
        return Err(Errno::INVAL);
    }
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or(Errno::INVAL);
    let control = next()?;
    let lasting = asked.lasting.then(&mut next).transpose()?;
    let io = if asked.io { Some([next()?, next()?, next()?]) } else { None };
    Ok(Some(Order { control, next: lasting, io }))
}

/// The starter of one jail.
fn start(order: Order) -> i32 {
    let Order { control, next, io } = order;
    let mut control = Control::new(control);
    // Said first of all: only who knows this process can reap it, or kill it.
    control.say(FromJail::Made { pid: getpid().as_raw_nonzero().get().cast_unsigned() });
    // Whoever is made here and killed before it is told of is found by this group.
    let _ = setpgid(None, None);
    if let Some([stdin, stdout, stderr]) = io
        && let Err(error) = dup2_stdin(stdin).and_then(|()| dup2_stdout(stdout)).and_then(|()| dup2_stderr(stderr))
    {
        return Failure::of("place the descriptors")(error).tell(&mut control);
    }
    let refused = match control.wait() {
        Some(ToJail::Start { spec }) if speaks(spec.protocol) => {
            let next = next.filter(|_| spec.lasting || spec.shown);
            return starter::start(*spec, control, next);
        }
        Some(ToJail::Start { spec }) => format!("protocol {} was asked for, this is {PROTOCOL}; use one version of dozen", spec.protocol),
        _ => "the first message is not a start".to_owned(),
    };
    Failure { attempt: "read the spec".into(), error: refused, code: 1 }.tell(&mut control)
}
