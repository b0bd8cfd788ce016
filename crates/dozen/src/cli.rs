//! The command line: noun, verb, one file a command. Heroku's `noun:verb` is read as `noun verb`.

use crate::api::wire;
use crate::client::Told;
use crate::printer::Printer;
use crate::running::AlreadyRunning;
use crate::settings::Settings;
use anyhow::Result;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use dozen_engine::backup::BackupError;
use dozen_engine::deploy::DeployError;
use dozen_engine::ledger::LedgerError;
use dozen_engine::port::PortError;
use dozen_engine::release::archive::ArchiveError;
use std::ffi::OsString;
use std::sync::Arc;

pub(crate) mod apps;
pub(crate) mod backup;
pub(crate) mod build;
pub(crate) mod builds;
pub(crate) mod certs;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod console;
pub(crate) mod deploy;
pub(crate) mod deploys;
pub(crate) mod doctor;
pub(crate) mod domains;
pub(crate) mod down;
pub(crate) mod drill;
pub(crate) mod events;
pub(crate) mod git;
pub(crate) mod lifecycle;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod man;
pub(crate) mod manners;
pub(crate) mod open;
pub(crate) mod promote;
pub(crate) mod ps;
pub(crate) mod releases;
pub(crate) mod resume;
mod rollback;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod slugs;
pub(crate) mod split;
pub(crate) mod ssh_keys;
pub(crate) mod static_files;
pub(crate) mod target;
pub(crate) mod test;
pub(crate) mod tokens;
pub(crate) mod up;
pub(crate) mod users;

