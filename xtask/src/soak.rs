//! `cargo xtask soak up`: rounds of `dozen up` in which one of its processes is killed with SIGKILL at a random moment.
//!
//! After each round: no process of it, no listening socket under its home, no mount after 2 s; both databases intact; and the next `up`
//! starts. A run is repeated with the seed that it prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::{Running, answers, cargo, free_port, listens, pause, program, read, run, wait_until};
use crate::{Options, guestbook};

const HOST: &str = "guestbook.localhost";
/// A parent that is lost: SIGTERM, SIGKILL after 1 s, and everything is gone after 2 s.
const GONE: Duration = Duration::from_secs(2);
const START: Duration = Duration::from_secs(120);
/// A killed part comes back: one back-off of 1 s and the app's own start, with room for a busy machine.
const BACK: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    App,
    Jail,
    Stock,
    Router,
    Up,
}

const VICTIMS: [Victim; 5] = [Victim::App, Victim::Jail, Victim::Stock, Victim::Router, Victim::Up];

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::App => "app process",
            Self::Jail => "jail",
            Self::Stock => "stock of jails",
            Self::Router => "router",
            Self::Up => "up",
        })
    }
}

pub(crate) fn up(root: &Path, options: &Options) -> Result<()> {
    let (rounds, seed) = (options.rounds, options.seed);
    let dozen = options.dozen()?;
    let folder = tempfile::Builder::new().prefix("dozen-soak-").tempdir()?.keep();
    let soak = Soak { dozen: folder.join("dozen"), app: folder.join("app"), home: folder.join("home"), log: folder.join("log") };
    guestbook::copy(root, &soak.app)?;
    // A copy of its own, so that who runs it belongs to this soak and to nobody else.
    std::fs::copy(&dozen, &soak.dozen).with_context(|| format!("cannot copy {}", dozen.display()))?;
    println!("seed {seed}, everything under {}", folder.display());
    let mut random = StdRng::seed_from_u64(seed);

    let begin = std::time::Instant::now();
    soak.round(Victim::Up, None, &mut random)?;
    let start = begin.elapsed();
    println!("round 0: built and answered, {:.1} s", start.as_secs_f64());

    let mut killed: BTreeMap<Victim, u32> = BTreeMap::new();
    let mut failures = 0;
    for round in 1..=rounds {
        let victim = VICTIMS[random.random_range(0..VICTIMS.len())];
        // Every other round strikes while things start, the rest once they serve.
        let early = (round % 2 == 0).then(|| Duration::from_millis(random.random_range(0..2000)));
        let moment = early.map_or_else(|| "serving".to_owned(), |after| format!("after {} ms", after.as_millis()));
        match soak.round(victim, early, &mut random) {
            Ok(struck) => {
                *killed.entry(struck).or_default() += 1;
                println!("round {round}: {struck} killed ({moment}), all well");
            }
            Err(error) => {
                failures += 1;
                println!("round {round}: {victim} killed ({moment}): {error:#}");
            }
        }
    }
    let killed: Vec<String> = killed.iter().map(|(victim, count)| format!("{count} × {victim}")).collect();
    println!("\n{rounds} rounds, {failures} failed; killed and survived: {}", killed.join(", "));
    if failures > 0 {
        bail!("{failures} of {rounds} rounds failed; again with --seed {seed}; the log is {}", soak.log.display());
    }
    std::fs::remove_dir_all(&folder).or_else(|_| run(program("rm").arg("-rf").arg(&folder)).map_err(std::io::Error::other))?;
    Ok(())
}

/// The differential test of the router and Node, with more rounds than every run of the tests has time for.
pub(crate) fn framing(options: &Options) -> Result<()> {
    println!("seed {}, {} connections", options.seed, options.rounds);
    let mut test = cargo(&["test", "--quiet", "--locked", "--package", "dozen", "--test", "it", "--", "port::differential", "--nocapture"]);
    test.env("DOZEN_FRAMING_ROUNDS", options.rounds.to_string()).env("DOZEN_FRAMING_SEED", options.seed.to_string());
    run(&mut test).with_context(|| format!("again with --seed {}", options.seed))?;
    println!("Node read what was let in, and nothing else");
    Ok(())
}

