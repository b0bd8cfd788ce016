//! `dozen config diff`: which variables two deploys have, and which differ.

use crate::api::wire::{self, BothValues, ConfigDiff};
use crate::cli::{deploy, target};
use crate::client::Client;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::Result;
use dozen_core::ids::DeployRef;
use std::collections::{BTreeMap, BTreeSet};

/// Compares; values are shown where that is asked for.
pub(super) async fn run(from: &str, to: &str, show: bool, settings: &Settings, printer: &Printer) -> Result<i32> {
    let from = named(from, settings).await?;
    let to = if to.contains('/') { named(to, settings).await? } else { deploy::beside(to, &from)? };
    let mut configs = Vec::new();
    for deploy in [&from, &to] {
        target::known(settings, deploy).await?;
        configs.push(Client::connect(settings, deploy.clone()).await?.get::<wire::Config>("/config").await?);
    }
    let diff = between((&from, &configs[0]), (&to, &configs[1]), show);
    if printer.is_json() {
        printer.json(&diff);
        return Ok(0);
    }
    let groups =
        [(format!("Only in {from}"), &diff.only_from), (format!("Only in {to}"), &diff.only_to), ("Different".to_owned(), &diff.different)];
    for (title, names) in groups.iter().filter(|(_, names)| !names.is_empty()) {
        printer.line(&format!("=== {title}"));
        for name in *names {
            printer.data(name);
            let values = diff.values.get(name);
            for (deploy, value) in [(&from, values.and_then(|v| v.from.as_ref())), (&to, values.and_then(|v| v.to.as_ref()))] {
                if let Some(value) = value {
                    printer.data(&format!("  {deploy}: {value}"));
                }
            }
        }
    }
    if groups.iter().all(|(_, names)| names.is_empty()) {
        printer.line(&format!("{from} and {to} have the same config vars"));
    }
    Ok(0)
}

/// A deploy by its whole name, or one of the app that is meant otherwise.
async fn named(name: &str, settings: &Settings) -> Result<DeployRef> {
    if name.contains('/') {
        return Ok(name.parse()?);
    }
    let app = target::app(settings).await?;
    deploy::beside(name, &DeployRef { app, deploy: dozen_core::ids::DEFAULT_DEPLOY.parse()? })
}

/// Resources are of their own in each deploy: only whether both have one is told of them.
fn between((from, a): (&DeployRef, &wire::Config), (to, b): (&DeployRef, &wire::Config), show: bool) -> ConfigDiff {
    let names: BTreeSet<&String> = a.vars.keys().chain(b.vars.keys()).collect();
    let (mut only_from, mut only_to, mut different, mut values) = (vec![], vec![], vec![], BTreeMap::new());
    for name in names {
        let (old, new) = (a.vars.get(name), b.vars.get(name));
        match (old, new) {
            (Some(_), None) => only_from.push(name.clone()),
            (None, Some(_)) => only_to.push(name.clone()),
            (Some(old), Some(new)) if old.value != new.value && (old.origin != "attachment" || new.origin != "attachment") => {
                different.push(name.clone());
            }
            _ => continue,
        }
        if show {
            let value = |var: Option<&wire::Var>| var.map(|v| v.value.clone());
            values.insert(name.clone(), BothValues { from: value(old), to: value(new) });
        }
    }
    ConfigDiff { from: from.to_string(), to: to.to_string(), only_from, only_to, different, values }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str, &str)]) -> wire::Config {
        let var = |value: &str, origin: &str| wire::Var { value: value.to_owned(), origin: origin.to_owned(), secret: true };
        wire::Config { version: 1, vars: vars.iter().map(|(k, v, o)| ((*k).to_owned(), var(v, o))).collect() }
    }

    #[test]
    fn names_are_told_and_values_only_when_asked_for() {
        let staging: DeployRef = "shop/staging".parse().expect("a deploy");
        let production: DeployRef = "shop/production".parse().expect("a deploy");
        let a = config(&[("A", "1", "set"), ("SAME", "x", "set"), ("KEY", "old", "set"), ("DATABASE_URL", "sqlite:/a", "attachment")]);
        let b = config(&[("B", "2", "set"), ("SAME", "x", "set"), ("KEY", "new", "set"), ("DATABASE_URL", "sqlite:/b", "attachment")]);
        let diff = between((&staging, &a), (&production, &b), false);
        assert_eq!((diff.only_from, diff.only_to, diff.different), (vec!["A".into()], vec!["B".into()], vec!["KEY".to_owned()]));
        assert!(diff.values.is_empty());
        let shown = between((&staging, &a), (&production, &b), true).values;
        let key = shown.get("KEY").expect("there");
        assert_eq!((key.from.as_deref(), key.to.as_deref()), (Some("old"), Some("new")));
        assert_eq!(shown.get("A").map(|v| (v.from.as_deref(), v.to.as_deref())), Some((Some("1"), None)));
    }
}
