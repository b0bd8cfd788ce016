//! The ledger: the only truth about intent, one SQLite file.
//!
//! One thread owns the connection and takes work from a channel; every write is an [`Intent`], authorised and committed by
//! [`Ledger::commit`] in one transaction. Several dozens may share a file: `BEGIN IMMEDIATE` and a busy timeout keep them apart.
//!
//! **Invariant:** the ledger commits before anything starts.

use crate::config::{Vault, VaultError};
use crate::home::Home;
use dozen_core::admin::people::Need;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{FlockOperation, flock};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use steps::{SCHEMA, STEPS};

mod apps;
mod authority;
mod builds;
mod certificates;
mod copy;
mod events;
mod gates;
mod hosts;
mod incarnation;
mod intent;
mod keys;
mod people;
mod problem;
mod read;
mod slugs;
mod soundness;
mod split;
mod steps;
mod tries;
mod write;

pub use apps::DeployRow;
pub use authority::{Identity, Principal};
pub use builds::{BuildChange, BuildRow, BuildState};
pub use certificates::{CertificateRow, CertificateSource};
pub use events::{EventFilter, EventResult, EventRow};
pub use gates::GATES;
pub use hosts::Reserved;
pub use intent::{Committed, Intent};
pub use keys::KeyRow;
pub use people::{Issued, TokenRow, TokenText, UserRow};
use problem::Problem;
pub use read::{AppRow, Kept, OneOffRow, ReleaseRow, SlugRow};
pub use slugs::UsedSlug;
pub use soundness::Fault;
pub use split::Split;
pub use tries::{TooOften, Tries};

/// How long a write waits for another dozen's.
const BUSY: Duration = Duration::from_secs(10);

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

/// A handle; clones share the thread.
#[derive(Clone)]
pub struct Ledger {
    work: std::sync::mpsc::Sender<Work>,
    vault: Arc<Vault>,
    home: Home,
    /// Counts what was committed by this handle and its clones.
    commits: tokio::sync::watch::Sender<u64>,
    /// What was refused lately.
    refusals: Arc<Mutex<events::Refusals>>,
    /// What the server that uses it gives itself.
    reserved: Arc<OnceLock<Reserved>>,
    /// The only deploy of its name that this handle writes of.
    incarnation: Option<Arc<incarnation::Incarnation>>,
}

/// Why the ledger did not answer.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The home cannot be made or written.
    #[error("cannot use {path} to keep dozen's state; set DOZEN_HOME to a folder that you can write")]
    Home {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// SQLite said no.
    #[error("cannot {attempt} in the ledger {path}{}", hint(.source))]
    Sqlite {
        /// "read the releases"
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A ledger from a later dozen.
    #[error("the ledger {path} has schema {found}, newer than this dozen's {SCHEMA}; use the dozen that wrote it")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// The key or a sealed config.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The ledger holds what it should not.
    #[error("the ledger {path} is inconsistent: {what}")]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// What was asked for is not there.
    #[error("{0}")]
    NotFound(String),
    /// A domain leads to another deploy.
    #[error("{domain} leads to {deploy} already; `dozen domains remove {domain} -a {deploy}` frees it")]
    Led {
        /// Which.
        domain: String,
        /// Where.
        deploy: String,
    },
    /// A domain leads to what the one who asks may not know of.
    #[error("{domain} leads elsewhere already")]
    Taken {
        /// Which.
        domain: String,
    },
    /// What is there already stands against it.
    #[error("{0}")]
    Conflict(String),
    /// A domain is another app's own name.
    #[error("{domain} is the own name of the app {app}, and leads to it alone")]
    Own {
        /// Which.
        domain: String,
        /// Whose.
        app: String,
    },
    /// The one who asks may not.
    #[error("{who} may not {what}: only {needs} may")]
    Forbidden {
        /// Who asked.
        who: String,
        /// What for.
        what: &'static str,
        /// Who may: `a deployer of shop`, `an admin`.
        needs: String,
    },
    /// The one who asks is known by their uid only.
    #[error("{who} may not {what} without the token of the API")]
    Unproven {
        /// Who asked.
        who: String,
        /// What for.
        what: &'static str,
    },
    /// The ledger's thread has ended.
    #[error("the ledger's writer has stopped")]
    Stopped,
}

/// Waits for the home's door: who has it is alone with what no transaction of the ledger guards. Never within a transaction.
pub(crate) fn door(home: &Home) -> Result<std::fs::File, LedgerError> {
    let door = std::fs::File::open(home.root()).and_then(|d| Ok(flock(&d, FlockOperation::LockExclusive).map(|()| d)?));
    door.map_err(|source| LedgerError::Home { path: home.root().to_owned(), source })
}

fn hint(e: &rusqlite::Error) -> &'static str {
    match e.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => ": the disk is full, make room and try again",
        Some(rusqlite::ErrorCode::SystemIoFailure) => ": the disk is full or fails, make room and try again",
        Some(rusqlite::ErrorCode::ReadOnly) => ": it is read-only",
        Some(rusqlite::ErrorCode::DatabaseBusy) => ": another dozen has been writing for 10 s",
        _ => "",
    }
}

