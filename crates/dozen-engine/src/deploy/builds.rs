//! Builds under way: each is on record from when somebody asks for it, and ends when it is done or when somebody cancels it.
//!
//! **Invariant:** a build is cancelled before its slug is there, or not at all: what is being released goes on to its end.
//! **Invariant:** none outlives its deploy: what is stopped has no build that waits or runs, and begins none.
//! **Invariant:** whatever becomes of its future, a build has an end on record; that of a dozen that was killed at the next start.

use super::{DeployError, Floor};
use crate::dependencies::{BuildError, Built};
use crate::ledger::{BuildChange, BuildRow, BuildState, Intent, Ledger, LedgerError, Principal};
use crate::tasks;
use dozen_core::admin::people::Need;
use dozen_core::codebase::Commit;
use dozen_core::ids::DeployRef;
use dozen_core::release::Slug;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// The builds of one deploy that this process has under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Builds {
    under_way: Arc<Mutex<UnderWay>>,
    /// Changes with every one that is gone.
    gone: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct UnderWay {
    /// By number.
    all: BTreeMap<u32, watch::Sender<Fate>>,
    /// No other one begins.
    closed: bool,
}

/// Whether a build may still be cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Fate {
    #[default]
    Open,
    /// By whom.
    Cancelled(String),
    /// Its deploy is stopped.
    Stopped,
    /// It has ended in another way.
    Over,
}

impl Fate {
    /// Why the work is to be dropped.
    fn end(&self, deploy: &DeployRef) -> Option<DeployError> {
        match self {
            Self::Cancelled(by) => Some(DeployError::Cancelled(by.clone())),
            Self::Stopped => Some(DeployError::Stopped(deploy.clone())),
            Self::Open | Self::Over => None,
        }
    }

    /// Has an open one end so. Answers whether it was open.
    fn turn_to(&mut self, end: Self) -> bool {
        let open = *self == Self::Open;
        if open {
            *self = end;
        }
        open
    }
}

impl Builds {
    /// Their numbers.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        self.under_way().all.keys().copied().collect()
    }

    /// Ends all that have no slug yet, for ever, and waits until their work is dropped.
    pub(super) async fn end(&self) {
        let mut gone = self.gone.subscribe();
        {
            let mut under_way = self.under_way();
            under_way.closed = true;
            for fate in under_way.all.values() {
                fate.send_if_modified(|fate| fate.turn_to(Fate::Stopped));
            }
        }
        let ends = |fate: &watch::Sender<Fate>| matches!(*fate.borrow(), Fate::Stopped | Fate::Cancelled(_));
        // Its sender is this one's own.
        let _ = gone.wait_for(|()| !self.under_way().all.values().any(ends)).await;
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One build, from when it was asked for. Dropped before its end, it was given up by whoever waited for it.
pub struct Build {
    ledger: Ledger,
    deploy: DeployRef,
    who: Principal,
    number: u32,
    fate: watch::Sender<Fate>,
    builds: Builds,
}

impl std::fmt::Debug for Build {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Build").field("deploy", &self.deploy).field("number", &self.number).finish_non_exhaustive()
    }
}

impl Build {
    /// Takes one down, which waits for its turn.
    pub(crate) async fn ask(
        (ledger, builds): (&Ledger, &Builds),
        who: &Principal,
        deploy: &DeployRef,
        source: &'static str,
        commit: Option<Commit>,
    ) -> Result<Self, DeployError> {
        let asked = Intent::Build { deploy: deploy.clone(), change: BuildChange::Asked { source, commit } };
        let number = ledger.commit(who, asked).await?.number;
        let fate = watch::Sender::new(Fate::Open);
        let build = Self { ledger: ledger.clone(), deploy: deploy.clone(), who: who.clone(), number, fate, builds: builds.clone() };
        let mut under_way = builds.under_way();
        if under_way.closed {
            return Err(DeployError::Stopped(deploy.clone()));
        }
        under_way.all.insert(number, build.fate.clone());
        drop(under_way);
        Ok(build)
    }

    /// Does the work, unless somebody cancels the build or its deploy is stopped: then the work is dropped. Its failure is the build's, where that has no end yet.
    ///
    /// # Errors
    /// Those of the work, or that it was cancelled.
    pub async fn carry<T>(&self, work: impl Future<Output = Result<T, DeployError>>) -> Result<T, DeployError> {
        let mut fate = self.fate.subscribe();
        let ended = async move {
            // Its sender is this build's own, and there as long as this.
            let end = fate.wait_for(|fate| fate.end(&self.deploy).is_some()).await.ok().and_then(|fate| fate.end(&self.deploy));
            match end {
                Some(end) => end,
                None => std::future::pending().await,
            }
        };
        let done = tokio::select! {
            biased;
            end = ended => Err(end),
            done = work => done,
        };
        if let Err(error) = &done
            && (self.close() || *self.fate.borrow() == Fate::Stopped)
        {
            // What the work says matters more than a record that cannot be written.
            let _ = self.note(BuildChange::Failed(self.number, crate::chain(error))).await;
        }
        done
    }

