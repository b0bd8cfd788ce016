//! What goes over the API, and what `--json` prints: the same shapes.

use dozen_core::logs::{Filter, Source};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

mod backup;
mod builds;
mod certs;
mod delivery;
mod front;
mod keys;
mod people;
mod platform;
mod releases;
mod server;
mod slugs;
mod soundness;
mod split;
mod tests;

pub(crate) use backup::*;
pub(crate) use builds::*;
pub(crate) use certs::*;
pub(crate) use delivery::*;
pub(crate) use front::*;
pub(crate) use keys::*;
pub(crate) use people::*;
pub(crate) use platform::*;
pub(crate) use releases::*;
pub(crate) use server::*;
pub(crate) use slugs::*;
pub(crate) use soundness::*;
pub(crate) use split::*;
pub(crate) use tests::*;

/// A deploy.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Info {
    pub(crate) deploy: String,
    pub(crate) serving: bool,
    pub(crate) pid: u32,
    pub(crate) url: Option<String>,
    #[serde(default)]
    pub(crate) https_url: Option<String>,
    pub(crate) release: Option<String>,
}

/// `ps`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Processes {
    /// `shop/dev`
    pub(crate) deploy: String,
    /// Whether it runs.
    pub(crate) serving: bool,
    /// Where its `web` answers, while it runs.
    pub(crate) url: Option<String>,
    /// And where by HTTPS, where it does.
    #[serde(default)]
    pub(crate) https_url: Option<String>,
    /// The release that serves, or would: `v12`.
    pub(crate) release: String,
    /// As it can be pasted back: `web=2 worker=1`. What is stopped counts as it will when it is started.
    pub(crate) formation: String,
    /// All process types of that release but `release`.
    pub(crate) types: Vec<ProcessType>,
    /// All that runs or is about to.
    pub(crate) processes: Vec<Process>,
    /// What this host does not let dozen enforce, each for people.
    #[serde(default)]
    pub(crate) not_enforced: Vec<String>,
}

/// A line of the Procfile and its count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct ProcessType {
    /// `web`
    pub(crate) name: String,
    /// How many the formation says.
    pub(crate) quantity: u32,
    /// The size of its instances, `512M`: what `ps scale` said, else what the app declares; `null` where nobody said.
    #[serde(default)]
    pub(crate) size: Option<String>,
    /// Whether none of it runs all the same, until it is started.
    pub(crate) stopped: bool,
    /// What its shell runs, masked.
    pub(crate) command: String,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Process {
    /// `web.1`
    pub(crate) name: String,
    /// `starting`, `up`, `stopping` or `crashed`.
    pub(crate) state: String,
    /// Whether it is up and passed its readiness checks last, where it has any.
    pub(crate) ready: bool,
    /// Since when it is in that state, RFC 3339, UTC.
    pub(crate) since: String,
    /// When it starts again, where it has crashed.
    pub(crate) starts_again_at: Option<String>,
    /// Of which release it is.
    pub(crate) release: String,
    /// How often it was started again after a crash.
    pub(crate) restarts: u32,
    /// Percent of one core, of all its processes: since the last look, where that was 0.5 to 10 s ago, else over its life.
    pub(crate) cpu_percent: Option<f64>,
    /// Bytes of memory of all its processes.
    pub(crate) memory_bytes: Option<u64>,
    /// How they are counted: `pss`, shared pages divided among those that share them, `rss`, counted for each, or `cgroup`, what the kernel
    /// holds against its size.
    pub(crate) memory_measure: Option<String>,
    /// The size that it was started with, `512M`.
    #[serde(default)]
    pub(crate) size: Option<String>,
    /// Where the router reaches it; a `web` only.
    pub(crate) port: Option<u16>,
    /// The host's process id of the app's own first process.
    pub(crate) pid: Option<u32>,
    /// The host's process id of its jail, the parent of all of its processes.
    pub(crate) jail_pid: Option<u32>,
    /// `namespaces`, `user-namespaces` or `session`.
    pub(crate) isolation: Option<String>,
    /// What its jail could not have, besides what `not_enforced` names, for people.
    #[serde(default)]
    pub(crate) missing: Vec<String>,
    /// How it last ended, as a shell says it.
    pub(crate) last_exit_code: Option<i32>,
}