/// The twelve-factor platform in one binary.
///
/// `dozen up` builds the app of a folder, releases it and runs it as production would: every process isolated, routed, logged and restarted. The
/// other commands find the app by the current folder. Heroku's spellings work too: `dozen ps:scale web=2`, `dozen config:set A=1`.
///
/// `dozen server` runs many apps for a team; after `dozen login URL` the same commands are for it, from anywhere.
///
/// All state is in one folder: DOZEN_HOME, else $XDG_STATE_HOME/dozen, else ~/.local/state/dozen.
#[derive(Debug, Parser)]
#[command(name = "dozen", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The app, or one deploy of it; by default the one of the current folder
    #[arg(short, long, global = true, value_name = "APP[/DEPLOY]")]
    pub(crate) app: Option<String>,
    /// The server to ask, as `dozen login` knows it; `local` is this machine. By default the one that the current folder's git remote `dozen` is
    /// of, else this machine [env: DOZEN_SERVER]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// The certificate of a server's own authority, PEM [env: DOZEN_CA]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) ca: Option<std::path::PathBuf>,
    /// Print JSON, one value a line, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print answers, warnings and errors only: no progress of a build, no confirmations, no platform lines while an app runs
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Print without colours, as with the environment variable NO_COLOR
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build, release and run the app of a folder, until Ctrl-C
    ///
    /// What did not change is not done again: the same source is not built twice, and a release is made only where code, config or resources
    /// changed. Ctrl-C stops all processes and gives them 10 s; a second one kills them. Nothing is left running, and data stays.
    Up(up::UpArgs),
    /// Build the app of a folder, and write its slug to a file that runs elsewhere
    ///
    /// Needs no deploy and no config: it ends with a slug in this machine's store, which `dozen up` takes instead of building again, and with -o
    /// in a file too. `dozen up --slug FILE` runs that on a machine with the same stack. The same code gives the same file.
    Build(build::BuildArgs),
    /// List the builds of a deploy, the latest first; cancel one
    ///
    /// What `up`, `deploy` and pushes built, and what waits for its turn to be.
    Builds(builds::BuildsArgs),
    /// Run the app's tests: app.json's `environments.test.scripts`
    ///
    /// They run in a jail, on a slug of the folder or of a commit that has what only development needs, too, with a config and resources that are
    /// made for them and thrown away. Their exit code becomes dozen's own. Without a server they run on this machine, and need nothing that runs.
    Test(test::TestArgs),
    /// Send code to a running deploy, which builds it, releases it and has it serve
    ///
    /// A folder as it is now, a commit of it, a tar file or a slug file; what is built is printed as it comes. Until the new release is up the one
    /// before serves on, and it goes on serving where the new one fails: the exit code is 1 then. A build that is under way is waited for. Whoever
    /// leaves (Ctrl-C) once all is sent stops nothing.
    Deploy(deploy::DeployArgs),
    /// Stop a deploy that runs in the background or in another terminal
    ///
    /// Waits until all of its processes have ended. Deletes nothing.
    Down,
    /// Bring back what ran in the background when the machine stopped
    ///
    /// Every deploy that `up --detach` brought up and `down` did not stop: the release that served, with its formation, on the same port; what
    /// `stop` stopped stays so. Nothing is built. For a unit of systemd or `@reboot` of cron. The exit code is 1 where one did not come up.
    Resume,
    /// List the processes with what they use; scale, stop, start and restart them
    Ps(ps::PsArgs),
    /// Stop process types, or all, until they are started again
    ///
    /// The deploy goes on, and so does its router: it answers requests with H14 while no web process runs. How many of each type there were is
    /// remembered, and a new release starts nothing of what is stopped; `dozen up` does. Waits until they have ended.
    Stop(lifecycle::StopArgs),
    /// Start process types that were stopped, or all of them
    ///
    /// Waits until they are up.
    Start(lifecycle::StartArgs),
    /// Restart all processes, those of a type, or one
    Restart(lifecycle::RestartArgs),
    /// Kill parts of a running deploy on purpose, under load, and report what its users would have seen
    ///
    /// In turn: an instance's process, its jail, a pause, a full /tmp, the router, the control part; after each it waits until everything is up
    /// again. Meanwhile it asks for a page at a steady rate. The exit code is 1 where a request failed or a line of the router's log is missing. A
    /// single web process cannot do without failures while it restarts: `dozen ps scale web=2`.
    Drill(drill::DrillArgs),
    /// Open the app in the browser, and print its URL
    ///
    /// $BROWSER, or where there is a display the desktop's browser. Without either it prints the URL.
    Open(open::OpenArgs),
    /// Show the logs of all processes and of the platform
    Logs(logs::LogsArgs),
    /// Show and change the config vars
    ///
    /// Values of 8 bytes and more are masked, unless they were set with --plain or stand in app.json. Each change makes a release; on a deploy
    /// that is not running the next `dozen up` makes it.
    Config(config::ConfigArgs),
    /// List the certificates that HTTPS is spoken with; add and remove them
    ///
    /// `dozen up --https-port N` has the router speak HTTPS. Names that nobody has on the Internet (shop.localhost, shop.test) are certified by an
    /// authority of this machine's dozen, which browsers trust when they are told to (`dozen certs ca`). For all others a certificate is added
    /// or ordered here. A host that has none gets no connection.
    Certs(certs::CertsArgs),
    /// List the domains that lead to the deploy; add and remove some
    ///
    /// The app's own name, `<app>.localhost`, always leads to it. A domain with a path leads what is at and below it; the path reaches the app
    /// as it came. Where `dozen up` runs one app, every other host name reaches it too. No release is made, nothing restarts, and it stays so.
    Domains(domains::DomainsArgs),
    /// Show whether maintenance mode is on; turn it on or off
    ///
    /// Visitors get a page with status 503 (H80), and nothing reaches the app; what it was doing for others it finishes. The config var
    /// MAINTENANCE_PAGE_URL has the address of a page to be shown instead, as ERROR_PAGE_URL has one for when the app cannot answer.
    Maintenance(manners::MaintenanceArgs),
    /// Have requests wait, for a moment's work on what the app needs; `pause off` sends them again
    ///
    /// Nothing new reaches the app; what it has it finishes. A request waits for 30 s at most, then it is answered with 503 (H80).
    Pause(manners::PauseArgs),
    /// Show whether plain HTTP is sent on to HTTPS; turn that on or off
    ///
    /// It is, where the router listens for HTTPS; requests of certificate authorities are not. --hsts tells browsers to remember it.
    Https(manners::HttpsArgs),
    /// List the releases, the latest first; show one, compare two
    Releases(releases::ReleasesArgs),
    /// List the slugs of a deploy's releases, which are their code; export one, collect what is not needed
    Slugs(slugs::SlugsArgs),
    /// Send parts of the requests to other releases beside the current one; `off` ends it, alone it is shown
    ///
    /// The others run as many `web` as the formation says, and no other process types; whoever declares a split says that they may work on the
    /// same data. It is kept until another release becomes current. Waits until they are up; where one fails, all requests go to the current one.
    Split(split::SplitArgs),
    /// Have another deploy of the app run the code that this one runs: the same slug, not built again
    ///
    /// Config, resources and formation of the other one stay as they are, and its release phase runs as for each release. `dozen promote -a
    /// shop/staging` promotes to shop/production. It is refused where the other one lacks config that app.json requires.
    Promote(promote::PromoteArgs),
    /// Make an earlier release's code and config current again, or one of both, as a new release
    ///
    /// The deploy must be running. Its data is not touched: a migration is not undone.
    Rollback(rollback::RollbackArgs),
    /// Run a one-off process with a release's code, config and resources
    ///
    /// It works whether the deploy runs or not. On a terminal it gets a terminal of its own, with the same size, and what is typed is its own, Ctrl-C
    /// too; otherwise input, output and signals are passed on as they are. Its exit code becomes dozen's own, 128 + n where a signal ended it.
    Run(run::RunArgs),
    /// Open the app's console: what app.json or the Procfile names, or the language's own shell
    ///
    /// It is a one-off like those of `run`, with the current release's code, config and resources.
    Console(console::ConsoleArgs),
    /// List the one-offs, the latest first; stop one
    Runs(runs::RunsArgs),
    /// Run many deploys behind one address, until Ctrl-C
    ///
    /// The platform for one machine and a small team: apps are pushed to it, released, promoted, scaled. One router leads each host to its deploy;
    /// the API, git and webhooks are a host of it, too. Settings come from these flags and the environment alone. It starts what it ran before;
    /// killed, it leaves all of it running, and the next one takes it over. Ctrl-C and SIGTERM stop everything.
    Server(server::ServerArgs),
    /// Write all that the home holds to one file: apps, releases, what they run, config, its key, what was pushed, data
    ///
    /// Whatever runs goes on meanwhile. Databases of SQLite are copied as they are at one moment; logs and caches are left out. The file has the
    /// key to all config, so keep it as you keep that, or seal it with --encrypt.
    Backup(backup::BackupArgs),
    /// Make a home of what `dozen backup` wrote, where none is yet
    ///
    /// All of the file is read and checked first. The next `dozen server` brings its deploys back.
    Restore(backup::RestoreArgs),
    /// Keep the token that a server knows you by; commands in a folder that is pushed there are for that server from then on
    ///
    /// Without --token it is asked for, without showing it, or read from standard input where that is no terminal. It is tried before it is
    /// kept, in $XDG_CONFIG_HOME/dozen/servers.json, which nobody else can read.
    Login(login::LoginArgs),
    /// Forget a server's token; the server goes on to know it: `dozen tokens revoke`
    Logout(login::LogoutArgs),
    /// Say which server is asked, and as whom
    Whoami,
    /// List the apps that you may see; create and destroy some
    Apps(apps::AppsArgs),
    /// List the deploys of an app; create and destroy some
    ///
    /// Each has its own config, formation, releases, domains and processes. One that has a branch or a time is a review app: `--branch pr-12 --ttl
    /// 3d`.
    Deploys(deploys::DeploysArgs),
    /// List the users; add and remove some, and say what they are to an app
    ///
    /// Roles: a viewer sees, a deployer releases and configures too, an owner also decides who else may. An admin may all of it for all apps.
    Users(users::UsersArgs),
    /// Have git push to the deploys of an app
    Git(git::GitArgs),
    /// List tokens; create and revoke some
    Tokens(tokens::TokensArgs),
    /// List the SSH keys that people push with; add and remove some
    ///
    /// They open git's own commands and nothing else, with the roles of the user whose they are. `dozen git remote --ssh` has git push so.
    SshKeys(ssh_keys::SshKeysArgs),
    /// Show who did what, when and from where, the latest first
    Events(events::EventsArgs),
    /// Serve a folder of files: a static site, or the page of an app that runs in the browser
    ///
    /// On $PORT, as in a Procfile's `web: dozen static dist --spa`; without one on this machine only. Conditional and range requests, files
    /// that are compressed beside themselves (.br, .zst, .gz), clean URLs and 404.html work; static.json is read from the current folder.
    Static(static_files::StaticArgs),
    /// Show what this machine gives, what dozen needs of it, and what to do about the difference
    ///
    /// Each thing is tried and not guessed at. The exit code is 1 where dozen cannot work, or where isolation is weaker than
    /// --require-isolation asks; what is merely weak, and how to cure it, is shown.
    Doctor(doctor::DoctorArgs),
    /// Print a script that lets bash, zsh or fish complete dozen's commands
    ///
    /// bash: `dozen completions bash > ~/.local/share/bash-completion/completions/dozen`; zsh: `dozen completions zsh > _dozen` in a folder of
    /// $fpath; fish: `dozen completions fish > ~/.config/fish/completions/dozen.fish`.
    Completions(completions::CompletionsArgs),
    /// Print dozen's manual page, or write those of all commands
    ///
    /// `dozen man | man -l -` shows it.
    Man(man::ManArgs),
}

