//! `cargo xtask bench router`: what a request costs of a processor that goes through dozen's router, beside nginx, HAProxy and Caddy.
//!
//! Proxies are on one core, whoever asks and answers on the other. Two cores with neighbours make requests a second a poor measure: what
//! counts is the time that the proxy's own processes were on a processor, by the kernel's account, divided by what was asked of it. A ratio is
//! of the same round: `nginx ÷ dozen` above 1 says that dozen needs less.

mod behind;
mod load;
mod peers;
mod sockets;
mod tables;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{Spread, rounded};
use crate::Options;
use behind::Behind;
use load::{Cost, Requests};
use peers::{Proxy, Shelf, Shown, Started};

/// Each measurement lasts so long.
const SECONDS: u32 = 2;
const PATH: &str = "/articles/42?page=3";
/// What is asked where nothing else is said.
const KEPT: Requests<'static> = Requests { connections: 64, path: PATH, closing: false, script: None, tls: None };
const PROXIES: [Proxy; 4] = [Proxy::Dozen, Proxy::Nginx, Proxy::Haproxy, Proxy::Caddy];
/// Idle connections: so many, and so many again.
const IDLE: [u32; 2] = [1_000, 10_000];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Row {
    Kept,
    Many,
    Closing,
    Large,
    Messages,
    Tls,
    Http2,
    Streams,
}

const ROWS: [Row; 8] = [Row::Kept, Row::Many, Row::Closing, Row::Large, Row::Messages, Row::Tls, Row::Http2, Row::Streams];

impl Row {
    /// What `--rows` calls it.
    fn key(self) -> &'static str {
        match self {
            Self::Kept => "kept-64",
            Self::Many => "kept-256",
            Self::Closing => "closing",
            Self::Large => "large",
            Self::Messages => "websocket",
            Self::Tls => "tls-http1",
            Self::Http2 => "tls-http2-64x1",
            Self::Streams => "tls-http2-16x16",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kept => "1 KB, 64 connections kept",
            Self::Many => "1 KB, 256 connections kept",
            Self::Closing => "1 KB, a connection for each request, 64 at once",
            Self::Large => "64 KB, 64 connections kept",
            Self::Messages => "WebSocket messages, 64 connections",
            Self::Tls => "1 KB, TLS 1.3, HTTP/1.1, 64 connections kept",
            Self::Http2 => "1 KB, TLS 1.3, HTTP/2, 64 connections of 1",
            Self::Streams => "1 KB, TLS 1.3, HTTP/2, 16 connections of 16",
        }
    }

    fn measure(self, started: &Started, shelf: &Shelf) -> Result<Cost> {
        let (pid, ports) = (started.pid()?, started.ports);
        match self {
            Self::Kept => load::requests(pid, ports.web, KEPT, SECONDS),
            Self::Many => load::requests(pid, ports.web, Requests { connections: 256, ..KEPT }, SECONDS),
            Self::Closing => load::requests(pid, ports.web, Requests { closing: true, ..KEPT }, SECONDS),
            Self::Large => load::requests(pid, ports.web, Requests { path: "/large", ..KEPT }, SECONDS),
            Self::Messages => sockets::messages(pid, ports.chat, 64, SECONDS),
            Self::Tls => load::requests(pid, ports.tls, Requests { tls: Some(&shelf.openssl), ..KEPT }, SECONDS),
            Self::Http2 => load::streams(pid, ports.tls, PATH, [64, 1], SECONDS),
            Self::Streams => load::streams(pid, ports.tls, PATH, [16, 16], SECONDS),
        }
    }
}

/// The rows that are measured: all, or those whose key has one of these words in it.
struct Wanted<'w>(&'w [String]);

impl Wanted<'_> {
    /// What is measured besides those rows of all proxies.
    const MORE: [&'static str; 4] = ["idle", tables::HOSTS.key, tables::INSTANCES.key, tables::SWAP_KEY];

    fn has(&self, key: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|word| key.contains(word.as_str()))
    }

    /// An error names the word that is in no key.
    fn check(&self) -> Result<()> {
        let keys: Vec<&str> = ROWS.iter().map(|row| row.key()).chain(Self::MORE).collect();
        match self.0.iter().find(|word| word.is_empty() || !keys.iter().any(|key| key.contains(word.as_str()))) {
            Some(word) => bail!("no row is called `{word}`; there are {}", keys.join(", ")),
            None => Ok(()),
        }
    }
}

pub(crate) fn run_all(root: &Path, options: &Options) -> Result<()> {
    let (rounds, wanted) = (options.rounds, Wanted(&options.rows));
    wanted.check()?;
    let dozen = super::shipped(options.binary.clone())?;
    let caddy = peers::prepare()?;
    let folder = tempfile::Builder::new().prefix("dozen-bench-").tempdir()?.keep();
    // Thousands of connections, each with two ends, and instances with a port each.
    crate::router::raise_file_limit();
    let (certificate, openssl) = (Shown::make(&folder)?, load::openssl_conf(&folder)?);
    let shelf = Shelf { behind: Behind::start(&folder)?, folder, dozen, caddy, certificate, openssl };

    let idle = if wanted.has("idle") { idle(&shelf, rounds)? } else { Value::Null };
    let rows: Vec<Row> = ROWS.into_iter().filter(|row| wanted.has(row.key())).collect();
    let rows = if rows.is_empty() { Vec::new() } else { proxies(&shelf, &rows, rounds)? };
    let tables = tables::measure(&shelf, rounds, &|key| wanted.has(key))?;
    if options.rows.is_empty() {
        let report = json!({ "seconds": SECONDS, "rows": rows, "idle": idle, "tables": tables });
        super::write(
            root,
            "router",
            "the router beside other proxies, each on one core; ratios are the peer ÷ dozen, in time of a processor for each request, round by round",
            rounds,
            &report,
        )?;
    }
    shelf.behind.stop()?;
    // Nobody wants to read the logs of a run that went well.
    std::fs::remove_dir_all(&shelf.folder)?;
    Ok(())
}

