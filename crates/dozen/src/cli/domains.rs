//! `dozen domains`: what leads to a deploy; `domains add`, `domains remove`.

use super::target;
use crate::api::wire;
use crate::client::Client;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::Result;
use clap::{Args, Subcommand};
use http::Method;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct DomainsArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Have domains lead to the deploy, at once; all of them or, where one leads to another deploy, none
    Add {
        /// `shop.example.com`, `*.example.com` for every name one label below, `example.com/api` for a path and all below it
        #[arg(value_name = "HOST[/PATH]", required = true)]
        domains: Vec<String>,
    },
    /// Have domains lead to the deploy no longer
    #[command(alias = "rm")]
    Remove {
        /// As `dozen domains` lists them
        #[arg(value_name = "HOST[/PATH]", required = true)]
        domains: Vec<String>,
    },
}

/// Lists, adds or removes.
pub(crate) async fn run(args: DomainsArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let mut client = Client::connect(settings, target::find(settings).await?).await?;
    let (body, verb, to) = match args.verb {
        None => return list(&mut client, printer).await,
        Some(Verb::Add { domains }) => (wire::ChangeDomains { add: domains, remove: vec![] }, "Adding", "to"),
        Some(Verb::Remove { domains }) => (wire::ChangeDomains { add: vec![], remove: domains }, "Removing", "from"),
    };
    let answer: wire::ChangedDomains = client.call(Method::PATCH, "/domains", &body).await?;
    if printer.is_json() {
        printer.json(&answer);
        return Ok(0);
    }
    let app = &client.deploy.app;
    printer.confirm(&match (answer.changed.as_slice(), answer.serving) {
        ([], _) => format!("Nothing to do: that leads to {app} already"),
        (changed, true) => format!("{verb} {} {to} {app}... done", changed.join(", ")),
        (changed, false) => format!("{verb} {} {to} {app}... done; the next `dozen up` goes by it", changed.join(", ")),
    });
    Ok(0)
}

async fn list(client: &mut Client, printer: &Printer) -> Result<i32> {
    let answer: wire::Domains = client.get("/domains").await?;
    if printer.is_json() {
        printer.json(&answer);
        return Ok(0);
    }
    printer.line(&format!("=== {} domains", client.deploy));
    answer.domains.iter().for_each(|d| printer.line(&d.domain));
    Ok(0)
}
