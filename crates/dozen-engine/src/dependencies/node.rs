//! Node at work: package managers, layers of `node_modules`, the app's own scripts.
//!
//! **Invariant:** a layer and a slug are made at `/app` where the host allows mounts, so that no path of this machine gets into them.
//! **Invariant:** scripts write copies, never the files that a layer shares with slugs. The first link to these is made when the last one ran.

use super::beneath::Beneath;
use super::builder::Builder;
use super::interpreters::Interpreter;
use super::layers::{self, Layer};
use super::runner::Command;
use super::stage::Stage;
use super::steps::{Job, Ran, Show, failed};
use super::{BuildError, blocking, tree};
use crate::codebase::fingerprint;
use crate::output::Event;
use crate::processes::spec::APP;
use crate::release::scratch::Scratch;
use crate::release::store::{self, Known};
use dozen_core::dependencies::node::{BAKED, Install, Manager, Script, When};
use dozen_core::dependencies::{PACK_VERSION, Step, Tool};
use failure::Failed;
use prune::Pruning;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tools::Program;

mod failure;
mod prune;
mod tools;

pub(super) use tools::{settings, user_config};

/// One build of a Node app under way.
pub(super) struct Node<'a> {
    job: &'a Job<'a>,
    install: Option<&'a Install>,
    program: Program,
    /// Whether what is made is seen at [`APP`].
    mounted: bool,
}

/// Which packages a layer has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Packages {
    /// Those that are needed to run.
    Needed,
    /// Those for development too.
    All,
}

impl<'a> Node<'a> {
    /// Finds what is needed: npm, and the package manager that the plan names.
    pub(super) async fn begin(job: &'a Job<'a>) -> Result<Self, BuildError> {
        let install = job.plan.layer.as_ref().and_then(|l| match &l.tool {
            Tool::Node(install) => Some(&**install),
            Tool::Uv { .. } => None,
        });
        let mounted = job.stage.runner.mounted;
        let program = tools::get(job, install).await?;
        Ok(Self { job, install, program, mounted })
    }

    /// Installs, builds, and leaves in the tree what is needed to run. Answers what is known of its files.
    pub(super) async fn run(&self) -> Result<Known, BuildError> {
        self.note_baked();
        self.scripts(When::Before).await?;
        let scripted = self.job.plan.steps.iter().any(|s| matches!(s, Step::Script(s) if s.when != When::Before));
        let Some(install) = self.install else {
            self.scripts(When::Build).await?;
            self.scripts(When::After).await?;
            self.without_caches()?;
            return Ok(Known::new());
        };
        let tree = self.job.tree;
        let written = |source| BuildError::Write { path: tree.to_owned(), source };
        // For tests all of it stays.
        let everything = install.development && self.job.request.development;
        let all = if install.development && !everything { Some(self.layer(install, Packages::All).await?) } else { None };
        let needed = self.layer(install, if everything { Packages::All } else { Packages::Needed }).await?;
        let known = if scripted {
            let installed = all.as_ref().unwrap_or(&needed);
            installed.copy(tree, self.job.stage.builder()).map_err(written)?;
            self.make_executable(install).map_err(written)?;
            self.scripts(When::Build).await?;
            let pruning = Pruning::of(installed, &needed, &install.kept);
            let removed = pruning.remove(tree).map_err(written)?;
            if removed > 0 {
                self.job.request.output.detail(&format!("{removed} packages for development are left out of the slug"));
            }
            self.scripts(When::After).await?;
            pruning.link(tree).map_err(written)?
        } else {
            needed.link(tree, Builder::NOBODY).map_err(written)?;
            self.make_executable(install).map_err(written)?;
            needed.known()
        };
        self.without_caches()?;
        if install.called {
            self.program.keep(tree, install).map_err(written)?;
        }
        self.check_start(install)?;
        Ok(known)
    }

    /// Does to the workspace's own programs what package managers do when they make commands of them.
    fn make_executable(&self, install: &Install) -> io::Result<()> {
        let tree = Beneath::open(self.job.tree)?;
        let files = install.programs.iter().filter_map(|path| tree.file(Path::new(path)).ok());
        files.into_iter().try_for_each(|file| file.set_permissions(fs::Permissions::from_mode(0o755)))
    }

