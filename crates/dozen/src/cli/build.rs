//! `dozen build`: a slug without a deploy, in the store and, where asked for, as a file for other machines.

use super::up::Signals;
use super::{Usage, target};
use crate::api::event::Event;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use clap::Args;
use dozen_engine::codebase::bytes;
use dozen_engine::deploy::{self, BuildOptions, Building};
use dozen_engine::output::Output;
use dozen_engine::release::archive;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The app's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Write the slug to this file, as in shop.slug.tar.zst; - is standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A variable for build steps that load the app's settings, as Django's collectstatic does; it is no part of the slug
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Use this Python, a version or a path, whatever the app's files say
    #[arg(long, value_name = "VERSION|PATH")]
    use_python: Option<String>,
    /// The same of Node
    #[arg(long, value_name = "VERSION|PATH")]
    use_node: Option<String>,
}

/// The slug file goes to standard output.
const STDOUT: &str = "-";

/// As a shell says that SIGINT ended it.
const INTERRUPTED: i32 = 130;

/// Builds; answers the exit code.
pub(crate) async fn run(args: BuildArgs, settings: &Settings, printer: &Arc<Printer>) -> Result<i32> {
    let mut signals = Signals::listen()?;
    let to_stdout = args.output.as_deref() == Some(Path::new(STDOUT));
    if to_stdout {
        if std::io::stdout().is_terminal() {
            bail!(Usage("a slug file is nothing for a terminal; name a file, or a program behind a pipe".to_owned()));
        }
        printer.divert();
    }
    let config = args.env.iter().map(|pair| match pair.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(Usage(format!("--env takes NAME=VALUE, and `{pair}` has no `=`"))),
    });
    let config: Vec<(String, String)> = config.collect::<Result<_, _>>()?;
    let folder = target::folder(settings, &args.dir)?;
    let app = target::app_of(settings, &folder).await?;
    let building = Building { exe: &settings.exe, home: &settings.home, app: &app, folder: &folder, config: &config };
    let options = BuildOptions { use_python: args.use_python, use_node: args.use_node, folders: true };
    let built = tokio::select! {
        built = deploy::build(building, &options, printer.clone()) => built?,
        // Whatever it started ends with it.
        () = signals.next() => return Ok(INTERRUPTED),
    };
    let slug = built.slug;

    let mut size = None;
    if let Some(output) = &args.output {
        let shown = if to_stdout { "standard output".to_owned() } else { output.display().to_string() };
        printer.step(&format!("Writing {shown}"));
        let stop = Arc::new(AtomicBool::new(false));
        let write = {
            let (home, slug, app, path, stop) = (settings.home.clone(), slug.clone(), app.clone(), output.clone(), stop.clone());
            let go_on = move || !stop.load(Ordering::Relaxed);
            tokio::task::spawn_blocking(move || match to_stdout {
                true => archive::pack(&home, &slug, &app, std::io::stdout().lock(), &go_on),
                false => archive::write(&home, &slug, &app, &path, &go_on),
            })
        };
        tokio::pin!(write);
        let written = tokio::select! {
            written = &mut write => written.context("the slug file was not finished")??,
            () = signals.next() => {
                stop.store(true, Ordering::Relaxed);
                // It stops at the next file and takes away what it has written; a reader that reads no more may hold it up.
                tokio::select! {
                    _ = &mut write => {}
                    () = signals.next() => {}
                }
                return Ok(INTERRUPTED);
            }
        };
        printer.detail(&format!("Done: {}", bytes(written)));
        size = Some(written);
    }
    if printer.is_json() {
        printer.json(&Event::Built {
            app: app.to_string(),
            slug: slug.id.to_string(),
            reused: built.reused,
            runtime: slug.stack.runtime,
            commit: slug.commit.map(|c| format!("{}{}", c.hash, if c.dirty { "+" } else { "" })),
            size: slug.size,
            files: slug.files,
            file: args.output.filter(|_| !to_stdout).map(|f| f.display().to_string()),
            file_size: size,
        });
    } else {
        printer.line(&format!("Slug {} of {app}, {} in {} files", slug.id, bytes(slug.size), slug.files));
    }
    Ok(0)
}
