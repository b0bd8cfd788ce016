//! All deploys of a server: each with what acts on it, its run folder and its API, behind one router.
//!
//! **Invariant:** a deploy is run by this server or by another dozen, never by both: whoever runs it holds the lock of its run folder.
//! **Invariant:** one that cannot be opened is no reason to leave the others closed.

use crate::api::{self, Deploys, Served};
use crate::client::{self, Told};
use crate::running::{self, AlreadyRunning, RunFolder};
use crate::settings::Settings;
use anyhow::{Context, Result};
use dozen_core::concurrency::formation::First;
use dozen_core::disposability::Policy;
use dozen_core::ids::{AppName, DeployName, DeployRef};
use dozen_core::port::Domain;
use dozen_engine::codebase::repository::{Repository, RepositoryError};
use dozen_engine::ledger::{Intent, Ledger, Principal, Reserved, Tries};
use dozen_engine::port::Switchboard;
use dozen_engine::port::certificates::Keeper;
use dozen_engine::processes::adoption;
use dozen_engine::tasks;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use tokio::sync::{Notify, OwnedMutexGuard, watch};
use tokio::task::JoinHandle;

pub(crate) use dozen_core::ids::PRODUCTION;

/// A clock that was set is noticed within so long.
const LONGEST: SignedDuration = SignedDuration::from_mins(1);

/// Where what a server runs is reached.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    /// The router's port.
    pub(crate) port: u16,
    /// The one for HTTPS.
    pub(crate) https_port: Option<u16>,
    /// The domain below which each deploy has a name of its own, beside `.localhost`.
    pub(crate) domain: Option<String>,
    /// The host of the API, of git and of webhooks.
    pub(crate) api_host: String,
    /// Where git is answered by the host's sshd, where somebody said so.
    pub(crate) ssh: Option<String>,
}

impl Addresses {
    /// The names that a deploy has by itself, the one to be shown last.
    pub(crate) fn names(&self, deploy: &DeployRef) -> Vec<Domain> {
        let label = deploy.host_label();
        let all = std::iter::once("localhost").chain(self.domain.as_deref()).map(|parent| format!("{label}.{parent}"));
        // An app may have been made before the API had its host.
        all.filter(|host| *host != self.api_host).filter_map(|host| host.parse().ok()).collect()
    }

    /// Where a deploy's `web` answers, and where by HTTPS.
    pub(crate) fn urls(&self, deploy: &DeployRef) -> (Option<String>, Option<String>) {
        let Some(name) = self.names(deploy).pop() else { return (None, None) };
        (Some(url("http", name.host(), self.port)), self.https_port.map(|port| url("https", name.host(), port)))
    }

    /// Where the API answers.
    pub(crate) fn api(&self) -> String {
        url("http", &self.api_host, self.port)
    }
}

/// What stands for the server itself among the deploys: its run folder, its router's notes, and the log of the API's requests.
pub(crate) fn itself() -> DeployRef {
    "dozen/server".parse().expect("a literal deploy is valid")
}

/// An app's first deploy.
pub(crate) fn production(app: &AppName) -> DeployRef {
    let deploy: DeployName = PRODUCTION.parse().expect("a literal deploy name is valid");
    DeployRef { app: app.clone(), deploy }
}

/// Where a host answers.
pub(crate) fn url(scheme: &str, host: &str, port: u16) -> String {
    match (scheme, port) {
        ("http", 80) | ("https", 443) => format!("{scheme}://{host}"),
        _ => format!("{scheme}://{host}:{port}"),
    }
}

/// A deploy that is run here.
struct Opened {
    served: Arc<Served>,
    tasks: Vec<JoinHandle<()>>,
    /// Freed last.
    _run_folder: RunFolder,
}