impl Ledger {
    /// Opens the ledger of a home, making both where they are missing, and its vault.
    pub fn open(home: &Home) -> Result<Self, LedgerError> {
        home.make().map_err(|(path, source)| LedgerError::Home { path, source })?;
        // Whoever may read the file by its mode could not write beside it, and SQLite would say no more than that.
        authority::authorise(home, &Principal::me(), "open the ledger", &Need::Host)?;
        let path = home.ledger();
        let failed = |attempt| {
            let path = path.clone();
            move |source| LedgerError::Sqlite { attempt, path, source }
        };
        // Several first starts go through here one by one: SQLite answers "busy" at once where two switch a new file to WAL, timeout or not.
        let _door = door(home)?;
        // Never opened but by SQLite once it is there: closing it again would take away the locks that another connection of this process has,
        // and who closes the ledger elsewhere would then delete the log that this process still writes.
        let made = std::fs::OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        if let Err(source) = made.map(drop)
            && source.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(LedgerError::Home { path: path.clone(), source });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&path, flags).map_err(failed("open"))?;
        connection.busy_timeout(BUSY).map_err(failed("open"))?;
        set_up(&mut connection, &path)?;
        let sealed: bool = connection
            .query_row(
                "SELECT EXISTS (SELECT 1 FROM configs UNION SELECT 1 FROM certificates UNION SELECT 1 FROM acme_accounts)",
                [],
                |r| r.get(0),
            )
            .map_err(failed("look for config"))?;
        let vault = Arc::new(Vault::open(&home.key(), !sealed)?);
        let (work, jobs) = std::sync::mpsc::channel::<Work>();
        std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || {
                for job in jobs {
                    job(&mut connection);
                }
            })
            .map_err(|source| LedgerError::Home { path: home.root().to_owned(), source })?;
        Ok(Self {
            work,
            vault,
            home: home.clone(),
            commits: tokio::sync::watch::Sender::new(0),
            refusals: Arc::default(),
            reserved: Arc::default(),
            incarnation: None,
        })
    }

    /// The home that it is the ledger of.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Has this handle and its clones go by what a server gives itself from now on; the first word counts.
    pub fn reserve(&self, reserved: Reserved) {
        let _ = self.reserved.set(reserved);
    }

    /// Changes with every commit of this handle and its clones.
    pub fn commits(&self) -> tokio::sync::watch::Receiver<u64> {
        self.commits.subscribe()
    }

    /// Runs `job` on the ledger's thread.
    async fn run<T: Send + 'static>(
        &self,
        attempt: &'static str,
        job: impl FnOnce(&mut Connection) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (answer, result) = tokio::sync::oneshot::channel();
        let job: Work = Box::new(move |c| {
            // Whoever asked may have gone; the work is done all the same.
            let _ = answer.send(job(c));
        });
        self.work.send(job).map_err(|_| LedgerError::Stopped)?;
        result.await.map_err(|_| LedgerError::Stopped)?.map_err(|p| match p {
            Problem::Sqlite(source) => LedgerError::Sqlite { attempt, path: self.home.ledger(), source },
            Problem::Inconsistent(what) => LedgerError::Inconsistent { path: self.home.ledger(), what },
            Problem::NotFound(what) => LedgerError::NotFound(what),
            Problem::Conflict(what) => LedgerError::Conflict(what),
            Problem::Vault(source) => LedgerError::Vault(source),
            Problem::Led { domain, deploy } => LedgerError::Led { domain, deploy },
            Problem::Own { domain, app } => LedgerError::Own { domain, app },
        })
    }
}

