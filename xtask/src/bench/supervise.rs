//! `cargo xtask bench supervise`: what it costs to start, keep and stop fifty processes, and what a killed router costs those who ask.
//!
//! | case | the clock starts | isolated |
//! |---|---|---|
//! | `dozen ps scale worker=50` | with that command, on a deploy that is up with none | yes |
//! | `dozen up` | with that command; nothing has changed since the last one, and the formation is fifty | yes |
//! | `dozen ps scale web=50` | as for workers; each has a port, which is guarded where the host has nftables | yes |
//! | s6, runit, supervisor, honcho, foreman | with the supervisor, whose folder says fifty | no |
//! | bubblewrap | with the first of fifty commands, run at once by this bench | yes |
//!
//! It ends when the fiftieth process is up by its own word. Stopping begins with the signal, or with the command that scales to none, and ends
//! when the last process is gone, and its supervisor where that was told to stop.

mod gap;
pub(super) mod gauge;
mod peers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::{Spread, rounded};
use crate::Options;
use crate::process::{Running, pause, program, read, wait_until};
use gauge::{Hub, own_processes, used_by_the_ended};
use peers::Peer;

/// So many processes.
const COUNT: usize = 50;
/// What is idle is watched for so long.
const IDLE: Duration = Duration::from_secs(3);
/// What has just started settles for so long before it is called idle.
const SETTLE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Case {
    Scale,
    Up,
    Web,
    Of(Peer),
}

const CASES: [Case; 9] = [
    Case::Scale,
    Case::Of(Peer::S6),
    Case::Up,
    Case::Of(Peer::Bubblewrap),
    Case::Web,
    Case::Of(Peer::Runit),
    Case::Of(Peer::Supervisor),
    Case::Of(Peer::Honcho),
    Case::Of(Peer::Foreman),
];
/// What the ratios are to.
const MEASURE: Case = Case::Of(Peer::S6);

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Scale => "dozen ps scale worker=50",
            Self::Up => "dozen up",
            Self::Web => "dozen ps scale web=50",
            Self::Of(peer) => peer.name(),
        }
    }
}

/// Something that is told of each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Figure {
    Up,
    Stopped,
    /// From the first program's start to the last one's end.
    Cpu,
    Memory,
    Jail,
    Idle,
}

const FIGURES: [Figure; 6] = [Figure::Up, Figure::Stopped, Figure::Cpu, Figure::Memory, Figure::Jail, Figure::Idle];

impl Figure {
    fn name(self) -> &'static str {
        match self {
            Self::Up => "all up, ms",
            Self::Stopped => "all stopped, ms",
            Self::Cpu => "processors' time for start and stop, ms",
            Self::Memory => "the supervisor's memory (PSS), KiB",
            Self::Jail => "each jail's memory (PSS), KiB",
            Self::Idle => "idle, % of a core",
        }
    }
}

type Sample = BTreeMap<Figure, f64>;

/// The folder of one run, which stays where a case fails.
struct Bench {
    folder: PathBuf,
    dozen: PathBuf,
    worker: PathBuf,
    hub: Hub,
}

pub(crate) fn run_all(root: &Path, options: &Options) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "this bench is for root: only then are jails as strong as they can be, and read from outside"
    );
    let rounds = options.rounds;
    let bench = Bench::prepare(options.binary.clone())?;
    let mut samples: BTreeMap<Case, Vec<Sample>> = BTreeMap::new();
    for round in 0..rounds {
        let mut order = CASES.to_vec();
        if round % 2 == 1 {
            order.reverse();
        }
        for case in order {
            let sample = bench.measure(case).with_context(|| format!("`{}` failed; see {}", case.name(), bench.log().display()))?;
            let ms = |figure| sample.get(&figure).copied().unwrap_or_default();
            println!(
                "round {} of {rounds}: {:<26} up {:7.1} ms, stopped {:7.1} ms",
                round + 1,
                case.name(),
                ms(Figure::Up),
                ms(Figure::Stopped)
            );
            samples.entry(case).or_default().push(sample);
        }
    }
    let figures = FIGURES.map(|figure| table(figure, &samples));
    let gaps = gap::measure(&bench).with_context(|| format!("the router's kills failed; see {}", bench.log().display()))?;
    let report = json!({ "processes": COUNT, "figures": figures, "router_killed": gaps });
    super::write(root, "supervise", "50 processes up, kept and stopped; ratios are s6 ÷ the case, round by round", rounds, &report)?;
    // Nobody wants to read a log of a run that went well.
    std::fs::remove_dir_all(&bench.folder)?;
    Ok(())
}

