//! What a large table costs, and how a request fares while tables are swapped. Of dozen alone: how it compares with others is told elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dozen_core::port::{Domain, Route};
use serde_json::{Value, json};

use super::behind;
use super::load::{self, Cost, Requests};
use super::peers::{Proxy, Shelf, Started};
use super::{KEPT, PATH, SECONDS, Spread, tell, three};
use crate::process::pause;
use crate::router::route;

/// What is there once in the one table and often in the other.
pub(super) struct Size {
    pub(super) key: &'static str,
    hosts: usize,
    instances: usize,
}

pub(super) const HOSTS: Size = Size { key: "hosts", hosts: 10_000, instances: 1 };
pub(super) const INSTANCES: Size = Size { key: "instances", hosts: 1, instances: 1_000 };
pub(super) const SWAP_KEY: &str = "swap";
/// Each of two routers is asked so many times in a round, in turn, for so many seconds.
const TURNS: usize = 4;
const TURN: u32 = 1;
/// A table is swapped so often.
const SWAP: Duration = Duration::from_millis(100);

/// Those that are wanted.
pub(super) fn measure(shelf: &Shelf, rounds: u32, wanted: &dyn Fn(&str) -> bool) -> Result<Value> {
    let mut report = json!({});
    for size in [HOSTS, INSTANCES] {
        if wanted(size.key) {
            report[size.key] = size.measure(shelf, rounds)?;
        }
    }
    if wanted(SWAP_KEY) {
        report[SWAP_KEY] = swap(shelf)?;
    }
    Ok(report)
}

impl Size {
    /// A router with a table of one and a router with the large one, side by side and asked in turn. Each round has two new ones, so that
    /// no process's own place in memory decides, and short turns, so that what changes on the machine meanwhile meets both.
    fn measure(&self, shelf: &Shelf, rounds: u32) -> Result<Value> {
        let ports = if self.instances > 1 { behind::instances(self.instances)? } else { vec![shelf.behind.pages_port] };
        let count = self.hosts.max(self.instances);
        let cases = [("1".to_owned(), 1, &ports[..1]), (count.to_string(), self.hosts, &ports[..])];
        let (mut each, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
        for round in 0..rounds {
            let start = |(_, hosts, ports): &(String, usize, &[u16])| {
                let one = One::start(shelf, *hosts, ports)?;
                // By now all connections are there that are kept to instances.
                one.ask(SECONDS)?;
                anyhow::Ok(one)
            };
            let pair = [start(&cases[0])?, start(&cases[1])?];
            let mut of_round = [Vec::new(), Vec::new()];
            for turn in 0..2 * TURNS {
                let case = (turn + round as usize) % 2;
                let cost = pair[case].ask(TURN).with_context(|| format!("a table of {} {}", cases[case].0, self.key))?;
                tell(round, rounds, &format!("a table of so many {}", self.key), &cases[case].0, cost);
                of_round[case].push(cost.each);
            }
            // One turn in which a neighbour was busy decides nothing.
            let [small, large] = [0, 1].map(|case| Spread::of(&of_round[case]).median);
            ratios.push(large / small);
            each.iter_mut().zip(of_round).for_each(|(all, more)| all.extend(more));
            pair.into_iter().try_for_each(|one| one.started.stop())?;
        }
        let [small, large, ratio] = [&each[0], &each[1], &ratios].map(|samples| Spread::of(samples));
        println!(
            "\na table of {count} {}, 1 KB, 64 connections kept: {:.2} µs each, of 1: {:.2}; ratio {:.3} {:.3} {:.3}",
            self.key, large.median, small.median, ratio.min, ratio.median, ratio.max
        );
        Ok(json!({ "count": count, "cpu_us": three(large), "cpu_us_of_1": three(small), "to_1": three(ratio) }))
    }
}

/// A router of dozen that is led by one table.
struct One {
    started: Started,
    script: PathBuf,
}

impl One {
    fn start(shelf: &Shelf, count: usize, ports: &[u16]) -> Result<Self> {
        let mut started = shelf.start(Proxy::Dozen)?;
        started.led().context("dozen's router has a control plane")?.lead(&hosts(count, ports)?)?;
        Ok(Self { started, script: script(&shelf.folder, count)? })
    }

    fn ask(&self, seconds: u32) -> Result<Cost> {
        let what = Requests { script: Some(&self.script), ..KEPT };
        load::requests(self.started.pid()?, self.started.ports.web, what, seconds)
    }
}

/// Hosts that all lead to these instances.
fn hosts(count: usize, ports: &[u16]) -> Result<Vec<(Domain, Arc<Route>)>> {
    let route = route("shop/dev", ports)?;
    (0..count).map(|n| Ok((host(n).parse()?, route.clone()))).collect()
}

/// All are of one length, so that the only difference is how many there are.
fn host(n: usize) -> String {
    format!("host-{n:05}.test")
}

/// A script for wrk that asks one host after the other.
fn script(folder: &Path, count: usize) -> Result<PathBuf> {
    let path = folder.join(format!("hosts-{count}.lua"));
    let lua = format!(
        "local n = 0\nfunction request()\n  n = (n + 7919) % {count}\n  \
         wrk.headers[\"Host\"] = string.format(\"host-%05d.test\", n)\n  return wrk.format(\"GET\", \"{PATH}\")\nend\n"
    );
    std::fs::write(&path, lua)?;
    Ok(path)
}

/// Two tables in turn, under load, which lead all hosts to one instance and then to another one. wrk's first failed request is the end of it.
fn swap(shelf: &Shelf) -> Result<Value> {
    let ports = behind::instances(2)?;
    let all = [hosts(HOSTS.hosts, &ports[..1])?, hosts(HOSTS.hosts, &ports[1..])?];
    let mut one = One::start(shelf, HOSTS.hosts, &ports[..1])?;
    let still = one.ask(2 * SECONDS)?;
    let (pid, port) = (one.started.pid()?, one.started.ports.web);
    let what = Requests { script: Some(&one.script), ..KEPT };
    let led = one.started.led().context("dozen's router has a control plane")?;
    let (stop, swaps) = (AtomicBool::new(false), AtomicU32::new(0));
    let asked = std::thread::scope(|threads| {
        let swapping = threads.spawn(|| -> Result<()> {
            let mut due = Instant::now();
            for table in all.iter().rev().cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                led.lead(table)?;
                swaps.fetch_add(1, Ordering::Relaxed);
                due += SWAP;
                pause(due.saturating_duration_since(Instant::now()));
            }
            Ok(())
        });
        let asked = load::requests(pid, port, what, 2 * SECONDS);
        stop.store(true, Ordering::Relaxed);
        swapping.join().map_err(|_| anyhow::anyhow!("whoever swaps tables panicked"))??;
        asked
    })
    .with_context(|| format!("a table of {} hosts, swapped under load", HOSTS.hosts))?;
    let swaps = swaps.into_inner();
    ensure!(swaps > 1, "no table was swapped");
    println!(
        "\n{swaps} swaps of {} hosts within {} s of load: {:.0} requests a second, none failed; {:.2} µs each with reading the tables, {:.2} without swaps",
        HOSTS.hosts,
        2 * SECONDS,
        asked.rate,
        asked.each,
        still.each
    );
    one.started.stop()?;
    // Had one failed, there would be no report.
    Ok(json!({ "hosts": HOSTS.hosts, "swaps": swaps, "seconds": 2 * SECONDS, "a_second": asked.rate.round(), "failed": 0 }))
}
