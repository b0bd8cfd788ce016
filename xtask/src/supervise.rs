//! `cargo xtask soak supervise`: deploys under load whose control parts, and now and then whose routers, are killed at random moments.
//!
//! No request may fail but one that was in flight in a router that was killed; each line of an answered request is in the log once; what runs
//! at the end is what ran at the beginning; and `down` leaves nothing. A run is repeated with the seed that it prints.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};

use crate::Options;
use crate::machine::target;
use crate::process::{cargo, pause, program, read, run, wait_until};

/// Each of them asks one deploy after the other.
const CLIENTS: u32 = 8;
/// Requests a second, of all clients.
const RATE: u32 = 500;
/// Every so many rounds a router is killed besides.
const ROUTER: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(60);
const APP: &str = r#"
import http.server, os

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        # One write: what several threads print may be mixed.
        os.write(1, f"said {self.path[1:]}.\n".encode())
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")
    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
"#;

struct Soak {
    folder: PathBuf,
    dozen: PathBuf,
}

/// One deploy and what was asked of it.
struct Deploy {
    name: String,
    app: PathBuf,
    port: u16,
    jail: u64,
    asked: AtomicU32,
    answered: Mutex<BTreeSet<u32>>,
    /// How often its router was killed. A request during which that changes may fail.
    struck: AtomicU32,
}

pub(crate) fn run_all(options: &Options) -> Result<()> {
    let (rounds, seed) = (options.rounds, options.seed);
    let dozen = match &options.binary {
        Some(path) => path.clone(),
        None => {
            run(&mut cargo(&["build", "--quiet", "--locked", "--package", "dozen"]))?;
            target()?.join("debug/dozen")
        }
    };
    let folder = tempfile::Builder::new().prefix("dozen-soak-").tempdir()?.keep();
    let soak = Soak { dozen: folder.join("dozen"), folder };
    // A copy of its own, so that who runs it belongs to this soak and to nobody else.
    std::fs::copy(&dozen, &soak.dozen).with_context(|| format!("cannot copy {}", dozen.display()))?;
    println!("seed {seed}, everything under {}", soak.folder.display());
    let done = soak.all(rounds, options.deploys, &mut StdRng::seed_from_u64(seed));
    if done.is_err() {
        for pid in soak.left()? {
            let _ = kill_process(pid, Signal::KILL);
        }
        println!("again with --seed {seed}");
        return done;
    }
    std::fs::remove_dir_all(&soak.folder)?;
    Ok(())
}

impl Soak {
    fn all(&self, rounds: u32, count: u32, random: &mut StdRng) -> Result<()> {
        let deploys: Vec<Deploy> = (0..count).map(|n| self.begin(n)).collect::<Result<_>>()?;
        println!("{count} deploys are up");
        let (stop, failures, answers) = (AtomicBool::new(false), Mutex::new(Vec::new()), AtomicU32::new(0));
        let struck = std::thread::scope(|threads| {
            for client in 0..CLIENTS {
                let (deploys, stop, failures, answers) = (&deploys, &stop, &failures, &answers);
                threads.spawn(move || load(deploys, client, stop, failures, answers));
            }
            let struck = (1..=rounds).try_for_each(|round| {
                let deploy = &deploys[random.random_range(0..deploys.len())];
                self.round(round, deploy, random).with_context(|| format!("round {round}, {}", deploy.name))?;
                let failed = failures.lock().expect("no client panics with it").len();
                ensure!(failed == 0, "round {round}: {failed} requests failed");
                Ok(())
            });
            stop.store(true, Ordering::Relaxed);
            struck
        });
        let failures = failures.into_inner().expect("no client panics with it");
        if !failures.is_empty() {
            bail!("{} requests failed, the first: {}", failures.len(), failures[0]);
        }
        struck?;
        for deploy in &deploys {
            self.check(deploy).with_context(|| deploy.name.clone())?;
        }
        for deploy in &deploys {
            self.dozen(deploy, &["down"])?;
        }
        let mut left = Vec::new();
        let clean = wait_until(Duration::from_secs(5), || {
            left = self.left()?;
            Ok(left.is_empty())
        })?;
        ensure!(clean, "left behind: {left:?}");
        let integrity = read(program("sqlite3").arg(self.folder.join("home/ledger.db")).arg("pragma integrity_check"))?;
        ensure!(integrity.trim() == "ok", "the ledger: {integrity}");
        println!("{rounds} rounds, {} requests answered, none lost, no line lost or doubled", answers.load(Ordering::Relaxed));
        Ok(())
    }

