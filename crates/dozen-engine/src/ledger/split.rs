//! A declared split: the releases that requests are divided between, and what is said of it.

use super::read::parse;
use super::{Ledger, LedgerError, Problem};
use dozen_core::ids::{DeployRef, Version};
use dozen_core::port::Sticky;
use dozen_core::port::tally::ErrorRate;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

/// How requests are split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The releases, each with its part, relative to the others.
    pub shares: Vec<(Version, u32)>,
    /// By what a client is known that shall come back to the same one.
    pub sticky: Sticky,
    /// When it was declared. Another declaration is another split.
    pub since: Timestamp,
    /// Where more of what is tried fails than this, it is aborted by itself.
    pub abort_above: Option<ErrorRate>,
}

impl Split {
    /// Its number, by which its requests are counted.
    pub fn number(&self) -> i64 {
        self.since.as_microsecond()
    }
}

impl Ledger {
    /// How requests are split; `None` where all go to the current release.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn split(&self, deploy: &DeployRef) -> Result<Option<Split>, LedgerError> {
        let name = deploy.to_string();
        self.run("read how requests are split", move |c| {
            let sql = "SELECT sticky, split_at, split_abort FROM deploys WHERE name = ?1 AND split_at IS NOT NULL";
            let row = c.query_row(sql, [&name], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?, r.get::<_, Option<u32>>(2)?)));
            let Some((sticky, since, above)) = row.optional()? else { return Ok(None) };
            let mut q = c.prepare("SELECT release, weight FROM shares WHERE deploy = ?1 ORDER BY release")?;
            let shares = q.query_map([&name], |r| Ok((Version(r.get(0)?), r.get(1)?)))?.collect::<Result<_, _>>()?;
            let abort_above = above.and_then(ErrorRate::of_hundredths);
            Ok(Some(Split { shares, sticky: parse(&sticky)?, since: parse(&since)?, abort_above }))
        })
        .await
    }
}

/// Declares a split at this time, or without shares that there is none.
pub(super) fn declare(
    c: &Connection,
    deploy: &DeployRef,
    shares: &[(Version, u32)],
    (sticky, abort_above): (&Sticky, Option<ErrorRate>),
    now: &str,
) -> Result<(), Problem> {
    let name = deploy.to_string();
    c.execute("DELETE FROM shares WHERE deploy = ?1", [&name])?;
    for (version, weight) in shares {
        c.execute("INSERT INTO shares (deploy, release, weight) VALUES (?1, ?2, ?3)", params![name, version.0, weight])?;
    }
    let since = (!shares.is_empty()).then_some(now);
    let sql = "UPDATE deploys SET sticky = ?2, split_at = ?3, split_abort = ?4 WHERE name = ?1";
    c.execute(sql, params![name, sticky.to_string(), since, abort_above.map(ErrorRate::hundredths)])?;
    Ok(())
}
