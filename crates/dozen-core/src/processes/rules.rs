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

/// One try of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe<'c> {
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
    /// What a try is, of an instance that has this port. `None` where dozen cannot try it: see [`HealthCheck::obstacle`].
    pub fn probe(&self, own: Option<u16>) -> Option<Probe<'_>> {
        let port = self.port.or(own);
        let plain = self.scheme.as_deref().is_none_or(|s| s.eq_ignore_ascii_case("http"));
        match (&self.path, port) {
            (Some(path), Some(port)) if plain => Some(Probe::Get { port, path }),
            (None, Some(port)) if self.listening => Some(Probe::Connect { port }),
            (None, _) if self.uptime.is_some() => Some(Probe::Alive),
            (None, Some(port)) if plain && self.command.is_empty() && !self.listening => Some(Probe::Get { port, path: "/" }),
            _ => None,
        }
    }

    /// Why it cannot be tried on instances that have a port of their own, or have none.
    pub fn obstacle(&self, own_port: bool) -> Option<&'static str> {
        if self.probe(own_port.then_some(1)).is_some() {
            None
        } else if !self.command.is_empty() && self.path.is_none() {
            Some("commands are not run inside a process that runs already; give a path or `listening`")
        } else if self.port.is_none() && !own_port {
            Some("only a web process has a port of its own; give the port that it listens on")
        } else {
            Some("only plain HTTP is spoken; leave out `scheme`")
        }
    }

    /// For messages: its name, or what it asks.
    pub fn label(&self) -> String {
        match (&self.name, &self.path) {
            (Some(name), _) => format!("`{name}`"),
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
    fn what_can_be_tried_is_and_what_cannot_says_why() {
        let bare = HealthCheck {
            kind: HealthKind::Startup,
            name: None,
            path: None,
            port: None,
            scheme: None,
            headers: vec![],
            content: None,
            command: vec![],
            uptime: None,
            listening: false,
            attempts: 3,
            wait: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            initial_delay: Duration::ZERO,
        };
        let path = HealthCheck { path: Some("/up".to_owned()), ..bare.clone() };
        assert_eq!(path.probe(Some(7)), Some(Probe::Get { port: 7, path: "/up" }));
        assert_eq!(HealthCheck { port: Some(9), ..path.clone() }.probe(None), Some(Probe::Get { port: 9, path: "/up" }));
        assert_eq!(bare.probe(Some(7)), Some(Probe::Get { port: 7, path: "/" }));
        assert_eq!(HealthCheck { listening: true, ..bare.clone() }.probe(Some(7)), Some(Probe::Connect { port: 7 }));
        assert_eq!(HealthCheck { uptime: Some(Duration::from_secs(1)), ..bare.clone() }.probe(None), Some(Probe::Alive));
        let told = |check: HealthCheck, web: bool| check.obstacle(web).unwrap_or("none").to_owned();
        assert!(told(HealthCheck { command: vec!["true".to_owned()], ..bare.clone() }, true).contains("commands are not run"));
        assert!(told(path.clone(), false).contains("only a web process has a port"));
        assert!(told(bare.clone(), false).contains("only a web process has a port"));
        assert!(told(HealthCheck { scheme: Some("https".to_owned()), ..path.clone() }, true).contains("only plain HTTP"));
        assert_eq!(told(path, true), "none");
    }
}
