//! Certificates from an authority that speaks ACME (RFC 8555): an account, and an order for a name.
//!
//! **Invariant:** an account is made only where its owner has agreed to the authority's terms; its key is in the ledger, sealed.
//! **Absent on purpose:** wildcards, which are proven by DNS only.

use super::certificate::{Certificate, CertificateError, Proof, Secret, pem};
use crate::home::Home;
use crate::ledger::{Intent, Ledger, LedgerError, Principal};
use dozen_core::ids::DeployRef;
use instant_acme::{
    Account, AccountBuilder, AccountCredentials, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, OrderStatus,
    RetryPolicy,
};
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;
use zeroize::Zeroizing;

/// So long an authority may look before an attempt has failed, and as long for the certificate after that.
const PATIENCE: RetryPolicy = RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(Duration::from_secs(90));
/// For each request, since an authority may not answer at all; an order is several.
const LIMIT: Duration = Duration::from_secs(300);
/// For the few requests that it takes to find an authority and an account there.
const ANSWER: Duration = Duration::from_secs(30);
/// After the first failure the next attempt is made in a minute, then in four, and so on; none is later than a day.
const FIRST: SignedDuration = SignedDuration::from_mins(1);
pub(super) const LAST: SignedDuration = SignedDuration::from_hours(24);
/// So often more is tried what failed by the authority's whim.
const TRIES: u32 = 4;
/// An authority that says that it was asked too often is asked again in an hour at the earliest.
const TOO_OFTEN: SignedDuration = SignedDuration::from_hours(1);

/// Whom a deploy asks for the certificates of its domains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acme {
    /// The URL of the authority's directory.
    pub directory: String,
    /// Where it may write to.
    #[serde(default)]
    pub email: Option<String>,
    /// By whose certificate, PEM, the authority itself is known, where that is none of the machine's own.
    #[serde(default)]
    pub root: Option<String>,
    /// How a name is proven; `None` tries the ways in turn.
    #[serde(default)]
    pub way: Option<Way>,
}

/// How it is proven that a name leads here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// The authority asks by HTTP, on port 80.
    #[serde(rename = "http-01")]
    Http,
    /// The authority asks by TLS, on port 443.
    #[serde(rename = "tls-alpn-01")]
    Alpn,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcmeError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Its own certificate cannot be kept for the connection.
    #[error("cannot write {}", .path.display())]
    Root {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The authority cannot be reached, or refuses the account.
    #[error("cannot use an account at {directory}")]
    Account {
        /// Where.
        directory: String,
        /// Why.
        #[source]
        source: Error,
    },
    /// Somebody is there, and says nothing.
    #[error("the authority at {directory} does not answer")]
    Silent {
        /// Where.
        directory: String,
    },
    /// The terms were not agreed to.
    #[error("there is no account at {directory} yet, and none is made without agreeing to its terms of service")]
    Terms {
        /// Where.
        directory: String,
    },
    /// The authority does not certify the name.
    #[error("no certificate for {host}")]
    Order {
        /// Which name.
        host: String,
        /// Why.
        #[source]
        source: Error,
    },
    /// The authority has looked and did not find what it was to find.
    #[error("no certificate for {host}: {why}; does the name lead to this machine, and port {port} of it to dozen's router?")]
    Unproven {
        /// Which name.
        host: String,
        /// What it says.
        why: String,
        /// Where it looked.
        port: u16,
    },
    /// It offers no way that is possible here.
    #[error("no certificate for {host}: the authority offers neither HTTP-01 nor TLS-ALPN-01")]
    NoWay {
        /// Which name.
        host: String,
    },
    /// It takes too long.
    #[error("no certificate for {host}: the authority did not come to an end within {} minutes", LIMIT.as_secs() / 60)]
    Late {
        /// Which name.
        host: String,
    },
    /// What it gave is none.
    #[error("the certificate that the authority gave for {host} cannot be used")]
    Given {
        /// For what.
        host: String,
        /// Why not.
        #[source]
        source: CertificateError,
    },
}

impl AcmeError {
    /// Whether the authority says that it was asked too often.
    pub(super) fn is_too_often(&self) -> bool {
        self.is("rateLimited")
    }

