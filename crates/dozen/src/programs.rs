//! A person's own programs: an editor, a browser. Started from an argument vector, never by a shell.

use crate::client::Told;
use anyhow::{Context, Result, anyhow, bail};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use tokio::signal::unix::{SignalKind, signal};

/// So long an editor may take to end when this program is told to.
const EDITOR_PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// Where git keeps beside a remote of SSH which server it is of: `remote.dozen.dozenserver`.
pub(crate) const SERVER: &str = "dozenserver";

/// The remotes of the git repository around a folder, each with its URL, or the one that it has at the server that it is said to be of. None
/// where there is no repository, or no git.
pub(crate) fn git_remotes(folder: &Path) -> Vec<(String, String)> {
    if !folder.ancestors().any(|above| above.join(".git").exists()) {
        return Vec::new();
    }
    // Of what a stranger may have written into a repository's configuration this reads, and starts nothing.
    #[expect(clippy::disallowed_methods, reason = "the person's own git, from an argument vector")]
    let asked = std::process::Command::new("git")
        .args(["config", "--local", "-z", "--get-regexp", &format!(r"^remote\..*\.(url|{SERVER})$")])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(said) = asked else { return Vec::new() };
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let of = |word: &str| -> Vec<(String, String)> {
        let line = |line: &str| {
            let (key, value) = line.split_once('\n')?;
            Some((key.strip_prefix("remote.")?.strip_suffix(word)?.to_owned(), value.to_owned()))
        };
        text.split('\0').filter_map(line).collect()
    };
    let servers = of(&format!(".{SERVER}"));
    let at_server = |(name, url): (String, String)| {
        let path = url::Url::parse(&url).ok().filter(|url| url.scheme() == "ssh").map(|url| url.path().to_owned());
        let server = servers.iter().find(|(of, _)| *of == name).map(|(_, server)| server.trim_end_matches('/'));
        let url = server.zip(path).map_or(url, |(server, path)| format!("{server}{path}"));
        (name, url)
    };
    of(".url").into_iter().map(at_server).collect()
}

/// Runs the person's git in the current folder; answers what it says.
///
/// # Errors
/// It cannot be started, or says no.
pub(crate) fn git(arguments: &[&str]) -> Result<String> {
    #[expect(clippy::disallowed_methods, reason = "the person's own git, from an argument vector")]
    let said =
        std::process::Command::new("git").args(arguments).stdin(Stdio::null()).output().context("cannot start git; is it installed?")?;
    if !said.status.success() {
        let why = String::from_utf8_lossy(&said.stderr).trim().to_owned();
        bail!(Told::failed(format!("git {}: {why}", arguments.join(" ")), None));
    }
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// Runs a program of the machine's own; answers what it says.
///
/// # Errors
/// It cannot be started, or says no.
pub(crate) fn system(program: &str, arguments: &[&str]) -> Result<String> {
    #[expect(clippy::disallowed_methods, reason = "the machine's own programs, from an argument vector")]
    let mut command = std::process::Command::new(program);
    // Where an operator's path need not lead.
    said(command.args(arguments).env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), program)
}

/// Runs dozen as somebody else, for a home of theirs; answers what it says.
///
/// # Errors
/// It cannot be started, or says no.
pub(crate) fn dozen_as(dozen: &Path, (uid, gid): (u32, u32), home: &Path, arguments: &[&str]) -> Result<String> {
    #[expect(clippy::disallowed_methods, reason = "this program itself, from an argument vector")]
    let mut command = std::process::Command::new(dozen);
    command.args(arguments).env_clear().env("DOZEN_HOME", home).env("HOME", home).current_dir("/");
    said(command.uid(uid).gid(gid), "dozen")
}

/// Starts another binary of dozen, which has this process's terminal and environment.
///
/// # Errors
/// It cannot be started.
pub(crate) fn start(dozen: &Path, arguments: &[OsString]) -> std::io::Result<tokio::process::Child> {
    #[expect(clippy::disallowed_methods, reason = "another binary of this program, from an argument vector")]
    let mut command = tokio::process::Command::new(dozen);
    given_away(command.args(arguments).kill_on_drop(true).as_std_mut());
    command.spawn()
}

/// Asks what was started to end.
pub(crate) fn ask_to_end(child: &tokio::process::Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // One that has just ended is no error.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// Has this process become a binary of dozen. Answers only why it could not.
pub(crate) fn become_another(dozen: &Path, arguments: &[OsString]) -> std::io::Error {
    #[expect(clippy::disallowed_methods, reason = "another binary of this program, from an argument vector")]
    let mut command = std::process::Command::new(dozen);
    given_away(command.args(arguments)).exec()
}

/// Sockets that this process was given are its own, and closed by then; their numbers would be those of something else.
fn given_away(command: &mut std::process::Command) -> &mut std::process::Command {
    ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].into_iter().fold(command, |command, name| command.env_remove(name))
}

