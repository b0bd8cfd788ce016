//! What stands before a release: names of gates that a deploy requires, and what has passed them.

use super::{Ledger, LedgerError, Problem};
use dozen_core::ids::{DeployRef, SlugId};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeSet;

/// The gates that there are: `tests`, app.json's.
pub const GATES: [&str; 1] = ["tests"];

impl Ledger {
    /// What must pass before a release of a deploy.
    pub async fn gates(&self, deploy: &DeployRef) -> Result<BTreeSet<String>, LedgerError> {
        let name = deploy.to_string();
        self.run("read what a deploy requires", move |c| {
            let sql = "SELECT required FROM deploys WHERE name = ?1";
            let text: Option<String> = c.query_row(sql, [name], |r| r.get(0)).optional()?;
            Ok(text.unwrap_or_default().split_whitespace().map(str::to_owned).collect())
        })
        .await
    }

    /// Whether a slug has passed its tests.
    pub async fn passed(&self, slug: SlugId) -> Result<bool, LedgerError> {
        self.run("read the tests", move |c| {
            let sql = "SELECT passed FROM tests WHERE slug = ?1";
            Ok(c.query_row(sql, [slug.to_string()], |r| r.get(0)).optional()?.unwrap_or(false))
        })
        .await
    }
}

pub(super) fn require(c: &Connection, deploy: &DeployRef, gates: &BTreeSet<String>) -> Result<(), Problem> {
    if let Some(unknown) = gates.iter().find(|gate| !GATES.contains(&gate.as_str())) {
        return Err(Problem::Conflict(format!("nothing called {unknown} can be required; there is {}", GATES.join(", "))));
    }
    let names: Vec<&str> = gates.iter().map(String::as_str).collect();
    c.execute("UPDATE deploys SET required = ?2 WHERE name = ?1", params![deploy.to_string(), names.join(" ")])?;
    Ok(())
}

pub(super) fn tested(c: &Connection, slug: SlugId, passed: bool, (now, who): (&str, &str)) -> Result<(), Problem> {
    c.execute(
        "INSERT INTO tests (slug, passed, tested_at, tested_by) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (slug) DO UPDATE SET passed = ?2, tested_at = ?3, tested_by = ?4",
        params![slug.to_string(), passed, now, who],
    )?;
    Ok(())
}
