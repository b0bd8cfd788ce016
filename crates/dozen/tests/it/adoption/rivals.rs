//! More than one `up --detach` for a deploy at a time.

use super::{BOTH, detach, get, lasting, ps, shop, until};
use crate::deployed::{DOZEN, Place, Said, code, end, kill};
use rustix::process::Signal;
use std::process::{Child, Stdio};

fn begin(place: &Place) -> Child {
    let mut half = place.program(DOZEN);
    half.args(["up", "--port", "0", "--detach"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    half.spawn().expect("dozen starts")
}

#[test]
fn of_two_at_once_one_runs_the_deploy_and_the_other_says_why_not() {
    let place = shop();
    let said: Vec<Said> = std::thread::scope(|threads| {
        let both = [(); 2].map(|()| threads.spawn(|| place.dozen(&["up", "--port", "0", "--detach"])));
        both.into_iter().map(|half| half.join().expect("it ended")).collect()
    });
    let control = lasting(&place);
    for pid in &control {
        place.family_of(*pid);
    }
    assert_eq!(control.len(), 1, "{said:?}");
    // Either the first one was up before the second came, or the second came before.
    let up = |said: &Said| said.code == 0 && said.out.contains("runs in the background");
    let outrun = |said: &Said| said.code == 1 && said.err.contains("another `dozen up --detach` took shop/dev over before this one was up");
    assert!(said.iter().any(up) && said.iter().all(|said| up(said) || outrun(said)), "{said:?}");
    let port = place.dozen(&["ps", "--json"]).json()["url"].as_str().and_then(|url| url.rsplit(':').next()?.parse().ok()).expect("a port");
    assert_eq!(get(port, "/").body, "hello");
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
}

#[test]
fn a_port_that_is_taken_is_told_before_the_running_one_leaves() {
    let place = shop();
    let (said, port) = detach(&place);
    said.ok();
    let control = lasting(&place);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let other = taken.local_addr().expect("bound").port().to_string();
    place.dozen(&["up", "--detach", "--port", &other]).coded(1).has(&[&format!("cannot listen on port {other}"), "choose another port"]);
    assert_eq!((lasting(&place), get(port, "/").body), (control, "hello".to_owned()));
    // Its own is none that is taken.
    place.dozen(&["up", "--detach", "--port", &port.to_string()]).ok();
    place.family_of(lasting(&place)[0]);
    assert_eq!(get(port, "/").body, "hello");
    drop(taken);
    place.dozen(&["up", "--detach", "--port", &other]).ok();
    place.family_of(lasting(&place)[0]);
    assert_eq!(get(other.parse().expect("a port"), "/").body, "hello");
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
}

#[test]
fn one_that_waits_for_another_is_interrupted_at_once() {
    let place = shop();
    detach(&place).0.ok();
    // It answers nobody while it is stopped.
    let control = lasting(&place)[0];
    let jail = ps(&place)["web.1"]["jail_pid"].clone();
    kill(control, Signal::STOP);
    place.write("Procfile", format!("{BOTH}other: exec sleep 1000\n"));
    let mut waiting = begin(&place);
    until("the second one", || lasting(&place).len() == 2);
    kill(i32::try_from(waiting.id()).expect("a pid"), Signal::INT);
    assert_eq!(code(end(&mut waiting, "the foreground half")), 130);
    kill(control, Signal::CONT);
    assert_eq!((lasting(&place), &ps(&place)["web.1"]["jail_pid"]), (vec![control], &jail));
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
}

#[test]
fn without_the_token_of_its_api_it_can_still_be_taken_over() {
    let place = shop();
    let (said, port) = detach(&place);
    said.ok();
    let control = lasting(&place)[0];
    let run = place.home().join("run");
    let folder =
        std::fs::read_dir(run).expect("readable").flatten().map(|e| e.path()).find(|p| p.join("api.token").exists()).expect("a run folder");
    std::fs::remove_file(folder.join("api.token")).expect("removed");
    place
        .dozen(&["ps"])
        .coded(1)
        .has(&["somebody has removed the token of its API", &format!("`kill {control}` ends it; what it runs goes on")]);
    place.dozen(&["up", "--detach"]).coded(1).has(&["somebody has removed the token"]);
    kill(control, Signal::KILL);
    until("its end", || lasting(&place).is_empty());
    detach(&place).0.ok();
    assert_eq!(get(port, "/").body, "hello");
    place.dozen(&["down"]).ok();
    place.assert_nothing_left();
}
