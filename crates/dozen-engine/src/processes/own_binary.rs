//! dozen's own binary for those whom it runs: a Procfile may say `dozen static dist`.
//!
//! **Invariant:** what is handed on is the binary that runs, even where its file was replaced or deleted since.

use crate::home::Home;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The name under which it is found.
pub(super) const NAME: &str = "dozen";
const OWN: &str = "/proc/self/exe";

/// Where the running binary lies. A mount needs a path: where there is none any more, or where not everybody may run it, a copy is made in
/// `home`, once for each binary.
pub(super) fn file(home: &Home) -> io::Result<PathBuf> {
    let own = fs::metadata(OWN)?;
    let path = fs::read_link(OWN)?;
    let is_it = fs::metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino()));
    if is_it && own.mode() & 0o005 == 0o005 {
        return Ok(path);
    }
    let copy = folder(home, &own).join(NAME);
    make(&copy, |fresh| {
        fs::copy(OWN, fresh)?;
        fs::set_permissions(fresh, Permissions::from_mode(0o755))
    })?;
    Ok(copy)
}

/// A folder of the host that has it under its name and nothing else, for where there are no mounts.
pub(super) fn folder_with(home: &Home) -> io::Result<PathBuf> {
    let file = file(home)?;
    let folder = folder(home, &fs::metadata(OWN)?);
    make(&folder.join(NAME), |fresh| symlink(&file, fresh))?;
    Ok(folder)
}

fn folder(home: &Home, own: &Metadata) -> PathBuf {
    home.own_binaries().join(format!("{:x}-{:x}-{:x}", own.dev(), own.ino(), own.ctime()))
}

/// Makes a file, whole or not at all, unless it is there.
fn make(file: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    if file.exists() {
        return Ok(());
    }
    let folder = file.parent().unwrap_or(file);
    // Like all of a home: what lies there is shown by a mount, or read by the same user.
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let fresh = folder.join(format!(".{NAME}-{}", std::process::id()));
    let made = write(&fresh).and_then(|()| fs::rename(&fresh, file));
    if made.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_one_that_runs() {
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::at(dir.path());
        let own = fs::metadata(OWN).expect("we run");
        let found = file(&home).expect("found");
        assert_eq!(fs::metadata(&found).expect("there").len(), own.len());
        let folder = folder_with(&home).expect("made");
        assert_eq!(folder_with(&home).expect("made"), folder, "once");
        assert_eq!(fs::canonicalize(folder.join(NAME)).expect("there"), found);
        assert_eq!(fs::read_dir(&folder).expect("listed").count(), 1);
    }
}
