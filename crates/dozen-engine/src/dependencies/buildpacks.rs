//! Classic buildpacks at work: fetched, asked whether they know the app, and run in turn, each in a jail as every program of a build.
//!
//! | a pack finds | |
//! |---|---|
//! | BUILD_DIR | the tree that becomes the slug |
//! | CACHE_DIR | a folder that the app's next build finds again |
//! | ENV_DIR | the config, a file for each variable; none of it is exported |
//! | `export` of the packs before it | sourced before it is run |
//!
//! **Invariant:** nothing of a pack is run, unpacked or even cloned outside of the build's jail; an address with a word in it stands in no
//! argument vector.

use super::beneath::Beneath;
use super::interpreters::Interpreter;
use super::runner::Command;
use super::stage::Stage;
use super::steps::{Job, Ran, Show, failed};
use super::{BuildError, tree, uv};
use crate::codebase::{self, fingerprint};
use crate::output::Event;
use dozen_core::dependencies::Plan;
use dozen_core::dependencies::buildpacks::{self, Buildpack, Place, Released, is_commit};
use dozen_core::processes::Exit;
use dozen_core::processes::jail::Mount;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Sources what it is given, then becomes the program behind `--`.
const SOURCED: &str = "while [ \"$1\" != -- ]; do . \"$1\"; shift; done; shift; exec \"$@\"\n";
/// What packs choose their binaries by, where app.json names no other: the oldest that Heroku still has.
const STACK: &str = "heroku-22";
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The packs that the source and the config name.
pub(super) fn named(request: &super::Request<'_>) -> Result<Vec<Buildpack>, BuildError> {
    let variable = request.config.iter().find(|(name, _)| name == buildpacks::VARIABLE).map(|(_, url)| url.as_str());
    let file = Some(buildpacks::FILE).filter(|file| request.source.has(file)).and_then(|file| codebase::text(request.source, file));
    let packs = buildpacks::named(variable, file.as_deref(), request.buildpacks)?;
    if !request.folders
        && let Some(local) = packs.iter().find(|pack| pack.local().is_some())
    {
        let problem = "lies on the server's own machine, and that is not an app's to read".to_owned();
        return Err(unfit(local, problem, "Name it by an https:// URL, or put it into a folder of the app and name that"));
    }
    Ok(packs)
}

/// The plan that they begin with; what they make of it is known when they ran.
pub(super) fn plan() -> Plan {
    Plan {
        pack: "buildpack",
        language: None,
        runtime: None,
        layer: None,
        steps: Vec::new(),
        env: vec![("PATH".into(), PATH.into())],
        processes: Vec::new(),
        console: None,
        scratch: Vec::new(),
        cure: "Add a Procfile with a line like `web: ./server --port $PORT`".into(),
        notes: Vec::new(),
    }
}

/// What runs a pack: the system's shell, or what a pack's own programs name.
pub(super) fn interpreter() -> Interpreter {
    Interpreter { version: [0, 0, 0], prefix: "/usr".into(), executable: "/usr/bin/bash".into() }
}

fn unfit(pack: &Buildpack, problem: String, cure: &str) -> BuildError {
    BuildError::Buildpack { pack: pack.shown.clone(), problem, cure: cure.to_owned() }
}

