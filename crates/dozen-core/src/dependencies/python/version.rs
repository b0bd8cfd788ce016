//! Which Python versions a source admits. Interpreters are final releases, so of PEP 440 only release numbers matter here.

use std::fmt;

/// A release: major, minor, micro.
pub type Release = [u32; 3];

/// Which versions will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Constraint {
    /// Any.
    Any,
    /// Those that begin so: `3.11` admits 3.11.7.
    Prefix(Vec<u32>),
    /// Those that satisfy every one: `>=3.10,<3.13`.
    All(Vec<Specifier>),
}

/// One comparison of PEP 440, or poetry's caret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Specifier {
    op: Op,
    version: Vec<u32>,
    wildcard: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Compatible,
    Equal,
    NotEqual,
    AtMost,
    AtLeast,
    Less,
    More,
    Caret,
}

const OPS: [(&str, Op); 9] = [
    ("~=", Op::Compatible),
    ("===", Op::Equal),
    ("==", Op::Equal),
    ("!=", Op::NotEqual),
    ("<=", Op::AtMost),
    (">=", Op::AtLeast),
    ("<", Op::Less),
    (">", Op::More),
    ("^", Op::Caret),
];

impl Constraint {
    /// Reads a pin as `.python-version` and `runtime.txt` hold it: `3.11`, `3.11.7`, `python-3.11.7`, `3.12-dev`.
    pub fn pin(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = ["python-", "cpython-", "cpython@", "python"].iter().find_map(|p| text.strip_prefix(p)).unwrap_or(text);
        let text = text.strip_suffix("-dev").unwrap_or(text);
        let text = text.strip_suffix(".x").or_else(|| text.strip_suffix(".*")).unwrap_or(text);
        numbers(text).filter(|n| n.len() <= 3).map(Self::Prefix)
    }

    /// Reads `requires-python` and poetry's `python`: `>=3.10,<3.13`, `^3.11`, `*`, `3.11.*`.
    pub fn specifiers(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(',').map(str::trim).filter(|p| !p.is_empty()).collect();
        if parts.iter().all(|p| *p == "*") {
            return Some(Self::Any);
        }
        parts.into_iter().filter(|p| *p != "*").map(specifier).collect::<Option<Vec<_>>>().map(Self::All)
    }

    /// The release that it names first, filled up with zeros: what is meant, where nothing that it admits can be had.
    pub fn names(&self) -> Option<Release> {
        let numbers = match self {
            Self::Any => return None,
            Self::Prefix(p) => p,
            Self::All(all) => &all.first()?.version,
        };
        let mut release = [0; 3];
        for (slot, n) in release.iter_mut().zip(numbers) {
            *slot = *n;
        }
        Some(release)
    }

    /// Whether this version will do.
    pub fn admits(&self, version: Release) -> bool {
        match self {
            Self::Any => true,
            Self::Prefix(p) => version.starts_with(p),
            Self::All(all) => all.iter().all(|s| s.admits(version)),
        }
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any version"),
            Self::Prefix(p) => f.write_str(&dotted(p)),
            Self::All(all) => {
                let all: Vec<String> = all.iter().map(ToString::to_string).collect();
                f.write_str(&all.join(","))
            }
        }
    }
}

impl fmt::Display for Specifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = OPS.iter().find(|(_, op)| *op == self.op).map_or("", |(text, _)| text);
        let op = if self.op == Op::Equal { "==" } else { op };
        write!(f, "{op}{}{}", dotted(&self.version), if self.wildcard { ".*" } else { "" })
    }
}

