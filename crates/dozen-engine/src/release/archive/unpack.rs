//! Takes a slug file into the store, or refuses it.

use super::{ArchiveError, FORMAT, HEAD, Head, Limits, MANIFEST, MAX_HEAD, TREE, checks};
use crate::home::Home;
use crate::release::collect;
use crate::release::machine::Machine;
use crate::release::scratch::Scratch;
use crate::release::store::{self, Entry, Facts, Known, hex};
use dozen_core::ids::{AppName, SlugId};
use dozen_core::release::Slug;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tar::EntryType;

/// The largest window that is unpacked with, as a power of two: 8 MiB of memory.
const WINDOW: u32 = 23;
/// What may stand after the last member: the end mark, and what fills a block of tapes.
const MAX_END: u64 = 64 << 10;
/// How many bytes a member has beside its content at most: headers, long names, and what fills a block.
const BESIDE: u64 = 8 << 10;

/// What came of a slug file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The slug, now in the store, with the commit that the file names.
    pub slug: Slug,
    /// Whose it is.
    pub app: AppName,
    /// Whether it was in the store already.
    pub reused: bool,
}

/// Takes in a slug file, if it is whole and this machine has what it needs. `exe` is dozen.
pub async fn take_in(exe: &Path, home: &Home, from: impl Read + Send + 'static) -> Result<Unpacked, ArchiveError> {
    home.make().map_err(|(path, source)| ArchiveError::Io { what: "write", path, source })?;
    let (exe, home) = (exe.to_owned(), home.clone());
    let runtime = tokio::runtime::Handle::current();
    let work = move || {
        // What interpreters said of themselves is kept by app otherwise; whose this is, only the file says.
        let found = home.root().join("cache/interpreters");
        let check = |machine: &Machine, slug: &Slug| runtime.block_on(machine.differences(slug, &exe, &found));
        unpack(&home, from, &Limits::default(), check)
    };
    crate::dependencies::blocking(work).await
}

/// Reads a slug file to its end and keeps it in the store, where `check` finds nothing that this machine lacks.
pub fn unpack(
    home: &Home,
    from: impl Read,
    limits: &Limits,
    check: impl FnOnce(&Machine, &Slug) -> Vec<String>,
) -> Result<Unpacked, ArchiveError> {
    let most = limits.unpacked + limits.manifest + MAX_HEAD + BESIDE * limits.entries as u64;
    let packed = Capped { from, left: limits.packed, what: Beyond::Packed };
    let mut zstd = zstd::Decoder::with_buffer(BufReader::with_capacity(64 << 10, packed)).map_err(|e| fault(e, limits))?;
    zstd.window_log_max(WINDOW).map_err(|e| fault(e, limits))?;
    let mut archive = tar::Archive::new(Capped { from: zstd, left: most, what: Beyond::Unpacked });
    let taken = members(home, &mut archive, limits, check)?;
    end(archive.into_inner(), limits)?;
    let Taken { app, id, facts, contents } = taken;
    let (slug, reused) = match contents {
        None => (store::open(home, &id)?, true),
        Some((scratch, known)) => store::take(home, &scratch, &facts, &known)?,
    };
    if slug.id != id {
        return Err(ArchiveError::Damaged(
            "what was written is not what the file has; does something else write to the slug store?".into(),
        ));
    }
    Ok(Unpacked { slug: Slug { commit: facts.commit, ..slug }, app, reused })
}

/// What was read and found to be right.
struct Taken {
    app: AppName,
    id: SlugId,
    facts: Facts,
    /// Its files, and what is known of them; `None` where the store has the slug.
    contents: Option<(Scratch, Known)>,
}

