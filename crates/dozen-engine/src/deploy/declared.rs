//! What an app declares beside its code: Procfile, app.json, dozen.toml, and the `.env` of a developer's own deploy.

use super::{DeployError, generated_secret};
use crate::codebase;
use crate::output::Output;
use dozen_core::backing::{Attachment, ResourceKind};
use dozen_core::codebase::{FileKind, Source};
use dozen_core::config::{Config, ConfigError, Origin, Var, dotenv};
use dozen_core::dependencies::{aptfile, buildpacks};
use dozen_core::diagnostic::{Diagnostic, has_errors};
use dozen_core::ids::TypeName;
use dozen_core::manifest::dozen_toml::RouterRules;
use dozen_core::manifest::{AppJson, app_json, dozen_toml};
use dozen_core::processes::rules::RulesByType;
use dozen_core::processes::{ProcessType, procfile};
use std::collections::BTreeMap;
use std::path::Path;

/// A `.env` of more is refused unread.
const MAX_DOTENV: u64 = 1 << 20;

/// All of it.
#[derive(Default)]
pub(super) struct Declared {
    /// The Procfile's types; empty where there is no Procfile.
    pub(super) processes: Vec<ProcessType>,
    /// app.json's formation.
    pub(super) formation: BTreeMap<TypeName, u32>,
    /// The variables of `.env`; `None` where there is no folder that could have one.
    pub(super) dotenv: Option<BTreeMap<String, String>>,
    /// dozen.toml's scratch folders.
    pub(super) scratch: Vec<String>,
    /// What dozen.toml says of process types, and the checks of both files.
    pub(super) rules: RulesByType,
    app_json: AppJson,
}

/// A resource that app.json asks for and that is not there yet.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) kind: ResourceKind,
}

/// Reads them; warnings are told, errors end it.
pub(super) fn read(source: &Source, output: &dyn Output) -> Result<Declared, DeployError> {
    let text = |name: &str| text(source, name);
    let processes = match text("Procfile")? {
        Some(t) => {
            let (processes, remarks) = procfile::parse(&t);
            told("Procfile", Some(t), remarks, output)?;
            processes
        }
        None => vec![],
    };
    let app_json = match text("app.json")? {
        Some(t) => {
            let (app_json, remarks) = app_json::parse(&t);
            // No excerpt: what stands there may be somebody's secret, though it should not.
            told("app.json", None, remarks, output)?;
            app_json
        }
        None => AppJson::default(),
    };
    for unknown in app_json.unknown_types(&processes) {
        output.warning(&format!("app.json: healthchecks: {unknown}"));
    }
    let mut scratch = Vec::new();
    let mut rules = RulesByType::new();
    // What is ours alone wins, type by type.
    let mut checks = app_json.health.clone();
    if let Some(t) = text("dozen.toml")? {
        let (settings, remarks) = dozen_toml::parse(&t);
        told("dozen.toml", Some(t), remarks, output)?;
        for unknown in settings.unknown_types(&processes) {
            output.warning(&format!("dozen.toml: {unknown}"));
        }
        scratch = settings.scratch;
        rules = settings.processes;
        checks.extend(settings.health);
        if settings.router != RouterRules::default() {
            let web = rules.entry(super::kind(TypeName::WEB)).or_default();
            (web.concurrency, web.queue) = (settings.router.concurrency, settings.router.queue);
        }
    }
    if let Some(t) = text("Aptfile")? {
        let (_, remarks) = aptfile::parse(&t);
        told("Aptfile", Some(t), remarks, output)?;
    }
    let without_effect = [
        ("buildpacks", !app_json.buildpacks.is_empty() && buildpacks::are_official(&app_json.buildpacks)),
        ("scripts.postdeploy", app_json.postdeploy.is_some()),
        ("cron", !app_json.cron.is_empty()),
    ];
    let names: Vec<&str> = without_effect.iter().filter(|(_, declared)| *declared).map(|(name, _)| *name).collect();
    not_applied("app.json", &names, output);
    for (kind, checks) in checks {
        rules.entry(kind).or_default().checks = checks;
    }
    // app.json wins: an app that brings both has its dozen.toml for what app.json cannot say.
    for (kind, size) in app_json.sizes() {
        rules.entry(kind).or_default().size = Some(size);
    }
    Ok(Declared { processes, formation: app_json.quantities(), dotenv: None, scratch, rules, app_json })
}

