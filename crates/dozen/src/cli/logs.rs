//! `dozen logs`: the merged stream of a deploy.

use super::target;
use crate::client::Client;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::{Context, Result};
use clap::Args;
use dozen_core::logs::LogLine;
use http_body_util::BodyExt;

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

fn number(text: &str) -> Result<String, String> {
    if text == "all" || text.parse::<usize>().is_ok() { Ok(text.to_owned()) } else { Err("give a number, or `all`".to_owned()) }
}

/// Prints them.
pub(crate) async fn run(args: LogsArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy.clone()).await?;
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
