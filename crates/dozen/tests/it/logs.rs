//! End to end: logs.
