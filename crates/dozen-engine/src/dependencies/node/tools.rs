//! npm, which comes with Node; pnpm and yarn, which it fetches once; and what they are given.

use super::bin;
use crate::dependencies::beneath::Beneath;
use crate::dependencies::builder::Builder;
use crate::dependencies::interpreters::Interpreter;
use crate::dependencies::runner::Command;
use crate::dependencies::stage::Stage;
use crate::dependencies::steps::{Job, Show, failed};
use crate::dependencies::{BuildError, uv};
use crate::processes::spec::APP;
use crate::release::scratch::Scratch;
use crate::release::store::{Known, settle};
use dozen_core::dependencies::node::range::Range;
use dozen_core::dependencies::node::{Install, KEPT_TOOL, Manager, Program as Named};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A package manager that can be run.
pub(super) struct Program {
    /// For people, and for keys: `10.34.9`.
    pub(super) version: String,
    /// Its script: absolute, or relative to the app.
    script: PathBuf,
    /// What holds it, where npm fetched it.
    fetched: Option<PathBuf>,
    /// npm's own folder.
    npm: PathBuf,
}

impl Program {
    /// The arguments that run it for an app that is seen at `app`.
    pub(super) fn argv(&self, node: &Interpreter, app: &Path) -> Vec<String> {
        [node.executable.clone(), app.join(&self.script)].map(|p| p.to_string_lossy().into_owned()).to_vec()
    }

    /// Folders of the host that it needs.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        self.fetched.iter().chain([&self.npm]).cloned().collect()
    }

    /// Puts it into a slug whose commands call it.
    pub(super) fn keep(&self, tree: &Path, install: &Install) -> io::Result<()> {
        let name = install.manager.command();
        let folder = tree.join(KEPT_TOOL);
        // Below a new folder there is no link of a script's.
        let within = Beneath::open(tree)?;
        within.remove(KEPT_TOOL)?;
        within.make(Path::new(KEPT_TOOL), Builder::NOBODY)?;
        let script = match &self.fetched {
            Some(fetched) => {
                link_tree(&fetched.join("node_modules"), &folder.join("node_modules"))?;
                let within = self.script.strip_prefix(fetched).unwrap_or(&self.script);
                format!("../{}", within.display())
            }
            None => format!("../../{}", self.script.display()),
        };
        shim(&folder.join("bin").join(name), &format!("\"${{0%/*}}/{script}\""))
    }
}

/// A program of the shell's that runs a script with node.
fn shim(path: &Path, script: &str) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    fs::write(path, format!("#!/bin/sh\nexec node {script} \"$@\"\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn link_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
        if [".bin", ".package-lock.json"].iter().any(|n| entry.file_name() == *n) {
            continue;
        }
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_dir() {
            link_tree(&source, &target)?;
        } else if fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// Finds npm, and finds or fetches what the plan names.
pub(super) async fn get(job: &Job<'_>, install: Option<&Install>) -> Result<Program, BuildError> {
    let script = npm(job)?;
    // npm/bin/npm-cli.js
    let npm = script.ancestors().nth(2).unwrap_or(&script).to_owned();
    let Some((install, named)) = install.map(|i| (i, &i.program)).filter(|(_, p)| **p != Named::Own) else {
        let text = fs::read_to_string(npm.join("package.json")).unwrap_or_default();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let version = json["version"].as_str().unwrap_or("of this Node").to_owned();
        return Ok(Program { version, script, fetched: None, npm });
    };
    let (package, version) = match named {
        Named::Fetched { package, version } => (*package, version.clone()),
        Named::Vendored(path) => {
            let name = path.rsplit('/').next().unwrap_or(path);
            let version = name.strip_prefix("yarn-").and_then(|n| n.strip_suffix(".cjs").or_else(|| n.strip_suffix(".js"))).unwrap_or(name);
            return Ok(Program { version: version.to_owned(), script: path.into(), fetched: None, npm });
        }
        Named::Own => return Err(no_npm(job)),
    };
    let tools = folder(job);
    let written = |source| BuildError::Write { path: tools.clone(), source };
    fs::create_dir_all(&tools).map_err(written)?;
    let tools = fs::canonicalize(&tools).map_err(written)?;
    let kept = tools.join(format!("{}-{version}", package.rsplit('/').next().unwrap_or(package)));
    if !kept.is_dir() {
        job.request.output.busy(&format!("fetching {} {version}", install.manager.command()));
        let scratch = Scratch::new(&tools).map_err(written)?;
        let tree = scratch.path().join("tree");
        job.stage.builder().make(&tree).map_err(written)?;
        let (node, cli, to) = (job.interpreter.executable.to_string_lossy(), script.to_string_lossy(), tree.to_string_lossy());
        let wanted = format!("{package}@{version}");
        let argv = [
            &node,
            &cli,
            "install",
            "--prefix",
            &to,
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--no-package-lock",
            "--loglevel=error",
            &wanted,
        ];
        let argv = argv.map(str::to_owned).to_vec();
        let env = environment(job, None, &tree)?;
        let shown = format!("npm install {wanted}");
        let mut mounts: Vec<_> = Stage::read_only(&npm).into_iter().collect();
        mounts.push(Stage::app(&tree));
        let ran = job.run_command(Command { argv, env, cwd: tree.clone(), mounts }, &shown, Show::Nothing).await?;
        if !ran.status.is_success() {
            let cure = super::failure::cure(&ran.last, "package.json", Manager::Npm, job.interpreter, super::failure::Failed::Install);
            return Err(failed(&shown, &ran, cure));
        }
        settle(&tree, &Known::new()).map_err(|e| written(io::Error::other(e)))?;
        scratch.keep("tree", &kept).map_err(written)?;
    }
    let folder = kept.join("node_modules").join(package);
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("package.json")).map_err(written)?).unwrap_or_default();
    let command = install.manager.command();
    let wanted = json["engines"]["node"].as_str().and_then(Range::parse);
    if let Some(wanted) = wanted.filter(|w| !w.admits(job.interpreter.version)) {
        let (manager, needs, node) = (format!("{command} {version}"), wanted.to_string(), job.interpreter.number());
        return Err(BuildError::Manager { manager, needs, node });
    }
    let entry = json["bin"][command].as_str().or_else(|| json["bin"].as_str()).unwrap_or("bin/missing");
    Ok(Program { version, script: folder.join(entry.trim_start_matches("./")), fetched: Some(kept), npm })
}

