//! A connection to an instance, which speaks HTTP/1.1: one request on it at a time, and its answer, piece by piece as it comes.
//!
//! **Invariant:** what an instance says beyond its answer is never taken for the next one: such a connection is closed.

use super::fields::{Fields, Kind};
use super::pages::Code;
use dozen_core::port::framing::{MAX_HEAD, MAX_HEADERS, Place};
use http::StatusCode;
use httparse::Status;
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;

/// What is read of an instance at once; and where a long answer comes.
const READ: usize = 8 * 1024;
const MOST: usize = 64 * 1024;
/// `Connection` names so many headers at most.
const MAX_NAMED: usize = 100;
/// So many buffers for long answers a worker keeps for the next ones.
const SPARE: usize = 16;
/// A chunk's size with its extensions.
const MAX_SIZE_LINE: usize = 4 * 1024;
/// All trailers together, and how many.
const MAX_TRAILERS: usize = 16 * 1024;
const TRAILERS: usize = 64;

thread_local! {
    /// Buffers for long answers, of this worker's. To ask the system for them again and again costs more than all else in such an answer.
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Where the body of a request comes from.
pub(super) trait Source {
    /// Appends more of the body to `out`, in the form that an instance is sent it. `true` at its end.
    fn poll_body(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Result<bool, Code>>;
    /// Ready when the client has gone, or will not wait any longer; asked only when all of the body has been read.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Code>;
}

/// How far a request's body has come.
#[derive(Debug)]
pub(super) struct Upload {
    /// All of it was read of the client.
    pub(super) read: bool,
    /// What had come of it when the head was to be sent goes with it.
    first: bool,
    /// All of it was sent, or the instance takes no more.
    pub(super) over: bool,
    /// The instance took all of it.
    pub(super) whole: bool,
    /// When there was progress last.
    pub(super) last: Instant,
    /// There was something to wait for since then. What is sent at once need not ask for the time.
    waited: bool,
    /// What it broke by.
    pub(super) failed: Option<Code>,
}

impl Upload {
    pub(super) fn new(empty: bool, now: Instant) -> Self {
        Self { read: empty, first: !empty, over: false, whole: false, last: now, waited: !empty, failed: None }
    }

    fn fail(&mut self, code: Code) -> Code {
        (self.over, self.failed) = (true, Some(code));
        code
    }
}

/// What is still to come of an answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    None,
    Length(u64),
    Chunks(Chunk),
    /// As much as comes until the end of the connection.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    Size,
    Data(u64),
    End,
    Trailers,
}

/// Why there is no head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// Nothing of the request was sent: it may be sent elsewhere.
    Unsent,
    Failed(Code),
}

/// The head of an answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// `Not Found`, where the instance says anything.
    pub(super) reason: Vec<u8>,
    /// HTTP/1.0.
    old: bool,
    pub(super) fields: Fields,
}

/// One connection.
pub(super) struct Upstream {
    socket: TcpStream,
    /// For what a request waits; it may end at any time.
    pub(super) timer: Pin<Box<Sleep>>,
    /// What was read; of it, `taken` bytes are done with.
    input: Vec<u8>,
    taken: usize,
    ended: bool,
    /// What is to be sent; of it, `sent` bytes are.
    pub(super) out: Vec<u8>,
    sent: usize,
    /// Something of this request was sent.
    begun: bool,
    pub(super) answer: Answer,
    pub(super) rest: Rest,
    /// Of an answer in chunks.
    pub(super) trailers: Fields,
}

impl Upstream {
    pub(super) fn new(socket: TcpStream, timer: Pin<Box<Sleep>>) -> Self {
        Self {
            socket,
            timer,
            input: Vec::new(),
            taken: 0,
            ended: false,
            out: Vec::new(),
            sent: 0,
            begun: false,
            answer: Answer::default(),
            rest: Rest::None,
            trailers: Fields::default(),
        }
    }

    /// Ready for a request: `out` is to be filled with its head.
    pub(super) fn begin(&mut self) {
        self.out.clear();
        (self.sent, self.begun) = (0, false);
    }

    /// Whether it is open, and nothing came that nobody asked for. The runtime knows; the kernel is asked only where there is something.
    pub(super) fn is_quiet(&self) -> bool {
        match self.socket.poll_read_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => true,
            Poll::Ready(Err(_)) => false,
            Poll::Ready(Ok(())) => matches!(self.socket.try_read(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock),
        }
    }

    /// Whether the next request may be sent on it, when this answer is over.
    pub(super) fn is_reusable(&self) -> bool {
        let Answer { old, fields, .. } = &self.answer;
        let stays = if *old { fields.lists(Kind::Connection, "keep-alive") } else { !fields.lists(Kind::Connection, "close") };
        stays && !self.ended && self.taken == self.input.len() && self.rest == Rest::None
    }

