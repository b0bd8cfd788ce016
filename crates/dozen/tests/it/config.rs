//! End to end: config. Where values come from, who wins, and where they never show.

use crate::deployed::{DOZEN, Place, finish, finish_with};
use std::process::Stdio;

const CLOCK: &str = "clock: echo \"level is $LEVEL\"; sleep 1000\n";

#[test]
fn dotenv_makes_a_release_and_what_was_set_wins_over_it() {
    let place = Place::new(&[("Procfile", CLOCK), (".env", "LEVEL=info\nCOLOUR=green\n")]);
    place.once().ok().has(&["app[clock.1]: level is info"]);
    place.write(".env", "LEVEL=debug\n");
    place.once().ok().has(&["Released v2", "level is debug"]);
    assert_eq!(place.ledger("select description from releases where version = 2"), "Set LEVEL config vars; Unset COLOUR config vars");

    let mut up = place.start(&[]);
    up.ready();
    up.dozen(&["config", "set", "LEVEL=warn"]).ok().has(&["Setting LEVEL and restarting shop... done, v3"]);
    up.line("clock.1", "level is warn");
    up.stop();
    place.write(".env", "LEVEL=trace\n");
    let again = place.once().ok().has(&["level is warn", "Nothing changed: v3 again"]);
    again.has(&[" !     .env gives LEVEL another value than `config set` did; the one that was set stays"]).lacks("trace");
    assert_eq!(place.ledger("select description from releases where version = 3"), "Set LEVEL config vars");
}

#[test]
fn what_was_set_while_nothing_runs_is_released_by_the_next_up() {
    let place = Place::new(&[("Procfile", CLOCK)]);
    place.once().ok();
    place.dozen(&["config:set", "LEVEL=loud", "B=2"]).ok().has(&["done; the next release has it"]);
    place.dozen(&["config:set", "LEVEL=loud"]).ok().has(&["nothing changed"]);
    assert_eq!(place.ledger("select count(*) from releases"), "1");
    place.once().ok().has(&["Released v2", "level is loud"]);
    assert_eq!(place.ledger("select description from releases where version = 2"), "Set B, LEVEL config vars");
}

#[test]
fn missing_required_config_is_listed_and_nothing_starts() {
    let app_json = r#"{"env": {"TOKEN": {"required": true}, "OTHER": {"description": "x"}, "NOT": {"required": false}, "HAS": "1"}}"#;
    let place = Place::new(&[("Procfile", "release: echo phase\nclock: sleep 1000\n"), ("app.json", app_json)]);
    let said = place.once().coded(1);
    said.has(&["shop/dev lacks config that app.json requires: OTHER, TOKEN", "dozen config set OTHER=… TOKEN=…"])
        .lacks("Launching")
        .lacks("phase");
    assert_eq!(place.ledger("select count(*) from releases"), "0");
    place.assert_nothing_left();
    // The advice that was given works, also before there is a release.
    place.dozen(&["config", "set", "OTHER=1", "TOKEN=2"]).ok();
    place.once().ok().has(&["Released v1"]);
}