/// The script of npm that comes with this Node, or else another one's.
fn npm(job: &Job<'_>) -> Result<PathBuf, BuildError> {
    let own = [bin(job.interpreter).join("npm"), job.interpreter.prefix.join("bin/npm")];
    let others = job.found.all.iter().map(|i| bin(i).join("npm"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&path).map(|d| d.join("npm")).collect();
    let scripts = own.into_iter().chain(others).chain(on_path).filter_map(|p| fs::canonicalize(p).ok());
    scripts.into_iter().find(|p| p.ends_with("bin/npm-cli.js")).ok_or_else(|| no_npm(job))
}

fn no_npm(job: &Job<'_>) -> BuildError {
    BuildError::NoNpm { node: job.interpreter.executable.clone() }
}

/// Where package managers are kept: for all apps, but where an app's config says from where they come.
fn folder(job: &Job<'_>) -> PathBuf {
    let own = job.request.config.iter().any(|(name, _)| is_about_packages(name) || name.starts_with("YARN_"));
    if own { job.cache.join("tools") } else { job.request.home.tools() }
}

/// Files of this user that say where packages come from, and which certificates are trusted.
pub(in crate::dependencies) fn settings() -> Vec<PathBuf> {
    let named = ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "SSL_CERT_DIR", "npm_config_cafile", "NPM_CONFIG_CAFILE"];
    let mut files: Vec<PathBuf> = named.iter().filter_map(std::env::var_os).map(PathBuf::from).filter(|p| p.is_absolute()).collect();
    files.extend(user_config());
    if let Some(cafile) = user_config().and_then(|f| setting(&f, "cafile")) {
        files.push(cafile.into());
    }
    files
}

/// `.npmrc` of this user.
pub(in crate::dependencies) fn user_config() -> Option<PathBuf> {
    let named = ["npm_config_userconfig", "NPM_CONFIG_USERCONFIG"].iter().find_map(std::env::var_os).map(PathBuf::from);
    named.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".npmrc"))).filter(|f| f.is_file())
}

/// Whether a variable says where packages come from, and by whose leave; all else of npm's settings is about another folder than this.
fn is_about_packages(name: &str) -> bool {
    let key = name.to_ascii_lowercase();
    let key = key.strip_prefix("npm_config_").unwrap_or_default();
    key.contains("registry") && key != "omit_lockfile_registry_resolved"
        || key.starts_with("//")
        || ["proxy", "https_proxy", "noproxy", "cafile", "ca", "strict_ssl", "nodedir", "python"].contains(&key)
}

