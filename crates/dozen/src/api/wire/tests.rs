//! What goes over the routes of tests.

use serde::{Deserialize, Serialize};

/// `deploys set`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Gates {
    /// `shop/production`
    pub(crate) deploy: String,
    /// What must pass before a release: `tests`.
    pub(crate) requires: Vec<String>,
}

/// `PUT /gates`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct Require {
    /// All of them.
    pub(crate) requires: Vec<String>,
}
