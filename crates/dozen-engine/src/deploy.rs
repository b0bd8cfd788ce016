//! The one place that walks Source → Slug → Release, left to right, and hands what comes of it to the driver.
//!
//! [`Floor`] is one deploy under way: its ledger, its driver, what is seen of it. `up` has one; nothing here knows whether a person or an API asks.
//!
//! **Invariant:** a release is in the ledger before anything of it starts, and it is concluded before it is called current.
//! **Invariant:** whatever fails after that, the release before it keeps serving.

use crate::admin::held::Holding;
use crate::codebase;
use crate::home::Home;
use crate::ledger::{Intent, Ledger, Principal, ReleaseRow};
use crate::output::Output;
use crate::parity::{Local, Observed};
use crate::processes::usage::{Meter, Usage};
use crate::release::store;
use dozen_core::admin::people::Need;
use dozen_core::backing::Attachment;
use dozen_core::codebase::Source;
use dozen_core::concurrency::formation::{First, Formation};
use dozen_core::concurrency::{Desired, GivenUp, Share, outcome};
use dozen_core::config::{Changes, Config, Origin, Var};
use dozen_core::ids::{DeployRef, Generation, TypeName, Version};
use dozen_core::parity::Driver;
use dozen_core::processes::{Isolation, State};
use dozen_core::release::{Cause, Release, Slug, Status};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

mod adoption;
mod building;
mod builds;
mod declared;
mod delivered;
mod error;
mod formation;
mod front;
mod pushed;
pub mod releases;
mod roll;
mod slugs;
mod soundness;
mod split;
mod testing;
mod trial;

pub use building::{Building, build, check};
pub use builds::Build;
pub(crate) use builds::Builds;
use declared::Declared;
pub use delivered::{Code, Delivered};
pub use error::DeployError;
pub use formation::Steered;
pub use front::{Pause, Treatment};
use roll::Way;
pub use slugs::Listed;
pub use soundness::{Sound, sound};
pub use testing::{Tested, Testing, test};
pub use trial::{Settled, Standing};

/// One deploy and everything that acts on it.
pub struct Floor {
    /// The truth about intent.
    pub ledger: Ledger,
    /// Which deploy.
    pub deploy: DeployRef,
    /// The dozen binary, for the jails that builds run in.
    pub exe: PathBuf,
    /// Where it runs.
    pub driver: Local,
    /// What is seen of it, and its log.
    pub observed: Arc<Observed>,
    /// Whether a formation is kept running; otherwise only one-offs run and releases wait for the next `up`.
    pub serving: bool,
    /// How many of a process type run that nobody has scaled. One of each where nobody says otherwise.
    pub first: First,
    /// What its instances use of this host.
    meter: Arc<Meter>,
    /// The one-offs that this process runs.
    pub(crate) holding: Holding,
    /// The builds that this process has under way.
    pub(crate) builds: Builds,
    /// Set as soon as it is stopped, for ever.
    ending: AtomicBool,
    /// Changes of releases wait for each other here.
    turn: tokio::sync::Mutex<()>,
    /// Pushes here, from the end of the build until git has moved the branch.
    pub pushes: Arc<tokio::sync::Mutex<()>>,
    /// And deliveries here, which are several changes.
    line: tokio::sync::Mutex<()>,
    /// Changes of what leads here wait for each other here, so that the driver hears of them in the ledger's order.
    telling: tokio::sync::Mutex<()>,
}

/// What `up` was told about a build.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// A Python version or path instead of the one that the app's files ask for.
    pub use_python: Option<String>,
    /// The same of Node.
    pub use_node: Option<String>,
    /// Whether its buildpacks may be folders of this machine: its owner builds.
    pub folders: bool,
}

/// `--use-python` and `--use-node`, where they were given.
type Pins = (Option<String>, Option<String>);

/// The config of a release.
enum Wanted {
    /// A version that was made.
    At(u32),
    /// One that is to be made with the release.
    Next(Config),
}

/// What a release is made of besides its slug.
struct Ready {
    declared: Declared,
    /// The release that serves, or would.
    before: Option<ReleaseRow>,
    config_version: u32,
    config: Config,
    /// The attachments, by name.
    ids: BTreeMap<String, u32>,
    attachments: Vec<Attachment>,
    /// What app.json requires and nothing gives.
    missing: Vec<String>,
    /// Whether another commit makes another release, though its slug may be the same: who pushes asks for one.
    each_commit: bool,
}

