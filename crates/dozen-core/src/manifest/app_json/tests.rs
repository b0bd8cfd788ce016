use super::*;
use crate::diagnostic::has_errors;
use crate::manifest::{HealthCheck, HealthKind};
use proptest::prelude::*;
use std::time::Duration;

fn kind(name: &str) -> TypeName {
    name.parse().expect("valid")
}

/// `error 1:2 message / help` for each.
fn said(text: &str) -> Vec<String> {
    let line = |d: Diagnostic| format!("{} {d} / {}", format!("{:?}", d.severity).to_lowercase(), d.help);
    parse(text).1.into_iter().map(line).map(|l| l.trim_end_matches([' ', '/']).to_owned()).collect()
}

#[test]
fn every_shape_is_read() {
    let text = r#"{
        "$schema": "x", "name": "Shop", "description": "d", "keywords": ["a"], "website": "w", "repository": "r", "logo": null,
        "env": {
            "PLAIN": "default",
            "EMPTY": {},
            "FULL": {"description": "d", "value": "v", "required": false},
            "SECRET_KEY": {"generator": "secret"},
            "OLD_STYLE": {"required": "false"}
        },
        "formation": {"web": {"quantity": 2, "size": "standard-1x"}, "worker": {"quantity": 0}, "clock": {}},
        "addons": ["sqlite", {"plan": "heroku-postgresql:mini", "as": "MAIN"}],
        "buildpacks": [{"url": "heroku/python"}, "https://example.com/pack"],
        "scripts": {"postdeploy": "./seed", "console": "./shell"},
        "stack": "heroku-24",
        "environments": {"test": {"formation": {"web": {"quantity": 1}}, "scripts": {"postdeploy": {"command": "./t"}}}},
        "healthchecks": {"web": [
            {"type": "startup", "name": "up", "path": "/health", "port": 5000, "attempts": 5, "wait": 2, "timeout": 7, "initialDelay": 1,
             "content": "ok", "httpHeaders": [{"name": "X-A", "value": "b"}]},
            {"type": "liveness", "command": ["/bin/true", "x"], "uptime": 3, "warn": true}
        ]},
        "cron": [{"command": "./c", "schedule": "@daily", "concurrency_policy": "forbid"}, {"command": "./d", "schedule": "* * * * *"}]
    }"#;
    let (app, diagnostics) = parse(text);
    assert_eq!(diagnostics, []);
    assert_eq!((app.name.as_deref(), app.description.as_deref(), app.stack.as_deref()), (Some("Shop"), Some("d"), Some("heroku-24")));
    let var = |value: Option<&str>, required| EnvVar { description: None, value: value.map(str::to_owned), required, generated: false };
    assert_eq!(app.env["PLAIN"], var(Some("default"), true));
    assert_eq!(app.env["EMPTY"], var(None, true));
    assert_eq!(app.env["FULL"], EnvVar { description: Some("d".to_owned()), ..var(Some("v"), false) });
    assert_eq!(app.env["SECRET_KEY"], EnvVar { generated: true, ..var(None, true) });
    assert_eq!(app.env["OLD_STYLE"], var(None, false));
    assert_eq!(app.required().collect::<Vec<_>>(), ["EMPTY"]);
    assert_eq!(app.quantities(), BTreeMap::from([(kind("web"), 2), (kind("worker"), 0)]));
    assert_eq!(app.formation[&kind("web")].size, "512M".parse().ok());
    let add_on = |plan: &str, alias: Option<&str>| AddOn { plan: plan.to_owned(), alias: alias.map(str::to_owned) };
    assert_eq!(app.addons, [add_on("sqlite", None), add_on("heroku-postgresql:mini", Some("MAIN"))]);
    assert_eq!(app.buildpacks, ["heroku/python", "https://example.com/pack"]);
    assert_eq!((app.postdeploy.as_deref(), app.console.as_deref()), (Some("./seed"), Some("./shell")));
    assert_eq!(app.environments["test"].quantities(), BTreeMap::from([(kind("web"), 1)]));
    assert_eq!(app.environments["test"].postdeploy.as_deref(), Some("./t"));
    let [startup, liveness] = app.health[&kind("web")].as_slice() else { panic!("two checks") };
    let seconds = Duration::from_secs;
    assert_eq!((startup.kind, startup.path.as_deref(), startup.port), (HealthKind::Startup, Some("/health"), Some(5000)));
    assert_eq!((startup.attempts, startup.wait, startup.timeout, startup.initial_delay), (5, seconds(2), seconds(7), seconds(1)));
    assert_eq!((startup.content.as_deref(), startup.headers.clone()), (Some("ok"), vec![("X-A".to_owned(), "b".to_owned())]));
    assert_eq!((liveness.kind, liveness.command.len(), liveness.uptime, liveness.warn), (HealthKind::Liveness, 2, Some(seconds(3)), true));
    assert_eq!((liveness.attempts, liveness.wait, liveness.timeout, liveness.initial_delay), (3, seconds(5), seconds(5), seconds(0)));
    let policies: Vec<_> = app.cron.iter().map(|c| c.concurrency).collect();
    assert_eq!(policies, [CronConcurrency::Forbid, CronConcurrency::Allow]);
}

