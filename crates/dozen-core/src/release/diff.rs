//! What differs between two releases: files, packages, commands, and names of variables, never their values.
//!
//! **Invariant:** what is compared is what each slug holds, not what its source asked for.

use crate::config::Config;
use crate::processes::ProcessType;
use std::collections::{BTreeMap, BTreeSet};

/// One file or link of a slug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Relative, `/`-separated.
    pub path: String,
    /// `f` plain, `x` executable, `l` link.
    pub kind: char,
    /// Bytes.
    pub size: u64,
    /// Of the content.
    pub hash: String,
}

/// What lies in a slug's folder; a slug that was removed has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// Everything, dependencies among it.
    pub files: Vec<File>,
    /// The packages among its dependencies, to their versions: `python django` → `5.1`.
    pub packages: BTreeMap<String, String>,
    /// What `console` runs.
    pub console: Option<String>,
    /// Folders that an instance may write.
    pub scratch: Vec<String>,
}

/// One of the two releases.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// `Python 3.11.7`
    pub runtime: Option<&'a str>,
    /// Its process types.
    pub processes: &'a [ProcessType],
    /// What its slug holds, where it is still there.
    pub contents: Option<&'a Contents>,
    /// Its variables.
    pub config: &'a Config,
    /// Its attachments, to the resources' ids.
    pub attachments: &'a BTreeMap<String, u32>,
}

/// Something that differs: added where it has no `before`, removed where it has no `after`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<T> {
    /// Of what.
    pub name: String,
    /// In the first release.
    pub before: Option<T>,
    /// In the second one.
    pub after: Option<T>,
}

/// Names that differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    /// Only in the second release.
    pub added: Vec<String>,
    /// Only in the first one.
    pub removed: Vec<String>,
    /// In both, with another value.
    pub changed: Vec<String>,
}

/// What differs between two releases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    /// What does between the slugs' folders; `None` where one of them is gone.
    pub contents: Option<ContentsDiff>,
    /// Language and version.
    pub runtime: Option<Change<String>>,
    /// Process types and their commands.
    pub processes: Vec<Change<String>>,
    /// Config vars.
    pub config: Names,
    /// Attachments.
    pub attachments: Names,
}

/// What differs between two slugs' folders.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContentsDiff {
    /// The app's own files, with their sizes in bytes.
    pub files: Vec<Change<u64>>,
    /// How many files of dependencies differ.
    pub dependency_files: usize,
    /// Packages and their versions.
    pub packages: Vec<Change<String>>,
    /// The console's command.
    pub console: Option<Change<String>>,
    /// Folders that an instance may write.
    pub scratch: Names,
}

impl Diff {
    /// Compares two releases.
    pub fn between(before: &Side<'_>, after: &Side<'_>) -> Self {
        let commands = |side: &Side<'_>| side.processes.iter().map(|p| (p.name.to_string(), p.command.clone())).collect::<Vec<_>>();
        Self {
            contents: before.contents.zip(after.contents).map(|(before, after)| ContentsDiff::between(before, after)),
            runtime: one("runtime", before.runtime, after.runtime),
            processes: changes(commands(before), commands(after)),
            config: Names::of_configs(before.config, after.config),
            attachments: Names::between(before.attachments, after.attachments),
        }
    }

    /// Whether the releases are the same, as far as that can be told.
    pub fn is_empty(&self) -> bool {
        self.contents.as_ref().is_none_or(|c| *c == ContentsDiff::default())
            && self.runtime.is_none()
            && self.processes.is_empty()
            && self.config.is_empty()
            && self.attachments.is_empty()
    }
}

impl ContentsDiff {
    fn between(before: &Contents, after: &Contents) -> Self {
        let files = |c: &Contents| c.files.iter().map(|f| (f.path.clone(), (f.size, f.kind, f.hash.clone()))).collect::<Vec<_>>();
        let all = changes(files(before), files(after));
        let (dependencies, own): (Vec<_>, Vec<_>) = all.into_iter().partition(|c| is_dependency(&c.name));
        let sized = |c: Change<(u64, char, String)>| Change {
            name: c.name,
            before: c.before.map(|(size, ..)| size),
            after: c.after.map(|(size, ..)| size),
        };
        let set = |folders: &[String]| folders.iter().map(|f| (f.clone(), ())).collect::<BTreeMap<_, _>>();
        Self {
            files: own.into_iter().map(sized).collect(),
            dependency_files: dependencies.len(),
            packages: changes(before.packages.clone(), after.packages.clone()),
            console: one("console", before.console.as_deref(), after.console.as_deref()),
            scratch: Names::between(&set(&before.scratch), &set(&after.scratch)),
        }
    }
}

