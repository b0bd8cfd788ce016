//! Another version of dozen goes on with what one has started: handed over, or found, and spoken with in the words of the version before.

use super::{ask_on, assert_said_once, detach, get, kill_control, lasting, ps, shop, until};
use crate::deployed::{Place, kill, start_time};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What plays a jail and a router of the protocols before these.
const EARLIER: &str = include_str!("earlier.py");

#[test]
fn up_again_takes_over_from_the_one_that_runs_and_no_request_fails() {
    let place = shop();
    let (said, port) = detach(&place);
    said.ok();
    let (before, first) = (ps(&place), lasting(&place)[0]);
    let (count, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|threads| {
        let client = threads.spawn(|| ask_on(port, &count, &stop));
        let (said, again) = detach(&place);
        said.ok().has(&[&format!("Taking over from pid {first}"), "Nothing changed: v1 again"]);
        assert_eq!((again, start_time(first)), (port, None));
        let after = ps(&place);
        assert!(["web.1", "worker.1"].iter().all(|name| before[*name]["jail_pid"] == after[*name]["jail_pid"]), "{before:?} {after:?}");
        // The same with other code: the next release, as it came to one that ran.
        place.write("Procfile", "web: GREETING=new exec python3 web.py\nworker: exec sleep 1000\n");
        detach(&place).0.ok().has(&["Taking over from pid", "Released v2"]);
        assert_eq!(get(port, "/").body, "new");
        // And with what cannot be built, which harms nothing.
        place.write("Procfile", "web: x\nweb: y\n");
        detach(&place).0.coded(1).has(&["Procfile cannot be used"]);
        stop.store(true, Ordering::Relaxed);
        assert_said_once(&place, client.join().expect("every answer was 200"));
    });
    assert_eq!(lasting(&place).len(), 1);
    assert_eq!(place.ledger("select group_concat(status) from releases"), "succeeded,succeeded");
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
}

#[test]
fn what_would_end_with_it_keeps_a_control_part_from_going() {
    let place = shop();
    detach(&place).0.ok();
    let first = lasting(&place);
    place.dozen(&["run", "--detach", "--", "sleep", "1000"]).ok();
    let refused = place.dozen(&["up", "--port", "0", "--detach"]).coded(1);
    refused.has(&["run.1 of shop/dev would end with the `dozen up` that runs now", "`dozen runs stop` it"]);
    assert_eq!(lasting(&place), first);
    let refused = place.dozen(&["up", "--port", "0"]).coded(1);
    refused.has(&["shop/dev is already running: `dozen up` with pid", "`dozen up --detach` takes over from it"]);
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
    let up = place.up();
    place.dozen(&["up", "--port", "0", "--detach"]).coded(1).has(&["shop/dev is already running"]).lacks("Taking over");
    up.stop();
}

/// Has one of them wait at a note's socket, in place of who did.
fn earlier(place: &Place, role: &str, note: &Path, port: u16, web: u16) -> Child {
    let mut text: Value = serde_json::from_slice(&std::fs::read(note).expect("readable")).expect("JSON");
    text["note"]["protocol"] = 2.into();
    std::fs::write(note, text.to_string()).expect("written");
    let mut python = place.program("python3");
    let (name, folder) = (note.file_stem().expect("named"), note.parent().expect("in a folder"));
    python.args(["-c", EARLIER, role]).arg(name).arg(folder).args([port, web].map(|port| port.to_string()));
    let mut peer = python.stdout(Stdio::piped()).spawn().expect("Python starts");
    let mut said = String::new();
    let mut out = BufReader::new(peer.stdout.take().expect("piped"));
    out.read_line(&mut said).expect("read");
    assert_eq!(said, "waiting\n");
    peer.stdout = Some(out.into_inner());
    peer
}

#[test]
fn a_jail_and_a_router_of_the_version_before_are_taken_over_and_steered() {
    // A change that has requests wait.
    let place = shop();
    place.write("dozen.toml", "[process.web]\noverlap = false\n");
    let (said, port) = detach(&place);
    said.ok();
    let web: u16 = ps(&place)["web.1"]["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a port");
    let all = place.left();
    kill_control(&place);
    all.iter().for_each(|(pid, _)| kill(*pid, Signal::KILL));
    place.until_nothing_left(crate::deployed::PATIENCE);
    let run = std::fs::read_dir(place.home().join("run")).expect("a run folder").flatten().next().expect("one").path();
    let notes: Vec<_> = std::fs::read_dir(&run).expect("readable").flatten().map(|f| f.path()).collect();
    let note = |says: &str| {
        let is = |path: &&std::path::PathBuf| {
            path.extension().is_some_and(|e| e == "note") && std::fs::read_to_string(path).is_ok_and(|text| text.contains(says))
        };
        notes.iter().find(is).expect("a note")
    };
    let mut router = earlier(&place, "router", &run.join("router.note"), port, web);
    let mut jail = earlier(&place, "jail", note("web.1"), web, 0);
    assert_eq!(get(port, "/").body, "earlier");

    let (said, again) = detach(&place);
    said.ok().has(&["Nothing changed: v1 again"]);
    assert_eq!((again, get(port, "/").body.as_str()), (port, "earlier"));
    let taken = ps(&place);
    assert_eq!((&taken["web.1"]["jail_pid"], &taken["web.1"]["state"]), (&jail.id().into(), &"up".into()));
    // The jail's word is taken for its stop, and its release follows.
    place.dozen(&["config", "set", "GREETING=new"]).ok();
    crate::deployed::end(&mut jail, "the jail of the version before");
    until("new release", || ps(&place)["web.1"]["release"] == "v2");
    // The router of this version has followed the one before, and does without it.
    kill(router.id().cast_signed(), Signal::KILL);
    router.wait().expect("ended");
    assert_eq!(get(port, "/").body, "new");
    let heard = std::io::read_to_string(jail.stdout.take().expect("piped")).expect("read");
    assert!(heard.starts_with(r#"{"do":"adopt","protocol":3,"lasting":true}"#) && heard.contains(r#"{"do":"stop""#), "{heard}");
    assert!(heard.ends_with("{\"do\":\"collect\"}\n"), "{heard}");
    let heard = std::io::read_to_string(router.stdout.take().expect("piped")).expect("read");
    assert!(heard.contains(r#"{"do":"stop""#) && !heard.contains("yield"), "{heard}");
    assert!(heard.contains(r#""web":"held""#) && heard.contains(r#""hosts":["shop.localhost"]"#), "{heard}");
    for pid in lasting(&place) {
        place.family_of(pid);
    }
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
}
