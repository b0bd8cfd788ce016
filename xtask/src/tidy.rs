//! The rules of the house that neither compiler nor clippy knows. A step of `cargo xtask test`, and a test of this crate.
//!
//! **Invariant:** each rule is a function from the tree to complaints, each complaint names file, line and cure, and each rule is
//! shown by a test to complain about a tree that breaks it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// A file of the tree that holds text, by its path from the root.
struct File {
    path: PathBuf,
    text: String,
}

type Complaints = Vec<String>;

/// Longer than this a file needs a reason in [`LONG`].
const MOST_LINES: usize = 600;

/// Files that may be longer, each with its reason. An entry that is no longer needed is a complaint of its own.
const LONG: &[(&str, &str)] = &[];

/// Which of our crates each crate may use.
const DIRECTION: &[(&str, &[&str])] = &[
    ("dozen-core", &[]),
    ("dozen-jail", &["dozen-core"]),
    ("dozen-engine", &["dozen-core", "dozen-jail"]),
    ("dozen", &["dozen-core", "dozen-jail", "dozen-engine"]),
    ("xtask", &["dozen-core", "dozen-engine"]),
    ("dozen-fuzz", &["dozen-core", "dozen-engine"]),
];

/// What core may use of other people's: crates that compute and touch nothing.
const PURE: &[&str] = &[
    "jiff",
    "memchr",
    "nodejs-semver",
    "percent-encoding",
    "saphyr",
    "serde",
    "serde_json",
    "shlex",
    "strsim",
    "thiserror",
    "toml",
    "url",
];

/// What core does not do, by the path that would do it.
const EFFECTS: &[&str] =
    &["std::fs", "std::net", "std::process", "std::env", "std::thread", "SystemTime::now", "Instant::now", "Timestamp::now", "Zoned::now"];

/// The pages that `docs/` has, one a factor.
const FACTORS: &[&str] = &[
    "i-codebase",
    "ii-dependencies",
    "iii-config",
    "iv-backing-services",
    "v-build-release-run",
    "vi-processes",
    "vii-port-binding",
    "viii-concurrency",
    "ix-disposability",
    "x-dev-prod-parity",
    "xi-logs",
    "xii-admin-processes",
];

/// Words that mean unfinished work; written in halves, so that this file is not a finding.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("to", "do!("),
    concat!("db", "g!("),
    concat!("unimple", "mented!("),
    concat!("#[ig", "nore"),
];

pub(crate) fn run(root: &Path) -> Result<()> {
    let complaints = check(&read(root)?)?;
    if complaints.is_empty() {
        return Ok(());
    }
    for complaint in &complaints {
        println!("{complaint}");
    }
    bail!("{} complaints", complaints.len())
}

fn check(files: &[File]) -> Result<Complaints> {
    let rules = [module_order, crate_direction, core_is_pure, length, first_line, no_mod_rs, finished, no_unsafe, pages];
    let mut complaints = Vec::new();
    for rule in rules {
        complaints.extend(rule(files)?);
    }
    Ok(complaints)
}

