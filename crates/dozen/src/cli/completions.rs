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
    printer.bytes(&script);
}
