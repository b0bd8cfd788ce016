//! Changing what runs of a release without making another: how many, which types at all, and starting again.

use super::{DeployError, Floor, building, declared};
use crate::ledger::{Intent, Principal};
use crate::output::Output;
use dozen_core::admin::people::Need;
use dozen_core::concurrency::formation::{Formation, Scale};
use dozen_core::concurrency::outcome;
use dozen_core::ids::{Generation, TypeName};
use dozen_core::parity::Driver;
use dozen_core::processes::{Seen, State};
use dozen_core::release::{Release, Slug};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How stopping or starting went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steered {
    /// The types that were asked for and were not so already.
    pub types: BTreeSet<TypeName>,
    /// All that are stopped now.
    pub stopped: BTreeSet<TypeName>,
    /// The formation as it is remembered.
    pub formation: Formation,
}

impl Floor {
    /// The formation as it was scaled, for the types that this slug has. One that nobody has scaled yet starts as the slug's app.json says, or else
    /// by the rule.
    pub async fn formation(&self, slug: &Slug) -> Result<Formation, DeployError> {
        let was = self.ledger.formation(&self.deploy).await?.unwrap_or_default();
        let known: BTreeSet<&TypeName> = was.iter().map(|(kind, _)| kind).collect();
        let is_new = slug.processes.iter().any(|t| !t.name.is_release() && !known.contains(&t.name));
        let declared = if is_new { declared::quantities(&building::source_of(self.home(), slug)?)? } else { BTreeMap::new() };
        Ok(was.next(&slug.processes, &declared, self.first).0)
    }

    /// Remembers the formation of a slug whose release has become the current one. Not before: what was scaled is still there for the release that
    /// serves on where its successor fails.
    pub(super) async fn settle_formation(&self, who: &Principal, slug: &Slug) -> Result<(), DeployError> {
        let formation = self.formation(slug).await?;
        if self.ledger.formation(&self.deploy).await?.as_ref() != Some(&formation) {
            self.ledger.commit(who, Intent::Scale { deploy: self.deploy.clone(), formation }).await?;
        }
        Ok(())
    }

    /// Tells of types in app.json's formation that the slug does not have.
    pub(super) fn say_unknown(&self, slug: &Slug, declared: &BTreeMap<TypeName, u32>, output: &dyn Output) {
        for unknown in Formation::first(&slug.processes, declared, self.first).1 {
            output.warning(&format!("app.json's formation: {unknown}"));
        }
    }

    /// Changes the formation.
    pub async fn scale(&self, who: &Principal, changes: &[Scale]) -> Result<Formation, DeployError> {
        let _turn = self.turn.lock().await;
        let release = Arc::new(self.current().await?);
        let formation = self.formation(&release.slug).await?.scale(changes, &release.slug.processes)?;
        let scaled = self.ledger.commit(who, Intent::Scale { deploy: self.deploy.clone(), formation: formation.clone() }).await?;
        if self.serving {
            let running = self.running(&release.slug).await?;
            self.driver.apply(&self.steady(release, running, scaled.generation).await?)?;
        }
        Ok(formation)
    }

    /// Ends and starts again all instances, those of a type, or one. Answers how many.
    pub async fn restart(&self, who: &Principal, target: Option<String>) -> Result<usize, DeployError> {
        self.ledger.authorise(who, "restart", Need::Deploy(self.deploy.app.clone()))?;
        if !self.serving {
            return Err(DeployError::NotServing(self.deploy.clone()));
        }
        Ok(self.driver.restart(target).await?)
    }

    /// Stops these types, or all, and waits until none of their instances is left. The formation is remembered.
    pub async fn stop_types(&self, who: &Principal, names: &[TypeName]) -> Result<Steered, DeployError> {
        let _turn = self.turn.lock().await;
        let (release, formation) = self.steerable().await?;
        let asked = formation.named(names, &release.slug.processes)?;
        let before = self.stopped().await?;
        let types: BTreeSet<TypeName> = asked.difference(&before).cloned().collect();
        let stopped: BTreeSet<TypeName> = before.union(&asked).cloned().collect();
        self.steer(who, release, &formation, stopped.clone()).await?;
        let gone = |seen: &[Seen]| {
            let left = seen.iter().any(|s| asked.contains(&s.instance.kind) && s.state != State::Down);
            (!left).then_some(())
        };
        self.observed.until(gone).await;
        Ok(Steered { types, stopped, formation })
    }

