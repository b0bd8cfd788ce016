//! V. The slug store: `slugs/<id>/{tree/, slug.json, manifest.json}`, made once and never changed.
//!
//! **Invariant:** the id is computed from what lies in the tree, after everything that builds has ended; the commit and the times of files
//! are no part of it.

use super::scratch::Scratch;
use crate::codebase::fingerprint::{Hash, hash_file};
use crate::home::Home;
use dozen_core::codebase::Commit;
use dozen_core::dependencies::Stack;
use dozen_core::ids::SlugId;
use dozen_core::processes::ProcessType;
use dozen_core::processes::rules::RulesByType;
use dozen_core::release::Slug;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

mod inspect;
mod rules;

pub use inspect::{Whole, inspect};

/// The version of `slug.json`; counted up when an older dozen could not read it.
const FORMAT: u32 = 1;

/// Why the store cannot answer or take in.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
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
    /// There is no such slug.
    #[error("there is no slug {id} under {} any more: of each deploy the code of its last {} releases is kept. The next deploy of this code builds it again", slugs.display(), super::collect::RELEASES)]
    Missing {
        /// Which.
        id: String,
        /// Where it was looked for.
        slugs: PathBuf,
    },
    /// `slug.json` is unreadable.
    #[error("{} is damaged or was written by a newer dozen. Remove the folder; the next deploy builds it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A file that a slug cannot hold.
    #[error("the build left {0}, which is no file, folder or link with a UTF-8 name")]
    Strange(PathBuf),
}

/// What to do about an error of the disk.
pub(crate) fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ". Free some space and run the command again",
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => ". Choose a folder that can be written with DOZEN_HOME",
        _ => "",
    }
}

/// What a slug is besides its tree.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Language and runtime.
    pub stack: Stack,
    /// In order.
    pub processes: Vec<ProcessType>,
    /// For every process.
    pub env: Vec<(String, String)>,
    /// Folders of the host.
    pub needs: Vec<PathBuf>,
    /// What `console` runs.
    pub console: Option<String>,
    /// Folders that an instance may write; made in the tree where they are missing.
    pub scratch: Vec<String>,
    /// What the app says of its process types.
    pub rules: RulesByType,
    /// Not part of the id.
    pub commit: Option<Commit>,
}

impl From<&Slug> for Facts {
    fn from(slug: &Slug) -> Self {
        Self {
            stack: slug.stack.clone(),
            processes: slug.processes.clone(),
            env: slug.env.clone(),
            needs: slug.needs.clone(),
            console: slug.console.clone(),
            scratch: slug.scratch.clone(),
            rules: slug.rules.clone(),
            commit: slug.commit.clone(),
        }
    }
}

/// One file or link of a tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    /// Relative, `/`-separated.
    pub path: String,
    /// `f` plain, `x` executable, `l` link.
    pub kind: char,
    /// Bytes; 0 for a link.
    pub size: u64,
    /// blake3 of the content or of the link's target, in hexadecimal digits.
    pub hash: String,
}

/// Files whose hash is known, with their modification time: seconds and nanoseconds.
pub type Known = HashMap<String, (Entry, (i64, i64))>;

/// Reads a slug.
pub fn open(home: &Home, id: &SlugId) -> Result<Slug, StoreError> {
    let path = home.slug(id).join("slug.json");
    let text = fs::read(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => StoreError::Missing { id: id.short(), slugs: home.slugs() },
        _ => StoreError::Io { what: "read", path: path.clone(), source },
    })?;
    let wire: Wire = serde_json::from_slice(&text).map_err(|source| StoreError::Damaged { path, source })?;
    Ok(wire.slug(*id))
}

/// Whether a slug is there.
pub fn has(home: &Home, id: &SlugId) -> bool {
    home.slug(id).join("slug.json").is_file()
}

/// The files of a slug as they were listed when it was made; `None` where that list cannot be read.
pub(crate) fn entries(home: &Home, id: &SlugId) -> Option<Vec<Entry>> {
    serde_json::from_slice(&fs::read(home.slug(id).join("manifest.json")).ok()?).ok()
}

