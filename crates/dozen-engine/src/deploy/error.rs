//! Why a deploy did not come about.

use crate::codebase::ReadError;
use crate::dependencies::BuildError;
use crate::ledger::LedgerError;
use crate::processes::adoption::AdoptError;
use crate::release::store::StoreError;
use dozen_core::admin::NoCommand;
use dozen_core::codebase::Commit;
use dozen_core::concurrency::formation::FormationError;
use dozen_core::config::ConfigError;
use dozen_core::diagnostic::Diagnostic;
use dozen_core::ids::{DeployRef, InstanceName, Version};
use dozen_core::parity::Refusal;
use dozen_core::port::Domain;
use dozen_core::release::Status;
use std::path::PathBuf;

/// Why a deploy did not come about.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] ReadError),
    /// A file of the app says something that cannot be used.
    #[error("{file} cannot be used")]
    Input {
        /// `Procfile`
        file: String,
        /// Its text, for the excerpt; `None` where it may hold secrets.
        text: Option<String>,
        /// What is wrong with it.
        diagnostics: Vec<Diagnostic>,
    },
    /// A file of the app cannot be read.
    #[error("cannot read {file}")]
    File {
        /// `.env`
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The build failed.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The slug store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A config var was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is nothing to run.
    #[error(transparent)]
    Command(#[from] NoCommand),
    /// A split without the release that serves.
    #[error("a split has the current release, {0}, among its own; give it a part too, if only {0}=1")]
    SplitWithout(Version),
    /// There is nothing to end.
    #[error("the requests of {0} are not split")]
    NoSplit(DeployRef),
    /// It gets no requests now.
    #[error("{0} has no part in the split")]
    NotInSplit(Version),
    /// The name that always leads to a deploy.
    #[error("{domain} is the own name of {deploy}, and always leads to it")]
    OwnDomain {
        /// Which.
        domain: Domain,
        /// To whom.
        deploy: DeployRef,
    },
    /// A change of the formation was refused.
    #[error(transparent)]
    Formation(#[from] FormationError),
    /// What runs cannot be taken over.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// The driver has ended.
    #[error(transparent)]
    Driver(#[from] Refusal),
    /// A resource could not be made.
    #[error(transparent)]
    Resource(#[from] crate::backing::ResourceError),
    /// app.json requires config that nobody gave.
    #[error("{deploy} lacks config that app.json requires: {}", .names.join(", "))]
    Required {
        /// Whose.
        deploy: DeployRef,
        /// Which.
        names: Vec<String>,
    },
    /// The release phase failed.
    #[error("the release phase of {version} (`{command}`) failed with exit code {code}")]
    ReleasePhase {
        /// Which release.
        version: Version,
        /// Masked.
        command: String,
        /// As a shell says it.
        code: i32,
    },
    /// The new release did not come up; the old one serves.
    #[error("{version} did not come up: {reason}; {kept} keeps serving{}", .last.iter().map(|l| format!("\n  {l}")).collect::<String>())]
    Start {
        /// Which release.
        version: Version,
        /// Which instance and how it ended.
        reason: String,
        /// The old one.
        kept: Version,
        /// What that instance wrote last, masked.
        last: Vec<String>,
    },
    /// What was started again did not come up.
    #[error("{version} did not come up: {reason}; it is tried again")]
    NotUp {
        /// Which release.
        version: Version,
        /// Which instance and how it ended.
        reason: String,
    },
    /// Somebody else was faster.
    #[error("the config of {0} was changed meanwhile")]
    ConfigMoved(DeployRef),
    /// There is no release to act on.
    #[error("{0} has no release yet")]
    NoRelease(DeployRef),
    /// There is nothing to roll back to.
    #[error("{0} has no earlier release that succeeded")]
    NoEarlier(DeployRef),
    /// It would bring back a release that never worked.
    #[error("{0} failed and cannot be rolled back to")]
    FailedRelease(Version),
    /// Its code was collected.
    #[error(
        "the code of {deploy} {version} is not kept any more: of each deploy that of the last {} releases is",
        crate::release::collect::RELEASES
    )]
    Collected {
        /// Whose.
        deploy: DeployRef,
        /// Which.
        version: Version,
        /// What it was made of.
        commit: Option<Commit>,
    },
    /// A slug that no release has yet was collected before its turn came.
    #[error("slug {slug} waited so long to be released to {deploy} that it was collected: nothing was changed")]
    SlugGone {
        /// Where it was to go.
        deploy: DeployRef,
        /// The beginning of its id.
        slug: String,
    },
    /// A one-off of a release that never became current.
    #[error("{version} {}; a one-off can only be of a release that succeeded", match .status {
        Status::Failed => "failed",
        Status::Pending | Status::Succeeded => "is not released yet",
    })]
    NotReleased {
        /// Which.
        version: Version,
        /// How far it came.
        status: Status,
    },
    /// The lock of a one-off.
    #[error("cannot take the run folder {folder}")]
    Hold {
        /// Which.
        folder: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// This process does not run that one-off.
    #[error("{deploy} runs no process {instance}; one that `dozen runs` lists as running is stopped by `dozen runs stop {instance}`")]
    NotHeld {
        /// Whose.
        deploy: DeployRef,
        /// Which.
        instance: InstanceName,
    },
    /// app.json says nothing of tests.
    #[error("app.json has no tests: `environments.test.scripts.test` says what runs them")]
    NoTests,
    /// Tests have a config of their own.
    #[error("app.json requires config that tests have not: {}", .0.join(", "))]
    TestsRequire(Vec<String>),
    /// They stand before a release.
    #[error("the tests failed with exit code {code}: {deploy} takes only what has passed them")]
    TestsFailed {
        /// Whose release it would have been.
        deploy: DeployRef,
        /// As a shell says it.
        code: i32,
    },
    /// Code came without its source.
    #[error("{0} takes only what has passed its tests, and the source of this code is not here to run them")]
    Untested(DeployRef),
    /// Somebody ended it, and nothing had been changed yet.
    #[error("Build cancelled by {0}")]
    Cancelled(String),
    /// There is no such build to be cancelled.
    #[error("{deploy} has no {} under way", .number.map_or_else(|| "build".to_owned(), |n| format!("build.{n}")))]
    NotBuilding {
        /// Whose.
        deploy: DeployRef,
        /// Which was meant.
        number: Option<u32>,
    },
    /// It has ended well, and is being released.
    #[error("build.{number} of {deploy} is done and being released, which goes on to its end")]
    BuildDone {
        /// Whose.
        deploy: DeployRef,
        /// Which.
        number: u32,
    },
    /// What was pushed cannot be taken.
    #[error("{0}")]
    Refused(String),
    /// Who pushed is gone, and nothing had been changed yet.
    #[error("nobody waits for the push to {0} any more")]
    GivenUp(DeployRef),
    /// Whoever waited for it is told, and not what broke because of that.
    #[error("{0} was destroyed meanwhile: nothing of this runs")]
    Destroyed(DeployRef),
    /// Nothing new begins, and what was not released yet ends.
    #[error("{0} was stopped or destroyed meanwhile: nothing of this runs")]
    Stopped(DeployRef),
    /// Only a running deploy can do that.
    #[error("{0} is not running")]
    NotServing(DeployRef),
}

