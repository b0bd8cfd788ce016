//! From a running release to the next: the release phase, the start beside the old one, the switch. Whatever fails, the old one serves on.
//!
//! Where the two share data on this host, or the app says so, processes of the old one stop first; requests wait then until a successor, or
//! the old one again, takes them.

use super::{DeployError, Floor, kind};
use crate::ledger::{Intent, Principal};
use crate::output::Output;
use dozen_core::concurrency::{Desired, GivenUp, outcome};
use dozen_core::ids::{Generation, TypeName};
use dozen_core::parity::Driver;
use dozen_core::processes::{Seen, State};
use dozen_core::release::Release;
use std::collections::BTreeSet;
use std::sync::Arc;

/// So many of its last lines are told of a release that did not come up.
const LAST: usize = 5;

/// Why a release takes the place of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Something of the one before was changed: what is stopped stays so.
    Changed,
    /// Somebody brings the deploy up: nothing stays stopped.
    BroughtUp,
    /// The same, and who waits for it is told when it is launched.
    Pushed,
}

impl Floor {
    /// The same as [`Floor::roll`], in its turn.
    pub(super) async fn take_place(
        &self,
        who: &Principal,
        release: Arc<Release>,
        way: Way,
        output: &dyn Output,
    ) -> Result<(), DeployError> {
        let _turn = self.turn.lock().await;
        self.roll(who, release, way, output).await
    }

    /// The new release beside the running one. Formation and what is stopped change with its success alone.
    pub(super) async fn roll(&self, who: &Principal, release: Arc<Release>, way: Way, output: &dyn Output) -> Result<(), DeployError> {
        let version = release.version;
        let old = self.current().await.ok().map(Arc::new);
        let hold = match &old {
            Some(old) => self.make_room(&release, old).await?,
            None => false,
        };
        if let Err(e) = self.phase(who, &release, output).await {
            if let Some(old) = old.filter(|_| hold) {
                self.take_back(&old, self.generation().await?, hold).await?;
            }
            return Err(e);
        }
        if way == Way::Pushed {
            output.step("Launching...");
        }
        let stopped = if way == Way::Changed { BTreeSet::new() } else { self.start_all(who).await? };
        let running = self.running(&release.slug).await?;
        self.driver.apply(&self.desired(release.clone(), running.clone(), self.generation().await?, hold))?;
        match (self.come_up(who, &release).await?, old) {
            (Ok(()), _) | (Err(_), None) => {
                let generation = self.conclude(who, version, None).await?;
                self.settle_formation(who, &release.slug).await?;
                if hold {
                    self.driver.apply(&self.desired(release, running, generation, false))?;
                }
                Ok(())
            }
            (Err(given_up), Some(old)) => {
                let (last, kept) = (self.last_lines(&release, &given_up), old.version);
                let failure = std::iter::once(given_up.to_string()).chain(last.iter().cloned()).collect::<Vec<_>>().join("\n");
                let mut generation = self.conclude(who, version, Some(failure)).await?;
                if !stopped.is_empty() {
                    let stop = Intent::Stop { deploy: self.deploy.clone(), types: stopped };
                    generation = self.ledger.commit(who, stop).await?.generation;
                }
                self.observed.store().write("api", &format!("Release {version} failed: {given_up}; {kept} keeps serving"));
                self.take_back(&old, generation, hold).await?;
                Err(DeployError::Start { version, reason: given_up.to_string(), kept, last })
            }
        }
    }

    /// Stops what must not run while the new release's release phase does. Answers whether requests are to wait until its `web` is there:
    /// those of the old one stop, now or when the new ones are to start.
    async fn make_room(&self, release: &Release, old: &Arc<Release>) -> Result<bool, DeployError> {
        let formation = self.running(&old.slug).await?;
        let alone: BTreeSet<TypeName> = formation.iter().map(|(k, _)| k.clone()).filter(|k| !release.overlaps(k)).collect();
        let hold = formation.iter().any(|(k, n)| k.is_web() && n > 0 && alone.contains(k));
        if hold {
            let line = format!("Requests wait until {} takes over from {}: the two must not run at a time", release.version, old.version);
            self.observed.store().write("api", &line);
        }
        // What the phase changes is data; types that are only not to run twice go on until their successors start.
        let first = release.shares_data() && release.command(&kind(TypeName::RELEASE)).is_some();
        if first && !alone.is_empty() {
            let rest = formation.without(&alone);
            self.driver.apply(&self.desired(old.clone(), rest, self.generation().await?, hold))?;
            let left = |seen: &[Seen]| seen.iter().any(|s| alone.contains(&s.instance.kind) && s.state != State::Down);
            self.observed.until(|seen| (!left(seen)).then_some(())).await;
        }
        Ok(hold)
    }

    /// The old release again, all of it. Where requests wait for it, until it is up or it shows that it does not come up.
    async fn take_back(&self, old: &Arc<Release>, generation: Generation, hold: bool) -> Result<(), DeployError> {
        let formation = self.running(&old.slug).await?;
        self.driver.apply(&Desired { hold, ..self.steady(old.clone(), formation.clone(), generation).await? })?;
        if hold {
            // What is seen of those that were stopped says how they ended then; the ones that were left alone are of an older generation.
            let ended = |s: &Seen| s.state == State::Down && s.generation < generation;
            let now = |seen: &[Seen]| seen.iter().filter(|s| !ended(s)).cloned().collect::<Vec<_>>();
            // Either way nobody is to wait any longer.
            let _ = self.observed.until(|seen| outcome(old.version, &formation, &now(seen))).await;
            self.driver.apply(&self.steady(old.clone(), formation, generation).await?)?;
        }
        Ok(())
    }

    async fn generation(&self) -> Result<Generation, DeployError> {
        let known = self.ledger.deploy(&self.deploy).await?;
        Ok(known.map(|(_, generation)| generation).unwrap_or_default())
    }

    /// What the instance that decided it wrote last, masked.
    fn last_lines(&self, release: &Release, given_up: &GivenUp) -> Vec<String> {
        let said = self.observed.store().last_words(&given_up.instance.to_string(), LAST);
        let mask = release.mask();
        said.iter().skip(said.len().saturating_sub(LAST)).map(|line| mask.apply(line).into_owned()).collect()
    }
}
