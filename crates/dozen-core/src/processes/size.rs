//! The size of an instance: how much memory it may use, and what follows from that for processors and numbers of processes.
//!
//! **Invariant:** a size is printed as it can be read back, and two ways to write the same size are equal.

use crate::diagnostic::{did_you_mean, excerpt};
use std::fmt;
use std::str::FromStr;

/// The size of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(Memory);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Memory {
    /// So many mebibytes.
    Mebibytes(u64),
    /// As much as there is. Said where the app declares a size and this deploy shall have none.
    Unlimited,
}

/// Why a word is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a word of the syntax.
    #[error("`{0}` is not a size: write `512M` or `1.5G`, `unlimited`, or one of Heroku's such as `standard-1x`{1}")]
    Syntax(String, String),
    /// A number that nobody means.
    #[error("`{0}` is no size that an instance can have: from {LEAST}M to {MOST_G}G")]
    Range(String),
}

/// Less than this no program lives in.
const LEAST: u64 = 16;
const MOST_G: u64 = 4096;
const MIB: u64 = 1 << 20;
const UNLIMITED: &str = "unlimited";

/// Heroku's names, so that an app.json that was written for it means here what it means there; in mebibytes.
const HEROKU: [(&str, u64); 15] = [
    ("free", 512),
    ("eco", 512),
    ("hobby", 512),
    ("basic", 512),
    ("standard-1x", 512),
    ("standard-2x", 1024),
    ("private-s", 1024),
    ("private-m", 2560),
    ("private-l", 14 * 1024),
    ("performance-m", 2560),
    ("performance-l", 14 * 1024),
    ("performance-l-ram", 30 * 1024),
    ("performance-xl", 62 * 1024),
    ("performance-2xl", 126 * 1024),
    ("performance", 14 * 1024),
];

/// What an instance without a size has of the processors, relative to others. The kernel's own default.
const USUAL_WEIGHT: u32 = 100;
/// The size that has the usual weight; twice the memory has twice the weight.
const USUAL: u64 = 512;
/// So many processes and threads may every instance have; a fork bomb ends there.
const USUAL_TASKS: u32 = 2048;

/// What the host holds an instance to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory: above it R14, at one and a half times R15. `None`: as much as there is.
    pub memory: Option<u64>,
    /// Its part of the processors when they are short: 100 is usual.
    pub weight: u32,
    /// Processes and threads.
    pub tasks: u32,
}

impl Limits {
    /// Of a size, or of none.
    pub fn of(size: Option<Size>) -> Self {
        let Some(Size(Memory::Mebibytes(m))) = size else {
            return Self { memory: None, weight: USUAL_WEIGHT, tasks: USUAL_TASKS };
        };
        let weight = (m * u64::from(USUAL_WEIGHT)).div_ceil(USUAL).clamp(1, 10_000);
        // Two for each mebibyte, where that is more.
        let tasks = (2 * m).clamp(u64::from(USUAL_TASKS), 1 << 16);
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Self { memory: Some(m * MIB), weight: number(weight), tasks: number(tasks) }
    }
}

/// The bytes at which an instance of so many is killed: half as many again.
pub fn vast(memory: u64) -> u64 {
    memory.saturating_add(memory / 2)
}

/// What the log says of an instance that uses more than its size, in Heroku's words; where it uses `vastly` more, that is its end.
pub fn exceeded(used: u64, memory: u64, vastly: bool) -> [String; 2] {
    let percent = 100.0 * used as f64 / memory.max(1) as f64;
    let error = if vastly { "Error R15 (Memory quota vastly exceeded)" } else { "Error R14 (Memory quota exceeded)" };
    [format!("Process running mem={}M({percent:.1}%)", used / MIB), error.to_owned()]
}

/// What the log says of an instance that has as many processes as it may.
pub fn crowded(most: u32) -> String {
    format!(
        "Refused to start another process: {most} processes and threads are this instance's limit. A size beyond 1G has more, two for each MiB"
    )
}

impl Size {
    /// As much as there is.
    pub const UNLIMITED: Self = Self(Memory::Unlimited);
}

impl FromStr for Size {
    type Err = SizeError;

