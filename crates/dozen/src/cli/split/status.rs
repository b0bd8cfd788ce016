//! `dozen split status`: the releases of a split side by side.

use crate::api::wire;
use crate::cli::ps::watch::{self, Watched};
use crate::cli::releases::when;
use crate::client::Client;
use crate::printer::{Column, Printer, listing};
use crate::settings::Settings;
use anyhow::Result;
use dozen_core::ids::DeployRef;
use std::time::Duration;

/// Shows it once, or again and again.
pub(super) async fn run(settings: &Settings, deploy: DeployRef, every: Option<Duration>, printer: &Printer) -> Result<i32> {
    if let Some(every) = every {
        return watch::run::<wire::SplitStatus>(settings, deploy, every, printer).await;
    }
    let mut client = Client::connect(settings, deploy).await?;
    let answer: wire::SplitStatus = client.get(wire::SplitStatus::PATH).await?;
    if printer.is_json() {
        printer.json(&answer);
    } else {
        printer.line(&answer.text(printer.terminal().map(|(columns, _)| columns)));
    }
    Ok(0)
}

impl Watched for wire::SplitStatus {
    const PATH: &'static str = "/split/status";

    fn serving(&self) -> Option<bool> {
        None
    }

    fn steady(&self) -> Self {
        self.clone()
    }

    fn text(&self, width: Option<usize>) -> String {
        let Self { split, tried, current, releases } = self;
        if releases.is_empty() {
            return super::NONE.to_owned();
        }
        let above = split.abort_above.as_ref().map(|above| format!(", aborted above {above}")).unwrap_or_default();
        let sticky = if split.sticky == "no" { String::new() } else { format!(", sticky by {}", split.sticky) };
        let rows = |of: fn(&wire::SplitFigures) -> &wire::SplitSeen| -> Vec<Row> {
            let name = |figures: &wire::SplitFigures| match (tried, current) {
                (Some(tried), _) if *tried == figures.release => format!("{} (tried)", figures.release),
                (_, Some(current)) if *current == figures.release => format!("{} (current)", figures.release),
                _ => figures.release.clone(),
            };
            releases.iter().map(|figures| (name(figures), figures.share_asked, of(figures).clone())).collect()
        };
        let table = |rows: &[Row]| listing(&COLUMNS, rows, width, false);
        format!(
            "=== {} split since {}{above}{sticky}\n{}\n\n=== the last minute\n{}",
            split.deploy,
            split.since.as_deref().map(when).unwrap_or_default(),
            table(&rows(|figures| &figures.since)),
            table(&rows(|figures| &figures.last_minute)),
        )
    }
}

/// A release, its share as it was asked for, and what was seen.
type Row = (String, f64, wire::SplitSeen);

const COLUMNS: [Column<Row>; 8] = [
    Column { title: "RELEASE", rank: 0, cell: |r| r.0.clone() },
    Column { title: "ASKED", rank: 0, cell: |r| percent(Some(r.1)) },
    Column { title: "SEEN", rank: 0, cell: |r| percent(r.2.share) },
    Column { title: "REQUESTS", rank: 1, cell: |r| r.2.requests.to_string() },
    Column { title: "ERRORS", rank: 0, cell: |r| percent(r.2.error_percent) },
    Column { title: "P50", rank: 2, cell: |r| time(r.2.p50_ms) },
    Column { title: "P95", rank: 0, cell: |r| time(r.2.p95_ms) },
    Column { title: "P99", rank: 3, cell: |r| time(r.2.p99_ms) },
];

fn percent(percent: Option<f64>) -> String {
    percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.2}%"))
}

fn time(milliseconds: Option<f64>) -> String {
    milliseconds.map_or_else(|| "-".to_owned(), |ms| if ms < 100.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") })
}
