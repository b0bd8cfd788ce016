//! III. Store config in the environment.
//! Config is a versioned set of variables; each remembers where it came from, so that `.env` never overrules what was set by hand.
//!
//! **Invariant:** no `Debug` of a config shows a value.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

pub mod dotenv;

/// Where a variable of a config came from. Later in this list never overrules earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `config set`.
    Set,
    /// The app's `.env`.
    DotEnv,
    /// Made by `generator: secret` of app.json, once per deploy.
    Generated,
    /// The `value` of app.json's `env`.
    AppJson,
}

impl Origin {
    /// The word that the ledger and `--json` use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::DotEnv => "dotenv",
            Self::Generated => "generated",
            Self::AppJson => "app.json",
        }
    }
    /// Reads [`Origin::as_str`] back.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Set, Self::DotEnv, Self::Generated, Self::AppJson].into_iter().find(|o| o.as_str() == word)
    }
}

/// One variable's value.
#[derive(Clone, PartialEq, Eq)]
pub struct Var {
    /// The value, without NUL.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
    /// Set with `--plain`: not a secret, shown unmasked.
    pub plain: bool,
}

impl fmt::Debug for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Var({} bytes, {:?})", self.value.len(), self.origin)
    }
}

/// The variables of a deploy at one version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// By name.
    pub vars: BTreeMap<String, Var>,
}

/// The most that all names and values together may take, in bytes (Heroku allows 64 kB).
pub const MAX_TOTAL: usize = 64 * 1024;

/// Why a variable was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not `[A-Za-z_][A-Za-z0-9_]*`.
    #[error("config var name {0:?} is not valid: start with a letter or `_`, go on with letters, digits and `_`")]
    Name(String),
    /// A prefix that the platform keeps to itself.
    #[error("config var name {0:?} is reserved: the prefixes `HEROKU_`, `DOZEN_` and `__` are the platform's own")]
    Reserved(String),
    /// The value has a NUL byte.
    #[error("the value of {0} has a NUL byte, which no process environment can carry")]
    Nul(String),
    /// More than [`MAX_TOTAL`].
    #[error("the config would take {0} bytes; names and values may take {MAX_TOTAL} in all")]
    TooLarge(usize),
}

/// Checks a name that a person gives.
pub fn check_name(name: &str) -> Result<(), ConfigError> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(ConfigError::Name(name.to_owned()));
    }
    if name.starts_with("HEROKU_") || name.starts_with("DOZEN_") || name.starts_with("__") {
        return Err(ConfigError::Reserved(name.to_owned()));
    }
    Ok(())
}

/// What changed between two configs, names only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// New or with another value.
    pub set: Vec<String>,
    /// Gone.
    pub unset: Vec<String>,
    /// Names with the same value that became secrets, or are none any more.
    pub marked: Vec<String>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.unset.is_empty() && self.marked.is_empty()
    }
    /// As a release's description says it: `Set A, B config vars; Unset C config vars`.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        for (verb, names) in [("Set", &self.set), ("Unset", &self.unset), ("Mark", &self.marked)] {
            if !names.is_empty() {
                parts.push(format!("{verb} {} config vars", names.join(", ")));
            }
        }
        parts.join("; ")
    }
}

impl Config {
    /// Sets a variable after checking name, value and total size.
    pub fn set(&mut self, name: &str, var: Var) -> Result<(), ConfigError> {
        check_name(name)?;
        if var.value.contains('\0') {
            return Err(ConfigError::Nul(name.to_owned()));
        }
        let size = self.size() + name.len() + var.value.len() - self.vars.get(name).map_or(0, |v| name.len() + v.value.len());
        if size > MAX_TOTAL {
            return Err(ConfigError::TooLarge(size));
        }
        self.vars.insert(name.to_owned(), var);
        Ok(())
    }

    /// Bytes of all names and values.
    pub fn size(&self) -> usize {
        self.vars.iter().map(|(k, v)| k.len() + v.value.len()).sum()
    }

    /// What `newer` changes.
    pub fn changes(&self, newer: &Self) -> Changes {
        let differs = |k: &String, v: &Var| self.vars.get(k).is_none_or(|old| old.value != v.value);
        let marked = |k: &String, v: &Var| self.vars.get(k).is_some_and(|old| old.value == v.value && old.plain != v.plain);
        Changes {
            marked: newer.vars.iter().filter(|(k, v)| marked(k, v)).map(|(k, _)| k.clone()).collect(),
            set: newer.vars.iter().filter(|(k, v)| differs(k, v)).map(|(k, _)| k.clone()).collect(),
            unset: self.vars.keys().filter(|k| !newer.vars.contains_key(*k)).cloned().collect(),
        }
    }

    /// Takes in what a `.env` says now: its variables are set, those that it no longer names are dropped, and what was set by hand stays.
    /// Answers the new config and the names that `.env` gives another value for than the one that stays.
    pub fn with_dotenv(&self, dotenv: &BTreeMap<String, String>) -> Result<(Self, Vec<String>), ConfigError> {
        let mut next = self.clone();
        let mut kept = Vec::new();
        // What is replaced goes first, so that the size is right at every step whichever variable grows and whichever shrinks.
        next.vars.retain(|k, v| v.origin == Origin::Set || (v.origin != Origin::DotEnv && !dotenv.contains_key(k)));
        for (name, value) in dotenv {
            match next.vars.get(name) {
                Some(var) if var.origin == Origin::Set => {
                    if var.value != *value {
                        kept.push(name.clone());
                    }
                }
                _ => next.set(name, Var { value: value.clone(), origin: Origin::DotEnv, plain: false })?,
            }
        }
        Ok((next, kept))
    }
}

/// What stands in for a masked value.
pub const MASK: &str = "********";
/// Shorter values are not masked: replacing every `1` or `true` in a build's output would make it unreadable.
pub const MASKED_FROM: usize = 8;

/// Replaces the values of config vars in text that the platform prints.
#[derive(Clone, Default)]
pub struct Mask {
    /// Longest first, so that a value that holds another is replaced whole.
    values: Vec<String>,
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mask({} values)", self.values.len())
    }
}

impl Mask {
    /// Masks every value of at least [`MASKED_FROM`] bytes that was not set `--plain`, and each line of one that has several.
    pub fn of<'a>(vars: impl IntoIterator<Item = &'a Var>) -> Self {
        let secrets = vars.into_iter().filter(|v| !v.plain);
        let mut values: Vec<String> = secrets
            .flat_map(|v| std::iter::once(v.value.as_str()).chain(v.value.lines()))
            .filter(|v| v.len() >= MASKED_FROM)
            .map(str::to_owned)
            .collect();
        values.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        values.dedup();
        Self { values }
    }

    /// The text with each value replaced by [`MASK`]; values that overlap in it are replaced together, so that no rest of one stays.
    pub fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut found: Vec<Range<usize>> = self.values.iter().flat_map(|value| occurrences(text, value)).collect();
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        found.sort_by_key(|range| range.start);
        let mut out = String::with_capacity(text.len());
        let mut done = 0;
        for range in found {
            if range.start >= done {
                out.push_str(&text[done..range.start]);
                out.push_str(MASK);
            }
            done = done.max(range.end);
        }
        out.push_str(&text[done..]);
        Cow::Owned(out)
    }
}

/// Where `value` stands in `text`, also where it overlaps itself, as `abab` does in `ababab`.
fn occurrences<'a>(text: &'a str, value: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
    let first = value.chars().next().map_or(1, char::len_utf8);
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text.get(at..)?.find(value)?;
        at = start + first;
        Some(start..start + value.len())
    })
}

#[cfg(test)]
mod tests;