/// Where a command has its effect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It neither reads nor writes DOZEN_HOME.
    Nowhere,
    /// On this machine; it is called so.
    Here(&'static str),
    /// On this machine, or on the server that is chosen.
    Anywhere,
    /// On a server: the only one that one is logged in to, where nothing names another; else on this machine.
    Server,
    /// In what is kept of servers.
    Login,
}

impl Command {
    /// Where it has its effect.
    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Static(_) | Self::Completions(_) | Self::Man(_) => Place::Nowhere,
            Self::Up(_) => Place::Here("up"),
            Self::Build(_) => Place::Here("build"),
            Self::Down => Place::Here("down"),
            Self::Resume => Place::Here("resume"),
            Self::Drill(_) => Place::Here("drill"),
            Self::Server(_) => Place::Here("server"),
            Self::Backup(_) => Place::Here("backup"),
            Self::Restore(_) => Place::Here("restore"),
            Self::Doctor(_) => Place::Here("doctor"),
            Self::Login(_) | Self::Logout(_) => Place::Login,
            Self::Git(args) if args.is_asked_by_git() => Place::Login,
            Self::Apps(_)
            | Self::Deploys(_)
            | Self::Users(_)
            | Self::Tokens(_)
            | Self::SshKeys(_)
            | Self::Events(_)
            | Self::Whoami
            | Self::Git(_) => Place::Server,
            _ => Place::Anywhere,
        }
    }
}

