//! Apps and deploys that are made and ended by themselves, and not by bringing one up.
//!
//! **Invariant:** a uid is given to one deploy only, also after that one's end: what it left may still lie somewhere.

use super::read::parse;
use super::{AppRow, Ledger, LedgerError, Principal, Problem};
use crate::config::Vault;
use dozen_core::admin::people::Standing;
use dozen_core::ids::{AppName, DeployRef};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

/// The uids that deploys get where dozen may choose: above what distributions, containers and systemd hand out (below 2¹⁹ and 524288 onwards
/// in blocks of 65536), and below those of builds.
const UIDS: std::ops::Range<u32> = 480_000..500_000;

/// What says of a deploy that it is there, children of others first.
const OF_A_DEPLOY: [&str; 12] = [
    "shares",
    "stopped",
    "formations",
    "one_offs",
    "builds",
    "domains",
    "certificates",
    "acme_failures",
    "attachments",
    "resources",
    "releases",
    "configs",
];

/// A deploy as a list of them has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployRow {
    /// Which.
    pub deploy: DeployRef,
    /// Since when.
    pub created: Timestamp,
    /// When it is to be destroyed.
    pub expires: Option<Timestamp>,
    /// The branch that it was made for.
    pub branch: Option<String>,
}

impl Ledger {
    /// The apps that somebody may know of.
    pub async fn apps_of(&self, who: &Principal) -> Result<Vec<AppRow>, LedgerError> {
        if !who.proven || who.standing(&self.home)? == Standing::Stranger {
            return Ok(Vec::new());
        }
        let mut seen = Vec::new();
        for row in self.apps().await? {
            if who.sees(&self.home, &row.name)? {
                seen.push(row);
            }
        }
        Ok(seen)
    }

    /// The deploys of an app; none where there is no such app.
    pub async fn deploys_of(&self, app: &AppName) -> Result<Vec<DeployRow>, LedgerError> {
        let app = app.to_string();
        self.run("read the deploys", move |c| deploys(c, Some(&app))).await
    }

    /// The deploys whose time is over.
    pub async fn expired(&self, now: Timestamp) -> Result<Vec<DeployRef>, LedgerError> {
        let all = self.run("read the deploys", |c| deploys(c, None)).await?;
        Ok(all.into_iter().filter(|row| row.expires.is_some_and(|at| at <= now)).map(|row| row.deploy).collect())
    }
}

fn deploys(c: &Connection, app: Option<&str>) -> Result<Vec<DeployRow>, Problem> {
    let mut q = c.prepare("SELECT name, created_at, expires_at, branch FROM deploys WHERE ?1 IS NULL OR app = ?1 ORDER BY name")?;
    let rows = q.query_map([app], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?, r.get::<_, Option<String>>(2)?, r.get(3)?)))?;
    rows.map(|row| {
        let (name, created, expires, branch) = row?;
        Ok(DeployRow { deploy: parse(&name)?, created: parse(&created)?, expires: expires.as_deref().map(parse).transpose()?, branch })
    })
    .collect()
}

/// What a deploy is made for, and for how long.
#[derive(Default)]
pub(super) struct Occasion<'a> {
    pub(super) expires: Option<Timestamp>,
    pub(super) branch: Option<&'a str>,
}

pub(super) fn create(c: &Connection, app: &AppName, now: &str) -> Result<(), Problem> {
    let made = c.execute("INSERT INTO apps (name, created_at) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING", [app.as_str(), now])?;
    if made == 0 { Err(Problem::Conflict(format!("there is an app {app} already"))) } else { Ok(()) }
}

/// Makes a deploy where there is none. Answers whether there was none.
pub(super) fn add_deploy(c: &Connection, deploy: &DeployRef, occasion: &Occasion<'_>, now: &str) -> Result<bool, Problem> {
    let Occasion { expires, branch } = occasion;
    let made = c.query_row(
        "INSERT INTO deploys (name, app, uid, generation, created_at, expires_at, branch)
         VALUES (?1, ?2, (SELECT ifnull(max(uid) + 1, ?3) FROM (SELECT uid FROM deploys UNION ALL SELECT uid FROM destroyed)),
                 (SELECT ifnull(max(generation), 0) FROM destroyed WHERE name = ?1), ?4, ?5, ?6)
         ON CONFLICT (name) DO NOTHING RETURNING uid",
        params![deploy.to_string(), deploy.app.as_str(), UIDS.start, now, expires.map(|at| at.to_string()), branch],
        |r| r.get::<_, u32>(0),
    );
    match made.optional()? {
        Some(uid) if uid >= UIDS.end => Err(Problem::Conflict(format!("no uid is left for {deploy}: {} deploys have had one", UIDS.len()))),
        made => Ok(made.is_some()),
    }
}

