//! Users, what was granted to them, and the tokens that they show.
//!
//! **Invariant:** a token's text is told once, to whom it is issued, and kept nowhere; what is kept of it does not tell it.

use super::read::parse;
use super::{Identity, Intent, Ledger, LedgerError, Principal, Problem};
use dozen_core::admin::brief;
use dozen_core::admin::people::{Need, Role, User, UserName};
use dozen_core::ids::AppName;
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

/// What every token begins with, so that whoever looks for secrets in what was published knows one.
const PREFIX: &str = "dozen_";
/// The hexadecimal digits after that: 256 bits.
const DIGITS: usize = 64;
/// The last use is noted so exactly, so that not each request is a write.
pub(super) const USED: SignedDuration = SignedDuration::from_mins(1);
/// Who the first token is for.
const FIRST: &str = "admin";

/// A token's text. Never shown but by whoever asks for it.
pub struct TokenText(Zeroizing<String>);

impl TokenText {
    fn make() -> Self {
        let secret: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
        Self(Zeroizing::new(format!("{PREFIX}{}", blake3::Hash::from_bytes(*secret).to_hex())))
    }

    /// For whom it was issued to.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText(…)")
    }
}

/// A new token.
#[derive(Debug)]
pub struct Issued {
    /// Whose.
    pub user: UserName,
    /// Its number.
    pub id: u32,
    /// What they show.
    pub text: TokenText,
}

/// A user as the ledger has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// Their name.
    pub name: UserName,
    /// Whether they look after the platform.
    pub admin: bool,
    /// Since when.
    pub created: Timestamp,
    /// By whom.
    pub created_by: String,
}

/// What the ledger has of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its number.
    pub id: u32,
    /// What it is for.
    pub label: String,
    /// Since when.
    pub created: Timestamp,
    /// By whom.
    pub created_by: String,
    /// Until when.
    pub expires: Option<Timestamp>,
    /// When it was taken back.
    pub revoked: Option<Timestamp>,
    /// When it was last shown, to a minute.
    pub used: Option<Timestamp>,
    /// From where.
    pub used_from: Option<String>,
}

impl Ledger {
    /// Whose token this is, shown from there; `None` where it is nobody's, or no longer. Notes that it was used.
    pub async fn who_shows(&self, text: &str, from: Option<&str>, now: Timestamp) -> Result<Option<Principal>, LedgerError> {
        let digits = text.strip_prefix(PREFIX).filter(|digits| digits.len() == DIGITS);
        if digits.is_none() {
            return Ok(None);
        }
        // It is looked for by its hash: how long that takes tells nothing of a text that is near to it.
        let hash = *blake3::hash(text.as_bytes()).as_bytes();
        let from = from.map(brief);
        self.run("look for a token", move |c| {
            let sql = "SELECT t.id, t.user, t.expires_at, t.used_at FROM tokens t JOIN users u ON u.name = t.user
                       WHERE t.hash = ?1 AND t.revoked_at IS NULL AND u.removed_at IS NULL";
            let time = |text: Option<String>| text.as_deref().map(parse::<Timestamp>).transpose();
            let found = c.query_row(sql, [hash], |r| Ok((r.get::<_, u32>(0)?, r.get::<_, String>(1)?, r.get(2)?, r.get(3)?)));
            let Some((id, name, expires, used)) = found.optional()? else { return Ok(None) };
            if time(expires)?.is_some_and(|at| at <= now) {
                return Ok(None);
            }
            let user = user(c, &name)?;
            if time(used)?.is_none_or(|at| now.duration_since(at).abs() >= USED) {
                // A disk that is full keeps nobody out who could make room.
                let _ = c.execute("UPDATE tokens SET used_at = ?2, used_from = ?3 WHERE id = ?1", params![id, now.to_string(), from]);
            }
            Ok(Some(Principal::user(user, Some(id), from)))
        })
        .await
    }

    /// A new token for a user. One that is issued to oneself by a token that expires expires with that one at the latest.
    ///
    /// # Errors
    /// Whoever asks may not, or there is no such user.
    pub async fn issue_token(
        &self,
        who: &Principal,
        user: &UserName,
        label: &str,
        expires: Option<Timestamp>,
    ) -> Result<Issued, LedgerError> {
        let text = TokenText::make();
        let hash = *blake3::hash(text.expose().as_bytes()).as_bytes();
        let id = self.commit(who, Intent::IssueToken { user: user.clone(), label: brief(label), hash, expires }).await?.number;
        Ok(Issued { user: user.clone(), id, text })
    }