/// Reads the command line.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let words: Vec<OsString> = words.into_iter().collect();
    let plain = words.iter().take_while(|w| *w != "--").any(|w| w == "--no-color");
    let colour = if plain { clap::ColorChoice::Never } else { clap::ColorChoice::Auto };
    let mut matches = Cli::command().color(colour).try_get_matches_from(split_colons(words))?;
    Cli::from_arg_matches_mut(&mut matches)
}

/// Runs the command; answers the exit code.
pub(crate) async fn run(cli: Cli, settings: &Settings, printer: &Arc<Printer>) -> Result<i32> {
    match cli.command {
        Command::Up(args) => up::run(args, settings, printer).await,
        Command::Build(args) => build::run(args, settings, printer).await,
        Command::Builds(args) => builds::run(args, settings, printer).await,
        Command::Test(args) => test::run(args, settings, printer).await,
        Command::Deploy(args) => deploy::run(args, settings, printer).await,
        Command::Down => down::run(settings, printer).await,
        Command::Resume => resume::run(settings, printer).await,
        Command::Ps(args) => ps::run(args, settings, printer).await,
        Command::Logs(args) => logs::run(args, settings, printer).await,
        Command::Certs(args) => certs::run(args, settings, printer).await,
        Command::Config(args) => config::run(args, settings, printer).await,
        Command::Domains(args) => domains::run(args, settings, printer).await,
        Command::Maintenance(args) => manners::maintenance(args, settings, printer).await,
        Command::Pause(args) => manners::pause(args, settings, printer).await,
        Command::Https(args) => manners::https(args, settings, printer).await,
        Command::Stop(args) => lifecycle::stop(args, settings, printer).await,
        Command::Start(args) => lifecycle::start(args, settings, printer).await,
        Command::Restart(args) => lifecycle::restart(args, settings, printer).await,
        Command::Drill(args) => drill::run(args, settings, printer).await,
        Command::Open(args) => open::run(args, settings, printer).await,
        Command::Releases(args) => releases::run(args, settings, printer).await,
        Command::Slugs(args) => slugs::run(args, settings, printer).await,
        Command::Split(args) => split::run(args, settings, printer).await,
        Command::Promote(args) => promote::run(args, settings, printer).await,
        Command::Rollback(args) => rollback::run(args, settings, printer).await,
        Command::Run(args) => run::run(args, settings, printer).await,
        Command::Console(args) => console::run(args, settings, printer).await,
        Command::Runs(args) => runs::run(args, settings, printer).await,
        Command::Server(args) => server::run(args, settings, printer).await,
        Command::Backup(args) => backup::backup(args, settings, printer).await,
        Command::Restore(args) => backup::restore(args, settings, printer).await,
        Command::Login(args) => login::run(args, settings, printer).await,
        Command::Logout(args) => login::out(&args, settings, printer),
        Command::Whoami => login::whoami(settings, printer).await,
        Command::Apps(args) => apps::run(args, settings, printer).await,
        Command::Deploys(args) => deploys::run(args, settings, printer).await,
        Command::Users(args) => users::run(args, settings, printer).await,
        Command::Git(args) => git::run(args, settings, printer).await,
        Command::Tokens(args) => tokens::run(args, settings, printer).await,
        Command::SshKeys(args) => ssh_keys::run(args, settings, printer).await,
        Command::Events(args) => events::run(args, settings, printer).await,
        Command::Static(args) => static_files::run(args, printer).await,
        Command::Doctor(args) => doctor::run(args, settings, printer).await,
        Command::Completions(args) => {
            completions::run(&args, printer);
            Ok(0)
        }
        Command::Man(args) => man::run(&args, printer).map(|()| 0),
    }
}

