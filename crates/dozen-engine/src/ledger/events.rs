//! What was done, by whom, from where, with which result: one line for each commit and for what was refused.
//!
//! **Invariant:** a line is never changed and never deleted, and holds no secret. What strangers are refused is bounded.

use super::read::parse;
use super::{BuildChange, Intent, Ledger, LedgerError, Principal, Problem};
use crate::config::Vault;
use dozen_core::admin::brief;
use dozen_core::config::Config;
use dozen_core::ids::{AppName, DeployRef};
use dozen_core::release::Status;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;
use std::fmt::Display;

/// The longest detail, in characters.
const LONGEST: usize = 400;

/// What came of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventResult {
    /// It was done.
    Done,
    /// It was noted that something failed.
    Failed,
    /// Whoever asked may not.
    Refused,
}

impl EventResult {
    /// The word that the ledger and listings use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Done, Self::Failed, Self::Refused].into_iter().find(|result| result.as_str() == word)
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Counts up.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// Who, as they were called then.
    pub who: String,
    /// `local`, or an address.
    pub from: Option<String>,
    /// To which deploy; it may be no more.
    pub deploy: Option<DeployRef>,
    /// To which app; it may be no more.
    pub app: Option<AppName>,
    /// `scale`
    pub what: String,
    /// `web=2`
    pub detail: String,
    /// What came of it.
    pub result: EventResult,
}

/// Which lines are wanted; the default is all.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Of this app.
    pub app: Option<AppName>,
    /// Of this deploy.
    pub deploy: Option<DeployRef>,
    /// By whom.
    pub who: Option<String>,
    /// From then on.
    pub since: Option<Timestamp>,
    /// Not more than so many, the latest.
    pub limit: Option<u32>,
}

impl Ledger {
    /// What was done, the latest first. Whoever asks for an app's has to be shown to see that app, and for all others to be an admin: a line
    /// has the names of apps and people.
    pub async fn events(&self, filter: EventFilter) -> Result<Vec<EventRow>, LedgerError> {
        let EventFilter { app, deploy, who, since, limit } = filter;
        self.run("read the events", move |c| {
            let mut q = c.prepare(
                "SELECT id, at, who, from_where, deploy, app, what, detail, result FROM events
                 WHERE (?1 IS NULL OR app = ?1) AND (?2 IS NULL OR deploy = ?2) AND (?3 IS NULL OR who = ?3) AND (?4 IS NULL OR at >= ?4)
                 ORDER BY id DESC LIMIT ?5",
            )?;
            let (app, deploy) = (app.map(|app| app.to_string()), deploy.map(|deploy| deploy.to_string()));
            let wanted = params![app, deploy, who, since.map(stamp), limit.map_or(-1, i64::from)];
            let rows = q.query_map(wanted, |r| {
                let (at, deploy, app, result): (String, Option<String>, Option<String>, String) =
                    (r.get(1)?, r.get(4)?, r.get(5)?, r.get(8)?);
                Ok(((r.get(0)?, r.get(2)?, r.get(3)?, r.get(6)?, r.get(7)?), at, deploy, app, result))
            })?;
            rows.map(|row| {
                let ((id, who, from, what, detail), at, deploy, app, result) = row?;
                Ok(EventRow {
                    id,
                    at: parse(&at)?,
                    who,
                    from,
                    deploy: deploy.as_deref().map(parse).transpose()?,
                    app: app.as_deref().map(parse).transpose()?,
                    what,
                    detail,
                    result: EventResult::parse(&result).ok_or_else(|| Problem::Inconsistent(format!("result {result:?} of event {id}")))?,
                })
            })
            .collect()
        })
        .await
    }

    /// Whoever is refused is told at once; that it is written is not waited for.
    pub(super) fn note_refusal(&self, who: &Principal, what: &'static str, app: Option<&AppName>, deploy: Option<&DeployRef>) {
        let now = Timestamp::now();
        let noted = self.refusals.lock().unwrap_or_else(std::sync::PoisonError::into_inner).note(&who.name, now);
        let detail = match noted {
            Noted::No => return,
            Noted::Yes => "",
            Noted::Last => "what else is refused now is not written down",
        };
        let (app, deploy) = (app.cloned(), deploy.cloned());
        let event = Event { app, deploy, what, detail: detail.to_owned(), result: EventResult::Refused };
        let who = who.clone();
        // A ledger that has stopped or cannot be written refuses all the same.
        let _ = self.work.send(Box::new(move |c| {
            let _ = event.record(c, &who, now);
        }));
    }
}

/// What is to be written of an act.
pub(super) struct Event {
    app: Option<AppName>,
    deploy: Option<DeployRef>,
    what: &'static str,
    detail: String,
    result: EventResult,
}

