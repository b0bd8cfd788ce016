//! The twelve factors as types and decisions.
//!
//! Pure: no I/O, no clock, no randomness, no async. Each module is one factor and uses only those left of it in the line that
//! `ARCHITECTURE.md` gives and `xtask` enforces. Parsing returns a value and its diagnostics; nothing is dropped in silence.

#![forbid(unsafe_code)]

pub mod admin;
pub mod backing;
pub mod codebase;
pub mod concurrency;
pub mod config;
pub mod dependencies;
pub mod diagnostic;
pub mod disposability;
pub mod ids;
pub mod logs;
pub mod manifest;
pub mod parity;
pub mod port;
pub mod processes;
pub mod release;
