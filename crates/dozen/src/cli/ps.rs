//! `dozen ps`: the processes, and `ps scale`, `ps restart`.

use super::target;
use crate::api::wire;
use crate::client::Client;
use crate::printer::{Printer, table};
use crate::settings::Settings;
use anyhow::Result;
use clap::{Args, Subcommand};
use http::Method;
use jiff::Timestamp;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Change how many of each type run; alone, print it so that it can be pasted back
    Scale {
        /// `web=3` for three, `worker+1` for one more, `worker-1` for one less; several at once, all or none
        #[arg(value_name = "TYPE=N")]
        changes: Vec<String>,
    },
    /// Restart all processes, those of a type, or one
    Restart {
        /// `web` or `web.1`; by default all
        #[arg(value_name = "TYPE[.N]")]
        target: Option<String>,
    },
}

/// Lists, scales or restarts.
pub(crate) async fn run(args: PsArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy).await?;
    match args.verb {
        None => list(&mut client, printer).await,
        Some(Verb::Scale { changes }) => scale(&mut client, changes, printer).await,
        Some(Verb::Restart { target }) => restart(&mut client, target, printer).await,
    }
}

async fn list(client: &mut Client, printer: &Printer) -> Result<i32> {
    let answer: wire::Processes = client.get("/processes").await?;
    if printer.is_json() {
        printer.json(&serde_json::to_value(&answer)?);
        return Ok(0);
    }
    let url = answer.url.as_deref().map(|u| format!(" at {u}")).unwrap_or_default();
    printer.line(&format!("=== {} {}{url}", answer.deploy, answer.release));
    if !answer.serving {
        printer.line("Not running. Start it with `dozen up`.");
        return Ok(0);
    }
    for t in &answer.types {
        printer.line(&format!("{} ({}): {}", t.name, t.quantity, t.command));
    }
    printer.line("");
    if answer.processes.is_empty() {
        printer.line("No processes.");
        return Ok(0);
    }
    let now = Timestamp::now();
    let rows: Vec<Vec<String>> = answer
        .processes
        .iter()
        .map(|p| {
            let dash = || "-".to_owned();
            let since = p.since.parse::<Timestamp>().map_or_else(|_| dash(), |t| ago(now, t));
            vec![
                p.name.clone(),
                p.state.clone(),
                since,
                p.release.clone(),
                p.restarts.to_string(),
                p.port.map_or_else(dash, |n| n.to_string()),
                p.pid.map_or_else(dash, |n| n.to_string()),
                p.isolation.clone().unwrap_or_else(dash),
            ]
        })
        .collect();
    printer.line(&table(&["PROCESS", "STATE", "SINCE", "RELEASE", "RESTARTS", "PORT", "PID", "ISOLATION"], &rows));
    if answer.processes.iter().any(|p| p.port.is_some()) {
        printer.line("\nPorts of processes that bind all addresses are reachable from outside this machine.");
    }
    Ok(0)
}

async fn scale(client: &mut Client, changes: Vec<String>, printer: &Printer) -> Result<i32> {
    if changes.is_empty() {
        let answer: wire::Processes = client.get("/processes").await?;
        if printer.is_json() {
            printer.json(&serde_json::to_value(wire::Formation { formation: answer.formation, serving: answer.serving })?);
        } else {
            printer.line(&answer.formation);
        }
        return Ok(0);
    }
    let answer: wire::Formation = client.call(Method::PATCH, "/formation", &wire::Scale { changes }).await?;
    if printer.is_json() {
        printer.json(&serde_json::to_value(&answer)?);
    } else {
        let when = if answer.serving { "" } else { " at the next `dozen up`" };
        printer.line(&format!("Scaling processes... done, now running{when} {}", answer.formation));
    }
    Ok(0)
}

async fn restart(client: &mut Client, target: Option<String>, printer: &Printer) -> Result<i32> {
    let answer: wire::Restarted = client.call(Method::POST, "/restarts", &wire::Restart { target: target.clone() }).await?;
    if printer.is_json() {
        printer.json(&serde_json::to_value(&answer)?);
    } else {
        printer.line(&format!("Restarting {}... done, {}", target.as_deref().unwrap_or("all processes"), answer.restarted));
    }
    Ok(0)
}

/// `5m ago`
fn ago(now: Timestamp, then: Timestamp) -> String {
    let s = now.duration_since(then).as_secs().max(0);
    match s {
        0..60 => format!("{s}s ago"),
        60..3600 => format!("{}m ago", s / 60),
        3600..86_400 => format!("{}h ago", s / 3600),
        _ => format!("{}d ago", s / 86_400),
    }
}
