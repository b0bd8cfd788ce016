//! package.json, and the packages of a workspace.

use crate::codebase::Source;
use crate::dependencies::PlanError;
use saphyr::{LoadableYamlNode, Yaml};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// What of a package.json decides what is installed; scripts are run by dozen, when the source is there.
const KEPT: [&str; 22] = [
    "name",
    "version",
    "private",
    "type",
    "bin",
    "directories",
    "dependencies",
    "devDependencies",
    "optionalDependencies",
    "peerDependencies",
    "peerDependenciesMeta",
    "dependenciesMeta",
    "bundleDependencies",
    "bundledDependencies",
    "workspaces",
    "overrides",
    "resolutions",
    "pnpm",
    "packageManager",
    "engines",
    "installConfig",
    "os",
];
/// The tables of what is needed to run.
const NEEDED: [&str; 2] = ["dependencies", "optionalDependencies"];

/// One package.json.
#[derive(Debug, Clone)]
pub(super) struct Manifest {
    /// The folder it lies in; empty for the root.
    pub(super) folder: String,
    pub(super) json: Map<String, Value>,
}

impl Manifest {
    /// Reads the one in a folder; `None` where there is none.
    pub(super) fn read(source: &Source, read: &dyn Fn(&str) -> Option<String>, folder: &str) -> Result<Option<Self>, PlanError> {
        let path = join(folder, "package.json");
        if !source.has(&path) {
            return Ok(None);
        }
        let unusable =
            |problem: String| PlanError::File { file: path.clone(), problem, cure: "Correct it; npm cannot read it either".into() };
        let text = read(&path).ok_or_else(|| unusable("it is too large or not UTF-8 text".into()))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        match serde_json::from_str(text) {
            Ok(Value::Object(json)) => match mistyped(&json) {
                Some((key, problem)) => Err(PlanError::File {
                    file: path.clone(),
                    problem: format!("its {key} {problem}"),
                    cure: format!("Correct {key}, as it is in what `npm init` makes, and run the command again"),
                }),
                None => Ok(Some(Self { folder: folder.into(), json })),
            },
            Ok(_) => Err(unusable("it is no JSON object".into())),
            Err(e) => Err(unusable(e.to_string())),
        }
    }

    pub(super) fn path(&self) -> String {
        join(&self.folder, "package.json")
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.text("name")
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.json.get(key)?.as_str()
    }

    /// `engines.node`, by its two keys.
    pub(super) fn within(&self, table: &str, key: &str) -> Option<&str> {
        self.json.get(table)?.get(key)?.as_str()
    }

    /// A version, of which `18` may be written as a number.
    pub(super) fn version(&self, table: &str, key: &str) -> Option<String> {
        match self.json.get(table)?.get(key)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// A script that is not empty.
    pub(super) fn script(&self, name: &str) -> Option<&str> {
        self.within("scripts", name).map(str::trim).filter(|s| !s.is_empty())
    }

    /// Every script.
    pub(super) fn scripts(&self) -> impl Iterator<Item = &str> {
        self.json.get("scripts").and_then(Value::as_object).into_iter().flat_map(|s| s.values().filter_map(Value::as_str))
    }

    fn table(&self, key: &str) -> impl Iterator<Item = (&str, &str)> {
        let entries = self.json.get(key).and_then(Value::as_object).into_iter().flatten();
        entries.map(|(name, spec)| (name.as_str(), spec.as_str().unwrap_or_default()))
    }

    /// Name and version of everything that it declares.
    pub(super) fn declared(&self) -> impl Iterator<Item = (&str, &str)> {
        NEEDED.iter().chain(&["devDependencies"]).flat_map(|t| self.table(t))
    }

    /// Whether it is among the dependencies, for development or not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.declared().any(|(n, _)| n == name)
    }

    /// Whether it is needed to run.
    pub(super) fn needs(&self, name: &str) -> bool {
        NEEDED.iter().flat_map(|t| self.table(t)).any(|(n, _)| n == name)
    }

