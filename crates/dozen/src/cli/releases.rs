//! `dozen releases`: what was released, the latest first.

use super::target;
use crate::api::wire;
use crate::client::Client;
use crate::printer::{Printer, table};
use crate::settings::Settings;
use anyhow::Result;

/// Lists them.
pub(crate) async fn run(settings: &Settings, printer: &Printer) -> Result<i32> {
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy.clone()).await?;
    let answer: wire::Releases = client.get("/releases").await?;
    if printer.is_json() {
        printer.json(&serde_json::to_value(&answer)?);
        return Ok(0);
    }
    let state = |r: &wire::Release| match (r.current, r.status.as_str()) {
        (true, _) => "current".to_owned(),
        (false, "succeeded") if r.came_up => String::new(),
        (false, "succeeded") => "never up".to_owned(),
        (false, other) => other.to_owned(),
    };
    let rows: Vec<Vec<String>> = answer
        .releases
        .iter()
        .map(|r| {
            let when = r.created_at.split('.').next().unwrap_or_default().trim_end_matches('Z').replace('T', " ");
            let why = r.failure.as_ref().map(|f| format!(" ({f})")).unwrap_or_default();
            vec![r.version.clone(), state(r), when, r.created_by.clone(), format!("{}{why}", r.description)]
        })
        .collect();
    printer.line(&format!("=== {deploy} releases"));
    printer.line(&table(&["RELEASE", "STATE", "CREATED (UTC)", "BY", "DESCRIPTION"], &rows));
    Ok(0)
}
