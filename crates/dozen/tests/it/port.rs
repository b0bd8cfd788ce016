//! End to end: port.
