//! What `backup` and `restore` answer.

use serde::{Deserialize, Serialize};

/// `backup`, `restore`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct BackedUp {
    /// The file, or the home that it became.
    pub(crate) path: String,
    /// When the backup was made.
    pub(crate) created: String,
    /// The deploys that are in it.
    pub(crate) deploys: Vec<String>,
    /// Files, links and folders.
    pub(crate) members: u64,
    /// Bytes of files.
    pub(crate) bytes: u64,
    /// Whether it was sealed with a passphrase now.
    pub(crate) sealed: bool,
    /// What may be missed.
    pub(crate) warnings: Vec<String>,
}
