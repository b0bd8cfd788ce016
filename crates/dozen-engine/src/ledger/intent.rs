//! Every write of intent: who may, and what it does to the ledger.

use super::certificates::{self, CertificateSource};
use super::{Ledger, LedgerError, Problem};
use crate::home::Home;
use crate::port::Certificate;
use crate::port::acme::Acme;
use crate::port::certificate::Secret;
use crate::port::certificates::Failure;
use dozen_core::backing::ResourceKind;
use dozen_core::concurrency::formation::Formation;
use dozen_core::config::Config;
use dozen_core::ids::{DeployRef, Generation, TypeName, Version};
use dozen_core::port::{Domain, Manners, Sticky};
use dozen_core::release::{Slug, Status};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The first uid that deploys get where dozen may choose: above what distributions, containers and systemd hand out (below 2¹⁹ and
/// 524288 onwards in blocks of 65536; this block of 10,000 is none of theirs by default).
const FIRST_UID: u32 = 480_000;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Their uid on this machine.
    pub uid: u32,
    /// For the record: `root`, `uid 1000`.
    pub name: String,
    /// Whether they are this process, or have shown the token that only the home's owner can read.
    pub proven: bool,
}

impl Principal {
    /// Whoever runs this process.
    pub fn me() -> Self {
        Self { proven: true, ..Self::of(rustix::process::getuid().as_raw()) }
    }
    /// A user of this machine who has shown nothing yet.
    pub fn of(uid: u32) -> Self {
        let name = if uid == 0 { "root".to_owned() } else { format!("uid {uid}") };
        Self { uid, name, proven: false }
    }
}

/// One wish.
#[derive(Debug)]
pub enum Intent {
    /// An app and a deploy of it shall exist; the app's folder is this now. An existing deploy's formation stays.
    Adopt {
        /// Which.
        deploy: DeployRef,
        /// Where its source is; `None` leaves what is known of that.
        folder: Option<PathBuf>,
    },
    /// Whoever ran this deploy before is gone: what it left unfinished is concluded as failed.
    Recover {
        /// Whose.
        deploy: DeployRef,
        /// One-offs that somebody else runs: they are under way and not left.
        running: Vec<u32>,
    },
    /// This config shall be the deploy's next version.
    Configure {
        /// Whose.
        deploy: DeployRef,
        /// All of it.
        config: Config,
    },
    /// A resource shall exist and be attached under this name.
    Attach {
        /// To whom.
        deploy: DeployRef,
        /// `DATABASE`.
        name: String,
        /// What.
        kind: ResourceKind,
        /// Where its data is.
        folder: PathBuf,
    },
    /// Slug + config + attachments shall be the next release. The attachments are those of `like`, or of the deploy now.
    Release {
        /// Whose.
        deploy: DeployRef,
        /// The code.
        slug: Box<Slug>,
        /// A version that was configured.
        config_version: u32,
        /// Take the attachments of this release.
        like: Option<Version>,
        /// `--use-python`, where it was given.
        python: Option<String>,
        /// `--use-node`, where it was given.
        node: Option<String>,
        /// Why.
        description: String,
    },
    /// A pending release went well or failed. One that went well is the deploy's current.
    Conclude {
        /// Whose.
        deploy: DeployRef,
        /// Which.
        version: Version,
        /// How.
        status: Status,
        /// Why it failed.
        failure: Option<String>,
    },
    /// All of a release was up.
    CameUp {
        /// Whose.
        deploy: DeployRef,
        /// Which.
        version: Version,
    },
    /// A deploy shall run in the background with its router on this port, also after a reboot; `None`: no longer.
    Keep {
        /// Which.
        deploy: DeployRef,
        /// The router's.
        port: Option<u16>,
        /// The router's for HTTPS, where it has one.
        https_port: Option<u16>,
    },
    /// Domains shall lead to a deploy: all of them or, where one leads elsewhere, none.
    Lead {
        /// Which.
        deploy: DeployRef,
        /// What leads there.
        domains: Vec<Domain>,
    },
    /// Domains shall lead to a deploy no longer: all of them or, where one does not, none.
    Unlead {
        /// Which.
        deploy: DeployRef,
        /// What led there.
        domains: Vec<Domain>,
    },
    /// A deploy's requests shall be treated so: of the manners, what is said of a deploy and not by its app or config.
    Treat {
        /// Which.
        deploy: DeployRef,
        /// How: maintenance, pause, HTTPS only, HSTS, trusted proxies.
        manners: Box<Manners>,
        /// When a pause ends by itself.
        paused_until: Option<Timestamp>,
    },
    /// Requests shall be split between these releases until another one is current; of none, all go to the current one.
    Split {
        /// Whose.
        deploy: DeployRef,
        /// Each with its part, relative to the others.
        shares: Vec<(Version, u32)>,
        /// By what a client is known that shall come back to the same one.
        sticky: Sticky,
    },
    /// The router shall show this certificate for the names that it is for.
    Certify {
        /// Whose.
        deploy: DeployRef,
        /// What was checked.
        certificate: Box<Certificate>,
        /// Where it comes from.
        source: CertificateSource,
    },
    /// A certificate shall be shown no longer.
    Uncertify {
        /// Whose.
        deploy: DeployRef,
        /// Which.
        id: i64,
    },
    /// The certificates of a deploy's domains shall be asked of this authority; `None`: of nobody.
    Automate {
        /// Whose.
        deploy: DeployRef,
        /// Whom.
        acme: Option<Box<Acme>>,
    },
    /// There is an account at an authority.
    Account {
        /// Who asked for it; all deploys of the home may use it.
        deploy: DeployRef,
        /// Where.
        directory: String,
        /// What it is used with.
        credentials: Secret,
    },
    /// An order of a certificate came to nothing; one for this name takes it back.
    Unobtained {
        /// Whose.
        deploy: DeployRef,
        /// Whom it was asked of.
        directory: String,
        /// For which name.
        host: String,
        /// Why, and when the next is made.
        failure: Box<Failure>,
    },
    /// So many of each.
    Scale {
        /// Whose.
        deploy: DeployRef,
        /// All types.
        formation: Formation,
    },
    /// Of these types none shall run, however many the formation says; of the others as many as it says.
    Stop {
        /// Whose.
        deploy: DeployRef,
        /// All that are stopped from now on; none starts everything again.
        types: BTreeSet<TypeName>,
    },
    /// A one-off begins; gets the next number.
    Run {
        /// Whose.
        deploy: DeployRef,
        /// Of this release.
        release: Version,
        /// Masked.
        command: String,
    },
    /// A one-off ended.
    Ran {
        /// Whose.
        deploy: DeployRef,
        /// 7 for `run.7`.
        number: u32,
        /// As a shell says it.
        exit_code: i32,
    },
}

