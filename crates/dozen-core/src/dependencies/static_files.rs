//! The static pack: a folder of files with an `index.html`, which dozen's own binary serves. Also `static.json`, which says how.
//!
//! **Invariant:** it is the last pack: whatever declares dependencies or processes is asked first.

use super::{Plan, PlanError};
use crate::codebase::Source;
use crate::diagnostic::{Diagnostic, Severity};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;

/// The file that says how a site is served, as on Heroku.
pub const SETTINGS: &str = "static.json";

/// Where generators and people put a site, when its `index.html` does not lie at the root. Heroku's own name is the first.
const FOLDERS: [&str; 9] = ["public_html", "public", "dist", "build", "out", "_site", "site", "www", "docs"];

/// What tells an app of a language without a pack, whose pages are only a part of it.
const OTHERS: [&str; 14] = [
    "Cargo.toml",
    "Gemfile",
    "build.gradle",
    "build.gradle.kts",
    "composer.json",
    "deno.json",
    "go.mod",
    "gradlew",
    "index.php",
    "mix.exs",
    "pom.xml",
    "rebar.config",
    "setup.py",
    "Pipfile",
];

/// What Heroku's static server knows besides; each is said to be without effect.
const NOT_APPLIED: [&str; 7] = ["https_only", "basic_auth", "canonical_host", "proxies", "redirects", "logging", "worker_connections"];

/// What `static.json` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The folder to serve, relative.
    pub root: Option<String>,
    /// Whether `/about` is `about.html`.
    pub clean_urls: bool,
    /// Files for paths that are not there, by pattern, the first that matches: `/**` and `index.html`.
    pub routes: Vec<(String, String)>,
    /// The page of a 404, relative to the root.
    pub error_page: Option<String>,
    /// Headers by pattern; all that match are set, later ones winning.
    pub headers: Vec<(String, Vec<(String, String)>)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { root: None, clean_urls: true, routes: Vec::new(), error_page: None, headers: Vec::new() }
    }
}

/// A JSON object in its order.
struct Ordered<T>(Vec<(String, T)>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Collect<T> {
            type Value = Ordered<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<T>, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Ordered(all))
            }
        }
        deserializer.deserialize_map(Collect(std::marker::PhantomData))
    }
}

#[derive(serde::Deserialize)]
struct Wire {
    root: Option<String>,
    clean_urls: Option<bool>,
    #[serde(default)]
    routes: Ordered<String>,
    error_page: Option<String>,
    #[serde(default)]
    headers: Ordered<Ordered<String>>,
}

/// Reads `static.json`. What is understood and not applied, or not known, is a remark; what cannot be used is an error.
pub fn settings(text: &str) -> (Settings, Vec<Diagnostic>) {
    let refused = |e: &serde_json::Error| {
        let line: usize = text.split_inclusive('\n').take(e.line().saturating_sub(1)).map(str::len).sum();
        let at = text.floor_char_boundary((line + e.column().saturating_sub(1)).min(text.len()));
        let whole = e.to_string();
        let message = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(message, _)| message).to_owned();
        (Settings::default(), vec![Diagnostic::at(Severity::Error, text, at..at, message)])
    };
    let wire = match serde_json::from_str::<Wire>(text) {
        Ok(wire) => wire,
        Err(e) => return refused(&e),
    };
    let keys = match serde_json::from_str::<Ordered<IgnoredAny>>(text) {
        Ok(keys) => keys.0.into_iter().map(|(key, _)| key),
        Err(e) => return refused(&e),
    };
    let place = |word: &str| {
        let quoted = serde_json::to_string(word).unwrap_or_default();
        let start = text.find(&quoted).unwrap_or(0);
        start..start + quoted.len().min(text.len() - start)
    };
    let mut remarks = Vec::new();
    for key in keys.filter(|k| !matches!(k.as_str(), "root" | "clean_urls" | "routes" | "error_page" | "headers")) {
        let what = if NOT_APPLIED.contains(&key.as_str()) { "understood and not applied" } else { "not known and has no effect" };
        remarks.push(Diagnostic::at(Severity::Warning, text, place(&key), format!("{} is {what}", crate::diagnostic::excerpt(&key))));
    }
    let mut refuse = |word: &str, why: &str| {
        remarks.push(Diagnostic::at(Severity::Error, text, place(word), format!("`{}` {why}", crate::diagnostic::excerpt(word))));
    };
    let mut relative = |path: String| {
        let clean = clean(&path);
        if clean.is_none() {
            refuse(&path, "is not a path within the folder");
        }
        clean.unwrap_or_default()
    };
    let root = wire.root.map(&mut relative).map(|r| if r.is_empty() { ".".into() } else { r });
    let error_page = wire.error_page.map(&mut relative);
    let routes: Vec<(String, String)> = wire.routes.0.into_iter().map(|(pattern, to)| (pattern, relative(to))).collect();
    let headers: Vec<(String, Vec<(String, String)>)> = wire.headers.0.into_iter().map(|(p, h)| (p, h.0)).collect();
    for (name, value) in headers.iter().flat_map(|(_, h)| h) {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
            refuse(name, "is not the name of a header");
        }
        if !value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)) {
            refuse(value, "is not the value of a header");
        }
    }
    (Settings { root, clean_urls: wire.clean_urls.unwrap_or(true), routes, error_page, headers }, remarks)
}

