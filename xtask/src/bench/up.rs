//! `cargo xtask bench up`: how long until the guestbook's page is answered, by `dozen up` and by the bare commands.
//!
//! One run measures all cases in rounds, each round in the other order than the last, so that a noisy neighbour meets every case. The
//! clock runs from the start of the first program to the first `HTTP/1.1 200` for `/`, which reads the database and renders the page.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::json;

use super::Spread;
use crate::machine::on_path;
use crate::process::{Running, answers, free_port, program, read, run, wait_until};
use crate::{Options, guestbook, process};

/// What is measured, in the order of an even round.
const CASES: &[Case] =
    &[Case::BareCold, Case::DozenCold, Case::BareWarm, Case::DozenLine, Case::BareLine, Case::BareStart, Case::DozenAgain];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Case {
    /// Nothing cached: `uv venv`, `uv pip install`, `collectstatic`, `migrate`, `gunicorn`.
    BareCold,
    /// The same with uv's cache warm.
    BareWarm,
    /// What a change of source asks for: `collectstatic`, `migrate`, `gunicorn`.
    BareLine,
    /// Only `gunicorn`: the app's own start.
    BareStart,
    /// `dozen up` with an empty home and no cache.
    DozenCold,
    /// `dozen up` after one line of source changed.
    DozenLine,
    /// `dozen up` with nothing changed.
    DozenAgain,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::BareCold => "bare, cold",
            Self::BareWarm => "bare, warm cache",
            Self::BareLine => "bare, one line changed",
            Self::BareStart => "bare, gunicorn only",
            Self::DozenCold => "dozen up, cold",
            Self::DozenLine => "dozen up, one line changed",
            Self::DozenAgain => "dozen up, nothing changed",
        }
    }

    /// The bare commands that do the same work.
    fn peer(self) -> Option<Self> {
        match self {
            Self::DozenCold => Some(Self::BareCold),
            Self::DozenLine => Some(Self::BareLine),
            Self::DozenAgain => Some(Self::BareStart),
            _ => None,
        }
    }
}

pub(crate) fn run_all(root: &Path, options: &Options) -> Result<()> {
    let rounds = options.rounds;
    let bench = Bench::prepare(root, options.binary.clone())?;
    let mut samples: BTreeMap<Case, Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        let mut order = CASES.to_vec();
        if round % 2 == 1 {
            order.reverse();
        }
        for case in order {
            let seconds = bench.measure(case).with_context(|| format!("`{}` failed; see {}", case.name(), bench.log().display()))?;
            println!("round {} of {rounds}: {:<28}{seconds:8.3} s", round + 1, case.name());
            samples.entry(case).or_default().push(seconds);
        }
    }
    let table: BTreeMap<Case, Spread> = samples.iter().map(|(case, seconds)| (*case, Spread::of(seconds))).collect();
    print(&table);
    write(root, &bench, rounds, &samples, &table)?;
    // Nobody wants to read a log of a run that went well.
    std::fs::remove_dir_all(&bench.folder)?;
    Ok(())
}

/// From which of the bare commands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bare {
    All,
    Changed,
    Start,
}

/// The folder of one run, which stays where a case fails: `app`, `bare`, `uv-cache`, `home`, `dozen-cache`, `log`.
struct Bench {
    folder: PathBuf,
    dozen: PathBuf,
    uv: PathBuf,
}

