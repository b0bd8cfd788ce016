//! `dozen resume`: what ran in the background when the machine stopped runs again. For the machine's own start.

use crate::api::wire;
use crate::printer::Printer;
use crate::running;
use crate::settings::Settings;
use anyhow::{Context, Result};
use dozen_core::ids::DeployRef;
use dozen_engine::ledger::{Kept, Ledger};
use std::process::Stdio;

/// Brings back each that is to run and does not, one after the other. The exit code is 1 where one did not come up.
pub(crate) async fn run(settings: &Settings, printer: &Printer) -> Result<i32> {
    let kept = Ledger::open(&settings.home)?.kept().await?;
    let mut resumed = Vec::new();
    for Kept { deploy, port, https_port } in kept {
        let runs = running::holder(&settings.home, &deploy).is_some() || bring_back(settings, &deploy, port, https_port).await?;
        if !printer.is_json() {
            printer.line(&format!("{deploy} {}", if runs { format!("runs on port {port}") } else { "did not come up".to_owned() }));
        }
        resumed.push(wire::Resumed { deploy: deploy.to_string(), port, runs });
    }
    if resumed.is_empty() && !printer.is_json() {
        printer.line("Nothing is to run in the background; `dozen up --detach` brings an app up.");
    }
    let code = i32::from(resumed.iter().any(|r| !r.runs));
    if printer.is_json() {
        printer.json(&resumed);
    }
    Ok(code)
}

/// As `dozen up --detach` does, of the release that served: nothing is built. What it has against that goes to standard error.
async fn bring_back(settings: &Settings, deploy: &DeployRef, port: u16, https_port: Option<u16>) -> Result<bool> {
    #[expect(clippy::disallowed_methods, reason = "dozen itself, which outlives this process")]
    let mut up = tokio::process::Command::new("/proc/self/exe");
    up.args(["-a", &deploy.to_string(), "up", "--detach", "--left", "--port", &port.to_string()]);
    if let Some(port) = https_port {
        up.args(["--https-port", &port.to_string()]);
    }
    up.env("DOZEN_HOME", settings.home.root()).stdin(Stdio::null()).stdout(Stdio::null());
    let status = up.status().await.with_context(|| format!("cannot start `dozen up` for {deploy}"))?;
    Ok(status.success())
}
