//! The twelve factors' effects: what `dozen-core` decides, done on this machine.
//!
//! The way is one: source → slug → release → desired → driver → seen → routes and logs. A later stage never calls an earlier one; it reports.

#![forbid(unsafe_code)]

pub mod admin;
pub mod backing;
pub mod backup;
pub mod codebase;
pub mod concurrency;
pub mod config;
pub mod dependencies;
pub mod deploy;
mod disposability;
pub mod home;
pub mod ledger;
pub mod logs;
pub mod output;
pub mod parity;
pub mod port;
pub mod processes;
pub mod release;
pub mod tasks;

/// An error and its causes in one line: `cannot open x: permission denied`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
