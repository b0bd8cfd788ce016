//! What the ledger says.

use super::{Ledger, LedgerError, Problem};
use dozen_core::backing::{Attachment, ResourceKind, ServiceUrl};
use dozen_core::codebase::Commit;
use dozen_core::concurrency::formation::{Formation, Part};
use dozen_core::config::Config;
use dozen_core::ids::{AppName, DeployRef, Generation, SlugId, TypeName, Version};
use dozen_core::port::{Domain, Front, Manners};
use dozen_core::processes::ProcessType;
use dozen_core::release::Status;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// An app and its deploys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppRow {
    /// Its name.
    pub name: AppName,
    /// Where it was last brought up from.
    pub folder: Option<PathBuf>,
}

/// A release as the ledger has it; the slug's facts are in the slug store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseRow {
    /// Number.
    pub version: Version,
    /// Code.
    pub slug: SlugId,
    /// Version of the config.
    pub config_version: u32,
    /// Attachment name to resource id.
    pub attachments: BTreeMap<String, u32>,
    /// What was checked out when it was made.
    pub commit: Option<Commit>,
    /// `--use-python`.
    pub python: Option<String>,
    /// `--use-node`.
    pub node: Option<String>,
    /// Why it was made.
    pub description: String,
    /// How far it came.
    pub status: Status,
    /// Why it failed.
    pub failure: Option<String>,
    /// When all of it was up for the first time.
    pub up_at: Option<Timestamp>,
    /// When.
    pub created: Timestamp,
    /// By whom.
    pub created_by: String,
}

/// What the ledger keeps of a slug, also when its folder is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlugRow {
    /// `python`, `procfile`.
    pub pack: String,
    /// `Python 3.11.7`
    pub runtime: Option<String>,
    /// In Procfile order.
    pub processes: Vec<ProcessType>,
    /// Bytes of all files.
    pub size: u64,
    /// Number of files and links.
    pub files: u64,
}

/// A one-off as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOffRow {
    /// 7 for `run.7`.
    pub number: u32,
    /// Of this release.
    pub release: Version,
    /// Masked.
    pub command: String,
    /// When and by whom.
    pub started: Timestamp,
    /// By whom.
    pub started_by: String,
    /// Its exit code and when, once it ended.
    pub ended: Option<(Timestamp, i32)>,
}

/// A deploy that is to run in the background.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub deploy: DeployRef,
    /// Its router's.
    pub port: u16,
    /// Its router's for HTTPS.
    pub https_port: Option<u16>,
}