/// How many of each process type app.json declares, and nothing else of it: its remarks were told when it was read first.
pub(super) fn quantities(source: &Source) -> Result<BTreeMap<TypeName, u32>, DeployError> {
    Ok(text(source, "app.json")?.map(|t| app_json::parse(&t).0.quantities()).unwrap_or_default())
}

/// The text of a file that a person writes. `None` where there is none; one that is there and cannot be read is never passed over.
fn text(source: &Source, name: &str) -> Result<Option<String>, DeployError> {
    let Some(file) = source.files.iter().find(|f| f.path == name) else { return Ok(None) };
    let why =
        if matches!(file.kind, FileKind::Link(_)) { "it is a link; put the file itself in its place" } else { "it is not UTF-8 text" };
    let failed = || DeployError::File { file: name.into(), source: std::io::Error::other(why) };
    codebase::text(source, name).map(Some).ok_or_else(failed)
}

/// What is understood and has no effect yet is said, so that nobody relies on it.
fn not_applied(file: &str, names: &[&str], output: &dyn Output) {
    if !names.is_empty() {
        output.warning(&format!("{file}: {} is understood and not applied yet", names.join(", ")));
    }
}

/// The `.env` of a folder.
pub(super) fn read_dotenv(folder: &Path, output: &dyn Output) -> Result<BTreeMap<String, String>, DeployError> {
    let file = folder.join(".env");
    let failed = |source| DeployError::File { file: file.clone(), source };
    match std::fs::metadata(&file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(failed(e)),
        Ok(m) if !m.is_file() => return Err(failed(std::io::Error::other("it is not a file"))),
        Ok(m) if m.len() > MAX_DOTENV => return Err(failed(std::io::Error::other(format!("it is larger than {MAX_DOTENV} bytes")))),
        Ok(_) => {}
    }
    let (vars, remarks) = dotenv::parse_bytes(&std::fs::read(&file).map_err(failed)?);
    told(".env", None, remarks, output)?;
    Ok(vars)
}

fn told(file: &str, text: Option<String>, diagnostics: Vec<Diagnostic>, output: &dyn Output) -> Result<(), DeployError> {
    if has_errors(&diagnostics) {
        return Err(DeployError::Input { file: file.to_owned(), text, diagnostics });
    }
    for d in diagnostics {
        let help = if d.help.is_empty() { String::new() } else { format!(". {}", d.help) };
        output.warning(&format!("{file}:{d}{help}"));
    }
    Ok(())
}

impl Declared {
    /// The config with app.json's defaults: a `value` fills what nothing else gives and follows app.json when that changes; a secret is made once.
    pub(super) fn defaults(&self, mut config: Config) -> Result<Config, ConfigError> {
        let env = &self.app_json.env;
        config.vars.retain(|k, v| v.origin != Origin::AppJson || env.get(k).is_some_and(|e| e.value.is_some()));
        for (name, wanted) in env {
            let has = config.vars.get(name).map(|v| v.origin);
            match &wanted.value {
                Some(value) if matches!(has, None | Some(Origin::AppJson)) => {
                    // What stands in a file of the codebase is no secret.
                    config.set(name, Var { value: value.clone(), origin: Origin::AppJson, plain: true })?;
                }
                None if wanted.generated && has.is_none() => config.set(name, generated_secret())?,
                _ => {}
            }
        }
        Ok(config)
    }

    /// Required names that neither config nor an attachment gives.
    pub(super) fn missing(&self, config: &Config, attachments: &[Attachment]) -> Vec<String> {
        let given = |name: &str| config.vars.contains_key(name) || attachments.iter().any(|a| a.variable() == name);
        self.app_json.required().filter(|name| !given(name)).map(str::to_owned).collect()
    }

