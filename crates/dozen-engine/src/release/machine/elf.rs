//! What native code is linked with, read from its file.

use super::Libc;
use object::elf::{DT_NEEDED, FileHeader32, FileHeader64};
use object::read::elf::{Dyn as _, FileHeader};
use object::read::{ReadCache, ReadRef};
use object::{Endianness, FileKind};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Libraries that come with the C library itself, by the beginnings of their names.
const OF_LIBC: [&str; 11] =
    ["libc.", "libm.", "libdl.", "libpthread.", "librt.", "libutil.", "libresolv.", "libnsl.", "libcrypt.", "ld-linux", "ld-musl"];

/// What one file asks for.
#[derive(Debug, Default)]
pub(super) struct Linked {
    pub(super) libc: Option<Libc>,
    /// Others, by the names that the loader looks for.
    pub(super) libraries: Vec<String>,
}

/// Reads a file; `None` where it is no native code, or none that can be read.
pub(super) fn linked(path: &Path) -> Option<Linked> {
    let mut file = File::open(path).ok()?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic).ok()?;
    if &magic != b"\x7fELF" {
        return None;
    }
    let cache = ReadCache::new(file);
    match FileKind::parse(&cache).ok()? {
        FileKind::Elf32 => read::<FileHeader32<Endianness>, _>(&cache),
        FileKind::Elf64 => read::<FileHeader64<Endianness>, _>(&cache),
        _ => return None,
    }
    .ok()
}

fn read<'d, E: FileHeader<Endian = Endianness>, R: ReadRef<'d>>(data: R) -> object::Result<Linked> {
    let header = E::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let mut names = Vec::new();
    if let Some((dynamic, index)) = sections.dynamic(endian, data)? {
        let strings = sections.strings(endian, data, index)?;
        for entry in dynamic.iter().filter(|d| d.tag(endian) == DT_NEEDED) {
            names.push(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned());
        }
    }
    let mut newest: Vec<u32> = Vec::new();
    if let Some((mut files, index)) = sections.gnu_verneed(endian, data)? {
        let strings = sections.strings(endian, data, index)?;
        while let Some((_, mut versions)) = files.next()? {
            while let Some(version) = versions.next()? {
                let name = String::from_utf8_lossy(version.name(endian, strings)?).into_owned();
                newest = newest.max(name.strip_prefix("GLIBC_").map(numbers).unwrap_or_default());
            }
        }
    }
    let glibc = names.iter().any(|n| n == "libc.so.6");
    let musl = names.iter().any(|n| n.starts_with("libc.musl-") || n == "libc.so");
    let dotted = newest.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
    let libc = match (glibc, musl) {
        (true, _) => Some(Libc { kind: "glibc".into(), version: dotted }),
        (_, true) => Some(Libc { kind: "musl".into(), version: String::new() }),
        _ => None,
    };
    names.retain(|n| !OF_LIBC.iter().any(|l| n.starts_with(l)) && !n.contains('/'));
    Ok(Linked { libc, libraries: names })
}

/// `2.36` as numbers, for comparing; what is none ends it.
pub(super) fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_what_it_is_linked_with() {
        let this = linked(&std::env::current_exe().expect("a path")).expect("this test is native code");
        // Where the tests are linked statically there is nothing to say.
        assert!(this.libc.is_none_or(|l| l.kind == "musl" || numbers(&l.version) > vec![2, 1]));
        assert!(linked(Path::new("/etc/passwd")).is_none() && linked(Path::new("/nowhere")).is_none());
        let dir = tempfile::tempdir().expect("a folder");
        let cut = dir.path().join("cut");
        std::fs::write(&cut, b"\x7fELF\x02\x01\x01").expect("written");
        assert!(linked(&cut).is_none());
    }
}