impl Names {
    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    /// Compares two maps by key.
    pub fn between<V: PartialEq>(before: &BTreeMap<String, V>, after: &BTreeMap<String, V>) -> Self {
        let pairs = |map: &'_ BTreeMap<String, V>| map.keys().cloned().collect::<BTreeSet<_>>();
        let (old, new) = (pairs(before), pairs(after));
        Self {
            added: new.difference(&old).cloned().collect(),
            removed: old.difference(&new).cloned().collect(),
            changed: old.intersection(&new).filter(|k| before.get(*k) != after.get(*k)).cloned().collect(),
        }
    }

    /// The names of the variables that differ between two configs.
    pub fn of_configs(before: &Config, after: &Config) -> Self {
        let values = |c: &Config| c.vars.iter().map(|(k, v)| (k.clone(), v.value.clone())).collect();
        Self::between(&values(before), &values(after))
    }
}

fn one(name: &str, before: Option<&str>, after: Option<&str>) -> Option<Change<String>> {
    let change = || Change { name: name.to_owned(), before: before.map(str::to_owned), after: after.map(str::to_owned) };
    (before != after).then(change)
}

/// What differs between two sets of named things, by name.
fn changes<T: PartialEq>(before: impl IntoIterator<Item = (String, T)>, after: impl IntoIterator<Item = (String, T)>) -> Vec<Change<T>> {
    let (mut before, mut after): (BTreeMap<_, _>, BTreeMap<_, _>) = (before.into_iter().collect(), after.into_iter().collect());
    let names: BTreeSet<String> = before.keys().chain(after.keys()).cloned().collect();
    let change = |name: String| Change { before: before.remove(&name), after: after.remove(&name), name };
    names.into_iter().map(change).filter(|c| c.before != c.after).collect()
}

/// Whether a file of a slug was installed there and is not the app's own.
pub fn is_dependency(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "node_modules" | ".venv" | "site-packages"))
}

/// The Python distribution that a file says is installed: `….dist-info/METADATA`. Name, as it is compared, and version.
pub fn distribution(path: &str) -> Option<(String, String)> {
    let folder = path.strip_suffix("/METADATA")?.strip_suffix(".dist-info")?;
    let (parent, folder) = folder.rsplit_once('/')?;
    let (name, version) = folder.split_once('-')?;
    // One of several spellings of the same name; packages write what they like.
    parent.ends_with("site-packages").then(|| (name.to_ascii_lowercase().replace(['_', '.'], "-"), version.to_owned()))
}

