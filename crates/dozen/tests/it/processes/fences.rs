//! What Landlock, seccomp and the view refuse, on each kind of host: the attempts of a hostile program, and each one's outcome.

use super::Bed;
use crate::doctor::kernel;
use crate::machines::host_view;
use dozen_core::processes::Exit;
use serde_json::{Map, Value, json};
use std::net::TcpListener;

/// The program, for an interpreter that every jail sees.
pub(crate) const ATTEMPTS: &str = include_str!("../hostile/attempts.py");
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// What the kernel is asked for, and what it answers at every level.
const REFUSED: &[(&str, &[&str])] = &[
    ("keyctl", &["EPERM"]),
    ("bpf", &["EPERM"]),
    ("perf_event_open", &["EPERM"]),
    ("io_uring_setup", &["ENOSYS"]),
    ("clone3", &["ENOSYS"]),
    ("unshare a user namespace", &["EPERM"]),
    ("clone into a user namespace", &["EPERM"]),
    ("setns", &["EPERM"]),
    ("mount", &["EPERM"]),
    ("fsopen", &["EPERM"]),
    ("move_mount", &["EPERM"]),
    ("pivot_root", &["EPERM"]),
    ("userfaultfd", &["EPERM"]),
    ("personality", &["EPERM"]),
    ("open_by_handle_at", &["EPERM"]),
    ("kexec_load", &["EPERM"]),
    ("init_module", &["EPERM"]),
    ("reboot", &["EPERM"]),
    ("swapon", &["EPERM"]),
    ("settimeofday", &["EPERM"]),
    ("acct", &["EPERM"]),
    ("quotactl", &["EPERM"]),
    ("syslog", &["EPERM"]),
    ("type into the terminal", &["EPERM"]),
    ("raw socket", &["EPERM"]),
    ("packet socket", &["EAFNOSUPPORT"]),
    ("AF_ALG", &["EAFNOSUPPORT"]),
    ("AF_VSOCK", &["EAFNOSUPPORT"]),
    ("MPTCP", &["EPROTONOSUPPORT"]),
    ("SMC", &["EPROTONOSUPPORT"]),
    #[cfg(target_arch = "x86_64")]
    ("x32 getpid", &["ENOSYS"]),
    ("write /proc", &["EACCES", "EROFS", "EPERM"]),
    ("write /proc/sysrq-trigger", &["EACCES", "EROFS", "EPERM", "ENOENT"]),
    ("write /sys", &["EACCES", "ENOENT"]),
    ("read /etc/shadow", &["EACCES"]),
];

/// Takes the outcome of each of these and asserts it; the rest begins with `may` and went well.
#[track_caller]
pub(crate) fn assert_outcomes(mut found: Map<String, Value>, more: &[(&str, &[&str])]) {
    if !host_view() {
        assert_eq!(found.remove("fill /tmp"), Some("1024 MiB".into()), "memory is not without limit");
    }
    for (name, wanted) in REFUSED.iter().chain(more) {
        let outcome = found.remove(*name).unwrap_or_else(|| panic!("{name} was not tried: {found:?}"));
        assert!(wanted.contains(&outcome.as_str().expect("a word")), "{name}: {outcome}, and not one of {wanted:?}");
    }
    for (name, outcome) in found {
        assert!(name.starts_with("may "), "nothing is said of {name}: {outcome}");
        assert_eq!(outcome, "done", "{name}");
    }
}

#[tokio::test]
async fn what_no_app_may_is_refused_and_what_apps_need_works() {
    let outside = tempfile::tempdir().expect("a folder");
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "s").expect("written");
    // Free now, and bound by the attempts alone.
    let free = || TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let (other, own, declared) = (free(), free(), free());
    let abstract_name = format!("dozen-test-{}", std::process::id());
    let address = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&abstract_name);
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address.expect("an address")).expect("bound");

    let mut bed = Bed::new(&[PYTHON, "-c", ATTEMPTS]);
    let app = bed.home.path().join("app");
    std::fs::write(app.join("code"), "c").expect("written");
    let mut shown = json!({
        "files": [&secret, if host_view() { app.join("code") } else { "/app/code".into() }],
        "folders": [outside.path()],
        "pids": [std::process::id()],
        "ports": [other],
        "own ports": [own, declared],
        "abstract": [abstract_name],
    });
    let mut wanted: Vec<(&str, &[&str])> = vec![
        ("read 0", &["ENOENT", "EACCES"]),
        ("write 0", &["ENOENT", "EROFS", "EACCES"]),
        ("read 1", &["done"]),
        ("write 1", &["EACCES", "EROFS"]),
        ("list 0", &["ENOENT", "EACCES"]),
        (
            "signal 0",
            if !host_view() {
                &["ESRCH"]
            } else if kernel() >= (6, 12) {
                &["EPERM"]
            } else {
                &["done"]
            },
        ),
        ("environ of 0", if host_view() { &["EACCES", "EPERM"] } else { &["ENOENT"] }),
        ("memory of 0", if host_view() { &["EACCES", "EPERM"] } else { &["ENOENT"] }),
        ("root of 0", if host_view() { &["EACCES", "EPERM"] } else { &["ENOENT"] }),
        ("ptrace 0", if host_view() { &["EPERM"] } else { &["ESRCH"] }),
        // As far as the kernel has rules for them.
        ("bind 0", if kernel() >= (6, 7) { &["EACCES"] } else { &["done"] }),
        ("abstract socket 0", if kernel() >= (6, 12) { &["EPERM"] } else { &["done"] }),
    ];
    if rustix::process::geteuid().is_root() && !host_view() {
        let program = app.join("id");
        std::fs::copy("/usr/bin/id", &program).expect("copied");
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).expect("set");
        shown["setuid"] = json!(["/app/id"]);
        wanted.push(("become root by 0", &["no root"]));
    }
    bed.spec.env.push(("TARGETS".into(), shown.to_string()));
    (bed.spec.port, bed.spec.ports) = (Some(own), Some(vec![declared]));
    let (exit, said) = bed.run().await;
    assert_eq!(exit, Exit::Code(0), "{said:?}");
    let found: Map<String, Value> = serde_json::from_str(&said.concat()).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    assert_outcomes(found, &wanted);
}

#[tokio::test]
async fn limits_are_only_lowered() {
    let own = |what| rustix::process::getrlimit(what).current.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    let (exit, said) = Bed::shell("ulimit -c; ulimit -n").run().await;
    assert_eq!((exit, said), (Exit::Code(0), vec!["0".to_owned(), own(rustix::process::Resource::Nofile)]));
}

#[tokio::test]
async fn temporary_files_go_with_the_instance() {
    let (exit, said) = Bed::shell("cd ${TMPDIR:-/tmp} && pwd && mkdir -p a/b && ln -s /usr a/link && echo x > a/b/c").run().await;
    assert_eq!(exit, Exit::Code(0), "{said:?}");
    let own = std::path::Path::new(&said[0]);
    assert_eq!(host_view(), said[0] != "/tmp");
    assert!(!host_view() || !own.exists(), "{own:?} is left");
}
