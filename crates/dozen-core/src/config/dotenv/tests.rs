use super::*;
use crate::diagnostic::{MAX_FILE, has_errors};
use proptest::prelude::*;

/// An input or its name, what is read of it, and the severities and places of the diagnostics.
type Case = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

fn vars(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// `warning 1:1` for each, in order.
fn remarks(diagnostics: &[Diagnostic]) -> Vec<String> {
    diagnostics.iter().map(|d| format!("{:?} {}:{}", d.severity, d.line, d.column).to_lowercase()).collect()
}

/// What our dialect makes of each input of `tests/vectors/env.json`, worked out from its rules.
const VECTORS: &[Case] = &[
    ("plain", &[("A", "bar")], &[]),
    ("empty", &[("A", "")], &[]),
    ("space_unquoted", &[("A", "bar baz")], &[]),
    ("trailing_space", &[("A", "bar")], &[]),
    ("dq", &[("A", "qux")], &[]),
    ("sq", &[("A", "barney")], &[]),
    ("dq_backslash_n", &[("A", "bar\nbaz")], &[]),
    ("sq_backslash_n", &[("A", "bar\\nbaz")], &[]),
    ("unq_backslash_n", &[("A", "bar\\nbaz")], &[]),
    ("dq_double_backslash", &[("A", "a\\b")], &[]),
    ("multiline_dq", &[("A", "l1\nl2"), ("B", "2")], &[]),
    ("multiline_sq", &[("A", "l1\nl2"), ("B", "2")], &[]),
    ("inline_comment_unq", &[("A", "bar")], &[]),
    ("hash_nospace_unq", &[("A", "bar#baz")], &[]),
    ("inline_comment_dq", &[("A", "bar # no")], &[]),
    ("interp_brace_unq", &[("A", "v${X}"), ("X", "1")], &["note 2:4"]),
    ("interp_dollar_unq", &[("A", "v$X"), ("X", "1")], &[]),
    ("interp_dq", &[("A", "v${X}"), ("X", "1")], &["note 2:5"]),
    ("interp_default", &[("A", "${NOPE:-dflt}")], &["note 1:3"]),
    ("interp_from_osenv", &[("A", "${OSVAR}")], &["note 1:3"]),
    ("cmd_subst", &[("A", "$(echo hi)")], &[]),
    ("url_eq_amp_dq", &[("A", "http://e.com/api?foo=bar&baz=1")], &[]),
    ("json_unq", &[("A", "{\"a\": \"b\"}")], &[]),
    ("json_sq", &[("A", "{\"a\": \"b\"}")], &[]),
    ("dash_key", &[], &["warning 1:1"]),
    ("dot_key", &[], &["warning 1:1"]),
    ("dup_key", &[("A", "2")], &["warning 2:1"]),
    ("crlf", &[("A", "bar"), ("B", "2")], &[]),
    ("bom", &[("A", "bar"), ("B", "2")], &["note 1:1"]),
    ("utf8", &[("A", "⋃ñ☪")], &[]),
    ("apostrophe_unq", &[("A", "it's"), ("B", "2")], &[]),
    ("dq_mid", &[("A", "a\"b\"c")], &[]),
    ("sq_dq_nested", &[("A", "\"s\"")], &[]),
    ("tab_around_eq", &[("A", "bar")], &[]),
    ("yaml_style_quote_key", &[], &["warning 1:1"]),
    ("blank_and_ws_lines", &[("A", "1")], &[]),
    ("dollar_digit", &[("A", "pa$$w0rd$1")], &[]),
    ("percent", &[("A", "50%")], &[]),
    ("tilde", &[("A", "~/x")], &[]),
];

#[test]
fn inputs_that_other_parsers_disagree_on_have_one_meaning_here() {
    let file: serde_json::Value = serde_json::from_str(include_str!("../../../tests/vectors/env.json")).expect("JSON");
    let cases = file["cases"].as_array().expect("cases");
    let names: Vec<&str> = cases.iter().map(|c| c["name"].as_str().expect("name")).collect();
    assert_eq!(names, VECTORS.iter().map(|v| v.0).collect::<Vec<_>>(), "every case has its line");
    for (case, (name, want, want_remarks)) in cases.iter().zip(VECTORS) {
        let (got, diagnostics) = parse(case["input"].as_str().expect("input"));
        assert_eq!(got, vars(want), "{name}");
        assert_eq!(remarks(&diagnostics), *want_remarks, "{name}: {diagnostics:?}");
    }
}

#[test]
fn the_rules_of_the_dialect_one_by_one() {
    let cases: &[Case] = &[
        // Blanks, `export`, comments.
        ("  export  A = 1", &[("A", "1")], &[]),
        ("export\tA=1", &[("A", "1")], &[]),
        ("export=1\nexportB=2", &[("export", "1"), ("exportB", "2")], &[]),
        ("export = 1", &[("export", "1")], &[]),
        ("export A", &[], &["warning 1:1"]),
        ("A= # c", &[("A", "")], &[]),
        ("A=\t#c", &[("A", "")], &[]),
        ("A=#fff", &[("A", "#fff")], &[]),
        ("A=http://h/#frag # c", &[("A", "http://h/#frag")], &[]),
        ("A=x\u{a0}#y", &[("A", "x\u{a0}#y")], &[]),
        ("#A=1\n  # B=2\nC=3", &[("C", "3")], &[]),
        ("A=a=b=", &[("A", "a=b=")], &[]),
        // Quotes.
        ("A=\"\"\nB=''", &[("A", ""), ("B", "")], &[]),
        ("A=\"  x  \"", &[("A", "  x  ")], &[]),
        ("A=\"\\t\\r\\n\\\"\\\\\\$\"", &[("A", "\t\r\n\"\\$")], &[]),
        ("A=\"a\\db\"", &[("A", "a\\db")], &["note 1:5"]),
        ("A=\"a\\\\\" # c", &[("A", "a\\")], &[]),
        ("A='it\\'s'", &[], &["warning 1:8"]),
        ("A=\"x\" y\nB=1", &[("B", "1")], &["warning 1:7"]),
        ("A=\"x\"#c", &[], &["warning 1:6"]),
        ("A='x' # it's \"fine\"\nB=1", &[("A", "x"), ("B", "1")], &[]),
        ("A=\"l1\r\nl2\"\r\nB=1\r\n", &[("A", "l1\nl2"), ("B", "1")], &[]),
        ("A='l1\r\n# l2'\r\n", &[("A", "l1\n# l2")], &[]),
        ("A=\"\nB=1\n\"\nC=2", &[("A", "\nB=1\n"), ("C", "2")], &[]),
        ("A=\"\\${X}\"", &[("A", "${X}")], &[]),
        ("A='${X}'", &[("A", "${X}")], &[]),
        // What is dropped.
        ("A-B=\"x\nC=1\"\nD=2", &[("D", "2")], &["warning 1:1"]),
        ("A=\"x\nB=1\" y\nC=2", &[("C", "2")], &["warning 2:6"]),
        ("A=1\nB=\"x\nC=2\n", &[("A", "1")], &["error 2:3"]),
        ("A='x", &[], &["error 1:3"]),
        ("novalue\n=1\nA=1", &[("A", "1")], &["warning 1:1", "warning 2:1"]),
        ("1A=x\né=y", &[], &["warning 1:1", "warning 2:1"]),
        ("A=a\0b\nB=\"\0\"\nC=1", &[("C", "1")], &["warning 1:4", "warning 2:3"]),
        ("DOZEN_X=1\nHEROKU_Y=2\n__z=3\n_A=4", &[("_A", "4")], &["warning 1:1", "warning 2:1", "warning 3:1"]),
        ("  export DOZEN_X=1", &[], &["warning 1:10"]),
        ("A=1\rB=2", &[("A", "1\rB=2")], &["warning 1:4"]),
        ("<<<<<<< HEAD\nA=1\n=======\nA=2\n>>>>>>> b\n", &[("A", "2")], &["error 1:1", "error 3:1", "warning 4:1", "error 5:1"]),
        ("K=-----BEGIN KEY-----\nMIIabc\nabc==\n-----END KEY-----\nA=1", &[("A", "1")], &["error 1:3"]),
        ("K=-----BEGIN KEY-----\\nabc\\n-----END KEY-----", &[("K", "-----BEGIN KEY-----\\nabc\\n-----END KEY-----")], &[]),
        ("K=\"-----BEGIN KEY-----\nabc==\n-----END KEY-----\"", &[("K", "-----BEGIN KEY-----\nabc==\n-----END KEY-----")], &[]),
        ("", &[], &[]),
    ];
    for (input, want, want_remarks) in cases {
        let (got, diagnostics) = parse(input);
        assert_eq!(got, vars(want), "{input:?}");
        assert_eq!(remarks(&diagnostics), *want_remarks, "{input:?}: {diagnostics:?}");
    }
}

#[test]
fn a_diagnostic_says_what_was_dropped_and_why_and_shows_no_value() {
    let secret = "hunter2hunter2";
    let inputs = [
        format!("DOZEN_A={secret}"),
        format!("{secret}/=="),
        format!("{secret}+/{secret}=="),
        format!("-{secret}={secret}"),
        format!("A={secret}\nA={secret}2"),
        format!("A=\"{secret}\" {secret}"),
        format!("A=\"{secret}\n{secret}"),
        format!("A={secret}\0"),
        format!("A=\"{secret}\\d${{{secret}}}\""),
        format!("A={secret}\r{secret}"),
        format!("K=-----BEGIN KEY-----\n{secret}==\n-----END KEY-----"),
    ];
    for input in inputs {
        let (_, diagnostics) = parse(&input);
        assert!(!diagnostics.is_empty(), "{input:?}");
        for d in diagnostics {
            assert!(!format!("{d} {}", d.help).contains(secret), "{input:?}: {d}");
        }
    }
    let (_, diagnostics) = parse("X=1\nDOZEN_A=1\nB=\"x\ny\" z");
    assert_eq!(diagnostics[0].to_string(), "2:1: this line is dropped: `DOZEN_A` has a prefix that the platform keeps to itself");
    assert_eq!(diagnostics[1].to_string(), "4:4: `B` (all from line 3 to line 4) is dropped: there is more after the closing quote");
}

#[test]
fn bytes_are_limited_and_must_be_text() {
    let (vars, diagnostics) = parse_bytes(b"A=1\nB=\xff\n");
    assert!(vars.is_empty() && has_errors(&diagnostics));
    assert_eq!(remarks(&diagnostics), ["error 2:3"]);
    let (vars, diagnostics) = parse_bytes(&[b"A=".as_slice(), &vec![b'x'; MAX_FILE]].concat());
    assert!(vars.is_empty() && has_errors(&diagnostics));
}

#[test]
fn a_hostile_file_is_answered_with_a_bounded_number_of_remarks() {
    let full = |unit: &str| unit.repeat(MAX_FILE / 8 / unit.len());
    for text in [full("x\n"), full("A='\n"), full("A=\"\\"), full("A=${\n"), full("A=\"\\\\${"), full("A=-----BEGIN x\n"), full("=\"\"\n")]
    {
        let (_, diagnostics) = parse(&text);
        assert!(diagnostics.len() <= diagnostic::MAX_REMARKS + 1);
    }
}

#[test]
fn a_value_is_written_in_the_plainest_way_that_reads_back() {
    for (value, written) in [
        ("bar", "bar"),
        ("", "''"),
        ("a b", "'a b'"),
        ("pa$$", "'pa$$'"),
        ("it's", "\"it's\""),
        ("l1\nl2", "\"l1\\nl2\""),
        ("it's $1 \"x\" \\", "\"it's \\$1 \\\"x\\\" \\\\\""),
    ] {
        assert_eq!(quote(value), written);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered_and_every_place_is_within_them(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let (vars, diagnostics) = parse_bytes(&bytes);
        check(std::str::from_utf8(&bytes).unwrap_or_default(), bytes.len(), &vars, &diagnostics)?;
    }

    #[test]
    fn any_lines_are_answered_and_every_place_is_within_them(text in "([A-C_é1 ]{0,3}[=#\"'\\\\ \r\n$\\{\u{feff}]{0,3}[a-c\0]{0,2}){0,30}") {
        let (vars, diagnostics) = parse(&text);
        check(&text, text.len(), &vars, &diagnostics)?;
    }

    #[test]
    fn what_is_written_is_read_back(values in proptest::collection::vec("[^\0]{0,40}|[ \"'\\\\\n\r\t$#=ax]{0,20}", 1..8)) {
        let text: String = values.iter().enumerate().map(|(i, v)| format!("V{i}={}\n", quote(v))).collect();
        let (vars, diagnostics) = parse(&text);
        prop_assert_eq!(&diagnostics.iter().filter(|d| d.severity > Severity::Note).count(), &0, "{:?}", diagnostics);
        for (i, value) in values.iter().enumerate() {
            prop_assert_eq!(vars.get(&format!("V{i}")), Some(value), "{}", text);
        }
    }
}

fn check(text: &str, length: usize, vars: &BTreeMap<String, String>, diagnostics: &[Diagnostic]) -> Result<(), TestCaseError> {
    for d in diagnostics {
        prop_assert!(d.span.start <= d.span.end && d.span.end <= length, "{d:?}");
        prop_assert!(d.line >= 1 && d.column >= 1);
    }
    for (name, value) in vars {
        prop_assert!(check_name(name).is_ok() && !value.contains('\0'));
    }
    // Nothing goes in silence: where a line has a meaning and no variable came of it, something was said.
    if vars.is_empty() && diagnostics.is_empty() {
        for line in text.trim_start_matches('\u{feff}').lines() {
            prop_assert!(line.trim().is_empty() || line.trim().starts_with('#'), "{line:?}");
        }
    }
    Ok(())
}
