//! dozen.toml: what an app says to this platform alone. An unknown key is an error.

use super::tree::{self, Member, Node, Shape, join};
use super::{HealthChecks, health_checks};
use crate::concurrency::formation::{UnknownType, unknown_type};
use crate::diagnostic::{self, Diagnostic, Severity, excerpt};
use crate::ids::TypeName;
use crate::port::INSTANCES;
use crate::processes::ProcessType;
use crate::processes::rules::Rules;
use crate::processes::size::Size;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

/// More than any instance takes, or any router keeps.
const MOST_REQUESTS: u32 = 100_000;

/// What dozen.toml says; everything is optional.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DozenToml {
    /// `[process.<type>]`; the checks of `[health.<type>]` are not among them.
    pub processes: BTreeMap<TypeName, Rules>,
    /// `[scratch] folders`: what instances may write besides their `/tmp`, relative to the app's folder, without `..`.
    pub scratch: Vec<String>,
    /// `[check] ignore`: paths that the audit leaves out.
    pub check_ignore: Vec<String>,
    /// `[router]`
    pub router: RouterRules,
    /// `[health.<type>]`
    pub health: HealthChecks,
}

/// How the router treats the app's requests; what is not said has the platform's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouterRules {
    /// So many requests at a time are sent to one instance.
    pub concurrency: Option<u32>,
    /// So many more wait for one that takes them.
    pub queue: Option<u32>,
}

/// What a dozen.toml says and what there is to say about it. With an error among the diagnostics it cannot be used.
pub fn parse(text: &str) -> (DozenToml, Vec<Diagnostic>) {
    let (mut remarks, root) = tree::root(text, "TOML", tree::from_toml);
    let mut shape = Shape::new(&mut remarks, Severity::Error);
    let settings = root.map(|node| settings(&mut shape, node)).unwrap_or_default();
    (settings, remarks.finish())
}

/// The same for the bytes of a file: at most 1 MiB, UTF-8.
pub fn parse_bytes(bytes: &[u8]) -> (DozenToml, Vec<Diagnostic>) {
    diagnostic::text(bytes).map_or_else(tree::refused, parse)
}

impl DozenToml {
    /// The process types that it names and the Procfile does not declare: their settings have no effect.
    pub fn unknown_types(&self, types: &[ProcessType]) -> Vec<UnknownType> {
        let after = self.processes.values().flat_map(|settings| &settings.after);
        let named: BTreeSet<&TypeName> = self.processes.keys().chain(after).chain(self.health.keys()).collect();
        let unknown = named.into_iter().filter(|kind| types.iter().all(|t| t.name != **kind));
        unknown.map(|kind| unknown_type(kind, types)).collect()
    }
}

fn settings(shape: &mut Shape<'_, '_>, node: Node) -> DozenToml {
    let mut settings = DozenToml::default();
    for Member { key, key_span, node } in shape.table(node, "").unwrap_or_default() {
        match key.as_str() {
            "process" => settings.processes = processes(shape, node),
            "scratch" => {
                for Member { key, key_span, node } in shape.table(node, "scratch").unwrap_or_default() {
                    match key.as_str() {
                        "folders" => settings.scratch = folders(shape, node),
                        _ => shape.unknown(&key, key_span, &join("scratch", &key), &["folders"]),
                    }
                }
            }
            "check" => {
                for Member { key, key_span, node } in shape.table(node, "check").unwrap_or_default() {
                    match key.as_str() {
                        "ignore" => settings.check_ignore = shape.texts(node, "check.ignore"),
                        _ => shape.unknown(&key, key_span, &join("check", &key), &["ignore"]),
                    }
                }
            }
            "router" => settings.router = router(shape, node),
            "health" => {
                for member in shape.table(node, "health").unwrap_or_default() {
                    if let Some(kind) = shape.process_type(&member, "health") {
                        let checks = health_checks(shape, member.node, &join("health", &member.key), &kind);
                        settings.health.insert(kind, checks);
                    }
                }
            }
            _ => shape.unknown(&key, key_span, &join("", &key), &["process", "scratch", "check", "router", "health"]),
        }
    }
    settings
}

fn router(shape: &mut Shape<'_, '_>, node: Node) -> RouterRules {
    let mut router = RouterRules::default();
    let span = node.span.clone();
    for Member { key, key_span, node } in shape.table(node, "router").unwrap_or_default() {
        let at = &join("router", &key);
        match key.as_str() {
            "concurrency" => router.concurrency = shape.count(node, at, 1..=MOST_REQUESTS),
            "queue" => router.queue = shape.count(node, at, 0..=MOST_REQUESTS),
            _ => shape.unknown(&key, key_span, at, &["concurrency", "queue"]),
        }
    }
    if router.queue.is_some() && router.concurrency.is_none() {
        let message = "router.queue: without `concurrency` no request waits for another one's end";
        shape.add(Severity::Warning, span, message, "Say how many requests an instance gets at a time.");
    }
    router
}

