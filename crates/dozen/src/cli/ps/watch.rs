//! `ps --watch`, `split status --watch`: the listing drawn again in place on a terminal; for other readers a new one whenever something has changed.
//!
//! **Invariant:** however it ends, but for SIGKILL, the terminal is as it was.

use super::listing;
use crate::api::wire;
use crate::client::Client;
use crate::printer::Printer;
use crate::running;
use crate::settings::Settings;
use anyhow::{Context, Result};
use dozen_core::ids::DeployRef;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What can be watched.
pub(crate) trait Watched: DeserializeOwned + Serialize + Clone + PartialEq {
    /// Where it is asked for.
    const PATH: &'static str;
    /// Whether it says that the deploy runs, where it says so.
    fn serving(&self) -> Option<bool>;
    /// What of it is a change: not the numbers that always move.
    fn steady(&self) -> Self;
    /// As people read it.
    fn text(&self, width: Option<usize>) -> String;
}

impl Watched for wire::Processes {
    const PATH: &'static str = "/processes";

    fn serving(&self) -> Option<bool> {
        Some(self.serving)
    }

    fn steady(&self) -> Self {
        let mut answer = self.clone();
        for p in &mut answer.processes {
            (p.cpu_percent, p.memory_bytes, p.memory_measure) = (None, None, None);
        }
        answer
    }

    fn text(&self, width: Option<usize>) -> String {
        listing::text(self, Timestamp::now(), width)
    }
}

/// Watches until a signal ends it, or whoever reads it has gone.
pub(crate) async fn run<W: Watched>(settings: &Settings, deploy: DeployRef, every: Duration, printer: &Printer) -> Result<i32> {
    let mut eye = Eye { settings, deploy, client: None };
    // What cannot be seen the first time is a mistake; later it is something that passes.
    let first: W = eye.look().await?;
    if printer.is_json() || printer.terminal().is_none() {
        follow(eye, first, every, printer).await
    } else {
        draw(eye, first, every, printer).await
    }
}

/// What looks at a deploy again and again: the process that runs it may end, and another may come.
struct Eye<'a> {
    settings: &'a Settings,
    deploy: DeployRef,
    client: Option<Client>,
}

impl Eye<'_> {
    async fn look<W: Watched>(&mut self) -> Result<W> {
        let before = self.client.take();
        let again = before.is_some();
        let mut client = match before {
            Some(client) => client,
            None => Client::connect(self.settings, self.deploy.clone()).await?,
        };
        let seen: W = match client.get(W::PATH).await {
            // Whoever answered before is gone; who answers now?
            Err(_) if again => {
                client = Client::connect(self.settings, self.deploy.clone()).await?;
                client.get(W::PATH).await?
            }
            answer => answer?,
        };
        // Answered in this process as long as nothing runs; then by the one that runs it.
        if self.settings.remote.is_some() || seen.serving().unwrap_or(true) == running::holder(&self.settings.home, &self.deploy).is_some()
        {
            self.client = Some(client);
        }
        Ok(seen)
    }
}

/// A listing for each change, one after the other. Ctrl-C ends it as it ends any program.
async fn follow<W: Watched>(mut eye: Eye<'_>, first: W, every: Duration, printer: &Printer) -> Result<i32> {
    let mut shown: Option<Result<W, String>> = None;
    let mut seen = Ok(first);
    loop {
        let now = seen.as_ref().map(W::steady).map_err(|e: &anyhow::Error| crate::printer::one_line(e));
        if shown.as_ref() != Some(&now) {
            match &seen {
                Ok(answer) if printer.is_json() => printer.json(&answer),
                Ok(answer) => {
                    let blank = if shown.is_some() { "\n" } else { "" };
                    printer.line(&format!("{blank}{}", answer.text(None)));
                }
                Err(e) => printer.note(&crate::printer::one_line(e)),
            }
            shown = Some(now);
        }
        tokio::time::sleep(every).await;
        if printer.is_closed() {
            return Ok(0);
        }
        seen = eye.look().await;
    }
}

/// On the terminal's other screen, drawn anew each time and when its size changes; the last listing stays on the first one.
async fn draw<W: Watched>(mut eye: Eye<'_>, first: W, every: Duration, printer: &Printer) -> Result<i32> {
    let listen = |kind| signal(kind).context("cannot listen to signals");
    let mut ends = [listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?];
    let mut resized = listen(SignalKind::window_change())?;
    let screen = Screen::enter(printer);
    let mut last = first;
    let mut trouble = None;
    loop {
        let (columns, rows) = printer.terminal().unwrap_or((80, 24));
        let mut text = last.text(Some(columns));
        if let Some(trouble) = &trouble {
            text = format!("{text}\n\n{trouble}");
        }
        screen.show(&text, columns, rows);
        if printer.is_closed() {
            return Ok(0);
        }
        tokio::select! {
            () = tokio::time::sleep(every) => match eye.look().await {
                Ok(seen) => (last, trouble) = (seen, None),
                Err(e) => trouble = Some(format!("{} As it was last seen.", sentence(&crate::printer::one_line(&e)))),
            },
            _ = resized.recv() => {}
            () = any(&mut ends) => break,
        }
    }
    drop(screen);
    let width = printer.terminal().map(|(columns, _)| columns);
    printer.line(&last.text(width));
    Ok(0)
}

fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

async fn any(signals: &mut [Signal; 3]) {
    let [a, b, c] = signals;
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
        _ = c.recv() => {}
    }
}

/// The terminal's other screen; the first one is back when this is dropped.
struct Screen<'a>(&'a Printer);

impl<'a> Screen<'a> {
    fn enter(printer: &'a Printer) -> Self {
        printer.control("\x1b[?1049h\x1b[?25l");
        Self(printer)
    }

    /// What fits of a text, in place of what was there, without a moment of emptiness.
    fn show(&self, text: &str, columns: usize, rows: usize) {
        let mut out = String::from("\x1b[H");
        let lines: Vec<String> = text.lines().take(rows).map(|line| line.chars().take(columns).collect()).collect();
        // After each line the rest of it is emptied; after the last one the rest of the screen.
        out.push_str(&lines.join("\x1b[K\r\n"));
        out.push_str("\x1b[K\x1b[J");
        self.0.control(&out);
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        self.0.control("\x1b[?25h\x1b[?1049l");
    }
}
