//! `dozen stop`, `dozen start`, `dozen restart`: also as verbs of `ps`.

use super::{runs, target};
use crate::api::wire;
use crate::client::Client;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::Result;
use clap::Args;
use http::Method;

/// Arguments of `stop`.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Process types, or one-offs like run.7; by default all process types
    #[arg(value_name = "TYPE|run.N")]
    types: Vec<String>,
}

/// Arguments of `start`.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Process types; by default all that are stopped
    #[arg(value_name = "TYPE")]
    types: Vec<String>,
}

/// Arguments of `restart`.
#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// `web` or `web.1`; by default all
    #[arg(value_name = "TYPE[.N]")]
    target: Option<String>,
}

/// Stops process types and waits until none of them is left.
pub(crate) async fn stop(args: StopArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let (one_offs, types): (Vec<String>, Vec<String>) = args.types.into_iter().partition(|name| name.starts_with("run."));
    if !one_offs.is_empty() {
        let deploy = target::find(settings).await?;
        for name in &one_offs {
            runs::stop(name, &deploy, settings, printer).await?;
        }
        if types.is_empty() {
            return Ok(0);
        }
    }
    let all = types.is_empty();
    let answer = steer("/stops", types, settings, printer).await?;
    let Some((app, answer)) = answer else { return Ok(0) };
    let what = if all { app } else { answer.changed.join(", ") };
    printer.confirm(&if answer.changed.is_empty() {
        format!("Nothing to stop: {} stopped already", are(&answer.stopped))
    } else {
        format!("Stopping {what}... done; `dozen start` brings back {}", answer.stopped.join(", "))
    });
    Ok(0)
}

/// Starts process types again and waits until they are up.
pub(crate) async fn start(args: StartArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let answer = steer("/starts", args.types, settings, printer).await?;
    let Some((_, answer)) = answer else { return Ok(0) };
    match answer.changed.as_slice() {
        [] => printer.confirm(&format!("Nothing to start: nothing of that is stopped; the formation is {}", answer.formation)),
        changed => printer.confirm(&format!("Starting {}... done, now running {}", changed.join(", "), answer.running())),
    }
    Ok(0)
}

/// Ends and starts again what is named.
pub(crate) async fn restart(args: RestartArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy).await?;
    let target = args.target;
    let answer: wire::Restarted = client.call(Method::POST, "/restarts", &wire::Restart { target: target.clone() }).await?;
    if printer.is_json() {
        printer.json(&answer);
    } else {
        let what = if answer.restarted == 1 { "process" } else { "processes" };
        printer.confirm(&format!("Restarting {}... done, {} {what}", target.as_deref().unwrap_or("all"), answer.restarted));
    }
    Ok(0)
}

/// The app's name and what came of it; `None` where it was printed for programs.
async fn steer(rest: &str, types: Vec<String>, settings: &Settings, printer: &Printer) -> Result<Option<(String, wire::Steered)>> {
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy.clone()).await?;
    let answer: wire::Steered = client.call(Method::POST, rest, &wire::Types { types }).await?;
    if printer.is_json() {
        printer.json(&answer);
        return Ok(None);
    }
    Ok(Some((deploy.app.to_string(), answer)))
}

fn are(names: &[String]) -> String {
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

impl wire::Steered {
    /// The formation less what is stopped.
    fn running(&self) -> String {
        let stopped = |word: &str| self.stopped.iter().any(|s| word.split('=').next() == Some(s.as_str()));
        self.formation.split(' ').filter(|word| !stopped(word)).collect::<Vec<_>>().join(" ")
    }
}
