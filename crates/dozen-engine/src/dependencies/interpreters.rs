//! The interpreters of this machine: those of version managers, the system's, those on PATH. Each is asked once for its facts.
//!
//! **Invariant:** what is found is an interpreter's real place, never a shim's or a virtual environment's.
//! **Invariant:** it is asked in a jail, not as root, with its own installation and the system in sight: it may be anybody's program.

use super::builder::Builder;
use super::runner::{Command, OnLine, Runner};
use super::stage::Stage;
use dozen_core::dependencies::{Language, Runtime};
use known::{Facts, Question};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

mod known;

/// Major, minor, and the third number.
pub type Release = [u32; 3];

/// One interpreter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// Its numbers.
    pub version: Release,
    /// The folder of its installation, without links: Python's `sys.base_prefix`.
    pub prefix: PathBuf,
    /// The program itself, without links.
    pub executable: PathBuf,
}

impl Interpreter {
    /// `3.11.7`.
    pub fn number(&self) -> String {
        let [major, minor, micro] = self.version;
        format!("{major}.{minor}.{micro}")
    }
}

/// All interpreters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Newest first.
    pub all: Vec<Interpreter>,
    /// The executable that `python3` or `node` on PATH comes to.
    pub default: Option<PathBuf>,
}

/// Why no interpreter can be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChooseError {
    /// None satisfies what the app asks for.
    #[error("the app asks for {} {wanted} ({place}), and no interpreter here will do.{}", language.name(), list(*language, found, *near))]
    Unsatisfied {
        /// Of which language.
        language: Language,
        /// The constraint.
        wanted: String,
        /// Where it is written.
        place: String,
        /// Those found, too old ones too.
        found: Vec<Interpreter>,
        /// The nearest to what is asked for.
        near: Option<Release>,
    },
    /// There is none at all.
    #[error("there is no {} here that can be used ({} or newer). Install one, for example with {}",
        language.name(), series(*language, language.oldest()), known::install(*language))]
    None {
        /// Of which language.
        language: Language,
    },
    /// The option that names one names a file that is none.
    #[error("{named} is no {} of {} or newer that could be run; `{}` takes a version or the path of one",
        kind(*language), series(*language, language.oldest()), language.option().unwrap_or_default())]
    Path {
        /// Of which language.
        language: Language,
        /// The file, or the version.
        named: String,
    },
}

fn kind(language: Language) -> &'static str {
    if language == Language::Python { "CPython" } else { language.name() }
}

/// `3.11`, `20`.
fn series(language: Language, version: Release) -> String {
    version[..language.series()].iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}

fn list(language: Language, found: &[Interpreter], near: Option<Release>) -> String {
    let oldest = language.oldest();
    let line = |i: &Interpreter| {
        let old = if i.version < oldest {
            format!(
                "  (too old: {} for {} and newer)",
                if language.compiles() { "apps are built" } else { "packages are installed" },
                series(language, oldest)
            )
        } else {
            String::new()
        };
        format!("\n  {:<8} {}{old}", i.number(), i.executable.display())
    };
    let lines: String = found.iter().map(line).collect();
    let seen = if lines.is_empty() { " There is none at all.".into() } else { format!(" Found:{lines}") };
    let Some(option) = language.option() else {
        return format!("{seen}\nInstall it (for example with {}), or correct what asks for it", known::install(language));
    };
    let other = near.map_or_else(
        || format!("name one that lies elsewhere: `dozen up {option} PATH`"),
        |version| {
            format!("build with the nearest: `dozen up {option} {}` (or `{option} PATH` for one elsewhere)", series(language, version))
        },
    );
    format!("{seen}\nInstall it, or {other}")
}

/// The one nearest to `wanted`, by minor version; of several the newest.
fn nearest<'a>(all: impl Iterator<Item = &'a Interpreter>, wanted: Release) -> Option<&'a Interpreter> {
    let far = |i: &Interpreter| (i.version[0].abs_diff(wanted[0]), i.version[1].abs_diff(wanted[1]));
    all.min_by_key(|i| (far(i), std::cmp::Reverse(i.version)))
}

/// Where interpreters are looked for.
#[derive(Debug, Clone)]
pub struct Places {
    /// Of which language.
    pub language: Language,
    /// The folders of PATH.
    pub path: Vec<PathBuf>,
    /// pyenv's root.
    pub pyenv: Option<PathBuf>,
    /// `PYENV_VERSION`.
    pub pyenv_version: Option<String>,
    /// Folders whose subfolders are installations: uv's, nvm's, asdf's, mise's.
    pub managed: Vec<PathBuf>,
}

impl Places {
    /// None of a language.
    pub fn none(language: Language) -> Self {
        Self { language, path: Vec::new(), pyenv: None, pyenv_version: None, managed: Vec::new() }
    }

