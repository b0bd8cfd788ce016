//! `dozen run -- CMD`: a one-off process with the current release's code and config. Its exit code becomes ours.

use super::target;
use crate::api::{Frame, wire};
use crate::client::Client;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use clap::Args;
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The command and its arguments, as they are; a single word is read by the app's shell: 'cd x && make'
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Runs it; answers its exit code.
pub(crate) async fn run(args: RunArgs, settings: &Settings, _printer: &Printer) -> Result<i32> {
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy).await?;
    let run = wire::Run { command: dozen_core::admin::command_line(&args.command) };
    let connection = client.upgrade("/runs", crate::api::RUN_PROTOCOL, &run).await?;
    let (mut from, mut to) = tokio::io::split(TokioIo::new(connection));

    let (frames, mut outgoing) = mpsc::channel::<Frame>(8);
    dozen_engine::tasks::spawn("run writer", async move {
        while let Some(frame) = outgoing.recv().await {
            if frame.write(&mut to).await.is_err() {
                return;
            }
        }
    });
    dozen_engine::tasks::spawn("run input", feed_input(frames.clone()));
    for (kind, number) in [
        (SignalKind::interrupt(), Signal::INT),
        (SignalKind::terminate(), Signal::TERM),
        (SignalKind::quit(), Signal::QUIT),
        (SignalKind::hangup(), Signal::HUP),
    ] {
        let mut arrivals = signal(kind).context("cannot listen to signals")?;
        let frames = frames.clone();
        dozen_engine::tasks::spawn("run signals", async move {
            while arrivals.recv().await.is_some() {
                if frames.send(Frame::Signal(number.as_raw())).await.is_err() {
                    return;
                }
            }
        });
    }

    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(frame) = Frame::read(&mut from).await.context("the one-off's connection broke")? {
        match frame {
            Frame::Stdout(bytes) => {
                if write(&mut out, &bytes).await.is_err() {
                    // Whoever read it has gone, as in `| head -1`. With this connection the one-off is hung up on.
                    return Ok(128 + Signal::PIPE.as_raw());
                }
            }
            // Nobody to read what went wrong is no reason to stop.
            Frame::Stderr(bytes) => drop(write(&mut err, &bytes).await),
            Frame::Exit(code) => return Ok(code),
            Frame::Name(_) | Frame::Stdin(_) | Frame::Signal(_) => {}
        }
    }
    bail!("the one-off's connection ended before it did; `dozen up` was stopped meanwhile?")
}

async fn write(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

async fn feed_input(frames: mpsc::Sender<Frame>) {
    let mut input = tokio::io::stdin();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        // An input that cannot be read is an input that has ended.
        let n = input.read(&mut buffer).await.unwrap_or(0);
        if frames.send(Frame::Stdin(buffer[..n].to_vec())).await.is_err() || n == 0 {
            return;
        }
    }
}