impl Intent {
    fn what(&self) -> &'static str {
        match self {
            Self::Adopt { .. } => "bring up an app",
            Self::Recover { .. } => "take up a deploy again",
            Self::Configure { .. } => "change config",
            Self::Attach { .. } => "attach a resource",
            Self::Release { .. } => "make a release",
            Self::Conclude { .. } => "conclude a release",
            Self::CameUp { .. } => "say that a release came up",
            Self::Keep { .. } => "keep a deploy running",
            Self::Lead { .. } => "add a domain",
            Self::Unlead { .. } => "remove a domain",
            Self::Treat { .. } => "change how requests are treated",
            Self::Certify { .. } => "add a certificate",
            Self::Uncertify { .. } => "remove a certificate",
            Self::Automate { .. } => "have certificates ordered",
            Self::Account { .. } => "make an account at an authority",
            Self::Unobtained { .. } => "note that there is no certificate",
            Self::Split { .. } => "split requests between releases",
            Self::Scale { .. } => "scale",
            Self::Stop { .. } => "stop and start processes",
            Self::Run { .. } => "run a one-off",
            Self::Ran { .. } => "end a one-off",
        }
    }

    fn deploy(&self) -> &DeployRef {
        match self {
            Self::Adopt { deploy, .. }
            | Self::Recover { deploy, .. }
            | Self::Configure { deploy, .. }
            | Self::Attach { deploy, .. }
            | Self::Release { deploy, .. }
            | Self::Conclude { deploy, .. }
            | Self::CameUp { deploy, .. }
            | Self::Keep { deploy, .. }
            | Self::Lead { deploy, .. }
            | Self::Unlead { deploy, .. }
            | Self::Treat { deploy, .. }
            | Self::Certify { deploy, .. }
            | Self::Uncertify { deploy, .. }
            | Self::Automate { deploy, .. }
            | Self::Account { deploy, .. }
            | Self::Unobtained { deploy, .. }
            | Self::Split { deploy, .. }
            | Self::Scale { deploy, .. }
            | Self::Stop { deploy, .. }
            | Self::Run { deploy, .. }
            | Self::Ran { deploy, .. } => deploy,
        }
    }
}

/// What a commit gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The deploy's generation after it.
    pub generation: Generation,
    /// The number of what was made: a release's, a config's, a one-off's or a resource's; 0 otherwise.
    pub number: u32,
}

