//! A running deploy's folder: its lock, which says who runs it, and its API's socket and token.
//!
//! **Invariant:** the lock is held by the process that runs the deploy and by nothing else; whatever ends that process frees it.

use crate::api::Door;
use crate::api::token::{self, Token};
use anyhow::{Context, Result};
use dozen_core::ids::DeployRef;
use dozen_engine::home::Home;
use dozen_engine::processes::notes::Notes;
use http::HeaderValue;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// Who runs a deploy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// `shop/dev`
    pub(crate) deploy: String,
    /// Of the `dozen up`.
    pub(crate) pid: u32,
    /// Of which dozen it is.
    #[serde(default)]
    pub(crate) version: String,
    /// Whether what it runs outlives it, so that another one can take over.
    #[serde(default)]
    pub(crate) lasting: bool,
    /// Whether it is a `dozen server`, which alone goes on with what a killed one has left.
    #[serde(default)]
    pub(crate) server: bool,
}

impl Holder {
    fn of(deploy: &DeployRef, pid: u32, lasting: bool) -> Self {
        Self { deploy: deploy.to_string(), pid, version: env!("CARGO_PKG_VERSION").to_owned(), lasting, server: false }
    }
}

impl std::fmt::Display for Holder {
    /// `pid 123`, and its version where that is another one.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pid {}", self.pid)?;
        if self.version == env!("CARGO_PKG_VERSION") || self.version.is_empty() { Ok(()) } else { write!(f, " of dozen {}", self.version) }
    }
}

/// The folder of a deploy that this process runs. Dropping it removes the folder and frees the lock.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    /// Locked while it lives.
    _lock: File,
    folder: File,
}

/// The deploy is run by another process.
#[derive(Debug, thiserror::Error)]
#[error("{} is already running: `dozen up` with {}", .0.deploy, .0)]
pub(crate) struct AlreadyRunning(pub(crate) Holder);

const LOCK: &str = "lock";
const SOCKET: &str = "api.sock";
const TOKEN: &str = "api.token";

impl RunFolder {
    /// Takes the deploy, or says who has it. `lasting`: what this process will run outlives it.
    pub(crate) fn take(home: &Home, deploy: &DeployRef, lasting: bool) -> Result<Self> {
        Self::take_as(home, Holder::of(deploy, std::process::id(), lasting), deploy)
    }

    /// The same for a server, which takes what another one has left.
    pub(crate) fn take_for_server(home: &Home, deploy: &DeployRef) -> Result<Self> {
        Self::take_as(home, Holder { server: true, ..Holder::of(deploy, std::process::id(), true) }, deploy)
    }

    fn take_as(home: &Home, holder: Holder, deploy: &DeployRef) -> Result<Self> {
        let path = home.run(deploy);
        let attempt = || format!("cannot use {}", path.display());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).with_context(attempt)?;
        let lock = loop {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).with_context(attempt)?;
            let at = path.join(LOCK);
            let mut open = OpenOptions::new();
            let file = open.read(true).write(true).create(true).truncate(false).mode(0o600).open(&at).with_context(attempt)?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                return Err(AlreadyRunning(read_holder(&file).unwrap_or_else(|| Holder::of(deploy, 0, false))).into());
            }
            // Whoever had it before may have removed the file between our open and our lock; then this lock guards nothing.
            let ours = file.metadata().with_context(attempt)?.ino();
            if std::fs::metadata(&at).is_ok_and(|m| m.ino() == ours) {
                break file;
            }
        };
        let mut file = &lock;
        file.set_len(0).with_context(attempt)?;
        file.write_all(&serde_json::to_vec(&holder)?).with_context(attempt)?;
        let folder = File::open(&path).with_context(attempt)?;
        // What the machine's last boot has left means nothing any more.
        Notes::of(&path).sweep();
        Ok(Self { path, _lock: lock, folder })
    }

    /// What is written down here of what outlives the process that runs the deploy.
    pub(crate) fn notes(&self) -> Notes {
        Notes::of(&self.path)
    }

    /// Binds the API socket, with a new token, in place of what a killed predecessor left.
    pub(crate) fn bind(&self) -> Result<Door> {
        bind(&self.folder, &self.path)
    }
}