    fn begin(&self, number: u32) -> Result<Deploy> {
        let name = format!("shop{number}");
        let app = self.folder.join(&name);
        std::fs::create_dir(&app)?;
        std::fs::write(app.join("Procfile"), "web: exec python3 web.py\nworker: exec sleep 100000\n")?;
        std::fs::write(app.join("web.py"), APP)?;
        let mut deploy =
            Deploy { name, app, port: 0, jail: 0, asked: AtomicU32::new(0), answered: Mutex::default(), struck: AtomicU32::new(0) };
        self.up(&deploy)?;
        let ps = self.ps(&deploy)?;
        deploy.port = ps["url"].as_str().and_then(|url| url.rsplit(':').next()?.parse().ok()).context("no URL")?;
        deploy.jail = jail(&ps)?;
        Ok(deploy)
    }

    /// Kills its control part, sometimes the next one as well while it takes over, and has it taken over.
    fn round(&self, round: u32, deploy: &Deploy, random: &mut StdRng) -> Result<()> {
        pause(Duration::from_millis(random.random_range(0..300)));
        self.kill_control(deploy)?;
        let again = random.random_bool(0.4);
        if again {
            let mut half = self.command(deploy, &["up", "--detach", "--port", "0"]);
            let mut half = half.arg(&deploy.app).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            pause(Duration::from_millis(random.random_range(0..600)));
            self.kill_control(deploy)?;
            // The background half may have begun a moment later.
            while !wait_until(Duration::from_millis(500), || Ok(half.try_wait()?.is_some()))? {
                self.kill_control(deploy)?;
            }
        }
        // One that came up all the same is found to run already.
        if self.control(deploy)?.is_none() {
            self.up(deploy)?;
        }
        let mut what = if again { "control part, twice" } else { "control part" };
        if round.is_multiple_of(ROUTER) {
            what = "control part and router";
            self.kill_router(deploy)?;
        }
        println!("round {round}: {} without its {what}, all well", deploy.name);
        Ok(())
    }

    fn up(&self, deploy: &Deploy) -> Result<()> {
        read(self.command(deploy, &["up", "--detach", "--port", "0"]).arg(&deploy.app)).map(drop)
    }

    fn command(&self, deploy: &Deploy, words: &[&str]) -> std::process::Command {
        let mut command = program(&self.dozen);
        command.args(["-a", &deploy.name]).args(words).env("DOZEN_HOME", self.folder.join("home")).stdin(Stdio::null());
        command
    }

    fn dozen(&self, deploy: &Deploy, words: &[&str]) -> Result<String> {
        read(&mut self.command(deploy, words))
    }

