//! VIII. Scale out via the process model.
