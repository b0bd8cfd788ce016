//! `dozen doctor`: what this machine gives, tried by using it, and the cure for what is missing; and `--require-isolation`.

use crate::api::wire::{Check, Diagnosis};
use crate::client::Told;
use crate::printer::Printer;
use crate::settings::Settings;
use anyhow::Result;
use clap::Args;
use dozen_core::processes::Isolation;
use dozen_engine::home::Home;
use dozen_engine::port::lease::Lease;
use dozen_engine::port::{self, FIRST_PORT};
use dozen_engine::processes::Layers;
use rustix::process::{Resource, geteuid, getrlimit};
use std::path::Path;
use std::str::FromStr;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Fail where isolation is weaker: namespaces, user-namespaces or session, and `,hardened` for all of Landlock and seccomp
    #[arg(long, value_name = "LEVEL")]
    require_isolation: Option<Required>,
}

/// What somebody insists on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Required {
    isolation: Isolation,
    hardened: bool,
}

/// A router and its connections need so many open files.
const FEW_FILES: u64 = 4096;

const OK: &str = "ok";
const WEAK: &str = "weak";
const MISSING: &str = "missing";

/// Tries everything and tells. The exit code is 0 where dozen can work.
pub(crate) async fn run(args: DoctorArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let layers = dozen_engine::processes::isolation(&settings.exe).await;
    let mut checks = vec![home(&settings.home), isolation(layers, args.require_isolation)];
    checks.extend(["landlock", "seccomp"].map(|name| fence(layers, name, args.require_isolation)));
    checks.push(sizes(layers));
    checks.extend([public_port(), instance_ports(), guard().await, open_files(), git()]);
    let lacking = |state: &str| checks.iter().filter(|c| c.state == state).count();
    let (weak, missing) = (lacking(WEAK), lacking(MISSING));
    let code = i32::from(missing > 0);
    if printer.is_json() {
        let hardened = layers.missing_fences().next().is_none();
        printer.json(&Diagnosis { ready: missing == 0, isolation: layers.isolation.as_str().to_owned(), hardened, checks });
        return Ok(code);
    }
    for Check { name, state, found, cure } in &checks {
        printer.line(&format!("{state:<8} {name:<15} {found}"));
        if let Some(cure) = cure {
            printer.line(&format!("{:<24} {cure}", ""));
        }
    }
    printer.line(&match (missing, weak) {
        (0, 0) => "\nNothing is missing.".to_owned(),
        (0, weak) => format!("\ndozen works here; {weak} of {} could be stronger.", checks.len()),
        (missing, _) => format!("\nMissing: {missing} of {}. dozen cannot do here what was asked of it.", checks.len()),
    });
    Ok(code)
}

fn check(name: &str, state: &str, found: impl Into<String>, cure: Option<String>) -> Check {
    Check { name: name.to_owned(), state: state.to_owned(), found: found.into(), cure: cure.filter(|_| state != OK) }
}

impl FromStr for Required {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (level, hardened) = match text.split_once(',') {
            Some((level, "hardened")) => (level, true),
            None => (text, false),
            Some(_) => ("", false),
        };
        let isolation = Isolation::parse(level);
        let isolation = isolation.ok_or("write namespaces, user-namespaces or session, and after it `,hardened` or nothing")?;
        Ok(Self { isolation, hardened })
    }
}

impl Required {
    /// Refuses a machine that gives less.
    pub(crate) fn check(self, layers: &Layers) -> Result<()> {
        match self.lacks(layers) {
            None => Ok(()),
            Some(what) => Err(Told::failed(what, Some("`dozen doctor` shows why, and what to do about it.".to_owned())).into()),
        }
    }

    fn lacks(self, layers: &Layers) -> Option<String> {
        // The strongest is the least.
        if !layers.runs || layers.isolation > self.isolation {
            let (asked, found) = (self.isolation.as_str(), layers.isolation.as_str());
            return Some(format!("isolation by {asked} is required, and this machine gives {found}"));
        }
        let fences = layers.missing_fences().collect::<Vec<_>>().join("; ");
        (self.hardened && !fences.is_empty()).then(|| format!("hardened isolation is required, and this machine lacks {fences}"))
    }
}

fn isolation(layers: &Layers, required: Option<Required>) -> Check {
    let found = layers.isolation.as_str();
    if !layers.runs {
        let why = format!("no program can be run: {}", layers.missing.join("; "));
        return check("isolation", MISSING, why, Some("dozen needs /bin/sh, /proc and the right to start programs.".to_owned()));
    }
    let cure = cure_of_isolation(layers.isolation, geteuid().is_root(), |path| std::fs::read_to_string(path).ok());
    let alone = Required { hardened: false, isolation: required.map_or(Isolation::Session, |r| r.isolation) };
    let state = match (alone.lacks(layers), layers.isolation) {
        (Some(_), _) => MISSING,
        (None, Isolation::Namespaces) => OK,
        (None, _) => WEAK,
    };
    let elsewhere: Vec<&str> = layers.missing_fences().chain(layers.missing_limits()).collect();
    let reasons: Vec<&str> = layers.missing.iter().map(String::as_str).filter(|what| !elsewhere.contains(what)).collect();
    let more = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) };
    check("isolation", state, format!("{found}{more}"), Some(cure))
}

