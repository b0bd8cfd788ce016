//! What is asked of builds and promotions; they answer events.

use serde::{Deserialize, Serialize};

/// `POST /builds`
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(crate) struct BuildQuery {
    /// The hash of the commit that the source is of.
    pub(crate) commit: Option<String>,
    /// Whether the source differs from it.
    #[serde(default)]
    pub(crate) dirty: bool,
}

/// `POST /v1/apps/{app}/promotions`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Promotion {
    /// The deploy whose code is taken: `staging`
    pub(crate) from: String,
    /// The deploy that gets it: `production`
    pub(crate) to: String,
}

/// `config diff`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct ConfigDiff {
    /// `shop/staging`
    pub(crate) from: String,
    /// `shop/production`
    pub(crate) to: String,
    /// The names that only `from` has.
    pub(crate) only_from: Vec<String>,
    /// The names that only `to` has.
    pub(crate) only_to: Vec<String>,
    /// The names that both have, with other values.
    pub(crate) different: Vec<String>,
    /// With --show, the values of all these by name.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub(crate) values: std::collections::BTreeMap<String, BothValues>,
}

/// A variable's values in two deploys.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct BothValues {
    /// In `from`; null where it has none.
    pub(crate) from: Option<String>,
    /// In `to`; null where it has none.
    pub(crate) to: Option<String>,
}
