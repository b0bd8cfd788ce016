//! The steps of a plan, run: the layer, the source's own packages, static files, bytecode.
//!
//! What an app's own code (`setup.py`, Django's settings) may do in these is what its programs may: write the tree and the build's folders.

use super::beneath::Beneath;
use super::builder::Builder;
use super::failure;
use super::interpreters::{Found, Interpreter};
use super::layers::{self, Layer};
use super::runner::{Command, OnLine};
use super::stage::Stage;
use super::uv::{self, Uv};
use super::{BuildError, Request, blocking, tree, without_userinfo};
use crate::codebase::{self, fingerprint::Fingerprint, fingerprint::Hash};
use crate::output::Event;
use crate::processes::spec::APP;
use crate::release::scratch::Scratch;
use crate::release::store::{self, Known};
use dozen_core::dependencies::python::requirements;
use dozen_core::dependencies::{Lock, PACK_VERSION, Plan, Step, Tool};
use dozen_core::disposability::last_words;
use dozen_core::processes::Exit;
use dozen_core::processes::jail::Mount;
use dozen_core::release::Slug;
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The release of poetry that exports its own lock files, and of the plugin that it needs for that.
const POETRY: [&str; 2] = ["poetry==2.5.1", "poetry-plugin-export==1.10.1"];
/// The oldest Python that this poetry runs on.
const POETRY_PYTHON: [u32; 3] = [3, 10, 0];
/// How many of a failed program's last lines an error repeats.
const LAST_LINES: usize = 12;
/// How many are searched for the cause: a compiler says much after it.
const KEPT_LINES: usize = 1000;

/// How lines begin that only say how far an installer is.
const PASSING: [&str; 20] = [
    ".../",
    "Downloading ",
    "Downloaded ",
    "Building ",
    "Built ",
    "+ ",
    "Progress: ",
    "Packages: ",
    "Lockfile is up to date",
    "Scope: ",
    "dependencies:",
    "devDependencies:",
    "optionalDependencies:",
    "+++",
    "➤ YN",
    "[1/",
    "[2/",
    "[3/",
    "warning ",
    "npm warn ",
];

/// What of a program's lines is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// None.
    Nothing,
    /// An installer's, but for those that only say how far it is.
    Installer,
    /// All.
    All,
    /// A buildpack's, which has the form of a pusher's own: `-----> Step`, seven blanks before details, ` !     ` before warnings.
    Pack,
}

/// One build under way.
pub(super) struct Job<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) plan: &'a Plan,
    pub(super) interpreter: &'a Interpreter,
    pub(super) found: &'a Found,
    pub(super) cache: &'a Path,
    pub(super) stage: &'a Stage<'a>,
    pub(super) tree: &'a Path,
    /// What its files are known by.
    pub(super) print: &'a Fingerprint,
    /// The copy of the source that builds of packages may write into, once it is made.
    pub(super) source: tokio::sync::OnceCell<PathBuf>,
    /// What pip's configuration says of indexes, asked when uv is first run.
    pub(super) pip: tokio::sync::OnceCell<Vec<(String, String)>>,
}

/// What a program said and how it ended.
pub(super) struct Ran {
    pub(super) status: Exit,
    /// At most [`KEPT_LINES`], masked.
    pub(super) last: Vec<String>,
}

