//! The system packages that an app's `Aptfile` names, looked up on this machine before a build.
//!
//! **Invariant:** nothing is installed: that is root's, and everybody else's on the machine.

use super::builder::Builder;
use super::runner::{Command, OnLine, Runner};
use crate::codebase;
use crate::output::Output;
use dozen_core::codebase::Source;
use dozen_core::dependencies::aptfile::{self, Installed, Wanted};
use dozen_core::processes::jail::Mount;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

const FILE: &str = "Aptfile";
/// Where Debian and what comes of it keep what is installed, and what could be.
const STATUS: &str = "/var/lib/dpkg/status";
const LISTS: &str = "/var/lib/apt/lists";

/// Packages that an app needs are not there.
#[derive(Debug, thiserror::Error)]
#[error("Aptfile names packages that this machine does not have: {}. {}", named(.missing.iter().chain(.unknown)), cure(.missing, .unknown))]
pub struct PackagesError {
    /// Those that apt may install.
    missing: Vec<Wanted>,
    /// Those that apt does not know.
    unknown: Vec<Wanted>,
}

fn named<'a>(all: impl Iterator<Item = &'a Wanted>) -> String {
    all.map(|w| format!("{} ({FILE}:{})", w.name, w.line)).collect::<Vec<_>>().join(", ")
}

fn cure(missing: &[Wanted], unknown: &[Wanted]) -> String {
    let names = |all: &[Wanted], between: &str| all.iter().map(|w| w.name.as_str()).collect::<Vec<_>>().join(between);
    let mut cures = Vec::new();
    if !missing.is_empty() {
        cures.push(format!("Install them as root, `apt install {}`, and run the command again", names(missing, " ")));
    }
    if !unknown.is_empty() {
        cures.push(format!("apt here knows nothing of {}: correct the name, or add the repository that has it", names(unknown, ", ")));
    }
    cures.join(". ")
}

/// Refuses a source whose packages are not there. The file itself was judged when the app's files were read.
pub(super) async fn check(source: &Source, exe: &Path, output: &dyn Output) -> Result<(), PackagesError> {
    let wanted = codebase::text(source, FILE).map(|text| aptfile::parse(&text).0).unwrap_or_default();
    if wanted.is_empty() {
        return Ok(());
    }
    let Ok(status) = fs::read(STATUS) else {
        let names: Vec<&str> = wanted.iter().map(|w| w.name.as_str()).collect();
        output.warning(&format!("Aptfile cannot be checked, since this is no Debian: see that the machine has {}", names.join(" ")));
        return Ok(());
    };
    let have = Installed::read(&String::from_utf8_lossy(&status));
    for (other, wanted) in wanted.iter().filter_map(|w| Some((have.other_version(w)?, w))) {
        let (name, version) = (&wanted.name, wanted.version.as_deref().unwrap_or_default());
        output.warning(&format!("Aptfile:{}: {name} is here in version {other}, not {version}", wanted.line));
    }
    let missing: Vec<Wanted> = wanted.into_iter().filter(|w| !have.has(&w.name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let known = known(&missing, exe).await;
    let (missing, unknown) = missing.into_iter().partition(|w| known.as_ref().is_none_or(|k| k.contains(&w.name)));
    Err(PackagesError { missing, unknown })
}

/// Which of these apt knows, as `apt-cache policy` lists them; `None` where apt has no lists to look into.
async fn known(all: &[Wanted], exe: &Path) -> Option<BTreeSet<String>> {
    fs::read_dir(LISTS).ok()?.flatten().find(|e| e.file_name().to_string_lossy().contains("_Packages"))?;
    let found = Arc::new(Mutex::new(BTreeSet::new()));
    let on_line: OnLine = {
        let found = found.clone();
        Arc::new(move |line| {
            if let Some(name) = line.strip_suffix(':').filter(|l| !l.starts_with(' ')) {
                found.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
            }
        })
    };
    let words = ["apt-cache", "policy", "--"].into_iter().chain(all.iter().map(|w| w.name.as_str()));
    let command = Command {
        argv: words.map(str::to_owned).collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("LC_ALL".into(), "C".into())],
        cwd: "/".into(),
        mounts: ["/var/lib/dpkg", "/var/lib/apt"].map(|f| Mount { source: f.into(), target: f.into(), writable: false }).to_vec(),
    };
    let Ok(runner) = Runner::here(exe, |apart| Ok::<_, Infallible>(Builder::stranger(apart))).await;
    let ended = runner.run(command, on_line).await.ok()?;
    ended.is_success().then(|| std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_what_to_do() {
        let of = |text: &str| aptfile::parse(text).0;
        let error = PackagesError { missing: of("ffmpeg\ngettext"), unknown: of("\n\nlibgl-1") };
        assert_eq!(
            error.to_string(),
            "Aptfile names packages that this machine does not have: ffmpeg (Aptfile:1), gettext (Aptfile:2), libgl-1 (Aptfile:3). \
             Install them as root, `apt install ffmpeg gettext`, and run the command again. \
             apt here knows nothing of libgl-1: correct the name, or add the repository that has it"
        );
    }
}
