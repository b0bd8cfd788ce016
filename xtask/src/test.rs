//! `cargo xtask test`: everything that CI checks, cheapest first, ending with one line that counts.

use std::io::{BufRead as _, BufReader};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::process::{cargo, run as finish};
use crate::{deploy, guestbook, machine, options_of, root, router, tidy};

#[derive(Default)]
struct Count {
    passed: u64,
    failed: u64,
}

/// All steps, or those before the first that fails. The last line counts tests either way.
pub(crate) fn run() -> ExitCode {
    let mut count = Count::default();
    let done = steps(&mut count);
    if let Err(error) = &done {
        println!("\nerror: {error:#}");
    }
    println!("\n{} passed, {} failed", count.passed, count.failed);
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn steps(count: &mut Count) -> Result<()> {
    step("machine", machine::prepare)?;
    step("fmt", || finish(&mut cargo(&["fmt", "--all", "--check"])))?;
    step("tidy", || tidy::run(root()))?;
    step("clippy", || finish(&mut cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])))?;
    step("deny", || {
        machine::cargo_deny()?;
        finish(&mut cargo(&["deny", "check", "bans", "licenses", "sources"]))
    })?;
    step("build", || finish(&mut cargo(&["build", "--quiet", "--workspace", "--locked"])))?;
    step("test", || cargo_test(count))?;
    step("soak", || {
        // The dozen that was just tested, in an order of events that is the same each time.
        let dozen = machine::target()?.join("debug/dozen");
        let options = ["--seconds", "6", "--seed", "12", "--binary", dozen.to_str().context("a path that is text")?];
        router::soak::run_all(&options_of(&options, 1)?)?;
        deploy::run_all(&options_of(&["--seed", "12", "--binary", options[5]], 20)?)
    })?;
    step("guestbook", || {
        let python = guestbook::venv(root(), &machine::target()?)?;
        count.passed += guestbook::test(root(), &python, "sqlite://:memory:")?;
        let postgres = crate::postgres::Postgres::start()?;
        count.passed += guestbook::test(root(), &python, &postgres.url())?;
        Ok(())
    })
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("\n== {name}");
    let begin = Instant::now();
    work().with_context(|| format!("step `{name}` failed"))?;
    println!("== {name} done in {:.1} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// Runs all tests, shows what they say as they say it, and adds up cargo's result lines.
fn cargo_test(count: &mut Count) -> Result<()> {
    let mut tests = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
    let mut child = tests.stdout(Stdio::piped()).spawn().context("cannot start `cargo test`")?;
    for line in BufReader::new(child.stdout.take().context("the pipe was just made")?).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some((passed, failed)) = result(&line) {
            count.passed += passed;
            count.failed += failed;
        }
    }
    let status = child.wait()?;
    match status.success() && count.passed > 0 {
        true => Ok(()),
        false => bail!("`cargo test` ended with {status}"),
    }
}

/// The numbers of a line like `test result: ok. 3 passed; 1 failed; 0 ignored; …`.
pub(crate) fn result(line: &str) -> Option<(u64, u64)> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut parts = numbers.split("; ");
    let passed = parts.next()?.strip_suffix(" passed")?.parse().ok()?;
    let failed = parts.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some((passed, failed))
}

#[cfg(test)]
mod tests {
    use super::result;

    #[test]
    fn cargos_result_line_is_read() {
        assert_eq!(result("test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s"), Some((3, 0)));
        assert_eq!(result("test result: FAILED. 41 passed; 2 failed; 0 ignored"), Some((41, 2)));
        assert_eq!(result("test tests::passes ... ok"), None);
        assert_eq!(result("test result: no idea"), None);
    }
}
