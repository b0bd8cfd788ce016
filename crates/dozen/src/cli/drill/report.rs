//! What a user of the app would have seen. Pure.

use super::faults::Struck;
use crate::api::wire;
use crate::printer::{seconds, table};
use std::collections::BTreeMap;
use std::time::Duration;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    /// When it began, since the drill did.
    pub(crate) at: Duration,
    /// Until its answer was read.
    pub(crate) took: Duration,
    pub(crate) outcome: Outcome,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer.
    Status(u16),
    /// None.
    Failed(String),
}

impl Sample {
    /// An error of the app's own making is an answer too, but not one that it gave before the drill: so 5xx counts as failed.
    fn failed(&self) -> bool {
        !matches!(self.outcome, Outcome::Status(status) if status < 500)
    }

    /// Whether the router answered, whatever it said.
    pub(crate) fn is_answered(&self) -> bool {
        matches!(self.outcome, Outcome::Status(_))
    }

    fn end(&self) -> Duration {
        self.at + self.took
    }
}

/// Puts it together. `logged` counts the requests that the router's log has.
pub(crate) fn report(
    struck: &[Struck],
    samples: &[Sample],
    before: &wire::Processes,
    after: Option<&wire::Processes>,
    logged: Option<usize>,
    seed: u64,
) -> wire::Drilled {
    let faults = struck.iter().enumerate().map(|(i, s)| {
        // From this one to the next: what it did shows in between, but for requests that were open already.
        let next = struck.get(i + 1).map_or(Duration::MAX, |s| s.at);
        let within: Vec<&Sample> = samples.iter().filter(|r| r.end() >= s.at && r.end() < next).collect();
        wire::Struck {
            at_seconds: s.at.as_secs_f64(),
            fault: s.fault.word(),
            target: s.target.clone(),
            skipped: s.skipped.clone(),
            failed: within.iter().filter(|r| r.failed()).count(),
            longest_gap_seconds: longest_gap(&within).as_secs_f64(),
            back_after_seconds: s.back.map(|b| b.as_secs_f64()),
        }
    });
    let mut causes: BTreeMap<String, usize> = BTreeMap::new();
    for sample in samples.iter().filter(|s| s.failed()) {
        let cause = match &sample.outcome {
            Outcome::Status(status) => format!("status {status}"),
            Outcome::Failed(why) => why.clone(),
        };
        *causes.entry(cause).or_default() += 1;
    }
    let restarts = |p: &wire::Processes| p.processes.iter().map(|p| u64::from(p.restarts)).sum::<u64>();
    let all: Vec<&Sample> = samples.iter().collect();
    // Whoever got no connection was not seen by the router.
    let answered = samples.iter().filter(|s| s.is_answered()).count();
    let mut took: Vec<Duration> = samples.iter().map(|s| s.took).collect();
    took.sort();
    let slowest = took.last().copied().unwrap_or_default();
    wire::Drilled {
        deploy: before.deploy.clone(),
        release: before.release.clone(),
        seed,
        requests: samples.len(),
        failed: samples.iter().filter(|s| s.failed()).count(),
        causes,
        median_seconds: took.get(took.len() / 2).copied().unwrap_or_default().as_secs_f64(),
        slowest_seconds: slowest.as_secs_f64(),
        longest_gap_seconds: longest_gap(&all).as_secs_f64(),
        restarts: after.map_or(0, |after| restarts(after).saturating_sub(restarts(before))),
        router_lines_lost: logged.map(|n| answered.saturating_sub(n)),
        faults: faults.collect(),
    }
}

/// The longest time without an answer.
fn longest_gap(samples: &[&Sample]) -> Duration {
    let mut ends: Vec<Duration> = samples.iter().filter(|s| !s.failed()).map(|s| s.end()).collect();
    ends.sort();
    // A fault that lets nothing through at all has a gap as long as what was asked meanwhile.
    let (first, last) = (samples.iter().map(|s| s.at).min(), samples.iter().map(|s| s.end()).max());
    let all: Vec<Duration> = first.into_iter().chain(ends).chain(last).collect();
    all.windows(2).map(|w| w[1].saturating_sub(w[0])).max().unwrap_or_default()
}

impl wire::Drilled {
    /// Whether a user of the app, or a reader of its logs, missed anything.
    pub(super) fn lost(&self) -> bool {
        self.failed > 0 || self.router_lines_lost.is_some_and(|n| n > 0)
    }
}

/// For people.
pub(crate) fn text(drilled: &wire::Drilled) -> String {
    let time = |s: f64| if s < 1.0 { format!("{:.0}ms", s.max(0.0) * 1000.0) } else { seconds(Duration::from_secs_f64(s)) };
    let rows: Vec<Vec<String>> = drilled
        .faults
        .iter()
        .map(|f| {
            let what = f.target.as_ref().map_or_else(|| f.fault.clone(), |t| format!("{} {t}", f.fault));
            match &f.skipped {
                Some(why) => vec![time(f.at_seconds), format!("{} skipped: {why}", f.fault), "-".into(), "-".into(), "-".into()],
                None => vec![
                    time(f.at_seconds),
                    what,
                    f.failed.to_string(),
                    time(f.longest_gap_seconds),
                    f.back_after_seconds.map_or_else(|| "never".to_owned(), time),
                ],
            }
        })
        .collect();
    let mut lines = vec![format!("=== {} {}", drilled.deploy, drilled.release)];
    lines.push(table(&["AT", "FAULT", "FAILED", "GAP", "BACK AFTER"], &rows));
    lines.push(String::new());
    let causes: Vec<String> = drilled.causes.iter().map(|(cause, n)| format!("{n} × {cause}")).collect();
    let causes = if causes.is_empty() { String::new() } else { format!(": {}", causes.join(", ")) };
    if drilled.requests > 0 {
        lines.push(format!("{} requests, {} failed{causes}", drilled.requests, drilled.failed));
        let (median, slowest) = (time(drilled.median_seconds), time(drilled.slowest_seconds));
        lines.push(format!(
            "Longest time without an answer {}; half of the answers within {median}, the slowest after {slowest}",
            time(drilled.longest_gap_seconds)
        ));
    }
    if let Some(lost) = drilled.router_lines_lost.filter(|_| drilled.requests > 0) {
        lines.push(format!("Lines of the router lost: {lost}"));
    }
    lines.push(format!("Restarts after a crash: {}", drilled.restarts));
    lines.push(if drilled.lost() { "Something was lost.".into() } else { "Nothing was lost.".to_owned() });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64, took: u64, status: u16) -> Sample {
        let outcome = if status == 0 { Outcome::Failed("connection refused".into()) } else { Outcome::Status(status) };
        Sample { at: Duration::from_millis(at), took: Duration::from_millis(took), outcome }
    }

    #[test]
    fn a_gap_is_the_time_without_an_answer() {
        let all = [sample(0, 10, 200), sample(100, 10, 503), sample(200, 10, 0), sample(300, 400, 404), sample(400, 10, 200)];
        let gap = |n: &[Sample]| longest_gap(&n.iter().collect::<Vec<_>>()).as_millis();
        assert_eq!(gap(&all), 400);
        assert_eq!(gap(&all[1..3]), 110, "no answer at all");
        assert_eq!(gap(&[]), 0);
    }
}
