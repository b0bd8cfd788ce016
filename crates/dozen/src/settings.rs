//! Flags and environment resolved into one struct; the only place that reads dozen's own environment variables.

use crate::cli::{Common, Place, Usage};
use crate::printer::{Format, Printer};
use crate::remote::logins::Logins;
use crate::remote::{self, Remote, ServerUrl};
use anyhow::{Context, Result, bail};
use dozen_engine::home::Home;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What every command needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Where the state is.
    pub(crate) home: Home,
    /// The dozen binary itself, for jails and the router.
    pub(crate) exe: PathBuf,
    /// `-a`, as given.
    pub(crate) app: Option<String>,
    /// The server that the command is for; `None` is this machine.
    pub(crate) remote: Option<Remote>,
    /// The servers that one is logged in to.
    pub(crate) logins: Logins,
    /// The authority that is given for a server, PEM.
    pub(crate) authority: Option<String>,
    /// How much of the disk slugs and build caches may take.
    pub(crate) disk_budget: u64,
    /// How to print.
    pub(crate) format: Format,
    /// `--no-color`.
    pub(crate) colour: bool,
    /// `-q`
    pub(crate) quiet: bool,
    /// Sockets that were opened for this process, each with its name.
    pub(crate) given: Arc<Vec<(String, OwnedFd)>>,
}

impl Settings {
    /// Flags win over `DOZEN_HOME` and the XDG state folder, over `DOZEN_SERVER` and the folder's git remote.
    pub(crate) fn resolve(common: &Common, place: &Place) -> Result<Self> {
        // A home that can hold nothing, for what keeps nothing.
        let home = if matches!(place, Place::Nowhere | Place::Login) { PathBuf::from("/dev/null") } else { home_folder()? };
        let home = std::path::absolute(home).context("cannot tell the current folder")?;
        // /proc/self/exe stays the running binary even when the file was replaced by a newer one meanwhile.
        let exe = PathBuf::from("/proc/self/exe");
        let format = if common.json { Format::Json } else { Format::Text };
        let logins = Logins::of(config_folder().map(|folder| folder.join("dozen")));
        let (mut remote, mut authority) = (None, None);
        match place {
            Place::Here(what) if common.server.as_deref().is_some_and(|server| server != "local") => {
                bail!(Usage(format!("`dozen {what}` is about this machine alone, and takes no --server")))
            }
            Place::Anywhere | Place::Server | Place::Login => {
                let file = common.ca.clone().or_else(|| var("DOZEN_CA").map(PathBuf::from));
                authority = file.as_deref().map(certificates).transpose()?;
                if !matches!(place, Place::Login) {
                    let said = remote::Said {
                        server: common.server.clone().or_else(|| text("DOZEN_SERVER")),
                        token: text("DOZEN_TOKEN"),
                        authority: authority.clone(),
                        app: common.app.is_some(),
                        only: matches!(place, Place::Server),
                    };
                    let folder = std::env::current_dir().unwrap_or_default();
                    remote = remote::choose(said, &logins, &folder)?;
                }
            }
            Place::Here(_) | Place::Nowhere => {}
        }
        let app = common.app.clone();
        let budget = text("DOZEN_DISK_BUDGET").map(|text| crate::cli::size(&text)).transpose();
        let disk_budget = budget.map_err(|e| Usage(format!("DOZEN_DISK_BUDGET: {e}")))?.unwrap_or(dozen_engine::release::collect::BUDGET);
        Ok(Self {
            disk_budget,
            home: Home::at(home),
            exe,
            app,
            remote,
            logins,
            authority,
            format,
            colour: !common.no_color,
            quiet: common.quiet,
            given: Arc::default(),
        })
    }

    /// Who one is at a server, and the token that says so: what the environment has for it, else what `login` kept.
    pub(crate) fn token_for(&self, url: &ServerUrl) -> Result<Option<(String, String)>> {
        let named = text("DOZEN_SERVER").and_then(|server| server.parse::<ServerUrl>().ok());
        if let Some(token) = text("DOZEN_TOKEN").filter(|_| named.as_ref() == Some(url)) {
            return Ok(Some(("dozen".to_owned(), token)));
        }
        Ok(self.logins.find(url)?.map(|login| (login.user.clone(), login.token().to_owned())))
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

fn var(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn certificates(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read the authority's certificate {}", file.display()))
}

/// Where a person keeps settings.
fn config_folder() -> Option<PathBuf> {
    let of_xdg = var("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    of_xdg.or_else(|| Some(PathBuf::from(var("HOME")?).join(".config")))
}

fn home_folder() -> Result<PathBuf> {
    let var = |name| var(name).map(PathBuf::from);
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