fn members<R: Read>(
    home: &Home,
    archive: &mut tar::Archive<R>,
    limits: &Limits,
    check: impl FnOnce(&Machine, &Slug) -> Vec<String>,
) -> Result<Taken, ArchiveError> {
    // Raw: the library would read a long name into memory whole, however long it says it is.
    let mut members = Members { entries: archive.entries().map_err(|e| fault(e, limits))?.raw(true), limits };

    let head = members.whole(HEAD, MAX_HEAD)?;
    #[derive(Deserialize)]
    struct Format {
        slug_file: u32,
    }
    let no_head = |e: serde_json::Error| ArchiveError::member(HEAD, format!("it is not what dozen writes there: {e}"));
    match serde_json::from_slice::<Format>(&head).map_err(no_head)?.slug_file {
        FORMAT => {}
        newer if newer > FORMAT => return Err(ArchiveError::Newer(newer)),
        other => return Err(ArchiveError::member(HEAD, format!("there is no format {other}"))),
    }
    let Head { app, id, machine, slug: wire, .. } = serde_json::from_slice(&head).map_err(no_head)?;
    let app: AppName = app.parse().map_err(|e: dozen_core::ids::InvalidName| ArchiveError::member(HEAD, e.rule))?;
    let id: SlugId = id.parse().map_err(|_| ArchiveError::member(HEAD, "its id is none"))?;

    let list = members.whole(MANIFEST, limits.manifest)?;
    let entries: Vec<Entry> =
        serde_json::from_slice(&list).map_err(|e| ArchiveError::member(MANIFEST, format!("it is not what dozen writes there: {e}")))?;
    drop((head, list));
    checks::list(&entries, limits)?;
    if store::identify(&entries, &wire) != id {
        return Err(ArchiveError::Damaged(format!("{HEAD} and {MANIFEST} do not give the id {}", id.short())));
    }
    let named = wire.named();
    let slug = wire.slug(id);
    checks::facts(&slug, named, &entries, &machine)?;
    let differences = check(&machine, &slug);
    if !differences.is_empty() {
        return Err(ArchiveError::Stack { app, id, differences: differences.iter().map(|d| checks::shown(d)).collect() });
    }

    let scratch = match collect::claim(home, &id).is_ok() {
        true => None,
        false => {
            let slugs = home.slugs();
            Some(Scratch::new(&slugs).map_err(|source| ArchiveError::Io { what: "write", path: slugs, source })?)
        }
    };
    let tree = scratch.as_ref().map(|s| s.path().join("tree"));
    let mut known = Known::new();
    let mut links = BTreeMap::new();
    let mut made = String::new();
    // Whole seconds, which is how the store knows a file again. Servers tell browsers by this time that a file has changed.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    if let Some(tree) = &tree {
        fs::create_dir(tree).map_err(|source| ArchiveError::Io { what: "write", path: tree.clone(), source })?;
    }
    for entry in &entries {
        let place = tree.as_ref().map(|t| t.join(&entry.path));
        if let (Some(tree), Some(place)) = (&tree, &place) {
            let folder = entry.path.rsplit_once('/').map_or("", |(f, _)| f);
            if folder != made {
                fs::create_dir_all(tree.join(folder)).map_err(|source| ArchiveError::Io { what: "write", path: place.clone(), source })?;
                folder.clone_into(&mut made);
            }
        }
        if let Some(target) = members.file(entry, place.as_deref(), now)? {
            links.insert(entry.path.clone(), target);
        } else {
            known.insert(entry.path.clone(), (entry.clone(), (i64::try_from(now).unwrap_or_default(), 0)));
        }
    }
    if let Some(member) = members.next()? {
        return Err(ArchiveError::member(member.name, format!("{MANIFEST} does not list it")));
    }
    if let Some((path, why)) = links.keys().find_map(|p| Some((p, checks::link_fault(p, &links, &machine)?))) {
        return Err(ArchiveError::member(format!("{TREE}{path}"), why));
    }
    if let Some(tree) = &tree {
        // Empty ones are in no list, and a mount on a read-only tree needs them there.
        for folder in &slug.scratch {
            let path = tree.join(folder);
            fs::create_dir_all(&path).map_err(|source| ArchiveError::Io { what: "write", path, source })?;
        }
    }
    Ok(Taken { app, id, facts: Facts::from(&slug), contents: scratch.map(|s| (s, known)) })
}

/// A member: its name, and what it is.
struct Member<'a, R: Read> {
    name: String,
    link: String,
    entry: tar::Entry<'a, R>,
}

/// The members, one by one, with long names put together.
struct Members<'a, 'l, R: Read> {
    entries: tar::Entries<'a, R>,
    limits: &'l Limits,
}

