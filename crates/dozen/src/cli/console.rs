//! `dozen console`: a one-off with the app's own shell, as app.json, the Procfile or the language names it.

use super::run::{self, OneOffArgs};
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::Result;
use clap::Args;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct ConsoleArgs {
    #[command(flatten)]
    one_off: OneOffArgs,
}

/// Runs it; answers its exit code.
pub(crate) async fn run(args: ConsoleArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    run::attach(args.one_off.request(Vec::new())?, args.one_off.wants_terminal(), settings, printer).await
}
