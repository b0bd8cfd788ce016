//! `dozen runs`: the one-offs on record, and `runs stop`.

use super::{Usage, target};
use crate::api::wire;
use crate::client::{Client, Told};
use crate::printer::{Printer, table};
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use dozen_core::ids::{DeployRef, InstanceName};
use dozen_engine::admin::held;
use http::Method;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Only the latest N
    #[arg(short, value_name = "N")]
    n: Option<usize>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Stop a one-off: SIGTERM, and SIGKILL 10 s later; waits for its end
    Stop {
        /// As `dozen runs` lists it
        #[arg(value_name = "run.N")]
        run: String,
    },
}

/// Lists or stops.
pub(crate) async fn run(args: RunsArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let deploy = target::find(settings).await?;
    match args.verb {
        None => list(args.n, Client::connect(settings, deploy).await?, printer).await,
        Some(Verb::Stop { run }) => stop(&run, &deploy, settings, printer).await,
    }
}

async fn list(n: Option<usize>, mut client: Client, printer: &Printer) -> Result<i32> {
    let rest = n.map_or_else(|| "/runs".to_owned(), |n| format!("/runs?n={n}"));
    let answer: wire::Runs = client.get(&rest).await?;
    if printer.is_json() {
        for run in &answer.runs {
            printer.json(run);
        }
        return Ok(0);
    }
    printer.line(&format!("=== {} one-offs", client.deploy));
    if answer.runs.is_empty() {
        printer.line("None yet. `dozen run -- CMD` starts one.");
        return Ok(0);
    }
    let row = |r: &wire::OneOff| {
        let state = r.exit_code.map_or_else(|| r.state.clone(), |code| format!("exit {code}"));
        let started = r.started_at.split('.').next().unwrap_or_default().trim_end_matches('Z').replace('T', " ");
        let took = r.seconds.map_or_else(|| "-".to_owned(), duration);
        vec![r.run.clone(), state, started, took, r.release.clone(), r.started_by.clone(), one_line(&r.command)]
    };
    let rows: Vec<Vec<String>> = answer.runs.iter().map(row).collect();
    let text = table(&["RUN", "STATE", "STARTED (UTC)", "DURATION", "RELEASE", "BY", "COMMAND"], &rows);
    // What no terminal shows is not cut.
    let width = printer.terminal().map_or(usize::MAX, |(columns, _)| columns);
    let lines: Vec<String> = text.lines().map(|line| cut(line, width)).collect();
    printer.line(&lines.join("\n"));
    Ok(0)
}

/// A command may hold line ends, and whatever else a terminal would act upon.
fn one_line(command: &str) -> String {
    command.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `0.4s`, `3m 20s`, `23h 59m`
fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m {}s", whole / 60, whole % 60),
        _ => format!("{}h {}m", whole / 3600, whole % 3600 / 60),
    }
}

/// The last column is the command, so it is what is cut.
fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width { line.to_owned() } else { line.chars().take(width.saturating_sub(1)).chain(['…']).collect() }
}

async fn stop(name: &str, deploy: &DeployRef, settings: &Settings, printer: &Printer) -> Result<i32> {
    let run: InstanceName = name.parse().map_err(|_| not_a_run(name))?;
    if run.kind.as_str() != "run" {
        bail!(not_a_run(name));
    }
    if !held::is_held(&settings.home, deploy, run.number) {
        let hint = Some("`dozen runs` lists the one-offs.".to_owned());
        bail!(Told { message: format!("{deploy} has no {run} that runs"), hint });
    }
    let order = wire::StopRun { run: run.to_string() };
    let sent: Result<wire::StopRun> =
        Client::of_one_off(settings, deploy.clone(), run.number).await?.call(Method::POST, "/runs/stop", &order).await;
    // Whoever held it may have gone together with it, before the answer came.
    if let Err(error) = sent
        && held::is_held(&settings.home, deploy, run.number)
    {
        return Err(error);
    }
    let (home, of) = (settings.home.clone(), deploy.clone());
    tokio::task::spawn_blocking(move || held::wait(&home, &of, run.number)).await.context("cannot wait for its end")?;
    let all: wire::Runs = Client::connect(settings, deploy.clone()).await?.get("/runs").await?;
    let ended = all.runs.into_iter().find(|r| r.run == order.run).with_context(|| format!("{} is not on record", order.run))?;
    if printer.is_json() {
        printer.json(&ended);
    } else {
        let how = ended.exit_code.map_or_else(|| ended.state.clone(), |code| format!("exit code {code}"));
        printer.confirm(&format!("Stopping {}... done, {how}", order.run));
    }
    Ok(0)
}

fn not_a_run(name: &str) -> Usage {
    Usage(format!("{name:?} is no one-off: write it as `run.7`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_widths_are_short() {
        assert_eq!([0.04, 59.0, 61.0, 86_400.0].map(duration), ["0.0s", "59.0s", "1m 1s", "24h 0m"]);
        assert_eq!((cut("abcdef", 4).as_str(), cut("äbcd", 4).as_str(), cut("a", 0).as_str()), ("abc…", "äbcd", "…"));
    }
}
