//! Every write of intent: what it is, what it needs, and the one way in.

use super::builds::BuildChange;
use super::certificates::CertificateSource;
use super::events::Event;
use super::hosts::{self, Reserved};
use super::{Ledger, LedgerError, Principal, Problem, incarnation, write};
use crate::codebase::ssh::Key;
use crate::config::Vault;
use crate::port::Certificate;
use crate::port::acme::Acme;
use crate::port::certificate::Secret;
use crate::port::certificates::Failure;
use dozen_core::admin::people::{Need, Role, UserName};
use dozen_core::backing::ResourceKind;
use dozen_core::concurrency::formation::Formation;
use dozen_core::config::Config;
use dozen_core::ids::{AppName, DeployRef, Generation, SlugId, TypeName, Version};
use dozen_core::port::tally::ErrorRate;
use dozen_core::port::{Domain, Manners, Sticky};
use dozen_core::release::{Slug, Status};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use std::collections::BTreeSet;
use std::path::PathBuf;

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
        /// Builds that this process has under way.
        building: Vec<u32>,
    },
    /// A build is asked for, begins or ends.
    Build {
        /// Of which deploy.
        deploy: DeployRef,
        /// What becomes of it.
        change: BuildChange,
    },
    /// These gates shall stand before each release; see [`GATES`](super::GATES).
    Require {
        /// Of which deploy.
        deploy: DeployRef,
        /// All of them.
        gates: BTreeSet<String>,
    },
    /// Tests were run, before a release.
    Tested {
        /// Of which deploy.
        deploy: DeployRef,
        /// Of what.
        slug: SlugId,
        /// Whether they passed.
        passed: bool,
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
        /// A version that was configured; `None`: the deploy's latest.
        config_version: Option<u32>,
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
        /// Where more of the newest one's requests fail than this, the split is aborted by itself.
        abort_above: Option<ErrorRate>,
        /// Why, where that is not somebody's wish alone.
        why: Option<String>,
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
    /// There shall be an app that is new.
    CreateApp {
        /// Which.
        app: AppName,
    },
    /// There shall be a deploy that is new.
    CreateDeploy {
        /// Which.
        deploy: DeployRef,
        /// With the config and the formation of this one, of the same app.
        like: Option<DeployRef>,
        /// When it is to be destroyed.
        expires: Option<Timestamp>,
        /// The branch that it is for.
        branch: Option<String>,
    },
    /// A deploy that nobody runs shall be no more. What it ran is told by the events; slugs and files stay.
    DestroyDeploy {
        /// Which.
        deploy: DeployRef,
    },
    /// An app without deploys shall be no more.
    DestroyApp {
        /// Which.
        app: AppName,
    },
    /// A user shall be this to an app.
    Grant {
        /// Who.
        user: UserName,
        /// To which.
        app: AppName,
        /// What.
        role: Role,
    },
    /// A user shall be nobody to an app.
    Ungrant {
        /// Who.
        user: UserName,
        /// To which.
        app: AppName,
    },
    /// There shall be a user, who looks after the platform or does not.
    AddUser {
        /// Who.
        user: UserName,
        /// Whether they do.
        admin: bool,
    },
    /// A user shall be none any more; their tokens are worth nothing from now on.
    RemoveUser {
        /// Who.
        user: UserName,
    },
    /// A user shall have a token; [`Ledger::issue_token`] makes its text.
    IssueToken {
        /// Whose.
        user: UserName,
        /// What it is for.
        label: String,
        /// blake3 of its text.
        hash: [u8; 32],
        /// Until when.
        expires: Option<Timestamp>,
    },
    /// A token shall be worth nothing any more.
    RevokeToken {
        /// Whose.
        user: UserName,
        /// Which.
        id: u32,
    },
    /// A user shall be known by this key, over SSH.
    AddKey {
        /// Whose.
        user: UserName,
        /// The public half.
        key: Box<Key>,
    },
    /// A key shall open nothing any more.
    RemoveKey {
        /// Whose.
        user: UserName,
        /// Which.
        fingerprint: String,
    },
    /// The home is another one's, by a backup: what lay there lies here.
    Restore {
        /// Where that home was.
        from: PathBuf,
        /// Where this one is.
        to: PathBuf,
        /// When the backup was made.
        of: Timestamp,
    },
    /// There shall be an admin with a token, where there was no user yet; [`Ledger::first_token`] makes its text.
    FirstToken {
        /// blake3 of its text.
        hash: [u8; 32],
    },
}