    /// Gives back what only a large answer needs.
    pub(super) fn shrink(&mut self) {
        self.input.clear();
        self.taken = 0;
        if self.input.capacity() >= MOST {
            let buffer = std::mem::take(&mut self.input);
            BUFFERS.with_borrow_mut(|buffers| {
                if buffers.len() < SPARE {
                    buffers.push(buffer);
                }
            });
        }
        if self.out.capacity() > 2 * READ {
            self.out = Vec::new();
        }
    }

    /// What was read and belongs to no answer; the connection speaks another protocol now.
    pub(super) fn into_tunnel(mut self) -> (TcpStream, Vec<u8>) {
        let rest = self.input.split_off(self.taken);
        (self.socket, rest)
    }

    /// Reads more. `false` at the end.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.taken == self.input.len() {
            self.input.clear();
        } else if self.taken > 0 {
            self.input.drain(..self.taken);
        }
        self.taken = 0;
        let long = match self.rest {
            Rest::Length(left) | Rest::Chunks(Chunk::Data(left)) => left > READ as u64,
            Rest::Close => true,
            Rest::None | Rest::Chunks(_) => false,
        };
        if long && self.input.is_empty() && self.input.capacity() < MOST {
            self.input = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(MOST));
        }
        // Of what is there only the beginning of something is kept: it grows no further than a head may.
        self.input.reserve(if long { self.input.capacity() - self.input.len() } else { READ });
        let read = ready!(poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.input))?;
        self.ended = read == 0;
        Poll::Ready(Ok(read > 0))
    }

    /// Sends what is there of a request, and reads on in its body. Ready when all of it was sent, or no more of it will be.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>, upload: &mut Upload, source: &mut impl Source) -> Poll<Result<(), Code>> {
        if std::mem::take(&mut upload.first) {
            match source.poll_body(cx, &mut self.out) {
                Poll::Ready(Ok(over)) => upload.read = over,
                Poll::Ready(Err(code)) => return Poll::Ready(Err(upload.fail(code))),
                Poll::Pending => {}
            }
        }
        while !upload.over {
            if self.sent < self.out.len() {
                match Pin::new(&mut self.socket).poll_write(cx, &self.out[self.sent..]) {
                    Poll::Ready(Ok(sent @ 1..)) => {
                        self.begun = true;
                        self.sent += sent;
                        if upload.waited {
                            upload.last = Instant::now();
                        }
                    }
                    // It may have said why.
                    Poll::Ready(Ok(0) | Err(_)) => upload.over = true,
                    Poll::Pending => {
                        upload.waited = true;
                        return Poll::Pending;
                    }
                }
            } else if upload.read {
                (upload.over, upload.whole) = (true, true);
            } else {
                self.out.clear();
                self.sent = 0;
                match ready!(source.poll_body(cx, &mut self.out)) {
                    Ok(over) => upload.read = over,
                    Err(code) => return Poll::Ready(Err(upload.fail(code))),
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The head of the answer, in `answer`. What only announces one is passed over. `bare` says that the answer has no body, whatever it says.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>, bare: bool) -> Poll<Result<(), NoAnswer>> {
        loop {
            if self.taken < self.input.len() {
                match self.parse(bare) {
                    Ok(true) if self.answer.status.is_informational() && self.answer.status != StatusCode::SWITCHING_PROTOCOLS => continue,
                    Ok(true) => return Poll::Ready(Ok(())),
                    Ok(false) => {}
                    Err(code) => return Poll::Ready(Err(NoAnswer::Failed(code))),
                }
            }
            match ready!(self.poll_input(cx)) {
                Ok(true) => {}
                _ if !self.begun => return Poll::Ready(Err(NoAnswer::Unsent)),
                Ok(false) | Err(_) => return Poll::Ready(Err(NoAnswer::Failed(Code::H13))),
            }
        }
    }

    /// Reads a head. `false` if it is not whole.
    fn parse(&mut self, bare: bool) -> Result<bool, Code> {
        let bytes = &self.input[self.taken..];
        let mut room = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut head = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut head, bytes, &mut room);
        let length = match parsed {
            Ok(Status::Complete(length)) if length <= MAX_HEAD => length,
            Ok(Status::Partial) if bytes.len() <= MAX_HEAD => return Ok(false),
            Ok(_) | Err(_) => return Err(Code::H17),
        };
        let answer = &mut self.answer;
        answer.status = head.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Code::H17)?;
        answer.old = head.version == Some(0);
        answer.reason.clear();
        answer.reason.extend_from_slice(head.reason.unwrap_or_default().as_bytes());
        place(&mut answer.fields, &bytes[..length], head.headers);
        self.taken += length;
        self.trailers.clear();
        // Each is looked for among all.
        if answer.fields.tokens(Kind::Connection).nth(MAX_NAMED).is_some() {
            return Err(Code::H17);
        }
        self.rest = rest(answer, bare)?;
        Ok(true)
    }

    /// The next piece of the body: where it is in [`Self::bytes`], as long as nothing more is read. `None` at its end.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Range<usize>>, Code>> {
        loop {
            let have = &self.input[self.taken..];
            match self.rest {
                Rest::None => return Poll::Ready(Ok(None)),
                Rest::Close if !have.is_empty() => return Poll::Ready(Ok(Some(self.take(have.len())))),
                Rest::Close if self.ended => {
                    self.rest = Rest::None;
                    return Poll::Ready(Ok(None));
                }
                Rest::Length(left) | Rest::Chunks(Chunk::Data(left)) if !have.is_empty() => {
                    let there = usize::try_from(left).unwrap_or(usize::MAX).min(have.len());
                    let left = left - there as u64;
                    self.rest = match self.rest {
                        Rest::Length(_) if left == 0 => Rest::None,
                        Rest::Length(_) => Rest::Length(left),
                        _ if left == 0 => Rest::Chunks(Chunk::End),
                        _ => Rest::Chunks(Chunk::Data(left)),
                    };
                    return Poll::Ready(Ok(Some(self.take(there))));
                }
                Rest::Chunks(Chunk::Size) => match httparse::parse_chunk_size(have) {
                    Ok(Status::Complete((length, size))) => {
                        self.taken += length;
                        self.rest = Rest::Chunks(if size == 0 { Chunk::Trailers } else { Chunk::Data(size) });
                        continue;
                    }
                    Ok(Status::Partial) if have.len() <= MAX_SIZE_LINE => {}
                    Ok(Status::Partial) | Err(_) => return Poll::Ready(Err(Code::H18)),
                },
                Rest::Chunks(Chunk::End) => match have {
                    [b'\r', b'\n', ..] => {
                        self.taken += 2;
                        self.rest = Rest::Chunks(Chunk::Size);
                        continue;
                    }
                    [] | [b'\r'] => {}
                    _ => return Poll::Ready(Err(Code::H18)),
                },
                Rest::Chunks(Chunk::Trailers) => {
                    let mut room = [httparse::EMPTY_HEADER; TRAILERS];
                    match httparse::parse_headers(have, &mut room) {
                        Ok(Status::Complete((length, headers))) => {
                            place(&mut self.trailers, &have[..length], headers);
                            self.taken += length;
                            self.rest = Rest::None;
                            continue;
                        }
                        Ok(Status::Partial) if have.len() <= MAX_TRAILERS => {}
                        Ok(Status::Partial) | Err(_) => return Poll::Ready(Err(Code::H18)),
                    }
                }
                Rest::Length(_) | Rest::Close | Rest::Chunks(Chunk::Data(_)) => {}
            }
            match ready!(self.poll_input(cx)) {
                Ok(true) => {}
                Ok(false) if self.rest == Rest::Close => {}
                Ok(false) | Err(_) => return Poll::Ready(Err(Code::H18)),
            }
        }
    }

    fn take(&mut self, length: usize) -> Range<usize> {
        let begin = self.taken;
        self.taken += length;
        begin..self.taken
    }

    /// What was read.
    pub(super) fn bytes(&self, piece: Range<usize>) -> IoSlice<'_> {
        IoSlice::new(&self.input[piece])
    }
}

