//! app.json: what an app wants of any platform. Heroku's shapes, and Dokku's for `healthchecks` and `cron`.

use super::tree::{self, Member, Node, Shape, Value, join};
use super::{HealthChecks, health_checks};
use crate::concurrency::formation::{MAX_QUANTITY, UnknownType, unknown_type};
use crate::config::{ConfigError, check_name};
use crate::diagnostic::{self, Diagnostic, Severity};
use crate::ids::TypeName;
use crate::processes::ProcessType;
use crate::processes::size::Size;
use std::collections::BTreeMap;
use std::fmt;

/// What app.json declares; everything is optional.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppJson {
    /// For people; `up` suggests the app's name from it.
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// The config vars that the app reads. Reserved names are left out, with a warning.
    pub env: BTreeMap<String, EnvVar>,
    /// How many of each process type, and of what size. Without `release`.
    pub formation: BTreeMap<TypeName, Quantity>,
    /// The backing services that it needs.
    pub addons: Vec<AddOn>,
    /// URLs or names, in their order.
    pub buildpacks: Vec<String>,
    /// `scripts.postdeploy`: runs once, after the first release of a deploy.
    pub postdeploy: Option<String>,
    /// `scripts.console`: what `dozen console` runs instead of the language's own shell.
    pub console: Option<String>,
    /// `scripts.test-setup`: what comes before the tests; in `environments.test`.
    pub test_setup: Option<String>,
    /// `scripts.test`: what runs the tests; in `environments.test`.
    pub test: Option<String>,
    /// The name of a base image.
    pub stack: Option<String>,
    /// What is different for deploys of a kind: `test`, `review`. Their own `environments` are left out.
    pub environments: BTreeMap<String, AppJson>,
    /// By process type.
    pub health: HealthChecks,
    /// In their order.
    pub cron: Vec<CronJob>,
}

/// One config var that an app reads.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// For people.
    pub description: Option<String>,
    /// What it is where nothing else is set.
    pub value: Option<String>,
    /// Whether a release without it must fail; `true` by default.
    pub required: bool,
    /// Whether a random value is made once per deploy where nothing else is set (`generator: "secret"`).
    pub generated: bool,
}

impl fmt::Debug for EnvVar {
    /// Without the value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.value.is_some() { "a value" } else { "no value" };
        write!(f, "EnvVar({value}, required: {}, generated: {})", self.required, self.generated)
    }
}

/// What app.json says of a process type.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quantity {
    /// How many, at most [`MAX_QUANTITY`].
    pub quantity: Option<u32>,
    /// Of what size.
    pub size: Option<Size>,
}

/// A backing service that the app needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddOn {
    /// `sqlite`, `heroku-postgresql:mini`
    pub plan: String,
    /// The name to attach it as.
    pub alias: Option<String>,
}

/// A command that runs by the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronJob {
    /// What the app's shell runs.
    pub command: String,
    /// As crontab has it: `*/5 * * * *`, `@daily`.
    pub schedule: String,
    /// What happens when the one before still runs.
    pub concurrency: CronConcurrency,
}

/// What happens when a job's time comes while the one before still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CronConcurrency {
    /// Both run.
    #[default]
    Allow,
    /// The new one is skipped.
    Forbid,
    /// The old one is stopped.
    Replace,
}

/// What an app.json declares and what there is to say about it. With an error among the diagnostics it cannot be used.
pub fn parse(text: &str) -> (AppJson, Vec<Diagnostic>) {
    let (mut remarks, root) = tree::root(text, "JSON", tree::from_json);
    let mut shape = Shape::new(&mut remarks, Severity::Note);
    let app = root.map(|node| app(&mut shape, node, "")).unwrap_or_default();
    (app, remarks.finish())
}

/// The same for the bytes of a file: at most 1 MiB, UTF-8.
pub fn parse_bytes(bytes: &[u8]) -> (AppJson, Vec<Diagnostic>) {
    diagnostic::text(bytes).map_or_else(tree::refused, parse)
}

impl AppJson {
    /// The counts that it declares, for [`Formation::first`](crate::concurrency::formation::Formation::first).
    pub fn quantities(&self) -> BTreeMap<TypeName, u32> {
        self.formation.iter().filter_map(|(kind, q)| Some((kind.clone(), q.quantity?))).collect()
    }

