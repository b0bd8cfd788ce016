//! The Python pack: what a Python app declares, and what is to be done about it.

use super::{Layer, Lock, Plan, PlanError, Runtime, Step, Tool, Versions};
use crate::codebase::Source;
use requirements::Requirements;
use std::collections::BTreeSet;
use toml::{Table, Value};
use version::Constraint;

pub mod requirements;
pub mod version;
mod web;

pub(super) use web::plain;

/// The files that a Python app is known by; the first that is there is used.
pub const KNOWN_BY: [&str; 5] = ["uv.lock", "poetry.lock", "Pipfile.lock", "requirements.txt", "pyproject.toml"];

/// A plan for a source that has one of [`KNOWN_BY`].
pub(super) fn plan(source: &Source, read: &dyn Fn(&str) -> Option<String>) -> Option<Result<Plan, PlanError>> {
    let present: Vec<&str> = KNOWN_BY.into_iter().filter(|f| source.has(f)).collect();
    let from = *present.first()?;
    Some(Pack { source, read }.plan(from, &present))
}

/// Whether one of [`KNOWN_BY`] declares something; a pyproject.toml may only configure tools.
pub(super) fn declares(source: &Source, read: &dyn Fn(&str) -> Option<String>) -> bool {
    let (last, locks) = KNOWN_BY.split_last().unwrap_or((&"", &[]));
    let project = || {
        let table = Pack { source, read }.toml(last);
        // One that cannot be read is an error of the Python pack's.
        table.map_or(true, |t| t.is_some_and(|(_, t)| t.contains_key("project") || get(&t, &["tool", "poetry"]).is_some()))
    };
    locks.iter().any(|f| source.has(f)) || project()
}

struct Pack<'a> {
    source: &'a Source,
    read: &'a dyn Fn(&str) -> Option<String>,
}

/// What a way of declaring dependencies comes to.
struct Declared {
    layer: Layer,
    steps: Vec<Step>,
    names: BTreeSet<String>,
    extras: BTreeSet<String>,
}

