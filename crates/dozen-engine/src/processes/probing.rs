//! Commands that a jail runs on request, and who waits for what comes of them.

use super::JailHandle;
use dozen_core::processes::jail::{PROBES, ToJail};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::oneshot;

/// A jail that has not answered so long after the command's own time is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// The commands of one jail.
#[derive(Debug, Clone, Default)]
pub(super) struct Probing(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    answers: BTreeMap<u64, oneshot::Sender<Option<String>>>,
    /// The jail has ended.
    over: bool,
}

impl Probing {
    fn ask(&self) -> (u64, oneshot::Receiver<Option<String>>) {
        let (answer, answered) = oneshot::channel();
        let mut waiting = self.lock();
        waiting.last += 1;
        let number = waiting.last;
        if !waiting.over {
            waiting.answers.insert(number, answer);
        }
        (number, answered)
    }

    pub(super) fn answer(&self, number: u64, failure: Option<String>) {
        if let Some(answer) = self.lock().answers.remove(&number) {
            // Whoever asked may have gone.
            let _ = answer.send(failure);
        }
    }

    /// Nothing is answered any more.
    pub(super) fn end(&self) {
        let mut waiting = self.lock();
        waiting.over = true;
        waiting.answers.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().expect("no one panics while holding it")
    }
}

impl JailHandle {
    /// Runs a command beside the instance's processes, in their surroundings; the answer is why it did not end with 0 within `timeout`. A jail
    /// that an earlier version has started runs none: nothing is said against its instance.
    pub fn probe(&self, argv: &[String], timeout: Duration) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let asked = (self.protocol >= PROBES).then(|| {
            let (number, answered) = self.probing.ask();
            let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            self.order(ToJail::Probe { number, argv: argv.to_vec(), timeout_ms });
            answered
        });
        async move {
            let Some(answered) = asked else { return Ok(()) };
            match tokio::time::timeout(timeout.saturating_add(PATIENCE), answered).await {
                Ok(Ok(None)) => Ok(()),
                Ok(Ok(Some(failure))) => Err(failure),
                Ok(Err(_)) => Err("the instance has ended".to_owned()),
                Err(_) => Err("its jail does not answer".to_owned()),
            }
        }
    }
}
