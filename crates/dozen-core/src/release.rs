//! V. Strictly separate build and run stages.
//! A slug is a build's result, a release is slug + config + attachments with a number. Neither ever changes; a rollback is a new release.

use crate::backing::Attachment;
use crate::codebase::Commit;
use crate::config::{Changes, Config, Mask};
use crate::dependencies::Stack;
use crate::ids::{DeployRef, InstanceName, SlugId, TypeName, Version};
use crate::processes::ProcessType;
use crate::processes::rules::{Rules, RulesByType};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::PathBuf;

pub mod diff;

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
    /// What `console` runs: the command that app.json or the Procfile names for it, or the language's own shell.
    pub console: Option<String>,
    /// Folders of the tree that an instance may write, relative; each instance finds them empty and loses them when it ends.
    pub scratch: Vec<String>,
    /// What the app says of its process types besides their commands.
    pub rules: RulesByType,
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
    /// An earlier release again, or a part of it.
    Rollback(Version, Part),
    /// The code of another deploy's release.
    Promote(DeployRef, Version),
}

/// What of an earlier release a rollback brings back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Part {
    /// Code, config and attachments.
    #[default]
    All,
    /// Its slug, with the config and the attachments of now.
    Code,
    /// Its config and attachments, with the slug of now.
    Config,
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
            Self::Promote(from, version) => format!("Promote {from} {version}"),
            Self::Rollback(to, Part::All) => format!("Rollback to {to}"),
            Self::Rollback(to, Part::Code) => format!("Rollback to {to} (code only)"),
            Self::Rollback(to, Part::Config) => format!("Rollback to {to} (config only)"),
        }
    }
}

/// Config and attachments as a release of them has them: see [`Release::variables`].
pub fn variables(config: &Config, attachments: &[Attachment]) -> BTreeMap<String, String> {
    let attached = attachments.iter().map(|a| (a.variable(), a.url.expose().to_owned()));
    attached.chain(config.vars.iter().map(|(k, v)| (k.clone(), v.value.clone()))).collect()
}

/// Where programs are looked for before the slug adds its own folders.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What every process finds. A Python whose output is a pipe holds it back otherwise, whether a pack knows the app as Python or not.
const BASE: [(&str, &str); 3] = [("PATH", SYSTEM_PATH), ("LANG", "C.UTF-8"), ("PYTHONUNBUFFERED", "1")];

impl Release {
    /// The whole environment of one of its processes, later entries winning: the system's, the slug's, config and attachments, then what only
    /// this instance has. `app` is where it sees the slug, `/app` or the real path.
    pub fn environment(&self, instance: &InstanceName, port: Option<u16>, app: &str) -> Vec<(String, String)> {
        let mut env = BTreeMap::from(BASE.map(|(k, v)| (k.to_owned(), v.to_owned())));
        env.extend(self.slug.env.iter().map(|(k, v)| (k.clone(), v.replace("{app}", app).replace("{path}", SYSTEM_PATH))));
        env.extend(self.variables());
        if let Some(port) = port {
            env.insert("PORT".to_owned(), port.to_string());
        }
        let own = [("DYNO", instance.to_string()), ("PS", instance.to_string()), ("HOME", app.to_owned())];
        env.extend(own.map(|(k, v)| (k.to_owned(), v)));
        // A work tree that differs from its commit is not that commit.
        let commit = self.slug.commit.as_ref().filter(|c| !c.dirty).map(|c| c.hash.clone());
        for prefix in ["HEROKU", "DOZEN"] {
            env.insert(format!("{prefix}_APP_NAME"), self.deploy.app.to_string());
            env.insert(format!("{prefix}_RELEASE_VERSION"), self.version.to_string());
            env.insert(format!("{prefix}_RELEASE_CREATED_AT"), self.created.to_string());
            if let Some(commit) = &commit {
                env.insert(format!("{prefix}_SLUG_COMMIT"), commit.clone());
            }
        }
        env.into_iter().collect()
    }

    /// Config and attachments as variables. A config var of the same name as an attachment's wins: that is how a URL alone swaps a resource.
    pub fn variables(&self) -> BTreeMap<String, String> {
        variables(&self.config, &self.attachments)
    }

    /// What of it must not be shown.
    pub fn mask(&self) -> Mask {
        Mask::of(self.config.vars.values())
    }

    /// What the app says of a process type besides its command.
    pub fn rules(&self, kind: &TypeName) -> Rules {
        self.slug.rules.get(kind).cloned().unwrap_or_default()
    }

    /// Whether its processes share data on this host that two releases must not change at a time: a SQLite database, a folder of files.
    pub fn shares_data(&self) -> bool {
        // A config var of the same name leads elsewhere.
        self.attachments.iter().any(|a| a.folder.is_some() && !self.config.vars.contains_key(&a.variable()))
    }

    /// Whether instances of a process type may run beside those of another release: as the app says, else where no data is shared.
    pub fn overlaps(&self, kind: &TypeName) -> bool {
        self.rules(kind).overlap.unwrap_or_else(|| !self.shares_data())
    }

    /// The command of a process type.
    pub fn command(&self, kind: &TypeName) -> Option<&str> {
        self.slug.processes.iter().find(|p| p.name == *kind).map(|p| p.command.as_str())
    }
}
