//! One jail for one instance: namespaces, a minimal view of the system, Landlock, seccomp, PID 1, the log pipes and the exit status.
//!
//! Single-threaded and without tokio. The driver starts `/proc/self/exe __jail` once; what is said is in `dozen_core::processes::jail`.
//!
//! ```text
//! driver ─┬─ stock (`dozen __jail`)     one for all: makes a starter for each jail, ends with the driver
//!         ├─ starter                    reads the spec, makes the jail as its own sibling, ends
//!         └─ jail = PID 1 inside        mounts, log pipes, signals, exit status
//!              ├─ the program and all it starts
//!              └─ a keeper for each command that the driver has it run, and what that starts
//! ```
//! Jails share what their stock has read and relocated, which is most of what a process of this size is, and nothing has to be loaded anew.
//! Where the host forbids namespaces the starter stays as a guard, and the jail is its child.
//!
//! **Invariant:** whichever of driver, starter and jail is killed, nothing of the instance is left: the kernel ends a PID namespace with its
//! PID 1; the jail ends what is inside when its driver is gone; the guard ends what a killed jail leaves.
//! **Invariant:** only a jail that was told to last outlives its driver, with the app, its log and its exit status. It waits for the next one.

#![deny(unsafe_code)]

pub mod cgroup;
mod control;
mod given;
mod init;
mod inside;
mod landlock;
mod mounts;
mod output;
mod probe;
mod program;
mod pump;
mod seccomp;
pub mod segment;
mod shed;
mod starter;
mod stock;
mod sys;
mod tmp;

pub use given::given;
pub use shed::shed;

use control::Control;
use dozen_core::processes::jail::{FromJail, STOCK_FD};
use std::time::Duration;

/// The whole life of a `dozen __jail` process, and of all that it makes; answers its exit code.
///
/// It is to be called first in `main`: no other thread may run, since this forks.
pub fn enter() -> i32 {
    let Some(socket) = sys::inherited(STOCK_FD) else {
        let _ = rustix::io::write(rustix::stdio::stderr(), b"dozen __jail: started by dozen only, with its socket\n");
        return 2;
    };
    sys::close_from(STOCK_FD.cast_unsigned() + 1);
    stock::serve(socket)
}

/// Removes what was left by jails that were killed together with whoever would have done that: their cgroups, their temporary files.
pub fn sweep() {
    cgroup::sweep();
    tmp::sweep();
}

/// Why there is no jail, or no program in it.
#[derive(Debug, Clone)]
struct Failure {
    attempt: String,
    error: String,
    /// As a shell would exit.
    code: i32,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.attempt, self.error)
    }
}

impl Failure {
    /// For `map_err`: code 1, the system's own words.
    fn of<E: std::fmt::Display>(attempt: &str) -> impl Fn(E) -> Self + '_ {
        move |error| Self { attempt: attempt.to_owned(), error: error.to_string(), code: 1 }
    }

    /// The last message of a jail that could not be. Answers the exit code.
    fn tell(self, control: &mut Control) -> i32 {
        control.say(self.into());
        control.finish(Duration::from_secs(2));
        1
    }
}

impl From<Failure> for FromJail {
    fn from(Failure { attempt, error, code }: Failure) -> Self {
        Self::Failed { attempt, error, code }
    }
}
