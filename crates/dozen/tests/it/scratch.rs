//! End to end: what an instance may write beside its code, and what it is told where it may not.

use crate::deployed::Place;

const TOML: &str = "[scratch]\nfolders = [\"cache/\", \"storage\", \"storage/logs\"]\n";

#[test]
fn a_scratch_folder_is_empty_bounded_and_one_instances_own() {
    let look = "find cache storage | sort | xargs; df -k --output=size,target cache storage | tail -2 | xargs; stat -c %u cache; id -u";
    let write = "echo $DYNO > cache/mine; echo $DYNO > storage/logs/mine; cat cache/mine storage/logs/mine | xargs";
    let place = Place::new(&[
        ("Procfile", &format!("clock: {look}; {write}; sleep 1000\n")),
        ("dozen.toml", TOML),
        ("cache/kept.txt", "in the slug, not in the scratch folder"),
        ("storage/logs/.gitkeep", ""),
        ("storage/framework/views/.gitkeep", ""),
    ]);
    let up = place.up();
    let folders = "cache storage storage/framework storage/framework/views storage/logs";
    up.line("clock.1", folders);
    up.line("clock.1", "524288 /app/cache 524288 /app/storage");
    up.line("clock.1", "clock.1 clock.1");
    up.dozen(&["ps", "scale", "clock=2"]).ok();
    // The second finds nothing of the first, and the first nothing of its own earlier life.
    up.line("clock.2", folders);
    up.line("clock.2", "clock.2 clock.2");
    up.dozen(&["ps", "restart", "clock.1"]).ok();
    up.lines("clock.1", folders, 2);
    let said = up.stop();
    let ids: Vec<String> = said.texts("log").into_iter().filter(|t| t.bytes().all(|b| b.is_ascii_digit())).map(str::to_owned).collect();
    assert!(!ids.is_empty() && ids.iter().all(|id| *id == ids[0]), "the folder belongs to whom the process runs as: {ids:?}");
    place.once().ok();
}

#[test]
fn what_frameworks_write_is_known_by_their_files() {
    let place = Place::new(&[("Procfile", "clock: touch tmp/pid log/x; ls -d tmp log; sleep 1000\n"), ("config/application.rb", "")]);
    let up = place.up();
    up.line("clock.1", "log");
    up.line("clock.1", "tmp");
    up.stop();
    place.once().ok().has(&["Unchanged since slug"]);
}

#[test]
fn a_refused_write_is_told_once_with_the_path_and_the_setting() {
    let place = Place::new(&[
        ("Procfile", "clock: for i in 1 2 3; do touch data/x; done; mkdir -p up/loads; echo went on; sleep 1000\n"),
        ("data/y", ""),
    ]);
    let up = place.up();
    up.line("clock.1", "went on");
    let told = up.line("clock.1", "Refused to write data/x");
    assert!(told.contains("let dozen.toml say `[scratch]` and `folders = [\"data\"]`"), "{told}");
    up.line("clock.1", "`folders = [\"up\"]`");
    let said = up.stop();
    assert_eq!(said.texts("log").iter().filter(|t| t.contains("Refused to write data/x")).count(), 1, "{}", said.text());
    place.write("dozen.toml", "[scratch]\nfolders = [\"data\", \"up\"]\n");
    place.once().ok().lacks("Refused");
}

#[test]
fn a_scratch_folder_that_cannot_be_one_is_refused() {
    let place = Place::new(&[("Procfile", "clock: sleep 1000\n"), ("dozen.toml", "[scratch]\nfolders = [\"Procfile/x\"]\n")]);
    place.once().coded(1).has(&["the scratch folder Procfile/x is, or lies in, a file or a link; name another in dozen.toml"]);
    place.write("dozen.toml", "[scratch]\nfolders = [\"../x\"]\n");
    place.once().coded(1).has(&["dozen.toml:2:12", "not a folder within the app"]);
}
