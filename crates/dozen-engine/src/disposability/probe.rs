//! One try of a health check: an HTTP request, a connection, or nothing but having lived until now. Commands are run by the jail.
//!
//! **Invariant:** a try ends within its timeout, and takes no more of an answer than [`MAX_BODY`].

use crate::concurrency::Key;
use bytes::Bytes;
use dozen_core::processes::rules::{HealthCheck, Probe};
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::TcpStream;

/// An answer is looked through for its content up to this many bytes; a longer one fails the try.
const MAX_BODY: usize = 1 << 20;

/// What came of a try.
pub(crate) struct Tried {
    pub(crate) key: Key,
    /// Of the jail that was tried.
    pub(crate) incarnation: u64,
    pub(crate) number: usize,
    pub(crate) check: HealthCheck,
    /// Or why it failed.
    pub(crate) result: Result<(), String>,
}

/// Tries it on an instance with this port; `host` is what an HTTP request names unless the check's own headers do.
pub(crate) async fn attempt(check: &HealthCheck, port: Option<u16>, host: &str) -> Result<(), String> {
    let work = async {
        match check.probe(port) {
            None => Err("the instance has no port".to_owned()),
            Some(Probe::Run { .. }) => Err("the instance has no jail to run it".to_owned()),
            Some(Probe::Alive) => Ok(()),
            Some(Probe::Connect { port }) => connect(port).await.map(drop),
            Some(Probe::Get { port, path }) => get(check, port, path, host).await,
        }
    };
    let late = || format!("no answer within {} s", check.timeout.as_secs_f64());
    tokio::time::timeout(check.timeout, work).await.unwrap_or_else(|_| Err(late()))
}

async fn connect(port: u16) -> Result<TcpStream, String> {
    let four = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
    let stream = match four {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => TcpStream::connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await,
        other => other,
    };
    stream.map_err(|e| match e.kind() {
        io::ErrorKind::ConnectionRefused => format!("nothing listens on port {port}"),
        _ => format!("cannot connect to port {port}: {e}"),
    })
}

async fn get(check: &HealthCheck, port: u16, path: &str, host: &str) -> Result<(), String> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut request = Request::get(format!("{slash}{path}")).header(USER_AGENT, "dozen (health check)").header(CONNECTION, "close");
    if !check.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header(HOST, host);
    }
    for (name, value) in &check.headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| format!("the request cannot be made: {e}"))?;
    let stream = connect(port).await?;
    let broken = |e: hyper::Error| format!("no HTTP answer: {e}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        if !(status.is_success() || status.is_redirection() || status == StatusCode::NOT_MODIFIED) {
            return Err(format!("answered {status}"));
        }
        let Some(content) = &check.content else { return Ok(()) };
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|e| format!("the answer cannot be read: {e}"))?;
        let found = memchr::memmem::find(&body.to_bytes(), content.as_bytes()).is_some();
        if found { Ok(()) } else { Err(format!("answered {status} without `{content}`")) }
    };
    tokio::pin!(talk, connection);
    // The connection moves what is sent and answered; where it ends first, the talk still says how.
    tokio::select! {
        result = &mut talk => result,
        _ = &mut connection => talk.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dozen_core::processes::rules::HealthKind;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn check(path: Option<&str>) -> HealthCheck {
        HealthCheck {
            kind: HealthKind::Startup,
            name: None,
            path: path.map(str::to_owned),
            port: None,
            headers: vec![("X-Probe".to_owned(), "yes".to_owned())],
            content: None,
            command: vec![],
            uptime: None,
            listening: path.is_none(),
            attempts: 3,
            wait: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            initial_delay: Duration::ZERO,
            warn: false,
        }
    }

    /// Answers each connection with these bytes once a whole request was read; answers what was asked.
    async fn server(answer: &'static str) -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let (asked, questions) = tokio::sync::mpsc::unbounded_channel();
        crate::tasks::spawn("server", async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut text = Vec::new();
                while !text.ends_with(b"\r\n\r\n") && socket.read_buf(&mut text).await.is_ok_and(|n| n > 0) {}
                let _ = asked.send(String::from_utf8_lossy(&text).into_owned());
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        (port, questions)
    }

    #[tokio::test]
    async fn an_answer_decides() {
        let (port, mut asked) = server("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
        let content = |text: &str| HealthCheck { content: Some(text.to_owned()), ..check(Some("up")) };
        assert_eq!(attempt(&content("ell"), Some(port), "shop.localhost").await, Ok(()));
        let question = asked.recv().await.expect("asked");
        assert!(question.starts_with("GET /up HTTP/1.1\r\n"), "{question}");
        assert!(question.contains("host: shop.localhost\r\n") && question.contains("x-probe: yes\r\n"), "{question}");
        assert_eq!(attempt(&content("bye"), Some(port), "x").await, Err("answered 200 OK without `bye`".to_owned()));
        assert_eq!(attempt(&check(None), Some(port), "x").await, Ok(()));
        let (port, _asked) = server("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(attempt(&check(Some("/")), Some(port), "x").await, Ok(()));
        let (port, _asked) = server("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(attempt(&check(Some("/")), Some(port), "x").await, Err("answered 503 Service Unavailable".to_owned()));
        let (port, _asked) = server("no HTTP at all\r\n\r\n").await;
        assert!(attempt(&check(Some("/")), Some(port), "x").await.is_err_and(|e| e.starts_with("no HTTP answer")));
    }

    #[tokio::test]
    async fn what_does_not_answer_fails_in_time() {
        let silent = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let port = silent.local_addr().expect("bound").port();
        let quick = HealthCheck { timeout: Duration::from_millis(50), ..check(Some("/")) };
        assert_eq!(attempt(&quick, Some(port), "x").await, Err("no answer within 0.05 s".to_owned()));
        // Bound and not listening, so that nobody else gets it.
        let held = tokio::net::TcpSocket::new_v4().expect("a socket");
        held.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("bound");
        let port = held.local_addr().expect("bound").port();
        let gone = attempt(&check(None), Some(port), "x").await;
        assert_eq!(gone, Err(format!("nothing listens on port {port}")));
    }
}
