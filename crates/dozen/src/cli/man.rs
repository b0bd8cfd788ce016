//! `dozen man`: the manual pages, made from what `--help` says.

use super::{Cli, Usage};
use crate::printer::Printer;
use anyhow::{Context, Result, bail};
use clap::{Args, Command, CommandFactory};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Of this command: run, config set; by default of dozen itself
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write a page for each command into this folder, as dozen.1, dozen-up.1, …
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    to: Option<PathBuf>,
}

/// What no page of a command says by itself.
const MORE: &str = r#".SH EXIT STATUS
0: done. 1: what was asked for failed. 2: the command line makes no sense, or dozen itself failed.
\fBdozen run\fR and \fBdozen console\fR pass on the code of the process: its own, 128 + n where signal n ended it, 126 and 127 as a shell does.
.SH ENVIRONMENT
.TP
DOZEN_HOME
Where state is kept; else $XDG_STATE_HOME/dozen, else ~/.local/state/dozen.
.TP
NO_COLOR
No colours.
.SH SEE ALSO
\fBdozen\fR(1), \fBdozen-up\fR(1), \fBdozen-run\fR(1), \fBdozen-config\fR(1), \fBdozen-releases\fR(1), \fBdozen-logs\fR(1)
"#;

/// Prints a page, or writes all of them.
pub(crate) fn run(args: &ManArgs, printer: &Printer) -> Result<()> {
    let mut all = Cli::command().disable_help_subcommand(true);
    // Subcommands get their full names only by this.
    all.build();
    let Some(folder) = &args.to else {
        let mut command = &all;
        for word in &args.command {
            let Some(next) = command.find_subcommand(word) else {
                bail!(Usage(format!("there is no command `{}`", args.command.join(" "))))
            };
            command = next;
        }
        printer.bytes(&page(command)?.1);
        return Ok(());
    };
    let writing = || format!("cannot write manual pages to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(writing)?;
    let mut queue = vec![&all];
    while let Some(command) = queue.pop() {
        let (name, text) = page(command)?;
        std::fs::write(folder.join(name), text).with_context(writing)?;
        queue.extend(command.get_subcommands().filter(|c| !c.is_hide_set()));
    }
    Ok(())
}

/// A page's file name and text.
fn page(command: &Command) -> Result<(String, Vec<u8>)> {
    let man = clap_mangen::Man::new(command.clone());
    let mut text = Vec::new();
    man.render(&mut text).context("cannot make the manual page")?;
    text.extend_from_slice(MORE.as_bytes());
    Ok((man.get_filename(), text))
}