/// Takes in the folder `tree` of a scratch folder made in [`Home::slugs`]. Of files that `known` lists with their modification time, the
/// hash is taken from there. Answers the slug, and whether it was there already.
pub fn take(home: &Home, scratch: &Scratch, facts: &Facts, known: &Known) -> Result<(Slug, bool), StoreError> {
    let tree = scratch.path().join("tree");
    let entries = settle(&tree, known)?;
    let mut wire = Wire::of(facts);
    let id = identify(&entries, &wire);
    if super::collect::claim(home, &id).is_ok() {
        return Ok((open(home, &id)?, true));
    }
    wire.measure(&entries);
    let write = |name: &str, bytes: Vec<u8>| {
        let path = scratch.path().join(name);
        fs::write(&path, bytes).map_err(|source| StoreError::Io { what: "write", path, source })
    };
    let json = |e| StoreError::Damaged { path: scratch.path().to_owned(), source: e };
    write("manifest.json", serde_json::to_vec(&entries).map_err(json)?)?;
    write("slug.json", serde_json::to_vec_pretty(&wire).map_err(json)?)?;
    let place = home.slug(&id);
    // Others than the builder run the app from here.
    let _ = fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755));
    let fresh = scratch.keep("", &place).map_err(|source| StoreError::Io { what: "write", path: place.clone(), source })?;
    if !fresh && !has(home, &id) {
        // A folder of this name without its facts is no slug: something removed parts of it.
        super::scratch::remove(&place).map_err(|source| StoreError::Io { what: "write", path: place.clone(), source })?;
        scratch.keep("", &place).map_err(|source| StoreError::Io { what: "write", path: place.clone(), source })?;
    }
    Ok((wire.slug(id), !fresh))
}

/// The id of a slug: what lies in its tree, and what decides how it runs.
pub(super) fn identify(entries: &[Entry], wire: &Wire) -> SlugId {
    let mut hasher = blake3::Hasher::new();
    for entry in entries {
        hasher.update(entry.kind.encode_utf8(&mut [0; 4]).as_bytes());
        hasher.update(&(entry.path.len() as u64).to_le_bytes());
        hasher.update(entry.path.as_bytes());
        hasher.update(&entry.size.to_le_bytes());
        hasher.update(entry.hash.as_bytes());
    }
    hasher.update(&wire.identity());
    SlugId(*hasher.finalize().as_bytes())
}

/// Makes everything in a tree this user's alone, sets the modes to 0644, 0755, and lists it.
///
/// No program that could write there may live any more: the tree is walked by paths. Links in it are not followed.
pub(crate) fn settle(tree: &Path, known: &Known) -> Result<Vec<Entry>, StoreError> {
    let own = rustix::process::geteuid().as_raw();
    let mut out = Vec::new();
    let mut queue = vec![String::new()];
    while let Some(relative) = queue.pop() {
        let folder = tree.join(&relative);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { what: "read", path, source }
        };
        take_over(&folder, &fs::symlink_metadata(&folder).map_err(failed(&folder))?, own).map_err(failed(&folder))?;
        set_mode(&folder, 0o755).map_err(failed(&folder))?;
        for entry in fs::read_dir(&folder).map_err(failed(&folder))? {
            let entry = entry.map_err(failed(&folder))?;
            let full = entry.path();
            let name = entry.file_name().into_string().map_err(|_| StoreError::Strange(full.clone()))?;
            let path = if relative.is_empty() { name } else { format!("{relative}/{name}") };
            let meta = entry.metadata().map_err(failed(&full))?;
            if meta.is_dir() {
                queue.push(path);
            } else if meta.is_symlink() {
                take_over(&full, &meta, own).map_err(failed(&full))?;
                let target = fs::read_link(&full).map_err(failed(&full))?;
                let target = target.to_str().ok_or_else(|| StoreError::Strange(full.clone()))?;
                out.push(Entry { path, kind: 'l', size: 0, hash: hex(blake3::hash(target.as_bytes()).as_bytes()) });
            } else if meta.is_file() {
                if let Some((known, mtime)) = known.get(&path)
                    && known.size == meta.len()
                    && *mtime == (meta.mtime(), meta.mtime_nsec())
                    && meta.uid() == own
                {
                    out.push(known.clone());
                    continue;
                }
                // By another name, which may be anywhere, it could be changed later.
                if meta.nlink() > 1 {
                    put_alone(&full, &meta).map_err(failed(&full))?;
                } else {
                    take_over(&full, &meta, own).map_err(failed(&full))?;
                }
                let executable = meta.mode() & 0o100 != 0;
                let mode = if executable { 0o755 } else { 0o644 };
                if meta.mode() & 0o7777 != mode || meta.nlink() > 1 {
                    set_mode(&full, mode).map_err(failed(&full))?;
                }
                let hash = hash_file(&full).map_err(failed(&full))?;
                out.push(Entry { path, kind: if executable { 'x' } else { 'f' }, size: meta.len(), hash: hex(&hash) });
            } else {
                return Err(StoreError::Strange(full));
            }
        }
    }
    out.sort();
    Ok(out)
}

