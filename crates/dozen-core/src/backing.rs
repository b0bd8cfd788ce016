//! IV. Treat backing services as attached resources.
//! A resource is a URL; an attachment is its place in a deploy's config. Swapping a local for a remote one changes nothing but the URL.

use std::fmt;
use std::path::{Path, PathBuf};

/// What kind of service a resource is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceKind {
    /// A SQLite database file in a folder of its own.
    Sqlite,
}

impl ResourceKind {
    /// The word that app.json's `addons`, the ledger and listings use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
        }
    }

    /// Reads an app.json add-on (`sqlite`, `sqlite:any-plan`).
    pub fn from_addon(addon: &str) -> Option<Self> {
        let name = addon.split(':').next().unwrap_or(addon);
        (name == "sqlite").then_some(Self::Sqlite)
    }

    /// The name under which a resource of this kind is attached by default.
    pub fn default_attachment(self) -> &'static str {
        match self {
            Self::Sqlite => "DATABASE",
        }
    }
}

/// A resource's address, a URL; it may hold credentials, so `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceUrl(String);

impl ServiceUrl {
    /// The URL of a SQLite file: an absolute path makes four slashes, as SQLAlchemy and dj-database-url read it.
    /// `None` where the path is not absolute or not UTF-8.
    pub fn sqlite(file: &Path) -> Option<Self> {
        let path = file.is_absolute().then(|| file.to_str()).flatten()?;
        // Percent-encode what would end the path of a URL.
        let escaped = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23").replace(' ', "%20");
        Some(Self(format!("sqlite:///{escaped}")))
    }

    /// The URL as text, for the process environment.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceUrl({}:…)", self.0.split(':').next().unwrap_or_default())
    }
}

/// A resource in a deploy's config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// `DATABASE` gives the variable `DATABASE_URL`.
    pub name: String,
    /// What it is.
    pub kind: ResourceKind,
    /// Its address.
    pub url: ServiceUrl,
    /// A folder of this host that the app's processes may write, mounted at its real path.
    pub folder: Option<PathBuf>,
}

impl Attachment {
    /// The config variable that carries the URL.
    pub fn variable(&self) -> String {
        format!("{}_URL", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_urls_have_four_slashes_and_hide_in_debug() {
        let url = ServiceUrl::sqlite(Path::new("/var/lib/a b/db.sqlite3")).expect("absolute");
        assert_eq!(url.expose(), "sqlite:////var/lib/a%20b/db.sqlite3");
        assert_eq!(format!("{url:?}"), "ServiceUrl(sqlite:…)");
        assert_eq!(ServiceUrl::sqlite(Path::new("db.sqlite3")), None);
        assert_eq!(ResourceKind::from_addon("sqlite:small"), Some(ResourceKind::Sqlite));
        assert_eq!(ResourceKind::from_addon("postgres"), None);
    }
}
