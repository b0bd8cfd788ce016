//! The keys by which people are known over SSH.
//!
//! **Invariant:** a key is one user's. That it was shown is sshd's word; whose it is, and whether it still is, is said here each time.

use super::people::{USED, is_user, until, user};
use super::read::parse;
use super::{Ledger, LedgerError, Principal, Problem};
use crate::codebase::ssh::Key;
use dozen_core::admin::brief;
use dozen_core::admin::people::UserName;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

/// Nobody works at more machines; sshd reads all keys of all users whenever one comes.
const MOST: u32 = 50;

/// A key as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Whose.
    pub user: UserName,
    /// Itself, with what its owner calls it.
    pub key: Key,
    /// Since when.
    pub created: Timestamp,
    /// By whom.
    pub created_by: String,
    /// Until when.
    pub expires: Option<Timestamp>,
    /// When it was last shown, to a minute.
    pub used: Option<Timestamp>,
    /// From where.
    pub used_from: Option<String>,
}

impl Ledger {
    /// All keys, or those of a user.
    pub async fn ssh_keys(&self, of: Option<&UserName>) -> Result<Vec<KeyRow>, LedgerError> {
        let of = of.map(ToString::to_string);
        self.run("read the SSH keys", move |c| {
            let sql = "SELECT user, fingerprint, key, label, created_by, used_from, created_at, expires_at, used_at FROM ssh_keys
                       WHERE ?1 IS NULL OR user = ?1 ORDER BY user, created_at, fingerprint";
            let mut q = c.prepare(sql)?;
            let rows = q.query_map([of], |r| {
                let key = Key { fingerprint: r.get(1)?, text: r.get(2)?, comment: r.get(3)? };
                let times: [Option<String>; 3] = [r.get(6)?, r.get(7)?, r.get(8)?];
                Ok((r.get::<_, String>(0)?, key, r.get(4)?, r.get(5)?, times))
            })?;
            rows.map(|row| {
                let (user, key, created_by, used_from, times) = row?;
                let [created, expires, used] = times.map(|text| text.as_deref().map(parse::<Timestamp>).transpose());
                let created = created?.ok_or_else(|| Problem::Inconsistent(format!("the key {} was never added", key.fingerprint)))?;
                Ok(KeyRow { user: parse(&user)?, key, created, created_by, expires: expires?, used: used?, used_from })
            })
            .collect()
        })
        .await
    }

    /// Whose key this is, shown from there; `None` where it is nobody's, or no longer. Notes that it was used.
    pub async fn who_holds(&self, fingerprint: &str, from: Option<&str>, now: Timestamp) -> Result<Option<Principal>, LedgerError> {
        let (fingerprint, from) = (fingerprint.to_owned(), from.map(brief));
        self.run("look for an SSH key", move |c| {
            let sql = "SELECT k.user, k.expires_at, k.used_at FROM ssh_keys k JOIN users u ON u.name = k.user
                       WHERE k.fingerprint = ?1 AND u.removed_at IS NULL";
            let found = c.query_row(sql, [&fingerprint], |r| Ok((r.get::<_, String>(0)?, r.get(1)?, r.get(2)?))).optional()?;
            let Some((name, expires, used)) = found else { return Ok(None) };
            let time = |text: Option<String>| text.as_deref().map(parse::<Timestamp>).transpose();
            if time(expires)?.is_some_and(|at| at <= now) {
                return Ok(None);
            }
            if time(used)?.is_none_or(|at| now.duration_since(at).abs() >= USED) {
                // A disk that is full keeps nobody out who could make room.
                let sql = "UPDATE ssh_keys SET used_at = ?2, used_from = ?3 WHERE fingerprint = ?1";
                let _ = c.execute(sql, params![fingerprint, now.to_string(), from]);
            }
            Ok(Some(Principal::user(user(c, &name)?, None, from)))
        })
        .await
    }
}

/// A key that a token adds which expires is good for as long as that token.
pub(super) fn add(c: &Connection, who: &Principal, user: &UserName, key: &Key, now: Timestamp) -> Result<(), Problem> {
    is_user(c, user)?;
    let owner = |c: &Connection| {
        c.query_row("SELECT user FROM ssh_keys WHERE fingerprint = ?1", [&key.fingerprint], |r| r.get::<_, String>(0)).optional()
    };
    match owner(c)? {
        Some(owner) if owner == user.as_str() => return Err(Problem::Conflict(format!("{user} has this key already"))),
        // Whose it is is nobody else's business.
        Some(_) => return Err(Problem::Conflict("this key is another user's; a key is one user's alone".into())),
        None => {}
    }
    let count: u32 = c.query_row("SELECT count(*) FROM ssh_keys WHERE user = ?1", [user.as_str()], |r| r.get(0))?;
    if count >= MOST {
        return Err(Problem::Conflict(format!("{user} has {MOST} keys already; remove one first")));
    }
    let expires = until(c, who, user)?.map(|at| at.to_string());
    c.execute(
        "INSERT INTO ssh_keys (fingerprint, user, key, label, created_at, created_by, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![key.fingerprint, user.as_str(), key.text, brief(&key.comment), now.to_string(), who.name, expires],
    )?;
    Ok(())
}

