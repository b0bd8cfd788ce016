//! The shapes of requests that are split between releases.

use serde::{Deserialize, Serialize};

/// `split`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Split {
    /// `shop/dev`
    pub(crate) deploy: String,
    /// The releases that requests are split between; none where all go to the current one.
    pub(crate) shares: Vec<SplitShare>,
    /// By what a client is known that comes back to the same one: `no`, `cookie`, `header:x-user`.
    pub(crate) sticky: String,
    /// When it was declared; RFC 3339, UTC; `null` where there is none.
    #[serde(default)]
    pub(crate) since: Option<String>,
    /// Where more of the requests of what is tried fail than this in a minute, it is aborted by itself: `5%`; `null`: by nobody.
    #[serde(default)]
    pub(crate) abort_above: Option<String>,
}

/// A release's part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct SplitShare {
    /// `v12`
    pub(crate) release: String,
    /// Relative to the others.
    pub(crate) weight: u32,
}

/// What `split` asks for.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeSplit {
    /// None ends it.
    pub(crate) shares: Vec<SplitShare>,
    #[serde(default)]
    pub(crate) sticky: Option<String>,
    /// `5%`
    #[serde(default)]
    pub(crate) abort_above: Option<String>,
}

/// `split status`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct SplitStatus {
    /// As it was declared.
    pub(crate) split: Split,
    /// The release of the newest code and config, which is tried; `null` where there is no split.
    pub(crate) tried: Option<String>,
    /// The current release, which has all process types.
    pub(crate) current: Option<String>,
    /// In the order of their numbers.
    pub(crate) releases: Vec<SplitFigures>,
}

/// One release of a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct SplitFigures {
    /// `v12`
    pub(crate) release: String,
    /// Relative to the others.
    pub(crate) weight: u32,
    /// The same in percent of all.
    pub(crate) share_asked: f64,
    /// Since the split began.
    pub(crate) since: SplitSeen,
    /// In the last minute.
    pub(crate) last_minute: SplitSeen,
}

/// What was seen of its requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct SplitSeen {
    /// Those that ended.
    pub(crate) requests: u64,
    /// In percent of those of all releases; `null` where there were none.
    pub(crate) share: Option<f64>,
    /// Those with a status of 500 or more, of the app or of the router in its place (H12, H13, …).
    pub(crate) errors: u64,
    /// In percent; `null` where there were no requests.
    pub(crate) error_percent: Option<f64>,
    /// The time that half of them took at most, in milliseconds; `null` where there were none.
    pub(crate) p50_ms: Option<f64>,
    /// The same of 95 in a hundred.
    pub(crate) p95_ms: Option<f64>,
    /// The same of 99.
    pub(crate) p99_ms: Option<f64>,
}

/// What `split promote` asks for.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct PromoteSplit {
    /// `v12`; without, the one that is tried.
    #[serde(default)]
    pub(crate) release: Option<String>,
}

/// `split promote` and `split abort`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct SettledSplit {
    /// All requests go to this one's code and config.
    pub(crate) release: String,
    /// As this release, where it was not the current one.
    pub(crate) made: Option<String>,
}
