//! XI. Treat logs as event streams.
//! One line is one event: when, who, what. Bytes are kept as they came.

use jiff::Timestamp;
use std::borrow::Cow;

/// Longer lines are split into several (Logplex: 10,000 bytes).
pub const MAX_LINE: usize = 10_000;

/// One event of a deploy's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When dozen read it, in microseconds.
    pub time: Timestamp,
    /// `app` for the app's own output, `dozen` for the platform.
    pub source: Source,
    /// The instance or the platform's part: `web.1`, `run.7`, `router`, `api`.
    pub ps: String,
    /// Without the line's end; not necessarily UTF-8.
    pub message: Vec<u8>,
}

/// Who wrote a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The app.
    App,
    /// The platform.
    Dozen,
}

impl Source {
    /// The word in the line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Dozen => "dozen",
        }
    }
}

/// The head of a line, `2026-09-16T15:13:46.677020+00:00 app[web.1]: `, as Heroku prints it; a log pump makes it once for a batch.
pub fn head(time: Timestamp, source: Source, ps: &str) -> String {
    // Built by hand, since a pump does this for each batch: UTC, always six digits.
    let micros = time.as_microsecond();
    let whole = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
    let text = format!("{whole:.6}");
    let text = text.strip_suffix('Z').unwrap_or(&text);
    format!("{text}+00:00 {}[{ps}]: ", source.as_str())
}

impl LogLine {
    /// The line as it stands in a segment file and as `dozen logs` prints it, with its `\n`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = head(self.time, self.source, &self.ps).into_bytes();
        out.extend_from_slice(&self.message);
        out.push(b'\n');
        out
    }

    /// Reads one line of a segment file, with or without its `\n`. `None` where it is torn or foreign.
    pub fn decode(line: &[u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let space = line.iter().position(|b| *b == b' ')?;
        let time: Timestamp = std::str::from_utf8(&line[..space]).ok()?.parse().ok()?;
        let rest = &line[space + 1..];
        let open = rest.iter().position(|b| *b == b'[')?;
        let close = open + rest[open..].windows(3).position(|w| w == b"]: ")?;
        let source = match &rest[..open] {
            b"app" => Source::App,
            b"dozen" => Source::Dozen,
            _ => return None,
        };
        let ps = std::str::from_utf8(&rest[open + 1..close]).ok()?.to_owned();
        Some(Self { time, source, ps, message: rest[close + 3..].to_vec() })
    }

    /// The message for people, with what is not UTF-8 replaced.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.message)
    }
}

/// Which lines a reader wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// An instance (`web.1`) or a process type (`web`).
    pub ps: Option<String>,
    /// One source only.
    pub source: Option<Source>,
}

impl Filter {
    /// Whether the line is wanted.
    pub fn wants(&self, line: &LogLine) -> bool {
        self.source.is_none_or(|s| s == line.source)
            && self.ps.as_deref().is_none_or(|p| line.ps == p || line.ps.split('.').next() == Some(p))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_round_trips() {
        let line = LogLine {
            time: "2026-09-16T15:13:46.677020Z".parse().expect("valid"),
            source: Source::App,
            ps: "web.1".into(),
            message: b"a]: b \xff\x00".to_vec(),
        };
        let text = line.encode();
        assert!(text.starts_with(b"2026-09-16T15:13:46.677020+00:00 app[web.1]: a]: b "));
        assert_eq!(LogLine::decode(&text), Some(line));
    }

    #[test]
    fn rubbish_is_no_line() {
        for bad in ["", "x", "2026-09-16T15:13:46Z", "2026-09-16T15:13:46Z app web.1: x", "2026-09-16T15:13:46Z evil[web.1]: x"] {
            assert_eq!(LogLine::decode(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn filters_take_a_type_or_an_instance() {
        let line = |ps: &str, source| LogLine { time: Timestamp::UNIX_EPOCH, source, ps: ps.into(), message: vec![] };
        let f = Filter { ps: Some("web".into()), source: Some(Source::App) };
        assert!(f.wants(&line("web.1", Source::App)));
        assert!(!f.wants(&line("web.1", Source::Dozen)));
        assert!(!f.wants(&line("worker.1", Source::App)));
        let f = Filter { ps: Some("web.2".into()), source: None };
        assert!(f.wants(&line("web.2", Source::Dozen)) && !f.wants(&line("web.21", Source::App)));
    }
}
