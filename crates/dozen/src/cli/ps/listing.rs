//! What `ps` shows, as text: as many columns as the terminal has room for, the least important ones left out first.

use crate::api::wire;
use crate::printer::{Column, listing};
use jiff::Timestamp;
use std::collections::BTreeSet;

const COLUMNS: [Column<(wire::Process, Timestamp)>; 10] = [
    Column { title: "PROCESS", rank: 0, cell: |(p, _)| p.name.clone() },
    Column { title: "STATE", rank: 0, cell: |(p, now)| state(p, *now) },
    Column { title: "UPTIME", rank: 1, cell: |(p, now)| or_dash(uptime(p, *now)) },
    Column { title: "RELEASE", rank: 4, cell: |(p, _)| p.release.clone() },
    Column { title: "RESTARTS", rank: 5, cell: |(p, _)| p.restarts.to_string() },
    Column { title: "CPU", rank: 3, cell: |(p, _)| or_dash(p.cpu_percent.map(|percent| format!("{percent:.1}%"))) },
    Column { title: "MEMORY", rank: 2, cell: |(p, _)| or_dash(p.memory_bytes.map(bytes)) },
    Column { title: "PORT", rank: 6, cell: |(p, _)| or_dash(p.port) },
    Column { title: "PID", rank: 7, cell: |(p, _)| or_dash(p.pid) },
    Column { title: "ISOLATION", rank: 8, cell: |(p, _)| or_dash(p.isolation.clone()) },
];

fn or_dash(cell: Option<impl ToString>) -> String {
    cell.map_or_else(|| "-".to_owned(), |c| c.to_string())
}

/// All of it. Without a width there is room for everything.
pub(super) fn text(answer: &wire::Processes, now: Timestamp, width: Option<usize>) -> String {
    let url = answer.url.as_deref().map(|u| format!(" at {u}")).unwrap_or_default();
    let https = answer.https_url.as_deref().map(|u| format!(" and {u}")).unwrap_or_default();
    let mut lines = vec![format!("=== {} {}{url}{https}", answer.deploy, answer.release)];
    if !answer.serving {
        lines.push("Not running. Start it with `dozen up`.".to_owned());
        return lines.join("\n");
    }
    for t in &answer.types {
        let stopped = if t.stopped { ", stopped" } else { "" };
        let size = t.size.as_ref().map(|size| format!(":{size}")).unwrap_or_default();
        lines.push(format!("{} ({}{size}{stopped}): {}", t.name, t.quantity, t.command));
    }
    lines.push(String::new());
    lines.push(match (answer.processes.is_empty(), answer.types.iter().any(|t| t.stopped)) {
        (true, true) => "No processes. Start them again with `dozen start`.".to_owned(),
        (true, false) => "No processes.".to_owned(),
        (false, _) => processes(&answer.processes, now, width),
    });
    // What several processes lack is said once.
    let some: BTreeSet<&str> = answer.processes.iter().flat_map(|p| p.missing.iter().map(String::as_str)).collect();
    let all: Vec<&str> = answer.not_enforced.iter().map(String::as_str).chain(some).collect();
    if !all.is_empty() {
        lines.push(String::new());
        lines.extend(all.iter().map(|what| format!("Not enforced here: {what}")));
    }
    lines.join("\n")
}

fn processes(all: &[wire::Process], now: Timestamp, width: Option<usize>) -> String {
    let rows: Vec<(wire::Process, Timestamp)> = all.iter().map(|p| (p.clone(), now)).collect();
    listing(&COLUMNS, &rows, width, false)
}

/// `up, not ready`, `crashed (1), again in 4s`
fn state(p: &wire::Process, now: Timestamp) -> String {
    if p.state == "up" && !p.ready {
        return "up, not ready".to_owned();
    }
    if p.state != "crashed" {
        return p.state.clone();
    }
    let code = p.last_exit_code.map(|code| format!(" ({code})")).unwrap_or_default();
    let again = p.starts_again_at.as_ref().and_then(|at| at.parse::<Timestamp>().ok());
    let again = again.map(|at| format!(", again in {}", span(at.duration_since(now).as_secs().max(0)))).unwrap_or_default();
    format!("crashed{code}{again}")
}

fn uptime(p: &wire::Process, now: Timestamp) -> Option<String> {
    let since = p.since.parse::<Timestamp>().ok().filter(|_| p.state == "up")?;
    Some(span(now.duration_since(since).as_secs().max(0)))
}

