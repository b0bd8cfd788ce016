//! The router's lines: one for each request, in batches, into segment files beside those of the jails.
//!
//! **Invariant:** what a client sends cannot make a line of its own or a field that is not there: values are quoted and escaped, or checked.

use super::pages::Code;
use super::pool::{Numbered, Target};
use super::proxy::Place;
use super::tally::Counter;
use super::wire::FromRouter;
use dozen_core::logs::{Source, head};
use dozen_jail::segment::{Limits, Segment};
use http::{Method, StatusCode};
use jiff::Timestamp;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
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
/// So long the clock of the day is taken to go as the other one does.
const ASKED: Duration = Duration::from_millis(20);
/// So many texts are kept for their room, and none that is larger.
const SPARE: usize = 64;
const ROOM: usize = 1_024;

/// One worker's lines of all deploys.
pub(super) struct Journal {
    worker: usize,
    tag: String,
    limits: Limits,
    /// By the number of their folder.
    open: RefCell<HashMap<u64, Lines, Numbered>>,
    stamp: RefCell<Stamp>,
    /// What both clocks said when the one of the day was asked last.
    clock: Cell<Option<(Instant, i64)>>,
    /// Texts of requests before, for their room.
    spare: RefCell<Vec<String>>,
    /// A line came, and none was waiting in its batch.
    waits: Notify,
    events: UnboundedSender<FromRouter>,
}

struct Lines {
    folder: PathBuf,
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

/// Where a deploy's lines go.
pub(super) struct Folder {
    /// The same in every table.
    pub(super) number: u64,
    pub(super) path: PathBuf,
}

/// The head of a line, of which only the part of a second changes from one line to the next.
#[derive(Default)]
struct Stamp {
    second: i64,
    text: Vec<u8>,
    /// Where its six digits are.
    digits: usize,
}

impl Stamp {
    /// Of so many microseconds since 1970.
    fn write(&mut self, now: i64, out: &mut Vec<u8>) {
        let mut micros = now.rem_euclid(1_000_000);
        let second = now.div_euclid(1_000_000);
        if self.text.is_empty() || self.second != second {
            self.text = head(Timestamp::from_microsecond(now).unwrap_or_default(), Source::Dozen, "router").into_bytes();
            self.digits = self.text.iter().position(|b| *b == b'.').map_or(0, |dot| dot + 1);
            self.second = second;
        }
        let begin = out.len() + self.digits;
        out.extend_from_slice(&self.text);
        for digit in out[begin..begin + 6].iter_mut().rev() {
            *digit = b'0' + u8::try_from(micros % 10).unwrap_or_default();
            micros /= 10;
        }
    }
}

impl Journal {
    pub(super) fn new(worker: usize, bytes: u64, segments: u32, events: UnboundedSender<FromRouter>) -> Self {
        let limits = Limits { bytes, segments };
        let (open, stamp, clock, spare) = (RefCell::default(), RefCell::default(), Cell::default(), RefCell::default());
        Self { worker, tag: format!("w{worker}"), limits, open, stamp, clock, spare, waits: Notify::new(), events }
    }

    /// Microseconds since 1970 at this moment. The clock of the day may be set: it is asked again and again, and not each time.
    pub(super) fn micros(&self, at: Instant) -> i64 {
        let fresh = |(then, _): &(Instant, i64)| at.saturating_duration_since(*then) < ASKED;
        let (then, micros) = self.clock.get().filter(fresh).unwrap_or_else(|| {
            let both = (Instant::now(), Timestamp::now().as_microsecond());
            self.clock.set(Some(both));
            both
        });
        let span = |from: Instant, to: Instant| i64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or_default();
        micros + span(then, at) - span(at, then)
    }

