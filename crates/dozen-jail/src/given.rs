//! Sockets that were opened for this process before it began (sd_listen_fds(3)).

use crate::sys;
use std::os::fd::OwnedFd;

/// The first one's number.
const FIRST: i32 = 3;
/// A server has two addresses, each perhaps in both families.
const MOST: i32 = 64;

/// Those that are for this process and no other, each with its name; it is empty where it has none.
///
/// It is to be called once, and first in `main`: what has one of these numbers later is something else.
pub fn given() -> Vec<(String, OwnedFd)> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    // What this process was started by may have had some of its own.
    if number("LISTEN_PID") != Some(std::process::id().cast_signed()) {
        return Vec::new();
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let count = number("LISTEN_FDS").unwrap_or_default().clamp(0, MOST);
    (FIRST..FIRST + count).filter_map(|fd| Some((names.next().unwrap_or_default(), sys::inherited(fd)?))).collect()
}