impl Intent {
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Adopt { .. } => "bring up an app",
            Self::Recover { .. } => "take up a deploy again",
            Self::Build { change, .. } => change.what(),
            Self::Require { .. } => "change what a release requires",
            Self::Tested { .. } => "run tests",
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
            Self::CreateApp { .. } => "create an app",
            Self::CreateDeploy { .. } => "create a deploy",
            Self::DestroyDeploy { .. } => "destroy a deploy",
            Self::DestroyApp { .. } => "destroy an app",
            Self::Grant { .. } => "grant a role",
            Self::Ungrant { .. } => "take a role away",
            Self::AddUser { .. } => "add a user",
            Self::RemoveUser { .. } => "remove a user",
            Self::IssueToken { .. } => "issue a token",
            Self::RevokeToken { .. } => "revoke a token",
            Self::AddKey { .. } => "add an SSH key",
            Self::RemoveKey { .. } => "remove an SSH key",
            Self::Restore { .. } => "restore a backup",
            Self::FirstToken { .. } => "make the first token",
        }
    }

    /// What somebody has to be for it.
    pub fn needs(&self) -> Need {
        match self {
            Self::Adopt { deploy, .. }
            | Self::Recover { deploy, .. }
            | Self::Build { deploy, .. }
            | Self::Tested { deploy, .. }
            | Self::Configure { deploy, .. }
            | Self::Attach { deploy, .. }
            | Self::Release { deploy, .. }
            | Self::Conclude { deploy, .. }
            | Self::CameUp { deploy, .. }
            | Self::Lead { deploy, .. }
            | Self::Unlead { deploy, .. }
            | Self::Treat { deploy, .. }
            | Self::Split { deploy, .. }
            | Self::Certify { deploy, .. }
            | Self::Uncertify { deploy, .. }
            | Self::Automate { deploy, .. }
            | Self::Unobtained { deploy, .. }
            | Self::Scale { deploy, .. }
            | Self::Stop { deploy, .. }
            | Self::Run { deploy, .. }
            | Self::Ran { deploy, .. }
            | Self::CreateDeploy { deploy, .. } => Need::Deploy(deploy.app.clone()),
            Self::DestroyDeploy { deploy } | Self::Require { deploy, .. } => Need::Own(deploy.app.clone()),
            Self::DestroyApp { app } | Self::Grant { app, .. } | Self::Ungrant { app, .. } => Need::Own(app.clone()),
            Self::IssueToken { user, .. } | Self::RevokeToken { user, .. } | Self::AddKey { user, .. } | Self::RemoveKey { user, .. } => {
                Need::Be(user.clone())
            }
            // All deploys of the home use the account, and its terms bind whoever looks after the platform.
            Self::Account { .. } | Self::CreateApp { .. } | Self::AddUser { .. } | Self::RemoveUser { .. } => Need::Platform,
            // What comes back after a reboot is the machine's affair.
            Self::Keep { .. } | Self::FirstToken { .. } | Self::Restore { .. } => Need::Host,
        }
    }

    /// What is numbered by it: `v` and 12 are `v12`.
    fn numbers(&self) -> Option<&'static str> {
        match self {
            Self::Release { .. } => Some("v"),
            Self::Run { .. } => Some("run."),
            Self::Build { change: BuildChange::Asked { .. }, .. } => Some("build."),
            Self::IssueToken { .. } => Some(""),
            _ => None,
        }
    }

    /// Of which app it is.
    pub fn app(&self) -> Option<&AppName> {
        match self {
            Self::CreateApp { app } | Self::DestroyApp { app } | Self::Grant { app, .. } | Self::Ungrant { app, .. } => Some(app),
            _ => self.deploy().map(|deploy| &deploy.app),
        }
    }

    /// Of which deploy it is.
    pub fn deploy(&self) -> Option<&DeployRef> {
        match self {
            Self::Adopt { deploy, .. }
            | Self::Recover { deploy, .. }
            | Self::Build { deploy, .. }
            | Self::Tested { deploy, .. }
            | Self::Configure { deploy, .. }
            | Self::Attach { deploy, .. }
            | Self::Release { deploy, .. }
            | Self::Conclude { deploy, .. }
            | Self::CameUp { deploy, .. }
            | Self::Lead { deploy, .. }
            | Self::Unlead { deploy, .. }
            | Self::Treat { deploy, .. }
            | Self::Split { deploy, .. }
            | Self::Certify { deploy, .. }
            | Self::Uncertify { deploy, .. }
            | Self::Automate { deploy, .. }
            | Self::Unobtained { deploy, .. }
            | Self::Scale { deploy, .. }
            | Self::Stop { deploy, .. }
            | Self::Run { deploy, .. }
            | Self::Ran { deploy, .. }
            | Self::CreateDeploy { deploy, .. }
            | Self::Keep { deploy, .. }
            | Self::Require { deploy, .. }
            | Self::Account { deploy, .. }
            | Self::DestroyDeploy { deploy, .. } => Some(deploy),
            Self::CreateApp { .. }
            | Self::DestroyApp { .. }
            | Self::Grant { .. }
            | Self::Ungrant { .. }
            | Self::AddUser { .. }
            | Self::RemoveUser { .. }
            | Self::IssueToken { .. }
            | Self::RevokeToken { .. }
            | Self::AddKey { .. }
            | Self::RemoveKey { .. }
            | Self::Restore { .. }
            | Self::FirstToken { .. } => None,
        }
    }
}

