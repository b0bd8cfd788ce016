//! The static file server: what `dozen static` runs, as a process type with `PORT` or for a person.
//!
//! What is answered is decided by `dozen_core::port::site`; here files are opened, told apart and sent.
//!
//! **Invariant:** every file is opened beneath the folder by the kernel (`openat2`): neither a path nor a link leads out of it.
//! **Invariant:** a file is never in memory as a whole, and what is sent is as long as it was said to be or the connection is closed.

mod body;

use super::router::raise_file_limit;
use body::Reply;
use dozen_core::port::site::{self, Conditions, Found, Kind, Place, Refused, Rules, Serve, Validators};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2};
use rustix::io::Errno;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};

/// The head of a request has to come within this time; an idle connection is kept as long.
const HEAD: Duration = Duration::from_secs(30);
/// Line and headers of a request together.
const HEAD_BYTES: usize = 64 << 10;
/// A client that takes no byte for so long is closed upon.
const UNREAD_MS: u32 = 60_000;
/// So many connections at once; further ones wait to be accepted.
const CONNECTIONS: usize = 4096;
/// A pause where a connection cannot be taken, for want of file descriptors: they come back as others end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Larger files are told apart by size and time: hashing them would hold the first answer up.
const HASHED: u64 = 64 << 20;
/// So many hashes are remembered.
const REMEMBERED: usize = 10_000;
const NOSNIFF: (&str, &str) = ("x-content-type-options", "nosniff");

/// Why a folder is not served.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// It cannot be opened.
    #[error("cannot serve {folder}")]
    Folder {
        /// As it was named.
        folder: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel is too old, or something forbids the call that keeps files within the folder.
    #[error("cannot serve files: openat2 is not possible here (Linux 5.6 and newer have it)")]
    Kernel,
}

/// A folder that is served.
pub struct Site {
    folder: PathBuf,
    rules: Rules,
    tags: Mutex<HashMap<State, Arc<str>>>,
    report: Box<dyn Fn(&str) + Send + Sync>,
}

/// The folder as one request finds it.
struct Visit<'s> {
    site: &'s Site,
    root: OwnedFd,
}

/// What tells that a file is still the one that was hashed: device, number, size, both times.
type State = (u64, u64, u64, [i64; 4]);

/// What a request asks, away from its connection.
struct Asked {
    place: Place,
    query: Option<String>,
    wants_page: bool,
    accept_encoding: String,
    conditions: Conditions,
    head: bool,
}