    /// A default `start` whose program is not in the slug cannot run.
    fn check_start(&self, install: &Install) -> Result<(), BuildError> {
        let Some(program) = &install.development_start else { return Ok(()) };
        let there = self.job.tree.join("node_modules/.bin").join(program).symlink_metadata().is_ok();
        if there || !self.job.request.processes.is_empty() {
            return Ok(());
        }
        let made = ["dist", "build"].iter().find_map(|f| entry(&self.job.tree.join(f), 2)).and_then(|p| {
            let path = p.strip_prefix(self.job.tree).ok()?;
            Some(path.to_string_lossy().into_owned())
        });
        let do_so = match made {
            Some(made) => format!(
                "Add a Procfile that runs what `build` makes, with a line like `web: node {made}`, or move that package to `dependencies`"
            ),
            None => "Move that package to `dependencies`, or have `build` make what node runs, and add a Procfile that names it".into(),
        };
        Err(BuildError::NoProcesses {
            cure: format!(
                "The script `start` runs {program}, which a package for development brings, and a slug holds none of these. {do_so}"
            ),
        })
    }

    /// Values that a build writes into files are fixed until the next build.
    fn note_baked(&self) {
        let names: Vec<&str> = baked(self.job.request.config).map(|(n, _)| n.as_str()).collect();
        if !names.is_empty() && !self.job.plan.steps.is_empty() {
            self.job
                .request
                .output
                .detail(&format!("The build writes the values of {} into its files; a change needs a new build", names.join(", ")));
        }
    }