    /// Starts these types again, or all that are stopped, and waits until their instances are up; the error says which one ended instead.
    pub async fn start_types(&self, who: &Principal, names: &[TypeName]) -> Result<Steered, DeployError> {
        let _turn = self.turn.lock().await;
        let (release, formation) = self.steerable().await?;
        let asked = formation.named(names, &release.slug.processes)?;
        let before = self.stopped().await?;
        let types: BTreeSet<TypeName> = asked.intersection(&before).cloned().collect();
        let stopped: BTreeSet<TypeName> = before.difference(&asked).cloned().collect();
        if !types.is_empty() {
            let version = release.version;
            let generation = self.steer(who, release, &formation, stopped.clone()).await?;
            let others = formation.iter().map(|(kind, _)| kind.clone()).filter(|kind| !types.contains(kind)).collect();
            let wanted = formation.without(&others);
            // What is seen of those that were stopped says how they ended then.
            let fresh = |seen: &[Seen]| seen.iter().filter(|s| s.generation >= generation).cloned().collect::<Vec<_>>();
            let started = self.observed.until(|seen| outcome(version, &wanted, &fresh(seen))).await;
            started.map_err(|reason| DeployError::NotUp { version, reason: reason.to_string() })?;
            if stopped.is_empty() {
                self.ledger.commit(who, Intent::CameUp { deploy: self.deploy.clone(), version }).await?;
            }
        }
        Ok(Steered { types, stopped, formation })
    }

    /// Whoever brings a deploy up wants all of it: nothing stays stopped.
    /// Answers what was.
    pub(super) async fn start_all(&self, who: &Principal) -> Result<BTreeSet<TypeName>, DeployError> {
        let stopped = self.stopped().await?;
        if !stopped.is_empty() {
            self.ledger.commit(who, Intent::Stop { deploy: self.deploy.clone(), types: BTreeSet::new() }).await?;
            self.observed.store().write("api", &format!("{} was stopped and runs again", words(&stopped)));
        }
        Ok(stopped)
    }

    /// What runs of a slug, or would: its formation less what is stopped.
    pub async fn running(&self, slug: &Slug) -> Result<Formation, DeployError> {
        Ok(self.formation(slug).await?.without(&self.stopped().await?))
    }

    /// The process types of which none runs, however many the formation says.
    pub async fn stopped(&self) -> Result<BTreeSet<TypeName>, DeployError> {
        Ok(self.ledger.stopped(&self.deploy).await?)
    }

    pub(super) async fn steerable(&self) -> Result<(Arc<Release>, Formation), DeployError> {
        if !self.serving {
            return Err(DeployError::NotServing(self.deploy.clone()));
        }
        let release = Arc::new(self.current().await?);
        let formation = self.formation(&release.slug).await?;
        Ok((release, formation))
    }

    async fn steer(
        &self,
        who: &Principal,
        release: Arc<Release>,
        formation: &Formation,
        stopped: BTreeSet<TypeName>,
    ) -> Result<Generation, DeployError> {
        let before = self.stopped().await?;
        let running = formation.without(&stopped);
        let said = [("Stopping", stopped.difference(&before)), ("Starting", before.difference(&stopped))];
        for (verb, types) in said {
            let types: BTreeSet<TypeName> = types.cloned().collect();
            if !types.is_empty() {
                self.observed.store().write("api", &format!("{verb} {} by {}", words(&types), who.name));
            }
        }
        let committed = self.ledger.commit(who, Intent::Stop { deploy: self.deploy.clone(), types: stopped }).await?;
        self.driver.apply(&self.steady(release, running, committed.generation).await?)?;
        Ok(committed.generation)
    }
}

fn words(types: &BTreeSet<TypeName>) -> String {
    types.iter().map(TypeName::as_str).collect::<Vec<_>>().join(", ")
}
