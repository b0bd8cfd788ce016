//! What the tests need on the machine, and how what is missing gets there.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::process::{program, read, run};

/// One thing that a test starts or links, and the Debian packages that bring it.
pub(crate) struct Need {
    pub(crate) what: &'static str,
    pub(crate) packages: &'static [&'static str],
    pub(crate) here: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need { what: "a C compiler (SQLite is compiled in)", packages: &["gcc", "libc6-dev"], here: || on_path("cc") },
    Need { what: "curl", packages: &["curl"], here: || on_path("curl") },
    Need { what: "git", packages: &["git"], here: || on_path("git") },
    Need { what: "sqlite3", packages: &["sqlite3"], here: || on_path("sqlite3") },
    Need {
        what: "Debian's Python with venv and pip",
        packages: &["python3", "python3-venv", "python3-pip"],
        here: || read(program("/usr/bin/python3").args(["-c", "import ensurepip, pip, venv"])).is_ok(),
    },
    Need {
        what: "Python's websockets",
        packages: &["python3-websockets"],
        here: || read(program("/usr/bin/python3").args(["-c", "import websockets"])).is_ok(),
    },
    Need { what: "Ruby with Bundler", packages: &["ruby", "ruby-bundler"], here: || on_path("ruby") && on_path("bundle") },
    Need { what: "a JDK with Maven", packages: &["default-jdk-headless", "maven"], here: || on_path("javac") && on_path("mvn") },
    Need { what: "PHP with Composer", packages: &["php-cli", "composer"], here: || on_path("php") && on_path("composer") },
    Need { what: "Node with npm", packages: &["nodejs", "npm"], here: || on_path("node") && on_path("npm") },
    Need { what: "zsh and fish", packages: &["zsh", "fish"], here: || on_path("zsh") && on_path("fish") },
    Need { what: "sshd and ssh", packages: &["openssh-server", "openssh-client"], here: || sshd().is_some() && on_path("ssh") },
    Need { what: "systemd's own tools", packages: &["systemd"], here: || on_path("systemd-analyze") },
    Need { what: "nftables and iproute2", packages: &["nftables", "iproute2"], here: || nft().is_some() && on_path("ip") },
    Need { what: "mandoc", packages: &["mandoc"], here: || on_path("mandoc") },
    Need { what: "Chromium", packages: &["chromium"], here: || on_path("chromium") },
    Need { what: "openssl", packages: &["openssl"], here: || on_path("openssl") },
    Need { what: "certutil, which tells Chromium whom to trust", packages: &["libnss3-tools"], here: || on_path("certutil") },
    Need { what: "pebble, an authority for tests", packages: &["pebble"], here: || on_path("pebble") },
    Need { what: "h2load", packages: &["nghttp2-client"], here: || on_path("h2load") },
    Need { what: "Go, which builds apps and h2spec", packages: &["golang-go"], here: || on_path("go") },
    Need { what: "PostgreSQL", packages: &["postgresql"], here: || crate::postgres::programs().is_some() },
];

/// What `soak guest` needs besides.
const GUEST: &[Need] = &[
    Need { what: "QEMU", packages: &["qemu-system-x86"], here: || on_path("qemu-system-x86_64") && virtiofsd().is_some() },
    Need { what: "a static busybox", packages: &["busybox-static"], here: || on_path("busybox") },
];

/// What the list of HTTP/2's demands is built of: it names no versions itself, and the latest ones need a later Go than Debian has.
const H2SPEC: &str = "module h2spec\n\ngo 1.19\n\nrequire (\n\tgithub.com/fatih/color v1.15.0\n\tgithub.com/spf13/cobra v1.7.0\n\t\
                      github.com/summerwind/h2spec v2.2.1+incompatible\n\tgolang.org/x/net v0.17.0\n)\n";

/// What the tests need.
pub(crate) fn prepare() -> Result<()> {
    install(NEEDS)?;
    if !on_path("h2spec") && !h2spec().is_file() {
        println!("missing: h2spec; building it, once");
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("go.mod"), H2SPEC)?;
        let mut go = program("go");
        go.args(["build", "-mod=mod", "-o"]).arg(h2spec()).arg("github.com/summerwind/h2spec/cmd/h2spec").current_dir(folder.path());
        run(&mut go)?;
    }
    Ok(())
}

/// Where Go would put it.
fn h2spec() -> PathBuf {
    std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default().join("go/bin/h2spec")
}

/// What the tests in a guest need.
pub(crate) fn prepare_guest() -> Result<()> {
    prepare()?;
    install(GUEST)
}

/// Installs what is missing, says what, and asks apt for its lists once and only then.
pub(crate) fn install(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.here)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    for need in &missing {
        println!("missing: {} (packages: {})", need.what, need.packages.join(" "));
    }
    if !on_path("apt-get") {
        bail!("this machine has no apt-get; install by hand what is missing");
    }
    let become_root: &[&str] = match (rustix::process::geteuid().is_root(), on_path("sudo")) {
        (true, _) => &["env"],
        (false, true) => &["sudo", "-n", "env"],
        (false, false) => bail!("not root and no sudo here; as root: apt-get install {}", packages.join(" ")),
    };
    let apt = |args: &[&str]| {
        let mut apt = program(become_root[0]);
        apt.args(&become_root[1..]).args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]).args(args);
        run(&mut apt)
    };
    println!("installing: {}", packages.join(" "));
    apt(&["update"])?;
    apt(&[&["install", "--no-install-recommends"], packages.as_slice()].concat())?;
    match missing.iter().find(|need| !(need.here)()) {
        Some(need) => bail!("{} is still missing after the installation of {}", need.what, need.packages.join(" ")),
        None => Ok(()),
    }
}

/// A person's PATH need not lead to it.
fn nft() -> Option<&'static str> {
    ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"].into_iter().find(|p| Path::new(p).exists())
}

/// Nor to this one, which wants to be called by its whole path.
fn sshd() -> Option<&'static str> {
    ["/usr/sbin/sshd"].into_iter().find(|p| Path::new(p).exists())
}

/// The server of virtio-fs; Debian keeps it off the path.
pub(crate) fn virtiofsd() -> Option<&'static str> {
    ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"].into_iter().find(|p| Path::new(p).exists())
}

/// Whether a program of this name is found where a shell would look.
pub(crate) fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// cargo-deny, from cargo's own folder or the path; built once where it is missing.
pub(crate) fn cargo_deny() -> Result<()> {
    if crate::process::read(&mut crate::process::cargo(&["deny", "--version"])).is_err() {
        println!("missing: cargo-deny; building it, which takes some minutes, once");
        run(&mut crate::process::cargo(&["install", "cargo-deny", "--locked"]))?;
    }
    Ok(())
}

/// Cargo's target folder, by cargo's own word.
pub(crate) fn target() -> Result<PathBuf> {
    let metadata = read(&mut crate::process::cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    match metadata["target_directory"].as_str() {
        Some(folder) => Ok(Path::new(folder).to_owned()),
        None => bail!("`cargo metadata` names no target folder"),
    }
}
