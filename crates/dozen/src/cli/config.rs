//! `dozen config`: the variables, and `config set`, `config unset`, `config get`.

use super::target;
use crate::api::wire;
use crate::client::Client;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use http::Method;
use std::collections::BTreeMap;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Show all values unmasked
    #[arg(long)]
    show: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Set config vars, which makes a release
    Set {
        /// One or more; quote what the shell would read: 'GREETING=Hello, you'
        #[arg(required = true, value_name = "KEY=VALUE")]
        pairs: Vec<String>,
        /// They are no secrets: show and print their values
        #[arg(long)]
        plain: bool,
    },
    /// Remove config vars, which makes a release
    Unset {
        /// One or more names
        #[arg(required = true, value_name = "KEY")]
        names: Vec<String>,
    },
    /// Print one value, unmasked
    Get {
        /// Its name
        #[arg(value_name = "KEY")]
        name: String,
    },
}

/// Shows or changes.
pub(crate) async fn run(args: ConfigArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy).await?;
    match args.verb {
        None => list(&mut client, args.show, printer).await,
        Some(Verb::Get { name }) => get(&mut client, &name, printer).await,
        Some(Verb::Set { pairs, plain }) => {
            let body = wire::Configure { set: split(&pairs)?, unset: vec![], plain };
            change(&mut client, &body, printer).await
        }
        Some(Verb::Unset { names }) => {
            let body = wire::Configure { set: BTreeMap::new(), unset: names, plain: false };
            change(&mut client, &body, printer).await
        }
    }
}

fn split(pairs: &[String]) -> Result<BTreeMap<String, String>> {
    let mut set = BTreeMap::new();
    for pair in pairs {
        let Some((name, value)) = pair.split_once('=') else {
            bail!(super::Usage(format!("`{pair}` is not KEY=VALUE; to show one value use `config get KEY`")));
        };
        set.insert(name.to_owned(), value.to_owned());
    }
    Ok(set)
}

async fn list(client: &mut Client, show: bool, printer: &Printer) -> Result<i32> {
    let answer: wire::Config = client.get("/config").await?;
    let value = |v: &wire::Var| if show { v.value.clone() } else { v.masked().to_owned() };
    if printer.is_json() {
        let shown = |v: &wire::Var| wire::ShownVar { value: value(v), origin: v.origin.clone() };
        printer.json(&wire::ConfigListing { vars: answer.vars.iter().map(|(k, v)| (k.clone(), shown(v))).collect() });
        return Ok(0);
    }
    printer.line(&format!("=== {} config vars", client.deploy));
    let width = answer.vars.keys().map(|k| k.len() + 1).max().unwrap_or_default();
    for (name, var) in &answer.vars {
        printer.line(&format!("{:<width$} {}", format!("{name}:"), value(var)));
    }
    Ok(0)
}

async fn get(client: &mut Client, name: &str, printer: &Printer) -> Result<i32> {
    let answer: wire::Config = client.get("/config").await?;
    match answer.vars.get(name) {
        Some(var) if printer.is_json() => {
            printer.json(&wire::ConfigValue { name: name.to_owned(), value: var.value.clone(), origin: var.origin.clone() });
        }
        Some(var) => printer.line(&var.value),
        None => {
            let near = dozen_core::diagnostic::nearest(name, answer.vars.keys().map(String::as_str));
            let hint = near.map(|n| format!("Did you mean {n}?"));
            bail!(crate::client::Told { message: format!("{} has no config var {name}", client.deploy), hint });
        }
    }
    Ok(0)
}

async fn change(client: &mut Client, body: &wire::Configure, printer: &Printer) -> Result<i32> {
    let verb = if body.unset.is_empty() { "Setting" } else { "Unsetting" };
    let asked: Vec<&String> = body.set.keys().chain(&body.unset).collect();
    let names = asked.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", ");
    let answer: wire::Configured = client.call(Method::PATCH, "/config", body).await?;
    if printer.is_json() {
        printer.json(&serde_json::to_value(&answer)?);
        return Ok(0);
    }
    let app = &client.deploy.app;
    let changed = !answer.set.is_empty() || !answer.unset.is_empty();
    printer.confirm(&match (&answer.release, changed) {
        (Some(release), _) => format!("{verb} {names} and restarting {app}... done, {release}"),
        (None, false) => format!("{verb} {names}... nothing changed"),
        (None, true) if answer.serving => format!("{verb} {names}... done; what serves has that config already"),
        (None, true) => format!("{verb} {names}... done; the next `dozen up` releases it"),
    });
    Ok(0)
}
