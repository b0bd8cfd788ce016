//! End to end: a slug as a file. Two DOZEN_HOMEs are two machines: built in one, run in the other, and refused where anything is not right.

use crate::deployed::{DOZEN, Place, WEB, finish, finish_with};
use dozen_core::dependencies::Stack;
use dozen_core::ids::AppName;
use dozen_core::processes::ProcessType;
use dozen_engine::home::Home;
use dozen_engine::release::archive::{self, ArchiveError, Limits};
use dozen_engine::release::scratch::Scratch;
use dozen_engine::release::store::{self, Facts};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const FILE: &str = "../shop.slug.tar.zst";
const PROCFILE: &str = "release: echo phase of $DYNO\nweb: python3 web.py\n";

/// A machine on which nothing was built.
fn elsewhere() -> Place {
    Place::named("elsewhere", &[])
}

/// Builds the slug file of a place.
fn file_of(place: &Place) -> PathBuf {
    place.dozen(&["build", "-o", FILE]).ok();
    place.beside("shop.slug.tar.zst")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// What lies in a slug store.
fn slugs(place: &Place) -> Vec<String> {
    let mut all: Vec<String> = fs::read_dir(place.home().join("slugs"))
        .into_iter()
        .flatten()
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    all.sort();
    all
}

#[test]
fn a_slug_built_on_one_machine_runs_on_another() {
    let app_json = r#"{"env": {"GREETING": "from app.json"}, "formation": {"web": {"quantity": 2}}}"#;
    let maker = Place::new(&[
        ("Procfile", PROCFILE),
        ("web.py", WEB),
        ("app.json", app_json),
        ("dozen.toml", "[scratch]\nfolders = [\"tmp/cache\"]\n"),
        (".env", "GREETING=of the developer\n"),
    ]);
    let git = |args: &[&str]| finish(maker.program("git").args(["-c", "user.name=t", "-c", "user.email=t@t"]).args(args)).ok();
    git(&["init", "-q"]);
    git(&["add", "-A"]);
    git(&["commit", "-qm", "one"]);
    let commit = git(&["rev-parse", "HEAD"]).out[..8].to_owned();
    let file = file_of(&maker);
    let runner = elsewhere();

    let mut up = runner.start(&["--slug", text(&file)]);
    up.ready();
    assert_eq!(up.page("/"), "hello");
    assert_eq!(up.page("/env/GREETING"), "from app.json");
    assert_eq!(up.page("/write/app/tmp/cache/x"), "written");
    runner.dozen(&["ps", "-a", "shop"]).ok().has(&["web.1", "web.2"]);
    up.line("release.1", "phase of release.1");
    up.stop();
    runner.dozen(&["releases", "-a", "shop"]).ok().has(&[&format!("Deploy {commit}")]);
    assert_eq!(slugs(&runner).len(), 1);

    let again = runner.dozen(&["up", "--slug", text(&file), "--once", "--port", "0"]).ok();
    again.has(&["which is here already", "Nothing changed: v1 again"]).lacks("phase of");
    // Config is the deploy's own: a change of it makes a release of the same slug.
    runner.dozen(&["config", "set", "-a", "shop", "GREETING=of this machine"]).ok();
    let input = fs::read(&file).expect("readable");
    let mut from_stdin = runner.program(DOZEN);
    finish_with(from_stdin.args(["up", "--slug", "-", "--once", "--port", "0"]), &input).ok().has(&["Released v2"]);
    runner.dozen(&["config", "get", "-a", "shop", "GREETING"]).ok().has(&["of this machine"]);
    // The same under another name, in the background, from standard input.
    let mut behind = runner.program(DOZEN);
    behind.args(["up", "-a", "other/staging", "--slug", "-", "--detach", "--port", "0"]);
    finish_with(&mut behind, &input).ok().has(&["other/staging runs in the background"]);
    runner.dozen(&["down", "-a", "other/staging"]).ok();
    assert_eq!(slugs(&runner).len(), 1);
    runner.assert_nothing_left();
}

#[test]
fn a_python_app_brings_its_packages_and_no_more_is_needed() {
    let files = [
        ("requirements.txt", "itsdangerous==2.2.0\n"),
        ("Procfile", "web: python app.py\n"),
        (
            "app.py",
            "import os, itsdangerous\nfrom wsgiref.simple_server import make_server\n\
             def app(env, start):\n    start('200 OK', [])\n    return [itsdangerous.__file__.encode()]\n\
             make_server('', int(os.environ['PORT']), app).serve_forever()\n",
        ),
    ];
    let (one, two) = (Place::new(&files), Place::new(&files));
    one.share_uv("shop");
    two.share_uv("shop");
    let (first, second) = (file_of(&one), file_of(&two));
    assert!(fs::read(&first).expect("readable") == fs::read(&second).expect("readable"), "two homes make one file");

    let runner = elsewhere();
    let mut up = runner.start(&["--slug", text(&first)]);
    up.ready();
    assert!(up.page("/").starts_with("/app/.venv/lib/python3."), "{}", up.page("/"));
    up.stop();
    assert!(!runner.home().join("tools").exists(), "nothing is installed there");

    let gone = change(&first, "slug.json", |head| set(head, "/machine/program", "/opt/gone/bin/python3.11"));
    let said =
        refused(&elsewhere(), &gone, &["does not run here, and nothing was changed", "/opt/gone/bin/python3.11; this machine has 3."]);
    assert!(said.contains("it needs Python 3."), "{said}");
}

#[test]
fn a_build_needs_no_deploy_and_is_taken_by_up() {
    let place = Place::new(&[("Procfile", PROCFILE), ("web.py", WEB), ("app.json", r#"{"env": {"NEEDED": {"required": true}}}"#)]);
    let said = place.dozen(&["build"]).ok();
    let id = slugs(&place).remove(0);
    said.has(&["-----> Procfile app detected", &format!("Slug {id} of shop, "), "in 3 files"]);
    assert!(!place.home().join("ledger.db").exists());
    let json = place.dozen(&["build", "--json", "--app", "shop", "-o", FILE]).ok().out;
    let last: Value = serde_json::from_str(json.lines().last().expect("lines")).expect("JSON");
    let size = fs::metadata(place.beside("shop.slug.tar.zst")).expect("written").len();
    assert_eq!((&last["event"], &last["slug"], &last["reused"]), (&"built".into(), &id.as_str().into(), &true.into()));
    assert_eq!((&last["file"], &last["file_size"]), (&FILE.into(), &size.into()));

    let piped = place.dozen(&["build", "-o", "-"]).ok();
    assert!(piped.bytes == fs::read(place.beside("shop.slug.tar.zst")).expect("readable"), "{}", piped.err);
    assert!(piped.err.contains("Unchanged since slug") && piped.err.contains(&id), "{}", piped.err);

    // What must be given is asked for where it runs, not where it is built.
    place.once().coded(1).has(&["Unchanged since slug", "NEEDED"]);
    let runner = elsewhere();
    let up = ["up", "--slug", text(&place.beside("shop.slug.tar.zst")), "--once", "--port", "0"].map(str::to_owned);
    let up: Vec<&str> = up.iter().map(String::as_str).collect();
    runner.dozen(&up).coded(1).has(&["shop/dev lacks config that app.json requires: NEEDED"]);
    runner.dozen(&["config", "set", "-a", "shop", "NEEDED=1"]).ok();
    runner.dozen(&up).ok().has(&["Released v1"]);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_done() {
    let place = Place::new(&[("Procfile", "web: ./x\n"), ("x", "")]);
    place.dozen(&["up", "--slug", FILE, "."]).coded(2).has(&["cannot be used with"]);
    place.dozen(&["up", "--slug", FILE, "--use-python", "3"]).coded(2);
    place.dozen(&["up", "--slug", "../nowhere"]).coded(2).has(&["cannot read the slug file ../nowhere"]);
    place.dozen(&["build", "-e", "A"]).coded(2).has(&["NAME=VALUE"]);
    place.dozen(&["build", "nowhere"]).coded(2).has(&["cannot find the folder nowhere"]);
    place.dozen(&["build", "-o", "nowhere/file"]).coded(1).has(&["cannot write nowhere/file"]);
    place.dozen(&["build", "-o", "."]).coded(1).has(&["cannot write ."]);
    // A file is replaced whole or not at all.
    let file = file_of(&place);
    let was = fs::read(&file).expect("readable");
    let id = slugs(&place).remove(0);
    let code = place.home().join("slugs").join(id).join("tree/Procfile");
    fs::write(code, "web: ./y\n").expect("written");
    place.dozen(&["build", "-o", FILE]).coded(1).has(&["it is not as it was built"]);
    assert!(fs::read(&file).expect("readable") == was);
    let beside: Vec<_> =
        fs::read_dir(file.parent().expect("a folder")).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
    assert!(beside.iter().all(|n| !n.to_string_lossy().ends_with(".new")), "{beside:?}");
}

/// A slug file's members: name and content.
fn members(file: &Path) -> Vec<(tar::Header, Vec<u8>)> {
    let mut archive = tar::Archive::new(zstd::Decoder::new(fs::File::open(file).expect("there")).expect("zstd"));
    let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.expect("a member");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("readable");
        (entry.header().clone(), bytes)
    };
    archive.entries().expect("a tar file").map(read).collect()
}

fn pack(members: Vec<(tar::Header, Vec<u8>)>, file: &Path) {
    let mut builder = tar::Builder::new(zstd::Encoder::new(fs::File::create(file).expect("made"), 1).expect("zstd"));
    for (mut header, bytes) in members {
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append(&header, bytes.as_slice()).expect("written");
    }
    builder.into_inner().and_then(zstd::Encoder::finish).expect("written");
}

/// The same file with one member's content changed, beside it.
fn change(file: &Path, name: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> PathBuf {
    let mut all = members(file);
    let member = all.iter_mut().find(|(h, _)| h.path_bytes() == name.as_bytes()).expect("such a member");
    member.1 = change(std::mem::take(&mut member.1));
    let changed = file.with_file_name("changed.slug.tar.zst");
    pack(all, &changed);
    changed
}

/// JSON with one value replaced.
fn set(json: Vec<u8>, at: &str, value: impl Into<Value>) -> Vec<u8> {
    let mut all: Value = serde_json::from_slice(&json).expect("JSON");
    *all.pointer_mut(at).expect("there") = value.into();
    serde_json::to_vec(&all).expect("JSON")
}

/// The file is refused for these reasons, and nothing is kept of it. Answers what was said.
#[track_caller]
fn refused(runner: &Place, file: &Path, why: &[&str]) -> String {
    let before = slugs(runner);
    let ledger = runner.home().join("ledger.db").exists();
    let said = runner.dozen(&["up", "--slug", text(file), "--once", "--port", "0"]).coded(1).has(why).lacks("Launching");
    assert_eq!(slugs(runner), before);
    assert_eq!(runner.home().join("ledger.db").exists(), ledger, "there is no deploy of what was refused");
    said.err
}

#[test]
fn a_file_that_is_not_as_it_was_written_is_refused() {
    let maker = Place::web(PROCFILE);
    let file = file_of(&maker);
    let runner = elsewhere();
    let bytes = fs::read(&file).expect("readable");
    let changed = maker.beside("changed.slug.tar.zst");
    let with = |bytes: &[u8], why: &[&str]| {
        fs::write(&changed, bytes).expect("written");
        refused(&runner, &changed, why)
    };
    with(b"", &["it ends too early"]);
    with(b"web: python3 web.py\n", &["this is no slug file: it is not packed with zstd"]);
    for cut in [10, bytes.len() / 2, bytes.len() - 1] {
        with(&bytes[..cut], &["it ends too early", "Nothing of it was kept"]);
    }
    for at in [bytes.len() / 3, bytes.len() / 2, bytes.len() - 3] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        with(&flipped, &["cannot take in"]);
    }
    with(&[bytes.as_slice(), b"more"].concat(), &["cannot take in"]);
    with(&zstd::encode_all(&b"text"[..], 1).expect("packed"), &["cannot take in"]);

    let other = change(&file, "tree/web.py", |_| WEB.replace("hello", "pwned").into_bytes());
    refused(&runner, &other, &["member tree/web.py is refused: its content is not what was built"]);
    let other = change(&file, "tree/web.py", |_| vec![]);
    refused(&runner, &other, &["member tree/web.py is refused: it has not the size"]);
    let other = change(&file, "manifest.json", |m| String::from_utf8(m).expect("text").replace("\"f\"", "\"x\"").into_bytes());
    refused(&runner, &other, &["slug.json and manifest.json do not give the id"]);
    let other = change(&file, "slug.json", |head| set(head, "/slug/processes/1/1", "sh -c 'curl evil'"));
    refused(&runner, &other, &["do not give the id"]);
    let other = change(&file, "slug.json", |head| set(head, "/slug_file", 2));
    refused(&runner, &other, &["a newer dozen made this slug file (format 2"]);
    let other = change(&file, "slug.json", |head| set(head, "/app", "../shop"));
    refused(&runner, &other, &["member slug.json is refused"]);

    let mut swapped = members(&file);
    swapped.swap(2, 3);
    pack(swapped, &changed);
    refused(&runner, &changed, &["tree/Procfile should be in its place"]);
    let mut twice = members(&file);
    twice.push(twice[3].clone());
    pack(twice, &changed);
    refused(&runner, &changed, &["member tree/web.py is refused: manifest.json does not list it"]);
    // And the whole one is still taken, by a store that has seen all of these.
    runner.dozen(&["up", "--slug", text(&file), "--once", "--port", "0"]).ok().has(&["Released v1"]);
    // One that is here already is read to its end all the same.
    fs::write(&changed, &bytes[..bytes.len() - 1]).expect("written");
    refused(&runner, &changed, &["it ends too early"]);
}

#[test]
fn a_machine_with_another_stack_is_told_what_differs() {
    let maker = Place::web(PROCFILE);
    // Native code brings needs of its own.
    fs::copy("/bin/true", maker.folder().join("native")).expect("copied");
    let file = file_of(&maker);
    let runner = elsewhere();
    let arch = if std::env::consts::ARCH == "riscv64" { "x86_64" } else { "riscv64" };
    let differs = change(&file, "slug.json", |head| {
        let head = set(head, "/machine/arch", arch);
        let head = set(head, "/machine/libc", serde_json::json!({"kind": "glibc", "version": "9.9"}));
        set(head, "/machine/libraries", serde_json::json!({"libnowhere.so.7": "native"}))
    });
    refused(
        &runner,
        &differs,
        &[
            "does not run here, and nothing was changed:",
            &format!("it needs {arch}; this machine is {}", std::env::consts::ARCH),
            "it needs glibc 9.9 or newer; this machine has ",
            "it needs libnowhere.so.7 for native; this machine has none",
            "Build it on a machine like this one, or make this one alike",
        ],
    );
    let tricks = change(&file, "slug.json", |head| set(head, "/machine/arch", "\u{1b}]0;owned\u{7}"));
    assert!(!refused(&runner, &tricks, &["does not run here"]).contains(['\u{1b}', '\u{7}']), "a terminal obeys nothing of a file");
    // Folders of the machine are never mounted because a file says so.
    let dir = tempfile::tempdir().expect("a folder");
    let python = finish(Command::new("python3").args(["-c", "import sys, os; print(os.path.realpath(sys.executable))"])).ok();
    let python = python.out.trim();
    for (version, link, needs, why) in [
        ("3.99.1", "/opt/gone/bin/python3.99", "", "it needs Python 3.99.1 at /opt/gone/bin/python3.99; this machine has 3."),
        ("3.1.99", python, "", "it needs Python 3.1.99 at "),
        ("", python, "/root", "names no interpreter"),
        (&python_version(python), python, "/root", "it asks for the folder /root of this machine, which is no interpreter's"),
    ] {
        let made = forged(dir.path(), version, link, needs);
        match made {
            Ok(file) => drop(refused(&runner, &file, &[why])),
            Err(e) => assert!(e.to_string().contains(why), "{e}"),
        }
    }
}

fn python_version(python: &str) -> String {
    finish(Command::new(python).args(["-c", "import platform; print(platform.python_version())"])).ok().out.trim().to_owned()
}

/// A slug file of a stack that nothing here was built with.
fn forged(dir: &Path, version: &str, link: &str, needs: &str) -> Result<PathBuf, ArchiveError> {
    let home = Home::at(dir.join("forger"));
    home.make().expect("made");
    let scratch = Scratch::new(&home.slugs()).expect("made");
    let tree = scratch.path().join("tree");
    fs::create_dir_all(tree.join(".venv/bin")).expect("made");
    if !version.is_empty() {
        std::os::unix::fs::symlink(link, tree.join(".venv/bin/python")).expect("linked");
    }
    fs::write(tree.join("app.py"), "").expect("written");
    let facts = Facts {
        stack: Stack { pack: "python".into(), runtime: (!version.is_empty()).then(|| format!("Python {version}")) },
        processes: vec![ProcessType { name: "web".parse().expect("a name"), command: "python app.py".into() }],
        env: vec![],
        needs: if needs.is_empty() { vec![] } else { vec![needs.into()] },
        console: None,
        scratch: vec![],
        rules: std::collections::BTreeMap::new(),
        commit: None,
    };
    let (slug, _) = store::take(&home, &scratch, &facts, &HashMap::new()).expect("taken");
    let app: AppName = "shop".parse().expect("a name");
    let file = dir.join("forged.slug.tar.zst");
    archive::write(&home, &slug, &app, &file, &|| true).map(|_| file)
}

#[test]
fn limits_end_what_claims_to_be_small() {
    let maker = Place::new(&[("Procfile", "web: cat zeros\n")]);
    maker.write("zeros", vec![0; 3 << 20]);
    let bytes = fs::read(file_of(&maker)).expect("readable");
    assert!(bytes.len() < 100_000, "zeros pack well");
    let dir = tempfile::tempdir().expect("a folder");
    let home = Home::at(dir.path().join("home"));
    let small = |limits: Limits, bytes: &[u8]| {
        let error = archive::unpack(&home, bytes, &limits, |_, _| vec![]).expect_err("too large").to_string();
        assert!(!home.slugs().exists(), "refused before anything is written");
        error
    };
    let all = Limits::default();
    assert!(small(Limits { unpacked: 1 << 20, ..all }, &bytes).contains("may have 1.0M"));
    assert!(small(Limits { packed: 300, ..all }, &bytes).contains("the slug file has more, and may have 300B"));
    assert!(small(Limits { entries: 1, ..all }, &bytes).contains("2 files"));
    assert!(small(Limits { manifest: 10, ..all }, &bytes).contains("may have 10B"));
    // A bomb: it unpacks to much more than it says, wherever the reader looks.
    let bomb = zstd::encode_all(std::io::repeat(b'x').take(64 << 20), 1).expect("packed");
    assert!(bomb.len() < 100_000);
    small(Limits { unpacked: 1 << 20, manifest: 1 << 10, entries: 10, ..all }, &bomb);
    let long = |kind: tar::EntryType| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(64 << 20);
        header.set_cksum();
        zstd::encode_all(header.as_bytes().chain(std::io::repeat(b'x').take(64 << 20)), 1).expect("packed")
    };
    assert!(small(all, &long(tar::EntryType::GNULongName)).contains("too long"));
    assert!(small(all, &long(tar::EntryType::XHeader)).contains("slug.json should be in its place"));
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    let place = Place::new(&[("Procfile", "web: ./x\n"), ("x", "")]);
    let mut build = place.program(DOZEN);
    // Nobody reads: the pipe fills, and the build waits in the middle of its file.
    for i in 0..64u32 {
        let noise: Vec<u8> = (0..16_384u32).flat_map(|n| blake3::hash(&(n + i * 16_384).to_le_bytes()).as_bytes()[..4].to_vec()).collect();
        place.write(&format!("noise/{i}"), noise);
    }
    let mut child = build.args(["build", "-o", "-"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let mut out = child.stdout.take().expect("piped");
    let mut first = [0; 1];
    out.read_exact(&mut first).expect("it began to write");
    crate::deployed::kill(child.id().cast_signed(), rustix::process::Signal::INT);
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).expect("it ends");
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    assert_eq!(slugs(&place).len(), 1, "the slug is whole; its file is not");
    place.assert_nothing_left();
}
