//! What a server's operator is answered.

use serde::{Deserialize, Serialize};

/// `server install`
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Installed {
    /// The files that were not there, or not as they are now.
    pub(crate) written: Vec<String>,
    /// As whom it runs.
    pub(crate) account: String,
    /// Its state.
    pub(crate) home: String,
    /// Where its API answers.
    pub(crate) url: String,
    /// The first token, of the user admin, where there was no state yet; it is told this once.
    pub(crate) token: Option<String>,
    /// Whether systemd has started it.
    pub(crate) started: bool,
}

/// `server uninstall`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Uninstalled {
    /// What is there no longer.
    pub(crate) removed: Vec<String>,
    /// What was changed since, and stays.
    pub(crate) left: Vec<String>,
    /// The state, where it stays.
    pub(crate) home: Option<String>,
}

/// What is asked for by `server upgrade`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Upgrade {
    /// Where the binary is by now.
    #[cfg_attr(test, schema(value_type = String))]
    pub(crate) binary: std::path::PathBuf,
    /// Where the one before is.
    #[cfg_attr(test, schema(value_type = String))]
    pub(crate) before: std::path::PathBuf,
    /// Whether one-offs that run are ended by it.
    #[serde(default)]
    pub(crate) now: bool,
}

/// `server upgrade`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Upgraded {
    /// The version before.
    pub(crate) from: String,
    /// The version that runs.
    pub(crate) to: String,
    /// The server's process, which stays the same.
    pub(crate) pid: u32,
    /// Where its binary is.
    pub(crate) binary: String,
    /// Where the one before is kept.
    pub(crate) before: String,
}

/// What another binary says of itself before it takes over.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Probed {
    /// Its version.
    pub(crate) dozen: String,
    /// The schema that the ledger has.
    pub(crate) found: i64,
    /// The schema that it gives it.
    pub(crate) schema: i64,
}
