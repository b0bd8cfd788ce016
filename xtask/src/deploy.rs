//! `cargo xtask soak deploy`: a server that is killed with SIGKILL at random points of pushes, changes of config, rollbacks, promotions,
//! collections, and of deploys that are made and destroyed.
//!
//! Whoever asks for the app's page meanwhile is answered each time. After each kill a new server finds a ledger, slugs and a repository that
//! are whole (`dozen server check`), no release is half there, the page is that of the release that the ledger says is current, and what a
//! client was told is done is done. A run is repeated with the seed that it prints, as far as the machine's own timing lets it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::Options;
use crate::process::{Running, free_port, pause, program, read, run, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
const HOST: &str = "shop.localhost";
pub(crate) const API: &str = "dozen.localhost";

/// What is done to the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    /// New code, which comes up.
    Push,
    /// New code that does not come up.
    PushBroken,
    /// New code whose release phase fails.
    PushRefused,
    /// Another value of a config var.
    Configure,
    /// To the release before.
    Rollback,
    /// What staging runs.
    Promote,
    /// What no release needs any more is removed.
    Collect,
    /// A deploy is made, and destroyed.
    Review,
}

const ACTS: [Act; 8] =
    [Act::Push, Act::PushBroken, Act::PushRefused, Act::Configure, Act::Rollback, Act::Promote, Act::Collect, Act::Review];

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Push => "push",
            Self::PushBroken => "push that does not come up",
            Self::PushRefused => "push whose release phase fails",
            Self::Configure => "config set",
            Self::Rollback => "rollback",
            Self::Promote => "promote",
            Self::Collect => "slugs collect",
            Self::Review => "review app",
        })
    }
}

impl Act {
    /// Whether it is refused where nothing is killed.
    fn fails(self) -> bool {
        matches!(self, Self::PushBroken | Self::PushRefused)
    }
}

pub(crate) fn run_all(options: &Options) -> Result<()> {
    let dozen = options.dozen()?;
    let folder = tempfile::Builder::new().prefix("dozen-soak-").tempdir()?.keep();
    println!("seed {}, everything under {}", options.seed, folder.display());
    let mut soak = Soak::set_up(&dozen, &folder, options.seed)?;
    let (mut failures, mut killed) = (0, BTreeMap::<Act, u32>::new());
    for round in 1..=options.rounds {
        let act = *ACTS.choose(&mut soak.random).context("there are acts")?;
        match soak.round(act) {
            Ok(moment) => {
                *killed.entry(act).or_default() += 1;
                println!("round {round}: killed at {moment} of {act}, all well");
            }
            Err(error) => {
                failures += 1;
                println!("round {round}: {act}: {error:#}");
                soak.mend().context("nothing goes on after this")?;
            }
        }
    }
    let asked = soak.page.stop()?;
    soak.dozen(&["apps", "destroy", "shop", "--confirm", "shop"])?;
    soak.server.stop(Signal::INT, PATIENCE)?;
    let counted: Vec<String> = killed.iter().map(|(act, count)| format!("{count} × {act}")).collect();
    println!("\n{} rounds, {failures} failed; killed and survived: {}", options.rounds, counted.join(", "));
    println!("{asked} pages were asked for meanwhile, and each was answered");
    ensure!(failures == 0, "{failures} of {} rounds failed; again with --seed {}; see {}", options.rounds, options.seed, folder.display());
    run(program("rm").arg("-rf").arg(&folder))
}

struct Soak {
    binary: PathBuf,
    folder: PathBuf,
    port: u16,
    server: Running,
    random: StdRng,
    page: Asker,
    /// How long each act takes where nothing disturbs it.
    usual: BTreeMap<Act, Duration>,
    /// The code of each commit.
    codes: BTreeMap<String, String>,
    /// Every value that the config var was ever to have.
    greetings: BTreeSet<String>,
    count: u64,
}

