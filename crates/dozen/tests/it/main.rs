//! End to end: each file is a factor; programs are run by the real binary.

mod dependencies;
mod logs;
mod port;
mod processes;
