//! Which Go files are compiled here: by their names, and by their `//go:build` lines.

/// Systems and processors that a file's name can be for, but for Linux: of processors any may be this machine's.
const ELSEWHERE: [&str; 14] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "ios",
    "js",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
];

/// Go's word for this machine's processor.
const PROCESSOR: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// Whether a file of this name is compiled on Linux.
pub(super) fn by_name(name: &str) -> bool {
    let stem = name.strip_suffix(".go").unwrap_or(name);
    !stem.split('_').skip(1).any(|part| ELSEWHERE.contains(&part) || part == "wasm")
}

/// The package that a file is of; `None` where it is not compiled here.
pub(super) fn package(text: &str) -> Option<String> {
    let mut comment = false;
    for line in text.lines().map(str::trim) {
        if comment {
            comment = !line.contains("*/");
        } else if let Some(expression) = line.strip_prefix("//go:build ") {
            if !holds(expression) {
                return None;
            }
        } else if line.starts_with("// +build ignore") {
            return None;
        } else if let Some(rest) = line.strip_prefix("/*") {
            comment = !rest.contains("*/");
        } else if let Some(rest) = line.strip_prefix("package ") {
            return rest.split(|c: char| !c.is_alphanumeric() && c != '_').find(|w| !w.is_empty()).map(str::to_owned);
        }
    }
    None
}

/// Whether a constraint holds on Linux. What cannot be read holds: the compiler says what is wrong with it.
fn holds(expression: &str) -> bool {
    let spaced = ["(", ")", "!", "&&", "||"].iter().fold(expression.to_owned(), |text, sign| text.replace(sign, &format!(" {sign} ")));
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    either(&words, &mut at).unwrap_or(true)
}

fn either(words: &[&str], at: &mut usize) -> Option<bool> {
    let mut value = both(words, at)?;
    while words.get(*at) == Some(&"||") {
        *at += 1;
        value |= both(words, at)?;
    }
    Some(value)
}

fn both(words: &[&str], at: &mut usize) -> Option<bool> {
    let mut value = one(words, at)?;
    while words.get(*at) == Some(&"&&") {
        *at += 1;
        value &= one(words, at)?;
    }
    Some(value)
}

fn one(words: &[&str], at: &mut usize) -> Option<bool> {
    // An odd number of signs turns it round; a loop, so that no length of them is too deep.
    let mut turned = false;
    while words.get(*at) == Some(&"!") {
        *at += 1;
        turned = !turned;
    }
    let word = *words.get(*at)?;
    *at += 1;
    let value = match word {
        "(" if words.len() <= 1_000 => {
            let value = either(words, at)?;
            if words.get(*at) != Some(&")") {
                return None;
            }
            *at += 1;
            value
        }
        "(" | ")" | "&&" | "||" => return None,
        "linux" | "unix" | "gc" | "cgo" => true,
        tag => tag.starts_with("go1.") || tag == PROCESSOR,
    };
    Some(value != turned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_are_gos() {
        for (text, want) in [
            ("package main\n", Some("main")),
            ("// Tool.\n\n/* more\npackage no\n*/\npackage main // ok\n", Some("main")),
            ("//go:build ignore\n\npackage main\n", None),
            ("// +build ignore\n\npackage main\n", None),
            ("//go:build linux && !ignore\npackage main\n", Some("main")),
            ("//go:build windows || (darwin && cgo)\npackage main\n", None),
            ("//go:build !windows\npackage x_test\n", Some("x_test")),
            ("//go:build (go1.18\npackage main\n", Some("main")),
            ("", None),
        ] {
            assert_eq!(package(text).as_deref(), want, "{text}");
        }
        assert!(by_name("main.go") && by_name("main_linux.go") && by_name("windows.go") && by_name("x_amd64.go"));
        assert!(!by_name("main_windows.go") && !by_name("x_darwin_arm64.go") && !by_name("x_js_wasm.go"));
    }

    proptest::proptest! {
        #[test]
        fn no_file_makes_it_panic(text in "(//go:build )?[ !()&|a-z/*\n]{0,60}") {
            let _ = package(&text);
        }
    }
}
