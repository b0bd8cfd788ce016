use super::*;
use crate::diagnostic::{MAX_FILE, MAX_REMARKS, has_errors};
use proptest::prelude::*;

/// An input or its name, what is read of it, and the severities and places of the diagnostics.
type Case = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

fn read(text: &str) -> (Vec<(String, String)>, Vec<Diagnostic>) {
    let (types, diagnostics) = parse(text);
    (types.into_iter().map(|t| (t.name.to_string(), t.command)).collect(), diagnostics)
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn remarks(diagnostics: &[Diagnostic]) -> Vec<String> {
    diagnostics.iter().map(|d| format!("{:?} {}:{}", d.severity, d.line, d.column).to_lowercase()).collect()
}

/// What we make of each input of `tests/vectors/procfile.json`, worked out from our rules.
const VECTORS: &[Case] = &[
    ("simple", &[("web", "./web")], &[]),
    ("no_eol", &[("web", "./web")], &[]),
    ("tab_sep", &[("bravo", "./bravo")], &[]),
    ("leading_dash", &[("-foo_bar", "command")], &["warning 1:1"]),
    ("digits", &[("1", "a"), ("web2", "b")], &[]),
    ("comment", &[("web", "x")], &[]),
    ("indented_comment", &[("web", "x")], &[]),
    ("plus_name", &[("web", "x")], &["warning 1:1"]),
    ("dot_name", &[("w", "y")], &["warning 1:4"]),
    ("empty_cmd_space", &[("w", "y")], &["error 1:1"]),
    ("trailing_space", &[("web", "x   ")], &[]),
    ("dup", &[("web", "a")], &["error 2:1"]),
    ("blank_lines", &[("web", "a")], &[]),
    ("meta", &[("web", "sh -c \"echo $FOOBAR\" >/dev/null 2>&1")], &[]),
    ("colons_in_cmd", &[("web", "a http://x:80")], &[]),
    ("env_prefix", &[("web", "PORT=1 FOO=bar ./x")], &[]),
    ("no_colon", &[("w", "y")], &["warning 1:1"]),
    ("utf8_name", &[("w", "y")], &["warning 1:2"]),
    ("only_comment", &[], &["error 1:1"]),
    ("release", &[("release", "./migrate"), ("web", "./web")], &[]),
    ("upper", &[("WEB", "x")], &["warning 1:1"]),
];

#[test]
fn inputs_that_other_tools_disagree_on_have_one_meaning_here() {
    let file: serde_json::Value = serde_json::from_str(include_str!("../../../tests/vectors/procfile.json")).expect("JSON");
    let cases = file["cases"].as_array().expect("cases");
    let names: Vec<&str> = cases.iter().map(|c| c["name"].as_str().expect("name")).collect();
    assert_eq!(names, VECTORS.iter().map(|v| v.0).collect::<Vec<_>>(), "every case has its line");
    for (case, (name, want, want_remarks)) in cases.iter().zip(VECTORS) {
        let (got, diagnostics) = read(case["input"].as_str().expect("input"));
        assert_eq!(got, pairs(want), "{name}");
        assert_eq!(remarks(&diagnostics), *want_remarks, "{name}: {diagnostics:?}");
    }
}

#[test]
fn the_rules_one_by_one() {
    let cases: &[Case] = &[
        ("web:x", &[("web", "x")], &[]),
        ("web: a # c", &[("web", "a # c")], &[]),
        ("web: a\r\nworker: b\r\n", &[("web", "a"), ("worker", "b")], &[]),
        ("\u{feff}web: a", &[("web", "a")], &["warning 1:1"]),
        ("\u{feff}", &[], &["warning 1:1", "error 1:1"]),
        ("", &[], &["error 1:1"]),
        ("web:", &[], &["error 1:1", "error 1:1"]),
        ("web: a\r\r\nworker: b\r\r\r", &[("web", "a"), ("worker", "b")], &[]),
        ("web:\r\n", &[], &["error 1:1", "error 1:1"]),
        ("a: x\nweb:\t \nb: y", &[("a", "x"), ("b", "y")], &["error 2:1"]),
        ("a: x\n  web: y", &[("a", "x"), ("web", "y")], &["warning 2:1"]),
        ("web: gunicorn \\\n  --bind: x", &[("web", "gunicorn \\")], &["warning 1:15", "warning 2:3"]),
        ("web : x\na: b", &[("a", "b")], &["warning 1:4"]),
        (": x\na: b", &[("a", "b")], &["warning 1:1"]),
        ("a b: x\nc: d", &[("c", "d")], &["warning 1:2"]),
        ("web: #x", &[("web", "#x")], &["warning 1:6"]),
        ("web: a\rworker: b", &[("web", "a\rworker: b")], &["warning 1:7"]),
        ("web: a\0b\nw: x", &[("w", "x")], &["error 1:7"]),
        ("a-: x\nb_c: y", &[("a-", "x"), ("b_c", "y")], &["warning 1:1", "warning 2:1"]),
        ("Release: x", &[("Release", "x")], &["warning 1:1"]),
        ("run: x", &[("run", "x")], &["warning 1:1"]),
        ("<<<<<<< HEAD\nweb: a\n=======\nweb: b\n>>>>>>> other\n", &[("web", "a")], &["error 1:1", "error 3:1", "error 4:1", "error 5:1"]),
    ];
    for (input, want, want_remarks) in cases {
        let (got, diagnostics) = read(input);
        assert_eq!(got, pairs(want), "{input:?}");
        assert_eq!(remarks(&diagnostics), *want_remarks, "{input:?}: {diagnostics:?}");
    }
}

#[test]
fn a_diagnostic_says_what_was_dropped_and_why() {
    let said = |text| parse(text).1.into_iter().map(|d| format!("{d} / {}", d.help)).collect::<Vec<_>>();
    assert_eq!(
        said("web ./web\nweb.1: x\nw: y\nw: z"),
        [
            "1:1: the line `web ./web` is dropped: it has no `:` / Write it as `<type>: <command>`, or as a comment after `#`.",
            "2:4: the line `web.1: x` is dropped: a process type cannot have `.` in it / Use letters, digits, `-` and `_`.",
            "4:1: `w` is declared twice, first on line 3 / Rename or remove one of them.",
        ]
    );
    assert_eq!(said("WEB: x"), ["1:1: `WEB` is an ordinary process type: only lower case `web` is special / Write `web`."]);
}

#[test]
fn a_name_that_no_host_can_have_is_dropped() {
    let (got, diagnostics) = read(&format!("{}: x\n{}: y", "w".repeat(64), "v".repeat(63)));
    assert_eq!(got, pairs(&[("v".repeat(63).as_str(), "y")]));
    assert_eq!(remarks(&diagnostics), ["warning 1:1"]);
}

#[test]
fn a_file_that_is_too_large_or_no_text_is_refused() {
    let (types, diagnostics) = parse_bytes(&b"web: x\n".repeat(10_000_000 / 7));
    assert!(types.is_empty() && has_errors(&diagnostics));
    assert!(diagnostics[0].message.contains("1048576"), "{}", diagnostics[0]);
    let (types, diagnostics) = parse_bytes(b"a: b\nweb: \xfe");
    assert!(types.is_empty());
    assert_eq!(remarks(&diagnostics), ["error 2:6"]);
}

#[test]
fn a_hostile_file_is_answered_with_a_bounded_number_of_remarks() {
    for unit in ["x\n", "a: b\n", ":\n", "\u{a0}"] {
        let (_, diagnostics) = parse(&unit.repeat(MAX_FILE / 8 / unit.len()));
        assert!(has_errors(&diagnostics) && diagnostics.len() <= MAX_REMARKS + 1, "{unit:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered_and_every_place_is_within_them(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let (types, diagnostics) = parse_bytes(&bytes);
        prop_assert!(!types.is_empty() || has_errors(&diagnostics));
        for d in &diagnostics {
            prop_assert!(d.span.start <= d.span.end && d.span.end <= bytes.len(), "{d:?}");
        }
    }

    #[test]
    fn every_line_is_a_process_type_or_has_a_diagnostic(text in "(([a-cA_é.+<= -]{0,4}:?[ \t#a\\\\\0\u{a0}]{0,4}|<<<<<<<|=======)(\n|\r\n|\r)){0,30}") {
        let (types, diagnostics) = parse(&text);
        let mut types = types.into_iter().peekable();
        for (i, line) in text.split('\n').enumerate() {
            let line = line.trim_end_matches('\r');
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            let parsed = types.next_if(|t| {
                let rest = line.trim_start().strip_prefix(t.name.as_str()).and_then(|r| r.strip_prefix(':'));
                rest.is_some_and(|r| r.trim_start() == t.command)
            });
            let diagnosed = diagnostics.iter().any(|d| d.line == i + 1 && d.severity >= Severity::Warning);
            prop_assert!(parsed.is_some() || diagnosed, "line {}: {line:?}", i + 1);
        }
        prop_assert!(types.next().is_none(), "a type that no line declares");
        for d in &diagnostics {
            prop_assert!(d.span.end <= text.len() && text.get(d.span.clone()).is_some(), "{d:?}");
        }
    }
}
