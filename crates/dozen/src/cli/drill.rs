//! `dozen drill`: kills parts of a running deploy on purpose, under a load of its own, and reports what a user of the app would have seen.
//!
//! **Invariant:** bounded: in time, in requests a second and in flight, and in what it kills. What was paused goes on, what was filled is emptied,
//! and a control part that was killed has another, however the drill ends, but for SIGKILL.

use super::up::Signals;
use super::{Usage, target};
use crate::api::wire;
use crate::client::{Client, Told};
use crate::printer::{self, Printer};
use crate::running;
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use dozen_engine::deploy::DeployError;
use faults::{Control, Fault, Gone, Struck};
use load::Load;
use report::Sample;
use std::process::Stdio;
use std::time::{Duration, Instant};

mod faults;
mod load;
mod report;

/// Before the first fault and after the last one, so that there is something to compare with.
const CALM: Duration = Duration::from_secs(1);
/// After a fault everything must be up again within this, or the drill ends.
const RECOVERY: Duration = Duration::from_secs(90);
/// The router's last lines are waited for so long.
const LAST_LINES: Duration = Duration::from_secs(2);
/// Between two looks at the processes.
const LOOK: Duration = Duration::from_millis(50);

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct DrillArgs {
    /// What to do to it, in turn; by default all of it
    #[arg(long, value_name = "FAULT", value_enum, value_delimiter = ',')]
    only: Vec<Fault>,
    /// How often each of them is done
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Requests a second
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// The page that is asked for
    #[arg(long, value_name = "PATH", default_value = "/")]
    path: String,
    /// Chooses the instances that are hit; the same number chooses the same
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Runs it. 1 where anything was lost.
pub(crate) async fn run(args: DrillArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    if !args.path.starts_with('/') {
        bail!(Usage(format!("--path {} is no path: it begins with /", args.path)));
    }
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy.clone()).await?;
    let info: wire::Info = client.get("").await?;
    let Some(url) = info.url.clone().filter(|_| info.serving) else {
        bail!(DeployError::NotServing(deploy));
    };
    let before = all_up(&mut client).await?;
    if before.processes.is_empty() {
        bail!(Told::failed(format!("{deploy} runs no process"), Some("Start them with `dozen start`.".to_owned())));
    }
    let seed = args
        .seed
        .unwrap_or_else(|| u64::from(std::process::id()) ^ u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default());
    let chosen: Vec<Fault> = if args.only.is_empty() { Fault::value_variants().to_vec() } else { args.only.clone() };
    let has_web = before.processes.iter().any(|p| p.port.is_some());
    printer.aside(&format!(
        "Drill of {} {}: {} requests a second for {}, seed {seed}. Ctrl-C ends it.",
        before.deploy, before.release, args.rate, args.path
    ));
    if !has_web {
        printer.note("No web process runs: nothing is asked of it, only restarts are seen");
    }

    let began = Instant::now();
    let load = has_web.then(|| Load::begin(&url, &args.path, args.rate, seed)).transpose()?;
    let mut drill = Drill { settings, client, info, began, random: seed, struck: Vec::new(), quit: Signals::listen()? };
    let mut outcome = Ok(());
    'rounds: for _ in 0..args.rounds {
        for fault in &chosen {
            tokio::time::sleep(CALM).await;
            match drill.strike(*fault, printer).await {
                Ok(true) => {}
                Ok(false) => break 'rounds,
                Err(e) => {
                    outcome = Err(e);
                    break 'rounds;
                }
            }
        }
    }
    tokio::time::sleep(CALM).await;
    let samples: Vec<Sample> = match load {
        Some(load) => load.end(began).await,
        None => Vec::new(),
    };
    let answered = samples.iter().filter(|s| s.is_answered()).count();
    let logged = drill.logged(seed, answered).await;
    let after = drill.client.get::<wire::Processes>("/processes").await;
    let drilled = report::report(&drill.struck, &samples, &before, after.as_ref().ok(), logged, seed);
    if printer.is_json() {
        printer.json(&drilled);
    } else {
        printer.line(&report::text(&drilled));
    }
    outcome?;
    Ok(i32::from(drilled.lost()))
}

/// The processes, when all of them are up: what starts is waited for, what has crashed is no deploy to drill.
async fn all_up(client: &mut Client) -> Result<wire::Processes> {
    let end = Instant::now() + RECOVERY;
    loop {
        let now: wire::Processes = client.get("/processes").await?;
        let Some(p) = now.processes.iter().find(|p| p.state != "up") else { return Ok(now) };
        if p.state == "crashed" || Instant::now() > end {
            let hint = "A drill begins with a deploy whose processes are all up: `dozen ps`.".to_owned();
            bail!(Told::failed(format!("{}: {} is {}", client.deploy, p.name, p.state), Some(hint)));
        }
        tokio::time::sleep(LOOK).await;
    }
}

struct Drill<'a> {
    settings: &'a Settings,
    client: Client,
    info: wire::Info,
    began: Instant,
    random: u64,
    struck: Vec<Struck>,
    quit: Signals,
}

