//! What `--json` prints, held against the schemas in `docs/json/`. The fixtures call this for each such output of every test.

use jsonschema::Validator;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/json");

fn schema(name: &str) -> Option<Validator> {
    let path: PathBuf = Path::new(FOLDER).join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).ok()?;
    let schema: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Some(jsonschema::validator_for(&schema).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// The schema of a command line: of its longest beginning that has one, `ps scale` before `ps`.
fn of_command(args: &[&str]) -> Option<(String, Validator)> {
    let mut words = Vec::new();
    let mut is_value = false;
    for arg in args {
        if !std::mem::replace(&mut is_value, matches!(*arg, "-a" | "--app" | "--server")) && !arg.starts_with('-') {
            words.extend(arg.split(':'));
        }
    }
    (1..=words.len()).rev().map(|n| words[..n].join("-")).find_map(|name| schema(&name).map(|s| (name, s)))
}

/// Fails where the output of `dozen ARGS` is no JSON or has another shape than is documented. Without `--json` among them nothing is looked at.
#[track_caller]
pub(crate) fn check(args: &[&str], out: &str) {
    if !args.contains(&"--json") {
        return;
    }
    let answer = of_command(args);
    for line in out.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("dozen {args:?} printed no JSON ({e}): {line}"));
        if value.get("event").is_some() {
            event(&value);
            continue;
        }
        let Some((name, schema)) = &answer else { panic!("docs/json has no schema for dozen {args:?}, which printed {line}") };
        fits(schema, name, &value);
    }
}

/// The same for an event.
#[track_caller]
pub(crate) fn event(value: &Value) {
    static EVENTS: OnceLock<Validator> = OnceLock::new();
    fits(EVENTS.get_or_init(|| schema("event").expect("docs/json/event.json")), "event", value);
}

#[track_caller]
fn fits(schema: &Validator, name: &str, value: &Value) {
    let wrong: Vec<String> = schema.iter_errors(value).map(|e| format!("{e} at {}", e.instance_path())).collect();
    assert!(wrong.is_empty(), "not of docs/json/{name}.json: {value}\n{}", wrong.join("\n"));
}

#[test]
fn another_shape_is_found() {
    let fails = |args: &[&str], out: &str| {
        let (args, out) = (args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>(), out.to_owned());
        std::panic::catch_unwind(move || check(&args.iter().map(String::as_str).collect::<Vec<_>>(), &out)).is_err()
    };
    assert!(!fails(&["down", "--json"], "{\"deploy\":\"shop/dev\",\"stopped\":true}\n"));
    assert!(fails(&["down", "--json"], "{\"deploy\":\"shop/dev\",\"stopped\":\"yes\"}\n"));
    assert!(fails(&["down", "--json"], "Stopped shop/dev\n"));
    assert!(fails(&["-a", "down", "nothing", "--json"], "{}\n"), "a value of -a is no command");
    assert!(fails(&["up", "--json"], "{\"event\":\"ready\",\"release\":1}\n"));
    assert!(!fails(&["down"], "Stopped shop/dev\n"));
}
