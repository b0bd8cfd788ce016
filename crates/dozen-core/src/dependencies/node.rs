//! The Node pack: what a Node app declares, and what is to be done about it.

use super::{Language, Layer, Plan, PlanError, Runtime, Step, Tool, Versions};
use crate::codebase::Source;
use manager::{Chosen, unusable};
use manifest::{Manifest, join};
use range::Range;
use serde_json::Value;
use std::collections::BTreeSet;

pub mod manager;
mod manifest;
pub mod range;
#[cfg(test)]
mod tests;
mod web;

pub use manager::{Manager, Program};

/// The file that a Node app is known by.
pub const KNOWN_BY: &str = "package.json";
/// Where a slug keeps the package manager that its commands call: it must not rely on one that happens to be installed.
pub const KEPT_TOOL: &str = ".dozen";
/// Heads of variables whose values build tools write into what a browser loads.
pub const BAKED: [&str; 8] = ["NEXT_PUBLIC_", "VITE_", "REACT_APP_", "PUBLIC_", "NUXT_PUBLIC_", "GATSBY_", "VUE_APP_", "EXPO_PUBLIC_"];

/// Files beside package.json that decide how packages are installed.
const SETTINGS: [&str; 6] = [".yarnrc", ".yarnrc.yml", ".pnpmfile.cjs", ".pnpmfile.mjs", "pnpm-workspace.yaml", "lerna.json"];
/// Folders that do.
const FOLDERS: [&str; 2] = ["patches/", ".yarn/"];

/// How a package manager is to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// Which.
    pub manager: Manager,
    /// Where it is had from.
    pub program: Program,
    /// The lock file; `None`: npm resolves once, and the result is kept.
    pub lock: Option<String>,
    /// Each package.json without what does not decide what is installed: path and text.
    pub manifests: Vec<(String, String)>,
    /// Files that are needed as they are.
    pub files: Vec<String>,
    /// The programs of the workspace's own packages, which commands lead to. What the build makes is not among them.
    pub programs: Vec<String>,
    /// Whether packages for development are installed for the app's own scripts.
    pub development: bool,
    /// Variables that the settings name as `${NAME}`.
    pub variables: Vec<String>,
    /// Whether pnpm is left to decide which packages may run scripts.
    pub chooses_builds: bool,
    /// Packages for development that are needed to run all the same.
    pub kept: Vec<String>,
    /// Whether a command of the app calls the package manager.
    pub called: bool,
    /// The program that `start` runs, where a package for development brings it.
    pub development_start: Option<String>,
}

/// A script of a package.json, run for each source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// When.
    pub when: When,
    /// The package's folder; empty for the root.
    pub folder: String,
    /// Its name.
    pub name: String,
}

/// When a script is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// Before dependencies are there.
    Before,
    /// With all of them, those for development too.
    Build,
    /// When only those that are needed to run are left.
    After,
}

/// A plan for a source that has a package.json.
pub(super) fn plan(source: &Source, read: &dyn Fn(&str) -> Option<String>) -> Option<Result<Plan, PlanError>> {
    match Manifest::read(source, read, "") {
        Ok(root) => root.map(|root| Pack { source, read, root }.plan()),
        Err(e) => Some(Err(e)),
    }
}

/// Whether a source in several languages is started by Node: its Procfile says so, or without one the script `start`.
pub(super) fn leads(source: &Source, read: &dyn Fn(&str) -> Option<String>) -> bool {
    const STARTERS: [&str; 6] = ["node", "npm", "npx", "pnpm", "yarn", "next"];
    match read("Procfile").filter(|_| source.has("Procfile")) {
        Some(procfile) => STARTERS.iter().any(|program| names_word(&procfile, program)),
        None => matches!(Manifest::read(source, read, ""), Ok(Some(root)) if root.script("start").is_some()),
    }
}

struct Pack<'a> {
    source: &'a Source,
    read: &'a dyn Fn(&str) -> Option<String>,
    root: Manifest,
}