/// `doctor`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Diagnosis {
    /// Whether dozen can work here, as strongly isolated as was asked for.
    pub(crate) ready: bool,
    /// `namespaces`, `user-namespaces` or `session`.
    pub(crate) isolation: String,
    /// Whether Landlock and seccomp refuse all that they could.
    pub(crate) hardened: bool,
    /// One by one.
    pub(crate) checks: Vec<Check>,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Check {
    /// `isolation`
    pub(crate) name: String,
    /// `ok`, `weak` (dozen works, and says where less is held) or `missing` (it does not).
    pub(crate) state: String,
    /// What was found.
    pub(crate) found: String,
    /// What to do about it, where it is not `ok` and something is known.
    pub(crate) cure: Option<String>,
}

/// `drill`: what a user of the app would have seen.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Drilled {
    /// `shop/dev`
    pub(crate) deploy: String,
    /// `v12`, when the drill began.
    pub(crate) release: String,
    /// Chose the instances.
    pub(crate) seed: u64,
    /// How many requests were made.
    pub(crate) requests: usize,
    /// How many got no answer, or one of 500 and more.
    pub(crate) failed: usize,
    /// Why, and how many each: `status 503`, `connection refused`.
    pub(crate) causes: BTreeMap<String, usize>,
    /// Until half of the answers were there.
    pub(crate) median_seconds: f64,
    /// The longest one.
    pub(crate) slowest_seconds: f64,
    /// The longest time in which no answer came.
    pub(crate) longest_gap_seconds: f64,
    /// How many instances were started again after a crash.
    pub(crate) restarts: u64,
    /// Answers of which the router's log has no line; `null` where the log could not be read.
    pub(crate) router_lines_lost: Option<usize>,
    /// What was done.
    pub(crate) faults: Vec<Struck>,
}

/// One thing that a drill did.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Struck {
    /// Since the drill began.
    pub(crate) at_seconds: f64,
    /// `kill-process`, `kill-jail`, `pause`, `fill-tmp` or `kill-router`.
    pub(crate) fault: String,
    /// To what: `web.1`, `router`.
    pub(crate) target: Option<String>,
    /// Why it could not be done.
    pub(crate) skipped: Option<String>,
    /// Requests that failed from then to the next one.
    pub(crate) failed: usize,
    /// The longest time in which no answer came.
    pub(crate) longest_gap_seconds: f64,
    /// When every process was up again; `null` where it never was, or nothing was done.
    pub(crate) back_after_seconds: Option<f64>,
}

/// `ps scale`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Scale {
    /// `web=2`, `worker+1`, `web=2:512M`.
    pub(crate) changes: Vec<String>,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Formation {
    /// As it can be pasted back.
    pub(crate) formation: String,
    /// Whether the deploy runs.
    pub(crate) serving: bool,
    /// The process types that are stopped: their counts hold when they are started.
    #[serde(default)]
    pub(crate) stopped: Vec<String>,
}

/// `restart`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Restart {
    /// `web`, `web.1`; by default all.
    pub(crate) target: Option<String>,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Restarted {
    /// How many instances.
    pub(crate) restarted: usize,
}

/// `stop` and `start`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Types {
    /// Process types; none means all.
    pub(crate) types: Vec<String>,
}

/// Their answer.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Steered {
    /// What was stopped or started by this; what was so already is not named.
    pub(crate) changed: Vec<String>,
    /// All process types that are stopped now.
    pub(crate) stopped: Vec<String>,
    /// The formation, as it can be pasted back; what is stopped counts as it will when it is started.
    pub(crate) formation: String,
}

/// `open`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Opened {
    /// What was opened, or would have been.
    pub(crate) url: String,
    /// Whether a browser was started.
    pub(crate) opened: bool,
}

/// `logs`
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
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
    pub(crate) fn number(&self) -> Result<Option<usize>, String> {
        match self.n.as_deref() {
            Some("all") => Ok(None),
            Some(n) => n.parse().map(Some).map_err(|_| format!("{n:?} is no number of lines; write one, or `all`")),
            None => Ok(Some(100)),
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
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Config {
    /// Counts the changes of the config.
    pub(crate) version: u32,
    /// By name; attachments' among them.
    pub(crate) vars: BTreeMap<String, Var>,
}

/// One variable.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Var {
    /// Unmasked.
    pub(crate) value: String,
    /// `set`, `dotenv`, `generated`, `app.json` or `attachment`.
    pub(crate) origin: String,
    /// Whether listings mask it.
    pub(crate) secret: bool,
}

impl std::fmt::Debug for Var {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Var({} bytes)", self.value.len())
    }
}

