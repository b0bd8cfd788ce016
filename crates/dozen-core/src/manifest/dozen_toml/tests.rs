use super::*;
use crate::diagnostic::has_errors;
use crate::manifest::HealthKind;
use proptest::prelude::*;
use std::time::Duration;

fn kind(name: &str) -> TypeName {
    name.parse().expect("valid")
}

fn said(text: &str) -> Vec<String> {
    let line = |d: Diagnostic| format!("{} {d} / {}", format!("{:?}", d.severity).to_lowercase(), d.help);
    parse(text).1.into_iter().map(line).map(|l| l.trim_end_matches([' ', '/']).to_owned()).collect()
}

#[test]
fn every_key_is_read() {
    let text = r#"
[process.web]
settle = "500ms"
stop-timeout = "1m 30s"
size = "512M"
overlap = false
after = ["worker", "cache"]

[process]
worker.settle = "2s"
worker.ports = [9100, 9229]

[scratch]
folders = ["tmp", "storage/framework"]

[check]
ignore = ["vendor/**"]

[router]
concurrency = 8
queue = 0

[health.web]
type = "startup"
path = "/health"
wait = "250ms"
timeout = 2

[[health.worker]]
type = "liveness"
command = ["./alive"]
[[health.worker]]
type = "readiness"
port = 9100
httpHeaders = { X-A = "b" }
"#;
    let (settings, diagnostics) = parse(text);
    assert_eq!(diagnostics, []);
    let web = &settings.processes[&kind("web")];
    assert_eq!((web.settle, web.stop_timeout), (Some(Duration::from_millis(500)), Some(Duration::from_secs(90))));
    assert_eq!(
        (web.size.map(|s| s.to_string()).as_deref(), web.overlap, web.after.as_slice()),
        (Some("512M"), Some(false), &[kind("worker"), kind("cache")][..])
    );
    assert_eq!(settings.processes[&kind("worker")].settle, Some(Duration::from_secs(2)));
    assert_eq!(settings.processes[&kind("worker")].ports, [9100, 9229]);
    assert_eq!(settings.scratch, ["tmp", "storage/framework"]);
    assert_eq!(settings.router, RouterRules { concurrency: Some(8), queue: Some(0) });
    assert_eq!(settings.check_ignore, ["vendor/**"]);
    let check = &settings.health[&kind("web")][0];
    assert_eq!((check.kind, check.wait, check.timeout), (HealthKind::Startup, Duration::from_millis(250), Duration::from_secs(2)));
    assert_eq!(settings.health[&kind("worker")].iter().map(|c| c.kind).collect::<Vec<_>>(), [HealthKind::Liveness, HealthKind::Readiness]);
    assert_eq!(settings.health[&kind("worker")][1].headers, [("X-A".to_owned(), "b".to_owned())]);

    let declared = ["web", "wroker"].map(|n| ProcessType { name: kind(n), command: "x".to_owned() });
    let unknown: Vec<_> = settings.unknown_types(&declared).iter().map(ToString::to_string).collect();
    assert_eq!(
        unknown,
        [
            "there is no process type `cache`; the Procfile declares web, wroker",
            "there is no process type `worker`; did you mean `wroker`?"
        ]
    );
}

#[test]
fn an_unknown_key_is_an_error_with_a_suggestion() {
    let text = "[process.web]\nstop_timeout = \"5s\"\ncpus = 1\n[proces.web]\n[scratch]\nfolder = []\n[check]\nx = 1\n[health.web]\ntype = \"startup\"\npaht = \"/\"\n";
    let no_effect = "this key is not known and has no effect";
    assert_eq!(
        said(text),
        [
            format!("error 2:1: process.web.stop_timeout: {no_effect} / Did you mean `stop-timeout`?"),
            format!("error 3:1: process.web.cpus: {no_effect} / Known here: settle, stop-timeout, size, overlap, after, ports."),
            format!("error 4:2: proces: {no_effect} / Did you mean `process`?"),
            format!("error 6:1: scratch.folder: {no_effect} / Did you mean `folders`?"),
            format!("error 8:1: check.x: {no_effect} / Known here: ignore."),
            format!("error 11:1: health.web.paht: {no_effect} / Did you mean `path`?"),
        ]
    );
}