impl Ledger {
    /// The one way in: authorises, then commits in one transaction that also counts the deploy's generation up.
    pub async fn commit(&self, who: &Principal, intent: Intent) -> Result<Committed, LedgerError> {
        self.authorise(who, intent.what())?;
        let (vault, commits) = (self.vault.clone(), self.commits.clone());
        let (who, attempt) = (who.name.clone(), intent.what());
        self.run(attempt, move |c| {
            let t = c.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let deploy = intent.deploy().clone();
            let number = write(&t, &vault, &who, intent)?;
            let name = deploy.to_string();
            t.execute("UPDATE deploys SET generation = generation + 1 WHERE name = ?1", [&name])?;
            let generation: u64 = t
                .query_row("SELECT generation FROM deploys WHERE name = ?1", [&name], |r| r.get(0))
                .optional()?
                .ok_or_else(|| Problem::NotFound(format!("there is no deploy {name}")))?;
            t.commit()?;
            commits.send_modify(|n| *n += 1);
            Ok(Committed { generation: Generation(generation), number })
        })
        .await
    }

    /// Whether domains could be led to a deploy now: none leads to another one.
    ///
    /// # Errors
    /// What [`Intent::Lead`] would fail with.
    pub async fn may_lead(&self, who: &Principal, deploy: &DeployRef, domains: Vec<Domain>) -> Result<(), LedgerError> {
        self.authorise(who, "add a domain")?;
        let (deploy, who) = (deploy.clone(), who.name.clone());
        self.run("see where domains lead", move |c| {
            // It is done, and taken back as this ends.
            let t = c.transaction_with_behavior(TransactionBehavior::Immediate)?;
            domains.iter().try_for_each(|domain| lead(&t, &deploy, domain, "", &who))
        })
        .await
    }

    /// Whether somebody may: the owner of the home, and root; by the API only with its token.
    pub fn authorise(&self, who: &Principal, what: &'static str) -> Result<(), LedgerError> {
        authorise(&self.home, who, what)
    }
}

/// The one place that decides who may.
pub(super) fn authorise(home: &Home, who: &Principal, what: &'static str) -> Result<(), LedgerError> {
    use std::os::unix::fs::MetadataExt;
    let home = home.root();
    let owner = std::fs::metadata(home).map_err(|source| LedgerError::Home { path: home.to_owned(), source })?.uid();
    if who.uid != owner && who.uid != 0 {
        return Err(LedgerError::Forbidden { who: who.name.clone(), what, home: home.to_owned() });
    }
    if who.proven { Ok(()) } else { Err(LedgerError::Unproven { who: who.name.clone(), what }) }
}

