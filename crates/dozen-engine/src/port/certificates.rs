//! Which certificates the router of a deploy shows: those of the ledger, and the local authority's for names that no other one certifies.
//!
//! **Invariant:** what is shown follows from the ledger and the clock alone; it is looked at after each commit and each hour.

use super::ca::{self, Authority, AuthorityError};
use super::{Certificate, Certificates};
use crate::deploy::Floor;
use crate::home::Home;
use crate::ledger::{Ledger, LedgerError};
use crate::parity::{self, Observed};
use dozen_core::ids::DeployRef;
use dozen_core::parity::Refusal;
use jiff::Timestamp;
use std::collections::BTreeMap;
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
    local: Mutex<Local>,
}

/// What the local authority has certified.
#[derive(Default)]
struct Local {
    /// Opened when the first name is to be certified.
    authority: Option<Authority>,
    /// What it gave, by name.
    given: BTreeMap<Vec<String>, Certificate>,
    shown: Certificates,
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
}

impl Keeper {
    /// Of this deploy's router, which listens for HTTPS.
    pub fn of(floor: &Floor) -> Self {
        let (ledger, deploy, driver) = (floor.ledger.clone(), floor.deploy.clone(), floor.driver.clone());
        Self { ledger, deploy, driver, observed: floor.observed.clone(), local: Mutex::default() }
    }

    /// Has the router show what it should. When this answers, it does.
    ///
    /// # Errors
    /// The ledger, the authority or the driver fails; what was shown is shown on.
    pub async fn look(&self) -> Result<(), KeeperError> {
        let mut local = self.local.lock().await;
        let all = self.wanted(&mut local, Timestamp::now()).await?;
        if all != *local.shown {
            let all = Arc::new(all);
            self.driver.certify(all.clone()).await?;
            local.shown = all;
        }
        Ok(())
    }

    /// Goes on looking. What fails is told in the log, and tried again.
    pub async fn keep(self: Arc<Self>) {
        let mut commits = self.ledger.commits();
        loop {
            tokio::select! {
                changed = commits.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Err(error) = self.look().await {
                self.observed.store().write("router", &format!("Cannot renew what HTTPS is spoken with: {}", crate::chain(&error)));
            }
        }
    }

    async fn wanted(&self, local: &mut Local, now: Timestamp) -> Result<Vec<Certificate>, KeeperError> {
        let rows = self.ledger.certificates(&self.deploy).await?;
        let mut all: Vec<Certificate> = rows.into_iter().map(|row| row.certificate).filter(|c| c.not_after > now).collect();
        // Of two for one name the one that lasts longer is shown.
        all.sort_by_key(|c| std::cmp::Reverse(c.not_after));
        let own = format!("{}.localhost", self.deploy.app);
        let loopback = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        // Who names no host has asked for an address.
        let first: Vec<String> = std::iter::once(own).chain(loopback).collect();
        all.push(Certificate { fallback: true, ..local.certified(self.ledger.home(), first, now)? });
        for domain in self.ledger.domains(&self.deploy).await? {
            if ca::may_certify(domain.host()) && !all.iter().any(|c| c.is_for(&domain)) {
                all.push(local.certified(self.ledger.home(), vec![domain.host().to_owned()], now)?);
            }
        }
        let names = |c: &Certificate| c.names.clone();
        let used: Vec<Vec<String>> = all.iter().map(names).collect();
        local.given.retain(|names, _| used.contains(names));
        Ok(all)
    }

}

impl Local {
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
