//! The release phase: `release` of the Procfile, run once as a one-off of the new release before any process of it starts.

use crate::deploy::{DeployError, Floor, kind};
use crate::ledger::Principal;
use crate::logs::Follower;
use crate::output::{Event, Output};
use dozen_core::admin::{Command, LIMIT, OneOff};
use dozen_core::config::Config;
use dozen_core::ids::{InstanceName, TypeName};
use dozen_core::logs::{Filter, LogLine, Source};
use dozen_core::parity::{Driver, Io};
use dozen_core::release::Release;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest that a release phase may take (Heroku: one hour).
const RELEASE_PHASE: Duration = Duration::from_secs(60 * 60);

impl Floor {
    /// The release phase, where the slug has one. A failure concludes the release as failed.
    pub(crate) async fn phase(&self, who: &Principal, release: &Arc<Release>, output: &dyn Output) -> Result<(), DeployError> {
        let Some(command) = release.command(&kind(TypeName::RELEASE)) else { return Ok(()) };
        let masked = release.mask().apply(command).into_owned();
        output.step(&format!("Running release command: {masked}"));
        let started = Instant::now();
        let instance = InstanceName { kind: kind(TypeName::RELEASE), number: release.version.0 };
        let (command, env) = (Command::of_script(command.to_owned())?, Config::default());
        let one_off = OneOff { instance: instance.clone(), release: release.version, command, env, limit: LIMIT };
        let own = Filter { ps: Some(instance.to_string()), source: Some(Source::App) };
        // A log that cannot be read fails no release.
        let mut said = self.observed.store().follow(&own).ok();
        let mask = release.mask();
        let tell = |lines: Vec<LogLine>| lines.iter().for_each(|l| output.emit(Event::App(mask.apply(&l.text()).into_owned())));
        self.driver.start(release, &one_off, Io::Logged)?;
        let ended = async {
            let end = self.end_of(&instance);
            tokio::pin!(end);
            loop {
                tokio::select! {
                    ended = &mut end => return ended,
                    lines = next_of(&mut said) => tell(lines),
                }
            }
        };
        let ended = tokio::time::timeout(RELEASE_PHASE, ended).await;
        let code = match ended {
            Ok(ended) => ended.exit.code(),
            Err(_) => {
                self.driver.signal(instance.clone(), rustix::process::Signal::KILL.as_raw())?;
                self.end_of(&instance).await;
                124
            }
        };
        // What it wrote last.
        said.iter_mut().for_each(|said| tell(said.take()));
        if code == 0 {
            output.emit(Event::Done(started.elapsed()));
            return Ok(());
        }
        self.conclude(who, release.version, Some(format!("the release phase failed with exit code {code}"))).await?;
        Err(DeployError::ReleasePhase { version: release.version, command: masked, code })
    }
}

async fn next_of(said: &mut Option<Follower>) -> Vec<LogLine> {
    match said {
        Some(said) => said.next().await,
        None => std::future::pending().await,
    }
}
