//! npm, pnpm or yarn, and which version of it: by lock file, and by what package.json says of it.

use super::KNOWN_BY;
use super::manifest::Manifest;
use super::range::Range;
use crate::codebase::Source;
use crate::dependencies::PlanError;

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// The one that comes with Node.
    Npm,
    /// pnpm.
    Pnpm,
    /// yarn of the first line.
    Yarn,
    /// yarn 2 and later.
    Berry,
}

/// Where a package manager is had from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// Node brings it.
    Own,
    /// npm fetches it once.
    Fetched {
        /// The package on the registry.
        package: &'static str,
        /// Exactly.
        version: String,
    },
    /// It is in the source.
    Vendored(String),
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) manager: Manager,
    pub(super) program: Program,
    /// The lock file, where there is one.
    pub(super) lock: Option<&'static str>,
    pub(super) notes: Vec<String>,
}

/// Lock files and whose they are.
const LOCKS: [(&str, Manager); 4] = [
    ("npm-shrinkwrap.json", Manager::Npm),
    ("package-lock.json", Manager::Npm),
    ("pnpm-lock.yaml", Manager::Pnpm),
    ("yarn.lock", Manager::Yarn),
];
const BUN: [&str; 2] = ["bun.lock", "bun.lockb"];

/// The releases that are fetched where an app names none: all run on Node 20, but for the last. By the format of the lock that they read.
const PNPM: [(&str, &[&str]); 4] = [("9.", &["10.34.9", "9.15.9"]), ("6.", &["8.15.9"]), ("5.4", &["7.33.7"]), ("5.", &["6.35.1"])];
const YARN: &str = "1.22.22";
/// Of npm no release is fetched: this is an example.
const NPM: &str = "10.9.2";
/// Of yarn 2 and later, by the least format of the lock.
const BERRY: [(u32, &str); 3] = [(8, "4.18.1"), (5, "3.8.7"), (0, "2.4.2")];

impl Manager {
    /// What its program is called.
    pub fn command(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Pnpm => "pnpm",
            Self::Yarn | Self::Berry => "yarn",
        }
    }
}

/// What package.json says to name one.
fn example(manager: Manager) -> String {
    match manager {
        Manager::Npm => format!("npm@{NPM}"),
        Manager::Pnpm => format!("pnpm@{}", PNPM[0].1[0]),
        Manager::Yarn | Manager::Berry => format!("yarn@{YARN}"),
    }
}

/// Decides.
pub(super) fn choose(source: &Source, read: &dyn Fn(&str) -> Option<String>, root: &Manifest) -> Result<Chosen, PlanError> {
    let named = root
        .text("packageManager")
        .and_then(|p| p.split_once('@'))
        .map(|(name, version)| (name, version.split('+').next().unwrap_or(version)));
    let present: Vec<(&'static str, Manager)> = LOCKS.into_iter().filter(|(file, _)| source.has(file)).collect();
    let bun = BUN.into_iter().find(|f| source.has(f));
    let mut notes = Vec::new();
    let command = |m: Manager| m.command();
    // An app of bun's may have a lock file of npm's beside its own.
    if let (Some((name, version)), Some((_, manager))) = (named.filter(|(n, _)| *n != "bun"), present.last())
        && !present.iter().any(|(_, m)| command(*m) == name)
    {
        let files: Vec<&str> = present.iter().map(|(f, _)| *f).collect();
        return Err(unusable(
            KNOWN_BY,
            &format!("its packageManager is {name}@{version}, and there is no lock file of {name}'s, but {}", files.join(" and ")),
            &format!(
                "Name the manager whose lock file is there, as in `\"packageManager\": \"{}\"`, or run `{name} install`, commit the lock file that it makes, and remove {}",
                example(*manager),
                files.join(" and ")
            ),
        ));
    }
    let (lock, manager) = match present.as_slice() {
        [] => match bun {
            Some(bun) => {
                return Err(unusable(
                    bun,
                    "apps that bun installs are not built yet",
                    "Make a lock file of npm's beside it, with `npm install --package-lock-only`, and commit it",
                ));
            }
            None => {
                if let Some((name @ ("pnpm" | "yarn"), _)) = named {
                    notes.push(format!("There is no lock file of {name}: npm resolves the dependencies"));
                }
                (None, Manager::Npm)
            }
        },
        // A shrinkwrap is package-lock.json under another name, and npm prefers it.
        [one] | [one @ (_, Manager::Npm), (_, Manager::Npm)] => (Some(one.0), one.1),
        several => {
            let files: Vec<&str> = several.iter().map(|(f, _)| *f).collect();
            let Some(own) = named.and_then(|(name, _)| several.iter().find(|(_, m)| command(*m) == name)) else {
                let (kept, manager) = several[several.len() - 1];
                let others: Vec<&str> = files.iter().copied().filter(|f| *f != kept).collect();
                return Err(unusable(
                    &files.join(" and "),
                    "they are lock files of several package managers, and nothing says which is meant",
                    &format!(
                        "Remove those that are not kept up to date, or name the manager in package.json: with `\"packageManager\": \"{}\"` {kept} is \
                         used and {} not",
                        example(manager),
                        others.join(", ")
                    ),
                ));
            };
            let others: Vec<&str> = files.iter().copied().filter(|f| *f != own.0).collect();
            notes.push(format!("{} is used, as package.json's packageManager says; {} is not", own.0, others.join(", ")));
            (Some(own.0), own.1)
        }
    };
    if let (Some(bun), Some(lock)) = (bun, lock) {
        notes.push(format!("{lock} is used; {bun} is not"));
    }
    let version = named.filter(|(name, _)| *name == command(manager)).map(|(_, v)| v).filter(|v| plain(v));
    let text = lock.and_then(read).unwrap_or_default();
    let (manager, program) = match manager {
        Manager::Npm => (manager, Program::Own),
        Manager::Pnpm => (manager, pnpm(&text, version, root)?),
        Manager::Yarn | Manager::Berry => yarn(&text, version, source, read, &mut notes),
    };
    Ok(Chosen { manager, program, lock, notes })
}

/// A version that npm takes as one, and a path as a part of one.
fn plain(version: &str) -> bool {
    version.starts_with(|c: char| c.is_ascii_digit()) && version.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b))
}

