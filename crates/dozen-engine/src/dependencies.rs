//! II. Packs at work: a plan is run, dependencies are layered, a slug is made.
//!
//! **Invariant:** a build writes its own app's cache and the slug store, nothing else; what it does not finish leaves no trace there.
//! **Invariant:** programs of a build run in a jail, and not as root where the host lets them have a uid of their own.

use crate::codebase::{self, fingerprint};
use crate::home::Home;
use crate::output::{Event, Output};
use crate::release::collect;
use crate::release::scratch::{self, Scratch};
use crate::release::store::{self, Facts, StoreError, cure};
use builder::{Builder, Turn};
use dozen_core::codebase::Source;
use dozen_core::config::Mask;
use dozen_core::dependencies::{Language, PACK_VERSION, Plan, PlanError, Stack, Tool};
use dozen_core::ids::{AppName, SlugId};
use dozen_core::processes::ProcessType;
use dozen_core::processes::rules::RulesByType;
use dozen_core::release::Slug;
use interpreters::{ChooseError, Interpreter, Places};
use node::Node;
use runner::Runner;
use stage::Stage;
use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tree::CopyError;
use uv::UvError;

mod beneath;
pub mod builder;
mod buildpacks;
mod failure;
pub mod interpreters;
mod layers;
mod node;
mod packages;
pub mod runner;
mod stage;
mod steps;
pub(crate) mod testing;
mod times;
mod toolchain;
mod tree;
mod uv;
mod workspace;

/// The most time that a build may take, as on Heroku.
pub const LIMIT: Duration = Duration::from_secs(15 * 60);

/// What is to be built.
#[derive(Clone)]
pub struct Request<'a> {
    /// The dozen binary, for the jails that the build's programs run in.
    pub exe: &'a Path,
    /// Where things are kept.
    pub home: &'a Home,
    /// Whose cache is used.
    pub app: &'a AppName,
    /// The code.
    pub source: &'a Source,
    /// What the Procfile declares; empty where there is none.
    pub processes: Vec<ProcessType>,
    /// What app.json names as the app's console.
    pub console: Option<&'a str>,
    /// The scratch folders that dozen.toml names.
    pub scratch: &'a [String],
    /// What the app says of its process types.
    pub rules: &'a RulesByType,
    /// The deploy's config, for build steps that load the app's settings.
    pub config: &'a [(String, String)],
    /// Names that the app requires; those that the config lacks get a placeholder in such steps.
    pub placeholders: &'a [String],
    /// Hides the config's values in what tools say.
    pub mask: &'a Mask,
    /// `--use-python`: a version or a path.
    pub use_python: Option<&'a str>,
    /// The version that this app was last built with.
    pub last_python: Option<&'a str>,
    /// `--use-node`: a version or a path.
    pub use_node: Option<&'a str>,
    /// The version that this app was last built with.
    pub last_node: Option<&'a str>,
    /// Whether what only development needs is installed too: a slug for tests.
    pub development: bool,
    /// Told whether it waits for another build of the app.
    pub waits: &'a tokio::sync::watch::Sender<bool>,
    /// What app.json names as buildpacks.
    pub buildpacks: &'a [String],
    /// What app.json names as its stack.
    pub stack: Option<&'a str>,
    /// Whether a buildpack may be a folder of this machine: where its owner builds, and not where others have something built.
    pub folders: bool,
    /// Hears how it goes.
    pub output: Arc<dyn Output>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The slug, with the commit of this source.
    pub slug: Slug,
    /// Whether it was there already.
    pub reused: bool,
    /// The version of Python it was built with.
    pub python: Option<String>,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No pack has a plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The machine lacks system packages.
    #[error(transparent)]
    Packages(#[from] packages::PackagesError),
    /// The source cannot be hashed.
    #[error(transparent)]
    Hash(#[from] fingerprint::HashError),
    /// The source cannot be copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// No interpreter.
    #[error(transparent)]
    Interpreter(#[from] ChooseError),
    /// No uv.
    #[error(transparent)]
    Uv(#[from] UvError),
    /// Nothing says what to run.
    #[error("nothing says how this app is started: there is no Procfile, and its code gives no certain answer. {cure}")]
    NoProcesses {
        /// What to do.
        cure: String,
    },
    /// There is a Node without npm.
    #[error(
        "there is no npm beside {}, nor on PATH, and it is what installs packages. Install it (`apt install npm`), or use a Node that brings it",
        node.display()
    )]
    NoNpm {
        /// The program.
        node: PathBuf,
    },
    /// A tool of the language's is not there.
    #[error("there is no {program} here, nor on PATH. Install it (`{install}`), and run the command again")]
    Tool {
        /// What is called.
        program: String,
        /// The line that installs it.
        install: &'static str,
    },
    /// A buildpack cannot be used.
    #[error("the buildpack {pack} {problem}. {cure}")]
    Buildpack {
        /// Its address.
        pack: String,
        /// What is wrong, as a fragment.
        problem: String,
        /// What to do, as a sentence without a full stop.
        cure: String,
    },
    /// The package manager does not work with the Node that was chosen.
    #[error(
        "{manager}, which package.json's packageManager names, works with Node {needs} only, and the app is built with Node {node}. Install such a \
         Node (`dozen up --use-node PATH` names one that lies elsewhere), or name an older release there"
    )]
    Manager {
        /// `pnpm 11.17.0`.
        manager: String,
        /// The range that it declares.
        needs: String,
        /// The one that was chosen.
        node: String,
    },
    /// The folder is a part of a workspace that is installed as a whole.
    #[error(
        "{member} is a package of the workspace in {}: its lock file, {lock}, lies there, and what is installed is decided for all packages \
         together.\nRun `dozen up` in that folder, with a Procfile there that has a line like `web: {command}`",
        root.display()
    )]
    Member {
        /// The folder, from the workspace's.
        member: String,
        /// Where the workspace is.
        root: PathBuf,
        /// Its lock file.
        lock: String,
        /// What starts the package from there.
        command: String,
    },
    /// A program of the build failed.
    #[error("`{command}` failed with {status}{}\n{cure}", tail(.last))]
    Step {
        /// What ran, for people.
        command: String,
        /// `exit code 1`, `signal 9`.
        status: String,
        /// Its last lines, masked.
        last: Vec<String>,
        /// What to do.
        cure: String,
    },
    /// A program of the build could not be started.
    #[error("cannot run `{command}`")]
    Start {
        /// What.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A folder of dozen's own cannot be written.
    #[error("cannot write {}{}", path.display(), cure(source))]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The slug cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It took longer than [`LIMIT`].
    #[error("the build was stopped after {} minutes", LIMIT.as_secs() / 60)]
    TooLong,
}

