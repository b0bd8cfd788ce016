//! What sshd runs for whoever shows a key that dozen knows: it carries git's bytes between them and the server, and decides nothing.

use crate::api::{self, wire};
use crate::client::{Connection, Switched, Told};
use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use dozen_engine::home::Home;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use std::ffi::OsString;
use std::io::Write;
use tokio::io::AsyncWriteExt;

/// Answers the exit code. The arguments are those of `authorized_keys`: the home and the key that was shown.
pub(crate) fn main(mut arguments: impl Iterator<Item = OsString>) -> i32 {
    let (home, key) = (arguments.next(), arguments.next().and_then(|key| key.into_string().ok()));
    let (Some(home), Some(key), None) = (home, key, arguments.next()) else {
        return say("this is for sshd, as `dozen server sshd-config` prints it");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime");
    let done = runtime.and_then(|runtime| {
        let done = runtime.block_on(carry(&Home::at(home), key));
        // A thread that still waits for standard input must not hold the end up.
        runtime.shutdown_background();
        done
    });
    match done {
        Ok(code) => code,
        Err(e) => {
            let hint = super::hint_of(&e).map_or_else(String::new, |hint| format!("\n{hint}"));
            say(&format!("{}{hint}", dozen_engine::chain(&*e)))
        }
    }
}

fn say(text: &str) -> i32 {
    let text: String = text.lines().map(|line| format!("dozen: {line}\n")).collect();
    // Whoever went away needs to know nothing.
    let _ = std::io::stderr().write_all(text.as_bytes());
    1
}

async fn carry(home: &Home, key: String) -> Result<i32> {
    let told = |name: &str| std::env::var(name).ok();
    let session = wire::Session {
        key,
        command: told("SSH_ORIGINAL_COMMAND").unwrap_or_default(),
        protocol: told("GIT_PROTOCOL"),
        // The client's address comes first.
        from: told("SSH_CONNECTION").and_then(|all| all.split(' ').next().map(str::to_owned)),
    };
    let said = BASE64.encode(serde_json::to_vec(&session)?);
    let mut server = Connection::to_server(home).await?;
    let connection = match server.switch("/v1/sessions", api::GIT_PROTOCOL, (api::SESSION_HEAD, &said)).await? {
        Switched::Not(answer) => {
            let greeting = answer.into_body().collect().await.context("the answer broke off")?.to_bytes();
            let wire::Greeting { user, key } = serde_json::from_slice(&greeting).context("the server answered something else")?;
            return Ok(say(&format!("Hello {user}, you are known by {key}. There is no shell here: `git push` deploys.")));
        }
        Switched::To(connection) => connection,
    };
    let (mut from, mut to) = tokio::io::split(TokioIo::new(connection));
    let sent = async {
        // Whoever stops sending waits for the answer.
        let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut to).await;
        let _ = to.shutdown().await;
        std::future::pending::<()>().await;
    };
    let mut stdout = tokio::io::stdout();
    let answered = async {
        tokio::io::copy(&mut from, &mut stdout).await?;
        stdout.flush().await
    };
    tokio::select! {
        () = sent => Ok(0),
        // Where git's person has gone there is nobody to be told.
        answered = answered => Ok(i32::from(answered.is_err())),
    }
}

impl Connection {
    /// To the server of a home on this machine.
    async fn to_server(home: &Home) -> Result<Self> {
        Self::of_server(home).await.map_err(|e| {
            let hint = "Whoever looks after it starts it: `dozen server`.".to_owned();
            Told::failed(format!("the server does not answer: {}", dozen_engine::chain(&*e)), Some(hint)).into()
        })
    }
}
