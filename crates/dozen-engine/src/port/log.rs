//! The router's lines: one for each request, in batches, into segment files beside those of the jails.
//!
//! **Invariant:** what a client sends cannot make a line of its own or a field that is not there: values are quoted and escaped, or checked.

use super::control::FromRouter;
use super::pages::Code;
use super::proxy::Place;
use dozen_core::logs::{Source, head};
use http::{Method, StatusCode};
use jiff::Timestamp;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// A batch this large does not wait for the tick.
const BATCH: usize = 32 * 1024;
/// A deploy without requests for so long has its file closed.
const FORGET: Duration = Duration::from_secs(60);
/// Longer paths and forwarding chains are cut, so that a line stays below `MAX_LINE`.
const PATH: usize = 7_000;
const FORWARDED: usize = 1_000;

/// One worker's lines of all deploys.
pub(super) struct Journal {
    tag: String,
    segment_bytes: u64,
    segments: u32,
    open: RefCell<HashMap<PathBuf, Lines>>,
    events: UnboundedSender<FromRouter>,
}

struct Lines {
    deploy: String,
    batch: Vec<u8>,
    segment: Segment,
    last: Instant,
    /// How many lines could not be written, and since when.
    dropped: Option<(u64, Timestamp)>,
}

impl Journal {
    pub(super) fn new(worker: usize, segment_bytes: u64, segments: u32, events: UnboundedSender<FromRouter>) -> Self {
        Self { tag: format!("w{worker}"), segment_bytes, segments, open: RefCell::default(), events }
    }

    fn write(&self, folder: &Path, deploy: &str, message: &str) {
        let mut open = self.open.borrow_mut();
        if !open.contains_key(folder) {
            let segment = Segment::new(folder.to_owned(), &self.tag, self.segment_bytes, self.segments);
            let lines = Lines { deploy: deploy.to_owned(), batch: Vec::new(), segment, last: Instant::now(), dropped: None };
            open.insert(folder.to_owned(), lines);
        }
        if let Some(lines) = open.get_mut(folder) {
            lines.batch.extend_from_slice(head(Timestamp::now(), Source::Dozen, "router").as_bytes());
            lines.batch.extend_from_slice(message.as_bytes());
            lines.batch.push(b'\n');
            if lines.batch.len() >= BATCH {
                self.flush_one(lines);
            }
        }
    }

    /// Writes what is waiting; the worker calls it ten times a second and at its end.
    pub(super) fn flush(&self) {
        let mut open = self.open.borrow_mut();
        for lines in open.values_mut().filter(|l| !l.batch.is_empty()) {
            self.flush_one(lines);
        }
        open.retain(|_, lines| lines.last.elapsed() < FORGET);
    }

    fn flush_one(&self, lines: &mut Lines) {
        lines.last = Instant::now();
        if let Some((count, since)) = lines.dropped {
            let told = format!("Error L10 (output buffer overflow): {count} messages dropped since {since:.0}.\n");
            let at = head(Timestamp::now(), Source::Dozen, "router");
            lines.batch.splice(0..0, at.bytes().chain(told.bytes()));
        }
        // A full disk costs lines, never requests; how many is said as soon as writing works again.
        match lines.segment.append(&lines.batch) {
            Ok(()) => {
                lines.dropped = None;
                let _ = self.events.send(FromRouter::Wrote { deploy: lines.deploy.clone() });
            }
            Err(_) => {
                let own = lines.batch.iter().filter(|b| **b == b'\n').count() as u64 - u64::from(lines.dropped.is_some());
                let (count, since) = lines.dropped.unwrap_or((0, Timestamp::now()));
                lines.dropped = Some((count + own, since));
            }
        }
        lines.batch.clear();
    }
}

/// One request, from its head to the end of its answer. The line is written when it is dropped; until something better is known, a
/// request ends because its client went away.
pub(super) struct Record {
    journal: Rc<Journal>,
    /// Whose request it is, as soon as that is known.
    pub(super) place: Option<Arc<Place>>,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) host: String,
    pub(super) request_id: String,
    pub(super) forwarded: String,
    pub(super) dyno: String,
    pub(super) connect: Option<Duration>,
    pub(super) begun: Instant,
    pub(super) status: StatusCode,
    pub(super) code: Option<Code>,
    pub(super) bytes: u64,
}

