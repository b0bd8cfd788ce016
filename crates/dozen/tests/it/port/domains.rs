//! Domains and manners, said by commands: the router goes by them at once, and by what is kept.

use crate::adoption::{detach, kill_control};
use crate::deployed::{Answer, DOZEN, Place, ask, finish};
use std::time::Duration;

const WEB: &str = "web: python3 web.py\n";

fn get(port: u16, host: &str, more: &str) -> Answer {
    ask(port, format!("GET /path HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n").as_bytes())
}

#[test]
fn domains_are_added_removed_and_refused() {
    let place = Place::web(WEB);
    let up = place.up();
    up.dozen(&["domains"]).ok().has(&["=== shop/dev domains", "shop.localhost"]);
    up.dozen(&["domains:add", "Shop.Test/api/", "*.shop.test"]).ok().has(&["Adding shop.test/api, *.shop.test to shop... done"]);
    up.dozen(&["domains", "add", "shop.test/api", "shop.localhost"]).ok().has(&["Nothing to do"]);
    let all = up.dozen(&["domains", "--json"]).ok().json();
    let names: Vec<_> = all["domains"].as_array().expect("a list").iter().map(|d| d["domain"].as_str().expect("text")).collect();
    assert_eq!(names, ["shop.localhost", "*.shop.test", "shop.test/api"]);
    up.dozen(&["domains", "add", "--json", "new.test"]).ok();
    for host in ["shop.test", "eu.shop.test", "new.test", "any.other"] {
        assert_eq!(get(up.port(), host, "").status, 200, "{host}");
    }
    for (word, why) in [("http://x.test", "scheme"), ("x.test:80", "port"), ("a b", "letters")] {
        up.dozen(&["domains", "add", word]).coded(2).has(&[why]);
    }
    // All or none.
    up.dozen(&["domains", "add", "fine.test", "http://x.test"]).coded(2);
    up.dozen(&["domains", "remove", "fine.test"]).coded(1).has(&["fine.test was not added to shop/dev", "dozen domains"]);
    up.dozen(&["domains", "remove", "shop.localhost"]).coded(1).has(&["own name"]);

    // Another app of the same home.
    let other = place.beside("blog");
    std::fs::create_dir(&other).expect("made");
    std::fs::write(other.join("Procfile"), "clock: sleep 999\n").expect("written");
    finish(place.program(DOZEN).current_dir(&other).args(["up", "--once", "--port", "0"])).ok();
    let add = |domain: &str| finish(place.program(DOZEN).current_dir(&other).args(["domains", "add", domain]));
    add("new.test").coded(1).has(&["new.test leads to shop/dev already", "dozen domains remove new.test -a shop/dev"]);
    add("shop.localhost").coded(1).has(&["own name of the app shop"]);
    up.dozen(&["domains", "remove", "new.test", "--json"]).ok();
    add("new.test").ok().has(&["the next `dozen up` goes by it"]);
    assert!(up.said().iter().any(|e| e["message"].as_str().is_some_and(|m| m.starts_with("Adding shop.test/api, *.shop.test by "))));
    up.stop();
}

#[test]
fn manners_hold_over_restarts_and_take_overs() {
    let place = Place::web(WEB);
    let (_, port) = detach(&place);
    place.dozen(&["maintenance"]).ok().has(&["off"]);
    place.dozen(&["config", "set", "--plain", "MAINTENANCE_PAGE_URL=https://pages.test/m", "ERROR_PAGE_URL=not an address"]).ok();
    place.dozen(&["logs", "-p", "router"]).ok().has(&["ERROR_PAGE_URL is not shown"]);
    place.dozen(&["maintenance:on"]).ok().has(&["Enabling maintenance mode for shop... done"]);
    place.dozen(&["domains", "add", "kept.test"]).ok();
    let shown = |what: &str| {
        let answer = get(port, "kept.test", "Accept: text/html\r\n");
        assert!(answer.status == 503 && answer.body.contains("<iframe src=\"https://pages.test/m\""), "{what}: {answer:?}");
    };
    shown("at once");
    kill_control(&place);
    shown("without a control part");
    let (said, again) = detach(&place);
    said.has(&["maintenance mode is on"]);
    assert_eq!(again, port);
    shown("taken over");
    assert_eq!(place.dozen(&["maintenance", "--json"]).ok().json()["maintenance"], true);
    place.dozen(&["maintenance", "off"]).ok().has(&["Disabling"]);
    assert_eq!(get(port, "kept.test", "").status, 200);
    place.dozen(&["down"]).ok();
    place.dozen(&["maintenance", "on"]).ok().has(&["the next `dozen up` goes by it"]);
    place.dozen(&["pause"]).coded(1).has(&["dozen up"]);
    let (_, port) = detach(&place);
    assert_eq!(get(port, "h", "").status, 503);
    place.dozen(&["domains"]).ok().has(&["kept.test"]);
    place.dozen(&["down"]).ok();
}

