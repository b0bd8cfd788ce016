//! `dozen test`: an app's tests, on this machine or on a server.

use super::deploy::{follow, read, source};
use super::up::Signals;
use super::{Usage, target};
use crate::api::SOURCE;
use crate::api::event::Event;
use crate::client::Client;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::{Result, bail};
use clap::Args;
use dozen_core::ids::DeployRef;
use dozen_engine::deploy::{self, Testing};
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The app's folder, as it is now
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Test this commit of the folder's git repository, exactly, and nothing that is not committed
    #[arg(long, value_name = "REF")]
    commit: Option<String>,
    /// A variable for the tests, over those of app.json; on this machine only
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
}

/// As a shell says that SIGINT ended it.
const INTERRUPTED: i32 = 130;

/// Runs them; answers their exit code.
pub(crate) async fn run(args: TestArgs, settings: &Settings, printer: &Arc<Printer>) -> Result<i32> {
    let mut signals = Signals::listen()?;
    let folder = target::folder(settings, &args.dir)?;
    let config = args.env.iter().map(|pair| match pair.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(Usage(format!("--env takes NAME=VALUE, and `{pair}` has no `=`"))),
    });
    let config: Vec<(String, String)> = config.collect::<Result<_, _>>()?;
    let tested = async {
        if settings.remote.is_some() {
            if !config.is_empty() {
                bail!(Usage("a server takes no --env: put what tests need into app.json's `environments.test.env`".to_owned()));
            }
            let deploy = target::find(settings).await?;
            let (query, body) = source(read(args.commit.as_deref(), &folder, settings, &deploy).await?, printer);
            let answer = Client::connect(settings, deploy).await?.upload(&format!("/tests{query}"), SOURCE, body).await?;
            return follow(answer, printer).await;
        }
        let app = target::app_of(settings, &folder).await?;
        let deploy: DeployRef = app.to_string().parse()?;
        let (reading, _kept) = read(args.commit.as_deref(), &folder, settings, &deploy).await?;
        let testing = Testing { exe: &settings.exe, home: &settings.home, app: &app, config: &config };
        let tested = deploy::test(testing, reading, printer.clone()).await?;
        if printer.is_json() {
            printer.json(&Event::Tested { code: tested.code, slug: tested.slug.to_string() });
        }
        Ok(tested.code)
    };
    tokio::select! {
        code = tested => code,
        // Whatever it started ends with it.
        () = signals.next() => Ok(INTERRUPTED),
    }
}