impl<'a, R: Read> Members<'a, '_, R> {
    fn next(&mut self) -> Result<Option<Member<'a, R>>, ArchiveError> {
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(entry) = self.entries.next() else { return Ok(None) };
            let mut entry = entry.map_err(|e| fault(e, self.limits))?;
            let kind = entry.header().entry_type();
            let place = match kind {
                EntryType::GNULongName => &mut long_name,
                EntryType::GNULongLink => &mut long_link,
                _ => {
                    let text = |long: Option<Vec<u8>>, short: &[u8]| String::from_utf8(long.unwrap_or_else(|| short.to_vec()));
                    let header = entry.header();
                    let short = header.path_bytes();
                    let lossy = String::from_utf8_lossy(&short).into_owned();
                    let no_text = |_| ArchiveError::member(lossy.clone(), "its name or its link is not UTF-8");
                    let name = text(long_name, &short).map_err(no_text)?;
                    let link = text(long_link, &header.link_name_bytes().unwrap_or_default()).map_err(no_text)?;
                    return Ok(Some(Member { name, link, entry }));
                }
            };
            if place.is_some() || entry.size() > BESIDE / 2 {
                return Err(ArchiveError::member("././@LongLink", "a long name is there twice, or is too long"));
            }
            let mut text = Vec::new();
            entry.read_to_end(&mut text).map_err(|e| fault(e, self.limits))?;
            if text.len() as u64 != entry.size() {
                return Err(cut_off());
            }
            text.truncate(text.iter().position(|b| *b == 0).unwrap_or(text.len()));
            *place = Some(text);
        }
    }

    /// The member that must be next.
    fn expect(&mut self, name: &str) -> Result<Member<'a, R>, ArchiveError> {
        let member = self.next()?.ok_or_else(cut_off)?;
        if member.name != name {
            let why = format!("{} should be in its place", checks::shown(name));
            return Err(ArchiveError::member(member.name, why));
        }
        Ok(member)
    }

    /// A small member's content.
    fn whole(&mut self, name: &str, most: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut member = self.expect(name)?;
        if member.entry.header().entry_type() != EntryType::Regular {
            return Err(ArchiveError::member(name, "it is no plain file"));
        }
        if member.entry.size() > most {
            return Err(ArchiveError::bytes(member.entry.size(), most));
        }
        let mut bytes = Vec::new();
        member.entry.read_to_end(&mut bytes).map_err(|e| fault(e, self.limits))?;
        if bytes.len() as u64 != member.entry.size() {
            return Err(cut_off());
        }
        Ok(bytes)
    }

    /// The member of an entry of the list, written to `place`. Answers the target of a link.
    fn file(&mut self, entry: &Entry, place: Option<&Path>, time: u64) -> Result<Option<String>, ArchiveError> {
        let mut member = self.expect(&format!("{TREE}{}", entry.path))?;
        let refused = |why: &str| Err(ArchiveError::member(format!("{TREE}{}", entry.path), why));
        let header = member.entry.header();
        let executable = header.mode().is_ok_and(|m| m & 0o111 != 0);
        match (header.entry_type(), entry.kind) {
            (EntryType::Regular, 'f') if !executable => {}
            (EntryType::Regular, 'x') if executable => {}
            (EntryType::Symlink, 'l') => {}
            (EntryType::Regular | EntryType::Symlink, _) => return refused(&format!("it is not what {MANIFEST} says")),
            _ => return refused("it is neither a file nor a symbolic link; a slug has nothing else"),
        }
        if member.entry.size() != entry.size {
            return refused(&format!("it has not the size that {MANIFEST} says"));
        }
        let failed = |source| {
            let path = place.map_or_else(PathBuf::new, Path::to_owned);
            ArchiveError::Io { what: "write", path, source }
        };
        if entry.kind == 'l' {
            if hex(blake3::hash(member.link.as_bytes()).as_bytes()) != entry.hash {
                return refused("it leads elsewhere than when it was built");
            }
            if let Some(place) = place {
                std::os::unix::fs::symlink(&member.link, place).map_err(failed)?;
            }
            return Ok(Some(member.link));
        }
        let mode = if entry.kind == 'x' { 0o755 } else { 0o644 };
        let create = |p: &Path| fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(p);
        let mut out = place.map(create).transpose().map_err(failed)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = [0; 64 << 10];
        let mut left = entry.size;
        while left > 0 {
            let n = member.entry.read(&mut buffer).map_err(|e| fault(e, self.limits))?;
            if n == 0 {
                return Err(cut_off());
            }
            left = left.saturating_sub(n as u64);
            hasher.update(&buffer[..n]);
            if let Some(out) = &mut out {
                out.write_all(&buffer[..n]).map_err(failed)?;
            }
        }
        if hex(hasher.finalize().as_bytes()) != entry.hash {
            return refused("its content is not what was built");
        }
        if let Some(out) = out {
            out.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(time)).map_err(failed)?;
        }
        Ok(None)
    }
}

/// After the last member there are zeros, and then the end; only there zstd knows whether all of it was right.
fn end(rest: impl Read, limits: &Limits) -> Result<(), ArchiveError> {
    let mut bytes = Vec::new();
    rest.take(MAX_END + 1).read_to_end(&mut bytes).map_err(|e| fault(e, limits))?;
    match bytes.iter().all(|b| *b == 0) && bytes.len() as u64 <= MAX_END {
        true => Ok(()),
        false => Err(ArchiveError::Damaged("something follows its last member".into())),
    }
}

fn cut_off() -> ArchiveError {
    ArchiveError::Damaged("it ends too early".into())
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, thiserror::Error)]
enum Beyond {
    #[error("the file is too large")]
    Packed,
    #[error("what is in the file is too large")]
    Unpacked,
}

/// What went wrong below: a limit, the end of the file, or its bytes.
fn fault(e: io::Error, limits: &Limits) -> ArchiveError {
    match e.get_ref().and_then(|inner| inner.downcast_ref::<Beyond>()) {
        Some(Beyond::Packed) => return ArchiveError::TooLarge { what: "more".into(), most: crate::codebase::bytes(limits.packed) },
        Some(Beyond::Unpacked) => {
            return ArchiveError::TooLarge { what: "more in it".into(), most: crate::codebase::bytes(limits.unpacked) };
        }
        None => {}
    }
    match e.kind() {
        io::ErrorKind::UnexpectedEof => cut_off(),
        _ if e.to_string().contains("Unknown frame descriptor") => ArchiveError::Other("it is not packed with zstd".into()),
        _ => ArchiveError::Damaged(checks::shown(&e.to_string())),
    }
}

/// Reads so many bytes and not one more.
struct Capped<R> {
    from: R,
    left: u64,
    what: Beyond,
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| io::Error::other(self.what))?;
        Ok(n)
    }
}
