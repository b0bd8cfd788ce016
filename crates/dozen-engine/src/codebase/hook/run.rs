//! The hook's side: `dozen __hook pre-receive`, which git runs before it takes a push in.

use super::{Answer, Request, SOCKET, TOKEN, through};
use dozen_core::codebase::push::{self, Plan, Refused, Update};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The most that git may say of what is pushed: some hundred thousand refs.
const MAX_UPDATES: u64 = 64 << 20;

/// Why a push is refused here.
#[derive(Debug, thiserror::Error)]
enum HookError {
    #[error("this is no hook of dozen's: {0:?}")]
    Unknown(Option<OsString>),
    #[error("this repository belongs to a dozen server: push to that, and not into its folder")]
    NoServer,
    #[error("cannot read what is pushed")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the server cannot be reached: is it running?")]
    Connect(#[source] io::Error),
    #[error("the server has ended or was asked for something that it does not wait for. Push again")]
    Lost,
}

/// Is git's hook, with the words after `__hook`. What it prints to standard error the one who pushes sees; the exit code says whether git takes
/// the push in.
pub fn run(mut words: impl Iterator<Item = OsString>) -> i32 {
    let word = words.next();
    let done = if word.as_deref() == Some("pre-receive".as_ref()) { pre_receive() } else { Err(HookError::Unknown(word)) };
    match done {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(e) => {
            say(&format!(" !     {}", crate::chain(&e)));
            1
        }
    }
}

fn pre_receive() -> Result<bool, HookError> {
    let Plan { deploy, remarks } = push::plan(&updates(io::stdin().lock())?)?;
    let (Some(socket), Ok(token)) = (std::env::var_os(SOCKET), std::env::var(TOKEN)) else { return Err(HookError::NoServer) };
    for remark in remarks {
        say(&format!("       {remark}"));
    }
    let Some(pushed) = deploy else { return Ok(true) };
    let quarantine = std::env::var_os("GIT_OBJECT_DIRECTORY").map(PathBuf::from);
    // git runs its hooks in the repository's folder, and may name the place from there.
    let quarantine = quarantine.map(|place| std::path::absolute(&place).unwrap_or(place));
    ask(Path::new(&socket), &Request { token, branch: pushed.branch, old: pushed.old, commit: pushed.commit, quarantine })
}

fn updates(input: impl BufRead) -> Result<Vec<Update>, HookError> {
    let mut text = String::new();
    // A name that is no text is refused with all the rest.
    input.take(MAX_UPDATES).read_to_string(&mut text).map_err(HookError::Read)?;
    Ok(text.lines().map(push::parse).collect::<Result<_, _>>()?)
}

/// Asks the control plane, and says what it says.
fn ask(socket: &Path, request: &Request) -> Result<bool, HookError> {
    let folder = File::open(socket.parent().unwrap_or(socket)).map_err(HookError::Connect)?;
    let mut stream = UnixStream::connect(through(&folder, socket)).map_err(HookError::Connect)?;
    let mut line = serde_json::to_vec(request).map_err(|e| HookError::Connect(e.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(|_| HookError::Lost)?;
    for line in BufReader::new(stream).lines() {
        let answer = line.ok().and_then(|line| serde_json::from_str(&line).ok());
        match answer.ok_or(HookError::Lost)? {
            // Nobody reads any more: the push has ended, and with this process the build does.
            Answer::Line { text } if !say(&text) => return Ok(false),
            Answer::Line { .. } => {}
            Answer::Done { ok } => return Ok(ok),
        }
    }
    Err(HookError::Lost)
}

/// Whether the line could be written.
fn say(line: &str) -> bool {
    // One write a line: git hands each on as it comes.
    io::stderr().write_all(format!("{line}\n").as_bytes()).is_ok()
}
