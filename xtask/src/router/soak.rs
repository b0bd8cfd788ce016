//! `cargo xtask soak router`: clients of many kinds, and under them tables that are swapped each 100 ms, instances that leave and that die,
//! routers that are replaced and that are killed.
//!
//! Nothing may come that another app made or that was made for another request. Nothing may fail but what was in flight when an instance or a
//! router was killed. Each answer has one line in its app's log, and no other has. Memory stays flat. A run is repeated with the seed that it
//! prints, as far as the machine's own timing lets it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dozen_core::logs::LogLine;
use dozen_core::port::{Domain, Route};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::apps::{Instance, runtime};
use super::clients::{Load, client};
use super::{Led, route};
use crate::Options;
use crate::process::pause;

const APPS: [u8; 4] = *b"abcd";
const INSTANCES: usize = 3;
const CLIENTS: u64 = 24;
/// A table is swapped so often.
const SWAP: Duration = Duration::from_millis(100);
/// What an instance has in flight when it leaves ends within this.
const LEAVES: Duration = Duration::from_secs(20);
/// A router that was replaced may take so long to finish.
const GRACE: Duration = Duration::from_secs(30);
/// Lines of what was answered so shortly before a kill, or was told so shortly after it, may not have been written.
const UNWRITTEN: Duration = Duration::from_secs(1);
/// Memory may grow by so much of itself, and by so many KiB, from the first quarter of a time to its last.
const GROWTH: (u64, u64) = (4, 4 * 1024);

/// In less time memory tells nothing: it is that of a router which has just started.
const TELLING: Duration = Duration::from_secs(60);

/// What is done to the router, and to those behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Act {
    /// The table is swapped, as with everything else.
    Swap,
    /// An instance leaves in order: not one of its requests fails.
    Leave,
    /// An instance dies, and the table learns of it later.
    Die,
    /// A successor takes over from the router.
    Replace,
    /// The router is killed.
    Kill,
}

const ACTS: [Act; 5] = [Act::Swap, Act::Leave, Act::Die, Act::Replace, Act::Kill];

impl Act {
    /// So many times it comes in a deck, while the router stays and when none stays for long.
    fn often(self, late: bool) -> usize {
        match self {
            Self::Swap => 7,
            Self::Leave => 2,
            Self::Die => 1,
            Self::Replace => 3 * usize::from(late),
            Self::Kill => usize::from(late),
        }
    }

    /// All of them, as often as they come, in an order of chance.
    fn deck(late: bool, random: &mut StdRng) -> Vec<Self> {
        let mut deck: Vec<Self> = ACTS.iter().flat_map(|act| std::iter::repeat_n(*act, act.often(late))).collect();
        deck.shuffle(random);
        deck
    }
}