pub(super) fn remove(c: &Connection, user: &UserName, fingerprint: &str) -> Result<(), Problem> {
    match c.execute("DELETE FROM ssh_keys WHERE user = ?1 AND fingerprint = ?2", [user.as_str(), fingerprint])? {
        0 => Err(Problem::NotFound(format!("{user} has no key {fingerprint}"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::people::tests::{Team, at, name};
    use super::*;
    use crate::ledger::Intent;

    /// One of many.
    pub(in crate::ledger) fn key(n: u8) -> Key {
        Key { fingerprint: format!("SHA256:{n}"), text: format!("ssh-ed25519 AAAA{n}"), comment: "laptop".into() }
    }

    #[tokio::test]
    async fn a_key_is_one_users_until_it_is_removed_or_they_are() {
        let team = Team::new().await;
        let (ada, bob) = (team.user("ada", false, &[]).await, team.user("bob", false, &[]).await);
        let add = |who: &Principal, user: &str, n: u8| {
            let (ledger, who, intent) = (team.ledger.clone(), who.clone(), Intent::AddKey { user: name(user), key: Box::new(key(n)) });
            async move { ledger.commit(&who, intent).await }
        };
        let holds = async |n: u8| team.ledger.who_holds(&key(n).fingerprint, Some("192.0.2.7"), at(0)).await.expect("looked for");
        add(&ada, "ada", 1).await.expect("added");
        assert!(add(&bob, "ada", 2).await.is_err(), "another's");
        let taken = add(&bob, "bob", 1).await.expect_err("ada's").to_string();
        assert!(!taken.contains("ada"), "{taken}");
        let who = holds(1).await.expect("ada");
        assert_eq!((who.name.as_str(), who.proven, who.from.as_deref()), ("ada", true, Some("192.0.2.7")));
        assert!(holds(2).await.is_none());
        let rows = team.ledger.ssh_keys(None).await.expect("read");
        assert_eq!((rows.len(), rows[0].used_from.as_deref(), rows[0].key == key(1)), (1, Some("192.0.2.7"), true));
        let remove = |user: &str, n: u8| Intent::RemoveKey { user: name(user), fingerprint: key(n).fingerprint };
        assert!(team.ledger.commit(&bob, remove("bob", 1)).await.is_err());
        team.ledger.commit(&ada, remove("ada", 1)).await.expect("removed");
        assert!(holds(1).await.is_none());
        // It is free, and goes with who has it.
        add(&bob, "bob", 1).await.expect("added");
        team.commit(Intent::RemoveUser { user: name("bob") }).await;
        assert!(holds(1).await.is_none());
        let events = team.ledger.events(crate::ledger::EventFilter::default()).await.expect("read");
        let told = events.iter().filter(|e| e.what == "add an SSH key" && e.detail == "SHA256:1 of ada").count();
        assert_eq!(told, 1);
    }

    #[tokio::test]
    async fn a_key_outlives_neither_the_token_that_added_it_nor_a_limit() {
        let team = Team::new().await;
        team.user("ada", false, &[]).await;
        let issued = team.ledger.issue_token(&team.host, &name("ada"), "day", Some(at(3600))).await.expect("issued");
        let brief = team.shows(&issued.text, 0).await.expect("good");
        team.ledger.commit(&brief, Intent::AddKey { user: name("ada"), key: Box::new(key(0)) }).await.expect("added");
        let holds = async |n: u8, seconds| team.ledger.who_holds(&key(n).fingerprint, None, at(seconds)).await.expect("looked for");
        assert!(holds(0, 0).await.is_some() && holds(0, 3601).await.is_none());
        for n in 1..MOST {
            let key = Box::new(key(u8::try_from(n).expect("few")));
            team.commit(Intent::AddKey { user: name("ada"), key }).await;
        }
        let more = Intent::AddKey { user: name("ada"), key: Box::new(key(200)) };
        assert!(team.ledger.commit(&team.host, more).await.expect_err("too many").to_string().contains("50 keys"));
    }
}
