//! `dozen builds`: what was built for a deploy, and what is; `builds cancel`.

use super::releases::when;
use super::runs::duration;
use super::target;
use crate::api::wire;
use crate::client::Client;
use crate::printer::{Column, Printer, listing};
use crate::settings::Settings;
use anyhow::Result;
use clap::{Args, Subcommand};
use http::Method;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct BuildsArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// How many of the latest
    #[arg(short, long, value_name = "N", default_value = "20")]
    num: usize,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// End a build, with every program that it started; whoever waits for it is told by whom
    ///
    /// A push is refused then. What has its slug is being released, and goes on to its end.
    Cancel {
        /// As `dozen builds` lists it; by default the one that is under way
        #[arg(value_name = "build.N")]
        build: Option<String>,
    },
}

/// Lists or cancels.
pub(crate) async fn run(args: BuildsArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy.clone()).await?;
    if let Some(Verb::Cancel { build }) = args.verb {
        let done: wire::CancelledBuild = client.call(Method::POST, "/builds/cancel", &wire::CancelBuild { build }).await?;
        if printer.is_json() {
            printer.json(&done);
        } else {
            printer.confirm(&format!("Cancelling {} of {}... done", done.cancelled, done.deploy));
        }
        return Ok(0);
    }
    let mut answer: wire::Builds = client.get("/builds").await?;
    answer.builds.truncate(args.num);
    if printer.is_json() {
        printer.json(&answer);
        return Ok(0);
    }
    printer.line(&format!("=== {deploy} builds"));
    if answer.builds.is_empty() {
        printer.line("None yet.");
        return Ok(0);
    }
    printer.line(&listing(&COLUMNS, &answer.builds, printer.terminal().map(|(columns, _)| columns), true));
    Ok(0)
}

const COLUMNS: [Column<wire::Build>; 7] = [
    Column { title: "BUILD", rank: 0, cell: |b| b.build.clone() },
    Column { title: "STATE", rank: 0, cell: |b| b.state.clone() },
    Column { title: "CREATED (UTC)", rank: 2, cell: |b| when(&b.created_at) },
    Column { title: "DURATION", rank: 1, cell: |b| b.seconds.map_or_else(|| "-".to_owned(), duration) },
    Column { title: "OF", rank: 1, cell: of },
    Column { title: "BY", rank: 3, cell: |b| b.created_by.clone() },
    Column { title: "RESULT", rank: 0, cell: result },
];

fn of(b: &wire::Build) -> String {
    let hash = b.commit.as_ref().map(|hash| format!(" {}", hash.chars().take(8).collect::<String>()));
    format!("{}{}{}", b.source, hash.unwrap_or_default(), if b.uncommitted_changes { "+" } else { "" })
}

fn result(b: &wire::Build) -> String {
    let slug = b.slug.as_ref().map(|id| format!("slug {}", id.chars().take(8).collect::<String>()));
    let by = b.cancelled_by.as_ref().map(|by| format!("by {by}"));
    let why = b.failure.as_ref().and_then(|f| f.lines().next()).map(str::to_owned);
    slug.or(by).or(why).unwrap_or_default()
}