    /// Its turn has come. Follows it to its end, through further waiting for other builds of the app.
    pub(super) async fn follow(
        &self,
        building: impl Future<Output = Result<Built, BuildError>>,
        mut waits: watch::Receiver<bool>,
    ) -> Result<Built, DeployError> {
        self.note(BuildChange::Began(self.number)).await?;
        tokio::pin!(building);
        loop {
            tokio::select! {
                biased;
                built = &mut building => return Ok(built?),
                Ok(()) = waits.changed() => {
                    let waits = *waits.borrow_and_update();
                    let change = if waits { BuildChange::Waits(self.number) } else { BuildChange::Began(self.number) };
                    self.note(change).await?;
                }
            }
        }
    }

    /// There is a slug: nobody cancels it any more.
    pub(super) async fn succeeds(&self, slug: &Slug) -> Result<(), DeployError> {
        if !self.close() {
            return self.fate.borrow().end(&self.deploy).map_or(Ok(()), Err);
        }
        Ok(self.note(BuildChange::Succeeded(self.number, slug.id)).await?)
    }

    /// Whether this ended it.
    fn close(&self) -> bool {
        self.fate.send_if_modified(|fate| fate.turn_to(Fate::Over))
    }

    async fn note(&self, change: BuildChange) -> Result<(), LedgerError> {
        self.ledger.commit(&self.who, Intent::Build { deploy: self.deploy.clone(), change }).await.map(drop)
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.builds.under_way().all.remove(&self.number);
        self.builds.gone.send_replace(());
        if !self.close() {
            return;
        }
        let (ledger, deploy, who) = (self.ledger.clone(), self.deploy.clone(), self.who.clone());
        let change = BuildChange::Cancelled(self.number);
        if tokio::runtime::Handle::try_current().is_ok() {
            tasks::spawn("build", async move {
                // Where it cannot be written, the next start finds that it has ended.
                let _ = ledger.commit(&who, Intent::Build { deploy, change }).await;
            });
        }
    }
}

impl Floor {
    /// Takes down that somebody asks for a build.
    ///
    /// # Errors
    /// They may not, or the ledger cannot be written.
    pub async fn ask_build(&self, who: &Principal, source: &'static str, commit: Option<Commit>) -> Result<Build, DeployError> {
        Build::ask((&self.ledger, &self.builds), who, &self.deploy, source, commit).await
    }

    /// Its builds, the latest first. One that no process has under way any more has failed.
    pub async fn builds(&self) -> Result<Vec<BuildRow>, DeployError> {
        let mut rows = self.ledger.builds(&self.deploy).await?;
        let under_way = self.builds.numbers();
        for row in &mut rows {
            if row.ended.is_none() && !under_way.contains(&row.number) {
                row.state = BuildState::Failed;
                row.failure = Some("interrupted: dozen ended before it was done".to_owned());
            }
        }
        Ok(rows)
    }

    /// Ends a build, with all programs that it started; of none named, the one that is under way, else the first that waits.
    ///
    /// # Errors
    /// There is none, or it has its slug already.
    pub async fn cancel_build(&self, who: &Principal, number: Option<u32>) -> Result<u32, DeployError> {
        self.ledger.authorise(who, "cancel a build", Need::Deploy(self.deploy.app.clone()))?;
        let missing = || DeployError::NotBuilding { deploy: self.deploy.clone(), number };
        let rows = self.builds().await?;
        let chosen = match number {
            Some(number) => rows.iter().find(|row| row.number == number),
            None => {
                let running = rows.iter().find(|row| row.state == BuildState::Running);
                running.or_else(|| rows.iter().rev().find(|row| row.state == BuildState::Waiting))
            }
        };
        let chosen = chosen.ok_or_else(missing)?.number;
        let done = || DeployError::BuildDone { deploy: self.deploy.clone(), number: chosen };
        let cancelled = match self.builds.under_way().all.get(&chosen) {
            None => return Err(missing()),
            Some(fate) => fate.send_if_modified(|fate| fate.turn_to(Fate::Cancelled(who.name.clone()))),
        };
        if !cancelled {
            return Err(done());
        }
        let change = BuildChange::Cancelled(chosen);
        self.ledger.commit(who, Intent::Build { deploy: self.deploy.clone(), change }).await?;
        Ok(chosen)
    }
}
