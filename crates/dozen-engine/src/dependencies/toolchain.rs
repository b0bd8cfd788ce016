//! A language's own tools at work: what the plan says is run in the app's folder.
//!
//! What tools download and compile they keep for the app's next build, by the hashes of lock and sources: they know better than a key of dozen's
//! what of it a change leaves valid.

use super::beneath::Beneath;
use super::runner::Command;
use super::stage::Stage;
use super::steps::{Job, Show, failed};
use super::times::Times;
use super::{BuildError, uv};
use crate::output::Event;
use dozen_core::dependencies::{Language, Run, Step};
use std::collections::BTreeMap;
use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Instant;

mod failure;

/// Runs what the plan says.
pub(super) async fn run(job: &Job<'_>, language: Language) -> Result<(), BuildError> {
    for step in &job.plan.steps {
        let Step::Run(run) = step else { continue };
        one(job, language, run).await?;
    }
    // What an app writes beside its code when it runs, it begins without.
    let written = |source| BuildError::Write { path: job.tree.to_owned(), source };
    let tree = Beneath::open(job.tree).map_err(written)?;
    job.plan.scratch.iter().try_for_each(|folder| tree.remove(folder)).map_err(written)
}

async fn one(job: &Job<'_>, language: Language, run: &Run) -> Result<(), BuildError> {
    let began = Instant::now();
    job.request.output.step(&format!("$ {}", run.shown));
    if let Some(program) = run.argv.first().filter(|p| !run.install.is_empty() && !on_path(job, p)) {
        return Err(BuildError::Tool { program: program.clone(), install: run.install });
    }
    let keep = job.stage.downloads(job.plan.pack);
    let (folder, times) = if run.apart {
        let copy = job.source_copy().await?;
        let (list, builder) = (Path::new(job.plan.pack).join("sources.json"), job.stage.builder());
        let times = Times::set((job.request.source, job.print), &copy, &job.stage.downloads(""), list, builder);
        let times = times.map_err(|source| BuildError::Write { path: copy.clone(), source })?;
        (copy, Some(times))
    } else {
        (job.tree.to_owned(), None)
    };
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let program = text(&job.interpreter.executable);
    let places = [
        ("{app}", text(&folder)),
        ("{keep}", text(&keep)),
        ("{program}", program),
        ("{version}", job.interpreter.number()),
        ("{home}", text(&job.stage.home())),
        ("{prefix}", text(&job.interpreter.prefix)),
    ];
    let fill = |word: &String| places.iter().fold(word.clone(), |word, (name, path)| word.replace(name, path));
    let passed = |name: &str| run.passed.iter().any(|p| p.strip_suffix('*').map_or(*p == name, |head| name.starts_with(head)));
    // Of two values of a name the last is meant.
    let own = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut env: BTreeMap<String, String> = own.filter(|(name, _)| passed(name)).collect();
    env.extend(job.request.config.iter().filter(|(name, _)| passed(name)).cloned());
    env.extend(uv::network().into_iter().chain(job.base_env()));
    env.extend(run.env.iter().map(|(name, value)| (name.clone(), fill(value))));
    if run.settings {
        env.extend(job.request.placeholders.iter().map(|name| (name.clone(), "placeholder".to_owned())));
        env.extend(job.request.config.iter().filter(|(name, _)| name != "PATH").cloned());
    }
    let command = Command {
        argv: run.argv.iter().map(fill).collect(),
        env: env.into_iter().collect(),
        cwd: folder.clone(),
        mounts: vec![Stage::app(&folder)],
    };
    let ran = job.run_command(command, &run.shown, Show::All).await?;
    if !ran.status.is_success() {
        let cure = failure::cure(language, &ran.last, job.interpreter);
        return Err(failed(&run.shown, &ran, cure));
    }
    for (from, to) in &run.makes {
        take(&keep, from, job, to).map_err(|source| BuildError::Write { path: job.tree.join(to), source })?;
    }
    let kept = times.as_ref().map_or(Ok(()), Times::keep);
    kept.map_err(|source| BuildError::Write { path: keep, source })?;
    job.request.output.emit(Event::Done(began.elapsed()));
    Ok(())
}

/// Whether a build finds a program.
fn on_path(job: &Job<'_>, program: &str) -> bool {
    Stage::path(job.interpreter).split(':').any(|folder| Path::new(folder).join(program).is_file())
}

/// Copies a program that tools made into the app's folder.
fn take(keep: &Path, from: &str, job: &Job<'_>, to: &str) -> io::Result<()> {
    let file = Beneath::open(keep)?.file(Path::new(from));
    let mut made =
        file.map_err(|e| io::Error::new(e.kind(), format!("the build made no {from}: {e}. Do its settings name another target?")))?;
    let (tree, builder) = (Beneath::open(job.tree)?, job.stage.builder());
    tree.remove(to)?;
    let mut copy = tree.put(to, builder, |path| OpenOptions::new().write(true).create_new(true).mode(0o755).open(path))?;
    io::copy(&mut made, &mut copy)?;
    builder.give_file(&copy)?;
    // The mode was the umask's to change.
    copy.set_permissions(Permissions::from_mode(0o755))
}