struct Soak {
    dozen: PathBuf,
    app: PathBuf,
    home: PathBuf,
    log: PathBuf,
}

impl Soak {
    /// One `up` and one kill. What a failed round leaves behind is ended, so that the next one begins clean.
    fn round(&self, victim: Victim, early: Option<Duration>, random: &mut StdRng) -> Result<Victim> {
        let mut family = Family { known: BTreeMap::new(), binary: self.dozen.clone() };
        let done = self.strike(victim, early, random, &mut family);
        if done.is_err() {
            for (pid, _) in family.alive()? {
                let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
            }
        }
        done
    }

    /// Everything that must be true after a kill. Returns who was struck: what does not run yet is replaced by `up`.
    fn strike(&self, victim: Victim, early: Option<Duration>, random: &mut StdRng, family: &mut Family) -> Result<Victim> {
        let port = free_port()?;
        let mut up = program(&self.dozen);
        up.arg("up").arg(&self.app).args(["--app", "guestbook", "--port", &port.to_string(), "--no-color"]).env("DOZEN_HOME", &self.home);
        let mut up = Running::start(&mut up, &self.log)?;
        match early {
            Some(after) => pause(after),
            None => self.serves(&mut up, port, START).context("it does not start")?,
        }
        family.look(up.pid())?;
        let struck = match family.find(victim, random) {
            Some(pid) => {
                // It may have ended by itself meanwhile; then nothing is struck and everything else still has to be true.
                let _ = kill_process(pid, Signal::KILL);
                victim
            }
            None => {
                kill_process(up.pid(), Signal::KILL)?;
                Victim::Up
            }
        };
        if struck != Victim::Up {
            self.serves(&mut up, port, if early.is_some() { START } else { BACK }).context("it does not serve again")?;
            family.look(up.pid())?;
            kill_process(up.pid(), Signal::INT)?;
        }
        ensure!(wait_until(Duration::from_secs(15), || Ok(up.ended()?.is_some()))?, "`up` does not end");
        let mut left = Vec::new();
        let clean = wait_until(GONE, || {
            left = self.left(family, port)?;
            Ok(left.is_empty())
        })?;
        ensure!(clean, "left behind after {GONE:?}: {}", left.join(", "));
        self.intact()?;
        Ok(struck)
    }

    fn serves(&self, up: &mut Running, port: u16, patience: Duration) -> Result<()> {
        let since = up.since;
        let answered = wait_until(patience, || {
            if let Some(status) = up.ended()? {
                bail!("`up` ended with {status} after {:.1} s", since.elapsed().as_secs_f64());
            }
            Ok(answers(port, HOST, "/"))
        })?;
        ensure!(answered, "no 200 within {patience:?}");
        Ok(())
    }

    /// Everything of a round that is still there.
    fn left(&self, family: &Family, port: u16) -> Result<Vec<String>> {
        let mut left: Vec<String> = family.alive()?.iter().map(|(pid, name)| format!("process {pid} ({name})")).collect();
        let home = self.home.to_string_lossy();
        let unix = std::fs::read_to_string("/proc/net/unix")?;
        left.extend(unix.lines().filter(|line| line.contains(&*home)).map(|line| format!("socket {line}")));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        left.extend(mounts.lines().filter(|line| line.contains(&*home)).map(|line| format!("mount {line}")));
        if listens(port) {
            left.push(format!("a listener on port {port}"));
        }
        Ok(left)
    }

    /// Both databases, by SQLite's own word.
    fn intact(&self) -> Result<()> {
        for path in databases(&self.home)? {
            let said = read(program("sqlite3").arg(&path).arg("pragma integrity_check"))?;
            ensure!(said.trim() == "ok", "{}: {said}", path.display());
        }
        Ok(())
    }
}

/// The ledger, and whatever databases the addons made. Without a ledger nothing was checked, which is an error.
fn databases(home: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in ignore::WalkBuilder::new(home).standard_filters(false).max_depth(Some(5)).build().flatten() {
        let mut head = [0; 16];
        let is_file = entry.file_type().is_some_and(|kind| kind.is_file());
        let read =
            is_file && std::fs::File::open(entry.path()).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head)).is_ok();
        if read && &head == b"SQLite format 3\0" {
            found.push(entry.path().to_owned());
        }
    }
    ensure!(found.iter().any(|path| path.ends_with("ledger.db")), "no ledger.db under {}", home.display());
    Ok(found)
}

