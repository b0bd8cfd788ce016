//! II. Explicitly declare and isolate dependencies.
//! A pack looks at a source and answers a plan: build steps as data, which the engine runs. A pack runs nothing.
//!
//! **Invariant:** nothing here reads the disk; the engine hands in the few files that a pack asks for.

use crate::codebase::Source;
use crate::ids::TypeName;
use python::version::Constraint;

pub mod procfile;
pub mod python;

/// Counted up when a pack's output for one and the same source changes: part of every cache key.
pub const PACK_VERSION: u32 = 1;

/// A language and what runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// The pack's name: `python`, `procfile`.
    pub pack: String,
    /// For people: `Python 3.11.7`.
    pub runtime: Option<String>,
}

/// What is to be done to make a slug of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The pack's name: `python`, `procfile`.
    pub pack: &'static str,
    /// The language, as a person reads it: `Python`. `None`: no language, the tree as it is.
    pub language: Option<&'static str>,
    /// What is to run the app; `None` where the system's own programs do.
    pub runtime: Option<Runtime>,
    /// The dependencies, installed once for all builds that declare the same.
    pub layer: Option<Layer>,
    /// What is done for each source, after the layer is in place.
    pub steps: Vec<Step>,
    /// Environment for every process; `{app}` in a value stands for the folder that the slug is seen at.
    pub env: Vec<(String, String)>,
    /// Types for an app without a Procfile, by name and command.
    pub processes: Vec<(TypeName, String)>,
    /// What to do when there is neither a Procfile nor a default type.
    pub cure: String,
    /// What a person should know, as sentences without a full stop.
    pub notes: Vec<String>,
}

/// The language version that a source asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// Which versions will do.
    pub constraint: Constraint,
    /// Where it is said, as `file:line`; `None` where nothing is.
    pub pinned: Option<String>,
}

/// Installed dependencies, kept and shared by what [`Layer::key_files`] say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The file that declares them: `uv.lock`.
    pub from: String,
    /// The files that decide what is installed.
    pub key_files: Vec<String>,
    /// How the list of what to install comes about.
    pub lock: Lock,
    /// Arguments for uv. `{venv}` is the environment, `{source}` a scratch copy of the source, `{lock}` the list.
    pub install: Vec<String>,
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
    /// Installs the source's own packages with uv; placeholders as in [`Layer::install`].
    Project {
        /// Arguments for uv.
        args: Vec<String>,
    },
    /// Django's static files, where Django is installed.
    CollectStatic {
        /// The path of `manage.py`.
        manage: String,
    },
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No pack knows the source.
    #[error(
        "no pack knows this app: it has none of {}, and no Procfile. \
         Add a Procfile (`web: ./server --port $PORT`) to run it as it is, or declare its dependencies in one of those files",
        python::KNOWN_BY.join(", ")
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
    python::plan(source, read).or_else(|| procfile::plan(source)).unwrap_or(Err(PlanError::Unknown))
}
