//! Every write of intent: what it is, what it needs, and the one way in.

use super::certificates::CertificateSource;
use super::{Ledger, LedgerError, Principal, Problem, write};
use crate::port::Certificate;
use crate::port::acme::Acme;
use crate::port::certificate::Secret;
use crate::port::certificates::Failure;
use dozen_core::admin::people::Need;
use dozen_core::backing::ResourceKind;
use dozen_core::concurrency::formation::Formation;
use dozen_core::config::Config;
use dozen_core::ids::{DeployRef, Generation, TypeName, Version};
use dozen_core::port::{Domain, Manners, Sticky};
use dozen_core::release::{Slug, Status};
use jiff::Timestamp;
use rusqlite::{OptionalExtension, TransactionBehavior};
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

    /// What somebody has to be for it.
    pub fn needs(&self) -> Need {
        let app = || self.deploy().app.clone();
        match self {
            Self::Adopt { .. }
            | Self::Recover { .. }
            | Self::Configure { .. }
            | Self::Attach { .. }
            | Self::Release { .. }
            | Self::Conclude { .. }
            | Self::CameUp { .. }
            | Self::Lead { .. }
            | Self::Unlead { .. }
            | Self::Treat { .. }
            | Self::Split { .. }
            | Self::Certify { .. }
            | Self::Uncertify { .. }
            | Self::Automate { .. }
            | Self::Unobtained { .. }
            | Self::Scale { .. }
            | Self::Stop { .. }
            | Self::Run { .. }
            | Self::Ran { .. } => Need::Deploy(app()),
            // All deploys of the home use it, and its terms bind whoever runs the platform.
            Self::Account { .. } => Need::Platform,
            // What comes back after a reboot is the machine's affair.
            Self::Keep { .. } => Need::Host,
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
        self.authorise(who, intent.what(), intent.needs())?;
        let (vault, commits) = (self.vault.clone(), self.commits.clone());
        let (who, attempt) = (who.name.clone(), intent.what());
        self.run(attempt, move |c| {
            let t = c.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let deploy = intent.deploy().clone();
            let number = write::write(&t, &vault, &who, intent)?;
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
        self.authorise(who, "add a domain", Need::Deploy(deploy.app.clone()))?;
        let (deploy, who) = (deploy.clone(), who.name.clone());
        self.run("see where domains lead", move |c| {
            // It is done, and taken back as this ends.
            let t = c.transaction_with_behavior(TransactionBehavior::Immediate)?;
            domains.iter().try_for_each(|domain| write::lead(&t, &deploy, domain, "", &who))
        })
        .await
    }
}
