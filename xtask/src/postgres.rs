//! A PostgreSQL server for one test: own folder, own Unix socket, no TCP, gone when the value goes.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::process::{Running, program, read, wait_until};

/// Debian's `nobody`: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65534;

pub(crate) struct Postgres {
    folder: tempfile::TempDir,
    server: Option<Running>,
}

impl Postgres {
    pub(crate) fn start() -> Result<Self> {
        let programs = programs().context("no PostgreSQL programs on this machine")?;
        // Not under TMPDIR: a socket's path must stay below 108 bytes.
        let folder = tempfile::Builder::new().prefix("xtask-pg-").tempdir_in("/tmp")?;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY))?;
        }
        let data = folder.path().join("data");
        read(unprivileged(&mut program(programs.join("initdb"))).arg("-D").arg(&data).args([
            "-A",
            "trust",
            "-U",
            "dozen",
            "--locale=C",
            "-E",
            "UTF8",
            "-N",
        ]))?;
        let mut server = program(programs.join("postgres"));
        server.arg("-D").arg(&data).arg("-k").arg(folder.path()).args(["-c", "listen_addresses=", "-c", "fsync=off"]);
        let mut server = Running::start(unprivileged(&mut server), &folder.path().join("log"))?;
        let ready = wait_until(Duration::from_secs(30), || {
            ensure!(server.ended()?.is_none(), "PostgreSQL ended at its start");
            Ok(read(program(programs.join("pg_isready")).arg("-q").arg("-h").arg(folder.path())).is_ok())
        })?;
        ensure!(ready, "PostgreSQL does not answer after 30 s");
        Ok(Self { folder, server: Some(server) })
    }

    pub(crate) fn url(&self) -> String {
        let folder = self.folder.path().to_string_lossy().replace('/', "%2F");
        format!("postgres://dozen@{folder}/postgres")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT is PostgreSQL's fast shutdown; it frees its shared memory, which a SIGKILL would leave behind.
        if let Some(server) = self.server.take() {
            let _ = server.stop(Signal::INT, Duration::from_secs(10));
        }
    }
}

/// The folder of the newest server's programs, where Debian or the path has one.
pub(crate) fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    let debian = newest.map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    debian
        .into_iter()
        .chain(std::env::split_paths(&path))
        .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
}

fn unprivileged(command: &mut Command) -> &mut Command {
    command.current_dir("/");
    if rustix::process::geteuid().is_root() { command.uid(NOBODY).gid(NOBODY) } else { command }
}
