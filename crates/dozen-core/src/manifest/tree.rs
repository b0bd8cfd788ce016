//! A tree of values that know where in their file they stand, of JSON or of TOML, and the shapes that are asked of it.
//! A typed deserializer stops at its first fault; a person wants all of them at once, each by line, column and path.

use crate::diagnostic::{Diagnostic, Remarks, Severity, did_you_mean, excerpt};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// Deeper values than any known shape has are not looked into.
const MAX_DEPTH: usize = 16;
/// More is a slip; nothing that a manifest times takes longer.
const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Null,
    Flag(bool),
    /// As it is written, without underscores.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Table(Vec<Member>),
    /// What no shape asks for: a date, a value below [`MAX_DEPTH`].
    Other,
}

/// Where a file is not what it should be, and why.
pub(super) type Unreadable = (Range<usize>, String);

/// A key and its value.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) key: String,
    pub(super) key_span: Range<usize>,
    pub(super) node: Node,
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Flag(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other => "something else",
        }
    }
}

/// Reads JSON. The error is where it is no JSON and why.
pub(super) fn from_json(text: &str) -> Result<Node, Unreadable> {
    let refused = |e: &serde_json::Error, within: &str| {
        let start = within.as_ptr() as usize - text.as_ptr() as usize;
        let line: usize = within.split_inclusive('\n').take(e.line().saturating_sub(1)).map(str::len).sum();
        let at = text.floor_char_boundary((start + line + e.column().saturating_sub(1)).min(text.len()));
        let whole = e.to_string();
        let message = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(message, _)| message);
        (at..at, message.to_owned())
    };
    let root: &RawValue = serde_json::from_str(text).map_err(|e| refused(&e, text))?;
    let mut fault = None;
    let node = json_node(root.get(), text, 0, &mut |e, within| {
        fault.get_or_insert(refused(e, within));
    });
    fault.map_or(Ok(node), Err)
}

fn json_node<'a>(raw: &'a str, text: &'a str, depth: usize, fault: &mut dyn FnMut(&serde_json::Error, &'a str)) -> Node {
    // A raw value is a slice of the text that it was read from, so its address tells its place.
    let place = |part: &str| {
        let start = part.as_ptr() as usize - text.as_ptr() as usize;
        start..start + part.len()
    };
    let mut note = |e: serde_json::Error| fault(&e, raw);
    let value = match raw.as_bytes().first() {
        Some(b'{' | b'[') if depth == MAX_DEPTH => Value::Other,
        Some(b'{') => {
            let members = serde_json::from_str::<Members<'a>>(raw).map_err(&mut note).map_or_else(|_| Vec::new(), |m| m.0);
            let member = |(key, value): (&'a RawValue, &'a RawValue)| Member {
                key: serde_json::from_str(key.get()).unwrap_or_else(|_| key.get().to_owned()),
                key_span: place(key.get()),
                node: json_node(value.get(), text, depth + 1, fault),
            };
            Value::Table(members.into_iter().map(member).collect())
        }
        Some(b'[') => {
            let items = serde_json::from_str::<Vec<&'a RawValue>>(raw).map_err(&mut note).unwrap_or_default();
            Value::List(items.into_iter().map(|item| json_node(item.get(), text, depth + 1, fault)).collect())
        }
        Some(b'"') => serde_json::from_str(raw).map_err(note).map_or(Value::Other, Value::Text),
        Some(b't') => Value::Flag(true),
        Some(b'f') => Value::Flag(false),
        Some(b'n') => Value::Null,
        _ => Value::Number(raw.to_owned()),
    };
    Node { span: place(raw), value }
}

/// The members of a JSON object in their order, equal keys among them.
struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Collect<'a> {
            type Value = Members<'a>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a table")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'a>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect(std::marker::PhantomData))
    }
}

/// Reads TOML. The error is where it is no TOML and why.
pub(super) fn from_toml(text: &str) -> Result<Node, Unreadable> {
    let root = DeTable::parse(text).map_err(|e| (e.span().unwrap_or(0..0), e.message().to_owned()))?;
    let span = root.span();
    Ok(Node { span, value: toml_table(root.into_inner(), 0) })
}