#[test]
fn a_generated_secret_stays_and_a_value_follows_app_json() {
    let app_json = |value: &str| format!(r#"{{"env": {{"KEY": {{"generator": "secret"}}, "PLAIN": {{"value": "{value}"}}}}}}"#);
    let place = Place::new(&[("Procfile", "clock: sleep 1000\n"), ("app.json", &app_json("one"))]);
    place.once().ok();
    let get = |name: &str| place.dozen(&["config", "get", name]).ok().out.trim_end().to_owned();
    let key = get("KEY");
    assert_eq!((key.len(), get("PLAIN").as_str()), (64, "one"));
    place.write("app.json", app_json("two"));
    place.once().ok();
    assert_eq!((get("KEY"), get("PLAIN").as_str()), (key.clone(), "two"));
    assert_eq!(place.dozen(&["run", "--", "echo $KEY"]).ok().out.trim_end(), key);
    // What was set stays, whatever app.json says.
    place.dozen(&["config", "set", "PLAIN=mine"]).ok();
    place.write("app.json", app_json("three"));
    place.once().ok();
    assert_eq!((get("KEY"), get("PLAIN").as_str()), (key, "mine"));
}

#[test]
fn values_are_masked_where_they_are_listed() {
    let place = Place::new(&[("Procfile", "clock: sleep 1000\n"), (".env", "TOKEN=abcdefgh-secret\nSHORT=abc\n")]);
    place.once().ok();
    place.dozen(&["config", "set", "--plain", "URL=https://example.org/"]).ok();
    let list = place.dozen(&["config"]).ok().lacks("abcdefgh").has(&["=== shop/dev config vars", "SHORT:", "abc", "https://example.org/"]);
    assert_eq!(list.err, "");
    place.dozen(&["config", "--json"]).ok().lacks("abcdefgh");
    place.dozen(&["config", "--show"]).ok().has(&["abcdefgh-secret"]);
    assert_eq!(place.dozen(&["config", "get", "TOKEN"]).ok().out, "abcdefgh-secret\n");
    assert_eq!(place.dozen(&["config:get", "TOKEN", "--json"]).ok().json()["value"], "abcdefgh-secret");
    place.dozen(&["config", "get", "TOKNE"]).coded(1).has(&["has no config var TOKNE", "Did you mean TOKEN?"]);
    place.dozen(&["config", "set", "1BAD=x"]).coded(2).has(&["\"1BAD\" is not valid"]);
    place.dozen(&["config", "set", "DOZEN_X=y"]).coded(2).has(&["reserved"]);
    place.dozen(&["config", "set", "TOKEN"]).coded(2).has(&["KEY=VALUE"]);
    place.dozen(&["config", "unset", "TOKEN"]).ok();
    place.dozen(&["config", "get", "TOKEN"]).coded(1);
}

#[test]
fn no_secret_is_in_a_plain_file() {
    const SECRET: &str = "correct-horse-battery-staple";
    let procfile = format!("release: true {SECRET}\nclock: true {SECRET}; sleep 1000\n");
    let place = Place::new(&[("Procfile", &procfile), (".env", &format!("TOKEN={SECRET}\n"))]);
    let said = place.once().ok().lacks(SECRET);
    said.has(&["Starting process with command `true "]);
    place.dozen(&["run", "--", "true", SECRET]).ok();
    place.dozen(&["logs", "-n", "all"]).ok().lacks(SECRET);
    place.dozen(&["ps"]).ok().lacks(SECRET);
    place.dozen(&["config", "set", &format!("OTHER={SECRET}-two")]).ok();
    let mut found = Vec::new();
    let mut folders = vec![place.home()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("readable").flatten() {
            let path = entry.path();
            if path.is_dir() {
                // The code is the person's own file; it is not where config is kept.
                folders.extend((!path.ends_with("slugs")).then_some(path));
            } else if std::fs::read(&path).expect("readable").windows(SECRET.len()).any(|w| w == SECRET.as_bytes()) {
                found.push(path);
            }
        }
    }
    // The slug's own process types come from its Procfile and are as public as that.
    found.retain(|f| !f.to_string_lossy().contains("ledger.db"));
    assert_eq!(found, Vec::<std::path::PathBuf>::new());
    let columns = "select group_concat(command) from one_offs union all select group_concat(description) from releases";
    assert!(!place.ledger(columns).contains(SECRET));

    // Without the Procfile's copy no byte of the ledger has it.
    let place = Place::new(&[("Procfile", "clock: echo $TOKEN; sleep 1000\n"), (".env", &format!("TOKEN={SECRET}\n"))]);
    place.once().ok();
    place.dozen(&["config", "set", &format!("OTHER={SECRET}-two")]).ok();
    for entry in std::fs::read_dir(place.home()).expect("readable").flatten().filter(|e| e.path().is_file()) {
        let bytes = std::fs::read(entry.path()).expect("readable");
        assert!(!bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()), "{:?}", entry.path());
    }
}