impl Pack<'_> {
    fn plan(&self, from: &str, present: &[&str]) -> Result<Plan, PlanError> {
        let mut notes = Vec::new();
        let rivals: Vec<&str> = present.iter().copied().filter(|f| *f != from && *f != "pyproject.toml").collect();
        if !rivals.is_empty() {
            notes.push(format!("{from} is used; {} is not", rivals.join(", ")));
        }
        if self.source.has(super::node::KNOWN_BY) {
            notes.push("package.json is not used: commit what its tools make, or make it before `dozen up`".into());
        }
        let runtime = self.runtime(&mut notes)?;
        let declared = match from {
            "uv.lock" => self.uv_lock()?,
            "poetry.lock" => self.poetry_lock()?,
            "Pipfile.lock" => self.pipfile_lock()?,
            "requirements.txt" => self.requirements()?,
            _ => self.pyproject()?,
        };
        let Declared { layer, mut steps, names, extras } = declared;
        let manage = self.source.shallowest("manage.py", 3);
        if let Some(manage) = &manage {
            steps.push(Step::CollectStatic { manage: manage.clone() });
        }
        let app = web::App { source: self.source, read: self.read, names: &names, extras: &extras, from, manage };
        let web::Served { types: processes, cure, note } = web::served(&app);
        if !self.source.has("Procfile") {
            notes.extend(note);
        }
        let env = [
            ("PATH", "{app}/.venv/bin:/usr/local/bin:/usr/bin:/bin"),
            ("VIRTUAL_ENV", "{app}/.venv"),
            // As on the platforms that these apps come from: a script in a subfolder finds the root's modules.
            ("PYTHONPATH", "{app}"),
            // A slug holds its bytecode already and is never written to.
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("LANG", "C.UTF-8"),
        ];
        let console = app.manage.as_deref().and_then(web::plain).map_or_else(|| "python".to_owned(), |m| format!("python {m} shell"));
        Ok(Plan {
            pack: "python",
            language: Some("Python"),
            runtime: Some(runtime),
            layer: Some(layer),
            steps,
            env: env.map(|(k, v)| (k.into(), v.into())).to_vec(),
            processes,
            console: Some(console),
            scratch: Vec::new(),
            cure,
            notes,
        })
    }

    /// By contract: `.python-version`, else `runtime.txt`, else `Pipfile.lock` or `pyproject.toml`.
    fn runtime(&self, notes: &mut Vec<String>) -> Result<Runtime, PlanError> {
        for file in [".python-version", "runtime.txt"] {
            let Some(text) = self.text(file)? else { continue };
            let mut lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.trim_start().starts_with('#'));
            let Some((number, line)) = lines.next() else { continue };
            if line.trim() == "system" {
                return Ok(Runtime { versions: Versions::Python(Constraint::Any), pinned: None });
            }
            if lines.next().is_some() {
                notes.push(format!("{file} names several versions; the first is used"));
            }
            let constraint = Constraint::pin(line).ok_or_else(|| PlanError::File {
                file: format!("{file}:{}", number + 1),
                problem: format!("{:?} is not a version of CPython", line.trim()),
                cure: "Write `3.12` or `3.12.1`, or name an interpreter with `--use-python`".into(),
            })?;
            return Ok(Runtime { versions: Versions::Python(constraint), pinned: Some(format!("{file}:{}", number + 1)) });
        }
        if let Some(text) = self.text("Pipfile.lock")? {
            let lock: serde_json::Value =
                serde_json::from_str(&text).map_err(|e| unusable("Pipfile.lock", e.to_string(), "pipenv lock"))?;
            let requires = &lock["_meta"]["requires"];
            let pin = ["python_full_version", "python_version"].iter().find_map(|k| requires[*k].as_str());
            if let Some(constraint) = pin.and_then(Constraint::pin) {
                return Ok(Runtime { versions: Versions::Python(constraint), pinned: Some(place("Pipfile.lock", &text, "\"python_")) });
            }
        }
        if let Some((text, toml)) = self.toml("pyproject.toml")? {
            let project = get(&toml, &["project", "requires-python"]).and_then(Value::as_str);
            let poetry = get(&toml, &["tool", "poetry", "dependencies", "python"]).and_then(Value::as_str);
            let declared = project.map(|c| (c, "requires-python")).or(poetry.map(|c| (c, "python")));
            if let Some((declared, key)) = declared {
                // `a || b` and the like are for the resolver, which checks them again.
                let Some(constraint) = Constraint::specifiers(declared) else {
                    return Ok(Runtime { versions: Versions::Python(Constraint::Any), pinned: None });
                };
                return Ok(Runtime { versions: Versions::Python(constraint), pinned: Some(place("pyproject.toml", &text, key)) });
            }
        }
        Ok(Runtime { versions: Versions::Python(Constraint::Any), pinned: None })
    }

    fn uv_lock(&self) -> Result<Declared, PlanError> {
        let (_, lock) = self.toml("uv.lock")?.ok_or_else(|| unusable("uv.lock", "it is not text".into(), "uv lock"))?;
        if !self.source.has("pyproject.toml") {
            return Err(unusable("uv.lock", "there is no pyproject.toml beside it".into(), "uv init"));
        }
        let packages = lock.get("package").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let name = |p: &Value| p.get("name").and_then(Value::as_str).map(requirements::normalise);
        let is_local = |p: &Value| p.get("source").is_some_and(|s| ["editable", "directory"].iter().any(|k| s.get(k).is_some()));
        let sync = ["sync", "--frozen", "--no-dev", "--no-editable"].map(str::to_owned).to_vec();
        let steps = if packages.iter().any(is_local) {
            let args = sync.iter().cloned().chain(["--inexact".into()]).collect();
            vec![Step::Project { args }]
        } else {
            Vec::new()
        };
        let mut key_files = vec!["uv.lock".to_owned()];
        key_files.extend(self.source.files.iter().map(|f| &f.path).filter(|p| p.rsplit('/').next() == Some("pyproject.toml")).cloned());
        Ok(Declared {
            layer: Layer {
                from: "uv.lock".into(),
                key_files,
                tool: Tool::Uv { lock: Lock::Own, install: sync.into_iter().chain(["--no-install-local".into()]).collect() },
            },
            steps,
            names: packages.iter().filter_map(name).collect(),
            extras: BTreeSet::new(),
        })
    }

    fn poetry_lock(&self) -> Result<Declared, PlanError> {
        let (_, lock) = self.toml("poetry.lock")?.ok_or_else(|| unusable("poetry.lock", "it is not text".into(), "poetry lock"))?;
        let Some((_, project)) = self.toml("pyproject.toml")? else {
            return Err(unusable("poetry.lock", "there is no pyproject.toml beside it".into(), "poetry init"));
        };
        let packages = lock.get("package").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let names = packages.iter().filter_map(|p| p.get("name").and_then(Value::as_str).map(requirements::normalise)).collect();
        // poetry installs the app itself as a package where it is one; many apps are none and only say so by having no such folder.
        let poetry = get(&project, &["tool", "poetry"]);
        let wanted = poetry.and_then(|p| p.get("package-mode")).and_then(Value::as_bool).unwrap_or(true);
        let called = poetry.and_then(|p| p.get("name")).or_else(|| get(&project, &["project", "name"])).and_then(Value::as_str);
        let folder = called.map(|n| requirements::normalise(n).replace('-', "_"));
        let declared = poetry.is_some_and(|p| p.get("packages").is_some());
        let there = folder.is_some_and(|f| self.source.has_folder(&f) || self.source.has_folder(&format!("src/{f}")));
        let steps = if wanted && project.contains_key("build-system") && (declared || there) {
            vec![Step::Project { args: install_local(&[".".into()]) }]
        } else {
            Vec::new()
        };
        Ok(Declared {
            layer: Layer {
                from: "poetry.lock".into(),
                key_files: vec!["poetry.lock".into(), "pyproject.toml".into()],
                tool: Tool::Uv { lock: Lock::Poetry, install: install_list() },
            },
            steps,
            names,
            extras: BTreeSet::new(),
        })
    }

    fn pipfile_lock(&self) -> Result<Declared, PlanError> {
        let text = self.text("Pipfile.lock")?.unwrap_or_default();
        let lock: serde_json::Value = serde_json::from_str(&text).map_err(|e| unusable("Pipfile.lock", e.to_string(), "pipenv lock"))?;
        let mut list = String::new();
        for index in lock["_meta"]["sources"].as_array().map(Vec::as_slice).unwrap_or_default() {
            // The public index is the default anyway, and whoever names a mirror of it in the environment means this one. A source with
            // `${NAME}` in it is meant for pipenv's shell; uv reads its own variables instead.
            let usable = |u: &&str| index["name"] != "pypi" && !u.contains('$') && !u.contains(char::is_whitespace);
            if let Some(url) = index["url"].as_str().filter(usable) {
                let option = if list.is_empty() { "--index-url" } else { "--extra-index-url" };
                list.push_str(&format!("{option} {url}\n"));
            }
        }
        let mut names = BTreeSet::new();
        let mut local = Vec::new();
        for (name, entry) in lock["default"].as_object().into_iter().flatten() {
            names.insert(requirements::normalise(name));
            let line = pipfile_entry(name, entry);
            match (line, entry["path"].as_str()) {
                (Some(line), _) => list.push_str(&line),
                (None, Some(path)) => {
                    let outside = || unusable("Pipfile.lock", format!("{name} lies at {path}, outside the app's folder"), "pipenv lock");
                    local.push(requirements::join("", path).ok_or_else(outside)?);
                }
                (None, None) => {
                    return Err(unusable("Pipfile.lock", format!("the entry of {name} has neither version nor source"), "pipenv lock"));
                }
            }
        }
        Ok(Declared {
            layer: Layer {
                from: "Pipfile.lock".into(),
                key_files: Vec::new(),
                tool: Tool::Uv { lock: Lock::Made(list), install: install_list() },
            },
            steps: project(&local),
            names,
            extras: BTreeSet::new(),
        })
    }

    fn requirements(&self) -> Result<Declared, PlanError> {
        let file = "requirements.txt";
        if self.text(file)?.is_none() {
            return Err(PlanError::File {
                file: file.into(),
                problem: "it is not UTF-8 text".into(),
                cure: "Save it again as UTF-8".into(),
            });
        }
        let read = requirements::read(file, self.read).map_err(|u| PlanError::File {
            file: u.file,
            problem: u.problem,
            cure: "Correct that line or add the file".into(),
        })?;
        let Requirements { files, names, pinned, hashed, extras, local } = read;
        let mut key_files = files;
        for folder in &local {
            let prefix = if folder == "." { String::new() } else { format!("{folder}/") };
            key_files.extend(
                ["pyproject.toml", "setup.py", "setup.cfg"].map(|f| format!("{prefix}{f}")).into_iter().filter(|f| self.source.has(f)),
            );
        }
        let (lock, install) = if hashed {
            (Lock::Own, ["pip", "install", "--no-deps", "--require-hashes", "-r", "requirements.txt"].map(str::to_owned).to_vec())
        } else {
            let lock = Lock::Resolved {
                input: file.into(),
                pinned: pinned.into_iter().collect(),
                advice: "uv pip compile --generate-hashes requirements.in -o requirements.txt".into(),
            };
            (lock, install_list())
        };
        Ok(Declared {
            layer: Layer { from: file.into(), key_files, tool: Tool::Uv { lock, install } },
            steps: project(&local),
            names,
            extras,
        })
    }

    fn pyproject(&self) -> Result<Declared, PlanError> {
        let file = "pyproject.toml";
        let (_, toml) = self.toml(file)?.unwrap_or_default();
        let mut names = BTreeSet::new();
        let mut extras = BTreeSet::new();
        for requirement in
            get(&toml, &["project", "dependencies"]).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
        {
            if let Some(name) = requirements::name(requirement) {
                if let Some((_, list)) = requirement.split_once('[') {
                    let list = list.split(']').next().unwrap_or_default();
                    extras.extend(list.split(',').map(|e| format!("{name}[{}]", e.trim())));
                }
                names.insert(name);
            }
        }
        if let Some(table) = get(&toml, &["tool", "poetry", "dependencies"]).and_then(Value::as_table) {
            names.extend(table.keys().filter(|k| *k != "python").map(|k| requirements::normalise(k)));
        }
        let is_project = toml.contains_key("project") || get(&toml, &["tool", "poetry"]).is_some();
        let package = toml.contains_key("build-system") && is_project;
        let lock = if is_project {
            Lock::Resolved { input: file.into(), pinned: Vec::new(), advice: "uv lock".into() }
        } else {
            // Only tools are configured there; there is nothing to install.
            Lock::Made(String::new())
        };
        Ok(Declared {
            layer: Layer { from: file.into(), key_files: vec![file.into()], tool: Tool::Uv { lock, install: install_list() } },
            steps: if package { project(&[".".into()]) } else { Vec::new() },
            names,
            extras,
        })
    }

    /// The text of a file of the source; an error where it is there and not text.
    fn text(&self, file: &str) -> Result<Option<String>, PlanError> {
        if !self.source.has(file) {
            return Ok(None);
        }
        (self.read)(file).map(Some).ok_or_else(|| PlanError::File {
            file: file.into(),
            problem: "it is too large or not UTF-8 text".into(),
            cure: "Save it again as UTF-8".into(),
        })
    }

    fn toml(&self, file: &str) -> Result<Option<(String, Table)>, PlanError> {
        let Some(text) = self.text(file)? else { return Ok(None) };
        match text.parse::<Table>() {
            Ok(table) => Ok(Some((text, table))),
            Err(e) => {
                let line = e.span().map_or(1, |s| text[..text.floor_char_boundary(s.start)].matches('\n').count() + 1);
                Err(PlanError::File {
                    file: format!("{file}:{line}"),
                    problem: e.message().to_owned(),
                    cure: "Correct that line; it is no TOML".into(),
                })
            }
        }
    }
}

