//! `dozen completions SHELL`: the script that lets a shell complete dozen's commands and options.

use super::Cli;
use crate::printer::Printer;
use clap::{Args, CommandFactory, ValueEnum};

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Whose
    shell: Shell,
}

/// The shells that there is a script for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionsArgs, printer: &Printer) {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "dozen", &mut script);
    printer.bytes(without_hidden(&String::from_utf8_lossy(&script)).as_bytes());
}

/// What --help does not show is not offered either: clap_complete does not look.
fn without_hidden(script: &str) -> String {
    const HIDDEN: &str = "lasting";
    let shown = script.lines().filter(|l| l.contains("opts=") || !l.contains(HIDDEN));
    shown.map(|l| format!("{}\n", l.replace(&format!(" --{HIDDEN}"), ""))).collect()
}
