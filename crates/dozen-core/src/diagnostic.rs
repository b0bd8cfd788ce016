//! What a parser has to say about its input: where, what, and what to do. No factor: every factor's parser uses it.

use std::fmt;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing was dropped.
    Note,
    /// Something was dropped or corrected.
    Warning,
    /// The input cannot be used.
    Error,
}

/// One remark on one place of an input file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// Byte range in the text as it was handed to the parser, for the annotated excerpt.
    pub span: std::ops::Range<usize>,
    /// What is wrong and what was dropped, without a full stop. Never carries a secret's value.
    pub message: String,
    /// What to do, as a sentence; empty where the message says it.
    pub help: String,
}

impl Diagnostic {
    /// A remark on `span` (bytes) of `text`; line and column are counted here.
    pub fn at(severity: Severity, text: &str, span: std::ops::Range<usize>, message: impl Into<String>) -> Self {
        let start = text.floor_char_boundary(span.start);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        Self {
            severity,
            line: before.matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            span,
            message: message.into(),
            help: String::new(),
        }
    }

    /// The same with a cure.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}

impl fmt::Display for Diagnostic {
    /// `3:7: duplicate process type`, without the file's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// Whether any of them is an error.
pub fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|d| d.severity == Severity::Error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters_from_one() {
        let text = "é: x\nwéb: y\n";
        let at = text.find("éb").expect("present");
        let d = Diagnostic::at(Severity::Warning, text, at..at + 2, "m");
        assert_eq!((d.line, d.column), (2, 2));
        assert_eq!(d.to_string(), "2:2: m");
        let end = Diagnostic::at(Severity::Error, text, text.len() + 9..text.len() + 9, "end");
        assert_eq!((end.line, end.column), (3, 1));
    }
}
