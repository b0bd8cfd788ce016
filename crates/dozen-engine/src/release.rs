//! V. The slug store.