fn tail(last: &[String]) -> String {
    last.iter().map(|l| format!("\n  {l}")).collect()
}

/// Builds a slug. Dropping the future ends every program it started and leaves nothing behind.
pub async fn build(request: Request<'_>) -> Result<Built, BuildError> {
    tokio::time::timeout(LIMIT, run(request)).await.map_err(|_| BuildError::TooLong)?
}

async fn run(request: Request<'_>) -> Result<Built, BuildError> {
    let cache = request.home.cache(request.app);
    let output = request.output.clone();
    packages::check(request.source, request.exe, &*output).await?;
    let print = {
        let (source, stats) = (request.source.clone(), cache.join("sources.json"));
        blocking(move || fingerprint::of(&source, &stats)).await?
    };
    let packs = buildpacks::named(&request)?;
    let plan = match packs.as_slice() {
        [] => dozen_core::dependencies::plan(request.source, &|path| codebase::text(request.source, path)),
        _ => Ok(buildpacks::plan()),
    };
    if packs.is_empty()
        && request.source.has(dozen_core::dependencies::node::KNOWN_BY)
        && let Some(member) = workspace::member(request.source)
    {
        return Err(member);
    }
    let plan = plan?;
    let mut plan = if request.development { plan.with_development() } else { plan };
    if packs.is_empty() {
        output.step(&format!("{} app detected", plan.language.unwrap_or("Procfile")));
    }
    for note in &plan.notes {
        output.detail(note);
    }
    let (interpreter, found) = match &plan.runtime {
        None if packs.is_empty() => (None, interpreters::Found::default()),
        // What runs packs is no part of what runs the app.
        None => (Some(buildpacks::interpreter()), interpreters::Found::default()),
        Some(runtime) => {
            let language = runtime.versions.language();
            let (named, before, kept) = match language {
                Language::Python => (request.use_python, request.last_python, "interpreters.json".to_owned()),
                Language::Node => (request.use_node, request.last_node, "nodes.json".to_owned()),
                other => (None, None, format!("{}.json", other.name())),
            };
            let found = interpreters::find(request.exe, &Places::here(language), &cache.join(kept)).await;
            let chosen = interpreters::choose(request.exe, &found, runtime, named, before).await?;
            let why = match (named, &runtime.pinned) {
                (Some(_), _) => language.option().unwrap_or_default().into(),
                (None, Some(pinned)) => pinned.clone(),
                (None, None) if before == Some(chosen.number().as_str()) => "as before".into(),
                (None, None) => format!("the default here; pin it in {}", language.file()),
            };
            output.detail(&format!("Using {} {} ({why}) from {}", language.name(), chosen.number(), chosen.prefix.display()));
            (Some(chosen), found)
        }
    };
    let language = plan.runtime.as_ref().map(|r| r.versions.language());
    let mut runtime = language.zip(interpreter.as_ref()).map(|(l, i)| format!("{} {}", l.name(), i.number()));
    let python = interpreter.as_ref().filter(|_| language == Some(Language::Python)).map(Interpreter::number);
    // What packs start an app by is known when they ran.
    let mut processes = if packs.is_empty() { processes(&request, &plan)? } else { request.processes.clone() };
    let skip_static = request.config.iter().any(|(n, v)| n == "DISABLE_COLLECTSTATIC" && !matches!(v.as_str(), "" | "0"));

    let baked: Vec<_> = if language == Some(Language::Node) { node::baked(request.config).collect() } else { Vec::new() };
    let shown: Vec<&str> = packs.iter().map(|pack| pack.shown.as_str()).collect();
    let key = build_key(&print.whole, &processes, interpreter.as_ref(), (skip_static, &shown), &baked);
    // A slug for tests is no other's, though it may be alike.
    let key = if request.development { *blake3::hash(&key).as_bytes() } else { key };
    let index = cache.join("builds").join(&store::hex(&key)[..32]);
    let last = cache.join("builds/last");
    // A pack may be another one by now.
    if packs.iter().all(|pack| pack.is_fixed())
        && let Some(slug) = built_before(request.home, &index)
    {
        output.detail(&format!("Unchanged since slug {} was built", slug.id.short()));
        let slug = Slug { commit: request.source.commit.clone(), ..slug };
        return Ok(Built { slug, reused: true, python });
    }

    let written = |source| BuildError::Write { path: cache.clone(), source };
    let waiting = || {
        output.step("Waiting for another build of this app");
        request.waits.send_replace(true);
    };
    let _turn = Turn::take(&cache, waiting).await.map_err(written)?;
    request.waits.send_if_modified(std::mem::take);
    let (mut downloads, mut runner) = (PathBuf::new(), None);
    if interpreter.is_some() {
        let mut found = Builder::NOBODY;
        let apart = |apart| {
            (downloads, found) = builder::downloads(request.home, request.app, apart)?;
            Ok::<_, BuildError>(found)
        };
        runner = Some(Runner::here(request.exe, apart).await?);
    }
    let builder = runner.map_or(Builder::NOBODY, |r| r.builder);
    let slugs = request.home.slugs();
    let work = Scratch::new(&slugs).map_err(|source| BuildError::Write { path: slugs, source })?;
    let tree = work.path().join("tree");
    {
        let (source, print, tree) = (request.source.clone(), print.clone(), tree.clone());
        let own = plan.layer.as_ref().map(|l| match l.tool {
            Tool::Uv { .. } => ".venv",
            Tool::Node(_) => "node_modules",
        });
        let own = own.or_else(|| (language == Some(Language::Ruby)).then_some(dozen_core::dependencies::ruby::GEMS));
        blocking(move || tree::copy(&source, &print, &tree, own, builder)).await?;
    }
    let mut known = store::Known::new();
    if let (Some(interpreter), Some(runner)) = (&interpreter, runner) {
        let prepared = Stage::new(runner, request.home, work.path(), &downloads, (&found, interpreter), comes_by_ssh(&request, &plan));
        let stage = prepared.map_err(|source| BuildError::Write { path: work.path().to_owned(), source })?;
        if runner.builder.uid().is_none() && rustix::process::geteuid().is_root() {
            output.warning("The host allows no namespaces: the build runs as root, held to its folders by Landlock only");
        }
        let job = steps::Job {
            request: &request,
            plan: &plan,
            interpreter,
            found: &found,
            cache: &cache,
            stage: &stage,
            tree: &tree,
            print: &print,
            source: tokio::sync::OnceCell::new(),
            pip: tokio::sync::OnceCell::new(),
        };
        match language {
            Some(Language::Node) => known = Node::begin(&job).await?.run().await?,
            None => {
                let (names, released) = buildpacks::run(&job, &packs).await?;
                plan.env.extend(released.env);
                plan.processes = released.processes;
                runtime = Some(names);
                processes = self::processes(&request, &plan)?;
            }
            Some(Language::Python) => {
                let layer = job.layer().await?;
                let written = |source| BuildError::Write { path: tree.clone(), source };
                let open = layer.as_ref().map(|layer| job.lay(layer)).transpose().map_err(written)?;
                job.project().await?;
                job.collect_static(skip_static).await?;
                if let Some(layer) = &layer {
                    known = if open == Some(true) { layer.relink(&tree).map_err(written)? } else { layer.known() };
                }
                job.compile(&mut known, built_before(request.home, &last).as_ref()).await?;
            }
            Some(other) => toolchain::run(&job, other).await?,
        }
        let gone = [stage.build(), stage.given()];
        blocking(move || gone.iter().try_for_each(|folder| scratch::remove(folder))).await.map_err(written)?;
    }
    let types = processes.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
    output.step("Discovering process types");
    let declared_by = if request.processes.is_empty() {
        format!("Default types for {}", plan.language.or((!packs.is_empty()).then_some("the buildpack")).unwrap_or("this app"))
    } else {
        "Procfile declares types".into()
    };
    output.detail(&format!("{declared_by} -> {types}"));

    let written = |source| BuildError::Write { path: tree.clone(), source };
    let writable = scratch_folders(&tree, dozen_core::dependencies::scratch(request.source, &plan, request.scratch)).map_err(written)?;
    if !writable.is_empty() {
        output.detail(&format!("Instances may write {}", writable.join(", ")));
    }
    let named = processes.iter().find(|p| p.name.is_console()).map(|p| p.command.clone());
    let console = request.console.map(str::to_owned).or(named).or_else(|| plan.console.clone());

    output.step("Storing slug...");
    let began = Instant::now();
    let bin = interpreter.as_ref().map(node::bin).unwrap_or_default();
    let facts = Facts {
        stack: Stack { pack: plan.pack.into(), runtime },
        processes,
        env: plan.env.iter().map(|(k, v)| (k.clone(), v.replace("{runtime}", &bin.to_string_lossy()))).collect(),
        // The system's own folders are there anyway.
        needs: interpreter
            .iter()
            .filter(|_| !language.is_some_and(Language::compiles))
            .map(|p| p.prefix.clone())
            .filter(|p| !p.starts_with("/usr"))
            .collect(),
        console,
        scratch: writable,
        rules: request.rules.clone(),
        commit: request.source.commit.clone(),
    };
    let home = request.home.clone();
    let (slug, reused) = blocking(move || store::take(&home, &work, &facts, &known)).await?;
    output.detail(&format!("Done: {}", codebase::bytes(slug.size)));
    output.emit(Event::Done(began.elapsed()));
    // Without this the next build of the same source only takes longer.
    let id = slug.id.to_string();
    let _ = fs::create_dir_all(cache.join("builds"));
    let _ = tree::write_whole(&index, id.as_bytes());
    if !request.development {
        let _ = tree::write_whole(&last, id.as_bytes());
    }
    let slug = Slug { commit: request.source.commit.clone(), ..slug };
    Ok(Built { slug, reused, python })
}

