//! End to end: classic buildpacks of every kind of address, several in order, what they find and leave, and one that means harm.

use crate::deployed::{Place, finish};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Makes a pack of scripts.
fn pack(folder: &Path, scripts: &[(&str, &str)]) {
    for (name, text) in scripts {
        let file = folder.join("bin").join(name);
        fs::create_dir_all(file.parent().expect("a parent")).expect("made");
        fs::write(&file, format!("#!/usr/bin/env bash\nset -e\n{text}\n")).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("set");
    }
}

/// Compiles a word into a server's page; counts in its cache how often it did.
const COMPILE: &str = r#"
echo "-----> Compiling with $STACK"
echo "       $(basename "$1") $(ls "$3" | tr '\n' ' ')"
[ -z "$COLOUR" ] || { echo "the config is exported"; exit 1; }
[ "${#REQUEST_ID}" -ge 32 ] && [ -w "$HOME" ] && [ -w "$1" ] && [ ! -w "$3" ]
n=$(( $(cat "$2/count" 2>/dev/null || echo 0) + 1 ))
echo $n > "$2/count"
echo "$(cat "$3/COLOUR") $n" > "$1/page.html"
mkdir -p "$1/.profile.d"
echo 'export SAID="by the profile"' > "$1/.profile.d/said.sh"
echo 'export WORD=exported' > "$(dirname "$0")/../export"
"#;

const RELEASED: &str = r#"cat <<'END'
---
config_vars:
  GIVEN: "here"
default_process_types:
  web: 'python3 serve.py'
END"#;
const SERVE: &str = r#"
import http.server, os
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (open("page.html").read().strip() + " " + os.environ["GIVEN"] + " " + os.environ["SAID"]).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
"#;

fn whole(folder: &Path) {
    pack(folder, &[("detect", "[ -f \"$1/serve.py\" ] && echo Page"), ("compile", COMPILE), ("release", RELEASED)]);
}

fn place() -> Place {
    Place::new(&[("serve.py", SERVE), (".env", "COLOUR=green\n")])
}