impl Specifier {
    fn admits(&self, version: Release) -> bool {
        let mut padded = [0u32; 3];
        for (slot, n) in padded.iter_mut().zip(&self.version) {
            *slot = *n;
        }
        let same = if self.wildcard { version.starts_with(&self.version) } else { version == padded };
        match self.op {
            Op::Equal => same,
            Op::NotEqual => !same,
            Op::AtMost => version <= padded,
            Op::AtLeast => version >= padded,
            Op::Less => version < padded,
            Op::More => version > padded,
            // The last number given may grow, those before it may not.
            Op::Compatible => version >= padded && version.starts_with(&self.version[..self.version.len().saturating_sub(1)]),
            Op::Caret => version >= padded && version.starts_with(&self.version[..self.version.len().min(1)]),
        }
    }
}

fn specifier(text: &str) -> Option<Specifier> {
    let (op, rest) = OPS.iter().find_map(|(t, op)| text.strip_prefix(t).map(|rest| (*op, rest))).unwrap_or((Op::Equal, text));
    let rest = rest.trim();
    let (rest, wildcard) = match rest.strip_suffix(".*") {
        Some(r) => (r, true),
        None => (rest, false),
    };
    let version: Vec<u32> = numbers(rest)?.into_iter().take(3).collect();
    // A bare `3.11` in a table of dependencies is meant as the series.
    let series = op == Op::Equal && version.len() < 3;
    Some(Specifier { op, version, wildcard: wildcard || series })
}

fn numbers(text: &str) -> Option<Vec<u32>> {
    text.split('.').map(|p| if p.bytes().all(|b| b.is_ascii_digit()) { p.parse().ok() } else { None }).collect()
}

fn dotted(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_prefixes() {
        let check = |pin: &str, yes: &[Release], no: &[Release]| {
            let c = Constraint::pin(pin).expect(pin);
            assert!(yes.iter().all(|v| c.admits(*v)) && !no.iter().any(|v| c.admits(*v)), "{pin}");
        };
        check("3.11", &[[3, 11, 0], [3, 11, 7]], &[[3, 1, 1], [3, 12, 1]]);
        check("python-3.11.7\n", &[[3, 11, 7]], &[[3, 11, 8]]);
        check("3", &[[3, 8, 1]], &[[2, 7, 18]]);
        check("3.13-dev", &[[3, 13, 0]], &[[3, 12, 9]]);
        check("3.12.x", &[[3, 12, 0]], &[[3, 13, 0]]);
        for bad in ["", "pypy3.10-7.3", "myenv", "3.", "3..1", "3.11.7.1", "+3", "99999999999"] {
            assert_eq!(Constraint::pin(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn specifiers_follow_pep_440() {
        let check = |text: &str, yes: &[Release], no: &[Release]| {
            let c = Constraint::specifiers(text).expect(text);
            assert!(yes.iter().all(|v| c.admits(*v)) && !no.iter().any(|v| c.admits(*v)), "{text}");
        };
        check(">=3.10,<3.13", &[[3, 10, 0], [3, 12, 9]], &[[3, 9, 9], [3, 13, 0]]);
        check("~=3.11", &[[3, 11, 0], [3, 13, 0]], &[[3, 10, 9], [4, 0, 0]]);
        check("~=3.11.2", &[[3, 11, 7]], &[[3, 12, 0], [3, 11, 1]]);
        check("==3.11.*", &[[3, 11, 7]], &[[3, 12, 0]]);
        check("!=3.12.1, >3", &[[3, 12, 2]], &[[3, 12, 1], [3, 0, 0]]);
        check("^3.11", &[[3, 11, 0], [3, 13, 0]], &[[3, 10, 0], [4, 0, 0]]);
        check("3.11", &[[3, 11, 4]], &[[3, 12, 0]]);
        check("*", &[[2, 7, 18]], &[]);
        for bad in [">=", "x", ">=3.a"] {
            assert_eq!(Constraint::specifiers(bad), None, "{bad:?}");
        }
        assert_eq!(Constraint::specifiers(">=3.14,<4").and_then(|c| c.names()), Some([3, 14, 0]));
        assert_eq!(Constraint::specifiers(">= 3.10, <4").map(|c| c.to_string()), Some(">=3.10,<4".into()));
    }
}
