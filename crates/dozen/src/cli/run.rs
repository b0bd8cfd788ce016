//! `dozen run -- CMD`: a one-off process with a release's code and config. Its exit code becomes ours.

use super::{Usage, target};
use crate::api::{Frame, MAX_RUN, RUN_WINDOW, wire};
use crate::client::Client;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use clap::Args;
use dozen_core::admin::{Command, brief};
use dozen_core::config::check_name;
use dozen_core::ids::Version;
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use terminal::Raw;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};

mod detach;
mod terminal;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    one_off: OneOffArgs,
    /// Print its name and go; its output goes to the log, and it survives this terminal
    #[arg(long)]
    detach: bool,
    /// The background half of --detach
    #[arg(long, hide = true)]
    lasting: bool,
    /// The command and its arguments, as they are; a single word is read by the app's shell: 'cd x && make'
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
}

/// What `run` and `console` take alike.
#[derive(Debug, Args)]
pub(crate) struct OneOffArgs {
    /// A variable for this run only, over the config; without a value the one that it has here
    #[arg(short, long = "env", value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// Run this release's code, config and resources instead of the current one's
    #[arg(long, value_name = "vN")]
    release: Option<Version>,
    /// Stop it after this time, as in 90s or 2h; by default, and at most, after 24 hours
    #[arg(long, value_name = "TIME", value_parser = limit)]
    timeout: Option<u32>,
    /// Pass bytes through unchanged, also where this is a terminal
    #[arg(long)]
    no_tty: bool,
}

/// So often something is said to a server; its router waits for twice as long at least.
const BEAT: std::time::Duration = std::time::Duration::from_secs(20);

/// What else a request may hold: the terminal.
const ROOM: usize = 16 * 1024;

/// Runs it; answers its exit code.
pub(crate) async fn run(args: RunArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    if args.lasting {
        return detach::last(settings, printer).await;
    }
    // Before anything starts.
    Command::of_words(&args.command).map_err(|e| Usage(e.to_string()))?;
    let request = args.one_off.request(args.command)?;
    if args.detach {
        return detach::run(request, settings, printer).await;
    }
    attach(request, !args.one_off.no_tty, settings, printer).await
}

impl OneOffArgs {
    /// As the API takes it.
    pub(super) fn request(&self, command: Vec<String>) -> Result<wire::Run> {
        let mut env = BTreeMap::new();
        for given in &self.env {
            let (name, value) = match given.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => (given.as_str(), here(given)?),
            };
            check_name(name).map_err(|e| Usage(e.to_string()))?;
            env.insert(name.to_owned(), value);
        }
        let release = self.release.map(|v| v.to_string());
        let request = wire::Run { command, release, env, seconds: self.timeout, ..wire::Run::default() };
        let most = MAX_RUN - ROOM;
        if serde_json::to_vec(&request)?.len() > most {
            bail!(Usage(format!("the command and its variables are too long: {} KiB is the most that is passed on", most / 1024)));
        }
        Ok(request)
    }

    /// Whether it may get a terminal.
    pub(super) fn wants_terminal(&self) -> bool {
        !self.no_tty
    }
}

fn here(name: &str) -> Result<String, Usage> {
    std::env::var(name).map_err(|_| Usage(format!("{name} has no value here; give it one with -e {name}=VALUE")))
}

fn limit(text: &str) -> Result<u32, String> {
    let time: SignedDuration = text.parse().map_err(|_| "write it as 90s, 10m or 2h".to_owned())?;
    let seconds = u32::try_from(time.as_secs()).ok().filter(|s| *s > 0);
    seconds.filter(|_| time <= dozen_core::admin::LIMIT).ok_or_else(|| "give it between one second and 24 hours".to_owned())
}