    /// The files that `bin` names, within the app.
    pub(super) fn programs(&self) -> Vec<String> {
        let named: Vec<&str> = match self.json.get("bin") {
            Some(Value::String(path)) => vec![path],
            Some(Value::Object(paths)) => paths.values().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let plain = named.into_iter().filter(|path| !path.starts_with('/') && path.split('/').all(|part| part != ".."));
        plain.map(|path| join(&self.folder, path.trim_start_matches("./"))).collect()
    }

    /// Whether something is only for development.
    pub(super) fn develops(&self) -> bool {
        self.table("devDependencies").any(|(n, _)| !self.needs(n))
    }

    /// Without what does not decide what is installed.
    pub(super) fn reduced(&self) -> String {
        let kept: Map<String, Value> =
            self.json.iter().filter(|(k, _)| KEPT.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect();
        serde_json::to_string_pretty(&kept).unwrap_or_default()
    }

    /// The patterns of the workspace's folders.
    fn patterns(&self, source: &Source, read: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>, PlanError> {
        let file = "pnpm-workspace.yaml";
        if source.has(file) {
            let text = read(file).unwrap_or_default();
            let bad = |e: String| PlanError::File { file: file.into(), problem: e, cure: "Correct it; it is no YAML".into() };
            let docs = Yaml::load_from_str(&text).map_err(|e| bad(e.to_string()))?;
            let list = docs.first().and_then(|d| d.as_mapping_get("packages")).and_then(Yaml::as_vec);
            return Ok(list.into_iter().flatten().filter_map(|p| p.as_str().map(str::to_owned)).collect());
        }
        let listed = self.json.get("workspaces");
        let listed = listed.and_then(|w| w.as_array().or_else(|| w.get("packages")?.as_array()));
        Ok(listed.into_iter().flatten().filter_map(|p| p.as_str().map(str::to_owned)).collect())
    }

    /// The packages of its workspace, those that others depend on first.
    pub(super) fn members(&self, source: &Source, read: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Self>, PlanError> {
        let patterns = self.patterns(source, read)?;
        let clean = |p: &str| p.trim_start_matches("./").trim_end_matches('/').to_owned();
        let (not, yes): (Vec<String>, Vec<String>) = patterns.iter().map(|p| clean(p)).partition(|p| p.starts_with('!'));
        let mut members = Vec::new();
        for folder in source.files.iter().filter_map(|f| f.path.strip_suffix("/package.json")) {
            let within = |p: &str| matches(p, folder);
            let wanted = yes.iter().any(|p| within(p)) && !not.iter().any(|p| within(&clean(&p[1..])));
            if wanted && !folder.split('/').any(|part| part == "node_modules") {
                members.extend(Self::read(source, read, folder)?);
            }
        }
        Ok(ordered(members))
    }
}

/// A key whose value is of another type than all package managers take.
fn mistyped(json: &Map<String, Value>) -> Option<(String, String)> {
    let kind = |v: &Value| match v {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    };
    // An empty list is what some programs write for an empty table.
    let is_empty = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty);
    for key in ["scripts", "dependencies", "devDependencies", "optionalDependencies", "engines"] {
        let Some(value) = json.get(key).filter(|v| !is_empty(v)) else { continue };
        let Some(table) = value.as_object() else {
            return Some((key.into(), format!("is {}, and should be a table of names and values", kind(value))));
        };
        if let Some((name, value)) = table.iter().find(|(_, v)| !(v.is_string() || v.is_null() || key == "engines" && v.is_number())) {
            return Some((format!("{key}.{name}"), format!("is {}, and should be text", kind(value))));
        }
    }
    for key in ["name", "version", "packageManager"] {
        if let Some(value) = json.get(key).filter(|v| !v.is_string() && !v.is_null()) {
            return Some((key.into(), format!("is {}, and should be text", kind(value))));
        }
    }
    let workspaces = json.get("workspaces").filter(|w| !w.is_array() && !w.is_object() && !w.is_null())?;
    Some(("workspaces".into(), format!("is {}, and should be a list of folders", kind(workspaces))))
}

/// Those that others depend on first; what depends on itself comes as it comes.
fn ordered(members: Vec<Manifest>) -> Vec<Manifest> {
    let mut left: Vec<Manifest> = members;
    let mut out: Vec<Manifest> = Vec::new();
    while !left.is_empty() {
        let names: BTreeSet<String> = left.iter().filter_map(|m| m.name().map(str::to_owned)).collect();
        let free = |m: &Manifest| !m.declared().any(|(n, _)| names.contains(n) && m.name() != Some(n));
        let next = left.iter().position(free).unwrap_or(0);
        out.push(left.remove(next));
    }
    out
}

/// Whether a pattern of folders, with `*` and `**`, means this one.
fn matches(pattern: &str, folder: &str) -> bool {
    fn parts(pattern: &[&str], folder: &[&str]) -> bool {
        match (pattern.split_first(), folder.split_first()) {
            (None, None) => true,
            (Some((&"**", rest)), _) if parts(rest, folder) => true,
            (Some((&"**", _)), Some((_, deeper))) => parts(pattern, deeper),
            (Some((p, rest)), Some((f, deeper))) => part(p, f) && parts(rest, deeper),
            _ => false,
        }
    }
    fn part(pattern: &str, name: &str) -> bool {
        match pattern.split_once('*') {
            None => pattern == name,
            Some((head, tail)) => name
                .strip_prefix(head)
                .is_some_and(|rest| rest.char_indices().map(|(i, _)| i).chain([rest.len()]).any(|i| part(tail, &rest[i..]))),
        }
    }
    parts(&pattern.split('/').collect::<Vec<_>>(), &folder.split('/').collect::<Vec<_>>())
}

pub(super) fn join(folder: &str, file: &str) -> String {
    if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_folders() {
        for (pattern, folder, want) in [
            ("apps/*", "apps/web", true),
            ("apps/*", "apps/web/deep", false),
            ("packages/**", "packages/a/b", true),
            ("**", "x", true),
            ("libs/lib-*", "libs/lib-a", true),
            ("libs/lib-*", "libs/other", false),
            ("tool", "tool", true),
            ("tool", "tools", false),
        ] {
            assert_eq!(matches(pattern, folder), want, "{pattern} {folder}");
        }
    }
}