fn processes(shape: &mut Shape<'_, '_>, node: Node) -> BTreeMap<TypeName, Rules> {
    const KNOWN: &[&str] = &["settle", "stop-timeout", "size", "overlap", "after", "ports"];
    let mut processes = BTreeMap::new();
    let mut after_spans = Vec::new();
    for member in shape.table(node, "process").unwrap_or_default() {
        let Some(kind) = shape.process_type(&member, "process") else { continue };
        let path = join("process", &member.key);
        let mut set = Rules::default();
        for Member { key, key_span, node } in shape.table(member.node, &path).unwrap_or_default() {
            let at = &join(&path, &key);
            match key.as_str() {
                "settle" => set.settle = shape.duration(node, at),
                "stop-timeout" => set.stop_timeout = shape.duration(node, at),
                "size" => set.size = size(shape, node, at),
                "overlap" => set.overlap = shape.flag(node, at),
                "after" => {
                    after_spans.push((kind.clone(), node.span.clone()));
                    set.after = after(shape, node, at);
                }
                "ports" => set.ports = ports(shape, node, at),
                _ => shape.unknown(&key, key_span, at, KNOWN),
            }
        }
        processes.insert(kind, set);
    }
    let stuck = waiting_for_ever(&processes);
    for (kind, span) in after_spans {
        if stuck.contains(&kind) {
            let message = format!("process.{kind}.after: `{kind}` would wait for ever, since types wait for each other in a circle");
            shape.add(Severity::Error, span, message, "Take one of them out of it.");
        }
    }
    processes
}

fn after(shape: &mut Shape<'_, '_>, node: Node, path: &str) -> Vec<TypeName> {
    let mut types = Vec::new();
    for (i, item) in shape.list(node, path).into_iter().enumerate() {
        let (at, span) = (format!("{path}[{i}]"), item.span.clone());
        match shape.text(item, &at).map(|text| text.parse::<TypeName>()) {
            // The release phase is over before any process starts.
            Some(Ok(kind)) if kind.is_release() => {
                shape.add(Severity::Note, span, format!("{at}: every process starts after the release phase"), "Leave it out.");
            }
            Some(Ok(kind)) => types.push(kind),
            Some(Err(e)) => shape.add(Severity::Error, span, format!("{at}: not a process type: {}", e.rule), ""),
            None => {}
        }
    }
    types
}

fn ports(shape: &mut Shape<'_, '_>, node: Node, path: &str) -> Vec<u16> {
    let mut ports = Vec::new();
    for (i, item) in shape.list(node, path).into_iter().enumerate() {
        let (at, span) = (format!("{path}[{i}]"), item.span.clone());
        match shape.count(item, &at, 1..=u32::from(u16::MAX)).and_then(|port| u16::try_from(port).ok()) {
            // Whoever bound the port of another deploy's instance would get its requests.
            Some(port) if INSTANCES.contains(&port) => {
                let message = format!("{at}: {port} is one of the ports that dozen gives to instances");
                let help = format!("Take one below {} or from {} on.", INSTANCES.start, INSTANCES.end);
                shape.add(Severity::Error, span, message, help);
            }
            Some(port) => ports.push(port),
            None => {}
        }
    }
    ports
}

/// The types that could never start, since what they come after waits, directly or not, for itself.
fn waiting_for_ever(processes: &BTreeMap<TypeName, Rules>) -> BTreeSet<&TypeName> {
    let mut waits_for: BTreeMap<&TypeName, BTreeSet<&TypeName>> = BTreeMap::new();
    let mut lets_start: BTreeMap<&TypeName, Vec<&TypeName>> = BTreeMap::new();
    for (kind, settings) in processes {
        let before: BTreeSet<&TypeName> = settings.after.iter().filter(|before| processes.contains_key(*before)).collect();
        before.iter().for_each(|before| lets_start.entry(before).or_default().push(kind));
        waits_for.insert(kind, before);
    }
    let mut up: Vec<&TypeName> = waits_for.iter().filter(|(_, before)| before.is_empty()).map(|(kind, _)| *kind).collect();
    while let Some(kind) = up.pop() {
        waits_for.remove(kind);
        for next in lets_start.remove(kind).unwrap_or_default() {
            if let Some(before) = waits_for.get_mut(next)
                && before.remove(kind)
                && before.is_empty()
            {
                up.push(next);
            }
        }
    }
    waits_for.into_keys().collect()
}

/// A size as `ps scale` writes it after the colon.
fn size(shape: &mut Shape<'_, '_>, node: Node, path: &str) -> Option<Size> {
    let span = node.span.clone();
    let size = shape.text(node, path)?.parse::<Size>();
    size.map_err(|e| shape.add(Severity::Error, span, format!("{path}: {e}"), "Write it as \"512M\".")).ok()
}

fn folders(shape: &mut Shape<'_, '_>, node: Node) -> Vec<String> {
    let mut folders = Vec::new();
    for (i, item) in shape.list(node, "scratch.folders").into_iter().enumerate() {
        let (at, span) = (format!("scratch.folders[{i}]"), item.span.clone());
        let Some(folder) = shape.text(item, &at) else { continue };
        let mut parts = Path::new(&folder).components().peekable();
        let within = parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)));
        if within && !folder.contains('\0') {
            folders.push(folder);
        } else {
            let message = format!("{at}: `{}` is not a folder within the app", excerpt(&folder));
            shape.add(Severity::Error, span, message, "Write it relative to the app's folder, without `.` and `..`.");
        }
    }
    folders
}

#[cfg(test)]
mod tests;