/// Starts a one-off and stays with it to its end.
pub(super) async fn attach(mut run: wire::Run, may_be_terminal: bool, settings: &Settings, printer: &Printer) -> Result<i32> {
    let deploy = target::find(settings).await?;
    let app = deploy.app.clone();
    let mut client = Client::connect(settings, deploy).await?;
    let on_terminal = may_be_terminal && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    run.terminal = on_terminal.then(|| terminal::describe(settings.colour));
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
    pass_signals_on(on_terminal, &frames)?;
    if settings.remote.is_some() {
        dozen_engine::tasks::spawn("run beat", beat(frames.clone()));
    }
    let began = Frame::read(&mut from).await.context("the one-off's connection broke")?;
    let Some(Frame::Began(began)) = began else {
        bail!("the one-off's connection ended before it began; `dozen up` was stopped meanwhile?")
    };
    announce(&began, app.as_str(), printer);
    // Whatever ends this function gives the terminal back as it was.
    let raw = on_terminal.then(Raw::begin).transpose().context("cannot set the terminal up")?;
    if let Some(raw) = &raw {
        stay_raw(raw.again(), frames.clone())?;
    }
    let window = Arc::new(Semaphore::new(RUN_WINDOW));
    dozen_engine::tasks::spawn("run input", feed_input(frames.clone(), window.clone()));

    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    let mut unread = false;
    // A connection that breaks has ended as well.
    while let Ok(Some(frame)) = Frame::read(&mut from).await {
        match frame {
            Frame::Stdout(bytes) => {
                if !unread && write(&mut out, &bytes).await.is_err() {
                    // Whoever read it has gone, as in `| head -1`. It is waited for all the same, so that its end is recorded.
                    unread = true;
                    let _ = frames.send(Frame::HangUp).await;
                }
            }
            // Nobody to read what went wrong is no reason to stop.
            Frame::Stderr(bytes) => drop(write(&mut err, &bytes).await),
            Frame::Taken(n) => window.add_permits(n as usize),
            Frame::Exit(code, why) => {
                let broken_pipe = unread && raw.is_none();
                drop(raw);
                if let Some(why) = why {
                    printer.note(&format!(" !     {why}"));
                }
                return Ok(if broken_pipe { 128 + Signal::PIPE.as_raw() } else { code });
            }
            Frame::Began(_) | Frame::Stdin(_) | Frame::Signal(_) | Frame::Size(_) | Frame::HangUp => {}
        }
    }
    drop(raw);
    // As it is recorded, and as a shell says it: SIGKILL is the last that what is left of it gets.
    printer.note(&format!(" !     {} was lost: the `dozen up` that ran it was killed, and it ends with that one", began.run));
    Ok(128 + Signal::KILL.as_raw())
}

/// Heroku's line, where a person reads it, and where the app has no console that this is none.
fn announce(began: &wire::Began, app: &str, printer: &Printer) {
    if std::io::stderr().is_terminal() {
        printer.aside(&format!("Running {} on {app}... up, {} ({})", brief(&began.command), began.run, began.release));
    }
    if began.plain_shell {
        printer
            .aside("The app names no console, so this is a shell. `scripts.console` in app.json or `console` in the Procfile names one.");
    }
}

/// On a terminal Ctrl-C and the like are bytes and no signals; what still comes is from elsewhere and meant for all of the one-off.
fn pass_signals_on(on_terminal: bool, frames: &mpsc::Sender<Frame>) -> Result<()> {
    let mut all: Vec<(SignalKind, fn() -> Frame)> = vec![
        (SignalKind::interrupt(), || Frame::Signal(Signal::INT.as_raw())),
        (SignalKind::terminate(), || Frame::Signal(Signal::TERM.as_raw())),
        (SignalKind::quit(), || Frame::Signal(Signal::QUIT.as_raw())),
    ];
    if on_terminal {
        all.push((SignalKind::hangup(), || Frame::HangUp));
        all.push((SignalKind::window_change(), || Frame::Size(terminal::size())));
    } else {
        all.push((SignalKind::hangup(), || Frame::Signal(Signal::HUP.as_raw())));
    }
    for (kind, frame) in all {
        let mut arrivals = signal(kind).context("cannot listen to signals")?;
        let frames = frames.clone();
        dozen_engine::tasks::spawn("run signals", async move {
            while arrivals.recv().await.is_some() {
                if frames.send(frame()).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

/// Whoever was stopped and goes on finds the terminal as a shell left it meanwhile, and perhaps of another size.
fn stay_raw(again: impl Fn() + Send + 'static, frames: mpsc::Sender<Frame>) -> Result<()> {
    let mut continued = signal(SignalKind::from_raw(Signal::CONT.as_raw())).context("cannot listen to signals")?;
    dozen_engine::tasks::spawn("run continued", async move {
        while continued.recv().await.is_some() {
            again();
            if frames.send(Frame::Size(terminal::size())).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// A server's router takes a connection on which nothing is said for one that nobody has any more.
async fn beat(frames: mpsc::Sender<Frame>) {
    loop {
        tokio::time::sleep(BEAT).await;
        // It changes nothing, and is nothing to who has no terminal.
        if frames.send(Frame::Size(terminal::size())).await.is_err() {
            return;
        }
    }
}

async fn write(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// Sends standard input as the other side takes it, so that a signal is never behind what nobody reads.
async fn feed_input(frames: mpsc::Sender<Frame>, window: Arc<Semaphore>) {
    const PIECE: u16 = 32 * 1024;
    let mut input = tokio::io::stdin();
    let mut buffer = vec![0; PIECE.into()];
    loop {
        // An input that cannot be read is an input that has ended.
        let n = input.read(&mut buffer).await.unwrap_or(0);
        let Ok(room) = window.acquire_many(u32::try_from(n).unwrap_or(PIECE.into())).await else { return };
        room.forget();
        if frames.send(Frame::Stdin(buffer[..n].to_vec())).await.is_err() || n == 0 {
            return;
        }
    }
}