fn pnpm(lock: &str, named: Option<&str>, root: &Manifest) -> Result<Program, PlanError> {
    let fetched = |version: &str| Program::Fetched { package: "pnpm", version: version.to_owned() };
    if let Some(version) = named {
        return Ok(fetched(version));
    }
    let format = lock.lines().find_map(|l| l.strip_prefix("lockfileVersion:")).unwrap_or_default().trim().trim_matches(['\'', '"']);
    let Some((_, releases)) = PNPM.iter().find(|(start, _)| format.starts_with(start)) else {
        return Err(unusable(
            "pnpm-lock.yaml",
            &format!("no pnpm known here reads its lockfileVersion, {format:?}"),
            "Name the one that does in package.json, as in `\"packageManager\": \"pnpm@10.34.9\"`",
        ));
    };
    // pnpm refuses to work where this does not admit it.
    let wanted = root.within("engines", "pnpm").and_then(Range::parse);
    let admitted = |v: &&&str| wanted.as_ref().is_none_or(|w| numbers(v).is_some_and(|n| w.admits(n)));
    Ok(fetched(releases.iter().find(admitted).unwrap_or(&releases[0])))
}

fn numbers(version: &str) -> Option<[u32; 3]> {
    let mut parts = version.split('.').map(|n| n.parse().ok());
    Some([parts.next()??, parts.next()??, parts.next()??])
}

fn yarn(
    lock: &str,
    named: Option<&str>,
    source: &Source,
    read: &dyn Fn(&str) -> Option<String>,
    notes: &mut Vec<String>,
) -> (Manager, Program) {
    let value = |file: &str, key: &str| {
        let text = read(file).filter(|_| source.has(file))?;
        let found =
            text.lines().find_map(|l| l.strip_prefix(key))?.trim_start_matches([':', ' ']).trim().trim_matches(['\'', '"']).to_owned();
        (!found.is_empty()).then_some(found)
    };
    let Some(format) = lock.lines().skip_while(|l| !l.starts_with("__metadata:")).find_map(|l| l.trim().strip_prefix("version:")) else {
        let vendored = value(".yarnrc", "yarn-path").map(|p| p.trim_start_matches("./").to_owned()).filter(|p| source.has(p));
        let version = named.filter(|v| v.starts_with("1.")).unwrap_or(YARN);
        return (Manager::Yarn, vendored.map_or_else(|| Program::Fetched { package: "yarn", version: version.into() }, Program::Vendored));
    };
    let linker = value(".yarnrc.yml", "nodeLinker");
    if linker.as_deref().is_none_or(|l| l == "pnp") {
        notes.push("Plug'n'Play is not used: packages are installed into node_modules".into());
    }
    if let Some(vendored) = value(".yarnrc.yml", "yarnPath").map(|p| p.trim_start_matches("./").to_owned()).filter(|p| source.has(p)) {
        return (Manager::Berry, Program::Vendored(vendored));
    }
    let format: u32 = format.trim().parse().unwrap_or(8);
    let own = BERRY.iter().find(|(least, _)| format >= *least).map_or(BERRY[0].1, |(_, v)| v);
    let version = named.filter(|v| !v.starts_with("1.")).unwrap_or(own);
    (Manager::Berry, Program::Fetched { package: "@yarnpkg/cli-dist", version: version.into() })
}

pub(super) fn unusable(file: &str, problem: &str, cure: &str) -> PlanError {
    PlanError::File { file: file.into(), problem: problem.into(), cure: cure.into() }
}