fn bind(folder: &File, path: &Path) -> Result<Door> {
    for name in [SOCKET, TOKEN] {
        let at = path.join(name);
        match std::fs::remove_file(&at) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot replace {}", at.display()));
            }
            _ => {}
        }
    }
    // Before the socket: who can connect finds the token that belongs to it.
    let (token, text) = Token::make();
    let at = path.join(TOKEN);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at);
    file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| format!("cannot write {}", at.display()))?;
    let listener =
        UnixListener::bind(through(folder)).with_context(|| format!("cannot bind the API socket {}", path.join(SOCKET).display()))?;
    Ok(Door { listener, token })
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // What cannot be removed now is found and replaced by the next `up`.
        for name in [SOCKET, TOKEN, LOCK] {
            let _ = std::fs::remove_file(self.path.join(name));
        }
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// Who runs a deploy now. `None` where nobody does.
pub(crate) fn holder(home: &Home, deploy: &DeployRef) -> Option<Holder> {
    let file = OpenOptions::new().read(true).write(true).open(home.run(deploy).join(LOCK)).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => None,
        Err(_) => read_holder(&file),
    }
}

/// What helps where one's API cannot be used.
pub(crate) fn without_api(holder: &Holder) -> String {
    let after = if holder.lasting { "; what it runs goes on, and `dozen up --detach` takes that over" } else { ", and all of it with it" };
    format!("`kill {}` ends it{after}.", holder.pid)
}

/// Whether a deploy that nobody runs was left running: its control part has ended, and not what it started.
pub(crate) fn is_left(home: &Home, deploy: &DeployRef) -> bool {
    Notes::of(home.run(deploy)).any()
}

/// Whether a killed server has left it so.
pub(crate) fn is_left_by_a_server(home: &Home, deploy: &DeployRef) -> bool {
    let server = || read_holder(&File::open(home.run(deploy).join(LOCK)).ok()?).map(|holder| holder.server);
    is_left(home, deploy) && server() == Some(true)
}

/// What helps where processes of a deploy run, and nobody runs the deploy.
pub(crate) fn way_on(home: &Home, deploy: &DeployRef) -> String {
    match is_left_by_a_server(home, deploy) {
        true => "`dozen server`, started again, goes on with what runs; `dozen down` stops it.".to_owned(),
        false => "`dozen up --detach` takes over what runs, `dozen down` stops it.".to_owned(),
    }
}

/// A connection to an API, and what its requests show; a version that has no tokens needs none.
pub(crate) type Connection = (UnixStream, Option<HeaderValue>);

/// Connects to a running deploy's API.
pub(crate) async fn connect(home: &Home, deploy: &DeployRef) -> std::io::Result<Connection> {
    connect_in(&home.run(deploy)).await
}

/// Binds the API socket of a one-off that this process runs; whoever holds the one-off removes it.
pub(crate) fn bind_one_off(home: &Home, deploy: &DeployRef, number: u32) -> Result<Door> {
    let path = home.one_off(deploy, number);
    let folder = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    bind(&folder, &path)
}

/// Connects to the API of who runs a one-off, where that is no `up`.
pub(crate) async fn connect_one_off(home: &Home, deploy: &DeployRef, number: u32) -> std::io::Result<Connection> {
    connect_in(&home.one_off(deploy, number)).await
}

async fn connect_in(path: &Path) -> std::io::Result<Connection> {
    let folder = File::open(path)?;
    let stream = UnixStream::connect(through(&folder)).await?;
    // After the connection: the token of who answers now. A version that had none has no file.
    let text = std::fs::read_to_string(path.join(TOKEN)).ok();
    Ok((stream, text.and_then(|text| token::shown(&text))))
}

/// The socket's path by way of the open folder: a home may lie deeper than the 107 bytes that a socket's address holds.
fn through(folder: &File) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(SOCKET)
}

fn read_holder(mut file: &File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(4096).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deploy_is_run_once_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("temp dir");
        let home = Home::at(dir.path().join("a-very-long-name".repeat(8)));
        let shop: DeployRef = "shop".parse().expect("valid");
        let first = RunFolder::take(&home, &shop, false).expect("free");
        let refused = RunFolder::take(&home, &shop, false).expect_err("taken");
        let who = &refused.downcast_ref::<AlreadyRunning>().expect("typed").0;
        assert_eq!(who.pid, std::process::id());
        assert_eq!(holder(&home, &shop).as_ref(), Some(who));
        RunFolder::take(&home, &"other".parse().expect("valid"), false).expect("another deploy is free");
        drop(first);
        assert_eq!(holder(&home, &shop), None);
        assert!(!home.run(&shop).exists());
        RunFolder::take(&home, &shop, false).expect("free again");
    }
}