#[test]
fn a_pause_ends_by_itself_or_by_a_word() {
    let place = Place::web(WEB);
    let up = place.up();
    up.dozen(&["pause"]).ok().has(&["requests wait until `dozen pause off`"]);
    let port = up.port();
    let waits = std::thread::spawn(move || get(port, "h", ""));
    assert_eq!(up.dozen(&["maintenance", "--json"]).ok().json()["paused"], true);
    assert!(!waits.is_finished());
    up.dozen(&["pause", "off"]).ok().has(&["Resuming shop... done"]);
    assert_eq!(waits.join().expect("no panic").status, 200);

    let begun = std::time::Instant::now();
    let until = up.dozen(&["pause", "--for", "2s", "--json"]).ok().json();
    assert!(until["paused_until"].as_str().is_some(), "{until}");
    assert_eq!(get(port, "h", "").status, 200);
    assert!(begun.elapsed() >= Duration::from_secs(2));
    up.line("router", "The pause is over");
    assert_eq!(up.dozen(&["maintenance", "--json"]).ok().json()["paused"], false);
    up.dozen(&["pause", "--for", "soon"]).coded(2).has(&["write it as 30s"]);
    up.stop();
}

#[test]
fn what_the_app_and_its_proxies_say_reaches_the_router() {
    let place = Place::web(WEB);
    place.write("dozen.toml", "[router]\nconcurrency = 1\nqueue = 0\n");
    let mut up = place.start(&["--trusted-proxy", "127.0.0.0/8"]);
    up.ready();
    up.dozen(&["https", "on", "--hsts", "1h"]).ok().has(&["HTTPS only for shop... done, on, hsts 3600s"]).lacks("no port for HTTPS");
    let sent = get(up.port(), "shop.test", "X-Forwarded-Proto: http\r\n");
    assert!(sent.status == 301 && sent.head.contains("location: https://shop.test/path"), "{sent:?}");
    let there = get(up.port(), "shop.test", "X-Forwarded-Proto: https\r\n");
    assert!(there.status == 200 && there.head.contains("strict-transport-security: max-age=3600"), "{there:?}");
    let manners = up.dozen(&["https", "--json"]).ok().json();
    assert_eq!((&manners["https_only"], &manners["trusted_proxies"][0]), (&true.into(), &"127.0.0.0/8".into()));
    up.dozen(&["https", "off", "--hsts", "off"]).ok();
    up.stop();
    // It is kept, until it is taken back.
    let mut up = place.start(&["--trusted-proxy", "none"]);
    up.ready();
    assert_eq!(up.dozen(&["https", "--json"]).ok().json()["trusted_proxies"].as_array().map(Vec::len), Some(0));
    up.stop();
    place.dozen(&["up", "--trusted-proxy", "10.0.0.1/8"]).coded(2).has(&["bits beyond"]);
}

#[test]
fn https_only_without_a_way_to_speak_https_is_warned_of() {
    let place = Place::web(WEB);
    let up = place.up();
    let advice = "The router has no port for HTTPS, so requests by HTTP are answered as ever; `dozen up --https-port N`";
    up.dozen(&["https", "on"]).ok().has(&["HTTPS only for shop... done, on", advice]);
    assert_eq!(get(up.port(), "shop.test", "").status, 200);
    up.dozen(&["https"]).ok().has(&["on", advice]);
    up.dozen(&["maintenance", "off"]).ok().lacks("no port for HTTPS");
    assert!(up.dozen(&["https", "--json"]).ok().json()["warning"].as_str().is_some_and(|warning| warning.starts_with(advice)));
    let off = up.dozen(&["https", "off", "--json"]).ok().json();
    assert_eq!(off["warning"], serde_json::Value::Null, "{off}");
    up.dozen(&["https", "on"]).ok();
    up.stop();
    place.dozen(&["https"]).ok().has(&[advice]);
    // What is kept with a port for HTTPS has it again.
    place.dozen(&["up", "--detach", "--port", "0", "--https-port", "0"]).ok();
    place.dozen(&["https"]).ok().has(&["on"]).lacks("no port for HTTPS");
    place.dozen(&["down"]).ok();
}

