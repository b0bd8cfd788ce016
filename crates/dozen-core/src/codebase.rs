//! I. One codebase tracked in revision control, many deploys.
//! An app is one codebase; a source is one state of it, known by its content.
//!
//! **Invariant:** a source's id depends on paths, modes and contents only, never on where or when it was read.

use crate::ids::{AppName, DeployRef};
use std::path::PathBuf;

pub mod push;
pub mod ssh;

/// A codebase with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Its name.
    pub name: AppName,
    /// The folder it was last brought up from; how a command run inside it finds its app.
    pub folder: Option<PathBuf>,
}

/// A running copy of an app, with config, formation, attachments and releases of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deploy {
    /// App and deploy name.
    pub name: DeployRef,
    /// The uid that its processes run as where dozen may choose one.
    pub uid: u32,
}

/// A commit of the codebase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Forty (or sixty-four) hexadecimal digits.
    pub hash: String,
    /// Whether the work tree differed from it when it was read.
    pub dirty: bool,
}

impl Commit {
    /// The first eight digits, with `+` where the work tree differs: `1a2b3c4d+`.
    pub fn short(&self) -> String {
        let n = self.hash.len().min(8);
        format!("{}{}", &self.hash[..n], if self.dirty { "+" } else { "" })
    }

    /// As it is written down: the whole hash, with `+` where the work tree differed.
    pub fn record(&self) -> String {
        format!("{}{}", self.hash, if self.dirty { "+" } else { "" })
    }

    /// What [`Commit::record`] wrote.
    pub fn from_record(text: String) -> Self {
        Self { hash: text.trim_end_matches('+').to_owned(), dirty: text.ends_with('+') }
    }
}

/// One state of a codebase, as it goes into a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where it was read from.
    pub folder: PathBuf,
    /// The commit that is checked out there, where the folder is a git work tree.
    pub commit: Option<Commit>,
    /// The files, sorted by path.
    pub files: Vec<SourceFile>,
}

/// One file of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Relative to the root, `/`-separated, without `..`. Bytes that are not UTF-8 are refused when the source is read.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Size in bytes; 0 for a link.
    pub size: u64,
}

/// What a file of a source or a slug is. Of the permissions only "executable" counts, as in git.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A plain file.
    Plain,
    /// An executable file.
    Executable,
    /// A symbolic link and its target.
    Link(String),
}

impl Source {
    /// Whether there is a file of this name at the root.
    pub fn has(&self, path: &str) -> bool {
        self.files.binary_search_by(|f| f.path.as_str().cmp(path)).is_ok()
    }
}