    /// The first user, an admin, and a token for them; `None` where there are users already, or were.
    ///
    /// # Errors
    /// Whoever asks is not the owner of the home.
    pub async fn first_token(&self, who: &Principal) -> Result<Option<Issued>, LedgerError> {
        self.authorise(who, "make the first token", Need::Host)?;
        let known = self.run("read the users", |c| Ok(c.query_row("SELECT EXISTS (SELECT 1 FROM users)", [], |r| r.get(0))?)).await?;
        if known {
            return Ok(None);
        }
        let text = TokenText::make();
        let hash = *blake3::hash(text.expose().as_bytes()).as_bytes();
        let id = self.commit(who, Intent::FirstToken { hash }).await?.number;
        Ok(Some(Issued { user: FIRST.parse().expect("it is a user's name"), id, text }))
    }

    /// All users.
    pub async fn users(&self) -> Result<Vec<UserRow>, LedgerError> {
        self.run("read the users", |c| {
            let mut q = c.prepare("SELECT name, admin, created_at, created_by FROM users WHERE removed_at IS NULL ORDER BY name")?;
            let rows = q.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get(1)?, r.get::<_, String>(2)?, r.get(3)?)))?;
            rows.map(|row| {
                let (name, admin, created, created_by) = row?;
                Ok(UserRow { name: parse(&name)?, admin, created: parse(&created)?, created_by })
            })
            .collect()
        })
        .await
    }

    /// A user's tokens, also those that are no longer good.
    pub async fn tokens(&self, user: &UserName) -> Result<Vec<TokenRow>, LedgerError> {
        let user = user.to_string();
        self.run("read the tokens", move |c| {
            let sql = "SELECT id, label, created_by, used_from, created_at, expires_at, revoked_at, used_at FROM tokens WHERE user = ?1 ORDER BY id";
            let mut q = c.prepare(sql)?;
            let rows = q.query_map([user], |r| {
                let times: [Option<String>; 4] = [r.get(4)?, r.get(5)?, r.get(6)?, r.get(7)?];
                Ok(((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?), times))
            })?;
            rows.map(|row| {
                let ((id, label, created_by, used_from), times) = row?;
                let [created, expires, revoked, used] = times.map(|text| text.as_deref().map(parse::<Timestamp>).transpose());
                let created = created?.ok_or_else(|| Problem::Inconsistent(format!("token {id} was never made")))?;
                Ok(TokenRow { id, label, created, created_by, expires: expires?, revoked: revoked?, used: used?, used_from })
            })
            .collect()
        })
        .await
    }

    /// Who was granted what in an app.
    pub async fn grants(&self, app: &AppName) -> Result<Vec<(UserName, Role)>, LedgerError> {
        let app = app.to_string();
        self.run("read the grants", move |c| {
            let mut q = c.prepare("SELECT user, role FROM grants WHERE app = ?1 ORDER BY user")?;
            let rows = q.query_map([app], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
            rows.map(|row| row.map_err(Problem::from).and_then(|(user, role)| Ok((parse(&user)?, parse(&role)?)))).collect()
        })
        .await
    }
}

