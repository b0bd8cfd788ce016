//! `dozen deploys`: the deploys of an app; `deploys create`, `deploys destroy`.

use super::apps::{confirmed, destroyed};
use super::releases::when;
use super::{Usage, segment, target};
use crate::api::wire;
use crate::client::{self, Client};
use crate::printer::{Column, Printer, listing};
use crate::settings::Settings;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use dozen_core::ids::{AppName, DeployRef};
use http::Method;
use serde_json::json;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct DeploysArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a deploy of the app, without a release
    Create {
        /// Its name: staging
        name: String,
        /// Begin with the config and the formation of this deploy of the app
        #[arg(long, value_name = "DEPLOY")]
        from: Option<String>,
        /// Destroy it after this time, as in 12h or 3d; the server does
        #[arg(long, value_name = "TIME", value_parser = super::time)]
        ttl: Option<u64>,
        /// The branch that it is for
        #[arg(long)]
        branch: Option<String>,
    },
    /// Say what must pass before a release of the deploy that -a names; without an option, what that is now
    ///
    /// A push, a deploy or a promotion is refused where it does not pass, and its output is in the terminal of whoever asked. What a slug has
    /// passed is remembered.
    Set {
        /// tests: app.json's `environments.test` scripts; none: nothing
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        require: Vec<String>,
    },
    /// Destroy a deploy: its processes, config, releases and domains
    Destroy {
        /// Which
        #[arg(value_name = "NAME")]
        name: String,
        /// It once more
        #[arg(long, value_name = "APP/NAME")]
        confirm: Option<String>,
    },
}

/// Lists, creates or destroys.
pub(crate) async fn run(args: DeploysArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    if let Some(Verb::Set { require }) = args.verb {
        return set(require, settings, printer).await;
    }
    let app = app_of(settings).await?;
    let path = format!("/v1/apps/{app}/deploys");
    match args.verb {
        None => {
            let answer: wire::App = client::platform(settings).await?.get(&path).await?;
            if printer.is_json() {
                printer.json(&answer);
                return Ok(0);
            }
            printer.line(&format!("=== {app} deploys"));
            printer.line(&listing(&COLUMNS, &answer.deploys, printer.terminal().map(|(columns, _)| columns), false));
        }
        Some(Verb::Create { name, from, ttl, branch }) => {
            // `shop/staging` is said as well as `staging`.
            let of = |text: String| text.strip_prefix(&format!("{app}/")).map(str::to_owned).unwrap_or(text);
            let body = wire::CreateDeploy { name: of(name), from: from.map(of), ttl_seconds: ttl, branch };
            let made: wire::Deploy = client::platform(settings).await?.call(Method::POST, &path, &body).await?;
            if printer.is_json() {
                printer.json(&made);
                return Ok(0);
            }
            let until = made.expires.as_deref().map_or_else(String::new, |at| format!(", until {} (UTC)", when(at)));
            printer.confirm(&format!("Creating {}... done{until}", made.name));
            if let Some(url) = &made.url {
                printer.line(url);
            }
        }
        // It is one deploy's, and done.
        Some(Verb::Set { .. }) => {}
        Some(Verb::Destroy { name, confirm }) => {
            let name = name.strip_prefix(&format!("{app}/")).unwrap_or(&name);
            confirmed(&format!("{app}/{name}"), confirm.as_deref())?;
            let path = format!("{path}/{}", segment(name));
            destroyed(client::platform(settings).await?.call(Method::DELETE, &path, &json!({})).await?, printer);
        }
    }
    Ok(0)
}

/// What must pass before a release.
async fn set(require: Vec<String>, settings: &Settings, printer: &Printer) -> Result<i32> {
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy).await?;
    let told: wire::Gates = if require.is_empty() {
        client.get("/gates").await?
    } else {
        let requires = require.into_iter().filter(|name| name != "none").collect();
        client.call(Method::PUT, "/gates", &wire::Require { requires }).await?
    };
    if printer.is_json() {
        printer.json(&told);
    } else if told.requires.is_empty() {
        printer.line(&format!("{} requires nothing before a release", told.deploy));
    } else {
        printer.line(&format!("{} requires {} before a release", told.deploy, told.requires.join(", ")));
    }
    Ok(0)
}

/// The app alone: it may have no deploy, or many.
async fn app_of(settings: &Settings) -> Result<AppName> {
    match &settings.app {
        Some(name) => Ok(name.parse::<DeployRef>().map(|deploy| deploy.app).map_err(|e| Usage(e.to_string()))?),
        None => Ok(target::find(settings).await.context("which app is meant?")?.app),
    }
}

const COLUMNS: [Column<wire::Deploy>; 6] = [
    Column { title: "DEPLOY", rank: 0, cell: |d| d.name.split_once('/').map_or(d.name.as_str(), |(_, name)| name).to_owned() },
    Column { title: "RELEASE", rank: 0, cell: |d| d.release.clone().unwrap_or_else(|| "-".to_owned()) },
    Column { title: "STATE", rank: 2, cell: |d| if d.serving { "served" } else { "-" }.to_owned() },
    Column { title: "BRANCH", rank: 3, cell: |d| d.branch.clone().unwrap_or_else(|| "-".to_owned()) },
    Column { title: "UNTIL (UTC)", rank: 4, cell: |d| d.expires.as_deref().map_or_else(|| "-".to_owned(), when) },
    Column { title: "URL", rank: 1, cell: |d| d.https_url.clone().or_else(|| d.url.clone()).unwrap_or_else(|| "-".to_owned()) },
];
