//! Languages, and which of their versions a source asks for.

use super::{node, python};
use std::fmt;

/// The language version that a source asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// Which versions will do.
    pub versions: Versions,
    /// Where it is said, as `file:line`; `None` where nothing is.
    pub pinned: Option<String>,
}

/// A language whose interpreters are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// CPython.
    Python,
    /// Node.
    Node,
    /// Go.
    Go,
    /// Rust.
    Rust,
    /// CRuby.
    Ruby,
    /// A JDK.
    Java,
    /// PHP.
    Php,
}

impl Language {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "Python",
            Self::Node => "Node",
            Self::Go => "Go",
            Self::Rust => "Rust",
            Self::Ruby => "Ruby",
            Self::Java => "Java",
            Self::Php => "PHP",
        }
    }

    /// The option that overrules the app's files, where there is one.
    pub fn option(self) -> Option<&'static str> {
        match self {
            Self::Python => Some("--use-python"),
            Self::Node => Some("--use-node"),
            Self::Go | Self::Rust | Self::Ruby | Self::Java | Self::Php => None,
        }
    }

    /// Whether what is built runs without what built it.
    pub fn compiles(self) -> bool {
        matches!(self, Self::Go | Self::Rust)
    }

    /// The file that pins a version where nothing else does.
    pub fn file(self) -> &'static str {
        match self {
            Self::Python => ".python-version",
            Self::Node => "package.json (engines)",
            Self::Go => "go.mod",
            Self::Rust => "rust-toolchain.toml",
            Self::Ruby => ".ruby-version",
            Self::Java => "system.properties",
            Self::Php => "composer.json (require.php)",
        }
    }

    /// The oldest version that packages can be installed for.
    pub fn oldest(self) -> [u32; 3] {
        match self {
            Self::Python => [3, 8, 0],
            Self::Node => [14, 0, 0],
            // The first that leaves go.mod alone unless it is asked to change it.
            Self::Go => [1, 16, 0],
            // The first that knows the language of 2021.
            Self::Rust => [1, 56, 0],
            // The oldest that the Bundlers of today run on.
            Self::Ruby => [2, 6, 0],
            Self::Java => [8, 0, 0],
            // The oldest that the Composers of today run on.
            Self::Php => [7, 2, 5],
        }
    }

    /// How many of a version's numbers name its series.
    pub fn series(self) -> usize {
        match self {
            Self::Node | Self::Java => 1,
            Self::Python | Self::Go | Self::Rust | Self::Ruby | Self::Php => 2,
        }
    }

    /// Reads a version as a person gives it.
    pub fn pin(self, text: &str) -> Option<Versions> {
        match self {
            Self::Python => python::version::Constraint::pin(text).map(Versions::Python),
            other => node::range::Range::parse(text).map(|range| Versions::Range(other, range)),
        }
    }
}

/// Which versions of a language will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Versions {
    /// By PEP 440.
    Python(python::version::Constraint),
    /// By npm's ranges, in which other languages' can be said too.
    Range(Language, node::range::Range),
}

impl Versions {
    /// Of which language.
    pub fn language(&self) -> Language {
        match self {
            Self::Python(_) => Language::Python,
            Self::Range(language, _) => *language,
        }
    }

    /// Whether this version will do.
    pub fn admits(&self, version: [u32; 3]) -> bool {
        match self {
            Self::Python(c) => c.admits(version),
            Self::Range(_, r) => r.admits(version),
        }
    }

    /// Whether every version will do.
    pub fn is_any(&self) -> bool {
        match self {
            Self::Python(c) => *c == python::version::Constraint::Any,
            Self::Range(_, r) => r.is_any(),
        }
    }

    /// The release that is meant, where nothing that is admitted can be had.
    pub fn names(&self) -> Option<[u32; 3]> {
        match self {
            Self::Python(c) => c.names(),
            Self::Range(_, r) => r.names(),
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Python(c) => c.fmt(f),
            Self::Range(_, r) => r.fmt(f),
        }
    }
}