/// Runs them one after the other. Answers what they are called, and what the last one says of what it made.
pub(super) async fn run(job: &Job<'_>, packs: &[Buildpack]) -> Result<(String, Released), BuildError> {
    let given = job.stage.given();
    let written = |path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::Write { path, source }
    };
    let env_dir = environment(job).map_err(written(&given))?;
    let sourced = given.join("sourced.sh");
    fs::write(&sourced, SOURCED).map_err(written(&sourced))?;
    let cache = job.stage.downloads("buildpack-cache");
    let kept = Beneath::open(&job.stage.downloads("")).map_err(written(&cache))?;
    kept.make(Path::new("buildpack-cache"), job.stage.builder()).map_err(written(&cache))?;

    // All of them before any is run: what one leaves in the folder of another is its own affair then.
    let mut roots = Vec::new();
    for (n, pack) in packs.iter().enumerate() {
        roots.push(fetch(job, pack, n).await?);
    }
    let (mut names, mut exports, mut released) = (Vec::new(), Vec::new(), Released::default());
    for (pack, root) in packs.iter().zip(&roots) {
        let part = |name: &str| root.join("bin").join(name);
        let has = |name: &str| Beneath::open(root).is_ok_and(|root| root.file(Path::new(name)).is_ok());
        if !has("bin/detect") || !has("bin/compile") {
            return Err(unfit(
                pack,
                "is no buildpack: it has no bin/detect or no bin/compile".into(),
                "Name another address, or another branch of it",
            ));
        }
        let detect = [part("detect"), job.tree.to_owned()];
        let asked = run_one(job, words(&detect), "bin/detect", Show::Nothing, Vec::new()).await?;
        if !asked.status.is_success() {
            let said = asked.last.last().map(|line| format!(": {line}")).unwrap_or_default();
            return Err(unfit(pack, format!("does not know this app{said}"), "Name one that does, or add what it looks for"));
        }
        let name = asked.last.last().map_or_else(|| pack.shown.clone(), |line| line.chars().take(60).collect());
        job.request.output.step(&format!("{name} app detected"));

        let began = Instant::now();
        let program = [part("compile"), job.tree.to_owned(), cache.clone(), env_dir.clone()];
        let argv = if exports.is_empty() {
            words(&program)
        } else {
            let before = ["/usr/bin/bash".into(), sourced.clone()].into_iter().chain(exports.iter().cloned()).chain(["--".into()]);
            words(&before.chain(program).collect::<Vec<PathBuf>>())
        };
        let ran = run_one(job, argv, "bin/compile", Show::Pack, Vec::new()).await?;
        if !ran.status.is_success() {
            let shown = format!("bin/compile of {}", pack.shown);
            return Err(failed(&shown, &ran, "Correct what the buildpack says, and run the command again".into()));
        }
        if has("export") {
            exports.push(root.join("export"));
        }
        released = Released::default();
        if has("bin/release") {
            let said = run_one(job, words(&[part("release"), job.tree.to_owned()]), "bin/release", Show::Nothing, Vec::new()).await?;
            if !said.status.is_success() {
                return Err(failed(
                    &format!("bin/release of {}", pack.shown),
                    &said,
                    "The buildpack is at fault: use another version of it".into(),
                ));
            }
            released = buildpacks::released(&said.last.join("\n"))
                .map_err(|problem| unfit(pack, format!("has a bin/release that cannot be used: {problem}"), "Use another version of it"))?;
        }
        job.request.output.emit(Event::Done(began.elapsed()));
        names.push(name);
    }
    if !released.addons.is_empty() {
        let addons = released.addons.join(", ");
        job.request.output.detail(&format!("The buildpack proposes add-ons ({addons}); app.json's `addons` says which there are"));
    }
    Ok((names.join(", "), released))
}

fn words(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.to_string_lossy().into_owned()).collect()
}

/// Runs a program for a pack.
async fn run_one(job: &Job<'_>, argv: Vec<String>, shown: &str, show: Show, more: Vec<Mount>) -> Result<Ran, BuildError> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let git = job.stage.given().join("gitconfig");
    let mut env = uv::network();
    env.extend([
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), text(job.stage.home())),
        ("TMPDIR".to_owned(), text(job.stage.tmp())),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("STACK".to_owned(), job.request.stack.unwrap_or(STACK).to_owned()),
        ("REQUEST_ID".to_owned(), format!("{:032x}", rand::random::<u128>())),
        ("GIT_CONFIG_GLOBAL".to_owned(), text(git)),
        ("GIT_TERMINAL_PROMPT".to_owned(), "0".to_owned()),
    ]);
    env.extend(job.request.source.commit.iter().map(|commit| ("SOURCE_VERSION".to_owned(), commit.hash.clone())));
    let mounts = std::iter::once(Stage::app(job.tree)).chain(more).collect();
    let command = Command { argv, env, cwd: job.tree.to_owned(), mounts };
    job.run_command(command, shown, show).await
}

