//! Going on with a deploy whose control part is gone: what runs is found by looking, and what shall run is what the ledger says.

use super::{DeployError, Floor, Way};
use crate::ledger::{Intent, Principal};
use crate::output::Output;
use crate::processes::adoption;
use crate::processes::notes::Notes;
use dozen_core::admin::people::Need;
use dozen_core::concurrency::{GivenUp, outcome};
use dozen_core::ids::{InstanceName, Version};
use dozen_core::parity::Driver;
use dozen_core::processes::{Seen, State};
use dozen_core::release::{Release, Status};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Floor {
    /// Takes over the instances that another control part has left running, and waits for the end of what ends with it. `lasting`: they are
    /// to outlive this one, too.
    pub async fn take_over(&self, who: &Principal, notes: &Notes, lasting: bool) -> Result<(), DeployError> {
        self.ledger.authorise(who, "take over a deploy", Need::Host)?;
        // Before the first table: whoever is to be told of maintenance is told from the beginning.
        self.tell_front().await?;
        let mut releases: BTreeMap<Version, Arc<Release>> = BTreeMap::new();
        let mut all = Vec::new();
        for found in adoption::adopt(notes, lasting).await? {
            let version = found.birth.release;
            let release = match releases.get(&version) {
                Some(release) => release.clone(),
                None => Arc::new(self.load(&self.ledger.release(&self.deploy, version).await?).await?),
            };
            releases.insert(version, release.clone());
            all.push((found, release));
        }
        Ok(self.driver.adopt(all).await?)
    }

    /// Has the release that serves go on with its formation, as it was before. Does nothing where none was ever up.
    ///
    /// A change of releases that was interrupted is decided first: where the new one takes requests already it is the current one, else it
    /// has failed and the one before goes on, with all of its processes.
    pub async fn go_on(&self, who: &Principal) -> Result<(), DeployError> {
        self.conclude_switched(who).await?;
        self.recover(who, false).await?;
        let Ok(release) = self.current().await else { return Ok(()) };
        let formation = self.formation(&release.slug).await?;
        let scaled = self.ledger.commit(who, Intent::Scale { deploy: self.deploy.clone(), formation }).await?;
        let running = self.running(&release.slug).await?;
        Ok(self.driver.apply(&self.steady(Arc::new(release), running, scaled.generation).await?)?)
    }

    /// Waits until no change of releases is under way. Answers the numbers of the one-offs that end with this control part.
    pub async fn rest(&self) -> Vec<u32> {
        let _turn = self.turn.lock().await;
        self.holding.numbers()
    }

    /// Concludes a release that had taken the other one's place, and whose control part was gone before that was in the ledger.
    async fn conclude_switched(&self, who: &Principal) -> Result<(), DeployError> {
        let pending = self.ledger.releases(&self.deploy).await?.into_iter().find(|row| row.status == Status::Pending);
        let Some(row) = pending else { return Ok(()) };
        let seen = self.observed.seen();
        let mine = || seen.iter().filter(|s| s.release == row.version);
        let running = self.running(&self.load(&row).await?.slug).await?;
        // Where it is routed all of it was ready at that moment; where nothing is to be routed all of it has to be ready now.
        let switched = match outcome(row.version, &running, &seen) {
            Some(Ok(())) => mine().next().is_some(),
            Some(Err(_)) => false,
            None => mine().any(|s| s.routed),
        };
        let deploy = self.deploy.clone();
        if switched {
            self.ledger.commit(who, Intent::CameUp { deploy, version: row.version }).await?;
            self.conclude(who, row.version, None).await?;
            self.settle_formation(who, &self.load(&row).await?.slug).await?;
        }
        let became = if switched { "had taken over and is the current one" } else { "has failed" };
        self.observed.store().write("api", &format!("Release {} was interrupted by the end of its control part: it {became}", row.version));
        Ok(())
    }

    /// Waits until every instance of a release that was taken over is up. One that had ended has one more try; the error says which had it in
    /// vain.
    pub async fn come_back(&self, release: &Release) -> Result<Result<(), GivenUp>, DeployError> {
        let formation = self.running(&release.slug).await?;
        let of = |seen: &[Seen]| seen.iter().filter(|s| s.release == release.version).cloned().collect::<Vec<_>>();
        let before: BTreeMap<InstanceName, u32> = of(&self.observed.seen()).into_iter().map(|s| (s.instance, s.restarts)).collect();
        let since = |mut s: Seen| {
            let tries = s.restarts - before.get(&s.instance).copied().unwrap_or(s.restarts).min(s.restarts);
            s.restarts = tries.saturating_sub(1);
            if s.state == State::Crashed && tries == 0 {
                s.state = State::Starting;
            }
            s
        };
        let outcome = |seen: &[Seen]| outcome(release.version, &formation, &of(seen).into_iter().map(since).collect::<Vec<_>>());
        Ok(self.observed.until(outcome).await)
    }

    /// Whether a release that [`Floor::bring_up`] answered waits to take the place of another one that serves.
    pub async fn succeeds(&self, release: &Release) -> Result<bool, DeployError> {
        Ok(self.ledger.release(&self.deploy, release.version).await?.status == Status::Pending)
    }

    /// Runs such a release's release phase and has it take the other one's place, as [`Floor::serve`] and [`Floor::come_up`] do where nothing
    /// serves. Where that fails the other one serves on.
    pub async fn succeed(&self, who: &Principal, release: Arc<Release>, output: &dyn Output) -> Result<(), DeployError> {
        self.take_place(who, release, Way::BroughtUp, output).await
    }
}
