//! Which certificates the router of a deploy shows: those of the ledger, and the local authority's for names that no other one certifies.
//! Those of an ACME authority are ordered here, and again when a third of their life is left.
//!
//! **Invariant:** what is shown follows from the ledger and the clock alone; it is looked at after each commit and each hour.
//! **Invariant:** one order at a time, and after a failure ever longer none for that name.

use super::acme::{self, Acme, AcmeError, Way};
use super::ca::{self, Authority, AuthorityError};
use super::{Certificate, Proof, Supply};
use crate::deploy::Floor;
use crate::home::Home;
use crate::ledger::{CertificateSource, Intent, Ledger, LedgerError, Principal};
use crate::parity::{self, Observed};
use dozen_core::ids::DeployRef;
use dozen_core::parity::Refusal;
use dozen_core::port::Domain;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// So often it is looked whether one ends soon.
const LOOK: Duration = Duration::from_secs(3_600);

/// Keeps the router of a deploy supplied.
pub struct Keeper {
    ledger: Ledger,
    deploy: DeployRef,
    driver: parity::Local,
    observed: Arc<Observed>,
    shown: Mutex<Shown>,
    /// Held while an order is under way.
    orders: Mutex<()>,
    /// The last orders that came to nothing, by name.
    failures: std::sync::Mutex<BTreeMap<String, Failure>>,
}

/// An order that came to nothing.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Why.
    pub why: String,
    /// How many in a row.
    pub times: u32,
    /// When the next is made.
    pub again: Timestamp,
}

/// What the router was told last, and what is in use of it besides the ledger's.
#[derive(Default)]
struct Shown {
    /// Opened when the first name is to be certified.
    authority: Option<Authority>,
    /// What it gave, by name.
    given: BTreeMap<Vec<String>, Certificate>,
    /// What an authority looks for now.
    proofs: Vec<Proof>,
    supply: Arc<Supply>,
}

