//! What is known of each language: how its program is called, where version managers keep it, how it is asked for its facts.

use super::{Interpreter, Release};
use dozen_core::dependencies::Language;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The name of the program that is looked for.
pub(super) fn program(language: Language) -> &'static str {
    match language {
        Language::Python => "python",
        Language::Node => "node",
        Language::Go => "go",
        Language::Rust => "cargo",
        Language::Ruby => "ruby",
        // A runtime without its compiler builds nothing.
        Language::Java => "javac",
        Language::Php => "php",
    }
}

/// How one is installed, as a fragment.
pub(super) fn install(language: Language) -> &'static str {
    match language {
        Language::Python => "`apt install python3`, `uv python install` or pyenv",
        Language::Node => "`apt install nodejs npm`, nvm, fnm or mise",
        Language::Go => "`apt install golang-go`, mise, or a release of https://go.dev/dl/ unpacked into /usr/local",
        Language::Rust => "rustup (`rustup toolchain install stable`) or `apt install cargo`",
        Language::Ruby => "`apt install ruby ruby-bundler`, rbenv or mise",
        Language::Java => "`apt install default-jdk-headless maven`, SDKMAN or mise",
        Language::Php => "`apt install php-cli composer`, phpenv or mise",
    }
}

/// Where version managers keep their installations of Node, below the home.
const NODES: [&str; 8] = [
    ".nvm/versions/node",
    ".fnm/node-versions",
    ".local/share/fnm/node-versions",
    ".volta/tools/image/node",
    ".asdf/installs/nodejs",
    ".nodenv/versions",
    ".local/share/mise/installs/node",
    "n/n/versions/node",
];

/// Folders whose subfolders are installations, but for Python's.
pub(super) fn managed(language: Language, home: Option<&Path>, data: Option<&Path>) -> Vec<PathBuf> {
    let set = |name: &str, below: &str| {
        let root = std::env::var_os(name).filter(|v| !v.is_empty())?;
        Some(PathBuf::from(root).join(below))
    };
    let under_home = |path: &str| home.map(|h| h.join(path));
    let mise = |name: &str| [set("MISE_DATA_DIR", &format!("installs/{name}")), data.map(|d| d.join("mise/installs").join(name))];
    let fixed = |path: &str| Some(PathBuf::from(path));
    let folders: Vec<Option<PathBuf>> = match language {
        Language::Python => Vec::new(),
        Language::Node => {
            let own = [
                set("NVM_DIR", "versions/node"),
                set("FNM_DIR", "node-versions"),
                set("VOLTA_HOME", "tools/image/node"),
                set("ASDF_DATA_DIR", "installs/nodejs"),
                set("N_PREFIX", "n/versions/node"),
                fixed("/usr/local/n/versions/node"),
                fixed("/usr/local/lib/nodejs"),
                fixed("/opt"),
            ];
            own.into_iter().chain(mise("node")).chain(NODES.iter().map(|n| under_home(n))).collect()
        }
        Language::Go => {
            // Debian's lie in /usr/lib/go-1.22, `go install golang.org/dl/…` in ~/sdk.
            let own = [
                fixed("/usr/local"),
                fixed("/usr/lib"),
                set("ASDF_DATA_DIR", "installs/golang"),
                under_home(".asdf/installs/golang"),
                under_home("sdk"),
                under_home(".goenv/versions"),
            ];
            own.into_iter().chain(mise("go")).collect()
        }
        Language::Rust => {
            let own = [
                rustup().map(|r| r.join("toolchains")),
                set("ASDF_DATA_DIR", "installs/rust"),
                under_home(".asdf/installs/rust"),
                fixed("/usr/lib"),
            ];
            own.into_iter().chain(mise("rust")).collect()
        }
        Language::Ruby => {
            let own = [
                set("RBENV_ROOT", "versions"),
                under_home(".rbenv/versions"),
                under_home(".rvm/rubies"),
                under_home(".rubies"),
                fixed("/opt/rubies"),
                fixed("/usr/local/rvm/rubies"),
                set("ASDF_DATA_DIR", "installs/ruby"),
                under_home(".asdf/installs/ruby"),
            ];
            own.into_iter().chain(mise("ruby")).collect()
        }
        Language::Java => {
            let own = [
                fixed("/usr/lib/jvm"),
                fixed("/opt"),
                under_home(".sdkman/candidates/java"),
                under_home(".jdks"),
                under_home(".asdf/installs/java"),
            ];
            own.into_iter().chain(mise("java")).collect()
        }
        Language::Php => {
            let own = [
                under_home(".phpenv/versions"),
                under_home(".phpbrew/php"),
                set("ASDF_DATA_DIR", "installs/php"),
                under_home(".asdf/installs/php"),
            ];
            own.into_iter().chain(mise("php")).collect()
        }
    };
    folders.into_iter().flatten().collect()
}

/// Where rustup keeps its toolchains.
fn rustup() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("RUSTUP_HOME").or_else(|| Some(set("HOME")?.join(".rustup")))
}

