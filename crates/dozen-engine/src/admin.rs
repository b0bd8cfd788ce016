//! XII. Run admin/management tasks as one-off processes.
//! A one-off runs once, in a jail like every instance, with the code and the config of the release that serves or of an earlier one.

use crate::concurrency::{Instance, Reconciler, std_duration};
use crate::deploy::{DeployError, Floor, kind};
use crate::ledger::{self, Intent, OneOffRow, Principal};
use crate::processes::spec;
use dozen_core::admin::people::Need;
use dozen_core::admin::{Command, LIMIT, OneOff};
use dozen_core::config::{Config, Origin, Var};
use dozen_core::disposability::{Life, Signs};
use dozen_core::ids::{Generation, InstanceName, Version};
use dozen_core::parity::{Driver, Io};
use dozen_core::processes::{Exit, Seen, State, Stopped};
use dozen_core::release::{Release, Status};
use held::Held;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub mod held;

/// What is asked to be run.
#[derive(Default)]
pub struct Request {
    /// `None` for the app's console.
    pub command: Option<Command>,
    /// Of this release; `None` for the current one.
    pub release: Option<Version>,
    /// For this run only, over all that the release gives.
    pub env: BTreeMap<String, String>,
    /// What the terminal is, where the release does not say something else: `TERM`.
    pub terminal: BTreeMap<String, String>,
    /// No longer than this.
    pub limit: Option<SignedDuration>,
}

/// A one-off under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// `run.7`
    pub instance: InstanceName,
    /// Of this release.
    pub release: Version,
    /// Masked.
    pub command: String,
    /// A console was asked for and the app has none, so that this is a plain shell.
    pub plain_shell: bool,
}

/// How a one-off ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The program's own end.
    pub exit: Exit,
    /// Why it was told to.
    pub stopped: Option<Stopped>,
}

/// A one-off on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// As the ledger has it.
    pub row: OneOffRow,
    /// Whether somebody runs it now.
    pub runs: bool,
}

impl Floor {
    /// Starts a one-off on these descriptors. [`Floor::ran`] waits for its end.
    pub async fn run(&self, who: &Principal, request: Request, io: Io) -> Result<Begun, DeployError> {
        let release = Arc::new(match request.release {
            None => self.current().await?,
            Some(version) => self.released(version).await?,
        });
        let (command, plain_shell) = match (request.command, &release.slug.console) {
            (Some(command), _) => (command, false),
            (None, Some(console)) => (Command::of_script(console.clone())?, false),
            (None, None) => (Command::of_script(plain_shell().to_owned())?, true),
        };
        let mut env = Config::default();
        let given = release.variables();
        let told = |name: &String| given.contains_key(name) || release.slug.env.iter().any(|(n, _)| n == name);
        for (name, value) in request.terminal.into_iter().filter(|(name, _)| !told(name)) {
            env.set(&name, Var { value, origin: Origin::Set, plain: true })?;
        }
        for (name, value) in request.env {
            env.set(&name, Var { value, origin: Origin::Set, plain: false })?;
        }
        let instance = InstanceName { kind: kind("run"), number: 0 };
        let limit = request.limit.unwrap_or(LIMIT);
        let mut one_off = OneOff { instance, release: release.version, command, env, limit };
        let masked = one_off.mask(&release).apply(one_off.command.text()).into_owned();

        let door = self.door().await?;
        let run = Intent::Run { deploy: self.deploy.clone(), release: release.version, command: masked.clone() };
        let number = self.ledger.commit(who, run).await?.number;
        let held = Held::take(self.home(), &self.deploy, number)
            .map_err(|source| DeployError::Hold { folder: self.home().one_off(&self.deploy, number), source })?;
        self.holding.add(number, held);
        drop(door);
        one_off.instance.number = number;
        let instance = one_off.instance.clone();
        self.driver.start(&release, &one_off, io)?;
        Ok(Begun { instance, release: release.version, command: masked, plain_shell })
    }

    /// Waits for a one-off's end and records it.
    pub async fn ran(&self, who: &Principal, instance: &InstanceName) -> Result<Ended, DeployError> {
        let ended = self.end_of(instance).await;
        let ran = Intent::Ran { deploy: self.deploy.clone(), number: instance.number, exit_code: ended.exit.code() };
        let recorded = self.ledger.commit(who, ran).await;
        self.holding.remove(instance.number);
        recorded?;
        Ok(ended)
    }

    /// Waits until a one-off's program runs, or has ended already.
    pub async fn started(&self, instance: &InstanceName) {
        self.observed.until(|seen| (!is_starting(seen, instance)).then_some(())).await;
    }

    /// Whether a one-off's program does not run yet.
    pub fn is_starting(&self, instance: &InstanceName) -> bool {
        is_starting(&self.observed.seen(), instance)
    }

    /// Stops a one-off that this process runs; what comes of it is seen.
    pub fn stop_one_off(&self, who: &Principal, instance: &InstanceName) -> Result<(), DeployError> {
        self.ledger.authorise(who, "stop a one-off", Need::Deploy(self.deploy.app.clone()))?;
        if instance.kind != kind("run") || !self.holding.has(instance.number) {
            return Err(DeployError::NotHeld { deploy: self.deploy.clone(), instance: instance.clone() });
        }
        Ok(self.driver.stop(instance.clone())?)
    }

