//! Machines other than this one: the tests that depend on the machine run once more as an ordinary user, and where namespaces are forbidden.

use crate::deployed::Place;
use std::path::PathBuf;
use std::process::Command;

/// Set for the runs that these tests make of themselves, as another user or where namespaces are forbidden.
const COPY: &str = "DOZEN_TEST_COPY";
/// Set where namespaces are forbidden.
pub(crate) const HOST_VIEW: &str = "DOZEN_TEST_HOST_VIEW";
/// Set where a test runs in a process, and perhaps on a disk, of its own.
pub(crate) const APART: &str = "DOZEN_TEST_APART";

/// The binary under test.
pub(crate) fn dozen() -> PathBuf {
    std::env::var_os(COPY).map_or_else(|| env!("CARGO_BIN_EXE_dozen").into(), PathBuf::from)
}

/// Whether namespaces are forbidden here.
pub(crate) fn host_view() -> bool {
    std::env::var_os(HOST_VIEW).is_some()
}

/// How processes are isolated here.
pub(crate) fn level() -> &'static str {
    match (host_view(), rustix::process::geteuid().is_root()) {
        (true, _) => "session",
        (false, true) => "namespaces",
        (false, false) => "user-namespaces",
    }
}

pub(crate) fn is_apart() -> bool {
    std::env::var_os(APART).is_some()
}

/// Runs tests of this program and has them pass, one at least.
pub(crate) fn passes(command: &mut Command) {
    let out = command.output().expect("started");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && !said.contains(" 0 passed"), "{said}{}", String::from_utf8_lossy(&out.stderr));
}

/// Runs the selected tests again as an ordinary user. Who is no root has tested that already.
pub(crate) fn as_an_ordinary_user(selection: &[&str]) {
    if rustix::process::geteuid().is_root() {
        again(&["setpriv", "--reuid", "64321", "--regid", "64321", "--clear-groups"], &[], Some(64_321), selection);
    }
}

/// Runs the selected tests again where the host forbids namespaces.
pub(crate) fn where_namespaces_are_forbidden(selection: &[&str]) {
    let forbid = "echo 0 > /proc/sys/user/max_pid_namespaces && exec \"$@\"";
    if has_user_namespaces() {
        again(&["unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh"], &[(HOST_VIEW, "1")], None, selection);
    }
}

/// Runs one test where its temporary folder is a disk of 1 MB.
pub(crate) fn on_a_small_disk(test: &str) {
    let small = "mount -t tmpfs -o size=1m none \"$TMPDIR\" && exec \"$@\"";
    if has_user_namespaces() {
        let runner = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", small, "sh"];
        again(&runner, &[(HOST_VIEW, "1"), (APART, "1")], None, &["--exact", test]);
    }
}

/// Runs tests of this program again by a command that runs its arguments, in a folder that anybody may read.
fn again(runner: &[&str], env: &[(&str, &str)], owner: Option<u32>, selection: &[&str]) {
    let folder = tempfile::tempdir_in("/tmp").expect("a folder");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let tmp = folder.path().join("tmp");
    std::fs::create_dir(&tmp).expect("made");
    std::os::unix::fs::chown(&tmp, owner, owner).expect("given");
    let (dozen, tests) = (folder.path().join("dozen"), folder.path().join("it"));
    // By another process: what other tests start meanwhile would hold the copies open for writing, and they could not be run.
    let this = std::env::current_exe().expect("this");
    crate::deployed::finish(Command::new("cp").arg(env!("CARGO_BIN_EXE_dozen")).arg(&dozen)).ok();
    crate::deployed::finish(Command::new("cp").arg(this).arg(&tests)).ok();
    let mut command = Command::new(runner[0]);
    command.args(&runner[1..]).arg(&tests).args(selection);
    passes(command.env(COPY, &dozen).env("TMPDIR", &tmp).envs(env.iter().copied()).current_dir("/"));
}

/// A host that forbids user namespaces as well cannot be made to forbid only the others.
fn has_user_namespaces() -> bool {
    Command::new("unshare").args(["--user", "--map-root-user", "true"]).status().is_ok_and(|s| s.success())
}

/// Gives this place to an ordinary user; answers `dozen` as that one calls it. Only root can.
pub(crate) fn given_to_an_ordinary_user(place: &Place) -> impl Fn(&[&str]) -> Command {
    let dozen = place.beside("dozen");
    std::fs::copy(crate::deployed::DOZEN, &dozen).expect("copied");
    std::fs::create_dir(place.home()).expect("made");
    for path in [place.beside(""), place.home(), place.folder().to_owned()] {
        std::os::unix::fs::chown(&path, Some(65534), Some(65534)).expect("handed over");
    }
    move |args| {
        let mut command = place.program("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]).arg(&dozen).args(args);
        command.env("HOME", "/nonexistent");
        command
    }
}