/// The Node package that a file or link says is installed, at the top of its `node_modules`: the folder, and the name with the package of
/// a monorepo before it that has it, as in `web: express`. What packages brought for themselves is theirs.
pub fn node_package(file: &File) -> Option<(&str, String)> {
    let path = match file.kind {
        'l' => file.path.as_str(),
        _ => file.path.strip_suffix("/package.json")?,
    };
    let (owner, name) = match path.strip_prefix("node_modules/") {
        Some(name) => ("", name),
        None => path.split_once("/node_modules/")?,
    };
    let parts = name.split('/').count();
    let is_name = !name.starts_with('.') && parts == if name.starts_with('@') { 2 } else { 1 };
    let name = if owner.is_empty() { name.to_owned() } else { format!("{owner}: {name}") };
    is_name.then_some((path, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Origin, Var};

    fn file(path: &str, kind: char, size: u64, hash: &str) -> File {
        File { path: path.to_owned(), kind, size, hash: hash.to_owned() }
    }

    fn config(pairs: &[(&str, &str)]) -> Config {
        let mut config = Config::default();
        for (name, value) in pairs {
            config.set(name, Var { value: (*value).to_owned(), origin: Origin::Set, plain: false }).expect("valid");
        }
        config
    }

    fn types(pairs: &[(&str, &str)]) -> Vec<ProcessType> {
        pairs.iter().map(|(n, c)| ProcessType { name: n.parse().expect("valid"), command: (*c).to_owned() }).collect()
    }

    fn show<T: std::fmt::Debug>(changes: &[Change<T>]) -> Vec<String> {
        changes.iter().map(|c| format!("{} {:?} {:?}", c.name, c.before, c.after)).collect()
    }

    fn packages(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    fn before() -> Contents {
        Contents {
            files: vec![
                file("app.py", 'f', 10, "a"),
                file("gone.txt", 'f', 3, "g"),
                file("run.sh", 'f', 5, "r"),
                file("same.txt", 'f', 7, "s"),
                file(".venv/lib/python3.11/site-packages/x.py", 'f', 1, "x"),
            ],
            packages: packages(&[("python django", "5.0"), ("python gone", "1")]),
            console: None,
            scratch: vec!["tmp".into()],
        }
    }

    fn after() -> Contents {
        Contents {
            files: vec![
                file("app.py", 'f', 12, "b"),
                file("new.txt", 'f', 0, "n"),
                file("run.sh", 'x', 5, "r"),
                file("same.txt", 'f', 7, "s"),
                file(".venv/lib/python3.11/site-packages/x.py", 'f', 1, "y"),
            ],
            packages: packages(&[("python django", "5.1"), ("node ws", "8.0.0")]),
            console: Some("irb".into()),
            scratch: vec!["tmp".into(), "log".into()],
        }
    }

    #[test]
    fn everything_that_differs_is_told_once_and_nothing_else() {
        let (was, is) = (config(&[("A", "1"), ("B", "2"), ("C", "3")]), config(&[("A", "1"), ("B", "9"), ("D", "4")]));
        let (had, has) = (BTreeMap::from([("DATABASE".into(), 1)]), BTreeMap::from([("DATABASE".into(), 2), ("CACHE".into(), 3)]));
        let (old, new) = (types(&[("web", "one"), ("gone", "x")]), types(&[("web", "two"), ("clock", "y")]));
        let (before, after) = (before(), after());
        let first = Side { runtime: Some("Python 3.11.7"), processes: &old, contents: Some(&before), config: &was, attachments: &had };
        let second = Side { runtime: Some("Python 3.12.1"), processes: &new, contents: Some(&after), config: &is, attachments: &has };
        let diff = Diff::between(&first, &second);
        let contents = diff.contents.as_ref().expect("both are there");
        let files = ["app.py Some(10) Some(12)", "gone.txt Some(3) None", "new.txt None Some(0)", "run.sh Some(5) Some(5)"];
        assert_eq!(show(&contents.files), files);
        assert_eq!(contents.dependency_files, 1);
        let wanted = [r#"node ws None Some("8.0.0")"#, r#"python django Some("5.0") Some("5.1")"#, r#"python gone Some("1") None"#];
        assert_eq!(show(&contents.packages), wanted);
        assert_eq!(show(contents.console.as_slice()), [r#"console None Some("irb")"#]);
        assert_eq!((contents.scratch.added.join(" "), contents.scratch.removed.len()), ("log".to_owned(), 0));
        assert_eq!(show(&diff.processes), [r#"clock None Some("y")"#, r#"gone Some("x") None"#, r#"web Some("one") Some("two")"#]);
        assert_eq!(diff.runtime.as_ref().and_then(|r| r.after.as_deref()), Some("Python 3.12.1"));
        let names = |n: &Names| [n.added.join(" "), n.removed.join(" "), n.changed.join(" ")];
        assert_eq!(names(&diff.config), ["D", "C", "B"]);
        assert_eq!(names(&diff.attachments), ["CACHE", "", "DATABASE"]);
        assert!(!diff.is_empty() && Diff::between(&first, &first).is_empty());
        // A slug that is gone is not compared; the rest is.
        let diff = Diff::between(&Side { contents: None, ..first }, &second);
        assert!(diff.contents.is_none() && diff.processes.len() == 3);
    }

    #[test]
    fn packages_are_known_by_what_is_installed() {
        for (path, want) in [
            (".venv/lib/python3.11/site-packages/Django-5.1.dist-info/METADATA", Some(("django", "5.1"))),
            ("a/site-packages/typing_extensions-4.12.2.dist-info/METADATA", Some(("typing-extensions", "4.12.2"))),
            (".venv/lib/python3.11/site-packages/Django-5.1.dist-info/RECORD", None),
            (".venv/lib/python3.11/site-packages/x/y-1.dist-info/METADATA", None),
            ("notes-1.dist-info/METADATA", None),
        ] {
            let want = want.map(|(n, v)| (n.to_owned(), v.to_owned()));
            assert_eq!(distribution(path), want, "{path}");
        }
        for (path, kind, want) in [
            ("node_modules/ws/package.json", 'f', Some("ws")),
            ("node_modules/@scope/x/package.json", 'f', Some("@scope/x")),
            ("web/node_modules/ws/package.json", 'f', Some("web: ws")),
            ("node_modules/ws", 'l', Some("ws")),
            ("node_modules/ws/lib/package.json", 'f', None),
            ("node_modules/ws/node_modules/inner/package.json", 'f', None),
            ("node_modules/.pnpm/ws@8/node_modules/ws/package.json", 'f', None),
            ("node_modules/.bin/x", 'l', None),
            ("node_modules/ws/index.js", 'f', None),
            ("package.json", 'f', None),
        ] {
            let file = file(path, kind, 1, "h");
            assert_eq!(node_package(&file).map(|(_, name)| name).as_deref(), want, "{path}");
        }
        assert!(is_dependency(".venv/x") && is_dependency("web/node_modules/x") && !is_dependency("venv/x"));
    }
}
