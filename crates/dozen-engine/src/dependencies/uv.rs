//! uv, which does the installing: the machine's own where it is new enough, else one release of it, known by its hashes, that the
//! machine's pip fetches once.

use super::interpreters::Found;
use super::runner::{Command, Runner};
use crate::home::Home;
use crate::release::scratch::Scratch;
use crate::release::store::cure;
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
    pub(super) async fn get(home: &Home, found: &Found, runner: Runner<'_>, on_fetch: &(dyn Fn() + Send + Sync)) -> Result<Self, UvError> {
        if let Some(uv) = on_path(runner).await {
            return Ok(uv);
        }
        let kept = home.tools().join(format!("uv-{VERSION}"));
        let uv = Self { program: kept.join("bin/uv"), version: VERSION.into() };
        if !uv.program.is_file() {
            on_fetch();
            fetch(&kept, &home.tools(), found, runner).await?;
        }
        Ok(uv)
    }
}

async fn on_path(runner: Runner<'_>) -> Option<Uv> {
    let path = std::env::var_os("PATH")?;
    let program = std::env::split_paths(&path).filter(|d| d.is_absolute()).map(|d| d.join("uv")).find(|p| p.is_file())?;
    let said = Arc::new(Mutex::new(String::new()));
    let sink = said.clone();
    let argv = vec![program.to_str()?.to_owned(), "--version".into()];
    let command = Command { argv, env: passed(&["PATH", "HOME"]), cwd: "/".into(), ..Command::default() };
    let on_line = Arc::new(move |line: &str| {
        if let Ok(mut said) = sink.lock() {
            said.push_str(line);
        }
    });
    let status = runner.run(command, on_line).await.ok()?;
    let said = said.lock().ok()?.clone();
    let version = said.split_whitespace().nth(1)?.to_owned();
    let mut numbers = version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let release = [numbers.next()?, numbers.next()?];
    (status.is_success() && said.starts_with("uv ") && release >= OLDEST).then_some(Uv { program, version })
}

async fn fetch(place: &Path, tools: &Path, found: &Found, runner: Runner<'_>) -> Result<(), UvError> {
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
        let (program, target, list) = (python.to_string_lossy(), tree.to_string_lossy(), list.to_string_lossy());
        let argv = [&program, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"];
        let argv = argv.into_iter().chain(["--require-hashes", "--no-compile", "--target", &target, "-r", &list]);
        let mut env = passed(&["PATH", "HOME", "LANG", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "TMPDIR"]);
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
        let command = Command {
            argv: argv.map(str::to_owned).collect(),
            env,
            cwd: scratch.path().to_owned(),
            writable: vec![scratch.path().to_owned()],
            ..Command::default()
        };
        let status = runner.run(command, on_line).await.map_err(failed)?;
        if status.is_success() && tree.join("bin/uv").is_file() {
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
pub(super) async fn pip_settings(found: &Found, runner: Runner<'_>) -> Vec<(String, String)> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let own = std::env::var_os("PIP_CONFIG_FILE").map(PathBuf::from);
    let files = [Some("/etc/pip.conf".into()), own, Some(home.join(".config/pip/pip.conf")), Some(home.join(".pip/pip.conf"))];
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
    let env = passed(&["PATH", "HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "PIP_CONFIG_FILE"]);
    let ran = runner.run(Command { argv, env, cwd: "/".into(), ..Command::default() }, on_line).await;
    let said = said.lock().map(|s| s.clone()).unwrap_or_default();
    if ran.is_ok_and(|exit| exit.is_success()) { pip_variables(&said) } else { Vec::new() }
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
pub(super) fn environment(home: &Path, cache: &Path, python: &Path, pip: &[(String, String)]) -> Vec<(String, String)> {
    let text = |p: &Path| p.to_string_lossy().into_owned();
    let mut env = passed(&["PATH"]);
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
        let config = std::env::var("XDG_CONFIG_HOME").unwrap_or_else(|_| text(&real.join(".config")));
        env.push(("XDG_CONFIG_HOME".into(), config));
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
        ("UV_PYTHON", text(python)),
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
