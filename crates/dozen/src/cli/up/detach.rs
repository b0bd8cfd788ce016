//! `up --detach`: the same program once more, in a session of its own, which goes on when this one has shown that it is up.
//!
//! The lasting half prints `--json` events into a pipe; this half prints them as the person asked, and goes at `ready` or at the pipe's end.

use super::{INTERRUPTED, Signals};
use crate::api::event::Event;
use crate::printer::Printer;
use anyhow::{Context, Result};
use dozen_core::logs::{LogLine, Source};
use dozen_engine::output::{self, Output};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Starts the lasting half and shows how it comes up. `input`: it reads a slug from standard input.
pub(super) async fn run(input: bool, printer: &Printer) -> Result<i32> {
    let mut signals = Signals::listen()?;
    let arguments = std::env::args_os().skip(1).filter(|a| a != "--json");
    #[expect(clippy::disallowed_methods, reason = "dozen itself, which outlives this process")]
    let mut lasting = tokio::process::Command::new("/proc/self/exe")
        .args(arguments)
        .args(["--lasting", "--json"])
        .stdin(if input { Stdio::inherit() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start the lasting half of `up --detach`")?;
    let pid = lasting.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    let pipe = lasting.stdout.take().context("the lasting half has no output")?;
    let mut events = BufReader::new(pipe).lines();
    let (mut failed, mut signalled) = (false, false);
    loop {
        let line = tokio::select! {
            line = events.next_line() => line.context("cannot read what the lasting half says")?,
            () = signals.next() => {
                signalled = true;
                if let Some(pid) = pid {
                    rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("cannot stop the lasting half")?;
                }
                continue;
            }
        };
        let Some(line) = line else { break };
        let Ok(event) = serde_json::from_str::<Event>(&line) else { continue };
        if printer.is_json() {
            printer.json(&event);
        } else {
            show(&event, printer);
        }
        failed |= matches!(event, Event::Error { .. });
        if let Event::Ready { .. } = event {
            // What was taken over goes on, though what was to take its place has failed.
            return Ok(if signalled { INTERRUPTED } else { i32::from(failed) });
        }
    }
    let status = lasting.wait().await.context("cannot wait for the lasting half")?;
    Ok(status.code().unwrap_or(if signalled { INTERRUPTED } else { 1 }))
}

fn show(event: &Event, printer: &Printer) {
    match event.clone() {
        Event::Step { text } => printer.emit(output::Event::Step(text)),
        Event::Detail { text } => printer.emit(output::Event::Detail(text)),
        Event::Warning { text } => printer.emit(output::Event::Warning(text)),
        Event::Done { seconds } => printer.emit(output::Event::Done(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)))),
        Event::Log { time, source, ps, message } => {
            let Ok(time) = time.parse() else { return };
            let source = if source == "dozen" { Source::Dozen } else { Source::App };
            printer.live(&LogLine { time, source, ps, message: message.into_bytes() });
        }
        Event::Error { message, hint, diagnostics } => printer.failure(message, hint, diagnostics),
        Event::Ready { deploy, url, https_url, .. } => {
            let at = url.map(|u| format!(" at {u}")).unwrap_or_default();
            let at = at + &https_url.map(|u| format!(" and {u}")).unwrap_or_default();
            printer.line(&format!("       {deploy} runs in the background{at}; `dozen logs -t`, `dozen down`"));
        }
        Event::Released { .. } | Event::Built { .. } | Event::Tested { .. } | Event::Serving { .. } => {}
    }
}
