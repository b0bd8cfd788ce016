//! The shapes of what leads to a deploy and how it is treated.

use serde::{Deserialize, Serialize};

/// `domains`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Domains {
    /// `shop/dev`
    pub(crate) deploy: String,
    /// Whether it runs.
    pub(crate) serving: bool,
    /// All that lead to it: host names and `*.` before one, each perhaps with a path.
    pub(crate) domains: Vec<Domain>,
}

/// One that leads to a deploy.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Domain {
    /// `shop.example.com/api`
    pub(crate) domain: String,
    /// Whether somebody added it; the app's own name leads to it by itself.
    pub(crate) added: bool,
}

/// `domains add` and `domains remove`
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeDomains {
    /// All of these, or where one leads elsewhere none.
    #[serde(default)]
    pub(crate) add: Vec<String>,
    /// The same.
    #[serde(default)]
    pub(crate) remove: Vec<String>,
}

/// Their answer.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct ChangedDomains {
    /// `shop/dev`
    pub(crate) deploy: String,
    /// Whether it runs.
    pub(crate) serving: bool,
    /// What was added or removed by this; what led there before is not named.
    pub(crate) changed: Vec<String>,
    /// All that lead to it now.
    pub(crate) domains: Vec<Domain>,
    /// How those stand that an authority was asked for before they were added; none where dozen asks nobody.
    #[serde(default)]
    pub(crate) certificates: Vec<Standing>,
    /// Whether plain HTTP is sent on to HTTPS.
    #[serde(default)]
    pub(crate) https_only: bool,
}

/// How a name stands that an authority was asked for. Without an end and a reason the order takes longer than the command waits, and goes on.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Standing {
    /// Which name.
    pub(crate) host: String,
    /// Until when its certificate is good; RFC 3339, UTC; `null` where it has none.
    pub(crate) not_after: Option<String>,
    /// Why it has none, for people.
    pub(crate) why: Option<String>,
    /// When it is ordered again by itself; RFC 3339, UTC.
    pub(crate) again_at: Option<String>,
    /// Whether the authority says that it was asked too often, so that nothing orders it earlier.
    pub(crate) too_often: bool,
}

/// `maintenance`, `pause`, `https`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Manners {
    /// `shop/dev`
    pub(crate) deploy: String,
    /// Whether it runs.
    pub(crate) serving: bool,
    /// Whether visitors are told of maintenance, and nothing reaches the app.
    pub(crate) maintenance: bool,
    /// Whether requests wait.
    pub(crate) paused: bool,
    /// When they wait no longer, RFC 3339, UTC; `null` where nobody said.
    pub(crate) paused_until: Option<String>,
    /// Whether plain HTTP is sent on to HTTPS.
    pub(crate) https_only: bool,
    /// How long browsers are told to come by HTTPS only; `null` tells them nothing.
    pub(crate) hsts_seconds: Option<u64>,
    /// The proxies before the router that are believed what they say of a request: networks.
    #[serde(default)]
    pub(crate) trusted_proxies: Vec<String>,
    /// Why HTTPS only has no effect, and what to do about it; `null` where it has, or is off.
    #[serde(default)]
    pub(crate) warning: Option<String>,
}

/// A change of them; what is not said stays.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Treat {
    pub(crate) maintenance: Option<bool>,
    pub(crate) paused: Option<bool>,
    /// With `paused`: how long at most.
    pub(crate) pause_seconds: Option<u64>,
    pub(crate) https_only: Option<bool>,
    /// 0 tells browsers nothing.
    pub(crate) hsts_seconds: Option<u64>,
}
