//! What an app says of its process types, as `slug.json` has it. Times are milliseconds.

use dozen_core::processes::rules::{HealthCheck, HealthKind, Rules, RulesByType};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// One type's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Wire {
    #[serde(skip_serializing_if = "Option::is_none")]
    settle: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overlap: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    after: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checks: Vec<WireCheck>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct WireCheck {
    kind: String,
    name: Option<String>,
    path: Option<String>,
    port: Option<u16>,
    /// Of slugs from before HTTPS was told of where it stands.
    #[serde(skip_serializing)]
    scheme: Option<String>,
    headers: Vec<(String, String)>,
    content: Option<String>,
    command: Vec<String>,
    uptime: Option<u64>,
    listening: bool,
    attempts: u32,
    wait: u64,
    timeout: u64,
    initial_delay: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    warn: bool,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn to_wire(rules: &RulesByType) -> BTreeMap<String, Wire> {
    let wire = |rules: &Rules| Wire {
        settle: rules.settle.map(millis),
        stop_timeout: rules.stop_timeout.map(millis),
        size: rules.size.map(|size| size.to_string()),
        overlap: rules.overlap,
        after: rules.after.iter().map(ToString::to_string).collect(),
        ports: rules.ports.clone(),
        concurrency: rules.concurrency,
        queue: rules.queue,
        checks: rules.checks.iter().map(WireCheck::of).collect(),
    };
    rules.iter().map(|(kind, rules)| (kind.to_string(), wire(rules))).collect()
}

/// What is not a name, or not known, in this version is left out: it was checked when the slug was made.
pub(super) fn from_wire(wire: BTreeMap<String, Wire>) -> RulesByType {
    let rules = |wire: Wire| Rules {
        settle: wire.settle.map(Duration::from_millis),
        stop_timeout: wire.stop_timeout.map(Duration::from_millis),
        size: wire.size.and_then(|size| size.parse().ok()),
        overlap: wire.overlap,
        after: wire.after.iter().filter_map(|kind| kind.parse().ok()).collect(),
        ports: wire.ports,
        concurrency: wire.concurrency,
        queue: wire.queue,
        checks: wire.checks.into_iter().filter_map(WireCheck::check).collect(),
    };
    wire.into_iter().filter_map(|(kind, wire)| Some((kind.parse().ok()?, rules(wire)))).collect()
}

impl WireCheck {
    fn of(check: &HealthCheck) -> Self {
        Self {
            kind: check.kind.as_str().to_owned(),
            name: check.name.clone(),
            path: check.path.clone(),
            port: check.port,
            scheme: None,
            headers: check.headers.clone(),
            content: check.content.clone(),
            command: check.command.clone(),
            uptime: check.uptime.map(millis),
            listening: check.listening,
            attempts: check.attempts,
            wait: millis(check.wait),
            timeout: millis(check.timeout),
            initial_delay: millis(check.initial_delay),
            warn: check.warn,
        }
    }

    fn check(self) -> Option<HealthCheck> {
        if self.scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) {
            return None;
        }
        Some(HealthCheck {
            kind: HealthKind::ALL.into_iter().find(|kind| kind.as_str() == self.kind)?,
            name: self.name,
            path: self.path,
            port: self.port,
            headers: self.headers,
            content: self.content,
            command: self.command,
            uptime: self.uptime.map(Duration::from_millis),
            listening: self.listening,
            attempts: self.attempts,
            wait: Duration::from_millis(self.wait),
            timeout: Duration::from_millis(self.timeout),
            initial_delay: Duration::from_millis(self.initial_delay),
            warn: self.warn,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dozen_core::manifest::{app_json, dozen_toml};

    #[test]
    fn what_both_files_say_is_read_back() {
        let text = "[process.web]\nstop-timeout = \"45s\"\noverlap = false\nsize = \"512M\"\n[process.worker]\nsettle = \"2s\"\nports = [9100]\nafter = [\"web\"]\n";
        let (settings, remarks) = dozen_toml::parse(text);
        assert!(remarks.is_empty(), "{remarks:?}");
        let (app, _) = app_json::parse(
            r#"{"healthchecks": {"web": [{"type": "readiness", "name": "db", "path": "/up", "httpHeaders": [{"name": "A", "value": "b"}],
            "content": "ok", "wait": 1, "attempts": 2, "initialDelay": 3}, {"type": "liveness", "command": ["true"], "uptime": 9, "warn": true}]}}"#,
        );
        let mut rules = settings.processes;
        for (kind, checks) in app.health {
            rules.entry(kind).or_default().checks = checks;
        }
        let text = serde_json::to_vec(&to_wire(&rules)).expect("JSON");
        assert_eq!(from_wire(serde_json::from_slice(&text).expect("read back")), rules);
        assert_eq!(rules.values().map(|r| r.checks.len()).collect::<Vec<_>>(), [2, 0]);
    }
}