    /// Says what other platforms would do with this source and dozen does not, and what to do instead.
    pub(super) fn unused(&self, source: &Source, output: &dyn Output) {
        if source.has("nltk.txt") {
            output.warning("nltk.txt is not used: put the data into the codebase, and its folder's path below /app into NLTK_DATA");
        }
        for hook in ["bin/pre_compile", "bin/post_compile"].into_iter().filter(|h| source.has(h)) {
            output.warning(&format!("{hook} is not run by builds: do what it does before `dozen up`, or in the Procfile's `release`"));
        }
        let official = buildpacks::are_official(&self.app_json.buildpacks) && !source.has(buildpacks::FILE);
        for pack in self.app_json.buildpacks.iter().filter(|p| official && !["python", "nodejs"].iter().any(|own| p.contains(own))) {
            output.warning(&format!("app.json's buildpack {pack} is not used: commit what it would make, or make it before `dozen up`"));
        }
        if let Some(command) = &self.app_json.postdeploy {
            output.warning(&format!("app.json's scripts.postdeploy is not run: once the app is up, `dozen run -- {command}`"));
        }
    }

    /// What app.json names as buildpacks.
    pub(super) fn buildpacks(&self) -> &[String] {
        &self.app_json.buildpacks
    }

    /// What app.json names as its stack.
    pub(super) fn stack(&self) -> Option<&str> {
        self.app_json.stack.as_deref()
    }

    /// What runs the tests, in its order; `None` where there are none.
    pub(super) fn test_scripts(&self) -> Option<Vec<String>> {
        let tests = self.app_json.for_tests();
        Some(tests.test_setup.into_iter().chain([tests.test?]).collect())
    }

    /// The config of tests: what app.json gives them, under what is given here.
    pub(super) fn test_config(&self, given: Config) -> Result<Config, ConfigError> {
        Self { app_json: self.app_json.for_tests(), ..Self::default() }.defaults(given)
    }

    /// The resources that tests have, by name.
    pub(super) fn test_resources(&self, config: &Config, output: &dyn Output) -> Vec<(String, ResourceKind)> {
        let tests = Self { app_json: self.app_json.for_tests(), ..Self::default() };
        tests.resources(config, &BTreeMap::new(), output).into_iter().map(|wanted| (wanted.name, wanted.kind)).collect()
    }

    /// Names that tests require and nothing gives.
    pub(super) fn test_missing(&self, config: &Config) -> Vec<String> {
        let tests = self.app_json.for_tests();
        tests.required().filter(|name| !config.vars.contains_key(*name)).map(str::to_owned).collect()
    }

    /// What app.json names as the app's console.
    pub(super) fn console(&self) -> Option<&str> {
        self.app_json.console.as_deref()
    }

    /// The resources to be made. What dozen cannot run, and config does not give, is warned of.
    pub(super) fn resources(&self, config: &Config, have: &BTreeMap<String, u32>, output: &dyn Output) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for addon in &self.app_json.addons {
            let kind = ResourceKind::from_addon(&addon.plan);
            let default = kind.map_or_else(|| variable_of(&addon.plan), |k| k.default_attachment().to_owned());
            let name = addon.alias.clone().unwrap_or(default);
            let variable = format!("{name}_URL");
            let given = config.vars.contains_key(&variable);
            match kind {
                _ if have.contains_key(&name) || wanted.iter().any(|w: &Wanted| w.name == name) => {}
                Some(_) if given => output.detail(&format!("{variable} is set; app.json's add-on {} is not needed", addon.plan)),
                Some(kind) => wanted.push(Wanted { name, kind }),
                None if given => {}
                None => output.warning(&format!(
                    "app.json asks for the add-on {}, which dozen cannot run by itself; give it by its URL: `dozen config set {variable}=…` or in .env",
                    addon.plan
                )),
            }
        }
        wanted
    }
}

/// The attachment that an add-on makes on Heroku, as the head of its variable `…_URL`.
fn variable_of(plan: &str) -> String {
    let service = plan.split(':').next().unwrap_or(plan);
    let service = service.strip_prefix("heroku-").unwrap_or(service);
    match service {
        "postgresql" | "mysql" => "DATABASE".into(),
        "keyvalue" => "REDIS".into(),
        other => other.to_ascii_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_"),
    }
}
