//! `dozen down`: stop a deploy that runs detached or in another terminal.

use super::target;
use crate::api::wire;
use crate::client::Client;
use crate::printer::Printer;
use crate::running;
use crate::settings::Settings;
use anyhow::{Result, bail};
use http::Method;
use serde_json::json;
use std::time::Duration;

/// Longer than the grace of `up` and what follows it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks it to stop and waits until it has.
pub(crate) async fn run(settings: &Settings, printer: &Printer) -> Result<i32> {
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy.clone()).await?;
    let stopping: wire::Stopping = client.call(Method::POST, "/stop", &json!({})).await?;
    let pid = rustix::process::Pid::from_raw(i32::try_from(stopping.pid)?);
    let ended = async {
        let Some(process) = pid.and_then(|p| rustix::process::pidfd_open(p, rustix::process::PidfdFlags::empty()).ok()) else { return };
        if let Ok(process) = tokio::io::unix::AsyncFd::with_interest(process, tokio::io::Interest::READABLE) {
            // An error here means that it cannot be waited for; the lock below tells.
            let _ = process.readable().await.map(|_| ());
        }
    };
    if tokio::time::timeout(PATIENCE, ended).await.is_err() || running::holder(&settings.home, &deploy).is_some() {
        bail!("{deploy} (pid {}) has not stopped within {} s", stopping.pid, PATIENCE.as_secs());
    }
    if printer.is_json() {
        printer.json(&json!({"deploy": deploy.to_string(), "stopped": true}));
    } else {
        printer.line(&format!("Stopped {deploy}"));
    }
    Ok(0)
}