fn setting(file: &Path, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|l| l.split_once('=').filter(|(k, _)| k.trim() == key).map(|(_, v)| v.trim().to_owned()))?;
    (!value.is_empty()).then_some(value)
}

/// What npm, pnpm and yarn are told by variables, for an app that is seen at `app`.
pub(super) fn environment(job: &Job<'_>, install: Option<&Install>, app: &Path) -> Result<Vec<(String, String)>, BuildError> {
    let text = |p: &Path| p.to_string_lossy().into_owned();
    let (home, downloads) = (job.stage.home(), job.stage.downloads("node"));
    // What programs run by its name they may not write.
    let shims = job.stage.given().join("shims");
    fs::create_dir_all(&shims).map_err(|source| BuildError::Write { path: shims.clone(), source })?;
    let node = bin(job.interpreter);
    let path = [&app.join("node_modules/.bin"), &shims, &node].map(|p| text(p)).join(":");
    let mut env = uv::network();
    let known = ["NODE_EXTRA_CA_CERTS", "NPM_TOKEN", "NODE_AUTH_TOKEN", "YARN_NPM_AUTH_TOKEN", "YARN_NPM_REGISTRY_SERVER", "YARN_REGISTRY"];
    env.extend(std::env::vars().filter(|(n, _)| is_about_packages(n) || known.contains(&n.as_str())));
    let named =
        |name: &String| install.is_some_and(|i| i.variables.contains(name)) || is_about_packages(name) || known.contains(&name.as_str());
    env.extend(job.request.config.iter().filter(|(n, _)| named(n)).cloned());
    if let Some(file) = user_config() {
        env.push(("npm_config_userconfig".into(), text(&file)));
        if let Some(registry) = setting(&file, "registry")
            && !env.iter().any(|(n, _)| n == "YARN_NPM_REGISTRY_SERVER")
        {
            env.push(("YARN_NPM_REGISTRY_SERVER".into(), registry));
        }
    }
    // Else node-gyp fetches these headers.
    if job.interpreter.prefix.join("include/node/node.h").is_file()
        && !env.iter().any(|(n, _)| n.eq_ignore_ascii_case("npm_config_nodedir"))
    {
        env.push(("npm_config_nodedir".into(), text(&job.interpreter.prefix)));
    }
    let fixed = [
        ("PATH", format!("{path}:/usr/local/bin:/usr/bin:/bin")),
        ("HOME", text(&home)),
        ("TMPDIR", text(&job.stage.tmp())),
        ("LANG", "C.UTF-8".into()),
        ("NO_COLOR", "1".into()),
        ("npm_config_cache", text(&downloads.join("npm"))),
        ("npm_config_update_notifier", "false".into()),
        ("npm_config_audit", "false".into()),
        ("npm_config_fund", "false".into()),
        ("SOURCE_DATE_EPOCH", crate::dependencies::layers::EPOCH.to_string()),
        // There is no repository to hook into.
        ("HUSKY", "0".into()),
        ("SKIP_INSTALL_SIMPLE_GIT_HOOKS", "1".into()),
        ("LEFTHOOK", "0".into()),
    ];
    env.extend(fixed.map(|(k, v)| (k.to_owned(), v)));
    if let Some(install) = install {
        env.extend(own(install, &downloads, app == Path::new(APP)));
        let script = match &install.program {
            Named::Own => None,
            Named::Fetched { package, version } => {
                let tools = fs::canonicalize(folder(job)).unwrap_or_default();
                let kept =
                    tools.join(format!("{}-{version}", package.rsplit('/').next().unwrap_or(package))).join("node_modules").join(package);
                let entry = ["bin/pnpm.cjs", "bin/pnpm.mjs", "bin/yarn.js"].iter().map(|e| kept.join(e)).find(|p| p.is_file());
                entry.map(|p| text(&p))
            }
            Named::Vendored(path) => Some(text(&app.join(path))),
        };
        if let Some(script) = script {
            // Scripts call it by its name.
            let made = shim(&shims.join(install.manager.command()), &format!("'{script}'"));
            made.map_err(|source| BuildError::Write { path: shims.clone(), source })?;
        }
    }
    Ok(env)
}

