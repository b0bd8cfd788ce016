//! Which slugs releases have.

use super::read::parse;
use super::{Ledger, LedgerError};
use dozen_core::codebase::Commit;
use dozen_core::ids::{AppName, DeployRef, SlugId, Version};
use jiff::Timestamp;
use rusqlite::params;
use std::collections::BTreeSet;

/// A slug that releases of an app have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedSlug {
    /// Which.
    pub id: SlugId,
    /// `python`, `procfile`.
    pub pack: String,
    /// Bytes of all files.
    pub size: u64,
    /// Number of files and links.
    pub files: u64,
    /// When it was released for the first time.
    pub created: Timestamp,
    /// The releases, the latest of each deploy first, with the commit that each was made of.
    pub releases: Vec<(DeployRef, Version, Option<Commit>)>,
}

/// What keeps a slug: of each deploy the last releases, those of them that succeeded, and those that were up, since a rollback goes there; what
/// serves or is about to; what a one-off runs.
const WANTED: &str = "
    WITH numbered AS (
        SELECT r.deploy, r.version, r.slug, r.status, r.up_at,
               row_number() OVER (PARTITION BY r.deploy ORDER BY r.version DESC) AS nth,
               row_number() OVER (PARTITION BY r.deploy, r.status ORDER BY r.version DESC) AS nth_alike,
               row_number() OVER (PARTITION BY r.deploy, r.status, r.up_at IS NULL ORDER BY r.version DESC) AS nth_up
        FROM releases r)
    SELECT n.slug FROM numbered n
    WHERE n.nth <= ?1 OR (n.status = 'succeeded' AND (n.nth_alike <= ?1 OR (n.up_at IS NOT NULL AND n.nth_up <= ?1))) OR n.status = 'pending'
       OR EXISTS (SELECT 1 FROM deploys d WHERE d.name = n.deploy AND d.current_release = n.version)
       OR EXISTS (SELECT 1 FROM shares s WHERE s.deploy = n.deploy AND s.release = n.version)
       OR EXISTS (SELECT 1 FROM one_offs o WHERE o.deploy = n.deploy AND o.release = n.version AND o.ended_at IS NULL)";

impl Ledger {
    /// The slugs that are to stay, with those of so many releases of each deploy.
    pub async fn wanted_slugs(&self, releases: u32) -> Result<BTreeSet<SlugId>, LedgerError> {
        self.run("read which slugs are used", move |c| {
            let mut q = c.prepare(WANTED)?;
            let rows = q.query_map([releases], |r| r.get::<_, String>(0))?;
            rows.map(|row| parse(&row?)).collect()
        })
        .await
    }

    /// How many releases there are that are concluded, in whatever way; and how many deploys.
    pub(crate) async fn concluded(&self) -> Result<(u32, u32), LedgerError> {
        self.run("count the releases", |c| {
            let sql = "SELECT (SELECT count(*) FROM releases WHERE status != 'pending'), (SELECT count(*) FROM deploys)";
            Ok(c.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?)))?)
        })
        .await
    }

    /// The slugs of an app's releases, the latest first.
    pub async fn slugs_of(&self, app: &AppName) -> Result<Vec<UsedSlug>, LedgerError> {
        let app = app.to_string();
        self.run("read the slugs", move |c| {
            let mut q = c.prepare(
                "SELECT s.id, s.pack, s.size, s.files, s.created_at, r.deploy, r.version, r.commit_hash
                 FROM releases r JOIN deploys d ON d.name = r.deploy JOIN slugs s ON s.id = r.slug
                 WHERE d.app = ?1 ORDER BY s.created_at DESC, s.id, r.deploy, r.version DESC",
            )?;
            let mut rows = q.query(params![app])?;
            let mut all: Vec<UsedSlug> = Vec::new();
            while let Some(r) = rows.next()? {
                let id: SlugId = parse(&r.get::<_, String>(0)?)?;
                let commit = r.get::<_, Option<String>>(7)?.map(Commit::from_record);
                let release = (parse(&r.get::<_, String>(5)?)?, Version(r.get(6)?), commit);
                match all.last_mut().filter(|last| last.id == id) {
                    Some(last) => last.releases.push(release),
                    None => all.push(UsedSlug {
                        id,
                        pack: r.get(1)?,
                        size: r.get(2)?,
                        files: r.get(3)?,
                        created: parse(&r.get::<_, String>(4)?)?,
                        releases: vec![release],
                    }),
                }
            }
            Ok(all)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use crate::home::Home;
    use crate::ledger::{Intent, Ledger, Principal};
    use dozen_core::config::Config;
    use dozen_core::ids::DeployRef;

    /// Which releases' slugs are kept: of release n it is n, in two digits.
    async fn wanted(rows: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(&Home::at(folder.path())).expect("opened");
        let deploy: DeployRef = "shop/dev".parse().expect("valid");
        let who = Principal::me();
        ledger.commit(&who, Intent::Adopt { deploy: deploy.clone(), folder: None }).await.expect("committed");
        ledger.commit(&who, Intent::Configure { deploy, config: Config::default() }).await.expect("committed");
        let mut sql = String::new();
        for n in 1..=40 {
            let id = format!("{n:02x}").repeat(32);
            sql += &format!(
                "INSERT INTO slugs VALUES ('{id}', 'p', NULL, '{{}}', 1, 1, '2026-01-01T00:00:00Z');
                 INSERT INTO releases (deploy, version, slug, config_version, attachments, description, status, created_at, created_by, up_at)
                 VALUES ('shop/dev', {n}, '{id}', 1, '{{}}', '', 'succeeded', '2026-01-01T00:00:00Z', 'root', '2026-01-01T00:00:00Z');"
            );
        }
        sql += rows;
        ledger.run("test", move |c| Ok(c.execute_batch(&sql)?)).await.expect("written");
        let mut all: Vec<u8> = ledger.wanted_slugs(10).await.expect("read").into_iter().map(|id| id.0[0]).collect();
        all.sort_unstable();
        all
    }

    #[tokio::test]
    async fn the_last_ten_and_whatever_serves_runs_or_could_be_gone_back_to() {
        let last: Vec<u8> = (31..=40).collect();
        assert_eq!(wanted("").await, last);
        let with = |more: &[u8]| [more, &last].concat();
        assert_eq!(wanted("UPDATE deploys SET current_release = 3").await, with(&[3]));
        assert_eq!(wanted("INSERT INTO shares VALUES ('shop/dev', 5, 50)").await, with(&[5]));
        let run = "INSERT INTO one_offs VALUES ('shop/dev', 1, 7, 'x', '2026-01-01T00:00:00Z', 'root', NULL, NULL)";
        assert_eq!(wanted(run).await, with(&[7]));
        assert_eq!(wanted("UPDATE releases SET status = 'pending' WHERE version = 9").await, with(&[9]));
        // Many that failed, or never came up, push out none that one could go back to.
        let failed = "UPDATE releases SET status = 'failed', up_at = NULL WHERE version > 30";
        assert_eq!(wanted(failed).await, (21..=40).collect::<Vec<u8>>());
        assert_eq!(wanted("UPDATE releases SET up_at = NULL WHERE version > 30").await, (21..=40).collect::<Vec<u8>>());
    }
}
