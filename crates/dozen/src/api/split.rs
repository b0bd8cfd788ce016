//! Over the API: requests that are split between releases, how that stands, and its end.

use super::{Answer, Failure, Notes, Served, Shared, wire};
use axum::{Extension, Json};
use dozen_core::ids::{InvalidName, Version};
use dozen_core::port::Sticky;
use dozen_core::port::tally::{ErrorRate, Tally};
use dozen_engine::deploy::{Settled, Standing};
use dozen_engine::ledger::Principal;

/// Parts are relative; percents, or thousandths, are fine enough.
const MOST_WEIGHT: u32 = 1_000_000;

/// `GET /split`
#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}/split",
    tag = "routing",
    summary = "Between which releases requests are split",
    responses((status = 200, description = "Done", body = wire::Split))
))]
pub(super) async fn show(Extension(served): Shared) -> Answer<wire::Split> {
    Ok(Json(parts(&served).await?))
}

/// `PUT /split`
#[cfg_attr(test, utoipa::path(
    put,
    path = "/v1/apps/{app}/deploys/{deploy}/split",
    tag = "routing",
    summary = "Split requests between releases",
    request_body = wire::ChangeSplit,
    responses((status = 200, description = "Done", body = wire::Split))
))]
pub(super) async fn change(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<wire::ChangeSplit>,
) -> Answer<wire::Split> {
    let sticky = body.sticky.as_deref().unwrap_or("no").parse::<Sticky>().map_err(|e| Failure::usage(e.to_string()))?;
    let above = body.abort_above.as_deref().map(str::parse::<ErrorRate>).transpose().map_err(|e| Failure::usage(e.to_string()))?;
    let mut shares: Vec<(Version, u32)> = Vec::new();
    for wire::SplitShare { release, weight } in body.shares {
        let version = read(&release)?;
        if shares.iter().any(|(other, _)| *other == version) {
            return Err(Failure::usage(format!("{version} is named twice")));
        }
        shares.push((version, weight));
    }
    if shares.len() == 1 || shares.iter().any(|(_, weight)| !(1..=MOST_WEIGHT).contains(weight)) {
        return Err(Failure::usage(format!("a split has two releases or more, each with a part from 1 to {MOST_WEIGHT}")));
    }
    let floor = served.clone();
    super::lasting(async move { floor.floor.split(&who, shares, sticky, above).await }).await?;
    Ok(Json(parts(&served).await?))
}

async fn parts(served: &Served) -> Result<wire::Split, Failure> {
    let deploy = served.floor.deploy.to_string();
    let Some(split) = served.floor.declared_split().await? else {
        return Ok(wire::Split { deploy, shares: Vec::new(), sticky: Sticky::No.to_string(), since: None, abort_above: None });
    };
    let shares = split.shares.iter().map(|(release, weight)| wire::SplitShare { release: release.to_string(), weight: *weight });
    Ok(wire::Split {
        deploy,
        shares: shares.collect(),
        sticky: split.sticky.to_string(),
        since: Some(split.since.to_string()),
        abort_above: split.abort_above.map(|above| above.to_string()),
    })
}

/// `GET /split/status`
#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}/split/status",
    tag = "routing",
    summary = "What was seen of each release of a split",
    responses((status = 200, description = "Done", body = wire::SplitStatus))
))]
pub(super) async fn status(Extension(served): Shared) -> Answer<wire::SplitStatus> {
    let split = parts(&served).await?;
    let Some(Standing { trial, current, releases, .. }) = served.floor.standing().await? else {
        return Ok(Json(wire::SplitStatus { split, tried: None, current: None, releases: Vec::new() }));
    };
    let sum = |of: fn(&(Version, u32, Tally, Tally)) -> u64| releases.iter().map(of).sum::<u64>();
    let (asked, total, lately) = (sum(|r| r.1.into()), sum(|r| r.2.requests), sum(|r| r.3.requests));
    let releases = releases.iter().map(|(version, weight, since, minute)| wire::SplitFigures {
        release: version.to_string(),
        weight: *weight,
        share_asked: percent((*weight).into(), asked).unwrap_or_default(),
        since: seen(since, total),
        last_minute: seen(minute, lately),
    });
    let releases = releases.collect();
    Ok(Json(wire::SplitStatus { split, tried: Some(trial.tried.to_string()), current: Some(current.to_string()), releases }))
}

fn seen(tally: &Tally, all: u64) -> wire::SplitSeen {
    let took = |percent| tally.percentile(percent).map(|time| (time.as_secs_f64() * 10_000.0).round() / 10.0);
    wire::SplitSeen {
        requests: tally.requests,
        share: percent(tally.requests, all),
        errors: tally.errors,
        error_percent: percent(tally.errors, tally.requests),
        p50_ms: took(50),
        p95_ms: took(95),
        p99_ms: took(99),
    }
}

/// To a hundredth.
fn percent(part: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| (part as f64 * 10_000.0 / all as f64).round() / 100.0)
}

/// `POST /split/promote`
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys/{deploy}/split/promote",
    tag = "routing",
    summary = "Send all requests to one of its releases, and end the split",
    request_body = wire::PromoteSplit,
    responses((status = 200, description = "Done", body = wire::SettledSplit))
))]
pub(super) async fn promote(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<wire::PromoteSplit>,
) -> Answer<wire::SettledSplit> {
    let version = body.release.as_deref().map(read).transpose()?;
    let settled = super::lasting(async move { served.floor.promote_of_split(&who, version, &Notes).await }).await?;
    Ok(Json(told(settled)))
}

/// `POST /split/abort`
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys/{deploy}/split/abort",
    tag = "routing",
    summary = "Send all requests to where they went before what is tried, and end the split",
    responses((status = 200, description = "Done", body = wire::SettledSplit))
))]
pub(super) async fn abort(Extension(served): Shared, Extension(who): Extension<Principal>) -> Answer<wire::SettledSplit> {
    let settled = super::lasting(async move { served.floor.abort_split(&who, &Notes).await }).await?;
    Ok(Json(told(settled)))
}

fn told(Settled { version, made }: Settled) -> wire::SettledSplit {
    wire::SettledSplit { release: version.to_string(), made: made.map(|made| made.to_string()) }
}

fn read(release: &str) -> Result<Version, Failure> {
    release.parse().map_err(|e: InvalidName| Failure::usage(e.to_string()))
}
