//! End to end: each file is a factor; programs are run by the real binary.

#![allow(clippy::disallowed_methods, reason = "tests start programs and threads as they need them")]

mod admin;
mod adoption;
mod api;
mod backing;
mod buildpacks;
mod builds;
mod codebase;
mod concurrency;
mod config;
mod dependencies;
mod deployed;
mod disposability;
mod docs;
mod doctor;
mod drill;
mod fuzz;
mod guard;
mod health;
mod hostile;
mod json;
mod languages;
mod logs;
mod machines;
mod node;
mod parity;
mod people;
mod port;
mod processes;
mod release;
mod scratch;
mod server;
mod shell;
mod ship;
mod sizes;
mod slug;
mod slugs;
mod ssh;
mod static_files;
mod steering;
mod surface;
mod switching;
mod system_packages;
mod terminal;
mod tests;