pub(crate) fn run_all(options: &Options) -> Result<()> {
    let (seed, time) = (options.seed, Duration::from_secs(options.seconds));
    let dozen = options.dozen()?;
    super::raise_file_limit();
    let home = tempfile::Builder::new().prefix("dozen-soak-").tempdir()?.keep();
    println!("seed {seed}, {} s, everything under {}", time.as_secs(), home.display());
    let (behind, before) = (runtime()?, runtime()?);
    let mut led = Led::start(&dozen, &home, 2, u32::MAX)?;
    let load = Arc::new(Load::default());
    let mut random = StdRng::seed_from_u64(seed);
    let mut soak = Soak { instances: HashMap::new(), behind: behind.handle().clone(), load: load.clone(), done: HashMap::new() };
    for app in APPS {
        let three = (0..INSTANCES).map(|_| Instance::start(&soak.behind, app)).collect::<Result<_>>()?;
        soak.instances.insert(app, three);
    }
    led.lead(&soak.table()?)?;
    let port = led.port();
    let asking: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let (load, seed) = (load.clone(), seed.wrapping_mul(CLIENTS).wrapping_add(n));
            before.spawn(async move { client(&load, &APPS, port, seed).await })
        })
        .collect();

    // First the router stays, so that its memory can be told; then none stays for long.
    let begin = Instant::now();
    let mut memory = Vec::new();
    let mut kills = Vec::new();
    let (mut deck, mut was_late) = (Vec::new(), false);
    let outcome = loop {
        let late = begin.elapsed() > time / 2;
        if deck.is_empty() || late != was_late {
            (deck, was_late) = (Act::deck(late, &mut random), late);
        }
        let step = deck.pop().map_or(Ok(()), |act| soak.step(act, &mut led, &mut random, &mut kills));
        if !late && time >= TELLING {
            memory.push(resident(&led)?);
        }
        // On a machine that is slow it takes longer until each of them has been.
        if step.is_err() || (begin.elapsed() > time && ACTS.iter().all(|act| soak.done.contains_key(act))) {
            break step;
        }
    };
    load.stop.store(true, Ordering::Relaxed);
    for one in asking {
        before.block_on(one).context("a client panicked")?;
    }
    led.stop();
    outcome.with_context(|| format!("again with --seed {seed}; everything is under {}", home.display()))?;

    let checked = soak.check(&home, &memory, &kills);
    let checked = checked.with_context(|| format!("again with --seed {seed}; everything is under {}", home.display()))?;
    let [alone, left, died, replaced, killed] = ACTS.map(|act| soak.done.get(&act).copied().unwrap_or(0));
    println!(
        "{checked}\n{} tables; {left} instances left and {died} died; {replaced} routers replaced and {killed} killed; {} requests in flight in what was killed failed; {} clients went by themselves",
        alone + left + died + killed,
        load.excused.load(Ordering::Relaxed),
        load.broken_off.load(Ordering::Relaxed)
    );
    std::fs::remove_dir_all(&home)?;
    Ok(())
}

/// KiB that the router has in memory.
fn resident(led: &Led) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", led.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).context("no VmRSS of the router")
}

struct Soak {
    instances: HashMap<u8, Vec<Instance>>,
    behind: tokio::runtime::Handle,
    load: Arc<Load>,
    done: HashMap<Act, u32>,
}

impl Soak {
    fn table(&self) -> Result<Vec<(Domain, Arc<Route>)>> {
        APPS.iter().map(|app| self.lead(*app)).collect()
    }

    fn lead(&self, app: u8) -> Result<(Domain, Arc<Route>)> {
        let ports: Vec<u16> = self.instances.get(&app).into_iter().flatten().map(|instance| instance.port).collect();
        let name = char::from(app);
        Ok((format!("{name}.test").parse()?, route(&format!("{name}/dev"), &ports)?))
    }

    /// Does it, to whichever instance chance says, and swaps the table.
    fn step(&mut self, act: Act, led: &mut Led, random: &mut StdRng, kills: &mut Vec<Instant>) -> Result<()> {
        pause(SWAP);
        let app = APPS[random.random_range(0..APPS.len())];
        let at = random.random_range(0..INSTANCES);
        match act {
            Act::Swap => led.lead(&self.table()?)?,
            Act::Leave => {
                let gone = self.renew(app, at)?;
                led.lead(&self.table()?)?;
                led.drained(gone.port, LEAVES)?;
            }
            Act::Die => {
                self.load.struck.fetch_add(1, Ordering::SeqCst);
                drop(self.renew(app, at)?);
                pause(SWAP);
                led.lead(&self.table()?)?;
                // What was on its way to the dead one has failed by now.
                pause(SWAP);
                self.load.struck.fetch_add(1, Ordering::SeqCst);
            }
            Act::Replace => led.replace(GRACE)?,
            Act::Kill => {
                self.load.struck.fetch_add(1, Ordering::SeqCst);
                kills.push(Instant::now());
                led.kill()?;
                led.lead(&self.table()?)?;
                pause(SWAP);
                self.load.struck.fetch_add(1, Ordering::SeqCst);
            }
        }
        *self.done.entry(act).or_default() += 1;
        let wrong = self.load.wrong.lock().expect("no client panics with it");
        match wrong.first() {
            Some(first) => bail!("{} requests went wrong, the first: {first}", wrong.len()),
            None => Ok(()),
        }
    }

