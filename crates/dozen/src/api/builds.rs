//! Builds over the API: what was built, and the end of one that nobody wants any more.

use super::{Answer, Failure, Shared, wire};
use axum::Extension;
use axum::Json;
use dozen_engine::ledger::{BuildRow, Principal};

/// `GET /builds`
#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}/builds",
    tag = "releases",
    summary = "The builds, the latest first",
    responses((status = 200, description = "Done", body = wire::Builds))
))]
pub(super) async fn list(Extension(served): Shared) -> Answer<wire::Builds> {
    let floor = &served.floor;
    let builds = floor.builds().await?.into_iter().map(|row| wire::Build::of(floor.deploy.to_string(), row));
    Ok(Json(wire::Builds { builds: builds.collect() }))
}

/// `POST /builds/cancel`
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys/{deploy}/builds/cancel",
    tag = "releases",
    summary = "End a build that waits or runs",
    request_body = wire::CancelBuild,
    responses((status = 200, description = "Done", body = wire::CancelledBuild))
))]
pub(super) async fn cancel(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<wire::CancelBuild>,
) -> Answer<wire::CancelledBuild> {
    let number = body.build.as_deref().map(number).transpose()?;
    let cancelled = served.floor.cancel_build(&who, number).await?;
    Ok(Json(wire::CancelledBuild { deploy: served.floor.deploy.to_string(), cancelled: format!("build.{cancelled}") }))
}

/// `build.7`, or 7.
fn number(word: &str) -> Result<u32, Failure> {
    let digits = word.strip_prefix("build.").unwrap_or(word);
    digits.parse().map_err(|_| Failure::usage(format!("{word:?} is no build: write it as `build.7`")))
}

impl wire::Build {
    fn of(deploy: String, row: BuildRow) -> Self {
        let (ended_at, cancelled_by) = row.ended.map_or((None, None), |(at, by)| (Some(at), by));
        // One that found its slug built before had no turn.
        let seconds = ended_at.map(|end| end.duration_since(row.started.unwrap_or(end)).as_secs_f64());
        Self {
            build: format!("build.{}", row.number),
            deploy,
            source: row.source,
            commit: row.commit.as_ref().map(|commit| commit.hash.clone()),
            uncommitted_changes: row.commit.is_some_and(|commit| commit.dirty),
            state: row.state.as_str().to_owned(),
            created_at: row.created.to_string(),
            created_by: row.created_by,
            started_at: row.started.map(|at| at.to_string()),
            ended_at: ended_at.map(|at| at.to_string()),
            seconds,
            cancelled_by,
            slug: row.slug.map(|id| id.to_string()),
            failure: row.failure,
        }
    }
}
