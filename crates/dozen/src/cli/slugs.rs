//! `dozen slugs`: the code of a deploy's releases; `slugs export` as a file, `slugs collect`.

use super::releases::when;
use super::{Usage, segment, target};
use crate::api::wire;
use crate::client::{self, Client};
use crate::printer::{Column, Printer, listing};
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use dozen_engine::codebase::bytes;
use dozen_engine::output::Output;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct SlugsArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write the slug of a release to a file
    Export {
        /// By default the current one
        #[arg(value_name = "vN")]
        version: Option<String>,
        /// tar: a slug file, which `dozen deploy --slug` and `dozen up --slug` take; deb: a Debian package that runs it by systemd
        #[arg(long, value_enum, default_value = "tar")]
        format: Format,
        /// Where to; - is standard output. By default a file in the current folder that is called by app and release
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Remove slugs that no release of late has, and what was not used for longest of build caches that are over the budget
    ///
    /// It is done by itself after releases. Kept are the slugs of each deploy's last 10 releases, of those 10 that succeeded, and of what serves
    /// or runs. What was built or taken up within the last hour stays, too. DOZEN_DISK_BUDGET, or --disk-budget of the server, is how much slugs
    /// and caches may take: 20GB where nobody says.
    Collect {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

/// What a slug is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A slug file.
    Tar,
    /// A Debian package.
    Deb,
}

/// Lists, exports or collects.
pub(crate) async fn run(args: SlugsArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    match args.verb {
        None => list(settings, printer).await,
        Some(Verb::Export { version, format, output }) => export(version, format, output, settings, printer).await,
        Some(Verb::Collect { dry_run }) => collect(dry_run, settings, printer).await,
    }
}

async fn list(settings: &Settings, printer: &Printer) -> Result<i32> {
    let deploy = target::find(settings).await?;
    let answer: wire::Slugs = Client::connect(settings, deploy.clone()).await?.get("/slugs").await?;
    if printer.is_json() {
        printer.json(&answer);
        return Ok(0);
    }
    printer.line(&format!("=== {deploy} slugs"));
    if answer.slugs.is_empty() {
        printer.line("None yet.");
    } else {
        printer.line(&listing(&COLUMNS, &answer.slugs, printer.terminal().map(|(columns, _)| columns), true));
    }
    let wire::Disk { slugs, caches } = answer.disk;
    printer.aside(&format!("All slugs of this dozen take {} of the disk, build caches {} besides", bytes(slugs), bytes(caches)));
    Ok(0)
}

const COLUMNS: [Column<wire::UsedSlug>; 7] = [
    Column { title: "SLUG", rank: 0, cell: |s| s.id.chars().take(8).collect() },
    Column { title: "SIZE", rank: 1, cell: |s| bytes(s.size) },
    Column { title: "FILES", rank: 4, cell: |s| s.files.to_string() },
    Column { title: "STATE", rank: 1, cell: |s| if s.present { "" } else { "collected" }.to_owned() },
    Column { title: "RELEASED (UTC)", rank: 2, cell: |s| when(&s.created_at) },
    Column { title: "COMMIT", rank: 3, cell: commit },
    Column { title: "RELEASES", rank: 0, cell: releases },
];

fn commit(s: &wire::UsedSlug) -> String {
    let Some(hash) = &s.commit else { return "-".to_owned() };
    format!("{}{}", hash.chars().take(8).collect::<String>(), if hash.ends_with('+') { "+" } else { "" })
}

fn releases(s: &wire::UsedSlug) -> String {
    let mut of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for used in &s.releases {
        of.entry(used.deploy.split_once('/').map_or(used.deploy.as_str(), |(_, name)| name)).or_default().push(&used.release);
    }
    of.into_iter().map(|(deploy, versions)| format!("{deploy} {}", versions.join(" "))).collect::<Vec<_>>().join(", ")
}

async fn export(version: Option<String>, format: Format, output: Option<PathBuf>, settings: &Settings, printer: &Printer) -> Result<i32> {
    let to_stdout = output.as_deref() == Some(Path::new("-"));
    if to_stdout {
        if std::io::stdout().is_terminal() {
            bail!(Usage("a slug is nothing for a terminal; name a file, or a program behind a pipe".to_owned()));
        }
        printer.divert();
    }
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy.clone()).await?;
    let version = match version {
        Some(version) => version,
        None => client.get::<wire::ReleaseInfo>("/releases/current").await?.version,
    };
    let name = match format {
        Format::Tar => "tar",
        Format::Deb => "deb",
    };
    let answer = client.stream(&format!("/slugs/{}?format={name}", segment(&version))).await?;
    let file = output.unwrap_or_else(|| match format {
        Format::Tar => format!("{}-{version}.slug.tar.zst", deploy.app).into(),
        Format::Deb => format!("{}-{version}.deb", deploy.app).into(),
    });
    let written = if to_stdout { write(answer, std::io::stdout().lock()).await? } else { write_file(answer, &file).await? };
    if printer.is_json() {
        let file = (!to_stdout).then(|| file.display().to_string());
        printer.json(&wire::Exported { deploy: deploy.to_string(), release: version, format: name.to_owned(), file, size: written });
    } else {
        let shown = if to_stdout { "standard output".to_owned() } else { file.display().to_string() };
        printer.confirm(&format!("Writing {version} of {deploy} to {shown}... done, {}", bytes(written)));
    }
    Ok(0)
}

