//! uv, which does the installing: the machine's own where it is new enough, else one release of it, known by its hashes, that the
//! machine's pip fetches once.

use super::interpreters::{Found, Interpreter};
use super::runner::Command;
use super::stage::Stage;
use crate::home::Home;
use crate::release::scratch::Scratch;
use crate::release::store::{Known, cure, settle};
use dozen_core::processes::jail::Mount;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The release that is fetched.
const VERSION: &str = "0.13.9";
/// The oldest release that knows every option used here.
const OLDEST: [u32; 2] = [0, 10];
/// sha256 of its wheels for Linux: x86_64 and aarch64, glibc and musl.
const HASHES: [&str; 4] = [
    "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
    "2c45530751517d6c3bbc69a19473f6effe47cce047bede01ffd8af7ea7b36b25",
    "ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375",
    "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
];

/// A uv that can be run.
#[derive(Debug, Clone)]
pub(super) struct Uv {
    /// The program.
    pub(super) program: PathBuf,
    /// `0.13.9`
    pub(super) version: String,
}

/// Why there is no uv.
#[derive(Debug, thiserror::Error)]
pub enum UvError {
    /// No interpreter has pip.
    #[error("uv is not installed, and no Python here has pip to fetch it with. Install uv, or pip (`apt install python3-pip`)")]
    NoPip,
    /// pip could not.
    #[error(
        "uv is not installed, and pip could not fetch it:\n{said}\nInstall uv, or give pip access to a package index (PIP_INDEX_URL, HTTPS_PROXY)"
    )]
    Fetch {
        /// The last lines of what it said.
        said: String,
    },
    /// Its folder cannot be written.
    #[error("cannot write {}{}", path.display(), cure(source))]
    Write {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Uv {
    /// Finds or fetches it.
    pub(super) async fn get(home: &Home, found: &Found, stage: &Stage<'_>, on_fetch: &(dyn Fn() + Send + Sync)) -> Result<Self, UvError> {
        if let Some(uv) = on_path(found, stage).await {
            return Ok(uv);
        }
        let kept = home.tools().join(format!("uv-{VERSION}"));
        let program = kept.join("bin/uv");
        if !program.is_file() {
            on_fetch();
            fetch(&kept, &home.tools(), found, stage).await?;
        }
        // Programs of the build see it by its real path.
        let program = fs::canonicalize(&program).map_err(|source| UvError::Write { path: program, source })?;
        Ok(Self { program, version: VERSION.into() })
    }
}

async fn on_path(found: &Found, stage: &Stage<'_>) -> Option<Uv> {
    let path = std::env::var_os("PATH")?;
    // A version manager's shim is a script of its own; the program lies beside the Python that it was installed with.
    let beside = found.all.iter().filter_map(|i| i.executable.parent()).map(Path::to_owned);
    let programs = std::env::split_paths(&path).filter(|d| d.is_absolute()).chain(beside).map(|d| d.join("uv"));
    let program = programs.filter_map(|p| fs::canonicalize(p).ok()).find(|p| is_program(p))?;
    let said = Arc::new(Mutex::new(String::new()));
    let sink = said.clone();
    let argv = vec![program.to_str()?.to_owned(), "--version".into()];
    let command = Command { argv, env: Vec::new(), cwd: "/".into(), mounts: Stage::read_only(&program).into_iter().collect() };
    let on_line = Arc::new(move |line: &str| {
        if let Ok(mut said) = sink.lock() {
            said.push_str(line);
        }
    });
    let status = stage.run(command, on_line).await.ok()?;
    let said = said.lock().ok()?.clone();
    let version = said.split_whitespace().nth(1)?.to_owned();
    let mut numbers = version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let release = [numbers.next()?, numbers.next()?];
    (status.is_success() && said.starts_with("uv ") && release >= OLDEST).then_some(Uv { program, version })
}

fn is_program(path: &Path) -> bool {
    let mut head = [0; 4];
    fs::File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut head)).is_ok() && &head == b"\x7fELF"
}

