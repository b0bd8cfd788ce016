//! What goes over the API, and what `--json` prints: the same shapes.

use dozen_core::logs::{Filter, Source};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A deploy.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Info {
    pub(crate) deploy: String,
    pub(crate) serving: bool,
    pub(crate) pid: u32,
    pub(crate) url: Option<String>,
    pub(crate) release: Option<String>,
}

/// `ps`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Processes {
    pub(crate) deploy: String,
    pub(crate) serving: bool,
    pub(crate) url: Option<String>,
    pub(crate) release: String,
    /// As it can be pasted back: `web=2 worker=1`.
    pub(crate) formation: String,
    pub(crate) types: Vec<ProcessType>,
    pub(crate) processes: Vec<Process>,
}

/// A line of the Procfile and its count.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ProcessType {
    pub(crate) name: String,
    pub(crate) quantity: u32,
    pub(crate) command: String,
}

/// One instance.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) since: String,
    pub(crate) release: String,
    pub(crate) restarts: u32,
    pub(crate) port: Option<u16>,
    pub(crate) pid: Option<u32>,
    pub(crate) isolation: Option<String>,
    pub(crate) last_exit_code: Option<i32>,
}

/// `ps scale`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Scale {
    pub(crate) changes: Vec<String>,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Formation {
    pub(crate) formation: String,
    pub(crate) serving: bool,
}

/// `ps restart`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Restart {
    pub(crate) target: Option<String>,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Restarted {
    pub(crate) restarted: usize,
}

/// `logs`
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Logs {
    /// A number, or `all`.
    #[serde(default)]
    pub(crate) n: Option<String>,
    #[serde(default)]
    pub(crate) tail: bool,
    #[serde(default)]
    pub(crate) ps: Option<String>,
    #[serde(default)]
    pub(crate) source: Option<String>,
}

impl Logs {
    /// How many of the last lines; `None` for all.
    pub(crate) fn number(&self) -> Option<usize> {
        match self.n.as_deref() {
            Some("all") => None,
            Some(n) => Some(n.parse().unwrap_or(100)),
            None => Some(100),
        }
    }

    /// Which lines.
    pub(crate) fn filter(&self) -> Result<Filter, String> {
        let source = match self.source.as_deref() {
            None => None,
            Some("app") => Some(Source::App),
            Some("dozen") => Some(Source::Dozen),
            Some(other) => return Err(format!("there is no log source {other:?}: it is `app` or `dozen`")),
        };
        Ok(Filter { ps: self.ps.clone(), source })
    }
}

/// `config`, values included: only the owner may ask.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Config {
    pub(crate) vars: BTreeMap<String, Var>,
}

/// One variable.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Var {
    pub(crate) value: String,
    pub(crate) origin: String,
    /// Whether listings mask it.
    pub(crate) secret: bool,
}

impl std::fmt::Debug for Var {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Var({} bytes)", self.value.len())
    }
}

/// `config set` and `unset`
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Configure {
    #[serde(default)]
    pub(crate) set: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) unset: Vec<String>,
    #[serde(default)]
    pub(crate) plain: bool,
}

/// Its answer: names only.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Configured {
    pub(crate) set: Vec<String>,
    pub(crate) unset: Vec<String>,
    pub(crate) release: Option<String>,
    pub(crate) serving: bool,
}

/// `releases`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Releases {
    pub(crate) releases: Vec<Release>,
}

/// One release.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Release {
    pub(crate) version: String,
    pub(crate) current: bool,
    pub(crate) status: String,
    pub(crate) description: String,
    pub(crate) failure: Option<String>,
    /// Whether all of its processes were ever up at once.
    pub(crate) came_up: bool,
    pub(crate) slug: String,
    pub(crate) created_at: String,
    pub(crate) created_by: String,
}

/// `rollback`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Rollback {
    pub(crate) to: Option<String>,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct RolledBack {
    pub(crate) to: String,
    pub(crate) release: String,
}

/// `run` and `console`
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Run {
    /// What the app's shell runs; none for the app's console.
    pub(crate) command: Option<String>,
    /// Of this release; by default the current one.
    #[serde(default)]
    pub(crate) release: Option<String>,
    /// For this run only.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// It gets a terminal like this.
    #[serde(default)]
    pub(crate) terminal: Option<Terminal>,
    /// It has no caller; what it writes goes to the log.
    #[serde(default)]
    pub(crate) detach: bool,
    /// It is stopped after so many seconds.
    #[serde(default)]
    pub(crate) seconds: Option<u32>,
}

/// The caller's terminal.
#[derive(Serialize, Deserialize)]
pub(crate) struct Terminal {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
    /// `TERM` and what else is known of it.
    pub(crate) env: BTreeMap<String, String>,
}

/// A one-off that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Began {
    pub(crate) run: String,
    pub(crate) release: String,
    /// Masked.
    pub(crate) command: String,
    /// The app names no console, and this is a shell instead.
    pub(crate) plain_shell: bool,
}

/// `runs`
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Runs {
    pub(crate) runs: Vec<OneOff>,
}

/// How many, the latest first; by default all.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RunsQuery {
    #[serde(default)]
    pub(crate) n: Option<usize>,
}

/// A one-off on record.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct OneOff {
    pub(crate) run: String,
    /// `running`, `ended`, or `lost`: whoever ran it is gone and could not say how it ended.
    pub(crate) state: String,
    pub(crate) exit_code: Option<i32>,
    pub(crate) started_at: String,
    pub(crate) ended_at: Option<String>,
    pub(crate) seconds: Option<f64>,
    pub(crate) release: String,
    pub(crate) started_by: String,
    /// Masked.
    pub(crate) command: String,
}

/// `runs stop`, and its answer
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StopRun {
    pub(crate) run: String,
}

/// `config --json`: secrets masked, unless `--show` was given.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ConfigListing {
    /// By name.
    pub(crate) vars: BTreeMap<String, ShownVar>,
}

/// A variable as a listing shows it.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ShownVar {
    /// Perhaps a mask.
    pub(crate) value: String,
    /// Where it comes from: `set`, `dotenv`, `app.json`.
    pub(crate) origin: String,
}

/// `config get --json`
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ConfigValue {
    /// Its name.
    pub(crate) name: String,
    /// Unmasked.
    pub(crate) value: String,
    /// Where it comes from.
    pub(crate) origin: String,
}

/// `down --json`
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Stopped {
    /// `shop/dev`
    pub(crate) deploy: String,
    /// Always true: one that did not stop is an error.
    pub(crate) stopped: bool,
}

/// `down`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Stopping {
    pub(crate) pid: u32,
}

/// What went wrong.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Problem {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}