#[test]
fn all_faults_are_told_at_once_by_place_and_path() {
    let text = r#"{
  "env": {"A": {"required": 3, "generator": "secrets", "valeu": 1}, "B-C": "x", "D": ["x"]},
  "formation": {"web": {"quantity": 1001}, "we b": {}, "é": 1},
  "addons": [{"as": "X"}, 7],
  "healthchecks": {"web": [{"type": "ready"}, {"path": "/", "port": 0}]},
  "cron": [{"command": "x"}]
}"#;
    assert_eq!(
        said(text),
        [
            "error 2:29: env.A.required: expected true or false, found a number",
            "error 2:45: env.A.generator: expected one of secret, found `secrets` / Did you mean `secret`?",
            "warning 2:56: env.A.valeu: this key is not known and has no effect / Did you mean `value`?",
            "error 2:69: env.B-C: not the name of a config var / Start with a letter or `_`, go on with letters, digits and `_`.",
            "error 2:86: env.D: expected text, found a list",
            "error 3:37: formation.web.quantity: expected a whole number from 0 to 1000, found 1001",
            "error 3:44: formation: `we b` is not a process type: use 1 to 63 letters, digits, `_` and `-`",
            "error 3:56: formation: `é` is not a process type: use 1 to 63 letters, digits, `_` and `-`",
            "error 4:14: addons[0]: `plan` is missing / It is the service's name, such as \"sqlite\".",
            "error 4:27: addons[1]: expected text, found a number",
            "error 5:37: healthchecks.web[0].type: expected one of startup, readiness, liveness, found `ready`",
            "error 5:69: healthchecks.web[1].port: expected a whole number from 1 to 65535, found 0",
            "error 5:47: healthchecks.web[1]: `type` is missing / It is startup, readiness or liveness.",
            "error 6:12: cron[0]: `schedule` is missing / It is when to run it, such as \"@daily\".",
        ]
    );
}