    /// From this process's environment.
    pub fn here(language: Language) -> Self {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let home = var("HOME").map(PathBuf::from);
        let under_home = |path: &str| home.as_ref().map(|h| h.join(path));
        let data = var("XDG_DATA_HOME").map(PathBuf::from).or_else(|| under_home(".local/share"));
        let mut path: Vec<PathBuf> = var("PATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default();
        path.extend(["/usr/local/bin", "/usr/bin"].map(PathBuf::from));
        if language != Language::Python {
            return Self { path, managed: known::managed(language, home.as_deref(), data.as_deref()), ..Self::none(language) };
        }
        let uv = var("UV_PYTHON_INSTALL_DIR").map(PathBuf::from).or_else(|| data.as_ref().map(|d| d.join("uv/python")));
        let mise = data.map(|d| d.join("mise/installs/python"));
        Self {
            language,
            path,
            pyenv: var("PYENV_ROOT").map(PathBuf::from).or_else(|| under_home(".pyenv")).filter(|p| p.is_dir()),
            pyenv_version: var("PYENV_VERSION").and_then(|v| v.into_string().ok()),
            managed: [uv, mise, under_home(".asdf/installs/python")].into_iter().flatten().collect(),
        }
    }

    /// Programs that may be interpreters, without links, and the one that `python3` is.
    fn candidates(&self) -> (Vec<PathBuf>, Option<PathBuf>) {
        let mut all = Vec::new();
        let mut default = None;
        let versions = self.pyenv.as_ref().map(|p| p.join("versions"));
        for folder in self.path.iter().filter(|f| f.is_absolute()) {
            let shims = self.pyenv.as_ref().is_some_and(|p| *folder == p.join("shims"));
            if shims {
                // What a shim runs depends on the folder it is called in; outside of any it is pyenv's global version.
                if default.is_none() {
                    default = self.pyenv_global().and_then(|version| real(&versions.as_ref()?.join(version).join("bin/python3")));
                }
                continue;
            }
            let named = |name: &str| match self.language {
                Language::Python => {
                    name == "python3" || name.strip_prefix("python3.").is_some_and(|m| m.bytes().all(|b| b.is_ascii_digit()))
                }
                Language::Node => name == "node" || name == "nodejs",
                other => name == known::program(other),
            };
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if let Some(name) = entry.file_name().to_str().filter(|n| named(n))
                    && let Some(program) = real(&folder.join(name))
                {
                    // volta's node is a shim that is a program, as is rustup's cargo.
                    let stem = known::program(self.language);
                    if self.language != Language::Python && !program.file_name().is_some_and(|n| n.to_string_lossy().starts_with(stem)) {
                        default = default.or_else(|| known::behind(&program));
                        continue;
                    }
                    if (name == stem || name == "python3") && default.is_none() {
                        default = Some(program.clone());
                    }
                    all.push(program);
                }
            }
        }
        for installations in self.managed.iter().chain(&versions) {
            for entry in fs::read_dir(installations).into_iter().flatten().flatten() {
                let folder = entry.path();
                match self.language {
                    Language::Python if folder.join("pyvenv.cfg").exists() => {}
                    Language::Python => all.extend(real(&folder.join("bin/python3"))),
                    // fnm's lie one folder deeper.
                    Language::Node => all.extend(["bin/node", "installation/bin/node"].iter().filter_map(|p| real(&folder.join(p)))),
                    // asdf's Go lies one folder deeper.
                    other => {
                        let program = known::program(other);
                        all.extend(["bin", "go/bin"].iter().filter_map(|p| real(&folder.join(p).join(program))));
                    }
                }
            }
        }
        all.extend(default.clone());
        all.sort();
        all.dedup();
        (all, default)
    }

    fn pyenv_global(&self) -> Option<String> {
        let file = || fs::read_to_string(self.pyenv.as_ref()?.join("version")).ok();
        let text = self.pyenv_version.clone().or_else(file)?;
        let first = text.split([':', '\n', ' ']).next()?.trim();
        (!first.is_empty() && first != "system" && !first.contains('/')).then(|| first.to_owned())
    }
}

/// The real file behind a program; `None` for scripts, which shims are.
fn real(program: &Path) -> Option<PathBuf> {
    let path = fs::canonicalize(program).ok()?;
    let meta = fs::metadata(&path).ok()?;
    let mut magic = [0u8; 2];
    let read = fs::File::open(&path).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut magic));
    (meta.is_file() && meta.permissions().mode() & 0o111 != 0 && read.is_ok() && &magic != b"#!").then_some(path)
}