/// See the module.
pub(crate) struct House {
    pub(crate) settings: Settings,
    pub(crate) ledger: Ledger,
    /// What leads requests to its deploys. A house without one runs none: it is that of who asks where no server runs.
    front: Option<(Addresses, Switchboard)>,
    /// Who failed to show a good token lately.
    pub(crate) tries: Mutex<Tries>,
    /// What sshd is told is written by one at a time.
    pub(crate) keys: tokio::sync::Mutex<()>,
    deploys: RwLock<BTreeMap<DeployRef, Opened>>,
    /// A deploy is opened or closed by one at a time; what is done to one waits for no other.
    turns: Mutex<BTreeMap<DeployRef, Weak<tokio::sync::Mutex<()>>>>,
    /// Where the binary is by now that is to go on with it, and where the one before.
    pub(crate) successor: watch::Sender<Option<(PathBuf, PathBuf)>>,
    /// Whether it opens nothing any more, and whether what it closes is killed.
    ending: watch::Sender<Ending>,
}

/// How a house ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Ending {
    /// It does not.
    #[default]
    No,
    /// Each process gets its time.
    Gently,
    /// At once.
    Now,
}

impl House {
    /// An empty one, behind this router.
    pub(crate) fn new(settings: Settings, ledger: Ledger, addresses: Addresses, board: Switchboard) -> Arc<Self> {
        ledger.reserve(Reserved { api_host: addresses.api_host.clone(), domain: addresses.domain.clone() });
        if let Ok(host) = addresses.api_host.parse() {
            board.keep(host, itself());
        }
        Self::with(settings, ledger, Some((addresses, board)))
    }

    /// One that runs nothing, and changes only what the ledger says.
    pub(crate) fn closed(settings: Settings, ledger: Ledger) -> Arc<Self> {
        Self::with(settings, ledger, None)
    }

    fn with(settings: Settings, ledger: Ledger, front: Option<(Addresses, Switchboard)>) -> Arc<Self> {
        let (deploys, turns, tries, keys, successor, ending) = Default::default();
        Arc::new(Self { settings, ledger, front, deploys, turns, tries, keys, successor, ending })
    }

    /// Where what it runs is reached.
    pub(crate) fn addresses(&self) -> Option<&Addresses> {
        self.front.as_ref().map(|(addresses, _)| addresses)
    }

    /// Opens every deploy of the ledger. Answers those that could not be, each with why.
    pub(crate) async fn open_all(&self) -> Result<Vec<(DeployRef, anyhow::Error)>> {
        let mut closed = Vec::new();
        for deploy in self.ledger.deploys().await? {
            if let Err(e) = self.open(&deploy).await {
                closed.push((deploy, e));
            }
        }
        Ok(closed)
    }

    /// Runs a deploy of the ledger from now on: what was left running of it, else its current release, if it has one.
    ///
    /// # Errors
    /// Another dozen runs it, or what was left running cannot be taken over.
    pub(crate) async fn open(&self, deploy: &DeployRef) -> Result<()> {
        let Some((addresses, board)) = &self.front else { return Ok(()) };
        let _turn = self.turn(deploy).await;
        if self.served(deploy).is_some() {
            return Ok(());
        }
        if *self.ending.borrow() != Ending::No {
            return Err(Told::failed("this server is stopping", None).into());
        }
        let run_folder = RunFolder::take_for_server(&self.settings.home, deploy)?;
        let notes = run_folder.notes();
        adoption::check(&notes)?;
        let about = client::About {
            line: Some(board.line(deploy.clone())),
            names: addresses.names(deploy),
            any_host: false,
            lasting: Some(notes.clone()),
            policy: Policy::SERVER,
            serving: true,
        };
        // What this begins is for this deploy, and for none that is called so after its end.
        let mut floor = client::floor(&self.settings, self.ledger.of(deploy).await?, deploy, about).await?;
        floor.first = First::WebOnly;
        let who = Principal::me();
        let keeper = addresses.https_port.map(|_| Arc::new(Keeper::of(&floor, &addresses.names(deploy))));
        if let Some(keeper) = &keeper {
            keeper.look().await?;
        }
        floor.take_over(&who, &notes, true).await?;
        floor.go_on(&who).await?;
        let (url, https_url) = addresses.urls(deploy);
        let served = Arc::new(Served {
            floor,
            url,
            https_url,
            keeper: keeper.clone(),
            lasting: true,
            of_server: true,
            down: Notify::new(),
            leave: Notify::new(),
        });
        let mut all = vec![
            tasks::spawn("api", api::serve(run_folder.bind()?, api::router(served.clone()))),
            tasks::spawn("log budget", crate::cli::up::keep_within_budget(served.floor.observed.store().clone())),
            api::watch_splits(served.clone()),
        ];
        all.extend(keeper.map(|keeper| tasks::spawn("certificates", keeper.keep())));
        let opened = Opened { served, tasks: all, _run_folder: run_folder };
        self.deploys.write().unwrap_or_else(PoisonError::into_inner).insert(deploy.clone(), opened);
        Ok(())
    }