impl Pack<'_> {
    fn plan(&self) -> Result<Plan, PlanError> {
        let mut notes = Vec::new();
        let runtime = self.runtime()?;
        let members = self.root.members(self.source, self.read)?;
        let Chosen { manager, program, lock, notes: more } = manager::choose(self.source, self.read, &self.root)?;
        notes.extend(more);
        let all = || members.iter().chain([&self.root]);
        let steps = self.scripts(&members, manager);
        let served = web::served(&web::App { source: self.source, read: self.read, root: &self.root, members: &members, manager });
        if !self.source.has("Procfile") {
            notes.extend(served.note);
        }
        let declares = all().any(|m| m.declared().next().is_some());
        if lock.is_none() && declares {
            self.resolvable(&members)?;
        }
        self.contained(&members, lock)?;
        let development = !steps.is_empty() && all().any(Manifest::develops);
        // `next start` reads its settings anew.
        let configured = |m: &&Manifest| self.source.has(&join(&m.folder, "next.config.ts"));
        let only_files = served.types.iter().any(|(_, c)| c.starts_with("dozen static "));
        let typescript = |m: &Manifest| !m.needs("typescript") && (m.has("typescript") || self.root.has("typescript"));
        let mut kept = Vec::new();
        if development && !only_files && all().filter(configured).any(typescript) && !self.root.needs("typescript") {
            kept.push("typescript".to_owned());
            notes.push("typescript stays in the slug, though it is for development: Next reads next.config.ts with it".into());
        }
        let layer = (declares || lock.is_some()).then(|| {
            let (key_files, files, variables) = self.files(&members, lock);
            let texts = all().flat_map(Manifest::scripts).map(str::to_owned).chain(served.types.iter().map(|(_, c)| c.clone()));
            let procfile = (self.read)("Procfile").filter(|_| self.source.has("Procfile"));
            let called = texts.chain(procfile).any(|t| names_word(&t, manager.command()));
            let settings = (self.read)("pnpm-workspace.yaml").filter(|_| self.source.has("pnpm-workspace.yaml")).unwrap_or_default();
            let in_manifest = self.root.json.get("pnpm").map(Value::to_string).unwrap_or_default();
            let chooses_builds =
                ["BuiltDependencies", "allowBuilds", "AllowAllBuilds"].iter().any(|k| settings.contains(k) || in_manifest.contains(k));
            let install = Install {
                manager,
                program,
                lock: lock.map(str::to_owned),
                manifests: all().map(|m| (m.path(), m.reduced())).collect(),
                programs: all().flat_map(Manifest::programs).filter(|p| self.source.has(p) && !files.contains(p)).collect(),
                files,
                development,
                variables,
                chooses_builds,
                kept,
                called: called && manager != Manager::Npm,
                development_start: served.development,
            };
            Layer { from: lock.unwrap_or(KNOWN_BY).into(), key_files, tool: Tool::Node(Box::new(install)) }
        });
        let next = all().filter(|m| m.has("next")).map(|m| join(&m.folder, ".next/cache")).collect();
        let env = [
            ("PATH", format!("{{app}}/node_modules/.bin:{{app}}/{KEPT_TOOL}/bin:{{runtime}}:/usr/local/bin:/usr/bin:/bin").as_str()),
            ("NODE_ENV", "production"),
            // A slug is never written to, and their home is the slug.
            ("npm_config_cache", "/tmp/.npm"),
            ("npm_config_update_notifier", "false"),
            ("XDG_CACHE_HOME", "/tmp/.cache"),
            ("XDG_STATE_HOME", "/tmp/.state"),
            ("YARN_GLOBAL_FOLDER", "/tmp/.yarn"),
            ("YARN_ENABLE_TELEMETRY", "0"),
            ("LANG", "C.UTF-8"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()));
        let pm2 = self.root.has("pm2").then(|| ("PM2_HOME".to_owned(), "/tmp/.pm2".to_owned()));
        // This yarn notes what it found before it runs anything.
        let berry = [("YARN_NODE_LINKER", "node-modules"), ("YARN_INSTALL_STATE_PATH", "/tmp/.yarn/install-state.gz")];
        let berry = berry.iter().filter(|_| manager == Manager::Berry).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Ok(Plan {
            pack: "node",
            language: Some("Node"),
            runtime: Some(runtime),
            layer,
            steps: steps.into_iter().map(Step::Script).collect(),
            env: env.into_iter().chain(pm2).chain(berry).collect(),
            processes: served.types,
            console: Some("node".into()),
            scratch: next,
            cure: served.cure,
            notes,
        })
    }

    /// As on Heroku `engines.node`; else what version managers read.
    fn runtime(&self) -> Result<Runtime, PlanError> {
        let text = (self.read)(KNOWN_BY).unwrap_or_default();
        let in_manifest = |table: &str| Some((self.root.version(table, "node")?, place(&text, table)));
        let in_file = |file: &str| {
            let text = (self.read)(file).filter(|_| self.source.has(file))?;
            let (number, line) = text.lines().enumerate().find(|(_, l)| !l.trim().is_empty() && !l.trim_start().starts_with('#'))?;
            Some((line.split('#').next().unwrap_or(line).trim().to_owned(), format!("{file}:{}", number + 1)))
        };
        let asdf = || {
            let text = (self.read)(".tool-versions").filter(|_| self.source.has(".tool-versions"))?;
            let (number, version) = text.lines().enumerate().find_map(|(n, l)| {
                let mut words = l.split_whitespace();
                matches!(words.next(), Some("nodejs" | "node")).then(|| Some((n, words.next()?.to_owned())))?
            })?;
            Some((version, format!(".tool-versions:{}", number + 1)))
        };
        let found = in_manifest("engines")
            .or_else(|| in_file(".node-version"))
            .or_else(|| in_file(".nvmrc"))
            .or_else(|| in_manifest("volta"))
            .or_else(asdf);
        let Some((version, pinned)) = found else {
            return Ok(Runtime { versions: Versions::Range(Language::Node, Range::any()), pinned: None });
        };
        let range = Range::parse(&version).ok_or_else(|| {
            unusable(
                &pinned,
                &format!("{version:?} is not a range of Node versions"),
                "Write `20.x` or `>=20`, or name a Node with `--use-node`",
            )
        })?;
        Ok(Runtime { pinned: (!range.is_any()).then_some(pinned), versions: Versions::Range(Language::Node, range) })
    }

    /// The app's own scripts: installers would run them before the source is there.
    fn scripts(&self, members: &[Manifest], manager: Manager) -> Vec<Script> {
        let mut out = Vec::new();
        let mut add = |when: When, m: &Manifest, names: &[&str]| {
            // Which package manager is used is known, and there is no repository to hook into.
            let wanted = |n: &&&str| m.script(n).is_some_and(|s| !is_idle(s));
            out.extend(names.iter().filter(wanted).map(|n| Script { when, folder: m.folder.clone(), name: (*n).to_owned() }));
        };
        let late: &[&str] = if manager == Manager::Berry { &["install", "postinstall"] } else { &["install", "postinstall", "prepare"] };
        add(When::Before, &self.root, &["heroku-prebuild"]);
        add(When::Build, &self.root, &["preinstall"]);
        for member in members {
            add(When::Build, member, &["preinstall"]);
            add(When::Build, member, late);
        }
        add(When::Build, &self.root, late);
        let build = if self.root.script("heroku-postbuild").is_some() { "heroku-postbuild" } else { "build" };
        add(When::Build, &self.root, &[build]);
        add(When::After, &self.root, &["heroku-cleanup"]);
        out
    }

    /// npm can resolve what is declared.
    fn resolvable(&self, members: &[Manifest]) -> Result<(), PlanError> {
        for m in members.iter().chain([&self.root]) {
            if let Some((name, spec)) = m.declared().find(|(_, s)| s.starts_with("workspace:") || s.starts_with("catalog:")) {
                return Err(unusable(
                    &m.path(),
                    &format!("{name} is asked for as {spec:?}, and there is no lock file that says what that is"),
                    "Make one with the package manager of this repository, as `pnpm install`, and commit it",
                ));
            }
        }
        Ok(())
    }

    /// No dependency lies beside the app's folder.
    fn contained(&self, members: &[Manifest], lock: Option<&str>) -> Result<(), PlanError> {
        let outside = |file: &str, what: &str, name: &str| {
            unusable(
                file,
                &format!("{what}, which is not in the app's folder, and a slug holds only what lies in the folder given"),
                &format!(
                    "Bring up the folder above both, with a package.json there whose `workspaces` name them and a Procfile line such as \
                     `web: npm start -w {}`; or publish {name} to a registry",
                    self.source.folder.file_name().map_or_else(|| "APP".into(), |n| n.to_string_lossy())
                ),
            )
        };
        for m in members.iter().chain([&self.root]) {
            if let Some((name, spec)) = m.declared().find(|(_, spec)| leads_out(&m.folder, spec)) {
                return Err(outside(&m.path(), &format!("{name} is asked for as {spec:?}"), name));
            }
        }
        let Some(lock) = lock.filter(|l| l.ends_with(".json")) else { return Ok(()) };
        let json: Value = (self.read)(lock).and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default();
        let beside = json.get("packages").and_then(Value::as_object).into_iter().flat_map(|p| p.keys()).find(|p| p.starts_with("../"));
        beside.map_or(Ok(()), |path| Err(outside(lock, &format!("it has a package at {path}"), "that package")))
    }

    /// What decides the layer, what an installer needs as it is, and the variables that its settings name.
    fn files(&self, members: &[Manifest], lock: Option<&str>) -> (Vec<String>, Vec<String>, Vec<String>) {
        let local: Vec<String> = members
            .iter()
            .chain([&self.root])
            .flat_map(|m| m.declared().filter_map(|(_, spec)| local(&m.folder, spec)))
            .filter(|folder| !members.iter().any(|m| m.folder == *folder))
            .collect();
        let wanted = |path: &str| {
            let name = path.rsplit('/').next().unwrap_or(path);
            Some(path) == lock
                || name == ".npmrc"
                || SETTINGS.contains(&path)
                || FOLDERS.iter().any(|f| path.starts_with(f))
                || local.iter().any(|l| path == l || path.strip_prefix(l.as_str()).is_some_and(|rest| rest.starts_with('/')))
        };
        let files: Vec<String> = self.source.files.iter().map(|f| &f.path).filter(|p| wanted(p)).cloned().collect();
        let mut variables = BTreeSet::new();
        for file in files.iter().filter(|f| f.ends_with(".npmrc") || f.starts_with(".yarnrc")) {
            let text = (self.read)(file).unwrap_or_default();
            for part in text.split("${").skip(1) {
                variables.extend(part.split(['}', ':', '-', '?']).next().map(str::to_owned));
            }
        }
        (files.clone(), files, variables.into_iter().collect())
    }
}

