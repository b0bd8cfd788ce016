//! `dozen server`: many deploys behind one address, in the foreground.

use super::up::{LEAVES, Signals, router};
use crate::api::{self, platform};
use crate::client::Told;
use crate::house::{self, Addresses, House};
use crate::printer::Printer;
use crate::running::{AlreadyRunning, RunFolder};
use crate::settings::Settings;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use dozen_core::ids::DeployRef;
use dozen_core::port::Domain;
use dozen_engine::ledger::{Ledger, Principal};
use dozen_engine::output::Output;
use dozen_engine::port::{Ahead, Limits, Ports, RouterSpec, Switchboard};
use dozen_engine::processes::adoption;
use dozen_engine::release::collect;
use std::net::{IpAddr, TcpListener};
use std::str::FromStr;
use std::sync::Arc;

mod check;
mod install;
mod installed;
mod sshd;
mod units;
mod upgrade;

pub(crate) use upgrade::{PROBE, ROLE as UPGRADE, probe, trial};

/// Arguments.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ServerArgs {
    #[command(subcommand)]
    verb: Option<Verb>,

    /// Where to listen: a port of this machine only, or an address and a port; 0.0.0.0:80 and [::]:80 are everybody's. 0 is any port
    #[arg(long, value_name = "[ADDRESS:]PORT", default_value = "8000", env = "DOZEN_LISTEN")]
    listen: Listen,
    /// Answer HTTPS and HTTP/2 too, on this port of the same address (0: any)
    #[arg(long, value_name = "N", env = "DOZEN_HTTPS_PORT")]
    https_port: Option<u16>,
    /// The host of the API, of git and of webhooks; every other host is a deploy's
    #[arg(long, value_name = "HOST", default_value = "dozen.localhost", env = "DOZEN_API_HOST", value_parser = host)]
    api_host: String,
    /// Give each deploy a host below this domain, too: shop.example.com beside shop.localhost
    #[arg(long, value_name = "DOMAIN", env = "DOZEN_DOMAIN", value_parser = host)]
    domain: Option<String>,
    /// How much of the disk slugs and build caches may take, as in 500MB or 20GB: beyond it what was not used for longest goes. Slugs that
    /// releases need stay
    #[arg(long, value_name = "SIZE", default_value = "20GB", env = "DOZEN_DISK_BUDGET", value_parser = super::size)]
    disk_budget: u64,
    /// Where the host's sshd takes pushes, as people are to be told: ssh://dozen@dozen.example.com
    #[arg(long, value_name = "URL", env = "DOZEN_SSH", value_parser = ssh)]
    ssh: Option<String>,
    /// Let one client address have at most so many connections (1000; clients on this host as many as they like)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections_per_address: Option<u32>,
    /// Threads of the router, each with connections to instances of its own (one for each core, at most two)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
}

/// What else is done for a server.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Look whether all that the home holds fits together: the ledger, every file of every slug, the repositories
    ///
    /// Changes nothing, whether a server runs or not. The exit code is 1 where anything is wrong.
    Check,
    /// Have systemd run a server on this machine: an account, a folder, units, the first token
    ///
    /// As root. Once more it brings what is installed to what is asked for now. What is there and is not dozen's is not replaced.
    Install(install::InstallArgs),
    /// Take back what `install` did; the state of all apps stays
    Uninstall(install::UninstallArgs),
    /// Have another binary of dozen go on with all that this server runs, without a request lost
    ///
    /// It has to say that it can read what is there, and has to come up; else the one before goes on. The server's process stays the same, and so
    /// do those of the apps. What is pushed or released at that moment is waited for. As the server's owner, who has to be able to replace its
    /// binary, or as root.
    Upgrade(upgrade::UpgradeArgs),
    /// Print what the host's sshd has to be told, so that people push over SSH: for a file below /etc/ssh/sshd_config.d
    SshdConfig(sshd::SshdArgs),
}

/// An address of this machine, or the loopback's two, and a port.
#[derive(Debug, Clone, Copy)]
struct Listen {
    address: Option<IpAddr>,
    port: u16,
}

impl FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(port) = text.parse() {
            return Ok(Self { address: None, port });
        }
        let at: std::net::SocketAddr = text.parse().map_err(|_| "give a port, or an address and a port: 8000, 0.0.0.0:80, [::]:80")?;
        Ok(Self { address: Some(at.ip()), port: at.port() })
    }
}

fn host(text: &str) -> Result<String, String> {
    let domain: Domain = text.parse().map_err(|e| format!("{e}"))?;
    if domain.path().is_empty() && !domain.host().starts_with("*.") {
        Ok(domain.host().to_owned())
    } else {
        Err("give a host name".to_owned())
    }
}

/// `ssh://USER@HOST[:PORT]`
pub(crate) fn ssh(text: &str) -> Result<String, String> {
    let url: url::Url = text.parse().map_err(|_| "give a URL: ssh://dozen@dozen.example.com")?;
    let plain = url.password().is_none() && url.query().is_none() && url.fragment().is_none() && matches!(url.path(), "" | "/");
    if url.scheme() == "ssh" && url.host().is_some() && !url.username().is_empty() && plain {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err("give a URL with a user and a host: ssh://dozen@dozen.example.com".to_owned())
    }
}

/// Serves until it is told to stop, or does what else was asked for.
pub(crate) async fn run(args: ServerArgs, settings: &Settings, printer: &Arc<Printer>) -> Result<i32> {
    match args.verb {
        Some(Verb::Check) => check::run(settings, printer).await,
        Some(Verb::Install(args)) => install::install(&args, printer),
        Some(Verb::Uninstall(args)) => install::uninstall(&args, printer),
        Some(Verb::Upgrade(args)) => upgrade::run(&args, settings, printer).await,
        Some(Verb::SshdConfig(args)) => sshd::run(args, settings, printer),
        None => serve(args, settings, printer).await,
    }
}