    /// Stops all of a deploy's processes and forgets it. Its data and logs are put aside: a later one of its name is another.
    ///
    /// # Errors
    /// It is run on then, by this server or by another dozen.
    pub(crate) async fn destroy(&self, who: &Principal, deploy: &DeployRef) -> Result<()> {
        let turn = self.turn(deploy).await;
        self.run_by_nobody_else(deploy)?;
        self.stop(deploy).await?;
        let destroyed = self.ledger.commit(who, Intent::DestroyDeploy { deploy: deploy.clone() }).await;
        drop(turn);
        if let Err(e) = destroyed {
            self.open(deploy).await?;
            return Err(e.into());
        }
        let (home, of) = (self.settings.home.clone(), deploy.clone());
        let forgotten = tokio::task::spawn_blocking(move || match Repository::open(&home, &of) {
            Ok(repository) => repository.forget(),
            // Nothing was ever pushed.
            Err(RepositoryError::Missing(_)) => Ok(()),
            Err(e) => Err(e),
        });
        forgotten.await?.with_context(|| format!("{deploy} is destroyed; its branches are still there"))?;
        let retired = self.settings.home.retire(deploy, Timestamp::now());
        retired.map(drop).with_context(|| format!("{deploy} is destroyed; its data and logs lie where they lay"))
    }

    /// Forgets an app that has no deploys, and what was pushed to it.
    pub(crate) async fn destroy_app(&self, who: &Principal, app: &AppName) -> Result<()> {
        self.ledger.commit(who, Intent::DestroyApp { app: app.clone() }).await?;
        let (home, of) = (self.settings.home.clone(), app.clone());
        let removed = tokio::task::spawn_blocking(move || Repository::remove(&home, &of));
        removed.await?.with_context(|| format!("{app} is destroyed; its repository is still there"))
    }

    /// Packs what was pushed to a deploy, where it is worth it. Nobody waits for it.
    pub(crate) fn collect(&self, deploy: &DeployRef) {
        let (home, deploy) = (self.settings.home.clone(), deploy.clone());
        tasks::spawn("collect", async move {
            let collected = tokio::task::spawn_blocking(move || Repository::open(&home, &deploy).and_then(|it| it.collect()));
            // What is not packed now is after the next push.
            drop(collected.await);
        });
    }