#[test]
fn a_check_that_says_more_than_is_done_is_warned_of_where_it_stands() {
    let text = r#"{"healthchecks": {
  "web": [{"type": "startup", "path": "/", "scheme": "HTTPS"},
          {"type": "liveness", "path": "/", "scheme": "http", "onFailure": {"command": ["./tell"]}},
          {"type": "liveness", "command": ["./alive"], "path": "/up", "port": 5000},
          {"type": "liveness", "path": "/", "scheme": "gopher"}],
  "worker": [{"type": "startup", "path": "/up"}, {"type": "startup", "command": ["./queue"]}, {"type": "startup", "port": 9100}]
}}"#;
    assert_eq!(
        said(text),
        [
            "warning 2:54: healthchecks.web[0]: the check is left out, since processes are asked by plain HTTP only / Leave out `scheme`, or let a `command` ask.",
            "warning 3:63: healthchecks.web[1].onFailure: nothing is run or asked when a check fails / A failed check is told of in the logs.",
            "warning 4:56: healthchecks.web[2].path: it has no effect beside `command` / Make it a check of its own.",
            "warning 4:71: healthchecks.web[2].port: it has no effect beside `command` / Make it a check of its own.",
            "error 5:55: healthchecks.web[3].scheme: expected http or https",
            "warning 6:14: healthchecks.worker[0]: the check is left out, since only a web process has a port of its own / Give the `port` that it listens on, or a `command`.",
        ]
    );
    let empty = r#"{"healthchecks": {"web": [{"type": "startup", "command": []}]}}"#;
    assert_eq!(said(empty), ["error 1:58: healthchecks.web[0].command: there is nothing to run / Write the program and its arguments."]);
    let (app, _) = parse(text);
    let declared = [ProcessType { name: kind("web"), command: "x".to_owned() }];
    let unknown: Vec<_> = app.unknown_types(&declared).iter().map(ToString::to_string).collect();
    assert_eq!(unknown, ["there is no process type `worker`; the Procfile declares web"]);
    let checks = |kind_name: &str| app.health[&kind(kind_name)].iter().map(HealthCheck::label).collect::<Vec<_>>();
    assert_eq!(
        (checks("web"), checks("worker")),
        (vec!["of /".into(), "by `./alive`".into(), "of /".into()], vec!["by `./queue`".into(), "of /".to_owned()])
    );
}