impl Bench {
    fn prepare(root: &Path, binary: Option<PathBuf>) -> Result<Self> {
        let dozen = super::shipped(binary)?;
        let folder = tempfile::Builder::new().prefix("dozen-bench-").tempdir()?.keep();
        guestbook::copy(root, &folder.join("app"))?;
        let uv = if on_path("uv") {
            PathBuf::from("uv")
        } else {
            println!("no uv on this machine; installing it for the bare commands ...");
            run(program("python3").args(["-m", "venv"]).arg(folder.join("uv")))?;
            run(program(folder.join("uv/bin/python")).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"]))?;
            folder.join("uv/bin/uv")
        };
        let bench = Self { folder, dozen, uv };
        // What the warm cases start from, whichever comes first.
        bench.measure(Case::BareCold)?;
        bench.measure(Case::DozenCold)?;
        Ok(bench)
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// One sample, in seconds.
    fn measure(&self, case: Case) -> Result<f64> {
        match case {
            Case::BareCold => {
                self.clear(&["uv-cache", "bare"])?;
                self.bare(Bare::All)
            }
            Case::BareWarm => {
                self.clear(&["bare"])?;
                self.bare(Bare::All)
            }
            Case::BareLine => self.bare(Bare::Changed),
            Case::BareStart => self.bare(Bare::Start),
            Case::DozenCold => {
                self.clear(&["home", "dozen-cache"])?;
                self.dozen()
            }
            Case::DozenLine => {
                let mut views = std::fs::File::options().append(true).open(self.folder.join("app/guestbook/views.py"))?;
                writeln!(views, "# one line more")?;
                self.dozen()
            }
            Case::DozenAgain => self.dozen(),
        }
    }

    fn clear(&self, names: &[&str]) -> Result<()> {
        for name in names {
            let path = self.folder.join(name);
            if path.exists() {
                // Slugs are read-only, and so are their folders.
                run(program("chmod").args(["-R", "u+w"]).arg(&path))?;
                std::fs::remove_dir_all(&path).with_context(|| format!("cannot clear {}", path.display()))?;
            }
        }
        Ok(())
    }

    fn dozen(&self) -> Result<f64> {
        let port = free_port()?;
        let mut up = program(&self.dozen);
        up.arg("up").arg(self.folder.join("app")).args(["--app", "guestbook", "--port", &port.to_string(), "--no-color", "--json"]);
        up.env("DOZEN_HOME", self.folder.join("home")).env("UV_CACHE_DIR", self.folder.join("dozen-cache"));
        let begin = Instant::now();
        self.first_answer(&mut up, port, begin, Signal::INT)
    }

    fn bare(&self, from: Bare) -> Result<f64> {
        let (app, bare) = (self.folder.join("app"), self.folder.join("bare"));
        let (venv, port) = (bare.join("venv"), free_port()?);
        std::fs::create_dir_all(&bare)?;
        let configured = |mut command: Command| {
            command.current_dir(&app).env("UV_CACHE_DIR", self.folder.join("uv-cache")).env("SECRET_KEY", "bench");
            command.env("DATABASE_URL", format!("sqlite:///{}", bare.join("guestbook.sqlite3").display()));
            command.env("PORT", port.to_string()).env("PYTHONUNBUFFERED", "1");
            command
        };
        let begin = Instant::now();
        if from <= Bare::All {
            read(configured(program(&self.uv)).args(["venv", "--quiet"]).arg(&venv))?;
            let mut install = configured(program(&self.uv));
            install
                .args(["pip", "install", "--quiet", "--require-hashes", "-r", "requirements.txt", "--python"])
                .arg(venv.join("bin/python"));
            read(&mut install)?;
        }
        if from <= Bare::Changed {
            read(configured(program(venv.join("bin/python"))).args(["manage.py", "collectstatic", "--noinput"]))?;
            read(configured(program(venv.join("bin/python"))).args(["manage.py", "migrate", "--noinput"]))?;
        }
        let mut web = configured(program(venv.join("bin/gunicorn")));
        self.first_answer(web.arg("guestbook.wsgi"), port, begin, Signal::TERM)
    }

    fn first_answer(&self, command: &mut Command, port: u16, begin: Instant, stop: Signal) -> Result<f64> {
        let mut running = Running::start(command, &self.log())?;
        let answered = wait_until(Duration::from_secs(300), || {
            ensure!(running.ended()?.is_none(), "`{}` ended before it answered", process::shown(command));
            Ok(answers(port, "guestbook.localhost", "/"))
        })?;
        let seconds = begin.elapsed().as_secs_f64();
        ensure!(answered, "no answer on port {port} in 300 s");
        running.stop(stop, Duration::from_secs(30))?;
        Ok(seconds)
    }
}

fn print(table: &BTreeMap<Case, Spread>) {
    println!("\n{:<28}{:>10}{:>10}{:>10}   seconds to the first answer", "", "min", "median", "max");
    for (case, spread) in table {
        let ratio = case.peer().and_then(|peer| table.get(&peer).map(|bare| (peer, bare)));
        let ratio = ratio.map_or(String::new(), |(peer, bare)| {
            format!("   {:.2} × `{}`, {:+.3} s", spread.median / bare.median, peer.name(), spread.median - bare.median)
        });
        println!("{:<28}{:>10.3}{:>10.3}{:>10.3}{ratio}", case.name(), spread.min, spread.median, spread.max);
    }
}

fn write(root: &Path, bench: &Bench, rounds: u32, samples: &BTreeMap<Case, Vec<f64>>, table: &BTreeMap<Case, Spread>) -> Result<()> {
    let cases: Vec<_> = table
        .iter()
        .map(|(case, spread)| {
            let seconds: Vec<f64> = samples[case].iter().map(|seconds| (seconds * 1e3).round() / 1e3).collect();
            let of_peer = case.peer().and_then(|peer| table.get(&peer)).map(|bare| spread.median / bare.median);
            let [median, ratio] = [Some(spread.median), of_peer].map(|number| number.map(|number| (number * 1e3).round() / 1e3));
            json!({ "case": case.name(), "seconds": seconds, "median": median, "ratio_to_bare": ratio })
        })
        .collect();
    let uv = read(program(&bench.uv).arg("--version")).ok().map(|version| version.trim().to_owned());
    let what = "seconds from start to the first 200 for the guestbook's page";
    super::write(root, "up", what, rounds, &json!({ "uv": uv, "cases": cases }))
}
