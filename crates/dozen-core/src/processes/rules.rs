//! What an app says of its process types besides their commands: dozen.toml's `[process.<type>]` and the checks of their health.

use crate::ids::TypeName;
use std::collections::BTreeMap;
use std::time::Duration;

/// Of each process type that something is said of.
pub type RulesByType = BTreeMap<TypeName, Rules>;

/// What is said of a process type; what is not has the platform's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// How long an instance that is no `web` must have been alive to count as up.
    pub settle: Option<Duration>,
    /// Between SIGTERM and SIGKILL.
    pub stop_timeout: Option<Duration>,
    /// The size of its instances.
    pub size: Option<String>,
    /// Whether a new release's instances start while the old ones still run; `false` stops the old ones first.
    pub overlap: Option<bool>,
    /// The process types that must be up before it starts. Never leads back to itself.
    pub after: Vec<TypeName>,
    /// TCP ports that its instances bind besides their own: a metrics endpoint, a debugger.
    pub ports: Vec<u16>,
    /// The checks of its instances' health.
    pub checks: Vec<HealthCheck>,
}

/// One check of an instance's health, in the shape that Dokku gave it in app.json.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What depends on it.
    pub kind: HealthKind,
    /// What it is called in messages.
    pub name: Option<String>,
    /// The path of an HTTP request that must be answered with 2xx or 3xx.
    pub path: Option<String>,
    /// The port of that request; `None`: the instance's own.
    pub port: Option<u16>,
    /// `http` or `https`; `None`: `http`.
    pub scheme: Option<String>,
    /// Headers of that request.
    pub headers: Vec<(String, String)>,
    /// What its answer must contain.
    pub content: Option<String>,
    /// A command that must end with 0.
    pub command: Vec<String>,
    /// How long the instance must have been up.
    pub uptime: Option<Duration>,
    /// The port must have a listener.
    pub listening: bool,
    /// How often it is tried before it fails; 3 by default, at least 1.
    pub attempts: u32,
    /// Between two tries; 5 s by default.
    pub wait: Duration,
    /// For one try; 5 s by default.
    pub timeout: Duration,
    /// Before the first try; 0 by default.
    pub initial_delay: Duration,
}

/// What a health check decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthKind {
    /// Whether a new instance came up.
    Startup,
    /// Whether it takes requests now.
    Readiness,
    /// Whether it must be started anew.
    Liveness,
}

impl HealthKind {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];

    /// The word in app.json and dozen.toml.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        }
    }
}
