//! Code that comes over the API, and code that goes from one deploy to another: what is said on the way is a stream of events, one JSON value a
//! line, the same as `up --json` prints.
//!
//! **Invariant:** a release that is under way goes on to its end, though whoever asked for it has gone.

use super::event::Event;
use super::{Deploys, Failure, Served, Shared, wire};
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use dozen_core::codebase::Commit;
use dozen_core::ids::{AppName, DeployRef};
use dozen_engine::codebase::tarball::{self, TarballError};
use dozen_engine::deploy::{BuildOptions, Code, Delivered, DeployError, Floor};
use dozen_engine::ledger::Principal;
use dozen_engine::output::{Event as Said, Output};
use dozen_engine::release::archive::{self, ArchiveError};
use http_body_util::BodyExt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A source as a tar file.
pub(crate) const SOURCE: &str = "application/x-tar";
/// A slug file.
pub(crate) const SLUG: &str = "application/vnd.dozen.slug";
/// What is answered.
pub(super) const EVENTS: &str = "application/x-ndjson";

/// A router gives up who says nothing for long, and a build may.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// So much more of a body that was refused is read and thrown away, for its sender to hear why.
const HEARD_OUT: u64 = 2 << 30;

/// `POST /builds`: a source or a slug file.
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/deploys/{deploy}/builds",
    tag = "releases",
    summary = "Build, release and serve a source (`application/x-tar`) or a slug file (`application/vnd.dozen.slug`)",
    params(wire::BuildQuery),
    request_body(content((Vec<u8> = "application/x-tar"), (Vec<u8> = "application/vnd.dozen.slug"))),
    responses((status = 200, description = "What happens, one JSON value a line; the last one says what came of it", content_type = "application/x-ndjson", body = String))
))]
pub(super) async fn build(
    Extension(served): Shared,
    Extension(who): Extension<Principal>,
    Query(query): Query<wire::BuildQuery>,
    request: Request,
) -> Result<Response, Failure> {
    if !served.floor.serving {
        return Err(DeployError::NotServing(served.floor.deploy.clone()).into());
    }
    let commit = query.commit()?;
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let code = match kind.split(';').next().unwrap_or_default().trim() {
        SOURCE => {
            let home = served.floor.ledger.home().clone();
            let unpack = |from| async { tokio::task::spawn_blocking(move || tarball::unpack(&home, from)).await };
            let unpacked = receive(request.into_body(), unpack).await.map_err(|e| ended(&e))?;
            let mut unpacked = unpacked.map_err(refused_source)?;
            unpacked.commit = commit.or(unpacked.commit);
            Code::Source(Box::new(unpacked))
        }
        SLUG => {
            let (exe, home) = (served.floor.exe.clone(), served.floor.ledger.home().clone());
            let taken = receive(request.into_body(), |from| async move { archive::take_in(&exe, &home, from).await }).await;
            Code::Slug(Box::new(taken.map_err(refused_slug)?.slug))
        }
        other => {
            let message = format!("a build takes {SOURCE} or {SLUG}, and not {other:?}");
            return Err(Failure { kind: wire::ProblemKind::Usage, ..Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message) });
        }
    };
    let work = move |served: Arc<Served>, output: Arc<Told>| async move {
        let Served { floor, url, .. } = &*served;
        floor.deliver(&who, code, &BuildOptions::default(), url.as_deref(), output).await
    };
    Ok(told(served, work))
}

/// `POST /v1/apps/{app}/promotions`
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/apps/{app}/promotions",
    tag = "releases",
    summary = "Have the code of one deploy serve as another one, too",
    request_body = wire::Promotion,
    responses((status = 200, description = "What happens, one JSON value a line; the last one says what came of it", content_type = "application/x-ndjson", body = String))
))]
pub(super) async fn promote(
    State(deploys): State<Arc<dyn Deploys>>,
    Extension(who): Extension<Principal>,
    Path(app): Path<String>,
    Json(body): Json<wire::Promotion>,
) -> Result<Response, Failure> {
    let app: AppName = app.parse().map_err(|e| Failure::usage(format!("{e}")))?;
    let need = dozen_core::admin::people::Need::Deploy(app.clone());
    deploys.ledger().authorise(&who, "promote a release", need).map_err(DeployError::from)?;
    let named = |name: &str| -> Result<DeployRef, Failure> {
        let deploy = name.parse().map_err(|e| Failure::usage(format!("{e}")))?;
        Ok(DeployRef { app: app.clone(), deploy })
    };
    let (from, to) = (named(&body.from)?, named(&body.to)?);
    if from == to {
        return Err(Failure::usage(format!("{from} cannot be promoted to itself")));
    }
    let known = deploys.ledger().deploys().await.map_err(DeployError::from)?;
    if let Some(deploy) = [&from, &to].into_iter().find(|deploy| !known.contains(deploy)) {
        return Err(Failure::new(StatusCode::NOT_FOUND, format!("there is no deploy {deploy}")));
    }
    let Some(served) = deploys.served(&to) else { return Err(Failure::new(StatusCode::NOT_FOUND, deploys.unserved(&to))) };
    if !served.floor.serving {
        return Err(DeployError::NotServing(to).into());
    }
    let work = move |served: Arc<Served>, output: Arc<Told>| async move {
        let Served { floor, url, .. } = &*served;
        floor.promote(&who, &from, url.as_deref(), output).await
    };
    Ok(told(served, work))
}

