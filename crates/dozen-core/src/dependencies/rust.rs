//! The Rust pack: the programs of a package or a workspace, compiled into `bin/`.

use super::node::range::Range;
use super::{Language, Plan, PlanError, Run, Runtime, Step, Versions};
use crate::codebase::Source;
use crate::ids::TypeName;
use std::collections::BTreeSet;
use toml::{Table, Value};

/// The file that a Rust app is known by.
pub const KNOWN_BY: &str = "Cargo.toml";

/// How cargo reaches registries. Tokens of registries have names that nobody knows before: they come from the config by their head.
const PASSED: [&str; 5] =
    ["CARGO_HTTP_CAINFO", "CARGO_HTTP_PROXY", "CARGO_NET_GIT_FETCH_WITH_CLI", "CARGO_NET_OFFLINE", "CARGO_REGISTRIES_*"];

/// A plan for a source whose Cargo.toml comes to a program. A library is no app.
pub(super) fn plan(source: &Source, read: &dyn Fn(&str) -> Option<String>) -> Option<Result<Plan, PlanError>> {
    let pack = Pack { source, read };
    let root = match pack.manifest("") {
        Ok(root) => root?,
        Err(e) => return Some(Err(e)),
    };
    pack.plan(&root).transpose()
}

struct Pack<'a> {
    source: &'a Source,
    read: &'a dyn Fn(&str) -> Option<String>,
}

