//! The slugs of releases that were made: taken up again, listed, and written as files for elsewhere.

use super::{DeployError, Floor};
use crate::ledger::{ReleaseRow, UsedSlug};
use crate::release::collect;
use crate::release::store::{self, StoreError};
use dozen_core::ids::Version;
use dozen_core::release::{Release, Slug};

/// A slug, and whether it is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// As the ledger has it.
    pub slug: UsedSlug,
    /// Whether its files are in the slug store.
    pub present: bool,
}

impl Floor {
    /// The code of an earlier release, which is to be released or run again: nobody collects it meanwhile.
    pub(crate) fn take_up(&self, row: &ReleaseRow) -> Result<Slug, DeployError> {
        match collect::claim(self.home(), &row.slug) {
            Err(StoreError::Missing { .. }) => {
                Err(DeployError::Collected { deploy: self.deploy.clone(), version: row.version, commit: row.commit.clone() })
            }
            claimed => {
                claimed?;
                Ok(Slug { commit: row.commit.clone(), ..store::open(self.home(), &row.slug)? })
            }
        }
    }

    /// A slug that came without a release: it may have waited for its turn longer than what nobody needs is kept.
    pub(super) fn claim(&self, slug: &Slug) -> Result<(), DeployError> {
        collect::claim(self.home(), &slug.id).map_err(|e| match e {
            StoreError::Missing { id, .. } => DeployError::SlugGone { deploy: self.deploy.clone(), slug: id },
            e => e.into(),
        })
    }

    /// The slugs of this deploy's releases, and which other releases of the app have them.
    pub async fn slugs(&self) -> Result<Vec<Listed>, DeployError> {
        let all = self.ledger.slugs_of(&self.deploy.app).await?.into_iter();
        let mine = all.filter(|slug| slug.releases.iter().any(|(deploy, ..)| *deploy == self.deploy));
        Ok(mine.map(|slug| Listed { present: store::has(self.home(), &slug.id), slug }).collect())
    }

    /// A release that is to be written as a file, or the current one.
    pub async fn exported(&self, version: Option<Version>) -> Result<Release, DeployError> {
        let Some(version) = version else { return self.current().await };
        let row = self.ledger.release(&self.deploy, version).await?;
        self.take_up(&row)?;
        self.load(&row).await
    }
}