impl Job<'_> {
    /// The layer that the plan asks for, kept or made.
    pub(super) async fn layer(&self) -> Result<Option<Layer>, BuildError> {
        let Some(wanted) = &self.plan.layer else { return Ok(None) };
        let Tool::Uv { lock: kind, install } = &wanted.tool else { return Ok(None) };
        let began = Instant::now();
        let mut inputs = blake3::Hasher::new();
        for file in &wanted.key_files {
            let text = codebase::text(self.request.source, file).unwrap_or_default();
            for part in [file.as_str(), text.as_str()] {
                inputs.update(&(part.len() as u64).to_le_bytes());
                inputs.update(part.as_bytes());
            }
        }
        let inputs = *inputs.finalize().as_bytes();
        let locks = self.cache.join("locks");
        let lock = locks.join(format!("{}.txt", &self.lock_key(&wanted.from, &inputs)[..32]));
        let (list, named) = match kind {
            Lock::Own => (None, "hash-checked"),
            Lock::Made(text) => (Some(text.clone()), "locked"),
            Lock::Poetry | Lock::Resolved { .. } => (fs::read_to_string(&lock).ok(), "resolved"),
        };
        let place = |list: &Option<String>| {
            let content = list.as_ref().map_or(inputs, |l| *blake3::hash(l.as_bytes()).as_bytes());
            let key = self.key(&["layer", &wanted.from, &install.join(" ")], &content);
            layers::place(self.cache, blake3::hash(key.as_bytes()).as_bytes())
        };
        if (list.is_some() || *kind == Lock::Own)
            && let Some(layer) = Layer::open(&place(&list))
        {
            self.request.output.step(&format!("Installing dependencies ({})", wanted.from));
            self.request.output.detail("Restored from cache (lock unchanged)");
            return Ok(Some(layer));
        }

        let on_fetch = || self.request.output.busy("fetching uv");
        let uv = Uv::get(self.request.home, self.found, self.stage, &on_fetch).await?;
        self.request.output.step(&format!("Installing dependencies with uv {} ({}, {named})", uv.version, wanted.from));
        let source = self.source_copy().await?;
        let list = match (kind, list) {
            (_, Some(list)) => Some(list),
            (Lock::Own | Lock::Made(_), None) => None,
            (Lock::Poetry, None) => Some(self.export(&uv, &source).await?),
            (Lock::Resolved { input, pinned, advice }, None) => Some(self.resolve(&uv, &source, input, pinned, advice).await?),
        };
        if let (Some(list), Lock::Poetry | Lock::Resolved { .. }) = (&list, kind) {
            let written = |source| BuildError::Write { path: lock.clone(), source };
            fs::create_dir_all(&locks).and_then(|()| tree::write_whole(&lock, list.as_bytes())).map_err(written)?;
        }

        let layers = self.cache.join("layers");
        let scratch = Scratch::new(&layers).map_err(|source| BuildError::Write { path: layers, source })?;
        let made = scratch.path().join("tree");
        self.stage.builder().make(&made).map_err(|source| BuildError::Write { path: made.clone(), source })?;
        let venv = made.join(".venv");
        let text = |p: &Path| p.to_string_lossy().into_owned();
        let args = ["venv", "--quiet", "--relocatable", "--no-project", "--python", &text(&self.interpreter.executable), &text(&venv)];
        self.uv(&uv, args.map(str::to_owned).to_vec(), Some(&made), &self.stage.build(), "uv venv").await?;
        if list.as_deref() != Some("") {
            let file = self.stage.given().join("list.txt");
            fs::write(&file, list.as_deref().unwrap_or_default()).map_err(|source| BuildError::Write { path: file.clone(), source })?;
            let shown = format!("uv {}", install[..2].join(" "));
            self.uv(&uv, fill(install, &venv, &source, &file), Some(&made), &source, &shown).await?;
        }
        self.compile_in(&made, &python_files(&made)).await?;
        let place = place(&list);
        let layer = blocking(move || Layer::keep(&scratch, &place)).await?;
        self.request.output.emit(Event::Done(began.elapsed()));
        Ok(Some(layer))
    }

    /// Puts the layer into the tree, so that no code of the app can write to the files that it shares. Answers whether it can write beside
    /// them either.
    pub(super) fn lay(&self, layer: &Layer) -> std::io::Result<bool> {
        let (builder, mounted) = (self.stage.builder(), self.stage.runner.mounted);
        let apart = builder.uid().is_some();
        let project = self.plan.steps.iter().any(|s| matches!(s, Step::Project { .. }));
        if !project && (mounted || self.plan.steps.is_empty()) {
            layer.link(self.tree, Builder::NOBODY)?;
            return Ok(false);
        }
        if apart {
            layer.link(self.tree, builder)?
        } else {
            layer.copy(self.tree, builder)?
        }
        Ok(true)
    }

    /// Installs the source's own packages on top of the layer.
    pub(super) async fn project(&self) -> Result<(), BuildError> {
        for step in &self.plan.steps {
            let Step::Project { args } = step else { continue };
            let began = Instant::now();
            let uv = Uv::get(self.request.home, self.found, self.stage, &|| ()).await?;
            self.request.output.step("Installing the app's own packages");
            let source = self.source_copy().await?;
            let venv = self.tree.join(".venv");
            let shown = format!("uv {}", args[..2].join(" "));
            self.uv(&uv, fill(args, &venv, &source, Path::new("")), Some(self.tree), &source, &shown).await?;
            layers::strip(self.tree).map_err(|source| BuildError::Write { path: venv.clone(), source })?;
            self.request.output.emit(Event::Done(began.elapsed()));
        }
        Ok(())
    }

    /// Collects Django's static files, with the deploy's config.
    pub(super) async fn collect_static(&self, skip: bool) -> Result<(), BuildError> {
        for step in &self.plan.steps {
            let Step::CollectStatic { manage } = step else { continue };
            let venv = self.tree.join(".venv");
            if !layers::site_packages(&venv).iter().any(|s| s.join("django/__init__.py").is_file()) {
                continue;
            }
            let shown = format!("python {manage} collectstatic --noinput");
            if skip {
                self.request.output.detail("collectstatic is skipped (DISABLE_COLLECTSTATIC)");
                continue;
            }
            let began = Instant::now();
            self.request.output.step(&format!("$ {shown}"));
            let mut env = self.base_env();
            let app = self.tree.to_string_lossy();
            env.extend(self.plan.env.iter().map(|(k, v)| (k.clone(), v.replace("{app}", &app))));
            env.extend(self.request.placeholders.iter().map(|n| (n.clone(), "placeholder".to_owned())));
            env.extend(self.request.config.iter().cloned());
            let python = venv.join("bin/python").to_string_lossy().into_owned();
            let argv = [python.as_str(), manage, "collectstatic", "--noinput"].map(str::to_owned).to_vec();
            // What the layer shares with slugs is read.
            let packages = Mount { source: venv.clone(), target: Path::new(APP).join(".venv"), writable: false };
            let mounts = vec![Stage::app(self.tree), packages];
            let ran = self.run_command(Command { argv, env, cwd: self.tree.to_owned(), mounts }, &shown, Show::All).await?;
            if !ran.status.is_success() {
                let said = |text: &str| ran.last.iter().any(|l| l.contains(text));
                if said("Unknown command: 'collectstatic'") {
                    self.request.output.detail("Skipped: django.contrib.staticfiles is not among INSTALLED_APPS");
                } else if said("without having set the STATIC_ROOT") {
                    self.request.output.detail("Skipped: the settings name no STATIC_ROOT");
                } else {
                    let missing = ran.last.iter().rev().find_map(|l| l.strip_prefix("KeyError: ")).map(|n| n.trim_matches(['\'', '"']));
                    let cure = match missing {
                        Some(name) => format!(
                            "The settings need the config var {name}: give it a value with `dozen config set {name}=...`, or skip this step with `dozen config set DISABLE_COLLECTSTATIC=1`"
                        ),
                        None => {
                            let cause = last_words::cause(&ran.last).map(|c| format!("Likely cause: {}. {}.\n", c.what, c.cure));
                            format!(
                                "{}Make that command work, or skip this step with `dozen config set DISABLE_COLLECTSTATIC=1`",
                                cause.unwrap_or_default()
                            )
                        }
                    };
                    return Err(failed(&shown, &ran, cure));
                }
            }
            self.request.output.emit(Event::Done(began.elapsed()));
        }
        Ok(())
    }

    /// Compiles what the layer did not bring, so that a slug that nothing can write to starts fast.
    ///
    /// `last` is the slug before this one: what did not change since is taken from there, and is known then.
    pub(super) async fn compile(&self, known: &mut Known, last: Option<&Slug>) -> Result<(), BuildError> {
        let mut sources = python_files(self.tree);
        sources.retain(|path| !known.contains_key(path));
        self.reuse_bytecode(&mut sources, known, last).map_err(|source| BuildError::Write { path: self.tree.to_owned(), source })?;
        self.compile_in(self.tree, &sources).await
    }

    /// Links bytecode of unchanged files from the last slug, and takes those files off the list. Python writes bytecode by renaming, so a
    /// link is never written through.
    fn reuse_bytecode(&self, sources: &mut Vec<String>, known: &mut Known, last: Option<&Slug>) -> std::io::Result<()> {
        let runtime = Some(format!("Python {}", self.interpreter.number()));
        let Some(last) = last.filter(|l| l.stack.runtime == runtime) else { return Ok(()) };
        let Some(entries) = store::entries(self.request.home, &last.id) else { return Ok(()) };
        let old: HashMap<&str, &store::Entry> = entries.iter().map(|e| (e.path.as_str(), e)).collect();
        let kept = self.request.home.slug(&last.id).join("tree");
        let tree = Beneath::open(self.tree)?;
        let [major, minor, _] = self.interpreter.version;
        sources.retain(|path| {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            let slash = if folder.is_empty() { "" } else { "/" };
            let compiled = format!("{folder}{slash}__pycache__/{}.cpython-{major}{minor}.pyc", name.trim_end_matches(".py"));
            let same = |entry: &store::Entry| {
                let read = tree.file(Path::new(path)).and_then(codebase::fingerprint::hash);
                read.is_ok_and(|now| store::hex(&now) == entry.hash)
            };
            let (Some(source), Some(entry)) = (old.get(path.as_str()), old.get(compiled.as_str())) else { return true };
            let from = kept.join(&compiled);
            let link = || {
                tree.put(&compiled, self.stage.builder(), |to| fs::hard_link(&from, to))?;
                fs::symlink_metadata(&from)
            };
            match link_if(same(source), link) {
                Some(meta) => {
                    known.insert(compiled, ((*entry).clone(), (meta.mtime(), meta.mtime_nsec())));
                    false
                }
                None => true,
            }
        });
        Ok(())
    }

    /// Compiles these files of a folder with the bare interpreter, as if they lay in `/app`.
    async fn compile_in(&self, folder: &Path, sources: &[String]) -> Result<(), BuildError> {
        if sources.is_empty() {
            return Ok(());
        }
        self.request.output.busy("compiling bytecode");
        let list = self.stage.given().join("compile.txt");
        let lines: String = sources.iter().map(|s| format!("{s}\n")).collect();
        fs::write(&list, lines).map_err(|source| BuildError::Write { path: list.clone(), source })?;
        let jobs = std::thread::available_parallelism().map_or(1, usize::from).to_string();
        let (python, path, list) = (self.interpreter.executable.to_string_lossy(), folder.to_string_lossy(), list.to_string_lossy());
        let argv = [&python, "-s", "-W", "ignore", "-c", include_str!("compile.py"), &path, &list, &jobs].map(str::to_owned).to_vec();
        let mut env = self.base_env();
        // Before 3.11, sets would otherwise be written in another order each time.
        env.push(("PYTHONHASHSEED".into(), "0".into()));
        let shown = "compiling bytecode";
        // The working folder is where Python looks for modules first.
        let ran = self.run(argv, env, Some(folder), Path::new("/"), shown, Show::Nothing).await?;
        if ran.status.is_success() { Ok(()) } else { Err(failed(shown, &ran, "Run the command again; is there enough memory?".into())) }
    }

    /// Resolves what the input leaves open, once.
    async fn resolve(&self, uv: &Uv, source: &Path, input: &str, pinned: &[String], advice: &str) -> Result<String, BuildError> {
        self.request.output.busy("resolving");
        let out = self.stage.build().join("resolved.txt");
        let python = self.interpreter.executable.to_string_lossy().into_owned();
        let args = [
            "pip",
            "compile",
            "--quiet",
            "--generate-hashes",
            "--no-header",
            "--no-annotate",
            "--emit-index-url",
            "--emit-find-links",
            "--python",
            &python,
            input,
            "-o",
            &out.to_string_lossy(),
        ];
        self.uv(uv, args.map(str::to_owned).to_vec(), None, source, "uv pip compile").await?;
        let resolved = self.result("resolved.txt").map_err(|source| BuildError::Write { path: out.clone(), source })?;
        let list = requirements::without_local(&resolved);
        let open = requirements::names(&list).iter().filter(|n| !pinned.contains(n)).count();
        if open > 0 {
            self.request
                .output
                .warning(&format!("{input} leaves the versions of {open} packages open; what was resolved now is kept for this app"));
            self.request.output.warning(&format!("To lock them for everyone: {advice}"));
        }
        Ok(list)
    }

    /// Has poetry say what its lock means.
    async fn export(&self, uv: &Uv, source: &Path) -> Result<String, BuildError> {
        self.request.output.busy("reading poetry.lock");
        let out = self.stage.build().join("exported.txt");
        let able = |i: &&Interpreter| i.version >= POETRY_PYTHON;
        let python = if able(&self.interpreter) { Some(self.interpreter) } else { self.found.all.iter().find(able) };
        let python = python.map(|p| p.executable.to_string_lossy().into_owned()).unwrap_or_default();
        let [poetry, plugin] = POETRY;
        let out_arg = out.to_string_lossy();
        let args = [
            "tool",
            "run",
            "--quiet",
            "--python",
            &python,
            "--from",
            poetry,
            "--with",
            plugin,
            "poetry",
            "export",
            "--no-ansi",
            "--no-interaction",
            "--only",
            "main",
            "-f",
            "requirements.txt",
            "-o",
            &out_arg,
        ];
        self.uv(uv, args.map(str::to_owned).to_vec(), None, source, "poetry export").await?;
        let exported = self.result("exported.txt").unwrap_or_default();
        if exported.contains("file://") {
            self.request
                .output
                .warning("poetry.lock names folders as dependencies; they are not installed. List them as `packages` of the app");
        }
        Ok(requirements::without_local(&exported))
    }

    /// What a program wrote for dozen.
    fn result(&self, name: &str) -> std::io::Result<String> {
        Beneath::open(&self.stage.build())?.text(name)
    }

    /// A copy of the source that builds of packages may write into; made once a build, before any of them.
    pub(super) async fn source_copy(&self) -> Result<PathBuf, BuildError> {
        let copy = self.stage.build().join("source");
        let make = async || {
            let (from, to, builder) = (self.tree.to_owned(), copy.clone(), self.stage.builder());
            let done = blocking(move || copy_tree(&from, &to, builder)).await;
            done.map(|()| copy.clone()).map_err(|source| BuildError::Write { path: copy.clone(), source })
        };
        self.source.get_or_try_init(make).await.cloned()
    }

    /// Runs uv, for the environment in `app` where that is named; its output is shown.
    async fn uv(&self, uv: &Uv, mut args: Vec<String>, app: Option<&Path>, cwd: &Path, shown: &str) -> Result<(), BuildError> {
        let pip = self.pip.get_or_init(|| uv::pip_settings(self.found, self.stage)).await;
        let mut env = uv::environment(&self.stage.home(), &self.stage.downloads("uv"), self.interpreter, pip);
        env.push(("TMPDIR".into(), self.stage.tmp().to_string_lossy().into_owned()));
        // The source has no history here to read a version from.
        env.push(("SETUPTOOLS_SCM_PRETEND_VERSION".into(), "0".into()));
        env.extend(
            [("POETRY_VIRTUALENVS_CREATE", "false"), ("POETRY_KEYRING_ENABLED", "false")].map(|(k, v)| (k.to_owned(), v.to_owned())),
        );
        let venv = app.map(|app| app.join(".venv")).unwrap_or_default();
        match args.first().map(String::as_str) {
            Some("sync") => env.push(("UV_PROJECT_ENVIRONMENT".into(), venv.to_string_lossy().into_owned())),
            Some("pip") if args.get(1).is_some_and(|a| a == "install") => {
                let python = venv.join("bin/python").to_string_lossy().into_owned();
                args.splice(2..2, ["--python".to_owned(), python]);
            }
            _ => {}
        }
        let mut argv = vec![uv.program.to_string_lossy().into_owned()];
        argv.extend(args);
        let local = uv::folders(&env).into_iter().chain([uv.program.clone()]);
        let mut mounts: Vec<Mount> = local.filter_map(|path| Stage::read_only(&path)).collect();
        mounts.extend(app.map(Stage::app));
        let ran = self.run_command(Command { argv, env, cwd: cwd.to_owned(), mounts }, shown, Show::Installer).await?;
        if ran.status.is_success() {
            Ok(())
        } else {
            let from = self.plan.layer.as_ref().map_or("", |l| &l.from);
            Err(failed(shown, &ran, failure::uv_cure(&ran.last, from, self.interpreter, &self.found.all)))
        }
    }

    async fn run(
        &self,
        argv: Vec<String>,
        env: Vec<(String, String)>,
        app: Option<&Path>,
        cwd: &Path,
        shown: &str,
        show: Show,
    ) -> Result<Ran, BuildError> {
        let mounts = app.map(Stage::app).into_iter().collect();
        self.run_command(Command { argv, env, cwd: cwd.to_owned(), mounts }, shown, show).await
    }

    /// Runs a program; its lines are masked, and shown where that is wanted.
    pub(super) async fn run_command(&self, command: Command, shown: &str, show: Show) -> Result<Ran, BuildError> {
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let on_line: OnLine = {
            let (last, mask, output) = (last.clone(), self.request.mask.clone(), self.request.output.clone());
            let places = self.stage.places();
            Arc::new(move |line: &str| {
                let shown = mask.apply(&without_userinfo(line)).into_owned();
                let line = places.iter().fold(shown, |line, (seen, meant)| line.replace(seen, meant));
                if line.trim().is_empty() || line.starts_with("Using Python ") {
                    return;
                }
                // What is installed stands in the lock; how much of it, in uv's own last line.
                let passing = show == Show::Installer && PASSING.iter().any(|p| line.trim_start().starts_with(p));
                match show {
                    Show::Nothing => {}
                    _ if passing => output.busy(line.trim_start()),
                    Show::Installer | Show::All => output.detail(&line),
                    Show::Pack => match (line.strip_prefix("-----> "), line.trim_start().strip_prefix("! ")) {
                        (Some(step), _) => output.step(step),
                        (None, Some(warning)) => output.warning(warning.trim_start()),
                        (None, None) => output.detail(line.strip_prefix("       ").unwrap_or(&line)),
                    },
                }
                if let Ok(mut last) = last.lock() {
                    if last.len() == KEPT_LINES {
                        last.pop_front();
                    }
                    last.push_back(line);
                }
            })
        };
        let status = self.stage.run(command, on_line).await.map_err(|source| BuildError::Start { command: shown.into(), source })?;
        let last = last.lock().map(|l| l.iter().cloned().collect()).unwrap_or_default();
        Ok(Ran { status, last })
    }

    /// What every program of a build has.
    pub(super) fn base_env(&self) -> Vec<(String, String)> {
        let text = |p: PathBuf| p.to_string_lossy().into_owned();
        vec![
            ("PATH".into(), Stage::path(self.interpreter)),
            ("HOME".into(), text(self.stage.home())),
            ("TMPDIR".into(), text(self.stage.tmp())),
            ("LANG".into(), "C.UTF-8".into()),
        ]
    }

    /// The key of a kept resolution, which a newer patch release of Python does not make void.
    fn lock_key(&self, from: &str, inputs: &Hash) -> String {
        let [major, minor, _] = self.interpreter.version;
        let parts = (PACK_VERSION, from, store::hex(inputs), major, minor, std::env::consts::ARCH);
        blake3::hash(&serde_json::to_vec(&parts).unwrap_or_default()).to_hex().to_string()
    }

    /// A key of the cache: what is done, with what, on what.
    fn key(&self, parts: &[&str], content: &Hash) -> String {
        let parts = (PACK_VERSION, parts, store::hex(content), self.interpreter.number(), &self.interpreter.prefix, std::env::consts::ARCH);
        blake3::hash(&serde_json::to_vec(&parts).unwrap_or_default()).to_hex().to_string()
    }
}

