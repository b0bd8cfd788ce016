//! `dozen ps`: the processes, and `ps scale`, `ps stop`, `ps start`, `ps restart`.

use super::lifecycle::{self, RestartArgs, StartArgs, StopArgs};
use super::target;
use crate::api::wire;
use crate::client::Client;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::Result;
use clap::{Args, Subcommand};
use http::Method;
use jiff::Timestamp;
use std::time::Duration;

mod listing;
pub(super) mod watch;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Show it again every second, or every so many, until Ctrl-C; where no terminal reads it, whenever something has changed
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = interval)]
    watch: Option<Duration>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Change how many of each type run, and of what size; alone, print it so that it can be pasted back
    Scale {
        /// `web=3` for three, `worker+1` for one more, `worker-1` for one less, `web=3:512M` for three of 512 MiB, `web+0:default` for the
        /// size that the app declares; several at once, all or none
        #[arg(value_name = "TYPE=N")]
        changes: Vec<String>,
    },
    /// Stop process types until they are started again
    Stop(StopArgs),
    /// Start process types that were stopped
    Start(StartArgs),
    /// Restart all processes, those of a type, or one
    Restart(RestartArgs),
}

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|s| (0.1..=3600.0).contains(s));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "give seconds, from 0.1 to 3600".to_owned())
}

/// Lists, scales, stops, starts or restarts.
pub(crate) async fn run(args: PsArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    match args.verb {
        Some(Verb::Stop(args)) => return lifecycle::stop(args, settings, printer).await,
        Some(Verb::Start(args)) => return lifecycle::start(args, settings, printer).await,
        Some(Verb::Restart(args)) => return lifecycle::restart(args, settings, printer).await,
        Some(Verb::Scale { .. }) | None => {}
    }
    let deploy = target::find(settings).await?;
    if let (None, Some(every)) = (&args.verb, args.watch) {
        return watch::run::<wire::Processes>(settings, deploy, every, printer).await;
    }
    let mut client = Client::connect(settings, deploy).await?;
    match args.verb {
        Some(Verb::Scale { changes }) => scale(&mut client, changes, printer).await,
        _ => list(&mut client, printer).await,
    }
}

async fn list(client: &mut Client, printer: &Printer) -> Result<i32> {
    let answer: wire::Processes = client.get("/processes").await?;
    if printer.is_json() {
        printer.json(&answer);
        return Ok(0);
    }
    let width = printer.terminal().map(|(columns, _)| columns);
    printer.line(&listing::text(&answer, Timestamp::now(), width));
    Ok(0)
}

async fn scale(client: &mut Client, changes: Vec<String>, printer: &Printer) -> Result<i32> {
    if changes.is_empty() {
        let answer: wire::Processes = client.get("/processes").await?;
        if printer.is_json() {
            let stopped = answer.types.iter().filter(|t| t.stopped).map(|t| t.name.clone()).collect();
            let formation = wire::Formation { formation: answer.formation, serving: answer.serving, stopped };
            printer.json(&formation);
        } else {
            printer.line(&answer.formation);
        }
        return Ok(0);
    }
    let answer: wire::Formation = client.call(Method::PATCH, "/formation", &wire::Scale { changes }).await?;
    if printer.is_json() {
        printer.json(&answer);
    } else {
        printer.confirm(&match (answer.serving, answer.stopped.is_empty()) {
            (true, true) => format!("Scaling processes... done, now running {}", answer.formation),
            (true, false) => format!("Scaling processes... done, the formation is {}", answer.formation),
            (false, _) => format!("Scaling processes... done, the next `dozen up` runs {}", answer.formation),
        });
        // `up` starts what is stopped, so that this is no news for the next one.
        if answer.serving && !answer.stopped.is_empty() {
            let names = answer.stopped.join(" ");
            printer.confirm(&format!("None of {} runs until `dozen start {names}`", answer.stopped.join(", ")));
        }
    }
    Ok(0)
}
