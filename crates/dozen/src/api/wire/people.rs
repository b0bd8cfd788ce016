//! What goes over the routes of people, tokens and events.

use serde::{Deserialize, Serialize};

/// `users`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Users {
    /// By their names.
    pub(crate) users: Vec<User>,
}

/// A user; `users add`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct User {
    /// `alice`
    pub(crate) name: String,
    /// Whether they look after the platform.
    pub(crate) admin: bool,
    /// Since when.
    pub(crate) created: String,
    /// By whom.
    pub(crate) created_by: String,
    /// What they are to which app.
    pub(crate) grants: Vec<Grant>,
}

/// What somebody is to an app; `users grant`, `users ungrant`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Grant {
    /// Who.
    pub(crate) user: String,
    /// To which app.
    pub(crate) app: String,
    /// `viewer`, `deployer`, `owner`; none where it was taken away.
    pub(crate) role: Option<String>,
}

/// The people of an app.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Grants {
    /// By their names.
    pub(crate) grants: Vec<Grant>,
}

/// What is asked for by `users add`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct AddUser {
    /// `alice`
    pub(crate) name: String,
    /// Whether they look after the platform.
    #[serde(default)]
    pub(crate) admin: bool,
}

/// `users remove`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct RemovedUser {
    /// Whose tokens and roles are gone.
    pub(crate) removed: String,
}

/// What is asked for by `users grant`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantRole {
    /// `viewer`, `deployer`, `owner`
    pub(crate) role: String,
}

/// Whose tokens are listed.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(crate) struct TokensQuery {
    /// Those of who asks, else of all.
    pub(crate) user: Option<String>,
}

/// `tokens`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Tokens {
    /// By their numbers; without their texts, which are kept nowhere.
    pub(crate) tokens: Vec<Token>,
}

/// What is known of a token.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Token {
    /// Its number.
    pub(crate) id: u32,
    /// Whose.
    pub(crate) user: String,
    /// What it is for.
    pub(crate) label: String,
    /// `good`, `expired`, `revoked`
    pub(crate) state: String,
    /// Since when.
    pub(crate) created: String,
    /// By whom.
    pub(crate) created_by: String,
    /// Until when.
    pub(crate) expires: Option<String>,
    /// When it was taken back.
    pub(crate) revoked: Option<String>,
    /// When it was last shown, to a minute.
    pub(crate) used: Option<String>,
    /// From where.
    pub(crate) used_from: Option<String>,
}

/// What is asked for by `tokens create`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateToken {
    /// Whose, if not of who asks.
    #[serde(default)]
    pub(crate) user: Option<String>,
    /// What it is for.
    #[serde(default)]
    pub(crate) label: String,
    /// Good for so long.
    #[serde(default)]
    pub(crate) seconds: Option<u64>,
}

/// `tokens create`
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct CreatedToken {
    /// Its number.
    pub(crate) id: u32,
    /// Whose.
    pub(crate) user: String,
    /// The text, which is told this once.
    pub(crate) token: String,
    /// Until when.
    pub(crate) expires: Option<String>,
}

/// `tokens revoke`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct RevokedToken {
    /// Its number.
    pub(crate) revoked: u32,
    /// Whose it was.
    pub(crate) user: String,
}

/// Which events are asked for.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(crate) struct EventsQuery {
    /// Of this app.
    pub(crate) app: Option<String>,
    /// Of this deploy of it.
    pub(crate) deploy: Option<String>,
    /// By whom.
    pub(crate) who: Option<String>,
    /// From then on.
    pub(crate) since: Option<String>,
    /// So many of the latest.
    pub(crate) n: Option<u32>,
}

/// `events`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Events {
    /// The latest first.
    pub(crate) events: Vec<Did>,
}

/// What somebody did.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Did {
    /// Counts up.
    pub(crate) id: i64,
    /// When.
    pub(crate) at: String,
    /// Who, as they were called then.
    pub(crate) who: String,
    /// `local`, or an address.
    pub(crate) from: Option<String>,
    /// To which app; it may be no more.
    pub(crate) app: Option<String>,
    /// To which deploy; it may be no more.
    pub(crate) deploy: Option<String>,
    /// `scale`
    pub(crate) what: String,
    /// `web=2`
    pub(crate) detail: String,
    /// `done`, `failed`, `refused`
    pub(crate) result: String,
}