/// Arguments that install a complete list.
fn install_list() -> Vec<String> {
    ["pip", "install", "--no-deps", "-r", "{lock}"].map(str::to_owned).to_vec()
}

fn project(folders: &[String]) -> Vec<Step> {
    if folders.is_empty() { Vec::new() } else { vec![Step::Project { args: install_local(folders) }] }
}

/// Arguments that install folders of the source. Their dependencies are in the layer.
fn install_local(folders: &[String]) -> Vec<String> {
    let folders = folders.iter().map(|f| if f == "." { "{source}".to_owned() } else { format!("{{source}}/{f}") });
    ["pip", "install", "--no-deps"].map(str::to_owned).into_iter().chain(folders).collect()
}

/// One entry of `Pipfile.lock` as a line of a requirements file; `None` for a folder or what has no source.
fn pipfile_entry(name: &str, entry: &serde_json::Value) -> Option<String> {
    let extras: Vec<&str> = entry["extras"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str).collect();
    let extras = if extras.is_empty() { String::new() } else { format!("[{}]", extras.join(",")) };
    let target = if let Some(version) = entry["version"].as_str() {
        format!("{name}{extras}{version}")
    } else if let (Some(git), Some(commit)) = (entry["git"].as_str(), entry["ref"].as_str()) {
        let scheme = if git.starts_with("git+") { "" } else { "git+" };
        let folder = entry["subdirectory"].as_str().map(|s| format!("#subdirectory={s}")).unwrap_or_default();
        format!("{name}{extras} @ {scheme}{git}@{commit}{folder}")
    } else {
        format!("{name}{extras} @ {}", entry["file"].as_str()?)
    };
    let marker = entry["markers"].as_str().map(|m| format!(" ; {m}")).unwrap_or_default();
    let hashes: String =
        entry["hashes"].as_array().into_iter().flatten().filter_map(|h| h.as_str()).map(|h| format!(" --hash={h}")).collect();
    // A line of the lock that holds a line break would smuggle in options.
    let line = format!("{target}{marker}{hashes}").replace(['\n', '\r'], " ");
    Some(line + "\n")
}

