//! Processes over the API: what runs, how many of it, stopping and starting.

use super::{Answer, Failure, Shared, wire};
use axum::Extension;
use axum::Json;
use axum::http::StatusCode;
use dozen_core::ids::{InstanceName, TypeName};
use dozen_core::parity::Driver;
use dozen_core::processes::{Exit, Isolation, Seen, State as ProcessState};
use dozen_engine::deploy::{DeployError, Steered};
use dozen_engine::ledger::Principal;
use dozen_engine::processes::usage::Usage;
use std::collections::BTreeSet;

/// `GET /processes`
#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}/processes",
    tag = "processes",
    summary = "The processes, with what they use",
    responses((status = 200, description = "Done", body = wire::Processes))
))]
pub(super) async fn list(Extension(served): Shared) -> Answer<wire::Processes> {
    let floor = &served.floor;
    let release = floor.current().await?;
    let formation = floor.formation(&release.slug).await?;
    let stopped = floor.stopped().await?;
    let mask = release.mask();
    let types = formation.iter().map(|(kind, quantity)| wire::ProcessType {
        name: kind.to_string(),
        quantity,
        size: formation.size(kind).or(release.rules(kind).size).map(|size| size.to_string()),
        stopped: stopped.contains(kind),
        command: mask.apply(release.command(kind).unwrap_or_default()).into_owned(),
    });
    let mut seen: Vec<Seen> = floor.observed.seen().into_iter().filter(|s| s.state != ProcessState::Down).collect();
    seen.sort_by(|a, b| (&a.instance, a.release).cmp(&(&b.instance, b.release)));
    let mut usage = floor.usage(seen.iter().filter_map(|s| s.pid).collect()).await;
    let processes = seen.iter().map(|s| process(s, s.pid.and_then(|pid| usage.remove(&pid)).unwrap_or_default()));
    Ok(Json(wire::Processes {
        deploy: floor.deploy.to_string(),
        serving: floor.serving,
        url: served.url.clone(),
        https_url: served.https_url.clone(),
        release: release.version.to_string(),
        formation: formation.to_string(),
        types: types.collect(),
        processes: processes.collect(),
        not_enforced: if floor.serving { floor.driver.capabilities().missing } else { Vec::new() },
    }))
}

fn process(seen: &Seen, usage: Usage) -> wire::Process {
    wire::Process {
        name: seen.instance.to_string(),
        state: seen.state.as_str().to_owned(),
        ready: seen.ready,
        since: seen.since.to_string(),
        starts_again_at: seen.retry.map(|at| at.to_string()),
        release: seen.release.to_string(),
        restarts: seen.restarts,
        cpu_percent: usage.cpu.map(|percent| (percent * 10.0).round() / 10.0),
        memory_bytes: usage.memory.map(|(bytes, _)| bytes),
        memory_measure: usage.memory.map(|(_, measure)| measure.as_str().to_owned()),
        size: seen.size.map(|size| size.to_string()),
        port: seen.port,
        pid: usage.leader,
        jail_pid: seen.pid,
        isolation: seen.isolation.map(Isolation::as_str).map(str::to_owned),
        missing: seen.missing.clone(),
        last_exit_code: seen.exit.map(Exit::code),
    }
}

/// `PATCH /formation`
#[cfg_attr(test, utoipa::path(
    patch,
    path = "/v1/apps/{app}/deploys/{deploy}/formation",
    tag = "processes",
    summary = "Change how many of each process type run, and of what size",
    request_body = wire::Scale,
    responses((status = 200, description = "Done", body = wire::Formation))
))]
pub(super) async fn scale(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<wire::Scale>,
) -> Answer<wire::Formation> {
    let changes = dozen_core::concurrency::formation::parse_scale(&body.changes).map_err(|e| Failure::usage(e.to_string()))?;
    let formation = served.floor.scale(&who, &changes).await?;
    let stopped = names(&served.floor.stopped().await?);
    Ok(Json(wire::Formation { formation: formation.to_string(), serving: served.floor.serving, stopped }))
}

/// `POST /restarts`
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys/{deploy}/restarts",
    tag = "processes",
    summary = "Restart processes",
    request_body = wire::Restart,
    responses((status = 200, description = "Done", body = wire::Restarted))
))]
pub(super) async fn restart(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<wire::Restart>,
) -> Answer<wire::Restarted> {
    let floor = &served.floor;
    let restarted = floor.restart(&who, body.target.clone()).await?;
    if restarted > 0 {
        return Ok(Json(wire::Restarted { restarted }));
    }
    let stopped = floor.stopped().await?;
    let kind = body.target.as_deref().map(|t| t.rsplit_once('.').map_or(t, |(kind, _)| kind).to_owned());
    match (body.target, kind) {
        (Some(_), Some(kind)) if stopped.iter().any(|s| s.as_str() == kind) => Err(Failure {
            hint: Some(format!("`dozen start {kind}` starts it again.")),
            ..Failure::new(StatusCode::CONFLICT, format!("{kind} of {} is stopped", floor.deploy))
        }),
        (Some(target), _) => {
            let seen = floor.observed.seen();
            let names: BTreeSet<String> = seen.iter().flat_map(|s| [s.instance.kind.to_string(), s.instance.to_string()]).collect();
            let near = dozen_core::diagnostic::nearest(&target, names.iter().map(String::as_str));
            let hint = near.map_or_else(|| "`dozen ps` lists them.".to_owned(), |near| format!("Did you mean {near}?"));
            let message = format!("{} runs no process {target}", floor.deploy);
            Err(Failure { hint: Some(hint), ..Failure::new(StatusCode::NOT_FOUND, message) })
        }
        (None, _) => Ok(Json(wire::Restarted { restarted })),
    }
}

/// `POST /stops`
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys/{deploy}/stops",
    tag = "processes",
    summary = "Stop process types",
    request_body = wire::Types,
    responses((status = 200, description = "Done", body = wire::Steered))
))]
pub(super) async fn stop(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<wire::Types>,
) -> Answer<wire::Steered> {
    let mut types = Vec::new();
    for word in &body.types {
        if let Ok(name) = word.parse::<InstanceName>() {
            let hint = format!("`dozen restart {name}` replaces it, `dozen ps scale {}-1` runs one less.", name.kind);
            let message = format!("{name} is one of the processes of type {}, and only all of a type can be stopped", name.kind);
            return Err(Failure { hint: Some(hint), ..Failure::usage(message) });
        }
        types.push(kind(word)?);
    }
    Ok(Json(steered(served.floor.stop_types(&who, &types).await?)))
}

/// `POST /starts`
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys/{deploy}/starts",
    tag = "processes",
    summary = "Start process types that were stopped",
    request_body = wire::Types,
    responses((status = 200, description = "Done", body = wire::Steered))
))]
pub(super) async fn start(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<wire::Types>,
) -> Answer<wire::Steered> {
    let types = body.types.iter().map(|word| kind(word)).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(steered(served.floor.start_types(&who, &types).await?)))
}

fn kind(word: &str) -> Result<TypeName, Failure> {
    word.parse().map_err(|e: dozen_core::ids::InvalidName| Failure::usage(e.to_string()))
}

fn steered(done: Steered) -> wire::Steered {
    wire::Steered { changed: names(&done.types), stopped: names(&done.stopped), formation: done.formation.to_string() }
}

fn names(types: &BTreeSet<TypeName>) -> Vec<String> {
    types.iter().map(ToString::to_string).collect()
}

impl From<dozen_core::concurrency::formation::FormationError> for Failure {
    fn from(e: dozen_core::concurrency::formation::FormationError) -> Self {
        DeployError::from(e).into()
    }
}
