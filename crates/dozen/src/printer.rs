//! The one way to print.
//!
//! Text for people, one JSON value a line for programs. Colours where a terminal takes them and neither NO_COLOR nor `--no-color` says otherwise;
//! progress only on a terminal. A closed pipe is no failure.

use crate::api::event::{self, Remark};
use anstyle::{AnsiColor, Style};
use dozen_core::diagnostic::{Diagnostic, Severity};
use dozen_core::logs::{LogLine, Source};
use dozen_engine::deploy::DeployError;
use dozen_engine::output::{Event, Output};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// For people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Text.
    Text,
    /// One JSON value a line.
    Json,
}

/// Prints.
pub(crate) struct Printer {
    format: Format,
    colour: anstream::ColorChoice,
    quiet: bool,
    /// Shown while a step is busy, on a terminal only.
    progress: Mutex<Option<ProgressBar>>,
    muted: AtomicBool,
    /// Standard output is for something else: all goes to standard error.
    diverted: AtomicBool,
    /// Whoever read standard output has gone.
    closed: AtomicBool,
    /// Why standard output could not be written, where it was not that.
    failure: Mutex<Option<std::io::Error>>,
}

/// The colours of instances, in the order of a hash of their names; red is kept for errors.
const PALETTE: [AnsiColor; 5] = [AnsiColor::Cyan, AnsiColor::Green, AnsiColor::Yellow, AnsiColor::Magenta, AnsiColor::Blue];

impl Printer {
    /// A printer.
    pub(crate) fn new(format: Format, colour: bool, quiet: bool) -> Self {
        let colour = if colour { anstream::ColorChoice::Auto } else { anstream::ColorChoice::Never };
        Self {
            format,
            colour,
            quiet,
            progress: Mutex::new(None),
            muted: AtomicBool::new(false),
            diverted: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// For what goes wrong before there are settings.
    pub(crate) fn plain() -> Self {
        Self::new(Format::Text, true, false)
    }

    /// For a command line that cannot be read, by a program.
    pub(crate) fn for_json() -> Self {
        Self::new(Format::Json, false, false)
    }

    /// Whether programs read it.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// How many columns and rows the terminal has that reads standard output; `None` where none does.
    pub(crate) fn terminal(&self) -> Option<(usize, usize)> {
        let out = std::io::stdout();
        let size = rustix::termios::tcgetwinsize(&out).ok().filter(|_| out.is_terminal())?;
        // A terminal that does not know is taken for the usual one.
        let known = |n: u16, usual: usize| if n == 0 { usual } else { usize::from(n) };
        Some((known(size.ws_col, 80), known(size.ws_row, 24)))
    }

    /// Escape sequences to a terminal, as they are.
    pub(crate) fn control(&self, sequence: &str) {
        self.write(&[], sequence.as_bytes());
    }

    /// Nothing more is printed to standard output: whoever read it has what they wanted.
    pub(crate) fn mute(&self) {
        self.muted.store(true, Ordering::Relaxed);
    }

    /// Everything is printed to standard error from now on: a command's answer itself goes to standard output.
    pub(crate) fn divert(&self) {
        self.diverted.store(true, Ordering::Relaxed);
    }

    /// Whether standard output has been closed, so that a command which only prints may end. Known before the next write fails.
    pub(crate) fn is_closed(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let out = std::io::stdout();
        let mut pipe = [PollFd::new(&out, PollFlags::empty())];
        // Errors and hang-ups are told whether one asks for them or not.
        let gone = poll(&mut pipe, Some(&Timespec::default())).is_ok() && pipe[0].revents().contains(PollFlags::ERR);
        gone || self.closed.load(Ordering::Relaxed)
    }

    /// A line of text to standard output.
    pub(crate) fn line(&self, text: &str) {
        self.out(format!("{text}\n").as_bytes());
    }

    /// A line of text that says that what was asked for was done; nothing where only answers are wanted.
    pub(crate) fn confirm(&self, text: &str) {
        if !self.quiet {
            self.line(text);
        }
    }

    /// Bytes to standard output as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) {
        self.write(&[], bytes);
    }

    /// A line of somebody else's data to standard output: byte by byte where a program reads it, made harmless where a terminal does.
    pub(crate) fn data(&self, text: &str) {
        let text = if std::io::stdout().is_terminal() { harmless(text) } else { text.to_owned() };
        self.write(&[], format!("{text}\n").as_bytes());
    }

    /// Why standard output could not be written, where it was meant to be read to its end.
    pub(crate) fn take_failure(&self) -> Option<std::io::Error> {
        self.failure.lock().expect("no one panics while holding it").take()
    }

    /// A value to standard output as JSON, on one line.
    pub(crate) fn json(&self, value: &impl Serialize) {
        let text = serde_json::to_string(value).expect("what is printed has text for keys");
        self.write(&[], format!("{text}\n").as_bytes());
    }

    /// A line to standard error, for what accompanies an answer.
    pub(crate) fn note(&self, text: &str) {
        let mut err = anstream::AutoStream::new(std::io::stderr(), self.colour);
        let _ = writeln!(err, "{text}");
    }

    /// A note that is only good to know.
    pub(crate) fn aside(&self, text: &str) {
        if !self.quiet {
            self.note(text);
        }
    }

    /// An error with its causes and, where we know it, the cure.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.finish_progress();
        let mut text = one_line(error);
        let hint = crate::cli::hint_of(error);
        let colour = !self.is_json() && self.colour != anstream::ColorChoice::Never;
        let mut diagnostics = Vec::new();
        if let Some(DeployError::Input { file, text: source, diagnostics: all }) = error.downcast_ref() {
            diagnostics.extend(all.iter().map(|d| Remark::of(file, d, excerpt(file, source.as_deref(), d, colour))));
            text = format!("{file} cannot be used");
        }
        self.failure(text, hint, diagnostics);
    }

