//! Where dozen keeps what it makes: `DOZEN_HOME`, one folder, by default in the XDG state folder.
//!
//! **Invariant:** nothing else on the machine is written, and what dozen did not create here it does not delete.

use dozen_core::ids::{AppName, DeployRef, SlugId};
use jiff::Timestamp;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The folder and the places within it.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// A home at `root`, an absolute path. Nothing is made yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
    /// Makes it and its folders where they are missing, so that only their owner can enter. Answers which could not be made, and why.
    pub fn make(&self) -> Result<(), (PathBuf, io::Error)> {
        // A home that was there before may be open to others: what is in it is not.
        for folder in ["", "slugs", "logs", "resources", "cache"] {
            let folder = if folder.is_empty() { self.root.clone() } else { self.root.join(folder) };
            DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|source| (folder, source))?;
        }
        Ok(())
    }
    /// Makes one of its folders that not every home needs, for its owner alone.
    pub(crate) fn private(folder: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)
    }
    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// The ledger: one SQLite file.
    pub fn ledger(&self) -> PathBuf {
        self.root.join("ledger.db")
    }
    /// The key that seals config, mode 0600.
    pub fn key(&self) -> PathBuf {
        self.root.join("key")
    }
    /// The local certification authority: `root.pem`, which others may read, and `root.key`, mode 0600.
    pub fn ca(&self) -> PathBuf {
        self.root.join("ca")
    }
    /// All slugs.
    pub fn slugs(&self) -> PathBuf {
        self.root.join("slugs")
    }
    /// One slug's folder; its tree is `tree` within.
    pub fn slug(&self, id: &SlugId) -> PathBuf {
        self.slugs().join(id.to_string())
    }
    /// The one folder that is written when this app is built: dependency layers, locks that were resolved, and `downloads`, which is all of it
    /// that the build's own programs reach.
    pub fn cache(&self, app: &AppName) -> PathBuf {
        self.caches().join(app.as_str())
    }
    /// Those of all apps.
    pub fn caches(&self) -> PathBuf {
        self.root.join("cache")
    }
    /// What was pushed of an app, of all of its deploys: a bare git repository.
    pub fn repository(&self, app: &AppName) -> PathBuf {
        self.repositories().join(format!("{app}.git"))
    }
    /// All repositories.
    pub fn repositories(&self) -> PathBuf {
        self.root.join("repositories")
    }
    /// What git runs when something is pushed.
    pub fn hooks(&self) -> PathBuf {
        self.root.join("hooks")
    }
    /// The files of commits while they are built.
    pub fn checkouts(&self) -> PathBuf {
        self.root.join("checkouts")
    }
    /// Where git's hooks reach the control plane.
    pub fn push_socket(&self) -> PathBuf {
        self.root.join("run").join("push.sock")
    }
    /// What the host's sshd is told of people's keys.
    pub fn ssh(&self) -> PathBuf {
        self.root.join("ssh")
    }
    /// The keys that it lets in.
    pub fn authorized_keys(&self) -> PathBuf {
        self.ssh().join("authorized_keys")
    }
    /// Programs that dozen fetched for itself (a pinned uv), by name and version.
    pub fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }
    /// dozen's own binary, as its processes find it where the file itself cannot be handed on.
    pub fn own_binaries(&self) -> PathBuf {
        self.root.join("bin")
    }
    /// The logs of all deploys.
    pub fn all_logs(&self) -> PathBuf {
        self.root.join("logs")
    }
    /// A deploy's log segments.
    pub fn logs(&self, deploy: &DeployRef) -> PathBuf {
        self.all_logs().join(deploy.app.as_str()).join(deploy.deploy.as_str())
    }
    /// The folders of a deploy's resources.
    pub fn resources(&self, deploy: &DeployRef) -> PathBuf {
        self.root.join("resources").join(deploy.app.as_str()).join(deploy.deploy.as_str())
    }
    /// Puts what a destroyed deploy leaves, its data and its logs, where no deploy finds it: one of its name is another. Answers where, where
    /// it left anything.
    ///
    /// # Errors
    /// It cannot be moved.
    pub fn retire(&self, deploy: &DeployRef, now: Timestamp) -> io::Result<Option<PathBuf>> {
        let at = self.root.join("destroyed").join(deploy.to_string()).join(now.as_millisecond().to_string());
        let mut left = None;
        for (what, name) in [(self.resources(deploy), "resources"), (self.logs(deploy), "logs")] {
            if what.try_exists()? {
                DirBuilder::new().recursive(true).mode(0o700).create(&at)?;
                std::fs::rename(&what, at.join(name))?;
                left = Some(at.clone());
            }
        }
        Ok(left)
    }
    /// A running deploy's lock, sockets and scratch.
    pub fn run(&self, deploy: &DeployRef) -> PathBuf {
        let hash = blake3::hash(deploy.to_string().as_bytes());
        self.root.join("run").join(&hash.to_hex()[..12])
    }
    /// A running one-off's lock and, where no `up` runs it, its socket.
    pub fn one_off(&self, deploy: &DeployRef, number: u32) -> PathBuf {
        self.run(deploy).with_extension(number.to_string())
    }
}