/// What one package manager is told. `mounted`: it works at the place where the slug will run.
fn own(install: &Install, downloads: &Path, mounted: bool) -> Vec<(String, String)> {
    let folder = |name: &str| downloads.join(name).to_string_lossy().into_owned();
    let mut env: Vec<(String, String)> = Vec::new();
    match install.manager {
        Manager::Npm => {}
        Manager::Pnpm => {
            let mut options = vec![
                ("store_dir", folder("pnpm")),
                // A linked file would be changed together with the store's own copy.
                ("package_import_method", "copy".into()),
                // Commands name folders by their whole paths, by which programs find what only their neighbours declare.
                ("extend_node_path", mounted.to_string()),
                ("enable_global_virtual_store", "false".into()),
                ("manage_package_manager_versions", "false".into()),
                ("package_manager_strict", "false".into()),
                ("confirm_modules_purge", "false".into()),
                ("verify_deps_before_run", "false".into()),
                ("update_notifier", "false".into()),
                ("reporter", "append-only".into()),
            ];
            if !install.chooses_builds {
                options.push(("dangerously_allow_all_builds", "true".into()));
            }
            for (name, value) in options {
                // From its 11th release on pnpm reads variables of its own.
                env.extend(["npm_config_", "pnpm_config_"].map(|head| (format!("{head}{name}"), value.clone())));
            }
        }
        Manager::Yarn => env.push(("YARN_CACHE_FOLDER".into(), folder("yarn"))),
        Manager::Berry => {
            if !install.files.iter().any(|f| f.starts_with(".yarn/cache/")) {
                env.push(("YARN_CACHE_FOLDER".into(), folder("berry")));
                env.push(("YARN_ENABLE_GLOBAL_CACHE".into(), "false".into()));
            }
            env.extend(
                [
                    ("YARN_GLOBAL_FOLDER", folder("berry-global")),
                    ("YARN_INSTALL_STATE_PATH", folder("berry-state.gz")),
                    ("YARN_NODE_LINKER", "node-modules".into()),
                    ("YARN_ENABLE_TELEMETRY", "0".into()),
                    ("YARN_ENABLE_SCRIPTS", "true".into()),
                    ("YARN_ENABLE_PROGRESS_BARS", "false".into()),
                ]
                .map(|(k, v)| (k.to_owned(), v)),
            );
            // yarn 2 and 3 end at a setting that they do not know.
            if berry_release(&install.program).is_some_and(|major| major >= 4) {
                env.push(("YARN_ENABLE_HARDENED_MODE".into(), "0".into()));
            }
        }
    }
    env
}

/// The first number of a yarn's version, where its name or its file's name has it.
fn berry_release(program: &Named) -> Option<u32> {
    let version = match program {
        Named::Own => return None,
        Named::Fetched { version, .. } => version.as_str(),
        Named::Vendored(path) => path.rsplit('/').next()?.strip_prefix("yarn-")?,
    };
    version.split('.').next()?.parse().ok()
}

/// The runs that install what the lock says.
pub(super) fn install(install: &Install, all: bool, version: &str) -> Vec<Vec<String>> {
    let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    match (install.manager, all) {
        // `npm ci` does not take every lock that npm resolves itself: the rules of the two differ.
        (Manager::Npm, all) if install.lock.is_none() => {
            let kind = if all { "--include=dev" } else { "--omit=dev" };
            vec![words(&["install", kind, "--no-audit", "--no-fund", "--loglevel=error"])]
        }
        (Manager::Npm, true) => vec![words(&["ci", "--include=dev", "--no-audit", "--no-fund", "--loglevel=error"])],
        (Manager::Npm, false) => vec![words(&["ci", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"])],
        (Manager::Pnpm, true) => vec![words(&["install", "--frozen-lockfile", "--prod=false"])],
        (Manager::Pnpm, false) => vec![words(&["install", "--frozen-lockfile", "--prod"])],
        (Manager::Yarn, all) => {
            let kind = format!("--production={}", !all);
            vec![words(&["install", "--frozen-lockfile", "--non-interactive", "--no-progress", &kind])]
        }
        (Manager::Berry, true) => vec![words(&["install", "--immutable"])],
        // The first checks the lock, which the second takes as it comes; before yarn 4 that is a plugin.
        (Manager::Berry, false) => {
            let plugin = install.files.iter().any(|f| f.contains("plugin-workspace-tools"));
            let without_scripts = if version.starts_with("2.") { "--skip-builds" } else { "--mode=skip-build" };
            let check = words(&["install", "--immutable", without_scripts]);
            let old = version.starts_with("2.") || version.starts_with("3.");
            if old && !plugin {
                vec![words(&["install", "--immutable"])]
            } else {
                vec![check, words(&["workspaces", "focus", "--all", "--production"])]
            }
        }
    }
}
