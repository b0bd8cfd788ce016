//! From a commit that was pushed to a release that serves.
//!
//! **Invariant:** a push is given up while it is built, or not at all: nothing that runs is left half changed.

use super::{Build, BuildOptions, DeployError, Floor, Way};
use crate::codebase;
use crate::codebase::hook::Push;
use crate::deploy::declared;
use crate::ledger::Principal;
use crate::output::Output;
use dozen_core::release::Release;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A deploy that was stopped to be destroyed is destroyed within this time.
const DESTROYING: Duration = Duration::from_secs(5);

impl Floor {
    /// Commit to release, as [`Floor::bring_up`] does of a folder. There is no `.env`: config is the deploy's own and app.json's defaults. What is
    /// known of the app's folder stays.
    pub async fn push(
        &self,
        who: &Principal,
        push: &Push,
        build: &Build,
        options: &BuildOptions,
        printer: Arc<dyn Output>,
    ) -> Result<(Arc<Release>, bool), DeployError> {
        let pushed = self.bring_up_pushed(who, push, build, options, printer).await;
        self.unless_destroyed(pushed).await
    }

    async fn bring_up_pushed(
        &self,
        who: &Principal,
        push: &Push,
        build: &Build,
        options: &BuildOptions,
        printer: Arc<dyn Output>,
    ) -> Result<(Arc<Release>, bool), DeployError> {
        let output = &*printer;
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(_) => {
                output.step("Waiting for the change that is under way");
                self.turn.lock().await
            }
        };
        let reading = codebase::read_commit(push.checkout.folder(), push.checkout.commit.clone())?;
        reading.warnings.iter().for_each(|w| output.warning(w));
        let declared = declared::read(&reading.source, output)?;
        let mut ready = self.get_ready(who, declared, &reading.source, output).await?;
        ready.each_commit = true;
        let (slug, pins) = self.build(&ready, &reading.source, build, options, printer.clone()).await?;
        self.pass(who, &slug, Some(reading), &printer).await?;
        if !push.hold.fast() {
            return Err(DeployError::GivenUp(self.deploy.clone()));
        }
        self.release(who, &ready, slug, pins, output).await
    }

    /// Has a release that [`Floor::push`] answered serve, in the place of the one that does, and waits until all of it is up. Where it does not come
    /// up the one before serves on; a first one is tried again, and the error says so.
    pub async fn launch(
        &self,
        who: &Principal,
        release: Arc<Release>,
        new: bool,
        url: Option<&str>,
        output: &dyn Output,
    ) -> Result<(), DeployError> {
        let launched = self.launch_it(who, release, new, url, output).await;
        self.unless_destroyed(launched).await
    }

    /// A failure because the deploy was destroyed says that.
    pub(super) async fn unless_destroyed<T>(&self, done: Result<T, DeployError>) -> Result<T, DeployError> {
        let Err(error) = done else { return done };
        let gone = async {
            let mut commits = self.ledger.commits();
            loop {
                commits.mark_unchanged();
                match self.ledger.is_destroyed(&self.deploy).await {
                    Ok(true) => return true,
                    // What is destroyed is stopped first.
                    Ok(false) if self.ending.load(Ordering::Relaxed) => {}
                    Ok(false) | Err(_) => return false,
                }
                if commits.changed().await.is_err() {
                    return false;
                }
            }
        };
        let gone = tokio::time::timeout(DESTROYING, gone).await.unwrap_or(false);
        Err(if gone { DeployError::Destroyed(self.deploy.clone()) } else { error })
    }

    async fn launch_it(
        &self,
        who: &Principal,
        release: Arc<Release>,
        new: bool,
        url: Option<&str>,
        output: &dyn Output,
    ) -> Result<(), DeployError> {
        let version = release.version;
        if new && self.succeeds(&release).await? {
            self.take_place(who, release.clone(), Way::Pushed, output).await?;
        } else {
            output.step("Launching...");
            self.serve(who, release.clone()).await?;
            if let Err(given_up) = self.come_up(who, &release).await? {
                return Err(DeployError::NotUp { version, reason: given_up.to_string() });
            }
        }
        output.detail(&if new { format!("Released {version}") } else { format!("Nothing changed: {version} again") });
        let formation = self.formation(&release.slug).await?;
        if !formation.iter().any(|(kind, n)| kind.is_web() && n > 0) {
            output.warning("the formation has no web process: nothing is routed");
        } else if let Some(url) = url {
            output.detail(&format!("{url} deployed"));
        }
        Ok(())
    }
}