/// Whether a file that decides what is installed names a source that is reached by SSH.
fn comes_by_ssh(request: &Request<'_>, plan: &Plan) -> bool {
    let files = plan.layer.iter().flat_map(|layer| match &layer.tool {
        Tool::Uv { .. } => layer.key_files.clone(),
        Tool::Node(install) => install.lock.iter().cloned().chain([dozen_core::dependencies::node::KNOWN_BY.to_owned()]).collect(),
    });
    files.into_iter().any(|file| codebase::text(request.source, &file).is_some_and(|text| text.contains("ssh://")))
}

/// Makes the folders in the tree: a mount on a read-only one needs them there. Answers those that are folders, not files or links.
fn scratch_folders(tree: &Path, folders: Vec<String>) -> io::Result<Vec<String>> {
    let mut made = Vec::new();
    for folder in folders {
        let mut at = tree.to_owned();
        let mut real = true;
        for part in folder.split('/') {
            at.push(part);
            match fs::symlink_metadata(&at) {
                Ok(meta) => real &= meta.is_dir(),
                Err(e) if e.kind() == io::ErrorKind::NotFound && real => fs::create_dir(&at)?,
                Err(e) => return Err(e),
            }
            if !real {
                break;
            }
        }
        if !real {
            let why = format!("the scratch folder {folder} is, or lies in, a file or a link; name another in dozen.toml");
            return Err(io::Error::other(why));
        }
        made.push(folder);
    }
    Ok(made)
}