/// Prints a figure's rows, and answers them for the report.
fn table(figure: Figure, samples: &BTreeMap<Case, Vec<Sample>>) -> serde_json::Value {
    let of = |case: Case| samples.get(&case).into_iter().flatten().filter_map(|s| s.get(&figure).copied()).collect::<Vec<f64>>();
    let measure = of(MEASURE);
    println!("\n{:<44}{:>9}{:>9}{:>9}{:>13}{:>8}{:>8}", figure.name(), "min", "median", "max", "s6 ÷ it: min", "median", "max");
    let mut rows = Vec::new();
    for case in CASES {
        let values = of(case);
        if values.is_empty() {
            continue;
        }
        let spread = Spread::of(&values);
        let ratios: Vec<f64> = measure.iter().zip(&values).map(|(s6, it)| s6 / it.max(1e-3)).collect();
        let ratio = (figure != Figure::Idle && !ratios.is_empty()).then(|| Spread::of(&ratios));
        let shown = ratio.map_or(String::new(), |r| format!("{:>13.2}{:>8.2}{:>8.2}", r.min, r.median, r.max));
        println!("  {:<42}{:>9.2}{:>9.2}{:>9.2}{shown}", case.name(), spread.min, spread.median, spread.max);
        let three = |s: Spread| json!({ "min": rounded(s.min), "median": rounded(s.median), "max": rounded(s.max) });
        rows.push(json!({ "case": case.name(), "value": three(spread), "s6_to_it": ratio.map(three) }));
    }
    json!({ "figure": figure.name(), "cases": rows })
}

impl Bench {
    fn prepare(binary: Option<PathBuf>) -> Result<Self> {
        let built = super::shipped(binary)?;
        let folder = tempfile::Builder::new().prefix("dozen-bench-").tempdir()?.keep();
        // A place of its own: what a jail shows of it is the binary alone.
        let dozen = folder.join("bin/dozen");
        std::fs::create_dir(folder.join("bin"))?;
        std::fs::copy(&built, &dozen).with_context(|| format!("cannot copy {}", built.display()))?;
        peers::prepare(&folder)?;
        let app = folder.join("app");
        std::fs::create_dir(&app)?;
        let (worker, hub) = (gauge::worker(&app)?, Hub::open()?);
        // Both would be started with one each.
        let formation = json!({ "formation": { "web": { "quantity": 0 }, "worker": { "quantity": 0 } } });
        std::fs::write(app.join("app.json"), formation.to_string())?;
        let name = worker.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let each = format!("exec ./{name} {}", hub.address);
        std::fs::write(app.join("Procfile"), format!("web: {each}\nworker: {each}\n"))?;
        let bench = Self { folder, dozen, worker, hub };
        // The slug is built once, before any clock.
        bench.start_none()?.end()?;
        Ok(bench)
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = program(&self.dozen);
        command.args(["--app", "bench"]).args(words).env("DOZEN_HOME", self.folder.join("home"));
        command
    }

    fn scale(&self, word: &str) -> Result<()> {
        read(&mut self.command(&["ps", "scale", word])).map(drop)
    }

    fn up(&self) -> Result<Running> {
        Running::start(self.command(&["up", "--port", "0", "--no-color"]).arg(self.folder.join("app")), &self.log())
    }

    /// A deploy that is up, with a formation of none.
    fn start_none(&self) -> Result<Deploy> {
        let mut running = self.up()?;
        let answers = wait_until(PATIENCE, || {
            ensure!(running.ended()?.is_none(), "`dozen up` ended before it answered");
            let ps = read(&mut self.command(&["ps", "--json"])).ok().and_then(|ps| serde_json::from_str::<serde_json::Value>(&ps).ok());
            Ok(ps.is_some_and(|ps| ps["url"].is_string()))
        })?;
        ensure!(answers, "`dozen up` does not answer");
        // It says so before it has released.
        pause(SETTLE);
        Ok(Deploy { running })
    }