fn write(c: &Connection, vault: &crate::config::Vault, who: &str, intent: Intent) -> Result<u32, Problem> {
    let now = Timestamp::now().to_string();
    match intent {
        Intent::Adopt { deploy, folder } => {
            let folder = folder.map(|f| f.to_string_lossy().into_owned());
            c.execute(
                "INSERT INTO apps (name, folder, created_at) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE SET folder = ifnull(?2, folder)",
                params![deploy.app.as_str(), folder, now],
            )?;
            c.execute(
                "INSERT INTO deploys (name, app, uid, generation, created_at)
                 VALUES (?1, ?2, (SELECT ifnull(max(uid) + 1, ?3) FROM deploys), 0, ?4) ON CONFLICT (name) DO NOTHING",
                params![deploy.to_string(), deploy.app.as_str(), FIRST_UID, now],
            )?;
            Ok(0)
        }
        Intent::Recover { deploy, running } => {
            let name = deploy.to_string();
            c.execute(
                "UPDATE releases SET status = 'failed', failure = 'interrupted: dozen ended before it was concluded'
                 WHERE deploy = ?1 AND status = 'pending'",
                [&name],
            )?;
            // 137: a lost parent ends its one-offs with SIGKILL at the latest.
            let running = serde_json::to_string(&running).expect("numbers are JSON");
            c.execute(
                "UPDATE one_offs SET ended_at = ?2, exit_code = 137
                 WHERE deploy = ?1 AND ended_at IS NULL AND number NOT IN (SELECT value FROM json_each(?3))",
                [&name, &now, &running],
            )?;
            Ok(0)
        }
        Intent::Configure { deploy, config } => {
            let version = next(c, "SELECT ifnull(max(version), 0) + 1 FROM configs WHERE deploy = ?1", &deploy)?;
            let names = serde_json::to_string(&config.vars.keys().collect::<Vec<_>>()).expect("strings are JSON");
            let sealed = vault.seal(&deploy, version, &config);
            c.execute(
                "INSERT INTO configs (deploy, version, names, sealed, created_at, created_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![deploy.to_string(), version, names, sealed, now, who],
            )?;
            Ok(version)
        }
        Intent::Attach { deploy, name, kind, folder } => {
            c.execute(
                "INSERT INTO resources (deploy, kind, folder, created_at) VALUES (?1, ?2, ?3, ?4)",
                params![deploy.to_string(), kind.as_str(), folder.to_string_lossy(), now],
            )?;
            let id = u32::try_from(c.last_insert_rowid()).map_err(|_| Problem::Inconsistent("resource ids ran out".into()))?;
            c.execute("INSERT INTO attachments (deploy, name, resource) VALUES (?1, ?2, ?3)", params![deploy.to_string(), name, id])?;
            Ok(id)
        }
        Intent::Release { deploy, slug, config_version, like, python, node, description } => {
            record_slug(c, &slug, &now)?;
            let attachments: String = match like {
                Some(v) => c.query_row(
                    "SELECT attachments FROM releases WHERE deploy = ?1 AND version = ?2",
                    params![deploy.to_string(), v.0],
                    |r| r.get(0),
                )?,
                None => c.query_row(
                    "SELECT json_group_object(name, resource) FROM (SELECT name, resource FROM attachments WHERE deploy = ?1 ORDER BY name)",
                    [deploy.to_string()],
                    |r| r.get(0),
                )?,
            };
            let version = next(c, "SELECT ifnull(max(version), 0) + 1 FROM releases WHERE deploy = ?1", &deploy)?;
            c.execute(
                "INSERT INTO releases (deploy, version, slug, config_version, attachments, commit_hash, python, description, status, created_at, created_by,
                 node) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'pending', ?9, ?10, ?11)",
                params![
                    deploy.to_string(),
                    version,
                    slug.id.to_string(),
                    config_version,
                    attachments,
                    slug.commit.as_ref().map(|k| format!("{}{}", k.hash, if k.dirty { "+" } else { "" })),
                    python,
                    description,
                    now,
                    who,
                    node
                ],
            )?;
            Ok(version)
        }
        Intent::Conclude { deploy, version, status, failure } => {
            c.execute(
                "UPDATE releases SET status = ?3, failure = ?4 WHERE deploy = ?1 AND version = ?2 AND status = 'pending'",
                params![deploy.to_string(), version.0, status.as_str(), failure],
            )?;
            if status == Status::Succeeded {
                c.execute("UPDATE deploys SET current_release = ?2 WHERE name = ?1", params![deploy.to_string(), version.0])?;
                // A split was between the releases before it.
                split(c, &deploy, &[], &Sticky::No)?;
            }
            Ok(version.0)
        }
        Intent::CameUp { deploy, version } => {
            c.execute(
                "UPDATE releases SET up_at = ?3 WHERE deploy = ?1 AND version = ?2 AND up_at IS NULL",
                params![deploy.to_string(), version.0, now],
            )?;
            Ok(version.0)
        }
        Intent::Keep { deploy, port, https_port } => {
            let sql = "UPDATE deploys SET kept_port = ?2, kept_https_port = ?3 WHERE name = ?1";
            c.execute(sql, params![deploy.to_string(), port, https_port])?;
            Ok(0)
        }
        Intent::Lead { deploy, domains } => {
            domains.iter().try_for_each(|domain| lead(c, &deploy, domain, &now, who))?;
            Ok(0)
        }
        Intent::Unlead { deploy, domains } => {
            for domain in domains {
                let gone =
                    c.execute("DELETE FROM domains WHERE domain = ?1 AND deploy = ?2", params![domain.to_string(), deploy.to_string()])?;
                if gone == 0 {
                    return Err(Problem::NotFound(format!("{domain} was not added to {deploy}; `dozen domains` lists what was")));
                }
            }
            Ok(0)
        }
        Intent::Treat { deploy, manners, paused_until } => {
            let (paused_until, hsts) = (paused_until.map(|at| at.to_string()), manners.hsts.map(|d| d.as_secs()));
            let trusted = manners.trusted.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            c.execute(
                "UPDATE deploys SET maintenance = ?2, paused = ?3, paused_until = ?4, https_only = ?5, hsts = ?6, trusted = ?7
                 WHERE name = ?1",
                params![deploy.to_string(), manners.maintenance, manners.paused, paused_until, manners.https_only, hsts, trusted],
            )?;
            Ok(0)
        }
        Intent::Certify { deploy, certificate, source } => certificates::write(c, vault, &deploy, &certificate, source, (&now, who)),
        Intent::Uncertify { deploy, id } => certificates::remove(c, &deploy, id),
        Intent::Automate { deploy, acme } => certificates::automate(c, &deploy, acme.as_deref()),
        Intent::Account { directory, credentials, .. } => certificates::keep_account(c, vault, &directory, &credentials, &now),
        Intent::Unobtained { deploy, directory, host, failure } => {
            certificates::write_failure(c, &deploy, &directory, &host, &failure, &now)
        }
        Intent::Split { deploy, shares, sticky } => {
            split(c, &deploy, &shares, &sticky)?;
            Ok(0)
        }
        Intent::Scale { deploy, formation } => {
            c.execute("DELETE FROM formations WHERE deploy = ?1", [deploy.to_string()])?;
            let mut insert = c.prepare("INSERT INTO formations (deploy, process_type, quantity, size) VALUES (?1, ?2, ?3, ?4)")?;
            for (kind, quantity) in formation.iter() {
                let size = formation.size(kind).map(|size| size.to_string());
                insert.execute(params![deploy.to_string(), kind.as_str(), quantity, size])?;
            }
            Ok(0)
        }
        Intent::Stop { deploy, types } => {
            c.execute("DELETE FROM stopped WHERE deploy = ?1", [deploy.to_string()])?;
            let mut insert = c.prepare("INSERT INTO stopped (deploy, process_type) VALUES (?1, ?2)")?;
            for kind in types {
                insert.execute(params![deploy.to_string(), kind.as_str()])?;
            }
            Ok(0)
        }
        Intent::Run { deploy, release, command } => {
            let number = next(c, "SELECT ifnull(max(number), 0) + 1 FROM one_offs WHERE deploy = ?1", &deploy)?;
            c.execute(
                "INSERT INTO one_offs (deploy, number, release, command, started_at, started_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![deploy.to_string(), number, release.0, command, now, who],
            )?;
            Ok(number)
        }
        Intent::Ran { deploy, number, exit_code } => {
            // Whoever ran it knows best, also where it was taken for lost meanwhile.
            c.execute(
                "UPDATE one_offs SET ended_at = ?3, exit_code = ?4 WHERE deploy = ?1 AND number = ?2",
                params![deploy.to_string(), number, now, exit_code],
            )?;
            Ok(number)
        }
    }
}

