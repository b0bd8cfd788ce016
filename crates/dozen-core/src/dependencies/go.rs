//! The Go pack: the main packages of a module, compiled into `bin/`.

use super::node::range::Range;
use super::{Language, Plan, PlanError, Run, Runtime, Step, Versions};
use crate::codebase::Source;
use crate::ids::TypeName;
use std::collections::BTreeMap;

mod constraint;

/// The file that a Go app is known by.
pub const KNOWN_BY: &str = "go.mod";

/// Where modules come from, and by whose leave.
const PASSED: [&str; 8] = ["GOPROXY", "GOPRIVATE", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOINSECURE", "GOVCS", "GOAUTH"];

/// A plan for a source whose go.mod has a main package beside or below it. Without one there is nothing to start.
pub(super) fn plan(source: &Source, read: &dyn Fn(&str) -> Option<String>) -> Option<Result<Plan, PlanError>> {
    let text = read(KNOWN_BY).filter(|_| source.has(KNOWN_BY))?;
    let mains = mains(source, read);
    (!mains.is_empty()).then(|| Module::parse(&text)?.plan(source, mains))
}

/// What go.mod says.
#[derive(Debug, Default)]
struct Module {
    name: String,
    /// The version of the language, and its line.
    language: Option<(Range, usize)>,
    /// Heroku's `// +heroku install ./cmd/...`.
    install: Vec<String>,
}

fn unusable(place: &str, problem: String, cure: &str) -> PlanError {
    PlanError::File { file: place.to_owned(), problem, cure: cure.to_owned() }
}

impl Module {
    fn parse(text: &str) -> Result<Self, PlanError> {
        let mut module = Self::default();
        let mut named = None;
        for (number, line) in text.lines().enumerate() {
            let (code, comment) = line.split_once("//").unwrap_or((line, ""));
            let mut words = code.split_whitespace();
            let mut wanted = None;
            match (words.next(), words.next()) {
                (Some("module"), Some(name)) => name.trim_matches(['"', '`']).clone_into(&mut module.name),
                (Some("go"), Some(version)) => wanted = Some((version, false)),
                _ => {}
            }
            let mut words = comment.split_whitespace();
            match (words.next(), words.next()) {
                (Some("+heroku"), Some("install")) => module.install.extend(words.map(str::to_owned)),
                (Some("+heroku"), Some("goVersion")) => wanted = words.next().map(|v| (v, true)),
                _ => {}
            }
            if let Some((version, exact)) = wanted {
                let range = range(version, exact).ok_or_else(|| {
                    unusable(&format!("{KNOWN_BY}:{}", number + 1), format!("{version:?} is no version of Go"), "Write `go 1.22`")
                })?;
                if exact { named = Some((range, number + 1)) } else { module.language = Some((range, number + 1)) }
            }
        }
        module.language = named.or(module.language);
        if module.name.is_empty() {
            return Err(unusable(KNOWN_BY, "it names no module".into(), "Make it anew with `go mod init`"));
        }
        Ok(module)
    }

    fn plan(self, source: &Source, mut mains: Vec<String>) -> Result<Plan, PlanError> {
        if !self.install.is_empty() {
            mains.retain(|folder| self.install.iter().any(|spec| self.matches(spec, folder)));
            if mains.is_empty() {
                let problem = format!("`+heroku install {}` names no main package", self.install.join(" "));
                return Err(unusable(KNOWN_BY, problem, "Correct that line, or leave it out to have all main packages built"));
            }
        }
        let mut programs: BTreeMap<String, &str> = BTreeMap::new();
        for folder in &mains {
            if let Some(other) = programs.insert(self.program(folder), folder) {
                let problem = format!("./{other} and ./{folder} make one program, {}", self.program(folder));
                return Err(unusable(KNOWN_BY, problem, "Name those to build, with a line `// +heroku install ./PATH`"));
            }
        }
        let own = self.program("");
        let web = match programs.len() {
            1 => programs.keys().next(),
            _ => [own.as_str(), "web", "server"].iter().find_map(|name| programs.get_key_value(*name)).map(|(name, _)| name),
        };
        let plain = |name: &String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        let processes = web.filter(|w| plain(w)).and_then(|web| Some((TypeName::WEB.parse().ok()?, format!("bin/{web}"))));
        let names: Vec<String> = programs.keys().map(|n| format!("`web: bin/{n}`")).collect();
        let packages = mains.iter().map(|folder| if folder.is_empty() { ".".to_owned() } else { format!("./{folder}") });
        let mode = if source.has("vendor/modules.txt") { "vendor" } else { "readonly" };
        let words = ["go", "build", "-o", "bin/"].map(str::to_owned).into_iter().chain(packages.clone());
        let argv = ["{program}", "build", "-o", "{app}/bin/"].map(str::to_owned).into_iter().chain(packages);
        let env = [
            ("GOTOOLCHAIN", "local".to_owned()),
            // No path of this machine gets into a program, and what is downloaded can be removed again.
            ("GOFLAGS", format!("-mod={mode} -trimpath -modcacherw -buildvcs=false")),
            ("GOPATH", "{keep}/path".into()),
            ("GOMODCACHE", "{keep}/mod".into()),
            ("GOCACHE", "{keep}/build".into()),
        ];
        let run = Run {
            shown: words.collect::<Vec<_>>().join(" "),
            argv: argv.collect(),
            env: env.map(|(k, v)| (k.to_owned(), v)).to_vec(),
            passed: &PASSED,
            ..Run::default()
        };
        let (versions, pinned) = match self.language {
            Some((range, line)) => (range, Some(format!("{KNOWN_BY}:{line}"))),
            None => (Range::any(), None),
        };
        Ok(Plan {
            pack: "go",
            language: Some("Go"),
            runtime: Some(Runtime { versions: Versions::Range(Language::Go, versions), pinned }),
            layer: None,
            steps: vec![Step::Run(run)],
            env: vec![("PATH".into(), "{app}/bin:/usr/local/bin:/usr/bin:/bin".into())],
            processes: processes.into_iter().collect(),
            console: None,
            scratch: Vec::new(),
            cure: format!("Add a Procfile with one of these lines: {}; it must listen on $PORT", names.join(", ")),
            notes: Vec::new(),
        })
    }

    /// Whether a pattern of packages has the one in a folder.
    fn matches(&self, spec: &str, folder: &str) -> bool {
        let within = spec.strip_prefix(&self.name).unwrap_or(spec);
        let within = within.trim_start_matches('.').trim_matches('/');
        match within.strip_suffix("...") {
            Some(above) => folder.starts_with(above) || folder == above.trim_end_matches('/'),
            None => folder == within,
        }
    }

    /// What `go build` calls the program of a package.
    fn program(&self, folder: &str) -> String {
        let path = if folder.is_empty() { self.name.clone() } else { format!("{}/{folder}", self.name) };
        let is_version = |part: &&str| part.strip_prefix('v').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        let mut parts = path.rsplit('/');
        let last = parts.next().unwrap_or_default();
        Some(last).filter(|p| !is_version(p)).or_else(|| parts.next()).unwrap_or(last).to_owned()
    }
}

/// `1.22`, `1.22.3`, `1.23rc1`; exactly `go1.22` with Heroku's word.
fn range(version: &str, exact: bool) -> Option<Range> {
    let number = version.strip_prefix("go").unwrap_or(version);
    let end = number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
    let number = number[..end].trim_end_matches('.');
    Range::parse(&if exact { number.to_owned() } else { format!(">={number}") }).filter(|_| !number.is_empty())
}

/// The folders of main packages, sorted; the root's is empty.
fn mains(source: &Source, read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut folders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let modules: Vec<&str> = source.files.iter().filter_map(|f| f.path.strip_suffix("/go.mod")).collect();
    for path in source.files.iter().map(|f| f.path.as_str()).filter(|p| p.ends_with(".go") && !p.ends_with("_test.go")) {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let passed_over = |part: &str| matches!(part, "vendor" | "testdata" | "node_modules") || part.starts_with(['_', '.']);
        let another = modules.iter().any(|m| folder == *m || folder.strip_prefix(m).is_some_and(|rest| rest.starts_with('/')));
        if !another && !folder.split('/').any(passed_over) && !name.starts_with(['_', '.']) && constraint::by_name(name) {
            folders.entry(folder).or_default().push(path);
        }
    }
    // All files of a folder are of one package, but for those that a constraint leaves out.
    let is_main = |files: &Vec<&str>| {
        let package = files.iter().find_map(|path| constraint::package(&read(path)?));
        package.as_deref() == Some("main")
    };
    folders.into_iter().filter(|(_, files)| is_main(files)).map(|(folder, _)| folder.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_mod_says_is_read() {
        let module = Module::parse("// +heroku install ./cmd/... ./tool\nmodule example.org/shop/v2 // ours\n\ngo 1.22.1\n").expect("read");
        assert_eq!((module.name.as_str(), module.program("").as_str()), ("example.org/shop/v2", "shop"));
        assert_eq!(module.install, ["./cmd/...", "./tool"]);
        let (range, line) = module.language.as_ref().expect("a version");
        assert!(*line == 4 && range.admits([1, 22, 1]) && range.admits([1, 26, 0]) && !range.admits([1, 22, 0]), "{range}");
        for (spec, folder, yes) in [
            ("./cmd/...", "cmd/web", true),
            ("./cmd/...", "cmd", true),
            ("./cmd/...", "tool", false),
            ("./...", "", true),
            (".", "", true),
            ("./tool", "tool", true),
            ("./tool", "tool/more", false),
            ("example.org/shop/v2/tool", "tool", true),
        ] {
            assert_eq!(module.matches(spec, folder), yes, "{spec} {folder}");
        }
        let exact = Module::parse("module x\n// +heroku goVersion go1.21\ngo 1.20\n").expect("read").language.expect("a version");
        assert!(exact.0.admits([1, 21, 9]) && !exact.0.admits([1, 22, 0]) && exact.1 == 2);
        assert!(Module::parse("module x\ngo 1.23rc1\n").expect("read").language.expect("a version").0.admits([1, 23, 0]));
        assert!(Module::parse("go 1.23\n").is_err() && Module::parse("module x\ngo one\n").is_err());
    }
}
