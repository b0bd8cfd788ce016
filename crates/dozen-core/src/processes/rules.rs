//! What an app says of its process types besides their commands: dozen.toml's `[process.<type>]` and the checks of their health.

use crate::ids::TypeName;
use crate::processes::size::Size;
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
    pub size: Option<Size>,
    /// Whether a new release's instances start while the old ones still run; `false` stops the old ones first.
    pub overlap: Option<bool>,
    /// The process types that must be up before it starts. Never leads back to itself.
    pub after: Vec<TypeName>,
    /// TCP ports that its instances bind besides their own: a metrics endpoint, a debugger.
    pub ports: Vec<u16>,
    /// So many requests at a time are sent to one instance of a `web`.
    pub concurrency: Option<u32>,
    /// So many more wait for one that takes them.
    pub queue: Option<u32>,
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
    /// Headers of that request.
    pub headers: Vec<(String, String)>,
    /// What its answer must contain.
    pub content: Option<String>,
    /// A command that must end with 0, run beside the instance's own processes.
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
    /// Whether its failure is only told of.
    pub warn: bool,
}

/// One try of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe<'c> {
    /// A command, inside.
    Run {
        /// What.
        argv: &'c [String],
    },
    /// An HTTP request for a path.
    Get {
        /// Where.
        port: u16,
        /// Of what.
        path: &'c str,
    },
    /// A connection.
    Connect {
        /// Where.
        port: u16,
    },
    /// That it has lived until the time of the try.
    Alive,
}

impl HealthCheck {
    /// What a try is, of an instance that has this port. `None` where it has none and the check needs one.
    pub fn probe(&self, own: Option<u16>) -> Option<Probe<'_>> {
        let port = self.port.or(own);
        match (&self.path, port) {
            _ if !self.command.is_empty() => Some(Probe::Run { argv: &self.command }),
            (Some(path), Some(port)) => Some(Probe::Get { port, path }),
            (None, Some(port)) if self.listening => Some(Probe::Connect { port }),
            (None, _) if self.uptime.is_some() => Some(Probe::Alive),
            (None, Some(port)) => Some(Probe::Get { port, path: "/" }),
            (_, None) => None,
        }
    }

    /// Whether it can be tried on instances that have a port of their own, or have none.
    pub fn fits(&self, own_port: bool) -> bool {
        self.probe(own_port.then_some(1)).is_some()
    }

    /// For messages: its name, or what it asks.
    pub fn label(&self) -> String {
        match (&self.name, &self.path) {
            (Some(name), _) => format!("`{name}`"),
            (None, _) if !self.command.is_empty() => format!("by `{}`", self.command.join(" ")),
            (None, Some(path)) => format!("of {path}"),
            (None, None) if self.listening => "of its port".to_owned(),
            (None, None) if self.uptime.is_some() => "of its uptime".to_owned(),
            (None, None) => "of /".to_owned(),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_tried_is() {
        let bare = HealthCheck {
            kind: HealthKind::Startup,
            name: None,
            path: None,
            port: None,
            headers: vec![],
            content: None,
            command: vec![],
            uptime: None,
            listening: false,
            attempts: 3,
            wait: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            initial_delay: Duration::ZERO,
            warn: false,
        };
        let path = HealthCheck { path: Some("/up".to_owned()), ..bare.clone() };
        assert_eq!(path.probe(Some(7)), Some(Probe::Get { port: 7, path: "/up" }));
        assert_eq!(HealthCheck { port: Some(9), ..path.clone() }.probe(None), Some(Probe::Get { port: 9, path: "/up" }));
        assert_eq!(bare.probe(Some(7)), Some(Probe::Get { port: 7, path: "/" }));
        assert_eq!(HealthCheck { listening: true, ..bare.clone() }.probe(Some(7)), Some(Probe::Connect { port: 7 }));
        assert_eq!(HealthCheck { uptime: Some(Duration::from_secs(1)), ..bare.clone() }.probe(None), Some(Probe::Alive));
        let run = HealthCheck { command: vec!["true".to_owned()], ..bare.clone() };
        assert_eq!(run.probe(None), Some(Probe::Run { argv: &run.command }));
        assert_eq!(run.label(), "by `true`");
        assert!(path.fits(true) && run.fits(false));
        assert!(!path.fits(false) && !bare.fits(false));
    }
}