/// `ps:scale` → `ps scale`, for the first word that is a command and only where the part before the colon is a noun of ours.
fn split_colons(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    const NOUNS: &[&str] = &[
        "apps",
        "builds",
        "certs",
        "config",
        "deploys",
        "domains",
        "git",
        "https",
        "maintenance",
        "pause",
        "ps",
        "releases",
        "runs",
        "slugs",
        "server",
        "ssh-keys",
        "split",
        "tokens",
        "users",
    ];
    let mut out = Vec::new();
    let mut done = false;
    let mut is_value = false;
    for (i, word) in words.into_iter().enumerate() {
        let text = word.to_str().unwrap_or_default();
        if i == 0 || done || is_value || text.starts_with('-') {
            is_value = !done && matches!(text, "-a" | "--app" | "--server" | "--ca");
            out.push(word);
            continue;
        }
        done = true;
        match text.split_once(':') {
            Some(("releases", "rollback")) => out.push("rollback".into()),
            Some(("run", "detached")) => out.extend(["run".into(), "--detach".into()]),
            Some((noun, verb)) if NOUNS.contains(&noun) && !verb.is_empty() => out.extend([noun.into(), verb.into()]),
            _ => out.push(word),
        }
    }
    out
}

/// A time as people write it, in seconds: 90s, 10m, 12h, 3d, 2w.
fn time(text: &str) -> Result<u64, String> {
    let wrong = || "write it as 90s, 10m, 12h, 3d or 2w".to_owned();
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    if number == 0 { Err(wrong()) } else { Ok(u64::from(number) * seconds) }
}

