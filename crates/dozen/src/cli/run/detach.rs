//! `run --detach`. A running `up` holds the one-off; where none runs, the same program once more does, in a session of its own.
//!
//! The request goes to the lasting half by its standard input, since it may hold secrets. That half answers with one line of JSON, stays until
//! the one-off has ended and is recorded, and has the one-off's socket, by which it is stopped.

use super::super::target;
use crate::api::wire;
use crate::client::{Client, Told};
use crate::printer::Printer;
use crate::running;
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use dozen_core::admin::brief;
use dozen_core::ids::{DeployRef, InstanceName};
use dozen_engine::admin::held;
use http::Method;
use serde_json::Value;
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

/// Starts it and says its name.
pub(super) async fn run(mut request: wire::Run, settings: &Settings, printer: &Printer) -> Result<i32> {
    request.detach = true;
    let deploy = target::find(settings).await?;
    let held = settings.remote.is_some() || running::holder(&settings.home, &deploy).is_some();
    let began: wire::Began = match held {
        true => Client::connect(settings, deploy.clone()).await?.call(Method::POST, "/runs", &request).await?,
        false => lasting(&request, &deploy).await?,
    };
    if printer.is_json() {
        printer.json(&began);
        return Ok(0);
    }
    let (run, app) = (&began.run, &deploy.app);
    if settings.quiet {
        printer.line(run);
        return Ok(0);
    }
    printer.line(&format!("Running {} on {app}... done, {run} ({})", brief(&began.command), began.release));
    printer.aside(&format!("Follow it with `dozen logs -p {run} -t`, stop it with `dozen runs stop {run}`."));
    Ok(0)
}

/// Starts the lasting half and waits for its word.
async fn lasting(request: &wire::Run, deploy: &DeployRef) -> Result<wire::Began> {
    let attempt = "cannot start the lasting half of `run --detach`";
    #[expect(clippy::disallowed_methods, reason = "dozen itself, which outlives this process")]
    let mut lasting = tokio::process::Command::new("/proc/self/exe")
        .args(["run", "--lasting", "--json", "--server", "local", "--app", &deploy.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context(attempt)?;
    let mut pipe = lasting.stdin.take().context("the lasting half has no input")?;
    pipe.write_all(&serde_json::to_vec(request)?).await.context(attempt)?;
    drop(pipe);
    let mut said = String::new();
    lasting.stdout.take().context("the lasting half has no output")?.read_to_string(&mut said).await.context(attempt)?;
    let Ok(answer) = serde_json::from_str::<Value>(&said) else { bail!("the lasting half of `run --detach` ended without a word") };
    if answer["event"] == "error" {
        let text = |key: &str| answer[key].as_str().map(str::to_owned);
        bail!(Told::failed(text("message").unwrap_or_default(), text("hint")));
    }
    Ok(serde_json::from_value(answer)?)
}

/// The lasting half: begins the one-off, says so, and stays to its end.
pub(super) async fn last(settings: &Settings, printer: &Printer) -> Result<i32> {
    // The terminal that started it may close. An error means that it already leads a session.
    let _ = rustix::process::setsid();
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let mut text = Vec::new();
    tokio::io::stdin().read_to_end(&mut text).await.context("cannot read what to run")?;
    let request: wire::Run = serde_json::from_slice(&text).context("started by `dozen run --detach` only")?;
    let deploy = target::find(settings).await?;
    let mut client = Client::here(settings, deploy.clone()).await?;
    let began: wire::Began = client.call(Method::POST, "/runs", &request).await?;
    printer.json(&began);
    let null = std::fs::File::open("/dev/null").context("cannot let go of standard output")?;
    rustix::stdio::dup2_stdout(&null).context("cannot let go of standard output")?;

    let run: InstanceName = began.run.parse()?;
    let home = settings.home.clone();
    let ended = tokio::task::spawn_blocking(move || held::wait(&home, &deploy, run.number));
    tokio::pin!(ended);
    let [terminate, interrupt] = &mut signals;
    loop {
        tokio::select! {
            _ = &mut ended => return Ok(0),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // One that has just ended cannot be stopped.
        let _ = client.call::<wire::StopRun>(Method::POST, "/runs/stop", &wire::StopRun { run: began.run.clone() }).await;
    }
}