    /// The layer with these packages, kept or made.
    async fn layer(&self, install: &Install, packages: Packages) -> Result<Layer, BuildError> {
        let (job, output) = (self.job, &self.job.request.output);
        let began = Instant::now();
        let from = job.plan.layer.as_ref().map_or("", |l| l.from.as_str());
        let title = match packages {
            Packages::All => "Installing all dependencies",
            Packages::Needed if install.development => "Installing those that are needed to run",
            Packages::Needed => "Installing dependencies",
        };
        let failing = |path: &Path| {
            let path = path.to_owned();
            move |source| BuildError::Write { path, source }
        };
        let mut inputs = blake3::Hasher::new();
        let mut add = |part: &[u8]| {
            inputs.update(&(part.len() as u64).to_le_bytes());
            inputs.update(part);
        };
        for (path, text) in &install.manifests {
            add(path.as_bytes());
            add(text.as_bytes());
        }
        for path in &install.files {
            add(path.as_bytes());
            if let Some(file) = plain(job.tree, path) {
                add(&fingerprint::hash(file).map_err(failing(&job.tree.join(path)))?);
            }
        }
        // Commands are made of programs that are there, and for the interpreter that their first line names; the rest is the source's.
        let programs: Vec<(&String, Vec<u8>)> = install.programs.iter().map(|p| (p, interpreter_line(job.tree, p))).collect();
        for (path, line) in &programs {
            add(path.as_bytes());
            add(line);
        }
        let inputs = store::hex(inputs.finalize().as_bytes());
        let lock = job.cache.join("locks").join(format!("{}.json", &inputs[..32]));
        let resolved = if install.lock.is_none() { fs::read_to_string(&lock).ok() } else { None };
        let place = |resolved: &Option<String>| {
            let node = (job.interpreter.number(), &job.interpreter.prefix);
            let how = (packages == Packages::All, self.mounted, std::env::consts::ARCH, &self.program.version, install.chooses_builds);
            let parts = (PACK_VERSION, "node", install.manager.command(), &inputs, resolved, node, how);
            layers::place(job.cache, blake3::hash(&serde_json::to_vec(&parts).unwrap_or_default()).as_bytes())
        };
        if (install.lock.is_some() || resolved.is_some())
            && let Some(layer) = Layer::open(&place(&resolved))
        {
            output.step(&format!("{title} ({from})"));
            output.detail("Restored from cache (lock unchanged)");
            return Ok(layer);
        }
        let named = if install.lock.is_some() { "locked" } else { "resolved" };
        output.step(&format!("{title} with {} {} ({from}, {named})", install.manager.command(), self.program.version));

        let layers = job.cache.join("layers");
        let scratch = Scratch::new(&layers).map_err(failing(&layers))?;
        let made = scratch.path().join("tree");
        let builder = job.stage.builder();
        builder.make(&made).map_err(failing(&made))?;
        let put = |path: &str, text: &[u8]| {
            Beneath::open(&made).and_then(|folder| folder.write(path, text, builder)).map_err(failing(&made.join(path)))
        };
        for path in &install.files {
            if let Some(mut file) = plain(job.tree, path) {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).map_err(failing(&job.tree.join(path)))?;
                put(path, &bytes)?;
            }
        }
        for (path, text) in &install.manifests {
            put(path, text.as_bytes())?;
        }
        for (path, line) in &programs {
            put(path, line)?;
        }
        let resolved = match (&install.lock, resolved) {
            (Some(_), _) => None,
            (None, Some(text)) => Some(text),
            (None, None) => Some(self.resolve(install, &made, &lock).await?),
        };
        if let Some(text) = &resolved {
            put("package-lock.json", text.as_bytes())?;
        }
        for arguments in tools::install(install, packages == Packages::All, self.program.version.as_str()) {
            self.manage(install, &made, arguments).await?;
        }
        let (folder, place) = (made.clone(), place(&resolved));
        blocking(move || prune::only_modules(&folder)).await.map_err(failing(&made))?;
        let layer = blocking(move || Layer::keep(&scratch, &place)).await?;
        output.emit(Event::Done(began.elapsed()));
        Ok(layer)
    }

    /// Has npm say, once, what the declared versions come to.
    async fn resolve(&self, install: &Install, folder: &Path, lock: &Path) -> Result<String, BuildError> {
        self.job.request.output.busy("resolving");
        let arguments = ["install", "--package-lock-only", "--no-audit", "--no-fund", "--loglevel=error"].map(str::to_owned);
        self.manage(install, folder, arguments.to_vec()).await?;
        let made = folder.join("package-lock.json");
        let read = Beneath::open(folder).and_then(|folder| folder.text("package-lock.json"));
        let text = read.map_err(|source| BuildError::Write { path: made, source })?;
        let written = |source| BuildError::Write { path: lock.to_owned(), source };
        fs::create_dir_all(lock.parent().unwrap_or(lock)).and_then(|()| tree::write_whole(lock, text.as_bytes())).map_err(written)?;
        let output = &self.job.request.output;
        output.warning("There is no lock file; what was resolved now is kept for this app");
        output.warning("To lock the versions for everyone: `npm install`, and commit package-lock.json");
        Ok(text)
    }

    /// Runs the package manager in a folder under construction.
    async fn manage(&self, install: &Install, folder: &Path, arguments: Vec<String>) -> Result<(), BuildError> {
        let shown = format!("{} {}", install.manager.command(), arguments.iter().take(1).cloned().collect::<Vec<_>>().join(" "));
        let mut env = tools::environment(self.job, Some(install), &self.app(folder))?;
        // No question is asked: nobody is there to answer.
        env.push(("CI".into(), "true".into()));
        let mut argv = self.program.argv(self.job.interpreter, &self.app(folder));
        argv.extend(arguments);
        let ran = self.command(argv, env, folder, "", (&shown, Show::Installer)).await?;
        let from = self.job.plan.layer.as_ref().map_or("", |l| l.from.as_str());
        if ran.status.is_success() { Ok(()) } else { Err(self.told(&shown, ran, from, Failed::Install)) }
    }

    /// Runs the app's own scripts of one moment.
    async fn scripts(&self, when: When) -> Result<(), BuildError> {
        for step in &self.job.plan.steps {
            let Step::Script(script) = step else { continue };
            if script.when == when {
                self.script(script).await?;
            }
        }
        Ok(())
    }

    async fn script(&self, script: &Script) -> Result<(), BuildError> {
        let began = Instant::now();
        let tree = self.job.tree;
        let app = self.app(tree);
        let manager = self.install.map_or(Manager::Npm, |i| i.manager);
        let within = if script.folder.is_empty() { String::new() } else { format!(" (in {})", script.folder) };
        let shown = format!("{} run {}", manager.command(), script.name);
        self.job.request.output.step(&format!("$ {shown}{within}"));
        let mut env: Vec<(String, String)> = Vec::new();
        for (name, value) in self.job.plan.env.iter().filter(|(n, _)| n != "PATH") {
            env.push((name.clone(), value.replace("{app}", &app.to_string_lossy())));
        }
        env.extend(tools::environment(self.job, self.install, &app)?);
        env.extend(self.job.request.placeholders.iter().map(|n| (n.clone(), "placeholder".to_owned())));
        env.extend(self.job.request.config.iter().filter(|(n, _)| n != "PATH").cloned());
        let mut argv = self.program.argv(self.job.interpreter, &app);
        argv.extend(["run".to_owned(), script.name.clone()]);
        // Its warnings are about settings of this machine.
        env.push(("npm_config_loglevel".into(), "error".into()));
        let ran = self.command(argv, env, tree, &script.folder, (&shown, Show::All)).await?;
        if !ran.status.is_success() {
            return Err(self.told(&format!("{shown}{within}"), ran, "package.json", Failed::Script));
        }
        self.job.request.output.emit(Event::Done(began.elapsed()));
        Ok(())
    }

    async fn command(
        &self,
        argv: Vec<String>,
        env: Vec<(String, String)>,
        folder: &Path,
        within: &str,
        (shown, show): (&str, Show),
    ) -> Result<Ran, BuildError> {
        let mut mounts: Vec<_> = self.program.folders().iter().filter_map(|f| Stage::read_only(f)).collect();
        mounts.push(Stage::app(folder));
        // Of two values of a name the last is meant.
        let env = env.into_iter().collect::<std::collections::BTreeMap<_, _>>().into_iter().collect();
        let cwd = self.app(folder).join(within);
        self.job.run_command(Command { argv, env, cwd, mounts }, shown, show).await
    }

    fn told(&self, shown: &str, ran: Ran, from: &str, what: Failed) -> BuildError {
        let cure = failure::cure(&ran.last, from, self.install.map_or(Manager::Npm, |i| i.manager), self.job.interpreter, what);
        let last = failure::telling(&ran.last);
        failed(shown, &Ran { last, ..ran }, cure)
    }

    /// Where a folder under construction is seen.
    fn app(&self, folder: &Path) -> PathBuf {
        if self.mounted { APP.into() } else { folder.to_owned() }
    }

    /// Build tools' own caches are of no use at run time, and differ from build to build.
    fn without_caches(&self) -> Result<(), BuildError> {
        let written = |source| BuildError::Write { path: self.job.tree.to_owned(), source };
        let tree = Beneath::open(self.job.tree).map_err(written)?;
        for name in [".cache", ".vite", ".vite-temp", ".tmp"] {
            tree.remove(Path::new("node_modules").join(name)).map_err(written)?;
        }
        self.job.plan.scratch.iter().try_for_each(|folder| tree.remove(folder)).map_err(written)
    }
}

