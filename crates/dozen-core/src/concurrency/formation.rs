//! The formation: how many of each process type run. Changed by words like `web=2 worker+1`, printed as words that can be pasted back.
//!
//! **Invariant:** a formation never counts `release`, and never more than [`MAX_QUANTITY`] of a type.
//! **Invariant:** its sizes are those that `ps scale` set; what the app declares is the release's.

use crate::diagnostic::{did_you_mean, excerpt};
use crate::ids::{InstanceName, TypeName};
use crate::processes::ProcessType;
use crate::processes::size::{Size, SizeError};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// The most instances that a type may have. More is a slip of the keyboard on any host that runs this.
pub const MAX_QUANTITY: u32 = 1000;

/// How many of each process type, and of what size where somebody said so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Formation(BTreeMap<TypeName, Part>);

/// One process type's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Part {
    /// How many.
    pub count: u32,
    /// The size that `ps scale` gave it; `None` leaves it to what the app declares.
    pub size: Option<Size>,
}

/// What the types run as before anyone scaled them, where app.json does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// `up` and `dev`: one of each, so that a developer sees the whole app.
    OneOfEach,
    /// `server`: `web=1` and no others, by Heroku's rule.
    WebOnly,
}

/// One word of `ps scale`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// Whose count changes.
    pub kind: TypeName,
    /// To what, or by how many.
    pub change: Change,
    /// What stands after the colon; without it the size stays.
    pub size: Option<Resize>,
}

/// How a size changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// `:512M`
    To(Size),
    /// `:default`, what the app declares.
    Default,
}

/// The word for [`Resize::Default`].
const DEFAULT: &str = "default";

/// How a count changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// `=2`
    To(u32),
    /// `+1`
    Up(u32),
    /// `-1`
    Down(u32),
}

/// Why a change was refused. Nothing of the command was applied then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormationError {
    /// Not a word of the syntax.
    #[error("`{0}` is not a change of the formation: write `web=2`, `web+1` or `web-1`")]
    Syntax(String),
    /// Outside of what a type may have.
    #[error("{kind} has {has}; `{word}` would leave the range from 0 to {MAX_QUANTITY}")]
    Range {
        /// The type.
        kind: TypeName,
        /// Its count before.
        has: u32,
        /// What was asked for.
        word: String,
    },
    /// A number that is out of range by itself.
    #[error("`{0}` asks for more than {MAX_QUANTITY} instances of a process type")]
    TooMany(String),
    /// What stands after the colon is no size.
    #[error("{word}: {why}")]
    Size {
        /// The word of `ps scale`.
        word: String,
        /// Why.
        why: SizeError,
    },
    /// `release` runs once per release.
    #[error("`release` is the release phase: it runs once for every release and cannot be scaled, stopped or started")]
    Release,
    /// No such type.
    #[error("{0}")]
    Unknown(UnknownType),
}

/// A process type that is named but not declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownType {
    /// As it was named.
    pub name: String,
    /// Those that are declared, less `release`.
    pub declared: Vec<String>,
}

impl fmt::Display for UnknownType {
    /// A sentence with the nearest declared type, or with all of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no process type `{}`", self.name)?;
        let near = did_you_mean(&self.name, self.declared.iter().map(String::as_str));
        match (near.is_empty(), self.declared.is_empty()) {
            (false, _) => write!(f, "; d{}", &near[1..]),
            (true, false) => write!(f, "; the Procfile declares {}", self.declared.join(", ")),
            (true, true) => Ok(()),
        }
    }
}

impl Formation {
    /// The first formation of an app: what app.json's `formation` declares, the rule for the other types. Also answers the declared
    /// types that the Procfile does not have, which are left out.
    pub fn first(types: &[ProcessType], declared: &BTreeMap<TypeName, u32>, rule: First) -> (Self, Vec<UnknownType>) {
        Self::default().next(types, declared, rule)
    }

