//! What a process of dozen's own gives up before it serves strangers: the router, which needs its sockets and the log folders and nothing else.
//!
//! **Invariant:** afterwards the process, and every thread that it starts, can run no program, see no file but those of one folder, and bind
//! no port. What the kernel lacks is named.

use crate::program::{Fences, become_user, keep_nothing};
use crate::{landlock, seccomp, sys};
use rustix::process::{Resource, Rlimit, chdir, setrlimit};
use std::io;
use std::path::Path;

/// Gives up all rights but those in `folder`, which becomes the working folder, and becomes `user` (uid and gid) where one is named. Only for a
/// process that has one thread yet. Answers what could not be given up, for people.
///
/// # Errors
/// The folder cannot be entered, or capabilities and new privileges cannot be given up.
pub fn shed(user: Option<(u32, u32)>, folder: &Path) -> io::Result<Vec<String>> {
    let mut missing = Vec::new();
    chdir(folder)?;
    // Before another uid: a new home's folder is not open to that one yet, and what cannot be opened gets no rule.
    let landlock = landlock::one_folder(&mut missing);
    let zero = Rlimit { current: Some(0), maximum: Some(0) };
    // A core file would hold what strangers sent.
    let _ = setrlimit(Resource::Core, zero);
    sys::empty_bounding_set();
    if let Some(Err(failure)) = user.map(become_user) {
        missing.push(format!("an own uid: {failure}"));
    }
    keep_nothing().map_err(|failure| io::Error::other(failure.to_string()))?;
    let seccomp = seccomp::filters(true).and_then(|filters| Ok([filters, vec![seccomp::no_programs()?]].concat()));
    let seccomp = seccomp.unwrap_or_else(|error| {
        missing.push(format!("seccomp: {error}"));
        Vec::new()
    });
    Fences { landlock, seccomp }.raise(|lacks| missing.push(lacks));
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use rustix::process::{Signal, geteuid, getuid, kill_process};
    use std::fs;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::process::Command;

    #[expect(clippy::disallowed_methods, reason = "the test runs itself once more, and what must not run")]
    fn program(name: &Path) -> Command {
        Command::new(name)
    }

    const FOLDER: &str = "DOZEN_TEST_SHED";

    /// What a process tries that has shed its rights. In a process of its own, since nothing brings them back.
    #[test]
    fn what_serves_strangers_reaches_nothing_but_its_folder() {
        let Some(folder) = std::env::var_os(FOLDER) else {
            let folder = tempfile::tempdir().expect("a folder");
            let logs = folder.path().join("logs");
            fs::create_dir(&logs).expect("made");
            fs::write(folder.path().join("key"), "secret").expect("written");
            let user = user();
            std::os::unix::fs::chown(&logs, user.map(|u| u.0), user.map(|u| u.1)).expect("given");
            let mut again = program(&std::env::current_exe().expect("this test"));
            let name = std::thread::current().name().expect("named after the test").to_owned();
            let ran = again.args(["--exact", &name, "--nocapture"]).env(FOLDER, &logs).output().expect("started");
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
            assert_eq!(fs::read_to_string(logs.join("line")).expect("written"), "kept");
            return;
        };
        let folder = Path::new(&folder);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let ours = listener.local_addr().expect("bound");
        let parent = rustix::process::getppid().expect("the test");
        let missing = shed(user(), folder).expect("shed");
        assert_eq!(getuid().as_raw(), user().map_or(geteuid().as_raw(), |u| u.0));
        fs::write("line", "kept").expect("its own folder");
        TcpStream::connect(ours).expect("it connects");
        assert_eq!(program(Path::new("/bin/true")).spawn().expect_err("a program").raw_os_error(), Some(Errno::PERM.raw_os_error()));
        if missing.is_empty() {
            let refused = |path: &Path| fs::read(path).expect_err("a file of others").kind() == io::ErrorKind::PermissionDenied;
            assert!(refused(&folder.join("../key")) && refused(Path::new("/etc/passwd")) && refused(Path::new("/proc/self/environ")));
            assert!(fs::write("../new", "").is_err());
            assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).is_err(), "it binds");
            assert_eq!(kill_process(parent, Signal::CONT).expect_err("a signal"), Errno::PERM);
        }
    }

    fn user() -> Option<(u32, u32)> {
        geteuid().is_root().then_some((479_999, 479_999))
    }
}
