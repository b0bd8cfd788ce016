//! Certificates over the API: what there is, adding and removing.

use super::{Answer, Failure, Served, Shared, wire};
use axum::Extension;
use axum::Json;
use axum::http::StatusCode;
use dozen_core::admin::people::Need;
use dozen_core::port::Domain;
use dozen_engine::deploy::DeployError;
use dozen_engine::ledger::{CertificateRow, CertificateSource, Intent, Principal};
use dozen_engine::port::acme::{self, Acme, AcmeError, Way};
use dozen_engine::port::certificates::{Failure as Failed, KeeperError, is_ordered};
use dozen_engine::port::{Certificate, ca};
use jiff::Timestamp;

/// `GET /certificates`
#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}/certificates",
    tag = "certificates",
    summary = "The certificates of a deploy",
    responses((status = 200, description = "Done", body = wire::Certs))
))]
pub(super) async fn list(Extension(served): Shared) -> Answer<wire::Certs> {
    let (rows, domains) = known(&served).await?;
    let now = Timestamp::now();
    let covered = |domain: &Domain| rows.iter().any(|row| row.certificate.not_after > now && row.certificate.is_for(domain));
    let (local, without) = domains.iter().filter(|d| !covered(d)).partition::<Vec<&Domain>, _>(|d| ca::may_certify(d.host()));
    let own = format!("{}.localhost", served.floor.deploy.app);
    let mut local: Vec<String> = std::iter::once(own).chain(local.into_iter().map(|d| d.host().to_owned())).collect();
    local.dedup();
    Ok(Json(wire::Certs {
        auto: automatic(&served, &domains).await?,
        local,
        without: without.into_iter().map(Domain::to_string).collect(),
        https_url: served.https_url.clone(),
        certificates: rows.into_iter().map(|row| shown(row, &domains, now)).collect(),
    }))
}

/// `POST /certificates`
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys/{deploy}/certificates",
    tag = "certificates",
    summary = "Add a certificate and its key",
    request_body = wire::AddCert,
    responses((status = 200, description = "Done", body = wire::Cert))
))]
pub(super) async fn add(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<wire::AddCert>,
) -> Answer<wire::Cert> {
    let certificate = Certificate::read(&body.chain, &body.key, Timestamp::now());
    let certificate = certificate.map_err(|e| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, dozen_engine::chain(&e)))?;
    let intent =
        Intent::Certify { deploy: served.floor.deploy.clone(), certificate: Box::new(certificate), source: CertificateSource::File };
    let made = served.floor.ledger.commit(&who, intent).await.map_err(DeployError::from)?;
    show(&served).await?;
    let (rows, domains) = known(&served).await?;
    let row = rows.into_iter().find(|row| row.id == i64::from(made.number));
    let row = row.ok_or_else(|| Failure::new(StatusCode::CONFLICT, "the certificate was removed again meanwhile"))?;
    Ok(Json(shown(row, &domains, Timestamp::now())))
}

/// `POST /certificates/auto`
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys/{deploy}/certificates/auto",
    tag = "certificates",
    summary = "Have certificates ordered, or no longer",
    request_body = wire::AutoCerts,
    responses((status = 200, description = "Done", body = wire::Automated))
))]
pub(super) async fn automate(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<wire::AutoCerts>,
) -> Answer<wire::Automated> {
    let (ledger, deploy) = (&served.floor.ledger, served.floor.deploy.clone());
    let way = match body.challenge.as_deref() {
        None => None,
        Some("http-01") => Some(Way::Http),
        Some("tls-alpn-01") => Some(Way::Alpn),
        Some(other) => return Err(Failure::usage(format!("there is no challenge {other:?}: it is http-01 or tls-alpn-01"))),
    };
    // It is where dozen itself goes.
    let is_https = |directory: &String| url::Url::parse(directory).is_ok_and(|url| url.scheme() == "https" && url.has_host());
    if let Some(directory) = body.directory.as_ref().filter(|directory| !is_https(directory)) {
        return Err(Failure::usage(format!("{directory:?} is no authority's directory: it is an https:// URL")));
    }
    let acme = body.directory.map(|directory| Acme { directory, email: body.email, root: body.root, way });
    if let Some(acme) = &acme {
        // An account that is refused is told now, not in a log.
        ledger.authorise(&who, "have certificates ordered", Need::Deploy(deploy.app.clone())).map_err(DeployError::from)?;
        acme::account(ledger, &who, &deploy, acme, body.agree_tos).await.map_err(refused)?;
    }
    let directory = acme.as_ref().map(|acme| acme.directory.clone());
    ledger.commit(&who, Intent::Automate { deploy: deploy.clone(), acme: acme.map(Box::new) }).await.map_err(DeployError::from)?;
    let domains = ledger.domains(&deploy).await.map_err(DeployError::from)?;
    let (ordered, others) = domains.iter().partition::<Vec<&Domain>, _>(|domain| is_ordered(domain));
    let mut hosts: Vec<String> = ordered.into_iter().map(|d| d.host().to_owned()).collect();
    hosts.dedup();
    let others = others.into_iter().map(Domain::to_string).collect();
    Ok(Json(wire::Automated { hosts: if directory.is_some() { hosts } else { Vec::new() }, directory, others }))
}

