//! Builds on record: what was built for a deploy, for whom, and what came of it.

use super::read::parse;
use super::{Ledger, LedgerError, Problem};
use dozen_core::codebase::Commit;
use dozen_core::ids::{DeployRef, SlugId};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

/// The longest reason for a failure that is kept, in characters.
const LONGEST: usize = 1_000;

/// What becomes of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildChange {
    /// Somebody asks for one; it gets the next number, and waits.
    Asked {
        /// How its source came: `push`, `folder`, `deploy`.
        source: &'static str,
        /// What it is of.
        commit: Option<Commit>,
    },
    /// Its turn has come.
    Began(u32),
    /// It waits again: for another build of the app.
    Waits(u32),
    /// There is a slug.
    Succeeded(u32, SlugId),
    /// There is none, and this is why.
    Failed(u32, String),
    /// Nobody wants it any more.
    Cancelled(u32),
}

impl BuildChange {
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Asked { .. } => "ask for a build",
            Self::Began(_) => "begin a build",
            Self::Waits(_) => "have a build wait",
            Self::Succeeded(..) | Self::Failed(..) => "end a build",
            Self::Cancelled(_) => "cancel a build",
        }
    }

    pub(super) fn detail(&self) -> String {
        match self {
            Self::Asked { source, commit } => match commit {
                Some(commit) => format!("of {source} {}", commit.short()),
                None => format!("of {source}"),
            },
            Self::Began(number) | Self::Waits(number) | Self::Cancelled(number) => format!("build.{number}"),
            Self::Succeeded(number, slug) => format!("build.{number} slug {}", slug.short()),
            Self::Failed(number, why) => format!("build.{number} failed: {}", why.lines().next().unwrap_or_default()),
        }
    }
}

/// How far a build came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildState {
    /// Another one is under way.
    Waiting,
    /// It is under way.
    Running,
    /// It gave a slug.
    Succeeded,
    /// It did not.
    Failed,
    /// Somebody ended it.
    Cancelled,
}

impl BuildState {
    const ALL: [Self; 5] = [Self::Waiting, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The word that the ledger and listings use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A build as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRow {
    /// 7 for `build.7`.
    pub number: u32,
    /// `push`, `folder`, `deploy`.
    pub source: String,
    /// What it is of.
    pub commit: Option<Commit>,
    /// How far it came.
    pub state: BuildState,
    /// When somebody asked for it.
    pub created: Timestamp,
    /// Who.
    pub created_by: String,
    /// When its turn came.
    pub started: Option<Timestamp>,
    /// When it was over, and by whom where somebody cancelled it.
    pub ended: Option<(Timestamp, Option<String>)>,
    /// What it gave.
    pub slug: Option<SlugId>,
    /// Why it gave nothing.
    pub failure: Option<String>,
}

impl Ledger {
    /// A deploy's builds, the latest first.
    pub async fn builds(&self, deploy: &DeployRef) -> Result<Vec<BuildRow>, LedgerError> {
        let name = deploy.to_string();
        self.run("read the builds", move |c| {
            let mut q = c.prepare(
                "SELECT number, source, commit_hash, state, created_at, created_by, started_at, ended_at, ended_by, slug, failure
                 FROM builds WHERE deploy = ?1 ORDER BY number DESC",
            )?;
            let mut rows = q.query([name])?;
            let mut all = Vec::new();
            while let Some(r) = rows.next()? {
                let word: String = r.get(3)?;
                let state = BuildState::ALL.into_iter().find(|s| s.as_str() == word);
                let at = |text: Option<String>| text.as_deref().map(parse::<Timestamp>).transpose();
                let ended_by: Option<String> = r.get(8)?;
                all.push(BuildRow {
                    number: r.get(0)?,
                    source: r.get(1)?,
                    commit: r.get::<_, Option<String>>(2)?.map(Commit::from_record),
                    state: state.ok_or_else(|| Problem::Inconsistent(format!("a build's state is {word:?}")))?,
                    created: parse(&r.get::<_, String>(4)?)?,
                    created_by: r.get(5)?,
                    started: at(r.get(6)?)?,
                    ended: at(r.get(7)?)?.map(|at| (at, ended_by)),
                    slug: r.get::<_, Option<String>>(9)?.as_deref().map(parse).transpose()?,
                    failure: r.get(10)?,
                });
            }
            Ok(all)
        })
        .await
    }
}

pub(super) fn write(c: &Connection, deploy: &DeployRef, change: &BuildChange, (now, who): (&str, &str)) -> Result<u32, Problem> {
    let name = deploy.to_string();
    // What has ended stays as it ended: whoever comes second was too late.
    let end = |number: u32, state: BuildState, by: Option<&str>, slug: Option<String>, failure: Option<String>| {
        c.execute(
            "UPDATE builds SET state = ?3, ended_at = ?4, ended_by = ?5, slug = ?6, failure = ?7
             WHERE deploy = ?1 AND number = ?2 AND ended_at IS NULL",
            params![name, number, state.as_str(), now, by, slug, failure],
        )
        .map(|_| number)
    };
    Ok(match change {
        BuildChange::Asked { source, commit } => {
            let sql = "INSERT INTO builds (deploy, number, source, commit_hash, state, created_at, created_by)
                       SELECT ?1, ifnull(max(number), 0) + 1, ?2, ?3, 'waiting', ?4, ?5 FROM builds WHERE deploy = ?1 RETURNING number";
            c.query_row(sql, params![name, source, commit.as_ref().map(Commit::record), now, who], |r| r.get(0))?
        }
        BuildChange::Began(number) => {
            let sql = "UPDATE builds SET state = 'running', started_at = ?3 WHERE deploy = ?1 AND number = ?2 AND ended_at IS NULL";
            c.execute(sql, params![name, number, now])?;
            *number
        }
        BuildChange::Waits(number) => {
            let sql = "UPDATE builds SET state = 'waiting', started_at = NULL WHERE deploy = ?1 AND number = ?2 AND ended_at IS NULL";
            c.execute(sql, params![name, number])?;
            *number
        }
        BuildChange::Succeeded(number, slug) => end(*number, BuildState::Succeeded, None, Some(slug.to_string()), None)?,
        BuildChange::Failed(number, why) => end(*number, BuildState::Failed, None, None, Some(why.chars().take(LONGEST).collect()))?,
        BuildChange::Cancelled(number) => {
            let sql = "SELECT 1 FROM builds WHERE deploy = ?1 AND number = ?2 AND ended_at IS NULL";
            if c.query_row(sql, params![name, number], |_| Ok(())).optional()?.is_none() {
                return Err(Problem::NotFound(format!("{name} has no build.{number} under way; `dozen builds` lists them")));
            }
            end(*number, BuildState::Cancelled, Some(who), None, None)?
        }
    })
}

/// Whoever made these is gone.
pub(super) fn interrupt(c: &Connection, deploy: &DeployRef, but: &[u32], now: &str) -> Result<(), Problem> {
    let but = serde_json::to_string(but).expect("numbers are JSON");
    c.execute(
        "UPDATE builds SET state = 'failed', ended_at = ?2, failure = 'interrupted: dozen ended before it was done'
         WHERE deploy = ?1 AND ended_at IS NULL AND number NOT IN (SELECT value FROM json_each(?3))",
        params![deploy.to_string(), now, but],
    )?;
    Ok(())
}