fn set_up(c: &mut Connection, path: &std::path::Path) -> Result<(), LedgerError> {
    let failed = |source| LedgerError::Sqlite { attempt: "set up the tables", path: path.to_owned(), source };
    c.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    c.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    c.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    let t = c.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(failed)?;
    let found: i64 = t.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(failed)?;
    match found {
        0 => {
            t.execute_batch(include_str!("ledger/schema.sql")).map_err(failed)?;
            t.pragma_update(None, "user_version", SCHEMA).map_err(failed)?;
            t.commit().map_err(failed)
        }
        SCHEMA => Ok(()),
        1..SCHEMA => {
            // Within the same transaction: a ledger is of one schema or of the other, whatever ends dozen meanwhile.
            for step in STEPS.iter().skip(usize::try_from(found).unwrap_or_default() - 1) {
                t.execute_batch(step).map_err(failed)?;
            }
            t.pragma_update(None, "user_version", SCHEMA).map_err(failed)?;
            t.commit().map_err(failed)
        }
        found => Err(LedgerError::Newer { path: path.to_owned(), found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::certificates::Failure;
    use dozen_core::config::{Config, Origin, Var};
    use dozen_core::ids::{DeployRef, SlugId, Version};
    use dozen_core::port::{Domain, Front, Manners};
    use dozen_core::release::{Slug, Status};

    fn uid() -> u32 {
        rustix::process::getuid().as_raw()
    }

    struct Bench {
        ledger: Ledger,
        who: Principal,
        shop: DeployRef,
        _folder: tempfile::TempDir,
    }

    impl Bench {
        async fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let ledger = Ledger::open(&Home::at(folder.path().join("home"))).expect("opened");
            let shop: DeployRef = "shop".parse().expect("valid");
            let bench = Self { ledger, who: Principal::me(), shop, _folder: folder };
            bench.commit(Intent::Adopt { deploy: bench.shop.clone(), folder: Some("/src/shop".into()) }).await;
            bench
        }

        async fn commit(&self, intent: Intent) -> Committed {
            self.ledger.commit(&self.who, intent).await.expect("committed")
        }

        async fn configure(&self, value: &str) -> u32 {
            let mut config = Config::default();
            config.set("KEY", Var { value: value.into(), origin: Origin::Set, plain: false }).expect("valid");
            self.commit(Intent::Configure { deploy: self.shop.clone(), config }).await.number
        }

        async fn release(&self, config_version: u32) -> Version {
            let slug = Slug {
                id: SlugId([7; 32]),
                stack: dozen_core::dependencies::Stack { pack: "procfile".into(), runtime: None },
                processes: vec![],
                env: vec![],
                needs: vec![],
                console: None,
                scratch: vec![],
                rules: std::collections::BTreeMap::default(),
                commit: None,
                size: 1,
                files: 1,
            };
            let (deploy, slug, description) = (self.shop.clone(), Box::new(slug), "Deploy".to_owned());
            let release =
                Intent::Release { deploy, slug, config_version: Some(config_version), like: None, python: None, node: None, description };
            Version(self.commit(release).await.number)
        }
    }

    #[tokio::test]
    async fn a_release_is_current_only_when_it_was_concluded_well() {
        let b = Bench::new().await;
        let (one, two) = (b.configure("first-value").await, b.configure("second-value").await);
        let first = b.release(one).await;
        assert_eq!(b.ledger.current(&b.shop).await.expect("read"), None);
        let conclude = |version, status| Intent::Conclude { deploy: b.shop.clone(), version, status, failure: None };
        b.commit(conclude(first, Status::Succeeded)).await;
        let second = b.release(two).await;
        b.commit(conclude(second, Status::Failed)).await;
        assert_eq!((first, second), (Version(1), Version(2)));
        assert_eq!(b.ledger.current(&b.shop).await.expect("read"), Some(first));
        // What was concluded stays so.
        b.commit(conclude(second, Status::Succeeded)).await;
        assert_eq!(b.ledger.release(&b.shop, second).await.expect("read").status, Status::Failed);
        let config = b.ledger.config_at(&b.shop, one).await.expect("read");
        assert_eq!(config.vars["KEY"].value, "first-value");
    }

    #[tokio::test]
    async fn wishes_that_belong_together_are_all_kept_or_none_is() {
        let b = Bench::new().await;
        let configure = || Intent::Configure { deploy: b.shop.clone(), config: Config::default() };
        let gone = Intent::DestroyApp { app: "nobody".parse().expect("valid") };
        b.ledger.commit_all(&b.who, [configure(), gone]).await.expect_err("the second cannot be");
        assert_eq!(b.ledger.config(&b.shop).await.expect("read").0, 0);
        let both = b.ledger.commit_all(&b.who, [configure(), configure()]).await.expect("committed");
        assert_eq!(both.map(|done| done.number), [1, 2]);
    }

    #[tokio::test]
    async fn every_write_counts_the_generation_and_a_recovery_concludes_what_was_left() {
        let b = Bench::new().await;
        let before = b.ledger.deploy(&b.shop).await.expect("read").expect("there").1;
        let config = b.configure("value").await;
        let left = b.release(config).await;
        let begin = || Intent::Run { deploy: b.shop.clone(), release: left, command: "true".into() };
        let run = b.commit(begin()).await;
        assert_eq!(run.generation.0, before.0 + 3);
        let running = b.commit(begin()).await.number;
        b.commit(Intent::Recover { deploy: b.shop.clone(), running: vec![running], building: vec![] }).await;
        let row = b.ledger.release(&b.shop, left).await.expect("read");
        assert_eq!(row.status, Status::Failed);
        let one_offs = b.ledger.one_offs(&b.shop).await.expect("read");
        let ends: Vec<_> = one_offs.iter().map(|o| (o.number, o.ended.map(|(_, code)| code))).collect();
        assert_eq!(ends, [(2, None), (1, Some(137))]);
    }

    #[tokio::test]
    async fn a_domain_leads_to_one_deploy_until_it_is_removed() {
        let b = Bench::new().await;
        let domain = |text: &str| text.parse::<Domain>().expect("a domain");
        let lead = |deploy: &DeployRef, text| Intent::Lead { deploy: deploy.clone(), domains: vec![domain(text)] };
        let other: DeployRef = "blog/dev".parse().expect("valid");
        b.commit(Intent::Adopt { deploy: other.clone(), folder: None }).await;
        for text in ["shop.test", "shop.test", "a.test/api"] {
            b.commit(lead(&b.shop, text)).await;
        }
        let refused = b.ledger.commit(&b.who, lead(&other, "shop.test")).await.expect_err("it leads elsewhere").to_string();
        assert!(refused.contains(&format!("shop.test leads to {} already", b.shop)), "{refused}");
        b.commit(lead(&other, "a.test")).await;
        assert_eq!(b.ledger.domains(&b.shop).await.expect("read"), [domain("a.test/api"), domain("shop.test")]);
        let unlead = |deploy: &DeployRef| Intent::Unlead { deploy: deploy.clone(), domains: vec![domain("shop.test")] };
        assert!(matches!(b.ledger.commit(&b.who, unlead(&other)).await, Err(LedgerError::NotFound(_))));
        b.commit(unlead(&b.shop)).await;
        b.commit(lead(&other, "shop.test")).await;
        // All or none.
        let both = Intent::Lead { deploy: b.shop.clone(), domains: vec![domain("new.test"), domain("shop.test")] };
        assert!(matches!(b.ledger.commit(&b.who, both).await, Err(LedgerError::Led { .. })));
        assert_eq!(b.ledger.domains(&b.shop).await.expect("read"), [domain("a.test/api")]);
        let own = b.ledger.commit(&b.who, lead(&b.shop, "blog.localhost/x")).await;
        assert!(matches!(own, Err(LedgerError::Own { app, .. }) if app == "blog"));
        b.commit(lead(&b.shop, "nobody.localhost")).await;
        let manners = Manners {
            maintenance: true,
            hsts: Some(Duration::from_secs(60)),
            trusted: vec!["10.0.0.0/8".parse().expect("a network"), "::1".parse().expect("a network")],
            ..Manners::default()
        };
        let until = "2027-01-02T03:04:05Z".parse().ok();
        b.commit(Intent::Treat { deploy: other.clone(), manners: Box::new(manners.clone()), paused_until: until }).await;
        let domains = vec![domain("a.test"), domain("shop.test")];
        assert_eq!(b.ledger.front(&other).await.expect("read"), Front { domains, manners, paused_until: until });
        assert_eq!(b.ledger.front(&b.shop).await.expect("read").manners, Manners::default());
    }

    #[tokio::test]
    async fn an_order_that_came_to_nothing_is_kept_until_one_for_its_name_did_not() {
        let b = Bench::new().await;
        let (directory, other) = ("https://a.test/dir", "https://b.test/dir");
        let failure =
            |again: &str| Failure { why: "nobody there".into(), times: 3, too_often: true, again: again.parse().expect("a time") };
        let fail = |directory: &str, host: &str, again: &str| Intent::Unobtained {
            deploy: b.shop.clone(),
            directory: directory.to_owned(),
            host: host.to_owned(),
            failure: Box::new(failure(again)),
        };
        let hosts = async |directory: &str| b.ledger.failures(&b.shop, directory).await.expect("read").into_keys().collect::<Vec<_>>();
        let (past, future) = ("2020-01-01T00:00:00.123456789Z", "2120-01-01T00:00:00Z");
        let lead = vec!["shop.example.com/api".parse().expect("a domain"), "b.example.com".parse().expect("a domain")];
        b.commit(Intent::Lead { deploy: b.shop.clone(), domains: lead }).await;
        for (directory, host, again) in
            [(directory, "shop.example.com", past), (directory, "gone.example.com", past), (other, "b.example.com", future)]
        {
            b.commit(fail(directory, host, again)).await;
        }
        let kept = b.ledger.failures(&b.shop, directory).await.expect("read");
        assert_eq!(kept.get("shop.example.com"), Some(&failure(past)));
        // Of what leads nowhere and is over nothing is kept; what was asked of another authority is its own affair.
        b.commit(fail(directory, "new.example.com", future)).await;
        assert_eq!(hosts(directory).await, ["new.example.com", "shop.example.com"]);
        let key = rcgen::KeyPair::generate().expect("a key");
        let own = rcgen::CertificateParams::new(vec!["shop.example.com".to_owned()]).and_then(|p| p.self_signed(&key)).expect("signed");
        let certificate = crate::port::Certificate::read(&own.pem(), &key.serialize_pem(), jiff::Timestamp::MIN).expect("good");
        let certify = Intent::Certify { deploy: b.shop.clone(), certificate: Box::new(certificate), source: CertificateSource::Acme };
        b.commit(certify).await;
        assert_eq!((hosts(directory).await, hosts(other).await), (vec!["new.example.com".into()], vec!["b.example.com".to_owned()]));
    }

    #[tokio::test]
    async fn whether_a_domain_may_be_led_is_seen_without_leading_it() {
        let b = Bench::new().await;
        let other: DeployRef = "blog/dev".parse().expect("valid");
        b.commit(Intent::Adopt { deploy: other.clone(), folder: None }).await;
        let domains: Vec<Domain> = vec!["shop.example.com".parse().expect("a domain")];
        for _ in 0..2 {
            b.ledger.may_lead(&b.who, &b.shop, domains.clone()).await.expect("it may");
        }
        assert_eq!(b.ledger.domains(&b.shop).await.expect("read"), []);
        b.commit(Intent::Lead { deploy: b.shop.clone(), domains: domains.clone() }).await;
        assert!(matches!(b.ledger.may_lead(&b.who, &other, domains.clone()).await, Err(LedgerError::Led { .. })));
        assert!(matches!(b.ledger.may_lead(&Principal::of(uid()), &b.shop, domains).await, Err(LedgerError::Unproven { .. })));
    }

    #[tokio::test]
    async fn strangers_and_unknown_deploys_are_refused_and_nothing_is_written() {
        let b = Bench::new().await;
        let stranger = Principal::of(uid().wrapping_add(4_711).max(1));
        let adopt = || Intent::Adopt { deploy: "other".parse().expect("valid"), folder: Some("/".into()) };
        assert!(matches!(b.ledger.commit(&stranger, adopt()).await, Err(LedgerError::Forbidden { .. })));
        let stranger = Principal { proven: true, ..stranger };
        assert!(matches!(b.ledger.commit(&stranger, adopt()).await, Err(LedgerError::Forbidden { .. })));
        let tokenless = Principal::of(uid());
        assert!(matches!(b.ledger.commit(&tokenless, adopt()).await, Err(LedgerError::Unproven { .. })));
        let nobody: DeployRef = "nobody".parse().expect("valid");
        let configure = Intent::Configure { deploy: nobody, config: Config::default() };
        assert!(b.ledger.commit(&b.who, configure).await.is_err());
        assert_eq!(b.ledger.deploys().await.expect("read"), std::slice::from_ref(&b.shop));
    }

    /// Tables with their columns, and what else there is.
    fn shape(c: &Connection) -> Vec<(String, String, String, bool)> {
        let sql = "SELECT t.name, c.name, c.type, c.\"notnull\" FROM sqlite_master t, pragma_table_info(t.name) c
                   WHERE t.type = 'table' UNION ALL
                   SELECT name, type, sql, 0 FROM sqlite_master WHERE type != 'table' AND sql IS NOT NULL ORDER BY 1, 2";
        let mut all = c.prepare(sql).expect("prepared");
        let rows = all.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?))).expect("asked");
        rows.collect::<Result<_, _>>().expect("read")
    }

    #[test]
    fn an_older_ledger_becomes_what_a_new_one_is_and_keeps_what_it_has() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let mut new = Connection::open(at("new.db")).expect("opened");
        set_up(&mut new, &at("new.db")).expect("made");
        for schema in 1..SCHEMA {
            let path = at(&format!("{schema}.db"));
            let mut old = Connection::open(&path).expect("opened");
            old.execute_batch(include_str!("ledger/schema_1.sql")).expect("the first schema");
            for step in STEPS.iter().take(usize::try_from(schema).expect("it is small") - 1) {
                old.execute_batch(step).expect("a step");
            }
            old.execute_batch(
                "INSERT INTO apps (name, created_at) VALUES ('shop', '2026-11-21T00:00:00Z');
                 INSERT INTO deploys (name, app, uid, generation, created_at) VALUES ('shop/dev', 'shop', 480000, 7, '2026-11-21T00:00:00Z');
                 INSERT INTO slugs VALUES ('00', 'procfile', NULL, '{}', 1, 1, '2026-11-21T00:00:00Z');
                 INSERT INTO configs VALUES ('shop/dev', 1, '[]', x'00', '2026-11-21T00:00:00Z', 'root');
                 INSERT INTO releases (deploy, version, slug, config_version, attachments, description, status, created_at, created_by) VALUES
                    ('shop/dev', 1, '00', 1, '{}', 'Deploy', 'succeeded', '2026-11-21T00:00:00.123456789Z', 'root'),
                    ('shop/dev', 2, '00', 1, '{}', 'Set A config vars', 'failed', '2026-11-21T00:00:01Z', 'uid 1000');",
            )
            .expect("rows");
            old.pragma_update(None, "user_version", schema).expect("set");
            set_up(&mut old, &path).expect("migrated");
            assert_eq!(shape(&old), shape(&new), "from {schema}");
            assert_eq!(old.pragma_query_value(None, "user_version", |r| r.get::<_, i64>(0)).expect("read"), SCHEMA);
            assert_eq!(old.query_row("SELECT name FROM apps", [], |r| r.get::<_, String>(0)).expect("kept"), "shop");
            // What was done before anybody wrote it down is known as far as releases tell it; from schema 8 on it was.
            let sql = "SELECT concat_ws('|', at, who, from_where, deploy, app, what, detail, result) FROM events ORDER BY id";
            let mut events = old.prepare(sql).expect("prepared");
            let told = events.query_map([], |r| r.get::<_, String>(0)).expect("asked").collect::<Result<Vec<_>, _>>().expect("read");
            let wanted = [
                "2026-11-21T00:00:00.123456Z|root|shop/dev|shop|make a release|v1 Deploy|done",
                "2026-11-21T00:00:01.000000Z|uid 1000|shop/dev|shop|make a release|v2 Set A config vars|failed",
            ];
            assert_eq!(told, if schema < 8 { &wanted[..] } else { &[] });
        }
    }

    #[tokio::test]
    async fn a_ledger_of_a_later_dozen_is_left_alone() {
        let b = Bench::new().await;
        let path = b.ledger.home().ledger();
        let other = Connection::open(&path).expect("opened");
        other.pragma_update(None, "user_version", SCHEMA + 1).expect("set");
        assert!(matches!(Ledger::open(b.ledger.home()), Err(LedgerError::Newer { found, .. }) if found == SCHEMA + 1));
    }
}
