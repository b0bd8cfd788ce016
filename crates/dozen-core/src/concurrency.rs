//! VIII. Scale out via the process model.

pub mod formation;