/// Takes what is said on the way to whoever listens.
pub(super) struct Told(pub(super) mpsc::UnboundedSender<Event>);

impl Told {
    pub(super) fn say(&self, event: Event) {
        // Whoever asked may have gone.
        let _ = self.0.send(event);
    }
}

impl Output for Told {
    fn emit(&self, event: Said) {
        self.say(match event {
            Said::Step(text) => Event::Step { text },
            Said::Detail(text) | Said::App(text) => Event::Detail { text },
            Said::Warning(text) => Event::Warning { text },
            Said::Done(took) => Event::Done { seconds: took.as_secs_f64() },
            Said::Busy(_) => return,
        });
    }
}

/// Does the work to its end, and answers what is said on the way: the release at last, or why there is none.
fn told<W, F>(served: Arc<Served>, work: W) -> Response
where
    W: FnOnce(Arc<Served>, Arc<Told>) -> F,
    F: Future<Output = Result<Delivered, DeployError>> + Send + 'static,
{
    let (events, heard) = mpsc::unbounded_channel();
    let output = Arc::new(Told(events));
    let done = work(served.clone(), output.clone());
    dozen_engine::tasks::spawn("delivery", async move {
        match done.await {
            Ok(delivered) => say_delivered(&served, &served.floor, &delivered, &output),
            Err(e) => output.say(crate::printer::failed(&e)),
        }
    });
    let (pieces, stream) = mpsc::channel::<Result<Bytes, io::Error>>(16);
    dozen_engine::tasks::spawn("delivery's events", pass_on(heard, pieces));
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(stream));
    ([(header::CONTENT_TYPE, EVENTS)], body).into_response()
}

fn say_delivered(served: &Served, floor: &Floor, Delivered { release, new, routed }: &Delivered, output: &Told) {
    let (deploy, version) = (floor.deploy.to_string(), release.version.to_string());
    let url = served.url.clone().unwrap_or_default();
    output.say(Event::Released { deploy: deploy.clone(), release: version.clone(), new: *new, url });
    let (url, https_url) = if *routed { (served.url.clone(), served.https_url.clone()) } else { (None, None) };
    output.say(Event::Ready { deploy, url, https_url, release: version });
}

pub(super) async fn pass_on(mut heard: mpsc::UnboundedReceiver<Event>, pieces: mpsc::Sender<Result<Bytes, io::Error>>) {
    loop {
        let line = match tokio::time::timeout(SIGN_OF_LIFE, heard.recv()).await {
            Ok(None) => return,
            Ok(Some(event)) => serde_json::to_string(&event).unwrap_or_default(),
            Err(_) => String::new(),
        };
        if pieces.send(Ok(format!("{line}\n").into())).await.is_err() {
            return;
        }
    }
}

/// Has a body read by `work`, which reads it as a file.
pub(super) async fn receive<T, F: Future<Output = T>>(mut body: Body, work: impl FnOnce(Pieces) -> F) -> T {
    let (pieces, coming) = mpsc::channel(16);
    let read = work(Pieces { coming, rest: Bytes::new() });
    let send = async {
        let (mut wanted, mut unwanted) = (true, 0);
        while let Some(frame) = body.frame().await {
            let piece = match frame {
                Ok(frame) => frame.into_data().unwrap_or_default(),
                Err(e) => {
                    // A file that breaks off is not one that ends.
                    drop(pieces.send(Err(io::Error::other(e))).await);
                    return;
                }
            };
            if !wanted {
                unwanted += piece.len() as u64;
                if unwanted > HEARD_OUT {
                    return;
                }
                continue;
            }
            wanted = pieces.send(Ok(piece)).await.is_ok();
        }
        drop(pieces);
    };
    tokio::join!(read, send).0
}

/// A body as a file, for a thread that may wait.
pub(super) struct Pieces {
    coming: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.coming.blocking_recv() {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.rest.len());
        buffer[..n].copy_from_slice(&self.rest.split_to(n));
        Ok(n)
    }
}

pub(super) fn refused_source(e: TarballError) -> Failure {
    let status = match e {
        TarballError::Write(..) => StatusCode::INTERNAL_SERVER_ERROR,
        TarballError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Failure::new(status, dozen_engine::chain(&e))
}

fn refused_slug(e: ArchiveError) -> Failure {
    let status = match e {
        ArchiveError::Io { what: "write", .. } | ArchiveError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        ArchiveError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Failure::new(status, dozen_engine::chain(&e))
}

pub(super) fn ended(e: &tokio::task::JoinError) -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the unpacking ended early: {e}"))
}

impl wire::BuildQuery {
    pub(super) fn commit(self) -> Result<Option<Commit>, Failure> {
        let Some(hash) = self.commit else { return Ok(None) };
        let is_hash = matches!(hash.len(), 40 | 64) && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hash {
            return Err(Failure::usage(format!("{hash:?} is not the hash of a commit")));
        }
        Ok(Some(Commit { hash, dirty: self.dirty }))
    }
}