    /// The sizes that `formation` declares.
    pub fn sizes(&self) -> BTreeMap<TypeName, Size> {
        self.formation.iter().filter_map(|(kind, q)| Some((kind.clone(), q.size?))).collect()
    }

    /// The process types that it has checks for and that the Procfile does not declare. Those that `formation` names are told by
    /// [`Formation::first`](crate::concurrency::formation::Formation::first).
    pub fn unknown_types(&self, types: &[ProcessType]) -> Vec<UnknownType> {
        let unknown = self.health.keys().filter(|kind| types.iter().all(|t| t.name != **kind));
        unknown.map(|kind| unknown_type(kind, types)).collect()
    }

    /// What it declares for its tests: `environments.test`, whose config vars and add-ons come to those of all deploys and whose scripts are its
    /// own.
    pub fn for_tests(&self) -> Self {
        let test = self.environments.get("test").cloned().unwrap_or_default();
        let mut env = self.env.clone();
        env.extend(test.env);
        let addons = if test.addons.is_empty() { self.addons.clone() } else { test.addons };
        Self { env, addons, test: test.test, test_setup: test.test_setup, ..Self::default() }
    }

    /// The config vars that must have a value and that nothing here gives one.
    pub fn required(&self) -> impl Iterator<Item = &str> {
        self.env.iter().filter(|(_, v)| v.required && v.value.is_none() && !v.generated).map(|(k, _)| k.as_str())
    }
}

const KNOWN: &[&str] =
    &["name", "description", "env", "formation", "addons", "buildpacks", "scripts", "stack", "environments", "healthchecks", "cron"];
/// For people and for Heroku's own pages.
const FOR_PEOPLE: &[&str] = &["$schema", "keywords", "website", "repository", "logo", "success_url"];

fn app(shape: &mut Shape<'_, '_>, node: Node, path: &str) -> AppJson {
    let mut app = AppJson::default();
    for member in shape.table(node, path).unwrap_or_default() {
        let path_here = join(path, &member.key);
        let (at, node) = (path_here.as_str(), member.node);
        match member.key.as_str() {
            "name" => app.name = shape.text(node, at),
            "description" => app.description = shape.text(node, at),
            "env" => app.env = env(shape, node, at),
            "formation" => app.formation = formation(shape, node, at),
            // One alone, as some files have it.
            "addons" if matches!(node.value, Value::Text(_)) => app.addons = add_on(shape, node, at).into_iter().collect(),
            "addons" => app.addons = items(shape, node, at, add_on),
            "buildpacks" => app.buildpacks = items(shape, node, at, buildpack),
            "scripts" => scripts(shape, node, at, &mut app),
            "stack" => app.stack = shape.text(node, at),
            "environments" if path.is_empty() => {
                for kind in shape.table(node, at).unwrap_or_default() {
                    let below = self::app(shape, kind.node, &join(at, &kind.key));
                    app.environments.insert(kind.key, below);
                }
            }
            "healthchecks" => {
                for member in shape.table(node, at).unwrap_or_default() {
                    if let Some(kind) = shape.process_type(&member, at) {
                        let checks = health_checks(shape, member.node, &join(at, &member.key), &kind);
                        app.health.insert(kind, checks);
                    }
                }
            }
            "cron" => app.cron = items(shape, node, at, cron_job),
            key if FOR_PEOPLE.contains(&key) => {}
            key => shape.unknown(key, member.key_span, at, KNOWN),
        }
    }
    app
}

fn items<T>(shape: &mut Shape<'_, '_>, node: Node, path: &str, read: fn(&mut Shape<'_, '_>, Node, &str) -> Option<T>) -> Vec<T> {
    let items = shape.list(node, path);
    items.into_iter().enumerate().filter_map(|(i, item)| read(shape, item, &format!("{path}[{i}]"))).collect()
}

