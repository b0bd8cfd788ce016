//! The certificates in the ledger: their keys are sealed, all else is in the open.

use super::{Ledger, LedgerError, Problem};
use crate::config::{Vault, VaultError};
use crate::port::Certificate;
use crate::port::acme::Acme;
use crate::port::certificate::Secret;
use crate::port::certificates::Failure;
use dozen_core::ids::DeployRef;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateSource {
    /// A person gave it.
    File,
    /// An authority gave it when dozen asked.
    Acme,
}

impl CertificateSource {
    /// `file`, `acme`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Acme => "acme",
        }
    }
}

/// A certificate as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRow {
    /// Its number, in all of this home.
    pub id: i64,
    /// Where it comes from.
    pub source: CertificateSource,
    /// Itself.
    pub certificate: Certificate,
    /// By whom.
    pub created_by: String,
}

impl Ledger {
    /// A deploy's certificates, the latest first. One that has expired is among them.
    pub async fn certificates(&self, deploy: &DeployRef) -> Result<Vec<CertificateRow>, LedgerError> {
        let (name, vault, owner) = (deploy.to_string(), self.vault.clone(), deploy.clone());
        let rows: Vec<Result<CertificateRow, VaultError>> = self
            .run("read the certificates", move |c| {
                let mut q =
                    c.prepare("SELECT id, source, chain, sealed_key, created_by FROM certificates WHERE deploy = ?1 ORDER BY id DESC")?;
                let rows = q.query_map([name], |r| {
                    Ok((
                        r.get::<_, i64>(0)?,
                        r.get::<_, String>(1)?,
                        r.get::<_, String>(2)?,
                        r.get::<_, Vec<u8>>(3)?,
                        r.get::<_, String>(4)?,
                    ))
                })?;
                rows.map(|r| {
                    let (id, source, chain, sealed, created_by) = r?;
                    let source = if source == "acme" { CertificateSource::Acme } else { CertificateSource::File };
                    let opened = vault.open_secret(&place(&owner, &chain), &sealed).and_then(|key| String::from_utf8(key.to_vec()).ok());
                    let Some(key) = opened.map(Zeroizing::new) else {
                        return Ok(Err(VaultError::Certificate { deploy: owner.to_string(), id }));
                    };
                    // It was read before it was written; only its end has come nearer since.
                    let certificate = Certificate::read(&chain, &key, Timestamp::MIN);
                    let certificate = certificate.map_err(|e| Problem::Inconsistent(format!("certificate {id}: {e}")))?;
                    Ok(Ok(CertificateRow { id, source, certificate, created_by }))
                })
                .collect()
            })
            .await?;
        Ok(rows.into_iter().collect::<Result<_, _>>()?)
    }
}

impl Ledger {
    /// Whom a deploy asks for the certificates of its domains.
    pub async fn acme(&self, deploy: &DeployRef) -> Result<Option<Acme>, LedgerError> {
        let name = deploy.to_string();
        self.run("read whom certificates are asked of", move |c| {
            let text = c.query_row("SELECT acme FROM deploys WHERE name = ?1", [name], |r| r.get::<_, Option<String>>(0)).optional()?;
            let read = |text: String| serde_json::from_str(&text).map_err(|e| Problem::Inconsistent(format!("deploys.acme: {e}")));
            text.flatten().map(read).transpose()
        })
        .await
    }

    /// The credentials of the account at an authority, if there is one.
    pub(crate) async fn acme_account(&self, directory: &str) -> Result<Option<Zeroizing<Vec<u8>>>, LedgerError> {
        let (asked, vault) = (directory.to_owned(), self.vault.clone());
        let found = self
            .run("read the account", move |c| {
                let sealed = c.query_row("SELECT sealed FROM acme_accounts WHERE directory = ?1", [&asked], |r| r.get::<_, Vec<u8>>(0));
                Ok(sealed.optional()?.map(|sealed| vault.open_secret(&account(&asked), &sealed)))
            })
            .await?;
        match found {
            Some(None) => Err(VaultError::Account { directory: directory.to_owned() }.into()),
            found => Ok(found.flatten()),
        }
    }
}

