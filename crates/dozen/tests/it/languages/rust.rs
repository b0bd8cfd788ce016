//! Rust: crates of a real registry, by a real compiler.

use super::{place, tree, trees};
use std::fs;

const MANIFEST: &str = "[package]\nname = \"shop\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[workspace]\nmembers = [\"words\"]\n\n\
    [dependencies]\nitoa = \"1\"\nwords = { path = \"words\" }\n";
const WORDS: &str = "[package]\nname = \"words\"\nversion = \"0.1.0\"\nedition = \"2021\"\n";
const LOCK: &str = "version = 3\n\n[[package]]\nname = \"itoa\"\nversion = \"1.0.18\"\n\
    source = \"registry+https://github.com/rust-lang/crates.io-index\"\n\
    checksum = \"8f42a60cbdf9a97f5d2305f08a87dc4e09308d1276d28c869c684d7777685682\"\n\n\
    [[package]]\nname = \"shop\"\nversion = \"0.1.0\"\ndependencies = [\n \"itoa\",\n \"words\",\n]\n\n\
    [[package]]\nname = \"words\"\nversion = \"0.1.0\"\n";
const MAIN: &str = r#"use std::io::{Read, Write};

fn main() {
    let port = std::env::var("PORT").expect("a port");
    let listener = std::net::TcpListener::bind(format!("0.0.0.0:{port}")).expect("bound");
    for stream in listener.incoming().flatten() {
        let mut stream = stream;
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer);
        let text = format!("{} {}", words::hello(), itoa::Buffer::new().format(12));
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    }
}
"#;
const HELLO: &str = "pub fn hello() -> &'static str {\n    \"hello\"\n}\n";

#[test]
fn a_workspace_is_built_and_answers_and_only_what_changed_is_compiled_again() {
    let files = [
        ("Cargo.toml", MANIFEST),
        ("Cargo.lock", LOCK),
        ("src/main.rs", MAIN),
        ("words/Cargo.toml", WORDS),
        ("words/src/lib.rs", HELLO),
        ("target/CACHEDIR.TAG", ""),
    ];
    let place = place("rust", &files);
    let up = place.up();
    assert_eq!(up.page("/"), "hello 12");
    up.stop();
    let kept = tree(&place);
    assert!(!kept.join("target").exists() && kept.join("bin/shop").is_file());

    place.write("src/main.rs", MAIN.replace("format(12)", "format(13)"));
    let said = place.dozen(&["build"]).ok().has(&["Rust app detected", "$ cargo build --release --locked", "Compiling shop "]);
    said.lacks("Compiling itoa ").lacks("Compiling words ");
    place.write("words/src/lib.rs", HELLO.replace("hello\"", "again\""));
    place.dozen(&["build"]).ok().has(&["Compiling words ", "Compiling shop "]).lacks("Compiling itoa ");

    // What a failed build made of a file is not taken for what an older one had made of the file before.
    place.write("words/src/lib.rs", HELLO.replace("hello\"", "lost\""));
    place.write("src/main.rs", "fn main() { x }\n");
    place.dozen(&["build"]).coded(1).has(&["cannot find value `x`", "Correct what Rust "]);
    place.write("words/src/lib.rs", HELLO.replace("hello\"", "again\""));
    place.write("src/main.rs", MAIN);
    let up = place.up();
    assert_eq!(up.page("/"), "again 12");
    up.stop();
}

#[test]
fn what_cannot_be_built_says_what_to_do() {
    let (manifest, main) =
        (("Cargo.toml", "[package]\nname = \"shop\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"), ("src/main.rs", "fn main() {}\n"));
    let place = place("rust-failing", &[manifest, main]);
    place.dozen(&["build"]).coded(1).has(&["there is no Cargo.lock beside it", "`cargo generate-lockfile`"]);
    place.write("Cargo.lock", "version = 3\n");
    place.dozen(&["build"]).coded(1).has(&["--locked", "commit Cargo.lock"]);
    place.write("rust-toolchain.toml", "[toolchain]\nchannel = \"1.999\"\n");
    place.dozen(&["build"]).coded(1).has(&["the app asks for Rust 1.999 (rust-toolchain.toml:2)", "Found:", "rustup toolchain install"]);
    assert!(trees(&place).is_empty() && fs::read_dir(place.folder()).expect("there").count() == 4, "nothing is left");
}
