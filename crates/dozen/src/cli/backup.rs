//! `dozen backup` and `dozen restore`: all that a home holds, in one file.

use super::Usage;
use super::login::secret;
use crate::api::wire;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use clap::Args;
use dozen_engine::backup::{self, Summary};
use dozen_engine::codebase::bytes;
use dozen_engine::ledger::{Ledger, Principal};
use dozen_engine::output::Output;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A longer passphrase is none.
const MOST: u64 = 4096;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The file, which is not there yet; - is standard output
    file: PathBuf,
    /// Seal it with a passphrase, which is asked for on the terminal
    #[arg(long)]
    encrypt: bool,
    /// Seal it with the passphrase that is the first line of this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// What `dozen backup` wrote; - is standard input
    file: PathBuf,
    /// The first line of this file is the passphrase; without it a sealed backup's is asked for on the terminal
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Writes one.
pub(crate) async fn backup(args: BackupArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let to_stdout = args.file == Path::new("-");
    if to_stdout && (io::stdout().is_terminal() || printer.is_json()) {
        bail!(Usage("a backup is not for a terminal, nor between lines of JSON: name a file".to_owned()));
    }
    let passphrase = match (&args.passphrase_file, args.encrypt) {
        (Some(file), _) => Some(first_line(file)?),
        (None, true) => Some(asked_twice().await?),
        (None, false) => None,
    };
    if !settings.home.ledger().is_file() {
        bail!(Usage(format!("there is no dozen's home at {}; DOZEN_HOME names another one", settings.home.root().display())));
    }
    let ledger = Ledger::open(&settings.home)?;
    let who = Principal::me();
    let sealed = passphrase.is_some();
    let summary = if to_stdout {
        backup::write(&ledger, &who, io::stdout(), passphrase).await?
    } else {
        let attempt = || format!("cannot write {}", args.file.display());
        if args.file.exists() {
            bail!(Usage(format!("{} is there already; name another file", args.file.display())));
        }
        // What is there under its name is whole.
        let beside = with_end(&args.file, &format!(".{}.partial", std::process::id()));
        // A new one: what somebody else has put there would stay theirs, with the key in it.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).with_context(attempt)?;
        let partial = Partial(beside);
        let summary = backup::write(&ledger, &who, file.try_clone().with_context(attempt)?, passphrase).await?;
        file.sync_all().and_then(|()| fs::rename(&partial.0, &args.file)).with_context(attempt)?;
        summary
    };
    tell(&summary, "Backed up", &args.file, sealed, printer);
    if !sealed && !to_stdout {
        printer.note("Whoever has this file has the key to all config in it; --encrypt seals it");
    }
    Ok(0)
}

/// Makes a home of one.
pub(crate) async fn restore(args: RestoreArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let from: Box<dyn Read + Send> = if args.file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?)
    };
    let given = args.passphrase_file.as_deref().map(first_line).transpose()?;
    let may_ask = given.is_none() && args.file != Path::new("-") && io::stdin().is_terminal();
    let handle = tokio::runtime::Handle::current();
    let passphrase = move || match given {
        Some(text) => Ok(Some(text)),
        None if may_ask => handle.block_on(secret("Passphrase: ")).map(|text| Some(Zeroizing::new(text))).map_err(io::Error::other),
        None => Ok(None),
    };
    let summary = backup::restore(&settings.home, from, passphrase).await?;
    tell(&summary, "Restored", settings.home.root(), false, printer);
    if !printer.is_json() {
        printer.note("`dozen server` brings its deploys back, `dozen resume` those of `dozen up --detach`");
    }
    Ok(0)
}

fn tell(summary: &Summary, done: &str, at: &Path, sealed: bool, printer: &Printer) {
    if printer.is_json() {
        printer.json(&wire::BackedUp {
            path: at.display().to_string(),
            created: summary.head.created.to_string(),
            deploys: summary.head.deploys.clone(),
            members: summary.members,
            bytes: summary.bytes,
            sealed,
            warnings: summary.warnings.clone(),
        });
        return;
    }
    summary.warnings.iter().for_each(|warning| printer.warning(warning));
    if at != Path::new("-") {
        let (count, of) = (summary.head.deploys.len(), bytes(summary.bytes));
        printer.confirm(&format!("{done} {count} deploys, {of} in {} files: {}", summary.members, at.display()));
    }
}

fn first_line(file: &Path) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let read = File::open(file).and_then(|open| open.take(MOST).read_to_string(&mut text));
    read.with_context(|| format!("cannot read the passphrase in {}", file.display()))?;
    let line = Zeroizing::new(text.lines().next().unwrap_or_default().to_owned());
    if line.is_empty() {
        bail!(Usage(format!("the first line of {} is empty, and no passphrase", file.display())));
    }
    Ok(line)
}

async fn asked_twice() -> Result<Zeroizing<String>> {
    if !io::stdin().is_terminal() {
        bail!(Usage("there is no terminal to ask for a passphrase on; --passphrase-file names a file with one".to_owned()));
    }
    let once = Zeroizing::new(secret("Passphrase: ").await?);
    let twice = Zeroizing::new(secret("The same again: ").await?);
    if once.trim().is_empty() || once != twice {
        bail!(Usage("that was no passphrase, or not the same one twice; nothing was written".to_owned()));
    }
    Ok(once)
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// A file that is gone when this is, unless it has another name by then.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
