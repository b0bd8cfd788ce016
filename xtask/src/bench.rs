//! `cargo xtask bench …`: what is measured beside its peers, in one run, and written to `benches/`.
//!
//! A run goes in rounds, each in the other order than the last, so that a noisy neighbour meets every case; what counts are the ratios.

pub(crate) mod router;
pub(crate) mod supervise;
pub(crate) mod up;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::machine::target;
use crate::process::{cargo, program, read, run};

#[derive(Debug, Clone, Copy)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    /// Of at least one sample.
    fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Self { min: sorted[0], median, max: sorted[sorted.len() - 1] }
    }
}

/// Three digits behind the point, for the written report.
fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

/// The dozen that is measured: the one given, or one built as it is shipped.
fn shipped(binary: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(path) = binary {
        return Ok(path);
    }
    println!("building dozen as it is shipped (profile dist) ...");
    run(&mut cargo(&["build", "--quiet", "--locked", "--profile", "dist", "--package", "dozen"]))?;
    Ok(target()?.join("dist/dozen"))
}

/// Writes `benches/NAME.json`: what was measured, where, and what `more` has of it.
fn write(root: &Path, name: &str, what: &str, rounds: u32, more: &Value) -> Result<()> {
    let first = |path: &str, key: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim_matches([' ', '\t', ':']).to_owned())
    };
    let mut report = json!({
        "what": what,
        "commit": read(program("git").args(["rev-parse", "--short", "HEAD"]).current_dir(root)).ok().map(|hash| hash.trim().to_owned()),
        "cpu": first("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().map(usize::from).ok(),
        "kernel": first("/proc/sys/kernel/osrelease", ""),
        "rounds": rounds,
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        report[key] = value.clone();
    }
    let path = root.join("benches").join(name).with_extension("json");
    std::fs::create_dir_all(root.join("benches"))?;
    std::fs::write(&path, format!("{report:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    println!("\nwritten: {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn a_spread_is_of_sorted_samples() {
        let odd = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!((odd.min, odd.median, odd.max), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
    }
}
