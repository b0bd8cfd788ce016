//! `dozen split`: parts of the requests for several releases, how that stands, and its end.

use super::ps::interval;
use super::{Usage, target};
use crate::api::wire;
use crate::client::Client;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use http::Method;
use std::time::Duration;

mod status;

/// Arguments.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SplitArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// `v12=90 v13=10`: each with its part, relative to the others; or `off`
    #[arg(value_name = "vN=PART")]
    parts: Vec<String>,
    /// Have clients come back to the release that they came to first: `cookie` sets one, `header:X-User` goes by a header's value
    #[arg(long, value_name = "cookie|header:NAME")]
    sticky: Option<String>,
    /// Abort it where more than so many of the newest one's requests of a minute fail, and there are twenty at least
    #[arg(long, value_name = "PERCENT")]
    abort_above: Option<String>,
    /// The same as `split promote`
    #[arg(long, value_name = "vN", num_args = 0..=1, conflicts_with_all = ["parts", "sticky", "abort_above", "abort"])]
    promote: Option<Option<String>>,
    /// The same as `split abort`
    #[arg(long, conflicts_with_all = ["parts", "sticky", "abort_above"])]
    abort: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Compare the releases: their shares, errors and times since the split began, and in the last minute
    Status {
        /// Show it again every second, or every so many, until Ctrl-C; where no terminal reads it, whenever something has changed
        #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = interval)]
        watch: Option<Duration>,
    },
    /// Send all requests to one of its releases, and end it
    ///
    /// One that is not the current release becomes that, as by `dozen rollback`.
    Promote {
        /// By default the one of the newest code and config
        #[arg(value_name = "vN")]
        release: Option<String>,
    },
    /// Send all requests to where they went before the newest one, and end it
    ///
    /// They go there at once. Where the newest one is the current release, the other one becomes that then, as by `dozen rollback`.
    Abort,
}

/// Shows, declares, watches or ends it.
pub(crate) async fn run(args: SplitArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let SplitArgs { verb, parts, sticky, abort_above, promote, abort } = args;
    let deploy = target::find(settings).await?;
    if let Some(Verb::Status { watch }) = verb {
        return status::run(settings, deploy, watch, printer).await;
    }
    let mut client = Client::connect(settings, deploy).await?;
    match (verb, promote) {
        (Some(Verb::Promote { release }), _) | (None, Some(release)) => {
            let settled: wire::SettledSplit = client.call(Method::POST, "/split/promote", &wire::PromoteSplit { release }).await?;
            told(&client, &settled, "Promoting", printer);
            return Ok(0);
        }
        (Some(Verb::Abort), _) => {}
        _ if abort => {}
        _ => return change(&mut client, &parts, (sticky, abort_above), printer).await,
    }
    let settled: wire::SettledSplit = client.call(Method::POST, "/split/abort", &()).await?;
    told(&client, &settled, "Going back to", printer);
    Ok(0)
}

fn told(client: &Client, settled: &wire::SettledSplit, doing: &str, printer: &Printer) {
    if printer.is_json() {
        printer.json(settled);
        return;
    }
    let (app, release) = (&client.deploy.app, &settled.release);
    let made = settled.made.as_ref().map(|made| format!(" as {made}")).unwrap_or_default();
    printer.confirm(&format!("{doing} {release} of {app}... done, it gets all requests{made}"));
}

async fn change(client: &mut Client, parts: &[String], how: (Option<String>, Option<String>), printer: &Printer) -> Result<i32> {
    let (sticky, abort_above) = how;
    let shares = match parts {
        [] if sticky.is_some() => bail!(Usage("--sticky goes with releases and their parts: v12=90 v13=10".to_owned())),
        [] if abort_above.is_some() => bail!(Usage("--abort-above goes with releases and their parts: v12=90 v13=10".to_owned())),
        [] => return show(client, printer).await,
        [off] if off == "off" => Vec::new(),
        parts => parts.iter().map(|part| share(part)).collect::<Result<_>>()?,
    };
    let answer: wire::Split = client.call(Method::PUT, "/split", &wire::ChangeSplit { shares, sticky, abort_above }).await?;
    if printer.is_json() {
        printer.json(&answer);
        return Ok(0);
    }
    let app = &client.deploy.app;
    printer.confirm(&match answer.shares.as_slice() {
        [] => format!("Ending the split of {app}'s requests... done, the current release gets all"),
        _ => format!("Splitting requests of {app}... done, {}", words(&answer)),
    });
    Ok(0)
}

async fn show(client: &mut Client, printer: &Printer) -> Result<i32> {
    let answer: wire::Split = client.get("/split").await?;
    if printer.is_json() {
        printer.json(&answer);
    } else if answer.shares.is_empty() {
        printer.line(NONE);
    } else {
        printer.line(&words(&answer));
    }
    Ok(0)
}

const NONE: &str = "No split: the current release gets all requests";

/// As it can be pasted back.
fn words(split: &wire::Split) -> String {
    let mut words: Vec<String> = split.shares.iter().map(|s| format!("{}={}", s.release, s.weight)).collect();
    words.extend((split.sticky != "no").then(|| format!("--sticky {}", split.sticky)));
    words.extend(split.abort_above.as_ref().map(|above| format!("--abort-above {above}")));
    words.join(" ")
}

fn share(text: &str) -> Result<wire::SplitShare> {
    let parts = text.split_once('=').and_then(|(release, weight)| Some((release, weight.trim_end_matches('%').parse().ok()?)));
    let (release, weight) = parts.with_context(|| Usage(format!("`{text}` is no part of a split: write v12=90")))?;
    Ok(wire::SplitShare { release: release.to_owned(), weight })
}