fn fill(args: &[String], venv: &Path, source: &Path, list: &Path) -> Vec<String> {
    let text = |p: &Path| p.to_string_lossy().into_owned();
    let (venv, source, list) = (text(venv), text(source), text(list));
    args.iter().map(|a| a.replace("{venv}", &venv).replace("{source}", &source).replace("{lock}", &list)).collect()
}

pub(super) fn failed(shown: &str, ran: &Ran, cure: String) -> BuildError {
    let status = match ran.status {
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal(signal) => format!("signal {signal}"),
        Exit::Lost => "SIGKILL from outside".into(),
    };
    BuildError::Step { command: shown.to_owned(), status, last: failure::telling(&ran.last, LAST_LINES), cure }
}

/// Every `.py` file of a tree, sorted.
fn python_files(root: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut queue = vec![PathBuf::new()];
    while let Some(relative) = queue.pop() {
        for entry in fs::read_dir(root.join(&relative)).into_iter().flatten().flatten() {
            let path = relative.join(entry.file_name());
            match entry.file_type() {
                Ok(t) if t.is_dir() => queue.push(path),
                // The list is one of lines.
                Ok(t) if t.is_file() && path.extension().is_some_and(|e| e == "py") => {
                    out.extend(path.to_str().filter(|p| !p.contains(['\n', '\r'])).map(str::to_owned));
                }
                _ => {}
            }
        }
    }
    out.sort();
    out
}

fn link_if<T>(same: bool, link: impl FnOnce() -> std::io::Result<T>) -> Option<T> {
    if same { link().ok() } else { None }
}

/// Copies a tree that no program has written to, but for its environment.
fn copy_tree(from: &Path, to: &Path, builder: Builder) -> std::io::Result<()> {
    builder.make(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_dir() && entry.file_name() != ".venv" {
            copy_tree(&source, &target, builder)?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
        } else {
            continue;
        }
        builder.give(&target)?;
    }
    Ok(())
}