/// So many bytes, as people write them: 500MB, 20GB, 20GiB.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || "write it as 500MB, 20GB or 20GiB".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit {
        "MB" | "M" => 1_000_000,
        "GB" | "G" => 1_000_000_000,
        "TB" | "T" => 1_000_000_000_000,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

/// A word of a path, whatever a person typed.
fn segment(word: &str) -> String {
    url::form_urlencoded::byte_serialize(word.as_bytes()).collect()
}

/// What to do about an error, where we know it.
pub(crate) fn hint_of(error: &anyhow::Error) -> Option<String> {
    if let Some(told) = error.downcast_ref::<Told>() {
        return told.hint.clone();
    }
    if let Some(AlreadyRunning(holder)) = error.downcast_ref() {
        let deploy = &holder.deploy;
        let go_on = if holder.lasting { "`dozen up --detach` takes over from it. " } else { "" };
        return Some(format!(
            "{go_on}See it with `dozen ps -a {deploy}`, stop it with `dozen down -a {deploy}`, or give this one another --app."
        ));
    }
    error.downcast_ref().and_then(DeployError::hint)
}

/// The command line asks for what makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// 1 where an operation failed, 2 where dozen itself did or was asked for what makes no sense.
pub(crate) fn exit_code_of(error: &anyhow::Error) -> i32 {
    if error.downcast_ref::<Told>().is_some_and(|told| told.kind == wire::ProblemKind::Usage) {
        return 2;
    }
    let refused = matches!(error.downcast_ref(), Some(LedgerError::Forbidden { .. }));
    let failed = refused
        || error.is::<ArchiveError>()
        || error.is::<Told>()
        || error.is::<AlreadyRunning>()
        || error.is::<DeployError>()
        || error.is::<BackupError>()
        || error.is::<PortError>();
    if failed { 1 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(words: &[&str]) -> Vec<String> {
        split_colons(words.iter().map(OsString::from)).into_iter().map(|w| w.into_string().expect("UTF-8")).collect()
    }

    #[test]
    fn herokus_spellings_are_read() {
        assert_eq!(split(&["dozen", "ps:scale", "web=2"]), ["dozen", "ps", "scale", "web=2"]);
        assert_eq!(
            split(&["dozen", "--server", "https://a", "apps:create", "x"]),
            ["dozen", "--server", "https://a", "apps", "create", "x"]
        );
        assert_eq!(split(&["dozen", "-a", "config:x", "config:set", "A=b:c"]), ["dozen", "-a", "config:x", "config", "set", "A=b:c"]);
        assert_eq!(split(&["dozen", "run", "ps:scale"]), ["dozen", "run", "ps:scale"]);
        assert_eq!(split(&["dozen", "run:detached", "ps:scale"]), ["dozen", "run", "--detach", "ps:scale"]);
        assert_eq!(split(&["dozen", "domains:add", "a.test"]), ["dozen", "domains", "add", "a.test"]);
        assert_eq!(split(&["dozen", "maintenance:on"]), ["dozen", "maintenance", "on"]);
        assert_eq!(split(&["dozen", "releases:rollback", "v3"]), ["dozen", "rollback", "v3"]);
    }

    #[test]
    fn times_are_written_as_people_do() {
        assert_eq!(["90s", "10m", "12h", "3d", "2w"].map(time), [Ok(90), Ok(600), Ok(43_200), Ok(259_200), Ok(1_209_600)]);
        for text in ["", "3", "d", "0d", "-1d", "1.5h", "3 d", "3é", "99999999999d"] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_as_people_do() {
        assert_eq!(["500MB", "20GB", "20G", "1GiB"].map(size), [Ok(500_000_000), Ok(20_000_000_000), Ok(20_000_000_000), Ok(1 << 30)]);
        for text in ["", "20", "GB", "-1GB", "1.5GB", "20 GB", "99999999999999999999GB", "99999999999TB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
