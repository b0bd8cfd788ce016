//! `dozen deploy`: code that is sent to a deploy that runs, and built and released there; and the events that come back, shared with `promote`.

use super::{Usage, target};
use crate::api::event::Event;
use crate::api::{SLUG, SOURCE, wire};
use crate::client::{Client, Sent, Told};
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use dozen_core::codebase::Commit;
use dozen_core::ids::DeployRef;
use dozen_engine::codebase::commit::check_out;
use dozen_engine::codebase::repository::Repository;
use dozen_engine::codebase::{self, Reading, tarball};
use dozen_engine::output::Output;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    /// The app's folder, as it is now
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Send this commit of the folder's git repository, exactly, and nothing that is not committed
    #[arg(long, value_name = "REF", conflicts_with_all = ["archive", "slug"])]
    commit: Option<String>,
    /// Send this tar file of a source, plain or packed with gzip or zstd (- is standard input); `git archive` makes one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dir", "slug"])]
    archive: Option<PathBuf>,
    /// Send this slug file (- is standard input), which is not built again; `dozen build -o FILE` makes one
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    slug: Option<PathBuf>,
}

/// Pieces of a body are so large.
const PIECE: usize = 64 << 10;

/// Sends, and prints what comes of it; answers the exit code.
pub(crate) async fn run(args: DeployArgs, settings: &Settings, printer: &Arc<Printer>) -> Result<i32> {
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy.clone()).await?;
    let (kind, query, body) = match (&args.archive, &args.slug) {
        (Some(file), _) => (SOURCE, String::new(), copied(opened(file)?)),
        (_, Some(file)) => (SLUG, String::new(), copied(opened(file)?)),
        _ => {
            let folder = target::folder(settings, &args.dir)?;
            let read = read(args.commit.as_deref(), &folder, settings, &deploy).await?;
            let (query, body) = source(read, printer);
            (SOURCE, query, body)
        }
    };
    let answer = client.upload(&format!("/builds{query}"), kind, body).await?;
    follow(answer, printer).await
}

/// What goes with a source, and itself.
pub(crate) fn source((reading, kept): (Reading, Option<codebase::commit::CheckedOut>), printer: &Printer) -> (String, Sent) {
    reading.warnings.iter().for_each(|w| printer.warning(w));
    let query = reading.source.commit.as_ref().map(query).unwrap_or_default();
    let body = sent(move |to| {
        // What was checked out stays until all of it is sent.
        let _kept = kept;
        Ok(tarball::pack(&reading.source, to)?)
    });
    (query, body)
}

fn query(commit: &Commit) -> String {
    format!("?commit={}&dirty={}", commit.hash, commit.dirty)
}

/// The source that is sent, and what has to stay until it is.
pub(crate) async fn read(
    commit: Option<&str>,
    folder: &Path,
    settings: &Settings,
    deploy: &DeployRef,
) -> Result<(Reading, Option<codebase::commit::CheckedOut>)> {
    let (folder, home, deploy, name) = (folder.to_owned(), settings.home.clone(), deploy.clone(), commit.map(str::to_owned));
    let read = move || -> Result<_> {
        let Some(name) = name else { return Ok((codebase::read(&folder)?, None)) };
        let found = Repository::of_folder(&home, &deploy, &folder, &name);
        let (repository, hash) =
            found.map_err(|why| Told::failed(format!("there is no commit {name} in {}: {why}", folder.display()), None))?;
        let checkout = check_out(&home, &repository, &hash, None)?;
        let mut reading = codebase::read_commit(checkout.folder(), checkout.commit.clone())?;
        reading.warnings.extend(checkout.warnings.iter().cloned());
        Ok((reading, Some(checkout)))
    };
    tokio::task::spawn_blocking(read).await.context("the source was not read")?
}

/// Has a thread of its own write a body.
fn sent(write: impl FnOnce(Pieces) -> Result<()> + Send + 'static) -> Sent {
    let (pieces, coming) = mpsc::channel(16);
    let failed = pieces.clone();
    drop(tokio::task::spawn_blocking(move || {
        if let Err(e) = write(Pieces(pieces)) {
            // A body that breaks off is not taken for a whole one.
            let _ = failed.blocking_send(Err(io::Error::other(crate::printer::one_line(&e))));
        }
    }));
    coming
}

fn copied(mut from: Box<dyn Read + Send>) -> Sent {
    sent(move |mut to| io::copy(&mut from, &mut to).map(drop).context("cannot send the file"))
}

/// What is written goes over the connection.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE);
        let piece = Bytes::copy_from_slice(&bytes[..n]);
        self.0.blocking_send(Ok(piece)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn opened(file: &Path) -> Result<Box<dyn Read + Send>> {
    if file == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let open = File::open(file).and_then(|f| match f.metadata()?.is_dir() {
        true => Err(io::ErrorKind::IsADirectory.into()),
        false => Ok(f),
    });
    Ok(Box::new(open.with_context(|| format!("cannot read {}", file.display()))?))
}

/// Prints what comes of a build or a promotion, until its end. Answers the exit code.
pub(crate) async fn follow(mut answer: Incoming, printer: &Printer) -> Result<i32> {
    let (mut text, mut code) = (Vec::new(), None);
    while let Some(frame) = answer.frame().await {
        let frame = frame.context("the answer broke off; what is under way goes on, and `dozen releases` says what came of it")?;
        text.extend(frame.into_data().unwrap_or_default());
        while let Some(end) = text.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            // An empty one is a sign of life; what a newer server tells besides is passed over.
            let Ok(event) = serde_json::from_slice::<Event>(&line) else { continue };
            code = show(event, printer).or(code);
        }
    }
    match code {
        Some(code) => Ok(code),
        None => bail!("the answer ended too early; what is under way goes on, and `dozen releases` says what came of it"),
    }
}

/// Prints an event. Answers the exit code where it is the last.
fn show(event: Event, printer: &Printer) -> Option<i32> {
    match event {
        Event::Step { text } => printer.step(&text),
        Event::Detail { text } => printer.detail(&text),
        Event::Warning { text } => printer.warning(&text),
        Event::Done { seconds } => {
            printer.emit(dozen_engine::output::Event::Done(Duration::try_from_secs_f64(seconds).unwrap_or_default()))
        }
        Event::Tested { code, .. } => {
            if printer.is_json() {
                printer.json(&event);
            }
            return Some(code);
        }
        Event::Error { message, hint, diagnostics } => {
            printer.failure(message, hint, diagnostics);
            return Some(1);
        }
        event => {
            let last = matches!(event, Event::Ready { .. });
            if printer.is_json() {
                printer.json(&event);
            }
            return last.then_some(0);
        }
    }
    None
}

/// A deploy by its whole name, or by its name in the app of another one.
pub(crate) fn beside(name: &str, of: &DeployRef) -> Result<DeployRef> {
    let parsed = if name.contains('/') { name.parse() } else { name.parse().map(|deploy| DeployRef { app: of.app.clone(), deploy }) };
    parsed.map_err(|e: dozen_core::ids::InvalidName| Usage(e.to_string()).into())
}

/// Asks for a promotion; see [`super::promote`].
pub(crate) async fn promote(from: &DeployRef, to: &DeployRef, settings: &Settings, printer: &Printer) -> Result<i32> {
    let mut client = Client::connect(settings, to.clone()).await?;
    let body = wire::Promotion { from: from.deploy.to_string(), to: to.deploy.to_string() };
    let answer = client.events(&format!("/v1/apps/{}/promotions", to.app), &body).await?;
    follow(answer, printer).await
}