#[test]
fn a_pack_of_the_app_builds_it_and_says_how_it_starts() {
    let place = place();
    whole(&place.folder().join("packs/page"));
    place.write(".buildpacks", "# ours\n./packs/page\n");
    let up = place.up();
    assert_eq!(up.page("/"), "green 1 here by the profile");
    up.stop();
    // The same source with the same pack is the same slug.
    place.dozen(&["up", "--once", "--port", "0"]).ok().has(&["Unchanged since slug"]);
    place.write("other.txt", "x\n");
    let said = place.dozen(&["up", "--once", "--port", "0"]).ok();
    said.has(&["-----> Page app detected", "-----> Compiling with heroku-22", "COLOUR", "Default types for the buildpack -> web"]);
    let up = place.up();
    assert_eq!(up.page("/"), "green 2 here by the profile", "the cache is kept");
    up.stop();
    // What a pack writes beside itself is in no slug.
    for slug in fs::read_dir(place.home().join("slugs")).expect("listed").flatten() {
        assert!(!slug.path().join("tree/packs/page/export").exists());
    }
    place.write("app.json", r#"{"stack": "heroku-24"}"#);
    place.dozen(&["build"]).ok().has(&["Compiling with heroku-24"]);
    place.write("Procfile", "worker: sleep 99\n");
    place.dozen(&["up", "--once", "--port", "0"]).ok().has(&["Compiling with heroku-24", "Procfile declares types -> worker"]);
}

#[test]
fn packs_run_in_order_and_each_finds_what_those_before_exported() {
    let place = place();
    let packs = place.folder().join("packs");
    whole(&packs.join("first"));
    let compile = "echo \"$WORD\" > \"$1/word.html\"; [ -f \"$1/page.html\" ]";
    pack(&packs.join("second"), &[("detect", "echo Second"), ("compile", compile)]);
    pack(&packs.join("never"), &[("detect", "echo no thanks; exit 1"), ("compile", "exit 0")]);
    place.write("Procfile", "web: exec python3 -m http.server $PORT --bind 127.0.0.1\n");
    place.write("app.json", r#"{"buildpacks": [{"url": "./packs/first"}, {"url": "packs/second"}]}"#);
    let up = place.up();
    assert_eq!(up.page("/word.html").trim(), "exported");
    up.stop();
    place.write("app.json", r#"{"buildpacks": [{"url": "packs/second"}, {"url": "./packs/never"}]}"#);
    place.dozen(&["build"]).coded(1);
    place.write(".buildpacks", "./packs/never\n");
    place.dozen(&["build"]).coded(1).has(&["the buildpack ./packs/never does not know this app: no thanks"]);
    place.write(".buildpacks", "./packs/none\n");
    place.dozen(&["build"]).coded(1).has(&["is no folder of the app"]);
    place.write(".buildpacks", "./packs\n");
    place.dozen(&["build"]).coded(1).has(&["is no buildpack"]);
    place.write(".buildpacks", "heroku/ruby\n");
    place.dozen(&["build"]).coded(1).has(&[".buildpacks:1", "https://github.com/heroku/heroku-buildpack-ruby"]);
}

fn git(folder: &Path, args: &[&str]) -> String {
    let own = ["-c", "user.name=x", "-c", "user.email=x@x.test", "-c", "init.defaultBranch=main"];
    finish(Command::new("git").current_dir(folder).args(own).args(args)).ok().out.trim().to_owned()
}

#[test]
fn the_variable_names_a_folder_a_commit_or_an_archive() {
    let place = place();
    let outside = place.beside("page");
    whole(&outside);
    let named = |url: &str| place.write(".env", format!("COLOUR=green\nBUILDPACK_URL={url}\n"));
    let built = || place.dozen(&["up", "--once", "--port", "0"]);
    let folder = outside.to_str().expect("UTF-8");
    named(folder);
    built().ok().has(&["-----> Page app detected"]);

    // A commit that is named is fetched once.
    for args in [&["init", "-q"][..], &["add", "."], &["commit", "-qm", "one"]] {
        git(&outside, args);
    }
    let one = git(&outside, &["rev-parse", "HEAD"]);
    fs::write(outside.join("bin/detect"), "#!/bin/sh\necho Later\n").expect("written");
    git(&outside, &["commit", "-qam", "two"]);
    named(&format!("file://{folder}#{one}"));
    place.write("n.txt", "1");
    built().ok().has(&["Fetching buildpack file://", "-----> Page app detected"]);
    built().ok().has(&["Unchanged since slug"]);
    // A branch is what it is now.
    for expected in ["Later", "Latest"] {
        named(&format!("file://{folder}#main"));
        place.write("n.txt", expected);
        built().ok().has(&[&format!("-----> {expected} app detected")]);
        fs::write(outside.join("bin/detect"), "#!/bin/sh\necho Latest\n").expect("written");
        git(&outside, &["commit", "-qam", "three", "--allow-empty"]);
    }
    named(&format!("file://{folder}#nope"));
    place.write("n.txt", "2");
    built().coded(1).has(&["fetch file://", "Is its address right"]);

    let archive = place.beside("page.tgz");
    finish(Command::new("tar").args(["-czf"]).arg(&archive).arg("-C").arg(outside.parent().expect("a parent")).arg("page")).ok();
    named(archive.to_str().expect("UTF-8"));
    built().ok().has(&["-----> Latest app detected"]);
    named("https://127.0.0.1:9/pack.tgz");
    built().coded(1).has(&["fetch https://127.0.0.1:9/pack.tgz"]);
}

#[test]
fn a_pack_that_fails_or_says_nonsense_fails_the_build() {
    let place = place();
    let own = place.folder().join("p");
    place.write(".buildpacks", "./p\n");
    pack(
        &own,
        &[("detect", "echo X"), ("compile", "echo '-----> Trying'; echo \"secret $(cat $3/SECRET)\"; echo ' !     broken' >&2; exit 3")],
    );
    place.write(".env", "SECRET=correct-horse-battery\n");
    let said = place.dozen(&["up", "--once", "--port", "0"]).coded(1);
    said.has(&["-----> Trying", "`bin/compile of ./p` failed with exit code 3", "broken"]).lacks("correct-horse-battery");
    pack(&own, &[("compile", "true"), ("release", "echo '- nonsense'")]);
    place.dozen(&["build"]).coded(1).has(&["has a bin/release that cannot be used: what it says is no mapping"]);
    pack(&own, &[("release", "echo '--- {}'")]);
    place.dozen(&["build"]).coded(1).has(&["nothing says how this app is started"]);
}

#[test]
fn a_hostile_pack_reaches_nothing_and_leaves_nothing() {
    let place = place();
    let victim = place.beside("victim");
    fs::create_dir(&victim).expect("made");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o777)).expect("open to all");
    let target = victim.to_str().expect("UTF-8");
    let compile = format!(
        "for f in {target}/x /usr/bin/x /etc/x /app/../x \"$3/x\" \"$HOME/../../given/x\"; do (echo x > \"$f\") 2>/dev/null && echo \"wrote $f\"; done\n\
         cat {home}/key {home}/ledger.db 2>/dev/null && echo 'read the key'\n\
         ln -s /etc/passwd \"$1/passwd\"; ln -s {target} \"$1/out\"; ln -s {target} \"$1/log\"\n\
         mkfifo \"$1/pipe\" || true\n\
         for i in $(seq 1 50); do (setsid sleep 1000 & ) ; done\n\
         : > \"$1/page.html\"; echo done",
        home = place.home().display(),
    );
    pack(&place.folder().join("p"), &[("detect", "echo Hostile"), ("compile", &compile), ("release", RELEASED)]);
    place.write(".buildpacks", "./p\n");
    let said = place.dozen(&["build"]);
    let said = said.lacks("wrote /usr").lacks("wrote /etc").lacks("read the key").lacks(&format!("wrote {target}"));
    assert!(!said.all().contains("/given/x"), "{}", said.all());
    assert!(!victim.join("x").exists() && !Path::new("/etc/x").exists());
    place.assert_nothing_left();

    // One that hangs is ended with the command, and all that it started.
    pack(&place.folder().join("p"), &[("compile", "setsid sleep 1000 & trap '' TERM INT; echo hanging; sleep 1000")]);
    let mut child = place.program(crate::deployed::DOZEN);
    let child = child.args(["build"]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().expect("started");
    let pid = i32::try_from(child.id()).expect("a pid");
    let mut child = child;
    let out = child.stdout.take().expect("piped");
    let told = std::io::BufRead::lines(std::io::BufReader::new(out)).map_while(Result::ok).any(|line| line.contains("hanging"));
    assert!(told);
    crate::deployed::kill(pid, rustix::process::Signal::INT);
    let begun = Instant::now();
    crate::deployed::end(&mut child, "the build");
    assert!(begun.elapsed() < Duration::from_secs(30));
    place.until_nothing_left(Duration::from_secs(30));
}
