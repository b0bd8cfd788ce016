//! What systemd runs of a slug that is installed: a unit for each process type. Pure: nothing here touches a disk.

use dozen_core::config::Config;
use dozen_core::ids::{DeployRef, InstanceName, PRODUCTION};
use dozen_core::processes::ProcessType;
use dozen_core::release::Release;
use std::fmt::Write;

/// Where units of packages lie.
pub(super) const UNITS: &str = "usr/lib/systemd/system";
/// The port of `web`, until its config says another.
const PORT: u16 = 5000;

/// A unit's file name and its text.
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) text: String,
}

/// The units of a release, one for each process type but a console. `argv` is what becomes of a command.
///
/// The release phase is a unit that the others wait for. The config is no part of any: each reads the file of defaults.
pub(super) fn units(release: &Release, argv: &dyn Fn(&str) -> Vec<String>) -> Vec<Unit> {
    let all = || release.slug.processes.iter().filter(|p| !p.name.is_console());
    let phase = all().find(|p| p.name.is_release()).map(|p| name(release, p));
    all().map(|process| Unit { name: name(release, process), text: text(release, process, phase.as_deref(), argv) }).collect()
}

fn name(release: &Release, process: &ProcessType) -> String {
    format!("{}-{}.service", package(release), process.name)
}

fn text(release: &Release, process: &ProcessType, phase: Option<&str>, argv: &dyn Fn(&str) -> Vec<String>) -> String {
    let (app, package) = (&release.deploy.app, package(release));
    let folder = folder(release);
    let bare = Release { config: Config::default(), attachments: Vec::new(), ..release.clone() };
    let instance = InstanceName { kind: process.name.clone(), number: 1 };
    let port = process.name.is_web().then_some(PORT);
    let env = bare.environment(&instance, port, &folder);
    let mut out = format!("[Unit]\nDescription={app} {} ({} of {})\nAfter=network.target\n", process.name, release.version, release.deploy);
    let is_phase = process.name.is_release();
    if let Some(phase) = phase.filter(|_| !is_phase) {
        let _ = write!(out, "Requires={phase}\nAfter={phase}\n");
    }
    out.push_str("\n[Service]\n");
    // A release phase is done when it has ended, and not done again until all of it starts anew.
    out.push_str(if is_phase { "Type=oneshot\nRemainAfterExit=yes\n" } else { "Type=exec\nRestart=always\nRestartSec=1\n" });
    let _ = write!(out, "DynamicUser=yes\nWorkingDirectory={}\n", escaped(&folder));
    for (name, value) in &env {
        let _ = writeln!(out, "Environment={}", quoted(&format!("{name}={value}"), false));
    }
    let _ = writeln!(out, "EnvironmentFile=-/etc/default/{package}");
    for scratch in &release.slug.scratch {
        let _ = writeln!(out, "TemporaryFileSystem={}", quoted(&format!("{folder}/{scratch}:mode=1777"), false));
    }
    let words: Vec<String> =
        argv(&process.command).iter().enumerate().map(|(i, w)| if i == 0 { w.clone() } else { quoted(w, true) }).collect();
    let _ = write!(out, "ExecStart={}\nTimeoutStopSec=30\n", words.join(" "));
    out.push_str("\n[Install]\nWantedBy=multi-user.target\n");
    out
}

/// What all that a package installs is called by: like nothing of the system's, and not like another deploy of the app.
pub(super) fn package(release: &Release) -> String {
    let DeployRef { app, deploy } = &release.deploy;
    // A name of ours has no dot, so that none of them means two.
    if deploy.as_str() == PRODUCTION { format!("dozen-app-{app}") } else { format!("dozen-app-{app}.{deploy}") }
}

/// Where the app lies.
pub(super) fn folder(release: &Release) -> String {
    format!("/opt/{}", package(release))
}

/// The file of config: what is no secret with its value, of everything else the name.
pub(super) fn defaults(release: &Release) -> String {
    let deploy = &release.deploy;
    let mut out = format!("# The config of {deploy}, for systemd: NAME=\"value\", one a line. What is a secret is yours to fill in.\n");
    let attached = release.attachments.iter().map(|a| (a.variable(), None));
    let vars = release.config.vars.iter().map(|(name, var)| (name.clone(), var.plain.then_some(var.value.as_str())));
    let all: std::collections::BTreeMap<String, Option<&str>> = attached.chain(vars).collect();
    for (name, value) in all {
        let _ = match value {
            Some(value) => writeln!(out, "{name}=\"{}\"", in_file(value)),
            None => writeln!(out, "#{name}="),
        };
    }
    let _ = writeln!(out, "# The port that web binds:\n#PORT={PORT}");
    out
}

/// As systemd reads the value of an `EnvironmentFile` within double quotes.
fn in_file(value: &str) -> String {
    let mut out = String::new();
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '`' | '$') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A path where no quotes are read.
fn escaped(path: &str) -> String {
    path.replace('%', "%%")
}

/// A word of a unit. In a command `$` is a variable, too.
fn quoted(word: &str, command: bool) -> String {
    let mut out = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '%' => out.push_str("%%"),
            '$' if command => out.push_str("$$"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_by_systemd_as_they_were() {
        assert_eq!(quoted("A=x \"y\" 5% a\\b\nl2 $C", false), r#""A=x \"y\" 5%% a\\b\nl2 $C""#);
        assert_eq!(quoted("echo $PORT 'x'", true), r#""echo $$PORT 'x'""#);
        assert_eq!(in_file("a\"b\\c$d`e\nf"), "a\\\"b\\\\c\\$d\\`e\nf");
    }
}
