//! Slugs of releases: listed, written as files for elsewhere, and collected when no release needs them.

use crate::deployed::{DOZEN, Place, Said, finish, pause};
use crate::server::{Server, WEB};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

const AT: &str = "/v1/apps/shop/deploys/production";

fn shop(place: &Place) -> Server<'_> {
    let server = Server::start(place);
    server.call("POST", "/v1/apps", &json!({"name": "shop"}));
    server.call("PATCH", &format!("{AT}/config"), &json!({"set": {"GREETING": "s3cret-greeting"}}));
    server
}

fn of_shop(place: &Place, args: &[&str]) -> Said {
    place.dozen(&[&["-a", "shop/production", "--no-color"], args].concat())
}

fn page(server: &Server<'_>) -> String {
    let answer = server.get("shop.localhost");
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body.split(' ').next().unwrap_or_default().to_owned()
}

fn slug_of(place: &Place, version: u32) -> String {
    place.ledger(&format!("SELECT slug FROM releases WHERE deploy = 'shop/production' AND version = {version}"))
}

#[test]
fn a_slug_goes_out_as_a_file_that_is_deployed_and_as_a_debian_package() {
    let place = Place::new(&[
        ("Procfile", "release: echo $PORT \"100%\"\nweb: exec python3 web.py\nclock_2: while :; do sleep 9; done\nconsole: sh\n"),
        ("web.py", WEB),
        ("dozen.toml", "[scratch]\nfolders = [\"cache/tmp\"]\n"),
        ("bin/tool", "#!/bin/sh\n"),
    ]);
    fs::set_permissions(place.folder().join("bin/tool"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    std::os::unix::fs::symlink("web.py", place.folder().join("link.py")).expect("linked");
    let server = shop(&place);
    of_shop(&place, &["config", "set", "--plain", "MODE=a \"b\" $c 5%"]).ok();
    of_shop(&place, &["deploy"]).ok().has(&["Released v1"]);
    let first = slug_of(&place, 1);
    let file = place.beside("v1.slug").to_string_lossy().into_owned();
    // By the router, with a token.
    let url = format!("http://dozen.localhost:{}", server.port);
    place.dozen(&["login", &url, "--token", &server.token]).ok();
    place.dozen(&["slugs", "export", "v1", "-o", &file, "-a", "shop", "--server", &url]).ok().has(&["Writing v1 of shop/production"]);
    place.write("web.py", WEB.replace("getppid", "getpid"));
    of_shop(&place, &["deploy"]).ok().has(&["Released v2"]);
    assert_ne!(slug_of(&place, 2), first);
    of_shop(&place, &["deploy", "--slug", &file]).ok().has(&["Released v3"]);
    assert_eq!(slug_of(&place, 3), first, "the same bytes");
    server.call("POST", "/v1/apps/shop/deploys", &json!({"name": "staging", "from": "production"}));
    place.dozen(&["deploy", "--slug", &file, "-a", "shop/staging"]).ok();
    let listed = of_shop(&place, &["slugs", "--json"]).ok().json();
    let one = listed["slugs"].as_array().expect("a list").iter().find(|slug| slug["id"] == first.as_str()).expect("listed");
    let used = |deploy: &str, release: &str| json!({"deploy": deploy, "release": release});
    let wanted = [used("shop/production", "v3"), used("shop/production", "v1"), used("shop/staging", "v1")];
    assert_eq!((&one["releases"], &one["present"]), (&json!(wanted), &json!(true)));
    of_shop(&place, &["slugs"]).ok().has(&["production v3 v1, staging v1", "All slugs of this dozen take"]);
    of_shop(&place, &["slugs", "export", "v9"]).coded(1).has(&["no release v9"]);

    // What dpkg makes of a package.
    of_shop(&place, &["slugs:export", "v1", "--format", "deb", "--json"]).ok();
    let deb = place.folder().join("shop-v1.deb");
    let dpkg = |args: &[&str]| finish(Command::new("dpkg-deb").args(args)).ok().out;
    let info = dpkg(&["--info", &deb.to_string_lossy()]);
    for line in ["Package: dozen-app-shop\n", "Architecture: ", &format!("Version: 1+{}", &first[..8]), "preinst", "conffiles"] {
        assert!(info.contains(line), "{line}: {info}");
    }
    let contents = dpkg(&["--contents", &deb.to_string_lossy()]);
    for line in ["./opt/dozen-app-shop/web.py", "/link.py -> web.py", "/cache/tmp/", "-rw-r----- 0/0", "./etc/default/dozen-app-shop\n"] {
        assert!(contents.contains(line), "{line}: {contents}");
    }
    assert!(contents.lines().any(|l| l.starts_with("-rwxr-xr-x") && l.ends_with("./opt/dozen-app-shop/bin/tool")), "{contents}");
    let root = place.beside("root");
    dpkg(&["--extract", &deb.to_string_lossy(), &root.to_string_lossy()]);
    dpkg(&["--control", &deb.to_string_lossy(), &place.beside("control").to_string_lossy()]);
    assert_eq!(fs::read(root.join("opt/dozen-app-shop/bin/tool")).expect("there"), b"#!/bin/sh\n");
    let defaults = fs::read_to_string(root.join("etc/default/dozen-app-shop")).expect("there");
    assert!(defaults.contains("#GREETING=\n") && defaults.contains("MODE=\"a \\\"b\\\" \\$c 5%\"\n"), "{defaults}");
    let units = root.join("usr/lib/systemd/system");
    let mut names: Vec<String> =
        fs::read_dir(&units).expect("there").flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names, ["clock_2", "release", "web"].map(|kind| format!("dozen-app-shop-{kind}.service")));
    let found = finish(Command::new("grep").args(["-rl", "s3cret-greeting"]).arg(&root).arg(place.beside("control")));
    assert_eq!((found.code, found.out.as_str()), (1, ""), "a secret is in it");
    for script in ["preinst", "postinst", "prerm", "postrm"] {
        finish(Command::new("sh").arg("-n").arg(place.beside("control").join(script))).ok();
    }
    // Where systemd is installed it says itself whether these are units.
    if Path::new("/usr/bin/systemd-analyze").exists() {
        let all = names.iter().map(|name| units.join(name));
        let said = finish(Command::new("systemd-analyze").args(["verify", "--man=no", "--recursive-errors=no"]).args(all));
        let ours: Vec<&str> = said.err.lines().filter(|line| line.contains("dozen-app-shop-")).collect();
        assert!(said.code == 0 && ours.is_empty(), "{}", said.err);
    }
    // Another deploy's is another package, and shares no file with it.
    let staging = place.beside("staging.deb").to_string_lossy().into_owned();
    place.dozen(&["slugs", "export", "--format", "deb", "-o", &staging, "-a", "shop/staging"]).ok();
    assert!(dpkg(&["--info", &staging]).contains("Package: dozen-app-shop.staging\n"));
    let files = |deb: &str| -> Vec<String> {
        let listed = dpkg(&["--contents", deb]);
        listed.lines().filter(|l| !l.starts_with('d')).filter_map(|l| Some(l.split_once(" ./")?.1.to_owned())).collect()
    };
    let ours = files(&deb.to_string_lossy());
    assert!(!ours.is_empty() && files(&staging).iter().all(|file| !ours.contains(file)), "{ours:?}");
    let written = finish(place.program(DOZEN).args(["slugs", "export", "--format", "deb", "-o", "-", "-a", "shop/production"])).ok();
    assert!(written.bytes.starts_with(b"!<arch>\ndebian-binary"));
    server.stop();
    place.assert_nothing_left();
}

/// As if nothing had been built or taken up for hours.
pub(crate) fn age(place: &Place) {
    for slug in fs::read_dir(place.home().join("slugs")).expect("slugs").flatten() {
        File::open(slug.path()).and_then(|f| f.set_modified(SystemTime::now() - Duration::from_secs(2 * 3600))).expect("aged");
    }
}

fn there(place: &Place, slug: &str) -> bool {
    place.home().join("slugs").join(slug).exists()
}

#[test]
fn what_no_release_needs_is_collected_and_what_serves_serves_on() {
    let place = Place::new(&[("Procfile", "web: exec python3 web.py\n"), ("web.py", WEB)]);
    let server = shop(&place);
    for n in 1..=12 {
        place.write("n", n.to_string());
        of_shop(&place, &["deploy"]).ok().has(&[&format!("Released v{n}")]);
    }
    let slugs: Vec<String> = (1..=12).map(|n| slug_of(&place, n)).collect();
    // One that was just made is left: a release of it may be on its way.
    let dry = place.dozen(&["slugs", "collect", "--dry-run", "--json"]).ok().json();
    assert_eq!(dry["slugs"], json!([]));
    age(&place);
    let dry = place.dozen(&["slugs", "collect", "--dry-run", "--json"]).ok().json();
    let mut gone = [slugs[0].clone(), slugs[1].clone()];
    gone.sort();
    let mut told: Vec<&str> = dry["slugs"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    told.sort_unstable();
    assert_eq!(told, gone);
    assert!(there(&place, &slugs[0]));
    place.dozen(&["slugs", "collect"]).ok().has(&["Removed 2 slugs", "the budget is"]);
    assert_eq!(slugs.iter().map(|slug| there(&place, slug)).collect::<Vec<_>>(), [[false; 2].as_slice(), &[true; 10]].concat());
    assert_eq!(page(&server), "s3cret-greeting");
    of_shop(&place, &["rollback", "v1"]).coded(1).has(&["the code of shop/production v1 is not kept any more", "last 10 releases"]);
    of_shop(&place, &["releases", "split", "v12=9", "v1=1"])
        .coded(1)
        .has(&["the code of shop/production v1 is not kept", "Deploy its code again"]);
    of_shop(&place, &["run", "--release", "v2", "--", "true"]).coded(1).has(&["not kept any more"]);
    of_shop(&place, &["slugs"]).ok().has(&["collected"]);
    of_shop(&place, &["rollback", "v3"]).ok().has(&["v13"]);
    assert_eq!(page(&server), "s3cret-greeting");
    // By itself, after the next release: v4's goes.
    age(&place);
    place.write("n", "13");
    of_shop(&place, &["deploy"]).ok().has(&["Released v14"]);
    let end = std::time::Instant::now() + crate::deployed::PATIENCE;
    while there(&place, &slugs[3]) {
        assert!(std::time::Instant::now() < end, "it is not collected");
        pause();
    }
    assert!(there(&place, &slugs[2]), "v13 has it");
    server.stop();

    // Killed at any point of it.
    for n in 0..12 {
        let kept = (5..=14).map(|n| slug_of(&place, n));
        let spare = place.home().join("slugs").join(format!("{n:x}").repeat(64));
        copy(&place.home().join("slugs").join(slug_of(&place, 14)), &spare);
        age(&place);
        let mut collect = place.program(DOZEN);
        let mut collect = collect.args(["slugs", "collect"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
        std::thread::sleep(Duration::from_millis(n * 12));
        collect.kill().expect("killed");
        collect.wait().expect("ended");
        assert!(kept.into_iter().all(|slug| there(&place, &slug)));
        // As a whole or not at all.
        assert!(!spare.exists() || fs::read_dir(spare.join("tree")).expect("a tree").count() == 3);
    }
    place.dozen(&["slugs", "collect"]).ok();
    place.dozen(&["server", "check"]).ok();
    let server = Server::start(&place);
    assert_eq!(page_at_last(&server), "s3cret-greeting");
    server.stop();
    place.assert_nothing_left();
}

fn copy(from: &Path, to: &Path) {
    finish(Command::new("cp").arg("-r").arg(from).arg(to)).ok();
}

fn page_at_last(server: &Server<'_>) -> String {
    let end = std::time::Instant::now() + crate::deployed::PATIENCE;
    while server.get("shop.localhost").status != 200 {
        assert!(std::time::Instant::now() < end, "no page");
        pause();
    }
    page(server)
}
