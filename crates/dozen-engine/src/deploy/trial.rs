//! How a split stands, and its end: what is tried becomes the current release, or is left, by somebody's wish or by itself.
//!
//! **Invariant:** whoever ends a split moves the requests first: what is given up gets none from then on, however long the rest takes.

use super::{DeployError, Floor};
use crate::ledger::{Principal, ReleaseRow, Split};
use crate::output::{Event, Output};
use dozen_core::ids::Version;
use dozen_core::port::Sticky;
use dozen_core::port::tally::{ErrorRate, Tally};
use dozen_core::port::trial::{Part as Share, Trial};
use dozen_core::release::Part;
use jiff::Timestamp;
use std::sync::Arc;

/// How a split stands.
#[derive(Debug)]
pub struct Standing {
    /// As it was declared.
    pub split: Split,
    /// Which of its releases is tried, and which one stays where that is aborted.
    pub trial: Trial,
    /// The release that is current.
    pub current: Version,
    /// By release: what was counted since it began, and in the last minute.
    pub releases: Vec<(Version, u32, Tally, Tally)>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// All requests go to this one's code and config.
    pub version: Version,
    /// As this release, where it was not the current one.
    pub made: Option<Version>,
}

impl Floor {
    /// How the split stands; `None` where there is none.
    pub async fn standing(&self) -> Result<Option<Standing>, DeployError> {
        let Some(split) = self.ledger.split(&self.deploy).await? else { return Ok(None) };
        let (Some(trial), Some(current)) = (self.trial(&split).await?, self.ledger.current(&self.deploy).await?) else { return Ok(None) };
        let (figures, now) = (self.observed.counts().of(split.number()), Timestamp::now());
        let releases = split.shares.iter().map(|(v, weight)| (*v, *weight, figures.total(*v), figures.lately(*v, now))).collect();
        Ok(Some(Standing { split, trial, current, releases }))
    }

    /// Ends the split: all requests go to this one of its releases, or to the one that is tried.
    pub async fn promote_of_split(&self, who: &Principal, version: Option<Version>, output: &dyn Output) -> Result<Settled, DeployError> {
        let standing = self.standing().await?.ok_or_else(|| DeployError::NoSplit(self.deploy.clone()))?;
        let version = version.unwrap_or(standing.trial.tried);
        self.settle_on(who, &standing.split, version, format!("{version} is promoted"), output).await
    }

    /// Ends the split: all requests go where they went before what is tried.
    pub async fn abort_split(&self, who: &Principal, output: &dyn Output) -> Result<Settled, DeployError> {
        let Standing { split, trial, .. } = self.standing().await?.ok_or_else(|| DeployError::NoSplit(self.deploy.clone()))?;
        self.settle_on(who, &split, trial.stays, format!("{} is aborted", trial.tried), output).await
    }

    /// Aborts splits that were told to abort themselves, for ever.
    pub async fn watch_splits(&self) {
        let mut changes = self.observed.counts().changes();
        while changes.changed().await.is_ok() {
            if let Err(e) = self.abort_what_fails().await {
                self.observed.store().write("api", &format!("Cannot abort the split: {}", crate::chain(&e)));
            }
        }
    }

    async fn abort_what_fails(&self) -> Result<(), DeployError> {
        let Some(split) = self.ledger.split(&self.deploy).await? else { return Ok(()) };
        let Some(above) = split.abort_above else { return Ok(()) };
        let (figures, now) = (self.observed.counts().of(split.number()), Timestamp::now());
        // To look up what is tried takes longer than to see that nothing fails.
        if !split.shares.iter().any(|(v, _)| above.is_exceeded(&figures.lately(*v, now))) {
            return Ok(());
        }
        let Some(trial) = self.trial(&split).await? else { return Ok(()) };
        let Some(lately) = trial.failed(above, &figures, now) else { return Ok(()) };
        let why = why(trial.tried, &lately, above);
        self.observed.store().write("api", &format!("Aborting the split: {why}"));
        let who = Principal::platform();
        self.settle_on(&who, &split, trial.stays, format!("{} is aborted: {why}", trial.tried), &Silent).await.map(drop)
    }

    /// Ends this split with all requests at one of its releases.
    async fn settle_on(
        &self,
        who: &Principal,
        split: &Split,
        version: Version,
        why: String,
        output: &dyn Output,
    ) -> Result<Settled, DeployError> {
        let _turn = self.turn.lock().await;
        // Somebody may have been faster.
        if self.ledger.split(&self.deploy).await?.is_none_or(|now| now.number() != split.number()) {
            return Err(DeployError::NoSplit(self.deploy.clone()));
        }
        if !split.shares.iter().any(|(of, _)| *of == version) {
            return Err(DeployError::NotInSplit(version));
        }
        let (release, formation) = self.steerable().await?;
        let current = release.version;
        let shares: Vec<(Version, u32)> =
            if version == current { Vec::new() } else { split.shares.iter().map(|(of, _)| (*of, u32::from(*of == version))).collect() };
        let generation = self.declare(who, (shares, Sticky::No, None), Some(why)).await?;
        let running = formation.without(&self.stopped().await?);
        self.apply_steady(release, running, generation).await?;
        if version == current {
            return Ok(Settled { version, made: None });
        }
        let (_, made) = self.go_back(who, Some(version), Part::All, output).await?;
        Ok(Settled { version, made: Some(made) })
    }

    async fn trial(&self, split: &Split) -> Result<Option<Trial>, DeployError> {
        // The latest first.
        let rows = self.ledger.releases(&self.deploy).await?;
        let mut parts = Vec::new();
        for (version, weight) in &split.shares {
            let Some(row) = rows.iter().find(|row| row.version == *version) else { continue };
            let first = self.first_of(row, &rows).await?;
            parts.push(Share { version: *version, weight: *weight, first });
        }
        Ok(Trial::of(&parts))
    }

    /// The first release of this one's code, config and attachments.
    async fn first_of(&self, row: &ReleaseRow, rows: &[ReleaseRow]) -> Result<Version, DeployError> {
        let config = Arc::new(self.ledger.config_at(&self.deploy, row.config_version).await?);
        let alike = |other: &&ReleaseRow| other.slug == row.slug && other.attachments == row.attachments && other.version <= row.version;
        for other in rows.iter().rev().filter(alike) {
            // What was rolled back to has a config of another number that says the same.
            let same = other.config_version == row.config_version
                || self.ledger.config_at(&self.deploy, other.config_version).await?.changes(&config).is_empty();
            if same {
                return Ok(other.version);
            }
        }
        Ok(row.version)
    }
}

fn why(tried: Version, lately: &Tally, above: ErrorRate) -> String {
    format!("{} of {} requests of {tried} failed in the last minute, above {above}", lately.errors, lately.requests)
}

/// What is done by itself has nobody to tell of each step.
struct Silent;

impl Output for Silent {
    fn emit(&self, _event: Event) {}
}
