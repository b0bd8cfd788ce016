//! What is written down of things that outlive the control part: a note and a socket each, in the deploy's run folder.
//!
//! **Invariant:** a note of another boot says nothing: it is deleted, and what it names is never reached.
//! **Invariant:** a note is whole or not there. It is written before what it tells of starts, and goes when that was collected.

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

/// A deploy's run folder, as far as it tells what runs without its control part.
#[derive(Debug, Clone)]
pub struct Notes {
    folder: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Dated<T> {
    /// The kernel's own name for the time since the machine started.
    boot: String,
    note: T,
}

const NOTE: &str = "note";
const SOCKET: &str = "sock";

impl Notes {
    /// Those of a run folder, which nobody but its owner can enter.
    pub fn of(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Whether something was left running here since the machine started.
    pub fn any(&self) -> bool {
        let boot = boot();
        self.files(NOTE).iter().any(|name| self.dated::<serde_json::Value>(name).is_some_and(|d| d.boot == boot))
    }

    /// The names of all notes of this boot. What is of another is deleted on the way.
    pub fn sweep(&self) -> Vec<String> {
        let boot = boot();
        let (good, stale): (Vec<_>, Vec<_>) =
            self.files(NOTE).into_iter().partition(|name| self.dated::<serde_json::Value>(name).is_some_and(|d| d.boot == boot));
        let unnamed = self.files(SOCKET).into_iter().filter(|name| !good.contains(name) && Self::is_ours(name));
        stale.into_iter().chain(unnamed).for_each(|name| self.remove(&name));
        good
    }

    /// What a note says.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.dated(name).filter(|d| d.boot == boot()).map(|d| d.note)
    }

    /// Writes a note in place of what it said before.
    pub(crate) fn write(&self, name: &str, note: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec(&Dated { boot: boot(), note })?;
        let fresh = self.path(name, "new");
        fs::write(&fresh, text)?;
        fs::rename(&fresh, self.path(name, NOTE))
    }

    /// Binds the socket of a note, in place of what somebody left there. Who gets it listens, and is then seen by who connects.
    pub(crate) fn bind(&self, name: &str) -> io::Result<OwnedFd> {
        let _ = fs::remove_file(self.path(name, SOCKET));
        let folder = File::open(&self.folder)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(through(&folder, name))?)?;
        Ok(socket)
    }

    /// Connects to who listens there. Answers its process id besides.
    pub(crate) async fn connect(&self, name: &str) -> io::Result<(UnixStream, u32)> {
        let folder = File::open(&self.folder)?;
        let stream = UnixStream::connect(through(&folder, name)).await?;
        let peer = stream.peer_cred()?;
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
        match pid {
            Some(pid) if peer.uid() == rustix::process::geteuid().as_raw() => Ok((stream, pid)),
            _ => Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to somebody else")),
        }
    }

    /// Forgets one.
    pub(crate) fn remove(&self, name: &str) {
        for ending in [SOCKET, NOTE, "new"] {
            // What is not there needs no removal; what stays is swept later.
            let _ = fs::remove_file(self.path(name, ending));
        }
    }

    fn dated<T: DeserializeOwned>(&self, name: &str) -> Option<Dated<T>> {
        serde_json::from_slice(&fs::read(self.path(name, NOTE)).ok()?).ok()
    }

    fn path(&self, name: &str, ending: &str) -> PathBuf {
        self.folder.join(format!("{name}.{ending}"))
    }

    fn files(&self, ending: &str) -> Vec<String> {
        let all = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| PathBuf::from(entry.file_name()));
        let named = all.filter(|file| file.extension().is_some_and(|e| e == ending));
        let mut names: Vec<String> = named.filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned())).collect();
        names.sort();
        names
    }

    /// The API's socket lies here, too.
    fn is_ours(name: &str) -> bool {
        name.starts_with("jail-") || name == "router"
    }
}

/// By way of the open folder: a home may lie deeper than the 107 bytes that a socket's address holds.
fn through(folder: &File, name: &str) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(format!("{name}.{SOCKET}"))
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn notes_of_another_boot_are_swept_and_what_is_not_ours_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let notes = Notes::of(dir.path().join("deep".repeat(40)));
        fs::create_dir(&notes.folder).expect("made");
        assert!(!notes.any());
        notes.write("jail-a", &1).expect("written");
        let listener = notes.bind("jail-a").expect("bound");
        assert!(notes.connect("jail-a").await.is_err(), "nobody listens yet");
        rustix::net::listen(&listener, 1).expect("listens");
        fs::write(notes.path("jail-b", NOTE), r#"{"boot":"another","note":2}"#).expect("written");
        fs::write(notes.path("jail-c", NOTE), "{").expect("written");
        for (name, ending) in [("jail-b", SOCKET), ("jail-d", SOCKET), ("api", SOCKET)] {
            fs::write(notes.path(name, ending), "").expect("written");
        }
        assert!(notes.any());
        assert_eq!(notes.sweep(), ["jail-a"]);
        assert_eq!((notes.read("jail-a"), notes.read::<u32>("jail-b")), (Some(1), None));
        assert_eq!(notes.files(SOCKET), ["api", "jail-a"]);
        let (_, pid) = notes.connect("jail-a").await.expect("somebody listens");
        assert_eq!(pid, std::process::id());
        notes.remove("jail-a");
        assert!(!notes.any() && notes.connect("jail-a").await.is_err());
    }
}
