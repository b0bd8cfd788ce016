//! II. Explicitly declare and isolate dependencies.
//! A pack looks at a source and answers a plan: build steps as data, which the engine runs. A pack runs nothing.
//!
//! **Invariant:** nothing here reads the disk; the engine hands in the few files that a pack asks for.

use crate::codebase::Source;
use crate::ids::TypeName;

pub mod aptfile;
pub mod buildpacks;
pub mod go;
pub mod java;
mod language;
pub mod node;
pub mod php;
pub mod procfile;
pub mod python;
pub mod ruby;
pub mod rust;
pub mod static_files;
pub mod system;
#[cfg(test)]
mod tests;

pub use language::{Language, Runtime, Versions};

/// Counted up when a pack's output for one and the same source changes: part of every cache key.
pub const PACK_VERSION: u32 = 6;

/// A language and what runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// The pack's name: `python`, `go`, `procfile`.
    pub pack: String,
    /// For people: `Python 3.11.7`.
    pub runtime: Option<String>,
}

/// What is to be done to make a slug of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The pack's name: `python`, `go`, `procfile`.
    pub pack: &'static str,
    /// The language, as a person reads it: `Python`. `None`: no language, the tree as it is.
    pub language: Option<&'static str>,
    /// What is to run the app; `None` where the system's own programs do.
    pub runtime: Option<Runtime>,
    /// The dependencies, installed once for all builds that declare the same.
    pub layer: Option<Layer>,
    /// What is done for each source, after the layer is in place.
    pub steps: Vec<Step>,
    /// Environment for every process; `{app}` in a value stands for the folder that the slug is seen at, `{runtime}` for that of the
    /// interpreter.
    pub env: Vec<(String, String)>,
    /// Types for an app without a Procfile, by name and command.
    pub processes: Vec<(TypeName, String)>,
    /// The language's interactive shell with the app's code at hand: what `console` runs where the app names nothing else.
    pub console: Option<String>,
    /// Folders that apps of this kind write beside their code, relative.
    pub scratch: Vec<String>,
    /// What to do when there is neither a Procfile nor a default type.
    pub cure: String,
    /// What a person should know, as sentences without a full stop.
    pub notes: Vec<String>,
}

impl Plan {
    /// The same with what only development needs, as tests want it.
    pub fn with_development(mut self) -> Self {
        let drop = |args: &mut Vec<String>| args.retain(|arg| arg != "--no-dev");
        match self.layer.as_mut().map(|layer| &mut layer.tool) {
            Some(Tool::Uv { install, .. }) => drop(install),
            // Without a script that needs them they would be installed by nobody.
            Some(Tool::Node(install)) => install.development = true,
            None => {}
        }
        for step in &mut self.steps {
            if let Step::Project { args } = step {
                drop(args);
            }
        }
        self
    }
}

/// Installed dependencies, kept and shared by what [`Layer::key_files`] say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The file that declares them: `uv.lock`.
    pub from: String,
    /// The files that decide what is installed.
    pub key_files: Vec<String>,
    /// What installs them.
    pub tool: Tool,
}

/// What installs a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tool {
    /// uv, into a virtual environment.
    Uv {
        /// How the list of what to install comes about.
        lock: Lock,
        /// Arguments for uv. `{venv}` is the environment, `{source}` a scratch copy of the source, `{lock}` the list.
        install: Vec<String>,
    },
    /// npm, pnpm or yarn, into `node_modules`.
    Node(Box<node::Install>),
}

/// How a layer's list of what to install comes about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lock {
    /// uv reads the file that declares them.
    Own,
    /// This text, in the form of a requirements file.
    Made(String),
    /// poetry exports its lock as a requirements file.
    Poetry,
    /// The declared ones are resolved once and the result is kept.
    Resolved {
        /// The file to resolve.
        input: String,
        /// Names that the input pins with `==`: when nothing else was resolved, the input was a lock already.
        pinned: Vec<String>,
        /// How a person makes a real lock.
        advice: String,
    },
}

/// Something done for each source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Installs the source's own packages with uv; placeholders as in [`Tool::Uv`].
    Project {
        /// Arguments for uv.
        args: Vec<String>,
    },
    /// Django's static files, where Django is installed.
    CollectStatic {
        /// The path of `manage.py`.
        manage: String,
    },
    /// A script of a package.json.
    Script(node::Script),
    /// A program of the language's tools.
    Run(Run),
}

