//! What `server check` answers.

use serde::{Deserialize, Serialize};

/// `server check`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Soundness {
    /// Whether nothing is wrong.
    pub(crate) sound: bool,
    /// Deploys of the ledger.
    pub(crate) deploys: usize,
    /// Releases of them.
    pub(crate) releases: usize,
    /// Slugs of the store.
    pub(crate) slugs: usize,
    /// Bytes of their files, each of which was read.
    pub(crate) bytes: u64,
    /// Repositories.
    pub(crate) repositories: usize,
    /// What is wrong.
    pub(crate) faults: Vec<Fault>,
}

/// Something that is not as it should be.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Fault {
    /// A deploy, `ledger`, a slug, a repository.
    pub(crate) about: String,
    /// What is wrong with it.
    pub(crate) what: String,
}
