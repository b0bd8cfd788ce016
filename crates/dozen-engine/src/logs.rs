//! XI. The log store: segment files, merged and followed.
