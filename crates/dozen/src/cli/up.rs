//! `dozen up`: the whole way in the foreground, for one app.

use super::doctor::Required;
use super::target;
use crate::api::event::Event;
use crate::printer::Printer;
use crate::running::{self, RunFolder};
use crate::settings::Settings;
use crate::{api, client};
use anyhow::{Context, Result, bail};
use clap::Args;
use dozen_core::concurrency::formation::Formation;
use dozen_core::logs::{Filter, LogLine};
use dozen_core::port::{InvalidNetwork, Network};
use dozen_core::processes::State;
use dozen_core::release::{Release, Slug};
use dozen_engine::deploy::{BuildOptions, DeployError, Treatment};
use dozen_engine::ledger::{Intent, Ledger, Principal};
use dozen_engine::logs::{Follower, Store};
use dozen_engine::output::Output;
use dozen_engine::port::certificates::Keeper;
use dozen_engine::port::{Ahead, Left, Limits, Ports, Router, RouterSpec, Switchboard};
use dozen_engine::processes::adoption;
use dozen_engine::processes::notes::Notes;
use dozen_engine::release::collect;
use handover::Taken;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

mod detach;
mod handover;
mod slug;

/// A deploy's logs may take this many bytes of disk.
const LOG_BUDGET: u64 = 256 << 20;

/// `up --once` calls an app up that stays so for this long.
const WATCHED: Duration = Duration::from_secs(1);

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// The app's folder, with its Procfile
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Release this slug file (- is standard input) instead of building a folder; `dozen build -o FILE` makes one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dir", "use_python", "use_node"])]
    slug: Option<PathBuf>,
    /// The port to listen on; by default 8000 or the next free one (0: any)
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Answer HTTPS and HTTP/2 too, on this port (0: any); `dozen certs --help` says with which certificates
    #[arg(long, value_name = "N")]
    https_port: Option<u16>,
    /// Come up, then stop again; the exit code is 0 where every process was up and stayed so for a second
    #[arg(long)]
    once: bool,
    /// Go on in the background once every process is up; `dozen down` ends it. Takes over what another one runs, or has left running
    #[arg(long, conflicts_with = "once")]
    detach: bool,
    /// Use this Python, a version or a path, whatever the app's files say; the deploy keeps it
    #[arg(long, value_name = "VERSION|PATH")]
    use_python: Option<String>,
    /// Let one client address have at most so many connections (1000; clients on this host as many as they like)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections_per_address: Option<u32>,
    /// Threads of the router, each with connections to instances of its own (one for each core, at most two)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Use this Node, a version or a path, whatever the app's files say; the deploy keeps it
    #[arg(long, value_name = "VERSION|PATH")]
    use_node: Option<String>,
    /// Believe what proxies of this network, or this address, say of where a request came from: X-Forwarded-Proto, -Port, X-Request-Start.
    /// Several times for several; the deploy keeps them; `none` trusts nobody any more
    #[arg(long, value_name = "CIDR", value_parser = trusted)]
    trusted_proxy: Vec<Trusted>,
    /// Refuse to run where isolation is weaker: namespaces, user-namespaces or session, and `,hardened` for all of Landlock and seccomp
    #[arg(long, value_name = "LEVEL")]
    require_isolation: Option<Required>,
    /// The background half of --detach
    #[arg(long, hide = true)]
    lasting: bool,
    /// Only take over what a killed one has left running, as it is: nothing is built
    #[arg(long, hide = true, conflicts_with_all = ["dir", "slug", "use_python", "use_node", "once"])]
    left: bool,
}

/// A proxy, or nobody.
#[derive(Debug, Clone, Copy)]
enum Trusted {
    Nobody,
    Network(Network),
}

fn trusted(text: &str) -> Result<Trusted, InvalidNetwork> {
    if text == "none" { Ok(Trusted::Nobody) } else { text.parse().map(Trusted::Network) }
}

/// What is brought up.
enum Code {
    /// Of a folder, to be built.
    Folder(PathBuf),
    /// Of the store.
    Slug(Box<Slug>),
    /// What runs without its control part.
    Left,
}

impl Code {
    fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::Folder(folder) => Some(folder.clone()),
            Self::Slug(_) | Self::Left => None,
        }
    }
}

