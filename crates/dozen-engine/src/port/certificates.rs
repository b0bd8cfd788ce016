//! Which certificates the router of a deploy shows: those of the ledger, and the local authority's for names that no other one certifies.
//! Those of an ACME authority are ordered here, and again when a third of their life is left.
//!
//! **Invariant:** what is shown follows from the ledger and the clock alone; it is looked at after each commit and each hour.
//! **Invariant:** one order at a time, and after a failure ever longer none for that name, whoever is the control part by then.

use super::acme::{self, Acme, AcmeError, Way};
use super::ca::{self, Authority, AuthorityError};
use super::{Certificate, Proof, Supply};
use crate::deploy::Floor;
use crate::home::Home;
use crate::ledger::{CertificateRow, CertificateSource, Intent, Ledger, LedgerError, Principal};
use crate::parity::{self, Observed};
use dozen_core::ids::DeployRef;
use dozen_core::parity::Refusal;
use dozen_core::port::Domain;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// So often it is looked whether one ends soon.
const LOOK: Duration = Duration::from_secs(3_600);
/// So long whoever asks for certificates waits for them. An authority that comes to an end at all does so much earlier.
const WAIT: Duration = Duration::from_secs(120);

/// Keeps the router of a deploy supplied.
pub struct Keeper {
    ledger: Ledger,
    deploy: DeployRef,
    driver: parity::Local,
    observed: Arc<Observed>,
    shown: Mutex<Shown>,
    /// Held while an order is under way.
    orders: Mutex<()>,
    /// What the deploy is called by itself.
    names: Vec<String>,
}

/// An order that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub why: String,
    /// How many in a row.
    pub times: u32,
    /// Whether the authority says that it was asked too often.
    pub too_often: bool,
    /// When the next is made.
    pub again: Timestamp,
}