/// Gives what a builder made to this user, who alone may then change it.
fn take_over(path: &Path, meta: &fs::Metadata, own: u32) -> io::Result<()> {
    if meta.uid() == own { Ok(()) } else { std::os::unix::fs::lchown(path, Some(own), Some(rustix::process::getegid().as_raw())) }
}

/// Puts a copy of a file, with its time, in its place.
fn put_alone(path: &Path, meta: &fs::Metadata) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!("{name}.{}.alone", std::process::id()));
    let mut copy = fs::OpenOptions::new().write(true).create_new(true).open(&fresh)?;
    io::copy(&mut crate::codebase::open(path)?, &mut copy)?;
    copy.set_modified(meta.modified()?)?;
    fs::rename(&fresh, path)
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Hexadecimal digits of a hash.
pub(crate) fn hex(hash: &Hash) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}

/// `slug.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wire {
    format: u32,
    pack: String,
    runtime: Option<String>,
    processes: Vec<(String, String)>,
    env: Vec<(String, String)>,
    needs: Vec<PathBuf>,
    #[serde(default)]
    console: Option<String>,
    #[serde(default)]
    scratch: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    rules: BTreeMap<String, rules::Wire>,
    commit: Option<WireCommit>,
    size: u64,
    files: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct WireCommit {
    hash: String,
    dirty: bool,
}

impl Wire {
    pub(super) fn of(facts: &Facts) -> Self {
        Self {
            format: FORMAT,
            pack: facts.stack.pack.clone(),
            runtime: facts.stack.runtime.clone(),
            processes: facts.processes.iter().map(|p| (p.name.to_string(), p.command.clone())).collect(),
            env: facts.env.clone(),
            needs: facts.needs.clone(),
            console: facts.console.clone(),
            scratch: facts.scratch.clone(),
            rules: rules::to_wire(&facts.rules),
            commit: facts.commit.as_ref().map(|c| WireCommit { hash: c.hash.clone(), dirty: c.dirty }),
            size: 0,
            files: 0,
        }
    }

    /// Takes down how large it is.
    pub(super) fn measure(&mut self, entries: &[Entry]) {
        self.size = entries.iter().map(|e| e.size).sum();
        self.files = entries.len() as u64;
    }

    /// How many process types it names.
    pub(super) fn named(&self) -> usize {
        self.processes.len()
    }

    /// What of it decides how the app runs.
    fn identity(&self) -> Vec<u8> {
        let parts = (&self.pack, &self.runtime, &self.processes, &self.env, &self.needs, &self.console, &self.scratch, &self.rules);
        serde_json::to_vec(&parts).unwrap_or_default()
    }

    pub(super) fn slug(self, id: SlugId) -> Slug {
        // Names were checked when the slug was made; one that is not a name any more is no process of this version.
        let processes = self.processes.into_iter().filter_map(|(n, command)| Some(ProcessType { name: n.parse().ok()?, command }));
        Slug {
            id,
            stack: Stack { pack: self.pack, runtime: self.runtime },
            processes: processes.collect(),
            env: self.env,
            needs: self.needs,
            console: self.console,
            scratch: self.scratch,
            rules: rules::from_wire(self.rules),
            commit: self.commit.map(|c| Commit { hash: c.hash, dirty: c.dirty }),
            size: self.size,
            files: self.files,
        }
    }
}
