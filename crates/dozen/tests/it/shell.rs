//! End to end: what shells and `man` make of what dozen writes for them.

use crate::deployed::{Place, finish, finish_with};
use std::process::Command;

/// A place without an app: these commands need none.
fn nowhere() -> Place {
    Place::new(&[])
}

#[test]
fn bash_completes_commands_options_and_shells() {
    let place = nowhere();
    place.write("dozen.bash", place.dozen(&["completions", "bash"]).ok().out);
    let complete = |words: &str, last: &str, before: &str| {
        let count = words.split_whitespace().count() + usize::from(last.is_empty()) - 1;
        let words = if last.is_empty() { format!("{words} ''") } else { words.to_owned() };
        let script = format!(
            "source ./dozen.bash; COMP_WORDS=({words}); COMP_CWORD={count}; _dozen dozen '{last}' '{before}'; echo \"${{COMPREPLY[@]}}\""
        );
        finish(Command::new("bash").args(["-c", &script]).current_dir(place.folder())).ok().out.trim().to_owned()
    };
    assert_eq!(complete("dozen rol", "rol", "dozen"), "rollback");
    assert!(complete("dozen completions ", "", "completions").ends_with("bash zsh fish"));
    assert!(complete("dozen up --de", "--de", "up").contains("--detach"));
    for shell in ["bash", "zsh", "fish"] {
        place.dozen(&["completions", shell]).ok().lacks("lasting");
    }
}

#[test]
fn zsh_and_fish_take_their_scripts() {
    let place = nowhere();
    place.write("_dozen", place.dozen(&["completions", "zsh"]).ok().out);
    let script = "fpath=($PWD $fpath); autoload -U compinit; compinit -u -D; echo ${_comps[dozen]}";
    finish(Command::new("zsh").args(["-fc", script]).current_dir(place.folder())).ok().has(&["_dozen"]);
    finish(Command::new("zsh").args(["-fn", "_dozen"]).current_dir(place.folder())).ok();
    place.write("dozen.fish", place.dozen(&["completions", "fish"]).ok().out);
    let script = "source dozen.fish; complete -C 'dozen rol'";
    let said = finish(Command::new("fish").args(["--no-config", "-c", script]).current_dir(place.folder()).env("HOME", place.folder()));
    assert!(said.out.starts_with("rollback\t"), "{}", said.all());
}

#[test]
fn manual_pages_are_pages_that_man_takes() {
    let place = nowhere();
    place.dozen(&["man", "--to", "pages"]).ok();
    let pages: Vec<_> = std::fs::read_dir(place.folder().join("pages")).expect("pages").map(|e| e.expect("a page").path()).collect();
    assert!(pages.len() > 10, "{pages:?}");
    for page in &pages {
        finish(Command::new("mandoc").args(["-T", "lint", "-W", "error"]).arg(page)).ok();
    }
    let up = finish(Command::new("mandoc").args(["-T", "utf8"]).arg(place.folder().join("pages/dozen-up.1"))).ok();
    assert!(up.out.contains("Build, release and run the app of a folder"), "{}", up.out);
    let run = place.dozen(&["man", "config", "set"]).ok();
    assert!(run.out.contains("dozen\\-config\\-set") && run.out.contains("EXIT STATUS"), "{}", run.out);
    place.dozen(&["man", "nope"]).coded(2).has(&["no command `nope`"]);
    let own = place.dozen(&["man"]).ok();
    finish_with(Command::new("mandoc").args(["-T", "lint", "-W", "error"]), &own.bytes).ok();
}