#[test]
fn a_garbled_dotenv_is_told_line_by_line_without_its_values() {
    let place = Place::new(&[("Procfile", CLOCK)]);
    place.write(".env", b"LEVEL=info\nsecretvalue without equals\n1X=hidden-value\n");
    place.once().ok().has(&[" !     .env:2:1: ", " !     .env:3:1: ", "level is info"]).lacks("hidden-value");
    place.write(".env", b"LEVEL=\xff\xfe\n");
    place.once().coded(1).has(&[".env", "UTF-8"]);
    std::fs::remove_file(place.folder().join(".env")).expect("removed");
    std::fs::create_dir(place.folder().join(".env")).expect("made");
    place.once().coded(1).has(&[".env", "it is not a file"]);
}

#[test]
fn a_change_that_failed_can_be_taken_back_without_a_release() {
    let place = Place::web("web: test -z \"$BROKEN\" && exec python3 web.py; exit 9\n");
    let up = place.up();
    up.dozen(&["config", "set", "BROKEN=yes"]).coded(1).has(&["v1 keeps serving", "stays set"]);
    up.dozen(&["config", "unset", "BROKEN"]).ok().has(&["what serves has that config already"]);
    assert_eq!(up.page("/env/BROKEN"), "(none)");
    up.stop();
    place.once().ok().has(&["Nothing changed: v1 again"]);
}

/// Values that a careless writer or reader breaks.
const HARD: [(&str, &str); 4] =
    [("A", "it's $HOME `id` \"q\" \\n # x"), ("B", "line 1\nline 2\r\n\ttab"), ("C", ""), ("D", " blank é ${X} ")];

/// A deploy with one process and those values.
fn hard() -> Place {
    let place = Place::new(&[("Procfile", CLOCK)]);
    place.once().ok();
    let pairs: Vec<String> = HARD.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let words: Vec<&str> = ["config", "set"].into_iter().chain(pairs.iter().map(String::as_str)).collect();
    place.dozen(&words).ok();
    place
}