    /// An error that is known in its parts.
    pub(crate) fn failure(&self, message: String, hint: Option<String>, diagnostics: Vec<Remark>) {
        if self.is_json() {
            self.json(&event::Event::Error { message, hint, diagnostics });
            return;
        }
        diagnostics.iter().for_each(|d| self.note(&d.excerpt));
        let red = style(AnsiColor::Red);
        let mut lines = message.lines();
        self.note(&format!("{red} !     {}{red:#}", lines.next().unwrap_or_default()));
        for line in lines {
            self.note(&format!("{red} !     {red:#}{line}"));
        }
        if let Some(hint) = hint {
            self.note(&format!("{red} !     {red:#}{hint}"));
        }
    }

    /// A log line. On a terminal its head is coloured by instance.
    pub(crate) fn log(&self, line: &LogLine) {
        if self.is_json() {
            self.json(&event::Event::Log {
                time: line.time.to_string(),
                source: line.source.as_str().to_owned(),
                ps: line.ps.clone(),
                message: line.text().into_owned(),
            });
            return;
        }
        let encoded = line.encode();
        let head = encoded.len() - line.message.len() - 1;
        let hash = line.ps.bytes().fold(0usize, |h, b| h.wrapping_mul(31).wrapping_add(usize::from(b)));
        let colour = if line.source == Source::Dozen { Style::new().dimmed() } else { style(PALETTE[hash % PALETTE.len()]) };
        let styled = format!("{colour}{}{colour:#}", String::from_utf8_lossy(&encoded[..head]));
        // The message is the app's own and stays as it is: it need not be text, and a file shall have what the app wrote.
        self.write(styled.as_bytes(), &encoded[head..]);
    }

    /// A log line of what runs in the foreground: where only answers are wanted, those are the app's own.
    pub(crate) fn live(&self, line: &LogLine) {
        if !self.quiet || line.source == Source::App {
            self.log(line);
        }
    }

    fn out(&self, ours: &[u8]) {
        self.write(ours, &[]);
    }