#[test]
fn what_comes_plainly_is_sent_to_the_routers_own_https_port() {
    let place = Place::web(WEB);
    let mut up = place.start(&["--https-port", "0"]);
    up.ready();
    up.dozen(&["domains", "add", "shop.test"]).ok();
    up.dozen(&["https", "on"]).ok();
    let sent = get(up.port(), "shop.test", "");
    let location = sent.head.lines().find_map(|l| l.strip_prefix("location: https://shop.test:")).expect("a location");
    let (port, path) = location.trim().split_once('/').expect("a path");
    assert_eq!((sent.status, path), (301, "path"));
    assert_ne!(port, up.port().to_string());
    drop(std::net::TcpStream::connect(("127.0.0.1", port.parse().expect("a port"))).expect("the router listens"));
    up.stop();
}

#[test]
fn a_split_is_kept_until_another_release_is_current() {
    let place = Place::web("web: python3 web.py\nclock: exec sleep 999\n");
    let (_, port) = detach(&place);
    place.dozen(&["config", "set", "--plain", "WORD=two"]).ok();
    place.dozen(&["config", "set", "--plain", "WORD=three"]).ok();
    let word = |more: &str| ask(port, format!("GET /env/WORD HTTP/1.1\r\nHost: h\r\n{more}Connection: close\r\n\r\n").as_bytes());
    let words = || (0..60).map(|_| word("").body).collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>();
    place.dozen(&["releases", "split"]).ok().has(&["No split"]);
    place.dozen(&["releases", "split", "v1=1", "v2=1"]).coded(1).has(&["v3", "v3=1"]);
    place.dozen(&["releases", "split", "v3=1", "v9=1"]).coded(1);
    for wrong in [&["v3=1"][..], &["v3", "v2"], &["v3=0", "v2=1"], &["v3=1", "v3=2"], &["--sticky", "luck", "v3=1", "v2=1"]] {
        place.dozen(&[&["releases", "split"], wrong].concat()).coded(2);
    }
    assert_eq!(words(), ["three"]);
    place.dozen(&["releases:split", "v2=50", "v3=50%", "--sticky", "cookie"]).ok().has(&["done, v2=50 v3=50 --sticky cookie"]);
    assert_eq!(words(), ["three", "two"]);
    for (release, said) in [("v2", "two"), ("v3", "three")] {
        let kept = word(&format!("Cookie: dozen_release={release}\r\n"));
        assert_eq!((kept.body.as_str(), kept.head.contains("set-cookie")), (said, false), "{kept:?}");
    }
    assert!(word("").head.contains("set-cookie: dozen_release=v"));
    let processes = || {
        let all = place.dozen(&["ps", "--json"]).ok().json();
        let named = |p: &serde_json::Value| format!("{} {}", p["name"].as_str().expect("text"), p["release"].as_str().expect("text"));
        all["processes"].as_array().expect("a list").iter().map(named).collect::<Vec<_>>()
    };
    assert_eq!(processes(), ["clock.1 v3", "web.1 v2", "web.1 v3"]);
    // Over the end of its control part.
    kill_control(&place);
    assert_eq!(words(), ["three", "two"]);
    detach(&place);
    place.dozen(&["releases", "split", "--json"]).ok();
    assert_eq!(words(), ["three", "two"]);
    place.dozen(&["releases", "split", "off"]).ok().has(&["the current release gets all"]);
    assert_eq!(words(), ["three"]);
    place.dozen(&["releases", "split", "v2=1", "v3=1"]).ok();
    assert_eq!(words(), ["three", "two"]);
    place.dozen(&["config", "set", "--plain", "WORD=four"]).ok();
    assert_eq!(words(), ["four"]);
    place.dozen(&["releases", "split"]).ok().has(&["No split"]);
    place.dozen(&["down"]).ok();
}
