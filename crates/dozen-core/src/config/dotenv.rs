//! The `.env` file: config of a developer's own deploy, beside the code and never in a slug.
//! No crate reads what people have: seven widely used parsers agree on few inputs. This is the dialect of `docs/iii-config.md`.
//!
//! Blanks round names and values are stripped, `export ` too; `#` begins a comment at the start of a line and after white space;
//! `'…'` is literal, `"…"` knows `\n \r \t \" \\ \$`, both may span lines; nothing is interpolated; of two equal names the last wins.
//!
//! **Invariant:** a diagnostic shows no value, and of what stands in a name's place only what is a valid name: a key that was pasted
//! without quotes must not end up in a log. For the same reason no one may print an excerpt of the file at a diagnostic's span.

use super::{ConfigError, check_name};
use crate::diagnostic::{self, Diagnostic, Remarks, Severity};
use std::collections::BTreeMap;
use std::ops::Range;

/// The variables of a `.env` and what there is to say about it. A warning tells of a line that was dropped; with an error among the
/// diagnostics it is not clear what the rest of the file means.
pub fn parse(text: &str) -> (BTreeMap<String, String>, Vec<Diagnostic>) {
    let mut reader = Reader { text, at: 0, remarks: Remarks::new(text), vars: BTreeMap::new(), lines: BTreeMap::new() };
    if text.starts_with('\u{feff}') {
        reader.at = '\u{feff}'.len_utf8();
        reader.remarks.add(Severity::Note, 0..reader.at, "a byte order mark is stripped", "");
    }
    while reader.at < text.len() {
        reader.entry();
    }
    (reader.vars, reader.remarks.finish())
}

/// The same for the bytes of a file: at most 1 MiB, UTF-8.
pub fn parse_bytes(bytes: &[u8]) -> (BTreeMap<String, String>, Vec<Diagnostic>) {
    match diagnostic::text(bytes) {
        Ok(text) => parse(text),
        Err(refused) => (BTreeMap::new(), vec![refused]),
    }
}

/// A value as it can be written after `NAME=`, on one line: [`parse`] reads it back. Bare where nothing in it means anything to this or
/// another parser, in single quotes where it can, else in double quotes.
pub fn quote(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:@%+,=".contains(&b);
    if !value.is_empty() && value.bytes().all(plain) {
        return value.to_owned();
    }
    if !value.contains(['\'', '\n', '\r']) {
        return format!("'{value}'");
    }
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '"' | '\\' | '$' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

struct Reader<'a> {
    text: &'a str,
    /// The start of the next line.
    at: usize,
    remarks: Remarks<'a>,
    vars: BTreeMap<String, String>,
    /// Where each variable was last set.
    lines: BTreeMap<String, usize>,
}

/// A value and the place after it, or why there is none.
struct Found {
    value: Result<String, Refusal>,
    /// The end of its last line, without the line feed.
    end: usize,
}

struct Refusal {
    severity: Severity,
    at: usize,
    why: &'static str,
    help: &'static str,
}

