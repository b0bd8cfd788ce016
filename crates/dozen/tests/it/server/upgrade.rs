//! `dozen server upgrade`: another binary goes on with what runs, or the one before does.

use super::{Server, get, released, until};
use crate::deployed::{DOZEN, Place, finish};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// dozen's binary in a place of its own, by a copy that another process makes: none of this one holds it open for writing.
fn copied(place: &Place, name: &str) -> PathBuf {
    let at = place.beside(name);
    finish(place.program("cp").arg(DOZEN).arg(&at)).ok();
    at
}

fn inode(path: impl AsRef<Path>) -> u64 {
    std::fs::metadata(path).expect("there").ino()
}

/// Asks for a page again and again while something is done; answers how often it did.
fn under_load<T>(port: u16, done: impl FnOnce() -> T) -> (T, u32) {
    let (stop, count) = (AtomicBool::new(false), AtomicU32::new(0));
    let done = std::thread::scope(|threads| {
        for host in ["shop.localhost", "blog.localhost"] {
            let (stop, count) = (&stop, &count);
            threads.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(get(port, host).status, 200, "{host}");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let done = done();
        stop.store(true, Ordering::Relaxed);
        done
    });
    (done, count.into_inner())
}

#[test]
fn another_binary_goes_on_without_a_request_lost_and_one_that_does_not_come_up_changes_nothing() {
    let place = Place::new(&[]);
    released(&place, "shop");
    released(&place, "blog");
    let exe = copied(&place, "dozen");
    let mut command = place.program(exe.to_str().expect("text"));
    let server = Server::of(&place, command.args(["server", "--listen", "0", "--json", "--no-color"]));
    for host in ["shop.localhost", "blog.localhost"] {
        until("its page", || server.get(host).status == 200);
    }
    let pages = || ["shop.localhost", "blog.localhost"].map(|host| server.get(host).body);
    let (before, pid) = (pages(), server.pid());
    let runs = || inode(format!("/proc/{pid}/exe"));
    let upgrade = |file: &Path, more: &[&str]| finish(place.program(DOZEN).args(["server", "upgrade", "--json"]).arg(file).args(more));

    // What is no dozen is refused before anything is done, and what cannot be read, too.
    let first = inode(&exe);
    let script = |name: &str, text: &str| {
        let at = place.beside(name);
        std::fs::write(&at, text).expect("written");
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o755)).expect("set");
        at
    };
    upgrade(&script("no-dozen", "#!/bin/sh\nexit 0\n"), &[]).coded(1).has(&["answers something else"]);
    upgrade(&script("text", "no program"), &[]).coded(1);
    upgrade(&place.beside("nowhere"), &[]).coded(2);
    assert_eq!((runs(), inode(&exe), place.beside("dozen.new").exists()), (first, first, false));

    // One that says that it can, and cannot.
    let broken = script("broken", &format!("#!/bin/sh\n[ \"$1\" = __probe ] && exec {DOZEN} \"$@\"\nexit 3\n"));
    let (said, count) = under_load(server.port, || upgrade(&broken, &[]));
    said.coded(1).has(&["did not come up", "the one before serves again"]);
    assert!(count > 0);
    assert_eq!((runs(), inode(&exe), pages()), (first, first, before.clone()));

    // What would end with it keeps it from going.
    let began = server.call("POST", "/v1/apps/shop/deploys/production/runs", &json!({"command": ["sleep 1000"], "detach": true}));
    let next = copied(&place, "next");
    // Another binary by its bytes, too.
    std::fs::OpenOptions::new().append(true).open(&next).and_then(|mut file| file.write_all(b"another")).expect("written");
    upgrade(&next, &[]).coded(1).has(&["would end with the server", "--now"]);
    assert_eq!((runs(), inode(&exe)), (first, first));
    server.call("POST", "/v1/apps/shop/deploys/production/runs/stop", &json!({"run": began["run"]}));
    let run = || server.call("GET", "/v1/apps/shop/deploys/production/runs", &Value::Null)["runs"][0]["state"] == "ended";
    until("the end of the one-off", run);

    let (said, count) = under_load(server.port, || upgrade(&next, &[]));
    let told = said.ok().json();
    assert_eq!(told["pid"], json!(pid));
    assert!(count > 0);
    let second = inode(&exe);
    assert!(second != first && runs() == second && inode(place.beside("dozen.old")) == first);
    assert_eq!(pages(), before, "the same processes");
    // The router is of the new binary, too.
    let family: Vec<i32> = crate::deployed::children(pid);
    assert!(family.iter().any(|child| std::fs::metadata(format!("/proc/{child}/exe")).is_ok_and(|m| m.ino() == second)), "{family:?}");
    // And what it took over ends with it.
    server.stop();
    place.assert_nothing_left();
}
