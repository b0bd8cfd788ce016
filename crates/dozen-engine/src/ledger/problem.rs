//! What goes wrong on the ledger's thread, which knows neither its file nor who asked.

use crate::config::VaultError;

/// What goes wrong on the ledger's thread.
pub(super) enum Problem {
    Sqlite(rusqlite::Error),
    Inconsistent(String),
    NotFound(String),
    Conflict(String),
    Vault(VaultError),
    Led { domain: String, deploy: String },
    Own { domain: String, app: String },
}

impl From<rusqlite::Error> for Problem {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sqlite(e)
    }
}

impl From<VaultError> for Problem {
    fn from(e: VaultError) -> Self {
        Self::Vault(e)
    }
}