impl Ledger {
    /// The last orders of a deploy at an authority that came to nothing, by name.
    pub async fn failures(&self, deploy: &DeployRef, directory: &str) -> Result<BTreeMap<String, Failure>, LedgerError> {
        let place = [deploy.to_string(), directory.to_owned()];
        self.run("read which orders came to nothing", move |c| {
            let mut q =
                c.prepare("SELECT host, why, times, too_often, again_at FROM acme_failures WHERE deploy = ?1 AND directory = ?2")?;
            let rows = q.query_map(place, |r| {
                Ok((
                    r.get(0)?,
                    r.get::<_, String>(4)?,
                    Failure { why: r.get(1)?, times: r.get(2)?, too_often: r.get(3)?, again: Timestamp::MIN },
                ))
            })?;
            let read = |row: rusqlite::Result<(String, String, Failure)>| {
                let (host, again, failure) = row?;
                let again = again.parse().map_err(|e| Problem::Inconsistent(format!("acme_failures.again_at: {e}")))?;
                Ok((host, Failure { again, ..failure }))
            };
            rows.map(read).collect()
        })
        .await
    }
}

/// What nobody waits for any more goes: a name that does not lead here, and might be ordered again by now.
pub(super) fn write_failure(
    c: &Connection,
    deploy: &DeployRef,
    directory: &str,
    host: &str,
    failure: &Failure,
    now: &str,
) -> Result<u32, Problem> {
    let name = deploy.to_string();
    let Failure { why, times, too_often, again } = failure;
    c.execute(
        "DELETE FROM acme_failures WHERE deploy = ?1 AND datetime(again_at) < datetime(?2)
         AND host NOT IN (SELECT CASE instr(domain, '/') WHEN 0 THEN domain ELSE substr(domain, 1, instr(domain, '/') - 1) END
                          FROM domains WHERE deploy = ?1)",
        params![name, now],
    )?;
    c.execute(
        "INSERT OR REPLACE INTO acme_failures (deploy, directory, host, why, times, too_often, again_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![name, directory, host, why, times, too_often, again.to_string()],
    )?;
    Ok(0)
}

pub(super) fn automate(c: &Connection, deploy: &DeployRef, acme: Option<&Acme>) -> Result<u32, Problem> {
    let text = acme.map(|acme| serde_json::to_string(acme).expect("it is JSON"));
    c.execute("UPDATE deploys SET acme = ?2 WHERE name = ?1", params![deploy.to_string(), text])?;
    Ok(0)
}

pub(super) fn keep_account(c: &Connection, vault: &Vault, directory: &str, credentials: &Secret, now: &str) -> Result<u32, Problem> {
    let sealed = vault.seal_secret(&account(directory), credentials.expose().as_bytes());
    let sql = "INSERT INTO acme_accounts (directory, sealed, created_at) VALUES (?1, ?2, ?3)
               ON CONFLICT (directory) DO UPDATE SET sealed = ?2, created_at = ?3";
    c.execute(sql, params![directory, sealed, now])?;
    Ok(0)
}

fn account(directory: &str) -> String {
    format!("dozen acme account {directory}")
}

/// One that is for the same names and comes from the same place is replaced.
pub(super) fn write(
    c: &Connection,
    vault: &Vault,
    deploy: &DeployRef,
    certificate: &Certificate,
    source: CertificateSource,
    (now, who): (&str, &str),
) -> Result<u32, Problem> {
    let Certificate { names, chain, key, not_after, .. } = certificate;
    let names = serde_json::to_string(names).expect("strings are JSON");
    let (name, source) = (deploy.to_string(), source.as_str());
    c.execute("DELETE FROM certificates WHERE deploy = ?1 AND names = ?2 AND source = ?3", params![name, names, source])?;
    let sealed = vault.seal_secret(&place(deploy, chain), key.expose().as_bytes());
    c.execute(
        "INSERT INTO certificates (deploy, names, source, chain, sealed_key, not_after, created_at, created_by)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![name, names, source, chain, sealed, not_after.to_string(), now, who],
    )?;
    let id = u32::try_from(c.last_insert_rowid()).map_err(|_| Problem::Inconsistent("certificate ids ran out".into()))?;
    c.execute("DELETE FROM acme_failures WHERE deploy = ?1 AND host IN (SELECT value FROM json_each(?2))", params![name, names])?;
    Ok(id)
}

pub(super) fn remove(c: &Connection, deploy: &DeployRef, id: i64) -> Result<u32, Problem> {
    match c.execute("DELETE FROM certificates WHERE id = ?1 AND deploy = ?2", params![id, deploy.to_string()])? {
        0 => Err(Problem::NotFound(format!("{deploy} has no certificate {id}; `dozen certs` lists those that it has"))),
        _ => Ok(0),
    }
}

/// A key opens for its own chain and deploy only.
fn place(deploy: &DeployRef, chain: &str) -> String {
    format!("dozen certificate {deploy} {}", blake3::hash(chain.as_bytes()))
}
