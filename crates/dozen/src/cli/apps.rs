//! `dozen apps`: the apps of a server, or of this machine; `apps create`, `apps destroy`.

use super::{Usage, segment};
use crate::api::wire;
use crate::client;
use crate::printer::{Column, Printer, listing};
use crate::settings::Settings;
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct AppsArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create an app with its first deploy, production
    Create {
        /// Its name, and its host's first label
        name: String,
    },
    /// Destroy an app with all of its deploys: their processes, config, releases and domains
    Destroy {
        /// Which
        name: String,
        /// Its name once more
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
    },
}

/// Lists, creates or destroys.
pub(crate) async fn run(args: AppsArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    match args.verb {
        None => list(settings, printer).await,
        Some(Verb::Create { name }) => {
            let made: wire::App = client::platform(settings).await?.call(Method::POST, "/v1/apps", &wire::CreateApp { name }).await?;
            if printer.is_json() {
                printer.json(&made);
                return Ok(0);
            }
            printer.confirm(&format!("Creating {}... done", made.name));
            for url in made.deploys.iter().filter_map(|deploy| deploy.url.as_ref()) {
                printer.line(url);
            }
            Ok(0)
        }
        Some(Verb::Destroy { name, confirm }) => {
            confirmed(&name, confirm.as_deref())?;
            let path = format!("/v1/apps/{}", segment(&name));
            destroyed(client::platform(settings).await?.call(Method::DELETE, &path, &json!({})).await?, printer);
            Ok(0)
        }
    }
}

/// What is destroyed is named twice.
pub(super) fn confirmed(name: &str, confirm: Option<&str>) -> Result<()> {
    match confirm {
        Some(confirm) if confirm == name => Ok(()),
        _ => bail!(Usage(format!("this destroys {name} with all that is in it; if that is meant, add --confirm {name}"))),
    }
}

pub(super) fn destroyed(what: wire::Destroyed, printer: &Printer) {
    if printer.is_json() {
        printer.json(&what);
    } else {
        printer.confirm(&format!("Destroying {}... done", what.destroyed));
    }
}

async fn list(settings: &Settings, printer: &Printer) -> Result<i32> {
    let answer: wire::Apps = client::platform(settings).await?.get("/v1/apps").await?;
    if printer.is_json() {
        printer.json(&answer);
        return Ok(0);
    }
    if answer.apps.is_empty() {
        printer.line("None. `dozen apps create NAME` creates one.");
        return Ok(0);
    }
    printer.line(&listing(&COLUMNS, &answer.apps, printer.terminal().map(|(columns, _)| columns), false));
    Ok(0)
}

const COLUMNS: [Column<wire::App>; 2] =
    [Column { title: "APP", rank: 0, cell: |app| app.name.clone() }, Column { title: "DEPLOYS", rank: 0, cell: deploys }];

fn deploys(app: &wire::App) -> String {
    let one = |deploy: &wire::Deploy| {
        let name = deploy.name.split_once('/').map_or(deploy.name.as_str(), |(_, name)| name);
        deploy.release.as_ref().map_or_else(|| name.to_owned(), |release| format!("{name} {release}"))
    };
    app.deploys.iter().map(one).collect::<Vec<_>>().join(", ")
}
