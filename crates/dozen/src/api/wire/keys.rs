//! What goes over the routes of SSH keys, and what a session of SSH begins with.

use serde::{Deserialize, Serialize};

/// Whose keys are listed.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(crate) struct KeysQuery {
    /// Those of who asks; on the server's machine of all.
    pub(crate) user: Option<String>,
}

/// `ssh-keys`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Keys {
    /// By user and age.
    pub(crate) keys: Vec<SshKey>,
}

/// A key; `ssh-keys add`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct SshKey {
    /// `SHA256:…`, as ssh shows it.
    pub(crate) fingerprint: String,
    /// Whose.
    pub(crate) user: String,
    /// `ssh-ed25519`
    pub(crate) kind: String,
    /// What its owner calls it.
    pub(crate) label: String,
    /// Since when.
    pub(crate) created: String,
    /// By whom.
    pub(crate) created_by: String,
    /// Until when, where the token that added it expires.
    pub(crate) expires: Option<String>,
    /// When it was last shown, to a minute.
    pub(crate) used: Option<String>,
    /// From where.
    pub(crate) used_from: Option<String>,
}

/// What is asked for by `ssh-keys add`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct AddKey {
    /// Whose, if not of who asks.
    #[serde(default)]
    pub(crate) user: Option<String>,
    /// One line, as `ssh-keygen` writes it.
    pub(crate) key: String,
    /// What to call it, if not as that line does.
    #[serde(default)]
    pub(crate) label: Option<String>,
}

/// `ssh-keys remove`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct RemovedKey {
    /// Which.
    pub(crate) removed: String,
    /// Whose it was.
    pub(crate) user: String,
}

/// What dozen's own command says of who comes by SSH.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The fingerprint of the key that they have shown.
    pub(crate) key: String,
    /// What they want to be run.
    pub(crate) command: String,
    /// The version of git's protocol that they ask for.
    #[serde(default)]
    pub(crate) protocol: Option<String>,
    /// Their address.
    #[serde(default)]
    pub(crate) from: Option<String>,
}

/// What is said to who wants nothing.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct Greeting {
    /// As whom they are known.
    pub(crate) user: String,
    /// By which key.
    pub(crate) key: String,
}