    /// Whether the authority's answer is of this kind.
    fn is(&self, kind: &str) -> bool {
        let (Self::Account { source, .. } | Self::Order { source, .. }) = self else { return false };
        matches!(source, Error::Api(problem) if problem.r#type.as_deref().and_then(|t| t.rsplit(':').next()) == Some(kind))
    }
}

/// Whether the authority did not like the number that a message had to have, which it may at any time (RFC 8555, 6.5). The library tries a few
/// times itself.
fn is_whim<T>(done: &Result<T, AcmeError>) -> bool {
    matches!(done, Err(e) if e.is("badNonce"))
}

/// When the next attempt is made after so many have failed.
pub(super) fn again(failures: u32, error: &AcmeError, now: Timestamp) -> Timestamp {
    let wait = FIRST.checked_mul(4_i32.saturating_pow(failures.saturating_sub(1).min(8))).unwrap_or(LAST).min(LAST);
    let wait = if error.is_too_often() { wait.max(TOO_OFTEN) } else { wait };
    now.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

/// The account of this home at an authority; made where there is none and its terms were agreed to.
///
/// # Errors
/// The authority cannot be reached or refuses; or there is none and nobody agreed.
pub async fn account(ledger: &Ledger, who: &Principal, deploy: &DeployRef, acme: &Acme, agreed: bool) -> Result<Account, AcmeError> {
    within(ANSWER, ledger, who, deploy, acme, agreed).await
}

async fn within(
    limit: Duration,
    ledger: &Ledger,
    who: &Principal,
    deploy: &DeployRef,
    acme: &Acme,
    agreed: bool,
) -> Result<Account, AcmeError> {
    let opened = async {
        let mut done = open(ledger, who, deploy, acme, agreed).await;
        for _ in 0..TRIES {
            if !is_whim(&done) {
                break;
            }
            done = open(ledger, who, deploy, acme, agreed).await;
        }
        done
    };
    let silent = || AcmeError::Silent { directory: acme.directory.clone() };
    tokio::time::timeout(limit, opened).await.unwrap_or_else(|_| Err(silent()))
}

async fn open(ledger: &Ledger, who: &Principal, deploy: &DeployRef, acme: &Acme, agreed: bool) -> Result<Account, AcmeError> {
    let failed = |source| AcmeError::Account { directory: acme.directory.clone(), source };
    let known = ledger.acme_account(&acme.directory).await?;
    let builder = builder(ledger.home(), acme)?;
    if let Some(known) = known {
        let credentials: AccountCredentials = serde_json::from_slice(&known).map_err(|e| failed(e.into()))?;
        return builder.from_credentials(credentials).await.map_err(failed);
    }
    if !agreed {
        return Err(AcmeError::Terms { directory: acme.directory.clone() });
    }
    let contact: Vec<String> = acme.email.iter().map(|email| format!("mailto:{email}")).collect();
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let wanted = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = builder.create(&wanted, acme.directory.clone(), None).await.map_err(failed)?;
    let credentials = Secret::new(serde_json::to_string(&credentials).map_err(|e| failed(e.into()))?);
    ledger.commit(who, Intent::Account { deploy: deploy.clone(), directory: acme.directory.clone(), credentials }).await?;
    Ok(account)
}

/// The library reads the authority's own certificate from a file only.
fn builder(home: &Home, acme: &Acme) -> Result<AccountBuilder, AcmeError> {
    let failed = |source| AcmeError::Account { directory: acme.directory.clone(), source };
    let Some(root) = &acme.root else { return Account::builder().map_err(failed) };
    let hash = blake3::hash(root.as_bytes());
    let path = home.ca().join(format!("acme-{}.pem", &hash.to_hex()[..16]));
    let written = std::fs::create_dir_all(home.ca()).and_then(|()| std::fs::write(&path, root));
    written.map_err(|source| AcmeError::Root { path: path.clone(), source })?;
    Account::builder_with_root(&path).map_err(failed)
}

/// Orders a certificate for a name. `show` has the router show what the authority looks for, and answers when it does.
pub(super) async fn order<E, F: Future<Output = Result<(), E>>>(
    account: &Account,
    host: &str,
    way: Way,
    show: impl Fn(Proof) -> F,
) -> Result<Result<Certificate, AcmeError>, E> {
    let late = || AcmeError::Late { host: host.to_owned() };
    let walked = async {
        let mut done = walk(account, host, way, &show).await?;
        for _ in 0..TRIES {
            if !is_whim(&done) {
                break;
            }
            done = walk(account, host, way, &show).await?;
        }
        Ok(done)
    };
    tokio::time::timeout(LIMIT, walked).await.unwrap_or_else(|_| Ok(Err(late())))
}

async fn walk<E, F: Future<Output = Result<(), E>>>(
    account: &Account,
    host: &str,
    way: Way,
    show: &impl Fn(Proof) -> F,
) -> Result<Result<Certificate, AcmeError>, E> {
    let failed = |source| AcmeError::Order { host: host.to_owned(), source };
    let names = [Identifier::Dns(host.to_owned())];
    let mut order = match account.new_order(&NewOrder::new(&names)).await {
        Ok(order) => order,
        Err(e) => return Ok(Err(failed(e))),
    };
    let mut port = 0;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = match authorization {
            Ok(authorization) => authorization,
            Err(e) => return Ok(Err(failed(e))),
        };
        // One that was proven a while ago need not be proven again.
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let offers = |kind: &ChallengeType| authorization.challenges.iter().any(|c| c.r#type == *kind);
        let (wanted, other) = match way {
            Way::Http => (ChallengeType::Http01, ChallengeType::TlsAlpn01),
            Way::Alpn => (ChallengeType::TlsAlpn01, ChallengeType::Http01),
        };
        let Some(kind) = [wanted, other].into_iter().find(offers) else { return Ok(Err(AcmeError::NoWay { host: host.to_owned() })) };
        port = if kind == ChallengeType::Http01 { 80 } else { 443 };
        let Some(mut challenge) = authorization.challenge(kind.clone()) else {
            return Ok(Err(AcmeError::NoWay { host: host.to_owned() }));
        };
        let answer = challenge.key_authorization();
        let proof = match kind {
            ChallengeType::Http01 => Proof::Http { token: challenge.token.clone(), answer: answer.as_str().to_owned() },
            _ => match certificate_of(host, answer.digest().as_ref()) {
                Ok(proof) => proof,
                Err(e) => return Ok(Err(failed(Error::Other(e.into())))),
            },
        };
        show(proof).await?;
        if let Err(e) = challenge.set_ready().await {
            return Ok(Err(failed(e)));
        }
    }
    let status = match order.poll_ready(&PATIENCE).await.map_err(failed) {
        Ok(status) => status,
        // Some tell of what they found with the order, a moment before it is said to be over.
        Err(e) if order.state().error.is_some() && !e.is("caa") && !e.is_too_often() => OrderStatus::Invalid,
        Err(e) => return Ok(Err(e)),
    };
    if status != OrderStatus::Ready {
        let told = order.state().error.as_ref().and_then(|problem| problem.detail.clone());
        let why = why_not(&mut order).await.or(told).unwrap_or_else(|| "the authority did not find what it looked for".to_owned());
        return Ok(Err(AcmeError::Unproven { host: host.to_owned(), why, port }));
    }
    Ok(finish(&mut order, host).await)
}

async fn finish(order: &mut instant_acme::Order, host: &str) -> Result<Certificate, AcmeError> {
    let failed = |source| AcmeError::Order { host: host.to_owned(), source };
    let unmade = |e: rcgen::Error| failed(Error::Other(e.into()));
    let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(unmade)?;
    params.distinguished_name = DistinguishedName::new();
    let pair = KeyPair::generate().map_err(unmade)?;
    let request = params.serialize_request(&pair).map_err(unmade)?;
    order.finalize_csr(request.der()).await.map_err(failed)?;
    let chain = order.poll_certificate(&PATIENCE).await.map_err(failed)?;
    let key = Zeroizing::new(pair.serialize_pem());
    Certificate::read(&chain, &key, Timestamp::now()).map_err(|source| AcmeError::Given { host: host.to_owned(), source })
}

/// What the authority has to say about what it looked for.
async fn why_not(order: &mut instant_acme::Order) -> Option<String> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        // What is known of it is from before it looked.
        if authorization.refresh().await.is_err() {
            continue;
        }
        if let Some(problem) = authorization.challenges.iter().find_map(|c| c.error.as_ref()) {
            return Some(problem.detail.clone().unwrap_or_else(|| problem.to_string()));
        }
    }
    None
}

