//! `up --detach`: the same program once more, in a session of its own, which goes on when this one has shown that it is up.
//!
//! The lasting half prints `--json` events into a pipe; this half prints them as the person asked, and goes at `ready` or at the pipe's end.

use super::Signals;
use crate::printer::Printer;
use anyhow::{Context, Result};
use dozen_core::logs::{LogLine, Source};
use dozen_engine::output::{Event, Output};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Starts the lasting half and shows how it comes up.
pub(super) async fn run(printer: &Printer) -> Result<i32> {
    let mut signals = Signals::listen()?;
    let arguments = std::env::args_os().skip(1).filter(|a| a != "--json");
    #[expect(clippy::disallowed_methods, reason = "dozen itself, which outlives this process")]
    let mut lasting = tokio::process::Command::new("/proc/self/exe")
        .args(arguments)
        .args(["--lasting", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start the lasting half of `up --detach`")?;
    let pid = lasting.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    let pipe = lasting.stdout.take().context("the lasting half has no output")?;
    let mut events = BufReader::new(pipe).lines();
    loop {
        let line = tokio::select! {
            line = events.next_line() => line.context("cannot read what the lasting half says")?,
            () = signals.next() => {
                if let Some(pid) = pid {
                    rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("cannot stop the lasting half")?;
                }
                continue;
            }
        };
        let Some(line) = line else { break };
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        if printer.is_json() {
            printer.json(&event);
        } else {
            show(&event, printer);
        }
        if event["event"] == "ready" {
            if !printer.is_json() {
                let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
                printer.line(&format!(
                    "       {} runs in the background at {}; `dozen logs -t`, `dozen down`",
                    text("deploy"),
                    text("url")
                ));
            }
            return Ok(0);
        }
    }
    let status = lasting.wait().await.context("cannot wait for the lasting half")?;
    Ok(status.code().unwrap_or(1))
}

fn show(event: &Value, printer: &Printer) {
    let text = || event["text"].as_str().unwrap_or_default().to_owned();
    match event["event"].as_str().unwrap_or_default() {
        "step" => printer.emit(Event::Step(text())),
        "detail" => printer.emit(Event::Detail(text())),
        "warning" => printer.emit(Event::Warning(text())),
        "done" => printer.emit(Event::Done(Duration::from_secs_f64(event["seconds"].as_f64().unwrap_or_default().clamp(0.0, 1e9)))),
        "log" => {
            let Some(time) = event["time"].as_str().and_then(|t| t.parse().ok()) else { return };
            let source = if event["source"] == "dozen" { Source::Dozen } else { Source::App };
            let word = |key: &str| event[key].as_str().unwrap_or_default();
            printer.log(&LogLine { time, source, ps: word("ps").to_owned(), message: word("message").as_bytes().to_vec() });
        }
        "error" => {
            let hint = event["hint"].as_str().map(str::to_owned);
            let message = event["message"].as_str().unwrap_or_default().to_owned();
            printer.error(&crate::client::Told::failed(message, hint).into());
        }
        _ => {}
    }
}
