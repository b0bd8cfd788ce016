//! The router's lines: one for each request, in batches, into segment files beside those of the jails.
//!
//! **Invariant:** what a client sends cannot make a line of its own or a field that is not there: values are quoted and escaped, or checked.

use super::pages::Code;
use super::proxy::Place;
use super::wire::FromRouter;
use dozen_core::logs::{Source, head};
use dozen_jail::segment::{Limits, Segment};
use http::{Method, StatusCode};
use jiff::Timestamp;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
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
    limits: Limits,
    open: RefCell<HashMap<PathBuf, Lines>>,
    /// A line came, and none was waiting in its batch.
    waits: Notify,
    events: UnboundedSender<FromRouter>,
}

struct Lines {
    deploy: String,
    batch: Vec<u8>,
    /// Lines in the batch.
    count: u64,
    /// `None` until the folder could be opened.
    segment: Option<Segment>,
    /// Lines that came before it could, and since when.
    early: Option<(u64, Timestamp)>,
    last: Instant,
}

impl Journal {
    pub(super) fn new(worker: usize, bytes: u64, segments: u32, events: UnboundedSender<FromRouter>) -> Self {
        Self { tag: format!("w{worker}"), limits: Limits { bytes, segments }, open: RefCell::default(), waits: Notify::new(), events }
    }

    fn write(&self, folder: &Path, deploy: &str, message: &str) {
        let mut open = self.open.borrow_mut();
        if !open.contains_key(folder) {
            let (deploy, batch) = (deploy.to_owned(), Vec::new());
            open.insert(folder.to_owned(), Lines { deploy, batch, count: 0, segment: None, early: None, last: Instant::now() });
        }
        if let Some(lines) = open.get_mut(folder) {
            if lines.batch.is_empty() {
                self.waits.notify_one();
            }
            lines.batch.extend_from_slice(head(Timestamp::now(), Source::Dozen, "router").as_bytes());
            lines.batch.extend_from_slice(message.as_bytes());
            lines.batch.push(b'\n');
            lines.count += 1;
            if lines.batch.len() >= BATCH {
                self.flush_one(folder, lines);
            }
        }
    }

    /// Whether there is nothing to flush and no file to close, until a line comes.
    pub(super) fn rests(&self) -> bool {
        self.open.borrow().is_empty()
    }

    /// Waits until a line waits. It may have been written already.
    pub(super) async fn waits(&self) {
        self.waits.notified().await;
    }

    /// Writes what is waiting; the worker calls it a little after the first line of a batch, and at its end.
    pub(super) fn flush(&self) {
        let mut open = self.open.borrow_mut();
        for (folder, lines) in open.iter_mut().filter(|(_, l)| !l.batch.is_empty()) {
            self.flush_one(folder, lines);
        }
    }

    /// Closes the files of deploys without requests.
    pub(super) fn reap(&self) {
        // What still has a loss to tell is not forgotten.
        let owes = |l: &Lines| l.early.is_some() || l.segment.as_ref().is_some_and(Segment::owes);
        self.open.borrow_mut().retain(|_, lines| !lines.batch.is_empty() || lines.last.elapsed() < FORGET || owes(lines));
    }

    /// A full disk costs lines, never requests; how many is said as soon as writing works again.
    fn flush_one(&self, folder: &Path, lines: &mut Lines) {
        let now = Timestamp::now();
        lines.last = Instant::now();
        if lines.segment.is_none()
            && let Ok(mut segment) = Segment::open(folder, "router", &self.tag, self.limits)
        {
            if let Some((count, since)) = lines.early.take() {
                segment.lost(count, since);
            }
            lines.segment = Some(segment);
        }
        match &mut lines.segment {
            Some(segment) => {
                if segment.append(&lines.batch, lines.count, now) {
                    // Without a listener nobody needs to look.
                    let _ = self.events.send(FromRouter::Wrote { deploy: lines.deploy.clone() });
                }
            }
            None => {
                let (count, since) = lines.early.unwrap_or((0, now));
                lines.early = Some((count + lines.count, since));
            }
        }
        lines.batch.clear();
        lines.count = 0;
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
    /// What is wrong with a request that was refused; words of ours.
    pub(super) reason: Option<&'static str>,
    pub(super) bytes: u64,
    /// Whether it came by TLS.
    pub(super) tls: bool,
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
            reason: None,
            bytes: 0,
            tls: false,
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
        let protocol = if self.tls { "https" } else { "http" };
        let (status, bytes) = (self.status.as_u16(), self.bytes);
        let _ = write!(out, " service={}ms status={status} bytes={bytes} protocol={protocol}", service.as_millis());
        if let Some(reason) = self.reason {
            let _ = write!(out, " reason=\"{reason}\"");
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use dozen_core::logs::LogLine;
    use std::fs;

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

    #[tokio::test]
    async fn it_rests_until_a_line_comes() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = journal(1 << 20);
        journal.flush();
        assert!(journal.rests());
        journal.write(folder.path(), "shop/dev", "line");
        journal.waits().await;
        journal.flush();
        journal.reap();
        assert!(!journal.rests(), "the file is to be closed later");
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
}
