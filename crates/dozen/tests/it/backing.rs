//! End to end: backing services. A resource of dozen's own, and one that is only a URL (in release.rs, with the example app).

use crate::deployed::{Place, WEB, finish};
use std::process::Command;

#[test]
fn sqlite_is_a_folder_that_stays() {
    let place = Place::new(&[("Procfile", "web: python3 web.py\n"), ("web.py", WEB), ("app.json", r#"{"addons": ["sqlite"]}"#)]);
    let up = place.up();
    let url = up.page("/env/DATABASE_URL");
    let path = url.strip_prefix("sqlite:///").expect("the scheme");
    assert!(path.starts_with('/'), "four slashes: {url}");
    assert!(path.starts_with(place.home().to_str().expect("text")), "its real path: {url}");
    assert_eq!(up.page("/add/one"), "1");
    assert_eq!(up.page("/write/app/x"), "Read-only file system");
    assert_eq!(up.page("/write/tmp/x"), "written");
    up.dozen(&["config"]).ok().has(&["DATABASE_URL:", "sqlite:////"]);
    up.dozen(&["ps", "restart"]).ok();
    up.lines("web.1", "State changed from starting to up", 2);
    assert_eq!(up.page("/add/two"), "2");
    up.stop();
    let up = place.up();
    assert_eq!(up.page("/add/three"), "3");
    up.stop();
    let check = finish(Command::new("sqlite3").arg(path).arg("pragma integrity_check; select group_concat(word) from entries"));
    assert_eq!(check.ok().out, "ok\none,two,three\n");
    assert_eq!(place.ledger("select deploy, kind from resources"), "shop/dev|sqlite");
}

#[test]
fn a_url_that_is_given_wins_and_a_service_that_is_not_ours_is_named() {
    let app_json = r#"{"addons": ["sqlite", "heroku-redis:mini"]}"#;
    let procfile = "clock: echo $DATABASE_URL; sleep 1000\n";
    let place = Place::new(&[("Procfile", procfile), ("app.json", app_json), (".env", "DATABASE_URL=sqlite:////tmp/mine\n")]);
    let said = place.once().ok().has(&["app[clock.1]: sqlite:////tmp/mine", "DATABASE_URL is set; app.json's add-on sqlite is not needed"]);
    said.has(&["heroku-redis:mini, which dozen cannot run by itself", "dozen config set REDIS_URL=…"]);
    assert_eq!(place.ledger("select count(*) from resources"), "0");
}