impl Reader<'_> {
    /// One line, or several where a quoted value spans them.
    fn entry(&mut self) {
        let start = self.at;
        let end = self.line_end(start);
        let line = &self.text[start..end];
        self.at = end + 1;
        let body = line.trim_start();
        if body.is_empty() || body.starts_with('#') {
            return;
        }
        let body_start = end - body.len();
        if diagnostic::is_conflict_marker(line.trim_end_matches('\r')) {
            let help = "Resolve the merge, then remove the markers.";
            return self.remarks.add(Severity::Error, start..end, "a merge conflict is not resolved here", help);
        }
        let Some(equals) = body.find('=') else {
            let span = body_start..body_start + body.trim_end().len();
            return self.drop(span, "it has no `=`", "Write it as `NAME=value`, or as a comment after `#`.");
        };
        let name = without_export(body[..equals].trim_end());
        let name_start = body_start + body[..equals].trim_end().len() - name.len();
        let name_span = name_start..name_start + name.len();
        let found = self.value(body_start + equals + 1, end);
        // What a refused value spans is dropped whole: no line from within quotes is ever taken for a variable.
        self.at = found.end + 1;
        let dropped = self.lines(start, found.end);
        let value = match found.value {
            Ok(value) => value,
            Err(Refusal { severity, at, why, help }) => {
                let of = if check_name(name).is_ok() { format!("`{name}` ({dropped})") } else { dropped };
                return self.remarks.add(severity, at..found.end, format!("{of} is dropped: {why}"), help);
            }
        };
        if let Err(refused) = check_name(name) {
            let (why, help) = match refused {
                ConfigError::Reserved(_) => {
                    (format!("`{name}` has a prefix that the platform keeps to itself"), "`HEROKU_`, `DOZEN_` and `__` are reserved.")
                }
                _ if name.is_empty() => ("it has no name before the `=`".to_owned(), "Write it as `NAME=value`."),
                _ => ("the name is not valid".to_owned(), "Start with a letter or `_`, go on with letters, digits and `_`."),
            };
            return self.remarks.add(Severity::Warning, name_span, format!("{dropped} is dropped: {why}"), help);
        }
        if let Some(first) = self.lines.get(name) {
            let message = format!("`{name}` is set again: this value replaces that of line {first}");
            self.remarks.add(Severity::Warning, name_span, message, "Remove one of them.");
        }
        self.lines.insert(name.to_owned(), self.remarks.line(start));
        self.vars.insert(name.to_owned(), value);
    }

    /// The value that begins after the `=` at `after`, on a line that ends at `line_end`.
    fn value(&mut self, after: usize, line_end: usize) -> Found {
        let rest = &self.text[after..line_end];
        let start = after + (rest.len() - rest.trim_start_matches(is_blank).len());
        match self.text.as_bytes().get(start) {
            Some(b'"') => self.double_quoted(start),
            Some(b'\'') => self.single_quoted(start),
            _ => self.unquoted(after, line_end),
        }
    }

    fn unquoted(&mut self, after: usize, line_end: usize) -> Found {
        let rest = &self.text[after..line_end];
        let comment = rest.char_indices().zip(rest.chars().skip(1)).find(|((_, c), next)| is_blank(*c) && *next == '#');
        let value = &rest[..comment.map_or(rest.len(), |((i, _), _)| i)];
        let start = after + (value.len() - value.trim_start_matches(is_blank).len());
        let value = value.trim_matches(is_blank);
        let refuse = |severity, at, why, help, end| Found { value: Err(Refusal { severity, at, why, help }), end };
        if value.starts_with("-----BEGIN ") && !value.contains("-----END ") {
            // Its lines would be taken for lines of the file, and the last one, which ends with `=`, for a variable.
            let end = self.text[line_end..].find("\n-----END ").map_or(self.text.len(), |i| self.line_end(line_end + i + 1));
            let why = "a key or certificate that spans lines needs quotes";
            return refuse(Severity::Error, start, why, "Put double quotes before its first and after its last line.", end);
        }
        if let Some(at) = value.find('\0') {
            return refuse(Severity::Warning, start + at, NUL, "Remove it.", line_end);
        }
        if let Some(at) = value.find('\r') {
            let message = "a carriage return in the middle of this line is kept as a part of the value";
            self.remarks.add(Severity::Warning, start + at..start + at + 1, message, "End lines with a line feed.");
        }
        self.note_interpolation(value, start);
        Found { value: Ok(value.to_owned()), end: line_end }
    }

    fn single_quoted(&self, quote: usize) -> Found {
        match self.text[quote + 1..].find('\'') {
            Some(length) => {
                let close = quote + 1 + length;
                self.closed(quote, close, self.text[quote + 1..close].replace("\r\n", "\n"))
            }
            None => self.unclosed(quote),
        }
    }

    fn double_quoted(&mut self, quote: usize) -> Found {
        let mut value = String::new();
        let mut unknown = None;
        let mut rest = self.text[quote + 1..].char_indices().peekable();
        while let Some((i, c)) = rest.next() {
            let at = quote + 1 + i;
            match (c, rest.peek().map(|(_, next)| *next)) {
                ('"', _) => {
                    if let Some(at) = unknown {
                        let message = "this is not an escape: the backslash is kept";
                        self.remarks.add(Severity::Note, at..at + 1, message, "Write `\\\\` for a backslash, or use single quotes.");
                    }
                    self.note_interpolation(&self.text[quote + 1..at], quote + 1);
                    return self.closed(quote, at, value);
                }
                ('\r', Some('\n')) => {}
                ('\\', Some(next @ ('n' | 'r' | 't' | '"' | '\\' | '$'))) => {
                    rest.next();
                    value.push(match next {
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        same => same,
                    });
                }
                ('\\', _) => {
                    unknown.get_or_insert(at);
                    value.push('\\');
                }
                (c, _) => value.push(c),
            }
        }
        self.unclosed(quote)
    }

    /// After a closing quote the line ends, but for a comment.
    fn closed(&self, quote: usize, close: usize, value: String) -> Found {
        let end = self.line_end(close);
        let after = &self.text[close + 1..end];
        let tail = after.trim_start_matches(is_blank);
        let tail_start = end - tail.len();
        let is_comment = tail.starts_with('#') && tail.len() < after.len();
        let value = if !tail.is_empty() && !is_comment {
            let why = "there is more after the closing quote";
            Err(Refusal { severity: Severity::Warning, at: tail_start, why, help: "Quote the whole value, or put a blank before `#`." })
        } else if value.contains('\0') {
            Err(Refusal { severity: Severity::Warning, at: quote, why: NUL, help: "Remove it." })
        } else {
            Ok(value)
        };
        Found { value, end }
    }

    fn unclosed(&self, quote: usize) -> Found {
        let why = "the quote that opens here is never closed";
        let help = "Close it; a value that begins with a quote character goes into quotes of the other kind.";
        Found { value: Err(Refusal { severity: Severity::Error, at: quote, why, help }), end: self.text.len() }
    }

    /// Other parsers interpolate; someone who relies on it should learn why it does not happen here.
    fn note_interpolation(&mut self, raw: &str, start: usize) {
        let unescaped = |(i, _): &(usize, &str)| raw[..*i].bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 0;
        if let Some((i, _)) = raw.match_indices("${").find(unescaped) {
            let help = "Nothing is interpolated in `.env`; write the value out, or let the app compose it.";
            self.remarks.add(Severity::Note, start + i..start + i + 2, "`${` is kept as it is", help);
        }
    }

    fn drop(&mut self, span: Range<usize>, why: &str, help: &str) {
        let dropped = self.lines(span.start, span.end);
        self.remarks.add(Severity::Warning, span, format!("{dropped} is dropped: {why}"), help);
    }

    /// `this line`, or how many of them.
    fn lines(&self, start: usize, end: usize) -> String {
        let last = end.saturating_sub(usize::from(end == self.text.len() && self.text.ends_with('\n')));
        match (self.remarks.line(start), self.remarks.line(last)) {
            (first, last) if first == last => "this line".to_owned(),
            (first, last) => format!("all from line {first} to line {last}"),
        }
    }

    fn line_end(&self, from: usize) -> usize {
        self.text[from..].find('\n').map_or(self.text.len(), |i| from + i)
    }
}

const NUL: &str = "the value has a NUL byte, which no process environment can carry";

/// `export NAME` without `export`; `export` itself is a name like another where nothing follows.
fn without_export(name: &str) -> &str {
    match name.strip_prefix("export") {
        Some(rest) if rest.starts_with(is_blank) => rest.trim_start_matches(is_blank),
        _ => name,
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\u{b}' | '\u{c}')
}

#[cfg(test)]
mod tests;
