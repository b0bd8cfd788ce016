//! II. Dependencies, end to end: what an app needs of the system is looked up before the build, and named when it is missing after all.

use crate::deployed::Place;
use std::path::Path;

const CLOCK: (&str, &str) = ("Procfile", "clock: sleep 1000\n");

fn is_debian() -> bool {
    Path::new("/var/lib/dpkg/status").exists()
}

#[test]
fn an_aptfile_is_checked_before_the_build() {
    let place = Place::new(&[CLOCK, ("Aptfile", "# ours\ndpkg\n:repo:deb https://host/ x main\ndozen-no-such-package\n")]);
    if !is_debian() {
        place.once().ok().has(&["Aptfile cannot be checked, since this is no Debian", "dpkg dozen-no-such-package"]);
        return;
    }
    let said = place.once().coded(1);
    let said = said.has(&[
        "Aptfile:3:1: package repositories are not added by dozen. Add it to this machine's apt yourself.",
        "Aptfile names packages that this machine does not have: dozen-no-such-package (Aptfile:4).",
    ]);
    let cures = ["`apt install dozen-no-such-package`", "apt here knows nothing of dozen-no-such-package: correct the name"];
    assert!(cures.iter().any(|c| said.all().contains(c)), "{}", said.all());
    said.lacks("app detected");
    // What is there, be it by another package's name; a version that is not the one is told.
    let provided = if Path::new("/usr/share/doc/mawk").exists() { "awk" } else { "" };
    place.write("Aptfile", format!("dpkg=0.1 {provided}\n"));
    place.once().ok().has(&["Aptfile:1: dpkg is here in version", "not 0.1", "Released v1"]);
    place.write("Aptfile", "dpkg\nNot A Package\n");
    place.once().coded(1).has(&["Aptfile", "`Not` is not the name of a package", "Aptfile cannot be used"]);
}

/// A package of Python that compiles a file by itself, without anything from an index.
const BACKEND: &str = "import subprocess\ndef build_wheel(folder, settings=None, metadata=None):\n    subprocess.run(['cc', '-c', 'native.c', '-o', '/dev/null'], check=True)\n";
const PROJECT: &str = "[project]\nname = \"native\"\nversion = \"1\"\ndependencies = []\n[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n";

/// Headers that the table knows, of which a machine rarely has all.
const HEADERS: [(&str, &str); 4] =
    [("librdkafka/rdkafka.h", "librdkafka-dev"), ("gpgme.h", "libgpgme-dev"), ("winscard.h", "libpcsclite-dev"), ("zbar.h", "libzbar-dev")];

#[test]
fn a_header_that_is_missing_names_its_package() {
    let (header, package) = HEADERS.into_iter().find(|(h, _)| !Path::new("/usr/include").join(h).exists()).expect("one is not here");
    let native = format!("#include <{header}>\n");
    let place = Place::new(&[CLOCK, ("pyproject.toml", PROJECT), ("backend.py", BACKEND), ("native.c", &native)]);
    place.share_uv("shop");
    place.once().coded(1).has(&[
        &format!(
            "needs the header {header}: `apt install {package}`, and add it to Aptfile so that the next machine is checked before the build"
        ),
        &format!("fatal error: {header}: No such file"),
    ]);
    place.write("native.c", "#include <dozen/no-such.h>\n");
    place
        .once()
        .coded(1)
        .has(&["needs the header dozen/no-such.h: Find the Debian package that has it with `apt-file search dozen/no-such.h`"]);
}

#[test]
fn a_library_that_is_missing_at_run_time_names_its_package() {
    let said = "ImportError: libGL.so.1: cannot open shared object file: No such file or directory";
    let place = Place::new(&[("Procfile", &format!("clock: echo '{said}' >&2; exit 1\n"))]);
    let up = place.start(&[]);
    let cause = up.until("a likely cause", |events| {
        events.iter().find_map(|e| {
            e["message"].as_str().filter(|m| m.contains("system library libGL.so.1 is not on this machine")).map(str::to_owned)
        })
    });
    assert!(cause.contains("`apt install libgl1`, and add it to Aptfile"), "{cause}");
    up.stop();
}