    /// All one-offs, the latest first.
    pub async fn one_offs(&self) -> Result<Vec<Recorded>, DeployError> {
        let rows = self.ledger.one_offs(&self.deploy).await?;
        let runs = |row: &OneOffRow| row.ended.is_none() && held::is_held(self.home(), &self.deploy, row.number);
        Ok(rows.into_iter().map(|row| Recorded { runs: runs(&row), row }).collect())
    }

    /// Concludes what nobody finishes any more; with `mine`, also what this process has begun.
    pub(crate) async fn recover(&self, who: &Principal, mine: bool) -> Result<(), DeployError> {
        let _door = self.door().await?;
        let open = self.ledger.one_offs(&self.deploy).await?.into_iter().filter(|row| row.ended.is_none()).map(|row| row.number);
        let runs = |n: &u32| held::is_held(self.home(), &self.deploy, *n) && !(mine && self.holding.has(*n));
        let (running, left): (Vec<u32>, Vec<u32>) = open.partition(runs);
        let building = if mine { Vec::new() } else { self.builds.numbers() };
        self.ledger.commit(who, Intent::Recover { deploy: self.deploy.clone(), running, building }).await?;
        for number in left {
            held::sweep(self.home(), &self.deploy, number);
            if !mine {
                self.observed.store().write(&format!("run.{number}"), "It was lost with the process that ran it, which was killed");
            }
        }
        Ok(())
    }

    async fn released(&self, version: Version) -> Result<Release, DeployError> {
        let row = self.ledger.release(&self.deploy, version).await?;
        if row.status != Status::Succeeded {
            return Err(DeployError::NotReleased { version, status: row.status });
        }
        self.take_up(&row)?;
        self.load(&row).await
    }

    /// Between a one-off's row and its lock nobody may look for lost ones.
    async fn door(&self) -> Result<std::fs::File, DeployError> {
        let home = self.home().clone();
        let door = tokio::task::spawn_blocking(move || ledger::door(&home)).await;
        Ok(door.unwrap_or(Err(ledger::LedgerError::Stopped))?)
    }

    pub(crate) async fn end_of(&self, instance: &InstanceName) -> Ended {
        let end = |seen: &[Seen]| {
            let it = seen.iter().find(|s| s.instance == *instance)?;
            (it.state == State::Down).then(|| Ended { exit: it.exit.unwrap_or(Exit::Lost), stopped: it.stopped })
        };
        self.observed.until(end).await
    }
}

/// What was not seen yet is starting as well.
fn is_starting(seen: &[Seen], instance: &InstanceName) -> bool {
    seen.iter().find(|s| s.instance == *instance).is_none_or(|s| s.state == State::Starting)
}

/// The shell that people like better, where the machine has it.
fn plain_shell() -> &'static str {
    if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" }
}

impl Reconciler {
    pub(crate) async fn start_one_off(&mut self, release: Arc<Release>, one_off: &OneOff, io: Io) {
        let (log, given) = match io {
            Io::Given(fds) => (None, Some(fds)),
            Io::Logged => (Some(spec::log(&self.site.home, &release)), None),
        };
        let name = one_off.instance.clone();
        let starting = format!("Starting process with command `{}`", one_off.mask(&release).apply(one_off.command.text()));
        self.line_of(&release.deploy, &name.to_string(), &starting);
        let mut spec = self.place().spec(&release, &name, one_off.command.script(), None, log);
        // A person may run a development server; a release phase is the app's own doing.
        if !name.kind.is_release() {
            spec.ports = None;
        }
        spec.env = one_off.environment(spec.env);
        let key = (release.version, name.clone());
        let now = Timestamp::now();
        let (life, _) = Life::begin(Signs::default(), 0, now);
        let generation = self.desired.as_ref().map_or(Generation(0), |d| d.generation);
        let mut instance = Instance::new(release, generation, life, self.site.policy.clone(), now);
        instance.deadline = Some(one_off.deadline(now));
        (instance.incarnation, instance.jail) = self.launch(key, &instance, spec, given).await;
        self.one_offs.insert(name.clone(), instance);
        self.report_one_off(&name, State::Starting, None);
    }

    /// SIGTERM, and SIGKILL after the grace.
    pub(crate) fn stop_one_off(&mut self, name: &InstanceName, why: Stopped) {
        let grace = std_duration(self.site.policy.grace);
        let Some(instance) = self.one_offs.get_mut(name) else { return };
        instance.deadline = None;
        instance.stopped.get_or_insert(why);
        instance.life.state = State::Stopping;
        if let Some(jail) = &instance.jail {
            jail.stop(grace);
        }
        self.line(&name.to_string(), "Stopping all processes with SIGTERM");
        self.report_one_off(name, State::Stopping, None);
    }

    pub(crate) fn stop_overdue_one_offs(&mut self, now: Timestamp) {
        let due = |i: &Instance| i.deadline.clone().filter(|d| d.at <= now);
        let overdue: Vec<_> = self.one_offs.iter().filter_map(|(name, i)| Some((name.clone(), due(i)?))).collect();
        for (name, deadline) in overdue {
            self.line(&name.to_string(), &deadline.line());
            self.stop_one_off(&name, deadline.stopped());
        }
    }

    pub(crate) fn report_one_off(&self, name: &InstanceName, state: State, exit: Option<Exit>) {
        if let Some(i) = self.one_offs.get(name) {
            let seen = self.seen(&(i.release.version, name.clone()), i);
            self.site.report.seen(Seen { state, exit, ..seen });
        }
    }
}