fn toml_table(table: DeTable<'_>, depth: usize) -> Value {
    if depth == MAX_DEPTH {
        return Value::Other;
    }
    let member = |(key, value): (toml::Spanned<std::borrow::Cow<'_, str>>, toml::Spanned<DeValue<'_>>)| Member {
        key_span: key.span(),
        key: key.into_inner().into_owned(),
        node: toml_node(value, depth + 1),
    };
    let mut members: Vec<Member> = table.into_iter().map(member).collect();
    members.sort_by_key(|m| m.key_span.start);
    Value::Table(members)
}

fn toml_node(value: toml::Spanned<DeValue<'_>>, depth: usize) -> Node {
    let span = value.span();
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(n) => Value::Number(n.to_string()),
        DeValue::Float(n) => Value::Number(n.as_str().to_owned()),
        DeValue::Boolean(flag) => Value::Flag(flag),
        DeValue::Array(items) if depth < MAX_DEPTH => Value::List(items.into_iter().map(|item| toml_node(item, depth + 1)).collect()),
        DeValue::Table(table) => toml_table(table, depth),
        DeValue::Array(_) | DeValue::Datetime(_) => Value::Other,
    };
    Node { span, value }
}

/// Asks shapes of nodes and notes every one that has another. `null` is taken for absent without a word.
pub(super) struct Shape<'r, 'a> {
    remarks: &'r mut Remarks<'a>,
    /// How bad an unknown key is.
    unknown: Severity,
}

impl<'r, 'a> Shape<'r, 'a> {
    pub(super) fn new(remarks: &'r mut Remarks<'a>, unknown: Severity) -> Self {
        Self { remarks, unknown }
    }

    pub(super) fn add(&mut self, severity: Severity, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.remarks.add(severity, span, message, help);
    }

    /// The members; where a key stands twice, the last.
    pub(super) fn table(&mut self, node: Node, path: &str) -> Option<Vec<Member>> {
        let Value::Table(members) = node.value else { return self.mismatch(&node, path, "a table") };
        let mut last: BTreeMap<String, usize> = BTreeMap::new();
        for (i, member) in members.iter().enumerate() {
            if last.insert(member.key.clone(), i).is_some() {
                let message = format!("{}: the key stands here again; this value replaces the one before", join(path, &member.key));
                self.add(Severity::Warning, member.key_span.clone(), message, "Remove one of them.");
            }
        }
        let is_last = |(i, member): &(usize, Member)| last.get(&member.key) == Some(i);
        let members = members.into_iter().enumerate().filter(is_last).map(|(_, member)| member);
        Some(members.filter(|m| !matches!(m.node.value, Value::Null)).collect())
    }

    pub(super) fn list(&mut self, node: Node, path: &str) -> Vec<Node> {
        match node.value {
            Value::List(items) => items,
            _ => self.mismatch(&node, path, "a list").unwrap_or_default(),
        }
    }

    pub(super) fn text(&mut self, node: Node, path: &str) -> Option<String> {
        match node.value {
            Value::Text(text) => Some(text),
            _ => self.mismatch(&node, path, "text"),
        }
    }

    pub(super) fn texts(&mut self, node: Node, path: &str) -> Vec<String> {
        let items = self.list(node, path);
        items.into_iter().enumerate().filter_map(|(i, item)| self.text(item, &format!("{path}[{i}]"))).collect()
    }

    pub(super) fn flag(&mut self, node: Node, path: &str) -> Option<bool> {
        match node.value {
            Value::Flag(flag) => Some(flag),
            _ => self.mismatch(&node, path, "true or false"),
        }
    }

    pub(super) fn count(&mut self, node: Node, path: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        let Value::Number(number) = &node.value else { return self.mismatch(&node, path, &expected()) };
        let found = number.parse().ok().filter(|n| range.contains(n));
        if found.is_none() {
            let message = format!("{path}: expected {}, found {}", expected(), excerpt(number));
            self.add(Severity::Error, node.span, message, "");
        }
        found
    }

    /// Which of `words` it is.
    pub(super) fn word(&mut self, node: Node, path: &str, words: &[&str]) -> Option<usize> {
        let expected = words.join(", ");
        let Value::Text(text) = &node.value else { return self.mismatch(&node, path, &expected) };
        let found = words.iter().position(|w| w == text);
        if found.is_none() {
            let message = format!("{path}: expected one of {expected}, found `{}`", excerpt(text));
            self.add(Severity::Error, node.span, message, did_you_mean(text, words.iter().copied()));
        }
        found
    }

