//! The Procfile: which process types an app has and what each of them runs.
//! Read as permissively as foreman does, told as strictly as Heroku does.
//!
//! **Invariant:** every line that is neither blank nor a comment becomes a process type or has a diagnostic.

use super::ProcessType;
use crate::diagnostic::{self, Diagnostic, Remarks, Severity, excerpt};
use crate::ids::{MAX_LABEL, TypeName};
use std::collections::BTreeMap;

/// The process types of a Procfile, in its order, and what there is to say about it. With an error among the diagnostics the Procfile
/// cannot be used; the types are then those that could be read.
pub fn parse(text: &str) -> (Vec<ProcessType>, Vec<Diagnostic>) {
    let mut reader = Reader { remarks: Remarks::new(text), types: Vec::new(), lines: BTreeMap::new() };
    let mut offset = 0;
    if text.starts_with('\u{feff}') {
        offset = '\u{feff}'.len_utf8();
        reader.remarks.add(Severity::Warning, 0..offset, "a byte order mark is stripped", "Save the file as UTF-8 without one.");
    }
    for line in text[offset..].split_inclusive('\n') {
        let content = line.strip_suffix('\n').unwrap_or(line);
        // CRLF, and what a second conversion made of it.
        reader.line(content.trim_end_matches('\r'), offset);
        offset += line.len();
    }
    if reader.types.is_empty() {
        reader.remarks.add(Severity::Error, 0..0, "no process type is declared", "Write one per line: `web: <command>`.");
    }
    (reader.types, reader.remarks.finish())
}

/// The same for the bytes of a file: at most 1 MiB, UTF-8.
pub fn parse_bytes(bytes: &[u8]) -> (Vec<ProcessType>, Vec<Diagnostic>) {
    match diagnostic::text(bytes) {
        Ok(text) => parse(text),
        Err(refused) => (Vec::new(), vec![refused]),
    }
}

/// Whether a process type can be a DNS label as it is, which the host name of its instances is made of.
pub fn is_label(name: &str) -> bool {
    name.len() <= MAX_LABEL
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.is_empty()
        && !name.starts_with('-')
        && !name.ends_with('-')
}

struct Reader<'a> {
    remarks: Remarks<'a>,
    types: Vec<ProcessType>,
    /// Where each type was declared.
    lines: BTreeMap<TypeName, usize>,
}

