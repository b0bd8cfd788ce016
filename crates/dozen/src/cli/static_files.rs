//! `dozen static`: a file server, as a process type of a site and for a person. It needs no state and touches none.

use super::Usage;
use crate::printer::Printer;
use anyhow::{Context, Result, bail};
use clap::Args;
use dozen_core::dependencies::static_files::{SETTINGS, Settings, settings};
use dozen_core::diagnostic::has_errors;
use dozen_core::port::site::Rules;
use dozen_engine::deploy::DeployError;
use dozen_engine::port::static_files::{Site, serve};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Where it listens when nothing says so.
const PORT: u16 = 8000;
/// A static.json of more is refused unread.
const MAX_SETTINGS: u64 = 1 << 20;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct StaticArgs {
    /// The folder; by default the `root` of static.json, else the current one
    dir: Option<PathBuf>,
    /// Answer paths that are not there with index.html: they are the app's own, which runs in the browser
    #[arg(long)]
    spa: bool,
    /// The port to listen on, on this machine only, where the environment has no PORT
    #[arg(long, value_name = "N", default_value_t = PORT)]
    port: u16,
}

/// Serves until SIGTERM or Ctrl-C, then finishes what it has begun; a second one ends it at once.
pub(crate) async fn run(args: StaticArgs, printer: &Arc<Printer>) -> Result<i32> {
    let settings = read_settings(Path::new(SETTINGS), printer)?;
    let dir = args.dir.or_else(|| settings.root.as_ref().map(PathBuf::from)).unwrap_or_else(|| ".".into());
    let reporter = printer.clone();
    let site = Site::open(&dir, Rules { spa: args.spa, settings }, move |text| reporter.note(text))?;
    // A process type is told its port and is reached from wherever the platform stands; a person's server is that person's.
    let (host, port) = match std::env::var("PORT").ok().filter(|p| !p.is_empty()) {
        Some(port) => match port.parse() {
            Ok(port) => (Ipv4Addr::UNSPECIFIED, port),
            Err(_) => bail!(Usage("PORT in the environment is not a port, a number from 0 to 65535".into())),
        },
        None => (Ipv4Addr::LOCALHOST, args.port),
    };
    // Before it listens: whoever sees the port open may send a signal.
    let mut stop = [SignalKind::terminate(), SignalKind::interrupt()].map(signal).into_iter().collect::<Result<Vec<Signal>, _>>()?;
    let listener = TcpListener::bind((host, port)).await.with_context(|| format!("cannot listen on {host}:{port}"))?;
    let address = listener.local_addr().context("cannot tell the own address")?;
    printer.line(&format!("Serving {} on http://{address}", dir.display()));
    let [term, int] = &mut stop[..] else { bail!("two signals were asked for") };
    let mut signals = async || {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    };
    let (told, telling) = tokio::sync::oneshot::channel();
    let serving = serve(listener, site, async {
        // The sender goes only with this function.
        let _ = telling.await;
    });
    tokio::pin!(serving);
    tokio::select! {
        () = signals() => {}
        () = &mut serving => return Ok(0),
    }
    let _ = told.send(());
    tokio::select! {
        () = serving => {}
        () = signals() => {}
    }
    Ok(0)
}

fn read_settings(file: &Path, printer: &Printer) -> Result<Settings> {
    let failed = |e| anyhow::Error::new(e).context(format!("cannot read {SETTINGS}"));
    match std::fs::metadata(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Settings::default()),
        Err(e) => return Err(failed(e)),
        Ok(meta) if !meta.is_file() || meta.len() > MAX_SETTINGS => bail!("{SETTINGS} is no file, or larger than {MAX_SETTINGS} bytes"),
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(file).map_err(failed)?;
    let (settings, diagnostics) = settings(&text);
    if has_errors(&diagnostics) {
        bail!(DeployError::Input { file: SETTINGS.into(), text: Some(text), diagnostics });
    }
    diagnostics.iter().for_each(|d| printer.note(&format!("{SETTINGS}:{d}")));
    Ok(settings)
}