#[test]
fn an_export_is_read_back_by_shells_and_by_ourselves() {
    let place = hard();
    let printed: String = HARD.iter().map(|(name, _)| format!("printf '<%s>' \"${name}\";")).collect();
    let wanted: String = HARD.iter().map(|(_, value)| format!("<{value}>")).collect();
    for shell in ["dash", "bash"] {
        let script = format!("eval \"$({DOZEN} config export --format shell)\"; {printed}");
        assert_eq!(finish(place.program(shell).args(["-c", &script])).ok().out, wanted, "{shell}");
    }
    let json = place.dozen(&["config", "export", "--format", "json"]).ok().json();
    let wanted: serde_json::Map<_, _> = HARD.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
    assert_eq!(json, serde_json::Value::Object(wanted));
    assert_eq!(place.dozen(&["config:export", "--json"]).ok().json(), json);
    let dotenv = place.dozen(&["config", "export"]).ok().bytes;
    place.dozen(&["config", "unset", "A", "B", "C", "D"]).ok();
    let said = finish_with(place.program(DOZEN).args(["config", "set", "-"]), &dotenv).ok();
    assert_eq!(said.out, "Setting A, B, C, D... done; the next release has it\n");
    assert_eq!(place.dozen(&["config", "export", "--json"]).ok().json(), json);
    // What an attached resource gives is not the deploy's own.
    place.write("app.json", r#"{"addons": ["sqlite"]}"#);
    place.once().ok();
    place.dozen(&["config", "export"]).ok().lacks("DATABASE_URL");
    place.dozen(&["config", "export", "--all"]).ok().has(&["DATABASE_URL=sqlite:"]);
}

#[test]
fn many_are_set_from_a_text_a_file_and_a_folder() {
    let place = Place::new(&[("Procfile", CLOCK), ("vars/ONE", "1\nignored\n"), ("vars/OLD", ""), ("more.env", "export TWO='2'\n")]);
    place.once().ok();
    place.dozen(&["config", "set", "OLD=x"]).ok();
    let said = place.dozen(&["config", "set", "vars/", "THREE=3", "--env-file", "more.env"]).ok();
    assert_eq!(said.out, "Setting ONE, THREE, TWO, unsetting OLD... done; the next release has it\n");
    assert_eq!(place.dozen(&["config", "export"]).ok().out, "ONE=1\nTHREE=3\nTWO=2\n");
    let from = |text: &str| finish_with(place.program(DOZEN).args(["config", "set", "-"]), text.as_bytes());
    from("FOUR=4\nhidden-value\n").ok().has(&[" !     stdin:2:1: this line is dropped"]).lacks("hidden-value");
    from("FIVE=5\nSIX=\"open\n").coded(1).has(&["stdin:2:5: ", "stdin cannot be used; nothing was set"]);
    from("# none\n").coded(1).has(&["no variable was given"]);
    place.dozen(&["config", "set", "A=1", "A=2"]).coded(2).has(&["A is given twice; nothing was set"]);
    place.dozen(&["config", "set", "vars", "ONE=2"]).coded(2).has(&["ONE is given twice"]);
    place.dozen(&["config", "set", "no/where/"]).coded(2).has(&["there is no folder no/where/"]);
    place.dozen(&["config", "set"]).coded(2);
    assert_eq!(place.dozen(&["config", "export"]).ok().out, "FOUR=4\nONE=1\nTHREE=3\nTWO=2\n");
}

#[test]
fn config_is_edited_as_a_text() {
    let place = hard();
    place.dozen(&["config", "set", "--plain", "P=plain-and-long"]).ok();
    // The editor is a program with arguments: what to do, and then the file.
    let editor = place.beside("an editor.sh");
    let script =
        "stat -c %a \"$2\" \"${2%/*}\" >\"${0%/*}/modes\"; echo \"$2\" >\"${0%/*}/where\"; cp \"$2\" \"${0%/*}/text\"; eval \"$1\"\n";
    std::fs::write(&editor, script).expect("written");
    let edit = |what: &str, more: &[&str]| {
        let command = format!("sh '{}' '{what}'", editor.display());
        finish(place.program(DOZEN).args(["config", "edit"]).args(more).env("EDITOR", command).env_remove("VISUAL").env("DOZEN", DOZEN))
    };
    let beside = |name: &str| std::fs::read_to_string(place.beside(name)).expect("the editor ran");
    let before = place.dozen(&["config", "export"]).ok().out;
    assert_eq!(edit("true", &[]).ok().out, "No changes\n");
    assert_eq!(beside("modes"), "600\n700\n");
    edit("exit 3", &[]).coded(1).has(&["the editor sh failed", "nothing was changed"]);
    edit("echo hidden-value >>\"$2\"", &[]).coded(1).has(&["this line is dropped", "nothing was changed"]).lacks("hidden-value");
    edit(": >\"$2\"", &[]).coded(1).has(&["no variable is left", "nothing was changed"]);
    assert_eq!(place.dozen(&["config", "export"]).ok().out, before);
    let said = edit("sed -i -e s/plain-and/PLAIN-AND/ -e /^C=/d \"$2\"; echo N=new >>\"$2\"", &[]).ok();
    assert_eq!(said.out, "Setting N, P, unsetting C... done; the next release has it\n");
    // What was no secret is none after it.
    place.dozen(&["config"]).ok().has(&["PLAIN-AND-long"]);
    assert_eq!(place.dozen(&["config", "get", "A"]).ok().out.trim_end(), HARD[0].1);
    // Only these.
    edit("echo N=newer >\"$2\"", &["N", "LATER"]).ok().has(&["Setting N... done"]);
    assert!(beside("text").contains("\n# LATER=\n") && !beside("text").contains("P="), "{}", beside("text"));
    assert!(!std::path::Path::new(beside("where").trim()).exists(), "the text is removed");
    // Somebody else was faster: nothing is lost.
    let said = edit("$DOZEN config set N=theirs >/dev/null; echo M=mine >>\"$2\"", &[]).coded(1);
    let kept = said.err.split("Your text is in ").nth(1).and_then(|t| t.split(": look").next()).expect("a path").to_owned();
    assert!(std::fs::read_to_string(&kept).expect("kept").contains("M=mine"));
    std::fs::remove_dir_all(std::path::Path::new(&kept).parent().expect("a folder")).expect("removed");
    assert_eq!(place.dozen(&["config", "get", "N"]).ok().out, "theirs\n");
    let none = finish(place.program(DOZEN).args(["config", "edit"]).env("EDITOR", "no-such-editor").env_remove("VISUAL"));
    none.coded(1).has(&["there is no editor no-such-editor", "Set EDITOR"]);
}

#[test]
fn values_are_printed_byte_by_byte_where_a_program_reads() {
    let place = Place::new(&[("Procfile", "clock: sleep 1000\n")]);
    place.once().ok();
    let value = "\u{1b}[31mred\u{7f}\u{1}";
    place.dozen(&["config", "set", &format!("NASTY={value}")]).ok();
    assert_eq!(place.dozen(&["config", "get", "NASTY"]).ok().out, format!("{value}\n"));
    assert_eq!(place.dozen(&["config", "get", "NASTY", "--json"]).ok().json()["value"], value);
    let exported = place.dozen(&["config", "export"]).ok();
    place.dozen(&["config", "unset", "NASTY"]).ok();
    finish_with(place.program(DOZEN).args(["config", "set", "-"]), &exported.bytes).ok();
    assert_eq!(place.dozen(&["config", "get", "NASTY"]).ok().out, format!("{value}\n"));
}

#[test]
fn a_full_disk_behind_standard_output_is_no_success() {
    let place = Place::new(&[("Procfile", "clock: sleep 1000\n"), (".env", "A=1\n")]);
    place.once().ok();
    for args in ["config export", "config get A", "ps", "releases", "man"] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("a device that is full");
        let run = place.program(DOZEN).args(args.split(' ')).stdout(full).stderr(Stdio::piped()).output().expect("run");
        assert_eq!(run.status.code(), Some(1), "{args}");
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(said.contains("cannot write to standard output: No space left on device"), "{args}: {said}");
    }
}

