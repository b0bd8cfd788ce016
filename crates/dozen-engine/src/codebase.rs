//! I. Reading a source from a folder.