/// Brings an app up and stays until it is told to stop.
pub(crate) async fn run(args: UpArgs, settings: &Settings, printer: &Arc<Printer>) -> Result<i32> {
    if let Some(required) = args.require_isolation {
        required.check(dozen_engine::processes::isolation(&settings.exe).await)?;
    }
    if args.detach && !args.lasting {
        let input = args.slug.as_deref().is_some_and(slug::is_stdin);
        return detach::run(input, printer).await;
    }
    if args.lasting {
        // The terminal that started it may close. An error means that it already leads a session.
        let _ = rustix::process::setsid();
    }
    let (ledger, deploy, code) = match &args.slug {
        None if args.left => (Ledger::open(&settings.home)?, target::find(settings).await?, Code::Left),
        None => {
            let folder = target::folder(settings, &args.dir)?;
            let ledger = Ledger::open(&settings.home)?;
            let deploy = target::name(settings, &ledger, &folder).await?;
            (ledger, deploy, Code::Folder(folder))
        }
        Some(file) => {
            // Before anything else is changed: a file that is refused leaves no trace.
            let (slug, app) = slug::take_in(file, settings, printer).await?;
            let ledger = Ledger::open(&settings.home)?;
            let deploy = target::of_slug(settings, &ledger, &app).await?;
            (ledger, deploy, Code::Slug(Box::new(slug)))
        }
    };
    // Before one that runs is asked to leave: from then on a signal is for what is taken over.
    let mut signals = Signals::listen()?;
    if running::is_left_by_a_server(&settings.home, &deploy) {
        let message = format!("{deploy} is one of `dozen server`'s, which was killed; what it ran goes on");
        return Err(client::Told::failed(message, Some(running::way_on(&settings.home, &deploy))).into());
    }
    let Taken { run_folder, ahead } = match args.lasting {
        true => match handover::take(settings, &deploy, args.ports(), &mut signals, printer).await? {
            Some(taken) => taken,
            None => return Ok(INTERRUPTED),
        },
        false => Taken { run_folder: RunFolder::take(&settings.home, &deploy, false)?, ahead: Ahead::default() },
    };
    let notes = run_folder.notes();
    // What `up` starts in the foreground ends with it.
    let lasting = args.lasting.then(|| notes.clone());
    adoption::check(&notes)?;
    // Of a control part that was killed there may be a router only, which has requests wait.
    let found = notes.any();
    // Before a build that may take minutes: a port that is taken is told at once.
    let per_address = args.max_connections_per_address.and_then(|n| usize::try_from(n).ok());
    let limits = Limits { per_address, ..Limits::default() };
    let spec = RouterSpec::new(&settings.exe, settings.home.clone());
    let workers = args.workers.map_or(spec.workers, usize::from);
    let spec = RouterSpec { lasting: lasting.clone(), limits, workers, ..spec };
    let router = router(args.ports(), ahead, &notes, spec).await?;
    let (port, https_port) = (router.port(), router.https_port());
    let board = Switchboard::start(router, []);
    let url = format!("http://{}.localhost:{port}", deploy.app);
    let https_url = https_port.map(|port| format!("https://{}.localhost:{port}", deploy.app));

    let who = Principal::me();
    if let (None, Some(folder)) = (ledger.deploy(&deploy).await?, code.folder()) {
        dozen_engine::deploy::check(&folder)?;
    }
    // The deploy gets its row, and with it its uid, before its driver starts.
    ledger.commit(&who, Intent::Adopt { deploy: deploy.clone(), folder: code.folder() }).await?;
    let about = client::About::up(&deploy, Some(board.line(deploy.clone())), lasting, true);
    let names = about.names.clone();
    let floor = client::floor(settings, ledger, &deploy, about).await?;
    if !args.trusted_proxy.is_empty() {
        let networks = args.trusted_proxy.iter().filter_map(|t| if let Trusted::Network(network) = t { Some(*network) } else { None });
        floor.treat(&who, Treatment { trusted: Some(networks.collect()), ..Treatment::default() }).await?;
    }
    // A router that was left running goes on with what it has, a new one has nothing yet.
    let keeper = https_port.map(|_| Arc::new(Keeper::of(&floor, &names)));
    if let Some(keeper) = &keeper {
        keeper.look().await.context("cannot begin to speak HTTPS")?;
    }
    floor.take_over(&who, &notes, args.lasting).await?;
    if found || args.left {
        floor.go_on(&who).await?;
    }
    let served = Arc::new(api::Served {
        floor,
        url: Some(url),
        https_url,
        keeper: keeper.clone(),
        lasting: args.lasting,
        of_server: false,
        down: Notify::new(),
        leave: Notify::new(),
    });
    let api = dozen_engine::tasks::spawn("api", api::serve(run_folder.bind()?, api::router(served.clone())));

    let budget = dozen_engine::tasks::spawn("log budget", keep_within_budget(served.floor.observed.store().clone()));

    let splits = api::watch_splits(served.clone());

    let keeper = keeper.map(|keeper| dozen_engine::tasks::spawn("certificates", keeper.keep()));
    let room = collect::keep(served.floor.ledger.clone(), settings.disk_budget);
    let room = dozen_engine::tasks::spawn("collect", room);

    let mut session = Session::begin(served.clone(), (board, (port, https_port)), signals, printer, found)?;
    let result = session.live(&args, &who, code).await;
    if let Err(e) = &result
        && args.lasting
    {
        // The foreground half prints it and goes; stopping is ours alone.
        printer.error(e);
        printer.mute();
    }
    if session.leaves {
        drop(run_folder);
        // At once: all that is in memory of what runs, as the leases of its ports, is the next one's to give back.
        std::process::exit(i32::from(result.is_err()));
    }
    session.stop(&who).await?;
    api.abort();
    budget.abort();
    room.abort();
    splits.abort();
    keeper.inspect(|keeper| keeper.abort());
    drop(run_folder);
    result
}