fn refused(error: AcmeError) -> Failure {
    let hint = match &error {
        AcmeError::Terms { .. } => Some("--agree-tos says that you do; an authority's terms stand on its own pages.".to_owned()),
        _ => None,
    };
    let status = match &error {
        AcmeError::Terms { .. } => StatusCode::CONFLICT,
        _ => StatusCode::BAD_GATEWAY,
    };
    Failure { hint, ..Failure::new(status, dozen_engine::chain(&error)) }
}

async fn automatic(served: &Served, domains: &[Domain]) -> Result<Option<wire::Automatic>, Failure> {
    let acme = served.floor.ledger.acme(&served.floor.deploy).await.map_err(DeployError::from)?;
    let Some(acme) = acme else { return Ok(None) };
    let failures = served.floor.ledger.failures(&served.floor.deploy, &acme.directory).await.map_err(DeployError::from)?;
    let failed = |(host, f): (String, Failed)| wire::FailedOrder { host, why: f.why, again_at: f.again.to_string() };
    // What leads here no longer is ordered no longer.
    let failures = failures.into_iter().filter(|(host, _)| domains.iter().any(|d| d.host() == host)).map(failed).collect();
    Ok(Some(wire::Automatic { directory: acme.directory, email: acme.email, failures }))
}

/// `POST /certificates/remove`
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys/{deploy}/certificates/remove",
    tag = "certificates",
    summary = "Remove a certificate",
    request_body = wire::RemoveCert,
    responses((status = 200, description = "Done", body = wire::Cert))
))]
pub(super) async fn remove(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<wire::RemoveCert>,
) -> Answer<wire::Cert> {
    let (rows, domains) = known(&served).await?;
    let which = body.which.trim().to_ascii_lowercase();
    let mut fit: Vec<CertificateRow> =
        rows.into_iter().filter(|row| row.id.to_string() == which || row.certificate.names.contains(&which)).collect();
    let deploy = &served.floor.deploy;
    let (row, others) = match (fit.pop(), fit.is_empty()) {
        (Some(row), true) => (row, Vec::new()),
        (None, _) => {
            let hint = Some("`dozen certs` lists those that it has.".to_owned());
            return Err(Failure { hint, ..Failure::new(StatusCode::NOT_FOUND, format!("{deploy} has no certificate {}", body.which)) });
        }
        (Some(row), false) => {
            let others = fit.iter().map(|row| row.id.to_string()).collect();
            (row, others)
        }
    };
    if !others.is_empty() {
        let message = format!("{deploy} has several certificates for {which}: {} and {}", row.id, others.join(", "));
        let hint = Some("Name the one that is meant by its number.".to_owned());
        return Err(Failure { hint, ..Failure::new(StatusCode::CONFLICT, message) });
    }
    served.floor.ledger.commit(&who, Intent::Uncertify { deploy: deploy.clone(), id: row.id }).await.map_err(DeployError::from)?;
    show(&served).await?;
    Ok(Json(shown(row, &domains, Timestamp::now())))
}

/// Has the router go by it before anybody is told that it is done.
pub(super) async fn show(served: &Served) -> Result<(), Failure> {
    let Some(keeper) = &served.keeper else { return Ok(()) };
    keeper.look().await.map_err(unkept)
}

pub(super) fn unkept(error: KeeperError) -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, dozen_engine::chain(&error))
}

async fn known(served: &Served) -> Result<(Vec<CertificateRow>, Vec<Domain>), Failure> {
    let (ledger, deploy) = (&served.floor.ledger, &served.floor.deploy);
    let rows = ledger.certificates(deploy).await.map_err(DeployError::from)?;
    let domains = ledger.domains(deploy).await.map_err(DeployError::from)?;
    Ok((rows, domains))
}

fn shown(row: CertificateRow, domains: &[Domain], now: Timestamp) -> wire::Cert {
    let CertificateRow { id, source, certificate, created_by } = row;
    let left = certificate.not_after.duration_since(now).as_secs();
    wire::Cert {
        id,
        domains: domains.iter().filter(|d| certificate.is_for(d)).map(Domain::to_string).collect(),
        names: certificate.names,
        source: source.as_str().to_owned(),
        issuer: certificate.issuer,
        not_before: certificate.not_before.to_string(),
        not_after: certificate.not_after.to_string(),
        days_left: left.div_euclid(86_400),
        created_by,
    }
}
