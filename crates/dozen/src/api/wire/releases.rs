//! Releases as they go over the API.

use dozen_core::release::diff::{self, Change, Diff};
use dozen_core::release::{self};
use serde::{Deserialize, Serialize};

/// `releases`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Releases {
    /// The latest first.
    pub(crate) releases: Vec<Release>,
}

/// One release, as `releases` lists it.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Release {
    /// `v12`
    pub(crate) version: String,
    /// Whether it is the one that serves, or would.
    pub(crate) current: bool,
    /// `pending`, `succeeded` or `failed`.
    pub(crate) status: String,
    /// Why it was made: `Deploy 1a2b3c4d`, `Set A config vars`.
    pub(crate) description: String,
    /// Why it failed, where it did.
    pub(crate) failure: Option<String>,
    /// Whether all of its processes were ever up at once.
    pub(crate) came_up: bool,
    /// The id of its slug, 64 hexadecimal digits.
    pub(crate) slug: String,
    /// When it was made, RFC 3339, UTC.
    pub(crate) created_at: String,
    /// Who made it: `root`, `uid 1000`.
    pub(crate) created_by: String,
}

/// `releases info`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct ReleaseInfo {
    /// `shop/dev`
    pub(crate) deploy: String,
    /// `v12`
    pub(crate) version: String,
    /// Whether it is the one that serves, or would.
    pub(crate) current: bool,
    /// `pending`, `succeeded` or `failed`.
    pub(crate) status: String,
    /// Why it failed, where it did.
    pub(crate) failure: Option<String>,
    /// Why it was made.
    pub(crate) description: String,
    /// When it was made, RFC 3339, UTC.
    pub(crate) created_at: String,
    /// Who made it.
    pub(crate) created_by: String,
    /// When all of its processes were up for the first time, if ever.
    pub(crate) came_up_at: Option<String>,
    /// The commit that it was built from, where its source was a git work tree.
    pub(crate) commit: Option<String>,
    /// Whether the work tree differed from that commit.
    pub(crate) uncommitted_changes: bool,
    /// Its code.
    pub(crate) slug: Slug,
    /// In Procfile order.
    pub(crate) processes: Vec<Command>,
    /// The names of its config vars.
    pub(crate) config: Vec<String>,
    /// Which of them differ from the release before.
    pub(crate) config_changes: Option<ConfigChanges>,
    /// Its resources.
    pub(crate) attachments: Vec<Attachment>,
}

/// A release's code.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Slug {
    /// 64 hexadecimal digits.
    pub(crate) id: String,
    /// Bytes of all files.
    pub(crate) size: u64,
    /// Number of files and links.
    pub(crate) files: u64,
    /// Whether it is still in the slug store, so that it can be rolled back to.
    pub(crate) present: bool,
    /// What built it: `python`, `procfile`.
    pub(crate) pack: String,
    /// Language and version, where there is one: `Python 3.11.7`.
    pub(crate) runtime: Option<String>,
}

/// A process type.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Command {
    /// `web`
    pub(crate) name: String,
    /// What its shell runs, masked.
    pub(crate) command: String,
}

/// Names of config vars, against an earlier release.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct ConfigChanges {
    /// The latest before it that did not fail: `v11`.
    pub(crate) since: String,
    /// Names that are new, gone, or have another value.
    #[serde(flatten)]
    pub(crate) names: Names,
}

/// An attached resource.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Attachment {
    /// `DATABASE`
    pub(crate) name: String,
    /// Where its URL is: `DATABASE_URL`.
    pub(crate) variable: String,
    /// `sqlite`
    pub(crate) kind: String,
}

/// Names that differ.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Names {
    /// Only in the second release.
    pub(crate) added: Vec<String>,
    /// Only in the first one.
    pub(crate) removed: Vec<String>,
    /// In both, with another value.
    pub(crate) changed: Vec<String>,
}

/// What of `releases diff` is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(crate) struct DiffQuery {
    /// The first release: `v41`.
    pub(crate) from: String,
    /// The second; by default the current.
    pub(crate) to: Option<String>,
}

