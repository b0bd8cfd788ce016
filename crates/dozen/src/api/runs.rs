//! One-offs over the API: started, attended, listed and stopped. After the upgrade both sides of an attended one speak [`Frame`]s.

use super::{Answer, Failure, Shared, wire};
use crate::running;
use axum::extract::Query;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use dozen_core::admin::{Command, TtySize};
use dozen_core::ids::{InstanceName, InvalidName};
use dozen_core::parity::{Driver, Io};
use dozen_core::processes::Isolation;
use dozen_engine::admin::{Begun, Recorded, Request};
use dozen_engine::deploy::DeployError;
use dozen_engine::ledger::Principal;
use frame::MAX_FRAME;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use terminal::Terminal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

mod frame;
mod terminal;

pub(crate) use frame::{Frame, WINDOW};

/// The upgrade's name.
pub(crate) const PROTOCOL: &str = "dozen-run-3";
/// The largest request: a command as long as can be, and variables.
pub(crate) const MAX_REQUEST: usize = 1024 * 1024;
/// Where the request is instead of in the body, as base64: by way of a router, which upgrades what has none.
pub(crate) const HEAD: HeaderName = HeaderName::from_static("dozen-run");
/// The longest such head; a router takes not much more of all heads together.
pub(crate) const MAX_HEAD: usize = 24 * 1024;
/// So many characters of a command are told to who asked for it, who knows it; the first message holds them however they are written.
const TOLD: usize = 1000;
/// How long a one-off whose caller hung up has between SIGHUP and SIGKILL.
const HANG_UP: Duration = Duration::from_secs(10);

/// `POST /runs`: starts a one-off and, unless it is detached, hands the connection over to it.
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys/{deploy}/runs",
    tag = "one-offs",
    summary = "Run a one-off: with `detach`, or by an upgraded connection",
    request_body = wire::Run,
    responses((status = 200, description = "It runs detached", body = wire::Began), (status = 101, description = "Its terminal or pipes, as frames"))
))]
pub(super) async fn run(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> Result<Response, Failure> {
    let (mut parts, body) = request.into_parts();
    let bytes = match headers.get(HEAD) {
        Some(text) => BASE64.decode(text).map_err(|e| unread(&e))?.into(),
        None => Limited::new(body, MAX_REQUEST).collect().await.map_err(|e| unread(&*e))?.to_bytes(),
    };
    let mut body: wire::Run = serde_json::from_slice(&bytes)
        .map_err(|e| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, format!("the request is not what `run` takes: {e}")))?;
    let terminal = body.terminal.take();
    let detach = body.detach;
    let request = asked(body, terminal.as_ref())?;
    if detach {
        return Ok(begin_detached(&served, who, request).await?.into_response());
    }
    if headers.get(header::UPGRADE).is_none_or(|u| u != PROTOCOL) {
        let message = format!("a one-off needs `Upgrade: {PROTOCOL}`; start `dozen up` again with the dozen that asks");
        return Err(Failure::new(StatusCode::UPGRADE_REQUIRED, message));
    }
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let upgrade = upgrade.ok_or_else(|| Failure::new(StatusCode::UPGRADE_REQUIRED, "this connection cannot be upgraded"))?;

    let failed =
        |what: &str, e: &dyn std::fmt::Display| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot make {what}: {e}"));
    let (inside, ends) = match terminal {
        None => pipes().map_err(|e| failed("pipes", &e))?,
        Some(t) => {
            let size = TtySize { rows: t.rows, columns: t.columns };
            let owner = owner(&served).await?;
            let (terminal, inside) = Terminal::open(size, owner).map_err(|e| failed("a terminal", &e))?;
            (inside, Ends::of(terminal))
        }
    };
    let begun = served.floor.run(&who, request, Io::Given(inside)).await?;
    dozen_engine::tasks::spawn("run", async move {
        let reachable = Reachable::begin(&served, &begun.instance);
        let connection = upgrade.await.ok().map(TokioIo::new);
        attend(&served, &who, &begun, ends, connection).await;
        drop(reachable);
    });
    let headers = [(header::UPGRADE, PROTOCOL), (header::CONNECTION, "upgrade")];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// `GET /runs`
#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}/runs",
    tag = "one-offs",
    summary = "The one-offs, the latest first",
    params(wire::RunsQuery),
    responses((status = 200, description = "Done", body = wire::Runs))
))]
pub(super) async fn list(Extension(served): Shared, Query(query): Query<wire::RunsQuery>) -> Answer<wire::Runs> {
    let all = served.floor.one_offs().await?;
    let runs = all.into_iter().take(query.n.unwrap_or(usize::MAX)).map(one_off).collect();
    Ok(Json(wire::Runs { runs }))
}

