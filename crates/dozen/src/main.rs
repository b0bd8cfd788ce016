//! dozen: the twelve-factor platform in one binary, four roles.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1).as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("__jail") => ExitCode::from(u8::try_from(dozen_jail::enter()).unwrap_or(1)),
        _ => ExitCode::from(2),
    }
}
