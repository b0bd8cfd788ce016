//! Whether what the ledger says fits together: SQLite's own word, and what no constraint of the schema says.

use super::{Ledger, LedgerError, Problem, SCHEMA};
use crate::config::VaultError;
use crate::home::Home;
use dozen_core::ids::DeployRef;
use rusqlite::{Connection, OpenFlags, params};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What it is about: a deploy, `ledger`, a slug.
    pub about: String,
    /// What is wrong, as a sentence without its end.
    pub what: String,
}

impl Fault {
    /// One.
    pub fn new(about: impl ToString, what: impl Into<String>) -> Self {
        Self { about: about.to_string(), what: what.into() }
    }
}

/// What must be true of each row, as queries that answer with what breaks it: about what, and what is wrong with it.
///
/// Of the names in it `held` is the JSON array of the deploys that a dozen runs now, whose changes may be under way.
const RULES: &[&str] = &[
    // A release is concluded before it is current.
    "SELECT d.name, 'v' || d.current_release || ' is current, and ' || ifnull('it is ' || r.status, 'there is no such release')
     FROM deploys d LEFT JOIN releases r ON r.deploy = d.name AND r.version = d.current_release
     WHERE d.current_release IS NOT NULL AND ifnull(r.status, '') <> 'succeeded' AND ?1 IS NOT NULL",
    "SELECT deploy, 'v' || version || ' is neither made nor given up, and no dozen runs the deploy; the next start decides it'
     FROM releases WHERE status = 'pending' AND deploy NOT IN (SELECT value FROM json_each(?1))",
    "SELECT deploy, count(*) || ' releases are under way at a time' FROM releases WHERE status = 'pending' AND ?1 IS NOT NULL
     GROUP BY deploy HAVING count(*) > 1",
    // Nothing is ever taken away from between.
    "SELECT deploy, 'of its ' || max(version) || ' releases ' || (max(version) - count(*)) || ' are missing' FROM releases
     WHERE ?1 IS NOT NULL GROUP BY deploy HAVING max(version) <> count(*)",
    "SELECT deploy, 'of its ' || max(version) || ' versions of the config ' || (max(version) - count(*)) || ' are missing' FROM configs
     WHERE ?1 IS NOT NULL GROUP BY deploy HAVING max(version) <> count(*)",
    "SELECT r.deploy, 'v' || r.version || ' has ' || a.key || ' attached, a resource that there is not' FROM releases r, json_each(r.attachments) a
     WHERE a.value NOT IN (SELECT id FROM resources) AND ?1 IS NOT NULL",
    "SELECT s.deploy, 'requests are led to v' || s.release || ', which did not succeed' FROM shares s
     LEFT JOIN releases r ON r.deploy = s.deploy AND r.version = s.release WHERE ifnull(r.status, '') <> 'succeeded' AND ?1 IS NOT NULL",
    "SELECT deploy, 'run.' || number || ' has not ended, and no dozen runs the deploy; the next start decides it' FROM one_offs
     WHERE ended_at IS NULL AND deploy NOT IN (SELECT value FROM json_each(?1))",
    "SELECT deploy, 'build.' || number || ' has not ended, and no dozen runs the deploy; the next start decides it' FROM builds
     WHERE ended_at IS NULL AND deploy NOT IN (SELECT value FROM json_each(?1))",
];

