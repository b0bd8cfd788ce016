//! IV. Treat backing services as attached resources.
//! Resources that dozen itself keeps: SQLite, a file in a folder of its own, writable by the deploy's processes at its real path.

use dozen_core::backing::ResourceKind;
use dozen_core::ids::DeployRef;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::home::Home;

/// The database file within a SQLite resource's folder.
pub const SQLITE_FILE: &str = "db.sqlite3";

/// Why a resource could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the folder {path} for a {kind} resource")]
pub struct ResourceError {
    kind: &'static str,
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Makes the folder of a resource, or finds it: data that is there stays. The database file is made by the app's first connection.
pub fn create(home: &Home, deploy: &DeployRef, name: &str, kind: ResourceKind) -> Result<PathBuf, ResourceError> {
    let folder = home.resources(deploy).join(name.to_ascii_lowercase());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|source| ResourceError {
        kind: kind.as_str(),
        path: folder.clone(),
        source,
    })?;
    Ok(folder)
}

/// Hands a resource's folder and what is in it to the uid that the deploy's processes run as.
pub fn hand_over(folder: &Path, uid: u32) -> std::io::Result<()> {
    let chown = |path: &Path| {
        use std::os::unix::fs::MetadataExt;
        if std::fs::symlink_metadata(path)?.uid() != uid {
            std::os::unix::fs::lchown(path, Some(uid), Some(uid))?;
        }
        Ok::<_, std::io::Error>(())
    };
    chown(folder)?;
    for entry in std::fs::read_dir(folder)? {
        chown(&entry?.path())?;
    }
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}
