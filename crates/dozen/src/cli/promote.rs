//! `dozen promote`: the code of one deploy, as it is, for another one of the same app.

use super::{Usage, deploy, target};
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::{Result, bail};
use clap::Args;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    /// The deploy that gets the code
    #[arg(long, value_name = "DEPLOY", default_value = crate::house::PRODUCTION)]
    to: String,
}

/// Promotes.
pub(crate) async fn run(args: PromoteArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let from = target::find(settings).await?;
    let to = deploy::beside(&args.to, &from)?;
    if to.app != from.app {
        bail!(Usage(format!("{to} is another app's; a release is promoted between deploys of one app")));
    }
    if to == from {
        bail!(Usage(format!("{from} cannot be promoted to itself; name the deploy that it comes from with -a APP/DEPLOY")));
    }
    target::known(settings, &to).await?;
    deploy::promote(&from, &to, settings, printer).await
}