    /// Puts another instance in the place of one, which it answers.
    fn renew(&mut self, app: u8, at: usize) -> Result<Instance> {
        let next = Instance::start(&self.behind, app)?;
        let of = self.instances.get_mut(&app).context("every app has instances")?;
        Ok(std::mem::replace(&mut of[at], next))
    }

    /// What must be true in the end: of the answers, of the log, of memory.
    fn check(&self, home: &std::path::Path, memory: &[u64], kills: &[Instant]) -> Result<String> {
        let (done, asked) = (self.load.done.lock().expect("all clients ended"), self.load.asked.lock().expect("all clients ended"));
        ensure!(done.len() > 10, "only {} requests were answered", done.len());
        let mut lines: HashMap<u64, u32> = HashMap::new();
        for app in APPS {
            let name = char::from(app);
            let folder = dozen_engine::home::Home::at(home).logs(&format!("{name}/dev").parse()?);
            for file in std::fs::read_dir(&folder).with_context(|| format!("no log of {name}"))? {
                for line in std::fs::read(file?.path())?.split_inclusive(|byte| *byte == b'\n') {
                    let line = LogLine::decode(line).context("a line that is none")?;
                    let text = line.text();
                    let Some(id) = field(&text, "request_id").and_then(|id| id.strip_prefix("soak-")?.parse().ok()) else {
                        bail!("a line of no request: {text}");
                    };
                    ensure!(asked.get(&id) == Some(&app), "a request of another app in the log of {name}: {text}");
                    let count = lines.entry(id).or_default();
                    *count += 1;
                    ensure!(*count == 1, "a second line of one request: {text}");
                    if let Some(done) = done.get(&id) {
                        let says = (field(&text, "status"), field(&text, "bytes"));
                        let is = (done.status.to_string(), done.bytes.to_string());
                        ensure!(says == (Some(&is.0), Some(&is.1)), "{} and {} bytes were answered, and the log says: {text}", is.0, is.1);
                    }
                }
            }
        }
        let apart = |at: &Instant, kill: &Instant| kill.saturating_duration_since(*at).max(at.saturating_duration_since(*kill));
        let unwritten = |at: &Instant| kills.iter().any(|kill| apart(at, kill) < UNWRITTEN);
        let missing = done.iter().filter(|(id, done)| !lines.contains_key(id) && !unwritten(&done.at)).count();
        ensure!(missing == 0, "{missing} answers of {} have no line", done.len());
        Ok(format!("{} answers, each the right one and with its line, no other; {}", done.len(), flat(memory)?))
    }
}

/// Whether memory stayed as it was, of so many samples; says what it was.
fn flat(memory: &[u64]) -> Result<String> {
    let median = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part.get(part.len() / 2).copied()
    };
    let quarter = memory.len() / 4;
    let (Some(first), Some(last)) = (median(&memory[..quarter]), median(&memory[memory.len() - quarter..])) else {
        return Ok("too short to tell of memory".to_owned());
    };
    ensure!(last <= first + first / GROWTH.0 + GROWTH.1, "the router's memory grew from {first} to {last} KiB");
    Ok(format!("the router's memory was {first} KiB and then {last} KiB"))
}

/// The value of a field of a router's line.
fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let (_, rest) = line.split_once(&format!(" {name}="))?;
    rest.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::{ACTS, Act, flat};
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    #[test]
    fn a_deck_has_all_that_there_is_and_repeats_itself_with_its_seed() {
        let deck = |late, seed| Act::deck(late, &mut StdRng::seed_from_u64(seed));
        assert!(ACTS.iter().all(|act| deck(true, 1).contains(act)));
        assert!(!deck(false, 1).iter().any(|act| matches!(act, Act::Replace | Act::Kill)));
        assert_eq!(deck(true, 1), deck(true, 1));
        assert!((2..9).any(|seed| deck(true, seed) != deck(true, 1)));
    }

    #[test]
    fn memory_that_grows_is_told() {
        let of = |last: u64| flat(&[[40_000; 9], [last; 9]].concat());
        assert!(of(40_000).is_ok() && of(53_000).is_ok() && of(55_000).is_err());
        assert!(flat(&[]).is_ok() && flat(&[1, 1_000_000, 1_000_000]).is_ok());
    }
}