impl Soak {
    /// A server, an app with two deploys, and one release of each.
    fn set_up(dozen: &Path, folder: &Path, seed: u64) -> Result<Self> {
        let binary = folder.join("dozen");
        // A copy of its own, so that who runs it belongs to this soak and to nobody else.
        std::fs::copy(dozen, &binary).with_context(|| format!("cannot copy {}", dozen.display()))?;
        let app = folder.join("app");
        std::fs::create_dir_all(app.join("pages"))?;
        std::fs::write(app.join("web.py"), include_str!("deploy/web.py"))?;
        std::fs::write(app.join("Procfile"), "web: exec python3 web.py\nrelease: test ! -e refuse\n")?;
        for n in 0..200 {
            std::fs::write(app.join(format!("pages/{n}.html")), format!("{n}\n").repeat(500))?;
        }
        let port = free_port()?;
        let (server, token) = serve(&binary, folder, port)?;
        let page = Asker::start(port);
        let (usual, codes) = Default::default();
        let greetings = BTreeSet::from(["-".to_owned()]);
        let random = StdRng::seed_from_u64(seed);
        let mut soak = Self { binary, folder: folder.to_owned(), port, server, random, page, usual, codes, greetings, count: 0 };
        let token = token.context("a new server has a first token")?;
        soak.dozen(&["login", &format!("http://{API}:{port}"), "--token", &token])?;
        soak.dozen(&["apps", "create", "shop"])?;
        soak.dozen(&["deploys", "create", "staging", "-a", "shop"])?;
        soak.git(&["init", "--quiet", "--initial-branch", "main"])?;
        soak.dozen(&["git", "remote", "-a", "shop"])?;
        soak.write_code(None)?;
        for remote in ["dozen", "dozen-staging"] {
            soak.git(&["push", "--quiet", remote, "main"])?;
        }
        soak.page.begin();
        // Each act once, so that it is known how long it takes.
        for act in ACTS {
            soak.prepare(act)?;
            let begin = Instant::now();
            let output = soak.command(act)?.output()?;
            let said = || [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy).concat();
            ensure!(output.status.success() != act.fails(), "{act} ended with {}: {}", output.status, said());
            soak.usual.insert(act, begin.elapsed());
            soak.settle(act)?;
        }
        soak.look()?;
        Ok(soak)
    }

    /// One act and one kill. Answers when that was.
    fn round(&mut self, act: Act) -> Result<String> {
        self.prepare(act)?;
        let log = self.folder.join("client.log");
        let usual = self.usual.get(&act).copied().unwrap_or_default();
        let moment = usual.mul_f64(self.random.random_range(0.0..1.1));
        let mut command = self.command(act)?;
        let mut client = Running::start(&mut command, &log)?;
        pause(moment.saturating_sub(client.since.elapsed()));
        let before = client.ended()?;
        kill_process(self.server.pid(), Signal::KILL)?;
        ensure!(wait_until(PATIENCE, || Ok(self.server.ended()?.is_some()))?, "the server does not die");
        self.server = serve(&self.binary, &self.folder, self.port)?.0;
        let mut end = None;
        let ended = wait_until(PATIENCE, || {
            end = client.ended()?;
            Ok(end.is_some())
        })?;
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        ensure!(ended, "the client waits for ever: {}", said());
        if let Some(status) = before {
            ensure!(status.success() != act.fails(), "it ended with {status} before anything was killed: {}", said());
        }
        let done = end.is_some_and(|status| status.success());
        ensure!(!(done && act.fails()), "it must not go well: {}", said());
        let found = self.look()?;
        if done {
            self.is_done(act, &found)?;
        }
        self.page.all_well()?;
        self.settle(act)?;
        std::fs::remove_file(&log)?;
        Ok(format!("{} ms{}", moment.as_millis(), if before.is_some() { ", after the end," } else { "" }))
    }

    /// What must be there before an act.
    fn prepare(&mut self, act: Act) -> Result<()> {
        match act {
            Act::Push => self.write_code(None),
            Act::PushBroken => self.write_code(Some("broken")),
            Act::PushRefused => self.write_code(Some("refuse")),
            Act::Promote => {
                self.write_code(None)?;
                self.git(&["push", "--quiet", "--force", "dozen-staging", "main"]).map(drop)
            }
            Act::Configure => {
                self.count += 1;
                self.greetings.insert(format!("greeting-{}", self.count));
                Ok(())
            }
            Act::Rollback | Act::Collect | Act::Review => Ok(()),
        }
    }