    /// To standard output: our bytes, with their escape sequences taken out where no terminal reads them, and then others' as they are.
    fn write(&self, ours: &[u8], raw: &[u8]) {
        if self.muted.load(Ordering::Relaxed) {
            return;
        }
        let progress = self.progress.lock().expect("no one panics while holding it").clone();
        let write = || {
            if self.diverted.load(Ordering::Relaxed) {
                let _ = anstream::AutoStream::new(std::io::stderr().lock(), self.colour).write_all(&[ours, raw].concat());
                return;
            }
            let mut out = anstream::AutoStream::new(std::io::stdout().lock(), self.colour);
            let written = out.write_all(ours).and_then(|()| {
                let mut out = out.into_inner();
                out.write_all(raw)?;
                out.flush()
            });
            if let Err(e) = written {
                self.closed.store(true, Ordering::Relaxed);
                if e.kind() != std::io::ErrorKind::BrokenPipe {
                    self.failure.lock().expect("no one panics while holding it").get_or_insert(e);
                }
            }
        };
        match progress {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn busy(&self, text: &str) {
        if self.is_json() || self.quiet || !std::io::stderr().is_terminal() {
            return;
        }
        let mut progress = self.progress.lock().expect("no one panics while holding it");
        let bar = progress.get_or_insert_with(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("       {spinner} {wide_msg} {elapsed}").expect("a literal template is valid");
            bar.set_style(style);
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        bar.set_message(text.to_owned());
    }

    fn finish_progress(&self) {
        if let Some(bar) = self.progress.lock().expect("no one panics while holding it").take() {
            bar.finish_and_clear();
        }
    }
}

impl Output for Printer {
    fn emit(&self, event: Event) {
        if let Event::Busy(text) = &event {
            self.busy(text);
            return;
        }
        // It is a line of the log, which whoever has this printer follows.
        if matches!(event, Event::App(_)) {
            return;
        }
        self.finish_progress();
        if self.quiet && !matches!(event, Event::Warning(_)) {
            return;
        }
        if self.is_json() {
            self.json(&match event {
                Event::Step(text) => event::Event::Step { text },
                Event::Detail(text) | Event::App(text) | Event::Busy(text) => event::Event::Detail { text },
                Event::Warning(text) => event::Event::Warning { text },
                Event::Done(took) => event::Event::Done { seconds: took.as_secs_f64() },
            });
            return;
        }
        let (bold, dim, yellow) = (Style::new().bold(), Style::new().dimmed(), style(AnsiColor::Yellow));
        self.line(&match event {
            Event::Step(text) => format!("{bold}-----> {text}{bold:#}"),
            Event::Detail(text) | Event::App(text) | Event::Busy(text) => format!("       {text}"),
            Event::Warning(text) => format!("{yellow} !     {text}{yellow:#}"),
            Event::Done(took) => format!("{dim}       ({}){dim:#}", seconds(took)),
        });
    }
}

/// `1.2s`, `3m 20s`.
pub(crate) fn seconds(took: Duration) -> String {
    let s = took.as_secs();
    if s >= 60 { format!("{}m {}s", s / 60, s % 60) } else { format!("{:.1}s", took.as_secs_f64()) }
}

/// A table: columns as wide as their widest cell, two blanks between.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let format = |cells: Vec<&str>| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![format(head.to_vec())];
    lines.extend(rows.iter().map(|r| format(r.iter().map(String::as_str).collect())));
    lines.join("\n")
}

/// A column of a listing.
pub(crate) struct Column<R> {
    /// Its head.
    pub(crate) title: &'static str,
    /// How soon it is left out where there is little room; 0 is never.
    pub(crate) rank: u32,
    /// What it shows of a row.
    pub(crate) cell: fn(&R) -> String,
}

/// The shortest that a last column is cut to before another column is left out instead.
const SHORT: usize = 20;

/// A table no wider than `width`: the least important columns are left out first; with `cut` the last one, which is free text, is shortened
/// with an `…`. Without a width there is room for everything.
pub(crate) fn listing<R>(columns: &[Column<R>], rows: &[R], width: Option<usize>, cut: bool) -> String {
    let last = columns.iter().map(|c| c.rank).max().unwrap_or_default();
    let of = |most: u32| {
        let kept: Vec<&Column<R>> = columns.iter().filter(|c| c.rank <= most).collect();
        let titles: Vec<&str> = kept.iter().map(|c| c.title).collect();
        let mut cells: Vec<Vec<String>> = rows.iter().map(|r| kept.iter().map(|c| (c.cell)(r)).collect()).collect();
        if let (true, Some(width)) = (cut, width) {
            let before: usize = (0..kept.len().saturating_sub(1))
                .map(|i| 2 + cells.iter().map(|row| row[i].chars().count()).max().unwrap_or_default().max(titles[i].len()))
                .sum();
            let room = width.saturating_sub(before).max(SHORT);
            cells.iter_mut().filter_map(|row| row.last_mut()).for_each(|cell| *cell = shortened(cell, room));
        }
        table(&titles, &cells)
    };
    let fits = |text: &String| width.is_none_or(|width| text.lines().all(|line| line.chars().count() <= width));
    (0..=last).rev().map(of).find(fits).unwrap_or_else(|| of(0))
}

/// `abc…`
fn shortened(text: &str, room: usize) -> String {
    if text.chars().count() <= room { text.to_owned() } else { text.chars().take(room.saturating_sub(1)).chain(['…']).collect() }
}

/// The text with what a terminal would act upon written out: `\u{1b}[31m`. Line ends and tabs stay.
fn harmless(text: &str) -> String {
    let shown = |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { c.escape_unicode().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// An error and its causes, without what a cause says twice.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Why a deploy did not come about, as an event for who is elsewhere.
pub(crate) fn failed(error: &DeployError) -> event::Event {
    let hint = error.hint();
    match error {
        DeployError::Input { file, text, diagnostics } => event::Event::Error {
            message: format!("{file} cannot be used"),
            hint,
            diagnostics: diagnostics.iter().map(|d| Remark::of(file, d, excerpt(file, text.as_deref(), d, false))).collect(),
        },
        _ => event::Event::Error { message: dozen_engine::chain(error), hint, diagnostics: Vec::new() },
    }
}

/// A diagnostic with the place it speaks of, as cargo shows it.
fn excerpt(file: &str, text: Option<&str>, d: &Diagnostic, colour: bool) -> String {
    use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
    let Some(text) = text else {
        let help = if d.help.is_empty() { String::new() } else { format!("\n = help: {}", d.help) };
        return format!("{file}:{d}{help}");
    };
    let level = match d.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let span = d.span.start.min(text.len())..d.span.end.min(text.len());
    let mut group =
        level.primary_title(&d.message).element(Snippet::source(text).path(file).annotation(AnnotationKind::Primary.span(span)));
    if !d.help.is_empty() {
        group = group.element(Level::HELP.message(&d.help));
    }
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    renderer.render(&[group])
}

fn style(colour: AnsiColor) -> Style {
    Style::new().fg_color(Some(colour.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_of_any_length_is_a_cell() {
        let long = "x".repeat(200_000);
        assert_eq!(table(&["A", "B"], &[vec![long.clone(), "b".into()]]).lines().nth(1), Some(format!("{long}  b").as_str()));
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown_to_it() {
        assert_eq!(harmless("a\u{1b}[31mé\tb\nc\u{7f}"), "a\\u{1b}[31mé\tb\nc\\u{7f}");
    }

    #[test]
    fn a_listing_fits_the_terminal() {
        type Row = (&'static str, &'static str, &'static str);
        let columns: [Column<Row>; 3] = [
            Column { title: "RUN", rank: 0, cell: |r| r.0.into() },
            Column { title: "BY", rank: 1, cell: |r| r.1.into() },
            Column { title: "COMMAND", rank: 0, cell: |r| r.2.into() },
        ];
        let rows = [("run.1", "root", "a command of more than thirty letters"), ("run.12", "uid 1000", "short")];
        let check = |width, want: &str| assert_eq!(listing(&columns, &rows, width, true), want);
        check(None, "RUN     BY        COMMAND\nrun.1   root      a command of more than thirty letters\nrun.12  uid 1000  short");
        check(Some(40), "RUN     BY        COMMAND\nrun.1   root      a command of more tha…\nrun.12  uid 1000  short");
        check(Some(30), "RUN     COMMAND\nrun.1   a command of more tha…\nrun.12  short");
        // Nothing more can be left out.
        check(Some(5), "RUN     COMMAND\nrun.1   a command of more t…\nrun.12  short");
    }
}