/// A relative path without `.` and empty parts; `None` where it has `..` or a NUL.
fn clean(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    let bad = parts.iter().any(|p| *p == ".." || p.contains(['\0', '\\']));
    (!bad).then(|| parts.join("/"))
}

/// A plan for a source that is a site.
pub(super) fn plan(source: &Source, read: &dyn Fn(&str) -> Option<String>) -> Option<Result<Plan, PlanError>> {
    let mut notes = Vec::new();
    let mut declared = None;
    if let Some(text) = source.has(SETTINGS).then(|| read(SETTINGS)) {
        let file = |problem| PlanError::File { file: SETTINGS.into(), problem, cure: "Correct it".into() };
        let Some(text) = text else { return Some(Err(file("it is not UTF-8 text".into()))) };
        let (settings, remarks) = settings(&text);
        for remark in remarks {
            if remark.severity == Severity::Error {
                return Some(Err(file(remark.to_string())));
            }
            notes.push(format!("{SETTINGS}:{remark}"));
        }
        declared = Some(settings.root);
    }
    if declared.is_none() && OTHERS.iter().any(|f| source.has(f)) {
        return None;
    }
    let index = |folder: &str| if folder == "." { source.has("index.html") } else { source.has(&format!("{folder}/index.html")) };
    let folder = match declared.flatten() {
        Some(root) if root == "." || source.files.iter().any(|f| f.path.starts_with(&format!("{root}/"))) => root,
        Some(root) => {
            let problem = format!("its root {root} is no folder of the source");
            let cure = "Correct it; a folder that git ignores is no part of the source".into();
            return Some(Err(PlanError::File { file: SETTINGS.into(), problem, cure }));
        }
        None if index(".") => ".".into(),
        None => {
            let found: Vec<&str> = FOLDERS.into_iter().filter(|f| index(f)).collect();
            match found[..] {
                [] => return None,
                [one] => one.into(),
                _ => {
                    return Some(Err(PlanError::File {
                        file: format!("{}/index.html", found[0]),
                        problem: format!("there is an index.html in each of {}", found.join(", ")),
                        cure: format!("Say in a Procfile which one is the site: `web: dozen static {}`", found[0]),
                    }));
                }
            }
        }
    };
    Some(Ok(Plan {
        pack: "static",
        language: Some("Static site"),
        runtime: None,
        layer: None,
        steps: Vec::new(),
        env: Vec::new(),
        processes: vec![("web".parse().ok()?, format!("dozen static {}", word(&folder)))],
        console: None,
        scratch: Vec::new(),
        cure: String::new(),
        notes,
    }))
}