    /// Destroys deploys as their time comes, for ever.
    pub(crate) async fn keep_time(self: Arc<Self>) {
        let mut commits = self.ledger.commits();
        loop {
            commits.mark_unchanged();
            let next = self.destroy_expired().await;
            // A ledger that cannot be read now may be later.
            let next = next.ok().flatten().map_or(LONGEST, |at| Timestamp::now().duration_until(at));
            tokio::select! {
                () = tokio::time::sleep(next.clamp(SignedDuration::ZERO, LONGEST).unsigned_abs()) => {}
                changed = commits.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Answers when the next one's time comes.
    async fn destroy_expired(&self) -> Result<Option<Timestamp>> {
        let now = Timestamp::now();
        for deploy in self.ledger.expired(now).await? {
            let destroyed = self.destroy(&Principal::me(), &deploy).await;
            if let (Err(error), Some(served)) = (destroyed, self.served(&deploy)) {
                let line = format!("Its time is over, and it cannot be destroyed: {}", dozen_engine::chain(&*error));
                served.floor.observed.store().write("api", &line);
            }
        }
        let mut next = None;
        for app in self.ledger.apps().await? {
            // What could not be destroyed is tried again, and not at once.
            let times = self.ledger.deploys_of(&app.name).await?.into_iter().filter_map(|row| row.expires).filter(|at| *at > now);
            next = times.chain(next).min();
        }
        Ok(next)
    }

    fn run_by_nobody_else(&self, deploy: &DeployRef) -> Result<()> {
        if self.served(deploy).is_some() {
            return Ok(());
        }
        if let Some(holder) = running::holder(&self.settings.home, deploy) {
            return Err(AlreadyRunning(holder).into());
        }
        if running::is_left(&self.settings.home, deploy) {
            let hint = format!("`dozen down -a {deploy}` stops them.");
            return Err(Told::failed(format!("processes of {deploy} run still"), Some(hint)).into());
        }
        Ok(())
    }

    async fn turn(&self, deploy: &DeployRef) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            match turns.get(deploy).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::default();
                    turns.insert(deploy.clone(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }

    async fn stop(&self, deploy: &DeployRef) -> Result<()> {
        let Some(served) = self.served(deploy) else { return Ok(()) };
        let mut ending = self.ending.subscribe();
        let kill = async { drop(ending.wait_for(|ending| *ending == Ending::Now).await) };
        served.floor.stop(&Principal::me(), kill).await?;
        let opened = self.deploys.write().unwrap_or_else(PoisonError::into_inner).remove(deploy);
        opened.iter().flat_map(|opened| &opened.tasks).for_each(JoinHandle::abort);
        Ok(())
    }

    /// Stops everything, and the router last.
    pub(crate) async fn end(self: &Arc<Self>) -> Result<()> {
        self.ending.send_if_modified(|ending| std::mem::replace(ending, Ending::Gently.max(*ending)) != *ending);
        let all: Vec<DeployRef> = self.read().keys().cloned().collect();
        let stop = |deploy: DeployRef| {
            let house = self.clone();
            tasks::spawn("stop", async move {
                let _turn = house.turn(&deploy).await;
                house.stop(&deploy).await
            })
        };
        let stops: Vec<JoinHandle<Result<()>>> = all.into_iter().map(stop).collect();
        let mut ended = Ok(());
        for stop in stops {
            ended = ended.and(stop.await?);
        }
        if let Some((_, board)) = &self.front {
            board.clone().end().await;
        }
        ended
    }

    /// Has everything that is being stopped killed at once.
    pub(crate) fn kill(&self) {
        self.ending.send_replace(Ending::Now);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<DeployRef, Opened>> {
        self.deploys.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deploys for Arc<House> {
    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn served(&self, deploy: &DeployRef) -> Option<Arc<Served>> {
        House::served(self, deploy)
    }

    fn unserved(&self, deploy: &DeployRef) -> String {
        match running::holder(&self.settings.home, deploy) {
            Some(holder) => format!("{deploy} is run by another dozen ({holder}), and not by this server"),
            None => format!("there is no deploy {deploy}"),
        }
    }
}

impl House {
    /// A deploy that is run here.
    pub(crate) fn served(&self, deploy: &DeployRef) -> Option<Arc<Served>> {
        self.read().get(deploy).map(|opened| opened.served.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deploys_names_follow_from_its_own() {
        let addresses =
            Addresses { port: 80, https_port: Some(8443), domain: Some("apps.test".into()), api_host: "dozen.localhost".into(), ssh: None };
        let deploy = |text: &str| -> DeployRef { text.parse().expect("a deploy") };
        assert_eq!(
            addresses.urls(&deploy("shop/production")),
            (Some("http://shop.apps.test".into()), Some("https://shop.apps.test:8443".into()))
        );
        let names: Vec<String> = addresses.names(&deploy("shop/pr-12")).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["shop-pr-12.localhost", "shop-pr-12.apps.test"]);
        assert_eq!(addresses.api(), "http://dozen.localhost");
        // The API's host is no deploy's.
        assert_eq!(addresses.urls(&deploy("dozen/production")).0, Some("http://dozen.apps.test".into()));
        assert_eq!(addresses.names(&deploy("dozen/production")).len(), 1);
    }
}