/// `releases diff`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct ReleaseDiff {
    /// `shop/dev`
    pub(crate) deploy: String,
    /// The first release.
    pub(crate) from: String,
    /// The second one.
    pub(crate) to: String,
    /// Whether nothing differs.
    pub(crate) same: bool,
    /// Releases whose slug is gone from the store. Where there is one, files and packages are not compared and are null.
    pub(crate) without_slug: Vec<String>,
    /// The app's own files.
    pub(crate) files: Option<Vec<FileChange>>,
    /// How many files of dependencies differ.
    pub(crate) dependency_files: Option<usize>,
    /// Packages that are installed: `python django`, `node ws`.
    pub(crate) packages: Option<Vec<TextChange>>,
    /// Language and version.
    pub(crate) runtime: Option<TextChange>,
    /// Process types and their commands, masked.
    pub(crate) processes: Vec<TextChange>,
    /// The console's command.
    pub(crate) console: Option<TextChange>,
    /// Folders that an instance may write.
    pub(crate) scratch: Names,
    /// Config vars, never their values.
    pub(crate) config: Names,
    /// Attachments.
    pub(crate) attachments: Names,
}

/// A file that differs.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct FileChange {
    /// Its path in the app's folder.
    pub(crate) path: String,
    /// Its bytes in the first release; null where it was not there.
    pub(crate) before: Option<u64>,
    /// Its bytes in the second; null where it is not there.
    pub(crate) after: Option<u64>,
}

/// Something with a name that differs.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct TextChange {
    /// Of what.
    pub(crate) name: String,
    /// In the first release; null where it was not there.
    pub(crate) before: Option<String>,
    /// In the second; null where it is not there.
    pub(crate) after: Option<String>,
}

/// `rollback`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Rollback {
    /// `v40`; by default the latest before the current that was up.
    pub(crate) to: Option<String>,
    /// What of it.
    #[serde(default)]
    pub(crate) part: Part,
}

/// What of a release a rollback brings back.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// Code, config and attachments.
    #[default]
    All,
    /// Its code alone.
    Code,
    /// Its config and attachments alone.
    Config,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct RolledBack {
    /// The release that was gone back to.
    pub(crate) to: String,
    /// The release that was made.
    pub(crate) release: String,
}

impl From<Part> for release::Part {
    fn from(part: Part) -> Self {
        match part {
            Part::All => Self::All,
            Part::Code => Self::Code,
            Part::Config => Self::Config,
        }
    }
}

impl From<diff::Names> for Names {
    fn from(names: diff::Names) -> Self {
        Self { added: names.added, removed: names.removed, changed: names.changed }
    }
}

impl From<Change<String>> for TextChange {
    fn from(change: Change<String>) -> Self {
        Self { name: change.name, before: change.before, after: change.after }
    }
}

impl ReleaseDiff {
    /// As the API tells it; `mask` hides what must not be shown of commands.
    pub(crate) fn of(
        deploy: String,
        from: String,
        to: String,
        without_slug: Vec<String>,
        diff: Diff,
        mask: &impl Fn(&str) -> String,
    ) -> Self {
        let masked =
            |c: Change<String>| TextChange { name: c.name, before: c.before.as_deref().map(mask), after: c.after.as_deref().map(mask) };
        let same = diff.is_empty() && without_slug.is_empty();
        let (mut files, mut dependency_files, mut packages, mut console, mut scratch) = (None, None, None, None, Names::default());
        if let Some(contents) = diff.contents {
            let file = |c: Change<u64>| FileChange { path: c.name, before: c.before, after: c.after };
            files = Some(contents.files.into_iter().map(file).collect());
            dependency_files = Some(contents.dependency_files);
            packages = Some(contents.packages.into_iter().map(TextChange::from).collect());
            console = contents.console.map(masked);
            scratch = contents.scratch.into();
        }
        Self {
            deploy,
            from,
            to,
            same,
            without_slug,
            files,
            dependency_files,
            packages,
            runtime: diff.runtime.map(TextChange::from),
            processes: diff.processes.into_iter().map(masked).collect(),
            console,
            scratch,
            config: diff.config.into(),
            attachments: diff.attachments.into(),
        }
    }
}