/// A word of a shell's command.
fn word(text: &str) -> String {
    let plain = !text.starts_with('-') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
    if plain { text.to_owned() } else { format!("'./{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codebase::{FileKind, SourceFile};

    fn web(files: &[(&str, &str)]) -> String {
        let mut all: Vec<SourceFile> =
            files.iter().map(|(p, t)| SourceFile { path: (*p).into(), kind: FileKind::Plain, size: t.len() as u64 }).collect();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        let source = Source { folder: "/x".into(), commit: None, files: all };
        match super::super::plan(&source, &|path| files.iter().find(|(p, _)| *p == path).map(|(_, t)| (*t).to_owned())) {
            Ok(plan) => {
                let types = plan.processes.iter().map(|(_, command)| command.clone()).chain(plan.notes).collect::<Vec<_>>();
                format!("{}: {}", plan.pack, types.join("; "))
            }
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn a_site_is_known_by_its_index() {
        assert_eq!(web(&[("index.html", ""), ("dist/index.html", "")]), "static: dozen static .");
        assert_eq!(web(&[("README.md", ""), ("dist/index.html", "")]), "static: dozen static dist");
        assert!(web(&[("dist/index.html", ""), ("docs/index.html", "")]).contains("`web: dozen static dist`"));
        assert!(web(&[("deep/er/index.html", ""), ("about.html", "")]).contains("no pack knows"));
        assert_eq!(web(&[("index.html", ""), ("Procfile", "web: ./x")]), "procfile: ");
        assert!(web(&[("index.html", ""), ("requirements.txt", "")]).starts_with("python"));
        assert!(web(&[("public/index.html", ""), ("go.mod", "")]).contains("no pack knows"));
        let json = |text| web(&[("static.json", text), ("my site/a.html", ""), ("-x/index.html", "")]);
        assert_eq!(json(r#"{"root": "my site/"}"#), "static: dozen static './my site'");
        assert_eq!(json(r#"{"root": "./-x"}"#), "static: dozen static './-x'");
        assert!(json(r#"{"root": "gone"}"#).contains("static.json cannot be used: its root gone is no folder of the source"));
        assert!(json(r#"{"root": "../x"}"#).contains("1:10: `../x` is not a path within the folder"));
        assert!(json("{\n  \"root\": 3}").contains("static.json cannot be used: 2:11: invalid type: integer `3`, expected a string"));
        assert!(json(r#"{"root": "-x", "https_only": true}"#).ends_with("static.json:1:16: https_only is understood and not applied"));
        // Without an index anywhere, settings alone make no site.
        assert!(web(&[("static.json", "{}"), ("a.html", "")]).contains("no pack knows"));
    }

    #[test]
    fn settings_are_read() {
        let text = r#"{"root": "/dist/", "clean_urls": false, "routes": {"/api/*": "api.html", "/**": "index.html"}, "error_page": "errors/404.html",
            "headers": {"/**": {"X-Frame-Options": "DENY"}}}"#;
        let (read, remarks) = settings(text);
        assert_eq!(remarks, []);
        assert_eq!((read.root.as_deref(), read.clean_urls, read.error_page.as_deref()), (Some("dist"), false, Some("errors/404.html")));
        assert_eq!(read.routes, [("/api/*".into(), "api.html".into()), ("/**".into(), "index.html".into())]);
        assert_eq!(read.headers, [("/**".into(), vec![("X-Frame-Options".into(), "DENY".into())])]);
        let messages = |text: &str| settings(text).1.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        assert!(messages(r#"{"headers": {"/": {"a b": "x"}}}"#).contains("`a b` is not the name of a header"));
        assert!(messages(r#"{"headers": {"/": {"a": "x\ny"}}}"#).contains("is not the value of a header"));
        assert!(messages(r#"{"rooot": "x"}"#).contains("1:2: rooot is not known"));
        assert!(messages("").contains("1:1: EOF"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[{}\":,a-z/.é\\n\\\\]{0,40}", key in "\\PC{0,9}") {
            settings(&text);
            settings(&format!("{{{}: {{}}, \"root\": {text:?}}}", serde_json::to_string(&key).expect("text")));
        }
    }
}
