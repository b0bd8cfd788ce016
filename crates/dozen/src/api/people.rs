//! The routes of people: users and their roles, tokens, and what was done by whom.
//!
//! **Invariant:** whoever may not know of a user or a token is told what they would be told if there were none.

use super::platform::{Here, Who, app_of};
use super::{Failure, wire};
use crate::house::House;
use anyhow::Result;
use axum::extract::{Path, Query, State};
use axum::routing::{delete, get, put};
use axum::{Extension, Json, Router};
use dozen_core::admin::people::{Need, UserName};
use dozen_core::ids::{AppName, DeployRef};
use dozen_engine::ledger::{EventFilter, EventRow, Identity, Intent, LedgerError, Principal, TokenRow};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// So many events are answered at once, at most; and where nobody says how many, so many.
const MOST_EVENTS: u32 = 10_000;
const EVENTS: u32 = 50;
/// Nothing is meant to be good for longer.
const LONGEST: u64 = 100 * 366 * 86_400;

type Answer<T> = Result<Json<T>, Failure>;

pub(super) fn routes() -> Router<Arc<House>> {
    Router::new()
        .route("/v1/users", get(users).post(add))
        .route("/v1/users/{user}", delete(remove))
        .route("/v1/apps/{app}/grants", get(grants))
        .route("/v1/apps/{app}/grants/{user}", put(grant).delete(ungrant))
        .route("/v1/tokens", get(tokens).post(create_token))
        .route("/v1/tokens/{id}", delete(revoke))
        .route("/v1/events", get(events))
}

#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/users",
    tag = "people",
    summary = "The users with their roles",
    responses((status = 200, description = "Done", body = wire::Users))
))]
async fn users(State(house): Here, Extension(who): Who) -> Answer<wire::Users> {
    house.ledger.authorise(&who, "list the users", Need::Platform)?;
    let mut granted = Vec::new();
    for app in house.ledger.apps().await? {
        granted.extend(granted_in(&house, &app.name).await?);
    }
    let user = |row: dozen_engine::ledger::UserRow| wire::User {
        grants: granted.iter().filter(|grant| grant.user == row.name.as_str()).cloned().collect(),
        name: row.name.to_string(),
        admin: row.admin,
        created: row.created.to_string(),
        created_by: row.created_by,
    };
    Ok(Json(wire::Users { users: house.ledger.users().await?.into_iter().map(user).collect() }))
}

#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/users",
    tag = "people",
    summary = "Add a user",
    request_body = wire::AddUser,
    responses((status = 200, description = "Done", body = wire::User))
))]
async fn add(State(house): Here, Extension(who): Who, Json(body): Json<wire::AddUser>) -> Answer<wire::User> {
    house.ledger.authorise(&who, "add a user", Need::Platform)?;
    let user = user_name(&body.name)?;
    // Whoever is there already stays as they are: this is no way to become an admin, or none.
    if house.ledger.users().await?.iter().any(|row| row.name == user) {
        return Err(LedgerError::Conflict(format!("there is a user {user} already")).into());
    }
    house.ledger.commit(&who, Intent::AddUser { user: user.clone(), admin: body.admin }).await?;
    let created = Timestamp::now().to_string();
    Ok(Json(wire::User { name: user.to_string(), admin: body.admin, created, created_by: who.name, grants: Vec::new() }))
}

#[cfg_attr(test, utoipa::path(
    delete,
    path = "/v1/users/{user}",
    tag = "people",
    summary = "Remove a user and revoke their tokens",
    responses((status = 200, description = "Done", body = wire::RemovedUser))
))]
async fn remove(State(house): Here, Extension(who): Who, Path(user): Path<String>) -> Answer<wire::RemovedUser> {
    let user = user_name(&user)?;
    house.ledger.authorise(&who, "remove a user", Need::Platform)?;
    let users = house.ledger.users().await?;
    if users.iter().any(|row| row.name == user && row.admin) && users.iter().filter(|row| row.admin).count() == 1 {
        return Err(LedgerError::Conflict(format!("{user} is the last admin; add another one first")).into());
    }
    house.ledger.commit(&who, Intent::RemoveUser { user: user.clone() }).await?;
    // Their keys open nothing from now on, whatever sshd is told.
    let _ = super::keys::authorize(&house).await;
    Ok(Json(wire::RemovedUser { removed: user.to_string() }))
}

