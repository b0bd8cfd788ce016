//! Copies a source into a slug's tree, and finds again what was hashed.

use super::builder::Builder;
use crate::codebase::fingerprint::{Fingerprint, Hash};
use crate::codebase::open;
use crate::release::store::cure;
use dozen_core::codebase::{FileKind, Source};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why a source cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A file cannot be read any more.
    #[error("cannot read {}, which was there a moment ago. Was the folder changed meanwhile? Run the command again", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file has another content than when it was hashed.
    #[error("{0} was changed while the app was being built. Run the command again")]
    Changed(String),
    /// The copy cannot be written.
    #[error("cannot write {}{}", path.display(), cure(source))]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Copies all files but those under `except`, the name of something at the root that the build makes itself. The copy is the builder's.
///
/// Modification times are kept: a server that tells browsers "not modified" by time and size must see that a file changed.
pub(super) fn copy(source: &Source, print: &Fingerprint, tree: &Path, except: Option<&str>, builder: Builder) -> Result<(), CopyError> {
    let write = |path: &Path| {
        let path = path.to_owned();
        move |source| CopyError::Write { path, source }
    };
    builder.make(tree).map_err(write(tree))?;
    let mut made = "";
    let mut buffer = vec![0u8; 128 << 10];
    for (file, hash) in source.files.iter().zip(&print.files) {
        if except.is_some_and(|e| file.path.strip_prefix(e).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))) {
            continue;
        }
        let to = tree.join(&file.path);
        let folder = file.path.rsplit_once('/').map_or("", |(f, _)| f);
        if folder != made {
            builder.make_within(tree, Path::new(folder)).map_err(write(&to))?;
            made = folder;
        }
        match &file.kind {
            FileKind::Link(target) => {
                std::os::unix::fs::symlink(target, &to).and_then(|()| builder.give(&to)).map_err(write(&to))?;
            }
            kind => {
                let mode = if *kind == FileKind::Executable { 0o755 } else { 0o644 };
                if copy_file(&source.folder.join(&file.path), &to, mode, &mut buffer, builder)? != *hash {
                    return Err(CopyError::Changed(file.path.clone()));
                }
            }
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path, mode: u32, buffer: &mut [u8], builder: Builder) -> Result<Hash, CopyError> {
    let read = |source| CopyError::Read { path: from.to_owned(), source };
    let write = |source| CopyError::Write { path: to.to_owned(), source };
    let mut input = open(from).map_err(read)?;
    let mut output = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(to).map_err(write)?;
    let mut hasher = blake3::Hasher::new();
    loop {
        let n = input.read(buffer).map_err(read)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        output.write_all(&buffer[..n]).map_err(write)?;
    }
    if let Ok(time) = input.metadata().and_then(|m| m.modified()) {
        output.set_modified(time).map_err(write)?;
    }
    builder.give_file(&output).map_err(write)?;
    Ok(*hasher.finalize().as_bytes())
}

/// Writes a small file so that a reader sees all of it or nothing.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&fresh, bytes).and_then(|()| fs::rename(&fresh, path)).inspect_err(|_| {
        let _ = fs::remove_file(&fresh);
    })
}
