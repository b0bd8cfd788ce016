//! What a slug expects of the machine that it runs on: the architecture, the interpreter, the C library, other libraries.
//!
//! **Invariant:** no program that a slug file names is run before its own name says that it is the interpreter which the slug's stack names.

use super::store::Entry;
use crate::dependencies::interpreters::{self, Interpreter};
use dozen_core::dependencies::Language;
use dozen_core::release::Slug;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

mod elf;

/// What a slug needs and does not bring.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// `x86_64`.
    pub arch: String,
    /// The interpreter, where the stack has one: without links, as the slug's own link or its folders' names lead to it.
    pub program: Option<PathBuf>,
    /// The C library that its native code is linked with.
    pub libc: Option<Libc>,
    /// Other shared libraries of the system, with the first file that needs each.
    pub libraries: BTreeMap<String, String>,
}

/// A C library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Libc {
    /// `glibc`, `musl`.
    pub kind: String,
    /// The oldest that will do; empty where any will.
    pub version: String,
}

/// The languages whose stacks have an interpreter, and what that is called: `Python 3.11.7` is run by a `python…`.
const PROGRAMS: [(Language, &str); 5] =
    [(Language::Python, "python"), (Language::Node, "node"), (Language::Ruby, "ruby"), (Language::Java, "javac"), (Language::Php, "php")];

/// The language and the version that a stack's runtime names.
fn runtime(slug: &Slug) -> Option<(&str, &str)> {
    slug.stack.runtime.as_deref()?.rsplit_once(' ')
}

/// The name that the interpreter's program begins with.
fn stem(language: &str) -> Option<&'static str> {
    PROGRAMS.iter().find(|(l, _)| l.name() == language).map(|(_, stem)| *stem)
}

