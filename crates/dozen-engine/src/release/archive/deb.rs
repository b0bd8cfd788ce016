//! A release as a Debian package: the slug below `/opt`, a file of config that is the administrator's, and a systemd unit for each process type.
//!
//! An `ar` file of three members: the format's version, what dpkg asks before it unpacks, and the files. The second's size is in the head of the
//! third, so that the files are packed beside the slugs first.
//!
//! **Invariant:** no value of a config var that is a secret is in a package, and nothing that only this machine has.

use super::pack::{Checked, Fault, Hashed, checked, link, member};
use super::units::{UNITS, defaults, folder, package, units};
use super::{ArchiveError, Limits};
use crate::codebase::open;
use crate::home::Home;
use crate::processes::spec::shell;
use crate::release::scratch::Scratch;
use crate::release::store::hex;
use dozen_core::release::Release;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use tar::EntryType;

/// Architectures as Debian calls them.
const ARCHITECTURES: [(&str, &str); 4] = [("x86_64", "amd64"), ("aarch64", "arm64"), ("x86", "i386"), ("riscv64", "riscv64")];

/// Writes a release as a Debian package to `to`. `go_on` is asked now and then.
pub fn deb(home: &Home, release: &Release, mut to: impl Write, go_on: &dyn Fn() -> bool) -> Result<(), ArchiveError> {
    let written = |source| ArchiveError::Io { what: "write", path: "the package".into(), source };
    let arch = std::env::consts::ARCH;
    let named = ARCHITECTURES.iter().find(|(own, _)| *own == arch).map(|(_, debian)| *debian);
    let debian = named.ok_or_else(|| ArchiveError::Package(format!("Debian has no name for {arch} that dozen knows")))?;
    let checked = checked(home, &release.slug, &Limits::default())?;

    let slugs = home.slugs();
    let work = Scratch::new(&slugs).map_err(|source| ArchiveError::Io { what: "write", path: slugs, source })?;
    let path = work.path().join("data.tar.gz");
    let failed = |source| ArchiveError::Io { what: "write", path: path.clone(), source };
    let mut data = File::options().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
    files(&mut data, release, &checked, go_on).map_err(|fault| match fault {
        Fault::Write(source) => failed(source),
        Fault::Other(error) => error,
    })?;
    let size = data.stream_position().and_then(|size| data.rewind().map(|()| size)).map_err(failed)?;
    let control = control(release, &checked, debian).map_err(written)?;

    to.write_all(b"!<arch>\n").map_err(written)?;
    let version = b"2.0\n";
    for (name, size, content) in [
        ("debian-binary", version.len() as u64, &mut version.as_slice() as &mut dyn Read),
        ("control.tar.gz", control.len() as u64, &mut control.as_slice()),
        ("data.tar.gz", size, &mut BufReader::new(data)),
    ] {
        // Name, time, owner, group, mode, size, each as text of a fixed length.
        let head = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, "100644");
        to.write_all(head.as_bytes()).map_err(written)?;
        let copied = io::copy(content, &mut to).map_err(written)?;
        if copied % 2 == 1 {
            to.write_all(b"\n").map_err(written)?;
        }
    }
    to.flush().map_err(written)
}

