//! A part of a file on its way to a client, a chunk at a time.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::task::JoinHandle;

/// So much is read at once, and held for one client.
const CHUNK: u64 = 64 << 10;

/// The body of an answer.
pub(super) enum Reply {
    /// What was small, or nothing.
    Bytes(Bytes),
    /// A file.
    File(Sending),
}

/// What is left to be sent of a file.
pub(super) struct Sending {
    file: Arc<File>,
    rest: Range<u64>,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Reply {
    pub(super) fn empty() -> Self {
        Self::Bytes(Bytes::new())
    }

    pub(super) fn text(text: String) -> Self {
        Self::Bytes(text.into())
    }

    /// What is no longer than a chunk is read at once, by the caller, who may block.
    pub(super) fn file(file: File, range: Range<u64>) -> io::Result<Self> {
        if range.end - range.start <= CHUNK {
            return Ok(Self::Bytes(read(&file, range)?));
        }
        Ok(Self::File(Sending { file: Arc::new(file), rest: range, reading: None }))
    }
}

/// Reads these bytes. A file that was cut off meanwhile is an error: its length has been promised.
fn read(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or_default()];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.into())
}

impl Sending {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let next = self.rest.start..self.rest.end.min(self.rest.start + CHUNK);
        let reading = self.reading.get_or_insert_with(|| {
            let (file, next) = (self.file.clone(), next.clone());
            tokio::task::spawn_blocking(move || read(&file, next))
        });
        let chunk = ready!(Pin::new(reading).poll(cx)).unwrap_or_else(|e| Err(io::Error::other(e)));
        self.reading = None;
        self.rest.start = next.end;
        Poll::Ready(Some(chunk))
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Bytes(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::File(sending) => sending.poll(cx).map(|next| next.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::File(sending) => sending.rest.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(sending) => sending.rest.end - sending.rest.start,
        })
    }
}

/// A part of a file as a reader, without moving the file's own place in it.
pub(super) struct Part<'f> {
    file: &'f File,
    rest: Range<u64>,
}

impl<'f> Part<'f> {
    pub(super) fn new(file: &'f File, rest: Range<u64>) -> Self {
        Self { file, rest }
    }
}

impl io::Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.rest.end - self.rest.start).unwrap_or(usize::MAX).min(buffer.len());
        let got = self.file.read_at(&mut buffer[..most], self.rest.start)?;
        self.rest.start += got as u64;
        Ok(got)
    }
}