/// `POST /runs/stop`: answers at once; the end is in the ledger.
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys/{deploy}/runs/stop",
    tag = "one-offs",
    summary = "Stop a one-off",
    request_body = wire::StopRun,
    responses((status = 200, description = "Done", body = wire::StopRun))
))]
pub(super) async fn stop(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Json(body): Json<wire::StopRun>,
) -> Answer<wire::StopRun> {
    let instance: InstanceName = body.run.parse().map_err(|e: InvalidName| Failure::usage(e.to_string()))?;
    served.floor.stop_one_off(&who, &instance)?;
    Ok(Json(body))
}

fn unread(e: &(dyn std::error::Error + 'static)) -> Failure {
    if e.is::<LengthLimitError>() {
        let message = format!("what is to be run, with its variables, has more than {} KiB", MAX_REQUEST / 1024);
        return Failure { status: StatusCode::PAYLOAD_TOO_LARGE, ..Failure::usage(message) };
    }
    Failure::new(StatusCode::BAD_REQUEST, format!("cannot read the request: {e}"))
}

fn asked(body: wire::Run, terminal: Option<&wire::Terminal>) -> Result<Request, Failure> {
    let release = body.release.map(|v| v.parse()).transpose();
    let release = release.map_err(|e: InvalidName| Failure::usage(e.to_string()))?;
    let command = match &*body.command {
        [] => None,
        words => Some(Command::of_words(words).map_err(|e| Failure::usage(e.to_string()))?),
    };
    Ok(Request {
        command,
        release,
        env: body.env,
        terminal: terminal.map(|t| t.env.clone()).unwrap_or_default(),
        limit: body.seconds.map(|s| SignedDuration::from_secs(s.into())),
    })
}

/// Starts one that nobody attends.
async fn begin_detached(served: &Arc<super::Served>, who: Principal, request: Request) -> Answer<wire::Began> {
    let begun = served.floor.run(&who, request, Io::Logged).await?;
    let answer = began(&begun);
    let instance = begun.instance.clone();
    let served = served.clone();
    let runs = served.clone();
    dozen_engine::tasks::spawn("run", async move {
        let reachable = Reachable::begin(&runs, &begun.instance);
        // The ledger's failure to record it has no one left to be told to.
        let _ = runs.floor.ran(&who, &begun.instance).await;
        drop(reachable);
    });
    served.floor.started(&instance).await;
    Ok(Json(answer))
}

fn began(begun: &Begun) -> wire::Began {
    wire::Began {
        run: begun.instance.to_string(),
        release: begun.release.to_string(),
        command: told(&begun.command),
        plain_shell: begun.plain_shell,
    }
}

fn told(command: &str) -> String {
    match command.char_indices().nth(TOLD) {
        Some((at, _)) => format!("{}…", &command[..at]),
        None => command.to_owned(),
    }
}

fn one_off(recorded: Recorded) -> wire::OneOff {
    let row = recorded.row;
    let state = match (&row.ended, recorded.runs) {
        (Some(_), _) => "ended",
        (None, true) => "running",
        (None, false) => "lost",
    };
    let took = row.ended.map(|(at, _)| at.duration_since(row.started).as_secs_f64().max(0.0));
    wire::OneOff {
        run: format!("run.{}", row.number),
        state: state.to_owned(),
        exit_code: row.ended.map(|(_, code)| code),
        started_at: row.started.to_string(),
        ended_at: row.ended.map(|(at, _)| at.to_string()),
        seconds: took.map(|s| (s * 1000.0).round() / 1000.0),
        release: row.release.to_string(),
        started_by: row.started_by,
        command: row.command,
    }
}

/// Whose the terminal is to be, where processes run as somebody else than we do.
async fn owner(served: &super::Served) -> Result<Option<u32>, DeployError> {
    if served.floor.driver.capabilities().isolation != Isolation::Namespaces {
        return Ok(None);
    }
    Ok(served.floor.ledger.deploy(&served.floor.deploy).await?.map(|(uid, _)| uid))
}

/// The same API at a socket of the one-off's own, while it runs where no `up` answers.
struct Reachable(Option<JoinHandle<()>>);

impl Reachable {
    fn begin(served: &Arc<super::Served>, instance: &InstanceName) -> Self {
        if served.floor.serving {
            return Self(None);
        }
        // It runs all the same where nobody else can reach it.
        let door = running::bind_one_off(served.floor.ledger.home(), &served.floor.deploy, instance.number).ok();
        Self(door.map(|door| dozen_engine::tasks::spawn("run api", super::serve(door, super::router(served.clone())))))
    }
}

impl Drop for Reachable {
    fn drop(&mut self) {
        if let Some(api) = &self.0 {
            api.abort();
        }
    }
}

/// Our ends of a one-off's standard descriptors.
struct Ends {
    stdin: Box<dyn AsyncWrite + Send + Unpin>,
    stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// A terminal has one output for both.
    stderr: Option<pipe::Receiver>,
    terminal: Option<Terminal>,
}

impl Ends {
    fn of(terminal: Terminal) -> Self {
        Self { stdin: Box::new(terminal.clone()), stdout: Box::new(terminal.clone()), stderr: None, terminal: Some(terminal) }
    }
}

fn pipes() -> io::Result<([OwnedFd; 3], Ends)> {
    let flags = PipeFlags::CLOEXEC;
    let ((in_read, in_write), (out_read, out_write), (err_read, err_write)) = (pipe_with(flags)?, pipe_with(flags)?, pipe_with(flags)?);
    let ours = Ends {
        stdin: Box::new(pipe::Sender::from_owned_fd(in_write)?),
        stdout: Box::new(pipe::Receiver::from_owned_fd(out_read)?),
        stderr: Some(pipe::Receiver::from_owned_fd(err_read)?),
        terminal: None,
    };
    Ok(([in_read, out_write, err_write], ours))
}

/// Carries bytes and signals until the one-off has ended and all that it wrote was delivered.
async fn attend(
    served: &Arc<super::Served>,
    who: &Principal,
    begun: &Begun,
    ends: Ends,
    connection: Option<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>,
) {
    let instance = &begun.instance;
    let Ends { stdin, stdout, stderr, terminal } = ends;
    let Some(connection) = connection else {
        drop((stdin, stdout, stderr));
        let hung_up = hang_up(served, instance, terminal);
        // The ledger's failure to record it has no one left to be told to.
        tokio::select! {
            _ = served.floor.ran(who, instance) => {}
            () = async { hung_up.await; std::future::pending().await } => {}
        }
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
    let _ = frames.send(Frame::Began(began(begun))).await;
    let out = dozen_engine::tasks::spawn("run stdout", copy(stdout, frames.clone(), Frame::Stdout));
    let err = stderr.map(|e| dozen_engine::tasks::spawn("run stderr", copy(e, frames.clone(), Frame::Stderr)));
    let untaken = Arc::new(AtomicUsize::new(0));
    let (input, queue) = mpsc::unbounded_channel();
    let feeder = dozen_engine::tasks::spawn("run stdin", feed(queue, stdin, untaken.clone(), frames.clone()));
    let reader = {
        let (served, instance) = (served.clone(), instance.clone());
        let carriers = [out.abort_handle(), feeder.abort_handle()];
        dozen_engine::tasks::spawn("run input", async move {
            let mut input = Some(input);
            while let Ok(Some(frame)) = Frame::read(&mut from).await {
                match frame {
                    // The end of what is typed is the end of the terminal.
                    Frame::Stdin(bytes) if bytes.is_empty() && terminal.is_some() => break,
                    Frame::Stdin(bytes) if bytes.is_empty() => input = None,
                    Frame::Stdin(bytes) => {
                        if untaken.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len() > WINDOW {
                            // It does not keep to what was agreed.
                            break;
                        }
                        // Nobody takes it any more: it is as if it had been read.
                        let _ = input.as_ref().map(|i| i.send(bytes));
                    }
                    // A driver that is gone has ended the one-off.
                    Frame::Signal(number) => drop(served.floor.driver.signal(instance.clone(), number)),
                    Frame::Size(size) => {
                        if let Some(terminal) = &terminal {
                            terminal.resize(size);
                        }
                    }
                    Frame::HangUp | Frame::Stdout(_) | Frame::Stderr(_) | Frame::Exit(..) | Frame::Began(_) | Frame::Taken(_) => break,
                }
            }
            drop(input);
            if terminal.is_some() {
                // With the last hold on it the terminal is gone. A pipe is emptied on, so that nobody is held up while told to end.
                carriers.iter().for_each(tokio::task::AbortHandle::abort);
            }
            hang_up(&served, &instance, terminal).await;
        })
    };
    let (code, why) = match served.floor.ran(who, instance).await {
        Ok(ended) => (ended.exit.code(), ended.stopped.map(|s| s.line(instance, &served.floor.deploy))),
        Err(_) => (1, None),
    };
    // What it wrote last is in the pipes still; they end since every process of the jail is gone.
    let _ = out.await;
    if let Some(err) = err {
        let _ = err.await;
    }
    let _ = frames.send(Frame::Exit(code, why)).await;
    drop(frames);
    reader.abort();
    feeder.abort();
    let _ = writer.await;
}

/// SIGHUP, and SIGKILL to what ignores it. Where there is a terminal its going away is the signal, and the kernel knows who gets it.
async fn hang_up(served: &Arc<super::Served>, instance: &InstanceName, terminal: Option<Terminal>) {
    use rustix::process::Signal;
    // A driver that is gone has ended the one-off.
    let signal = |signal: Signal| drop(served.floor.driver.signal(instance.clone(), signal.as_raw()));
    match terminal {
        Some(terminal) => {
            let early = served.floor.is_starting(instance);
            drop(terminal);
            if early {
                // It had not made the terminal its own yet, so that the kernel had nobody to tell.
                served.floor.started(instance).await;
                signal(Signal::HUP);
            }
        }
        None => signal(Signal::HUP),
    }
    tokio::time::sleep(HANG_UP).await;
    signal(Signal::KILL);
}

async fn copy(mut from: impl AsyncRead + Unpin, to: mpsc::Sender<Frame>, wrap: fn(Vec<u8>) -> Frame) {
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            // With the caller gone the pipe is still emptied, so that the process is not held up while it is told to end.
            Ok(n) => drop(to.send(wrap(buffer[..n].to_vec())).await),
        }
    }
}

/// Writes what comes for standard input, and says how much of it was taken. Who has closed it takes everything.
async fn feed(
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    to: Box<dyn AsyncWrite + Send + Unpin>,
    untaken: Arc<AtomicUsize>,
    frames: mpsc::Sender<Frame>,
) {
    let mut to = Some(to);
    while let Some(bytes) = queue.recv().await {
        if let Some(open) = &mut to
            && open.write_all(&bytes).await.is_err()
        {
            to = None;
        }
        untaken.fetch_sub(bytes.len(), Ordering::Relaxed);
        // The caller may have gone.
        let _ = frames.send(Frame::Taken(u32::try_from(bytes.len()).unwrap_or(u32::MAX))).await;
    }
}