/// What stands in the way, by what the kernel's settings say.
fn cure_of_isolation(found: Isolation, root: bool, read: impl Fn(&str) -> Option<String>) -> String {
    let is = |path: &str, value: &str| read(path).is_some_and(|text| text.trim() == value);
    let set = |name: &str, value: &str| format!("As root: `sysctl -w {name}={value}`.");
    if found == Isolation::UserNamespaces {
        return "Run dozen as root for a uid of its own for each deploy.".to_owned();
    }
    for kind in ["user", "mnt", "pid", "ipc", "uts"] {
        if (kind != "user" || !root) && is(&format!("/proc/sys/user/max_{kind}_namespaces"), "0") {
            return set(&format!("user.max_{kind}_namespaces"), "10000");
        }
    }
    if !root && is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        return set("kernel.unprivileged_userns_clone", "1");
    }
    if !root && is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        return format!(
            "{} Or let an AppArmor profile of dozen's allow `userns`.",
            set("kernel.apparmor_restrict_unprivileged_userns", "0")
        );
    }
    "In a container: allow it namespaces (Docker: `--cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined`), \
     or run dozen outside of it."
        .to_owned()
}

fn fence(layers: &Layers, name: &str, required: Option<Required>) -> Check {
    let prefix = format!("{name}: ");
    let lacks: Vec<&str> = layers.missing_fences().filter_map(|what| what.strip_prefix(&prefix)).collect();
    if lacks.is_empty() {
        let what = if name == "landlock" { "files, TCP ports, signals and abstract sockets are held" } else { "denied calls are refused" };
        return check(name, OK, what, None);
    }
    let state = if required.is_some_and(|r| r.hardened) { MISSING } else { WEAK };
    let cure = if name == "landlock" {
        "A newer kernel, and `landlock` in its list of security modules (`cat /sys/kernel/security/lsm`)."
    } else {
        "A kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64."
    };
    check(name, state, lacks.join("; "), Some(cure.to_owned()))
}

/// What holds instances to their sizes, and to a number of processes.
fn sizes(layers: &Layers) -> Check {
    let versions = dozen_jail::cgroup::versions();
    let had = had(&versions);
    let lacks: Vec<&str> = layers.missing_limits().collect();
    if lacks.is_empty() {
        return check("sizes", OK, format!("memory, processes and processors are limited ({had})"), None);
    }
    let found = if versions.is_empty() { lacks.join("; ") } else { format!("{}; here is {had}", lacks.join("; ")) };
    check("sizes", WEAK, found, Some(cure_of_sizes(&versions, geteuid().is_root()).to_owned()))
}

/// `cgroup v2`, or of a host that has both `memory by cgroup v1, pids by cgroup v2`.
fn had(versions: &[(&str, u8)]) -> String {
    match versions {
        [(_, first), rest @ ..] if rest.iter().all(|(_, version)| version == first) => format!("cgroup v{first}"),
        _ => versions.iter().map(|(controller, version)| format!("{controller} by cgroup v{version}")).collect::<Vec<_>>().join(", "),
    }
}

fn cure_of_sizes(versions: &[(&str, u8)], root: bool) -> &'static str {
    match (versions, root) {
        ([], _) => "Mount cgroups (`mount -t cgroup2 cgroup2 /sys/fs/cgroup`), or in a container let them be seen.",
        (_, false) if versions.iter().any(|(_, version)| *version == 2) => {
            "Give it cgroups of its own: `systemd-run --user --scope -p Delegate=yes dozen up`, or run dozen as root."
        }
        (_, false) => "Run dozen as root: cgroups of version 1 are root's.",
        (_, true) => "In a container: let its cgroups be written, and start dozen as its first process.",
    }
}

/// Writes a file there and links it, as slugs are.
fn home(home: &Home) -> Check {
    let root = home.root();
    let (file, link) = (root.join(format!(".doctor-{}", std::process::id())), root.join(format!(".doctor-{}-link", std::process::id())));
    let tried = home.make().map_err(|(_, error)| error).and_then(|()| {
        std::fs::write(&file, "x")?;
        std::fs::hard_link(&file, &link)
    });
    let _ = std::fs::remove_file(&link);
    let _ = std::fs::remove_file(&file);
    match tried {
        Ok(()) => check("home", OK, root.display().to_string(), None),
        Err(error) => {
            let cure = "Set DOZEN_HOME to a folder that you may write, on a file system with hard links.";
            check("home", MISSING, format!("{}: {error}", root.display()), Some(cure.to_owned()))
        }
    }
}

