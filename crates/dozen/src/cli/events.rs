//! `dozen events`: who did what, when, from where, to which deploy, and what came of it.

use super::releases::when;
use super::{Usage, time};
use crate::api::wire;
use crate::client;
use crate::printer::{Column, Printer, listing};
use crate::settings::Settings;
use anyhow::{Result, bail};
use clap::Args;
use dozen_core::ids::{DeployName, DeployRef};
use jiff::Timestamp;
use std::time::Duration;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// How many of the latest
    #[arg(short, long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    num: u32,
    /// From then on: so long ago, as in 2h or 3d, or a time, as in 2026-11-22T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
    /// Of this deploy of the app
    #[arg(long, value_name = "NAME")]
    deploy: Option<String>,
    /// By this user
    #[arg(long, value_name = "USER")]
    who: Option<String>,
}

fn since(text: &str) -> Result<Timestamp, String> {
    match time(text) {
        Ok(seconds) => Timestamp::now().checked_sub(Duration::from_secs(seconds)).map_err(|_| "that is too long ago".to_owned()),
        Err(_) => text.parse().map_err(|_| "write it as 2h, 3d, or 2026-11-22T08:00:00Z".to_owned()),
    }
}

/// Lists them: of the app that is named or that the folder is pushed to, else all.
pub(crate) async fn run(args: EventsArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let (mut app, mut deploy) = (None, args.deploy);
    if let Some(name) = &settings.app {
        let named: DeployRef = name.parse().map_err(|e| Usage(format!("{e}")))?;
        // Without a deploy all of the app's are meant.
        deploy = deploy.or_else(|| name.contains('/').then(|| named.deploy.to_string()));
        app = Some(named.app);
    } else if let Some(pushed) = settings.remote.as_ref().and_then(|remote| remote.deploy.as_ref()) {
        app = Some(pushed.app.clone());
    }
    if let (Some(name), Some(app)) = (&deploy, &app) {
        let name = name.strip_prefix(&format!("{app}/")).unwrap_or(name);
        name.parse::<DeployName>().map_err(|e| Usage(e.to_string()))?;
        deploy = Some(name.to_owned());
    } else if deploy.is_some() {
        bail!(Usage("--deploy is one of an app: name that with -a".to_owned()));
    }
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("n", &args.num.to_string());
    let since = args.since.map(|at| at.to_string());
    let given = [("app", app.map(|app| app.to_string())), ("deploy", deploy), ("who", args.who), ("since", since)];
    for (name, value) in given {
        if let Some(value) = value {
            query.append_pair(name, &value);
        }
    }
    let answer: wire::Events = client::platform(settings).await?.get(&format!("/v1/events?{}", query.finish())).await?;
    if printer.is_json() {
        printer.json(&answer);
    } else if answer.events.is_empty() {
        printer.line("None.");
    } else {
        printer.line(&listing(&COLUMNS, &answer.events, printer.terminal().map(|(columns, _)| columns), true));
    }
    Ok(0)
}

const COLUMNS: [Column<wire::Did>; 7] = [
    Column { title: "AT (UTC)", rank: 0, cell: |e| when(&e.at) },
    Column { title: "WHO", rank: 0, cell: |e| e.who.clone() },
    Column { title: "FROM", rank: 3, cell: |e| e.from.clone().unwrap_or_else(|| "-".to_owned()) },
    Column { title: "OF", rank: 1, cell: |e| e.deploy.clone().or_else(|| e.app.clone()).unwrap_or_else(|| "-".to_owned()) },
    Column { title: "RESULT", rank: 2, cell: |e| e.result.clone() },
    Column { title: "WHAT", rank: 0, cell: |e| e.what.clone() },
    Column { title: "DETAIL", rank: 0, cell: |e| e.detail.chars().map(|c| if c.is_control() { ' ' } else { c }).collect() },
];