/// What a program that only calls another one comes to outside of any app's folder; rustup's cargo is one.
pub(super) fn behind(shim: &Path) -> Option<PathBuf> {
    if shim.file_name()? != "rustup" {
        return None;
    }
    let home = rustup()?;
    let named = std::env::var("RUSTUP_TOOLCHAIN").ok().filter(|v| !v.is_empty());
    let toolchain = named.or_else(|| {
        let settings: toml::Table = std::fs::read_to_string(home.join("settings.toml")).ok()?.parse().ok()?;
        Some(settings.get("default_toolchain")?.as_str()?.to_owned())
    })?;
    std::fs::canonicalize(home.join("toolchains").join(toolchain).join("bin/cargo")).ok()
}

/// What a program says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Facts {
    implementation: String,
    version: Release,
    level: String,
    prefix: PathBuf,
    executable: PathBuf,
}

impl Facts {
    pub(super) fn interpreter(self) -> Interpreter {
        Interpreter { version: self.version, prefix: self.prefix, executable: self.executable }
    }

    /// Whether it is a release of the language's usual implementation.
    pub(super) fn is_release(&self, language: Language) -> bool {
        let implementation = if language == Language::Python { "cpython" } else { program(language) };
        self.implementation == implementation && self.level == "final"
    }

    /// Of a program that only says its version, as `go1.26.8` or `1.97.0-nightly`.
    fn of(language: Language, version: &str, executable: &Path) -> Option<Self> {
        let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
        let numbers: Vec<u32> = version[..end].split('.').filter(|n| !n.is_empty()).map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let [major, rest @ ..] = numbers.as_slice() else { return None };
        let number = |at: usize| rest.get(at).copied().unwrap_or_default();
        let release = [*major, number(0), number(1)];
        let level = if end == version.len() { "final" } else { "other" };
        let (program, folder) = (program(language).to_owned(), executable.parent()?);
        // The folder above `bin` is the installation's.
        let prefix = folder.parent().filter(|above| folder.ends_with("bin") && *above != Path::new("/")).unwrap_or(folder);
        Some(Self {
            implementation: program,
            version: release,
            level: level.into(),
            prefix: prefix.to_owned(),
            executable: executable.to_owned(),
        })
    }
}

const QUESTION: &str = "import sys, os, json; print(json.dumps(dict(\
    implementation=sys.implementation.name, version=sys.version_info[:3], level=sys.version_info[3], \
    prefix=os.path.realpath(sys.base_prefix), \
    executable=os.path.realpath(getattr(sys, '_base_executable', None) or sys.executable))))";

/// The folder above `bin` is the installation's where it looks like one; otherwise it may be anything, somebody's home too.
const NODE_QUESTION: &str = "const p = require('path'), f = require('fs'), v = process.versions.node; \
    const executable = f.realpathSync(process.execPath), bin = p.dirname(executable), above = p.dirname(bin); \
    const whole = ['lib/node_modules', 'include/node'].some(d => f.existsSync(p.join(above, d))); \
    console.log(JSON.stringify({implementation: process.release.name, version: v.split('-')[0].split('.').map(Number), \
    level: v.includes('-') ? 'other' : 'final', prefix: whole ? above : bin, executable}))";

/// A patch level below zero is a release to come.
const RUBY_QUESTION: &str = "puts \"of #{RUBY_ENGINE} #{RUBY_VERSION}#{RUBY_PATCHLEVEL < 0 ? '-dev' : ''}\"";

/// How a program is asked.
pub(super) struct Question {
    pub(super) args: &'static [&'static str],
    pub(super) env: &'static [(&'static str, &'static str)],
    /// Reads a line of the answer; the program is the one that was asked.
    pub(super) read: fn(&str, &Path) -> Option<Facts>,
}

impl Question {
    pub(super) fn of(language: Language) -> Self {
        let json = |line: &str, _: &Path| serde_json::from_str(line).ok();
        match language {
            Language::Python => Self { args: &["-I", "-S", "-c", QUESTION], env: &[], read: json },
            Language::Node => Self { args: &["-e", NODE_QUESTION], env: &[], read: json },
            // What go.mod asks for is no matter here, and nothing is to be downloaded.
            Language::Go => Self {
                args: &["version"],
                env: &[("GOTOOLCHAIN", "local")],
                read: |line, program| Facts::of(Language::Go, line.strip_prefix("go version go")?.split(' ').next()?, program),
            },
            Language::Rust => Self {
                args: &["--version"],
                env: &[],
                read: |line, program| Facts::of(Language::Rust, line.strip_prefix("cargo ")?.split(' ').next()?, program),
            },
            Language::Ruby => Self {
                args: &["--disable-gems", "-e", RUBY_QUESTION],
                env: &[],
                read: |line, program| Facts::of(Language::Ruby, line.strip_prefix("of ruby ")?, program),
            },
            // `javac 17.0.15`; of 8, `javac 1.8.0_402`.
            Language::Java => Self {
                args: &["-version"],
                env: &[],
                read: |line, program| {
                    let version = line.strip_prefix("javac ")?;
                    let version = version.strip_prefix("1.").unwrap_or(version).split('_').next()?;
                    Facts::of(Language::Java, version, program)
                },
            },
            Language::Php => Self {
                args: &["-n", "-r", "echo 'of php ', PHP_VERSION, PHP_EOL;"],
                env: &[],
                read: |line, program| {
                    // Ubuntu's is `8.1.2-1ubuntu2`, and is a release.
                    let version = line.strip_prefix("of php ")?.split("-1").next()?;
                    Facts::of(Language::Php, version.split('+').next()?, program)
                },
            },
        }
    }
}
