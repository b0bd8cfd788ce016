//! What must hold of each parser, whatever the input: the fuzz targets call these, and so do the ordinary tests, with the inputs of
//! `fuzz/corpus`. Of slug files it is in `slug.rs`, of the framing of requests in `framing.rs`, of what else the
//! router reads in `port.rs`.

#![forbid(unsafe_code)]

pub mod framing;
pub mod port;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use dozen_core::config::dotenv;
use dozen_core::diagnostic::{Diagnostic, has_errors};
use dozen_core::ids::Generation;
use dozen_core::manifest::{app_json as json, dozen_toml as toml};
use dozen_core::port::{Domain, RouteTable};
use dozen_core::processes::procfile as procs;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A remark points into the text, between characters, and can be shown there.
fn remarks(data: &[u8], all: &[Diagnostic]) {
    let text = String::from_utf8_lossy(data);
    let lines = text.matches('\n').count() + 1;
    for remark in all {
        let span = remark.span.clone();
        assert!(span.start <= span.end && span.end <= text.len(), "{remark:?} lies outside of {} bytes", text.len());
        assert!(text.is_char_boundary(span.start) && text.is_char_boundary(span.end), "{remark:?} cuts a character");
        assert!(remark.line >= 1 && remark.line <= lines && remark.column >= 1, "{remark:?} is on no line of {lines}");
        assert!(!remark.message.is_empty() && !remark.message.contains('\n'), "{remark:?} is not one line");
        // As the command line shows it.
        let snippet = Snippet::source(&*text).path("input").annotation(AnnotationKind::Primary.span(span));
        let shown = Renderer::plain().render(&[Level::ERROR.primary_title(&*remark.message).element(snippet)]);
        assert!(!shown.is_empty());
    }
}

/// `Procfile`: names are unique, commands are one line, and what was read is read again from its plain form.
pub fn procfile(data: &[u8]) {
    let (processes, all) = procs::parse_bytes(data);
    remarks(data, &all);
    let names: BTreeSet<&str> = processes.iter().map(|p| p.name.as_str()).collect();
    assert!(names.len() == processes.len() || has_errors(&all), "a name is there twice without a word: {processes:?}");
    assert!(processes.iter().all(|p| !p.command.trim().is_empty() && !p.command.contains('\n')), "{processes:?}");
    assert!(!processes.is_empty() || has_errors(&all), "nothing is declared and nothing is said");
    if !has_errors(&all) {
        let plain: String = processes.iter().map(|p| format!("{}: {}\n", p.name, p.command)).collect();
        let (again, all) = procs::parse(&plain);
        assert!(again == processes && !has_errors(&all), "{processes:?} became {again:?}");
    }
}

/// `.env`: names are names, values can be carried, are never shown, and are read back from what [`dotenv::quote`] writes.
pub fn dotenv(data: &[u8]) {
    let (vars, all) = dotenv::parse_bytes(data);
    remarks(data, &all);
    for (name, value) in &vars {
        let letter = |c: char| c == '_' || c.is_ascii_alphabetic();
        assert!(name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit()), "{name:?} is no name");
        assert!(!["HEROKU_", "DOZEN_", "__"].iter().any(|p| name.starts_with(p)), "{name:?} is reserved");
        assert!(!value.contains('\0'), "{name} cannot be carried");
        // Values that are words of ours, or names, are no secrets.
        let telling = value.len() >= 16 && !value.contains(' ') && !vars.keys().any(|n| n.contains(value.as_str()));
        assert!(!telling || all.iter().all(|r| !r.message.contains(value.as_str())), "a remark shows the value of {name}");
    }
    let check = |vars: &BTreeMap<String, String>| {
        let plain: String = vars.iter().map(|(name, value)| format!("{name}={}\n", dotenv::quote(value))).collect();
        let (again, all) = dotenv::parse(&plain);
        assert!(again == *vars && !has_errors(&all), "{vars:?} became {again:?} by way of {plain:?}");
    };
    check(&vars);
    if let Ok(value) = std::str::from_utf8(data) {
        check(&BTreeMap::from([("A".to_owned(), value.replace('\0', "")), ("B".to_owned(), "2".to_owned())]));
    }
}

/// `app.json`: read twice it says the same, and what it requires is among what it declares.
pub fn app_json(data: &[u8]) {
    let (app, all) = json::parse_bytes(data);
    remarks(data, &all);
    assert_eq!((&app, &all), (&json::parse_bytes(data).0, &json::parse_bytes(data).1));
    assert!(app.required().all(|name| app.env.contains_key(name)));
    let _ = app.quantities();
}

/// `dozen.toml`: read twice it says the same, and a scratch folder lies within the app.
pub fn dozen_toml(data: &[u8]) {
    let (settings, all) = toml::parse_bytes(data);
    remarks(data, &all);
    assert_eq!((&settings, &all), (&toml::parse_bytes(data).0, &toml::parse_bytes(data).1));
    for folder in &settings.scratch {
        let plain = |part: &str| part != "..";
        assert!(!folder.starts_with('/') && !folder.contains('\0') && folder.split('/').all(plain), "{folder:?} leads out");
    }
    let _ = settings.unknown_types(&[]);
}

/// A route is found by name alone. The input is a line of names, with `*` for a fallback, and then a `Host` header.
pub fn route(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (names, host) = text.split_once('\n').unwrap_or((&text, ""));
    let domains = names.split(',').filter_map(|n| n.parse().ok()).filter(|d: &Domain| d.path().is_empty() && !d.is_wildcard());
    let names: BTreeSet<String> = domains.map(|d| d.host().to_owned()).collect();
    let led = names.iter().filter_map(|n| Some((n.parse().ok()?, Arc::new(n.clone()))));
    let fallback = text.split('\n').next().is_some_and(|n| n.split(',').any(|n| n == "*")).then(|| Arc::new("*".to_owned()));
    let table = RouteTable::led(led, Generation::default(), fallback);

    // The same, said the other way round: is the header one of the ways to write that name?
    let lower = host.to_ascii_lowercase();
    let is_written = |name: &str| {
        let Some(rest) = lower.strip_prefix(name) else { return false };
        let rest = rest.strip_prefix('.').unwrap_or(rest);
        rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
    };
    let wanted = names.iter().find(|name| is_written(name)).map(String::as_str).or(table.fallback.as_ref().map(|_| "*"));
    assert_eq!(table.lookup(host, "/").map(|r| r.as_str()), wanted, "{host:?} among {names:?}");
}