fn processes(request: &Request<'_>, plan: &Plan) -> Result<Vec<ProcessType>, BuildError> {
    if !request.processes.is_empty() {
        return Ok(request.processes.clone());
    }
    if plan.processes.is_empty() {
        return Err(BuildError::NoProcesses { cure: plan.cure.clone() });
    }
    Ok(plan.processes.iter().map(|(name, command)| ProcessType { name: name.clone(), command: command.clone() }).collect())
}

/// What decides a build's result. The config is no part of it, by factor V: a changed value makes a release, not a slug. The exception is what
/// a build writes into the files that browsers load.
fn build_key(
    source: &fingerprint::Hash,
    processes: &[ProcessType],
    interpreter: Option<&Interpreter>,
    (skip_static, packs): (bool, &[&str]),
    baked: &[&(String, String)],
) -> fingerprint::Hash {
    let processes: Vec<(&str, &str)> = processes.iter().map(|p| (p.name.as_str(), p.command.as_str())).collect();
    let interpreter = interpreter.map(|p| (p.version, &p.prefix));
    let parts = (PACK_VERSION, store::hex(source), processes, interpreter, skip_static, packs, baked);
    *blake3::hash(&serde_json::to_vec(&parts).unwrap_or_default()).as_bytes()
}

/// The slug that was last built for an app on this machine, as far as it is kept.
pub(crate) fn last_built(home: &Home, app: &AppName) -> Option<Slug> {
    built_before(home, &home.cache(app).join("builds/last"))
}

