//! What the programs of one build find: its folders, the interpreters, and those of the user's settings that say where packages come from.
//!
//! ```text
//! in the slug store                     as programs see it where the host allows mounts
//! .making-…/tree                        /app                what becomes the slug
//! .making-…/build/{home,tmp,source}     /.dozen/build       theirs, gone with the build
//! .making-…/given                       /.dozen/given       read-only: lists, programs' shims, copies of settings
//! cache/<app>/downloads                 /.dozen/downloads   theirs, and the app's next build's
//! ```
//! **Invariant:** dozen writes nothing below a folder that a program of the build has written to, but through `beneath`.
//! **Invariant:** no more of the machine is seen than its system, and what is named here.

use super::builder::Builder;
use super::interpreters::{Found, Interpreter};
use super::node;
use super::runner::{Command, OnLine, Runner};
use super::uv;
use crate::home::Home;
use crate::processes::spec::APP;
use dozen_core::processes::Exit;
use dozen_core::processes::jail::Mount;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const BUILD: &str = "/.dozen/build";
const GIVEN: &str = "/.dozen/given";
const DOWNLOADS: &str = "/.dozen/downloads";
/// What every jail sees anyway.
const SYSTEM: [&str; 9] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/nix"];
/// Of an installation that lies where dozen's home does, what is needed.
const INSTALLED: [&str; 5] = ["bin", "lib", "lib64", "include", "share"];

/// Everything that is set up for a build's programs.
pub(super) struct Stage<'a> {
    pub(super) runner: Runner<'a>,
    home: &'a Home,
    scratch: &'a Path,
    downloads: &'a Path,
    mounts: Vec<Mount>,
    /// Whether the user's SSH agent is lent.
    agent: bool,
}

impl<'a> Stage<'a> {
    /// Makes the folders. `ssh`: a dependency comes by it.
    pub(super) fn new(
        runner: Runner<'a>,
        home: &'a Home,
        scratch: &'a Path,
        downloads: &'a Path,
        (found, chosen): (&Found, &Interpreter),
        ssh: bool,
    ) -> io::Result<Self> {
        let builder = runner.builder;
        let mut stage = Self { runner, home, scratch, downloads, mounts: Vec::new(), agent: false };
        for folder in [stage.build(), stage.home(), stage.tmp()] {
            builder.make(&folder)?;
        }
        fs::create_dir(stage.given())?;
        let own = [(stage.build(), BUILD, true), (stage.given(), GIVEN, false), (downloads.to_owned(), DOWNLOADS, true)];
        stage.mounts.extend(own.map(|(source, target, writable)| Mount { source, target: target.into(), writable }));
        for interpreter in found.all.iter().chain([chosen]) {
            stage.see(&interpreter.prefix);
        }
        for file in uv::settings().into_iter().chain(node::settings()) {
            stage.lend(&file)?;
        }
        // yarn reads it at home only.
        if let Some(file) = node::user_config() {
            std::os::unix::fs::symlink(file, stage.home().join(".npmrc"))?;
        }
        if ssh && builder.uid().is_none() {
            stage.lend_agent()?;
        }
        Ok(stage)
    }

    /// What programs may write, and is gone with the build.
    pub(super) fn build(&self) -> PathBuf {
        self.scratch.join("build")
    }

    /// Their HOME.
    pub(super) fn home(&self) -> PathBuf {
        self.build().join("home")
    }

    /// Their TMPDIR.
    pub(super) fn tmp(&self) -> PathBuf {
        self.build().join("tmp")
    }

    /// Where dozen puts what they only read.
    pub(super) fn given(&self) -> PathBuf {
        self.scratch.join("given")
    }

    /// What installers keep for the app's next build.
    pub(super) fn downloads(&self, of: &str) -> PathBuf {
        self.downloads.join(of)
    }

