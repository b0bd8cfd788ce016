//! What leads to a deploy and how its requests are treated: written down, and told to the driver at once. No release comes of it.

use super::{DeployError, Floor};
use crate::ledger::{Intent, Principal};
use dozen_core::port::{Domain, Front, Network};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// A change of how requests are treated; `None` leaves it as it is.
#[derive(Debug, Clone, Default)]
pub struct Treatment {
    /// Whether visitors are told of maintenance, and nothing reaches the app.
    pub maintenance: Option<bool>,
    /// Whether requests wait.
    pub pause: Option<Pause>,
    /// Whether plain HTTP is sent on to HTTPS.
    pub https_only: Option<bool>,
    /// How long browsers are told to come by HTTPS only; zero tells them nothing.
    pub hsts: Option<Duration>,
    /// The proxies before the router that are believed what they say of a request.
    pub trusted: Option<Vec<Network>>,
}

/// Of a change: what becomes of the pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Requests are sent again.
    Off,
    /// They wait until that is taken back.
    On,
    /// They wait at most so long.
    For(Duration),
}

impl Floor {
    /// What leads to the deploy and how it is treated.
    pub async fn front(&self) -> Result<Front, DeployError> {
        Ok(self.ledger.front(&self.deploy).await?.at(Timestamp::now()))
    }

    /// The name that always leads to it.
    pub fn own_domain(&self) -> Option<Domain> {
        Domain::of_app(&self.deploy.app)
    }

    /// Has these domains lead to the deploy, too. Answers those that did not, and all.
    pub async fn lead(&self, who: &Principal, domains: Vec<Domain>) -> Result<(Vec<Domain>, Front), DeployError> {
        let _order = self.telling.lock().await;
        let before = self.front().await?.domains;
        // What leads here by itself needs no word in the ledger.
        let fresh = |d: &Domain| Some(d) != self.own_domain().as_ref() && !before.contains(d);
        let new: Vec<Domain> = domains.into_iter().filter(fresh).collect();
        if !new.is_empty() {
            self.ledger.commit(who, Intent::Lead { deploy: self.deploy.clone(), domains: new.clone() }).await?;
            self.say(format!("Adding {} by {}", words(&new), who.name));
        }
        Ok((new, self.tell_front().await?))
    }

    /// Has these domains lead here no longer. Answers all that are left.
    pub async fn unlead(&self, who: &Principal, domains: Vec<Domain>) -> Result<Front, DeployError> {
        let _order = self.telling.lock().await;
        if let Some(own) = domains.iter().find(|d| Some(*d) == self.own_domain().as_ref()) {
            return Err(DeployError::OwnDomain { domain: own.clone(), deploy: self.deploy.clone() });
        }
        self.ledger.commit(who, Intent::Unlead { deploy: self.deploy.clone(), domains: domains.clone() }).await?;
        self.say(format!("Removing {} by {}", words(&domains), who.name));
        self.tell_front().await
    }

    /// Changes how its requests are treated.
    pub async fn treat(&self, who: &Principal, change: Treatment) -> Result<Front, DeployError> {
        let _order = self.telling.lock().await;
        if change.pause.is_some_and(|pause| pause != Pause::Off) && !self.serving {
            return Err(DeployError::NotServing(self.deploy.clone()));
        }
        let Front { mut manners, mut paused_until, .. } = self.front().await?;
        let before = manners.clone();
        manners.maintenance = change.maintenance.unwrap_or(manners.maintenance);
        manners.https_only = change.https_only.unwrap_or(manners.https_only);
        if let Some(hsts) = change.hsts {
            manners.hsts = Some(hsts).filter(|hsts| !hsts.is_zero());
        }
        manners.trusted = change.trusted.unwrap_or(manners.trusted);
        if let Some(pause) = change.pause {
            manners.paused = pause != Pause::Off;
            paused_until = match pause {
                Pause::Off | Pause::On => None,
                // A pause beyond all time is one without an end.
                Pause::For(time) => SignedDuration::try_from(time).ok().and_then(|time| Timestamp::now().checked_add(time).ok()),
            };
        }
        let said = [
            (before.maintenance != manners.maintenance, "maintenance mode", manners.maintenance),
            (change.pause.is_some(), "pause", manners.paused),
            (before.https_only != manners.https_only, "HTTPS only", manners.https_only),
            (before.hsts != manners.hsts, "HSTS", manners.hsts.is_some()),
            (before.trusted != manners.trusted, "trust in proxies", !manners.trusted.is_empty()),
        ];
        let deploy = self.deploy.clone();
        self.ledger.commit(who, Intent::Treat { deploy, manners: Box::new(manners), paused_until }).await?;
        for (_, what, on) in said.iter().filter(|(changed, ..)| *changed) {
            self.say(format!("Turning {what} {} by {}", if *on { "on" } else { "off" }, who.name));
        }
        self.tell_front().await
    }

    /// Has the driver go by what the ledger says.
    pub(super) async fn tell_front(&self) -> Result<Front, DeployError> {
        let front = self.front().await?;
        self.driver.front(front.clone()).await?;
        Ok(front)
    }

    fn say(&self, line: String) {
        if self.serving {
            self.observed.store().write("api", &line);
        }
    }
}

fn words(domains: &[Domain]) -> String {
    domains.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