fn said(command: &mut std::process::Command, name: &str) -> Result<String> {
    let said = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}; is it installed?"))?;
    if !said.status.success() {
        let why = String::from_utf8_lossy(&said.stderr).trim().to_owned();
        bail!(Told::failed(format!("{name} failed ({}): {why}", said.status), None));
    }
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// Opens a file in $VISUAL, $EDITOR, nano or vi, and waits until that ends.
pub(crate) async fn edit(path: &Path) -> Result<()> {
    let named = ["VISUAL", "EDITOR"].into_iter().find_map(|name| set(name).map(|value| (name, value)));
    let candidates = match named {
        Some((name, value)) => vec![words(&value).with_context(|| format!("${name} is no command"))?],
        None => ["nano", "vi"].map(|program| vec![program.to_owned()]).to_vec(),
    };
    // Ctrl-C in an editor is the editor's; this process has a file to remove.
    let failed = "cannot listen to signals";
    let (mut interrupt, mut quit) = (signal(SignalKind::interrupt()).context(failed)?, signal(SignalKind::quit()).context(failed)?);
    let (mut end, mut hangup) = (signal(SignalKind::terminate()).context(failed)?, signal(SignalKind::hangup()).context(failed)?);
    let terminal = Modes::of_terminal();
    for argv in &candidates {
        let [program, arguments @ ..] = argv.as_slice() else { continue };
        #[expect(clippy::disallowed_methods, reason = "the person's own editor, from an argument vector")]
        let started = tokio::process::Command::new(program).args(arguments).arg(path).kill_on_drop(true).spawn();
        let mut editor = match started {
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            other => other.with_context(|| format!("cannot start the editor {program}"))?,
        };
        let status = loop {
            tokio::select! {
                status = editor.wait() => break status.with_context(|| format!("cannot wait for the editor {program}"))?,
                _ = interrupt.recv() => {}
                _ = quit.recv() => {}
                _ = end.recv() => {
                    close(&mut editor).await;
                    bail!("ended while the editor was open; nothing was changed");
                }
                _ = hangup.recv() => {
                    close(&mut editor).await;
                    bail!("the terminal went while the editor was open; nothing was changed");
                }
            }
        };
        drop(terminal);
        if !status.success() {
            bail!(Told::failed(format!("the editor {program} failed ({status}); nothing was changed"), None));
        }
        return Ok(());
    }
    let tried: Vec<&str> = candidates.iter().filter_map(|argv| argv.first()).map(String::as_str).collect();
    let hint = Some("Set EDITOR to one that is installed, or use `dozen config set`.".to_owned());
    Err(Told::failed(format!("there is no editor {}", tried.join(" and no ")), hint).into())
}

/// Lets an editor end by itself, for as long as one takes to give its screen back; what does not is killed when it is dropped.
async fn close(editor: &mut tokio::process::Child) {
    let pid = editor.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // One that has just ended is no error.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let _ = tokio::time::timeout(EDITOR_PATIENCE, editor.wait()).await;
}

/// The modes of this terminal, set again when it is dropped: an editor that was killed leaves its own.
struct Modes(Option<rustix::termios::Termios>);

impl Modes {
    fn of_terminal() -> Self {
        Self(rustix::termios::tcgetattr(rustix::stdio::stdin()).ok())
    }
}

impl Drop for Modes {
    fn drop(&mut self) {
        if let Some(modes) = &self.0 {
            // A terminal that is gone has no modes.
            let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), rustix::termios::OptionalActions::Drain, modes);
        }
    }
}

/// Opens a URL in the browser, which goes on by itself: $BROWSER, or where there is a display the desktop's. Answers whether one was started.
pub(crate) fn browse(url: &str) -> bool {
    let named = set("BROWSER").unwrap_or_default();
    // Several are tried in turn; the URL is where `%s` is, or at the end.
    let named = named.split(':').filter_map(|command| words(command).ok()).map(|argv| with_url(argv, url));
    let has_display = ["DISPLAY", "WAYLAND_DISPLAY"].into_iter().any(|name| set(name).is_some());
    let desktop = ["xdg-open", "open"].map(|program| vec![program.to_owned(), url.to_owned()]).into_iter().filter(|_| has_display);
    named.chain(desktop).any(|argv| {
        let [program, arguments @ ..] = argv.as_slice() else { return false };
        #[expect(clippy::disallowed_methods, reason = "the person's own browser, from an argument vector")]
        let mut command = std::process::Command::new(program);
        // A group of its own, so that Ctrl-C in this terminal is not meant for it.
        command.args(arguments).process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().is_ok()
    })
}

fn with_url(mut argv: Vec<String>, url: &str) -> Vec<String> {
    if argv.is_empty() {
        return argv;
    }
    if argv.iter().any(|word| word.contains("%s")) {
        argv.iter_mut().for_each(|word| *word = word.replace("%s", url));
    } else {
        argv.push(url.to_owned());
    }
    argv
}

fn words(command: &str) -> Result<Vec<String>> {
    shlex::split(command).ok_or_else(|| anyhow!("`{command}` has a quote that is not closed"))
}

fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_goes_where_the_command_wants_it() {
        let argv = |command: &str| with_url(words(command).expect("closed"), "http://x/").join("|");
        assert_eq!(argv("firefox --new-tab"), "firefox|--new-tab|http://x/");
        assert_eq!(argv("sh -c 'echo %s'"), "sh|-c|echo http://x/");
        assert_eq!(argv(""), "");
        assert!(words("a 'b").is_err());
    }
}