/// Finds them all; `exe` is dozen. `cache` keeps their facts by path, time and size of the program.
pub async fn find(exe: &Path, places: &Places, cache: &Path) -> Found {
    let (candidates, default) = places.candidates();
    let language = places.language;
    let known: BTreeMap<PathBuf, Known> = fs::read(cache).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
    let mut kept = BTreeMap::new();
    let mut probes = tokio::task::JoinSet::new();
    for path in candidates {
        let Ok(meta) = fs::metadata(&path) else { continue };
        let stat = (meta.mtime(), meta.size());
        match known.get(&path) {
            Some(k) if k.stat == stat => {
                kept.insert(path, k.clone());
            }
            _ => {
                let exe = exe.to_owned();
                probes.spawn(async move {
                    let facts = probe(&exe, language, &path).await;
                    (path, Known { stat, facts })
                });
            }
        }
    }
    let fresh = !probes.is_empty() || kept.len() != known.len();
    while let Some(done) = probes.join_next().await {
        kept.extend(done);
    }
    if fresh && let (Ok(bytes), Some(folder)) = (serde_json::to_vec(&kept), cache.parent()) {
        let new = cache.with_extension(format!("{}.new", std::process::id()));
        // Without the cache they are asked again; nothing else is lost.
        let _ = fs::create_dir_all(folder).and_then(|()| fs::write(&new, bytes)).and_then(|()| fs::rename(&new, cache));
    }
    let mut all: Vec<Interpreter> = kept.into_values().filter_map(|k| k.facts).map(Facts::interpreter).collect();
    all.sort_by(|a, b| b.version.cmp(&a.version).then(a.executable.cmp(&b.executable)));
    all.dedup_by(|a, b| a.executable == b.executable);
    Found { all, default }
}

