//! `dozen tokens`: what one shows to a server.

use super::releases::when;
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
pub(crate) struct TokensArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Those of this user; by default one's own, on the server's machine those of all
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a token; its text is shown this once
    Create {
        /// Whose; by default one's own
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// What it is for
        #[arg(long, default_value = "")]
        label: String,
        /// Good for this time, as in 12h or 30d; by default until it is revoked
        #[arg(long, value_name = "TIME", value_parser = super::time)]
        expires: Option<u64>,
    },
    /// Revoke a token: it is worth nothing from now on
    Revoke {
        /// As `dozen tokens` lists it
        id: u32,
    },
}

/// Lists, creates or revokes.
pub(crate) async fn run(args: TokensArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let mut platform = client::platform(settings).await?;
    match args.verb {
        None => {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(args.user.iter().map(|user| ("user", user)));
            let answer: wire::Tokens = platform.get(&format!("/v1/tokens?{}", query.finish())).await?;
            if printer.is_json() {
                printer.json(&answer);
            } else if answer.tokens.is_empty() {
                printer.line("None. `dozen tokens create` makes one.");
            } else {
                printer.line(&listing(&COLUMNS, &answer.tokens, printer.terminal().map(|(columns, _)| columns), true));
            }
        }
        Some(Verb::Create { user, label, expires }) => {
            let body = wire::CreateToken { user: user.or(args.user), label, seconds: expires };
            let made: wire::CreatedToken = platform.call(Method::POST, "/v1/tokens", &body).await?;
            if printer.is_json() {
                printer.json(&made);
                return Ok(0);
            }
            let until = made.expires.as_deref().map_or_else(String::new, |at| format!(", until {} (UTC)", when(at)));
            printer.aside(&format!("Token {} of {}{until}, shown this once:", made.id, made.user));
            printer.line(&made.token);
        }
        Some(Verb::Revoke { id }) => {
            let revoked: wire::RevokedToken = platform.call(Method::DELETE, &format!("/v1/tokens/{id}"), &json!({})).await?;
            if printer.is_json() {
                printer.json(&revoked);
            } else {
                printer.confirm(&format!("Revoking token {} of {}... done", revoked.revoked, revoked.user));
            }
        }
    }
    Ok(0)
}

const COLUMNS: [Column<wire::Token>; 8] = [
    Column { title: "ID", rank: 0, cell: |t| t.id.to_string() },
    Column { title: "USER", rank: 0, cell: |t| t.user.clone() },
    Column { title: "STATE", rank: 0, cell: |t| t.state.clone() },
    Column { title: "CREATED (UTC)", rank: 4, cell: |t| when(&t.created) },
    Column { title: "EXPIRES (UTC)", rank: 2, cell: |t| t.expires.as_deref().map_or_else(|| "-".to_owned(), when) },
    Column { title: "USED (UTC)", rank: 1, cell: |t| t.used.as_deref().map_or_else(|| "-".to_owned(), when) },
    Column { title: "FROM", rank: 3, cell: |t| t.used_from.clone().unwrap_or_else(|| "-".to_owned()) },
    Column { title: "LABEL", rank: 0, cell: |t| t.label.clone() },
];
