//! VI. Execute the app as one or more stateless processes.
//! What a process is: its type and command, the jail that it runs in, and what is seen of it.

use crate::ids::{DeployRef, Generation, InstanceName, TypeName, Version};
use jiff::{SignedDuration, Timestamp};
use size::Size;

pub mod jail;
pub mod procfile;
pub mod rules;
pub mod size;

/// A line of the Procfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessType {
    /// `web`, `worker`, …
    pub name: TypeName,
    /// What the app's own shell runs, inside its jail. Never substituted into by us.
    pub command: String,
}

/// The states of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Its jail was started; a `web` has not bound its port yet.
    Starting,
    /// It runs (a `web`: and listens).
    Up,
    /// It was told to stop.
    Stopping,
    /// It ended without being told to; it starts again when its back-off ends.
    Crashed,
    /// It ended as told.
    Down,
}

impl State {
    /// The word in listings and log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Stopping => "stopping",
            Self::Crashed => "crashed",
            Self::Down => "down",
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// Its jail vanished, killed from outside, and took it along.
    Lost,
}

impl Exit {
    /// Whether it returned 0.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }

    /// As a shell says it: the code, or 128 + n for a signal; SIGKILL's 137 for a lost jail.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(c) => c,
            Self::Signal(n) => 128 + n,
            Self::Lost => 137,
        }
    }
}

/// What its platform holds against a process that nobody stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It did not listen on its port in time (R10).
    Boot,
    /// A startup check failed.
    Startup,
    /// A readiness check failed: it is up and takes no requests.
    Readiness,
    /// A liveness check failed.
    Liveness,
}

/// What isolates an instance, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isolation {
    /// Own PID, mount, IPC and UTS namespaces and an own uid, made as root.
    Namespaces,
    /// The same namespaces within a user namespace, made as an ordinary user; uid as outside.
    UserNamespaces,
    /// Own session only: the host forbids namespaces.
    Session,
}

impl Isolation {
    /// The word in `ps` and `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::UserNamespaces => "user-namespaces",
            Self::Session => "session",
        }
    }
    /// Reads [`Isolation::as_str`] back.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Namespaces, Self::UserNamespaces, Self::Session].into_iter().find(|i| i.as_str() == word)
    }
}

/// Why a one-off was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It had so long.
    Overdue(SignedDuration),
    /// Somebody asked for it.
    Asked,
    /// All of the deploy was.
    Deploy,
}

impl Stopped {
    /// What its caller is told.
    pub fn line(self, instance: &InstanceName, deploy: &DeployRef) -> String {
        match self {
            Self::Overdue(limit) => format!("{instance} was stopped: it ran for its {limit:#}"),
            Self::Asked => format!("{instance} was stopped by `dozen runs stop`"),
            Self::Deploy => format!("{instance} was stopped: {deploy} was stopped"),
        }
    }
}

/// What a driver reports of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Whose.
    pub deploy: DeployRef,
    /// The intent that it was started for.
    pub generation: Generation,
    /// `web.1`
    pub instance: InstanceName,
    /// Of this release.
    pub release: Version,
    /// State.
    pub state: State,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// Where the router reaches it, once it listens.
    pub port: Option<u16>,
    /// Whether it is up and its readiness checks, where it has any, passed last.
    pub ready: bool,
    /// Whether the router was told to send it requests.
    pub routed: bool,
    /// The host's process id of its jail.
    pub pid: Option<u32>,
    /// How often it was started again after a crash.
    pub restarts: u32,
    /// How it last ended.
    pub exit: Option<Exit>,
    /// Why it is not ready, or why the platform ended it, where it did so last.
    pub fault: Option<Fault>,
    /// When it starts again, where it has crashed.
    pub retry: Option<Timestamp>,
    /// What isolates it.
    pub isolation: Option<Isolation>,
    /// The size that it was last started with; `None` where nothing says one.
    pub size: Option<Size>,
    /// Layers of its jail that could not be had, for people.
    pub missing: Vec<String>,
    /// Why it was told to end, of a one-off.
    pub stopped: Option<Stopped>,
}
