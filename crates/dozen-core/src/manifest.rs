//! app.json and dozen.toml: what an app declares beside its Procfile. No factor of its own; it speaks for several.
//!
//! app.json is other platforms' format too, so what we do not know in it is noted and tolerated. dozen.toml is ours alone, so what we
//! do not know in it is an error: a mistyped key must not be without effect.
//!
//! **Invariant:** values only; nothing here acts on them, and no diagnostic shows the value of a variable.

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

/// Reads `[{type: startup, …}]`, or a single check without the list.
fn health_checks(shape: &mut tree::Shape<'_, '_>, node: tree::Node, path: &str) -> Vec<HealthCheck> {
    match node.value {
        tree::Value::List(items) => {
            let read = |(i, item): (usize, _)| health_check(shape, item, &format!("{path}[{i}]"));
            items.into_iter().enumerate().filter_map(read).collect()
        }
        _ => health_check(shape, node, path).into_iter().collect(),
    }
}

fn health_check(shape: &mut tree::Shape<'_, '_>, node: tree::Node, path: &str) -> Option<HealthCheck> {
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
    ];
    let seconds = Duration::from_secs;
    let mut check = HealthCheck {
        kind: HealthKind::Startup,
        name: None,
        path: None,
        port: None,
        scheme: None,
        headers: Vec::new(),
        content: None,
        command: Vec::new(),
        uptime: None,
        listening: false,
        attempts: 3,
        wait: seconds(5),
        timeout: seconds(5),
        initial_delay: seconds(0),
    };
    let whole = node.span.clone();
    let mut kind = None;
    for member in shape.table(node, path)? {
        let (path, node) = (format!("{path}.{}", member.key), member.node);
        match member.key.as_str() {
            "type" => kind = shape.word(node, &path, &HealthKind::ALL.map(HealthKind::as_str)).map(|i| HealthKind::ALL[i]).or(kind),
            "name" => check.name = shape.text(node, &path),
            "path" => check.path = shape.text(node, &path),
            "port" => check.port = shape.count(node, &path, 1..=u32::from(u16::MAX)).and_then(|n| u16::try_from(n).ok()),
            "scheme" => check.scheme = shape.text(node, &path),
            "httpHeaders" => check.headers = headers(shape, node, &path),
            "content" => check.content = shape.text(node, &path),
            "command" => check.command = shape.texts(node, &path),
            "uptime" => check.uptime = shape.seconds(node, &path),
            "listening" => check.listening = shape.flag(node, &path).unwrap_or_default(),
            "attempts" => check.attempts = shape.count(node, &path, 1..=1000).unwrap_or(check.attempts),
            "wait" => check.wait = shape.seconds(node, &path).unwrap_or(check.wait),
            "timeout" => check.timeout = shape.seconds(node, &path).unwrap_or(check.timeout),
            "initialDelay" => check.initial_delay = shape.seconds(node, &path).unwrap_or_default(),
            _ => shape.unknown(&member.key, member.key_span, &path, KNOWN),
        }
    }
    if kind.is_none() {
        shape.missing(whole, path, "type", "startup, readiness or liveness");
    }
    Some(HealthCheck { kind: kind?, ..check })
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
