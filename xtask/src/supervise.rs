//! `cargo xtask soak supervise`: deploys under load whose control parts, and now and then whose routers, are killed at random moments, also
//! in the middle of a change of releases.
//!
//! No request may fail but one that was in flight in a router that was killed; each line of an answered request is in the log once; what runs
//! at the end is what ran at the beginning, or one release that came after it, whole; and `down` leaves nothing. A run is repeated with the
//! seed that it prints.

mod change;
mod host;
mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Signal, kill_process};

use crate::Options;
use crate::process::{pause, program, read, wait_until};
use load::Load;

/// Every so many rounds a router is killed besides.
const ROUTER: u32 = 5;
/// So many deploys are brought up, and taken down, at a time.
const AT_A_TIME: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);
const PROCFILE: &str = "release: sleep 0.3\nweb: exec python3 web.py\nworker: exec sleep 100000\n";
const APP: &str = include_str!("supervise/web.py");

struct Soak {
    folder: PathBuf,
    dozen: PathBuf,
    /// In the environment of every app's process, and of no one else's.
    mark: String,
}

/// One deploy and what was asked of it.
struct Deploy {
    name: String,
    app: PathBuf,
    port: u16,
    /// That of web.1, while no other release was asked for.
    jail: AtomicU64,
    /// What the app's folder says now.
    text: AtomicU32,
    asked: AtomicU32,
    answered: Mutex<BTreeSet<u32>>,
    /// How often its router was killed. A request during which that changes may fail.
    struck: AtomicU32,
}

pub(crate) fn run_all(options: &Options) -> Result<()> {
    let (rounds, seed) = (options.rounds, options.seed);
    let dozen = options.dozen()?;
    let folder = tempfile::Builder::new().prefix("dozen-soak-").tempdir()?.keep();
    let mark = folder.file_name().context("a folder without a name")?.to_string_lossy().into_owned();
    let soak = Soak { dozen: folder.join("dozen"), folder, mark };
    // A copy of its own, so that who runs it belongs to this soak and to nobody else.
    std::fs::copy(&dozen, &soak.dozen).with_context(|| format!("cannot copy {}", dozen.display()))?;
    println!("seed {seed}, everything under {}", soak.folder.display());
    let done = soak.all(rounds, options.deploys as usize, &mut StdRng::seed_from_u64(seed));
    if done.is_err() {
        for (pid, _) in soak.processes()? {
            let _ = kill_process(pid, Signal::KILL);
        }
        println!("again with --seed {seed}");
        return done;
    }
    std::fs::remove_dir_all(&soak.folder)?;
    Ok(())
}

impl Soak {
    fn all(&self, rounds: u32, count: usize, random: &mut StdRng) -> Result<()> {
        let begun = Instant::now();
        let deploys = in_parts(&(0..count).collect::<Vec<_>>(), |n| self.begin(*n))?;
        println!("{count} deploys are up after {:.0} s", begun.elapsed().as_secs_f64());
        self.tell_idle()?;
        let (load, stop) = (Load::default(), AtomicBool::new(false));
        let mut hits = BTreeMap::new();
        let begun = Instant::now();
        let struck = std::thread::scope(|threads| {
            load::begin(threads, &deploys, &load, &stop);
            let struck = (1..=rounds).try_for_each(|round| {
                let deploy = &deploys[random.random_range(0..deploys.len())];
                let hit = self.round(round, deploy, random).with_context(|| format!("round {round}, {}", deploy.name))?;
                println!("round {round}: {} without its {hit}, all well", deploy.name);
                *hits.entry(hit).or_insert(0_u32) += 1;
                load.check().with_context(|| format!("round {round}"))
            });
            stop.store(true, Ordering::Relaxed);
            struck
        });
        let took = begun.elapsed().as_secs_f64();
        load.check()?;
        struck?;
        in_parts(&deploys, |deploy| self.check(deploy).with_context(|| deploy.name.clone()))?;
        in_parts(&deploys, |deploy| self.dozen(deploy, &["down"]))?;
        let mut left = Vec::new();
        let clean = wait_until(Duration::from_secs(5), || {
            left = self.processes()?.into_iter().map(|(pid, _)| pid).chain(self.apps(None)?).collect();
            Ok(left.is_empty())
        })?;
        ensure!(clean, "left behind: {left:?}");
        let integrity = self.ledger("pragma integrity_check")?;
        ensure!(integrity == "ok", "the ledger: {integrity}");
        hits.iter().for_each(|(hit, times)| println!("{times:4} times without its {hit}"));
        let answers = load.answers();
        println!(
            "{rounds} rounds, {answers} requests answered in {took:.0} s ({:.0}/s of {}/s), the slowest after {:.1} s, {} in flight in a killed router; no other lost, no line lost or doubled",
            f64::from(answers) / took,
            load::RATE,
            load.slowest().as_secs_f64(),
            load.excused(),
        );
        Ok(())
    }