impl UpArgs {
    fn ports(&self) -> Ports {
        Ports { http: self.port, https: self.https_port, address: None }
    }
}

/// A router of an older version goes as soon as all that it has in flight has ended, and after this.
pub(super) const LEAVES: Duration = Duration::from_secs(300);

/// The router that was left running, or a new one where there is none or other ports are asked for, which may be bound already.
pub(crate) async fn router(ports: Ports, ahead: Ahead, notes: &Notes, spec: RouterSpec) -> Result<Router> {
    let listeners = match Router::find(spec.clone(), notes).await? {
        Some(Left::Serving(mut router)) if ports.are(router.port(), router.https_port()) => {
            if !router.is_current() {
                router.replace(LEAVES).await?;
            }
            return Ok(*router);
        }
        Some(Left::Serving(router)) => {
            let listeners = ports.beside(ahead, router.listeners())?;
            router.stop(Duration::from_secs(1)).await;
            listeners
        }
        Some(Left::Gone(http, https)) => ports.bind(ahead, Some((http, https)))?,
        None => ports.bind(ahead, None)?,
    };
    Ok(Router::spawn(spec, listeners)?)
}

/// Ctrl-C before anything was up: 128 + SIGINT, as a shell says it.
const INTERRUPTED: i32 = 130;

/// The terminal's side of a deploy that this process runs: its lines are printed while it is waited for, and Ctrl-C is heard.
struct Session<'a> {
    served: Arc<api::Served>,
    router: Switchboard,
    /// The router's, and the one for HTTPS.
    ports: (u16, Option<u16>),
    printer: &'a Arc<Printer>,
    /// `None` from when nobody reads what would be printed.
    lines: Option<Follower>,
    signals: Signals,
    /// What runs was taken over: it goes on, whatever becomes of what is brought up.
    found: bool,
    /// Another control part goes on with it.
    leaves: bool,
    /// It was told by a signal to stop.
    signalled: bool,
}

/// Someone asked it to stop before what was waited for came.
struct Stopped;

impl<'a> Session<'a> {
    fn begin(
        served: Arc<api::Served>,
        (router, ports): (Switchboard, (u16, Option<u16>)),
        signals: Signals,
        printer: &'a Arc<Printer>,
        found: bool,
    ) -> Result<Self> {
        let (_, lines) = served.floor.observed.store().tail(Some(0), &Filter::default())?;
        Ok(Self { served, router, ports, printer, lines: Some(lines), signals, found, leaves: false, signalled: false })
    }

    /// Source to formation, and then on until it is told to stop. Answers the exit code.
    async fn live(&mut self, args: &UpArgs, who: &Principal, code: Code) -> Result<i32> {
        let printer = self.printer.clone();
        match self.launch(args, who, code).await {
            // What was taken over served before, in the background, and is to go on.
            Ok(Some(_)) if self.found && self.signalled && args.lasting => return Err(self.go_back().into()),
            Ok(Some(_)) if self.leaves => {
                let message = format!("another `dozen up --detach` took {} over before this one was up", self.served.floor.deploy);
                return Err(client::Told::failed(message, None).into());
            }
            Ok(Some(code)) => return Ok(code),
            Ok(None) => {}
            Err(e) if self.found && !args.once => {
                // What served before is no worse for what was refused now.
                let Ok(release) = self.served.floor.current().await else { return Err(e) };
                printer.error(&e);
                if printer.is_json() {
                    let formation = self.served.floor.formation(&release.slug).await?;
                    self.tell_ready(&release, &formation);
                }
            }
            Err(e) => return Err(e),
        }
        if args.lasting {
            printer.mute();
            self.lines = None;
        }
        // Stopped is how one ends it, no failure.
        let _ = self.unless_stopped(std::future::pending::<()>()).await;
        Ok(0)
    }