/// All text that git would keep.
fn read(root: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    let walk = ignore::WalkBuilder::new(root).hidden(false).require_git(false).filter_entry(|entry| entry.file_name() != ".git").build();
    for entry in walk {
        let entry = entry?;
        if entry.file_type().is_some_and(|kind| kind.is_file())
            && let Ok(text) = std::fs::read_to_string(entry.path())
        {
            files.push(File { path: entry.path().strip_prefix(root)?.to_owned(), text });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// In core a module uses only those left of it in the line that ARCHITECTURE.md gives.
fn module_order(files: &[File]) -> Result<Complaints> {
    let page = files.iter().find(|file| file.path == Path::new("ARCHITECTURE.md")).context("ARCHITECTURE.md is missing")?;
    let line =
        page.text.lines().find(|line| line.trim_matches('`').starts_with("ids < ")).context("ARCHITECTURE.md has no line `ids < …`")?;
    let order: Vec<&str> = line.trim_matches('`').split(" < ").collect();
    let place = |module: &str| order.iter().position(|name| *name == module);
    let mut complaints = Vec::new();
    for file in sources(files) {
        let Ok(inside) = file.path.strip_prefix("crates/dozen-core/src") else { continue };
        let Some(module) = inside.iter().next().and_then(|name| Path::new(name).file_stem()?.to_str()) else { continue };
        if module == "lib" {
            continue;
        }
        let Some(own) = place(module) else {
            complaints.push(format!("{}: the module `{module}` is not in the line of ARCHITECTURE.md", file.path.display()));
            continue;
        };
        for (number, code) in code(file) {
            for used in crate_uses(code) {
                if used != module && place(used).is_some_and(|place| place > own) {
                    complaints.push(format!("{}:{number}: `{module}` uses `{used}`, which is to the right of it", file.path.display()));
                }
            }
        }
    }
    for module in &order {
        let path = PathBuf::from(format!("crates/dozen-core/src/{module}.rs"));
        if !files.iter().any(|file| file.path == path) {
            complaints.push(format!("ARCHITECTURE.md: the line names `{module}`, and there is no {}", path.display()));
        }
    }
    Ok(complaints)
}

/// The modules that one line of code names behind `crate::`, one by one or in braces.
fn crate_uses(code: &str) -> Vec<&str> {
    let mut uses = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        if code[..at].ends_with(|before: char| before == '_' || before.is_alphanumeric()) {
            continue;
        }
        let rest = &code[at + found.len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                let mut depth = 0_u32;
                let mut begin = 0;
                for (index, character) in group.char_indices().chain([(group.len(), '}')]) {
                    match character {
                        '{' => depth += 1,
                        '}' if depth > 0 => depth -= 1,
                        ',' | '}' if depth == 0 => {
                            uses.push(first_name(group[begin..index].trim()));
                            begin = index + 1;
                            if character == '}' {
                                break;
                            }
                        }
                        _ => {}
                    }
                }
            }
            None => uses.push(first_name(rest)),
        }
    }
    uses.retain(|name| !name.is_empty());
    uses
}

fn first_name(path: &str) -> &str {
    let end = path.find(|character: char| character != '_' && !character.is_alphanumeric()).unwrap_or(path.len());
    &path[..end]
}

/// A crate uses only those of ours that the house's table allows it, and core only crates that are pure.
fn crate_direction(files: &[File]) -> Result<Complaints> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with("Cargo.toml") && file.path != Path::new("Cargo.toml")) {
        let manifest: toml::Table = toml::from_str(&file.text).with_context(|| format!("{} is no TOML", file.path.display()))?;
        let Some(name) = manifest.get("package").and_then(|package| package.get("name")?.as_str()) else { continue };
        let Some((_, allowed)) = DIRECTION.iter().find(|(known, _)| *known == name) else {
            complaints.push(format!("{}: the crate `{name}` has no place in tidy's table of directions", file.path.display()));
            continue;
        };
        for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
            for used in manifest.get(kind).and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::keys) {
                let ours = DIRECTION.iter().any(|(known, _)| known == used);
                if ours && !allowed.contains(&used.as_str()) {
                    complaints.push(format!("{}: `{name}` may not use `{used}`", file.path.display()));
                }
                if name == "dozen-core" && kind == "dependencies" && !ours && !PURE.contains(&used.as_str()) {
                    complaints.push(format!("{}: core is pure, and `{used}` is not in tidy's list of pure crates", file.path.display()));
                }
            }
        }
    }
    Ok(complaints)
}

/// Core decides and touches nothing.
fn core_is_pure(files: &[File]) -> Result<Complaints> {
    let mut complaints = Vec::new();
    for file in sources(files).filter(|file| file.path.starts_with("crates/dozen-core/src")) {
        for (number, code) in code(file) {
            for effect in EFFECTS.iter().filter(|effect| code.contains(**effect)) {
                complaints.push(format!("{}:{number}: core is pure, and `{effect}` is not; take it as data", file.path.display()));
            }
        }
    }
    Ok(complaints)
}