    /// The programs that are found without a path: the chosen interpreter's and the system's.
    pub(super) fn path(interpreter: &Interpreter) -> String {
        format!("{}:/usr/local/bin:/usr/bin:/bin", node::bin(interpreter).display())
    }

    /// A folder under construction, where the slug will be.
    pub(super) fn app(folder: &Path) -> Mount {
        Mount { source: folder.to_owned(), target: APP.into(), writable: true }
    }

    /// A folder or file at its own place, read-only; nothing where the system has it.
    pub(super) fn read_only(path: &Path) -> Option<Mount> {
        let source = fs::canonicalize(path).ok()?;
        let seen = source == Path::new("/") || SYSTEM.iter().any(|s| source.starts_with(s));
        (!seen).then(|| Mount { target: source.clone(), source, writable: false })
    }

    /// Shows an installation.
    fn see(&mut self, prefix: &Path) {
        let Some(mount) = Self::read_only(prefix) else { return };
        let own = fs::canonicalize(self.home.root()).is_ok_and(|home| home.starts_with(&mount.source));
        let parts = INSTALLED.iter().filter_map(|part| Self::read_only(&prefix.join(part)));
        let shown: Vec<Mount> = if own { parts.collect() } else { vec![mount] };
        for mount in shown {
            if !self.mounts.iter().any(|m| m.target == mount.target) {
                self.mounts.push(mount);
            }
        }
    }

    /// Lets programs read what may be its owner's alone, at its own path: a copy, so that its mode can stay.
    fn lend(&mut self, path: &Path) -> io::Result<()> {
        let Some(mut mount) = Self::read_only(path) else { return Ok(()) };
        if self.runner.mounted {
            path.clone_into(&mut mount.target);
        }
        if self.mounts.iter().any(|m| m.target == mount.target) {
            return Ok(());
        }
        if self.runner.mounted
            && mount.source.is_file()
            && let Ok(bytes) = fs::read(&mount.source)
        {
            let copy = self.given().join(format!("settings-{}", self.mounts.len()));
            fs::write(&copy, "")?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o600))?;
            fs::write(&copy, bytes)?;
            self.runner.builder.give(&copy)?;
            mount.source = copy;
        }
        self.mounts.push(mount);
        Ok(())
    }

    /// Its socket, and which hosts are known.
    fn lend_agent(&mut self) -> io::Result<()> {
        let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let Some(socket) = var("SSH_AUTH_SOCK").filter(|s| s.is_absolute() && s.exists()) else { return Ok(()) };
        self.mounts.push(Mount { source: fs::canonicalize(&socket)?, target: socket, writable: false });
        if let Some(home) = var("HOME") {
            self.lend(&home.join(".ssh/known_hosts"))?;
        }
        self.agent = true;
        Ok(())
    }

    /// Runs a program. Its mounts come to those that every program has.
    pub(super) async fn run(&self, mut command: Command, on_line: OnLine) -> io::Result<Exit> {
        command.mounts.extend(self.mounts.iter().cloned());
        if !self.agent {
            command.env.retain(|(name, _)| name != "SSH_AUTH_SOCK");
        } else if let Some(home) = std::env::var_os("HOME").map(PathBuf::from) {
            let hosts = home.join(".ssh/known_hosts");
            command.env.push(("GIT_SSH_COMMAND".into(), format!("ssh -o UserKnownHostsFile={}", hosts.display())));
        }
        self.runner.run(command, on_line).await
    }

    /// Paths as they stand in what programs say, and what the person who reads it knows them by.
    pub(super) fn places(&self) -> Vec<(String, String)> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let source = self.build().join("source");
        vec![
            (text(source), APP.into()),
            (format!("{BUILD}/source"), APP.into()),
            (text(self.scratch.join("tree")), APP.into()),
            (DOWNLOADS.into(), text(self.downloads.to_owned())),
        ]
    }

    /// Who owns what programs write.
    pub(super) fn builder(&self) -> Builder {
        self.runner.builder
    }
}