    /// Gives a change up in its midst, as if this process were killed, and has the program begin anew by taking over what is left. Answers why
    /// it could not.
    fn go_back(&self) -> std::io::Error {
        use std::os::unix::process::CommandExt;
        let (deploy, port) = (self.served.floor.deploy.to_string(), self.ports.0.to_string());
        self.printer.error(&anyhow::anyhow!("Interrupted: what ran before runs on"));
        #[expect(clippy::disallowed_methods, reason = "dozen itself, in the place of this process")]
        let mut again = std::process::Command::new("/proc/self/exe");
        again.args(["-a", &deploy, "up", "--detach", "--left", "--port", &port, "--lasting", "--json"]);
        if let Some(port) = self.ports.1 {
            again.args(["--https-port", &port.to_string()]);
        }
        again.env("DOZEN_HOME", self.served.floor.ledger.home().root()).exec()
    }

    fn tell_ready(&self, release: &Release, formation: &Formation) {
        let (deploy, release) = (self.served.floor.deploy.to_string(), release.version.to_string());
        let (url, https_url) = match has_web(formation) {
            true => (self.served.url.clone(), self.served.https_url.clone()),
            false => (None, None),
        };
        self.printer.json(&Event::Ready { deploy, url, https_url, release });
    }

    /// Source to formation. Answers the exit code where that is all.
    async fn launch(&mut self, args: &UpArgs, who: &Principal, code: Code) -> Result<Option<i32>> {
        let (served, printer) = (self.served.clone(), self.printer.clone());
        let floor = &served.floor;
        let as_it_was = matches!(code, Code::Left);
        let options = BuildOptions { use_python: args.use_python.clone(), use_node: args.use_node.clone(), folders: true };
        let bring_up = async {
            match code {
                Code::Folder(folder) => floor.bring_up(who, folder, &options, printer.clone()).await,
                Code::Slug(slug) => floor.bring_up_slug(who, *slug, printer.clone()).await,
                Code::Left => floor.current().await.map(|release| (Arc::new(release), false)),
            }
        };
        let Ok(brought) = self.unless_stopped(bring_up).await else { return Ok(Some(INTERRUPTED)) };
        let (release, new) = brought?;
        let formation = floor.formation(&release.slug).await?;
        self.announce(&release, new, &formation);
        let manners = floor.front().await?.manners;
        if manners.maintenance {
            printer.warning("maintenance mode is on: visitors get a page that says so, until `dozen maintenance off`");
        }
        if manners.paused {
            printer.warning("requests are paused: they wait, until `dozen pause off`");
        }
        let found = self.found;
        let come_up = async {
            // Beside what was taken over, or where nothing runs.
            if new && floor.succeeds(&release).await? {
                return floor.succeed(who, release.clone(), &*printer).await.map(Ok);
            }
            if !as_it_was {
                floor.serve(who, release.clone()).await?;
            }
            if found && !new { floor.come_back(&release).await } else { floor.come_up(who, &release).await }
        };
        let Ok(up) = self.unless_stopped(come_up).await else {
            return Ok(Some(if args.once { INTERRUPTED } else { 0 }));
        };
        match up? {
            Ok(()) => {
                if args.lasting {
                    let (deploy, (port, https_port)) = (floor.deploy.clone(), self.ports);
                    floor.ledger.commit(who, Intent::Keep { deploy, port: Some(port), https_port }).await?;
                }
                if printer.is_json() {
                    self.tell_ready(&release, &formation);
                }
                if args.once {
                    // Many a server binds its port first and fails at what it loads then.
                    let watched = tokio::time::timeout(WATCHED, floor.falls(&release));
                    let Ok(fallen) = self.unless_stopped(watched).await else { return Ok(Some(INTERRUPTED)) };
                    let Ok(reason) = fallen else { return Ok(Some(0)) };
                    let message = format!("{} {} came up and did not stay up: {}", floor.deploy, release.version, reason?);
                    bail!(client::Told::failed(message, Some("Its last lines: `dozen logs`.".to_owned())));
                }
            }
            Err(reason) if args.once || args.lasting => {
                let message = format!("{} {} did not come up: {reason}", floor.deploy, release.version);
                bail!(client::Told::failed(message, Some("Its last lines: `dozen logs`.".to_owned())))
            }
            // The person sees its output, and it is started again; the next `config set` or `up` may cure it.
            Err(_) => {}
        }
        Ok(None)
    }

