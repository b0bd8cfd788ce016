//! The ledger as a file among others: copied while it is used, moved when it is not, and asked of which schema it is.

use super::{BUSY, Ledger, LedgerError, Problem, SCHEMA};
use crate::home::Home;
use rusqlite::{Connection, OpenFlags};
use std::path::PathBuf;

impl Ledger {
    /// The schema that a home's ledger has, and the one that this dozen gives it. Changes nothing.
    ///
    /// # Errors
    /// There is none, or it is of a later dozen.
    pub fn schemas(home: &Home) -> Result<(i64, i64), LedgerError> {
        let path = home.ledger();
        let failed = |source| LedgerError::Sqlite { attempt: "look at the schema", path: path.clone(), source };
        let c = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
        c.busy_timeout(BUSY).map_err(failed)?;
        let found: i64 = c.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(failed)?;
        if found > SCHEMA { Err(LedgerError::Newer { path, found }) } else { Ok((found, SCHEMA)) }
    }

    /// Writes the ledger as it is now to a file, while it is used.
    ///
    /// # Errors
    /// It cannot be written there.
    pub async fn copy_to(&self, file: PathBuf) -> Result<(), LedgerError> {
        self.run("copy it", move |c| {
            let mut to = Connection::open(file)?;
            let copied = rusqlite::backup::Backup::new(c, &mut to)?.run_to_completion(i32::MAX, BUSY, None);
            copied.map_err(Problem::from)
        })
        .await
    }

    /// Has all of it be in its one file, where nobody else has it open: it can be moved.
    pub(crate) async fn settle(&self) -> Result<(), LedgerError> {
        self.run("close it", |c| Ok(c.pragma_update(None, "journal_mode", "DELETE")?)).await
    }
}
