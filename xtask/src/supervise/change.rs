//! Changes of releases that are interrupted: the control part is killed in each of their stages. The next one has to decide.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::load::ask;
use super::{Deploy, PATIENCE, Soak, jail};
use crate::process::{pause, wait_until};

/// How far `up` had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    TakeOver,
    Build,
    ReleasePhase,
    Switch,
    Drain,
}

impl Stage {
    const ALL: [Self; 5] = [Self::TakeOver, Self::Build, Self::ReleasePhase, Self::Switch, Self::Drain];

    /// That which begins with this line of `up --json`.
    fn begun_by(line: &str) -> Option<Self> {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        let (text, message) = (event["text"].as_str().unwrap_or_default(), event["message"].as_str().unwrap_or_default());
        let of_instance = matches!(event["ps"].as_str(), Some("web.1" | "worker.1"));
        match event["event"].as_str()? {
            "step" if text.starts_with("Running release command") => Some(Self::ReleasePhase),
            "step" => Some(Self::Build),
            "log" if of_instance && message.starts_with("Starting process") => Some(Self::Switch),
            "log" if of_instance && message.starts_with("Stopping all") => Some(Self::Drain),
            "ready" => Some(Self::Drain),
            _ => None,
        }
    }

    /// About how long it takes.
    fn length(self) -> Duration {
        Duration::from_millis(match self {
            Self::Build => 30,
            Self::TakeOver | Self::ReleasePhase => 350,
            Self::Switch => 700,
            Self::Drain => 400,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::TakeOver => "a take-over",
            Self::Build => "a build",
            Self::ReleasePhase => "a release phase",
            Self::Switch => "a switch",
            Self::Drain => "a drain",
        }
    }
}

impl Soak {
    /// Other code: `up` is killed at a random moment of a random stage. Answers which it was.
    pub(super) fn change_code(&self, deploy: &Deploy, random: &mut StdRng) -> Result<&'static str> {
        let aim = Stage::ALL[random.random_range(0..Stage::ALL.len())];
        let wait = aim.length().mul_f64(random.random_range(0.0..1.0));
        self.kill_control(deploy)?;
        let text = deploy.text.fetch_add(1, Ordering::Relaxed) + 1;
        std::fs::write(deploy.app.join("text"), text.to_string())?;
        let mut half = self.command(deploy, &["up", "--detach", "--port", "0", "--json"]);
        let mut half = half.arg(&deploy.app).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = lines(&mut half)?;
        let mut hit = Stage::TakeOver;
        while hit < aim {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => hit = Stage::begun_by(&line).map_or(hit, |stage| stage.max(hit)),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("`up` says nothing after {}", hit.name()),
            }
        }
        pause(wait);
        self.kill_halves(deploy, &mut half)?;
        let last = lines.iter().filter_map(|line| Stage::begun_by(&line)).max().unwrap_or(hit);
        self.decided(deploy)?;
        Ok(last.max(hit).name())
    }

    /// Another config: the control part is killed while it sees to it.
    pub(super) fn change_config(&self, deploy: &Deploy, random: &mut StdRng) -> Result<&'static str> {
        let mut asking = self.command(deploy, &["config", "set", &format!("TEXT={}", random.random_range(1..1_000_000_u32))]);
        let mut asking = asking.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        pause(Duration::from_millis(random.random_range(0..1_500)));
        self.kill_control(deploy)?;
        let ended = wait_until(PATIENCE, || Ok(asking.try_wait()?.is_some()))?;
        ensure!(ended, "`config set` does not end with the control part");
        self.decided(deploy)?;
        Ok("a change of config")
    }

    /// The next control part finds a decided state, and `up` makes it what the folder and the config say.
    fn decided(&self, deploy: &Deploy) -> Result<()> {
        // One that came up in spite of all has what was asked for.
        self.go_on(deploy)?;
        self.check_release(deploy)?;
        deploy.jail.store(jail(&self.ps(deploy)?)?, Ordering::Relaxed);
        Ok(())
    }

    /// One release serves, with all of its processes and no others: the ledger's current one, of the code and the config that are there.
    pub(super) fn check_release(&self, deploy: &Deploy) -> Result<()> {
        let text = deploy.text.load(Ordering::Relaxed);
        let set = self.dozen(deploy, &["config", "get", "TEXT"]).unwrap_or_else(|_| "0".to_owned());
        let want = format!("{text} {}", set.trim());
        let mut seen = String::new();
        let one = wait_until(PATIENCE / 4, || {
            let ps = self.ps(deploy)?;
            let release = ps["release"].as_str().unwrap_or_default();
            let processes = ps["processes"].as_array().context("no processes")?;
            let all: Vec<_> = processes.iter().map(|p| format!("{} {} {}", p["release"], p["name"], p["state"])).collect();
            let apps = self.apps(Some(&deploy.name))?.len();
            seen = format!("{release} is current, {all:?} run in {apps} processes");
            let whole = processes.iter().all(|p| p["release"] == release && p["state"] == "up");
            pause(Duration::from_millis(50));
            Ok(whole && processes.len() == 2 && apps == 2)
        })?;
        ensure!(one, "no single release: {seen}");
        let answer = ask(deploy.port, "/none")?;
        ensure!(answer == want, "{answer:?} is answered, and not {want:?}: {seen}");
        let query = format!(
            "select (select count(*) from releases where deploy = d.name and status = 'pending') || ' ' || status || ' ' || (up_at is not null)
             from deploys d join releases r on r.deploy = d.name and r.version = d.current_release where d.name = '{}/dev'",
            deploy.name
        );
        let ledger = self.ledger(&query)?;
        ensure!(ledger == "0 succeeded 1", "the ledger says {ledger:?}: {seen}");
        Ok(())
    }
}

/// What a child says, line by line, while somebody else waits.
fn lines(child: &mut Child) -> Result<mpsc::Receiver<String>> {
    let out = child.stdout.take().context("no output")?;
    let (said, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            // Whoever listened may have gone.
            let _ = said.send(line);
        }
    });
    Ok(lines)
}
