//! A language's own tools at work: what the plan says is run in the app's folder.
//!
//! What tools download and compile they keep for the app's next build, by the hashes of lock and sources: they know better than a key of dozen's
//! what of it a change leaves valid.

use super::runner::Command;
use super::stage::Stage;
use super::steps::{Job, Show, failed};
use super::{BuildError, uv};
use crate::output::Event;
use dozen_core::dependencies::{Language, Run, Step};
use std::collections::BTreeMap;
use std::time::Instant;

mod failure;

/// Runs what the plan says.
pub(super) async fn run(job: &Job<'_>, language: Language) -> Result<(), BuildError> {
    for step in &job.plan.steps {
        let Step::Run(run) = step else { continue };
        one(job, language, run).await?;
    }
    Ok(())
}

async fn one(job: &Job<'_>, language: Language, run: &Run) -> Result<(), BuildError> {
    let began = Instant::now();
    job.request.output.step(&format!("$ {}", run.shown));
    let (app, keep) = (job.tree.to_string_lossy(), job.stage.downloads(job.plan.pack));
    let (keep, program) = (keep.to_string_lossy(), job.interpreter.executable.to_string_lossy());
    let fill = |text: &String| text.replace("{app}", &app).replace("{keep}", &keep).replace("{program}", &program);
    // Of two values of a name the last is meant.
    let mut env: BTreeMap<String, String> = uv::network().into_iter().chain(uv::passed(run.passed)).chain(job.base_env()).collect();
    let config = job.request.config.iter().filter(|(name, _)| run.passed.contains(&name.as_str()));
    env.extend(config.cloned());
    env.extend(run.env.iter().map(|(name, value)| (name.clone(), fill(value))));
    let command = Command {
        argv: run.argv.iter().map(fill).collect(),
        env: env.into_iter().collect(),
        cwd: job.tree.to_owned(),
        mounts: vec![Stage::app(job.tree)],
    };
    let ran = job.run_command(command, &run.shown, Show::All).await?;
    if !ran.status.is_success() {
        let cure = failure::cure(language, &ran.last, job.interpreter);
        return Err(failed(&run.shown, &ran, cure));
    }
    job.request.output.emit(Event::Done(began.elapsed()));
    Ok(())
}