/// The two largest units: `45s`, `3m 20s`, `5h 2m`, `12d 4h`.
fn span(s: i64) -> String {
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// `512K`, `24.3M`, `1.2G`
fn bytes(n: u64) -> String {
    const KB: u64 = 1024;
    match n {
        0..1_048_576 => format!("{}K", n / KB),
        1_048_576..1_073_741_824 => format!("{:.1}M", n as f64 / (KB * KB) as f64),
        _ => format!("{:.1}G", n as f64 / (KB * KB * KB) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str) -> wire::Process {
        wire::Process {
            name: name.into(),
            state: "up".into(),
            ready: true,
            since: "2026-01-02T03:00:00Z".into(),
            starts_again_at: None,
            release: "v12".into(),
            restarts: 0,
            cpu_percent: Some(12.34),
            memory_bytes: Some(25 << 20),
            memory_measure: Some("pss".into()),
            size: None,
            port: Some(5000),
            pid: Some(4711),
            jail_pid: Some(4700),
            isolation: Some("user-namespaces".into()),
            missing: vec![],
            last_exit_code: None,
        }
    }

    fn answer() -> wire::Processes {
        let crashed = wire::Process {
            state: "crashed".into(),
            ready: false,
            starts_again_at: Some("2026-01-02T03:12:12Z".into()),
            last_exit_code: Some(1),
            restarts: 3,
            cpu_percent: None,
            memory_bytes: None,
            port: None,
            pid: None,
            ..process("worker.1")
        };
        let of = |name: &str, stopped| wire::ProcessType { name: name.into(), quantity: 1, size: None, stopped, command: "x".into() };
        wire::Processes {
            deploy: "shop/dev".into(),
            serving: true,
            url: Some("http://shop.localhost:8000".into()),
            https_url: None,
            release: "v12".into(),
            formation: "web=1 worker=1".into(),
            types: vec![of("clock", true), of("web", false), of("worker", false)],
            processes: vec![process("web.1"), crashed],
            not_enforced: Vec::new(),
        }
    }

    #[test]
    fn columns_go_as_the_terminal_narrows() {
        let now = "2026-01-02T03:12:08Z".parse().expect("a time");
        let at = |width| text(&answer(), now, width);
        let wide = "=== shop/dev v12 at http://shop.localhost:8000\nclock (1, stopped): x\nweb (1): x\nworker (1): x\n\n\
            PROCESS   STATE                     UPTIME  RELEASE  RESTARTS  CPU    MEMORY  PORT  PID   ISOLATION\n\
            web.1     up                        12m 8s  v12      0         12.3%  25.0M   5000  4711  user-namespaces\n\
            worker.1  crashed (1), again in 4s  -       v12      3         -      -       -     -     user-namespaces";
        assert_eq!(at(None), wide);
        let head = |width| at(Some(width)).lines().nth(5).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(head(200), "PROCESS STATE UPTIME RELEASE RESTARTS CPU MEMORY PORT PID ISOLATION");
        assert_eq!(head(80), "PROCESS STATE UPTIME RELEASE RESTARTS CPU MEMORY");
        assert_eq!(head(60), "PROCESS STATE UPTIME CPU MEMORY");
        assert_eq!(head(10), "PROCESS STATE");
    }

    #[test]
    fn what_is_up_and_takes_no_requests_says_so() {
        let unready = wire::Process { ready: false, ..process("web.1") };
        assert_eq!(state(&unready, Timestamp::UNIX_EPOCH), "up, not ready");
    }

    #[test]
    fn sizes_and_what_is_missing_are_shown() {
        let mut answer = answer();
        answer.types[1].size = Some("512M".into());
        answer.processes.iter_mut().for_each(|p| p.missing = vec!["cgroup (pids): permission denied".into()]);
        let text = text(&answer, Timestamp::UNIX_EPOCH, None);
        assert!(text.contains("\nweb (1:512M): x\n"), "{text}");
        assert!(text.ends_with("\nNot enforced here: cgroup (pids): permission denied"), "{text}");
    }

    #[test]
    fn spans_and_sizes_have_two_places() {
        assert_eq!([0, 59, 61, 3600, 90_000].map(span), ["0s", "59s", "1m 1s", "1h 0m", "1d 1h"]);
        assert_eq!([1000, 2 << 20, 3 << 30].map(bytes), ["0K", "2.0M", "3.0G"]);
    }
}