fn length(files: &[File]) -> Result<Complaints> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| is_rust(file)) {
        let lines = file.text.lines().count();
        let excused = LONG.iter().any(|(path, _)| file.path == Path::new(path));
        match (lines > MOST_LINES, excused) {
            (true, false) => complaints
                .push(format!("{}: {lines} lines, {MOST_LINES} at most; split it, or list it in tidy with a reason", file.path.display())),
            (false, true) => complaints.push(format!("{}: is in tidy's list of long files and is not long", file.path.display())),
            _ => {}
        }
    }
    Ok(complaints)
}

fn first_line(files: &[File]) -> Result<Complaints> {
    let silent = sources(files).filter(|file| !file.path.ends_with("tests.rs") && !file.text.starts_with("//! "));
    Ok(silent.map(|file| format!("{}:1: begins without a `//!` line that says what the module is", file.path.display())).collect())
}

fn no_mod_rs(files: &[File]) -> Result<Complaints> {
    let named = files.iter().filter(|file| file.path.ends_with("mod.rs"));
    Ok(named.map(|file| format!("{}: a module `foo` is `foo.rs` and `foo/`", file.path.display())).collect())
}

fn finished(files: &[File]) -> Result<Complaints> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| !file.path.ends_with("Cargo.lock")) {
        for (number, line) in (1..).zip(file.text.lines()) {
            if let Some(word) = UNFINISHED.iter().find(|word| contains_word(line, word)) {
                complaints.push(format!("{}:{number}: `{word}`; finish it, or open an issue", file.path.display()));
            }
        }
    }
    Ok(complaints)
}

/// Whether `word` stands in `line` as itself, not as the end or the beginning of a longer one.
fn contains_word(line: &str, word: &str) -> bool {
    let letter = |character: char| character == '_' || character.is_alphanumeric();
    line.match_indices(word).any(|(at, _)| {
        let longer = word.ends_with(letter) && line[at + word.len()..].starts_with(letter);
        !longer && !line[..at].ends_with(letter)
    })
}

fn no_unsafe(files: &[File]) -> Result<Complaints> {
    let mut complaints = Vec::new();
    for file in sources(files).filter(|file| !file.path.starts_with("crates/dozen-jail")) {
        let root = file.path.ends_with("src/lib.rs") || file.path.ends_with("src/main.rs");
        if root && !file.text.contains("#![forbid(unsafe_code)]") {
            complaints.push(format!("{}: lacks `#![forbid(unsafe_code)]`; only dozen-jail may have unsafe code", file.path.display()));
        }
    }
    Ok(complaints)
}

/// One page a factor, as soon as there is one.
fn pages(files: &[File]) -> Result<Complaints> {
    let has = |factor: &str| files.iter().any(|file| file.path == Path::new("docs").join(factor).with_extension("md"));
    if !FACTORS.iter().any(|factor| has(factor)) {
        return Ok(Vec::new());
    }
    Ok(FACTORS
        .iter()
        .filter(|factor| !has(factor))
        .map(|factor| format!("docs/{factor}.md: each factor has a page, this one has none"))
        .collect())
}

fn is_rust(file: &File) -> bool {
    file.path.extension().is_some_and(|extension| extension == "rs")
}

/// The modules of our crates; not their integration tests.
fn sources(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| is_rust(file) && file.path.iter().any(|part| part == "src"))
}

