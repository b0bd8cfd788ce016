//! The twelve factors' effects: what `dozen-core` decides, done on this machine.
//!
//! The way is one: source → slug → release → desired → driver → seen → routes and logs. A later stage never calls an earlier one; it reports.

#![forbid(unsafe_code)]

pub mod backing;
pub mod codebase;
pub mod config;
pub mod dependencies;
pub mod home;
pub mod ledger;
pub mod logs;
pub mod output;
pub mod port;
pub mod processes;
pub mod release;