    /// Takes a line of this moment, whose message `fill` appends.
    fn write(&self, folder: &Folder, deploy: &str, now: Instant, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut open = self.open.borrow_mut();
        let lines = open.entry(folder.number).or_insert_with(|| {
            let (folder, deploy, batch) = (folder.path.clone(), deploy.to_owned(), Vec::new());
            Lines { folder, deploy, batch, count: 0, segment: None, early: None, last: Instant::now() }
        });
        if lines.batch.is_empty() {
            self.waits.notify_one();
        }
        self.stamp.borrow_mut().write(self.micros(now), &mut lines.batch);
        fill(&mut lines.batch);
        lines.batch.push(b'\n');
        lines.count += 1;
        if lines.batch.len() >= BATCH {
            self.flush_one(lines);
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
        open.values_mut().filter(|l| !l.batch.is_empty()).for_each(|lines| self.flush_one(lines));
    }

    /// Closes the files of deploys without requests.
    pub(super) fn reap(&self) {
        // What still has a loss to tell is not forgotten.
        let owes = |l: &Lines| l.early.is_some() || l.segment.as_ref().is_some_and(Segment::owes);
        self.open.borrow_mut().retain(|_, lines| !lines.batch.is_empty() || lines.last.elapsed() < FORGET || owes(lines));
    }

    /// A full disk costs lines, never requests; how many is said as soon as writing works again.
    fn flush_one(&self, lines: &mut Lines) {
        let now = Timestamp::now();
        lines.last = Instant::now();
        if lines.segment.is_none()
            && let Ok(mut segment) = Segment::open(&lines.folder, "router", &self.tag, self.limits)
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
    /// What is said of it, part behind part.
    text: String,
    path: Part,
    host: Part,
    request_id: Part,
    forwarded: Part,
    /// Whom it was sent to.
    pub(super) target: Option<Arc<Target>>,
    pub(super) connect: Option<Duration>,
    pub(super) begun: Instant,
    /// When its answer was over, where that is known.
    ended: Option<Instant>,
    pub(super) status: StatusCode,
    pub(super) code: Option<Code>,
    /// What is wrong with a request that was refused; words of ours.
    pub(super) reason: Option<&'static str>,
    pub(super) bytes: u64,
    /// Whether it came by TLS.
    pub(super) tls: bool,
}

/// A part of a record's text.
#[derive(Clone, Copy, Default)]
struct Part {
    begin: u32,
    end: u32,
}

impl Record {
    pub(super) fn new(journal: Rc<Journal>, method: Method, path: &str, begun: Instant) -> Self {
        let text = journal.spare.borrow_mut().pop().unwrap_or_default();
        let mut record = Self {
            journal,
            place: None,
            method,
            text,
            path: Part::default(),
            host: Part::default(),
            request_id: Part::default(),
            forwarded: Part::default(),
            target: None,
            connect: None,
            begun,
            ended: None,
            status: Code::H27.status(),
            code: Some(Code::H27),
            reason: None,
            bytes: 0,
            tls: false,
        };
        record.path = record.says(path);
        record
    }

    fn says(&mut self, what: &str) -> Part {
        let place = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let begin = place(self.text.len());
        self.text.push_str(what);
        Part { begin, end: place(self.text.len()) }
    }

    fn part(&self, Part { begin, end }: Part) -> &str {
        self.text.get(begin as usize..end as usize).unwrap_or_default()
    }

    /// With its query.
    pub(super) fn path(&self) -> &str {
        self.part(self.path)
    }

    pub(super) fn host(&self) -> &str {
        self.part(self.host)
    }

    pub(super) fn request_id(&self) -> &str {
        self.part(self.request_id)
    }

    /// The chain of those that it came by.
    pub(super) fn forwarded(&self) -> &str {
        self.part(self.forwarded)
    }

    pub(super) fn says_host(&mut self, host: &str) {
        self.host = self.says(host);
    }

    pub(super) fn says_id(&mut self, id: &str) {
        self.request_id = self.says(id);
    }

    pub(super) fn says_forwarded(&mut self, chain: &str) {
        self.forwarded = self.says(chain);
    }

    /// The answer came to its end.
    pub(super) fn complete(&mut self, status: StatusCode) {
        self.status = status;
        self.code = None;
    }

    /// It did so at this moment, which is about now.
    pub(super) fn complete_at(&mut self, status: StatusCode, now: Instant) {
        self.complete(status);
        self.ended = Some(now);
    }

    /// It did not.
    pub(super) fn fail(&mut self, code: Code, status: StatusCode) {
        self.status = status;
        self.code = Some(code);
    }

    /// Counts it among the requests of a release. A client that went away is nobody's fault, and says nothing of the time.
    fn count(&self, counter: &Counter, now: Instant) {
        let left = self.code.is_some_and(Code::is_the_clients);
        let failed = !left && (self.code.is_some() || self.status.is_server_error());
        let timed = !left && self.status != StatusCode::SWITCHING_PROTOCOLS;
        counter.count(self.journal.worker, failed, timed.then(|| now.saturating_duration_since(self.begun)));
    }

    /// Appends the line without its head: Heroku's fields in Heroku's order.
    fn line(&self, now: Instant, out: &mut Vec<u8>) {
        let say = |out: &mut Vec<u8>, parts: &[&str]| parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        out.reserve(256 + self.text.len());
        match self.code {
            None => say(out, &["at=info"]),
            Some(code) => say(out, &["at=error code=", code.name(), " desc=\"", code.description(), "\""]),
        }
        say(out, &[" method=", self.method.as_str(), " path=\""]);
        escape(out, self.path(), PATH);
        say(out, &["\" host=", self.host(), " request_id=", self.request_id(), " fwd=\""]);
        escape(out, self.forwarded(), FORWARDED);
        say(out, &["\" dyno=", self.target.as_ref().map_or("", |target| &target.instance), " connect="]);
        let mut service = now.saturating_duration_since(self.begun);
        if let Some(connect) = self.connect {
            service = service.saturating_sub(connect);
            number(out, connect.as_millis());
            say(out, &["ms"]);
        }
        say(out, &[" service="]);
        number(out, service.as_millis());
        say(out, &["ms status=", self.status.as_str(), " bytes="]);
        number(out, self.bytes.into());
        say(out, &[" protocol=", if self.tls { "https" } else { "http" }]);
        if let Some(reason) = self.reason {
            say(out, &[" reason=\"", reason, "\""]);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            let now = self.ended.unwrap_or_else(Instant::now);
            if let Some(target) = &self.target
                && let Some(counter) = place.counter(target.release)
            {
                self.count(counter, now);
            }
            self.journal.write(&place.log, &place.deploy, now, |out| self.line(now, out));
        }
        let mut spare = self.journal.spare.borrow_mut();
        if spare.len() < SPARE && self.text.capacity() <= ROOM {
            self.text.clear();
            spare.push(std::mem::take(&mut self.text));
        }
    }
}

/// Appends a number as people write it. The formatter of the standard library takes longer for this than all else in a line.
pub(super) fn number(out: &mut Vec<u8>, mut value: u128) {
    let mut digits = [0; 39];
    let mut begin = digits.len();
    loop {
        begin -= 1;
        digits[begin] = b'0' + u8::try_from(value % 10).unwrap_or_default();
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[begin..]);
}

/// Printable ASCII stays, but for the quote and the backslash; of the rest every byte becomes `\xNN`.
fn escape(out: &mut Vec<u8>, value: &str, limit: usize) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if value.len() < limit && value.as_bytes().iter().all(plain) {
        out.extend_from_slice(value.as_bytes());
        return;
    }
    let end = out.len() + limit;
    for byte in value.bytes() {
        if out.len() >= end {
            out.extend_from_slice(b"...");
            return;
        }
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b' '..=b'~' => out.push(byte),
            _ => {
                let digit = |n: u8| b"0123456789abcdef"[usize::from(n & 15)];
                out.extend_from_slice(&[b'\\', b'x', digit(byte >> 4), digit(byte)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dozen_core::logs::LogLine;
    use std::fs;

    fn folder(path: &std::path::Path) -> Folder {
        Folder { number: 1, path: path.to_owned() }
    }

    /// Writes a line.
    fn say(journal: &Journal, path: &std::path::Path, text: &str) {
        journal.write(&folder(path), "shop/dev", Instant::now(), |out| out.extend_from_slice(text.as_bytes()));
    }

    fn line(record: &Record) -> String {
        let mut out = Vec::new();
        record.line(Instant::now(), &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    fn journal(bytes: u64) -> Rc<Journal> {
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        Rc::new(Journal::new(0, bytes, 2, events))
    }

    #[test]
    fn no_value_can_break_out_of_its_field() {
        let mut record = Record::new(journal(1), Method::GET, "/a\"b\\c\n\u{e9}\u{7f}", Instant::now());
        record.says_forwarded("1.1.1.1\" status=200");
        record.complete(StatusCode::OK);
        let line = line(&record);
        assert!(
            line.starts_with(
                r#"at=info method=GET path="/a\"b\\c\x0a\xc3\xa9\x7f" host= request_id= fwd="1.1.1.1\" status=200" dyno= connect= service="#
            ),
            "{line}"
        );
        record.path = record.says(&"\n".repeat(8_192));
        assert!(super::tests::line(&record).len() < dozen_core::logs::MAX_LINE);
    }

    #[test]
    fn segments_turn_over_and_the_oldest_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = journal(1);
        for n in 0..5 {
            say(&journal, folder.path(), &format!("line {n}"));
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
    fn a_stamp_is_a_head_at_any_time() {
        let mut stamp = Stamp::default();
        for micros in [0, 1, 999_999, 1_000_000, 1_700_000_000_123_456, 1_700_000_000_999_999, 1_700_000_001_000_000] {
            let time = Timestamp::from_microsecond(micros).expect("in range");
            let mut out = b"before ".to_vec();
            stamp.write(micros, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), format!("before {}", head(time, Source::Dozen, "router")));
        }
        let mut out = Vec::new();
        for value in [0, 9, 10, u128::MAX] {
            number(&mut out, value);
            out.push(b' ');
        }
        assert_eq!(String::from_utf8_lossy(&out), format!("0 9 10 {} ", u128::MAX));
    }

    #[test]
    fn moments_before_and_after_are_told_by_one_look_at_the_clock() {
        let (journal, now) = (journal(1), Instant::now());
        let micros = journal.micros(now);
        for (moment, apart) in [(now + ASKED / 2, 10_000), (now - Duration::from_secs(60), -60_000_000)] {
            assert!((journal.micros(moment) - micros - apart).abs() <= 1);
        }
        assert!(micros > 1_700_000_000_000_000);
    }

    #[tokio::test]
    async fn it_rests_until_a_line_comes() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = journal(1 << 20);
        journal.flush();
        assert!(journal.rests());
        say(&journal, folder.path(), "line");
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
            say(&journal, &folder, &format!("line {n}"));
            journal.flush();
        }
        fs::remove_file(&folder).expect("removed");
        say(&journal, &folder, "line 3");
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