/// The path of a dependency on a folder or an archive.
fn path(spec: &str) -> Option<&str> {
    const HEADS: [&str; 3] = ["file:", "link:", "portal:"];
    let named = HEADS.iter().find_map(|p| spec.strip_prefix(p)).map(|p| p.strip_prefix("//").unwrap_or(p));
    named.or_else(|| (spec.starts_with("./") || spec.starts_with("../")).then_some(spec))
}

/// Whether a dependency is on a folder or an archive that is not in the source.
fn leads_out(folder: &str, spec: &str) -> bool {
    path(spec).is_some_and(|p| p.starts_with(['/', '~']) || within(folder, p).is_none())
}

/// The place within the source that a dependency on a folder or an archive names.
fn local(folder: &str, spec: &str) -> Option<String> {
    within(folder, path(spec)?).filter(|p| !p.is_empty())
}

/// A path from a folder of the source as one from its root; `None` where it leads out.
fn within(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|p| !p.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Whether a command has this word, as `pnpm` in `pnpm -r build`.
fn names_word(command: &str, word: &str) -> bool {
    command.split(|c: char| !(c.is_ascii_alphanumeric() || "-_./@".contains(c))).any(|w| w == word)
}

/// Whether a script only checks who installs, or hooks into a repository, which is not there.
fn is_idle(script: &str) -> bool {
    const IDLE: [&str; 7] = ["only-allow", "husky", "simple-git-hooks", "lefthook", "is-ci", "true", "exit"];
    let commands = script.split(['&', '|', ';']).map(|c| c.split_whitespace().find(|w| *w != "npx" && !w.starts_with('-')));
    commands.flatten().all(|program| IDLE.contains(&program.split('@').next().unwrap_or(program)))
}

/// `package.json:12`, the line of a top key.
fn place(text: &str, key: &str) -> String {
    let quoted = format!("\"{key}\"");
    let line = text.lines().position(|l| l.trim_start().starts_with(&quoted)).map_or(1, |i| i + 1);
    format!("{KNOWN_BY}:{line}")
}
