//! The jail as a process of this one: a child that tokio did not start, reaped by its pidfd.

use crate::tasks;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

/// The process to kill when a jail does not answer. A pidfd, so that a number that was given out again hits nobody else.
#[derive(Debug, Clone, Default)]
pub(super) struct Target(Arc<Mutex<Option<Arc<OwnedFd>>>>);

impl Target {
    /// Takes a child that the starter made for us. The task ends when it is reaped; `None` when there is no such child.
    pub(super) fn adopt(&self, pid: u32) -> Option<JoinHandle<()>> {
        // Nobody but the task below reaps it, so the number still means this child.
        let pidfd = self.aim(pid)?;
        Some(tasks::spawn("jail-reaped", async move {
            #[expect(
                deprecated,
                reason = "its successor is unsafe for the sake of types that may change their descriptor; an OwnedFd cannot"
            )]
            let ready = AsyncFd::with_interest(pidfd, Interest::READABLE);
            let Ok(ready) = ready else { return };
            loop {
                let Ok(mut guard) = ready.readable().await else { return };
                match waitid(WaitId::PidFd(ready.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
                    Ok(None) => guard.clear_ready(),
                    Ok(Some(_)) | Err(_) => return,
                }
            }
        }))
    }

    /// Aims at a child that was not reaped yet.
    pub(super) fn aim(&self, pid: u32) -> Option<Arc<OwnedFd>> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        let pidfd = Arc::new(pidfd_open(pid, PidfdFlags::empty()).ok()?);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pidfd.clone());
        Some(pidfd)
    }

    /// Kills the jail itself if it is still there then.
    pub(super) fn kill_after(&self, patience: Duration) {
        let target = self.clone();
        tasks::spawn("jail-kill", async move {
            tokio::time::sleep(patience).await;
            let jail = target.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(jail) = jail {
                // Gone is what it should be.
                let _ = pidfd_send_signal(&*jail, Signal::KILL);
            }
        });
    }
}

/// Reaps, as they end, the children that this process had before it became what it is: another binary started them, and whatever of them
/// goes on is found by its socket.
///
/// It is to be called before anything is started.
pub fn those_before() {
    for pid in children() {
        drop(Target::default().adopt(pid));
    }
}

fn children() -> Vec<u32> {
    let own = std::process::id();
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    all.filter(|pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in parentheses may hold anything; the parent is the second word behind it.
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1)?.parse().ok()) == Some(own)
    })
    .collect()
}

/// Reaps a sibling of the starter of which neither lived long enough to tell. It is in the starter's process group still, and after the
/// starter was reaped nobody else is.
pub(super) async fn unannounced(starter: u32) {
    let Some(group) = i32::try_from(starter).ok().and_then(Pid::from_raw) else { return };
    // Answers ECHILD when there is none; one that was killed is a child until it has quite ended.
    while waitid(WaitId::Pgid(Some(group)), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reaps starters that were killed before they said who they are: those that have ended in the process group of their stock. Whoever waits
/// for one of them besides finds it gone.
pub(super) fn untold(stock: u32) {
    let Some(group) = i32::try_from(stock).ok().and_then(Pid::from_raw) else { return };
    while matches!(waitid(WaitId::Pgid(Some(group)), WaitIdOptions::EXITED | WaitIdOptions::NOHANG), Ok(Some(_))) {}
}