/// A certificate of nobody, which holds what an authority looks for.
fn certificate_of(host: &str, digest: &[u8]) -> Result<Proof, rcgen::Error> {
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let pair = KeyPair::generate()?;
    let own = params.self_signed(&pair)?;
    Ok(Proof::Alpn { host: host.to_owned(), chain: pem(own.der()), key: Secret::new(pair.serialize_pem()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_authority_that_says_nothing_is_not_waited_for_for_ever() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(&Home::at(folder.path().join("home"))).expect("opened");
        let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("bound");
        let directory = format!("https://{}/dir", nobody.local_addr().expect("an address"));
        let acme = Acme { directory: directory.clone(), email: None, root: None, way: None };
        let shop = "shop".parse().expect("valid");
        let asked = within(Duration::from_millis(200), &ledger, &Principal::me(), &shop, &acme, true).await;
        assert!(matches!(asked, Err(AcmeError::Silent { directory: at }) if at == directory));
    }

    #[test]
    fn attempts_become_rarer_and_an_authority_that_complains_is_left_alone() {
        let now = Timestamp::UNIX_EPOCH;
        let error = AcmeError::NoWay { host: "a.test".into() };
        let minutes = |n| again(n, &error, now).as_second() / 60;
        assert_eq!([1, 2, 3, 4, 40].map(minutes), [1, 4, 16, 64, 1_440]);
        let problem = serde_json::from_value(serde_json::json!({"type": "urn:ietf:params:acme:error:rateLimited", "detail": "slow down"}));
        let complains = AcmeError::Order { host: "a.test".into(), source: Error::Api(problem.expect("a problem")) };
        assert_eq!(again(1, &complains, now).as_second(), 3_600);
        assert!(crate::chain(&complains).contains("slow down"), "{complains}");
    }
}
