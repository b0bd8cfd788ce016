//! `dozen server check`: whether what the home holds fits together.

use crate::api::wire;
use crate::client::Told;
use crate::printer::Printer;
use crate::running;
use crate::settings::Settings;
use anyhow::Result;
use dozen_engine::codebase;
use dozen_engine::deploy::{Sound, sound};
use dozen_engine::ledger::{Ledger, Principal};
use dozen_engine::output::Output;

/// Looks at everything and tells. The exit code is 1 where anything is wrong.
pub(super) async fn run(settings: &Settings, printer: &Printer) -> Result<i32> {
    let home = &settings.home;
    if !home.ledger().is_file() {
        let hint = "DOZEN_HOME names another home.".to_owned();
        return Err(Told::failed(format!("there is no ledger in {}", home.root().display()), Some(hint)).into());
    }
    if let Some(schema) = Ledger::older(home)? {
        let message = format!("the ledger has schema {schema}, and this dozen's is newer: looking at it would change it");
        let hint = "Check it with the dozen that runs there. `dozen server` of this one brings it to its own schema.".to_owned();
        return Err(Told::failed(message, Some(hint)).into());
    }
    let ledger = Ledger::open(home)?;
    ledger.authorise(&Principal::me(), "check the home", dozen_core::admin::people::Need::Host)?;
    let deploys = ledger.deploys().await?;
    let held: Vec<_> = deploys.into_iter().filter(|deploy| running::holder(home, deploy).is_some()).collect();
    let Sound { deploys, releases, slugs, bytes, repositories, faults } = sound(&ledger, &held).await?;
    let code = i32::from(!faults.is_empty());
    if printer.is_json() {
        let faults = faults.into_iter().map(|fault| wire::Fault { about: fault.about, what: fault.what }).collect();
        printer.json(&wire::Soundness { sound: code == 0, deploys, releases, slugs, bytes, repositories, faults });
        return Ok(code);
    }
    printer.line(&format!("ledger        {deploys} deploys, {releases} releases"));
    printer.line(&format!("slugs         {slugs}, {} read", codebase::bytes(bytes)));
    printer.line(&format!("repositories  {repositories}"));
    for fault in &faults {
        printer.warning(&format!("{}: {}", fault.about, fault.what));
    }
    printer.line(&match faults.len() {
        0 => "\nNothing is wrong.".to_owned(),
        n => format!("\nWrong: {n}."),
    });
    Ok(code)
}