/// How a name stands that an authority is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has a certificate, until then.
    Certified(Timestamp),
    /// The last order came to nothing.
    Failed(Failure),
    /// One is under way, or waits for its turn, and takes longer than whoever asked waits.
    UnderWay,
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
    /// Of this deploy's router, which listens for HTTPS. By itself the deploy has these names, of which those are certified here that nobody
    /// has on the Internet.
    pub fn of(floor: &Floor, names: &[Domain]) -> Self {
        let names = names.iter().map(|name| name.host().to_owned()).filter(|name| ca::may_certify(name)).collect();
        let (ledger, deploy, driver) = (floor.ledger.clone(), floor.deploy.clone(), floor.driver.clone());
        let (observed, shown, orders) = (floor.observed.clone(), Mutex::default(), Mutex::default());
        Self { ledger, deploy, driver, observed, shown, orders, names }
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
        let loopback = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        // Who names no host has asked for an address.
        let first: Vec<String> = self.names.iter().cloned().chain(loopback).collect();
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

    /// Has each of these names certified that an authority can be asked for, by an order if need be, and says how they stand. They need not lead
    /// here yet; the router shows a certificate when it is told of. Of a deploy that asks no authority, nothing.
    ///
    /// # Errors
    /// The ledger or the driver fails.
    pub async fn certify(self: &Arc<Self>, domains: &[Domain]) -> Result<Vec<(String, Standing)>, KeeperError> {
        let Some(acme) = self.ledger.acme(&self.deploy).await? else { return Ok(Vec::new()) };
        let limit = Instant::now() + WAIT;
        let mut all = Vec::new();
        for host in hosts(domains) {
            let (keeper, acme, name) = (self.clone(), acme.clone(), host.clone());
            // One that was begun goes on, also if nobody waits for it any more: the authority counts it.
            let order = crate::tasks::spawn("order", async move { keeper.ensure(&acme, &name, true).await });
            all.push((host.host().to_owned(), until(limit, order).await?));
        }
        Ok(all)
    }

    /// Orders for which the time has come. Answers when the next one is due, if any is to be expected.
    async fn order_due(&self) -> Result<Option<Timestamp>, KeeperError> {
        let Some(acme) = self.ledger.acme(&self.deploy).await? else { return Ok(None) };
        let rows = self.ledger.certificates(&self.deploy).await?;
        let failures = self.ledger.failures(&self.deploy, &acme.directory).await?;
        let mut next = None;
        for host in hosts(&self.ledger.domains(&self.deploy).await?) {
            let renewal = best(&rows, &host).map_or(Timestamp::MIN, |best| best.renewal);
            let now = Timestamp::now();
            let failed = failures.get(host.host()).filter(|f| f.holds(false, now)).map_or(Timestamp::MIN, |f| f.again);
            let mut due = renewal.max(failed);
            if due <= now {
                match self.ensure(&acme, &host, false).await? {
                    Standing::Failed(failure) => due = failure.again,
                    Standing::Certified(_) | Standing::UnderWay => continue,
                }
            }
            next = Some(next.map_or(due, |next: Timestamp| next.min(due)));
        }
        Ok(next)
    }

    /// Orders a certificate for a name and has it shown, if one is wanted by now; whose turn comes late may find it there. Where somebody asks
    /// for it, one that is still good is enough, and an earlier failure does not hold.
    async fn ensure(&self, acme: &Acme, host: &Domain, asked: bool) -> Result<Standing, KeeperError> {
        let _turn = self.orders.lock().await;
        let (rows, now) = (self.ledger.certificates(&self.deploy).await?, Timestamp::now());
        if let Some(best) = best(&rows, host).filter(|best| if asked { best.until } else { best.renewal } > now) {
            return Ok(Standing::Certified(best.until));
        }
        let known = self.ledger.failures(&self.deploy, &acme.directory).await?.remove(host.host());
        if let Some(failure) = known.clone().filter(|f| f.holds(asked, now)) {
            return Ok(Standing::Failed(failure));
        }
        let times = known.map_or(0, |f| f.times);
        let mut done = self.obtain(acme, host.host(), times).await;
        // Who waits shall not come again only because the other way is open.
        if asked && acme.way.is_none() && matches!(&done, Err(KeeperError::Acme(AcmeError::Unproven { .. }))) {
            done = self.obtain(acme, host.host(), times + 1).await;
        }
        match done {
            Ok(until) => Ok(Standing::Certified(until)),
            Err(KeeperError::Acme(error)) => {
                self.tell(&format!("{}; it is tried again", crate::chain(&error)));
                let failure = self.ledger.failures(&self.deploy, &acme.directory).await?.remove(host.host());
                Ok(failure.map_or(Standing::UnderWay, Standing::Failed))
            }
            Err(other) => Err(other),
        }
    }

    /// Orders a certificate after so many failures and has it shown; until when it is good.
    async fn obtain(&self, acme: &Acme, host: &str, times: u32) -> Result<Timestamp, KeeperError> {
        let way = acme.way.unwrap_or(if times.is_multiple_of(2) { Way::Http } else { Way::Alpn });
        let ordered = self.order(acme, host, way).await;
        {
            // What was shown to the authority has been looked at.
            let mut shown = self.shown.lock().await;
            shown.proofs.clear();
            self.supply(&mut shown).await?;
        }
        match &ordered {
            Ok(_) => self.tell(&format!("Certificate for {host} obtained")),
            Err(KeeperError::Acme(error)) => {
                let (times, now) = (times + 1, Timestamp::now());
                let failure =
                    Failure { why: crate::chain(error), times, too_often: error.is_too_often(), again: acme::again(times, error, now) };
                let (deploy, directory, host) = (self.deploy.clone(), acme.directory.clone(), host.to_owned());
                let intent = Intent::Unobtained { deploy, directory, host, failure: Box::new(failure) };
                self.ledger.commit(&Principal::me(), intent).await?;
            }
            Err(_) => {}
        }
        ordered
    }

    async fn order(&self, acme: &Acme, host: &str, way: Way) -> Result<Timestamp, KeeperError> {
        let who = Principal::me();
        let account = acme::account(&self.ledger, &who, &self.deploy, acme, false).await?;
        let certificate = Box::new(acme::order(&account, host, way, |proof| self.prove(proof)).await??);
        let until = certificate.not_after;
        let intent = Intent::Certify { deploy: self.deploy.clone(), certificate, source: CertificateSource::Acme };
        self.ledger.commit(&who, intent).await?;
        Ok(until)
    }

    /// Has the router show what an authority looks for; answers when it does.
    async fn prove(&self, proof: Proof) -> Result<(), KeeperError> {
        let mut shown = self.shown.lock().await;
        shown.proofs.push(proof);
        self.supply(&mut shown).await
    }
}

