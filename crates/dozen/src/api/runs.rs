//! One-offs over the API: after the upgrade both sides speak frames, `[kind: u8][length: u32, big-endian][payload]`.

use super::{Failure, Shared, wire};
use axum::Extension;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use dozen_core::ids::InstanceName;
use dozen_core::parity::Io;
use dozen_engine::ledger::Principal;
use hyper_util::rt::TokioIo;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// The upgrade's name.
pub(crate) const PROTOCOL: &str = "dozen-run";
/// The largest payload.
const MAX_FRAME: usize = 64 * 1024;
/// How long a one-off whose caller hung up has between SIGHUP and SIGKILL.
const HANG_UP: std::time::Duration = std::time::Duration::from_secs(10);

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
    /// It ended; the last frame.
    Exit(i32),
    /// Its name, `run.7`; the first frame.
    Name(String),
}

impl Frame {
    /// Writes it.
    pub(crate) async fn write(self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let (kind, payload) = match self {
            Self::Stdin(b) => (0, b),
            Self::Stdout(b) => (1, b),
            Self::Stderr(b) => (2, b),
            Self::Signal(n) => (3, n.to_be_bytes().to_vec()),
            Self::Exit(n) => (4, n.to_be_bytes().to_vec()),
            Self::Name(s) => (5, s.into_bytes()),
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
        let number = |p: &[u8]| p.try_into().map(i32::from_be_bytes).map_err(io::Error::other);
        Ok(Some(match head[0] {
            0 => Self::Stdin(payload),
            1 => Self::Stdout(payload),
            2 => Self::Stderr(payload),
            3 => Self::Signal(number(&payload)?),
            4 => Self::Exit(number(&payload)?),
            5 => Self::Name(String::from_utf8(payload).map_err(io::Error::other)?),
            other => return Err(io::Error::other(format!("a frame of unknown kind {other}"))),
        }))
    }
}

/// `POST /runs`: starts a one-off and hands the connection over to it.
pub(super) async fn run(
    axum::extract::State(served): Shared,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> Result<Response, Failure> {
    if headers.get(header::UPGRADE).is_none_or(|u| u != PROTOCOL) {
        let message = format!("a one-off needs `Upgrade: {PROTOCOL}`");
        return Err(Failure::new(StatusCode::UPGRADE_REQUIRED, message));
    }
    let (mut parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, super::MAX_BODY).await;
    let bytes = bytes.map_err(|e| Failure::new(StatusCode::BAD_REQUEST, format!("cannot read the request: {e}")))?;
    let body: wire::Run = serde_json::from_slice(&bytes)
        .map_err(|e| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, format!("the request is not what `run` takes: {e}")))?;
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let upgrade = upgrade.ok_or_else(|| Failure::new(StatusCode::UPGRADE_REQUIRED, "this connection cannot be upgraded"))?;

    let (inside, outside) = pipes().map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot make pipes: {e}")))?;
    let instance = served.floor.run(&who, body.command, Io::Given(inside)).await?;
    dozen_engine::tasks::spawn("run", async move {
        let connection = upgrade.await.ok().map(TokioIo::new);
        attend(&served, &who, &instance, outside, connection).await;
    });
    let headers = [(header::UPGRADE, PROTOCOL), (header::CONNECTION, "upgrade")];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

struct Ends {
    stdin: pipe::Sender,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
}

fn pipes() -> io::Result<([OwnedFd; 3], Ends)> {
    let flags = PipeFlags::CLOEXEC;
    let ((in_read, in_write), (out_read, out_write), (err_read, err_write)) = (pipe_with(flags)?, pipe_with(flags)?, pipe_with(flags)?);
    let ours = Ends {
        stdin: pipe::Sender::from_owned_fd(in_write)?,
        stdout: pipe::Receiver::from_owned_fd(out_read)?,
        stderr: pipe::Receiver::from_owned_fd(err_read)?,
    };
    Ok(([in_read, out_write, err_write], ours))
}

/// Carries bytes and signals until the one-off has ended and all that it wrote was delivered.
async fn attend(
    served: &Arc<super::Served>,
    who: &Principal,
    instance: &InstanceName,
    ends: Ends,
    connection: Option<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>,
) {
    let Some(connection) = connection else {
        hang_up(served, instance).await;
        // The ledger's failure to record it has no one left to be told to.
        let _ = served.floor.ran(who, instance).await;
        return;
    };
    let (mut from, mut to) = tokio::io::split(connection);
    let (frames, mut outgoing) = mpsc::channel::<Frame>(8);
    let writer = dozen_engine::tasks::spawn("run output", async move {
        while let Some(frame) = outgoing.recv().await {
            frame.write(&mut to).await?;
        }
        // The other side may be gone already.
        to.shutdown().await
    });
    // The writer answers a closed channel where the caller is gone.
    let _ = frames.send(Frame::Name(instance.to_string())).await;
    let out = dozen_engine::tasks::spawn("run stdout", copy(ends.stdout, frames.clone(), Frame::Stdout));
    let err = dozen_engine::tasks::spawn("run stderr", copy(ends.stderr, frames.clone(), Frame::Stderr));
    let reader = {
        let (served, instance) = (served.clone(), instance.clone());
        dozen_engine::tasks::spawn("run input", async move {
            let mut stdin = Some(ends.stdin);
            while let Ok(Some(frame)) = Frame::read(&mut from).await {
                match frame {
                    Frame::Stdin(bytes) if bytes.is_empty() => stdin = None,
                    Frame::Stdin(bytes) => {
                        if let Some(pipe) = &mut stdin
                            && pipe.write_all(&bytes).await.is_err()
                        {
                            stdin = None;
                        }
                    }
                    // A driver that is gone has ended the one-off.
                    Frame::Signal(number) => drop(served.floor.driver.signal(instance.clone(), number)),
                    Frame::Stdout(_) | Frame::Stderr(_) | Frame::Exit(_) | Frame::Name(_) => break,
                }
            }
            drop(stdin);
            hang_up(&served, &instance).await;
        })
    };
    let code = match served.floor.ran(who, instance).await {
        Ok(exit) => exit.code(),
        Err(_) => 1,
    };
    // What it wrote last is in the pipes still; they end since every process of the jail is gone.
    let _ = (out.await, err.await);
    let _ = frames.send(Frame::Exit(code)).await;
    drop(frames);
    let _ = writer.await;
    reader.abort();
}

/// SIGHUP, and SIGKILL to what ignores it.
async fn hang_up(served: &Arc<super::Served>, instance: &InstanceName) {
    use rustix::process::Signal;
    for (signal, patience) in [(Signal::HUP, HANG_UP), (Signal::KILL, std::time::Duration::ZERO)] {
        // A driver that is gone has ended the one-off.
        let _ = served.floor.driver.signal(instance.clone(), signal.as_raw());
        tokio::time::sleep(patience).await;
    }
}

async fn copy(mut from: pipe::Receiver, to: mpsc::Sender<Frame>, wrap: fn(Vec<u8>) -> Frame) {
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            // With the caller gone the pipe is still emptied, so that the process is not held up while it is told to end.
            Ok(n) => drop(to.send(wrap(buffer[..n].to_vec())).await),
        }
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
            Frame::Exit(-1),
            Frame::Name("run.1".into()),
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
    }
}
