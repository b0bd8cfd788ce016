//! Who asks, and the one place that decides who may.

use super::{Ledger, LedgerError};
use crate::home::Home;
use dozen_core::admin::people::{self, Need, Role, Standing, User};
use dozen_core::ids::{AppName, DeployRef};
use std::os::unix::fs::MetadataExt;

/// Where somebody on this machine asks from.
const LOCAL: &str = "local";

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// By what they are known.
    pub identity: Identity,
    /// For the record: `root`, `uid 1000`, `alice`.
    pub name: String,
    /// Whether they are this process, or have shown a token that only they can have.
    pub proven: bool,
    /// For the record: `local`, or the address that they ask from.
    pub from: Option<String>,
}

/// By what somebody is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// By their uid on this machine.
    Local(u32),
    /// By what they have shown to the platform. What was granted to them is as it was then: what they begin goes on to its end.
    User {
        /// Who, and what they may.
        user: User,
        /// The number of the token that they have shown; `None` where it was something else.
        token: Option<u32>,
    },
}

impl Principal {
    /// Whoever runs this process.
    pub fn me() -> Self {
        Self { proven: true, ..Self::of(rustix::process::getuid().as_raw()) }
    }

    /// The platform itself, where it does what it was told to do by itself.
    pub fn platform() -> Self {
        Self { name: "dozen".to_owned(), ..Self::me() }
    }

    /// Somebody on this machine who has shown nothing yet.
    pub fn of(uid: u32) -> Self {
        let name = if uid == 0 { "root".to_owned() } else { format!("uid {uid}") };
        Self { identity: Identity::Local(uid), name, proven: false, from: Some(LOCAL.to_owned()) }
    }

    /// A user of the platform who has shown that they are.
    pub fn user(user: User, token: Option<u32>, from: Option<String>) -> Self {
        Self { name: user.name.to_string(), identity: Identity::User { user, token }, proven: true, from }
    }

    /// Whether they may know that there is this app. Whoever is not known by their proof may know of none.
    ///
    /// # Errors
    /// The home cannot be read.
    pub fn sees(&self, home: &Home, app: &AppName) -> Result<bool, LedgerError> {
        Ok(self.proven && people::sees(self.standing(home)?, app))
    }

    pub(super) fn standing(&self, home: &Home) -> Result<Standing<'_>, LedgerError> {
        match &self.identity {
            Identity::User { user, .. } => Ok(Standing::User(user)),
            Identity::Local(0) => Ok(Standing::Host),
            Identity::Local(uid) => {
                let failed = |source| LedgerError::Home { path: home.root().to_owned(), source };
                let owner = std::fs::metadata(home.root()).map_err(failed)?.uid();
                Ok(if *uid == owner { Standing::Host } else { Standing::Stranger })
            }
        }
    }
}

impl Ledger {
    /// Whether somebody may do what needs this: the owner of the home and root everything, by the API only with its token; users what their
    /// roles say; others nothing.
    ///
    /// # Errors
    /// They may not. Of an app that they may not know of it says what it would say were there none.
    pub fn authorise(&self, who: &Principal, what: &'static str, need: Need) -> Result<(), LedgerError> {
        self.decide(who, what, &need, None)
    }

    /// What was refused is written down with the deploy that it was about.
    pub(super) fn decide(&self, who: &Principal, what: &'static str, need: &Need, deploy: Option<&DeployRef>) -> Result<(), LedgerError> {
        let decided = authorise(&self.home, who, what, need);
        // A home that cannot be read is nobody's refusal.
        if let Err(LedgerError::Forbidden { .. } | LedgerError::Unproven { .. } | LedgerError::NotFound(_)) = decided {
            self.note_refusal(who, what, need.role().map(|(app, _)| app), deploy);
        }
        decided
    }
}

/// The one place that decides who may.
pub(super) fn authorise(home: &Home, who: &Principal, what: &'static str, need: &Need) -> Result<(), LedgerError> {
    let standing = who.standing(home)?;
    if !people::may(standing, need) {
        if let (Standing::User(_), Some((app, _))) = (standing, need.role())
            && !people::sees(standing, app)
        {
            return Err(no_app(app));
        }
        return Err(LedgerError::Forbidden { who: who.name.clone(), what, needs: needs(home, standing, need) });
    }
    if who.proven { Ok(()) } else { Err(LedgerError::Unproven { who: who.name.clone(), what }) }
}

/// What is said of an app that is not there, and of one that somebody may not know of.
pub(super) fn no_app(app: &AppName) -> LedgerError {
    LedgerError::NotFound(format!("there is no app {app}"))
}

/// Who may.
fn needs(home: &Home, standing: Standing<'_>, need: &Need) -> String {
    match (standing, need) {
        (Standing::User(_), Need::View(_) | Need::Deploy(_) | Need::Own(_)) => {
            let (app, role) = need.role().expect("these are of an app");
            format!("{} {role} of {app}", if role == Role::Owner { "an" } else { "a" })
        }
        (Standing::User(_), Need::Be(user)) => format!("{user} or an admin"),
        (Standing::User(_), Need::Platform) => "an admin".to_owned(),
        // Where the home is concerns nobody from afar.
        (Standing::User(_), Need::Host) => "the owner of dozen's home, on its machine,".to_owned(),
        (Standing::Host | Standing::Stranger, _) => format!("the owner of {}", home.root().display()),
    }
}
