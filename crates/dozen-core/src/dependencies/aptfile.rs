//! `Aptfile`: the system packages that an app needs, as Heroku's apt buildpack reads them.

use crate::diagnostic::{Diagnostic, Severity, excerpt};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A package that an app names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `libpq-dev`
    pub name: String,
    /// `15.3-1`, perhaps with a `*` at its end; `None` for any.
    pub version: Option<String>,
    /// Where it stands, counted from 1.
    pub line: usize,
}

/// A word of dpkg's: lower-case letters, digits, `+`, `-` and `.`, two at least.
fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    name.len() >= 2 && name.bytes().all(allowed) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Reads it: packages by white space, `name=version`, `name:arch`, `name/suite`; `:repo:` lines and the addresses of `.deb` files.
pub fn parse(text: &str) -> (Vec<Wanted>, Vec<Diagnostic>) {
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut remarks = Vec::new();
    let mut start = 0;
    for (index, raw) in text.split_inclusive('\n').enumerate() {
        let at = start;
        start += raw.len();
        let line = raw.strip_prefix('\u{feff}').filter(|_| index == 0).unwrap_or(raw).trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = |word: &str| -> Range<usize> {
            let from = at + (word.as_ptr() as usize - raw.as_ptr() as usize);
            from..from + word.len()
        };
        if line.starts_with(":repo:") {
            let message = "package repositories are not added by dozen";
            remarks.push(Diagnostic::at(Severity::Warning, text, place(line), message).help("Add it to this machine's apt yourself."));
            continue;
        }
        for word in line.split_whitespace() {
            if word.starts_with('#') {
                break;
            }
            let mut remark = |message: String, help: &str| {
                remarks.push(Diagnostic::at(Severity::Error, text, place(word), message).help(help));
            };
            let is_file = std::path::Path::new(word).extension().is_some_and(|e| e == "deb");
            let (name, version) = if is_file {
                // As archives name their files: `name_version_arch.deb`.
                let file = word.rsplit('/').next().unwrap_or(word);
                (file.split(['_', '%']).next().unwrap_or(file).trim_end_matches(".deb"), None)
            } else {
                let (name, version) = word.split_once('=').map_or((word, None), |(n, v)| (n, Some(v)));
                let name = name.split_once('/').map_or(name, |(n, _)| n);
                (name.split_once(':').map_or(name, |(n, _)| n), version)
            };
            if !is_name(name) {
                let near = name.to_ascii_lowercase();
                let help = if is_name(&near) {
                    "Debian's names are lower case."
                } else {
                    "One package a line; a line that begins with # is a comment."
                };
                remark(format!("`{}` is not the name of a package", excerpt(word)), help);
                continue;
            }
            if version.is_some_and(|v| v.is_empty() || !v.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.~:*".contains(&b))) {
                remark(format!("`{}` is not a version of a package", excerpt(word)), "");
                continue;
            }
            if !wanted.iter().any(|w| w.name == name) {
                wanted.push(Wanted { name: name.to_owned(), version: version.map(str::to_owned), line: index + 1 });
            }
        }
    }
    (wanted, remarks)
}

/// What a machine has, as dpkg's status file tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    versions: BTreeMap<String, String>,
    provided: BTreeSet<String>,
}

impl Installed {
    /// Reads `/var/lib/dpkg/status`.
    pub fn read(status: &str) -> Self {
        let mut all = Self::default();
        for paragraph in status.split("\n\n") {
            let field = |name: &str| {
                let of = |line: &'_ str| line.strip_prefix(name).and_then(|l| l.strip_prefix(": ")).map(|v| v.trim().to_owned());
                paragraph.lines().find_map(of)
            };
            // `install ok installed`; one that was removed and left its settings is there no more.
            if !field("Status").is_some_and(|s| s.ends_with(" installed")) {
                continue;
            }
            if let Some(name) = field("Package") {
                all.versions.insert(name, field("Version").unwrap_or_default());
            }
            let provided = field("Provides").unwrap_or_default();
            let names = provided.split(',').filter_map(|p| p.split([' ', '(', ':']).find(|w| !w.is_empty()));
            all.provided.extend(names.map(str::to_owned));
        }
        all
    }

