//! What both sides of a one-off say to each other: `[kind: u8][length: u32, big-endian][payload]`.
//!
//! **Invariant:** what steers (a signal, a size, hanging up) is never held up by standard input that nobody reads: of that at most [`WINDOW`]
//! bytes are under way, and so both sides always read.

use super::super::wire;
use dozen_core::admin::TtySize;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The largest payload.
pub(super) const MAX_FRAME: usize = 64 * 1024;
/// So many bytes of standard input may be sent before the other side has said that they were taken.
pub(crate) const WINDOW: usize = 1024 * 1024;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Towards the process; empty means end of input.
    Stdin(Vec<u8>),
    /// From it.
    Stdout(Vec<u8>),
    /// From it.
    Stderr(Vec<u8>),
    /// Towards it: a signal's number.
    Signal(i32),
    /// It ended, with this code, and was told to for this reason; the last frame.
    Exit(i32, Option<String>),
    /// It runs; the first frame.
    Began(wire::Began),
    /// Towards it: its terminal has this size now.
    Size(TtySize),
    /// From it: so many more bytes of standard input were taken.
    Taken(u32),
    /// Towards it: its caller is gone, but for listening how it ends.
    HangUp,
}

impl Frame {
    /// Writes it.
    pub(crate) async fn write(self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let (kind, payload) = match self {
            Self::Stdin(b) => (0, b),
            Self::Stdout(b) => (1, b),
            Self::Stderr(b) => (2, b),
            Self::Signal(n) => (3, n.to_be_bytes().to_vec()),
            Self::Exit(n, why) => (4, [n.to_be_bytes().as_slice(), why.unwrap_or_default().as_bytes()].concat()),
            Self::Began(began) => (5, serde_json::to_vec(&began)?),
            Self::Size(size) => (6, [size.rows.to_be_bytes(), size.columns.to_be_bytes()].concat()),
            Self::Taken(n) => (7, n.to_be_bytes().to_vec()),
            Self::HangUp => (8, Vec::new()),
        };
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let head = [&[kind], length.to_be_bytes().as_slice()].concat();
        to.write_all(&head).await?;
        to.write_all(&payload).await?;
        to.flush().await
    }

    /// Reads the next. `None` at the end.
    pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let mut head = [0; 5];
        match from.read_exact(&mut head).await {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        };
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::other(format!("a frame of {length} bytes, more than {MAX_FRAME}")));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await?;
        let four = |p: &[u8]| <[u8; 4]>::try_from(p).map_err(io::Error::other);
        Ok(Some(match head[0] {
            0 => Self::Stdin(payload),
            1 => Self::Stdout(payload),
            2 => Self::Stderr(payload),
            3 => Self::Signal(i32::from_be_bytes(four(&payload)?)),
            4 => {
                let (code, why) = payload.split_at_checked(4).ok_or_else(|| io::Error::other("an end without a code"))?;
                let why = String::from_utf8(why.to_vec()).map_err(io::Error::other)?;
                Self::Exit(i32::from_be_bytes(four(code)?), Some(why).filter(|w| !w.is_empty()))
            }
            5 => Self::Began(serde_json::from_slice(&payload)?),
            6 => {
                let [r, s, c, d] = four(&payload)?;
                Self::Size(TtySize { rows: u16::from_be_bytes([r, s]), columns: u16::from_be_bytes([c, d]) })
            }
            7 => Self::Taken(u32::from_be_bytes(four(&payload)?)),
            8 => Self::HangUp,
            other => return Err(io::Error::other(format!("a frame of unknown kind {other}"))),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_round_trip_and_rubbish_is_refused() {
        let all = [
            Frame::Stdin(vec![]),
            Frame::Stdout(vec![0, 255]),
            Frame::Stderr(b"x".to_vec()),
            Frame::Signal(2),
            Frame::Exit(-1, None),
            Frame::Exit(143, Some("run.1 was stopped".into())),
            Frame::Began(wire::Began { run: "run.1".into(), release: "v2".into(), command: "true".into(), plain_shell: false }),
            Frame::Size(TtySize { rows: 24, columns: 300 }),
            Frame::Taken(70_000),
            Frame::HangUp,
        ];
        let mut bytes = Vec::new();
        for frame in &all {
            frame.clone().write(&mut bytes).await.expect("memory");
        }
        let mut from = bytes.as_slice();
        for frame in all {
            assert_eq!(Frame::read(&mut from).await.expect("whole"), Some(frame));
        }
        assert_eq!(Frame::read(&mut from).await.expect("end"), None);
        assert!(Frame::read(&mut [9, 0, 0, 0, 0].as_slice()).await.is_err());
        assert!(Frame::read(&mut [0, 255, 255, 255, 255].as_slice()).await.is_err());
        assert!(Frame::read(&mut [3, 0, 0, 0, 1, 0].as_slice()).await.is_err());
        assert!(Frame::read(&mut [4, 0, 0, 0, 1, 0].as_slice()).await.is_err());
        assert!(Frame::read(&mut [5, 0, 0, 0, 1, 0].as_slice()).await.is_err());
    }
}
