//! The tests of an app: run by themselves, and as what stands before a release.
//!
//! **Invariant:** they have a config of their own, and never a deploy's: what they send mail with is nobody's.

use super::declared::{self, Declared};
use super::{BuildOptions, DeployError, Floor, building};
use crate::codebase::Reading;
use crate::codebase::commit;
use crate::codebase::repository::Repository;
use crate::dependencies::{self, testing};
use crate::home::Home;
use crate::ledger::{Intent, Principal};
use crate::output::{Event, Output};
use dozen_core::codebase::Commit;
use dozen_core::config::{Config, Mask, Origin, Var};
use dozen_core::ids::{AppName, SlugId};
use dozen_core::release::{self, Slug};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Where tests run, and what they are given besides what app.json says.
#[derive(Debug, Clone, Copy)]
pub struct Testing<'a> {
    /// The dozen binary, for the jails that they run in.
    pub exe: &'a Path,
    /// Whose caches and slug store are used.
    pub home: &'a Home,
    /// Whose tests they are.
    pub app: &'a AppName,
    /// Variables over those of app.json.
    pub config: &'a [(String, String)],
}

/// How tests ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tested {
    /// As a shell says it; 0 where they passed.
    pub code: i32,
    /// What they ran on: it has what only development needs.
    pub slug: SlugId,
}

/// Builds a source with what only development needs, and runs its app.json's `environments.test` scripts on that.
///
/// # Errors
/// There are no tests, or they could not be run. That they fail is an answer.
pub async fn test(testing: Testing<'_>, mut reading: Reading, printer: Arc<dyn Output>) -> Result<Tested, DeployError> {
    let Testing { exe, home, app, config } = testing;
    let output = &*printer;
    home.make().map_err(|(path, source)| dependencies::BuildError::Write { path, source })?;
    building::leave_out_home(home, &mut reading)?;
    reading.warnings.iter().for_each(|w| output.warning(w));
    let declared = declared::read(&reading.source, output)?;
    let scripts = declared.test_scripts().ok_or(DeployError::NoTests)?;
    let mut own = Config::default();
    for (name, value) in config {
        own.set(name, Var { value: value.clone(), origin: Origin::Set, plain: false })?;
    }
    let config = declared.test_config(own)?;
    let resources = declared.test_resources(&config, output);
    let given = |name: &String| resources.iter().any(|(resource, _)| format!("{resource}_URL") == *name);
    let missing: Vec<String> = declared.test_missing(&config).into_iter().filter(|name| !given(name)).collect();
    if !missing.is_empty() {
        return Err(DeployError::TestsRequire(missing));
    }
    let built = build(testing, &declared, &reading, &config, printer.clone()).await?;

    output.step("Running tests");
    scripts.iter().for_each(|script| output.detail(&format!("$ {script}")));
    let mask = Mask::of(config.vars.values());
    let hears = printer.clone();
    let on_line = Arc::new(move |line: &str| hears.detail(&mask.apply(line)));
    let began = Instant::now();
    let tests = testing::Tests { exe, home, app, slug: &built, scripts: &scripts, config, resources };
    let code = testing::run(tests, on_line).await?;
    output.emit(Event::Done(began.elapsed()));
    Ok(Tested { code, slug: built.id })
}

async fn build(
    Testing { exe, home, app, .. }: Testing<'_>,
    declared: &Declared,
    reading: &Reading,
    config: &Config,
    printer: Arc<dyn Output>,
) -> Result<Slug, DeployError> {
    let last = dependencies::last_built(home, app);
    let last_runtime = last.as_ref().and_then(|s| s.stack.runtime.as_deref());
    let variables: Vec<(String, String)> = release::variables(config, &[]).into_iter().collect();
    let options = BuildOptions::default();
    let (mask, waits) = (Mask::of(config.vars.values()), tokio::sync::watch::Sender::new(false));
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
        placeholders: &[],
        mask: &mask,
        use_python: options.use_python.as_deref(),
        last_python: last_runtime.and_then(|r| r.strip_prefix("Python ")),
        use_node: options.use_node.as_deref(),
        last_node: last_runtime.and_then(|r| r.strip_prefix("Node ")),
        development: true,
        buildpacks: declared.buildpacks(),
        stack: declared.stack(),
        folders: options.folders,
        waits: &waits,
        output: printer,
    });
    Ok(built.await?.slug)
}

impl Floor {
    /// Whether the code may be released: what stands before a release of this deploy has passed, now or earlier for the same slug.
    ///
    /// # Errors
    /// It has not; why was told.
    pub(super) async fn pass(
        &self,
        who: &Principal,
        slug: &Slug,
        reading: Option<Reading>,
        printer: &Arc<dyn Output>,
    ) -> Result<(), DeployError> {
        let gates = self.ledger.gates(&self.deploy).await?;
        if !gates.iter().any(|gate| gate == "tests") {
            return Ok(());
        }
        if self.ledger.passed(slug.id).await? {
            printer.step(&format!("Tests of slug {} have passed before", slug.id.short()));
            return Ok(());
        }
        let (reading, _kept) = match reading {
            Some(reading) => (reading, None),
            None => self.source_of_commit(slug.commit.as_ref()).await?,
        };
        let testing = Testing { exe: &self.exe, home: self.home(), app: &self.deploy.app, config: &[] };
        let tested = test(testing, reading, printer.clone()).await?;
        let passed = tested.code == 0;
        self.ledger.commit(who, Intent::Tested { deploy: self.deploy.clone(), slug: slug.id, passed }).await?;
        if passed { Ok(()) } else { Err(DeployError::TestsFailed { deploy: self.deploy.clone(), code: tested.code }) }
    }

    /// The source of a slug that came without one: its commit, where that was pushed here once.
    async fn source_of_commit(&self, commit: Option<&Commit>) -> Result<(Reading, Option<commit::CheckedOut>), DeployError> {
        let untested = || DeployError::Untested(self.deploy.clone());
        let hash = commit.filter(|commit| !commit.dirty).map(|commit| commit.hash.clone()).ok_or_else(untested)?;
        let (home, deploy) = (self.home().clone(), self.deploy.clone());
        let work = move || {
            let repository = Repository::open(&home, &deploy).ok()?;
            let checkout = commit::check_out(&home, &repository, &hash, None).ok()?;
            let reading = crate::codebase::read_commit(checkout.folder(), checkout.commit.clone()).ok()?;
            Some((reading, Some(checkout)))
        };
        dependencies::blocking(work).await.ok_or_else(untested)
    }
}