fn env(shape: &mut Shape<'_, '_>, node: Node, path: &str) -> BTreeMap<String, EnvVar> {
    let mut env = BTreeMap::new();
    for member in shape.table(node, path).unwrap_or_default() {
        match check_name(&member.key) {
            Ok(()) => {}
            // Apps that run on Heroku too ask for `HEROKU_APP_NAME` here, which every process has anyway.
            Err(ConfigError::Reserved(_)) => {
                let message = format!("{}: left out, the platform keeps this prefix to itself", join(path, &member.key));
                shape.add(Severity::Warning, member.key_span, message, "`HEROKU_`, `DOZEN_` and `__` are reserved.");
                continue;
            }
            Err(_) => {
                let message = format!("{}: not the name of a config var", join(path, &member.key));
                let help = "Start with a letter or `_`, go on with letters, digits and `_`.";
                shape.add(Severity::Error, member.key_span, message, help);
                continue;
            }
        }
        let path = join(path, &member.key);
        let var = EnvVar { description: None, value: None, required: true, generated: false };
        let var = match member.node.value {
            Value::Table(_) => env_var(shape, member.node, &path, var),
            _ => EnvVar { value: value(shape, member.node, &path), ..var },
        };
        env.insert(member.key, var);
    }
    env
}

fn env_var(shape: &mut Shape<'_, '_>, node: Node, path: &str, mut var: EnvVar) -> EnvVar {
    for Member { key, key_span, node } in shape.table(node, path).unwrap_or_default() {
        let at = &join(path, &key);
        match key.as_str() {
            "description" => var.description = shape.text(node, at),
            "value" => var.value = value(shape, node, at),
            "required" => var.required = required(shape, node, at).unwrap_or(true),
            "generator" => var.generated = shape.word(node, at, &["secret"]).is_some(),
            _ => shape.unknown(&key, key_span, at, &["description", "value", "required", "generator"]),
        }
    }
    var
}

/// The value of a variable: text; a bare number or flag is taken as it is written.
fn value(shape: &mut Shape<'_, '_>, node: Node, path: &str) -> Option<String> {
    let written = match &node.value {
        Value::Number(number) => number.clone(),
        Value::Flag(flag) => flag.to_string(),
        Value::Text(text) if text.contains('\0') => {
            shape.add(Severity::Error, node.span, format!("{path}: it has a NUL byte, which no process environment can carry"), "");
            return None;
        }
        _ => return shape.text(node, path),
    };
    shape.add(Severity::Note, node.span, format!("{path}: taken as text"), "Put it in quotes.");
    Some(written)
}

/// `true`, or `"true"` as many files have it.
fn required(shape: &mut Shape<'_, '_>, node: Node, path: &str) -> Option<bool> {
    match &node.value {
        Value::Text(text) if text == "true" || text == "false" => Some(text == "true"),
        _ => shape.flag(node, path),
    }
}

fn formation(shape: &mut Shape<'_, '_>, node: Node, path: &str) -> BTreeMap<TypeName, Quantity> {
    let mut formation = BTreeMap::new();
    for member in shape.table(node, path).unwrap_or_default() {
        let Some(kind) = shape.process_type(&member, path) else { continue };
        if kind.is_release() {
            let message = format!("{path}.release: left out, the release phase runs once for every release");
            shape.add(Severity::Warning, member.key_span, message, "");
            continue;
        }
        let path = join(path, &member.key);
        let mut quantity = Quantity::default();
        for Member { key, key_span, node } in shape.table(member.node, &path).unwrap_or_default() {
            let at = &join(&path, &key);
            match key.as_str() {
                "quantity" => quantity.quantity = shape.count(node, at, 0..=MAX_QUANTITY),
                "size" => quantity.size = size(shape, node, at),
                _ => shape.unknown(&key, key_span, at, &["quantity", "size"]),
            }
        }
        formation.insert(kind, quantity);
    }
    formation
}

/// A name that another platform gives a size is no reason not to run the app.
fn size(shape: &mut Shape<'_, '_>, node: Node, path: &str) -> Option<Size> {
    let span = node.span.clone();
    let size = shape.text(node, path)?.parse::<Size>();
    size.map_err(|e| shape.add(Severity::Warning, span, format!("{path}: left out, {e}"), "")).ok()
}