impl DeployError {
    /// What to do about it, where that is known: a sentence for the person who asked.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Required { names, .. } => {
                let sets: Vec<String> = names.iter().map(|n| format!("{n}=…")).collect();
                Some(format!("Give them with `dozen config set {}` or in .env.", sets.join(" ")))
            }
            Self::ReleasePhase { version, .. } => {
                Some(format!("Nothing of it was started. Its output: `dozen logs -p release.{}`.", version.0))
            }
            Self::Start { .. } => Some(
                "More of it: `dozen logs`. Config that was set with it stays set for the next release until it is set again or unset."
                    .to_owned(),
            ),
            Self::NotUp { .. } => Some("Its last lines: `dozen logs`.".to_owned()),
            Self::ConfigMoved(_) => Some("`dozen config` shows what it is now.".to_owned()),
            Self::NoSplit(_) => Some("`dozen split v12=90 v13=10` splits them; `dozen releases` lists the releases.".to_owned()),
            Self::NotInSplit(_) => Some("`dozen split status` lists those that have.".to_owned()),
            Self::NoRelease(_) => Some("`dozen up` in the app's folder makes the first one; at a server `git push dozen main` does.".to_owned()),
            Self::TestsRequire(_) => Some("Give them values in app.json's `environments.test.env`, or with `dozen test -e NAME=VALUE`.".to_owned()),
            Self::TestsFailed { .. } => Some("Nothing was released. `dozen test` runs them on your machine.".to_owned()),
            Self::Untested(_) => Some("Push its commit, or deploy its folder.".to_owned()),
            Self::Collected { commit: Some(commit), .. } => {
                let hash = &commit.hash;
                Some(format!("Deploy its commit again: `dozen deploy --commit {hash}`, or `git push -f dozen {hash}:refs/heads/main`."))
            }
            Self::Collected { commit: None, .. } => Some("Deploy its code again.".to_owned()),
            Self::SlugGone { .. } => Some("Send it again: `dozen deploy --slug FILE`.".to_owned()),
            Self::NotBuilding { .. } => Some("`dozen builds` lists them.".to_owned()),
            Self::BuildDone { .. } => Some("`dozen rollback` goes back to what served before.".to_owned()),
            Self::NotReleased { .. } => Some("`dozen releases` lists them.".to_owned()),
            Self::Stopped(_) => Some("`dozen deploys` lists those that are there; deploy again where it is.".to_owned()),
            Self::NotServing(_) => Some("Start it with `dozen up`.".to_owned()),
            Self::Ledger(LedgerError::Unproven { .. }) => Some(
                "`Authorization: Bearer …` shows it: what is in the file api.token beside the socket, of this run. A dozen of an earlier version \
                 does not send it: use the one that runs the deploy."
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