#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/grants",
    tag = "people",
    summary = "Who has which role in an app",
    responses((status = 200, description = "Done", body = wire::Grants))
))]
async fn grants(State(house): Here, Extension(who): Who, Path(app): Path<String>) -> Answer<wire::Grants> {
    let app = app_of(&house, &who, &app, Need::Own).await?;
    Ok(Json(wire::Grants { grants: granted_in(&house, &app).await? }))
}

async fn granted_in(house: &House, app: &AppName) -> Result<Vec<wire::Grant>, Failure> {
    let rows = house.ledger.grants(app).await?.into_iter();
    Ok(rows.map(|(user, role)| wire::Grant { user: user.to_string(), app: app.to_string(), role: Some(role.to_string()) }).collect())
}

#[cfg_attr(test, utoipa::path(
    put,
    path = "/v1/apps/{app}/grants/{user}",
    tag = "people",
    summary = "Give somebody a role in an app",
    request_body = wire::GrantRole,
    responses((status = 200, description = "Done", body = wire::Grant))
))]
async fn grant(
    State(house): Here,
    Extension(who): Who,
    Path((app, user)): Path<(String, String)>,
    Json(body): Json<wire::GrantRole>,
) -> Answer<wire::Grant> {
    let app = app_of(&house, &who, &app, Need::Own).await?;
    let (user, role) = (user_name(&user)?, body.role.parse().map_err(|e| Failure::usage(format!("{e}")))?);
    house.ledger.commit(&who, Intent::Grant { user: user.clone(), app: app.clone(), role }).await?;
    Ok(Json(wire::Grant { user: user.to_string(), app: app.to_string(), role: Some(role.to_string()) }))
}

#[cfg_attr(test, utoipa::path(
    delete,
    path = "/v1/apps/{app}/grants/{user}",
    tag = "people",
    summary = "Take somebody's role in an app away",
    responses((status = 200, description = "Done", body = wire::Grant))
))]
async fn ungrant(State(house): Here, Extension(who): Who, Path((app, user)): Path<(String, String)>) -> Answer<wire::Grant> {
    let app = app_of(&house, &who, &app, Need::Own).await?;
    let user = user_name(&user)?;
    house.ledger.commit(&who, Intent::Ungrant { user: user.clone(), app: app.clone() }).await?;
    Ok(Json(wire::Grant { user: user.to_string(), app: app.to_string(), role: None }))
}

#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/tokens",
    tag = "people",
    summary = "One's own tokens, or a user's",
    params(wire::TokensQuery),
    responses((status = 200, description = "Done", body = wire::Tokens))
))]
async fn tokens(State(house): Here, Extension(who): Who, Query(query): Query<wire::TokensQuery>) -> Answer<wire::Tokens> {
    let users = match (query.user, &who.identity) {
        (Some(user), _) => vec![user_name(&user)?],
        (None, Identity::User { user, .. }) => vec![user.name.clone()],
        (None, Identity::Local(_)) => {
            house.ledger.authorise(&who, "list all tokens", Need::Platform)?;
            house.ledger.users().await?.into_iter().map(|row| row.name).collect()
        }
    };
    let mut all = Vec::new();
    let now = Timestamp::now();
    for user in users {
        house.ledger.authorise(&who, "list tokens", Need::Be(user.clone()))?;
        all.extend(house.ledger.tokens(&user).await?.into_iter().map(|row| token(&user, row, now)));
    }
    all.sort_by_key(|token| token.id);
    Ok(Json(wire::Tokens { tokens: all }))
}

fn token(user: &UserName, row: TokenRow, now: Timestamp) -> wire::Token {
    let state = match (row.revoked, row.expires) {
        (Some(_), _) => "revoked",
        (None, Some(at)) if at <= now => "expired",
        (None, _) => "good",
    };
    wire::Token {
        id: row.id,
        user: user.to_string(),
        label: row.label,
        state: state.to_owned(),
        created: row.created.to_string(),
        created_by: row.created_by,
        expires: row.expires.map(|at| at.to_string()),
        revoked: row.revoked.map(|at| at.to_string()),
        used: row.used.map(|at| at.to_string()),
        used_from: row.used_from,
    }
}

