//! `dozen login`, `logout` and `whoami`: which servers know one, and as whom.

use super::Usage;
use crate::api::wire;
use crate::client::{self, Connection, Told};
use crate::printer::Printer;
use crate::remote::{Remote, ServerUrl};
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::stdio::stdin;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{BufRead, IsTerminal, Read};
use tokio::signal::unix::{SignalKind, signal};

/// The longest token that is read.
const MOST: u64 = 4096;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// Where the server's API answers: https://dozen.example.com
    #[arg(value_parser = server)]
    url: ServerUrl,
    /// The token; others on this machine may read what a command line says
    #[arg(long)]
    token: Option<String>,
}

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// Of which server; may be left away where one is logged in to one alone
    #[arg(value_parser = server)]
    url: Option<ServerUrl>,
}

fn server(text: &str) -> Result<ServerUrl, String> {
    text.parse()
}

/// Tries the token, and keeps it.
pub(crate) async fn run(args: LoginArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let url = args.url;
    let text = match args.token {
        Some(text) => text,
        None if stdin().is_terminal() => secret(&format!("Token for {url}: ")).await?,
        None => {
            let mut text = String::new();
            std::io::stdin().take(MOST).read_to_string(&mut text).context("cannot read the token")?;
            text
        }
    };
    if text.trim().is_empty() {
        bail!(Usage("no token was given".to_owned()));
    }
    let remote = Remote::new(url.clone(), &text, settings.authority.clone())?;
    let account: wire::Account = Connection::to(&remote).await?.get("/v1/account").await?;
    settings.logins.keep(&url, &account.user, &text, settings.authority.clone())?;
    if url.is_open() {
        printer.note(&format!("{url} is not encrypted: who carries what goes there can read your token"));
    }
    let login = wire::Login { server: url.to_string(), user: account.user };
    if printer.is_json() {
        printer.json(&login);
    } else {
        printer.confirm(&format!("Logged in to {} as {}", login.server, login.user));
    }
    Ok(0)
}

/// What is typed is not shown. Ctrl-C gives the terminal back, too.
pub(super) async fn secret(prompt: &str) -> Result<String> {
    let quiet = Quiet::begin().context("cannot set the terminal up")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to signals")?;
    let mut end = signal(SignalKind::terminate()).context("cannot listen to signals")?;
    anstream::eprint!("{prompt}");
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().take(MOST).read_line(&mut line).map(|_| line.trim_end_matches(['\r', '\n']).to_owned())
    });
    let line = tokio::select! {
        line = line => Some(line.context("cannot read the terminal")?.context("cannot read the terminal")?),
        _ = interrupt.recv() => None,
        _ = end.recv() => None,
    };
    drop(quiet);
    anstream::eprintln!();
    line.context("nothing was kept")
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> rustix::io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing given back.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}

/// Forgets a server.
pub(crate) fn out(args: &LogoutArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let known = settings.logins.all()?;
    let url = match (&args.url, known.as_slice()) {
        (Some(url), _) => url.clone(),
        (None, [(url, _)]) => url.clone(),
        (None, []) => bail!(Told::failed("you are logged in to no server", None)),
        (None, several) => {
            let names: Vec<String> = several.iter().map(|(url, _)| url.to_string()).collect();
            bail!(Usage(format!("say of which server: {}", names.join(", "))))
        }
    };
    if !settings.logins.forget(&url)? {
        bail!(Told::failed(format!("you are not logged in to {url}"), None));
    }
    if printer.is_json() {
        printer.json(&wire::LoggedOut { server: url.to_string() });
    } else {
        printer.confirm(&format!("Logged out of {url}; its token is good still: `dozen tokens revoke` ends one"));
    }
    Ok(0)
}

/// Says who one is.
pub(crate) async fn whoami(settings: &Settings, printer: &Printer) -> Result<i32> {
    let account: wire::Account = client::platform(settings).await?.get("/v1/account").await?;
    if printer.is_json() {
        printer.json(&account);
        return Ok(0);
    }
    let at = match (&settings.remote, &account.url) {
        (Some(remote), _) => remote.url.to_string(),
        (None, Some(url)) => format!("this machine's server, {url}"),
        (None, None) => format!("{}, on this machine; no server runs", settings.home.root().display()),
    };
    printer.line(&format!("{}{} at {at} (dozen {})", account.user, if account.admin { ", an admin," } else { "" }, account.server));
    Ok(0)
}