impl Record {
    pub(super) fn new(journal: Rc<Journal>, method: Method, path: String) -> Self {
        Self {
            journal,
            place: None,
            method,
            path,
            host: String::new(),
            request_id: String::new(),
            forwarded: String::new(),
            dyno: String::new(),
            connect: None,
            begun: Instant::now(),
            status: Code::H27.status(),
            code: Some(Code::H27),
            bytes: 0,
        }
    }

    /// The answer came to its end.
    pub(super) fn complete(&mut self, status: StatusCode) {
        self.status = status;
        self.code = None;
    }

    /// It did not.
    pub(super) fn fail(&mut self, code: Code, status: StatusCode) {
        self.status = status;
        self.code = Some(code);
    }

    /// The line without its head: Heroku's fields in Heroku's order.
    fn line(&self) -> String {
        let mut out = String::with_capacity(256 + self.path.len());
        match self.code {
            None => out.push_str("at=info"),
            Some(code) => {
                let _ = write!(out, "at=error code={} desc=\"{}\"", code.name(), code.description());
            }
        }
        let _ = write!(out, " method={} path=\"", self.method);
        escape(&mut out, &self.path, PATH);
        let _ = write!(out, "\" host={} request_id={} fwd=\"", self.host, self.request_id);
        escape(&mut out, &self.forwarded, FORWARDED);
        let _ = write!(out, "\" dyno={} connect=", self.dyno);
        let service = match self.connect {
            Some(connect) => {
                let _ = write!(out, "{}ms", connect.as_millis());
                self.begun.elapsed().saturating_sub(connect)
            }
            None => self.begun.elapsed(),
        };
        let _ = write!(out, " service={}ms status={} bytes={} protocol=http", service.as_millis(), self.status.as_u16(), self.bytes);
        out
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            self.journal.write(&place.log, &place.deploy, &self.line());
        }
    }
}

