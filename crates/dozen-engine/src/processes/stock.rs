//! The stock of a program: the one process from which all jails of this one stem. It is started with the first of them.

use super::SpawnError;
use super::reaping::Target;
use crate::tasks;
use dozen_core::processes::jail::{Asked, STOCK_FD};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::process::Command;
use tokio::task::JoinHandle;

/// By the program that they are.
static ALL: Mutex<BTreeMap<PathBuf, Stock>> = Mutex::new(BTreeMap::new());
/// One that takes no order for so long is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(5);

struct Stock {
    socket: OwnedFd,
    pid: u32,
    target: Target,
    end: JoinHandle<()>,
}

/// Has a jail's starter made that gets these descriptors, in the order of [`Asked`]. Answers the process id of the stock.
pub(super) fn order(exe: &Path, asked: Asked, fds: &[OwnedFd]) -> Result<u32, SpawnError> {
    let failed = |source| SpawnError::Start { program: exe.to_owned(), source };
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(stock) = all.get(exe) {
        if send(&stock.socket, asked, fds).is_ok() {
            return Ok(stock.pid);
        }
        // It was killed, or hangs: those that stem from it do without.
        stock.target.kill_after(Duration::ZERO);
    }
    let stock = start(exe).map_err(failed)?;
    send(&stock.socket, asked, fds).map_err(|e| failed(e.into()))?;
    let pid = stock.pid;
    all.insert(exe.to_owned(), stock);
    Ok(pid)
}

fn send(socket: &OwnedFd, asked: Asked, fds: &[OwnedFd]) -> Result<(), Errno> {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(Asked::MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::INVAL);
    }
    rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&[asked.byte()])], &mut ancillary, SendFlags::NOSIGNAL)).map(drop)
}

fn start(exe: &Path) -> io::Result<Stock> {
    use command_fds::{CommandFdExt, FdMapping};
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&ours, Timeout::Send, Some(PATIENCE))?;
    #[expect(clippy::disallowed_methods, reason = "the one place that starts the stock of jails")]
    let mut command = Command::new(exe);
    command.arg("__jail").env_clear().current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.fd_mappings(vec![FdMapping { parent_fd: theirs, child_fd: STOCK_FD }]).map_err(io::Error::other)?;
    let mut child = command.spawn()?;
    let pid = child.id().ok_or_else(|| io::Error::other("it ended at once"))?;
    let target = Target::default();
    target.aim(pid);
    let end = tasks::spawn("jail-stock", async move {
        let _ = child.wait().await;
    });
    Ok(Stock { socket: ours, pid, target, end })
}

/// Does without a stock that took an order and made nothing of it.
pub(super) fn give_up(pid: u32) {
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|_, stock| {
        if stock.pid == pid {
            stock.target.kill_after(Duration::ZERO);
        }
        stock.pid != pid
    });
}

/// Ends all of them, and waits for that. What stems from them goes on.
pub async fn end() {
    let all = std::mem::take(&mut *ALL.lock().unwrap_or_else(PoisonError::into_inner));
    for Stock { socket, end, .. } in all.into_values() {
        drop(socket);
        // One that hangs ends when it goes on.
        let _ = tokio::time::timeout(PATIENCE, end).await;
    }
}