    /// Whether a package is there, by its own name or provided by another.
    pub fn has(&self, name: &str) -> bool {
        self.versions.contains_key(name) || self.provided.contains(name)
    }

    /// The version that is there in place of the one that is wanted.
    pub fn other_version(&self, wanted: &Wanted) -> Option<&str> {
        let (have, want) = (self.versions.get(&wanted.name)?, wanted.version.as_deref()?);
        let same = match want.split_once('*') {
            Some((start, _)) => have.starts_with(start),
            None => have == want,
        };
        (!same).then_some(have)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read() {
        let text = "\u{feff}# ours\nlibpq-dev\r\n\n  ffmpeg  gettext # for film\n:repo:deb https://host/ x main\nlibfoo=1.2-3*\nlibbar:amd64\nlibpq-dev\n\
            https://host/pool/wkhtmltox_0.12.6-1_amd64.deb\nlibstdc++6/stable";
        let (wanted, remarks) = parse(text);
        let told: Vec<String> = wanted
            .iter()
            .map(|w| format!("{}:{}{}", w.line, w.name, w.version.as_deref().map(|v| format!(" {v}")).unwrap_or_default()))
            .collect();
        assert_eq!(told, ["2:libpq-dev", "4:ffmpeg", "4:gettext", "6:libfoo 1.2-3*", "7:libbar", "9:wkhtmltox", "10:libstdc++6"]);
        let remarks: Vec<String> = remarks.iter().map(ToString::to_string).collect();
        assert_eq!(remarks, ["5:1: package repositories are not added by dozen"]);
    }

    #[test]
    fn rubbish_is_refused_by_place() {
        let (wanted, remarks) = parse("good\n  Bad\n--option x\nx=\n$(rm)\n");
        assert_eq!(wanted.len(), 1);
        let told: Vec<String> = remarks.iter().map(|r| format!("{r}. {}", r.help)).collect();
        assert_eq!(
            told,
            [
                "2:3: `Bad` is not the name of a package. Debian's names are lower case.",
                "3:1: `--option` is not the name of a package. One package a line; a line that begins with # is a comment.",
                "3:10: `x` is not the name of a package. One package a line; a line that begins with # is a comment.",
                "4:1: `x=` is not the name of a package. One package a line; a line that begins with # is a comment.",
                "5:1: `$(rm)` is not the name of a package. One package a line; a line that begins with # is a comment.",
            ]
        );
    }

    #[test]
    fn what_is_installed_is_told() {
        let status = "Package: mawk\nStatus: install ok installed\nProvides: awk, x (= 1),\nVersion: 1.3.4-1\nDescription: x\n Package: no\n\n\
            Package: gone\nStatus: deinstall ok config-files\nProvides: lost\n\nPackage: held\nStatus: hold ok installed\nVersion: 2\n";
        let have = Installed::read(status);
        let there: Vec<&str> = ["mawk", "awk", "x", "held", "gone", "lost", "no"].into_iter().filter(|n| have.has(n)).collect();
        assert_eq!(there, ["mawk", "awk", "x", "held"]);
        let other = |word: &str| have.other_version(&parse(word).0[0]).map(str::to_owned);
        assert_eq!((other("mawk=1.3*"), other("mawk=1.3.4-1"), other("mawk"), other("awk=2")), (None, None, None, None));
        assert_eq!(other("mawk=1.3.4"), Some("1.3.4-1".into()));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[\u{feff}a-zA-Z:#=/._%\\n\\r é-]{0,60}") {
            let (wanted, _) = parse(&text);
            proptest::prop_assert!(wanted.iter().all(|w| is_name(&w.name)));
            Installed::read(&text);
        }
    }
}