/// A user with what was granted to them.
pub(super) fn user(c: &Connection, name: &str) -> Result<User, Problem> {
    let admin = c.query_row("SELECT admin FROM users WHERE name = ?1", [name], |r| r.get(0))?;
    let mut q = c.prepare("SELECT app, role FROM grants WHERE user = ?1")?;
    let rows = q.query_map([name], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
    let grants = rows.map(|row| row.map_err(Problem::from).and_then(|(app, role)| Ok((parse(&app)?, parse(&role)?))));
    Ok(User { name: parse(name)?, admin, grants: grants.collect::<Result<BTreeMap<_, _>, Problem>>()? })
}

pub(super) fn add(c: &Connection, user: &UserName, admin: bool, (now, by): (&str, &str)) -> Result<(), Problem> {
    c.execute(
        "INSERT INTO users (name, admin, created_at, created_by) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (name) DO UPDATE SET admin = ?2, removed_at = NULL",
        params![user.as_str(), admin, now, by],
    )?;
    Ok(())
}

pub(super) fn remove(c: &Connection, user: &UserName, now: &str) -> Result<(), Problem> {
    is_user(c, user)?;
    let name = user.as_str();
    c.execute("UPDATE tokens SET revoked_at = ?2 WHERE user = ?1 AND revoked_at IS NULL", [name, now])?;
    c.execute("DELETE FROM grants WHERE user = ?1", [name])?;
    c.execute("DELETE FROM ssh_keys WHERE user = ?1", [name])?;
    c.execute("UPDATE users SET removed_at = ?2, admin = 0 WHERE name = ?1", [name, now])?;
    Ok(())
}

pub(super) fn grant(c: &Connection, user: &UserName, app: &AppName, role: Role) -> Result<(), Problem> {
    is_user(c, user)?;
    if !super::apps::is_app(c, app)? {
        return Err(Problem::NotFound(format!("there is no app {app}")));
    }
    c.execute(
        "INSERT INTO grants (user, app, role) VALUES (?1, ?2, ?3) ON CONFLICT (user, app) DO UPDATE SET role = ?3",
        [user.as_str(), app.as_str(), role.as_str()],
    )?;
    Ok(())
}

pub(super) fn ungrant(c: &Connection, user: &UserName, app: &AppName) -> Result<(), Problem> {
    match c.execute("DELETE FROM grants WHERE user = ?1 AND app = ?2", [user.as_str(), app.as_str()])? {
        0 => Err(Problem::NotFound(format!("{user} has no role in {app}"))),
        _ => Ok(()),
    }
}

/// What a new token is to be.
pub(super) struct Wanted<'a> {
    pub(super) user: &'a UserName,
    pub(super) label: &'a str,
    pub(super) hash: [u8; 32],
    pub(super) expires: Option<Timestamp>,
}

pub(super) fn issue(c: &Connection, who: &Principal, wanted: &Wanted<'_>, now: Timestamp) -> Result<u32, Problem> {
    let Wanted { user, label, hash, expires } = wanted;
    is_user(c, user)?;
    if expires.is_some_and(|at| at <= now) {
        return Err(Problem::Conflict("a token cannot expire before it is issued".into()));
    }
    // Else whoever finds one that is good for a day would have one that is good for ever.
    if let Some(until) = until(c, who, user)?
        && expires.is_none_or(|at| at > until)
    {
        return Err(Problem::Conflict(format!("the token that was shown expires at {until:.0}, and one that it issues not later")));
    }
    c.execute(
        "INSERT INTO tokens (user, label, hash, created_at, created_by, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![user.as_str(), label, hash, now.to_string(), who.name, expires.map(|at| at.to_string())],
    )?;
    u32::try_from(c.last_insert_rowid()).map_err(|_| Problem::Inconsistent("token ids ran out".into()))
}

/// Until when somebody is known who has shown a token of their own that expires.
pub(super) fn until(c: &Connection, who: &Principal, user: &UserName) -> Result<Option<Timestamp>, Problem> {
    let Identity::User { user: asking, token: Some(id) } = &who.identity else { return Ok(None) };
    if asking.name != *user {
        return Ok(None);
    }
    let own = c.query_row("SELECT expires_at FROM tokens WHERE id = ?1", [id], |r| r.get::<_, Option<String>>(0)).optional()?;
    own.flatten().as_deref().map(parse).transpose()
}

pub(super) fn first(c: &Connection, who: &Principal, hash: [u8; 32], now: Timestamp) -> Result<u32, Problem> {
    if c.query_row("SELECT EXISTS (SELECT 1 FROM users)", [], |r| r.get(0))? {
        return Err(Problem::Conflict("there are users already".into()));
    }
    let admin: UserName = FIRST.parse().expect("it is a user's name");
    add(c, &admin, true, (&now.to_string(), &who.name))?;
    issue(c, who, &Wanted { user: &admin, label: "first", hash, expires: None }, now)
}

pub(super) fn revoke(c: &Connection, user: &UserName, id: u32, now: &str) -> Result<(), Problem> {
    let sql = "UPDATE tokens SET revoked_at = ?3 WHERE id = ?1 AND user = ?2 AND revoked_at IS NULL";
    match c.execute(sql, params![id, user.as_str(), now])? {
        0 => Err(Problem::NotFound(format!("{user} has no token {id} that is good"))),
        _ => Ok(()),
    }
}

pub(super) fn is_user(c: &Connection, user: &UserName) -> Result<(), Problem> {
    let sql = "SELECT EXISTS (SELECT 1 FROM users WHERE name = ?1 AND removed_at IS NULL)";
    if c.query_row(sql, [user.as_str()], |r| r.get(0))? { Ok(()) } else { Err(Problem::NotFound(format!("there is no user {user}"))) }
}

#[cfg(test)]
pub(super) mod tests;