/// Serves a site until `stop` ends; then takes no more connections and returns when all requests under way are answered.
pub async fn serve(listener: TcpListener, site: Site, stop: impl Future<Output = ()>) {
    raise_file_limit();
    let site = Arc::new(site);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let (stopping, stopped) = watch::channel(false);
    let (alive, mut gone) = mpsc::channel::<Infallible>(1);
    tokio::pin!(stop);
    loop {
        let next = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        tokio::select! {
            () = &mut stop => break,
            (accepted, place) = next => match accepted {
                Ok((socket, _)) => {
                    let (site, stopped, alive) = (site.clone(), stopped.clone(), alive.clone());
                    crate::tasks::spawn("connection", async move {
                        let _held = (place, alive);
                        connection(site, socket, stopped).await;
                    });
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    (site.report)(&format!("cannot take a connection: {e}"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop((listener, alive));
    let _ = stopping.send(true);
    // Nothing is ever sent: this ends with the last connection.
    let _ = gone.recv().await;
}

async fn connection(site: Arc<Site>, socket: TcpStream, mut stopped: watch::Receiver<bool>) {
    let _ = socket.set_nodelay(true);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&socket, UNREAD_MS);
    let asked = AtomicBool::new(false);
    let service = service_fn(|request| {
        asked.store(true, Ordering::Relaxed);
        let site = site.clone();
        async move { Ok::<_, Infallible>(answer(site, request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES).half_close(true);
    let serving = builder.serve_connection(TokioIo::new(socket), service);
    tokio::pin!(serving);
    let mut told = false;
    loop {
        tokio::select! {
            // How a connection ends is the client's matter.
            _ = serving.as_mut() => return,
            _ = stopped.wait_for(|s| *s), if !told => {
                told = true;
                // A connection that was opened ahead of need has no answer to finish, and hyper would wait for its first request.
                if !asked.load(Ordering::Relaxed) {
                    return;
                }
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn answer(site: Arc<Site>, request: Request<Incoming>) -> Response<Reply> {
    let head = *request.method() == Method::HEAD;
    if !head && *request.method() != Method::GET {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, head);
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let asked = match Asked::of(&request, head) {
        Ok(asked) => asked,
        Err(Refused::Malformed) => return plain(StatusCode::BAD_REQUEST, head),
        Err(Refused::Hidden) => return plain(StatusCode::NOT_FOUND, head),
    };
    // One hop to a thread that may block for all of it: finding, opening, and reading what is small.
    match tokio::task::spawn_blocking(move || site.visit().map(|visit| visit.answer(&asked))).await {
        Ok(Ok(answer)) => answer,
        // The folder is away at this moment.
        Ok(Err(_)) => plain(StatusCode::NOT_FOUND, head),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, head),
    }
}

impl Asked {
    fn of(request: &Request<Incoming>, head: bool) -> Result<Self, Refused> {
        let all = |name: HeaderName| {
            let values: Vec<&str> = request.headers().get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
            (!values.is_empty()).then(|| values.join(", "))
        };
        Ok(Self {
            place: Place::read(request.uri().path())?,
            query: request.uri().query().map(str::to_owned),
            wants_page: all(header::ACCEPT).is_some_and(|accept| accept.to_ascii_lowercase().contains("text/html")),
            accept_encoding: all(header::ACCEPT_ENCODING).unwrap_or_default(),
            conditions: Conditions {
                matches: all(header::IF_MATCH),
                none_match: all(header::IF_NONE_MATCH),
                modified_since: all(header::IF_MODIFIED_SINCE),
                unmodified_since: all(header::IF_UNMODIFIED_SINCE),
                if_range: all(header::IF_RANGE),
                range: all(header::RANGE).filter(|_| !head),
            },
            head,
        })
    }
}

/// A file that is open, and what `fstat` says of it.
struct Open {
    file: File,
    stat: Stat,
}

impl Site {
    /// Opens a folder. `report` hears of files that are there and cannot be sent.
    pub fn open(folder: &Path, rules: Rules, report: impl Fn(&str) + Send + Sync + 'static) -> Result<Self, SiteError> {
        let failed = |source| SiteError::Folder { folder: folder.display().to_string(), source };
        let absolute = std::path::absolute(folder).map_err(failed)?;
        let site = Self { folder: absolute, rules, tags: Mutex::default(), report: Box::new(report) };
        // One that may not be entered shows here and not at each request.
        let visit = site.visit().map_err(|e| failed(e.into()))?;
        match visit.beneath(".", OFlags::PATH) {
            Ok(_) => {}
            Err(Errno::NOSYS | Errno::PERM) => return Err(SiteError::Kernel),
            Err(e) => return Err(failed(e.into())),
        }
        Ok(site)
    }

    /// Anew for each request: a tool that builds a site may put another folder in its place.
    fn visit(&self) -> Result<Visit<'_>, Errno> {
        let root = rustix::fs::open(&self.folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Visit { site: self, root })
    }

    /// The hash of a file's content, remembered while nothing about the file changes.
    fn tag(&self, open: &Open) -> io::Result<Option<String>> {
        let before = state(&open.stat);
        let known = self.tags.lock().unwrap_or_else(PoisonError::into_inner).get(&before).cloned();
        if let Some(tag) = known {
            return Ok(Some(tag.to_string()));
        }
        let tag: Arc<str> = if before.2 > HASHED {
            format!("\"{:x}-{:x}.{:x}\"", before.2, before.3[0], before.3[1]).into()
        } else {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(body::Part::new(&open.file, 0..before.2))?;
            if state(&fstat(&open.file)?) != before {
                return Ok(None);
            }
            format!("\"{}\"", &hasher.finalize().to_hex()[..32]).into()
        };
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        if tags.len() >= REMEMBERED {
            tags.clear();
        }
        tags.insert(before, tag.clone());
        Ok(Some(tag.to_string()))
    }
}

impl Visit<'_> {
    fn answer(&self, asked: &Asked) -> Response<Reply> {
        let found = site::find(&asked.place, asked.query.as_deref(), asked.wants_page, &self.site.rules, &|path| self.kind(path));
        let mut answer = match found {
            Found::File(path) => match self.file(&path, asked) {
                Ok(Some(answer)) => answer,
                // It went between the look and the opening.
                Ok(None) => plain(StatusCode::NOT_FOUND, asked.head),
                Err(e) => {
                    (self.site.report)(&format!("cannot send {path}: {e}"));
                    plain(StatusCode::INTERNAL_SERVER_ERROR, asked.head)
                }
            },
            Found::Redirect(to) => {
                let mut moved = plain(StatusCode::MOVED_PERMANENTLY, asked.head);
                // What came in a request line is valid in a header.
                if let Ok(to) = HeaderValue::from_str(&to) {
                    moved.headers_mut().insert(header::LOCATION, to);
                }
                moved
            }
            Found::Missing(page) => {
                let page = page.and_then(|page| self.error_page(&page, asked));
                page.unwrap_or_else(|| plain(StatusCode::NOT_FOUND, asked.head))
            }
        };
        for (name, value) in site::headers(&self.site.rules, &asked.place) {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
                answer.headers_mut().insert(name, value);
            }
        }
        answer
    }

    /// A page for what is not there: always whole, and with no validators, since it is about another URL.
    fn error_page(&self, page: &str, asked: &Asked) -> Option<Response<Reply>> {
        let asked = Asked {
            conditions: Conditions::default(),
            place: asked.place.clone(),
            query: None,
            accept_encoding: asked.accept_encoding.clone(),
            ..*asked
        };
        let mut answer = self.file(page, &asked).ok()??;
        *answer.status_mut() = StatusCode::NOT_FOUND;
        for name in [header::ETAG, header::LAST_MODIFIED, header::ACCEPT_RANGES] {
            answer.headers_mut().remove(name);
        }
        answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Some(answer)
    }

    fn file(&self, path: &str, asked: &Asked) -> io::Result<Option<Response<Reply>>> {
        let Some(mut open) = self.open_file(path)? else { return Ok(None) };
        let mut headers = HeaderMap::new();
        let siblings: Vec<&str> =
            site::ENCODINGS.into_iter().map(|(_, ending)| ending).filter(|e| self.kind(&format!("{path}{e}")) == Kind::File).collect();
        if !siblings.is_empty() {
            headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            for (coding, ending) in site::encodings(&asked.accept_encoding) {
                if siblings.contains(&ending)
                    && let Some(packed) = self.open_file(&format!("{path}{ending}"))?
                {
                    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
                    open = packed;
                    break;
                }
            }
        }
        let size = u64::try_from(open.stat.st_size).unwrap_or_default();
        let have = Validators { etag: self.site.tag(&open)?, modified: modified(&open.stat) };
        for (name, value) in [(header::ETAG, have.etag.clone()), (header::LAST_MODIFIED, have.last_modified())] {
            if let Some(value) = value.and_then(|v| HeaderValue::try_from(v).ok()) {
                headers.insert(name, value);
            }
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(site::cache_control(path)));
        headers.insert(NOSNIFF.0, HeaderValue::from_static(NOSNIFF.1));
        let (status, range) = match site::decide(&asked.conditions, &have, size) {
            Serve::NotModified => {
                headers.remove(header::CONTENT_ENCODING);
                return Ok(Some(with(StatusCode::NOT_MODIFIED, headers, Reply::empty())));
            }
            Serve::Failed => return Ok(Some(plain(StatusCode::PRECONDITION_FAILED, asked.head))),
            Serve::Unsatisfiable => {
                let mut refused = plain(StatusCode::RANGE_NOT_SATISFIABLE, asked.head);
                insert(refused.headers_mut(), header::CONTENT_RANGE, format!("bytes */{size}"));
                return Ok(Some(refused));
            }
            Serve::Whole => (StatusCode::OK, 0..size),
            Serve::Part(range) => {
                insert(&mut headers, header::CONTENT_RANGE, format!("bytes {}-{}/{size}", range.start, range.end - 1));
                (StatusCode::PARTIAL_CONTENT, range)
            }
        };
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        insert(&mut headers, header::CONTENT_TYPE, content_type(path));
        insert(&mut headers, header::CONTENT_LENGTH, (range.end - range.start).to_string());
        let body = if asked.head { Reply::empty() } else { Reply::file(open.file, range)? };
        Ok(Some(with(status, headers, body)))
    }

    fn kind(&self, path: &str) -> Kind {
        let stat = self.beneath(path, OFlags::PATH).and_then(|fd| fstat(&fd));
        match stat.map(|s| FileType::from_raw_mode(s.st_mode)) {
            Ok(FileType::RegularFile) => Kind::File,
            Ok(FileType::Directory) => Kind::Folder,
            Ok(_) => Kind::Nothing,
            Err(e) => {
                self.note(path, e);
                Kind::Nothing
            }
        }
    }

    /// Opens a plain file; nothing where there is none that may be read. A device or a pipe is not waited for.
    fn open_file(&self, path: &str) -> io::Result<Option<Open>> {
        let file = match self.beneath(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
            Ok(fd) => File::from(fd),
            Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO) => return Err(io::Error::last_os_error()),
            Err(e) => {
                self.note(path, e);
                return Ok(None);
            }
        };
        let stat = fstat(&file)?;
        Ok((FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(Open { file, stat }))
    }

    fn beneath(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            // The kernel answers EAGAIN when something was renamed on the way: it could not be sure.
            match openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < 100 => tries += 1,
                other => return other,
            }
        }
    }

    /// Says what a person can mend; that a file is not there is no news.
    fn note(&self, path: &str, error: Errno) {
        match error {
            Errno::XDEV | Errno::LOOP => {
                (self.site.report)(&format!("{path} is not served: it is a link out of the folder, or in a circle"))
            }
            Errno::ACCESS | Errno::PERM => (self.site.report)(&format!("{path} is not served: it may not be read")),
            _ => {}
        }
    }
}

fn state(stat: &Stat) -> State {
    let nanos = |n| i64::try_from(n).unwrap_or_default();
    let times = [stat.st_mtime, nanos(stat.st_mtime_nsec), stat.st_ctime, nanos(stat.st_ctime_nsec)];
    (stat.st_dev, stat.st_ino, u64::try_from(stat.st_size).unwrap_or_default(), times)
}

/// When a file was changed, unless that was at the beginning of all times, as archives have it, or is still to come.
fn modified(stat: &Stat) -> Option<Timestamp> {
    Timestamp::from_second(stat.st_mtime).ok().filter(|at| at.as_second() > 24 * 60 * 60 && *at <= Timestamp::now())
}

fn content_type(path: &str) -> String {
    let guess = mime_guess::from_path(path).first_or_octet_stream();
    let text = guess.type_() == mime_guess::mime::TEXT || matches!(guess.subtype().as_str(), "javascript" | "json");
    // XML says its own encoding.
    if text && guess.subtype() != mime_guess::mime::XML && guess.get_param("charset").is_none() {
        format!("{guess}; charset=utf-8")
    } else {
        guess.to_string()
    }
}

/// Numbers, and types of a table: always valid in a header.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

fn with(status: StatusCode, headers: HeaderMap, body: Reply) -> Response<Reply> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

/// A status with its own words as the body.
fn plain(status: StatusCode, head: bool) -> Response<Reply> {
    let text = format!("{} {}\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(NOSNIFF.0, HeaderValue::from_static(NOSNIFF.1));
    insert(&mut headers, header::CONTENT_LENGTH, text.len().to_string());
    with(status, headers, if head { Reply::empty() } else { Reply::text(text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_that_browsers_want() {
        for (path, want) in [
            ("a/index.html", "text/html; charset=utf-8"),
            ("x.css", "text/css; charset=utf-8"),
            ("x.js", "text/javascript; charset=utf-8"),
            ("x.mjs", "application/javascript; charset=utf-8"),
            ("x.json", "application/json; charset=utf-8"),
            ("x.webmanifest", "application/manifest+json"),
            ("x.txt", "text/plain; charset=utf-8"),
            ("sitemap.xml", "text/xml"),
            ("x.svg", "image/svg+xml"),
            ("x.wasm", "application/wasm"),
            ("x.woff2", "font/woff2"),
            ("x.avif", "image/avif"),
            ("x.PNG", "image/png"),
            ("favicon.ico", "image/x-icon"),
            ("x.pdf", "application/pdf"),
            ("x.mp4", "video/mp4"),
            ("CNAME", "application/octet-stream"),
        ] {
            assert_eq!(content_type(path), want, "{path}");
        }
    }
}
