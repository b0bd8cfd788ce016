//! `up --slug`: the code comes as a file that `dozen build -o` made.

use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::{Context, Result};
use dozen_core::codebase::Commit;
use dozen_core::ids::AppName;
use dozen_core::release::Slug;
use dozen_engine::codebase::bytes;
use dozen_engine::output::Output;
use dozen_engine::release::archive::{self, Unpacked};
use std::fs::File;
use std::path::Path;

/// Whether standard input is the file.
pub(super) fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

/// Takes a slug file into the store, or says why not; then nothing has changed.
pub(super) async fn take_in(file: &Path, settings: &Settings, printer: &Printer) -> Result<(Slug, AppName)> {
    let name = if is_stdin(file) { "standard input".to_owned() } else { file.display().to_string() };
    printer.step(&format!("Unpacking {name}"));
    let taken = if is_stdin(file) {
        archive::take_in(&settings.exe, &settings.home, std::io::stdin()).await
    } else {
        let open = File::open(file).and_then(|f| match f.metadata()?.is_dir() {
            true => Err(std::io::ErrorKind::IsADirectory.into()),
            false => Ok(f),
        });
        let opened = open.with_context(|| format!("cannot read the slug file {name}"))?;
        archive::take_in(&settings.exe, &settings.home, opened).await
    };
    let Unpacked { slug, app, reused } = taken.with_context(|| format!("cannot take in {name}"))?;
    let of = slug.commit.as_ref().map(Commit::short).map(|c| format!(" of commit {c}")).unwrap_or_default();
    let runtime = slug.stack.runtime.as_deref().map(|r| format!(", {r}")).unwrap_or_default();
    let again = if reused { ", which is here already" } else { "" };
    printer.detail(&format!("Slug {} of {app}{of}{runtime}: {} in {} files{again}", slug.id.short(), bytes(slug.size), slug.files));
    Ok((slug, app))
}
