//! What a parser has to say about its input: where, what, and what to do. No factor: every factor's parser uses it.

use std::fmt;
use std::ops::Range;

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
    pub span: Range<usize>,
    /// What is wrong and what was dropped, without a full stop. Never carries a secret's value.
    pub message: String,
    /// What to do, as a sentence; empty where the message says it.
    pub help: String,
}

impl Diagnostic {
    /// A remark on `span` (bytes) of `text`; line and column are counted here.
    pub fn at(severity: Severity, text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
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

/// The most remarks that one parse answers; what is beyond is counted in a last one. A hostile file must not become a flood.
pub const MAX_REMARKS: usize = 500;

/// Collects remarks on one text. It knows where lines begin, so that a file with many faults is not counted through for each.
pub(crate) struct Remarks<'a> {
    text: &'a str,
    line_starts: Vec<usize>,
    list: Vec<Diagnostic>,
    /// How many did not fit, the worst of them, and where the first one was.
    beyond: Option<(usize, Severity, Range<usize>)>,
}

impl<'a> Remarks<'a> {
    /// None yet.
    pub(crate) fn new(text: &'a str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Self { text, line_starts, list: Vec::new(), beyond: None }
    }

    /// Notes a remark on `span`, with its cure (empty where the message says it).
    pub(crate) fn add(&mut self, severity: Severity, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        if self.list.len() == MAX_REMARKS {
            let (count, worst, _) = self.beyond.get_or_insert((0, severity, span));
            *count += 1;
            *worst = severity.max(*worst);
            return;
        }
        let diagnostic = self.place(severity, span, message.into(), help.into());
        self.list.push(diagnostic);
    }

    /// The line of a place, counted from 1.
    pub(crate) fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// All of them, in the order in which they were noted.
    pub(crate) fn finish(mut self) -> Vec<Diagnostic> {
        if let Some((count, worst, span)) = self.beyond.take() {
            let message = format!("{count} more remarks, on this line and after it, are left out");
            let last = self.place(worst, span, message, String::new());
            self.list.push(last);
        }
        self.list
    }

    fn place(&self, severity: Severity, span: Range<usize>, message: String, help: String) -> Diagnostic {
        let start = self.text.floor_char_boundary(span.start);
        let line = self.line(start);
        let column = self.text[self.line_starts[line - 1]..start].chars().count() + 1;
        Diagnostic { severity, line, column, span, message, help }
    }
}

/// The most bytes that a file read by the platform may have: a Procfile, a `.env`, app.json, dozen.toml.
pub const MAX_FILE: usize = 1024 * 1024;

/// Untrusted bytes as text: at most [`MAX_FILE`] of them, and UTF-8.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, Diagnostic> {
    let error = |line, column, at, message: String, help: &str| Diagnostic {
        severity: Severity::Error,
        line,
        column,
        // Empty, so that it is also a place in the text with replacement characters that an excerpt is cut from.
        span: at..at,
        message,
        help: help.to_owned(),
    };
    if bytes.len() > MAX_FILE {
        let message = format!("the file has {} bytes; {MAX_FILE} are allowed", bytes.len());
        return Err(error(1, 1, 0, message, "Check that this is the file you mean."));
    }
    std::str::from_utf8(bytes).map_err(|e| {
        let valid = std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or_default();
        let place = Diagnostic::at(Severity::Error, valid, valid.len()..valid.len(), "");
        error(place.line, place.column, valid.len(), "this is not UTF-8".to_owned(), "Save the file as UTF-8.")
    })
}

/// Whether a line is what git leaves where a merge has conflicts.
pub(crate) fn is_conflict_marker(line: &str) -> bool {
    ["<<<<<<<", "|||||||", "=======", ">>>>>>>"]
        .iter()
        .any(|marker| line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')))
}

/// The candidate that a mistyped word most likely means: the same but for case, or a slip (a letter wrong, missing, too many, or two
/// swapped) for every three letters and two at most. `None` where nothing is that near.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Comparing takes the product of both lengths; nobody mistypes a word this long.
    const LONGEST: usize = 128;
    let wanted = word.to_lowercase();
    let slips = (wanted.chars().count() / 3).clamp(1, 2);
    candidates
        .into_iter()
        .filter(|c| c.len() <= LONGEST && wanted.len() <= LONGEST)
        .map(|c| (strsim::osa_distance(&wanted, &c.to_lowercase()), c))
        .filter(|(distance, c)| *distance <= slips && *distance < c.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// `Did you mean `web`?` where [`nearest`] finds something, else nothing.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |c| format!("Did you mean `{c}`?"))
}

/// A piece of input for a message: on one line and not longer than a name.
pub(crate) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 40;
    let mut out: String = text.chars().take(LONGEST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
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

    #[test]
    fn a_slip_is_forgiven_and_a_different_word_is_not() {
        let types = ["web", "worker", "release", "stop-timeout"];
        for (word, meant) in [
            ("wbe", Some("web")),
            ("Web", Some("web")),
            ("we", Some("web")),
            ("wroker", Some("worker")),
            ("workers", Some("worker")),
            ("stop_timeout", Some("stop-timeout")),
            ("stoptimout", Some("stop-timeout")),
            ("app", None),
            ("x", None),
            ("", None),
            ("clock", None),
        ] {
            assert_eq!(nearest(word, types), meant, "{word:?}");
        }
        assert_eq!(nearest("a", ["b"]), None, "a word of one letter has nothing near");
        assert_eq!(nearest(&"w".repeat(100_000), types), None);
    }

    #[test]
    fn a_flood_of_remarks_is_counted_and_keeps_its_worst() {
        let text = "x\n".repeat(MAX_REMARKS + 7);
        let mut remarks = Remarks::new(&text);
        for n in 0..MAX_REMARKS + 7 {
            let severity = if n == MAX_REMARKS + 3 { Severity::Error } else { Severity::Note };
            remarks.add(severity, 2 * n..2 * n + 1, "m", "");
        }
        let list = remarks.finish();
        assert_eq!(list.len(), MAX_REMARKS + 1);
        let last = &list[MAX_REMARKS];
        assert_eq!((last.severity, last.line, last.column), (Severity::Error, MAX_REMARKS + 1, 1));
        assert!(last.message.starts_with("7 more"), "{}", last.message);
        assert_eq!((list[41].line, list[41].column), (42, 1));
    }

    #[test]
    fn bytes_that_are_no_text_are_told_by_their_place() {
        let d = text(b"A=1\nB=\xc3\xa9\xff").expect_err("not UTF-8");
        assert_eq!((d.severity, d.line, d.column, d.span), (Severity::Error, 2, 4, 8..8));
        let d = text(&vec![b'a'; 10_000_000]).expect_err("too long");
        assert!(d.message.contains("10000000 bytes"), "{}", d.message);
        assert!(text(&vec![b'a'; MAX_FILE]).is_ok());
    }

    #[test]
    fn conflict_markers_are_known_and_rulers_are_not() {
        for marker in ["<<<<<<< HEAD", "=======", ">>>>>>> main", "||||||| 1a2b3c4"] {
            assert!(is_conflict_marker(marker), "{marker}");
        }
        for other in ["========", "======", "<<<<<<<web: x", " =======", "web: <<<<<<< HEAD"] {
            assert!(!is_conflict_marker(other), "{other}");
        }
    }
}