/// The processes of one `up`, each with the time of its start, since numbers are used again.
struct Family {
    known: BTreeMap<(i32, u64), (Victim, String)>,
    binary: PathBuf,
}

impl Family {
    /// Adds everyone who descends from `up` now.
    fn look(&mut self, up: Pid) -> Result<()> {
        let all = processes()?;
        let mut inside = BTreeSet::from([up.as_raw_pid()]);
        loop {
            let more: Vec<i32> = all
                .iter()
                .filter(|process| inside.contains(&process.parent) && !inside.contains(&process.pid))
                .map(|process| process.pid)
                .collect();
            if more.is_empty() {
                break;
            }
            inside.extend(more);
        }
        for process in all.iter().filter(|process| inside.contains(&process.pid)) {
            let who = match process.role() {
                Some(role) => role,
                None if process.pid == up.as_raw_pid() => Victim::Up,
                // What a build starts is no instance's, but an orphan all the same.
                None => Victim::App,
            };
            self.known.insert((process.pid, process.start), (who, process.command.clone()));
        }
        Ok(())
    }

    /// One of this kind that runs, by chance.
    fn find(&self, victim: Victim, random: &mut StdRng) -> Option<Pid> {
        let of_kind: Vec<i32> = self.known.iter().filter(|(_, (who, _))| *who == victim).map(|((pid, _), _)| *pid).collect();
        of_kind.choose(random).and_then(|pid| Pid::from_raw(*pid))
    }

    /// Those we knew, and anyone else who runs this very binary: a jail started after we last looked.
    fn alive(&self) -> Result<Vec<(i32, String)>> {
        let of_us = |process: &Process| {
            self.known.contains_key(&(process.pid, process.start))
                || (process.role().is_some()
                    && std::fs::read_link(format!("/proc/{}/exe", process.pid)).is_ok_and(|exe| exe == self.binary))
        };
        Ok(processes()?.into_iter().filter(of_us).map(|process| (process.pid, process.command)).collect())
    }
}

struct Process {
    pid: i32,
    parent: i32,
    /// In clock ticks since the machine's start.
    start: u64,
    name: String,
    command: String,
}

impl Process {
    fn role(&self) -> Option<Victim> {
        let mut words = self.command.split(' ');
        if words.any(|word| word == "__router") {
            return Some(Victim::Router);
        }
        // A jail has its instance's name; until then it is what it stems from.
        let jail = if self.name.starts_with("dozen:") { Victim::Jail } else { Victim::Stock };
        self.command.split(' ').any(|word| word == "__jail").then_some(jail)
    }
}

/// All processes of the machine but zombies.
fn processes() -> Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that ends while we read it is no error.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if let Some((state, parent, start)) = stat_of(&stat)
            && state != "Z"
        {
            let command = String::from_utf8_lossy(&command).replace('\0', " ").trim_end().to_owned();
            let name = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).map_or("", |(name, _)| name).to_owned();
            all.push(Process { pid, parent, start, name, command });
        }
    }
    Ok(all)
}

/// State, parent and start of a line of `/proc/PID/stat`, whose second field is a name that may hold anything.
fn stat_of(stat: &str) -> Option<(&str, i32, u64)> {
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    Some((fields.first()?, fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_behind_any_name() {
        let line = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1000 10 18446744073709551615";
        assert_eq!(stat_of(line), Some(("S", 3, 4242)));
        assert_eq!(stat_of("7 (a"), None);
    }

    #[test]
    fn we_find_ourselves() {
        let me = rustix::process::getpid();
        let mut family = Family { known: BTreeMap::new(), binary: PathBuf::new() };
        family.look(me).expect("/proc can be read");
        assert_eq!(family.find(Victim::Up, &mut StdRng::seed_from_u64(1)), Some(me));
        assert!(family.alive().expect("/proc can be read").iter().any(|(pid, _)| *pid == me.as_raw_pid()));
    }
}