fn add_on(shape: &mut Shape<'_, '_>, node: Node, path: &str) -> Option<AddOn> {
    if !matches!(node.value, Value::Table(_)) {
        return shape.text(node, path).map(|plan| AddOn { plan, alias: None });
    }
    let whole = node.span.clone();
    let (mut plan, mut alias) = (None, None);
    for Member { key, key_span, node } in shape.table(node, path)? {
        let at = &join(path, &key);
        match key.as_str() {
            "plan" => plan = shape.text(node, at),
            "as" => {
                let span = node.span.clone();
                alias = shape.text(node, at);
                if let Some(Err(refused)) = alias.as_deref().map(check_name) {
                    shape.add(Severity::Error, span, format!("{at}: {refused}"), "It becomes the name of a config var: `DATABASE`.");
                }
            }
            _ => shape.unknown(&key, key_span, at, &["plan", "as"]),
        }
    }
    if plan.is_none() {
        shape.missing(whole, path, "plan", "the service's name, such as \"sqlite\"");
    }
    Some(AddOn { plan: plan?, alias })
}

fn buildpack(shape: &mut Shape<'_, '_>, node: Node, path: &str) -> Option<String> {
    if !matches!(node.value, Value::Table(_)) {
        return shape.text(node, path);
    }
    let whole = node.span.clone();
    let mut url = None;
    for Member { key, key_span, node } in shape.table(node, path)? {
        let at = &join(path, &key);
        match key.as_str() {
            "url" => url = shape.text(node, at),
            _ => shape.unknown(&key, key_span, at, &["url"]),
        }
    }
    if url.is_none() {
        shape.missing(whole, path, "url", "where the buildpack is");
    }
    url
}

/// What is run on occasions: text, or `{command}`.
fn scripts(shape: &mut Shape<'_, '_>, node: Node, path: &str, app: &mut AppJson) {
    let some = |command: &String| !command.trim().is_empty();
    for Member { key, key_span, node } in shape.table(node, path).unwrap_or_default() {
        let at = &join(path, &key);
        match key.as_str() {
            "postdeploy" => app.postdeploy = script(shape, node, at),
            "console" => app.console = script(shape, node, at).filter(some),
            "test" => app.test = script(shape, node, at).filter(some),
            "test-setup" => app.test_setup = script(shape, node, at).filter(some),
            // A build or a release never runs it.
            "pr-predestroy" => {
                shape.text(node, at);
            }
            _ => shape.unknown(&key, key_span, at, &["postdeploy", "console", "test", "test-setup"]),
        }
    }
}

fn script(shape: &mut Shape<'_, '_>, node: Node, path: &str) -> Option<String> {
    if !matches!(node.value, Value::Table(_)) {
        return shape.text(node, path);
    }
    let mut found = None;
    for Member { key, key_span, node } in shape.table(node, path)? {
        let at = &join(path, &key);
        match key.as_str() {
            "command" => found = shape.text(node, at),
            _ => shape.unknown(&key, key_span, at, &["command"]),
        }
    }
    found
}

fn cron_job(shape: &mut Shape<'_, '_>, node: Node, path: &str) -> Option<CronJob> {
    const POLICIES: [CronConcurrency; 3] = [CronConcurrency::Allow, CronConcurrency::Forbid, CronConcurrency::Replace];
    let whole = node.span.clone();
    let (mut command, mut schedule, mut concurrency) = (None, None, CronConcurrency::default());
    for Member { key, key_span, node } in shape.table(node, path)? {
        let at = &join(path, &key);
        match key.as_str() {
            "command" => command = shape.text(node, at),
            "schedule" => schedule = shape.text(node, at),
            "concurrency_policy" => {
                let policy = shape.word(node, at, &["allow", "forbid", "replace"]);
                concurrency = policy.map_or(concurrency, |i| POLICIES[i]);
            }
            _ => shape.unknown(&key, key_span, at, &["command", "schedule", "concurrency_policy"]),
        }
    }
    if command.is_none() {
        shape.missing(whole.clone(), path, "command", "what to run");
    }
    if schedule.is_none() {
        shape.missing(whole, path, "schedule", "when to run it, such as \"@daily\"");
    }
    Some(CronJob { command: command?, schedule: schedule?, concurrency })
}

#[cfg(test)]
mod tests;