async fn fetch(place: &Path, tools: &Path, found: &Found, stage: &Stage<'_>) -> Result<(), UvError> {
    let failed = |source| UvError::Write { path: tools.to_owned(), source };
    let scratch = Scratch::new(tools).map_err(failed)?;
    let list = scratch.path().join("requirements.txt");
    let hashes: String = HASHES.iter().map(|h| format!(" --hash=sha256:{h}")).collect();
    fs::write(&list, format!("uv=={VERSION}{hashes}\n")).map_err(failed)?;
    let mut said = String::new();
    // The default first; a distribution's python3 often lacks pip while another has it.
    let mut pythons: Vec<&Path> = found.all.iter().map(|i| i.executable.as_path()).collect();
    pythons.sort_by_key(|p| found.default.as_deref() != Some(*p));
    for python in pythons {
        let tree = scratch.path().join("tree");
        stage.builder().make(&tree).map_err(failed)?;
        let (program, target, list) = (python.to_string_lossy(), tree.to_string_lossy(), list.to_string_lossy());
        let argv = [&program, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"];
        let argv = argv.into_iter().chain(["--require-hashes", "--no-compile", "--target", &target, "-r", &list]);
        let mut env = passed(&["HOME", "LANG", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"]);
        env.push(("TMPDIR".into(), stage.tmp().to_string_lossy().into_owned()));
        env.push(("PIP_NO_CACHE_DIR".into(), "1".into()));
        env.extend(network());
        env.extend(std::env::vars().filter(|(n, _)| {
            n.starts_with("PIP_") && !["PIP_TARGET", "PIP_USER", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV"].contains(&n.as_str())
        }));
        env.push(("PIP_ROOT_USER_ACTION".into(), "ignore".into()));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        let on_line = Arc::new(move |line: &str| {
            if let Ok(mut lines) = sink.lock() {
                lines.push(super::without_userinfo(line).into_owned());
            }
        });
        let seen = |path: &Path, writable| Mount { source: path.to_owned(), target: path.to_owned(), writable };
        let mut mounts = vec![seen(scratch.path(), false), seen(&tree, true)];
        mounts.extend(folders(&env).iter().filter_map(|path| Stage::read_only(path)));
        let command = Command { argv: argv.map(str::to_owned).collect(), env, cwd: "/".into(), mounts };
        let status = stage.run(command, on_line).await.map_err(failed)?;
        if status.is_success() && tree.join("bin/uv").is_file() {
            settle(&tree, &Known::new()).map_err(|e| failed(io::Error::other(e)))?;
            scratch.keep("tree", place).map_err(failed)?;
            return Ok(());
        }
        let lines = lines.lock().map(|l| l.clone()).unwrap_or_default();
        if !lines.iter().any(|l| l.contains("No module named pip")) {
            said = lines[lines.len().saturating_sub(6)..].join("\n");
            break;
        }
    }
    if said.is_empty() { Err(UvError::NoPip) } else { Err(UvError::Fetch { said }) }
}

/// Those of these variables that are set.
pub(super) fn passed(names: &[&str]) -> Vec<(String, String)> {
    names.iter().filter_map(|n| Some(((*n).to_owned(), std::env::var(n).ok()?))).collect()
}

/// How the network is reached: proxies and certificates.
pub(super) fn network() -> Vec<(String, String)> {
    let names = [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "SSH_AUTH_SOCK",
    ];
    passed(&names)
}

/// What pip's configuration files say of indexes, as the variables that pip would read instead; uv reads neither.
pub(super) async fn pip_settings(found: &Found, stage: &Stage<'_>) -> Vec<(String, String)> {
    let files = [Some("/etc/pip.conf".into())].into_iter().chain(pip_files().into_iter().map(Some));
    let files: Vec<Option<PathBuf>> = files.collect();
    let python = found.default.as_ref().or_else(|| found.all.first().map(|i| &i.executable));
    let (true, Some(python)) = (files.iter().flatten().any(|f| f.is_file()), python) else { return Vec::new() };
    let said = Arc::new(Mutex::new(Vec::new()));
    let sink = said.clone();
    let on_line = Arc::new(move |line: &str| {
        if let Ok(mut said) = sink.lock() {
            said.push(line.to_owned());
        }
    });
    let argv = [&python.to_string_lossy(), "-m", "pip", "--disable-pip-version-check", "config", "list"].map(str::to_owned).to_vec();
    let env = passed(&["HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "PIP_CONFIG_FILE"]);
    let ran = stage.run(Command { argv, env, cwd: "/".into(), mounts: Vec::new() }, on_line).await;
    let said = said.lock().map(|s| s.clone()).unwrap_or_default();
    if ran.is_ok_and(|exit| exit.is_success()) { pip_variables(&said) } else { Vec::new() }
}

fn pip_files() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let own = std::env::var_os("PIP_CONFIG_FILE").map(PathBuf::from);
    let files = [own, Some(user_config().join("pip/pip.conf")), Some(home.join(".pip/pip.conf"))];
    files.into_iter().flatten().filter(|f| f.is_absolute()).collect()
}

/// `~/.config`
fn user_config() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".config");
    std::env::var_os("XDG_CONFIG_HOME").map_or_else(home, PathBuf::from)
}

/// Files of this user that say where packages come from and by whose leave, and which certificates are trusted.
pub(super) fn settings() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let named = ["NETRC", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT"];
    let mut files: Vec<PathBuf> = named.iter().filter_map(std::env::var_os).map(PathBuf::from).collect();
    files.push(home.join(".netrc"));
    let kept = ["uv/uv.toml", "pypoetry/config.toml", "pypoetry/auth.toml", "git/config", "git/credentials"];
    files.extend(kept.iter().map(|file| user_config().join(file)));
    files.extend(pip_files());
    files.retain(|file| file.is_absolute() && file.exists());
    files
}

/// Folders of this machine that are package indexes.
pub(super) fn folders(env: &[(String, String)]) -> Vec<PathBuf> {
    let named = |name: &str| ["INDEX", "FIND_LINKS"].iter().any(|part| name.contains(part));
    let values = env.iter().filter(|(name, _)| named(name)).flat_map(|(_, value)| value.split([' ', ',', '\n']));
    // An index may have a name: `name=URL`.
    let places = values.map(|v| v.split_once('=').map_or(v, |(_, url)| url)).map(|v| v.strip_prefix("file://").unwrap_or(v));
    places.map(PathBuf::from).filter(|p| p.is_absolute()).collect()
}

/// Reads lines like `global.index-url='https://host/simple'`; those of `install` come after and win.
fn pip_variables(lines: &[String]) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    for (section, line) in ["global.", "install."].iter().flat_map(|s| lines.iter().map(move |l| (s, l))) {
        let Some((key, value)) = line.strip_prefix(section).and_then(|l| l.split_once('=')) else { continue };
        if ["index-url", "extra-index-url", "find-links", "cert"].contains(&key) {
            let name = format!("PIP_{}", key.to_ascii_uppercase().replace('-', "_"));
            let value = value.trim_matches(['\'', '"']).replace("\\n", " ").trim().to_owned();
            out.retain(|(n, _)| *n != name);
            out.push((name, value));
        }
    }
    out
}

/// The environment that uv runs with: `home` is a scratch folder, `cache` the app's, `pip` what pip's configuration says.
pub(super) fn environment(home: &Path, cache: &Path, python: &Interpreter, pip: &[(String, String)]) -> Vec<(String, String)> {
    let text = |p: &Path| p.to_string_lossy().into_owned();
    let mut env = vec![("PATH".into(), Stage::path(python))];
    env.extend(network());
    // How people name their index and its credentials, to uv or to pip.
    let index = |name: &str| {
        name.starts_with("UV_INDEX")
            || [
                "UV_DEFAULT_INDEX",
                "UV_EXTRA_INDEX_URL",
                "UV_FIND_LINKS",
                "UV_NATIVE_TLS",
                "UV_SYSTEM_CERTS",
                "UV_INSECURE_HOST",
                "UV_HTTP_TIMEOUT",
                "UV_KEYRING_PROVIDER",
                "UV_OFFLINE",
                "NETRC",
            ]
            .contains(&name)
    };
    env.extend(std::env::vars().filter(|(n, _)| index(n)));
    let set = |env: &[(String, String)], name: &str| env.iter().any(|(n, _)| n == name);
    for (name, uv) in [
        ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
        ("PIP_EXTRA_INDEX_URL", "UV_EXTRA_INDEX_URL"),
        ("PIP_FIND_LINKS", "UV_FIND_LINKS"),
        ("PIP_CERT", "SSL_CERT_FILE"),
    ] {
        let rivals = ["UV_INDEX_URL", "UV_INDEX"];
        let configured = || pip.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        if let Some(value) = std::env::var(name).ok().or_else(configured)
            && !set(&env, uv)
            && !(uv == "UV_DEFAULT_INDEX" && rivals.iter().any(|r| set(&env, r)))
        {
            let value = if uv == "UV_FIND_LINKS" { value.split_whitespace().collect::<Vec<_>>().join(",") } else { value };
            env.push((uv.into(), value));
        }
    }
    if let Some(real) = std::env::var_os("HOME").map(PathBuf::from) {
        let netrc = real.join(".netrc");
        if !set(&env, "NETRC") && netrc.is_file() {
            env.push(("NETRC".into(), text(&netrc)));
        }
        env.push(("XDG_CONFIG_HOME".into(), text(&user_config())));
    }
    // uv brings a list of authorities of its own, which knows nothing of those that were added to this machine.
    let bundles = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
    if !["UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "SSL_CERT_FILE"].iter().any(|n| set(&env, n)) && bundles.iter().any(|b| Path::new(b).is_file())
    {
        env.push(("UV_SYSTEM_CERTS".into(), "1".into()));
    }
    let fixed = [
        ("HOME", text(home)),
        ("LANG", "C.UTF-8".into()),
        ("UV_CACHE_DIR", text(cache)),
        ("UV_PYTHON", text(&python.executable)),
        ("UV_PYTHON_DOWNLOADS", "never".into()),
        ("UV_PYTHON_PREFERENCE", "only-system".into()),
        ("UV_TOOL_DIR", text(&home.join("tools"))),
        // A linked file would be changed together with uv's own copy.
        ("UV_LINK_MODE", "copy".into()),
        ("UV_COMPILE_BYTECODE", "0".into()),
        ("UV_NO_PROGRESS", "1".into()),
        ("UV_NO_ENV_FILE", "1".into()),
        ("NO_COLOR", "1".into()),
        // Builds of wheels that stamp the time stamp this one.
        ("SOURCE_DATE_EPOCH", super::layers::EPOCH.to_string()),
    ];
    env.extend(fixed.map(|(k, v)| (k.to_owned(), v)));
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pips_configuration_is_read_as_pip_lists_it() {
        let lines = [
            ":env:.cert='/x'",
            "global.index-url='https://host/simple'",
            "install.index-url='https://other/simple'",
            "global.extra-index-url='\\nhttps://a\\nhttps://b'",
            "global.timeout='60'",
        ];
        let got = pip_variables(&lines.map(str::to_owned));
        let want = [("PIP_EXTRA_INDEX_URL", "https://a https://b"), ("PIP_INDEX_URL", "https://other/simple")];
        assert_eq!(got, want.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
}
