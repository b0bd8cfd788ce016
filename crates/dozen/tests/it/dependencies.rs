//! End to end: dependencies.
