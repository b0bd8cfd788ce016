//! Commits as people make them, and as only somebody who means harm does.

use super::super::tested::Place;
use super::super::{read_commit, repository::Repository};
use super::*;
use dozen_core::codebase::FileKind;
use std::os::unix::fs::PermissionsExt;

fn out(place: &Place, commit: &str) -> Result<CheckedOut, CommitError> {
    check_out(&place.home, &place.repository, commit, None)
}

fn refused(place: &Place, commit: &str) -> String {
    let error = out(place, commit).expect_err("refused").to_string();
    let left: Vec<_> = fs::read_dir(place.home.checkouts()).map(|d| d.flatten().collect()).unwrap_or_default();
    assert!(left.is_empty(), "nothing is left of {error}: {left:?}");
    error
}

#[test]
fn the_files_of_a_commit_are_its_own() {
    let place = Place::new();
    let work = place.work("work", &[("app.py", "one\n"), ("bin/run", "#!/bin/sh\n"), (".env", "A=1"), ("node_modules/x.js", "1")]);
    std::os::unix::fs::symlink("../app.py", work.0.join("bin/link")).expect("linked");
    std::os::unix::fs::symlink("/etc/passwd", work.0.join("out")).expect("linked");
    fs::set_permissions(work.0.join("bin/run"), fs::Permissions::from_mode(0o755)).expect("set");
    // What git would do to files when it checks them out, and what this commit's tools are.
    let commit = work.commit(&[
        (".gitattributes", "*.py text eol=crlf ident filter=evil\n"),
        (".slugignore", "docs/\n"),
        ("docs/a.md", "a"),
        ("target/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55"),
        ("big", &"x".repeat(100_000)),
    ]);
    work.git(&["push", "-q", &place.repository.path().to_string_lossy(), "HEAD:refs/heads/kept"]);
    fs::write(work.0.join("app.py"), "two").expect("written");
    let checked = out(&place, &commit).expect("a commit");
    assert_eq!(checked.warnings, ["out is left out: it is no file, folder or link within the app's folder"]);
    let reading = read_commit(checked.folder(), checked.commit.clone()).expect("readable");
    let files: Vec<(&str, &FileKind)> = reading.source.files.iter().map(|f| (f.path.as_str(), &f.kind)).collect();
    let expected = [
        (".gitattributes", &FileKind::Plain),
        (".slugignore", &FileKind::Plain),
        ("app.py", &FileKind::Plain),
        ("big", &FileKind::Plain),
        ("bin/link", &FileKind::Link("../app.py".into())),
        ("bin/run", &FileKind::Executable),
        ("node_modules/x.js", &FileKind::Plain),
        ("target/CACHEDIR.TAG", &FileKind::Plain),
    ];
    assert_eq!(files, expected);
    assert_eq!(reading.source.commit, Some(Commit { hash: commit, dirty: false }));
    assert_eq!(fs::read_to_string(checked.folder().join("app.py")).expect("readable"), "one\n");
    assert_eq!(fs::metadata(checked.folder().join("big")).expect("there").len(), 100_000);
    let folder = checked.folder().to_owned();
    drop(checked);
    assert!(!folder.exists());
}

