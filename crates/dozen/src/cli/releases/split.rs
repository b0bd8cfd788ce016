//! `dozen releases split`: parts of the requests for several releases.

use crate::api::wire;
use crate::cli::Usage;
use crate::client::Client;
use crate::printer::Printer;
use anyhow::{Context, Result, bail};
use http::Method;

/// Shows, declares or ends it.
pub(super) async fn run(client: &mut Client, parts: &[String], sticky: Option<String>, printer: &Printer) -> Result<i32> {
    let shares = match parts {
        [] if sticky.is_some() => bail!(Usage("--sticky goes with releases and their parts: v12=90 v13=10".to_owned())),
        [] => return show(client, printer).await,
        [off] if off == "off" => Vec::new(),
        parts => parts.iter().map(|part| share(part)).collect::<Result<_>>()?,
    };
    let answer: wire::Split = client.call(Method::PUT, "/split", &wire::ChangeSplit { shares, sticky }).await?;
    if printer.is_json() {
        printer.json(&answer);
        return Ok(0);
    }
    let app = &client.deploy.app;
    printer.confirm(&match answer.shares.as_slice() {
        [] => format!("Ending the split of {app}'s requests... done, the current release gets all"),
        _ => format!("Splitting requests of {app}... done, {}", words(&answer)),
    });
    Ok(0)
}

async fn show(client: &mut Client, printer: &Printer) -> Result<i32> {
    let answer: wire::Split = client.get("/split").await?;
    if printer.is_json() {
        printer.json(&answer);
    } else if answer.shares.is_empty() {
        printer.line("No split: the current release gets all requests");
    } else {
        printer.line(&words(&answer));
    }
    Ok(0)
}

/// As it can be pasted back.
fn words(split: &wire::Split) -> String {
    let sticky = if split.sticky == "no" { String::new() } else { format!(" --sticky {}", split.sticky) };
    let shares = split.shares.iter().map(|s| format!("{}={}", s.release, s.weight));
    shares.collect::<Vec<_>>().join(" ") + &sticky
}

fn share(text: &str) -> Result<wire::SplitShare> {
    let parts = text.split_once('=').and_then(|(release, weight)| Some((release, weight.trim_end_matches('%').parse().ok()?)));
    let (release, weight) = parts.with_context(|| Usage(format!("`{text}` is no part of a split: write v12=90")))?;
    Ok(wire::SplitShare { release: release.to_owned(), weight })
}
