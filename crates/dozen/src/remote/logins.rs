//! The servers that one is logged in to, in a file that is its owner's alone.

use super::{Remote, ServerUrl};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The file of them.
#[derive(Debug, Clone)]
pub(crate) struct Logins {
    /// `None` where nobody can tell where it would be.
    file: Option<PathBuf>,
}

/// What is kept of one.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Login {
    /// As whom; for people.
    pub(crate) user: String,
    token: String,
    /// By whose certificates it is known beside the machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) authority: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct All {
    servers: BTreeMap<String, Login>,
}

impl Logins {
    /// Those of a folder.
    pub(crate) fn of(folder: Option<PathBuf>) -> Self {
        Self { file: folder.map(|folder| folder.join("servers.json")) }
    }

    /// All servers with what is kept of them, sorted. None where there is no file.
    ///
    /// # Errors
    /// The file cannot be read, or others can.
    pub(crate) fn all(&self) -> Result<Vec<(ServerUrl, Login)>> {
        let servers = self.read()?.servers.into_iter();
        Ok(servers.filter_map(|(url, login)| Some((url.parse().ok()?, login))).collect())
    }

    /// What is kept of a server.
    pub(crate) fn find(&self, url: &ServerUrl) -> Result<Option<Login>> {
        Ok(self.read()?.servers.remove(&url.to_string()))
    }

    /// Keeps a token in place of what there was.
    pub(crate) fn keep(&self, url: &ServerUrl, user: &str, token: &str, authority: Option<String>) -> Result<()> {
        let mut all = self.read()?;
        let login = Login { user: user.to_owned(), token: token.trim().to_owned(), authority };
        all.servers.insert(url.to_string(), login);
        self.write(&all)
    }

    /// Forgets a server. Answers whether it was known.
    pub(crate) fn forget(&self, url: &ServerUrl) -> Result<bool> {
        let mut all = self.read()?;
        let was = all.servers.remove(&url.to_string()).is_some();
        if was {
            self.write(&all)?;
        }
        Ok(was)
    }

    fn read(&self) -> Result<All> {
        let Some(file) = &self.file else { return Ok(All::default()) };
        let attempt = || format!("cannot read {}", file.display());
        let text = match std::fs::read(file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(All::default()),
            text => text.with_context(attempt)?,
        };
        let mode = std::fs::metadata(file).with_context(attempt)?.mode();
        if mode & 0o077 != 0 {
            bail!("{} has tokens in it, and others can read it: `chmod 600` it, and log in anew where somebody may have", file.display());
        }
        serde_json::from_slice(&text).with_context(attempt)
    }

    fn write(&self, all: &All) -> Result<()> {
        let Some(file) = &self.file else { bail!("cannot tell where to keep tokens: neither XDG_CONFIG_HOME nor HOME is set") };
        let folder = file.parent().unwrap_or(Path::new("/"));
        let attempt = || format!("cannot write {}", file.display());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(attempt)?;
        // Made with mode 0600; and whoever reads meanwhile finds the one or the other.
        let mut new = tempfile::NamedTempFile::new_in(folder).with_context(attempt)?;
        new.write_all(&serde_json::to_vec_pretty(all)?).with_context(attempt)?;
        new.as_file().sync_all().with_context(attempt)?;
        new.persist(file).with_context(attempt)?;
        Ok(())
    }
}

impl Login {
    /// For whom it is to be shown to.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// The server, with this token.
    pub(crate) fn remote(&self, url: ServerUrl) -> Result<Remote> {
        Remote::new(url, &self.token, self.authority.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn tokens_are_kept_for_their_owner_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("config/dozen");
        let logins = Logins::of(Some(folder.clone()));
        assert!(logins.all().expect("none").is_empty());
        let (a, b): (ServerUrl, ServerUrl) = ("https://a.test".parse().expect("a URL"), "http://b.localhost:8".parse().expect("a URL"));
        logins.keep(&a, "ada", "dozen_1\n", None).expect("kept");
        logins.keep(&b, "bob", "dozen_2", None).expect("kept");
        let mode = |path: &Path| std::fs::metadata(path).expect("there").mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("servers.json"))), (0o700, 0o600));
        let found = logins.find(&a).expect("read").expect("there");
        assert_eq!((found.user.as_str(), found.token.as_str()), ("ada", "dozen_1"));
        assert!(logins.forget(&a).expect("written") && !logins.forget(&a).expect("read"));
        assert_eq!(logins.all().expect("read").len(), 1);
        assert_eq!(std::fs::read_dir(&folder).expect("read").count(), 1, "nothing is left of writing");

        std::fs::set_permissions(folder.join("servers.json"), std::fs::Permissions::from_mode(0o644)).expect("set");
        assert!(logins.all().is_err());
    }
}
