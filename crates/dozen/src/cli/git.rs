//! `dozen git`: the remotes of an app's deploys, and what git asks for when it pushes to them.

use crate::api::wire;
use crate::client::{Connection, Told};
use crate::house::PRODUCTION;
use crate::printer::Printer;
use crate::programs;
use crate::remote::ServerUrl;
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use dozen_core::ids::DeployRef;
use std::io::{BufRead, Read};

/// What git says of what it wants is short.
const MOST: u64 = 64 * 1024;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct GitArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Add a remote for each deploy of an app: `dozen` for its production, `dozen-staging` for its staging
    ///
    /// `git push dozen main` deploys. git asks dozen for your token, so that a push never prompts; it is not written to the repository. With --ssh
    /// git goes by SSH, and you are known by a key: `dozen ssh-keys add`.
    Remote {
        /// Push over SSH, to where the server says, or to this address
        #[arg(long, value_name = "URL", num_args = 0..=1, require_equals = true, default_missing_value = "", value_parser = address)]
        ssh: Option<String>,
    },
    /// What git runs to learn a token
    #[command(hide = true)]
    Credential {
        #[arg(value_enum)]
        what: Asked,
    },
}

impl GitArgs {
    /// Whether git has called, and not a person.
    pub(crate) fn is_asked_by_git(&self) -> bool {
        matches!(self.verb, Verb::Credential { .. })
    }
}

/// See gitcredentials(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Asked {
    Get,
    Store,
    Erase,
}

/// Adds remotes, or tells git a token.
pub(crate) async fn run(args: GitArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    match args.verb {
        Verb::Remote { ssh } => remote(ssh, settings, printer).await,
        Verb::Credential { what: Asked::Get } => credential(settings, printer),
        // What git has to say of what it was told: dozen keeps its own.
        Verb::Credential { what: Asked::Store | Asked::Erase } => Ok(0),
    }
}

/// One that is not named is the server's to say.
fn address(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { super::server::ssh(text) }
}

async fn remote(ssh: Option<String>, settings: &Settings, printer: &Printer) -> Result<i32> {
    let Some(server) = &settings.remote else {
        let hint = "Log in first, `dozen login URL`; of several servers `--server URL` names one.".to_owned();
        bail!(Told::failed("no server is chosen whose deploys could be pushed to", Some(hint)));
    };
    let named = match (&settings.app, &server.deploy) {
        (Some(name), _) => Some(name.parse::<DeployRef>()?.app),
        (None, Some(deploy)) => Some(deploy.app.clone()),
        (None, None) => None,
    };
    let mut connection = Connection::to(server).await?;
    let ssh = match ssh {
        Some(named) if named.is_empty() => {
            let account: wire::Account = connection.get("/v1/account").await?;
            let hint = "Name it, `--ssh=ssh://USER@HOST`; `dozen server --ssh` has the server say it to everybody.".to_owned();
            Some(
                account
                    .ssh
                    .ok_or_else(|| Told::failed(format!("{} does not say where it is pushed to over SSH", server.url), Some(hint)))?,
            )
        }
        named => named,
    };
    let apps: wire::Apps = connection.get("/v1/apps").await?;
    let known = || apps.apps.iter().map(|app| app.name.as_str()).collect::<Vec<_>>().join(", ");
    let Some(named) = named else { bail!(Told::failed("which app?", Some(format!("Name one with -a: {}.", known())))) };
    let Some(app) = apps.apps.iter().find(|app| app.name == named.as_str()) else {
        let hint = if apps.apps.is_empty() { format!("`dozen apps create {named}` makes it.") } else { format!("There are {}.", known()) };
        bail!(Told::failed(format!("there is no app {named} at {}", server.url), Some(hint)));
    };
    let mut remotes = Vec::new();
    for deploy in &app.deploys {
        let deploy: DeployRef = deploy.name.parse()?;
        let (name, path) = match deploy.deploy.as_str() {
            PRODUCTION => ("dozen".to_owned(), format!("{}.git", deploy.app)),
            other => (format!("dozen-{other}"), format!("{}/{other}.git", deploy.app)),
        };
        let base = ssh.clone().unwrap_or_else(|| server.url.to_string());
        let url = format!("{base}/{path}");
        let verb = if programs::git(&["remote", "get-url", &name]).is_ok() { "set-url" } else { "add" };
        programs::git(&["remote", verb, &name, &url])?;
        if ssh.is_some() {
            // Whose deploy it is does not show in an address of sshd's.
            programs::git(&["config", &format!("remote.{name}.{}", programs::SERVER), &server.url.to_string()])?;
        }
        remotes.push(wire::GitRemote { deploy: deploy.to_string(), remote: name, url });
    }
    if ssh.is_none() {
        have_git_ask(&server.url)?;
    }
    if printer.is_json() {
        printer.json(&wire::GitRemotes { remotes });
    } else {
        for remote in &remotes {
            printer.line(&format!("{:<16} {} ({})", remote.remote, remote.url, remote.deploy));
        }
    }
    Ok(0)
}

/// Has git ask dozen for the token of a server.
fn have_git_ask(server: &ServerUrl) -> Result<()> {
    // The first, which is empty, has git ask nobody else: another helper would keep the token, too.
    let key = format!("credential.{server}.helper");
    let own = std::env::current_exe().context("cannot tell where dozen is")?;
    let own = own.to_str().context("the path of dozen is not UTF-8")?;
    programs::git(&["config", "--replace-all", &key, ""])?;
    programs::git(&["config", "--add", &key, &format!("!{} git credential", shlex::try_quote(own)?)])?;
    Ok(())
}

/// Tells git the token for the server that it names; nothing where one is not logged in to that.
fn credential(settings: &Settings, printer: &Printer) -> Result<i32> {
    let (mut protocol, mut host) = (String::new(), String::new());
    for line in std::io::stdin().lock().take(MOST).lines() {
        let line = line.context("cannot read what git wants")?;
        match line.split_once('=') {
            Some(("protocol", value)) => value.clone_into(&mut protocol),
            Some(("host", value)) => value.clone_into(&mut host),
            _ if line.is_empty() => break,
            _ => {}
        }
    }
    let Ok(url) = format!("{protocol}://{host}").parse::<ServerUrl>() else { return Ok(0) };
    if let Some((user, token)) = settings.token_for(&url)? {
        printer.data(&format!("username={user}\npassword={token}"));
    }
    Ok(0)
}
