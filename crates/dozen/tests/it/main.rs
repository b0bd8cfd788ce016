//! End to end: each file is a factor; programs are run by the real binary.

#![allow(clippy::disallowed_methods, reason = "tests start programs and threads as they need them")]

mod dependencies;
mod docs;
mod logs;
mod port;
mod processes;
