//! The project's own chores: `cargo xtask test | bench NAME | soak NAME | fuzz`.
//!
//! What CI runs is what a contributor runs. Steps run in one order and stop at the first that fails, by name.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing to a person is all that this program is for")]

mod api;
mod bench;
mod deploy;
mod fuzz;
mod guest;
mod guestbook;
mod machine;
mod postgres;
mod process;
mod router;
mod soak;
mod supervise;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask test                              everything that CI checks
cargo xtask tidy                              the rules of the house that no compiler knows
cargo xtask bench up [--rounds N]             `dozen up` beside the bare commands, in one run
cargo xtask bench supervise [--rounds N]      50 processes and a killed router, beside s6, runit, supervisor, honcho, foreman, bubblewrap
cargo xtask bench router [--rounds N] [--rows WORD,WORD]
                                              a request's cost in the router, beside nginx, HAProxy and Caddy; with --rows those alone
                                              that are called so (`tls`, `kept-64`), and benches/router.json stays as it is
cargo xtask soak up [--rounds N] [--seed N]   `dozen up` under SIGKILL
cargo xtask soak supervise [--rounds N] [--seed N] [--deploys N]
                                              control parts and routers under SIGKILL, with load
cargo xtask soak framing [--rounds N] [--seed N]
                                              random and spoiled requests through the router to Node, which must read them alike
cargo xtask soak router [--seconds N] [--seed N]
                                              the router: tables swapped, instances and routers that leave and die, each answer checked
cargo xtask soak deploy [--rounds N] [--seed N]
                                              a server under SIGKILL, in the midst of pushes, config, rollbacks, promotions
cargo xtask soak api [--rounds N] [--seed N]  requests made from docs/openapi.json, so many for each route: none has a 5xx
cargo xtask soak guest [top|root|login|scope] sizes and fences in a QEMU guest that has cgroup v2 alone
cargo xtask fuzz [--seconds N] [TARGET]       each fuzz target for so long (600 s), or one
bench and soak build dozen, or take a built one with --binary PATH";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test"] => return test::run(),
        ["tidy"] => tidy::run(root()),
        ["bench", "up", options @ ..] => options_of(options, 5).and_then(|options| bench::up::run_all(root(), &options)),
        ["bench", "supervise", options @ ..] => options_of(options, 5).and_then(|options| bench::supervise::run_all(root(), &options)),
        ["bench", "router", options @ ..] => options_of(options, 3).and_then(|options| bench::router::run_all(root(), &options)),
        ["soak", "up", options @ ..] => options_of(options, 50).and_then(|options| soak::up(root(), &options)),
        ["soak", "supervise", options @ ..] => options_of(options, 100).and_then(|options| supervise::run_all(&options)),
        ["soak", "framing", options @ ..] => options_of(options, 50_000).and_then(|options| soak::framing(&options)),
        ["soak", "router", options @ ..] => options_of(options, 1).and_then(|options| router::soak::run_all(&options)),
        ["soak", "deploy", options @ ..] => options_of(options, 1000).and_then(|options| deploy::run_all(&options)),
        ["soak", "api", options @ ..] => options_of(options, 50).and_then(|options| api::run_all(root(), &options)),
        ["soak", "guest"] => guest::run_all(root(), ""),
        ["soak", "guest", only] => guest::run_all(root(), only),
        ["fuzz", options @ ..] => fuzz_options(options).and_then(|options| fuzz::run(root(), &options)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the workspace, whatever folder we were started in.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

fn fuzz_options(words: &[&str]) -> anyhow::Result<fuzz::Options> {
    let (seconds, rest) = match words {
        ["--seconds", count, rest @ ..] => (count.parse()?, rest),
        rest => (600, rest),
    };
    match rest {
        [] => Ok(fuzz::Options { seconds, target: None }),
        [target] if !target.starts_with('-') => Ok(fuzz::Options { seconds, target: Some((*target).to_owned()) }),
        other => anyhow::bail!("unknown or incomplete option {other:?}\n{USAGE}"),
    }
}

struct Options {
    rounds: u32,
    seed: u64,
    /// Of `soak supervise`.
    deploys: u32,
    /// Of `soak router`.
    seconds: u64,
    /// Of `bench router`; none is all.
    rows: Vec<String>,
    binary: Option<PathBuf>,
}

impl Options {
    /// The binary that was named, or else one that is built now, as it is debugged.
    fn dozen(&self) -> anyhow::Result<PathBuf> {
        if let Some(path) = &self.binary {
            return Ok(path.clone());
        }
        process::run(&mut process::cargo(&["build", "--quiet", "--locked", "--package", "dozen"]))?;
        Ok(machine::target()?.join("debug/dozen"))
    }
}

fn options_of(words: &[&str], rounds: u32) -> anyhow::Result<Options> {
    let mut options = Options { rounds, seed: rand::random(), deploys: 20, seconds: 120, rows: Vec::new(), binary: None };
    for pair in words.chunks(2) {
        match *pair {
            ["--rounds", count] => options.rounds = count.parse()?,
            ["--deploys", count] => options.deploys = count.parse()?,
            ["--seconds", count] => options.seconds = count.parse()?,
            ["--seed", seed] => options.seed = seed.parse()?,
            ["--rows", words] => options.rows = words.split(',').map(str::to_owned).collect(),
            ["--binary", path] => options.binary = Some(std::fs::canonicalize(path)?),
            _ => anyhow::bail!("unknown or incomplete option {pair:?}\n{USAGE}"),
        }
    }
    anyhow::ensure!(
        options.rounds > 0 && options.deploys > 0 && options.seconds > 0,
        "--rounds, --deploys and --seconds must be at least 1"
    );
    Ok(options)
}
