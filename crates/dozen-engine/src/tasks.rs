//! The one way to start a task: named and traced (see `DOZEN_LOG`).

use std::future::Future;
use tokio::task::JoinHandle;
use tracing::Instrument;

/// Spawns a named task.
pub fn spawn<T: Send + 'static>(name: &'static str, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    tokio::spawn(
        async move {
            tracing::debug!("begins");
            let answer = work.await;
            tracing::debug!("ends");
            answer
        }
        .instrument(tracing::info_span!("task", name)),
    )
}
