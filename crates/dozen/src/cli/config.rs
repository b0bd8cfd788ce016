//! `dozen config`: the variables, and `config set`, `unset`, `get`, `edit`, `export`.

use super::target;
use crate::api::wire;
use crate::client::Client;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use http::Method;
use std::collections::BTreeMap;
use std::path::PathBuf;

mod diff;
mod edit;
mod export;
mod given;

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
    ///
    /// Values are given as KEY=VALUE, as the text of a .env file on standard input (`-`) or with --env-file, or as a folder with a file for each
    /// variable: its name is the variable's, its first line the value, and an empty file unsets it. All of it is set at once, or nothing.
    Set {
        /// KEY=VALUE, `-`, or DIR/; quote what the shell would read: 'GREETING=Hello, you'
        #[arg(required_unless_present = "env_file", value_name = "KEY=VALUE|-|DIR/")]
        given: Vec<String>,
        /// Set what a file in the .env dialect gives
        #[arg(long, value_name = "FILE")]
        env_file: Vec<PathBuf>,
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
    /// Change config vars in an editor: $VISUAL, $EDITOR, nano or vi
    ///
    /// What is saved is set, what is removed is unset, all at once in one release; without a change nothing is released. The text lies in a
    /// private folder in memory, where there is one, and is removed afterwards.
    Edit {
        /// Only these; by default all
        #[arg(value_name = "KEY")]
        names: Vec<String>,
    },
    /// Tell which config vars two deploys have, and which differ
    ///
    /// Names alone. Values of attached resources are each deploy's own and not compared.
    Diff {
        /// APP/DEPLOY, or a deploy of this app: staging
        #[arg(value_name = "A")]
        from: String,
        /// The other one
        #[arg(value_name = "B")]
        to: String,
        /// Print the values too
        #[arg(long)]
        show: bool,
    },
    /// Print all config vars, unmasked, for other programs to read
    Export {
        /// dotenv: a .env file; shell: `export` lines, to be read with eval; json: one object
        #[arg(long, value_enum, default_value_t = export::Format::Dotenv)]
        format: export::Format,
        /// The variables of attached resources as well
        #[arg(long)]
        all: bool,
    },
}

/// Shows or changes.
pub(crate) async fn run(args: ConfigArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    // A mistake in what is given is told before anything is asked.
    let changes = match &args.verb {
        Some(Verb::Set { given, env_file, plain }) => Some(given::read(given, env_file, *plain, printer)?),
        Some(Verb::Unset { names }) => Some(wire::Configure { unset: names.clone(), ..wire::Configure::default() }),
        _ => None,
    };
    if let Some(Verb::Diff { from, to, show }) = &args.verb {
        return diff::run(from, to, *show || args.show, settings, printer).await;
    }
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy).await?;
    match (args.verb, changes) {
        (_, Some(changes)) => change(&mut client, &changes, printer).await,
        (Some(Verb::Get { name }), _) => get(&mut client, &name, printer).await,
        (Some(Verb::Edit { names }), _) => edit::run(&mut client, &names, printer).await,
        (Some(Verb::Export { format, all }), _) => export::run(&mut client, format, all, printer).await,
        _ => list(&mut client, args.show, printer).await,
    }
}

async fn list(client: &mut Client, show: bool, printer: &Printer) -> Result<i32> {
    let answer: wire::Config = client.get("/config").await?;
    let value = |v: &wire::Var| if show { v.value.clone() } else { v.masked().to_owned() };
    if printer.is_json() {
        let shown = |(k, v): (&String, &wire::Var)| (k.clone(), wire::ShownVar { value: value(v), origin: v.origin.clone() });
        let vars = answer.vars.iter().map(shown).collect();
        printer.json(&wire::ShownConfig { vars });
        return Ok(0);
    }
    printer.line(&format!("=== {} config vars", client.deploy));
    let width = answer.vars.keys().map(|k| k.len() + 1).max().unwrap_or_default();
    for (name, var) in &answer.vars {
        printer.data(&format!("{:<width$} {}", format!("{name}:"), value(var)));
    }
    Ok(0)
}

async fn get(client: &mut Client, name: &str, printer: &Printer) -> Result<i32> {
    let answer: wire::Config = client.get("/config").await?;
    match answer.vars.get(name) {
        Some(var) if printer.is_json() => {
            let one = wire::OneVar { name: name.to_owned(), value: var.value.clone(), origin: var.origin.clone() };
            printer.json(&one);
        }
        Some(var) => printer.data(&var.value),
        None => {
            let near = dozen_core::diagnostic::nearest(name, answer.vars.keys().map(String::as_str));
            let hint = near.map(|n| format!("Did you mean {n}?"));
            bail!(crate::client::Told::failed(format!("{} has no config var {name}", client.deploy), hint));
        }
    }
    Ok(0)
}

async fn change(client: &mut Client, body: &wire::Configure, printer: &Printer) -> Result<i32> {
    let answer: wire::Configured = client.call(Method::PATCH, "/config", body).await?;
    if printer.is_json() {
        printer.json(&answer);
        return Ok(0);
    }
    let list = |names: Vec<&String>| names.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", ");
    let (set, unset) = (list(body.set.keys().collect()), list(body.unset.iter().collect()));
    let what = match (set.is_empty(), unset.is_empty()) {
        (_, true) => format!("Setting {set}"),
        (true, false) => format!("Unsetting {unset}"),
        (false, false) => format!("Setting {set}, unsetting {unset}"),
    };
    let app = &client.deploy.app;
    let changed = !answer.set.is_empty() || !answer.unset.is_empty() || !answer.marked.is_empty();
    printer.confirm(&match (&answer.release, changed) {
        (Some(release), _) => format!("{what} and restarting {app}... done, {release}"),
        (None, false) => format!("{what}... nothing changed"),
        (None, true) if answer.serving => format!("{what}... done; what serves has that config already"),
        (None, true) => format!("{what}... done; the next release has it"),
    });
    Ok(0)
}

/// The variables that are a deploy's own, by name: those of attached resources are not.
fn own(config: &wire::Config) -> BTreeMap<&str, &wire::Var> {
    config.vars.iter().filter(|(_, v)| v.origin != "attachment").map(|(k, v)| (k.as_str(), v)).collect()
}
