//! End to end: codebase. What a folder holds decides which app it is and whether there is a new release.

mod push;

use crate::deployed::{Place, WEB};

#[test]
fn nothing_changed_is_the_same_slug_and_release_and_a_changed_line_is_the_next() {
    let place = Place::web("web: python3 web.py\n");
    let first = place.once().ok();
    let first = first.has(&[
        "-----> Procfile app detected",
        "-----> Discovering process types\n       Procfile declares types -> web\n",
        "-----> Launching...\n       Released v1\n       http://shop.localhost:",
        " deployed\n",
    ]);
    assert_eq!(first.err, "");
    place.once().ok().has(&["Nothing changed: v1 again"]).lacks("Released");
    assert_eq!(place.ledger("select count(*), count(distinct slug) from releases"), "1|1");

    place.write("web.py", format!("{WEB}# changed\n"));
    place.once().ok().has(&["Released v2"]);
    let slug = place.ledger("select slug from releases where version = 2");
    assert_eq!(place.ledger("select description from releases where version = 2"), format!("Deploy {}", &slug[..8]));
    assert_eq!(place.ledger("select count(*), count(distinct slug) from releases"), "2|2");

    // Back to what it was: the first slug again, and a release of its own.
    place.write("web.py", WEB);
    place.once().ok().has(&["Released v3"]);
    assert_eq!(place.ledger("select count(distinct slug) from releases"), "2");
}

#[test]
fn a_commit_names_the_release() {
    let place = Place::new(&[("Procfile", "clock: sleep 1000\n")]);
    for args in [vec!["init", "-q"], vec!["add", "-A"], vec!["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "one"]]
    {
        crate::deployed::finish(place.program("git").args(args)).ok();
    }
    let hash = crate::deployed::finish(place.program("git").args(["rev-parse", "HEAD"])).ok().out;
    place.once().ok();
    assert_eq!(place.ledger("select description from releases"), format!("Deploy {}", &hash[..8]));
    assert!(place.dozen(&["run", "--", "echo $HEROKU_SLUG_COMMIT"]).ok().out.trim() == hash.trim());
}

#[test]
fn an_app_is_found_from_below_its_folder_and_by_name_from_anywhere() {
    let place = Place::new(&[("Procfile", "clock: sleep 1000\n"), ("deep/down/file", "")]);
    let below = |args: &[&str]| {
        let mut dozen = place.program(crate::deployed::DOZEN);
        crate::deployed::finish(dozen.args(args).current_dir(place.folder().join("deep/down")))
    };
    let before = below(&["ps"]).coded(2);
    before.has(&["nothing was brought up yet", "dozen up"]);
    place.once().ok();
    below(&["releases"]).ok().has(&["=== shop/dev releases", "v1"]);
    let anywhere = |args: &[&str]| {
        let mut dozen = place.program(crate::deployed::DOZEN);
        crate::deployed::finish(dozen.args(args).current_dir("/"))
    };
    anywhere(&["releases"]).coded(2).has(&["no app was brought up from /", "-a", "shop/dev"]);
    anywhere(&["releases", "-a", "shop"]).ok().has(&["v1"]);
    anywhere(&["-a", "shop/dev", "releases"]).ok().has(&["v1"]);
    anywhere(&["releases", "-a", "shpo"]).coded(2).has(&["did you mean shop?"]);
}

#[test]
fn the_app_is_called_as_asked_then_as_it_says_then_as_its_folder() {
    let place = Place::named("My Shop", &[("Procfile", "clock: sleep 1000\n")]);
    place.once().ok();
    assert_eq!(place.ledger("select name from deploys"), "my-shop/dev");
    place.dozen(&["up", "--port", "0", "--once", "--app", "kiosk"]).ok();
    assert_eq!(place.ledger("select name from deploys order by 1"), "kiosk/dev\nmy-shop/dev");

    let place = Place::named("folder", &[("Procfile", "clock: sleep 1000\n"), ("app.json", r#"{"name": "Declared Name"}"#)]);
    place.once().ok();
    assert_eq!(place.ledger("select name from deploys"), "declared-name/dev");
}

#[test]
fn what_cannot_be_used_is_said_with_its_place_and_nothing_starts() {
    let refused = |files: &[(&str, &[u8])], code: i32, needles: &[&str]| {
        let place = Place::new(&[]);
        files.iter().for_each(|(path, bytes)| place.write(path, bytes));
        let said = place.once().coded(code).has(needles).lacks("Launching").lacks("panicked");
        assert_eq!(place.ledger("select count(*) from releases"), "0");
        place.assert_nothing_left();
        said
    };
    refused(&[("Procfile", b"web: a\n\nweb: b\n")], 1, &["Procfile:3:1", "declared twice, first on line 1", "Rename or remove"]);
    refused(&[("Procfile", b"web:\nworker: x\n")], 1, &["Procfile:1:1", "`web` has no command"]);
    refused(&[("Procfile", b"<<<<<<< HEAD\nweb: a\n=======\nweb: b\n>>>>>>> b\n")], 1, &["Procfile:1:1", "merge conflict"]);
    refused(&[("Procfile", b"# nothing\n")], 1, &["Procfile"]);
    refused(&[("Procfile", b"web: \xff\xfe\n")], 1, &["Procfile", "UTF-8"]);
    refused(&[("Procfile", b"web: x\n"), ("app.json", b"{\"env\": [")], 1, &["app.json:1:"]);
    refused(&[("Procfile", b"web: x\n"), ("app.json", b"\xff\xfe")], 1, &["app.json", "UTF-8"]);
    refused(&[("Procfile", b"web: x\n"), ("dozen.toml", b"[proces.web]\nsettle = 1\n")], 1, &["dozen.toml:1:", "process"]);
    refused(&[("Procfile", b"web: x\n"), ("dozen.toml", b"\xff")], 1, &["dozen.toml", "UTF-8"]);
    refused(&[("README", b"nothing to run\n")], 1, &["Procfile"]);
}

#[test]
fn a_dropped_line_is_warned_of() {
    let place = Place::new(&[("Procfile", "clock: sleep 1000\nwhat is this\n")]);
    place.once().ok().has(&[" !     Procfile:2:1: the line `what is this` is dropped: it has no `:`"]);
}

#[test]
fn a_huge_file_is_named_before_anything_is_copied() {
    let place = Place::new(&[("Procfile", "clock: sleep 1000\n")]);
    std::fs::File::create(place.folder().join("dump.sql")).and_then(|f| f.set_len(2 << 30)).expect("a sparse file");
    place.once().coded(1).has(&["dump.sql (2.0G)", ".slugignore"]);
    place.assert_nothing_left();
    place.write(".slugignore", "*.sql\n");
    place.once().ok();
}