fn built_before(home: &Home, index: &Path) -> Option<Slug> {
    let id: SlugId = fs::read_to_string(index).ok()?.trim().parse().ok()?;
    // It is taken up again, and to stay until a release is made of it.
    collect::claim(home, &id).ok()?;
    store::open(home, &id).ok().filter(|_| home.slug(&id).join("tree").is_dir())
}

/// Runs what blocks on a thread of its own; a panic there is a panic here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Blocking work is never aborted; only a runtime that shuts down could, and then nobody waits here.
            Err(_) => std::future::pending().await,
        },
    }
}

/// A line without the credentials of the URLs in it: `https://user:word@host` loses `user:word`.
pub(crate) fn without_userinfo(line: &str) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(line);
    let mut from = 0;
    while let Some(at) = out[from..].find("://").map(|i| from + i + 3) {
        let end = out[at..].find(|c: char| c == '/' || c.is_whitespace() || c == '"' || c == '\'').map_or(out.len(), |i| at + i);
        if let Some(sign) = out[at..end].rfind('@') {
            out.to_mut().replace_range(at..at + sign, dozen_core::config::MASK);
        }
        from = at;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_leave_urls() {
        let check = |line: &str, want: &str| assert_eq!(without_userinfo(line), want);
        check("see https://u:p@host/simple and http://x/y@z", "see https://********@host/simple and http://x/y@z");
        check("git+ssh://git@host/x", "git+ssh://********@host/x");
        check("plain", "plain");
        check("a://b://c@d", "a://b://********@d");
    }
}