fn public_port() -> Check {
    match port::bind(None) {
        Ok(listeners) if listeners.port() == FIRST_PORT => check("port", OK, format!("{FIRST_PORT} is free"), None),
        Ok(listeners) => check("port", OK, format!("{FIRST_PORT} is in use, {} is the next free one", listeners.port()), None),
        Err(error) => check("port", MISSING, dozen_engine::chain(&error), Some("Name one that is free: `dozen up --port N`.".to_owned())),
    }
}

fn instance_ports() -> Check {
    match Lease::take() {
        Some(_) => check("instance ports", OK, "there are free ones", None),
        None => check("instance ports", MISSING, "none can be bound on 127.0.0.1", Some("Bring the loopback device up.".to_owned())),
    }
}

async fn guard() -> Check {
    match port::guard::probe().await {
        Ok(()) => check("port guard", OK, "others cannot reach the ports of instances", None),
        Err(why) => {
            let cure = "Run dozen as root, with `nft` (Debian: `apt-get install nftables`).";
            check("port guard", WEAK, format!("others can reach the ports of instances ({why})"), Some(cure.to_owned()))
        }
    }
}

fn open_files() -> Check {
    let found = getrlimit(Resource::Nofile).maximum;
    let shown = found.map_or_else(|| "no limit".to_owned(), |n| format!("up to {n}"));
    let state = if found.is_some_and(|n| n < FEW_FILES) { WEAK } else { OK };
    check(
        "open files",
        state,
        shown,
        Some(format!("Let the hard limit (`ulimit -Hn`) be {FEW_FILES} at least: each connection takes two.")),
    )
}

fn git() -> Check {
    let path = std::env::var_os("PATH").unwrap_or_default();
    match std::env::split_paths(&path).map(|folder| folder.join("git")).find(|file| is_program(file)) {
        Some(file) => check("git", OK, file.display().to_string(), None),
        None => {
            let found = "not found: all files of a folder are taken, whatever .gitignore says";
            check("git", WEAK, found, Some("Install git.".to_owned()))
        }
    }
}

fn is_program(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file()) && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dozen_core::processes::jail::View;

    fn layers(isolation: Isolation, missing: &[&str]) -> Layers {
        Layers { isolation, view: View::Minimal, missing: missing.iter().map(|&m| m.to_owned()).collect(), runs: true }
    }

    #[test]
    fn less_than_is_required_is_refused() {
        use Isolation::{Namespaces, Session, UserNamespaces};
        let old = &["landlock: any TCP port can be bound (needs Linux 6.7)"][..];
        for (asked, found, missing, good) in [
            ("namespaces", Namespaces, &[][..], true),
            ("namespaces", UserNamespaces, &[], false),
            ("user-namespaces", Namespaces, &[], true),
            ("user-namespaces", Session, &[], false),
            ("session", Session, old, true),
            ("session,hardened", Session, old, false),
            ("namespaces,hardened", Namespaces, &["own /dev/pts: EPERM"], true),
        ] {
            let required: Required = asked.parse().expect("a level");
            assert_eq!(required.lacks(&layers(found, missing)).is_none(), good, "{asked} of {found:?} without {missing:?}");
        }
        for wrong in ["", "docker", "namespaces,", "namespaces,hard", ",hardened"] {
            assert!(wrong.parse::<Required>().is_err(), "{wrong}");
        }
        let nothing = Layers { runs: false, ..layers(Session, &[]) };
        assert!("session".parse::<Required>().expect("a level").lacks(&nothing).is_some());
    }

    #[test]
    fn sizes_are_cured_by_who_has_the_cgroups() {
        let (v1, v2, both) = ([("memory", 1), ("pids", 1)], [("memory", 2), ("pids", 2)], [("memory", 1), ("pids", 2)]);
        assert_eq!([had(&v1), had(&v2), had(&both)], ["cgroup v1", "cgroup v2", "memory by cgroup v1, pids by cgroup v2"]);
        for (versions, root, cure) in
            [(&[][..], true, "mount -t cgroup2"), (&v2, false, "Delegate=yes"), (&v1, false, "as root"), (&v2, true, "In a container")]
        {
            assert!(cure_of_sizes(versions, root).contains(cure), "{versions:?} {root}");
        }
    }

    #[test]
    fn the_cure_is_for_what_stands_in_the_way() {
        for (setting, value, root, cure) in [
            ("/proc/sys/user/max_user_namespaces", "0", false, "user.max_user_namespaces=10000"),
            ("/proc/sys/user/max_user_namespaces", "0", true, "In a container"),
            ("/proc/sys/user/max_pid_namespaces", "0", true, "user.max_pid_namespaces=10000"),
            ("/proc/sys/kernel/unprivileged_userns_clone", "0", false, "kernel.unprivileged_userns_clone=1"),
            ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", false, "AppArmor"),
            ("/nothing", "", false, "In a container"),
        ] {
            let said = cure_of_isolation(Isolation::Session, root, |path| (path == setting).then(|| format!("{value}\n")));
            assert!(said.contains(cure), "{setting}: {said}");
        }
        assert!(cure_of_isolation(Isolation::UserNamespaces, false, |_| None).contains("root"));
    }
}
