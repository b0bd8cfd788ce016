//! What systemd is told of a server, as text.

use dozen_core::ids::InvalidName;
use std::path::Path;

/// The service, and the sockets that are bound for it.
pub(super) const SERVICE: &str = "dozen.service";
/// Of HTTP.
pub(super) const HTTP: &str = "dozen-http.socket";
/// Of HTTPS.
pub(super) const HTTPS: &str = "dozen-https.socket";

/// What the units say of one server.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) binary: &'a Path,
    pub(super) home: &'a Path,
    pub(super) account: &'a str,
    /// As `ListenStream=` has it: a port, or an address and a port.
    pub(super) http: String,
    pub(super) https: Option<String>,
    /// Settings of `dozen server`, by the names of its environment.
    pub(super) settings: Vec<(&'static str, String)>,
}

/// Each unit's file name and text.
pub(super) fn all(facts: &Facts<'_>) -> Result<Vec<(&'static str, String)>, InvalidName> {
    let mut units = vec![(SERVICE, service(facts)?), (HTTP, socket("HTTP", "http", &facts.http))];
    units.extend(facts.https.as_ref().map(|at| (HTTPS, socket("HTTPS", "https", at))));
    Ok(units)
}

fn service(facts: &Facts<'_>) -> Result<String, InvalidName> {
    let Facts { account, https, .. } = facts;
    let sockets = if https.is_some() { format!("{HTTP} {HTTPS}") } else { HTTP.to_owned() };
    let (binary, home) = (path(facts.binary)?, path(facts.home)?);
    let settings = [("DOZEN_HOME", facts.home.display().to_string())].into_iter().chain(facts.settings.iter().cloned());
    let environment: String = settings.map(|(name, value)| format!("Environment={}\n", quoted(&format!("{name}={value}")))).collect();
    // One whose home is among people's own is let in there.
    let homes = if ["/home", "/root", "/run/user"].iter().any(|above| facts.home.starts_with(above)) { "no" } else { "yes" };
    let program = binary.replace('$', "$$");
    Ok(format!(
        "# Written by `dozen server install`, which writes it anew; a file in {SERVICE}.d adds to it.
[Unit]
Description=dozen, a platform for twelve-factor apps
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
User={account}
Group={account}
ExecStart={program} server
{environment}Sockets={sockets}
Restart=always
RestartSec=1

# Killed, it leaves router and apps running, and the next one takes them over. Told to stop, it stops them itself, each with its time to end.
KillMode=process
TimeoutStopSec=150
# The same for an app that needs more memory than there is.
OOMPolicy=continue

# Sizes of apps are cgroups below its own.
Delegate=yes
TasksMax=infinity
LimitNOFILE=65536:524288

# What apps get is less than this: see `dozen doctor`. What systemd would hide of /proc, /sys and the cgroups, jails need to make their own.
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=full
ReadWritePaths={home}
ProtectHome={homes}
LockPersonality=yes
RestrictRealtime=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"
    ))
}

fn socket(of: &str, name: &str, at: &str) -> String {
    format!(
        "# Written by `dozen server install`, which writes it anew.
[Unit]
Description=dozen's public address, {of}

[Socket]
ListenStream={at}
FileDescriptorName={name}
Service={SERVICE}
Backlog=4096
NoDelay=yes

[Install]
WantedBy=sockets.target
"
    )
}

/// A word that systemd reads as it is written (systemd.syntax(7)).
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('%', "%%");
    format!("\"{escaped}\"")
}

fn path(path: &Path) -> Result<String, InvalidName> {
    let rule = "systemd takes an absolute path of printable characters, without quotes, backslashes and the like";
    let fits = |text: &&str| text.starts_with('/') && text.chars().all(|c| c.is_alphanumeric() || "/._-+@:, $%".contains(c));
    let text = path.to_str().filter(fits);
    let text = text.ok_or_else(|| InvalidName { what: "path", value: path.display().to_string(), rule })?;
    Ok(if text.contains([' ', '%']) { quoted(text) } else { text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_say_stays_one_word() {
        let facts = |home: &'static str| Facts {
            binary: Path::new("/opt/do zen/dozen"),
            home: Path::new(home),
            account: "dozen",
            http: "80".into(),
            https: Some("443".into()),
            settings: vec![("DOZEN_DOMAIN", "a\"b\\c%d\ne".into())],
        };
        let units = all(&facts("/srv/100%")).expect("paths");
        let service = &units[0].1;
        for line in [
            "ExecStart=\"/opt/do zen/dozen\" server",
            "Environment=\"DOZEN_HOME=/srv/100%%\"",
            r#"Environment="DOZEN_DOMAIN=a\"b\\c%%d\ne""#,
            "ReadWritePaths=\"/srv/100%%\"",
            "Sockets=dozen-http.socket dozen-https.socket",
        ] {
            assert!(service.lines().any(|l| l == line), "{line}\n{service}");
        }
        assert_eq!(units.len(), 3);
        for home in ["relative", "/a\nExecStart=/bin/sh", "/a\"b"] {
            assert!(all(&facts(home)).is_err(), "{home}");
        }
    }
}