    /// This formation for a release whose Procfile has `types`: a type that stays keeps its count, a new one gets its first count, one
    /// that is gone goes. Also answers what [`Formation::first`] does.
    pub fn next(&self, types: &[ProcessType], declared: &BTreeMap<TypeName, u32>, rule: First) -> (Self, Vec<UnknownType>) {
        let first = |kind: &TypeName| match rule {
            // It is for `dozen console`: without a terminal it would end at once, again and again.
            First::OneOfEach => u32::from(!kind.is_console()),
            First::WebOnly => u32::from(kind.is_web()),
        };
        let counts = types.iter().map(|t| &t.name).filter(|kind| !kind.is_release()).map(|kind| {
            let new = || Part { count: declared.get(kind).copied().unwrap_or_else(|| first(kind)).min(MAX_QUANTITY), size: None };
            (kind.clone(), self.0.get(kind).copied().unwrap_or_else(new))
        });
        let unknown = declared.keys().filter(|kind| types.iter().all(|t| t.name != **kind));
        (Self(counts.collect()), unknown.map(|kind| unknown_type(kind, types)).collect())
    }

    /// The formation after these changes, in their order; all of them, or none where one is refused.
    pub fn scale(&self, changes: &[Scale], types: &[ProcessType]) -> Result<Self, FormationError> {
        let mut next = self.clone();
        for scale in changes {
            let kind = &scale.kind;
            if kind.is_release() {
                return Err(FormationError::Release);
            }
            if types.iter().all(|t| t.name != *kind) {
                return Err(FormationError::Unknown(unknown_type(kind, types)));
            }
            let has = next.count(kind);
            let count = match scale.change {
                Change::To(n) => Some(n),
                Change::Up(n) => has.checked_add(n),
                Change::Down(n) => has.checked_sub(n),
            };
            let out_of_range = || FormationError::Range { kind: kind.clone(), has, word: scale.to_string() };
            let count = count.filter(|n| *n <= MAX_QUANTITY).ok_or_else(out_of_range)?;
            let size = match scale.size {
                None => next.size(kind),
                Some(Resize::To(size)) => Some(size),
                Some(Resize::Default) => None,
            };
            next.0.insert(kind.clone(), Part { count, size });
        }
        Ok(next)
    }

    /// What of it runs while these types are stopped: none of them, though it is remembered how many there were.
    pub fn without(&self, stopped: &BTreeSet<TypeName>) -> Self {
        let left = |kind: &TypeName, part: &Part| if stopped.contains(kind) { Part { count: 0, ..*part } } else { *part };
        Self(self.0.iter().map(|(kind, part)| (kind.clone(), left(kind, part))).collect())
    }

    /// The types of `types` that `names` name; where they name none, all but `release`.
    pub fn named(&self, names: &[TypeName], types: &[ProcessType]) -> Result<BTreeSet<TypeName>, FormationError> {
        for kind in names {
            if kind.is_release() {
                return Err(FormationError::Release);
            }
            if !self.0.contains_key(kind) {
                return Err(FormationError::Unknown(unknown_type(kind, types)));
            }
        }
        Ok(if names.is_empty() { self.0.keys().cloned().collect() } else { names.iter().cloned().collect() })
    }

    /// How many of a type.
    pub fn count(&self, kind: &TypeName) -> u32 {
        self.0.get(kind).map_or(0, |part| part.count)
    }

    /// The size that `ps scale` gave a type.
    pub fn size(&self, kind: &TypeName) -> Option<Size> {
        self.0.get(kind)?.size
    }

    /// Types and counts, zeros among them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&TypeName, u32)> {
        self.0.iter().map(|(kind, part)| (kind, part.count))
    }

    /// Every instance, by type and number.
    pub fn instances(&self) -> impl Iterator<Item = InstanceName> + '_ {
        self.iter().flat_map(|(kind, count)| (1..=count).map(|number| InstanceName { kind: kind.clone(), number }))
    }

    /// How many instances in all.
    pub fn total(&self) -> u32 {
        self.0.values().map(|part| part.count).sum()
    }
}

