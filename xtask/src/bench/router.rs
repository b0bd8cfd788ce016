//! `cargo xtask bench router`: what a request costs of a processor that goes through dozen's router, beside nginx, HAProxy and Caddy.
//!
//! Proxies are on one core, whoever asks and answers on the other. Two cores with neighbours make requests a second a poor measure: what
//! counts is the time that the proxy's own processes were on a processor, by the kernel's account, divided by what was asked of it. A ratio is
//! of the same round: `nginx ÷ dozen` above 1 says that dozen needs less.

mod load;
mod peers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dozen_core::port::{Domain, Route};
use serde_json::{Value, json};

use super::{Spread, rounded};
use crate::Options;
use crate::process::pause;
use crate::router::route;
use load::{Cost, Requests};
use peers::{Behind, Proxy, Shelf, Started};

/// Each measurement lasts so long.
const SECONDS: u32 = 2;
const PATH: &str = "/articles/42?page=3";
const PROXIES: [Proxy; 4] = [Proxy::Dozen, Proxy::Nginx, Proxy::Haproxy, Proxy::Caddy];
/// Idle connections: so many, and so many again.
const IDLE: [u32; 2] = [1_000, 10_000];
/// A large table.
const HOSTS: usize = 10_000;
const INSTANCES: usize = 1_000;
/// A table is swapped so often.
const SWAP: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Row {
    Kept,
    Many,
    Closing,
    Large,
    Messages,
}

const ROWS: [Row; 5] = [Row::Kept, Row::Many, Row::Closing, Row::Large, Row::Messages];

impl Row {
    fn name(self) -> &'static str {
        match self {
            Self::Kept => "1 KB, 64 connections kept",
            Self::Many => "1 KB, 256 connections kept",
            Self::Closing => "1 KB, a connection for each request, 64 at once",
            Self::Large => "64 KB, 64 connections kept",
            Self::Messages => "WebSocket messages, 64 connections",
        }
    }

    fn measure(self, started: &Started) -> Result<Cost> {
        let [web, chat] = started.ports;
        let kept = Requests { connections: 64, path: PATH, closing: false, script: None };
        let what = match self {
            Self::Kept => kept,
            Self::Many => Requests { connections: 256, ..kept },
            Self::Closing => Requests { closing: true, ..kept },
            Self::Large => Requests { path: "/large", ..kept },
            Self::Messages => return load::messages(started.pid()?, chat, 64, SECONDS),
        };
        load::requests(started.pid()?, web, what, SECONDS)
    }
}

type Costs = BTreeMap<(Row, Proxy), Vec<Cost>>;

pub(crate) fn run_all(root: &Path, options: &Options) -> Result<()> {
    let rounds = options.rounds;
    let dozen = super::shipped(options.binary.clone())?;
    let caddy = peers::prepare()?;
    let folder = tempfile::Builder::new().prefix("dozen-bench-").tempdir()?.keep();
    // Thousands of connections, each with two ends, and instances with a port each.
    crate::router::raise_file_limit();
    let shelf = Shelf { behind: Behind::start(&folder)?, folder, dozen, caddy };
    let idle = idle(&shelf)?;

    let mut costs = Costs::new();
    let mut started = PROXIES.iter().map(|proxy| shelf.start(*proxy)).collect::<Result<Vec<_>>>()?;
    for one in &started {
        Row::Kept.measure(one).with_context(|| format!("{} does not answer", one.proxy.name()))?;
    }
    for round in 0..rounds {
        for row in ROWS {
            for one in &started {
                let cost = row.measure(one).with_context(|| format!("{}: {} failed", row.name(), one.proxy.name()))?;
                println!(
                    "round {} of {rounds}: {:<48} {:<8} {:7.2} µs each, {:7.0} a second",
                    round + 1,
                    row.name(),
                    one.proxy.name(),
                    cost.each,
                    cost.rate
                );
                costs.entry((row, one.proxy)).or_default().push(cost);
            }
        }
        started.reverse();
    }
    started.into_iter().try_for_each(Started::stop)?;
    let tables = tables(&shelf, rounds)?;
    let rows = ROWS.map(|row| table(row, &costs));
    let report = json!({ "seconds": SECONDS, "rows": rows, "idle": idle, "tables": tables });
    super::write(
        root,
        "router",
        "the router beside other proxies, each on one core; ratios are the peer ÷ dozen, in time of a processor for each request, round by round",
        rounds,
        &report,
    )?;
    shelf.behind.stop()?;
    // Nobody wants to read the logs of a run that went well.
    std::fs::remove_dir_all(&shelf.folder)?;
    Ok(())
}

fn three(spread: Spread) -> Value {
    json!({ "min": rounded(spread.min), "median": rounded(spread.median), "max": rounded(spread.max) })
}

/// Prints a row of each proxy, and answers it for the report.
fn table(row: Row, costs: &Costs) -> Value {
    println!(
        "\n{:<50}{:>8}{:>8}{:>8}{:>12}{:>19}{:>8}{:>8}",
        row.name(),
        "µs min",
        "median",
        "max",
        "a second",
        "it ÷ dozen: min",
        "median",
        "max"
    );
    let of = |proxy| costs.get(&(row, proxy)).map(Vec::as_slice).unwrap_or_default();
    let mut rows = Vec::new();
    for proxy in PROXIES {
        let each = Spread::of(&of(proxy).iter().map(|cost| cost.each).collect::<Vec<_>>());
        let rate = Spread::of(&of(proxy).iter().map(|cost| cost.rate).collect::<Vec<_>>());
        let ratio = Spread::of(&of(proxy).iter().zip(of(Proxy::Dozen)).map(|(it, dozen)| it.each / dozen.each).collect::<Vec<_>>());
        println!(
            "  {:<48}{:>8.2}{:>8.2}{:>8.2}{:>12.0}{:>19.2}{:>8.2}{:>8.2}",
            proxy.name(),
            each.min,
            each.median,
            each.max,
            rate.median,
            ratio.min,
            ratio.median,
            ratio.max
        );
        rows.push(json!({ "proxy": proxy.name(), "cpu_us": three(each), "a_second": three(rate), "it_to_dozen": three(ratio) }));
    }
    json!({ "row": row.name(), "proxies": rows })
}

