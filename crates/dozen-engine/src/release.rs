//! V. Strictly separate build and run stages.
//! Keeps what builds made, and never changes it.

pub mod archive;
pub mod collect;
pub mod machine;
mod phase;
pub mod scratch;
pub mod store;