/// Keeps the headers of a head.
fn place(fields: &mut Fields, text: &[u8], headers: &[httparse::Header<'_>]) {
    // They are parts of the text.
    let at = |part: &[u8]| (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    let short = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    fields.take(text, |places| {
        places.extend(headers.iter().map(|header| Place {
            begin: short(at(header.name.as_bytes())),
            name: u16::try_from(header.name.len()).unwrap_or(u16::MAX),
            value: short(at(header.value)),
            end: short(at(header.value) + header.value.len()),
        }));
    });
}

/// How the body of an answer ends (RFC 9112, 6.3).
fn rest(answer: &Answer, bare: bool) -> Result<Rest, Code> {
    let Answer { status, fields, .. } = answer;
    if bare || status.is_informational() || matches!(*status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(Rest::None);
    }
    let mut codings = fields.tokens(Kind::TransferEncoding).filter(|coding| !coding.eq_ignore_ascii_case(b"identity"));
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => return Ok(Rest::Chunks(Chunk::Size)),
        _ => return Err(Code::H17),
    }
    let mut lengths = fields.all(Kind::ContentLength);
    let Some(first) = lengths.next() else { return Ok(Rest::Close) };
    if !first.iter().all(u8::is_ascii_digit) || lengths.any(|other| other != first) {
        return Err(Code::H17);
    }
    match std::str::from_utf8(first).ok().and_then(|length| length.parse().ok()) {
        Some(0) => Ok(Rest::None),
        Some(length) => Ok(Rest::Length(length)),
        None => Err(Code::H17),
    }
}