    fn begin(&self, number: usize) -> Result<Deploy> {
        let name = format!("shop{number}");
        let app = self.folder.join(&name);
        std::fs::create_dir(&app)?;
        for (file, text) in [("Procfile", PROCFILE), ("web.py", APP), ("text", "0"), (".env", &format!("SOAK={}\n", self.mark))] {
            std::fs::write(app.join(file), text)?;
        }
        let (text, asked, struck) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        let mut deploy = Deploy { name, app, port: 0, jail: AtomicU64::new(0), text, asked, answered: Mutex::default(), struck };
        self.up(&deploy)?;
        let ps = self.ps(&deploy)?;
        deploy.port = ps["url"].as_str().and_then(|url| url.rsplit(':').next()?.parse().ok()).context("no URL")?;
        deploy.jail = AtomicU64::new(jail(&ps)?);
        Ok(deploy)
    }

    /// Kills its control part, while it rests or while it changes releases. Answers what was hit.
    fn round(&self, round: u32, deploy: &Deploy, random: &mut StdRng) -> Result<String> {
        pause(Duration::from_millis(random.random_range(0..300)));
        let mut what = match random.random_range(0..10) {
            0..4 => self.at_rest(deploy, random)?.to_owned(),
            4..8 => format!("control part in {}", self.change_code(deploy, random)?),
            _ => format!("control part in {}", self.change_config(deploy, random)?),
        };
        if round.is_multiple_of(ROUTER) {
            what += " and router";
            self.kill_router(deploy)?;
        }
        Ok(what)
    }

    /// Kills its control part, sometimes the next one as well while it takes over, and has it taken over.
    fn at_rest(&self, deploy: &Deploy, random: &mut StdRng) -> Result<&'static str> {
        self.kill_control(deploy)?;
        let again = random.random_bool(0.4);
        if again {
            let mut half = self.command(deploy, &["up", "--detach", "--port", "0"]);
            let mut half = half.arg(&deploy.app).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            pause(Duration::from_millis(random.random_range(0..600)));
            self.kill_halves(deploy, &mut half)?;
        }
        self.go_on(deploy)?;
        Ok(if again { "control part, twice" } else { "control part" })
    }

    /// Has it taken over where nobody has.
    fn go_on(&self, deploy: &Deploy) -> Result<()> {
        // One that came up all the same is found to run already.
        if self.control(deploy)?.is_none() { self.up(deploy) } else { Ok(()) }
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

    fn ledger(&self, query: &str) -> Result<String> {
        Ok(read(program("sqlite3").arg("-readonly").arg(self.folder.join("home/ledger.db")).arg(query))?.trim().to_owned())
    }

    /// What runs is what ran, and each line is in the log once.
    fn check(&self, deploy: &Deploy) -> Result<()> {
        self.check_release(deploy)?;
        let (jail, before) = (jail(&self.ps(deploy)?)?, deploy.jail.load(Ordering::Relaxed));
        ensure!(jail == before, "web.1 is another one: {before} became {jail}");
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
}

fn jail(ps: &serde_json::Value) -> Result<u64> {
    let processes = ps["processes"].as_array().context("no processes")?;
    let web = processes.iter().find(|p| p["name"] == "web.1").context("no web.1")?;
    web["jail_pid"].as_u64().context("web.1 does not run")
}

/// Does something with each, a few at a time; the answers are in order.
fn in_parts<T: Sync, A: Send>(all: &[T], work: impl Fn(&T) -> Result<A> + Sync) -> Result<Vec<A>> {
    let next = AtomicUsize::new(0);
    let one = || {
        let mut done = Vec::new();
        while let Some((n, item)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, all.get(n)?))) {
            done.push((n, work(item)?));
        }
        anyhow::Ok(done)
    };
    let parts = std::thread::scope(|threads| {
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| threads.spawn(one)).collect();
        workers.into_iter().map(|w| w.join().expect("no worker panics")).collect::<Result<Vec<_>>>()
    })?;
    let mut done: Vec<(usize, A)> = parts.into_iter().flatten().collect();
    done.sort_by_key(|(n, _)| *n);
    Ok(done.into_iter().map(|(_, answer)| answer).collect())
}