/// All files, each below folders that are named before it.
fn files(to: &mut File, release: &Release, checked: &Checked, go_on: &dyn Fn() -> bool) -> Result<(), Fault> {
    let mut tar = tar::Builder::new(GzEncoder::new(BufWriter::new(to), Compression::default()));
    let root = folder(release);
    let root = root.trim_start_matches('/');
    let defaults = (format!("etc/default/{}", package(release)), defaults(release));
    let units = units(release, &|command| shell(&checked.tree, command));
    let units: Vec<(String, String)> = units.into_iter().map(|unit| (format!("{UNITS}/{}", unit.name), unit.text)).collect();

    let mut folders = BTreeSet::new();
    let mut above = |path: &str, own: bool| {
        let ends = path.match_indices('/').map(|(at, _)| at).chain(own.then_some(path.len()));
        folders.extend(ends.map(|end| path[..end].to_owned()));
    };
    above(root, true);
    checked.entries.iter().for_each(|entry| above(&format!("{root}/{}", entry.path), false));
    // What is mounted there has to lie on something.
    release.slug.scratch.iter().for_each(|scratch| above(&format!("{root}/{scratch}"), true));
    units.iter().chain([&defaults]).for_each(|(path, _)| above(path, false));

    directory(&mut tar, "./")?;
    folders.iter().try_for_each(|folder| directory(&mut tar, &format!("./{folder}/")))?;
    member(&mut tar, &format!("./{}", defaults.0), EntryType::Regular, 0o640, defaults.1.len() as u64, defaults.1.as_bytes())?;
    for (path, text) in &units {
        member(&mut tar, &format!("./{path}"), EntryType::Regular, 0o644, text.len() as u64, text.as_bytes())?;
    }
    for entry in &checked.entries {
        if !go_on() {
            return Err(Fault::Other(ArchiveError::Interrupted));
        }
        let name = format!("./{root}/{}", entry.path);
        if entry.kind == 'l' {
            link(&mut tar, &name, checked.links.get(&entry.path).map_or("", String::as_str))?;
            continue;
        }
        let path = checked.tree.join(&entry.path);
        let failed = |source| Fault::Other(ArchiveError::Io { what: "read", path: path.clone(), source });
        let mut file = Hashed { from: open(&path).map_err(failed)?.take(entry.size), hasher: blake3::Hasher::new() };
        member(&mut tar, &name, EntryType::Regular, if entry.kind == 'x' { 0o755 } else { 0o644 }, entry.size, &mut file)?;
        if hex(file.hasher.finalize().as_bytes()) != entry.hash {
            return Err(Fault::Other(ArchiveError::changed(&path)));
        }
    }
    let mut file = tar.into_inner().and_then(GzEncoder::finish).map_err(Fault::Write)?;
    file.flush().map_err(Fault::Write)
}

fn directory<W: Write>(tar: &mut tar::Builder<W>, name: &str) -> Result<(), Fault> {
    member(tar, name, EntryType::Directory, 0o755, 0, io::empty())
}

/// What dpkg asks first, and the scripts that it runs.
fn control(release: &Release, checked: &Checked, debian: &str) -> io::Result<Vec<u8>> {
    let (app, package) = (&release.deploy.app, package(release));
    let commit = release.slug.commit.as_ref().map(|c| format!(" Commit {}.\n", c.record())).unwrap_or_default();
    let size = checked.entries.iter().map(|e| e.size).sum::<u64>().div_ceil(1024);
    let about = format!(
        "Package: {package}\nVersion: {}+{}\nArchitecture: {debian}\nMaintainer: {app} <root@localhost>\nInstalled-Size: {size}\nSection: misc\n\
         Priority: optional\nDescription: {app} {}\n Release {} of {}, with its slug {}.\n{commit} Runs by systemd; its config is /etc/default/{package}.\n",
        release.version.0,
        release.slug.id.short(),
        release.version,
        release.version,
        release.deploy,
        release.slug.id.short(),
    );
    let needs = checked.machine.program.as_ref().map(|program| {
        let runtime = release.slug.stack.runtime.as_deref().unwrap_or("its interpreter");
        let path = quoted(&program.to_string_lossy());
        let said = quoted(&format!("{app} needs {runtime} as {}: install that first", program.display()));
        format!("if [ ! -x {path} ]; then echo {said} >&2; exit 1; fi\n")
    });
    let reload = "if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi\n";
    let units: Vec<String> = units(release, &|_| Vec::new()).into_iter().map(|unit| quoted(&unit.name)).collect();
    let stop =
        format!("if [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then systemctl disable --now {} || true; fi\n", units.join(" "));
    let script = |body: &str| format!("#!/bin/sh\nset -e\n{body}");
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let files = [
        ("./control", 0o644, about),
        ("./conffiles", 0o644, format!("/etc/default/{package}\n")),
        ("./preinst", 0o755, script(needs.as_deref().unwrap_or_default())),
        ("./postinst", 0o755, script(reload)),
        ("./prerm", 0o755, script(if units.is_empty() { "" } else { &stop })),
        ("./postrm", 0o755, script(reload)),
    ];
    let io = |fault| match fault {
        Fault::Write(e) => e,
        Fault::Other(e) => io::Error::other(e),
    };
    directory(&mut tar, "./").map_err(io)?;
    for (name, mode, text) in files {
        member(&mut tar, name, EntryType::Regular, mode, text.len() as u64, text.as_bytes()).map_err(io)?;
    }
    tar.into_inner()?.finish()
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