/// Printable ASCII stays, but for the quote and the backslash; of the rest every byte becomes `\xNN`.
fn escape(out: &mut String, value: &str, limit: usize) {
    let end = out.len() + limit;
    for byte in value.bytes() {
        if out.len() >= end {
            out.push_str("...");
            return;
        }
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
}

/// A file of lines that begins anew at a size, and keeps so many closed ones.
struct Segment {
    folder: PathBuf,
    tag: String,
    limit: u64,
    keep: u32,
    current: Option<(File, u64)>,
}

impl Segment {
    fn new(folder: PathBuf, tag: &str, limit: u64, keep: u32) -> Self {
        Self { folder, tag: tag.to_owned(), limit, keep, current: None }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.current.as_ref().is_none_or(|(_, size)| *size >= self.limit) {
            self.current = Some(self.begin()?);
        }
        let Some((file, size)) = &mut self.current else { return Ok(()) };
        let written = file.write_all(bytes);
        *size += bytes.len() as u64;
        if written.is_err() {
            // What is torn stays in the file that failed; the next batch begins another.
            self.current = None;
        }
        written
    }

    /// Goes on with the newest file, where there is room in it: a quiet deploy, or a new router, does not push out older lines by files of
    /// a few. Else begins one, and deletes the oldest.
    fn begin(&self) -> io::Result<(File, u64)> {
        fs::create_dir_all(&self.folder)?;
        let mut own = self.own();
        if let Some(newest) = own.back()
            && let Some(resumed) = resume(newest, self.limit)
        {
            return Ok(resumed);
        }
        // A clock that was set back must not make a file that sorts before its elders.
        let elder = own.back().and_then(|p| p.file_name()?.to_str()?.split_once('-')?.0.parse::<i64>().ok());
        let mut start = Timestamp::now().as_microsecond().max(elder.unwrap_or(0).saturating_add(1));
        let file = loop {
            let path = self.folder.join(format!("{start}-router-{}.log", self.tag));
            match OpenOptions::new().append(true).create_new(true).open(path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => start += 1,
                other => break other?,
            }
        };
        while own.len() > self.keep as usize
            && let Some(oldest) = own.pop_front()
        {
            let _ = fs::remove_file(oldest);
        }
        Ok((file, 0))
    }

    /// This worker's own files, oldest first, those of an earlier router process included.
    fn own(&self) -> VecDeque<PathBuf> {
        let end = format!("-router-{}.log", self.tag);
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut own: Vec<PathBuf> = entries.filter(|e| e.file_name().to_string_lossy().ends_with(&end)).map(|e| e.path()).collect();
        own.sort();
        own.into()
    }
}

/// A file with room left, unless its last line is torn.
fn resume(path: &Path, limit: u64) -> Option<(File, u64)> {
    let mut file = OpenOptions::new().read(true).append(true).open(path).ok()?;
    let size = file.metadata().ok()?.len();
    if size >= limit {
        return None;
    }
    let mut last = [b'\n'];
    if size > 0 {
        file.seek(SeekFrom::End(-1)).ok()?;
        file.read_exact(&mut last).ok()?;
    }
    (last == [b'\n']).then_some((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dozen_core::logs::LogLine;

    fn journal(bytes: u64) -> Rc<Journal> {
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        Rc::new(Journal::new(0, bytes, 2, events))
    }

    #[test]
    fn no_value_can_break_out_of_its_field() {
        let mut record = Record::new(journal(1), Method::GET, "/a\"b\\c\n\u{e9}\u{7f}".into());
        record.forwarded = "1.1.1.1\" status=200".into();
        record.complete(StatusCode::OK);
        let line = record.line();
        assert!(
            line.starts_with(
                r#"at=info method=GET path="/a\"b\\c\x0a\xc3\xa9\x7f" host= request_id= fwd="1.1.1.1\" status=200" dyno= connect= service="#
            ),
            "{line}"
        );
        record.path = "\n".repeat(8_192);
        assert!(record.line().len() < dozen_core::logs::MAX_LINE);
    }

    #[test]
    fn segments_turn_over_and_the_oldest_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = journal(1);
        for n in 0..5 {
            journal.write(folder.path(), "shop/dev", &format!("line {n}"));
            journal.flush();
        }
        let mut files: Vec<_> = fs::read_dir(folder.path()).expect("readable").flatten().map(|e| e.path()).collect();
        files.sort();
        assert_eq!(files.len(), 3);
        let last = fs::read(&files[2]).expect("readable");
        let line = LogLine::decode(&last).expect("a line");
        assert_eq!((line.ps.as_str(), line.text().as_ref()), ("router", "line 4"));
    }

    #[test]
    fn lines_that_could_not_be_written_are_counted() {
        let within = tempfile::tempdir().expect("a folder");
        let folder = within.path().join("logs");
        fs::write(&folder, "in the way").expect("written");
        let journal = journal(1 << 20);
        for n in 0..3 {
            journal.write(&folder, "shop/dev", &format!("line {n}"));
            journal.flush();
        }
        fs::remove_file(&folder).expect("removed");
        journal.write(&folder, "shop/dev", "line 3");
        journal.flush();
        let file = fs::read_dir(&folder).expect("readable").flatten().next().expect("a file");
        let text = fs::read_to_string(file.path()).expect("readable");
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines.len() == 2 && lines[0].contains("dozen[router]: Error L10 (output buffer overflow): 3 messages dropped since 2"),
            "{text}"
        );
        assert!(lines[1].ends_with("line 3"), "{text}");
    }

    #[test]
    fn a_segment_is_resumed_unless_it_is_torn() {
        let folder = tempfile::tempdir().expect("a folder");
        let count = || fs::read_dir(folder.path()).expect("readable").count();
        let append = |bytes: &[u8]| Segment::new(folder.path().to_owned(), "w0", 100, 2).append(bytes).expect("written");
        append(b"one\n");
        append(b"two\n");
        assert_eq!(count(), 1);
        append(b"to");
        append(b"three\n");
        assert_eq!(count(), 2);
    }
}
