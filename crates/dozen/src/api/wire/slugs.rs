//! What goes over the routes of slugs.

use serde::{Deserialize, Serialize};

/// `slugs`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Slugs {
    /// Those of the deploy's releases, the latest first.
    pub(crate) slugs: Vec<UsedSlug>,
    /// What all slugs and build caches of the machine's dozen take of the disk.
    pub(crate) disk: Disk,
}

/// A slug that releases have.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct UsedSlug {
    /// Its id, in hexadecimal digits.
    pub(crate) id: String,
    /// `python`, `procfile`
    pub(crate) pack: String,
    /// Bytes of all files.
    pub(crate) size: u64,
    /// How many files and links.
    pub(crate) files: u64,
    /// Whether it is in the slug store; one that no release of late has is collected.
    pub(crate) present: bool,
    /// When it was released for the first time.
    pub(crate) created_at: String,
    /// The commit that the latest of its releases is of; null where nobody said.
    pub(crate) commit: Option<String>,
    /// The releases that have it.
    pub(crate) releases: Vec<SlugUse>,
}

/// A release that has a slug.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct SlugUse {
    /// `shop/production`
    pub(crate) deploy: String,
    /// `v12`
    pub(crate) release: String,
}

/// Bytes of the disk.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Disk {
    /// Of slugs.
    pub(crate) slugs: u64,
    /// Of build caches, beside them.
    pub(crate) caches: u64,
}

/// `GET /slugs/{version}`
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(crate) struct ExportQuery {
    /// `tar`, `deb`
    #[serde(default)]
    pub(crate) format: Option<String>,
}

/// `POST /v1/collections`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Collect {
    /// Nothing is removed.
    #[serde(default)]
    pub(crate) dry_run: bool,
}

/// `slugs collect`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Collection {
    /// Whether nothing was removed: it tells what would be.
    pub(crate) dry_run: bool,
    /// The ids of slugs.
    pub(crate) slugs: Vec<String>,
    /// Parts of build caches.
    pub(crate) caches: Vec<String>,
    /// Bytes that all of that had.
    pub(crate) freed: u64,
    /// What is left.
    pub(crate) disk: Disk,
    /// How much slugs and build caches may take.
    pub(crate) budget: u64,
}

/// `slugs export`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Exported {
    /// `shop/production`
    pub(crate) deploy: String,
    /// `v12`
    pub(crate) release: String,
    /// `tar`, `deb`
    pub(crate) format: String,
    /// Where it was written to; null for standard output.
    pub(crate) file: Option<String>,
    /// Its bytes.
    pub(crate) size: u64,
}