/// A change of config.
#[derive(Debug, Clone, Default)]
pub struct ConfigChange {
    /// Variables and their values.
    pub set: Vec<(String, Var)>,
    /// Names.
    pub unset: Vec<String>,
    /// What was set `--plain` before stays so.
    pub keep_plain: bool,
    /// The version of the config that this was made from; it is refused where there is a newer one.
    pub at: Option<u32>,
}

/// How a change of config ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configured {
    /// What changed.
    pub changes: Changes,
    /// The release that came of it; `None` where nothing changed, or where it waits for the next `up`.
    pub version: Option<Version>,
}

impl Floor {
    /// A floor for a deploy.
    pub fn new(ledger: Ledger, deploy: DeployRef, exe: PathBuf, driver: Local, observed: Arc<Observed>, serving: bool) -> Self {
        let (turn, pushes, line, telling) = Default::default();
        let first = First::OneOfEach;
        Self {
            ledger,
            deploy,
            exe,
            driver,
            observed,
            serving,
            first,
            meter: Arc::default(),
            holding: Holding::default(),
            builds: Builds::default(),
            ending: AtomicBool::new(false),
            turn,
            pushes,
            line,
            telling,
        }
    }

    pub(crate) fn home(&self) -> &Home {
        self.ledger.home()
    }

    /// Source to release: reads the folder, builds or finds the slug, makes a release where anything changed, and runs its release phase.
    /// Answers the release that shall serve and whether it is new.
    pub async fn bring_up(
        &self,
        who: &Principal,
        folder: PathBuf,
        options: &BuildOptions,
        printer: Arc<dyn Output>,
    ) -> Result<(Arc<Release>, bool), DeployError> {
        let build = self.ask_build(who, "folder", None).await?;
        build.carry(self.bring_up_folder(who, folder, &build, options, printer)).await
    }

    async fn bring_up_folder(
        &self,
        who: &Principal,
        folder: PathBuf,
        build: &Build,
        options: &BuildOptions,
        printer: Arc<dyn Output>,
    ) -> Result<(Arc<Release>, bool), DeployError> {
        let output = &*printer;
        let _turn = self.turn.lock().await;
        let deploy = &self.deploy;
        let mut reading = codebase::read(&folder)?;
        building::leave_out_home(self.home(), &mut reading)?;
        reading.warnings.iter().for_each(|w| output.warning(w));
        let source = reading.source;
        let mut declared = declared::read(&source, output)?;
        declared.dotenv = Some(declared::read_dotenv(&folder, output)?);
        self.ledger.commit(who, Intent::Adopt { deploy: deploy.clone(), folder: Some(source.folder.clone()) }).await?;
        let ready = self.get_ready(who, declared, &source, output).await?;
        let (slug, pins) = self.build(&ready, &source, build, options, printer.clone()).await?;
        self.release(who, &ready, slug, pins, output).await
    }

    /// The same from a slug that is in the store, built here or elsewhere. It has no `.env`: config is the deploy's own and app.json's defaults.
    pub async fn bring_up_slug(&self, who: &Principal, slug: Slug, printer: Arc<dyn Output>) -> Result<(Arc<Release>, bool), DeployError> {
        let output = &*printer;
        let _turn = self.turn.lock().await;
        self.claim(&slug)?;
        let source = building::source_of(self.home(), &slug)?;
        let declared = declared::read(&source, output)?;
        self.ledger.commit(who, Intent::Adopt { deploy: self.deploy.clone(), folder: None }).await?;
        let ready = self.get_ready(who, declared, &source, output).await?;
        let pins = ready.before.as_ref().map(|b| (b.python.clone(), b.node.clone())).unwrap_or_default();
        self.release(who, &ready, slug, pins, output).await
    }

    /// What a release needs besides its slug: config and resources, as the app declares them.
    async fn get_ready(&self, who: &Principal, declared: Declared, source: &Source, output: &dyn Output) -> Result<Ready, DeployError> {
        self.recover(who, false).await?;
        let before = self.current_row().await?;
        if before.is_none() {
            declared.unused(source, output);
        }
        let (config_version, config) = self.import_config(who, &declared, output).await?;
        self.create_resources(who, &declared, &config, output).await?;
        let ids = self.ledger.attachments(&self.deploy).await?;
        let attachments = self.ledger.resolve(ids.clone()).await?;
        let missing = declared.missing(&config, &attachments);
        if !missing.is_empty() {
            output.warning(&format!("app.json requires config that is not set: {}", missing.join(", ")));
        }
        Ok(Ready { declared, before, config_version, config, ids, attachments, missing, each_commit: false })
    }

