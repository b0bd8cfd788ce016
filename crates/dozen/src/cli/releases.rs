//! `dozen releases`: what was released, the latest first; `releases info`, `releases diff`.

use super::split::{self, SplitArgs};
use super::target;
use crate::api::wire;
use crate::client::Client;
use crate::printer::{Column, Printer, listing};
use crate::settings::Settings;
use anyhow::Result;
use clap::{Args, Subcommand};

mod diff;
mod info;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct ReleasesArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show all that is known of a release, but for the values of its config vars
    Info {
        /// By default the current one
        #[arg(value_name = "vN")]
        version: Option<String>,
    },
    /// Compare two releases: files, packages, commands, and the names of config vars
    Diff {
        /// The first one
        #[arg(value_name = "vN")]
        from: String,
        /// The second one; by default the current
        #[arg(value_name = "vM")]
        to: Option<String>,
        /// Name all files, and not only the first ones
        #[arg(long)]
        files: bool,
    },
    /// The same as `dozen split`
    Split(SplitArgs),
}

/// Lists, shows, compares or splits.
pub(crate) async fn run(args: ReleasesArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let verb = match args.verb {
        Some(Verb::Split(args)) => return split::run(args, settings, printer).await,
        verb => verb,
    };
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy.clone()).await?;
    match verb {
        Some(Verb::Info { version }) => return info::run(&mut client, version.as_deref(), printer).await,
        Some(Verb::Diff { from, to, files }) => return diff::run(&mut client, from, to, files, printer).await,
        Some(Verb::Split(_)) | None => {}
    }
    let answer: wire::Releases = client.get("/releases").await?;
    if printer.is_json() {
        printer.json(&answer);
        return Ok(0);
    }
    printer.line(&format!("=== {deploy} releases"));
    printer.line(&listing(&COLUMNS, &answer.releases, printer.terminal().map(|(columns, _)| columns), true));
    Ok(0)
}

const COLUMNS: [Column<wire::Release>; 5] = [
    Column { title: "RELEASE", rank: 0, cell: |r| r.version.clone() },
    Column { title: "STATE", rank: 1, cell: state },
    Column { title: "CREATED (UTC)", rank: 2, cell: |r| when(&r.created_at) },
    Column { title: "BY", rank: 3, cell: |r| r.created_by.clone() },
    Column { title: "DESCRIPTION", rank: 0, cell: description },
];

fn state(r: &wire::Release) -> String {
    match (r.current, r.status.as_str()) {
        (true, _) => "current".to_owned(),
        (false, "succeeded") if r.came_up => String::new(),
        (false, "succeeded") => "never up".to_owned(),
        (false, other) => other.to_owned(),
    }
}

fn description(r: &wire::Release) -> String {
    let why = r.failure.as_ref().and_then(|f| f.lines().next()).map(|f| format!(" ({f})")).unwrap_or_default();
    format!("{}{why}", r.description)
}

/// A time as a listing shows it: `2026-11-21 13:36:45`.
pub(super) fn when(time: &str) -> String {
    time.split('.').next().unwrap_or_default().trim_end_matches('Z').replace('T', " ")
}