async fn serve(args: ServerArgs, settings: &Settings, printer: &Arc<Printer>) -> Result<i32> {
    let mut signals = Signals::listen()?;
    let ledger = Ledger::open(&settings.home)?;
    let itself: DeployRef = house::itself();
    let run_folder = RunFolder::take(&settings.home, &itself, true).map_err(|e| match e.downcast::<AlreadyRunning>() {
        Ok(AlreadyRunning(holder)) => {
            let message = format!("a server of {} runs already ({holder})", settings.home.root().display());
            Told::failed(message, Some("DOZEN_HOME names another home for another server.".to_owned())).into()
        }
        Err(e) => e,
    })?;
    let notes = run_folder.notes();
    adoption::check(&notes)?;
    let limits = Limits { per_address: args.max_connections_per_address.and_then(|n| usize::try_from(n).ok()), ..Limits::default() };
    let spec = RouterSpec::new(&settings.exe, settings.home.clone());
    let workers = args.workers.map_or(spec.workers, usize::from);
    let spec = RouterSpec { lasting: Some(notes.clone()), limits, workers, ..spec };
    let ports = Ports { address: args.listen.address, http: Some(args.listen.port), https: args.https_port };
    let (ports, ahead) = given(settings, ports)?;
    dozen_engine::processes::reap_those_before();
    let mut router = router(ports, ahead, &notes, spec).await?;
    if upgrade::is_another(router.pid()) {
        router.replace(LEAVES).await?;
    }
    let (port, https_port) = (router.port(), router.https_port());
    let addresses = Addresses { port, https_port, domain: args.domain.clone(), api_host: args.api_host.clone(), ssh: args.ssh.clone() };
    let board = Switchboard::start(router, ledger.deploys().await?.into_iter().chain([itself.clone()]));
    let settings = &Settings { disk_budget: args.disk_budget, ..settings.clone() };
    let house = House::new(settings.clone(), ledger, addresses, board.clone());
    for (deploy, error) in &house.open_all().await? {
        printer.warning(&format!("{deploy} is not served: {}", dozen_engine::chain(&**error)));
    }
    // Whoever asks for a deploy finds it open.
    let (pushes, [public, hooks]) = platform::open(&house, &board, &itself).await.context("cannot open the API")?;
    if let Err(e) = api::keys::authorize(&house).await {
        printer.warning(&format!("nobody can push over SSH: {}", dozen_engine::chain(&*e)));
    }
    let here = dozen_engine::tasks::spawn("api", api::serve(run_folder.bind()?, platform::local(&house, Some(pushes))));
    let time = dozen_engine::tasks::spawn("time", house.clone().keep_time());
    let room = dozen_engine::tasks::spawn("collect", collect::keep(house.ledger.clone(), settings.disk_budget));
    greet(&house, printer).await?;
    let mut successor = house.successor.subscribe();
    let gives_way = tokio::select! {
        () = signals.next() => None,
        named = successor.wait_for(Option::is_some) => named.ok().and_then(|named| named.clone()),
    };
    if let Some((binary, before)) = gives_way {
        printer.note("Giving way to another dozen");
        return Err(upgrade::give_way(&settings.home, &binary, &before).context("cannot give way to another dozen"));
    }
    printer.note("Stopping; Ctrl-C again kills at once");
    time.abort();
    room.abort();
    let end = house.end();
    tokio::pin!(end);
    let ended = loop {
        tokio::select! {
            ended = &mut end => break ended,
            () = signals.next() => house.kill(),
        }
    };
    for task in [public, hooks, here] {
        task.abort();
        // It leaves nothing when it has ended.
        let _ = task.await;
    }
    drop(run_folder);
    ended.map(|()| 0)
}

/// Sockets that systemd has bound take the place of what would be bound here.
fn given(settings: &Settings, ports: Ports) -> Result<(Ports, Ahead)> {
    let (mut plain, mut tls) = (Vec::new(), Vec::new());
    for (name, socket) in settings.given.iter() {
        let socket = socket.try_clone().context("cannot take the sockets that were handed down")?;
        if name.contains("https") { &mut tls } else { &mut plain }.push(TcpListener::from(socket));
    }
    let ahead = Ahead::given(plain, tls).context("cannot listen on what was handed down as a socket (LISTEN_FDS)")?;
    let (http, https) = ahead.ports();
    let address = ports.address.filter(|_| http.is_none());
    Ok((Ports { address, http: http.or(ports.http), https: https.or(ports.https) }, ahead))
}

/// Says where it is reached, and to who starts it for the first time how to begin.
async fn greet(house: &Arc<House>, printer: &Arc<Printer>) -> Result<()> {
    let url = house.addresses().map(Addresses::api).unwrap_or_default();
    let who = Principal::me();
    let first = house.ledger.first_token(&who).await?;
    if printer.is_json() {
        printer.json(&crate::api::event::Event::Serving { url, token: first.map(|token| token.text.expose().to_owned()) });
        return Ok(());
    }
    printer.line(&format!("dozen {} serves {url}", env!("CARGO_PKG_VERSION")));
    if let Some(token) = first {
        printer.line(&format!(
            "\nThe first token, of the user admin, is shown this once:\n\n    dozen login {url} --token {}\n",
            token.text.expose()
        ));
    }
    Ok(())
}