/// The memory of idle connections, each count in a proxy that has just started.
fn idle(shelf: &Shelf) -> Result<Value> {
    println!("{:<50}{:>12}{:>12}{:>12}", "memory of an idle connection (PSS), bytes", "of 1,000", "of 10,000", "never used");
    let mut rows = Vec::new();
    // The others close what idles before so many are there.
    for proxy in [Proxy::Dozen, Proxy::Nginx] {
        let mut each = Vec::new();
        for (count, fresh) in [(IDLE[0], false), (IDLE[1], false), (IDLE[0], true)] {
            let started = shelf.start(proxy)?;
            let bytes = load::idle(started.pid()?, started.ports[0], count, fresh);
            each.push(bytes.with_context(|| format!("{count} idle connections to {} failed", proxy.name()))?);
            started.stop()?;
        }
        println!("  {:<48}{:>12.0}{:>12.0}{:>12.0}", proxy.name(), each[0], each[1], each[2]);
        rows.push(json!({ "proxy": proxy.name(), "of_1000": each[0].round(), "of_10000": each[1].round(), "never_used": each[2].round() }));
    }
    Ok(json!(rows))
}

/// Hosts that all lead to these instances.
fn hosts(count: usize, ports: &[u16]) -> Result<Vec<(Domain, Arc<Route>)>> {
    let route = route("shop/dev", ports)?;
    (0..count).map(|n| Ok((format!("host-{n}.test").parse()?, route.clone()))).collect()
}

/// A script for wrk that asks one host after the other.
fn script(folder: &Path, count: usize) -> Result<PathBuf> {
    let path = folder.join(format!("hosts-{count}.lua"));
    let lua = format!(
        "local n = 0\nfunction request()\n  n = (n + 7919) % {count}\n  wrk.headers[\"Host\"] = \"host-\" .. n .. \".test\"\n  return wrk.format(\"GET\", \"{PATH}\")\nend\n"
    );
    std::fs::write(&path, lua)?;
    Ok(path)
}

/// What a large table costs, and how a request fares while it is swapped.
fn tables(shelf: &Shelf, rounds: u32) -> Result<Value> {
    let instances = load::instances(INSTANCES)?;
    let pages = [shelf.behind.pages_port];
    let mut started = shelf.start(Proxy::Dozen)?;
    let (pid, port) = (started.pid()?, started.ports[0]);
    let led = started.led().context("dozen's router has a control plane")?;
    let cases: [(usize, &[u16]); 4] = [(1, &pages), (HOSTS, &pages), (1, &instances[..1]), (1, &instances)];
    let mut each = vec![Vec::new(); cases.len()];
    for round in 0..rounds as usize {
        for step in 0..cases.len() {
            let case = if round % 2 == 0 { step } else { cases.len() - 1 - step };
            let (count, ports) = cases[case];
            led.lead(&hosts(count, ports)?)?;
            let script = script(&shelf.folder, count)?;
            let what = Requests { connections: 64, path: PATH, closing: false, script: Some(&script) };
            each[case].push(load::requests(pid, port, what, SECONDS)?.each);
        }
    }
    let ratio = |large: usize, small: usize| Spread::of(&each[large].iter().zip(&each[small]).map(|(l, s)| l / s).collect::<Vec<_>>());
    let (by_hosts, by_instances) = (ratio(1, 0), ratio(3, 2));
    println!("\n{HOSTS} hosts ÷ 1, CPU for each request: {:.2} {:.2} {:.2}", by_hosts.min, by_hosts.median, by_hosts.max);
    println!("{INSTANCES} instances ÷ 1: {:.2} {:.2} {:.2}", by_instances.min, by_instances.median, by_instances.max);

    let (stop, swaps) = (AtomicBool::new(false), AtomicU32::new(0));
    let all = hosts(HOSTS, &pages)?;
    led.lead(&all)?;
    let script = script(&shelf.folder, HOSTS)?;
    let what = Requests { connections: 64, path: PATH, closing: false, script: Some(&script) };
    let asked = std::thread::scope(|threads| {
        let swapping = threads.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                led.lead(&all)?;
                swaps.fetch_add(1, Ordering::Relaxed);
                pause(SWAP);
            }
            Ok(())
        });
        let asked = load::requests(pid, port, what, 2 * SECONDS);
        stop.store(true, Ordering::Relaxed);
        swapping.join().map_err(|_| anyhow::anyhow!("whoever swaps tables panicked"))??;
        asked
    })
    .context("a table of 10,000 hosts, swapped under load")?;
    let swaps = swaps.into_inner();
    ensure!(swaps > 1, "no table was swapped");
    println!("{swaps} swaps of {HOSTS} hosts within {} s of load: {:.0} requests a second, none failed", 2 * SECONDS, asked.rate);
    started.stop()?;
    Ok(json!({
        "hosts": HOSTS, "hosts_to_1": three(by_hosts), "instances": INSTANCES, "instances_to_1": three(by_instances),
        "swaps": swaps, "failed": 0,
    }))
}
