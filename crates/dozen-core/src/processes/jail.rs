//! What `dozen __jail` is told and what it answers: the wire between a driver and one instance.
//!
//! The driver starts `/proc/self/exe __jail` once, the stock of its jails, with a Unix socket of whole packets as file descriptor 3. A packet
//! with descriptors asks for a jail: see [`Asked`]. The first of them is a connected Unix stream socket, where that jail and nobody else
//! listens. Each message there is one line of JSON. The first to the jail is [`ToJail::Start`]. End of file means that the parent is lost:
//! SIGTERM to everything inside, SIGKILL after `lost_grace_ms`.
//!
//! A lasting jail has a listening Unix socket besides. It outlives its driver: it waits there for the next one, which says
//! [`ToJail::Adopt`] and is told again what it has to know, up to [`FromJail::Told`]. A lasting jail ends when its end was
//! [collected](ToJail::Collect).

use super::size::Limits;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The version of these messages; N speaks N−1.
pub const PROTOCOL: u32 = 3;
/// The first version whose jails run commands on request.
pub const PROBES: u32 = 3;
/// The descriptor on which the stock of jails finds its socket.
pub const STOCK_FD: i32 = 3;

/// What the packet that asks for a jail brings: one byte, and in this order the jail's control socket, the socket where it waits for its next
/// driver, and its three standard descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Whether the second is there.
    pub lasting: bool,
    /// Whether the last three are. Otherwise all three are `/dev/null`.
    pub io: bool,
}

impl Asked {
    /// So many descriptors come at most.
    pub const MOST: usize = 5;

    /// As the byte says it.
    pub fn of(byte: u8) -> Self {
        Self { lasting: byte & 1 != 0, io: byte & 2 != 0 }
    }

    /// The byte.
    pub fn byte(self) -> u8 {
        u8::from(self.lasting) | u8::from(self.io) << 1
    }

    /// So many descriptors come.
    pub fn descriptors(self) -> usize {
        1 + usize::from(self.lasting) + if self.io { 3 } else { 0 }
    }
}

/// Whether a driver of this version can steer a jail that speaks `protocol`. Before 2 no jail could be adopted.
pub fn speaks(protocol: u32) -> bool {
    (PROTOCOL - 1..=PROTOCOL).contains(&protocol)
}

/// What a jail is made of.
#[derive(Clone, Serialize, Deserialize)]
pub struct JailSpec {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
    /// `web.1`: names the log lines and, as `app-web-1`, the host inside.
    pub instance: String,
    /// The host name inside, a DNS label.
    pub hostname: String,
    /// What to run; looked up in the PATH of `env` when it has no slash.
    pub argv: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(String, String)>,
    /// The working folder, as seen inside.
    pub cwd: PathBuf,
    /// The app's folder on the host and, where mounts are possible, where it appears inside (`/app`). Where the view is the host's, what the
    /// program may reach at its real path.
    pub mounts: Vec<Mount>,
    /// Folders that the program may write and that die with the jail. Where mounts are not possible there are none.
    #[serde(default)]
    pub scratch: Vec<Scratch>,
    /// `None`: the host's file system is seen as it is (no mount namespace). `Some`: a minimal read-only view of the system with `mounts` in it.
    pub view: View,
    /// The uid and gid to run as, where the jail is made by root; `None` keeps the caller's.
    pub user: Option<(u32, u32)>,
    /// What the host holds it to; `None` sets no limits.
    #[serde(default)]
    pub limits: Option<JailLimits>,
    /// The TCP port whose listener, when it belongs to this jail, means "ready".
    pub port: Option<u16>,
    /// Whether Landlock holds the program to its mounts, scratch folders and temporary files. Without a view of its own it then gets a folder of
    /// its own for these, named by TMPDIR, and reads of the host what a view would show.
    #[serde(default)]
    pub held: bool,
    /// The TCP ports that the program may bind besides `port` and those that the kernel chooses; `None`: any.
    #[serde(default)]
    pub ports: Option<Vec<u16>>,
    /// Whether it is to run commands on request; then it keeps what that takes.
    #[serde(default)]
    pub probes: bool,
    /// Where its output goes; `None` leaves the three standard descriptors as they were handed in.
    pub log: Option<JailLog>,
    /// Milliseconds between SIGTERM and SIGKILL when the parent is lost.
    pub lost_grace_ms: u64,
    /// Whether it outlives its driver and waits for the next one.
    #[serde(default)]
    pub lasting: bool,
    /// Whether one that ends with its driver has the socket of a lasting one all the same and answers nobody there, so that others see when it is gone.
    #[serde(default)]
    pub shown: bool,
}

impl std::fmt::Debug for JailSpec {
    /// Without the values of `env`, which hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JailSpec")
            .field("instance", &self.instance)
            .field("argv", &self.argv)
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}

/// What a jail sees of the host's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum View {
    /// A minimal read-only view: the system's programs and libraries, the mounts, an own /tmp, /proc and /dev.
    Minimal,
    /// The host's file system as it is.
    Host,
}

