//! VII. The router.