impl Ledger {
    /// Every app.
    pub async fn apps(&self) -> Result<Vec<AppRow>, LedgerError> {
        self.run("read the apps", |c| {
            let mut q = c.prepare("SELECT name, folder FROM apps ORDER BY name")?;
            let rows = q.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, Option<String>>(1)?)))?;
            rows.map(|r| {
                let (name, folder) = r?;
                Ok(AppRow { name: parse(&name)?, folder: folder.map(PathBuf::from) })
            })
            .collect()
        })
        .await
    }

    /// Every deploy, or those of one app.
    pub async fn deploys(&self) -> Result<Vec<DeployRef>, LedgerError> {
        self.run("read the deploys", |c| {
            let mut q = c.prepare("SELECT name FROM deploys ORDER BY name")?;
            let rows = q.query_map([], |r| r.get::<_, String>(0))?;
            rows.map(|r| parse(&r?)).collect()
        })
        .await
    }

    /// Every deploy that is to run in the background.
    pub async fn kept(&self) -> Result<Vec<Kept>, LedgerError> {
        self.run("read the deploys", |c| {
            let mut q = c.prepare("SELECT name, kept_port, kept_https_port FROM deploys WHERE kept_port IS NOT NULL ORDER BY name")?;
            let rows = q.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get(1)?, r.get(2)?)))?;
            rows.map(|r| {
                let (name, port, https_port) = r?;
                Ok(Kept { deploy: parse(&name)?, port, https_port })
            })
            .collect()
        })
        .await
    }

    /// The domains that were added to a deploy, in their order.
    pub async fn domains(&self, deploy: &DeployRef) -> Result<Vec<Domain>, LedgerError> {
        let name = deploy.to_string();
        self.run("read the domains", move |c| {
            let mut q = c.prepare("SELECT domain FROM domains WHERE deploy = ?1 ORDER BY domain")?;
            let rows = q.query_map([name], |r| r.get::<_, String>(0))?;
            rows.map(|r| parse(&r?)).collect()
        })
        .await
    }

    /// What leads to a deploy and how its requests are to be treated, as far as that is said of the deploy and not by its app or config.
    pub async fn front(&self, deploy: &DeployRef) -> Result<Front, LedgerError> {
        let domains = self.domains(deploy).await?;
        let name = deploy.to_string();
        self.run("read the deploy", move |c| {
            let sql = "SELECT maintenance, paused, https_only, hsts, paused_until, trusted, sticky, split_at FROM deploys WHERE name = ?1";
            let row = c.query_row(sql, [name], |r| {
                let hsts = r.get::<_, Option<u64>>(3)?.map(Duration::from_secs);
                let manners = Manners { maintenance: r.get(0)?, paused: r.get(1)?, https_only: r.get(2)?, hsts, ..Manners::default() };
                Ok((
                    manners,
                    r.get::<_, Option<String>>(4)?,
                    r.get::<_, String>(5)?,
                    r.get::<_, String>(6)?,
                    r.get::<_, Option<String>>(7)?,
                ))
            });
            let Some((mut manners, until, trusted, sticky, split)) = row.optional()? else {
                return Ok(Front { domains, ..Front::default() });
            };
            manners.sticky = parse(&sticky)?;
            manners.counted = split.map(|at| parse::<Timestamp>(&at)).transpose()?.map(Timestamp::as_microsecond);
            manners.trusted = trusted.split_whitespace().map(parse).collect::<Result<_, _>>()?;
            Ok(Front { domains, manners, paused_until: until.map(|until| parse(&until)).transpose()? })
        })
        .await
    }

    /// A deploy's uid and generation. `None` where there is no such deploy.
    pub async fn deploy(&self, deploy: &DeployRef) -> Result<Option<(u32, Generation)>, LedgerError> {
        let name = deploy.to_string();
        self.run("read the deploy", move |c| {
            let row = c
                .query_row("SELECT uid, generation FROM deploys WHERE name = ?1", [name], |r| Ok((r.get(0)?, Generation(r.get(1)?))))
                .optional()?;
            Ok(row)
        })
        .await
    }

    /// The latest config and its version; an empty one at version 0 where none was made.
    pub async fn config(&self, deploy: &DeployRef) -> Result<(u32, Config), LedgerError> {
        self.config_where(deploy, None).await
    }

    /// The config at a version.
    pub async fn config_at(&self, deploy: &DeployRef, version: u32) -> Result<Config, LedgerError> {
        Ok(self.config_where(deploy, Some(version)).await?.1)
    }

    async fn config_where(&self, deploy: &DeployRef, version: Option<u32>) -> Result<(u32, Config), LedgerError> {
        let name = deploy.to_string();
        let row: Option<(u32, Vec<u8>)> = self
            .run("read the config", move |c| {
                let sql =
                    "SELECT version, sealed FROM configs WHERE deploy = ?1 AND version = ifnull(?2, version) ORDER BY version DESC LIMIT 1";
                Ok(c.query_row(sql, params![name, version], |r| Ok((r.get(0)?, r.get(1)?))).optional()?)
            })
            .await?;
        match row {
            Some((version, sealed)) => Ok((version, self.vault.unseal(deploy, version, &sealed)?)),
            None if version.is_none() => Ok((0, Config::default())),
            None => Err(LedgerError::NotFound(format!("{deploy} has no config version {}", version.unwrap_or_default()))),
        }
    }

    /// The resources attached to a deploy now, with their ids.
    pub async fn attachments(&self, deploy: &DeployRef) -> Result<BTreeMap<String, u32>, LedgerError> {
        let name = deploy.to_string();
        self.run("read the attachments", move |c| {
            let mut q = c.prepare("SELECT name, resource FROM attachments WHERE deploy = ?1")?;
            let rows = q.query_map([name], |r| Ok((r.get(0)?, r.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// What a release's attachments are: `ids` as a [`ReleaseRow`] has them.
    pub async fn resolve(&self, ids: BTreeMap<String, u32>) -> Result<Vec<Attachment>, LedgerError> {
        self.run("read the resources", move |c| ids.into_iter().map(|(name, id)| attachment(c, name, id)).collect()).await
    }

    /// All releases of a deploy, the latest first.
    pub async fn releases(&self, deploy: &DeployRef) -> Result<Vec<ReleaseRow>, LedgerError> {
        let name = deploy.to_string();
        self.run("read the releases", move |c| {
            let mut q = c.prepare(&format!("{RELEASE} WHERE deploy = ?1 ORDER BY version DESC"))?;
            let rows = q.query_map([name], release)?;
            rows.map(|r| r?).collect()
        })
        .await
    }

    /// One release.
    pub async fn release(&self, deploy: &DeployRef, version: Version) -> Result<ReleaseRow, LedgerError> {
        let name = deploy.to_string();
        self.run("read the release", move |c| {
            let found =
                c.query_row(&format!("{RELEASE} WHERE deploy = ?1 AND version = ?2"), params![name, version.0], release).optional()?;
            found.unwrap_or_else(|| Err(Problem::NotFound(format!("{name} has no release {version}; `dozen releases` lists them"))))
        })
        .await
    }

    /// The version that serves, or would.
    pub async fn current(&self, deploy: &DeployRef) -> Result<Option<Version>, LedgerError> {
        let name = deploy.to_string();
        self.run("read the current release", move |c| {
            let v =
                c.query_row("SELECT current_release FROM deploys WHERE name = ?1", [name], |r| r.get::<_, Option<u32>>(0)).optional()?;
            Ok(v.flatten().map(Version))
        })
        .await
    }

    /// The formation. `None` where the deploy was never scaled.
    pub async fn formation(&self, deploy: &DeployRef) -> Result<Option<Formation>, LedgerError> {
        let name = deploy.to_string();
        self.run("read the formation", move |c| {
            let mut q = c.prepare("SELECT process_type, quantity, size FROM formations WHERE deploy = ?1")?;
            let rows = q.query_map([name], |r| Ok((r.get::<_, String>(0)?, r.get::<_, u32>(1)?, r.get::<_, Option<String>>(2)?)))?;
            let parts = rows
                .map(|r| {
                    let (kind, count, size) = r?;
                    Ok((parse(&kind)?, Part { count, size: size.as_deref().map(parse).transpose()? }))
                })
                .collect::<Result<BTreeMap<_, _>, Problem>>()?;
            Ok((!parts.is_empty()).then(|| parts.into_iter().collect()))
        })
        .await
    }

    /// The process types of which none shall run.
    pub async fn stopped(&self, deploy: &DeployRef) -> Result<BTreeSet<TypeName>, LedgerError> {
        let name = deploy.to_string();
        self.run("read what is stopped", move |c| {
            let mut q = c.prepare("SELECT process_type FROM stopped WHERE deploy = ?1")?;
            let rows = q.query_map([name], |r| r.get::<_, String>(0))?;
            rows.map(|r| parse(&r?)).collect()
        })
        .await
    }

    /// A slug that was released once.
    pub async fn slug(&self, id: SlugId) -> Result<SlugRow, LedgerError> {
        self.run("read the slug", move |c| {
            let found = c
                .query_row("SELECT pack, runtime, processes, size, files FROM slugs WHERE id = ?1", [id.to_string()], |r| {
                    Ok((r.get::<_, String>(0)?, r.get(1)?, r.get::<_, String>(2)?, r.get(3)?, r.get(4)?))
                })
                .optional()?;
            let (pack, runtime, processes, size, files) = found.ok_or_else(|| Problem::NotFound(format!("there is no slug {id}")))?;
            let inconsistent = |e: &dyn std::fmt::Display| Problem::Inconsistent(format!("process types of slug {id}: {e}"));
            let commands: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&processes).map_err(|e| inconsistent(&e))?;
            let process = |(name, command): (String, serde_json::Value)| {
                let command = command.as_str().ok_or_else(|| inconsistent(&"a command is no text"))?.to_owned();
                Ok(ProcessType { name: parse(&name)?, command })
            };
            let processes = commands.into_iter().map(process).collect::<Result<_, Problem>>()?;
            Ok(SlugRow { pack, runtime, processes, size, files })
        })
        .await
    }

    /// A deploy's one-offs, the latest first.
    pub async fn one_offs(&self, deploy: &DeployRef) -> Result<Vec<OneOffRow>, LedgerError> {
        let name = deploy.to_string();
        self.run("read the one-offs", move |c| {
            let mut q = c.prepare(
                "SELECT number, release, command, started_at, started_by, ended_at, exit_code FROM one_offs WHERE deploy = ?1 ORDER BY number DESC",
            )?;
            let rows = q.query_map([name], |r| {
                let ended: Option<String> = r.get(5)?;
                let code: Option<i32> = r.get(6)?;
                Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get::<_, String>(3)?, r.get(4)?, ended.zip(code)))
            })?;
            rows.map(|row| {
                let (number, release, command, started, started_by, ended) = row?;
                Ok(OneOffRow {
                    number,
                    release: Version(release),
                    command,
                    started: parse(&started)?,
                    started_by,
                    ended: ended.map(|(at, code)| Ok::<_, Problem>((parse(&at)?, code))).transpose()?,
                })
            })
            .collect()
        })
        .await
    }
}

const RELEASE: &str =
    "SELECT version, slug, config_version, attachments, python, description, status, failure, created_at, created_by, commit_hash, up_at, node
     FROM releases";

fn release(r: &Row<'_>) -> rusqlite::Result<Result<ReleaseRow, Problem>> {
    let (slug, attachments, status, created): (String, String, String, String) = (r.get(1)?, r.get(3)?, r.get(6)?, r.get(8)?);
    let (version, config_version, python) = (Version(r.get(0)?), r.get(2)?, r.get(4)?);
    let (description, failure, created_by) = (r.get(5)?, r.get(7)?, r.get(9)?);
    let (commit, up_at): (Option<String>, Option<String>) = (r.get(10)?, r.get(11)?);
    let commit = commit.map(Commit::from_record);
    Ok((|| {
        Ok(ReleaseRow {
            version,
            slug: parse(&slug)?,
            config_version,
            attachments: serde_json::from_str(&attachments).map_err(|e| Problem::Inconsistent(format!("attachments of {version}: {e}")))?,
            commit,
            python,
            node: r.get(12).map_err(Problem::from)?,
            description,
            status: Status::parse(&status).ok_or_else(|| Problem::Inconsistent(format!("status {status:?} of {version}")))?,
            failure,
            up_at: up_at.as_deref().map(parse).transpose()?,
            created: parse(&created)?,
            created_by,
        })
    })())
}

fn attachment(c: &Connection, name: String, id: u32) -> Result<Attachment, Problem> {
    let (kind, folder): (String, String) =
        c.query_row("SELECT kind, folder FROM resources WHERE id = ?1", [id], |r| Ok((r.get(0)?, r.get(1)?)))?;
    let kind = ResourceKind::from_addon(&kind).ok_or_else(|| Problem::Inconsistent(format!("resource {id} of kind {kind:?}")))?;
    let folder = PathBuf::from(folder);
    let url = match kind {
        ResourceKind::Sqlite => ServiceUrl::sqlite(&folder.join(crate::backing::SQLITE_FILE)),
    };
    let url = url.ok_or_else(|| Problem::Inconsistent(format!("resource {id} at {}", folder.display())))?;
    Ok(Attachment { name, kind, url, folder: Some(folder) })
}

pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|e| Problem::Inconsistent(format!("{e}")))
}
