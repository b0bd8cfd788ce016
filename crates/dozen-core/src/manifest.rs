//! app.json and dozen.toml: what an app declares beside its Procfile. No factor of its own; it speaks for several.
//!
//! app.json is other platforms' format too, so what we do not know in it is noted and tolerated. dozen.toml is ours alone, so what we
//! do not know in it is an error: a mistyped key must not be without effect.
//!
//! **Invariant:** values only; nothing here acts on them, and no diagnostic shows the value of a variable.

use crate::diagnostic::Severity;
use crate::ids::TypeName;
use std::collections::BTreeMap;
use std::time::Duration;

pub mod app_json;
pub mod dozen_toml;
mod tree;

pub use crate::processes::rules::{HealthCheck, HealthKind};
pub use app_json::AppJson;
pub use dozen_toml::DozenToml;

/// The checks of each process type.
pub type HealthChecks = BTreeMap<TypeName, Vec<HealthCheck>>;

/// Reads `[{type: startup, …}]`, or a single check without the list, of this process type.
fn health_checks(shape: &mut tree::Shape<'_, '_>, node: tree::Node, path: &str, of: &TypeName) -> Vec<HealthCheck> {
    match node.value {
        tree::Value::List(items) => {
            let read = |(i, item): (usize, _)| health_check(shape, item, &format!("{path}[{i}]"), of);
            items.into_iter().enumerate().filter_map(read).collect()
        }
        _ => health_check(shape, node, path, of).into_iter().collect(),
    }
}

/// One that cannot be tried is left out, with a warning.
fn health_check(shape: &mut tree::Shape<'_, '_>, node: tree::Node, path: &str, of: &TypeName) -> Option<HealthCheck> {
    const KNOWN: &[&str] = &[
        "type",
        "name",
        "path",
        "port",
        "scheme",
        "httpHeaders",
        "content",
        "command",
        "uptime",
        "listening",
        "attempts",
        "wait",
        "timeout",
        "initialDelay",
        "warn",
        "onFailure",
    ];
    // What a request is made of.
    const OF_REQUESTS: [&str; 6] = ["path", "port", "scheme", "httpHeaders", "content", "listening"];
    let seconds = Duration::from_secs;
    let mut check = HealthCheck {
        kind: HealthKind::Startup,
        name: None,
        path: None,
        port: None,
        headers: Vec::new(),
        content: None,
        command: Vec::new(),
        uptime: None,
        listening: false,
        attempts: 3,
        wait: seconds(5),
        timeout: seconds(5),
        initial_delay: seconds(0),
        warn: false,
    };
    let whole = node.span.clone();
    let mut kind = None;
    let (mut https, mut beside, mut typed) = (None, Vec::new(), false);
    let at = path;
    for member in shape.table(node, path)? {
        let (path, node) = (format!("{path}.{}", member.key), member.node);
        if OF_REQUESTS.contains(&member.key.as_str()) {
            beside.push((path.clone(), member.key_span.clone()));
        }
        match member.key.as_str() {
            "type" => {
                typed = true;
                kind = shape.word(node, &path, &HealthKind::ALL.map(HealthKind::as_str)).map(|i| HealthKind::ALL[i]);
            }
            "name" => check.name = shape.text(node, &path),
            "path" => check.path = shape.text(node, &path),
            "port" => check.port = shape.count(node, &path, 1..=u32::from(u16::MAX)).and_then(|n| u16::try_from(n).ok()),
            "scheme" => {
                let span = node.span.clone();
                match shape.text(node, &path).map(|scheme| scheme.to_ascii_lowercase()).as_deref() {
                    Some("https") => https = Some(span),
                    Some("http") | None => {}
                    Some(_) => shape.add(Severity::Error, span, format!("{path}: expected http or https"), ""),
                }
            }
            "httpHeaders" => check.headers = headers(shape, node, &path),
            "content" => check.content = shape.text(node, &path),
            "command" => {
                let span = node.span.clone();
                check.command = shape.texts(node, &path);
                if check.command.is_empty() {
                    // It would be a request in silence.
                    shape.add(Severity::Error, span, format!("{path}: there is nothing to run"), "Write the program and its arguments.");
                }
            }
            "uptime" => check.uptime = shape.seconds(node, &path),
            "listening" => check.listening = shape.flag(node, &path).unwrap_or_default(),
            "attempts" => check.attempts = shape.count(node, &path, 1..=1000).unwrap_or(check.attempts),
            "wait" => check.wait = shape.seconds(node, &path).unwrap_or(check.wait),
            "timeout" => check.timeout = shape.seconds(node, &path).unwrap_or(check.timeout),
            "initialDelay" => check.initial_delay = shape.seconds(node, &path).unwrap_or_default(),
            "warn" => check.warn = shape.flag(node, &path).unwrap_or_default(),
            "onFailure" => {
                let help = "A failed check is told of in the logs.";
                shape.add(Severity::Warning, member.key_span, format!("{path}: nothing is run or asked when a check fails"), help);
            }
            _ => shape.unknown(&member.key, member.key_span, &path, KNOWN),
        }
    }
    let texts = check.path.iter().chain(&check.command).chain(check.headers.iter().flat_map(|(name, value)| [name, value]));
    if texts.flat_map(|text| text.chars()).any(char::is_control) {
        // They would come into a request, or as lines of their own into the log.
        shape.add(Severity::Error, whole.clone(), format!("{path}: control characters have no place here"), "");
    }
    if check.timeout.is_zero() {
        shape.add(Severity::Error, whole.clone(), format!("{path}: a timeout of 0 can never be met"), "");
    }
    if !typed {
        shape.missing(whole.clone(), path, "type", "startup, readiness or liveness");
    }
    let check = HealthCheck { kind: kind?, ..check };
    if !check.command.is_empty() {
        for (path, span) in beside {
            shape.add(Severity::Warning, span, format!("{path}: it has no effect beside `command`"), "Make it a check of its own.");
        }
    } else if let Some(span) = https {
        let message = format!("{at}: the check is left out, since processes are asked by plain HTTP only");
        shape.add(Severity::Warning, span, message, "Leave out `scheme`, or let a `command` ask.");
        return None;
    } else if !check.fits(of.is_web()) {
        let message = format!("{at}: the check is left out, since only a web process has a port of its own");
        shape.add(Severity::Warning, whole.start..whole.start, message, "Give the `port` that it listens on, or a `command`.");
        return None;
    }
    Some(check)
}

/// `[{name, value}]`, as Dokku has them, or a table.
fn headers(shape: &mut tree::Shape<'_, '_>, node: tree::Node, path: &str) -> Vec<(String, String)> {
    if let tree::Value::Table(members) = node.value {
        let read = |m: tree::Member| Some((m.key.clone(), shape.text(m.node, &format!("{path}.{}", m.key))?));
        return members.into_iter().filter_map(read).collect();
    }
    let mut all = Vec::new();
    for (i, item) in shape.list(node, path).into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        let (mut name, mut value) = (None, None);
        for member in shape.table(item, &path).unwrap_or_default() {
            let path = format!("{path}.{}", member.key);
            match member.key.as_str() {
                "name" => name = shape.text(member.node, &path),
                "value" => value = shape.text(member.node, &path),
                _ => shape.unknown(&member.key, member.key_span, &path, &["name", "value"]),
            }
        }
        all.extend(name.zip(value));
    }
    all
}
