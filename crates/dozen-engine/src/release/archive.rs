//! V. Slug files: a slug as one file, built here and run elsewhere.
//!
//! A tar file, packed with zstd: `slug.json` (what it is and what it needs of a machine), `manifest.json` (its files and links with their
//! hashes, sorted by path), and then `tree/…`, just these, in that order. Times, owners and empty folders are no part of it: the same slug is
//! the same bytes, wherever it was built.
//!
//! **Invariant:** nothing is kept of a file before its head, its list, each member and the id over all of them agree; nothing is written outside
//! of the folder under construction, and memory does not grow with what a file claims.

use super::machine::Machine;
use super::store::{self, Entry, Facts, StoreError, Wire, cure};
use crate::codebase;
use crate::home::Home;
use dozen_core::ids::{AppName, SlugId};
use dozen_core::release::Slug;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;

mod checks;
mod deb;
mod pack;
mod units;
mod unpack;

pub use deb::deb;
pub use pack::{pack, write};
pub use unpack::{Unpacked, take_in, unpack};

/// The version of the format; counted up when an older dozen could not read it, and when a slug's id is made in another way.
const FORMAT: u32 = 1;
/// The name of the first member.
const HEAD: &str = "slug.json";
/// The name of the second member.
const MANIFEST: &str = "manifest.json";
/// What the names of all others begin with.
const TREE: &str = "tree/";
/// The most bytes that the first member may have.
const MAX_HEAD: u64 = 1 << 20;

/// How much a slug file may have.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the file.
    pub packed: u64,
    /// Bytes of all files in it.
    pub unpacked: u64,
    /// Files and links.
    pub entries: usize,
    /// Bytes of the list of them.
    pub manifest: u64,
}

impl Default for Limits {
    /// 500 MB, as on Heroku; unpacked eight times as much.
    fn default() -> Self {
        Self { packed: 500_000_000, unpacked: 4 << 30, entries: 300_000, manifest: 64 << 20 }
    }
}

/// Why a slug file cannot be made or taken in.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Something cannot be read or written.
    #[error("cannot {what} {}{}", path.display(), cure(source))]
    Io {
        /// `write`, `read`.
        what: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The making of it was interrupted.
    #[error("interrupted; nothing was written")]
    Interrupted,
    /// It is something else.
    #[error("this is no slug file: {0}. `dozen build -o FILE` makes one")]
    Other(String),
    /// A newer dozen made it.
    #[error("a newer dozen made this slug file (format {0}; this one reads {FORMAT}). Use a dozen as new as the one that built it")]
    Newer(u32),
    /// Its bytes are not those that were written.
    #[error("the slug file is damaged: {0}. Nothing of it was kept; copy it again, or build it again")]
    Damaged(String),
    /// A member that no slug file has.
    #[error("the slug file's member {member} is refused: {why}. Nothing of it was kept; build it again")]
    Member {
        /// Its name, as far as it can be shown.
        member: String,
        /// Why.
        why: String,
    },
    /// Beyond a limit.
    #[error("the slug file has {what}, and may have {most}. Name what the app does not need in .slugignore and build it again")]
    TooLarge {
        /// What there is too much of.
        what: String,
        /// How much may be.
        most: String,
    },
    /// It was made for another kind of machine.
    #[error("slug {} of {app} does not run here, and nothing was changed:{}\nBuild it on a machine like this one, or make this one alike",
        id.short(), differences.iter().map(|d| format!("\n  it {d}")).collect::<String>())]
    Stack {
        /// Whose.
        app: AppName,
        /// Which.
        id: SlugId,
        /// What is not alike, each as a sentence that begins with a verb.
        differences: Vec<String>,
    },
    /// It cannot be a Debian package.
    #[error("the release cannot be a Debian package: {0}")]
    Package(String),
    /// The slug store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ArchiveError {
    fn member(member: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Member { member: checks::shown(&member.into()), why: checks::shown(&why.into()) }
    }

    /// A file of the store is not as it was built.
    fn changed(path: &std::path::Path) -> Self {
        let why = "it is not as it was built: something changed it in the slug store. Remove that slug's folder and build it again";
        Self::Damaged(format!("{}: {why}", path.display()))
    }

    fn bytes(what: u64, most: u64) -> Self {
        Self::TooLarge { what: codebase::bytes(what), most: codebase::bytes(most) }
    }
}

/// `slug.json` of a slug file.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// [`FORMAT`].
    slug_file: u32,
    app: String,
    id: String,
    machine: Machine,
    slug: Wire,
}

impl Head {
    fn of(slug: &Slug, app: &AppName, machine: Machine, entries: &[Entry]) -> Self {
        let mut wire = Wire::of(&Facts::from(slug));
        wire.measure(entries);
        Self { slug_file: FORMAT, app: app.to_string(), id: slug.id.to_string(), machine, slug: wire }
    }
}

/// The list of a slug of this machine.
fn entries(home: &Home, id: &SlugId) -> Result<Vec<Entry>, StoreError> {
    store::entries(home, id).ok_or_else(|| StoreError::Missing { id: id.short(), slugs: home.slugs() })
}
