//! End to end: who may ask the API.

use crate::adoption::{detach, kill_control};
use crate::deployed::{Answer, DOZEN, PATIENCE, Place, ask_over, pause};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Asks an API for the processes of shop/dev, with this header line.
fn processes(folder: &Path, header: &str) -> Answer {
    let socket = UnixStream::connect(folder.join("api.sock")).expect("it listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    let request = format!("GET /v1/apps/shop/deploys/dev/processes HTTP/1.1\r\nHost: x\r\n{header}Connection: close\r\n\r\n");
    ask_over(socket, request.as_bytes())
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// The folder with an API's socket, once it has one.
fn folder(place: &Place, of: impl Fn(&Path) -> bool) -> PathBuf {
    loop {
        let folders = std::fs::read_dir(place.home().join("run")).into_iter().flatten().flatten().map(|e| e.path());
        if let Some(found) = folders.into_iter().find(|folder| of(folder) && folder.join("api.sock").exists()) {
            return found;
        }
        pause();
    }
}

/// What its token is, and that nobody but its owner reads it.
fn token(folder: &Path) -> String {
    let file = folder.join("api.token");
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(folder)), (0o600, 0o700));
    std::fs::read_to_string(file).expect("readable")
}

#[test]
fn the_api_wants_the_token_of_its_run() {
    let place = Place::web("web: exec python3 web.py\n");
    detach(&place).0.ok();
    let folder = folder(&place, |_| true);
    let first = token(&folder);
    assert_eq!(processes(&folder, &bearer(&first)).status, 200);
    for header in [String::new(), bearer(""), bearer(&first[1..]), bearer(&"0".repeat(64)), format!("Authorization: Basic {first}\r\n")] {
        let refused = processes(&folder, &header);
        assert_eq!(refused.status, 401, "{refused:?}");
        assert!(refused.head.to_lowercase().contains("www-authenticate: bearer"), "{refused:?}");
        assert!(refused.body.contains("without the token of the API") && refused.body.contains("api.token"), "{refused:?}");
    }
    place.dozen(&["ps"]).ok().has(&["web.1"]);

    kill_control(&place);
    detach(&place).0.ok();
    let second = token(&folder);
    assert_ne!(first, second);
    assert_eq!(processes(&folder, &bearer(&first)).status, 401);
    assert_eq!(processes(&folder, &bearer(&second)).status, 200);
    let logs = place.dozen(&["logs", "-n", "1000"]).ok().all();
    assert!(!logs.contains(&first) && !logs.contains(&second), "{logs}");
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
}

#[test]
fn a_one_off_without_an_up_has_a_token_of_its_own() {
    let place = Place::new(&[("Procfile", "worker: exec sleep 1000\n")]);
    place.once().ok();
    let mut run = place.program(DOZEN);
    let mut run = run
        .args(["run", "echo begun; read line; echo $line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let mut said = BufReader::new(run.stdout.take().expect("piped"));
    let mut line = String::new();
    said.read_line(&mut line).expect("it began");
    let folder = folder(&place, |folder| folder.extension().is_some());
    let own = token(&folder);
    assert_eq!(processes(&folder, "").status, 401);
    assert_eq!(processes(&folder, &bearer(&own)).status, 200);
    place.dozen(&["stop", "run.1"]).ok();
    run.wait().expect("it ended");
    place.assert_nothing_left();
}