/// What a commit gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The deploy's generation after it; 0 where it is of none.
    pub generation: Generation,
    /// The number of what was made: a release's, a config's, a one-off's, a resource's or a token's; 0 otherwise.
    pub number: u32,
}

impl Ledger {
    /// The one way in: authorises, then commits in one transaction that also counts the deploy's generation up and writes down what was done.
    pub async fn commit(&self, who: &Principal, intent: Intent) -> Result<Committed, LedgerError> {
        Ok(self.commit_all(who, [intent]).await?[0])
    }

    /// The same of several wishes: all of them, in their order, or none.
    pub async fn commit_all<const N: usize>(&self, who: &Principal, intents: [Intent; N]) -> Result<[Committed; N], LedgerError> {
        for intent in &intents {
            self.decide(who, intent.what(), &intent.needs(), intent.deploy())?;
        }
        let (vault, commits, by, reserved) = (self.vault.clone(), self.commits.clone(), who.clone(), self.reserved.clone());
        let of = self.incarnation.clone();
        let attempt = intents.last().map_or("write", Intent::what);
        let done = self.run(attempt, move |c| {
            let t = c.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut committed = [Committed { generation: Generation(0), number: 0 }; N];
            for (intent, committed) in intents.into_iter().zip(&mut committed) {
                incarnation::check(&t, of.as_deref(), &intent)?;
                *committed = commit(&t, &vault, reserved.get(), &by, intent)?;
            }
            t.commit()?;
            commits.send_modify(|n| *n += 1);
            Ok(committed)
        });
        done.await.map_err(|e| self.veiled(who, e))
    }

    /// What somebody is told who may not know of all apps.
    fn veiled(&self, who: &Principal, error: LedgerError) -> LedgerError {
        let sees = |app: &AppName| who.sees(&self.home, app).unwrap_or(false);
        match error {
            LedgerError::Led { domain, deploy } if !deploy.parse().is_ok_and(|d: DeployRef| sees(&d.app)) => LedgerError::Taken { domain },
            LedgerError::Own { domain, app } if !app.parse().is_ok_and(|app| sees(&app)) => LedgerError::Taken { domain },
            other => other,
        }
    }

    /// Whether domains could be led to a deploy now: none leads to another one, or is another one's to have.
    ///
    /// # Errors
    /// What [`Intent::Lead`] would fail with.
    pub async fn may_lead(&self, who: &Principal, deploy: &DeployRef, domains: Vec<Domain>) -> Result<(), LedgerError> {
        self.authorise(who, "add a domain", Need::Deploy(deploy.app.clone()))?;
        let (deploy, by, reserved) = (deploy.clone(), who.name.clone(), self.reserved.clone());
        let seen = self.run("see where domains lead", move |c| {
            // It is done, and taken back as this ends.
            let t = c.transaction_with_behavior(TransactionBehavior::Immediate)?;
            domains.iter().try_for_each(|domain| hosts::lead(&t, reserved.get(), &deploy, domain, ("", &by)))
        });
        seen.await.map_err(|e| self.veiled(who, e))
    }
}

/// Writes one intent, counts and notes it, within a transaction.
fn commit(t: &Connection, vault: &Vault, reserved: Option<&Reserved>, by: &Principal, intent: Intent) -> Result<Committed, Problem> {
    let now = Timestamp::now();
    let (event, numbers, deploy) = (Event::of(t, vault, &intent)?, intent.numbers(), intent.deploy().cloned());
    // What ends is counted for the last time, what begins for the first.
    let ends = matches!(intent, Intent::DestroyDeploy { .. });
    let last = if ends { count(t, deploy.as_ref())? } else { Generation(0) };
    let number = write::write(t, vault, reserved, by, intent, now)?;
    let generation = if ends { last } else { count(t, deploy.as_ref())? };
    event.numbered(numbers, number).record(t, by, now)?;
    Ok(Committed { generation, number })
}

/// Counts a deploy's generation up. Of what is no deploy's there is none.
fn count(c: &Connection, deploy: Option<&DeployRef>) -> Result<Generation, Problem> {
    let Some(name) = deploy.map(ToString::to_string) else { return Ok(Generation(0)) };
    let sql = "UPDATE deploys SET generation = generation + 1 WHERE name = ?1 RETURNING generation";
    let counted: Option<u64> = c.query_row(sql, [&name], |r| r.get(0)).optional()?;
    counted.map(Generation).ok_or_else(|| Problem::NotFound(format!("there is no deploy {name}")))
}
