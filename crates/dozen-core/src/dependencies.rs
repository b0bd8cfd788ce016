//! II. Explicitly declare and isolate dependencies.
//! A pack looks at a source and answers a plan: build steps as data, which the engine runs. A pack runs nothing.
//!
//! **Invariant:** nothing here reads the disk; the engine hands in the few files that a pack asks for.

/// A language and what runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// The pack's name: `python`, `procfile`.
    pub pack: String,
    /// For people: `Python 3.11.7`.
    pub runtime: Option<String>,
}