impl Event {
    /// Of an intent, before it is written: what changes is seen from what there was.
    pub(super) fn of(c: &Connection, vault: &Vault, intent: &Intent) -> Result<Self, Problem> {
        let detail = match intent {
            Intent::Configure { deploy, config } => changes(c, vault, deploy, config)?.unwrap_or_else(|| intent.detail()),
            Intent::DestroyDeploy { deploy } => left(c, deploy)?,
            _ => intent.detail(),
        };
        let result = match intent {
            Intent::Conclude { status: Status::Failed, .. } | Intent::Unobtained { .. } => EventResult::Failed,
            Intent::Tested { passed: false, .. } => EventResult::Failed,
            Intent::Build { change: BuildChange::Failed(..), .. } => EventResult::Failed,
            Intent::Ran { exit_code, .. } if *exit_code != 0 => EventResult::Failed,
            _ => EventResult::Done,
        };
        Ok(Self { app: intent.app().cloned(), deploy: intent.deploy().cloned(), what: intent.what(), detail, result })
    }

    /// What was made has a number only now.
    pub(super) fn numbered(mut self, kind: Option<&str>, number: u32) -> Self {
        if let Some(kind) = kind {
            let blank = if self.detail.is_empty() { "" } else { " " };
            self.detail = format!("{kind}{number}{blank}{}", self.detail);
        }
        self
    }

    pub(super) fn record(&self, c: &Connection, who: &Principal, now: Timestamp) -> Result<(), Problem> {
        let Self { app, deploy, what, detail, result } = self;
        c.execute(
            "INSERT INTO events (at, who, from_where, deploy, app, what, detail, result) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                stamp(now),
                who.name,
                who.from,
                deploy.as_ref().map(ToString::to_string),
                app.as_ref().map(AppName::as_str),
                what,
                short(detail),
                result.as_str()
            ],
        )?;
        Ok(())
    }
}

/// Of one length, so that text compares as time does.
fn stamp(at: Timestamp) -> String {
    format!("{at:.6}")
}

/// One line, and not a long one.
fn short(detail: &str) -> String {
    let line: String = detail.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    if detail.chars().nth(LONGEST).is_some() { format!("{line} …") } else { line }
}

/// The names of the variables that become others. `None` where what there was does not open.
fn changes(c: &Connection, vault: &Vault, deploy: &DeployRef, config: &Config) -> Result<Option<String>, Problem> {
    let sql = "SELECT version, sealed FROM configs WHERE deploy = ?1 ORDER BY version DESC LIMIT 1";
    let last = c.query_row(sql, [deploy.to_string()], |r| Ok((r.get::<_, u32>(0)?, r.get::<_, Vec<u8>>(1)?))).optional()?;
    let before = match last {
        None => Config::default(),
        Some((version, sealed)) => match vault.unseal(deploy, version, &sealed) {
            Ok(config) => config,
            Err(_) => return Ok(None),
        },
    };
    Ok(Some(before.changes(config).describe()))
}