#[test]
fn a_value_of_another_shape_is_an_error_at_its_place() {
    let duration = "Write it as \"500ms\", \"30s\" or \"2m\".";
    for (text, want) in [
        ("[process.web]\nsettle = 5", format!("error 2:10: process.web.settle: expected a duration / {duration}")),
        ("[process.web]\nsettle = \"5\"", format!("error 2:10: process.web.settle: expected a duration / {duration}")),
        ("[process.web]\nsettle = \"-5s\"", format!("error 2:10: process.web.settle: expected a duration / {duration}")),
        ("[process.web]\nsettle = \"25h\"", format!("error 2:10: process.web.settle: expected at most 24 hours / {duration}")),
        ("[process.web]\noverlap = \"no\"", "error 2:11: process.web.overlap: expected true or false, found text".to_owned()),
        ("[process.web]\nsize = \"a b\"", "error 2:8: process.web.size: `a b` is not a size: write `512M` or `1.5G`, `unlimited`, or one of Heroku's such as `standard-1x` / Write it as \"512M\".".to_owned()),
        ("[process.web]\nports = [0]", "error 2:10: process.web.ports[0]: expected a whole number from 1 to 65535, found 0".to_owned()),
        (
            "[process.web]\nports = [20000]",
            "error 2:10: process.web.ports[0]: 20000 is one of the ports that dozen gives to instances / Take one below 20000 or from 32000 on."
                .to_owned(),
        ),
        ("[process.web]\nafter = \"worker\"", "error 2:9: process.web.after: expected a list, found text".to_owned()),
        ("[process.\"w b\"]", "error 1:10: process: `w b` is not a process type: use 1 to 63 letters, digits, `_` and `-`".to_owned()),
        ("process = 1979-05-27", "error 1:11: process: expected a table, found something else".to_owned()),
        ("[health]\nweb = {}", "error 2:7: health.web: `type` is missing / It is startup, readiness or liveness.".to_owned()),
    ] {
        assert_eq!(said(text), [want], "{text}");
    }
    for folder in ["/tmp", "../x", "a/../../b", "", ".", "./a", "a\\u0000"] {
        let text = format!("[scratch]\nfolders = [\"ok\", \"{folder}\"]");
        let (settings, diagnostics) = parse(&text);
        assert!(has_errors(&diagnostics), "{folder}");
        assert_eq!((settings.scratch, diagnostics[0].line, diagnostics[0].column), (vec!["ok".to_owned()], 2, 18));
    }
}

#[test]
fn types_that_wait_for_each_other_are_found() {
    let places = |text| parse(text).1.into_iter().map(|d| (d.severity, d.line)).collect::<Vec<_>>();
    let circle =
        "[process.a]\nafter = [\"b\"]\n[process.b]\nafter = [\"c\", \"x\"]\n[process.c]\nafter = [\"a\"]\n[process.d]\nafter = [\"x\"]";
    assert_eq!(places(circle), [(Severity::Error, 2), (Severity::Error, 4), (Severity::Error, 6)]);
    assert_eq!(places("[process.a]\nafter = [\"a\"]"), [(Severity::Error, 2)]);
    assert_eq!(places("[process.a]\nafter = [\"b\", \"b\"]\n[process.b]\nafter = [\"c\"]\n[process.c]"), []);
    assert_eq!(places("[process.a]\nafter = [\"release\"]"), [(Severity::Note, 2)]);
    let chain: String = (0..4_000).map(|n| format!("[process.p{n}]\nafter=[\"p{}\"]\n", n + 1)).collect();
    assert_eq!(places(&chain), []);
}

#[test]
fn what_is_no_toml_is_told_by_its_place() {
    assert_eq!(parse(""), (DozenToml::default(), vec![]));
    let (_, diagnostics) = parse("[process.web]\nsettle = \n");
    assert_eq!((diagnostics.len(), diagnostics[0].severity, diagnostics[0].line), (1, Severity::Error, 2));
    assert!(diagnostics[0].message.starts_with("this is not TOML: "), "{}", diagnostics[0]);
    let (_, diagnostics) = parse("[check]\nignore = []\nignore = []\n");
    assert_eq!((diagnostics[0].line, diagnostics[0].column), (3, 1), "{diagnostics:?}");
    let (settings, diagnostics) = parse("\u{feff}[check]\nignore = [1]");
    assert!(settings.check_ignore.is_empty());
    assert_eq!(diagnostics.iter().map(|d| (d.line, d.column)).collect::<Vec<_>>(), [(1, 1), (2, 11)]);
    assert!(has_errors(&parse_bytes(b"\xff").1));
}

#[test]
fn nesting_ends_somewhere() {
    let n = 20_000;
    for text in [
        format!("x = {}{}", "[".repeat(n), "]".repeat(n)),
        format!("x = {}1{}", "{a=".repeat(n), "}".repeat(n)),
        format!("{}x = 1", "a.".repeat(n)),
        format!("[{}x]", "a.".repeat(n)),
    ] {
        assert!(has_errors(&parse(&text).1));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered_within_the_file(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        within(&bytes, &parse_bytes(&bytes).1)?;
    }

    #[test]
    fn any_toml_is_answered_within_the_file(text in "\u{feff}?((\\[(process|health|scratch)(\\.(web|é|\"é\"))?\\]|(after|settle|type|folders|é) ?= ?(\\[?\"(é|1s|web)\"\\]?|1|true))\n){0,6}") {
        within(text.as_bytes(), &parse(&text).1)?;
    }
}

fn within(bytes: &[u8], diagnostics: &[Diagnostic]) -> Result<(), TestCaseError> {
    for d in diagnostics {
        prop_assert!(d.span.start <= d.span.end && d.span.end <= bytes.len(), "{d:?}");
        prop_assert!(d.line >= 1 && d.column >= 1);
    }
    Ok(())
}
