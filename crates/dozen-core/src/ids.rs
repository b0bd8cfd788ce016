//! Names and numbers of things, each with a type of its own so that none is taken for another.

use std::fmt;
use std::str::FromStr;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct InvalidName {
    /// What was being named ("app name").
    pub what: &'static str,
    /// The refused text.
    pub value: String,
    /// The rule it breaks, as a sentence fragment.
    pub rule: &'static str,
}

/// The longest DNS label (RFC 1035, section 2.3.4); app and deploy names become one.
pub const MAX_LABEL: usize = 63;

fn label(what: &'static str, value: &str) -> Result<String, InvalidName> {
    let ok = !value.is_empty()
        && value.len() <= MAX_LABEL
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !value.starts_with('-')
        && !value.ends_with('-');
    if ok {
        Ok(value.to_owned())
    } else {
        Err(InvalidName {
            what,
            value: value.to_owned(),
            rule: "use 1 to 63 lower-case letters, digits and inner dashes, since it becomes a host name",
        })
    }
}

macro_rules! label_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(s: &str) -> Result<Self, InvalidName> {
                label($what, s).map(Self)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

label_type!(
    /// The name of an app: one codebase. A DNS label, since it becomes `<app>.localhost`.
    AppName,
    "app name"
);
label_type!(
    /// The name of a deploy within its app: `production`, `staging`, `dev`.
    DeployName,
    "deploy name"
);

impl AppName {
    /// The nearest valid name to a folder's or project's: lower case, other characters become dashes.
    /// `None` where nothing usable is left.
    pub fn suggest(from: &str) -> Option<Self> {
        let mut out = String::new();
        for c in from.chars().flat_map(char::to_lowercase) {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                out.push(c);
            } else if !out.ends_with('-') {
                out.push('-');
            }
        }
        let out: String = out.trim_matches('-').chars().take(MAX_LABEL).collect();
        out.trim_end_matches('-').parse().ok()
    }
}

/// A running copy of an app: `shop/production`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeployRef {
    /// The app.
    pub app: AppName,
    /// The deploy.
    pub deploy: DeployName,
}

/// The deploy that `dozen up` makes when `-a` names none: the developer's own.
pub const DEFAULT_DEPLOY: &str = "dev";

/// The deploy that an app of a server has from its beginning, and that has the app's own host name.
pub const PRODUCTION: &str = "production";

impl DeployRef {
    /// The first label of the host names that a server gives it: `shop` for `shop/production`, else `shop-staging`.
    pub fn host_label(&self) -> String {
        if self.deploy.as_str() == PRODUCTION { self.app.to_string() } else { format!("{}-{}", self.app, self.deploy) }
    }
}

impl FromStr for DeployRef {
    type Err = InvalidName;
    /// Reads `APP` or `APP/DEPLOY`; the deploy defaults to [`DEFAULT_DEPLOY`].
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let (app, deploy) = s.split_once('/').unwrap_or((s, DEFAULT_DEPLOY));
        Ok(Self { app: app.parse()?, deploy: deploy.parse()? })
    }
}

impl fmt::Display for DeployRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.deploy)
    }
}

/// The number of a release within its deploy, printed as `v12`. The first is v1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl FromStr for Version {
    type Err = InvalidName;
    /// Reads `v12` or `12`.
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let digits = s.strip_prefix('v').unwrap_or(s);
        match digits.parse() {
            Ok(n) if n > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => Ok(Self(n)),
            _ => Err(InvalidName { what: "release", value: s.to_owned(), rule: "write it as `v12` or `12`" }),
        }
    }
}

/// The identity of a slug: blake3 over its sorted manifest of files, never over an archive of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlugId(pub [u8; 32]);

impl SlugId {
    /// The first eight hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for SlugId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for SlugId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlugId({})", self.short())
    }
}