type Costs = BTreeMap<(Row, Proxy), Vec<Cost>>;

/// These rows of all proxies, which run side by side all the while.
fn proxies(shelf: &Shelf, rows: &[Row], rounds: u32) -> Result<Vec<Value>> {
    let mut costs = Costs::new();
    let mut started = PROXIES.iter().map(|proxy| shelf.start(*proxy)).collect::<Result<Vec<_>>>()?;
    for one in &started {
        // None is measured that has just been started.
        rows[0].measure(one, shelf).with_context(|| format!("{} does not answer", one.proxy.name()))?;
    }
    for round in 0..rounds {
        for row in rows {
            for one in &started {
                let cost = row.measure(one, shelf).with_context(|| format!("{}: {} failed", row.name(), one.proxy.name()))?;
                tell(round, rounds, row.name(), one.proxy.name(), cost);
                costs.entry((*row, one.proxy)).or_default().push(cost);
            }
        }
        started.reverse();
    }
    started.into_iter().try_for_each(Started::stop)?;
    Ok(rows.iter().map(|row| table(*row, &costs)).collect())
}

/// Prints one measurement.
fn tell(round: u32, rounds: u32, row: &str, of: &str, cost: Cost) {
    println!("round {} of {rounds}: {row:<48} {of:<15} {:7.2} µs each, {:7.0} a second", round + 1, cost.each, cost.rate);
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
    let spread = |proxy, what: fn(&Cost) -> f64| Spread::of(&of(proxy).iter().map(what).collect::<Vec<_>>());
    let mut rows = Vec::new();
    for proxy in PROXIES {
        let (each, rate) = (spread(proxy, |cost| cost.each), spread(proxy, |cost| cost.rate));
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
    json!({ "row": row.name(), "key": row.key(), "proxies": rows })
}

/// The memory of idle connections, each count in a proxy that has just started.
fn idle(shelf: &Shelf, rounds: u32) -> Result<Value> {
    // The others close what idles before so many are there.
    let proxies = [Proxy::Dozen, Proxy::Nginx];
    let cases = [(IDLE[0], false), (IDLE[1], false), (IDLE[0], true)];
    let mut bytes: BTreeMap<(Proxy, usize), Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        for (case, (count, fresh)) in cases.into_iter().enumerate() {
            for at in 0..proxies.len() {
                let proxy = if round % 2 == 0 { proxies[at] } else { proxies[proxies.len() - 1 - at] };
                let started = shelf.start(proxy)?;
                let each = sockets::idle(started.pid()?, started.ports.web, count, fresh);
                let each = each.with_context(|| format!("{count} idle connections to {} failed", proxy.name()))?;
                bytes.entry((proxy, case)).or_default().push(each);
                started.stop()?;
            }
        }
    }
    println!("\n{:<50}{:>12}{:>12}{:>12}", "memory of an idle connection (PSS), bytes, median", "of 1,000", "of 10,000", "never used");
    let rows = proxies.map(|proxy| {
        let [few, many, fresh] = std::array::from_fn(|case| Spread::of(&bytes[&(proxy, case)]));
        println!("  {:<48}{:>12.0}{:>12.0}{:>12.0}", proxy.name(), few.median, many.median, fresh.median);
        json!({ "proxy": proxy.name(), "of_1000": three(few), "of_10000": three(many), "never_used": three(fresh) })
    });
    Ok(json!(rows))
}

#[cfg(test)]
mod tests {
    use super::{ROWS, Row, Wanted};

    #[test]
    fn rows_are_chosen_by_words_of_their_keys() {
        let chosen = |words: &[&str]| -> Result<Vec<&str>, String> {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let wanted = Wanted(&words);
            wanted.check().map_err(|error| error.to_string())?;
            Ok(ROWS.map(Row::key).into_iter().chain(Wanted::MORE).filter(|key| wanted.has(key)).collect())
        };
        assert_eq!(chosen(&[]).map(|all| all.len()), Ok(ROWS.len() + Wanted::MORE.len()));
        assert_eq!(chosen(&["tls"]), Ok(vec!["tls-http1", "tls-http2-64x1", "tls-http2-16x16"]));
        assert_eq!(chosen(&["16x16", "idle"]), Ok(vec!["tls-http2-16x16", "idle"]));
        for word in ["", "tsl", "TLS"] {
            assert!(chosen(&["tls", word]).is_err_and(|why| why.contains("kept-64, kept-256")), "{word}");
        }
    }
}