impl fmt::Display for Formation {
    /// `web=2:512M worker=1`, which [`parse_scale`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (kind, part)) in self.0.iter().enumerate() {
            let blank = if i == 0 { "" } else { " " };
            write!(f, "{blank}{kind}={}", part.count)?;
            part.size.map_or(Ok(()), |size| write!(f, ":{size}"))?;
        }
        Ok(())
    }
}

impl FromIterator<(TypeName, Part)> for Formation {
    /// From what was stored; `release` and counts beyond the bound never were.
    fn from_iter<I: IntoIterator<Item = (TypeName, Part)>>(parts: I) -> Self {
        let parts = parts.into_iter().filter(|(kind, _)| !kind.is_release());
        Self(parts.map(|(kind, part)| (kind, Part { count: part.count.min(MAX_QUANTITY), ..part })).collect())
    }
}

impl FromIterator<(TypeName, u32)> for Formation {
    /// Without sizes.
    fn from_iter<I: IntoIterator<Item = (TypeName, u32)>>(counts: I) -> Self {
        counts.into_iter().map(|(kind, count)| (kind, Part { count, size: None })).collect()
    }
}

impl FromStr for Scale {
    type Err = FormationError;

    /// Reads `web=2`, `web+1`, `web-1`, each perhaps with `:size`: `^([\w-]+)([=+-]\d+)(?::([\w.-]+))?$`.
    fn from_str(word: &str) -> Result<Self, FormationError> {
        let syntax = || FormationError::Syntax(excerpt(word));
        let (change, size) = match word.split_once(':') {
            Some((change, size)) => (change, Some(size)),
            None => (word, None),
        };
        let is_word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if size.is_some_and(|s| !is_word(&s.replace('.', ""))) {
            return Err(syntax());
        }
        // The sign is the last one: `my-worker-1` takes one from `my-worker`.
        let sign = change.rfind(['=', '+', '-']).ok_or_else(syntax)?;
        let (kind, digits) = (&change[..sign], &change[sign + 1..]);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || !is_word(kind) {
            return Err(syntax());
        }
        let number = digits.parse().ok().filter(|n| *n <= MAX_QUANTITY);
        let number = number.ok_or_else(|| FormationError::TooMany(excerpt(word)))?;
        let change = match change.as_bytes()[sign] {
            b'=' => Change::To(number),
            b'+' => Change::Up(number),
            _ => Change::Down(number),
        };
        let resize = |size: &str| match size {
            DEFAULT => Ok(Resize::Default),
            size => size.parse().map(Resize::To).map_err(|why| FormationError::Size { word: excerpt(word), why }),
        };
        Ok(Self { kind: kind.parse().map_err(|_| syntax())?, change, size: size.map(resize).transpose()? })
    }
}

impl fmt::Display for Scale {
    /// As it is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, number) = match self.change {
            Change::To(n) => ('=', n),
            Change::Up(n) => ('+', n),
            Change::Down(n) => ('-', n),
        };
        write!(f, "{}{sign}{number}", self.kind)?;
        match self.size {
            None => Ok(()),
            Some(Resize::To(size)) => write!(f, ":{size}"),
            Some(Resize::Default) => write!(f, ":{DEFAULT}"),
        }
    }
}

/// Reads the words of `ps scale`: each argument one, or several in one argument as they were printed.
pub fn parse_scale<S: AsRef<str>>(arguments: &[S]) -> Result<Vec<Scale>, FormationError> {
    arguments.iter().flat_map(|a| a.as_ref().split_whitespace()).map(str::parse).collect()
}

