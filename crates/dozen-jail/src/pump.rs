//! From the app's pipes to the segment file: a head for each batch, lines kept as they came.
//!
//! **Invariant:** the app is never made to wait for the log, nor ended by it.

use crate::segment::Segment;
use dozen_core::disposability::last_words::{READ_ONLY, refused_path};
use dozen_core::logs::{MAX_LINE, Source, head};
use jiff::Timestamp;
use memchr::{memchr, memmem};
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, read};
use std::os::fd::OwnedFd;

/// Read at most so much at once, of one stream.
const READ: usize = 128 * 1024;
/// Written out when so much has gathered; many empty lines become much longer than what was read.
const WRITE: usize = 512 * 1024;

/// So many refused writes of one reading are kept.
const REFUSED: usize = 8;

/// One stream of the app's.
pub(crate) struct Pump {
    /// `None` when the app closed it.
    pub(crate) pipe: Option<OwnedFd>,
    /// The beginning of a line whose end has not come; at most [`MAX_LINE`] bytes.
    begun: Vec<u8>,
    ps: String,
    /// The paths that lines said could not be written, for the driver to be told of.
    pub(crate) refused: Vec<String>,
}

impl Pump {
    pub(crate) fn new(pipe: OwnedFd, ps: &str) -> Self {
        Self { pipe: Some(pipe), begun: Vec::new(), ps: ps.to_owned(), refused: Vec::new() }
    }

    /// Reads once and writes the lines that came. Answers whether something was read.
    pub(crate) fn turn(&mut self, segment: &mut Segment) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        self.begun.reserve(READ);
        // Into what is not written yet: memory that nothing was read into is never the jail's.
        match read(pipe, spare_capacity(&mut self.begun)) {
            Ok(0) => {
                self.pipe = None;
                self.end(segment);
                false
            }
            Ok(_) => {
                self.lines(segment, false);
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => {
                // Most apps say little, and there may be many of them.
                self.begun.shrink_to_fit();
                false
            }
            Err(_) => {
                self.pipe = None;
                false
            }
        }
    }

    /// Writes a last line that has no end.
    pub(crate) fn end(&mut self, segment: &mut Segment) {
        self.lines(segment, true);
    }

    fn lines(&mut self, segment: &mut Segment, last: bool) {
        let now = Timestamp::now();
        // One search through all that came: lines are looked at one by one only where it finds something.
        let refusals = memmem::find(&self.begun, READ_ONLY.as_bytes()).is_some();
        let head = head(now, Source::App, &self.ps);
        let mut batch = Vec::with_capacity(self.begun.len() * 2);
        let mut count = 0;
        let mut rest = &self.begun[..];
        while !rest.is_empty() {
            let (line, taken) = match memchr(b'\n', &rest[..rest.len().min(MAX_LINE + 1)]) {
                Some(end) => (&rest[..end], end + 1),
                None if rest.len() > MAX_LINE => (&rest[..MAX_LINE], MAX_LINE),
                None if last => (rest, rest.len()),
                None => break,
            };
            if refusals && self.refused.len() < REFUSED {
                let path = std::str::from_utf8(line).ok().and_then(refused_path);
                self.refused.extend(path.map(str::to_owned));
            }
            batch.extend_from_slice(head.as_bytes());
            batch.extend_from_slice(line);
            batch.push(b'\n');
            count += 1;
            rest = &rest[taken..];
            if batch.len() >= WRITE {
                segment.append(&batch, count, now);
                batch.clear();
                count = 0;
            }
        }
        if count > 0 {
            segment.append(&batch, count, now);
        }
        let done = self.begun.len() - rest.len();
        self.begun.drain(..done);
    }
}
