//! XII. Run admin/management tasks as one-off processes.
//! A one-off runs once, in a jail like every instance, with the code and the config of the release that serves.

use crate::concurrency::{Instance, Reconciler};
use crate::deploy::{DeployError, Floor, kind};
use crate::ledger::{Intent, Principal};
use crate::processes::spec;
use dozen_core::admin::OneOff;
use dozen_core::disposability::Life;
use dozen_core::ids::{Generation, InstanceName};
use dozen_core::parity::{Driver, Io};
use dozen_core::processes::{Exit, Seen, State};
use dozen_core::release::Release;
use jiff::Timestamp;
use std::sync::Arc;

impl Floor {
    /// Starts a one-off of the current release on these descriptors. Answers its name; [`Floor::ran`] waits for its end.
    pub async fn run(&self, who: &Principal, command: String, io: Io) -> Result<InstanceName, DeployError> {
        let release = Arc::new(self.current().await?);
        let masked = release.mask().apply(&command).into_owned();
        let run = Intent::Run { deploy: self.deploy.clone(), release: release.version, command: masked };
        let number = self.ledger.commit(who, run).await?.number;
        let instance = InstanceName { kind: kind("run"), number };
        let one_off = OneOff { instance: instance.clone(), release: release.version, command };
        self.driver.start(&release, &one_off, io)?;
        Ok(instance)
    }

    /// Waits for a one-off's end and records it.
    pub async fn ran(&self, who: &Principal, instance: &InstanceName) -> Result<Exit, DeployError> {
        let exit = self.end_of(instance).await;
        let ran = Intent::Ran { deploy: self.deploy.clone(), number: instance.number, exit_code: exit.code() };
        self.ledger.commit(who, ran).await?;
        Ok(exit)
    }

    pub(crate) async fn end_of(&self, instance: &InstanceName) -> Exit {
        let end = |seen: &[Seen]| {
            let it = seen.iter().find(|s| s.instance == *instance)?;
            (it.state == State::Down).then_some(it.exit.unwrap_or(Exit::Lost))
        };
        self.observed.until(end).await
    }
}

impl Reconciler {
    pub(crate) async fn start_one_off(&mut self, release: Arc<Release>, one_off: &OneOff, io: Io) {
        let (log, given) = match io {
            Io::Given(fds) => (None, Some(fds)),
            Io::Logged => (Some(spec::log(&self.site.home, &release)), None),
        };
        let name = one_off.instance.clone();
        self.line(&name.to_string(), &format!("Starting process with command `{}`", release.mask().apply(&one_off.command)));
        let spec = self.place().spec(&release, &name, &one_off.command, None, log);
        let key = (release.version, name.clone());
        let (life, _) = Life::begin(false, 0, Timestamp::now());
        let (incarnation, jail) = self.launch(key, spec, given).await;
        let generation = self.desired.as_ref().map_or(Generation(0), |d| d.generation);
        let instance = Instance {
            release,
            generation,
            life,
            port: None,
            jail,
            incarnation,
            routed: false,
            table: 0,
            leaving: None,
            pid: None,
            isolation: None,
        };
        self.one_offs.insert(name.clone(), instance);
        self.report_one_off(&name, State::Starting, None);
    }

    pub(crate) fn report_one_off(&self, name: &InstanceName, state: State, exit: Option<Exit>) {
        if let Some(i) = self.one_offs.get(name) {
            let seen = self.seen(&(i.release.version, name.clone()), i);
            self.site.report.seen(Seen { state, exit, ..seen });
        }
    }
}
