//! The load of a drill: so many requests a second, each on a connection of its own, as strangers come.

use super::report::{Outcome, Sample};
use anyhow::{Context, Result};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// A user has gone away after this.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many requests are open at once; more would be a load test.
const OPEN: usize = 500;

/// Names a request, so that it is found in the router's log.
pub(crate) fn id(seed: u64, number: impl std::fmt::Display) -> String {
    format!("drill-{seed:016x}-{number}")
}

/// Goes on until it is ended.
pub(crate) struct Load {
    stop: oneshot::Sender<()>,
    samples: mpsc::UnboundedReceiver<(Instant, Duration, Outcome)>,
}

impl Load {
    pub(crate) fn begin(url: &str, path: &str, rate: u32, seed: u64) -> Result<Self> {
        let url = url::Url::parse(url).with_context(|| format!("{url} is no URL"))?;
        let port = url.port_or_known_default().context("the URL has no port")?;
        let host = url.host_str().unwrap_or("localhost").to_owned();
        let target = Arc::new(Target { host: format!("{host}:{port}"), port, path: path.to_owned() });
        let (stop, mut stopped) = oneshot::channel();
        let (tell, samples) = mpsc::unbounded_channel();
        dozen_engine::tasks::spawn("drill", async move {
            let open = Arc::new(Semaphore::new(OPEN));
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            for number in 0u64.. {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = &mut stopped => return,
                }
                // Where all are waiting there is no room for another; those that wait tell of it.
                let Ok(room) = open.clone().try_acquire_owned() else { continue };
                let (target, tell, id) = (target.clone(), tell.clone(), id(seed, number));
                dozen_engine::tasks::spawn("drill-request", async move {
                    let began = Instant::now();
                    let outcome = match tokio::time::timeout(PATIENCE, target.ask(&id)).await {
                        Ok(Ok(status)) => Outcome::Status(status),
                        Ok(Err(error)) => Outcome::Failed(cause(&error)),
                        Err(_) => Outcome::Failed(format!("no answer within {} s", PATIENCE.as_secs())),
                    };
                    // The receiver waits for all of them.
                    let _ = tell.send((began, began.elapsed(), outcome));
                    drop(room);
                });
            }
        });
        Ok(Self { stop, samples })
    }

    /// Asks no more, and waits for what is open.
    pub(crate) async fn end(mut self, origin: Instant) -> Vec<Sample> {
        let _ = self.stop.send(());
        let mut all = Vec::new();
        while let Some((began, took, outcome)) = self.samples.recv().await {
            all.push(Sample { at: began.saturating_duration_since(origin), took, outcome });
        }
        all.sort_by_key(|s| s.at);
        all
    }
}

struct Target {
    host: String,
    port: u16,
    path: String,
}

impl Target {
    async fn ask(&self, id: &str) -> Result<u16> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.context("cannot connect")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        dozen_engine::tasks::spawn("drill-connection", async move { drop(connection.await) });
        let request = http::Request::get(&self.path).header(http::header::HOST, &self.host).header("x-request-id", id);
        let request = request.header(http::header::CONNECTION, "close").body(Empty::<bytes::Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        response.into_body().collect().await.context("the answer broke off")?;
        Ok(status)
    }
}

/// The deepest cause is the one that says something.
fn cause(error: &anyhow::Error) -> String {
    let text = error.root_cause().to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