#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/tokens",
    tag = "people",
    summary = "Make a token, which is shown this once",
    request_body = wire::CreateToken,
    responses((status = 200, description = "Done", body = wire::CreatedToken))
))]
async fn create_token(State(house): Here, Extension(who): Who, Json(body): Json<wire::CreateToken>) -> Answer<wire::CreatedToken> {
    let user = match (body.user, &who.identity) {
        (Some(user), _) => user_name(&user)?,
        (None, Identity::User { user, .. }) => user.name.clone(),
        (None, Identity::Local(_)) => return Err(Failure::usage("say whose token it is to be: --user NAME")),
    };
    let expires = body.seconds.map(|seconds| Timestamp::now() + Duration::from_secs(seconds.min(LONGEST)));
    let issued = house.ledger.issue_token(&who, &user, &body.label, expires).await?;
    let (id, token) = (issued.id, issued.text.expose().to_owned());
    Ok(Json(wire::CreatedToken { id, user: user.to_string(), token, expires: expires.map(|at| at.to_string()) }))
}

#[cfg_attr(test, utoipa::path(
    delete,
    path = "/v1/tokens/{id}",
    tag = "people",
    summary = "Revoke a token",
    responses((status = 200, description = "Done", body = wire::RevokedToken))
))]
async fn revoke(State(house): Here, Extension(who): Who, Path(id): Path<u32>) -> Answer<wire::RevokedToken> {
    let Some(user) = whose(&house, &who, id).await? else {
        return Err(LedgerError::NotFound(format!("there is no token {id} that is good")).into());
    };
    house.ledger.commit(&who, Intent::RevokeToken { user: user.clone(), id }).await?;
    Ok(Json(wire::RevokedToken { revoked: id, user: user.to_string() }))
}

/// Whose a token is, among those whose tokens somebody may revoke.
async fn whose(house: &House, who: &Principal, id: u32) -> Result<Option<UserName>, Failure> {
    let users = match &who.identity {
        Identity::User { user, .. } if !user.admin => vec![user.name.clone()],
        _ => {
            house.ledger.authorise(who, "revoke a token", Need::Platform)?;
            house.ledger.users().await?.into_iter().map(|row| row.name).collect()
        }
    };
    for user in users {
        if house.ledger.tokens(&user).await?.iter().any(|row| row.id == id && row.revoked.is_none()) {
            return Ok(Some(user));
        }
    }
    Ok(None)
}

#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/events",
    tag = "people",
    summary = "What was done, by whom, when and from where",
    params(wire::EventsQuery),
    responses((status = 200, description = "Done", body = wire::Events))
))]
async fn events(State(house): Here, Extension(who): Who, Query(query): Query<wire::EventsQuery>) -> Answer<wire::Events> {
    let usage = |e: &dyn std::fmt::Display| Failure::usage(e.to_string());
    let (app, deploy) = match (&query.app, &query.deploy) {
        (Some(app), deploy) => {
            let app: AppName = app.parse().map_err(|e| usage(&e))?;
            let deploy = deploy.as_ref().map(|name| name.parse().map(|deploy| DeployRef { app: app.clone(), deploy })).transpose();
            (Some(app), deploy.map_err(|e| usage(&e))?)
        }
        (None, None) => (None, None),
        (None, Some(_)) => return Err(Failure::usage("a deploy is one of an app: say which")),
    };
    let need = app.clone().map_or(Need::Platform, Need::View);
    house.ledger.authorise(&who, "read the events", need)?;
    let since = query.since.map(|at| at.parse::<Timestamp>()).transpose().map_err(|e| usage(&e))?;
    let limit = Some(query.n.unwrap_or(EVENTS).min(MOST_EVENTS));
    let rows = house.ledger.events(EventFilter { app, deploy, who: query.who, since, limit }).await?;
    Ok(Json(wire::Events { events: rows.into_iter().map(did).collect() }))
}

fn did(row: EventRow) -> wire::Did {
    wire::Did {
        id: row.id,
        at: row.at.to_string(),
        who: row.who,
        from: row.from,
        app: row.app.map(|app| app.to_string()),
        deploy: row.deploy.map(|deploy| deploy.to_string()),
        what: row.what,
        detail: row.detail,
        result: row.result.as_str().to_owned(),
    }
}

fn user_name(text: &str) -> Result<UserName, Failure> {
    text.parse().map_err(|e| Failure::usage(format!("{e}")))
}