    fn announce(&self, release: &Release, new: bool, formation: &Formation) {
        let printer = &**self.printer;
        let url = self.served.url.as_deref().unwrap_or_default();
        printer.step("Launching...");
        printer.detail(&if new { format!("Released {}", release.version) } else { format!("Nothing changed: {} again", release.version) });
        if has_web(formation) {
            printer.detail(&format!("{url} deployed"));
            self.served
                .https_url
                .iter()
                .for_each(|url| printer.detail(&format!("{url} too; `dozen certs ca` says how browsers come to trust it")));
        } else {
            printer.warning("the formation has no web process: nothing is routed");
        }
        if printer.is_json() {
            let deploy = self.served.floor.deploy.to_string();
            printer.json(&Event::Released { deploy, release: release.version.to_string(), new, url: url.to_owned() });
        }
    }

    /// Waits for `work` while lines are printed; a signal, or `dozen down`, ends the wait.
    async fn unless_stopped<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Stopped> {
        tokio::pin!(work);
        let served = self.served.clone();
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = self.signals.next() => {
                    self.signalled = true;
                    let runs = served.floor.observed.seen().iter().any(|s| s.state != State::Down);
                    if runs && !self.printer.is_json() {
                        self.printer.note("Stopping; Ctrl-C again kills at once");
                    }
                    return Err(Stopped);
                }
                () = served.down.notified() => return Err(Stopped),
                () = served.leave.notified() => {
                    self.leaves = true;
                    return Err(Stopped);
                }
                batch = next_lines(&mut self.lines) => batch.iter().for_each(|l| self.printer.live(l)),
            }
        }
    }

    /// Stops everything; a second signal kills.
    async fn stop(mut self, who: &Principal) -> Result<()> {
        let served = self.served.clone();
        let again = Notify::new();
        let stop = async {
            served.floor.stop(who, again.notified()).await?;
            // Its last lines are read below.
            self.router.clone().end().await;
            Ok::<_, DeployError>(())
        };
        tokio::pin!(stop);
        let stopped = loop {
            tokio::select! {
                stopped = &mut stop => break stopped,
                () = self.signals.next() => again.notify_one(),
                batch = next_lines(&mut self.lines) => batch.iter().for_each(|l| self.printer.live(l)),
            }
        };
        let rest = self.lines.as_mut().map(Follower::take).unwrap_or_default();
        rest.iter().for_each(|l| self.printer.live(l));
        Ok(stopped?)
    }
}

async fn next_lines(lines: &mut Option<Follower>) -> Vec<LogLine> {
    match lines {
        Some(lines) => lines.next().await,
        None => std::future::pending().await,
    }
}

fn has_web(formation: &Formation) -> bool {
    formation.iter().any(|(kind, n)| kind.is_web() && n > 0)
}

/// Deletes the oldest log segments beyond the budget, now and every minute.
pub(crate) async fn keep_within_budget(store: Arc<Store>) {
    let mut minute = tokio::time::interval(Duration::from_secs(60));
    loop {
        minute.tick().await;
        if let Err(e) = store.prune(LOG_BUDGET) {
            store.write("logs", &format!("Cannot delete old logs: {}", dozen_engine::chain(&e)));
        }
    }
}

/// What tells a foreground program to end.
pub(super) struct Signals {
    ends: [Signal; 4],
    /// Others use them to have logs opened again and the like. Nobody means the end by them, which is what they would be.
    _passed_over: [Signal; 2],
}

impl Signals {
    pub(super) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            ends: [
                listen(SignalKind::interrupt())?,
                listen(SignalKind::terminate())?,
                listen(SignalKind::hangup())?,
                listen(SignalKind::quit())?,
            ],
            _passed_over: [listen(SignalKind::user_defined1())?, listen(SignalKind::user_defined2())?],
        })
    }

    pub(super) async fn next(&mut self) {
        let [interrupt, terminate, hangup, quit] = &mut self.ends;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = quit.recv() => {}
        }
    }
}
