//! A declared split: the current release and others beside it, each with a part of the requests, until another release is current.
//!
//! The others run their `web` only: what works through a queue, or on a schedule, is the current one's affair.

use super::{DeployError, Floor};
use crate::ledger::{Intent, Principal, Split};
use dozen_core::concurrency::formation::Formation;
use dozen_core::concurrency::{Desired, Share, outcome};
use dozen_core::ids::{Generation, TypeName, Version};
use dozen_core::parity::Driver;
use dozen_core::port::Sticky;
use dozen_core::port::tally::ErrorRate;
use dozen_core::processes::Seen;
use dozen_core::release::{Release, Slug, Status};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Floor {
    /// How requests are split; `None` where all go to the current release.
    pub async fn declared_split(&self) -> Result<Option<Split>, DeployError> {
        Ok(self.ledger.split(&self.deploy).await?)
    }

    /// Splits requests between these releases, the current one among them, and waits until the others are up. Where one does not come up all
    /// requests go to the current one. Without any the split ends.
    pub async fn split(
        &self,
        who: &Principal,
        shares: Vec<(Version, u32)>,
        sticky: Sticky,
        abort_above: Option<ErrorRate>,
    ) -> Result<(), DeployError> {
        let _turn = self.turn.lock().await;
        let (release, formation) = self.steerable().await?;
        let current = release.version;
        if !shares.is_empty() && !shares.iter().any(|(version, _)| *version == current) {
            return Err(DeployError::SplitWithout(current));
        }
        let mut others = Vec::new();
        for (version, _) in shares.iter().filter(|(version, _)| *version != current) {
            let row = self.ledger.release(&self.deploy, *version).await?;
            if row.status != Status::Succeeded {
                return Err(DeployError::FailedRelease(row.version));
            }
            let slug = self.take_up(&row)?;
            others.push((*version, self.web_only(&slug).await?));
        }
        let running = formation.without(&self.stopped().await?);
        let generation = self.declare(who, (shares, sticky, abort_above), None).await?;
        self.apply_steady(release.clone(), running.clone(), generation).await?;
        for (version, formation) in others {
            // What is seen of an earlier split says how that one ended.
            let fresh = |seen: &[Seen]| seen.iter().filter(|s| s.generation >= generation || s.routed).cloned().collect::<Vec<_>>();
            let up = self.observed.until(|seen| outcome(version, &formation, &fresh(seen))).await;
            if let Err(reason) = up {
                let generation = self.declare(who, (Vec::new(), Sticky::No, None), Some(format!("{version} did not come up"))).await?;
                self.apply_steady(release, running, generation).await?;
                return Err(DeployError::NotUp { version, reason: reason.to_string() });
            }
        }
        Ok(())
    }

    pub(super) async fn declare(
        &self,
        who: &Principal,
        (shares, sticky, abort_above): (Vec<(Version, u32)>, Sticky, Option<ErrorRate>),
        why: Option<String>,
    ) -> Result<Generation, DeployError> {
        let _order = self.telling.lock().await;
        let words: Vec<String> = shares.iter().map(|(version, weight)| format!("{version}={weight}")).collect();
        let committed = self.ledger.commit(who, Intent::Split { deploy: self.deploy.clone(), shares, sticky, abort_above, why }).await?;
        let line =
            if words.is_empty() { "Ending the split of requests".to_owned() } else { format!("Splitting requests {}", words.join(" ")) };
        self.observed.store().write("api", &format!("{line} by {}", who.name));
        self.tell_front().await?;
        Ok(committed.generation)
    }

    /// Has the driver do so.
    pub(super) async fn apply_steady(&self, release: Arc<Release>, running: Formation, generation: Generation) -> Result<(), DeployError> {
        Ok(self.driver.apply(&self.steady(release, running, generation).await?)?)
    }

    /// What shall run where a release is the current one: all of it, and beside it what the split says.
    pub(super) async fn steady(&self, release: Arc<Release>, running: Formation, generation: Generation) -> Result<Desired, DeployError> {
        let own = release.version;
        let mut desired = self.desired(release, running, generation, false);
        let shares = self.declared_split().await?.map(|split| split.shares).unwrap_or_default();
        // While a release takes the place of another one, a split is still the other one's.
        if !shares.iter().any(|(version, _)| *version == own) {
            return Ok(desired);
        }
        for (version, weight) in shares {
            if version == own {
                desired.releases[0].weight = weight;
                continue;
            }
            match self.load(&self.ledger.release(&self.deploy, version).await?).await {
                Ok(release) => {
                    let formation = self.web_only(&release.slug).await?;
                    desired.releases.push(Share { release: Arc::new(release), weight, formation });
                }
                // Its slug may be gone; the others go on.
                Err(e) => self.observed.store().write("api", &format!("{version} has no part in the split: {}", crate::chain(&e))),
            }
        }
        Ok(desired)
    }

    async fn web_only(&self, slug: &Slug) -> Result<Formation, DeployError> {
        let running = self.running(slug).await?;
        let others: BTreeSet<TypeName> = running.iter().map(|(kind, _)| kind.clone()).filter(|kind| !kind.is_web()).collect();
        Ok(running.without(&others))
    }
}