impl FromStr for SlugId {
    type Err = InvalidName;
    /// Reads 64 hexadecimal digits.
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let err = || InvalidName { what: "slug id", value: s.to_owned(), rule: "it is 64 hexadecimal digits" };
        if s.len() != 64 || !s.is_ascii() {
            return Err(err());
        }
        let mut id = [0u8; 32];
        for (i, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&s[2 * i..2 * i + 2], 16).map_err(|_| err())?;
        }
        Ok(Self(id))
    }
}

/// A process type as it is keyed everywhere: `web`, `worker`. Checked by the Procfile parser, which allows `[A-Za-z0-9_-]+`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeName(String);

impl TypeName {
    /// The type that the router sends HTTP to.
    pub const WEB: &'static str = "web";
    /// The type that runs once per release and is never part of a formation.
    pub const RELEASE: &'static str = "release";
    /// The type that `dozen console` runs where app.json names none; a formation has it only when it is scaled.
    pub const CONSOLE: &'static str = "console";

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Whether the router sends HTTP to it.
    pub fn is_web(&self) -> bool {
        self.0 == Self::WEB
    }
    /// Whether it is the release phase.
    pub fn is_release(&self) -> bool {
        self.0 == Self::RELEASE
    }
    /// Whether it is the app's console.
    pub fn is_console(&self) -> bool {
        self.0 == Self::CONSOLE
    }
}

impl FromStr for TypeName {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        if !s.is_empty() && s.len() <= MAX_LABEL && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            Ok(Self(s.to_owned()))
        } else {
            Err(InvalidName { what: "process type", value: s.to_owned(), rule: "use 1 to 63 letters, digits, `_` and `-`" })
        }
    }
}

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An instance's name within its deploy: `web.1`, `run.7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceName {
    /// The process type.
    pub kind: TypeName,
    /// Counted from 1.
    pub number: u32,
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.kind, self.number)
    }
}

impl FromStr for InstanceName {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let err = || InvalidName { what: "instance", value: s.to_owned(), rule: "write it as `web.1`" };
        let (kind, number) = s.rsplit_once('.').ok_or_else(err)?;
        let number: u32 = number.parse().map_err(|_| err())?;
        if number == 0 {
            return Err(err());
        }
        Ok(Self { kind: kind.parse()?, number })
    }
}

/// Counts the changes of a deploy's intent. What carries an older one than was last seen is stale and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deploy_refs_default_their_deploy() {
        let d: DeployRef = "shop".parse().expect("valid");
        assert_eq!(d.to_string(), "shop/dev");
        let d: DeployRef = "shop/staging".parse().expect("valid");
        assert_eq!(d.to_string(), "shop/staging");
        for bad in ["", "Shop", "a/b/c", "-a", "a-", "a_b", "/dev", "shop/"] {
            assert!(bad.parse::<DeployRef>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_are_suggested_from_folders() {
        let s = |x: &str| AppName::suggest(x).map(|n| n.to_string());
        assert_eq!(s("My App_2"), Some("my-app-2".into()));
        assert_eq!(s("--"), None);
        assert_eq!(s("Ünï"), Some("n".into()));
        assert_eq!(s(&"x".repeat(99)).map(|n| n.len()), Some(63));
    }

    #[test]
    fn versions_slugs_and_instances_round_trip() {
        assert_eq!("v12".parse(), Ok(Version(12)));
        assert_eq!("12".parse(), Ok(Version(12)));
        for bad in ["", "v", "v0", "0", "+1", "v-1", "vv1", "v1.2"] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?}");
        }
        let id = SlugId([0xab; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("é".repeat(32).parse::<SlugId>().is_err());
        let i: InstanceName = "my-worker.3".parse().expect("valid");
        assert_eq!((i.kind.as_str(), i.number), ("my-worker", 3));
        for bad in ["web", "web.0", "web.x", ".1", "we b.1"] {
            assert!(bad.parse::<InstanceName>().is_err(), "{bad:?}");
        }
    }
}