/// In its place only when all of it came.
async fn write_file(answer: Incoming, file: &Path) -> Result<u64> {
    let failed = || format!("cannot write {}", file.display());
    // What is no plain file (a pipe, a device) is written to as it is.
    if std::fs::metadata(file).is_ok_and(|meta| !meta.is_file()) {
        return write(answer, File::options().write(true).open(file).with_context(failed)?).await;
    }
    let name = file.file_name().with_context(failed)?.to_string_lossy().into_owned();
    let fresh = file.with_file_name(format!(".{name}.{}.new", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    let made = File::options().write(true).create_new(true).open(&fresh).with_context(failed)?;
    let written = async {
        let written = write(answer, &made).await?;
        made.sync_all().and_then(|()| std::fs::rename(&fresh, file)).with_context(failed)?;
        Ok(written)
    };
    let written = written.await;
    if written.is_err() {
        let _ = std::fs::remove_file(&fresh);
    }
    written
}

async fn write(mut answer: Incoming, mut to: impl Write) -> Result<u64> {
    let mut written = 0;
    while let Some(frame) = answer.frame().await {
        let piece = frame.context("the file broke off; nothing was kept of it")?.into_data().unwrap_or_default();
        to.write_all(&piece).context("cannot write the file")?;
        written += piece.len() as u64;
    }
    to.flush().context("cannot write the file")?;
    Ok(written)
}

async fn collect(dry_run: bool, settings: &Settings, printer: &Printer) -> Result<i32> {
    let mut connection = client::platform(settings).await?;
    let done: wire::Collection = connection.call(Method::POST, "/v1/collections", &wire::Collect { dry_run }).await?;
    if printer.is_json() {
        printer.json(&done);
        return Ok(0);
    }
    for slug in &done.slugs {
        printer.detail(&format!("slug {}", slug.chars().take(8).collect::<String>()));
    }
    done.caches.iter().for_each(|cache| printer.detail(cache));
    let verb = if dry_run { "Would remove" } else { "Removed" };
    let (slugs, caches) = (done.slugs.len(), done.caches.len());
    printer.line(&format!("{verb} {slugs} slugs and {caches} parts of build caches, {}", bytes(done.freed)));
    let left = done.disk.slugs + done.disk.caches;
    printer.line(&format!(
        "Left: {} of slugs, {} of build caches; the budget is {}",
        bytes(done.disk.slugs),
        bytes(done.disk.caches),
        bytes(done.budget)
    ));
    if left > done.budget {
        printer.warning("what releases need is over the budget: give it more, or destroy deploys that nobody needs");
    }
    Ok(0)
}