    fn command(&self, act: Act) -> Result<Command> {
        Ok(match act {
            Act::Push | Act::PushBroken | Act::PushRefused => self.git_command(&["push", "--force", "dozen", "main"]),
            Act::Configure => self.dozen_command(&["config", "set", &format!("GREETING=greeting-{}", self.count), "-a", "shop"]),
            Act::Rollback => self.dozen_command(&["rollback", "-a", "shop"]),
            Act::Promote => self.dozen_command(&["promote", "-a", "shop/staging", "--to", "production"]),
            Act::Collect => self.dozen_command(&["slugs", "collect"]),
            Act::Review => self.dozen_command(&["deploys", "create", &format!("pr-{}", self.count), "--from", "production", "-a", "shop"]),
        })
    }

    /// Takes back what is in the way of the next act.
    fn settle(&mut self, act: Act) -> Result<()> {
        match act {
            Act::PushBroken | Act::PushRefused => self.git(&["reset", "--quiet", "--hard", "HEAD~1"]).map(drop),
            Act::Review => {
                let there = self.json(&["deploys", "-a", "shop"])?;
                let names = there["deploys"].as_array().context("deploys")?.iter().filter_map(|deploy| deploy["name"].as_str());
                for name in names.filter(|name| name.contains("/pr-")) {
                    self.dozen(&["deploys", "destroy", name, "--confirm", name])?;
                }
                self.count += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// After a round that failed: whatever it left must not fail the next one.
    fn mend(&mut self) -> Result<()> {
        self.git(&["reset", "--quiet", "--hard"])?;
        for flag in ["broken", "refuse"] {
            if self.folder.join("app").join(flag).exists() {
                self.git(&["reset", "--quiet", "--hard", "HEAD~1"])?;
            }
        }
        self.page.forget();
        if self.server.ended()?.is_some() {
            self.server = serve(&self.binary, &self.folder, self.port)?.0;
        }
        Ok(())
    }

    /// Another code, and a file that has it fail, in a commit.
    fn write_code(&mut self, flag: Option<&str>) -> Result<()> {
        self.count += 1;
        let (app, code) = (self.folder.join("app"), format!("code-{}", self.count));
        std::fs::write(app.join("code.txt"), &code)?;
        if let Some(flag) = flag {
            std::fs::write(app.join(flag), "")?;
        }
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--message", &code])?;
        let commit = self.git(&["rev-parse", "HEAD"])?.trim().to_owned();
        self.codes.insert(commit, code);
        Ok(())
    }

    /// Everything that must be true of a server that was just started. Answers what serves.
    fn look(&self) -> Result<Found> {
        let releases = self.json(&["releases", "-a", "shop"])?;
        let all = releases["releases"].as_array().context("releases")?;
        let pending = all.iter().filter(|release| release["status"] == "pending").count();
        ensure!(pending == 0, "{pending} releases are half there: {releases}");
        let current = all.iter().find(|release| release["current"] == true).context("no release is current")?;
        let (version, description) = (text(current, "version")?, text(current, "description")?);
        ensure!(current["status"] == "succeeded", "{version} is current, and it is {}", current["status"]);
        // What a server that died had begun beside it goes.
        let mut page = String::new();
        let there = wait_until(PATIENCE, || {
            page = self::page(self.port).unwrap_or_default();
            Ok(page.split(' ').next() == Some(&version))
        })?;
        ensure!(there, "{version} is current, and the page is {page:?}");
        let [_, commit, code, greeting] = *page.split(' ').collect::<Vec<_>>() else { bail!("the page is {page:?}") };
        ensure!(self.codes.get(commit).is_some_and(|known| known == code), "{commit} is not the commit of {code}");
        ensure!(self.greetings.contains(greeting), "{greeting} was never set");
        read(&mut self.dozen_command(&["server", "check"])).context("not all is whole")?;
        Ok(Found { commit: commit.to_owned(), greeting: greeting.to_owned(), description })
    }

    /// What a client was told is done is done.
    fn is_done(&self, act: Act, found: &Found) -> Result<()> {
        let Found { commit, greeting, description } = found;
        let head = self.git(&["rev-parse", "HEAD"])?;
        let is = match act {
            Act::Push => head.trim() == commit,
            Act::Promote => head.trim() == commit && description.starts_with("Promote"),
            Act::Configure => *greeting == format!("greeting-{}", self.count),
            Act::Rollback => description.starts_with("Rollback"),
            Act::Review => self.json(&["deploys", "-a", "shop"])?.to_string().contains(&format!("pr-{}", self.count)),
            Act::Collect | Act::PushBroken | Act::PushRefused => true,
        };
        ensure!(is, "it was told that it is done, and {commit}, {greeting}, {description:?} serves");
        Ok(())
    }

    fn dozen_command(&self, words: &[&str]) -> Command {
        let mut command = program(&self.binary);
        command.args(words).current_dir(self.folder.join("app"));
        settle(&mut command, &self.folder);
        command
    }

    fn dozen(&self, words: &[&str]) -> Result<String> {
        read(&mut self.dozen_command(words))
    }

    fn json(&self, words: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.dozen(&[words, &["--json"]].concat())?)?)
    }

    fn git_command(&self, words: &[&str]) -> Command {
        let mut git = program("git");
        git.args(words).current_dir(self.folder.join("app")).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0");
        for (name, value) in [("NAME", "soak"), ("EMAIL", "soak@example.com")] {
            git.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
        }
        settle(&mut git, &self.folder);
        git
    }

    fn git(&self, words: &[&str]) -> Result<String> {
        read(&mut self.git_command(words))
    }
}

/// What serves.
struct Found {
    commit: String,
    greeting: String,
    description: String,
}

fn text(value: &Value, name: &str) -> Result<String> {
    Ok(value[name].as_str().with_context(|| format!("no {name} in {value}"))?.to_owned())
}

/// An environment of this soak's own: its home, and its logins.
pub(crate) fn settle(command: &mut Command, folder: &Path) {
    command.env("DOZEN_HOME", folder.join("home")).env("XDG_CONFIG_HOME", folder.join("config")).env("HOME", folder);
}

/// A server that answers, and the first token where it is the first.
pub(crate) fn serve(binary: &Path, folder: &Path, port: u16) -> Result<(Running, Option<String>)> {
    let mut command = program(binary);
    command.args(["server", "--listen", &port.to_string(), "--json"]);
    settle(&mut command, folder);
    let (server, output) = Running::piped(&mut command, &folder.join("server.log"))?;
    let mut line = String::new();
    let mut output = BufReader::new(output);
    output.read_line(&mut line)?;
    let said: Value = serde_json::from_str(&line).with_context(|| {
        let log = std::fs::read_to_string(folder.join("server.log")).unwrap_or_default();
        format!("the server does not start: {line}{log}")
    })?;
    // Whoever ends first ends this: nobody reads what it says from now on, and it is not to wait for that.
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    Ok((server, said["token"].as_str().map(str::to_owned)))
}

/// The app's page, where it is one.
fn page(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer: {answer:?}"))?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

/// What is asked for, and what came of it.
#[derive(Default)]
struct Asked {
    begun: AtomicBool,
    ended: AtomicBool,
    count: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Asked {
    fn ask(&self, port: u16) {
        while !self.ended.load(Ordering::Relaxed) {
            pause(Duration::from_millis(20));
            if self.begun.load(Ordering::Relaxed) {
                if let Err(error) = page(port) {
                    self.wrong().push(format!("{error:#}"));
                }
                self.count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn wrong(&self) -> MutexGuard<'_, Vec<String>> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for the page all the time.
struct Asker {
    asked: Arc<Asked>,
    thread: Option<JoinHandle<()>>,
}

impl Asker {
    fn start(port: u16) -> Self {
        let asked = Arc::<Asked>::default();
        let thread = std::thread::spawn({
            let asked = asked.clone();
            move || asked.ask(port)
        });
        Self { asked, thread: Some(thread) }
    }

    /// From now on there is a page.
    fn begin(&self) {
        self.asked.begun.store(true, Ordering::Relaxed);
    }

    fn all_well(&self) -> Result<()> {
        let wrong = self.asked.wrong();
        ensure!(wrong.is_empty(), "{} pages were not answered, the first: {}", wrong.len(), wrong[0]);
        Ok(())
    }

    fn forget(&self) {
        self.asked.wrong().clear();
    }

    /// Ends it, and answers how often it asked.
    fn stop(&mut self) -> Result<u64> {
        self.asked.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.all_well()?;
        Ok(self.asked.count.load(Ordering::Relaxed))
    }
}