/// What leads somewhere already stays: a domain that is taken from a deploy in silence would be an outage of it.
fn lead(c: &Connection, deploy: &DeployRef, domain: &Domain, now: &str, who: &str) -> Result<(), Problem> {
    if let Some(app) = domain.host().strip_suffix(".localhost").filter(|app| *app != deploy.app.as_str()) {
        let known: bool = c.query_row("SELECT EXISTS (SELECT 1 FROM apps WHERE name = ?1)", [app], |r| r.get(0))?;
        if known {
            return Err(Problem::Own { domain: domain.to_string(), app: app.to_owned() });
        }
    }
    c.execute(
        "INSERT INTO domains (domain, deploy, created_at, created_by) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (domain) DO NOTHING",
        params![domain.to_string(), deploy.to_string(), now, who],
    )?;
    let owner: String = c.query_row("SELECT deploy FROM domains WHERE domain = ?1", [domain.to_string()], |r| r.get(0))?;
    if owner == deploy.to_string() { Ok(()) } else { Err(Problem::Led { domain: domain.to_string(), deploy: owner }) }
}

fn split(c: &Connection, deploy: &DeployRef, shares: &[(Version, u32)], sticky: &Sticky) -> Result<(), Problem> {
    let name = deploy.to_string();
    c.execute("DELETE FROM shares WHERE deploy = ?1", [&name])?;
    for (version, weight) in shares {
        c.execute("INSERT INTO shares (deploy, release, weight) VALUES (?1, ?2, ?3)", params![name, version.0, weight])?;
    }
    c.execute("UPDATE deploys SET sticky = ?2 WHERE name = ?1", params![name, sticky.to_string()])?;
    Ok(())
}

fn next(c: &Connection, sql: &str, deploy: &DeployRef) -> Result<u32, Problem> {
    Ok(c.query_row(sql, [deploy.to_string()], |r| r.get(0))?)
}

fn record_slug(c: &Connection, slug: &Slug, now: &str) -> Result<(), Problem> {
    let processes: serde_json::Map<String, serde_json::Value> =
        slug.processes.iter().map(|p| (p.name.to_string(), p.command.clone().into())).collect();
    c.execute(
        "INSERT INTO slugs (id, pack, runtime, processes, size, files, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING",
        params![
            slug.id.to_string(),
            slug.stack.pack,
            slug.stack.runtime,
            serde_json::Value::Object(processes).to_string(),
            slug.size,
            slug.files,
            now
        ],
    )?;
    Ok(())
}