    /// Makes a release of a slug where anything differs from the current one, and runs its release phase.
    async fn release(
        &self,
        who: &Principal,
        ready: &Ready,
        slug: Slug,
        pins: Pins,
        output: &dyn Output,
    ) -> Result<(Arc<Release>, bool), DeployError> {
        let Ready { declared, before, config_version, config, ids, missing, each_commit, .. } = ready;
        let deploy = &self.deploy;
        if !missing.is_empty() {
            return Err(DeployError::Required { deploy: deploy.clone(), names: missing.clone() });
        }
        self.say_unknown(&slug, &declared.formation, output);

        let code_changed = before.as_ref().is_none_or(|b| b.slug != slug.id || (*each_commit && b.commit != slug.commit));
        if let Some(row) = before
            && !code_changed
            && row.attachments == *ids
            && (&row.python, &row.node) == (&pins.0, &pins.1)
            && (row.config_version == *config_version
                || self.ledger.config_at(deploy, row.config_version).await?.changes(config).is_empty())
        {
            return Ok((Arc::new(self.load(row).await?), false));
        }
        let changes = match before {
            Some(b) => self.ledger.config_at(deploy, b.config_version).await?.changes(config),
            None => Changes::default(),
        };
        let cause = if code_changed {
            Cause::Deploy { commit: slug.commit.clone(), slug: slug.id, config: changes }
        } else if before.as_ref().is_some_and(|b| b.attachments != *ids) {
            let old = before.as_ref().map(|b| b.attachments.clone()).unwrap_or_default();
            Cause::Attach(ids.keys().find(|k| !old.contains_key(*k)).cloned().unwrap_or_default())
        } else {
            Cause::Config(changes)
        };
        let release = self.make(who, slug, Wanted::At(*config_version), None, pins, &cause).await?;
        // Beside what serves it is the switch's affair.
        if !self.serving_now() {
            self.phase(who, &release, output).await?;
            self.conclude(who, release.version, None).await?;
            self.settle_formation(who, &release.slug).await?;
        }
        Ok((release, true))
    }

    /// Starts the formation of a release that [`Floor::bring_up`] answered, and answers at once: what comes of it is seen.
    pub async fn serve(&self, who: &Principal, release: Arc<Release>) -> Result<(), DeployError> {
        self.start_all(who).await?;
        let formation = self.formation(&release.slug).await?;
        let scaled = self.ledger.commit(who, Intent::Scale { deploy: self.deploy.clone(), formation: formation.clone() }).await?;
        Ok(self.driver.apply(&self.steady(release, formation, scaled.generation).await?)?)
    }

    /// Waits until every instance of the release is up and records that, or says which one ended first and how.
    pub async fn come_up(&self, who: &Principal, release: &Release) -> Result<Result<(), GivenUp>, DeployError> {
        let formation = self.running(&release.slug).await?;
        let outcome = self.observed.until(|seen| outcome(release.version, &formation, seen)).await;
        // Where all types are stopped nothing was up.
        if outcome.is_ok() && formation.total() > 0 {
            self.ledger.commit(who, Intent::CameUp { deploy: self.deploy.clone(), version: release.version }).await?;
        }
        Ok(outcome)
    }

    /// Waits until an instance of a release ends that nobody stopped, and says which and how.
    pub async fn falls(&self, release: &Release) -> Result<GivenUp, DeployError> {
        let formation = self.running(&release.slug).await?;
        Ok(self.observed.until(|seen| outcome(release.version, &formation, seen).and_then(Result::err)).await)
    }

    /// Stops everything and waits until it is gone. `kill` ends the wait: everything is killed at once.
    pub async fn stop(&self, who: &Principal, kill: impl Future<Output = ()>) -> Result<(), DeployError> {
        self.ledger.authorise(who, "stop a deploy", Need::Deploy(self.deploy.app.clone()))?;
        self.ending.store(true, Ordering::Relaxed);
        self.builds.end().await;
        self.driver.forget(&self.deploy)?;
        let closed = self.driver.close();
        tokio::pin!(closed);
        tokio::select! {
            () = &mut closed => {}
            () = kill => {
                self.driver.kill()?;
                closed.await;
            }
        }
        // What was under way when it was stopped ends here, in the ledger too.
        self.holding.empty().await;
        self.recover(who, true).await
    }

