//! `dozen config export`: all values, for other programs to read.

use super::own;
use crate::api::wire;
use crate::client::Client;
use crate::printer::Printer;
use anyhow::Result;
use clap::ValueEnum;
use dozen_core::config::dotenv;
use serde_json::Value;

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A .env file.
    Dotenv,
    /// Lines for a POSIX shell.
    Shell,
    /// One object.
    Json,
}

/// Prints them.
pub(super) async fn run(client: &mut Client, format: Format, all: bool, printer: &Printer) -> Result<i32> {
    let answer: wire::Config = client.get("/config").await?;
    let mut vars = own(&answer);
    if all {
        vars.extend(answer.vars.iter().map(|(k, v)| (k.as_str(), v)));
    }
    let vars = vars.into_iter().map(|(k, v)| (k, v.value.as_str()));
    match format {
        _ if printer.is_json() => printer.json(&object(vars)),
        Format::Json => printer.json(&object(vars)),
        Format::Dotenv => vars.for_each(|(name, value)| printer.data(&format!("{name}={}", dotenv::quote(value)))),
        Format::Shell => vars.for_each(|(name, value)| printer.data(&format!("export {name}={}", shell(value)))),
    }
    Ok(0)
}

fn object<'a>(vars: impl Iterator<Item = (&'a str, &'a str)>) -> Value {
    Value::Object(vars.map(|(k, v)| (k.to_owned(), v.into())).collect())
}

/// Within single quotes a POSIX shell reads everything as it is, but for the quote itself.
fn shell(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}
