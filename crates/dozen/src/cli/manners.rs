//! `dozen maintenance`, `dozen pause`, `dozen https`: how a deploy's requests are treated.

use super::target;
use crate::api::wire;
use crate::client::Client;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use jiff::SignedDuration;

/// Arguments of `maintenance`.
#[derive(Debug, Args)]
pub(crate) struct MaintenanceArgs {
    /// By default it is shown which
    to: Option<Switch>,
}

/// Arguments of `pause`.
#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    #[command(subcommand)]
    verb: Option<PauseVerb>,
    /// End it by itself after this time, `30s` or `2m`
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    limit: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum PauseVerb {
    /// Send requests to the app again, those that waited first
    Off,
}

/// Arguments of `https`.
#[derive(Debug, Args)]
pub(crate) struct HttpsArgs {
    /// By default it is shown which
    to: Option<Switch>,
    /// Have browsers come by HTTPS only for this time, `180d` or `1h`; `off` tells them nothing any more
    #[arg(long, value_name = "TIME", value_parser = hsts)]
    hsts: Option<u64>,
}

/// On or off.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
}

fn seconds(text: &str) -> Result<u64, String> {
    let days = text.strip_suffix('d').and_then(|days| days.trim().parse::<u64>().ok()).and_then(|days| days.checked_mul(24 * 60 * 60));
    let other = || text.parse::<SignedDuration>().ok().and_then(|time| u64::try_from(time.as_secs()).ok());
    let seconds = days.or_else(other).filter(|seconds| (1..=MOST).contains(seconds));
    seconds.ok_or_else(|| "write it as 30s, 2m, 1h or 180d, at most 3650d".to_owned())
}

/// Ten years.
const MOST: u64 = 3_650 * 24 * 60 * 60;

fn hsts(text: &str) -> Result<u64, String> {
    if text == "off" { Ok(0) } else { seconds(text) }
}

/// Shows or changes maintenance mode.
pub(crate) async fn maintenance(args: MaintenanceArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let mut client = connect(settings).await?;
    let Some(to) = args.to else {
        let shown = |m: &wire::Manners| on_or_off(m.maintenance).to_owned();
        show(&mut client, printer, shown).await?;
        return Ok(0);
    };
    let on = matches!(to, Switch::On);
    let treat = wire::Treat { maintenance: Some(on), ..wire::Treat::default() };
    let app = client.deploy.app.clone();
    let verb = if on { "Enabling" } else { "Disabling" };
    change(&mut client, &treat, printer, |m| format!("{verb} maintenance mode for {app}... done{}", later(m))).await?;
    Ok(0)
}

/// Has requests wait, or sends them again.
pub(crate) async fn pause(args: PauseArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let mut client = connect(settings).await?;
    let app = client.deploy.app.clone();
    let paused = args.verb.is_none();
    let treat = wire::Treat { paused: Some(paused), pause_seconds: args.limit.filter(|_| paused), ..wire::Treat::default() };
    change(&mut client, &treat, printer, |m| match (m.paused, &m.paused_until) {
        (true, Some(_)) => format!("Pausing {app}... done; requests wait until that time is over, or until `dozen pause off`"),
        (true, None) => format!("Pausing {app}... done; requests wait until `dozen pause off`"),
        (false, _) => format!("Resuming {app}... done"),
    })
    .await?;
    Ok(0)
}

/// Shows or changes whether plain HTTP is sent on to HTTPS.
pub(crate) async fn https(args: HttpsArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let mut client = connect(settings).await?;
    let words = |m: &wire::Manners| match m.hsts_seconds {
        Some(seconds) => format!("{}, hsts {seconds}s", on_or_off(m.https_only)),
        None => on_or_off(m.https_only).to_owned(),
    };
    let answer = if args.to.is_none() && args.hsts.is_none() {
        show(&mut client, printer, words).await?
    } else {
        let treat =
            wire::Treat { https_only: args.to.map(|to| matches!(to, Switch::On)), hsts_seconds: args.hsts, ..wire::Treat::default() };
        let app = client.deploy.app.clone();
        change(&mut client, &treat, printer, |m| format!("HTTPS only for {app}... done, {}{}", words(m), later(m))).await?
    };
    // In JSON it stands among the rest.
    if let Some(warning) = answer.warning.filter(|_| !printer.is_json()) {
        printer.note(&warning);
    }
    Ok(0)
}

async fn connect(settings: &Settings) -> Result<Client> {
    Client::connect(settings, target::find(settings).await?).await
}

async fn show(client: &mut Client, printer: &Printer, words: impl Fn(&wire::Manners) -> String) -> Result<wire::Manners> {
    let answer: wire::Manners = client.get("/manners").await?;
    if printer.is_json() {
        printer.json(&answer);
    } else {
        printer.line(&words(&answer));
    }
    Ok(answer)
}

async fn change(
    client: &mut Client,
    treat: &wire::Treat,
    printer: &Printer,
    words: impl Fn(&wire::Manners) -> String,
) -> Result<wire::Manners> {
    let answer: wire::Manners = client.call(Method::PATCH, "/manners", treat).await?;
    if printer.is_json() {
        printer.json(&answer);
    } else {
        printer.confirm(&words(&answer));
    }
    Ok(answer)
}

fn later(manners: &wire::Manners) -> &'static str {
    if manners.serving { "" } else { "; the next `dozen up` goes by it" }
}

fn on_or_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, want) in [("30s", 30), ("2m", 120), ("1h 30m", 5_400), ("180d", 15_552_000)] {
            assert_eq!(seconds(text), Ok(want), "{text}");
        }
        for text in ["", "0s", "30", "-1s", "1y", "4000d", "99999999999999999999d"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert_eq!((hsts("off"), hsts("1h")), (Ok(0), Ok(3_600)));
    }
}