    /// Sets and unsets config vars. On a running deploy that makes a release; otherwise the next `up` makes it.
    pub async fn configure(&self, who: &Principal, change: ConfigChange, output: &dyn Output) -> Result<Configured, DeployError> {
        let _turn = self.turn.lock().await;
        let (version, config) = self.ledger.config(&self.deploy).await?;
        if change.at.is_some_and(|at| at != version) {
            return Err(DeployError::ConfigMoved(self.deploy.clone()));
        }
        let mut next = config.clone();
        // What goes makes room for what comes.
        for name in &change.unset {
            next.vars.remove(name);
        }
        for (name, mut var) in change.set {
            var.plain |= change.keep_plain && config.vars.get(&name).is_some_and(|v| v.plain);
            next.set(&name, var)?;
        }
        let current = self.current_row().await?.filter(|_| self.serving);
        // A running deploy may have config that its last release failed with: it is not what serves, so setting it again is a change.
        let changes = match &current {
            Some(row) => self.ledger.config_at(&self.deploy, row.config_version).await?.changes(&next),
            None => config.changes(&next),
        };
        if config == next && changes.is_empty() {
            return Ok(Configured { changes, version: None });
        }
        let wanted = if config == next { Wanted::At(version) } else { Wanted::Next(next.clone()) };
        // The first release will have it, or the one that serves does: what failed to come up was taken back.
        let Some(current) = current.filter(|_| !changes.is_empty()) else {
            self.settle_config(who, wanted).await?;
            let changes = if changes.is_empty() { config.changes(&next) } else { changes };
            return Ok(Configured { changes, version: None });
        };
        let slug = Slug { commit: current.commit.clone(), ..store::open(self.home(), &current.slug)? };
        let cause = Cause::Config(changes.clone());
        let release = self.make(who, slug, wanted, None, (current.python, current.node), &cause).await?;
        self.roll(who, release.clone(), Way::Changed, output).await?;
        Ok(Configured { changes, version: Some(release.version) })
    }

    /// What the instances of these jails use of this host, by the jail's pid.
    pub async fn usage(&self, jails: Vec<u32>) -> BTreeMap<u32, Usage> {
        let meter = self.meter.clone();
        // Reading /proc is work of the kernel that may take a while for large processes.
        tokio::task::spawn_blocking(move || meter.read(&jails)).await.unwrap_or_default()
    }

    /// The release that serves, or would.
    pub async fn current(&self) -> Result<Release, DeployError> {
        let row = self.current_row().await?.ok_or_else(|| DeployError::NoRelease(self.deploy.clone()))?;
        self.load(&row).await
    }

    async fn current_row(&self) -> Result<Option<ReleaseRow>, DeployError> {
        Ok(match self.ledger.current(&self.deploy).await? {
            Some(version) => Some(self.ledger.release(&self.deploy, version).await?),
            None => None,
        })
    }

    pub(crate) async fn load(&self, row: &ReleaseRow) -> Result<Release, DeployError> {
        // The same slug may come of several commits; a release knows its own.
        let slug = Slug { commit: row.commit.clone(), ..store::open(self.home(), &row.slug)? };
        Ok(Release {
            deploy: self.deploy.clone(),
            version: row.version,
            slug,
            config: self.ledger.config_at(&self.deploy, row.config_version).await?,
            attachments: self.ledger.resolve(row.attachments.clone()).await?,
            description: row.description.clone(),
            created: row.created,
        })
    }

    /// Takes in what `.env` and app.json say about config; makes a new version where that changes anything.
    async fn import_config(&self, who: &Principal, declared: &Declared, output: &dyn Output) -> Result<(u32, Config), DeployError> {
        let (version, config) = self.ledger.config(&self.deploy).await?;
        let (next, kept) = match &declared.dotenv {
            Some(dotenv) => config.with_dotenv(dotenv)?,
            None => (config.clone(), vec![]),
        };
        let next = declared.defaults(next)?;
        for name in kept {
            output.warning(&format!(".env gives {name} another value than `config set` did; the one that was set stays"));
        }
        if next == config && version > 0 {
            return Ok((version, config));
        }
        let configured = self.ledger.commit(who, Intent::Configure { deploy: self.deploy.clone(), config: next.clone() }).await?;
        Ok((configured.number, next))
    }