impl Drill<'_> {
    /// Does one thing to the deploy and waits until it has recovered. False where Ctrl-C ends the drill.
    async fn strike(&mut self, fault: Fault, printer: &Printer) -> Result<bool> {
        let seen: wire::Processes = self.client.get("/processes").await?;
        // SplitMix64's step: the same seed, the same choice.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let at = self.began.elapsed();
        let lasting = running::holder(&self.settings.home, &self.client.deploy).is_some_and(|holder| holder.lasting);
        let (now, control, random) = (seen.clone(), Control { pid: self.info.pid, lasting }, self.random);
        // Filling takes its time, and the load goes on.
        let hit =
            tokio::task::spawn_blocking(move || faults::strike(fault, &now, control, random)).await.context("the drill's thread ended")?;
        let mut struck = Struck { fault, at, target: None, skipped: None, back: None };
        let hit = match hit {
            Ok(hit) => hit,
            Err(why) => {
                struck.skipped = Some(why.to_string());
                self.struck.push(struck);
                return Ok(true);
            }
        };
        struck.target = Some(hit.target.clone());
        printer.aside(&format!("{:>6}  {}", printer::seconds(at), struck.title()));
        let struck_at = Instant::now();
        if fault == Fault::KillControl {
            // Also when the drill is to end: Ctrl-C is heard afterwards.
            self.bring_back().await?;
        }
        tokio::select! {
            () = tokio::time::sleep(fault.lasts()) => {}
            () = self.quit.next() => return Ok(false),
        }
        // What lasts ends here, and wherever this function ends before.
        let gone = hit.gone.clone();
        drop(hit);
        let back = tokio::time::timeout(RECOVERY, recovered(&mut self.client, &seen, gone.as_ref()));
        let back = tokio::select! {
            back = back => back,
            () = self.quit.next() => return Ok(false),
        };
        match back {
            Ok(answer) => {
                answer?;
                struck.back = Some(struck_at.elapsed().saturating_sub(fault.lasts()));
                self.struck.push(struck);
                Ok(true)
            }
            Err(_) => {
                let title = struck.title();
                self.struck.push(struck);
                let hint = Some("`dozen ps` says what is missing, `dozen logs` why.".to_owned());
                bail!(Told::failed(
                    format!("{} was not back {} after the drill {title}", self.client.deploy, printer::seconds(RECOVERY)),
                    hint
                ));
            }
        }
    }

    /// Starts another control part as a person would, but that nothing is built: what is in the folder now is none of a drill's business.
    async fn bring_back(&mut self) -> Result<()> {
        let (home, deploy) = (&self.settings.home, self.client.deploy.clone());
        while running::holder(home, &deploy).is_some() {
            tokio::time::sleep(LOOK).await;
        }
        #[expect(clippy::disallowed_methods, reason = "dozen itself, which outlives this process")]
        let mut up = tokio::process::Command::new("/proc/self/exe");
        up.args(["--app", &deploy.to_string(), "up", "--detach", "--left"]).env("DOZEN_HOME", home.root());
        // A group of its own: Ctrl-C is not for it.
        let up = up.stdin(Stdio::null()).process_group(0).output().await.context("cannot start another control part")?;
        if !up.status.success() {
            let why = String::from_utf8_lossy(&up.stderr);
            let message = format!("no other control part took {deploy} over: {}", why.trim().trim_start_matches("!").trim());
            bail!(Told::failed(message, Some(running::way_on(home, &deploy))));
        }
        self.client = Client::connect(self.settings, deploy).await?;
        self.info = self.client.get("").await?;
        Ok(())
    }

    /// How many of the drill's requests the router has logged. It writes in batches, so the last ones may take a moment.
    async fn logged(&mut self, seed: u64, answered: usize) -> Option<usize> {
        use http_body_util::BodyExt;
        let mark = format!("request_id={}", load::id(seed, ""));
        let end = Instant::now() + LAST_LINES;
        loop {
            let answer = self.client.stream("/logs?n=all&ps=router").await.ok()?.collect().await.ok()?.to_bytes();
            let found = answer.split(|b| *b == b'\n').filter(|line| String::from_utf8_lossy(line).contains(&mark)).count();
            if found >= answered || Instant::now() > end {
                return Some(found);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Waits until what was killed is gone, another is in its place, and as many processes are up as before.
async fn recovered(client: &mut Client, before: &wire::Processes, gone: Option<&Gone>) -> Result<()> {
    loop {
        let now: wire::Processes = client.get("/processes").await.context("the control plane does not answer any more")?;
        let replaced = gone.is_none_or(|gone| !faults::lives(gone.pid) && !now.processes.iter().any(|p| p.jail_pid == Some(gone.holder)));
        let all_up = now.processes.iter().all(|p| p.state == "up" && p.jail_pid.is_some_and(faults::lives));
        if replaced && all_up && now.processes.len() >= before.processes.len() {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}
