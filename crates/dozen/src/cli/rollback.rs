//! `dozen rollback [vN]`: an earlier release, or a part of it, as a new release.

use super::target;
use crate::api::wire;
use crate::client::Client;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::Result;
use clap::Args;
use http::Method;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The release to go back to; by default the one before the current that did not fail
    #[arg(value_name = "vN")]
    to: Option<String>,
    /// Its code alone, with the config and the resources of now
    #[arg(long, conflicts_with = "config_only")]
    code_only: bool,
    /// Its config and resources alone, with the code of now
    #[arg(long)]
    config_only: bool,
}

/// Rolls back.
pub(crate) async fn run(args: RollbackArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy.clone()).await?;
    let (part, note) = match (args.code_only, args.config_only) {
        (true, _) => (wire::Part::Code, " (code only)"),
        (_, true) => (wire::Part::Config, " (config only)"),
        _ => (wire::Part::All, ""),
    };
    let answer: wire::RolledBack = client.call(Method::POST, "/rollbacks", &wire::Rollback { to: args.to, part }).await?;
    if printer.is_json() {
        printer.json(&answer);
    } else {
        printer.confirm(&format!("Rolling back {} to {}{note}... done, {}", deploy.app, answer.to, answer.release));
    }
    Ok(0)
}