    async fn create_resources(
        &self,
        who: &Principal,
        declared: &Declared,
        config: &Config,
        output: &dyn Output,
    ) -> Result<(), DeployError> {
        let have = self.ledger.attachments(&self.deploy).await?;
        for wanted in declared.resources(config, &have, output) {
            let folder = crate::backing::create(self.home(), &self.deploy, &wanted.name, wanted.kind)?;
            output.step(&format!("Attaching {} ({})", wanted.name, wanted.kind.as_str()));
            let attach = Intent::Attach { deploy: self.deploy.clone(), name: wanted.name, kind: wanted.kind, folder };
            self.ledger.commit(who, attach).await?;
        }
        Ok(())
    }

    /// Has the deploy this config, without a release of it.
    async fn settle_config(&self, who: &Principal, config: Wanted) -> Result<(), DeployError> {
        if let Wanted::Next(config) = config {
            self.ledger.commit(who, Intent::Configure { deploy: self.deploy.clone(), config }).await?;
        }
        Ok(())
    }

    /// Makes a release. Where its config is new both are there or none is.
    async fn make(
        &self,
        who: &Principal,
        slug: Slug,
        config: Wanted,
        like: Option<Version>,
        (python, node): Pins,
        cause: &Cause,
    ) -> Result<Arc<Release>, DeployError> {
        if self.ending.load(Ordering::Relaxed) {
            return Err(DeployError::Stopped(self.deploy.clone()));
        }
        let deploy = self.deploy.clone();
        let release = |config_version| {
            let (deploy, slug, description) = (deploy.clone(), Box::new(slug), cause.describe());
            Intent::Release { deploy, slug, config_version, like, python, node, description }
        };
        let made = match config {
            Wanted::At(version) => self.ledger.commit(who, release(Some(version))).await?,
            Wanted::Next(config) => {
                let configure = Intent::Configure { deploy: deploy.clone(), config };
                self.ledger.commit_all(who, [configure, release(None)]).await?[1]
            }
        };
        let row = self.ledger.release(&self.deploy, Version(made.number)).await?;
        let release = self.load(&row).await?;
        let own = rustix::process::getuid();
        if let Some((uid, _)) = self.ledger.deploy(&self.deploy).await?.filter(|_| own.is_root()) {
            // Only where root makes the jails do their processes get the deploy's uid.
            let uid = if self.driver.capabilities().isolation == Isolation::Namespaces { uid } else { own.as_raw() };
            for folder in release.attachments.iter().filter_map(|a| a.folder.as_ref()) {
                crate::backing::hand_over(folder, uid).map_err(|source| DeployError::File { file: folder.clone(), source })?;
            }
        }
        Ok(Arc::new(release))
    }

    pub(crate) async fn conclude(&self, who: &Principal, version: Version, failure: Option<String>) -> Result<Generation, DeployError> {
        let status = if failure.is_some() { Status::Failed } else { Status::Succeeded };
        let conclude = Intent::Conclude { deploy: self.deploy.clone(), version, status, failure };
        let generation = self.ledger.commit(who, conclude).await?.generation;
        // A split ends with it.
        let _order = self.telling.lock().await;
        self.tell_front().await?;
        Ok(generation)
    }

    fn serving_now(&self) -> bool {
        self.observed.seen().iter().any(|s| s.state != State::Down)
    }

    /// `hold` has requests wait while no instance can take them.
    fn desired(&self, release: Arc<Release>, formation: Formation, generation: Generation, hold: bool) -> Desired {
        Desired { deploy: self.deploy.clone(), generation, releases: vec![Share { release, weight: 1, formation }], hold }
    }
}

pub(crate) fn kind(name: &str) -> TypeName {
    name.parse().expect("a literal process type is valid")
}

/// A value made for `generator: secret`: 256 random bits, in hexadecimal as Heroku makes them.
fn generated_secret() -> Var {
    let bytes: [u8; 32] = rand::random();
    let value = bytes.iter().map(|b| format!("{b:02x}")).collect();
    Var { value, origin: Origin::Generated, plain: false }
}