/// What goes with a deploy. Its releases have lines of their own.
fn left(c: &Connection, deploy: &DeployRef) -> Result<String, Problem> {
    let name = deploy.to_string();
    let (releases, current): (u32, Option<u32>) = c.query_row(
        "SELECT (SELECT count(*) FROM releases WHERE deploy = ?1), (SELECT current_release FROM deploys WHERE name = ?1)",
        [&name],
        |r| Ok((r.get(0)?, r.get(1)?)),
    )?;
    let mut q = c.prepare("SELECT domain FROM domains WHERE deploy = ?1 ORDER BY domain")?;
    let domains = q.query_map([&name], |r| r.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    let current = current.map_or_else(String::new, |v| format!(", v{v} was current"));
    let freed = if domains.is_empty() { String::new() } else { format!(", freed {}", domains.join(", ")) };
    Ok(format!("{releases} releases{current}{freed}"))
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

impl Intent {
    /// A few words on it, for people, without any secret.
    pub fn detail(&self) -> String {
        match self {
            Self::Adopt { folder, .. } => folder.as_ref().map_or_else(String::new, |folder| format!("from {}", folder.display())),
            Self::Recover { running, .. } => list(running.iter().map(|n| format!("run.{n} goes on"))),
            Self::Build { change, .. } => change.detail(),
            Self::Require { gates, .. } if gates.is_empty() => "none".to_owned(),
            Self::Require { gates, .. } => list(gates),
            Self::Tested { slug, passed, .. } => format!("slug {} {}", slug.short(), if *passed { "passed" } else { "failed" }),
            Self::Configure { config, .. } => list(config.vars.keys()),
            Self::Attach { name, kind, .. } => format!("{name} {}", kind.as_str()),
            Self::Release { slug, description, .. } => format!("{} ({})", brief(description), slug.id.short()),
            Self::Conclude { version, status, .. } => format!("{version} {}", status.as_str()),
            Self::CameUp { version, .. } => version.to_string(),
            Self::Keep { port, .. } => port.map_or_else(|| "no longer".to_owned(), |port| format!("port {port}")),
            Self::Lead { domains, .. } | Self::Unlead { domains, .. } => list(domains),
            Self::Treat { manners, paused_until, .. } => {
                let until = paused_until.map(|at| format!("paused until {at:.0}"));
                let hsts = manners.hsts.map(|d| format!("hsts {} s", d.as_secs()));
                let trusted = (!manners.trusted.is_empty()).then(|| format!("trusted {}", list(&manners.trusted)));
                let word = |is: bool, word: &str| is.then(|| word.to_owned());
                let paused = word(manners.paused && until.is_none(), "paused");
                let words =
                    [word(manners.maintenance, "maintenance"), paused, until, word(manners.https_only, "https only"), hsts, trusted];
                list(words.into_iter().flatten())
            }
            Self::Certify { certificate, .. } => list(&certificate.names),
            Self::Uncertify { id, .. } => id.to_string(),
            Self::Automate { acme, .. } => acme.as_ref().map_or_else(|| "of nobody".to_owned(), |acme| host(&acme.directory)),
            Self::Account { directory, .. } => host(directory),
            Self::Unobtained { host: name, directory, .. } => format!("{name} of {}", host(directory)),
            Self::Split { shares, abort_above, why, .. } => {
                let parts = shares.iter().map(|(v, part)| format!("{v}={part}")).collect::<Vec<_>>().join(" ");
                let parts = if parts.is_empty() { "off".to_owned() } else { parts };
                list([Some(parts), abort_above.map(|above| format!("abort above {above}")), why.clone()].into_iter().flatten())
            }
            Self::Scale { formation, .. } => formation.to_string(),
            Self::Stop { types, .. } => {
                if types.is_empty() {
                    "none".to_owned()
                } else {
                    list(types)
                }
            }
            Self::Run { command, .. } => brief(command),
            Self::Ran { number, exit_code, .. } => format!("run.{number} exit {exit_code}"),
            Self::CreateDeploy { like, expires, branch, .. } => {
                let like = like.as_ref().map(|like| format!("like {like}"));
                let branch = branch.as_ref().map(|branch| format!("for {}", brief(branch)));
                list([like, branch, expires.map(|at| format!("until {at:.0}"))].into_iter().flatten())
            }
            Self::CreateApp { .. } | Self::DestroyApp { .. } | Self::DestroyDeploy { .. } | Self::FirstToken { .. } => String::new(),
            Self::Grant { user, role, .. } => format!("{user} {role}"),
            Self::Ungrant { user, .. } | Self::RemoveUser { user } => user.to_string(),
            Self::AddUser { user, admin } => format!("{user}{}", if *admin { " admin" } else { "" }),
            Self::IssueToken { user, label, expires, .. } => {
                let until = expires.map_or_else(String::new, |at| format!(" until {at:.0}"));
                format!("of {user}: {}{until}", brief(label))
            }
            Self::RevokeToken { user, id } => format!("{id} of {user}"),
            Self::Restore { from, of, .. } => format!("of {of:.0} from {}", from.display()),
            Self::AddKey { user, key } => format!("{} of {user}", key.fingerprint),
            Self::RemoveKey { user, fingerprint } => format!("{} of {user}", brief(fingerprint)),
        }
    }
}

/// A URL may have more in it than concerns others.
fn host(url: &str) -> String {
    url::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

/// How much that was refused is written: bounded in a minute for all, and in a day for each and for all.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    minute: i64,
    in_minute: u32,
    day: i64,
    in_day: u32,
    of: BTreeMap<String, u32>,
}

const IN_MINUTE: u32 = 20;
const IN_DAY: u32 = 2_000;
const OF_ONE_IN_DAY: u32 = 200;

#[derive(Debug, PartialEq, Eq)]
enum Noted {
    Yes,
    /// This one is, and the next one is not.
    Last,
    No,
}

impl Refusals {
    fn note(&mut self, who: &str, now: Timestamp) -> Noted {
        let minute = now.as_second().div_euclid(60);
        let day = minute.div_euclid(24 * 60);
        if minute != self.minute {
            (self.minute, self.in_minute) = (minute, 0);
        }
        if day != self.day {
            *self = Self { minute, day, ..Self::default() };
        }
        if self.in_minute >= IN_MINUTE || self.in_day >= IN_DAY {
            return Noted::No;
        }
        let of = self.of.entry(who.to_owned()).or_default();
        if *of >= OF_ONE_IN_DAY {
            return Noted::No;
        }
        *of += 1;
        self.in_minute += 1;
        self.in_day += 1;
        if self.in_minute == IN_MINUTE || self.in_day == IN_DAY || *of == OF_ONE_IN_DAY { Noted::Last } else { Noted::Yes }
    }
}

#[cfg(test)]
mod tests;