/// `config --json`: values as a listing shows them.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct ShownConfig {
    /// By name.
    pub(crate) vars: BTreeMap<String, ShownVar>,
}

/// One variable of a listing.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct ShownVar {
    /// Masked, unless `--show` asks for it.
    pub(crate) value: String,
    /// `set`, `dotenv`, `generated`, `app.json` or `attachment`.
    pub(crate) origin: String,
}

impl std::fmt::Debug for ShownVar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ShownVar({} bytes)", self.value.len())
    }
}

/// `config get --json`
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct OneVar {
    /// Its name.
    pub(crate) name: String,
    /// Unmasked.
    pub(crate) value: String,
    /// `set`, `dotenv`, `generated`, `app.json` or `attachment`.
    pub(crate) origin: String,
}

/// `config set` and `unset`
#[derive(Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Configure {
    /// Values by name.
    #[serde(default)]
    pub(crate) set: BTreeMap<String, String>,
    /// Names.
    #[serde(default)]
    pub(crate) unset: Vec<String>,
    /// They are no secrets.
    #[serde(default)]
    pub(crate) plain: bool,
    /// Those that were no secrets before are none now.
    #[serde(default)]
    pub(crate) keep_plain: bool,
    /// The version of the config that this was made from; it is refused where there is a newer one.
    #[serde(default)]
    pub(crate) at: Option<u32>,
}

/// Its answer: names only.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Configured {
    /// Names that are new or have another value.
    pub(crate) set: Vec<String>,
    /// Names with the same value that became secrets, or are none any more.
    #[serde(default)]
    pub(crate) marked: Vec<String>,
    /// Names that are gone.
    pub(crate) unset: Vec<String>,
    /// The release that came of it; null where nothing changed, or where it waits for the next `up`.
    pub(crate) release: Option<String>,
    /// Whether the deploy runs.
    pub(crate) serving: bool,
}

/// `run` and `console`
#[derive(Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    /// A program and its arguments; a single word is read by the app's shell; none is the app's console.
    #[serde(default)]
    pub(crate) command: Vec<String>,
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
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Terminal {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
    /// `TERM` and what else is known of it.
    pub(crate) env: BTreeMap<String, String>,
}

/// A one-off that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Began {
    pub(crate) run: String,
    pub(crate) release: String,
    /// Masked, and not all of a long one.
    pub(crate) command: String,
    /// The app names no console, and this is a shell instead.
    pub(crate) plain_shell: bool,
}

/// `runs`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Runs {
    pub(crate) runs: Vec<OneOff>,
}

/// How many, the latest first; by default all.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(crate) struct RunsQuery {
    #[serde(default)]
    pub(crate) n: Option<usize>,
}

/// A one-off on record.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct StopRun {
    pub(crate) run: String,
}

/// `down --json`
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Stopped {
    /// `shop/dev`
    pub(crate) deploy: String,
    /// Always true: one that did not stop is an error.
    pub(crate) stopped: bool,
}

/// `resume --json` has a list of these.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Resumed {
    /// `shop/dev`
    pub(crate) deploy: String,
    /// The router's, on this machine.
    pub(crate) port: u16,
    /// Whether it runs now.
    pub(crate) runs: bool,
}

/// `down`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Stopping {
    pub(crate) pid: u32,
}

/// What went wrong.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Problem {
    /// What went wrong.
    pub(crate) message: String,
    /// What to do.
    pub(crate) hint: Option<String>,
    /// Of what kind it is.
    #[serde(default)]
    pub(crate) kind: ProblemKind,
}

/// Kinds of what goes wrong.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProblemKind {
    /// The operation failed.
    #[default]
    Failed,
    /// What was asked for makes no sense: a mistake on the command line.
    Usage,
    /// What it was based on has changed meanwhile.
    Moved,
}
