//! Over the API: which domains lead to a deploy, and how requests are treated on the way.

use super::{Answer, Failure, Served, Shared, wire};
use axum::Extension;
use axum::Json;
use axum::http::StatusCode;
use dozen_core::port::{Domain, Front};
use dozen_engine::deploy::{DeployError, Pause, Treatment};
use dozen_engine::ledger::Principal;
use dozen_engine::port::certificates::Standing;
use std::time::Duration;

/// Nobody pauses for longer, or has a browser remember for longer.
const LONGEST: u64 = 10 * 366 * 86_400;

/// `GET /domains`
#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}/domains",
    tag = "routing",
    summary = "What leads to a deploy",
    responses((status = 200, description = "Done", body = wire::Domains))
))]
pub(super) async fn domains(Extension(served): Shared) -> Answer<wire::Domains> {
    let front = served.floor.front().await?;
    let deploy = served.floor.deploy.to_string();
    Ok(Json(wire::Domains { deploy, serving: served.floor.serving, domains: all(&served, &front) }))
}

/// `PATCH /domains`
#[cfg_attr(test, utoipa::path(
    patch,
    path = "/v1/apps/{app}/deploys/{deploy}/domains",
    tag = "routing",
    summary = "Add and remove domains",
    request_body = wire::ChangeDomains,
    responses((status = 200, description = "Done", body = wire::ChangedDomains))
))]
pub(super) async fn change_domains(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<wire::ChangeDomains>,
) -> Answer<wire::ChangedDomains> {
    let (add, remove) = (read(&body.add)?, read(&body.remove)?);
    // It goes on to its end, though whoever asked may have gone: a certificate would be left of a name that leads nowhere.
    let done = dozen_engine::tasks::spawn("domains", async move { change(&served, &who, add, remove).await }).await;
    done.map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the change ended early: {e}")))?
}

async fn change(served: &Served, who: &Principal, add: Vec<Domain>, remove: Vec<Domain>) -> Answer<wire::ChangedDomains> {
    let (mut changed, mut certificates, mut front) = (Vec::new(), Vec::new(), served.floor.front().await?);
    if !remove.is_empty() {
        front = served.floor.unlead(who, remove.clone()).await?;
        changed.extend(remove);
    }
    if !add.is_empty() {
        let (ledger, deploy) = (&served.floor.ledger, &served.floor.deploy);
        if let Some(keeper) = &served.keeper {
            // No authority is asked for what would be refused afterwards.
            ledger.may_lead(who, deploy, add.clone()).await.map_err(DeployError::from)?;
            // A name is live with its certificate: an authority finds its proof here before the name leads anywhere.
            certificates = keeper.certify(&add).await.map_err(super::certs::unkept)?;
        }
        let (new, all) = served.floor.lead(who, add).await?;
        changed.extend(new);
        front = all;
    }
    // New names may need certificates.
    super::certs::show(served).await?;
    Ok(Json(wire::ChangedDomains {
        deploy: served.floor.deploy.to_string(),
        serving: served.floor.serving,
        changed: changed.iter().map(ToString::to_string).collect(),
        domains: all(served, &front),
        certificates: certificates.into_iter().map(standing).collect(),
        https_only: front.manners.https_only,
    }))
}

fn standing((host, standing): (String, Standing)) -> wire::Standing {
    let none = wire::Standing { host, not_after: None, why: None, again_at: None, too_often: false };
    match standing {
        Standing::Certified(until) => wire::Standing { not_after: Some(until.to_string()), ..none },
        Standing::Failed(failure) => {
            let (why, again_at) = (Some(failure.why), Some(failure.again.to_string()));
            wire::Standing { why, again_at, too_often: failure.too_often, ..none }
        }
        Standing::UnderWay => none,
    }
}

/// Each once, in the order of their first naming.
fn read(words: &[String]) -> Result<Vec<Domain>, Failure> {
    let mut domains = Vec::new();
    for word in words {
        let domain = word.parse::<Domain>().map_err(|e| Failure::usage(e.to_string()))?;
        if !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    Ok(domains)
}

fn all(served: &Served, front: &Front) -> Vec<wire::Domain> {
    let named = |added| move |domain: &Domain| wire::Domain { domain: domain.to_string(), added };
    served.floor.own_domain().iter().map(named(false)).chain(front.domains.iter().map(named(true))).collect()
}

/// `GET /manners`
#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}/manners",
    tag = "routing",
    summary = "How requests are treated",
    responses((status = 200, description = "Done", body = wire::Manners))
))]
pub(super) async fn manners(Extension(served): Shared) -> Answer<wire::Manners> {
    let front = served.floor.front().await?;
    Ok(Json(shown(&served, &front).await?))
}

/// `PATCH /manners`
#[cfg_attr(test, utoipa::path(
    patch,
    path = "/v1/apps/{app}/deploys/{deploy}/manners",
    tag = "routing",
    summary = "Change how requests are treated: maintenance, pause, HTTPS only",
    request_body = wire::Treat,
    responses((status = 200, description = "Done", body = wire::Manners))
))]
pub(super) async fn treat(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<wire::Treat>,
) -> Answer<wire::Manners> {
    if let Some(seconds) = [body.pause_seconds, body.hsts_seconds].into_iter().flatten().find(|seconds| *seconds > LONGEST) {
        return Err(Failure::usage(format!("{seconds} s is too long; the longest is {LONGEST} s, which are ten years")));
    }
    let pause = match (body.paused, body.pause_seconds) {
        (None, _) => None,
        (Some(false), _) => Some(Pause::Off),
        (Some(true), None) => Some(Pause::On),
        (Some(true), Some(seconds)) => Some(Pause::For(Duration::from_secs(seconds))),
    };
    let hsts = body.hsts_seconds.map(Duration::from_secs);
    let change = Treatment { maintenance: body.maintenance, pause, https_only: body.https_only, hsts, trusted: None };
    let front = served.floor.treat(&who, change).await?;
    Ok(Json(shown(&served, &front).await?))
}

async fn shown(served: &Served, Front { manners, paused_until, .. }: &Front) -> Result<wire::Manners, Failure> {
    // What does not run now speaks HTTPS if it is kept with a port for it.
    let kept = served.floor.ledger.kept().await.map_err(DeployError::from)?;
    let will = !served.floor.serving && kept.iter().any(|kept| kept.deploy == served.floor.deploy && kept.https_port.is_some());
    let vain = manners.https_only && manners.trusted.is_empty() && served.https_url.is_none() && !will;
    Ok(wire::Manners {
        deploy: served.floor.deploy.to_string(),
        serving: served.floor.serving,
        maintenance: manners.maintenance,
        paused: manners.paused,
        paused_until: paused_until.map(|at| at.to_string()),
        https_only: manners.https_only,
        hsts_seconds: manners.hsts.map(|hsts| hsts.as_secs()),
        trusted_proxies: manners.trusted.iter().map(ToString::to_string).collect(),
        warning: vain.then(|| NO_HTTPS.to_owned()),
    })
}

const NO_HTTPS: &str = "The router has no port for HTTPS, so requests by HTTP are answered as ever; `dozen up --https-port N` gives it one, and \
                        `--trusted-proxy ADDRESS` names a proxy before it that speaks HTTPS.";
