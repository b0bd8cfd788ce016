//! `dozen ssh-keys`: by what a server knows who pushes over SSH.

use super::Usage;
use super::releases::when;
use super::segment;
use crate::api::wire;
use crate::client;
use crate::printer::{Column, Printer, listing};
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use dozen_engine::codebase::ssh::MAX_TEXT;
use http::Method;
use serde_json::json;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where ssh-keygen puts them, the best first.
const USUAL: [&str; 3] = ["id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"];

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct SshKeysArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Those of this user; by default one's own, on the server's machine those of all
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Have a server know you by a public key; without a file by the one in ~/.ssh
    Add {
        /// A file like ~/.ssh/id_ed25519.pub; - is standard input
        file: Option<PathBuf>,
        /// Whose; by default one's own
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// What to call it; by default as the file does
        #[arg(long)]
        label: Option<String>,
    },
    /// Remove a key: it opens nothing from now on
    Remove {
        /// As `dozen ssh-keys` lists it: SHA256:…
        fingerprint: String,
    },
}

/// Lists, adds or removes.
pub(crate) async fn run(args: SshKeysArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    match args.verb {
        None => {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(args.user.iter().map(|user| ("user", user)));
            let answer: wire::Keys = client::platform(settings).await?.get(&format!("/v1/ssh-keys?{}", query.finish())).await?;
            if printer.is_json() {
                printer.json(&answer);
            } else if answer.keys.is_empty() {
                printer.line("None. `dozen ssh-keys add` adds one.");
            } else {
                printer.line(&listing(&COLUMNS, &answer.keys, printer.terminal().map(|(columns, _)| columns), true));
            }
        }
        Some(Verb::Add { file, user, label }) => {
            let key = read(file.map_or_else(usual, Ok)?.as_path())?;
            let body = wire::AddKey { user: user.or(args.user), key, label };
            let added: wire::SshKey = client::platform(settings).await?.call(Method::POST, "/v1/ssh-keys", &body).await?;
            if printer.is_json() {
                printer.json(&added);
            } else {
                printer.confirm(&format!("Adding {} of {}... done", added.fingerprint, added.user));
            }
        }
        Some(Verb::Remove { fingerprint }) => {
            let path = format!("/v1/ssh-keys/{}", segment(&fingerprint));
            let removed: wire::RemovedKey = client::platform(settings).await?.call(Method::DELETE, &path, &json!({})).await?;
            if printer.is_json() {
                printer.json(&removed);
            } else {
                printer.confirm(&format!("Removing {} of {}... done", removed.removed, removed.user));
            }
        }
    }
    Ok(0)
}

fn usual() -> Result<PathBuf> {
    let folder = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".ssh"));
    let found = folder.iter().flat_map(|folder| USUAL.map(|name| folder.join(name))).find(|file| file.is_file());
    found.ok_or_else(|| Usage("name the public key: there is none in ~/.ssh; `ssh-keygen -t ed25519` makes one".to_owned()).into())
}

fn read(file: &Path) -> Result<String> {
    let mut text = String::new();
    let most = MAX_TEXT as u64 + 1;
    if file == Path::new("-") {
        std::io::stdin().take(most).read_to_string(&mut text).context("cannot read the key")?;
    } else {
        let open = std::fs::File::open(file).with_context(|| format!("cannot read the key {}", file.display()))?;
        open.take(most).read_to_string(&mut text).with_context(|| format!("{} is no text", file.display()))?;
    }
    // It is refused here, so that it never leaves this machine.
    if text.contains("PRIVATE KEY") {
        bail!(Usage("this is a private key, which is nobody's but yours: give the file beside it that ends in .pub".to_owned()));
    }
    Ok(text)
}

const COLUMNS: [Column<wire::SshKey>; 7] = [
    Column { title: "FINGERPRINT", rank: 0, cell: |k| k.fingerprint.clone() },
    Column { title: "USER", rank: 0, cell: |k| k.user.clone() },
    Column { title: "KIND", rank: 4, cell: |k| k.kind.clone() },
    Column { title: "ADDED (UTC)", rank: 3, cell: |k| when(&k.created) },
    Column { title: "USED (UTC)", rank: 1, cell: |k| k.used.as_deref().map_or_else(|| "-".to_owned(), when) },
    Column { title: "FROM", rank: 2, cell: |k| k.used_from.clone().unwrap_or_else(|| "-".to_owned()) },
    Column { title: "LABEL", rank: 0, cell: |k| k.label.clone() },
];
