//! `dozen man`: the manual pages, made from what `--help` says.

use super::Cli;
use crate::printer::Printer;
use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write a page for each command into this folder, as dozen.1, dozen-up.1, …
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// Prints the page of dozen itself, or writes all of them.
pub(crate) fn run(args: &ManArgs, printer: &Printer) -> Result<()> {
    let mut command = Cli::command();
    // Subcommands get their full names only by this.
    command.build();
    let Some(folder) = &args.to else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).context("cannot make the manual page")?;
        printer.bytes(&page);
        return Ok(());
    };
    let writing = || format!("cannot write manual pages to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(writing)?;
    clap_mangen::generate_to(command, folder).with_context(writing)
}
