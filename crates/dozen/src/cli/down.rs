//! `dozen down`: stop a deploy that runs detached or in another terminal.

use super::target;
use crate::api::wire;
use crate::client::{self, About, Client};
use crate::printer::Printer;
use crate::running::{self, RunFolder};
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use dozen_core::ids::DeployRef;
use dozen_engine::ledger::{Intent, Ledger, Principal};
use dozen_engine::port::{Left, Router, RouterSpec, Switchboard};
use dozen_engine::processes::adoption;
use http::Method;
use serde_json::json;
use std::time::Duration;

/// Longer than the grace of `up` and what follows it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks it to stop and waits until it has.
pub(crate) async fn run(settings: &Settings, printer: &Printer) -> Result<i32> {
    let deploy = target::find(settings).await?;
    if running::holder(&settings.home, &deploy).is_none() && running::is_left(&settings.home, &deploy) {
        stop_left(settings, &deploy).await?;
        return Ok(told(&deploy, printer));
    }
    // After a reboot nothing runs, and nothing is to come back.
    if running::holder(&settings.home, &deploy).is_none() && is_kept(settings, &deploy).await? {
        let keep = Intent::Keep { deploy: deploy.clone(), port: None, https_port: None };
        Ledger::open(&settings.home)?.commit(&Principal::me(), keep).await?;
        return Ok(told(&deploy, printer));
    }
    let mut client = Client::connect(settings, deploy.clone()).await?;
    let stopping: wire::Stopping = client.call(Method::POST, "/stop", &json!({})).await?;
    wait_for(&deploy, stopping.pid).await?;
    if running::holder(&settings.home, &deploy).is_some() {
        bail!("{deploy} (pid {}) has not stopped within {} s", stopping.pid, PATIENCE.as_secs());
    }
    Ok(told(&deploy, printer))
}

async fn is_kept(settings: &Settings, deploy: &DeployRef) -> Result<bool> {
    Ok(Ledger::open(&settings.home)?.kept().await?.iter().any(|kept| kept.deploy == *deploy))
}

fn told(deploy: &DeployRef, printer: &Printer) -> i32 {
    if printer.is_json() {
        printer.json(&wire::Stopped { deploy: deploy.to_string(), stopped: true });
    } else {
        printer.confirm(&format!("Stopped {deploy}"));
    }
    0
}

/// Takes over what runs without a control part, and stops it. If this is killed, all of it ends at once.
async fn stop_left(settings: &Settings, deploy: &DeployRef) -> Result<()> {
    let run_folder = RunFolder::take(&settings.home, deploy, false)?;
    let notes = run_folder.notes();
    adoption::check(&notes)?;
    let router = match Router::find(RouterSpec::new(&settings.exe, settings.home.clone()), &notes).await? {
        Some(Left::Serving(router)) => Some(Switchboard::start(*router, [])),
        Some(Left::Gone(..)) | None => None,
    };
    let line = router.as_ref().map(|board| board.line(deploy.clone()));
    let who = Principal::me();
    let floor = client::floor(settings, Ledger::open(&settings.home)?, deploy, About::up(deploy, line, None, true)).await?;
    floor.ledger.commit(&who, Intent::Keep { deploy: deploy.clone(), port: None, https_port: None }).await?;
    floor.take_over(&who, &notes, false).await?;
    floor.stop(&who, std::future::pending()).await?;
    if let Some(board) = router {
        board.end().await;
    }
    Ok(())
}

/// Waits until the process has ended, for [`PATIENCE`] at most.
pub(super) async fn wait_for(deploy: &DeployRef, pid: u32) -> Result<()> {
    let ended = tokio::task::spawn_blocking(move || wait(pid));
    ended.await?.with_context(|| format!("cannot wait for the end of {deploy} (pid {pid})"))
}

/// One that is gone already has ended.
fn wait(pid: u32) -> std::io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other?,
    };
    let limit = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    // Stopped and continued it is interrupted.
    rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)))?;
    Ok(())
}
