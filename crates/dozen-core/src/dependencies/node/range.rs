//! Which Node versions a source admits: npm's ranges, and the names that nvm gives to lines of releases.

use nodejs_semver::{Range as Semver, Version};
use std::fmt;

/// A release: major, minor, patch.
pub type Release = [u32; 3];

/// Names of lines with long-term support.
const LINES: [(&str, u64); 9] = [
    ("erbium", 12),
    ("fermium", 14),
    ("gallium", 16),
    ("hydrogen", 18),
    ("iron", 20),
    ("jod", 22),
    ("krypton", 24),
    ("dubnium", 10),
    ("carbon", 8),
];

/// Which versions will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// As it is written.
    text: String,
    admits: Admits,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Admits {
    Any,
    /// Lines with long-term support have even numbers.
    Supported,
    Semver(Semver),
}

impl Range {
    /// Any version.
    pub fn any() -> Self {
        Self { text: "any version".into(), admits: Admits::Any }
    }

    /// Reads `engines.node`, `.nvmrc`, `.node-version` and `--use-node`: `20.x`, `>=18 <21`, `^18 || ^20`, `lts/*`, `lts/iron`, `v20.1.0`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let lower = text.to_ascii_lowercase();
        let lower = lower.strip_prefix("node@").or_else(|| lower.strip_prefix("node-")).unwrap_or(&lower);
        let admits = match lower {
            "" | "*" | "x" | "node" | "stable" | "current" | "latest" | "system" => Admits::Any,
            "lts" | "lts/*" | "--lts" => Admits::Supported,
            line => match line.strip_prefix("lts/").map(|name| LINES.iter().find(|(n, _)| *n == name)) {
                Some(known) => Admits::Semver(Semver::parse(format!("{}.x", known?.1)).ok()?),
                None => Admits::Semver(Semver::parse(line).ok()?),
            },
        };
        Some(Self { text: text.to_owned(), admits })
    }

    /// Whether this version will do.
    pub fn admits(&self, [major, minor, patch]: Release) -> bool {
        match &self.admits {
            Admits::Any => true,
            Admits::Supported => major.is_multiple_of(2),
            Admits::Semver(range) => range.satisfies(&Version::from((u64::from(major), u64::from(minor), u64::from(patch)))),
        }
    }

    /// Whether nothing is asked for.
    pub fn is_any(&self) -> bool {
        self.admits == Admits::Any
    }

    /// The lowest release that it admits: what is meant, where nothing that it admits can be had.
    pub fn names(&self) -> Option<Release> {
        let Admits::Semver(range) = &self.admits else { return None };
        let lowest = range.min_version()?;
        let number = |n: u64| u32::try_from(n).ok();
        Some([number(lowest.major())?, number(lowest.minor())?, number(lowest.patch())?])
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_npms() {
        let check = |text: &str, yes: &[Release], no: &[Release]| {
            let range = Range::parse(text).expect(text);
            assert!(yes.iter().all(|v| range.admits(*v)) && !no.iter().any(|v| range.admits(*v)), "{text}");
        };
        check("20.x", &[[20, 0, 0], [20, 20, 2]], &[[18, 20, 0], [21, 0, 0]]);
        check(">=18 <21", &[[18, 0, 0], [20, 9, 9]], &[[17, 9, 9], [21, 0, 0]]);
        check("^18 || ^20", &[[18, 1, 0], [20, 1, 0]], &[[19, 0, 0], [21, 0, 0]]);
        check("18 - 20", &[[18, 0, 0], [20, 19, 0]], &[[21, 0, 0]]);
        check("~20.3", &[[20, 3, 9]], &[[20, 4, 0]]);
        check(">= 18.17.0", &[[18, 17, 0], [24, 0, 0]], &[[18, 16, 9]]);
        check("v20.1.0\n", &[[20, 1, 0]], &[[20, 1, 1]]);
        check("v20", &[[20, 1, 0]], &[[22, 1, 1]]);
        check("20", &[[20, 11, 1]], &[[2, 0, 0], [200, 0, 0]]);
        check("lts/*", &[[22, 1, 0]], &[[23, 1, 0]]);
        check("lts/Iron", &[[20, 1, 0]], &[[22, 1, 0]]);
        check("*", &[[14, 0, 0]], &[]);
        check("node", &[[23, 0, 0]], &[]);
        for bad in ["lts/none", "iojs", ">=a", "my version"] {
            assert_eq!(Range::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Range::parse(">=22.3 <23").and_then(|r| r.names()), Some([22, 3, 0]));
    }
}
