//! What goes over the routes of builds.

use serde::{Deserialize, Serialize};

/// `builds`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Builds {
    /// The latest first.
    pub(crate) builds: Vec<Build>,
}

/// What was asked to be built.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Build {
    /// `build.7`
    pub(crate) build: String,
    /// `shop/production`
    pub(crate) deploy: String,
    /// How its source came: `push`, `folder` (of `up`), `deploy`.
    pub(crate) source: String,
    /// The hash of the commit that it is of; null where nobody said.
    pub(crate) commit: Option<String>,
    /// Whether the source differed from that.
    pub(crate) uncommitted_changes: bool,
    /// `waiting`, `running`, `succeeded`, `failed`, `cancelled`
    pub(crate) state: String,
    /// When it was asked for.
    pub(crate) created_at: String,
    /// By whom.
    pub(crate) created_by: String,
    /// When its turn came.
    pub(crate) started_at: Option<String>,
    /// When it was over.
    pub(crate) ended_at: Option<String>,
    /// How long it took once it had begun.
    pub(crate) seconds: Option<f64>,
    /// Who cancelled it.
    pub(crate) cancelled_by: Option<String>,
    /// The id of what it gave.
    pub(crate) slug: Option<String>,
    /// Why it gave nothing.
    pub(crate) failure: Option<String>,
}

/// `POST /builds/cancel`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct CancelBuild {
    /// `build.7`; null for the one that is under way.
    #[serde(default)]
    pub(crate) build: Option<String>,
}

/// `builds cancel`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct CancelledBuild {
    /// `shop/production`
    pub(crate) deploy: String,
    /// `build.7`
    pub(crate) cancelled: String,
}