pub(super) fn create_deploy(
    c: &Connection,
    vault: &Vault,
    deploy: &DeployRef,
    like: Option<&DeployRef>,
    occasion: &Occasion<'_>,
    (now, by): (&str, &str),
) -> Result<(), Problem> {
    if !is_app(c, &deploy.app)? {
        return Err(Problem::NotFound(format!("there is no app {}", deploy.app)));
    }
    if !add_deploy(c, deploy, occasion, now)? {
        return Err(Problem::Conflict(format!("there is a deploy {deploy} already")));
    }
    like.map_or(Ok(()), |like| copy(c, vault, like, deploy, (now, by)))
}

/// Config and formation; not what another deploy has run, nor its data, nor what leads to it.
fn copy(c: &Connection, vault: &Vault, like: &DeployRef, deploy: &DeployRef, (now, by): (&str, &str)) -> Result<(), Problem> {
    // Whoever may deploy one app is nobody to another, whose secrets they would have by this.
    if like.app != deploy.app {
        return Err(Problem::Conflict(format!("{deploy} cannot be made like {like}: that is another app's")));
    }
    let (from, to) = (like.to_string(), deploy.to_string());
    if from == to || !c.query_row("SELECT EXISTS (SELECT 1 FROM deploys WHERE name = ?1)", [&from], |r| r.get(0))? {
        return Err(Problem::NotFound(format!("there is no deploy {from}")));
    }
    let sql = "SELECT version, names, sealed FROM configs WHERE deploy = ?1 ORDER BY version DESC LIMIT 1";
    let last = c.query_row(sql, [&from], |r| Ok((r.get::<_, u32>(0)?, r.get::<_, String>(1)?, r.get::<_, Vec<u8>>(2)?)));
    if let Some((version, names, sealed)) = last.optional()? {
        // What was sealed for one deploy opens for no other.
        let sealed = vault.seal(deploy, 1, &vault.unseal(like, version, &sealed)?);
        let sql = "INSERT INTO configs (deploy, version, names, sealed, created_at, created_by) VALUES (?1, 1, ?2, ?3, ?4, ?5)";
        c.execute(sql, params![to, names, sealed, now, by])?;
    }
    c.execute(
        "INSERT INTO formations (deploy, process_type, quantity, size) SELECT ?2, process_type, quantity, size FROM formations WHERE deploy = ?1",
        [&from, &to],
    )?;
    Ok(())
}

/// Slugs stay: they are of no deploy.
pub(super) fn destroy_deploy(c: &Connection, deploy: &DeployRef, now: &str) -> Result<(), Problem> {
    let name = deploy.to_string();
    let sql = "INSERT INTO destroyed (uid, name, generation, at) SELECT uid, name, generation, ?2 FROM deploys WHERE name = ?1";
    if c.execute(sql, [name.as_str(), now])? == 0 {
        return Err(Problem::NotFound(format!("there is no deploy {name}")));
    }
    for table in OF_A_DEPLOY {
        c.execute(&format!("DELETE FROM {table} WHERE deploy = ?1"), [&name])?;
    }
    c.execute("DELETE FROM deploys WHERE name = ?1", [&name])?;
    Ok(())
}

pub(super) fn destroy(c: &Connection, app: &AppName) -> Result<(), Problem> {
    if !is_app(c, app)? {
        return Err(Problem::NotFound(format!("there is no app {app}")));
    }
    let left = deploys(c, Some(app.as_str()))?;
    if !left.is_empty() {
        let names = left.iter().map(|row| row.deploy.to_string()).collect::<Vec<_>>().join(", ");
        return Err(Problem::Conflict(format!("{app} has deploys: {names}; destroy them first")));
    }
    c.execute("DELETE FROM grants WHERE app = ?1", [app.as_str()])?;
    c.execute("DELETE FROM apps WHERE name = ?1", [app.as_str()])?;
    Ok(())
}

pub(super) fn is_app(c: &Connection, app: &AppName) -> Result<bool, Problem> {
    Ok(c.query_row("SELECT EXISTS (SELECT 1 FROM apps WHERE name = ?1)", [app.as_str()], |r| r.get(0))?)
}

#[cfg(test)]
mod tests;
