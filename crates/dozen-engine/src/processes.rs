//! VI. Starting jails and talking to them.
