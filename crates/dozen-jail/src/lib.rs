//! One jail for one instance: namespaces, a minimal view of the system, Landlock, seccomp, PID 1, the log pipes and the exit status.
//!
//! Single-threaded and without tokio. The driver starts `/proc/self/exe __jail`; what is said over its socket is `dozen_core::processes::jail`.
//!
//! ```text
//! driver ─┬─ starter (`dozen __jail`)   reads the spec, makes the jail as its own sibling, ends
//!         └─ jail = PID 1 inside        mounts, log pipes, signals, exit status
//!              └─ the program and all it starts
//! ```
//! Where the host forbids namespaces the starter stays as a guard, and the jail is its child.
//!
//! **Invariant:** whichever of driver, starter and jail is killed, nothing of the instance is left: the kernel ends a PID namespace with its
//! PID 1; the jail ends what is inside when its driver is gone; the guard ends what a killed jail leaves.
//! **Invariant:** only a jail that was told to last outlives its driver, with the app, its log and its exit status. It waits for the next one.

#![deny(unsafe_code)]

pub mod cgroup;
mod control;
mod init;
mod inside;
mod landlock;
mod mounts;
mod program;
mod pump;
mod seccomp;
pub mod segment;
mod shed;
mod starter;
mod sys;
mod tmp;

pub use shed::shed;

use control::Control;
use dozen_core::processes::jail::{CONTROL_FD, FromJail, LASTING_FD, PROTOCOL, ToJail, speaks};
use std::time::Duration;

/// The whole life of a `dozen __jail` process; answers its exit code.
///
/// It is to be called first in `main`: no other thread may run, since this forks.
pub fn enter() -> i32 {
    let Some(socket) = sys::inherited(CONTROL_FD) else {
        let _ = rustix::io::write(rustix::stdio::stderr(), b"dozen __jail: started by dozen only, with its control socket\n");
        return 2;
    };
    sys::close_from(LASTING_FD.cast_unsigned() + 1);
    let mut control = Control::new(socket);
    let refused = match control.wait() {
        Some(ToJail::Start { spec }) if speaks(spec.protocol) => {
            // Whatever else lies there is none of the jail's.
            let next = sys::inherited(LASTING_FD).filter(|_| spec.lasting || spec.shown);
            return starter::start(*spec, control, next);
        }
        Some(ToJail::Start { spec }) => format!("protocol {} was asked for, this is {PROTOCOL}; use one version of dozen", spec.protocol),
        _ => "the first message is not a start".to_owned(),
    };
    Failure { attempt: "read the spec".into(), error: refused, code: 1 }.tell(&mut control)
}

/// Why there is no jail, or no program in it.
#[derive(Debug, Clone)]
struct Failure {
    attempt: String,
    error: String,
    /// As a shell would exit.
    code: i32,
}

impl Failure {
    /// For `map_err`: code 1, the system's own words.
    fn of<E: std::fmt::Display>(attempt: &str) -> impl Fn(E) -> Self + '_ {
        move |error| Self { attempt: attempt.to_owned(), error: error.to_string(), code: 1 }
    }

    /// The last message of a jail that could not be. Answers the exit code.
    fn tell(self, control: &mut Control) -> i32 {
        control.say(FromJail::Failed { attempt: self.attempt, error: self.error, code: self.code });
        control.finish(Duration::from_secs(2));
        1
    }
}