/// A file of a tree that scripts may have written to; `None` for what is none.
fn plain(tree: &Path, path: &str) -> Option<fs::File> {
    Beneath::open(tree).ok()?.file(Path::new(path)).ok()
}

/// The first line of a script, where it names an interpreter; empty for anything else.
fn interpreter_line(tree: &Path, path: &str) -> Vec<u8> {
    let mut head = Vec::new();
    let Some(file) = plain(tree, path) else { return head };
    // What is longer is none: the kernel reads no further either.
    let read = file.take(256).read_to_end(&mut head);
    let end = head.iter().position(|b| *b == b'\n').map(|at| at + 1);
    match (read, end) {
        (Ok(_), Some(end)) if head.starts_with(b"#!") => head[..end].to_vec(),
        _ => Vec::new(),
    }
}

/// The script that a build most likely made to be run, at most so many folders down.
fn entry(folder: &Path, depth: usize) -> Option<PathBuf> {
    let here = ["main.js", "server.js", "index.js", "main.cjs", "main.mjs"].iter().map(|n| folder.join(n)).find(|p| p.is_file());
    here.or_else(|| {
        let mut folders: Vec<PathBuf> = fs::read_dir(folder).ok()?.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
        folders.sort();
        folders.iter().filter(|_| depth > 0).find_map(|f| entry(f, depth - 1))
    })
}

/// The variables whose values a build writes into files.
pub(super) fn baked(config: &[(String, String)]) -> impl Iterator<Item = &(String, String)> {
    config.iter().filter(|(name, _)| BAKED.iter().any(|head| name.starts_with(head)))
}

/// The folder that `node` is found in.
pub(super) fn bin(node: &Interpreter) -> PathBuf {
    node.executable.parent().map(Path::to_owned).unwrap_or_default()
}
