//! The other supervisors, each with a folder that says "run this fifty times": how it is laid out, started and told to stop.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use rustix::process::Signal;

use crate::machine::{Need, install, on_path};
use crate::process::{program, read, run};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    S6,
    Runit,
    Supervisor,
    Honcho,
    Foreman,
    /// No supervisor: what isolation alone costs.
    Bubblewrap,
}

const NEEDS: &[Need] = &[
    Need { what: "s6", packages: &["s6"], here: || on_path("s6-svscan") },
    Need { what: "runit", packages: &["runit"], here: || on_path("runsvdir") },
    Need { what: "foreman", packages: &["ruby-foreman"], here: || on_path("foreman") },
    Need { what: "bubblewrap", packages: &["bubblewrap"], here: || on_path("bwrap") },
    Need {
        what: "Python's venv",
        packages: &["python3-venv"],
        here: || read(program("python3").args(["-c", "import ensurepip, venv"])).is_ok(),
    },
];

/// Installs those that are missing: Debian's packages, and in a venv of this bench what is Python. Debian's supervisor would start itself.
pub(super) fn prepare(folder: &Path) -> Result<()> {
    install(NEEDS)?;
    println!("installing honcho and supervisor for this bench only ...");
    run(program("python3").args(["-m", "venv"]).arg(folder.join("venv")))?;
    let mut pip = program(folder.join("venv/bin/python"));
    run(pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "honcho", "supervisor", "setuptools<81"]))
}

impl Peer {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::S6 => "s6",
            Self::Runit => "runit",
            Self::Supervisor => "supervisor",
            Self::Honcho => "honcho",
            Self::Foreman => "foreman",
            Self::Bubblewrap => "bubblewrap",
        }
    }

    /// What it is told to stop by.
    pub(super) fn stop(self) -> Signal {
        if self == Self::Runit { Signal::HUP } else { Signal::TERM }
    }

    /// Lays its folder out, and answers the programs to start: one, but for bubblewrap.
    pub(super) fn commands(self, bench: &Path, worker: &Path, hub: &str, count: usize) -> Result<Vec<Command>> {
        let folder = bench.join(self.name());
        let shell = format!("exec {} {hub}", worker.display());
        std::fs::create_dir_all(&folder)?;
        let venv = bench.join("venv/bin");
        let one = match self {
            Self::S6 | Self::Runit => {
                // s6 keeps its state there.
                std::fs::remove_dir_all(&folder)?;
                for n in 0..count {
                    let run = folder.join(format!("w{n}/run"));
                    std::fs::create_dir_all(folder.join(format!("w{n}")))?;
                    std::fs::write(&run, format!("#!/bin/sh\n{shell}\n"))?;
                    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o755))?;
                }
                let mut command = program(if self == Self::S6 { "s6-svscan" } else { "runsvdir" });
                command.arg(&folder);
                command
            }
            Self::Supervisor => {
                let head = format!(
                    "[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={0}/pid\nuser=root\nchildlogdir={0}\n",
                    folder.display()
                );
                let sections = (0..count).map(|n| format!("[program:w{n}]\ncommand=/bin/sh -c \"{shell}\"\nstartsecs=0\n"));
                std::fs::write(folder.join("conf"), head + &sections.collect::<String>())?;
                let mut command = program(venv.join("supervisord"));
                command.arg("-c").arg(folder.join("conf"));
                command
            }
            Self::Honcho | Self::Foreman => {
                let procfile = folder.join("Procfile");
                std::fs::write(&procfile, (0..count).map(|n| format!("w{n}: {shell}\n")).collect::<String>())?;
                let foreman = self == Self::Foreman;
                let mut command = program(if foreman { PathBuf::from("foreman") } else { venv.join("honcho") });
                command.args(["start", "-f"]).arg(procfile).arg("-d").arg(&folder);
                command
            }
            Self::Bubblewrap => return Ok((0..count).map(|_| bubblewrap(worker, hub)).collect()),
        };
        Ok(vec![one])
    }
}

/// A view as a jail's: the system and the program read-only, own /proc, /dev and /tmp, and the namespaces that a jail has.
fn bubblewrap(worker: &Path, hub: &str) -> Command {
    let mut command = program("bwrap");
    command.args([
        "--die-with-parent",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
    ]);
    for place in ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc"] {
        let Ok(meta) = std::fs::symlink_metadata(place) else { continue };
        match std::fs::read_link(place) {
            Ok(to) if meta.is_symlink() => command.arg("--symlink").arg(to).arg(place),
            _ => command.args(["--ro-bind", place, place]),
        };
    }
    command.arg("--ro-bind").arg(worker.parent().unwrap_or(worker)).args(["/app", "--chdir", "/app", "--", "/bin/sh", "-c"]);
    let name = worker.file_name().unwrap_or_default().to_string_lossy();
    command.arg(format!("exec /app/{name} {hub}"));
    command
}