/// The config as files, which nobody but the build's programs can read.
fn environment(job: &Job<'_>) -> io::Result<PathBuf> {
    let (folder, builder) = (job.stage.given().join("env"), job.stage.builder());
    fs::create_dir(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
    for (name, value) in job.request.config {
        let file = folder.join(name);
        fs::write(&file, "")?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        fs::write(&file, value)?;
        builder.give(&file)?;
    }
    builder.give(&folder)?;
    Ok(folder)
}

/// Gets a pack into a folder of the build's own, where it may write: its `export` lies there. Answers that folder.
async fn fetch(job: &Job<'_>, pack: &Buildpack, n: usize) -> Result<PathBuf, BuildError> {
    let packs = job.stage.build().join("packs");
    let root = packs.join(n.to_string());
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let written = |source| BuildError::Write { path: root.clone(), source };
    let build = Beneath::open(&job.stage.build()).map_err(written)?;
    let within = Path::new("packs").join(n.to_string());
    if let Place::Folder(folder) = &pack.place {
        return copied(job, pack, folder, &root).await;
    }
    build.make(&within, job.stage.builder()).map_err(written)?;
    let mount: Vec<Mount> = pack.local().and_then(|path| Stage::read_only(Path::new(&path))).into_iter().collect();
    let step = async |argv: &[&str]| {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        if !PATH.split(':').any(|folder| Path::new(folder).join(&argv[0]).is_file()) {
            return Err(BuildError::Tool { program: argv[0].clone(), install: tool(&argv[0]) });
        }
        run_one(job, argv, &format!("fetch {}", pack.shown), Show::Nothing, mount.clone()).await
    };
    let whole = |ran: Ran| match ran.status {
        Exit::Code(0) => Ok(()),
        _ => Err(failed(
            &format!("fetch {}", pack.shown),
            &ran,
            "Is its address right, and is there a network, or a proxy to name (HTTPS_PROXY)?".into(),
        )),
    };
    match &pack.place {
        Place::Folder(_) => {}
        Place::Own(folder) => {
            // What it writes beside itself is to be no part of the slug.
            let from = format!("{}/.", text(&job.tree.join(folder)));
            let ran = step(&["cp", "-a", &from, &text(&root)]).await?;
            if !ran.status.is_success() {
                return Err(unfit(pack, "is no folder of the app".into(), "Correct it, or commit that folder"));
            }
        }
        Place::Git { url, reference } => {
            job.request.output.step(&format!("Fetching buildpack {}", pack.shown));
            let config = job.stage.given().join("gitconfig");
            // A repository of another user's of this machine is one that was named.
            fs::write(&config, format!("[safe]\n\tdirectory = *\n[remote \"pack\"]\n\turl = \"{url}\"\n")).map_err(written)?;
            secret(job, &config).map_err(written)?;
            let kept = format!("buildpacks/{}.git", &blake3::hash(url.as_bytes()).to_hex()[..32]);
            let kept = text(&job.stage.downloads("").join(kept));
            whole(step(&["git", "init", "-q", "--bare", &kept]).await?)?;
            let reference = reference.as_deref().unwrap_or("HEAD");
            let commit = format!("{reference}^{{commit}}");
            let known = is_commit(reference) && step(&["git", "--git-dir", &kept, "cat-file", "-e", &commit]).await?.status.is_success();
            if !known {
                whole(step(&["git", "--git-dir", &kept, "fetch", "-q", "--depth", "1", "pack", reference]).await?)?;
            }
            let from = if known { reference } else { "FETCH_HEAD" };
            whole(step(&["git", "--git-dir", &kept, "--work-tree", &text(&root), "checkout", "-q", "-f", from, "--", "."]).await?)?;
        }
        Place::Archive { url } => {
            job.request.output.step(&format!("Fetching buildpack {}", pack.shown));
            let file = match pack.local() {
                Some(path) => path,
                None => {
                    let (config, file) = (job.stage.given().join("curl.txt"), text(&packs.join(format!("{n}.tar"))));
                    fs::write(&config, format!("url = \"{url}\"\n")).map_err(written)?;
                    secret(job, &config).map_err(written)?;
                    let limits = ["--max-filesize", "500000000", "--connect-timeout", "20"];
                    let fixed = ["curl", "-fsSL", "--proto", "=https,http", "--config", &text(&config), "-o", &file];
                    whole(step(&[&fixed[..], &limits[..]].concat()).await?)?;
                    file
                }
            };
            whole(step(&["tar", "--no-same-owner", "-xf", &file, "-C", &text(&root)]).await?)?;
            return Ok(within_one(&root));
        }
    }
    Ok(root)
}

fn tool(program: &str) -> &'static str {
    match program {
        "git" => "apt install git",
        "curl" => "apt install curl",
        _ => "apt install tar coreutils",
    }
}

/// A file that only the build's programs may read.
fn secret(job: &Job<'_>, file: &Path) -> io::Result<()> {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    job.stage.builder().give(file)
}

/// Archives often have all in one folder.
fn within_one(root: &Path) -> PathBuf {
    let names: Vec<_> = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    match names.as_slice() {
        [only] if only != "bin" => root.join(only),
        _ => root.to_owned(),
    }
}

/// Copies a folder of this machine, whoever may read it.
async fn copied(job: &Job<'_>, pack: &Buildpack, folder: &str, root: &Path) -> Result<PathBuf, BuildError> {
    let (folder, to, builder) = (PathBuf::from(folder), root.to_owned(), job.stage.builder());
    let build = job.stage.build();
    let stats = job.cache.join("buildpack-sources.json");
    let copy = move || {
        let read = codebase::read_all(&folder, None).map_err(|e| crate::chain(&e))?;
        let print = fingerprint::of(&read.source, &stats).map_err(|e| crate::chain(&e))?;
        // No pack has run yet that could have put a link there.
        Beneath::open(&build).and_then(|build| build.make(Path::new("packs"), builder)).map_err(|e| e.to_string())?;
        tree::copy(&read.source, &print, &to, None, builder).map_err(|e| crate::chain(&e))
    };
    let done = super::blocking(copy).await;
    done.map_err(|problem| {
        unfit(pack, format!("cannot be read: {problem}"), "Name a folder that there is, with bin/detect and bin/compile")
    })?;
    Ok(root.to_owned())
}