#[test]
fn what_no_work_tree_can_have_is_refused() {
    let place = Place::new();
    let file = place.object("blob", b"x");
    let link = place.object("blob", b"/etc");
    let below = place.tree(&[("100644", b"passwd", &file)]);
    let trees: [&[(&str, &[u8], &str)]; 8] = [
        &[("100644", b"..", &file)],
        &[("40000", b"..", &below)],
        &[("40000", b".git", &below)],
        &[("100644", b"../../x", &file)],
        &[("100644", b"/etc/x", &file)],
        &[("100644", b"a", &file), ("100644", b"a", &file)],
        // A link, and a file that would be written through it.
        &[("120000", b"etc", &link), ("40000", b"etc", &below)],
        &[("40000", b"etc", &below), ("120000", b"etc", &link)],
    ];
    for tree in trees {
        let error = refused(&place, &place.commit(&place.tree(tree)));
        assert!(error.starts_with("the commit has a file named"), "{error}");
    }
    let odd = place.commit(&place.tree(&[("100644", b"\x1b[2J", &file), ("100644", b"good", &file)]));
    let checked = out(&place, &odd).expect("the rest of it");
    assert_eq!(checked.warnings, [r#""\u{1b}[2J" is left out: its name has control characters"#]);
    assert!(checked.folder().join("good").exists());
    drop(checked);
    let error = refused(&place, &place.commit(&place.tree(&[("100644", b"caf\xe9", &file)])));
    assert!(error.contains("not UTF-8"), "{error}");
    let ignored = place.object("blob", b"caf*\n");
    let cured = place.commit(&place.tree(&[("100644", b".slugignore", &ignored), ("100644", b"caf\xe9", &file)]));
    assert!(out(&place, &cured).is_ok(), ".slugignore is a cure");
}

#[test]
fn only_a_commit_is_one() {
    let place = Place::new();
    let tree = place.tree(&[]);
    assert_eq!(refused(&place, &tree), format!("{tree} is not a commit of this repository"));
    for name in ["HEAD", "--help", "", &"0".repeat(40), "\x1b"] {
        assert!(refused(&place, name).ends_with("is not a commit of this repository"));
    }
    assert!(out(&place, &place.commit(&tree)).is_ok(), "an empty one is");
}

#[test]
fn what_is_too_much_is_refused_before_it_is_written() {
    let place = Place::new();
    let large = place.object("blob", &vec![0; 30 << 20]);
    let names: Vec<String> = (10..50).map(|n| n.to_string()).collect();
    let entries: Vec<(&str, &[u8], &str)> = names.iter().map(|n| ("100644", n.as_bytes(), large.as_str())).collect();
    let error = refused(&place, &place.commit(&place.tree(&entries)));
    assert!(error.contains("the source has 1.2G and may have 1.0G") && error.contains("10 (30.0M), 11 (30.0M)"), "{error}");

    // A few objects that make a tree without an end: with files in it, and without.
    let file = place.object("blob", b"x");
    for inner in [place.tree(&[("100644", b"f", &file)]), place.tree(&[])] {
        let mut tree = inner;
        for _ in 0..12 {
            let names: Vec<String> = (b'a'..=b'j').map(|c| char::from(c).to_string()).collect();
            let entries: Vec<(&str, &[u8], &str)> = names.iter().map(|n| ("40000", n.as_bytes(), tree.as_str())).collect();
            tree = place.tree(&entries);
        }
        let error = refused(&place, &place.commit(&tree));
        assert!(error.contains("has more than 200000 files"), "{error}");
    }
    let mut deep = place.tree(&[("100644", b"f", &file)]);
    for _ in 0..70 {
        deep = place.tree(&[("40000", b"d", &deep)]);
    }
    let error = refused(&place, &place.commit(&deep));
    assert!(error.contains("deeper than 64 folders"), "{error}");
    let long = vec![b'n'; 20_000];
    let error = refused(&place, &place.commit(&place.tree(&[("100644", &long, &file)])));
    assert!(error.contains("longer than 1024 bytes"), "{error}");
}

#[test]
fn what_lies_elsewhere_is_told() {
    let place = Place::new();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    let work = place.work("work", &[("a.psd", pointer), ("b.psd", pointer), ("about.md", "see version https://git-lfs")]);
    let push = |work: &super::super::tested::Work| {
        work.git(&["push", "-q", "-f", &place.repository.path().to_string_lossy(), "HEAD:refs/heads/kept"]);
    };
    push(&work);
    let error = refused(&place, &work.git(&["rev-parse", "HEAD"]));
    assert!(error.starts_with("2 files are pointers of Git LFS") && error.contains(": a.psd, b.psd. Put"), "{error}");
    let cured = work.commit(&[(".slugignore", "*.psd\n")]);
    push(&work);
    assert!(out(&place, &cured).is_ok());

    let file = place.object("blob", b"x");
    let commit = place.commit(&place.tree(&[("100644", b"f", &file), ("160000", b"vendor", &"1".repeat(40))]));
    let checked = out(&place, &commit).expect("the rest of it");
    assert!(checked.warnings[0].starts_with("the submodule vendor is left out"), "{:?}", checked.warnings);
}

#[test]
fn refs_that_replace_objects_change_no_commit() {
    let place = Place::new();
    let (good, evil) = (place.object("blob", b"good"), place.object("blob", b"evil"));
    let commit = place.commit(&place.tree(&[("100644", b"f", &good)]));
    fs::create_dir_all(place.repository.path().join("refs/replace")).expect("made");
    fs::write(place.repository.path().join("refs/replace").join(&good), evil + "\n").expect("written");
    let checked = out(&place, &commit).expect("a commit");
    assert_eq!(fs::read_to_string(checked.folder().join("f")).expect("readable"), "good");
}

#[test]
fn a_repository_is_made_once_and_has_branches_of_each_deploy() {
    let place = Place::new();
    let work = place.work("work", &[("f", "1")]);
    let path = place.repository.path().to_string_lossy().into_owned();
    work.git(&["push", "-q", &path, "HEAD:refs/namespaces/production/refs/heads/main"]);
    let again = Repository::make(&place.home, &"shop/staging".parse().expect("valid")).expect("made");
    assert_eq!(again.path(), place.repository.path());
    assert_eq!(place.repository.tip("main").expect("answered"), Some(work.git(&["rev-parse", "HEAD"])));
    assert_eq!(again.tip("main").expect("answered"), None);
    work.git(&["push", "-q", &path, "HEAD:refs/namespaces/staging/refs/heads/main", "HEAD:refs/namespaces/staging/refs/tags/v1"]);
    assert!(again.tip("main").expect("answered").is_some());
    again.forget().expect("forgotten");
    assert_eq!(again.tip("main").expect("answered"), None);
    assert!(place.repository.tip("main").expect("answered").is_some(), "another deploy's stays");
    again.forget().expect("nothing to forget");
    let missing = Repository::open(&place.home, &"other".parse().expect("valid")).expect_err("none").to_string();
    assert!(missing.starts_with("there is no repository "), "{missing}");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&place.home.repositories()), mode(&place.home.hooks())), (0o700, 0o700));
    Repository::remove(&place.home, &"shop".parse().expect("valid")).expect("removed");
    Repository::remove(&place.home, &"shop".parse().expect("valid")).expect("gone already");
    assert!(!again.path().exists());
}

#[test]
fn what_many_pushes_brought_is_packed_and_still_there() {
    let place = Place::new();
    let files: Vec<(String, String)> = (0..3000).map(|n| (format!("d{}/{n}", n % 50), n.to_string())).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let work = place.work("work", &files);
    let unpacked = "--receive-pack=git -c receive.unpackLimit=100000 receive-pack";
    let path = place.repository.path().to_string_lossy().into_owned();
    work.git(&["push", "-q", unpacked, &path, "HEAD:refs/namespaces/production/refs/heads/main"]);
    let objects = place.repository.path().join("objects");
    let folders = || fs::read_dir(&objects).expect("readable").flatten().filter(|e| e.file_name().len() == 2).count();
    assert!(folders() > 200);
    place.repository.collect().expect("packed");
    assert_eq!(folders(), 0);
    let commit = place.repository.tip("main").expect("git answers").expect("a commit");
    let checked = out(&place, &commit).expect("whole");
    assert_eq!(fs::read_to_string(checked.folder().join("d49/2999")).expect("there"), "2999");
}