/// A program of the language's tools, run in the app's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// As a person would write it: `go build`.
    pub shown: String,
    /// Its arguments, the program first. `{program}` is the language's own, `{app}` the app's folder, `{keep}` one that the app's next build
    /// finds again, `{home}` one that is gone with the build, `{version}` the language's, `{prefix}` where that is installed.
    pub argv: Vec<String>,
    /// Its environment beside what every program of a build has; placeholders as above.
    pub env: Vec<(String, String)>,
    /// Variables of this user and of the config that say where packages come from, by name; `HEAD_*` stands for all that begin so.
    pub passed: &'static [&'static str],
    /// Whether it works on a copy of the source, seen where the app is. There the time of a file that did not change since the last build is
    /// older than all that this one made.
    pub apart: bool,
    /// How its program is installed where it is not the language's own: `apt install ruby-bundler`.
    pub install: &'static str,
    /// Whether it loads the app's settings: then it gets the deploy's config, and placeholders for what is required and has no value.
    pub settings: bool,
    /// What of the folder that is kept goes into the app's, by their paths in both.
    pub makes: Vec<(String, String)>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No pack knows the source.
    #[error(
        "no pack knows this app: it has none of {}, no Procfile and no index.html. \
         Add a Procfile (`web: ./server --port $PORT`) to run it as it is, or declare its dependencies in one of those files",
        python::KNOWN_BY.join(", ") + ", " + node::KNOWN_BY + ", " + &[ruby::KNOWN_BY, go::KNOWN_BY, rust::KNOWN_BY, java::KNOWN_BY, php::KNOWN_BY].join(", ")
    )]
    Unknown,
    /// There are no files at all.
    #[error("there is nothing to build: the folder has no files that would go into a slug")]
    Empty,
    /// A file cannot be used.
    #[error("{file} cannot be used: {problem}. {cure}")]
    File {
        /// Its path.
        file: String,
        /// What is wrong, as a fragment.
        problem: String,
        /// What to do, as a sentence without a full stop.
        cure: String,
    },
}

/// Asks the packs in turn; the first that knows the source answers.
pub fn plan(source: &Source, read: &dyn Fn(&str) -> Option<String>) -> Result<Plan, PlanError> {
    if source.files.is_empty() {
        return Err(PlanError::Empty);
    }
    let python = || python::plan(source, read);
    // A pyproject.toml that only configures tools makes no Python app of one in another language.
    let declared = if python::declares(source, read) { python() } else { None };
    let first = || {
        let ruby = ruby::plan(source, read);
        let made = ruby.or_else(|| go::plan(source, read)).or_else(|| rust::plan(source, read)).or_else(|| java::plan(source, read));
        beside(source, made.or_else(|| php::plan(source, read)))
    };
    // What only helps to make a page for browsers makes no Node app of one in another language either.
    let compiled = || if node::leads(source, read) { None } else { first() };
    // A site may keep tools in a package.json that neither builds nor starts anything.
    let idle = |p: &Result<Plan, PlanError>| p.as_ref().is_ok_and(|p| p.processes.is_empty() && p.steps.is_empty());
    let node = || {
        node::plan(source, read)
            .map(|p| if idle(&p) && !source.has("Procfile") { static_files::plan(source, read).unwrap_or(p) } else { p })
    };
    let plan = declared.or_else(compiled).or_else(node).or_else(python).or_else(|| php::bare(source, read));
    plan.or_else(|| procfile::plan(source)).or_else(|| static_files::plan(source, read)).unwrap_or(Err(PlanError::Unknown))
}

/// A plan that says what of the source it leaves aside.
fn beside(source: &Source, plan: Option<Result<Plan, PlanError>>) -> Option<Result<Plan, PlanError>> {
    let mut plan = plan?;
    if let Ok(plan) = &mut plan
        && source.has(node::KNOWN_BY)
    {
        let note = format!("{} is not used: commit what its scripts make, or start the app by it", node::KNOWN_BY);
        plan.notes.push(note);
    }
    Some(plan)
}

/// What frameworks write beside their code, by a file that tells them.
const WRITTEN: [(&str, &[&str]); 2] = [("config/application.rb", &["log", "tmp"]), ("artisan", &["bootstrap/cache", "storage"])];

/// The folders that an instance may write: those of the pack, of a framework that is known by its files, and those that the app declares.
/// Sorted, each once, none within another.
pub fn scratch(source: &Source, plan: &Plan, declared: &[String]) -> Vec<String> {
    let known = WRITTEN.iter().filter(|(file, _)| source.has(file)).flat_map(|(_, folders)| folders.iter().map(|f| (*f).to_owned()));
    let clean = |f: &String| f.split('/').filter(|p| !p.is_empty() && *p != ".").collect::<Vec<_>>().join("/");
    let mut all: Vec<String> = plan.scratch.iter().cloned().chain(known).chain(declared.iter().cloned()).map(|f| clean(&f)).collect();
    all.sort();
    let mut out: Vec<String> = Vec::new();
    for folder in all {
        if !folder.is_empty() && out.iter().all(|outer| folder != *outer && !folder.starts_with(&format!("{outer}/"))) {
            out.push(folder);
        }
    }
    out
}