/// Whether this is a path of an interpreter of that language, by its name alone.
pub(super) fn is_interpreter(language: &str, program: &Path) -> bool {
    let name = program.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let version = stem(language).and_then(|stem| name.strip_prefix(stem));
    program.is_absolute() && version.is_some_and(|v| v.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
}

impl Machine {
    /// Looks at a slug of this machine.
    pub fn of(slug: &Slug, tree: &Path, entries: &[Entry]) -> Self {
        let mut all = Self { arch: std::env::consts::ARCH.to_owned(), program: program(slug, tree, entries), ..Self::default() };
        let own: BTreeSet<&str> = entries.iter().map(|e| e.path.rsplit('/').next().unwrap_or(&e.path)).collect();
        let places = library_folders();
        for entry in entries.iter().filter(|e| e.kind != 'l' && e.size > 0) {
            let Some(linked) = elf::linked(&tree.join(&entry.path)) else { continue };
            if let Some(libc) = linked.libc {
                let newer = all.libc.as_ref().is_none_or(|have| elf::numbers(&have.version) < elf::numbers(&libc.version));
                if newer {
                    all.libc = Some(libc);
                }
            }
            // What is missing here too is optional to the package that asks for it.
            let others = linked.libraries.into_iter().filter(|l| !own.contains(l.as_str()) && places.iter().any(|p| p.join(l).exists()));
            for library in others {
                all.libraries.entry(library).or_insert_with(|| entry.path.clone());
            }
        }
        all
    }

    /// What of it this machine does not have, each as a sentence without a full stop. `exe` is dozen, `cache` a folder that keeps what
    /// interpreters said of themselves.
    pub async fn differences(&self, slug: &Slug, exe: &Path, cache: &Path) -> Vec<String> {
        let mut out = Vec::new();
        if self.arch != std::env::consts::ARCH {
            out.push(format!("needs {}; this machine is {}", self.arch, std::env::consts::ARCH));
        }
        let mut prefix = None;
        if let Some((language, version)) = runtime(slug) {
            match self.interpreter(language, version, exe, cache).await {
                Ok(found) => prefix = found,
                Err(difference) => out.push(difference),
            }
        }
        // What is mounted into a jail is told by this machine, not by a file that anyone may have written.
        if out.is_empty() {
            let foreign = slug.needs.iter().filter(|n| prefix.as_ref() != Some(n));
            out.extend(foreign.map(|n| format!("asks for the folder {} of this machine, which is no interpreter's", n.display())));
        }
        if let Some(wanted) = &self.libc {
            out.extend(libc_difference(wanted, libc().as_ref()));
        }
        let mut places = library_folders();
        places.extend(prefix.map(|p| p.join("lib")));
        for (library, file) in &self.libraries {
            let plain = !library.contains('/');
            if !plain || !places.iter().any(|p| p.join(library).exists()) {
                out.push(format!("needs {library} for {file}; this machine has none: install the system package that brings it"));
            }
        }
        out
    }

    /// The prefix of the interpreter, or how this machine's is another.
    async fn interpreter(&self, language: &str, version: &str, exe: &Path, cache: &Path) -> Result<Option<PathBuf>, String> {
        let Some(program) = &self.program else { return Ok(None) };
        if !is_interpreter(language, program) {
            return Err(format!("names {} as its {language}, which is none by its name", program.display()));
        }
        let needs = format!("needs {language} {version} at {}", program.display());
        let Some((known, _)) = PROGRAMS.into_iter().find(|(l, _)| l.name() == language) else { return Err(needs) };
        match interpreters::at(exe, known, program).await {
            // Two releases of one version are alike; what is compiled and where packages lie is the same.
            Some(found) if found.number() == version => return Ok(Some(found.prefix)),
            Some(found) => return Err(format!("{needs}; this machine has {} there", found.number())),
            None => {}
        }
        let kept = cache.join(format!("{}.json", known.name()));
        let all = interpreters::find(exe, &interpreters::Places::here(known), &kept).await;
        let series = |i: &&Interpreter| version.starts_with(&format!("{}.{}.", i.version[0], i.version[1]));
        let default = all.all.iter().find(|i| all.default.as_ref() == Some(&i.executable));
        let other = all.all.iter().find(|i| i.number() == version).or_else(|| all.all.iter().find(series)).or(default).or(all.all.first());
        Err(match other {
            Some(other) => format!("{needs}; this machine has {} at {}", other.number(), other.executable.display()),
            None => format!("{needs}; this machine has none there"),
        })
    }
}

/// Where a slug of this machine has its interpreter.
fn program(slug: &Slug, tree: &Path, entries: &[Entry]) -> Option<PathBuf> {
    let (language, _) = runtime(slug)?;
    let links = entries.iter().filter(|e| e.kind == 'l').filter_map(|e| fs::read_link(tree.join(&e.path)).ok());
    let mut leads_out = links.filter(|target| is_interpreter(language, target));
    leads_out.next().or_else(|| {
        let folders = slug.needs.iter().map(|n| n.join("bin")).chain(["/usr/local/bin", "/usr/bin"].map(PathBuf::from));
        folders.filter_map(|f| fs::canonicalize(f.join(stem(language)?)).ok()).find(|p| is_interpreter(language, p))
    })
}

fn libc_difference(wanted: &Libc, here: Option<&Libc>) -> Option<String> {
    let shown = |l: &Libc| format!("{} {}", l.kind, l.version).trim_end().to_owned();
    let newer = if wanted.version.is_empty() { "" } else { " or newer" };
    match here {
        Some(here) if here.kind == wanted.kind && elf::numbers(&here.version) >= elf::numbers(&wanted.version) => None,
        Some(here) => Some(format!("needs {}{newer}; this machine has {}", shown(wanted), shown(here))),
        None => Some(format!("needs {}{newer}; this machine has neither glibc nor musl where they are looked for", shown(wanted))),
    }
}

/// The C library of this machine, read from its file: this binary may be linked with none of it.
fn libc() -> Option<Libc> {
    let said = library_folders().iter().find_map(|f| glibc_version(&fs::read(f.join("libc.so.6")).ok()?));
    let musl = || {
        let names = fs::read_dir("/lib").ok()?.flatten().map(|e| e.file_name());
        names.into_iter().find(|n| n.to_string_lossy().starts_with("ld-musl-"))
    };
    match said {
        Some(version) => Some(Libc { kind: "glibc".into(), version }),
        None => musl().map(|_| Libc { kind: "musl".into(), version: String::new() }),
    }
}

/// What glibc says of itself in its own file: `… stable release version 2.36.`
fn glibc_version(library: &[u8]) -> Option<String> {
    const MARK: &[u8] = b" release version ";
    let at = memchr::memmem::find(library, MARK)? + MARK.len();
    let version: String = library[at..].iter().map(|b| char::from(*b)).take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let version = version.trim_end_matches('.');
    (!version.is_empty()).then(|| version.to_owned())
}

/// Where the loader looks for libraries.
fn library_folders() -> Vec<PathBuf> {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let mut all: Vec<PathBuf> = vec![format!("/lib/{triplet}").into(), format!("/usr/lib/{triplet}").into()];
    all.extend(["/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"].map(PathBuf::from));
    for file in fs::read_dir("/etc/ld.so.conf.d").into_iter().flatten().flatten() {
        let text = fs::read_to_string(file.path()).unwrap_or_default();
        all.extend(text.lines().map(str::trim).filter(|l| l.starts_with('/')).map(PathBuf::from));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_is_known_by_its_name() {
        let check = |language: &str, path: &str| is_interpreter(language, Path::new(path));
        assert!(
            check("Python", "/usr/bin/python3.11")
                && check("Python", "/opt/x/bin/python")
                && check("Node", "/usr/bin/node")
                && check("Ruby", "/usr/bin/ruby3.1")
        );
        assert!(!check("Python", "/usr/bin/rm") && !check("Python", "python3") && !check("Python", "/usr/bin/python3-config"));
        assert!(!check("Node", "/usr/bin/python3") && !check("Perl", "/usr/bin/perl") && !check("", "/"));
    }

    #[test]
    fn a_library_must_be_new_enough_and_of_the_kind() {
        let libc = |kind: &str, version: &str| Libc { kind: kind.into(), version: version.into() };
        let check = |wanted: Libc, here: Libc| libc_difference(&wanted, Some(&here)).unwrap_or_default();
        assert_eq!(check(libc("glibc", "2.34"), libc("glibc", "2.36")), "");
        assert_eq!(check(libc("glibc", "2.9"), libc("glibc", "2.36")), "");
        assert_eq!(check(libc("musl", ""), libc("musl", "")), "");
        assert_eq!(check(libc("glibc", "2.38"), libc("glibc", "2.36")), "needs glibc 2.38 or newer; this machine has glibc 2.36");
        assert_eq!(check(libc("musl", ""), libc("glibc", "2.36")), "needs musl; this machine has glibc 2.36");
    }

    #[test]
    fn this_machines_own_library_is_found() {
        assert_eq!(glibc_version(b"GNU C Library (x) stable release version 2.36.\n"), Some("2.36".into()));
        assert_eq!(glibc_version(b" release version x"), None);
        let here = libc().expect("the tests run on glibc or musl");
        assert!(here.kind == "musl" || elf::numbers(&here.version) > vec![2, 17], "{here:?}");
    }
}