#[test]
fn what_is_marked_plain_makes_a_release_that_says_so_and_an_origin_makes_none() {
    let place = Place::new(&[("Procfile", "clock: sleep 1000\n"), (".env", "A=from-the-file\n")]);
    place.once().ok();
    place.dozen(&["config", "set", "Z=longsecret1"]).ok();
    place.once().ok();
    place.dozen(&["config", "set", "--plain", "Z=longsecret1"]).ok().has(&["Setting Z... done; the next release has it"]);
    place.once().ok().has(&["Released v3"]);
    place.dozen(&["releases"]).ok().has(&["Mark Z config vars"]);
    // The same value from elsewhere.
    place.dozen(&["config", "set", "A=from-the-file"]).ok().has(&["nothing changed"]);
    place.once().ok().has(&["Nothing changed: v3 again"]);
}

#[test]
fn a_value_is_data_to_every_shell_on_its_way() {
    // With a profile, so that there are two shells.
    let place = Place::web("release: echo \"phase has $A\"\nweb: python3 web.py\n");
    place.write(".profile", "export B=sourced\n");
    let up = place.up();
    let value = "$(exit 3)`false`; exit 4 # '\"$HOME";
    up.dozen(&["config", "set", "--plain", &format!("A={value}")]).ok();
    up.line("release.2", &format!("phase has {value}"));
    assert_eq!((up.page("/env/A"), up.page("/env/B")), (value.to_owned(), "sourced".to_owned()));
    up.stop();
}