impl Failure {
    /// Whether no other order is made yet. Somebody who asks for one may have put right what was wrong; an authority that was asked too often
    /// says so to everybody. One that is much later than any is to be was written by a clock that was wrong.
    fn holds(&self, asked: bool, now: Timestamp) -> bool {
        let latest = now.saturating_add(acme::LAST * 2).unwrap_or(Timestamp::MAX);
        (!asked || self.too_often) && now < self.again && self.again <= latest
    }
}

/// What came of an order by this time.
async fn until(limit: Instant, order: JoinHandle<Result<Standing, KeeperError>>) -> Result<Standing, KeeperError> {
    match tokio::time::timeout_at(limit, order).await {
        Ok(Ok(standing)) => standing,
        // It takes too long, or ended early: then the next look makes another one.
        Err(_) | Ok(Err(_)) => Ok(Standing::UnderWay),
    }
}

/// What is known of a name's certificate that lasts longest.
struct Best {
    /// When another one is ordered.
    renewal: Timestamp,
    until: Timestamp,
}

fn best(rows: &[CertificateRow], host: &Domain) -> Option<Best> {
    let of = |row: &&CertificateRow| row.certificate.is_for(host);
    let known = rows.iter().filter(of).map(|row| {
        let until = row.certificate.not_after;
        // One that somebody gave is that one's to renew; until it ends nothing is ordered beside it.
        let renewal = match row.source {
            CertificateSource::File => until,
            CertificateSource::Acme => spread(ca::renewal(&row.certificate), &row.certificate, host.host()),
        };
        Best { renewal, until }
    });
    known.max_by_key(|best| best.renewal)
}

/// The names of these domains that an authority can be asked for, each once and without paths.
fn hosts(domains: &[Domain]) -> BTreeSet<Domain> {
    domains.iter().filter(|d| is_ordered(d)).filter_map(|d| d.host().parse().ok()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_holds_until_its_time_and_for_who_asks_only_where_the_authority_complained() {
        let now = Timestamp::now();
        let after = |minutes| now.saturating_add(SignedDuration::from_mins(minutes)).expect("a time");
        let failure = |too_often, again| Failure { why: "x".into(), times: 1, too_often, again };
        for (too_often, again, by_itself, asked) in [
            (false, after(1), true, false),
            (true, after(60), true, true),
            (false, after(-1), false, false),
            (true, after(-1), false, false),
            // Written by a clock that was wrong.
            (true, after(60 * 24 * 400), false, false),
        ] {
            let failure = failure(too_often, again);
            assert_eq!((failure.holds(false, now), failure.holds(true, now)), (by_itself, asked), "{failure:?}");
        }
    }

    #[tokio::test]
    async fn an_order_goes_on_when_nobody_waits_for_it_any_more() {
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let (end, ended) = tokio::sync::oneshot::channel();
        let order = crate::tasks::spawn("order", async move {
            gone.await.expect("told");
            end.send(()).expect("waited for");
            Ok(Standing::Certified(Timestamp::MAX))
        });
        assert_eq!(until(Instant::now(), order).await.expect("an answer"), Standing::UnderWay);
        go.send(()).expect("it waits");
        ended.await.expect("it came to its end");
        let order = crate::tasks::spawn("order", async { Ok(Standing::Certified(Timestamp::MAX)) });
        let far = Instant::now() + Duration::from_secs(600);
        assert_eq!(until(far, order).await.expect("an answer"), Standing::Certified(Timestamp::MAX));
    }

    #[test]
    fn an_authority_is_asked_once_for_a_name_and_never_for_what_it_cannot_know() {
        let domains = ["a.example.com/x", "a.example.com", "*.example.com", "shop.test", "b.example.com/"];
        let domains = domains.map(|d| d.parse::<Domain>().expect("a domain"));
        assert_eq!(hosts(&domains).iter().map(ToString::to_string).collect::<Vec<_>>(), ["a.example.com", "b.example.com"]);
    }
}
