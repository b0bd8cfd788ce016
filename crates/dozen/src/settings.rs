//! Flags and environment resolved into one struct; the only place that reads dozen's own environment variables.

use crate::cli::Common;
use crate::printer::{Format, Printer};
use anyhow::{Context, Result, bail};
use dozen_engine::home::Home;
use std::path::PathBuf;

/// What every command needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Where the state is.
    pub(crate) home: Home,
    /// The dozen binary itself, for jails and the router.
    pub(crate) exe: PathBuf,
    /// `-a`, as given.
    pub(crate) app: Option<String>,
    /// How to print.
    pub(crate) format: Format,
    /// `--no-color`.
    pub(crate) colour: bool,
    /// `-q`
    pub(crate) quiet: bool,
}

impl Settings {
    /// Flags win over `DOZEN_HOME` and the XDG state folder.
    pub(crate) fn resolve(common: &Common, stateless: bool) -> Result<Self> {
        // A home that can hold nothing, for what keeps nothing.
        let home = if stateless { PathBuf::from("/dev/null") } else { home_folder()? };
        let home = std::path::absolute(home).context("cannot tell the current folder")?;
        // /proc/self/exe stays the running binary even when the file was replaced by a newer one meanwhile.
        let exe = PathBuf::from("/proc/self/exe");
        let format = if common.json { Format::Json } else { Format::Text };
        Ok(Self { home: Home::at(home), exe, app: common.app.clone(), format, colour: !common.no_color, quiet: common.quiet })
    }

    /// The printer that these settings ask for.
    pub(crate) fn printer(&self) -> Printer {
        Printer::new(self.format, self.colour, self.quiet)
    }
}

/// Sends dozen's own trace to standard error where `DOZEN_LOG` asks for it: `debug`, `dozen_engine=trace`. For those who mend dozen; an app's
/// lines are never part of it.
pub(crate) fn trace() {
    if let Some(filter) = std::env::var("DOZEN_LOG").ok().filter(|f| !f.is_empty()) {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
}

fn home_folder() -> Result<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(home) = var("DOZEN_HOME") {
        return Ok(home);
    }
    if let Some(state) = var("XDG_STATE_HOME").filter(|p| p.is_absolute()) {
        return Ok(state.join("dozen"));
    }
    match var("HOME") {
        Some(home) => Ok(home.join(".local/state/dozen")),
        None => bail!("cannot tell where to keep state: neither DOZEN_HOME, XDG_STATE_HOME nor HOME is set; set DOZEN_HOME"),
    }
}