impl Reader<'_> {
    /// One line without its end; `offset` is where it begins.
    fn line(&mut self, line: &str, offset: usize) {
        let body = line.trim_start();
        let start = offset + line.len() - body.len();
        if body.is_empty() || body.starts_with('#') {
            return;
        }
        if diagnostic::is_conflict_marker(line) {
            let help = "Resolve the merge, then remove the markers.";
            return self.remarks.add(Severity::Error, offset..offset + line.len(), "a merge conflict is not resolved here", help);
        }
        let name_end = body.find(|c: char| !is_name_char(c)).unwrap_or(body.len());
        let (name, rest) = body.split_at(name_end);
        let colon = start + name_end;
        let Some(rest) = rest.strip_prefix(':').filter(|_| !name.is_empty()) else {
            return self.drop_unmatched(body, name, start);
        };
        // foreman and Heroku differ here. An indented line with a name that no one would give is more likely meant to go on with the
        // line before (`  --bind: x`) than to be a process type.
        if start > offset {
            if !is_label(name) {
                let why = "it is indented, and there are no continuation lines";
                return self.drop(body, start..start + body.len(), why, "Write a process type at the start of its line.");
            }
            let help = "Write a process type at the start of its line.";
            self.remarks.add(Severity::Warning, offset..start, format!("blanks before `{name}` are stripped"), help);
        }
        let name_span = start..colon;
        let Ok(kind) = name.parse::<TypeName>() else {
            let why = format!("a process type has at most {MAX_LABEL} characters, this one has {}", name.len());
            return self.drop(body, name_span, &why, "");
        };
        let command = rest.trim_start();
        let command_start = colon + 1 + rest.len() - command.len();
        if command.is_empty() {
            let help = "Write the command after the colon, or remove the line.";
            return self.remarks.add(Severity::Error, name_span, format!("`{name}` has no command"), help);
        }
        if let Some(at) = command.find('\0') {
            let span = command_start + at..command_start + at + 1;
            return self.remarks.add(Severity::Error, span, format!("the command of `{name}` has a NUL byte"), "Remove it.");
        }
        if let Some(first) = self.lines.get(&kind) {
            let message = format!("`{name}` is declared twice, first on line {first}");
            return self.remarks.add(Severity::Error, name_span, message, "Rename or remove one of them.");
        }
        self.lines.insert(kind.clone(), self.remarks.line(start));
        self.remark_name(name, start);
        self.remark_command(name, command, command_start);
        self.types.push(ProcessType { name: kind, command: command.to_owned() });
    }

    /// A line that the grammar does not match: says which rule it breaks, at the character that breaks it.
    fn drop_unmatched(&mut self, body: &str, name: &str, start: usize) {
        let rest = &body[name.len()..];
        let at = start + name.len();
        let first = rest.chars().next();
        if !body.contains(':') {
            self.drop(body, start..start + body.len(), "it has no `:`", "Write it as `<type>: <command>`, or as a comment after `#`.");
        } else if name.is_empty() && first == Some(':') {
            self.drop(body, at..at + 1, "it has no process type before the colon", "Write it as `<type>: <command>`.");
        } else if !name.is_empty() && rest.trim_start().starts_with(':') {
            let why = "there are blanks between the process type and the colon";
            self.drop(body, at..at + rest.find(':').unwrap_or_default(), why, &format!("Write `{name}:`."));
        } else {
            let width = first.map_or(0, char::len_utf8);
            let why = format!("a process type cannot have `{}` in it", excerpt(&rest[..width]));
            self.drop(body, at..at + width, &why, "Use letters, digits, `-` and `_`.");
        }
    }

    fn drop(&mut self, body: &str, span: std::ops::Range<usize>, why: &str, help: &str) {
        self.remarks.add(Severity::Warning, span, format!("the line `{}` is dropped: {why}", excerpt(body.trim_end())), help);
    }

    fn remark_name(&mut self, name: &str, start: usize) {
        let span = start..start + name.len();
        let lower = name.to_ascii_lowercase();
        if name != lower && (lower == TypeName::WEB || lower == TypeName::RELEASE) {
            let message = format!("`{name}` is an ordinary process type: only lower case `{lower}` is special");
            self.remarks.add(Severity::Warning, span, message, format!("Write `{lower}`."));
        } else if !is_label(name) {
            let message = format!("`{name}` cannot be a part of a host name; Heroku refuses or changes it");
            self.remarks.add(Severity::Warning, span, message, "Use lower-case letters, digits and inner dashes.");
        } else if name == "run" {
            let message = "the instances of `run` share the names `run.1`, `run.2`, … with one-off processes";
            self.remarks.add(Severity::Warning, span, message, "Give it another name.");
        }
    }

    fn remark_command(&mut self, name: &str, command: &str, start: usize) {
        if command.starts_with('#') {
            let message = format!("the command of `{name}` is a comment to its shell: it ends at once");
            self.remarks.add(Severity::Warning, start..start + command.len(), message, "Put the `#` at the start of the line.");
        }
        if let Some(at) = command.find('\r') {
            let message = format!("the command of `{name}` has a carriage return in it, which is kept");
            self.remarks.add(Severity::Warning, start + at..start + at + 1, message, "End lines with a line feed.");
        }
        if command.trim_end().ends_with('\\') {
            let at = start + command.trim_end().len() - 1;
            let message = format!("the command of `{name}` ends here: a backslash does not continue it on the next line");
            self.remarks.add(Severity::Warning, at..at + 1, message, "Write the command on one line, or call a script.");
        }
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

#[cfg(test)]
mod tests;
