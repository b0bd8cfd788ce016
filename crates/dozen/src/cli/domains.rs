//! `dozen domains`: what leads to a deploy; `domains add`, `domains remove`.

use super::certs::harmless;
use super::releases::when;
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
    ///
    /// Where certificates are ordered (`dozen certs auto`) and the deploy runs with --https-port, a domain's certificate is obtained before it is
    /// live. That is waited for, two minutes at most. A domain for which there is none by then is added all the same, the order is made again by
    /// itself, and at once when the command is repeated.
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
    answer.certificates.iter().for_each(|standing| tell(standing, answer.https_only, printer));
    Ok(0)
}

/// Whether a name can be called by HTTPS now, and if not what becomes of it.
fn tell(standing: &wire::Standing, https_only: bool, printer: &Printer) {
    let host = &standing.host;
    if let Some(until) = &standing.not_after {
        return printer.confirm(&format!("{host} is live, with a certificate until {} (UTC)", when(until)));
    }
    let why = standing.why.as_deref().map_or("its certificate is still being ordered; `dozen certs` shows how that goes".into(), harmless);
    printer.note(&format!("{host} is not live by HTTPS yet: {why}"));
    if let Some(again) = &standing.again_at {
        let now = if standing.too_often { String::new() } else { format!(", or at once by `dozen domains add {host}`") };
        printer.note(&format!("It is ordered again at {} (UTC){now}.", when(again)));
    }
    if https_only {
        printer.note("Until then who comes by HTTP is sent on to where no answer is, since `dozen https` is on.");
    }
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
