//! Go: modules of a real proxy, by a real compiler.

use super::{place, tree, trees};
use std::fs;

const MOD: &str = "module example.org/shop\n\ngo 1.19\n\nrequire github.com/google/uuid v1.6.0\n";
const SUM: &str = "github.com/google/uuid v1.6.0 h1:NIvaJDMOsjHA8n1jAhLSgzrAzy1Hgr+hNrb57e+94F0=\n\
    github.com/google/uuid v1.6.0/go.mod h1:TIyPZe4MgqvfeYDBFedMoGGpEw/LqOeaOT+nhxU+yHo=\n";
const MAIN: &str = r#"package main

import (
	"fmt"
	"net/http"
	"os"

	"github.com/google/uuid"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "hello from ", uuid.NewSHA1(uuid.NameSpaceDNS, []byte("shop")).Version())
	})
	panic(http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}
"#;

#[test]
fn an_app_is_built_and_answers_and_a_changed_line_is_built_anew() {
    let files =
        [("go.mod", MOD), ("go.sum", SUM), ("main.go", MAIN), ("cmd/tell/main.go", "package main\n\nfunc main() { println(\"told\") }\n")];
    let place = place("go", &files);
    let up = place.up();
    assert_eq!(up.page("/"), "hello from VERSION_5");
    up.dozen(&["run", "--", "tell"]).ok().has(&["told"]);
    up.stop();
    let kept = tree(&place);
    let program = fs::read(kept.join("bin/shop")).expect("built");
    assert!(!program.windows(9).any(|w| w == b"/.making-"), "no path of the build is left");
    assert!(["pkg", "go", "mod"].iter().all(|f| !kept.join(f).exists()), "nor what the build keeps");

    place.write("main.go", MAIN.replace("hello from", "again from"));
    place.once().ok().has(&[
        "-----> Go app detected",
        "(go.mod:3) from ",
        "$ go build -o bin/ . ./cmd/tell",
        "Default types for Go -> web",
    ]);
    let up = place.up();
    assert_eq!(up.page("/"), "again from VERSION_5");
    up.stop();
}

#[test]
fn one_source_makes_one_slug_wherever_it_is_built() {
    let files = [("go.mod", "module shop\n"), ("main.go", "package main\n\nfunc main() { println(1) }\n")];
    let (one, two) = (place("go", &files), place("go-other", &files));
    one.dozen(&["build"]).ok();
    two.dozen(&["build"]).ok();
    let name = |at| tree(at).parent().and_then(|slug| slug.file_name()).expect("named").to_owned();
    assert_eq!(name(&one), name(&two));
}

#[test]
fn vendored_modules_need_no_proxy() {
    let modules = "# example.org/wait v1.0.0\n## explicit; go 1.19\nexample.org/wait\n";
    let files = [
        ("go.mod", "module shop\n\ngo 1.19\n\nrequire example.org/wait v1.0.0\n"),
        ("main.go", "package main\n\nimport \"example.org/wait\"\n\nfunc main() { println(wait.For) }\n"),
        ("vendor/modules.txt", modules),
        ("vendor/example.org/wait/wait.go", "package wait\n\nconst For = \"vendored\"\n"),
    ];
    let place = place("go", &files);
    place.dozen(&["build"]).ok();
    let ran = std::process::Command::new(tree(&place).join("bin/shop")).output().expect("runs");
    assert_eq!(String::from_utf8_lossy(&ran.stderr), "vendored\n");
}

#[test]
fn what_cannot_be_built_says_what_to_do() {
    let later = place("go", &[("go.mod", "module shop\n\ngo 1.99\n"), ("main.go", "package main\n\nfunc main() {}\n")]);
    later.dozen(&["build"]).coded(1).has(&["the app asks for Go >=1.99 (go.mod:3)", "Found:", "https://go.dev/dl/"]);
    let unlocked = place("go", &[("go.mod", MOD), ("main.go", MAIN)]);
    unlocked.dozen(&["build"]).coded(1).has(&["missing go.sum entry", "run `go mod tidy` and commit both"]);
    let wrong = place("go", &[("go.mod", "module shop\n"), ("main.go", "package main\n\nfunc main() { x }\n")]);
    wrong.dozen(&["build"]).coded(1).has(&["main.go:3:15: undefined: x", "Correct what Go "]);
    assert!([later, unlocked, wrong].iter().all(|place| trees(place).is_empty()), "and leaves nothing");
}
