//! Who may do what: roles for each app, admins for the platform, and one function that decides.
//!
//! **Invariant:** whoever is nobody may nothing, and nobody from afar may what only the owner of the home may, an admin neither.

use crate::ids::{AppName, InvalidName};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What somebody is to an app. A later one may all that an earlier one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads: state, logs, releases, events, the names of config vars.
    Viewer,
    /// And releases, configures, scales, runs.
    Deployer,
    /// And decides who else may, and ends deploys and the app.
    Owner,
}

impl Role {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Deployer => "deployer",
            Self::Owner => "owner",
        }
    }
}

/// There is no such role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no role {0:?}: it is viewer, deployer or owner")]
pub struct InvalidRole(pub String);

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(word: &str) -> Result<Self, InvalidRole> {
        let all = [Self::Viewer, Self::Deployer, Self::Owner];
        all.into_iter().find(|role| role.as_str() == word).ok_or_else(|| InvalidRole(word.to_owned()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the record calls the machine's own; were a user called so, nobody could tell one from the other.
const ROOT: &str = "root";

/// The name of a user of the platform.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(String);

impl UserName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let good = (1..=63).contains(&name.len())
            && name.chars().all(|c| ends(c) || "-._".contains(c))
            && name.starts_with(ends)
            && name.ends_with(ends)
            && name != ROOT;
        let rule = "use 1 to 63 lower-case letters, digits and, within it, dashes, dots and underscores; root is the machine's own";
        if good { Ok(Self(name.to_owned())) } else { Err(InvalidName { what: "user name", value: name.to_owned(), rule }) }
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A user and what was granted to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Who.
    pub name: UserName,
    /// Whether they look after the platform.
    pub admin: bool,
    /// What they are to which app; to others they are nobody.
    pub grants: BTreeMap<AppName, Role>,
}

/// By what somebody stands here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing<'a> {
    /// The owner of the home, on its machine.
    Host,
    /// A user of the platform.
    User(&'a User),
    /// Nobody that is known.
    Stranger,
}

/// What an act needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// To read of an app.
    View(AppName),
    /// To change what an app's deploys run.
    Deploy(AppName),
    /// To decide about an app.
    Own(AppName),
    /// To act for this user: to be them, or an admin.
    Be(UserName),
    /// To look after the platform.
    Platform,
    /// To own the home: what makes no sense from afar.
    Host,
}

impl Need {
    /// The app that it is of, and what one has to be to it.
    pub fn role(&self) -> Option<(&AppName, Role)> {
        match self {
            Self::View(app) => Some((app, Role::Viewer)),
            Self::Deploy(app) => Some((app, Role::Deployer)),
            Self::Own(app) => Some((app, Role::Owner)),
            Self::Be(_) | Self::Platform | Self::Host => None,
        }
    }
}

/// Whether somebody may do what needs this.
pub fn may(standing: Standing<'_>, need: &Need) -> bool {
    match (standing, need) {
        (Standing::Host, _) => true,
        (Standing::Stranger, _) | (Standing::User(_), Need::Host) => false,
        (Standing::User(User { admin: true, .. }), _) => true,
        (Standing::User(user), Need::Be(other)) => user.name == *other,
        (Standing::User(_), Need::Platform) => false,
        (Standing::User(user), Need::View(_) | Need::Deploy(_) | Need::Own(_)) => {
            need.role().is_some_and(|(app, least)| user.grants.get(app).is_some_and(|role| *role >= least))
        }
    }
}

/// Whether somebody may know that there is this app.
pub fn sees(standing: Standing<'_>, app: &AppName) -> bool {
    may(standing, &Need::View(app.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> AppName {
        name.parse().expect("valid")
    }

    fn user(admin: bool, grants: &[(&str, Role)]) -> User {
        let grants = grants.iter().map(|(name, role)| (app(name), *role)).collect();
        User { name: "alice".parse().expect("valid"), admin, grants }
    }

    #[test]
    fn each_standing_may_what_its_line_says() {
        let needs = [
            Need::View(app("shop")),
            Need::Deploy(app("shop")),
            Need::Own(app("shop")),
            Need::View(app("blog")),
            Need::Be("alice".parse().expect("valid")),
            Need::Be("bob".parse().expect("valid")),
            Need::Platform,
            Need::Host,
        ];
        let check = |standing: Standing<'_>, wanted: &str| {
            let line: String = needs.iter().map(|need| if may(standing, need) { 'y' } else { '-' }).collect();
            assert_eq!(line, wanted, "{standing:?}");
        };
        check(Standing::Host, "yyyyyyyy");
        check(Standing::User(&user(true, &[])), "yyyyyyy-");
        check(Standing::User(&user(false, &[("shop", Role::Owner)])), "yyy-y---");
        check(Standing::User(&user(false, &[("shop", Role::Deployer)])), "yy--y---");
        check(Standing::User(&user(false, &[("shop", Role::Viewer)])), "y---y---");
        check(Standing::User(&user(false, &[("blog", Role::Owner)])), "---yy---");
        check(Standing::User(&user(false, &[])), "----y---");
        check(Standing::Stranger, "--------");
    }

    #[test]
    fn roles_are_ordered_and_read_back() {
        assert!(Role::Viewer < Role::Deployer && Role::Deployer < Role::Owner);
        for role in [Role::Viewer, Role::Deployer, Role::Owner] {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        for word in ["", "Owner", "admin", "viewer "] {
            assert!(word.parse::<Role>().is_err(), "{word}");
        }
    }

    #[test]
    fn a_user_is_named_by_what_fits_into_a_line() {
        for name in ["a", "alice", "ci-2", "a.b_c", &"a".repeat(63)] {
            assert_eq!(name.parse::<UserName>().expect(name).as_str(), name);
        }
        for name in ["", "-a", "a.", "Alice", "a b", "a/b", "ä", "a\n", "root", &"a".repeat(64)] {
            assert!(name.parse::<UserName>().is_err(), "{name:?}");
        }
    }
}