fn unusable(file: &str, problem: &str, cure: &str) -> PlanError {
    PlanError::File { file: file.to_owned(), problem: problem.to_owned(), cure: cure.to_owned() }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Pack<'_> {
    fn plan(&self, root: &Table) -> Result<Option<Plan>, PlanError> {
        let mut programs = BTreeSet::new();
        let mut named = BTreeSet::new();
        for folder in self.built(root) {
            let Some(manifest) = self.manifest(&folder)? else { continue };
            programs.extend(self.programs(&folder, &manifest));
            let package = manifest.get("package").and_then(Value::as_table);
            named.extend(package.and_then(|p| p.get("default-run")).and_then(Value::as_str).map(str::to_owned));
        }
        if programs.is_empty() {
            return Ok(None);
        }
        if !self.source.has("Cargo.lock") {
            let cure = "Make it with `cargo generate-lockfile` and commit it";
            return Err(unusable(KNOWN_BY, "there is no Cargo.lock beside it, which says what is built", cure));
        }
        let own = root.get("package").and_then(|p| p.get("name")).and_then(Value::as_str);
        let web = match (programs.len(), named.len()) {
            (1, _) => programs.first(),
            (_, 1) => named.first().filter(|n| programs.contains(*n)),
            _ => own.into_iter().chain(["web", "server"]).find_map(|name| programs.get(name)),
        };
        let processes = web.and_then(|web| Some((TypeName::WEB.parse().ok()?, format!("bin/{web}"))));
        let lines: Vec<String> = programs.iter().map(|n| format!("`web: bin/{n}`")).collect();
        let run = Run {
            shown: "cargo build --release --locked".into(),
            argv: ["{program}", "build", "--release", "--locked", "--bins"].map(str::to_owned).to_vec(),
            env: [("CARGO_HOME", "{keep}/home"), ("CARGO_TARGET_DIR", "{keep}/target"), ("CARGO_TERM_PROGRESS_WHEN", "never")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .to_vec(),
            passed: &PASSED,
            apart: true,
            makes: programs.iter().map(|name| (format!("target/release/{name}"), format!("bin/{name}"))).collect(),
            ..Run::default()
        };
        Ok(Some(Plan {
            pack: "rust",
            language: Some("Rust"),
            runtime: Some(self.runtime(root)?),
            layer: None,
            steps: vec![Step::Run(run)],
            env: vec![("PATH".into(), "{app}/bin:/usr/local/bin:/usr/bin:/bin".into())],
            processes: processes.into_iter().collect(),
            console: None,
            scratch: Vec::new(),
            cure: format!("Add a Procfile with one of these lines: {}; it must listen on $PORT", lines.join(", ")),
            notes: Vec::new(),
        }))
    }

    /// The folders of the packages that `cargo build` builds at the root.
    fn built(&self, root: &Table) -> Vec<String> {
        let workspace = root.get("workspace").and_then(Value::as_table);
        let default = strings(workspace.and_then(|w| w.get("default-members")));
        if !default.is_empty() {
            return default.iter().flat_map(|m| self.folders(m)).collect();
        }
        if root.contains_key("package") {
            return vec![String::new()];
        }
        let excluded = strings(workspace.and_then(|w| w.get("exclude")));
        let all = strings(workspace.and_then(|w| w.get("members")));
        all.iter().flat_map(|m| self.folders(m)).filter(|folder| !excluded.contains(folder)).collect()
    }

    /// The folders with a manifest that a member's pattern names: `crates/*`.
    fn folders(&self, pattern: &str) -> Vec<String> {
        let pattern: Vec<&str> = pattern.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
        let fits = |folder: &str| {
            let parts: Vec<&str> = folder.split('/').filter(|p| !p.is_empty()).collect();
            parts.len() == pattern.len() && parts.iter().zip(&pattern).all(|(part, want)| fits(part, want))
        };
        let manifests = self.source.files.iter().filter_map(|f| f.path.strip_suffix(KNOWN_BY));
        manifests.map(|f| f.trim_end_matches('/')).filter(|f| fits(f)).map(str::to_owned).collect()
    }

    /// The programs of a package that need no feature beyond the usual ones.
    fn programs(&self, folder: &str, manifest: &Table) -> BTreeSet<String> {
        let Some(package) = manifest.get("package").and_then(Value::as_table) else { return BTreeSet::new() };
        let within = |path: &str| if folder.is_empty() { path.to_owned() } else { format!("{folder}/{path}") };
        let mut found = BTreeSet::new();
        if package.get("autobins").and_then(Value::as_bool) != Some(false) {
            let name = package.get("name").and_then(Value::as_str);
            found.extend(name.filter(|_| self.source.has(&within("src/main.rs"))).map(str::to_owned));
            let head = within("src/bin/");
            for rest in self.source.files.iter().filter_map(|f| f.path.strip_prefix(&head)) {
                let name = rest.strip_suffix("/main.rs").or_else(|| rest.strip_suffix(".rs"));
                found.extend(name.filter(|n| !n.contains('/')).map(str::to_owned));
            }
        }
        for declared in manifest.get("bin").and_then(Value::as_array).into_iter().flatten() {
            let Some(name) = declared.get("name").and_then(Value::as_str) else { continue };
            // One with a path of its own takes the place of what would be found there.
            if let Some(path) = declared.get("path").and_then(Value::as_str) {
                let stem = path.rsplit('/').next().and_then(|f| f.strip_suffix(".rs")).unwrap_or_default();
                let usual = if path == "src/main.rs" { package.get("name").and_then(Value::as_str).unwrap_or_default() } else { stem };
                found.remove(usual);
            }
            if strings(declared.get("required-features")).is_empty() {
                found.insert(name.to_owned());
            } else {
                found.remove(name);
            }
        }
        found.retain(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)));
        found
    }

    /// What a toolchain file names, else the oldest that the package says will do.
    fn runtime(&self, root: &Table) -> Result<Runtime, PlanError> {
        const CURE: &str = "Name a release there, as `1.85`, or `stable`";
        let any = || Runtime { versions: Versions::Range(Language::Rust, Range::any()), pinned: None };
        for file in ["rust-toolchain.toml", "rust-toolchain"] {
            let Some(text) = (self.read)(file).filter(|_| self.source.has(file)) else { continue };
            let channel = match text.parse::<Table>() {
                Ok(table) => table.get("toolchain").and_then(|t| t.get("channel")).and_then(Value::as_str).map(str::to_owned),
                Err(_) => text.lines().map(str::trim).find(|l| !l.is_empty()).map(str::to_owned),
            };
            let Some(channel) = channel else { continue };
            // `1.85-x86_64-unknown-linux-gnu` names the machine too.
            let release = channel.split('-').next().unwrap_or_default();
            if release == "stable" {
                return Ok(any());
            }
            let numbers = release.starts_with(|c: char| c.is_ascii_digit());
            let range = Range::parse(release).filter(|_| numbers);
            let line = text.lines().position(|l| l.contains(&channel)).map_or(1, |i| i + 1);
            let place = format!("{file}:{line}");
            let range =
                range.ok_or_else(|| unusable(&place, &format!("apps are built with releases of Rust, and {channel:?} is none"), CURE))?;
            return Ok(Runtime { versions: Versions::Range(Language::Rust, range), pinned: Some(place) });
        }
        let own = root.get("package").and_then(|p| p.get("rust-version"));
        let shared = root.get("workspace").and_then(|w| w.get("package")).and_then(|p| p.get("rust-version"));
        let Some(oldest) = own.and_then(Value::as_str).or_else(|| shared.and_then(Value::as_str)) else { return Ok(any()) };
        let text = (self.read)(KNOWN_BY).unwrap_or_default();
        let line = text.lines().position(|l| l.trim_start().starts_with("rust-version")).map_or(1, |i| i + 1);
        let place = format!("{KNOWN_BY}:{line}");
        let range = Range::parse(&format!(">={oldest}"))
            .ok_or_else(|| unusable(&place, &format!("{oldest:?} is no version of Rust"), "Write `rust-version = \"1.85\"`"))?;
        Ok(Runtime { versions: Versions::Range(Language::Rust, range), pinned: Some(place) })
    }

    fn manifest(&self, folder: &str) -> Result<Option<Table>, PlanError> {
        let file = if folder.is_empty() { KNOWN_BY.to_owned() } else { format!("{folder}/{KNOWN_BY}") };
        let Some(text) = (self.read)(&file).filter(|_| self.source.has(&file)) else { return Ok(None) };
        text.parse::<Table>().map(Some).map_err(|e| {
            let line = e.span().map_or(1, |s| text[..text.floor_char_boundary(s.start)].matches('\n').count() + 1);
            unusable(&format!("{file}:{line}"), e.message(), "Correct that line; it is no TOML")
        })
    }
}

/// Whether a name fits a pattern with at most one `*`.
fn fits(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        Some((head, tail)) => name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail),
        None => name == pattern,
    }
}
