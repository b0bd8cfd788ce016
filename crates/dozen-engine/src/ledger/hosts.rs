//! Whose a host name is: what a server gives by itself, and what may be added beside it.
//!
//! **Invariant:** no two deploys of a server have one name by themselves, and none is led by a name that another one has, or will have, by itself.

use super::Problem;
use dozen_core::ids::{AppName, DeployRef, MAX_LABEL, PRODUCTION};
use dozen_core::port::Domain;
use rusqlite::{Connection, params};

/// Names below it are this machine's.
const LOCAL: &str = "localhost";

/// The host names that a server gives itself, beside those below `.localhost`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// The host of its API.
    pub api_host: String,
    /// The domain below which each deploy has a name of its own.
    pub domain: Option<String>,
}

impl Reserved {
    /// Below which each deploy has a name of its own.
    fn parents(&self) -> impl Iterator<Item = &str> {
        std::iter::once(LOCAL).chain(self.domain.as_deref())
    }

    /// Why nobody may have a domain lead to a deploy of which the names' first label is this one. It tells of no other deploy.
    fn refusal(&self, label: &str, domain: &Domain) -> Option<String> {
        if domain.host() == self.api_host || stands_for(domain, &self.api_host) {
            return Some(format!("{domain} cannot be added: {} is the host of this server's API", self.api_host));
        }
        let parent = self.parents().find(|parent| {
            let all = domain.host().strip_prefix("*.") == Some(parent) || stands_for(domain, parent);
            all || label_below(domain.host(), parent).is_some_and(|other| other != label)
        })?;
        Some(format!(
            "{domain} cannot be added: below {parent} this server gives each deploy one name, and that of this one is {label}.{parent}"
        ))
    }
}

/// Whether a domain is a wildcard for this name.
fn stands_for(domain: &Domain, name: &str) -> bool {
    let parent = name.split_once('.').map(|(_, parent)| parent);
    parent.is_some() && domain.host().strip_prefix("*.") == parent
}

/// The label next to a parent: `shop` of `eu.shop.localhost`, and of `*.shop.localhost`.
fn label_below<'h>(host: &'h str, parent: &str) -> Option<&'h str> {
    let rest = host.strip_suffix(parent)?.strip_suffix('.')?;
    rest.rsplit('.').next().filter(|label| *label != "*")
}

/// An app's first deploy.
pub(super) fn production(app: AppName) -> DeployRef {
    DeployRef { app, deploy: PRODUCTION.parse().expect("a literal deploy name is valid") }
}

/// What leads somewhere already stays: a domain that is taken from a deploy in silence would be an outage of it.
pub(super) fn lead(
    c: &Connection,
    reserved: Option<&Reserved>,
    deploy: &DeployRef,
    domain: &Domain,
    (now, who): (&str, &str),
) -> Result<(), Problem> {
    match reserved {
        Some(reserved) => reserved.refusal(&deploy.host_label(), domain).map_or(Ok(()), |why| Err(Problem::Conflict(why)))?,
        None => is_nobodys(c, deploy, domain)?,
    }
    c.execute(
        "INSERT INTO domains (domain, deploy, created_at, created_by) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (domain) DO NOTHING",
        params![domain.to_string(), deploy.to_string(), now, who],
    )?;
    let owner: String = c.query_row("SELECT deploy FROM domains WHERE domain = ?1", [domain.to_string()], |r| r.get(0))?;
    if owner == deploy.to_string() { Ok(()) } else { Err(Problem::Led { domain: domain.to_string(), deploy: owner }) }
}

/// Without a server a name below `.localhost` is that of an app or a deploy of the ledger, or anybody's.
fn is_nobodys(c: &Connection, deploy: &DeployRef, domain: &Domain) -> Result<(), Problem> {
    let Some(label) = label_below(domain.host(), LOCAL) else { return Ok(()) };
    if label == deploy.app.as_str() || label == deploy.host_label() {
        return Ok(());
    }
    match labelled(c, label)? {
        Some(other) => Err(Problem::Own { domain: domain.to_string(), app: other }),
        None => Ok(()),
    }
}

/// The app that has this label by itself, or one of whose deploys has.
fn labelled(c: &Connection, label: &str) -> Result<Option<String>, Problem> {
    let sql = "SELECT name FROM apps WHERE name = ?1 UNION ALL SELECT app FROM deploys WHERE replace(name, '/', '-') = ?1 LIMIT 1";
    let mut q = c.prepare(sql)?;
    let mut rows = q.query_map([label], |r| r.get(0))?;
    Ok(rows.next().transpose()?)
}

/// Whether the names that a server gives a deploy are nobody else's: `shop-staging` may be an app, and a deploy of one. Asked within the
/// transaction that makes the deploy or its app, since both may be made at once.
pub(super) fn is_free(c: &Connection, reserved: Option<&Reserved>, deploy: &DeployRef) -> Result<(), Problem> {
    let label = deploy.host_label();
    if label.len() > MAX_LABEL {
        return Err(Problem::Conflict(format!("{deploy} has too long a name: {label} is no host name; choose another name")));
    }
    // An app has its label from its beginning, and its first deploy later.
    let taken: bool = c.query_row(
        "SELECT EXISTS (SELECT 1 FROM apps WHERE name = ?1 AND name != ?2)
             OR EXISTS (SELECT 1 FROM deploys WHERE name != ?3 AND iif(name = app || '/' || ?4, app, replace(name, '/', '-')) = ?1)",
        params![label, deploy.app.as_str(), deploy.to_string(), PRODUCTION],
        |r| r.get(0),
    )?;
    if taken {
        return Err(Problem::Conflict(format!("{deploy} would have the host name {label}, which is taken; choose another name")));
    }
    for host in reserved.into_iter().flat_map(Reserved::parents).map(|parent| format!("{label}.{parent}")) {
        if reserved.is_some_and(|reserved| reserved.api_host == host) {
            let why = format!("{deploy} would have the host name of this server's API; choose another name");
            return Err(Problem::Conflict(why));
        }
        // It may have been added where no server was asked, or below another `--domain`.
        let sql =
            "SELECT EXISTS (SELECT 1 FROM domains WHERE deploy != ?2 AND (domain = ?1 OR substr(domain, 1, length(?1) + 1) = ?1 || '/'))";
        if c.query_row(sql, params![host, deploy.to_string()], |r| r.get(0))? {
            return Err(Problem::Conflict(format!("{deploy} would have the host name {host}, which leads elsewhere; choose another name")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