/// A type that is named and that `types` does not declare.
pub(crate) fn unknown_type(kind: &TypeName, types: &[ProcessType]) -> UnknownType {
    let declared = types.iter().filter(|t| !t.name.is_release()).map(|t| t.name.to_string()).collect();
    UnknownType { name: kind.to_string(), declared }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn types(names: &[&str]) -> Vec<ProcessType> {
        names.iter().map(|n| ProcessType { name: kind(n), command: "x".to_owned() }).collect()
    }

    fn kind(name: &str) -> TypeName {
        name.parse().expect("valid")
    }

    fn formation(words: &str) -> Formation {
        let changes = parse_scale(&[words]).expect("valid");
        changes.into_iter().map(|s| (s.kind, if let Change::To(n) = s.change { n } else { 0 })).collect()
    }

    #[test]
    fn words_are_read_and_written() {
        let size = |word: &str| Some(Resize::To(word.parse().expect("a size")));
        for (word, want) in [
            ("web=2", Scale { kind: kind("web"), change: Change::To(2), size: None }),
            ("web+1", Scale { kind: kind("web"), change: Change::Up(1), size: None }),
            ("my-worker-1", Scale { kind: kind("my-worker"), change: Change::Down(1), size: None }),
            ("w-1=3", Scale { kind: kind("w-1"), change: Change::To(3), size: None }),
            ("web--1", Scale { kind: kind("web-"), change: Change::Down(1), size: None }),
            ("web=0:1G", Scale { kind: kind("web"), change: Change::To(0), size: size("standard-2x") }),
            ("web+0:1536M", Scale { kind: kind("web"), change: Change::Up(0), size: size("1.5G") }),
            ("web-1:default", Scale { kind: kind("web"), change: Change::Down(1), size: Some(Resize::Default) }),
            ("_A=1000", Scale { kind: kind("_A"), change: Change::To(1000), size: None }),
        ] {
            assert_eq!(word.parse(), Ok(want.clone()), "{word}");
            assert_eq!(want.to_string(), word);
        }
        for bad in [
            "",
            "web",
            "web=",
            "=2",
            "web=x",
            "web=-1",
            "web=+1",
            "web=1:",
            "web=1:a b",
            "web=1:2:3",
            "we b=1",
            "wéb=1",
            "web=٣",
            "web:2",
            "web=1.5",
        ] {
            assert!(matches!(bad.parse::<Scale>(), Err(FormationError::Syntax(_))), "{bad:?}");
        }
        for bad in ["web=1:huge", "web=1:512", "web=1:9999G"] {
            assert!(matches!(bad.parse::<Scale>(), Err(FormationError::Size { .. })), "{bad:?}");
        }
        for bad in ["web=1001", "web+99999999999999999999"] {
            assert_eq!(bad.parse::<Scale>(), Err(FormationError::TooMany(bad.to_owned())));
        }
    }

    #[test]
    fn changes_apply_in_order_and_all_or_none() {
        let types = types(&["web", "worker", "release"]);
        let scale = |from: &str, words: &str| {
            let changes = parse_scale(&[words]).expect("valid");
            formation(from).scale(&changes, &types).map(|f| f.to_string()).map_err(|e| e.to_string())
        };
        assert_eq!(scale("web=1 worker=1", "web=2 worker+1").as_deref(), Ok("web=2 worker=2"));
        assert_eq!(scale("web=1", "worker+2 worker-1 web-1").as_deref(), Ok("web=0 worker=1"));
        assert_eq!(scale("web=1000", "web-1 web+1").as_deref(), Ok("web=1000"));
        for (from, words, why) in [
            ("web=1", "web-2", "web has 1; `web-2` would leave the range from 0 to 1000"),
            ("web=1", "web=5 web+1000", "web has 5; `web+1000` would leave the range from 0 to 1000"),
            ("web=1", "web=2 wroker=1", "there is no process type `wroker`; did you mean `worker`?"),
            ("web=1", "clock=1", "there is no process type `clock`; the Procfile declares web, worker"),
            (
                "web=1",
                "release=1",
                "`release` is the release phase: it runs once for every release and cannot be scaled, stopped or started",
            ),
        ] {
            assert_eq!(scale(from, words).as_ref().map_err(String::as_str), Err(why));
        }
    }

    #[test]
    fn a_size_stays_until_it_is_changed() {
        let types = types(&["web", "worker"]);
        let scale = |from: &Formation, words: &str| from.scale(&parse_scale(&[words]).expect("valid"), &types).expect("scaled");
        let sized = scale(&formation("web=1 worker=1"), "web=2:standard-1x");
        assert_eq!(sized.to_string(), "web=2:512M worker=1");
        assert_eq!(scale(&sized, "web+1").to_string(), "web=3:512M worker=1");
        assert_eq!(scale(&sized, "web=0 worker+0:unlimited").to_string(), "web=0:512M worker=1:unlimited");
        assert_eq!(scale(&sized, "web+0:default").to_string(), "web=2 worker=1");
        // What is printed can be pasted back.
        assert_eq!(scale(&formation("web=1 worker=1"), &sized.to_string()), sized);
        let (next, _) = sized.next(&types, &BTreeMap::new(), First::OneOfEach);
        assert_eq!(next, sized);
        assert_eq!(sized.without(&BTreeSet::from([kind("web")])).to_string(), "web=0:512M worker=1");
    }

    #[test]
    fn the_first_formation_is_of_app_json_then_of_the_rule() {
        let types = types(&["release", "worker", "web", "clock", "console"]);
        let declared = BTreeMap::from([(kind("worker"), 3), (kind("wbe"), 2)]);
        let (first, unknown) = Formation::first(&types, &declared, First::OneOfEach);
        assert_eq!(first.to_string(), "clock=1 console=0 web=1 worker=3");
        assert_eq!(unknown.iter().map(ToString::to_string).collect::<Vec<_>>(), ["there is no process type `wbe`; did you mean `web`?"]);
        let (first, _) = Formation::first(&types, &BTreeMap::new(), First::WebOnly);
        assert_eq!(first.to_string(), "clock=0 console=0 web=1 worker=0");
        assert_eq!(first.total(), 1);
    }

    #[test]
    fn a_new_release_keeps_what_was_scaled() {
        let before = formation("web=4 old=2 clock=0");
        let (next, _) = before.next(&types(&["web", "clock", "mailer", "release"]), &BTreeMap::from([(kind("web"), 1)]), First::OneOfEach);
        assert_eq!(next.to_string(), "clock=0 mailer=1 web=4");
    }

    #[test]
    fn what_is_stopped_counts_as_none_and_is_remembered() {
        let (types, formation) = (types(&["web", "worker", "release"]), formation("web=2 worker=3"));
        assert_eq!(formation.without(&BTreeSet::from([kind("web"), kind("gone")])).to_string(), "web=0 worker=3");
        assert_eq!(formation.without(&BTreeSet::new()), formation);
        let named = |names: &[&str]| {
            let kinds: Vec<_> = names.iter().map(|n| kind(n)).collect();
            formation.named(&kinds, &types).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>()).map_err(|e| e.to_string())
        };
        assert_eq!(named(&[]), Ok(vec!["web".to_owned(), "worker".to_owned()]));
        assert_eq!(named(&["worker"]), Ok(vec!["worker".to_owned()]));
        assert_eq!(named(&["wroker"]), Err("there is no process type `wroker`; did you mean `worker`?".to_owned()));
        assert!(named(&["release"]).is_err());
    }

    proptest! {
        #[test]
        fn any_words_are_answered(word in ".{0,20}|[a-c=+:0-9-]{0,12}") {
            if let Ok(scale) = word.parse::<Scale>() {
                prop_assert_eq!(scale.to_string().parse::<Scale>(), Ok(scale));
            }
        }

        #[test]
        fn what_is_printed_can_be_pasted_back(counts in proptest::collection::btree_map("[a-z_][a-z0-9_-]{0,9}", 0..=MAX_QUANTITY, 0..6)) {
            let counts: BTreeMap<_, _> = counts.iter().filter(|(k, _)| *k != "release").map(|(k, n)| (kind(k), *n)).collect();
            let types: Vec<_> = counts.keys().map(|k| ProcessType { name: k.clone(), command: String::new() }).collect();
            let formation: Formation = counts.into_iter().collect();
            let changes = parse_scale(&[formation.to_string()]).expect("what we print we read");
            prop_assert_eq!(Formation::default().scale(&changes, &types), Ok(formation));
        }
    }
}
