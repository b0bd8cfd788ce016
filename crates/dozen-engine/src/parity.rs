//! X. Keep development, staging and production as similar as possible.
//! The local driver: jails on this host. What it reports is gathered in [`Observed`], which is all that the rest of the house sees of it.

use crate::concurrency::{self, Command, Site};
use crate::logs::Store;
use crate::port::counts::Counts;
use crate::port::{Supply, guard};
use crate::processes;
use crate::processes::adoption::Found;
use dozen_core::admin::OneOff;
use dozen_core::concurrency::Desired;
use dozen_core::ids::{DeployRef, InstanceName, Version};
use dozen_core::logs::LogLine;
use dozen_core::parity::{Capabilities, Driver, Io, Refusal, Report};
use dozen_core::port::Front;
use dozen_core::processes::{Isolation, Seen, State};
use dozen_core::release::Release;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot, watch};

/// What was last seen of each instance, and where the platform's lines go.
pub struct Observed {
    store: Arc<Store>,
    seen: Mutex<BTreeMap<(Version, InstanceName), Seen>>,
    changes: watch::Sender<u64>,
    counts: Arc<Counts>,
}

impl Observed {
    /// Nothing seen yet; lines go to this store.
    pub fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self { store, seen: Mutex::default(), changes: watch::Sender::new(0), counts: Arc::default() })
    }

    /// The deploy's log.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What the router counts of a split.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Everything seen, by release and instance. What is down is forgotten when the next of its name comes.
    pub fn seen(&self) -> Vec<Seen> {
        self.lock().values().cloned().collect()
    }

    /// Waits until `enough` says something of what is seen.
    pub async fn until<T>(&self, mut enough: impl FnMut(&[Seen]) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(answer) = enough(&self.seen()) {
                return answer;
            }
            // The sender is ours, so the channel cannot close while this borrows it.
            let _ = changes.changed().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Version, InstanceName), Seen>> {
        self.seen.lock().expect("no one panics while holding it")
    }
}

impl Report for Observed {
    fn seen(&self, seen: Seen) {
        let mut all = self.lock();
        all.retain(|(_, i), s| s.state != State::Down || *i != seen.instance);
        all.insert((seen.release, seen.instance.clone()), seen);
        drop(all);
        self.changes.send_modify(|n| *n += 1);
    }

    fn line(&self, _deploy: &DeployRef, line: LogLine) {
        self.store.write(&line.ps, &line.text());
    }
}

/// This host.
#[derive(Clone)]
pub struct Local {
    commands: mpsc::UnboundedSender<Command>,
    isolation: Isolation,
}

impl Local {
    /// Starts the driver's task.
    pub fn start(site: Site) -> Self {
        let isolation = site.isolation;
        let (commands, inbox) = mpsc::unbounded_channel();
        crate::tasks::spawn("driver", concurrency::run(site, inbox));
        Self { commands, isolation }
    }

    /// Takes over what another control part has left running. When this answers, all of it is seen.
    pub async fn adopt(&self, found: Vec<(Found, Arc<Release>)>) -> Result<(), Refusal> {
        let (answer, done) = oneshot::channel();
        self.send(Command::Adopt { found, answer })?;
        done.await.map_err(|_| Refusal::Gone)
    }

    /// Has the router go by this from now on: what leads to the deploy, and how it is treated. When this answers, it does.
    pub async fn front(&self, front: Front) -> Result<(), Refusal> {
        let (answer, applied) = oneshot::channel();
        self.send(Command::Front { front, answer })?;
        // A driver or a router that ends goes by nothing any more.
        let _ = applied.await;
        Ok(())
    }

    /// Ends and starts again what `target` names: all, a process type, or one instance. Answers how many.
    pub async fn restart(&self, target: Option<String>) -> Result<usize, Refusal> {
        let (answer, result) = oneshot::channel();
        self.send(Command::Restart { target, answer })?;
        result.await.map_err(|_| Refusal::Gone)
    }

    /// Sends a signal to every process of a one-off.
    pub fn signal(&self, instance: InstanceName, number: i32) -> Result<(), Refusal> {
        self.send(Command::Signal { instance, number })
    }

    /// SIGTERM to every process of a one-off, SIGKILL after the grace.
    pub fn stop(&self, instance: InstanceName) -> Result<(), Refusal> {
        self.send(Command::Stop { instance })
    }

    /// Has the router show these certificates; answers when it does.
    pub async fn certify(&self, supply: Arc<Supply>) -> Result<(), Refusal> {
        let (answer, done) = oneshot::channel();
        self.send(Command::Certify { supply, answer })?;
        done.await.map_err(|_| Refusal::Gone)
    }

    /// SIGKILL to everything, now.
    pub fn kill(&self) -> Result<(), Refusal> {
        self.send(Command::KillAll)
    }

    /// Waits until nothing runs any more and the router has written its last lines. The driver has ended then.
    pub async fn close(&self) {
        let (answer, closed) = oneshot::channel();
        if self.send(Command::Close(answer)).is_ok() {
            // A driver that ended without answering is closed as well.
            let _ = closed.await;
        }
    }

    fn send(&self, command: Command) -> Result<(), Refusal> {
        self.commands.send(command).map_err(|_| Refusal::Gone)
    }
}

impl Driver for Local {
    fn capabilities(&self) -> Capabilities {
        let mut missing = match self.isolation {
            Isolation::Namespaces => vec![],
            Isolation::UserNamespaces => vec!["a uid of its own for each deploy (needs root)".to_owned()],
            Isolation::Session => vec![
                "a uid of its own for each deploy (needs root)".to_owned(),
                "namespaces: processes see this host's other processes (the host forbids them)".to_owned(),
                "scratch folders: processes write temporary files only".to_owned(),
            ],
        };
        missing.extend(processes::missing_here());
        missing.extend(guard::missing());
        Capabilities { isolation: self.isolation, app_path: self.isolation != Isolation::Session, missing }
    }

    fn apply(&self, desired: &Desired) -> Result<(), Refusal> {
        self.send(Command::Apply(desired.clone()))
    }

    fn start(&self, release: &Arc<Release>, one_off: &OneOff, io: Io) -> Result<(), Refusal> {
        self.send(Command::OneOff { release: release.clone(), one_off: one_off.clone(), io })
    }

    fn forget(&self, deploy: &DeployRef) -> Result<(), Refusal> {
        self.send(Command::Forget(deploy.clone()))
    }
}