impl Ledger {
    /// The schema of a home's ledger, where that is older than this dozen's: to open it would bring it to this one. Nothing is written.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn older(home: &Home) -> Result<Option<i64>, LedgerError> {
        let read = || {
            let c = Connection::open_with_flags(home.ledger(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            c.pragma_query_value(None, "user_version", |r| r.get::<_, i64>(0))
        };
        let found = read().map_err(|source| LedgerError::Sqlite { attempt: "read the schema", path: home.ledger(), source })?;
        Ok((found < SCHEMA).then_some(found))
    }

    /// What in the ledger does not fit together. `held` are the deploys that a dozen runs now: what is under way there is no fault.
    ///
    /// # Errors
    /// It cannot be read at all.
    pub async fn faults(&self, held: &[DeployRef]) -> Result<Vec<Fault>, LedgerError> {
        let held = serde_json::to_string(&held.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("strings are JSON");
        let mut faults = self.run("check it", move |c| in_tables(c, &held)).await?;
        for deploy in self.deploys().await? {
            let name = deploy.to_string();
            let versions = self.run("read the config", move |c| {
                let mut q = c.prepare("SELECT version FROM configs WHERE deploy = ?1 ORDER BY version")?;
                Ok(q.query_map(params![name], |r| r.get::<_, u32>(0))?.collect::<Result<Vec<_>, _>>()?)
            });
            for version in versions.await? {
                let opened = self.config_at(&deploy, version).await;
                if let Err(e) = opened {
                    faults.push(Fault::new(&deploy, format!("version {version} of its config does not open: {}", crate::chain(&e))));
                }
            }
            match self.certificates(&deploy).await {
                Ok(_) => {}
                Err(LedgerError::Vault(e @ VaultError::Certificate { .. })) => faults.push(Fault::new(&deploy, crate::chain(&e))),
                Err(LedgerError::Inconsistent { what, .. }) => faults.push(Fault::new(&deploy, what)),
                Err(e) => return Err(e),
            }
        }
        Ok(faults)
    }
}

fn in_tables(c: &Connection, held: &str) -> Result<Vec<Fault>, Problem> {
    // Of one moment: others write meanwhile.
    let t = c.unchecked_transaction()?;
    let texts = |sql: &str| -> Result<Vec<String>, Problem> {
        let mut q = t.prepare(sql)?;
        Ok(q.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?)
    };
    let said = texts("PRAGMA integrity_check(20)")?;
    let mut faults: Vec<Fault> = said.into_iter().filter(|line| line != "ok").map(|line| Fault::new("ledger", line)).collect();
    let orphans = texts("SELECT DISTINCT \"table\" || ' refers to ' || parent || ' that are missing' FROM pragma_foreign_key_check")?;
    faults.extend(orphans.into_iter().map(|line| Fault::new("ledger", line)));
    for rule in RULES {
        let mut q = t.prepare(rule)?;
        let broken = q.query_map([held], |r| Ok(Fault { about: r.get(0)?, what: r.get(1)? }))?;
        faults.extend(broken.collect::<Result<Vec<_>, _>>()?);
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Intent, Principal};
    use dozen_core::config::Config;

    /// A ledger with one release that succeeded, and a way past everything that keeps it sound.
    async fn bench() -> (Ledger, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(&Home::at(folder.path())).expect("opened");
        let deploy: DeployRef = "shop/production".parse().expect("valid");
        let who = Principal::me();
        ledger.commit(&who, Intent::CreateApp { app: deploy.app.clone() }).await.expect("committed");
        let create = Intent::CreateDeploy { deploy: deploy.clone(), like: None, expires: None, branch: None };
        ledger.commit(&who, create).await.expect("committed");
        ledger.commit(&who, Intent::Configure { deploy, config: Config::default() }).await.expect("committed");
        let rows = "INSERT INTO slugs VALUES ('aa', 'static', NULL, '{}', 1, 1, '2026-01-01T00:00:00Z');
             INSERT INTO releases (deploy, version, slug, config_version, attachments, description, status, created_at, created_by)
             VALUES ('shop/production', 1, 'aa', 1, '{}', 'Deploy', 'succeeded', '2026-01-01T00:00:00Z', 'root');
             UPDATE deploys SET current_release = 1";
        ledger.run("test", |c| Ok(c.execute_batch(rows)?)).await.expect("written");
        (ledger, folder)
    }

    #[tokio::test]
    async fn each_break_is_found_and_a_sound_ledger_has_none() {
        let pending =
            "INSERT INTO releases (deploy, version, slug, config_version, attachments, description, status, created_at, created_by)
             VALUES ('shop/production', 2, 'aa', 1, '{}', 'Deploy', 'pending', '2026-01-01T00:00:00Z', 'root')";
        let cases = [
            ("", ""),
            ("UPDATE deploys SET current_release = 2", "v2 is current, and there is no such release"),
            ("UPDATE releases SET status = 'failed'", "v1 is current, and it is failed"),
            (pending, "v2 is neither made nor given up, and no dozen runs the deploy; the next start decides it"),
            ("UPDATE releases SET version = 3; UPDATE deploys SET current_release = 3", "of its 3 releases 2 are missing"),
            ("UPDATE releases SET attachments = '{\"DATABASE\": 9}'", "v1 has DATABASE attached, a resource that there is not"),
            ("INSERT INTO shares VALUES ('shop/production', 2, 50)", "requests are led to v2, which did not succeed"),
            (
                "INSERT INTO one_offs VALUES ('shop/production', 7, 1, 'true', '2026-01-01T00:00:00Z', 'root', NULL, NULL)",
                "run.7 has not ended, and no dozen runs the deploy; the next start decides it",
            ),
            (
                "INSERT INTO builds (deploy, number, source, state, created_at, created_by)
                 VALUES ('shop/production', 7, 'push', 'running', '2026-01-01T00:00:00Z', 'root')",
                "build.7 has not ended, and no dozen runs the deploy; the next start decides it",
            ),
            (
                "PRAGMA foreign_keys = OFF; INSERT INTO formations VALUES ('gone/production', 'web', 1, NULL)",
                "formations refers to deploys that are missing",
            ),
        ];
        for (change, fault) in cases {
            let (ledger, _folder) = bench().await;
            ledger.run("test", move |c| Ok(c.execute_batch(change)?)).await.expect("written");
            let found: Vec<String> = ledger.faults(&[]).await.expect("read").into_iter().map(|fault| fault.what).collect();
            assert_eq!(found, Vec::from_iter((!fault.is_empty()).then(|| fault.to_owned())), "{change}");
        }
    }

    #[tokio::test]
    async fn what_is_under_way_is_no_fault_and_a_config_that_does_not_open_is_one() {
        let (ledger, _folder) = bench().await;
        let held: DeployRef = "shop/production".parse().expect("valid");
        let sql = "INSERT INTO releases (deploy, version, slug, config_version, attachments, description, status, created_at, created_by)
             VALUES ('shop/production', 2, 'aa', 1, '{}', 'Deploy', 'pending', '2026-01-01T00:00:00Z', 'root')";
        ledger.run("test", move |c| Ok(c.execute_batch(sql)?)).await.expect("written");
        assert_eq!(ledger.faults(std::slice::from_ref(&held)).await.expect("read"), []);
        ledger.run("test", |c| Ok(c.execute_batch("UPDATE configs SET sealed = x'00'")?)).await.expect("written");
        let found = ledger.faults(&[held]).await.expect("read");
        assert!(matches!(&found[..], [fault] if fault.what.starts_with("version 1 of its config does not open: ")), "{found:?}");
    }
}
