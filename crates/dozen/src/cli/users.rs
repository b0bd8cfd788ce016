//! `dozen users`: who there is, and what they are to an app.

use super::releases::when;
use super::segment;
use crate::api::wire;
use crate::client;
use crate::printer::{Column, Printer, listing};
use crate::settings::Settings;
use anyhow::Result;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct UsersArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Add a user; `dozen tokens create --user NAME` gives them a token
    Add {
        /// Lower-case letters and digits, and within it - . _
        name: String,
        /// They may all, in all apps
        #[arg(long)]
        admin: bool,
    },
    /// Remove a user with their tokens and roles
    Remove {
        /// Who
        name: String,
    },
    /// Give a user a role in an app, in place of what they had
    Grant {
        /// Who
        user: String,
        /// In which
        #[arg(value_name = "APP")]
        to: String,
        /// What they are to be: viewer, deployer or owner
        #[arg(value_parser = ["viewer", "deployer", "owner"])]
        role: String,
    },
    /// Take a user's role in an app away
    Ungrant {
        /// Whose
        user: String,
        /// In which
        #[arg(value_name = "APP")]
        to: String,
    },
}

/// Lists or changes.
pub(crate) async fn run(args: UsersArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let mut platform = client::platform(settings).await?;
    match args.verb {
        None => {
            // Whoever decides about an app sees its people, an admin all.
            let app = settings.app.as_deref().map(|name| name.split('/').next().unwrap_or_default());
            if let Some(app) = app {
                let answer: wire::Grants = platform.get(&format!("/v1/apps/{}/grants", segment(app))).await?;
                return Ok(print(&answer, &GRANTS, &answer.grants, &format!("Nobody has a role in {app} but admins."), printer));
            }
            let answer: wire::Users = platform.get("/v1/users").await?;
            return Ok(print(&answer, &USERS, &answer.users, "None. `dozen users add NAME` adds one.", printer));
        }
        Some(Verb::Add { name, admin }) => {
            let added: wire::User = platform.call(Method::POST, "/v1/users", &wire::AddUser { name, admin }).await?;
            if printer.is_json() {
                printer.json(&added);
                return Ok(0);
            }
            printer.confirm(&format!("Adding {}{}... done", added.name, if added.admin { ", an admin" } else { "" }));
            printer.aside(&format!("`dozen tokens create --user {}` makes a token for them.", added.name));
        }
        Some(Verb::Remove { name }) => {
            let removed: wire::RemovedUser = platform.call(Method::DELETE, &format!("/v1/users/{}", segment(&name)), &json!({})).await?;
            if printer.is_json() {
                printer.json(&removed);
            } else {
                printer.confirm(&format!("Removing {}... done; their tokens are worth nothing any more", removed.removed));
            }
        }
        Some(Verb::Grant { user, to, role }) => {
            let path = format!("/v1/apps/{}/grants/{}", segment(&to), segment(&user));
            granted(platform.call(Method::PUT, &path, &wire::GrantRole { role }).await?, printer);
        }
        Some(Verb::Ungrant { user, to }) => {
            let path = format!("/v1/apps/{}/grants/{}", segment(&to), segment(&user));
            granted(platform.call(Method::DELETE, &path, &json!({})).await?, printer);
        }
    }
    Ok(0)
}

fn granted(grant: wire::Grant, printer: &Printer) {
    if printer.is_json() {
        return printer.json(&grant);
    }
    let wire::Grant { user, app, role } = &grant;
    printer.confirm(&match role {
        Some(role) => format!("{user} is {} {role} of {app} now", if role == "owner" { "an" } else { "a" }),
        None => format!("{user} is nobody to {app} now"),
    });
}

fn print<R>(answer: &impl serde::Serialize, columns: &[Column<R>], rows: &[R], none: &str, printer: &Printer) -> i32 {
    if printer.is_json() {
        printer.json(answer);
    } else if rows.is_empty() {
        printer.line(none);
    } else {
        printer.line(&listing(columns, rows, printer.terminal().map(|(columns, _)| columns), true));
    }
    0
}

const GRANTS: [Column<wire::Grant>; 2] = [
    Column { title: "USER", rank: 0, cell: |g| g.user.clone() },
    Column { title: "ROLE", rank: 0, cell: |g| g.role.clone().unwrap_or_default() },
];

const USERS: [Column<wire::User>; 4] = [
    Column { title: "USER", rank: 0, cell: |u| u.name.clone() },
    Column { title: "SINCE (UTC)", rank: 1, cell: |u| when(&u.created) },
    Column { title: "BY", rank: 2, cell: |u| u.created_by.clone() },
    Column { title: "ROLES", rank: 0, cell: roles },
];

fn roles(user: &wire::User) -> String {
    let admin = user.admin.then(|| "admin".to_owned()).into_iter();
    let of_apps = user.grants.iter().map(|grant| format!("{} {}", grant.app, grant.role.as_deref().unwrap_or_default()));
    admin.chain(of_apps).collect::<Vec<_>>().join(", ")
}