/// The numbered lines of a module's code: without comments, and without the tests at its end, which may use anything.
fn code(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let lines: Vec<&str> = file.text.lines().collect();
    let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].ends_with('{')).unwrap_or(lines.len());
    let tests = if file.path.ends_with("tests.rs") { 0 } else { tests };
    (1..).zip(lines).take(tests).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree that obeys every rule, with these files over it.
    fn tree(changes: &[(&str, &str)]) -> Vec<File> {
        let sound = [
            ("ARCHITECTURE.md", "`ids < config < release`\n"),
            ("crates/dozen-core/src/lib.rs", "//! Core.\n#![forbid(unsafe_code)]\n"),
            ("crates/dozen-core/src/ids.rs", "//! Ids.\n"),
            ("crates/dozen-core/src/config.rs", "//! Config.\nuse crate::ids::Name;\n"),
            ("crates/dozen-core/src/release.rs", "//! Release.\nuse crate::{config::{Config, Key}, ids::Name};\n"),
            ("crates/dozen-core/Cargo.toml", "[package]\nname = \"dozen-core\"\n[dependencies]\nurl = \"2\"\n"),
        ];
        let kept = sound.iter().filter(|(path, _)| !changes.iter().any(|(changed, _)| path == changed));
        kept.chain(changes).map(|(path, text)| File { path: path.into(), text: (*text).to_owned() }).collect()
    }

    #[track_caller]
    fn complains(changes: &[(&str, &str)], expected: &str) {
        let complaints = check(&tree(changes)).expect("the tree can be read");
        assert!(complaints.len() == 1 && complaints[0].contains(expected), "expected one with {expected:?}, got {complaints:?}");
    }

    #[test]
    fn the_house_is_tidy() {
        let complaints = check(&read(crate::root()).expect("the tree can be read")).expect("the tree can be judged");
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }

    #[test]
    fn a_sound_tree_has_no_complaints() {
        assert_eq!(check(&tree(&[])).expect("the tree can be judged"), Complaints::new());
    }

    #[test]
    fn a_module_uses_only_what_is_left_of_it() {
        let right = "`config` uses `release`";
        complains(&[("crates/dozen-core/src/config.rs", "//! C.\nuse crate::release::Version;\n")], right);
        complains(&[("crates/dozen-core/src/config/key.rs", "//! K.\nfn f() -> crate::release::Version {}\n")], right);
        complains(&[("crates/dozen-core/src/config.rs", "//! C.\nuse crate::{ids::{A, B}, release::Version};\n")], right);
        complains(&[("crates/dozen-core/src/other.rs", "//! O.\n")], "`other` is not in the line");
        complains(&[("ARCHITECTURE.md", "`ids < config < release < port`\n")], "names `port`");
    }

    #[test]
    fn tests_and_comments_may_look_to_the_right() {
        let comment = "//! C.\n/// See [`crate::release`].\nfn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::release::Version;\n}\n";
        assert_eq!(check(&tree(&[("crates/dozen-core/src/config.rs", comment)])).expect("the tree can be judged"), Complaints::new());
    }

    #[test]
    fn crates_point_one_way() {
        let jail = "[package]\nname = \"dozen-jail\"\n[dependencies]\ndozen-engine.workspace = true\n";
        complains(&[("crates/dozen-jail/Cargo.toml", jail)], "`dozen-jail` may not use `dozen-engine`");
        let core = "[package]\nname = \"dozen-core\"\n[dependencies]\ntokio = \"1\"\n";
        complains(&[("crates/dozen-core/Cargo.toml", core)], "`tokio` is not in tidy's list");
        complains(&[("crates/dozen-more/Cargo.toml", "[package]\nname = \"dozen-more\"\n")], "no place in tidy's table");
    }

    #[test]
    fn core_touches_nothing() {
        complains(&[("crates/dozen-core/src/ids.rs", "//! I.\nuse std::fs::File;\n")], "`std::fs` is not");
    }

    #[test]
    fn files_have_a_measure_and_a_first_line() {
        let long = format!("//! I.\n{}", "\n".repeat(600));
        complains(&[("crates/dozen-core/src/ids.rs", &long)], "601 lines");
        complains(&[("crates/dozen-core/src/ids.rs", "use std::fmt;\n")], "begins without");
        complains(&[("crates/dozen-core/tests/it/mod.rs", "")], "`foo.rs` and `foo/`");
        complains(&[("crates/dozen-core/src/lib.rs", "//! Core.\n")], "lacks `#![forbid(unsafe_code)]`");
    }

    #[test]
    fn nothing_is_left_for_later() {
        for word in UNFINISHED {
            complains(&[("docs/x.md", &format!("a {word} b"))], word);
        }
        assert!(!contains_word(concat!("a_to", "do!()"), concat!("to", "do!(")));
        assert!(!contains_word("MASTODON", concat!("TO", "DO")));
    }

    #[test]
    fn each_factor_has_a_page_or_none_has() {
        let some: Vec<(String, &str)> = FACTORS[1..].iter().map(|factor| (format!("docs/{factor}.md"), "")).collect();
        let some: Vec<(&str, &str)> = some.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        complains(&some, "docs/i-codebase.md");
    }
}