    /// Reads `512M`, `512MB`, `1.5G`, `unlimited` and Heroku's names, in upper or lower case.
    fn from_str(word: &str) -> Result<Self, SizeError> {
        let lower = word.to_ascii_lowercase();
        if lower == UNLIMITED {
            return Ok(Self::UNLIMITED);
        }
        if let Some((_, mebibytes)) = HEROKU.iter().find(|(name, _)| *name == lower) {
            return Ok(Self(Memory::Mebibytes(*mebibytes)));
        }
        let syntax = || {
            let names = HEROKU.iter().map(|(name, _)| *name).chain([UNLIMITED]);
            SizeError::Syntax(excerpt(word), did_you_mean(&lower, names).replacen('D', "; d", 1))
        };
        let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
        let (number, unit) = lower.split_at(digits);
        let unit = match unit {
            "m" | "mb" | "mib" => 1.0,
            "g" | "gb" | "gib" => 1024.0,
            _ => return Err(syntax()),
        };
        let number = number.parse::<f64>().ok().filter(|_| number.starts_with(|c: char| c.is_ascii_digit())).ok_or_else(syntax)?;
        let mebibytes = (number * unit).round();
        if !(LEAST as f64..=(MOST_G * 1024) as f64).contains(&mebibytes) {
            return Err(SizeError::Range(excerpt(word)));
        }
        Ok(Self(Memory::Mebibytes(mebibytes as u64)))
    }
}

impl fmt::Display for Size {
    /// `512M`, `1G`, `2560M`, `unlimited`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Memory::Unlimited => f.write_str(UNLIMITED),
            Memory::Mebibytes(m) if m % 1024 == 0 => write!(f, "{}G", m / 1024),
            Memory::Mebibytes(m) => write!(f, "{m}M"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (word, want) in [
            ("512M", "512M"),
            ("512mb", "512M"),
            ("0.5G", "512M"),
            ("1024MiB", "1G"),
            ("1g", "1G"),
            ("2.5G", "2560M"),
            ("standard-1x", "512M"),
            ("Standard-2X", "1G"),
            ("basic", "512M"),
            ("performance-m", "2560M"),
            ("Unlimited", "unlimited"),
        ] {
            assert_eq!(word.parse::<Size>().map(|s| s.to_string()).as_deref(), Ok(want), "{word}");
        }
        for word in ["", "512", "M", "G", ".5G", "1..5G", "1.5", "512K", "1T", "huge", "-1G", "1 G", "1e3M", "٣G"] {
            assert!(matches!(word.parse::<Size>(), Err(SizeError::Syntax(..))), "{word}");
        }
        for word in ["0M", "15M", "5000G", "99999999999999999999G"] {
            assert!(matches!(word.parse::<Size>(), Err(SizeError::Range(_))), "{word}");
        }
        let error = "standard1x".parse::<Size>().map_err(|e| e.to_string());
        assert!(error.as_ref().is_err_and(|e| e.ends_with("; did you mean `standard-1x`?")), "{error:?}");
    }

    #[test]
    fn limits_grow_with_the_size() {
        let of = |word: &str| Limits::of(Some(word.parse().expect("a size")));
        let none = Limits { memory: None, weight: 100, tasks: 2048 };
        assert_eq!((Limits::of(None), of("unlimited")), (none, none));
        assert_eq!(of("512M"), Limits { memory: Some(512 << 20), ..none });
        assert_eq!(of("16M"), Limits { memory: Some(16 << 20), weight: 4, tasks: 2048 });
        assert_eq!(of("2.5G"), Limits { memory: Some(2560 << 20), weight: 500, tasks: 5120 });
        assert_eq!(of("4096G"), Limits { memory: Some(4 << 40), weight: 10_000, tasks: 65_536 });
        assert_eq!(vast(512 << 20), 768 << 20);
    }

    #[test]
    fn too_much_is_told_as_heroku_does() {
        let lines = |used: u64, vastly| exceeded(used << 20, 512 << 20, vastly).join("\n");
        assert_eq!(lines(527, false), "Process running mem=527M(102.9%)\nError R14 (Memory quota exceeded)");
        assert_eq!(lines(768, true), "Process running mem=768M(150.0%)\nError R15 (Memory quota vastly exceeded)");
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(mebibytes in LEAST..=MOST_G * 1024) {
            let size = Size(Memory::Mebibytes(mebibytes));
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn nothing_makes_it_panic(word in ".{0,12}") {
            let _ = word.parse::<Size>();
        }
    }
}
