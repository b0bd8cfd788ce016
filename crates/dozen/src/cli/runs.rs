//! `dozen runs`: the one-offs on record, and `runs stop`.

use super::releases::when;
use super::{Usage, target};
use crate::api::wire;
use crate::client::{Client, Told};
use crate::printer::{Column, Printer, listing};
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use dozen_core::ids::{DeployRef, InstanceName};
use dozen_engine::admin::held;
use http::Method;
use std::time::Duration;

/// A one-off that was told to end is killed before this.
const ENDS: Duration = Duration::from_secs(60);
/// So often a server is asked whether one has ended.
const AGAIN: Duration = Duration::from_millis(200);
/// The state of one that has not.
const RUNNING: &str = "running";

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// How many of the latest; by default 20
    #[arg(short, long, value_name = "N")]
    num: Option<usize>,
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
        None => list(args.num, Client::connect(settings, deploy).await?, printer).await,
        Some(Verb::Stop { run }) => stop(&run, &deploy, settings, printer).await,
    }
}

async fn list(asked: Option<usize>, mut client: Client, printer: &Printer) -> Result<i32> {
    let n = asked.unwrap_or(20);
    // One more tells whether there are more.
    let mut answer: wire::Runs = client.get(&format!("/runs?n={}", n.saturating_add(1))).await?;
    let more = answer.runs.len() > n;
    answer.runs.truncate(n);
    if printer.is_json() {
        printer.json(&answer);
        return Ok(0);
    }
    printer.line(&format!("=== {} one-offs", client.deploy));
    if answer.runs.is_empty() {
        printer.line("None yet. `dozen run -- CMD` starts one.");
        return Ok(0);
    }
    printer.line(&listing(&COLUMNS, &answer.runs, printer.terminal().map(|(columns, _)| columns), true));
    if more && asked.is_none() {
        printer.aside("There are earlier ones: `dozen runs -n 1000`");
    }
    Ok(0)
}

const COLUMNS: [Column<wire::OneOff>; 7] = [
    Column { title: "RUN", rank: 0, cell: |r| r.run.clone() },
    Column { title: "STATE", rank: 0, cell: |r| r.exit_code.map_or_else(|| r.state.clone(), |code| format!("exit {code}")) },
    Column { title: "STARTED (UTC)", rank: 2, cell: |r| when(&r.started_at) },
    Column { title: "DURATION", rank: 1, cell: |r| r.seconds.map_or_else(|| "-".to_owned(), duration) },
    Column { title: "RELEASE", rank: 3, cell: |r| r.release.clone() },
    Column { title: "BY", rank: 4, cell: |r| r.started_by.clone() },
    Column { title: "COMMAND", rank: 0, cell: |r| one_line(&r.command) },
];

/// A command may hold line ends, and whatever else a terminal would act upon.
fn one_line(command: &str) -> String {
    command.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `0.4s`, `3m 20s`, `23h 59m`
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m {}s", whole / 60, whole % 60),
        _ => format!("{}h {}m", whole / 3600, whole % 3600 / 60),
    }
}

/// Stops a one-off, wherever it runs, and waits for its end.
pub(super) async fn stop(name: &str, deploy: &DeployRef, settings: &Settings, printer: &Printer) -> Result<i32> {
    let run: InstanceName = name.parse().map_err(|_| not_a_run(name))?;
    if run.kind.as_str() != "run" {
        bail!(not_a_run(name));
    }
    let order = wire::StopRun { run: run.to_string() };
    let ended = match &settings.remote {
        Some(_) => stop_afar(&order, deploy, settings).await?,
        None => stop_here(run.number, &order, deploy, settings).await?,
    };
    if printer.is_json() {
        printer.json(&ended);
    } else {
        let how = ended.exit_code.map_or_else(|| ended.state.clone(), |code| format!("exit code {code}"));
        printer.confirm(&format!("Stopping {}... done, {how}", order.run));
    }
    Ok(0)
}

/// The server alone knows when it has ended.
async fn stop_afar(order: &wire::StopRun, deploy: &DeployRef, settings: &Settings) -> Result<wire::OneOff> {
    let mut client = Client::connect(settings, deploy.clone()).await?;
    client.call::<wire::StopRun>(Method::POST, "/runs/stop", order).await?;
    let limit = tokio::time::Instant::now() + ENDS;
    loop {
        let all: wire::Runs = client.get("/runs").await?;
        match all.runs.into_iter().find(|r| r.run == order.run) {
            Some(ended) if ended.state != RUNNING => return Ok(ended),
            Some(_) if tokio::time::Instant::now() < limit => tokio::time::sleep(AGAIN).await,
            Some(_) => bail!("{} has not ended within {} s", order.run, ENDS.as_secs()),
            None => bail!("{} is not on record", order.run),
        }
    }
}

async fn stop_here(number: u32, order: &wire::StopRun, deploy: &DeployRef, settings: &Settings) -> Result<wire::OneOff> {
    if !held::is_held(&settings.home, deploy, number) {
        let hint = Some("`dozen runs` lists the one-offs.".to_owned());
        bail!(Told::failed(format!("{deploy} has no {} that runs", order.run), hint));
    }
    let sent: Result<wire::StopRun> =
        Client::of_one_off(settings, deploy.clone(), number).await?.call(Method::POST, "/runs/stop", order).await;
    // Whoever held it may have gone together with it, before the answer came.
    if let Err(error) = sent
        && held::is_held(&settings.home, deploy, number)
    {
        return Err(error);
    }
    let (home, of) = (settings.home.clone(), deploy.clone());
    tokio::task::spawn_blocking(move || held::wait(&home, &of, number)).await.context("cannot wait for its end")?;
    let all: wire::Runs = Client::connect(settings, deploy.clone()).await?.get("/runs").await?;
    all.runs.into_iter().find(|r| r.run == order.run).with_context(|| format!("{} is not on record", order.run))
}

fn not_a_run(name: &str) -> Usage {
    Usage(format!("{name:?} is no one-off: write it as `run.7`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!([0.04, 59.0, 61.0, 86_400.0].map(duration), ["0.0s", "59.0s", "1m 1s", "24h 0m"]);
    }
}