    fn ps(&self, deploy: &Deploy) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.dozen(deploy, &["ps", "--json"])?)?)
    }

    /// The background half of a deploy's `up --detach`.
    fn control(&self, deploy: &Deploy) -> Result<Option<Pid>> {
        let named = |words: &[String]| words.iter().any(|w| w == "--lasting") && words.contains(&deploy.name);
        Ok(self.processes()?.into_iter().find(|(_, words)| named(words)).map(|(pid, _)| pid))
    }

    fn kill_control(&self, deploy: &Deploy) -> Result<()> {
        while let Some(pid) = self.control(deploy)? {
            let _ = kill_process(pid, Signal::KILL);
            let gone = || Ok(!self.processes()?.iter().any(|(other, _)| *other == pid));
            ensure!(wait_until(PATIENCE, gone)?, "process {pid} does not die");
        }
        Ok(())
    }

    /// The router that holds this deploy's port.
    fn kill_router(&self, deploy: &Deploy) -> Result<()> {
        let table = std::fs::read_to_string("/proc/net/tcp")?;
        let of_port = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let port = words.get(1)?.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok())?;
            (port == deploy.port && *words.get(3)? == "0A").then(|| format!("socket:[{}]", words.get(9).unwrap_or(&"")))
        };
        let socket = table.lines().find_map(of_port).context("nobody listens")?;
        let holds = |pid: Pid| {
            let all = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            all.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|to| to.to_str() == Some(&socket))
        };
        let routers = self.processes()?.into_iter().filter(|(_, words)| words.iter().any(|w| w == "__router"));
        let router = routers.map(|(pid, _)| pid).find(|pid| holds(*pid)).context("no router")?;
        deploy.struck.fetch_add(1, Ordering::SeqCst);
        kill_process(router, Signal::KILL)?;
        let answered = wait_until(PATIENCE, || Ok(ask(deploy.port, "/none").is_ok()))?;
        deploy.struck.fetch_add(1, Ordering::SeqCst);
        ensure!(answered, "no other router serves");
        Ok(())
    }

    /// What runs is what ran, and each line is in the log once.
    fn check(&self, deploy: &Deploy) -> Result<()> {
        let jail = jail(&self.ps(deploy)?)?;
        ensure!(jail == deploy.jail, "web.1 is another one: {} became {jail}", deploy.jail);
        let log = self.dozen(deploy, &["logs", "-p", "web", "-n", "100000000"])?;
        let mut times: BTreeMap<u32, u32> = BTreeMap::new();
        let said = log.lines().filter_map(|line| line.rsplit_once("said ")?.1.strip_suffix('.')?.parse().ok());
        said.for_each(|n| *times.entry(n).or_default() += 1);
        let answered = deploy.answered.lock().expect("no client panics with it");
        let lost = answered.iter().filter(|n| !times.contains_key(n)).count();
        let doubled = times.values().filter(|n| **n > 1).count();
        ensure!(lost + doubled == 0, "of {} lines {lost} are lost and {doubled} doubled", answered.len());
        Ok(())
    }

    fn left(&self) -> Result<Vec<Pid>> {
        Ok(self.processes()?.into_iter().map(|(pid, _)| pid).collect())
    }

    /// All processes that run this soak's binary, with their words. A jail's app is gone with its jail.
    fn processes(&self) -> Result<Vec<(Pid, Vec<String>)>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            let ours = std::fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == self.dozen);
            let Some(pid) = pid.filter(|_| ours) else { continue };
            let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            all.push((pid, String::from_utf8_lossy(&words).split('\0').map(str::to_owned).collect()));
        }
        Ok(all)
    }
}

fn jail(ps: &serde_json::Value) -> Result<u64> {
    let processes = ps["processes"].as_array().context("no processes")?;
    let web = processes.iter().find(|p| p["name"] == "web.1").context("no web.1")?;
    web["jail_pid"].as_u64().context("web.1 does not run")
}

/// Asks one deploy after the other, at its part of the rate, until it is told to stop.
fn load(deploys: &[Deploy], client: u32, stop: &AtomicBool, failures: &Mutex<Vec<String>>, answers: &AtomicU32) {
    let every = Duration::from_secs(1) * CLIENTS / RATE;
    let mut next = Instant::now();
    for turn in client as usize.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        pause(next.saturating_duration_since(Instant::now()));
        next = (next + every).max(Instant::now().checked_sub(every).unwrap_or(next));
        let deploy = &deploys[turn % deploys.len()];
        let struck = deploy.struck.load(Ordering::SeqCst);
        let n = deploy.asked.fetch_add(1, Ordering::Relaxed);
        match ask(deploy.port, &format!("/{n}")) {
            Ok(()) => {
                deploy.answered.lock().expect("no client panics with it").insert(n);
                answers.fetch_add(1, Ordering::Relaxed);
            }
            // In flight in the router that was killed.
            Err(_) if struck % 2 == 1 || deploy.struck.load(Ordering::SeqCst) != struck => {}
            Err(error) => failures.lock().expect("no client panics with it").push(format!("{} /{n}: {error:#}", deploy.name)),
        }
    }
}

fn ask(port: u16, path: &str) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n").context("ask")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read")?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{}", answer.lines().next().unwrap_or("no answer"));
    Ok(())
}