    /// `"500ms"`, `"30s"`, `"1m 30s"`.
    pub(super) fn duration(&mut self, node: Node, path: &str) -> Option<Duration> {
        let parsed = match &node.value {
            Value::Text(text) => text.parse::<jiff::SignedDuration>().ok().and_then(|d| Duration::try_from(d).ok()),
            _ => None,
        };
        let found = parsed.filter(|d| *d <= MAX_DURATION);
        if found.is_none() {
            let what = if parsed.is_some() { "at most 24 hours" } else { "a duration" };
            self.add(Severity::Error, node.span, format!("{path}: expected {what}"), "Write it as \"500ms\", \"30s\" or \"2m\".");
        }
        found
    }

    /// A number of seconds, as app.json has them, or a duration.
    pub(super) fn seconds(&mut self, node: Node, path: &str) -> Option<Duration> {
        if let Value::Number(_) = node.value {
            let most = u32::try_from(MAX_DURATION.as_secs()).unwrap_or(u32::MAX);
            return self.count(node, path, 0..=most).map(|n| Duration::from_secs(n.into()));
        }
        self.duration(node, path)
    }

    /// A key that is a process type.
    pub(super) fn process_type(&mut self, member: &Member, path: &str) -> Option<crate::ids::TypeName> {
        let refused = |e: crate::ids::InvalidName| {
            let message = format!("{path}: `{}` is not a process type: {}", excerpt(&member.key), e.rule);
            self.add(Severity::Error, member.key_span.clone(), message, "");
        };
        member.key.parse().map_err(refused).ok()
    }

    /// A key that no shape has.
    pub(super) fn unknown(&mut self, key: &str, span: Range<usize>, path: &str, known: &[&str]) {
        let near = did_you_mean(key, known.iter().copied());
        // A slip is worth more than a note: its key has no effect.
        let severity = if near.is_empty() { self.unknown } else { self.unknown.max(Severity::Warning) };
        let help = match self.unknown {
            Severity::Error if near.is_empty() => format!("Known here: {}.", known.join(", ")),
            _ => near,
        };
        self.add(severity, span, format!("{}: this key is not known and has no effect", excerpt(path)), help);
    }

    /// A key that must be there. `table` is where it is missing.
    pub(super) fn missing(&mut self, table: Range<usize>, path: &str, key: &str, what: &str) {
        self.add(Severity::Error, table.start..table.start, format!("{path}: `{key}` is missing"), format!("It is {what}."));
    }

    pub(super) fn mismatch<T>(&mut self, node: &Node, path: &str, expected: &str) -> Option<T> {
        let colon = if path.is_empty() { "" } else { ": " };
        let message = format!("{path}{colon}expected {expected}, found {}", node.value.kind());
        self.add(Severity::Error, node.span.clone(), message, "");
        None
    }
}

/// The root of a file, or its remark that there is none.
pub(super) fn root<'a>(text: &'a str, format: &str, read: fn(&str) -> Result<Node, Unreadable>) -> (Remarks<'a>, Option<Node>) {
    let mut remarks = Remarks::new(text);
    let bom = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    if bom > 0 {
        remarks.add(Severity::Warning, 0..bom, "a byte order mark is stripped", "Save the file as UTF-8 without one.");
    }
    match read(&text[bom..]) {
        Ok(mut node) => {
            shift(&mut node, bom);
            (remarks, Some(node))
        }
        Err((span, why)) => {
            let span = (span.start + bom).min(text.len())..(span.end + bom).min(text.len());
            remarks.add(Severity::Error, span, format!("this is not {format}: {}", why.lines().collect::<Vec<_>>().join("; ")), "");
            (remarks, None)
        }
    }
}

/// Moves every span by what was stripped before.
fn shift(node: &mut Node, by: usize) {
    if by == 0 {
        return;
    }
    node.span = node.span.start + by..node.span.end + by;
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| shift(item, by)),
        Value::Table(members) => members.iter_mut().for_each(|m| {
            m.key_span = m.key_span.start + by..m.key_span.end + by;
            shift(&mut m.node, by);
        }),
        _ => {}
    }
}

/// A path and a key below it.
pub(super) fn join(path: &str, key: &str) -> String {
    let key = excerpt(key);
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// What a file that could not even be read as text answers.
pub(super) fn refused<T: Default>(diagnostic: Diagnostic) -> (T, Vec<Diagnostic>) {
    (T::default(), vec![diagnostic])
}