/// One folder or file of the host inside a jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// On the host.
    pub source: PathBuf,
    /// Inside; made where it is missing.
    pub target: PathBuf,
    /// Whether it may be written.
    pub writable: bool,
}

/// A folder of a jail's own, in memory: empty at its start but for the folders, without their files, that lie there in the mount that it covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scratch {
    /// Inside; it must be there already where the mount that it lies in is read-only.
    pub target: PathBuf,
    /// So much can be written to it.
    pub bytes: u64,
}

/// What a jail's program may use: [`Limits`] on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailLimits {
    /// Bytes of memory: above it the driver is told, at one and a half times the program is killed.
    pub memory: Option<u64>,
    /// Its part of the processors, relative to others; 100 is usual.
    pub weight: u32,
    /// Processes and threads.
    pub tasks: u32,
}

impl From<Limits> for JailLimits {
    fn from(Limits { memory, weight, tasks }: Limits) -> Self {
        Self { memory, weight, tasks }
    }
}

/// Where a jail writes what its processes say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailLog {
    /// The deploy's folder of segment files.
    pub folder: PathBuf,
    /// Names the segment file beside time and instance: `v12`.
    pub release: String,
    /// A segment that reaches this many bytes is closed and a new one begun.
    pub segment_bytes: u64,
    /// So many closed segments of this jail are kept.
    pub segments: u32,
}

/// Driver to jail.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum ToJail {
    /// Make the jail and run its program. First, and once.
    Start {
        /// Everything about it.
        spec: Box<JailSpec>,
    },
    /// Send this signal to every process inside.
    Signal {
        /// Its number.
        number: i32,
    },
    /// SIGTERM and SIGCONT to every process inside; SIGKILL to what is left after the grace.
    Stop {
        /// Milliseconds.
        grace_ms: u64,
    },
    /// SIGKILL now.
    Kill,
    /// Run this command beside the program, in the same surroundings. Answered by [`FromJail::Probed`], unless the instance ends.
    Probe {
        /// The driver's number for it.
        number: u64,
        /// What to run.
        argv: Vec<String>,
        /// It is killed when so many milliseconds have passed.
        timeout_ms: u64,
    },
    /// From a new driver of a lasting jail, before anything else.
    Adopt {
        /// [`PROTOCOL`] of the driver.
        protocol: u32,
        /// Whether the jail is to outlive this driver, too.
        lasting: bool,
    },
    /// The last message was taken and kept; a lasting jail may end.
    Collect,
}

/// Jail to driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum FromJail {
    /// A process was made that is a child of the driver, which must reap it. First the starter says it of itself; then it says it of the jail,
    /// and again when a lesser isolation is tried after it. Where the starter stays as the guard, the jail is no child of the driver.
    Made {
        /// Its process id as the driver sees it.
        pid: u32,
    },
    /// The program runs.
    Started {
        /// [`PROTOCOL`] of the jail.
        protocol: u32,
        /// The host's process id of the jail (PID 1 inside, where there is a PID namespace).
        pid: u32,
        /// What was achieved: `Isolation::as_str`.
        isolation: String,
        /// Layers that could not be had, for people: `pid namespace: operation not permitted`.
        missing: Vec<String>,
        /// When, in milliseconds since 1970.
        #[serde(default)]
        at: Option<i64>,
    },
    /// Something inside listens on the port.
    Listening {
        /// The port.
        port: u16,
        /// When, in milliseconds since 1970.
        #[serde(default)]
        at: Option<i64>,
    },
    /// A driver has said [`ToJail::Stop`]. For the next one, which does not know.
    Stopping {
        /// When, in milliseconds since 1970.
        at: i64,
    },
    /// To a driver that has adopted the jail: all that happened before was told.
    Told,
    /// Lines were written to the segment file; a reader may look. Coalesced.
    Wrote,
    /// A line said that this could not be written, since the slug is read-only. Once for each path, and for a few paths at most.
    Refused {
        /// As the app wrote it.
        path: String,
    },
    /// It uses more memory than its size.
    Memory {
        /// So many bytes.
        used: u64,
        /// Its size.
        quota: u64,
        /// So much more that all of it was killed.
        vastly: bool,
    },
    /// What came of a command; nothing is left of it.
    Probed {
        /// The driver's number for it.
        number: u64,
        /// Why it did not end with 0.
        failure: Option<String>,
    },
    /// The kernel refused it another process, since it has as many as it may. Once.
    Crowded {
        /// So many processes and threads.
        most: u32,
    },
    /// The grace ended: SIGKILL was sent to what was left.
    Killing,
    /// The program (the leader) ended and so did every other process inside. The last message.
    Exited {
        /// Its exit code, unless a signal ended it.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// The jail could not be made or its program could not be run. The last message.
    Failed {
        /// What was attempted: `mount /app`, `exec`.
        attempt: String,
        /// Why it failed.
        error: String,
        /// As a shell would exit: 127 for a missing program, 126 for one that cannot be run, 1 otherwise.
        code: i32,
    },
}
