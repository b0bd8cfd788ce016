//! From code that was sent, or that another deploy runs, to a release that serves.
//!
//! **Invariant:** of one deploy one delivery is under way at a time, from its build until its release is up or given up.
//! **Invariant:** a promotion changes the code alone: config, attachments and formation stay as they were.

use super::{Build, BuildOptions, DeployError, Floor, Wanted, building, declared};
use crate::codebase;
use crate::codebase::tarball::Unpacked;
use crate::ledger::Principal;
use crate::output::Output;
use dozen_core::ids::DeployRef;
use dozen_core::release::{Cause, Release, Slug, Status};
use std::sync::Arc;

/// What is delivered.
#[derive(Debug)]
pub enum Code {
    /// A source, to be built.
    Source(Box<Unpacked>),
    /// A slug of the store.
    Slug(Box<Slug>),
}

/// What came of a delivery.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// What serves.
    pub release: Arc<Release>,
    /// Whether it was made by this.
    pub new: bool,
    /// Whether requests reach it: its formation has a `web`.
    pub routed: bool,
}

impl Floor {
    /// Waits until no other delivery is under way, and says so where it has to. Whoever holds this is the one that is.
    pub async fn line(&self, output: &dyn Output) -> tokio::sync::MutexGuard<'_, ()> {
        if let Ok(turn) = self.line.try_lock() {
            return turn;
        }
        output.step("Waiting for the build that is under way");
        self.line.lock().await
    }

    /// Builds what was sent, releases it and has it serve, as a push does of a commit. There is no `.env`, and what is known of the app's folder
    /// stays.
    pub async fn deliver(
        &self,
        who: &Principal,
        code: Code,
        options: &BuildOptions,
        url: Option<&str>,
        printer: Arc<dyn Output>,
    ) -> Result<Delivered, DeployError> {
        if !self.serving {
            return Err(DeployError::NotServing(self.deploy.clone()));
        }
        let output = &*printer;
        let brought = match code {
            Code::Source(sent) => {
                let build = self.ask_build(who, "deploy", sent.commit.clone()).await?;
                let carried = async {
                    let line = self.line(output).await;
                    let brought = self.bring_up_sent(who, &sent, &build, options, printer.clone()).await?;
                    Ok((line, brought))
                };
                build.carry(carried).await
            }
            Code::Slug(slug) => {
                let line = self.line(output).await;
                self.pass(who, &slug, None, &printer).await?;
                self.bring_up_slug(who, *slug, printer.clone()).await.map(|brought| (line, brought))
            }
        };
        let (_line, (release, new)) = self.unless_destroyed(brought).await?;
        self.launch(who, release.clone(), new, url, output).await?;
        self.delivered(release, new).await
    }

    async fn bring_up_sent(
        &self,
        who: &Principal,
        sent: &Unpacked,
        build: &Build,
        options: &BuildOptions,
        printer: Arc<dyn Output>,
    ) -> Result<(Arc<Release>, bool), DeployError> {
        let output = &*printer;
        let _turn = self.turn.lock().await;
        let reading = codebase::read_all(sent.folder(), sent.commit.clone())?;
        sent.warnings.iter().chain(&reading.warnings).for_each(|w| output.warning(w));
        let declared = declared::read(&reading.source, output)?;
        let mut ready = self.get_ready(who, declared, &reading.source, output).await?;
        // Whoever names a commit asks for a release of it.
        ready.each_commit = sent.commit.is_some();
        let (slug, pins) = self.build(&ready, &reading.source, build, options, printer.clone()).await?;
        self.pass(who, &slug, Some(reading), &printer).await?;
        self.release(who, &ready, slug, pins, output).await
    }

    /// Has the code that another deploy of the app runs serve here too, with the config, the attachments and the formation of this one.
    pub async fn promote(
        &self,
        who: &Principal,
        from: &DeployRef,
        url: Option<&str>,
        printer: Arc<dyn Output>,
    ) -> Result<Delivered, DeployError> {
        let output = &*printer;
        if !self.serving {
            return Err(DeployError::NotServing(self.deploy.clone()));
        }
        let _line = self.line(output).await;
        let taken = self.take_code_of(who, from, &printer).await;
        let (release, new) = self.unless_destroyed(taken).await?;
        self.launch(who, release.clone(), new, url, output).await?;
        self.delivered(release, new).await
    }

    async fn take_code_of(
        &self,
        who: &Principal,
        from: &DeployRef,
        printer: &Arc<dyn Output>,
    ) -> Result<(Arc<Release>, bool), DeployError> {
        let output = &**printer;
        let _turn = self.turn.lock().await;
        let version = self.ledger.current(from).await?.ok_or_else(|| DeployError::NoRelease(from.clone()))?;
        let row = self.ledger.release(from, version).await?;
        let slug = self.take_up(&row)?;
        self.recover(who, false).await?;
        let before = self.current_row().await?;
        output.step(&format!("Promoting {from} {version} to {}", self.deploy));
        if let Some(row) = before.as_ref().filter(|b| b.slug == slug.id && b.commit == slug.commit && b.status == Status::Succeeded) {
            return Ok((Arc::new(self.load(row).await?), false));
        }
        self.pass(who, &slug, None, printer).await?;
        let source = building::source_of(self.home(), &slug)?;
        let declared = declared::read(&source, output)?;
        let (config_version, config) = self.ledger.config(&self.deploy).await?;
        let attachments = self.ledger.resolve(self.ledger.attachments(&self.deploy).await?).await?;
        let missing = declared.missing(&config, &attachments);
        if !missing.is_empty() {
            return Err(DeployError::Required { deploy: self.deploy.clone(), names: missing });
        }
        // A release is of a version of the config, and a deploy that nobody has configured has none yet.
        let config = match config_version {
            0 => Wanted::Next(config),
            version => Wanted::At(version),
        };
        if self.ledger.formation(&self.deploy).await?.is_none() {
            self.say_unknown(&slug, &declared.formation, output);
        }
        let release = self.make(who, slug, config, None, (row.python, row.node), &Cause::Promote(from.clone(), version)).await?;
        if !self.serving_now() {
            self.phase(who, &release, output).await?;
            self.conclude(who, release.version, None).await?;
            self.settle_formation(who, &release.slug).await?;
        }
        Ok((release, true))
    }

    async fn delivered(&self, release: Arc<Release>, new: bool) -> Result<Delivered, DeployError> {
        let formation = self.formation(&release.slug).await?;
        let routed = formation.iter().any(|(kind, n)| kind.is_web() && n > 0);
        Ok(Delivered { release, new, routed })
    }
}