#[test]
fn what_we_do_not_know_is_noted_and_tolerated() {
    assert_eq!(
        said(r#"{"image": "x", "formations": {}}"#),
        [
            "note 1:2: image: this key is not known and has no effect",
            "warning 1:16: formations: this key is not known and has no effect / Did you mean `formation`?",
        ]
    );
    let (app, diagnostics) = parse(
        r#"{"env": {"HEROKU_APP_NAME": {"required": true}, "N": 3, "F": {"value": true}}, "formation": {"release": {"quantity": 1}}}"#,
    );
    assert!(!has_errors(&diagnostics), "{diagnostics:?}");
    assert_eq!(app.env.keys().collect::<Vec<_>>(), ["F", "N"]);
    assert_eq!((app.env["N"].value.as_deref(), app.env["F"].value.as_deref()), (Some("3"), Some("true")));
    assert!(app.formation.is_empty());
    let severities: Vec<_> = diagnostics.iter().map(|d| d.severity).collect();
    assert_eq!(severities, [Severity::Warning, Severity::Note, Severity::Note, Severity::Warning]);
    let (app, diagnostics) = parse("{\"name\": \"a\",\n \"name\": \"b\", \"stack\": null}");
    assert_eq!(app.name.as_deref(), Some("b"));
    assert_eq!(diagnostics[0].to_string(), "2:2: name: the key stands here again; this value replaces the one before");
    assert_eq!(parse("{}"), (AppJson::default(), vec![]));
}

#[test]
fn what_is_no_json_is_told_by_its_place() {
    assert_eq!(said("{\n  \"a\": 1,\n}"), ["error 3:1: this is not JSON: key must be a string"]);
    assert_eq!(said("{\"é\": x}"), ["error 1:7: this is not JSON: expected value"]);
    assert_eq!(said(""), ["error 1:1: this is not JSON: EOF while parsing a value"]);
    assert_eq!(said("[]"), ["error 1:1: expected a table, found a list"]);
    assert_eq!(said("\u{feff}{\"name\": 1}").len(), 2);
    assert_eq!(said("\u{feff}{\"name\": 1}")[1], "error 1:11: name: expected text, found a number");
    assert_eq!(said(r#"{"name": "\ud800"}"#).len(), 1, "half a character is a fault, not a panic");
    assert!(has_errors(&parse_bytes(&vec![b' '; diagnostic::MAX_FILE + 1]).1));
    assert!(has_errors(&parse_bytes(b"{\"a\xff\": 1}").1));
}

#[test]
fn nesting_ends_somewhere() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[", ""), ("{\"env\":", "")] {
        let n = 20_000;
        let middle = if open == "[" { "" } else { "1" };
        let (_, diagnostics) = parse(&format!("{{\"x\": {}{middle}{}}}", open.repeat(n), close.repeat(n)));
        assert!(!diagnostics.is_empty(), "{open}");
    }
}

#[test]
fn no_message_and_no_debug_shows_a_value() {
    let text = r#"{"env": {"A": "hunter2", "B": {"value": "hunter2"}, "C": {"value": ["hunter2"]}, "D": {"value": "hunter2\u0000"}, "E": {"value": {"x": "hunter2"}}}}"#;
    let (app, diagnostics) = parse(text);
    assert_eq!(diagnostics.len(), 3);
    assert!(!format!("{app:?} {diagnostics:?}").contains("hunter2"));
}

proptest! {
    #[test]
    fn any_bytes_are_answered_within_the_file(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        within(&bytes, &parse_bytes(&bytes).1)?;
    }

    #[test]
    fn any_json_is_answered_within_the_file(
        value in "(\\{\"(env|formation|cron|addons|healthchecks|é|scripts)\": ?)(\\{\"(web|A|type|as|é)\":|\\[){0,3}(1|\"é\"|null|true|1e9|-1)[\\]}]{0,4}",
    ) {
        within(value.as_bytes(), &parse(&value).1)?;
    }
}

fn within(bytes: &[u8], diagnostics: &[Diagnostic]) -> Result<(), TestCaseError> {
    for d in diagnostics {
        prop_assert!(d.span.start <= d.span.end && d.span.end <= bytes.len(), "{d:?}");
        prop_assert!(d.line >= 1 && d.column >= 1);
    }
    Ok(())
}

#[test]
fn shapes_of_real_apps_are_taken_without_a_word() {
    let (app, remarks) = parse(r#"{"addons": "sentry", "environments": {"test": {"scripts": {"test": "pytest", "test-setup": "x"}}}}"#);
    assert_eq!(app.addons.iter().map(|a| a.plan.as_str()).collect::<Vec<_>>(), ["sentry"]);
    assert!(remarks.is_empty(), "{remarks:?}");
    assert_eq!(app.for_tests().test.as_deref(), Some("pytest"));
}

#[test]
fn tests_have_what_all_deploys_have_and_their_own_on_top() {
    let text = r#"{"env": {"A": "1", "B": "1"}, "addons": ["sqlite"], "scripts": {"test": "never"},
 "environments": {"test": {"env": {"B": "2"}, "scripts": {"test": {"command": "t"}, "test-setup": "s"}}}}"#;
    let test = parse(text).0.for_tests();
    assert_eq!((test.test.as_deref(), test.test_setup.as_deref(), test.addons.len()), (Some("t"), Some("s"), 1));
    let values: Vec<Option<&str>> = test.env.values().map(|var| var.value.as_deref()).collect();
    assert_eq!(values, [Some("1"), Some("2")]);
    let none = parse(r#"{"scripts": {"test": "never"}, "environments": {"test": {"scripts": {"test": " "}}}}"#).0.for_tests();
    assert_eq!(none.test, None, "what is outside of environments.test is no test");
}

#[test]
fn a_check_brings_nothing_into_a_request_or_the_log_and_has_time() {
    let text = r#"{"healthchecks": {"web": [{"type": "startup", "path": "/x\r\nInjected: y"}, {"type": "liveness", "command": ["/x\u0000"]},
 {"type": "readiness", "httpHeaders": [{"name": "A", "value": "b\nc"}]}, {"type": "startup", "timeout": 0}]}}"#;
    assert_eq!(
        said(text),
        [
            "error 1:27: healthchecks.web[0]: control characters have no place here",
            "error 1:77: healthchecks.web[1]: control characters have no place here",
            "error 2:2: healthchecks.web[2]: control characters have no place here",
            "error 2:74: healthchecks.web[3]: a timeout of 0 can never be met",
        ]
    );
}