/// Chooses the one to build with, by contract: `named` by its option, else the pin, else the one last used, else the default.
pub async fn choose(
    exe: &Path,
    found: &Found,
    runtime: &Runtime,
    named: Option<&str>,
    last: Option<&str>,
) -> Result<Interpreter, ChooseError> {
    let language = runtime.versions.language();
    let oldest = language.oldest();
    if let Some(path) = named.filter(|p| p.contains('/') && !p.starts_with("lts/")) {
        let no = || ChooseError::Path { language, named: path.to_owned() };
        let real = fs::canonicalize(path).map_err(|_| no())?;
        let facts = probe(exe, language, &real).await.map(Facts::interpreter).filter(|i| i.version >= oldest);
        return facts.ok_or_else(no);
    }
    let asked = match named {
        Some(version) => Some(language.pin(version).ok_or_else(|| ChooseError::Path { language, named: version.to_owned() })?),
        None => None,
    };
    let constraint = asked.as_ref().unwrap_or(&runtime.versions);
    let fitting: Vec<&Interpreter> = found.all.iter().filter(|i| i.version >= oldest && constraint.admits(i.version)).collect();
    let last = last.and_then(|l| language.pin(l));
    let is_default = |i: &&&Interpreter| found.default.as_ref() == Some(&i.executable);
    let chosen = last
        .as_ref()
        .and_then(|last| fitting.iter().find(|i| last.admits(i.version)))
        .or_else(|| fitting.iter().find(is_default))
        // Code is most likely at home with the version nearest to the one that people here use: `>=3.12` was written with 3.12.
        .or_else(|| {
            let default = found.all.iter().find(|i| is_default(&i)).map_or(fitting.first()?.version, |i| i.version);
            let near = nearest(fitting.iter().copied(), default)?.version;
            fitting.iter().find(|i| i.version == near)
        });
    match chosen {
        Some(interpreter) => Ok((*interpreter).clone()),
        None if found.all.iter().all(|i| i.version < oldest) && constraint.is_any() => Err(ChooseError::None { language }),
        None => Err(ChooseError::Unsatisfied {
            language,
            wanted: constraint.to_string(),
            place: if asked.is_some() { language.option().unwrap_or_default().into() } else { runtime.pinned.clone().unwrap_or_default() },
            // What a project requires, its installer insists on; only a pin can be overruled.
            near: constraint
                .names()
                .filter(|_| asked.is_some() || !runtime.pinned.as_ref().is_some_and(|p| p.starts_with("pyproject.toml")))
                .and_then(|wanted| nearest(found.all.iter().filter(|i| i.version >= oldest), wanted))
                .map(|i| i.version),
            found: found.all.clone(),
        }),
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    /// Modification time in seconds, and size.
    stat: (i64, u64),
    /// `None`: it is no interpreter that can be used.
    facts: Option<Facts>,
}

/// Asked with `-S`, an interpreter answers in 10 ms; one that takes this long hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The interpreter of that language at a path, if there is one.
pub(crate) async fn at(exe: &Path, language: Language, program: &Path) -> Option<Interpreter> {
    let real = real(program)?;
    probe(exe, language, &real).await.map(Facts::interpreter)
}

async fn probe(exe: &Path, language: Language, program: &Path) -> Option<Facts> {
    let Question { args, env, read } = Question::of(language);
    let argv = std::iter::once(program.to_str()?).chain(args.iter().copied()).map(str::to_owned).collect();
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    // Its libraries lie beside its `bin`.
    let folder = program.parent()?;
    let installation = folder.parent().filter(|above| folder.ends_with("bin") && *above != Path::new("/")).unwrap_or(folder);
    let mounts = Stage::read_only(installation).into_iter().collect();
    let said = Arc::new(Mutex::new(None));
    let on_line: OnLine = {
        let (said, program) = (said.clone(), program.to_owned());
        Arc::new(move |line| {
            if let (Some(facts), Ok(mut said)) = (read(line, &program), said.lock()) {
                *said = Some(facts);
            }
        })
    };
    let Ok(runner) = Runner::here(exe, |apart| Ok::<_, Infallible>(Builder::stranger(apart))).await;
    let asked = runner.run(Command { argv, env, cwd: "/".into(), mounts }, on_line);
    let ended = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?;
    let facts = said.lock().ok()?.take()?;
    (ended.is_success() && facts.is_release(language)).then_some(facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dozen_core::dependencies::Versions;
    use dozen_core::dependencies::python::version::Constraint;
    use std::sync::LazyLock;

    /// Nothing is asked here.
    static NO_EXE: LazyLock<PathBuf> = LazyLock::new(PathBuf::new);

    fn interpreter(version: Release) -> Interpreter {
        let [major, minor, micro] = version;
        let prefix = PathBuf::from(format!("/opt/{major}.{minor}.{micro}"));
        Interpreter { version, executable: prefix.join("bin/python3"), prefix }
    }

    fn found() -> Found {
        let all: Vec<_> = [[3, 13, 0], [3, 12, 1], [3, 11, 7], [3, 11, 2], [3, 7, 9]].map(interpreter).to_vec();
        Found { default: Some(all[2].executable.clone()), all }
    }

    #[tokio::test]
    async fn the_pin_then_the_last_one_then_the_default() {
        let check = async |pin: &str, use_python: Option<&str>, last: Option<&str>, want: &str| {
            let constraint = if pin.is_empty() { Constraint::Any } else { Constraint::specifiers(pin).expect("valid") };
            let runtime = Runtime { versions: Versions::Python(constraint), pinned: Some("here:1".into()) };
            let got = choose(&NO_EXE, &found(), &runtime, use_python, last).await.map(|i| i.number());
            assert_eq!(got.as_deref().unwrap_or("none"), want, "{pin} {use_python:?} {last:?}");
        };
        check("", None, None, "3.11.7").await;
        check("", None, Some("3.12.1"), "3.12.1").await;
        check(">=3.12", None, Some("3.11.7"), "3.12.1").await;
        check("==3.11.2", None, None, "3.11.2").await;
        check("3.11", None, Some("3.11.2"), "3.11.2").await;
        check("", Some("3.13"), Some("3.12.1"), "3.13.0").await;
        check("", None, Some("3.9.1"), "3.11.7").await;
        check("<3.8", None, None, "none").await;
        check("", Some("/nowhere/python"), None, "none").await;
    }

    #[tokio::test]
    async fn what_is_missing_and_what_is_there_is_said() {
        let runtime = Runtime { versions: Versions::Python(Constraint::Prefix(vec![3, 9])), pinned: Some(".python-version:1".into()) };
        let error = choose(&NO_EXE, &found(), &runtime, None, None).await.expect_err("none").to_string();
        for part in ["Python 3.9 (.python-version:1)", "3.12.1   /opt/3.12.1/bin/python3", "--use-python PATH"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(error.contains("3.7.9    /opt/3.7.9/bin/python3  (too old: packages are installed for 3.8 and newer)"), "{error}");
        assert!(error.contains("`dozen up --use-python 3.11`"), "{error}");
        let required = Runtime {
            versions: Versions::Python(Constraint::specifiers(">=3.14").expect("valid")),
            pinned: Some("pyproject.toml:5".into()),
        };
        let error = choose(&NO_EXE, &found(), &required, None, None).await.expect_err("none").to_string();
        assert!(error.contains("Install it, or name one that lies elsewhere"), "{error}");
        let newer = Runtime { versions: Versions::Python(Constraint::specifiers(">=3.14,<4").expect("valid")), pinned: None };
        let error = choose(&NO_EXE, &found(), &newer, None, None).await.expect_err("none").to_string();
        assert!(error.contains("`dozen up --use-python 3.13`"), "{error}");
    }
}
