//! `cargo xtask fuzz`: every fuzz target, one after another, for so many seconds each.
//!
//! What is found stays in `fuzz/artifacts`; what libFuzzer learns on the way stays in the target folder, and the inputs that are checked in
//! stay as they are.

use crate::process::{cargo, read};
use crate::{machine, process};
use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::process::Command;

/// How a run is asked for.
pub(crate) struct Options {
    /// For each target.
    pub(crate) seconds: u32,
    /// One target; otherwise all.
    pub(crate) target: Option<String>,
}

/// Builds each target and runs it; an error names the first that found something.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let all = targets(root)?;
    let wanted: Vec<&String> = all.iter().filter(|t| options.target.as_ref().is_none_or(|wanted| wanted == *t)).collect();
    if wanted.is_empty() {
        bail!("there is no fuzz target {}; there are {}", options.target.as_deref().unwrap_or_default(), all.join(", "));
    }
    if read(&mut cargo(&["fuzz", "--version"])).is_err() {
        bail!("cargo-fuzz is missing: cargo install cargo-fuzz --locked");
    }
    if !machine::on_path("c++") {
        bail!("a C++ compiler is missing (libFuzzer is compiled): apt install g++");
    }
    for target in wanted {
        println!("\n== fuzz {target} for {} s", options.seconds);
        let learnt = machine::target()?.join("fuzz-corpus").join(target);
        std::fs::create_dir_all(&learnt).with_context(|| format!("cannot make {}", learnt.display()))?;
        let seeds = root.join("fuzz/corpus").join(target);
        let mut run = fuzz(root, &["run", target])?;
        if target != "slug" {
            // Only that one needs the engine, which takes long to build.
            run.arg("--no-default-features");
        }
        // The first folder is written to, the second only read.
        run.args([&learnt, &seeds]).arg("--");
        run.arg(format!("-max_total_time={}", options.seconds));
        run.args(["-max_len=16384", "-timeout=20", "-rss_limit_mb=2048", "-malloc_limit_mb=512", "-print_final_stats=1", "-verbosity=0"]);
        process::run(&mut run)
            .with_context(|| format!("the target `{target}` found something; its input is in fuzz/artifacts/{target}"))?;
    }
    Ok(())
}

/// The binaries that fuzz/Cargo.toml declares.
fn targets(root: &Path) -> Result<Vec<String>> {
    let manifest = root.join("fuzz/Cargo.toml");
    let text = std::fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    let manifest: toml::Table = toml::from_str(&text).context("fuzz/Cargo.toml is no TOML")?;
    let bins = manifest.get("bin").and_then(toml::Value::as_array).context("fuzz/Cargo.toml has no targets")?;
    Ok(bins.iter().filter_map(|bin| Some(bin.get("name")?.as_str()?.to_owned())).collect())
}

/// cargo-fuzz with the compiler that everything else is built with: the sanitizer comes with it, and only asks for the word.
fn fuzz(root: &Path, args: &[&str]) -> Result<Command> {
    let mut fuzz = cargo(&["fuzz"]);
    fuzz.args(args).args(["--sanitizer", "address", "--fuzz-dir"]).arg(root.join("fuzz"));
    fuzz.arg("--target-dir").arg(machine::target()?.join("fuzz"));
    fuzz.env("RUSTC_BOOTSTRAP", "1");
    // Slugs are unpacked thousands of times a second: into memory, where there is such a folder.
    if Path::new("/dev/shm").is_dir() {
        fuzz.env("TMPDIR", "/dev/shm");
    }
    Ok(fuzz)
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_target_has_its_inputs() {
        let root = crate::root();
        let targets = super::targets(root).expect("declared");
        assert!(targets.len() >= 10, "{targets:?}");
        for target in targets {
            assert!(root.join("fuzz/fuzz_targets").join(&target).with_extension("rs").is_file(), "{target}");
            assert!(std::fs::read_dir(root.join("fuzz/corpus").join(&target)).is_ok_and(|d| d.count() >= 5), "{target}");
        }
    }
}
