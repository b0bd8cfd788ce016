//! Releases over the API.

use super::{Answer, Failure, Notes, Shared, wire};
use axum::Extension;
use axum::Json;
use axum::extract::{Path, Query};
use dozen_core::ids::Version;
use dozen_engine::deploy::DeployError;
use dozen_engine::deploy::releases::Described;
use dozen_engine::ledger::Principal;

/// `GET /releases`
#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}/releases",
    tag = "releases",
    summary = "The releases, the latest first",
    responses((status = 200, description = "Done", body = wire::Releases))
))]
pub(super) async fn list(Extension(served): Shared) -> Answer<wire::Releases> {
    let floor = &served.floor;
    let current = floor.ledger.current(&floor.deploy).await.map_err(DeployError::from)?;
    let rows = floor.ledger.releases(&floor.deploy).await.map_err(DeployError::from)?;
    let releases = rows.into_iter().map(|r| wire::Release {
        version: r.version.to_string(),
        current: Some(r.version) == current,
        status: r.status.as_str().to_owned(),
        description: r.description,
        failure: r.failure,
        came_up: r.up_at.is_some(),
        slug: r.slug.to_string(),
        created_at: r.created.to_string(),
        created_by: r.created_by,
    });
    Ok(Json(wire::Releases { releases: releases.collect() }))
}

/// `GET /releases/{version}`; `current` for the one that serves.
#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}/releases/{version}",
    tag = "releases",
    summary = "One release, or `current`",
    responses((status = 200, description = "Done", body = wire::ReleaseInfo))
))]
pub(super) async fn describe(Extension(served): Shared, Path(path): Path<Vec<(String, String)>>) -> Answer<wire::ReleaseInfo> {
    let word = path.into_iter().find(|(name, _)| name == "version").map(|(_, value)| value).filter(|v| v != "current");
    let of = served.floor.describe(version(word)?).await?;
    let mask = mask(&[&of]);
    Ok(Json(wire::ReleaseInfo {
        deploy: served.floor.deploy.to_string(),
        version: of.row.version.to_string(),
        current: of.current,
        status: of.row.status.as_str().to_owned(),
        failure: of.row.failure,
        description: of.row.description,
        created_at: of.row.created.to_string(),
        created_by: of.row.created_by,
        came_up_at: of.row.up_at.map(|at| at.to_string()),
        commit: of.row.commit.as_ref().map(|c| c.hash.clone()),
        uncommitted_changes: of.row.commit.as_ref().is_some_and(|c| c.dirty),
        slug: wire::Slug {
            id: of.row.slug.to_string(),
            size: of.slug.size,
            files: of.slug.files,
            present: of.present,
            pack: of.slug.pack,
            runtime: of.slug.runtime,
        },
        processes: of.slug.processes.iter().map(|p| wire::Command { name: p.name.to_string(), command: mask(&p.command) }).collect(),
        config: of.config.vars.keys().cloned().collect(),
        config_changes: of.before.map(|(since, names)| wire::ConfigChanges { since: since.to_string(), names: names.into() }),
        attachments: of
            .attachments
            .iter()
            .map(|a| wire::Attachment { name: a.name.clone(), variable: a.variable(), kind: a.kind.as_str().to_owned() })
            .collect(),
    }))
}

/// `GET /diffs?from=v41&to=v42`
#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}/diffs",
    tag = "releases",
    summary = "What differs between two releases",
    params(wire::DiffQuery),
    responses((status = 200, description = "Done", body = wire::ReleaseDiff))
))]
pub(super) async fn diff(Extension(served): Shared, Query(query): Query<wire::DiffQuery>) -> Answer<wire::ReleaseDiff> {
    let floor = &served.floor;
    let before = floor.describe(version(Some(query.from))?).await?;
    let after = floor.describe(version(query.to)?).await?;
    let diff = floor.diff(&before, &after).await?;
    let gone = [&before, &after].into_iter().filter(|d| !d.present).map(|d| d.row.version.to_string());
    let mut without_slug: Vec<String> = gone.collect();
    without_slug.dedup();
    let names = [&before, &after].map(|d| d.row.version.to_string());
    let [from, to] = names;
    Ok(Json(wire::ReleaseDiff::of(floor.deploy.to_string(), from, to, without_slug, diff, &mask(&[&before, &after]))))
}

/// `POST /rollbacks`
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys/{deploy}/rollbacks",
    tag = "releases",
    summary = "Make an earlier release, or a part of it, current again",
    request_body = wire::Rollback,
    responses((status = 200, description = "Done", body = wire::RolledBack))
))]
pub(super) async fn rollback(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<wire::Rollback>,
) -> Answer<wire::RolledBack> {
    let (version, part) = (version(body.to)?, body.part.into());
    let (to, release) = super::lasting(async move { served.floor.rollback(&who, version, part, &Notes).await }).await?;
    Ok(Json(wire::RolledBack { to: to.to_string(), release: release.to_string() }))
}

fn version(word: Option<String>) -> Result<Option<Version>, Failure> {
    word.map(|w| w.parse().map_err(|e: dozen_core::ids::InvalidName| Failure::usage(e.to_string()))).transpose()
}

/// Hides the values of these releases' variables.
fn mask(of: &[&Described]) -> impl Fn(&str) -> String + use<> {
    let mask = dozen_core::config::Mask::of(of.iter().flat_map(|d| d.config.vars.values()));
    move |text| mask.apply(text).into_owned()
}
