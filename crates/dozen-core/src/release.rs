//! V. Strictly separate build and run stages.
//! A slug is a build's result, a release is slug + config + attachments with a number. Neither ever changes; a rollback is a new release.

use crate::backing::Attachment;
use crate::codebase::Commit;
use crate::config::{Changes, Config};
use crate::dependencies::Stack;
use crate::ids::{DeployRef, SlugId, Version};
use crate::processes::ProcessType;
use jiff::Timestamp;
use std::path::PathBuf;

/// An immutable, content-addressed tree with its process types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slug {
    /// blake3 over the manifest and the facts.
    pub id: SlugId,
    /// Language and runtime.
    pub stack: Stack,
    /// In Procfile order, `release` among them.
    pub processes: Vec<ProcessType>,
    /// Environment that the pack gives every process; `{app}` in a value stands for the folder that the slug is seen at.
    pub env: Vec<(String, String)>,
    /// Folders of the host that its processes need, read-only, at their real paths: the interpreter's prefix.
    pub needs: Vec<PathBuf>,
    /// The commit it was built from.
    pub commit: Option<Commit>,
    /// Bytes of all files.
    pub size: u64,
    /// Number of files and links.
    pub files: u64,
}

/// Slug + config + attachments of a deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Whose.
    pub deploy: DeployRef,
    /// v1, v2, …
    pub version: Version,
    /// The code.
    pub slug: Slug,
    /// The variables, at the version that the release was made with.
    pub config: Config,
    /// The resources.
    pub attachments: Vec<Attachment>,
    /// `Deploy 1a2b3c4d`, `Set FOO config vars`, `Rollback to v46`.
    pub description: String,
    /// When it was made.
    pub created: Timestamp,
}

/// How far a release has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Made; its release phase or its start is under way.
    Pending,
    /// Its release phase went well and it became the deploy's current release.
    Succeeded,
    /// Its release phase failed; the one before stayed.
    Failed,
}

impl Status {
    /// The word that the ledger and listings use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
    /// Reads [`Status::as_str`] back.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Pending, Self::Succeeded, Self::Failed].into_iter().find(|s| s.as_str() == word)
    }
}

/// Why a release is made; gives its description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A build, of a commit or of a folder as it is, perhaps with config changes found in the same breath.
    Deploy {
        /// The commit, where there is one.
        commit: Option<Commit>,
        /// The slug.
        slug: SlugId,
        /// What `.env` or app.json changed with it.
        config: Changes,
    },
    /// Config vars.
    Config(Changes),
    /// A resource was attached.
    Attach(String),
    /// An earlier release's code and config again.
    Rollback(Version),
}

impl Cause {
    /// By contract.
    pub fn describe(&self) -> String {
        match self {
            Self::Deploy { commit, slug, config } => {
                let what = commit.as_ref().map_or_else(|| slug.short(), Commit::short);
                if config.is_empty() { format!("Deploy {what}") } else { format!("Deploy {what}; {}", config.describe()) }
            }
            Self::Config(changes) => changes.describe(),
            Self::Attach(name) => format!("Attach {name}"),
            Self::Rollback(to) => format!("Rollback to {to}"),
        }
    }
}
