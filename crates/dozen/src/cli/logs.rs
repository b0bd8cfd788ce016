//! `dozen logs`: the merged stream of a deploy.

use super::target;
use crate::api::wire;
use crate::client::{Client, Told};
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use clap::Args;
use dozen_core::logs::LogLine;
use http_body_util::BodyExt;
use std::collections::BTreeSet;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// How many of the last lines to show, or `all`
    #[arg(short, long, value_name = "N|all", default_value = "100", value_parser = number)]
    num: String,
    /// Go on with each new line, until Ctrl-C
    #[arg(short, long)]
    tail: bool,
    /// Only those of a process type or of one process: web, web.1, release, router
    #[arg(short, long, value_name = "PROCESS")]
    ps: Option<String>,
    /// Only the app's own lines (app), or only the platform's (dozen)
    #[arg(short, long, value_name = "app|dozen", value_parser = ["app", "dozen"])]
    source: Option<String>,
}

/// Fails where there is no such process and never was one, and says which there are.
async fn check_known(client: &mut Client, ps: &str) -> Result<()> {
    // Before the first release there are no types; what is asked for may be a build's.
    let Ok(now) = client.get::<wire::Processes>("/processes").await else { return Ok(()) };
    let platform = ["release", "run", "router", "api"].map(str::to_owned);
    let names: BTreeSet<String> = now.types.into_iter().map(|t| t.name).chain(platform).collect();
    let kind = ps.rsplit_once('.').map_or(ps, |(kind, _)| kind);
    if names.contains(kind) || now.processes.iter().any(|p| p.name == ps) {
        return Ok(());
    }
    // An earlier release may have had it.
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("n", "1").append_pair("ps", ps).finish();
    let before = client.stream(&format!("/logs?{query}")).await?.collect().await.context("the logs broke off")?;
    if before.to_bytes().is_empty() {
        let near = dozen_core::diagnostic::nearest(kind, names.iter().map(String::as_str));
        let list = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let hint = near.map_or_else(|| format!("There are {list}."), |near| format!("Did you mean {near}?"));
        bail!(Told::failed(format!("{} has no process {ps}", client.deploy), Some(hint)));
    }
    Ok(())
}

fn number(text: &str) -> Result<String, String> {
    if text == "all" || text.parse::<usize>().is_ok() { Ok(text.to_owned()) } else { Err("give a number, or `all`".to_owned()) }
}

/// Prints them.
pub(crate) async fn run(args: LogsArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy.clone()).await?;
    if let Some(ps) = &args.ps {
        check_known(&mut client, ps).await?;
    }
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("n", &args.num).append_pair("tail", if args.tail { "true" } else { "false" });
    for (name, value) in [("ps", &args.ps), ("source", &args.source)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let mut stream = client.stream(&format!("/logs?{}", query.finish())).await?;
    let mut rest: Vec<u8> = Vec::new();
    while let Some(frame) = stream.frame().await {
        let frame = match frame {
            // A deploy that stops ends the streams that it feeds.
            Err(_) if args.tail => {
                printer.note(&format!("{deploy} has stopped"));
                break;
            }
            frame => frame.context("the logs broke off")?,
        };
        let Ok(data) = frame.into_data() else { continue };
        rest.extend_from_slice(&data);
        let Some(end) = rest.iter().rposition(|b| *b == b'\n') else { continue };
        for line in rest[..end].split(|b| *b == b'\n').filter_map(LogLine::decode) {
            printer.log(&line);
        }
        rest.drain(..=end);
        if printer.is_closed() {
            break;
        }
    }
    Ok(0)
}
