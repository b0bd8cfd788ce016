//! `dozen server sshd-config`: what the host's sshd has to be told, so that people push over SSH.

use crate::client::Told;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::{Context, Result};
use clap::Args;
use dozen_engine::codebase::ssh;
use std::os::unix::fs::MetadataExt;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct SshdArgs {
    /// The account that people push to; by default the owner of dozen's home
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
}

/// Prints it.
pub(crate) fn run(args: SshdArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let account = match args.account {
        Some(account) => account,
        None => owner(settings)?,
    };
    printer.data(ssh::sshd_config(&settings.home, &account).trim_end());
    Ok(0)
}

/// The name of the home's owner, who is the only one that may speak for people there.
fn owner(settings: &Settings) -> Result<String> {
    let root = settings.home.root();
    let uid = std::fs::metadata(root).with_context(|| format!("there is no dozen's home at {}", root.display()))?.uid();
    let all = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let found = all.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| fields[0].to_owned())
    });
    let hint = "Name the account: --account NAME.".to_owned();
    found.ok_or_else(|| Told::failed(format!("/etc/passwd has no name for uid {uid}, who owns {}", root.display()), Some(hint)).into())
}