fn unusable(file: &str, problem: String, command: &str) -> PlanError {
    PlanError::File { file: file.into(), problem, cure: format!("Make it anew with `{command}`") }
}

fn get<'t>(table: &'t Table, path: &[&str]) -> Option<&'t Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |value, key| value.get(key))
}

/// `file:line` of the first line that starts with `key`, blanks aside.
fn place(file: &str, text: &str, key: &str) -> String {
    let line = text.lines().position(|l| l.trim_start().starts_with(key)).map_or(1, |i| i + 1);
    format!("{file}:{line}")
}

impl Source {
    /// Whether any file lies in this folder.
    fn has_folder(&self, folder: &str) -> bool {
        let prefix = format!("{folder}/");
        let at = self.files.partition_point(|f| f.path.as_str() < prefix.as_str());
        self.files.get(at).is_some_and(|f| f.path.starts_with(&prefix))
    }

    /// The path of a file of this name that lies least deep, at most `depth` folders down.
    fn shallowest(&self, name: &str, depth: usize) -> Option<String> {
        let named = self.files.iter().map(|f| f.path.as_str()).filter(|p| p.rsplit('/').next() == Some(name));
        let deep = |p: &str| p.matches('/').count();
        named.filter(|p| deep(p) < depth).min_by_key(|p| (deep(p), *p)).map(str::to_owned)
    }
}
