//! End to end: processes.