/// Why the router is not supplied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// The ledger does not say what is to be shown.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The local authority cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The driver has ended.
    #[error("cannot hand certificates to the router")]
    Driver(#[from] Refusal),
    /// An order failed.
    #[error(transparent)]
    Acme(#[from] AcmeError),
}

impl Keeper {
    /// Of this deploy's router, which listens for HTTPS.
    pub fn of(floor: &Floor) -> Self {
        let (ledger, deploy, driver) = (floor.ledger.clone(), floor.deploy.clone(), floor.driver.clone());
        let (observed, shown, orders, failures) = (floor.observed.clone(), Mutex::default(), Mutex::default(), std::sync::Mutex::default());
        Self { ledger, deploy, driver, observed, shown, orders, failures }
    }

    /// Has the router show what it should. When this answers, it does.
    ///
    /// # Errors
    /// The ledger, the authority or the driver fails; what was shown is shown on.
    pub async fn look(&self) -> Result<(), KeeperError> {
        let mut shown = self.shown.lock().await;
        self.supply(&mut shown).await
    }

    async fn supply(&self, shown: &mut Shown) -> Result<(), KeeperError> {
        let certificates = self.wanted(shown, Timestamp::now()).await?;
        let supply = Supply { certificates, proofs: shown.proofs.clone() };
        if supply != *shown.supply {
            let supply = Arc::new(supply);
            self.driver.certify(supply.clone()).await?;
            shown.supply = supply;
        }
        Ok(())
    }

    /// Goes on looking, and ordering. What fails is told in the log, and tried again.
    pub async fn keep(self: Arc<Self>) {
        tokio::join!(self.keep_looking(), self.keep_ordering());
    }

    async fn keep_looking(&self) {
        let mut commits = self.ledger.commits();
        loop {
            tokio::select! {
                changed = commits.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Err(error) = self.look().await {
                self.tell(&format!("Cannot renew what HTTPS is spoken with: {}", crate::chain(&error)));
            }
        }
    }

    async fn keep_ordering(&self) {
        let mut commits = self.ledger.commits();
        loop {
            let next = match self.order_due().await {
                Ok(next) => next,
                Err(error) => {
                    self.tell(&format!("Cannot order certificates: {}", crate::chain(&error)));
                    None
                }
            };
            let wait = next.map_or(LOOK, |next| next.duration_since(Timestamp::now()).try_into().unwrap_or_default()).min(LOOK);
            tokio::select! {
                changed = commits.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn tell(&self, message: &str) {
        self.observed.store().write("certs", message);
    }

    async fn wanted(&self, shown: &mut Shown, now: Timestamp) -> Result<Vec<Certificate>, KeeperError> {
        let rows = self.ledger.certificates(&self.deploy).await?;
        let mut all: Vec<Certificate> = rows.into_iter().map(|row| row.certificate).filter(|c| c.not_after > now).collect();
        // Of two for one name the one that lasts longer is shown.
        all.sort_by_key(|c| std::cmp::Reverse(c.not_after));
        let own = format!("{}.localhost", self.deploy.app);
        let loopback = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        // Who names no host has asked for an address.
        let first: Vec<String> = std::iter::once(own).chain(loopback).collect();
        all.push(Certificate { fallback: true, ..shown.certified(self.ledger.home(), first, now)? });
        for domain in self.ledger.domains(&self.deploy).await? {
            if ca::may_certify(domain.host()) && !all.iter().any(|c| c.is_for(&domain)) {
                all.push(shown.certified(self.ledger.home(), vec![domain.host().to_owned()], now)?);
            }
        }
        let used: BTreeSet<&Vec<String>> = all.iter().map(|c| &c.names).collect();
        shown.given.retain(|names, _| used.contains(names));
        Ok(all)
    }

    /// Orders for which the time has come. Answers when the next one is due, if any is to be expected.
    async fn order_due(&self) -> Result<Option<Timestamp>, KeeperError> {
        let Some(acme) = self.ledger.acme(&self.deploy).await? else { return Ok(None) };
        let _turn = self.orders.lock().await;
        let rows = self.ledger.certificates(&self.deploy).await?;
        let domains = self.ledger.domains(&self.deploy).await?;
        let mut next = None;
        let hosts: BTreeSet<&str> = domains.iter().filter(|d| is_ordered(d)).map(Domain::host).collect();
        for host in hosts {
            let of = |row: &&crate::ledger::CertificateRow| domains.iter().any(|d| d.host() == host && row.certificate.is_for(d));
            // One that somebody gave is that one's to renew; until it ends nothing is ordered beside it.
            let renewal = rows.iter().filter(of).map(|row| match row.source {
                CertificateSource::File => row.certificate.not_after,
                CertificateSource::Acme => spread(ca::renewal(&row.certificate), &row.certificate, host),
            });
            let mut due = renewal.max().unwrap_or(Timestamp::MIN).max(self.failure(host).map_or(Timestamp::MIN, |f| f.again));
            if due <= Timestamp::now() {
                match self.obtain(&acme, host).await {
                    Ok(()) => continue,
                    Err(KeeperError::Acme(error)) => {
                        self.tell(&format!("{}; it is tried again", crate::chain(&error)));
                        due = self.failure(host).map_or(due, |f| f.again);
                    }
                    Err(other) => return Err(other),
                }
            }
            next = Some(next.map_or(due, |next: Timestamp| next.min(due)));
        }
        Ok(next)
    }

    /// Orders a certificate and has it shown.
    async fn obtain(&self, acme: &Acme, host: &str) -> Result<(), KeeperError> {
        let times = self.failure(host).map_or(0, |f| f.times);
        let way = acme.way.unwrap_or(if times.is_multiple_of(2) { Way::Http } else { Way::Alpn });
        let ordered = self.order(acme, host, way).await;
        {
            // What was shown to the authority has been looked at.
            let mut shown = self.shown.lock().await;
            shown.proofs.clear();
            self.supply(&mut shown).await?;
        }
        match ordered {
            Ok(()) => {
                self.failures.lock().expect("no one panics while holding it").remove(host);
                self.tell(&format!("Certificate for {host} obtained"));
                Ok(())
            }
            Err(KeeperError::Acme(error)) => {
                let (times, now) = (times + 1, Timestamp::now());
                let failure = Failure { why: crate::chain(&error), times, again: acme::again(times, &error, now) };
                self.failures.lock().expect("no one panics while holding it").insert(host.to_owned(), failure);
                Err(error.into())
            }
            Err(other) => Err(other),
        }
    }

    async fn order(&self, acme: &Acme, host: &str, way: Way) -> Result<(), KeeperError> {
        let who = Principal::me();
        let account = acme::account(&self.ledger, &who, &self.deploy, acme, false).await?;
        let certificate = Box::new(acme::order(&account, host, way, |proof| self.prove(proof)).await??);
        let intent = Intent::Certify { deploy: self.deploy.clone(), certificate, source: CertificateSource::Acme };
        self.ledger.commit(&who, intent).await?;
        Ok(())
    }

    /// Has the router show what an authority looks for; answers when it does.
    async fn prove(&self, proof: Proof) -> Result<(), KeeperError> {
        let mut shown = self.shown.lock().await;
        shown.proofs.push(proof);
        self.supply(&mut shown).await
    }

    fn failure(&self, host: &str) -> Option<Failure> {
        self.failures().remove(host)
    }

    /// The names for which the last order came to nothing.
    pub fn failures(&self) -> BTreeMap<String, Failure> {
        self.failures.lock().expect("no one panics while holding it").clone()
    }
}

/// Whether an authority can be asked for its certificate: it is known outside, and one name.
pub fn is_ordered(domain: &Domain) -> bool {
    domain.is_public() && !domain.is_wildcard()
}

/// Spreads the renewals of names that were certified together over a twelfth of their life.
fn spread(at: Timestamp, certificate: &Certificate, host: &str) -> Timestamp {
    let life = certificate.not_after.duration_since(certificate.not_before).as_secs().max(0);
    let hash = blake3::hash(host.as_bytes());
    let part = i64::from(hash.as_bytes()[0]);
    at.saturating_sub(SignedDuration::from_secs(life / 12 * part / 256)).unwrap_or(at)
}

impl Shown {
    /// What the authority gave for these names, or gives now.
    fn certified(&mut self, home: &Home, names: Vec<String>, now: Timestamp) -> Result<Certificate, KeeperError> {
        if let Some(known) = self.given.get(&names).filter(|c| ca::renewal(c) > now) {
            return Ok(known.clone());
        }
        let authority = match &mut self.authority {
            Some(authority) => authority,
            none => none.insert(Authority::open(home)?),
        };
        let fresh = authority.issue(&names, now)?;
        self.given.insert(names, fresh.clone());
        Ok(fresh)
    }
}
