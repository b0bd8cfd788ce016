//! Source → slug alone: a build that needs no deploy and no ledger; and what a slug declares, read back from its tree.

use super::declared;
use super::{Build, BuildOptions, DeployError, Floor, Pins, Ready};
use crate::codebase;
use crate::dependencies::{self, BuildError, Built};
use crate::home::Home;
use crate::output::Output;
use crate::release::store::{self, StoreError};
use dozen_core::codebase::{FileKind, Source, SourceFile};
use dozen_core::config::{Config, Mask, Origin, Var};
use dozen_core::dependencies::buildpacks;
use dozen_core::ids::AppName;
use dozen_core::manifest::app_json;
use dozen_core::release::{self, Slug};
use std::path::Path;
use std::sync::Arc;

/// What is built, and where.
#[derive(Debug, Clone, Copy)]
pub struct Building<'a> {
    /// The dozen binary, for the jails that builds run in.
    pub exe: &'a Path,
    /// Whose caches and slug store are used.
    pub home: &'a Home,
    /// Whose cache.
    pub app: &'a AppName,
    /// The app's folder.
    pub folder: &'a Path,
    /// Variables for steps that load the app's settings. They are no part of the slug.
    pub config: &'a [(String, String)],
}

/// Builds the slug of a folder. The store keeps it; nothing else is written but the app's cache.
pub async fn build(building: Building<'_>, options: &BuildOptions, printer: Arc<dyn Output>) -> Result<Built, DeployError> {
    let Building { exe, home, app, folder, config } = building;
    let output = &*printer;
    home.make().map_err(|(path, source)| BuildError::Write { path, source })?;
    let mut reading = codebase::read(folder)?;
    leave_out_home(home, &mut reading)?;
    reading.warnings.iter().for_each(|w| output.warning(w));
    let declared = declared::read(&reading.source, output)?;
    declared.unused(&reading.source, output);
    let mut own = Config::default();
    for (name, value) in config {
        own.set(name, Var { value: value.clone(), origin: Origin::Set, plain: false })?;
    }
    let config = declared.defaults(own)?;
    let last = dependencies::last_built(home, app);
    let last_runtime = last.as_ref().and_then(|s| s.stack.runtime.as_deref());
    let variables: Vec<(String, String)> = release::variables(&config, &[]).into_iter().collect();
    let built = dependencies::build(dependencies::Request {
        exe,
        home,
        app,
        source: &reading.source,
        processes: declared.processes.clone(),
        console: declared.console(),
        scratch: &declared.scratch,
        rules: &declared.rules,
        config: &variables,
        placeholders: &declared.missing(&config, &[]),
        mask: &Mask::of(config.vars.values()),
        use_python: options.use_python.as_deref(),
        last_python: last_runtime.and_then(|r| r.strip_prefix("Python ")),
        use_node: options.use_node.as_deref(),
        last_node: last_runtime.and_then(|r| r.strip_prefix("Node ")),
        development: false,
        waits: &tokio::sync::watch::Sender::new(false),
        buildpacks: declared.buildpacks(),
        stack: declared.stack(),
        folders: true,
        output: printer.clone(),
    })
    .await?;
    Ok(built)
}

impl Floor {
    /// The slug of a source for this deploy, and what the build was told to use.
    pub(super) async fn build(
        &self,
        ready: &Ready,
        source: &Source,
        build: &Build,
        options: &BuildOptions,
        printer: Arc<dyn Output>,
    ) -> Result<(Slug, Pins), DeployError> {
        let Ready { declared, before, config, attachments, missing, .. } = ready;
        let last = match before {
            Some(row) => store::open(self.home(), &row.slug).ok(),
            None => None,
        };
        let python = options.use_python.clone().or_else(|| before.as_ref().and_then(|b| b.python.clone()));
        let node = options.use_node.clone().or_else(|| before.as_ref().and_then(|b| b.node.clone()));
        let last_runtime = last.as_ref().and_then(|s| s.stack.runtime.as_deref());
        let variables: Vec<(String, String)> = release::variables(config, attachments).into_iter().collect();
        let mask = Mask::of(config.vars.values());
        let (waits, heard) = tokio::sync::watch::channel(false);
        let building = dependencies::build(dependencies::Request {
            exe: &self.exe,
            home: self.home(),
            app: &self.deploy.app,
            source,
            processes: declared.processes.clone(),
            console: declared.console(),
            scratch: &declared.scratch,
            rules: &declared.rules,
            config: &variables,
            placeholders: missing,
            mask: &mask,
            use_python: python.as_deref(),
            last_python: last_runtime.and_then(|r| r.strip_prefix("Python ")),
            use_node: node.as_deref(),
            last_node: last_runtime.and_then(|r| r.strip_prefix("Node ")),
            development: false,
            waits: &waits,
            buildpacks: declared.buildpacks(),
            stack: declared.stack(),
            folders: options.folders,
            output: printer,
        });
        let built = build.follow(building, heard).await?;
        // Whoever ends it from now on is too late.
        build.succeeds(&built.slug).await?;
        Ok((built.slug, (python, node)))
    }
}

/// Fails where no pack would know the folder, as [`Floor::bring_up`](super::Floor::bring_up) does later: what is no app leaves no deploy behind.
pub fn check(folder: &Path) -> Result<(), DeployError> {
    let source = codebase::read(folder)?.source;
    let text = |path: &str| codebase::text(&source, path);
    // Its packs say themselves whether they know it.
    let app_json = text("app.json").map(|t| app_json::parse(&t).0.buildpacks).unwrap_or_default();
    let dotenv = std::fs::read_to_string(folder.join(".env")).unwrap_or_default();
    if source.has(buildpacks::FILE) || !buildpacks::are_official(&app_json) || dotenv.contains(buildpacks::VARIABLE) {
        return Ok(());
    }
    dozen_core::dependencies::plan(&source, &|path| codebase::text(&source, path)).map_err(BuildError::from)?;
    Ok(())
}

/// A home within the app's folder is no part of the app: its key would go into every slug, and each build would change the source.
pub(super) fn leave_out_home(home: &Home, reading: &mut codebase::Reading) -> Result<(), DeployError> {
    let home = home.root();
    let failed = |source| DeployError::File { file: home.to_owned(), source };
    let real = home.canonicalize().map_err(failed)?;
    let Ok(within) = real.strip_prefix(&reading.source.folder) else { return Ok(()) };
    if within.as_os_str().is_empty() {
        return Err(failed(std::io::Error::other("DOZEN_HOME is the app's own folder; set it to another")));
    }
    let ours = format!("{}/", within.display());
    reading.source.files.retain(|f| !f.path.starts_with(&ours));
    reading.warnings.retain(|w| !w.starts_with(&ours));
    Ok(())
}

/// A slug's tree as a source, for reading what the app declares.
pub(super) fn source_of(home: &Home, slug: &Slug) -> Result<Source, StoreError> {
    let entries = store::entries(home, &slug.id).ok_or_else(|| StoreError::Missing { id: slug.id.short(), slugs: home.slugs() })?;
    let files = entries.into_iter().map(|entry| {
        let kind = match entry.kind {
            'x' => FileKind::Executable,
            // Nobody asks where it leads: a link is no file that an app declares something in.
            'l' => FileKind::Link(String::new()),
            _ => FileKind::Plain,
        };
        SourceFile { path: entry.path, kind, size: entry.size }
    });
    Ok(Source { folder: home.slug(&slug.id).join("tree"), commit: slug.commit.clone(), files: files.collect() })
}