    fn measure(&self, case: Case) -> Result<Sample> {
        let sample = match case {
            Case::Scale => self.scaled("worker"),
            Case::Web => self.scaled("web"),
            Case::Up => {
                self.scale(&format!("worker={COUNT}"))?;
                let sample = self.whole(vec![self.up()?], Signal::INT);
                self.scale("worker=0")?;
                sample
            }
            Case::Of(peer) => {
                let mut commands = peer.commands(&self.folder, &self.worker, &self.hub.address, COUNT)?;
                let begin = Instant::now();
                let started = commands.iter_mut().map(|command| Running::start(command, &self.log())).collect::<Result<Vec<_>>>()?;
                self.whole_since(begin, started, peer.stop())
            }
        }?;
        self.hub.none_left()?;
        Ok(sample)
    }

    fn whole(&self, started: Vec<Running>, stop: Signal) -> Result<Sample> {
        let begin = started.first().context("nothing was started")?.since;
        self.whole_since(begin, started, stop)
    }

    /// One life of a supervisor: its start, its rest and its end.
    fn whole_since(&self, begin: Instant, mut started: Vec<Running>, stop: Signal) -> Result<Sample> {
        let processes = self.hub.up(COUNT)?;
        let mut sample = Sample::from([(Figure::Up, ms(begin.elapsed()))]);
        let roots: Vec<Pid> = started.iter().map(Running::pid).collect();
        rest(&roots, &mut sample)?;
        let ends = roots.iter().map(|pid| gauge::pidfd(*pid)).collect::<Result<Vec<_>>>()?;
        let used = used_by_the_ended()?;
        let begin = Instant::now();
        for pid in &roots {
            kill_process(*pid, stop)?;
        }
        processes.gone()?;
        ends.iter().try_for_each(gauge::ended)?;
        sample.insert(Figure::Stopped, ms(begin.elapsed()));
        for running in &mut started {
            ensure!(running.ended()?.is_some(), "process {} ended and did not", running.pid());
        }
        sample.insert(Figure::Cpu, ms(used_by_the_ended()?.saturating_sub(used)));
        Ok(sample)
    }

    /// Fifty of a type and none again, of a deploy that is up.
    fn scaled(&self, kind: &str) -> Result<Sample> {
        let deploy = self.start_none()?;
        let begin = Instant::now();
        self.scale(&format!("{kind}={COUNT}"))?;
        let processes = self.hub.up(COUNT)?;
        let mut sample = Sample::from([(Figure::Up, ms(begin.elapsed()))]);
        rest(&[deploy.running.pid()], &mut sample)?;
        let begin = Instant::now();
        self.scale(&format!("{kind}=0"))?;
        processes.gone()?;
        sample.insert(Figure::Stopped, ms(begin.elapsed()));
        deploy.end()?;
        Ok(sample)
    }
}

/// `dozen up` in the foreground.
struct Deploy {
    running: Running,
}

impl Deploy {
    fn end(self) -> Result<()> {
        self.running.stop(Signal::INT, PATIENCE).map(drop)
    }
}

/// What a supervisor takes while nothing happens.
fn rest(roots: &[Pid], sample: &mut Sample) -> Result<()> {
    pause(SETTLE);
    let own = own_processes(roots)?;
    let (before, begin) = (own.iter().map(gauge::Own::used).sum::<Duration>(), Instant::now());
    pause(IDLE);
    let used = own.iter().map(gauge::Own::used).sum::<Duration>().saturating_sub(before);
    sample.insert(Figure::Idle, 100.0 * used.as_secs_f64() / begin.elapsed().as_secs_f64());
    let mut all = 0.0;
    let mut jails = Vec::new();
    for process in &own {
        let memory = process.memory()?;
        all += memory;
        if process.name.starts_with("dozen:") {
            jails.push(memory);
        }
    }
    sample.insert(Figure::Memory, all);
    if !jails.is_empty() {
        #[expect(clippy::cast_precision_loss, reason = "there are fifty")]
        sample.insert(Figure::Jail, jails.iter().sum::<f64>() / jails.len() as f64);
    }
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
