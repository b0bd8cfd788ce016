//! The routes of SSH keys: who is known by which, and what the host's sshd is told of them.

use super::platform::{Here, Who};
use super::{Failure, wire};
use crate::house::House;
use anyhow::{Context, Result};
use axum::extract::{Path, Query, State};
use axum::routing::{delete, get};
use axum::{Extension, Json, Router};
use dozen_core::admin::people::{Need, UserName};
use dozen_engine::codebase::ssh::{self, Key};
use dozen_engine::ledger::{Identity, Intent, KeyRow, LedgerError, Principal};
use std::path::PathBuf;
use std::sync::Arc;

type Answer<T> = Result<Json<T>, Failure>;

pub(super) fn routes() -> Router<Arc<House>> {
    Router::new().route("/v1/ssh-keys", get(list).post(add)).route("/v1/ssh-keys/{fingerprint}", delete(remove))
}

#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/ssh-keys",
    tag = "people",
    summary = "One's SSH keys, or those of another user",
    params(wire::KeysQuery),
    responses((status = 200, description = "Done", body = wire::Keys))
))]
pub(super) async fn list(State(house): Here, Extension(who): Who, Query(query): Query<wire::KeysQuery>) -> Answer<wire::Keys> {
    let of = match (query.user, &who.identity) {
        (Some(user), _) => Some(named(&user)?),
        (None, Identity::User { user, .. }) => Some(user.name.clone()),
        (None, Identity::Local(_)) => None,
    };
    house.ledger.authorise(&who, "list SSH keys", of.clone().map_or(Need::Platform, Need::Be))?;
    Ok(Json(wire::Keys { keys: house.ledger.ssh_keys(of.as_ref()).await?.into_iter().map(shown).collect() }))
}

fn shown(row: KeyRow) -> wire::SshKey {
    wire::SshKey {
        fingerprint: row.key.fingerprint,
        user: row.user.to_string(),
        kind: row.key.text.split(' ').next().unwrap_or_default().to_owned(),
        label: row.key.comment,
        created: row.created.to_string(),
        created_by: row.created_by,
        expires: row.expires.map(|at| at.to_string()),
        used: row.used.map(|at| at.to_string()),
        used_from: row.used_from,
    }
}

#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/ssh-keys",
    tag = "people",
    summary = "Have a user be known by an SSH key",
    request_body = wire::AddKey,
    responses((status = 200, description = "Done", body = wire::SshKey))
))]
pub(super) async fn add(State(house): Here, Extension(who): Who, Json(body): Json<wire::AddKey>) -> Answer<wire::SshKey> {
    let user = whose(body.user, &who)?;
    house.ledger.authorise(&who, "add an SSH key", Need::Be(user.clone()))?;
    let mut key = Key::read(&body.key).map_err(|e| Failure::usage(e.to_string()))?;
    key.comment = body.label.unwrap_or(key.comment);
    let fingerprint = key.fingerprint.clone();
    house.ledger.commit(&who, Intent::AddKey { user: user.clone(), key: Box::new(key) }).await?;
    authorize(&house).await.map_err(unwritten)?;
    let row = house.ledger.ssh_keys(Some(&user)).await?.into_iter().find(|row| row.key.fingerprint == fingerprint);
    row.map(|row| Json(shown(row))).ok_or_else(|| gone(&fingerprint))
}

#[cfg_attr(test, utoipa::path(
    delete,
    path = "/v1/ssh-keys/{fingerprint}",
    tag = "people",
    summary = "Remove an SSH key",
    responses((status = 200, description = "Done", body = wire::RemovedKey))
))]
pub(super) async fn remove(State(house): Here, Extension(who): Who, Path(fingerprint): Path<String>) -> Answer<wire::RemovedKey> {
    let of = match &who.identity {
        Identity::User { user, .. } if !user.admin => Some(user.name.clone()),
        _ => {
            house.ledger.authorise(&who, "remove an SSH key", Need::Platform)?;
            None
        }
    };
    let row = house.ledger.ssh_keys(of.as_ref()).await?.into_iter().find(|row| row.key.fingerprint == fingerprint);
    let user = row.ok_or_else(|| gone(&fingerprint))?.user;
    house.ledger.commit(&who, Intent::RemoveKey { user: user.clone(), fingerprint: fingerprint.clone() }).await?;
    authorize(&house).await.map_err(unwritten)?;
    Ok(Json(wire::RemovedKey { removed: fingerprint, user: user.to_string() }))
}

fn gone(fingerprint: &str) -> Failure {
    LedgerError::NotFound(format!("there is no key {fingerprint}; `dozen ssh-keys` lists those that there are")).into()
}

fn whose(user: Option<String>, who: &Principal) -> Result<UserName, Failure> {
    match (user, &who.identity) {
        (Some(user), _) => named(&user),
        (None, Identity::User { user, .. }) => Ok(user.name.clone()),
        (None, Identity::Local(_)) => Err(Failure::usage("say whose key it is to be: --user NAME")),
    }
}

fn named(text: &str) -> Result<UserName, Failure> {
    text.parse().map_err(|e| Failure::usage(format!("{e}")))
}

fn unwritten(e: anyhow::Error) -> Failure {
    let message = format!("the ledger has it, and the host's sshd cannot be told: {}", dozen_engine::chain(&*e));
    Failure::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, message)
}

/// Tells sshd of the keys that the ledger has. Whoever is no server leaves that to the next one.
pub(crate) async fn authorize(house: &House) -> Result<()> {
    if house.addresses().is_none() {
        return Ok(());
    }
    // What is read later is written later.
    let _turn = house.keys.lock().await;
    let keys: Vec<Key> = house.ledger.ssh_keys(None).await?.into_iter().map(|row| row.key).collect();
    let (home, exe) = (house.settings.home.clone(), own_file()?);
    let written = tokio::task::spawn_blocking(move || ssh::authorize(&home, &exe, &keys)).await?;
    written.with_context(|| format!("cannot write {}", house.settings.home.authorized_keys().display()))
}

/// Where dozen's own file is; where another one was put in its place, that one.
pub(crate) fn own_file() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot tell where dozen is")?;
    let replaced = exe.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map(PathBuf::from);
    Ok(replaced.filter(|path| path.is_file()).unwrap_or(exe))
}
