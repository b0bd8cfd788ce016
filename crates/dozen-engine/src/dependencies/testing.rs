//! An app's tests: run in a jail like a build's programs, on a copy of a slug that they may write to and that is gone with them.
//!
//! **Invariant:** tests change no slug, no cache and no data of a deploy: what they find is made for them and removed after them.

use super::builder::Builder;
use super::runner::{Command, OnLine, Runner};
use super::stage::Stage;
use super::{BuildError, blocking};
use crate::backing;
use crate::home::Home;
use crate::processes::spec::{APP, shell};
use crate::release::scratch::Scratch;
use crate::release::store::{self, StoreError};
use dozen_core::backing::{Attachment, ResourceKind, ServiceUrl};
use dozen_core::config::Config;
use dozen_core::ids::{AppName, DeployRef, InstanceName, TypeName, Version};
use dozen_core::processes::jail::Mount;
use dozen_core::release::{Release, Slug};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Tests may take so long, as a one-off that does what a release phase does.
const LIMIT: Duration = Duration::from_secs(60 * 60);
/// As a shell's `timeout` says it.
const TIMED_OUT: i32 = 124;
/// What languages' tools go by; what app.json says wins.
const KIND: [(&str, &str); 5] = [("CI", "true"), ("NODE_ENV", "test"), ("RACK_ENV", "test"), ("RAILS_ENV", "test"), ("APP_ENV", "test")];

/// What is tested, and by what.
pub(crate) struct Tests<'a> {
    /// The dozen binary.
    pub(crate) exe: &'a Path,
    /// Whose slug store is used.
    pub(crate) home: &'a Home,
    /// Whose tests they are.
    pub(crate) app: &'a AppName,
    /// Built with what only development needs.
    pub(crate) slug: &'a Slug,
    /// What the app's own shell runs, one after the other until one fails.
    pub(crate) scripts: &'a [String],
    /// Thrown away.
    pub(crate) config: Config,
    /// Resources that are made for them, by name.
    pub(crate) resources: Vec<(String, ResourceKind)>,
}

/// Runs the scripts; answers the exit code of the last that ran, as a shell says it. Dropping the future ends all of it.
pub(crate) async fn run(tests: Tests<'_>, on_line: OnLine) -> Result<i32, BuildError> {
    let mut runner = Runner::here(tests.exe, |apart| Ok::<_, BuildError>(Builder::stranger(apart))).await?;
    // A live test of a web app is one.
    runner.any_port = true;
    let slugs = tests.home.slugs();
    let work = Scratch::new(&slugs).map_err(|source| BuildError::Write { path: slugs, source })?;
    let failed = |source| BuildError::Write { path: work.path().to_owned(), source };
    let (tree, tmp, data) = (work.path().join("tree"), work.path().join("tmp"), work.path().join("data"));
    {
        let (home, slug, to, builder) = (tests.home.clone(), tests.slug.clone(), tree.clone(), runner.builder);
        blocking(move || copy(&home, &slug, &to, builder)).await?;
    }
    runner.builder.make(&tmp).and_then(|()| runner.builder.make(&data)).map_err(failed)?;
    let attachments = tests.resources.iter().map(|(name, kind)| attach(&data, name, *kind, runner.builder));
    let attachments: Vec<Attachment> = attachments.collect::<io::Result<_>>().map_err(failed)?;

    let mut mounts: Vec<Mount> = tests.slug.needs.iter().filter_map(|needed| Stage::read_only(needed)).collect();
    for (source, target) in [(&tree, APP), (&tmp, "/.dozen/tmp"), (&data, "/.dozen/data")] {
        mounts.push(Mount { source: source.clone(), target: target.into(), writable: true });
    }
    let mut env = environment(&tests, attachments, &tree);
    env.push(("TMPDIR".into(), tmp.to_string_lossy().into_owned()));
    let mut code = 0;
    for script in tests.scripts {
        let command = Command { argv: shell(&tree, script), env: env.clone(), cwd: tree.clone(), mounts: mounts.clone() };
        let ran = tokio::time::timeout(LIMIT, runner.run(command, on_line.clone())).await;
        code = match ran {
            Ok(exit) => exit.map_err(|source| BuildError::Start { command: script.clone(), source })?.code(),
            Err(_) => TIMED_OUT,
        };
        if code != 0 {
            break;
        }
    }
    Ok(code)
}

/// What a process of a release would find, but for what is a release's own.
fn environment(tests: &Tests<'_>, attachments: Vec<Attachment>, tree: &Path) -> Vec<(String, String)> {
    let release = Release {
        deploy: DeployRef { app: tests.app.clone(), deploy: "test".parse().expect("a literal deploy name is valid") },
        version: Version(0),
        slug: tests.slug.clone(),
        config: tests.config.clone(),
        attachments,
        description: String::new(),
        created: jiff::Timestamp::UNIX_EPOCH,
    };
    let kind: TypeName = "test".parse().expect("a literal process type is valid");
    let mut env = release.environment(&InstanceName { kind, number: 1 }, None, &tree.to_string_lossy());
    env.retain(|(name, _)| !name.contains("_RELEASE_"));
    for (name, value) in KIND {
        // A slug says that it is for production; only what tests are told outright counts here.
        if !tests.config.vars.contains_key(name) {
            env.retain(|(other, _)| other != name);
            env.push((name.into(), value.into()));
        }
    }
    env
}

fn attach(data: &Path, name: &str, kind: ResourceKind, builder: Builder) -> io::Result<Attachment> {
    let folder: PathBuf = data.join(name);
    builder.make(&folder)?;
    let url = match kind {
        ResourceKind::Sqlite => ServiceUrl::sqlite(&folder.join(backing::SQLITE_FILE)),
    };
    let url = url.ok_or_else(|| io::Error::other(format!("{} is no path that a URL can have", folder.display())))?;
    Ok(Attachment { name: name.to_owned(), kind, url, folder: Some(folder) })
}

/// Nothing that runs has seen the copy yet: it is made by paths.
fn copy(home: &Home, slug: &Slug, to: &Path, builder: Builder) -> Result<(), BuildError> {
    let from = home.slug(&slug.id).join("tree");
    let missing = || StoreError::Missing { id: slug.id.short(), slugs: home.slugs() };
    let entries = store::entries(home, &slug.id).ok_or_else(missing)?;
    let failed = |source| BuildError::Write { path: to.to_owned(), source };
    builder.make(to).map_err(failed)?;
    for entry in &entries {
        let (source, place) = (from.join(&entry.path), to.join(&entry.path));
        if let Some(above) = Path::new(&entry.path).parent().filter(|above| !above.as_os_str().is_empty()) {
            builder.make_within(to, above).map_err(failed)?;
        }
        let copied = match entry.kind {
            'l' => fs::read_link(&source).and_then(|target| std::os::unix::fs::symlink(target, &place)),
            _ => fs::copy(&source, &place).map(drop),
        };
        copied.and_then(|()| builder.give(&place)).map_err(failed)?;
    }
    slug.scratch.iter().try_for_each(|folder| builder.make_within(to, Path::new(folder))).map_err(failed)
}
