//! X. Keep development, staging and production as similar as possible.
//! One trait stands between what is wanted and where it runs; a laptop and a server use the same driver.
//!
//! **Invariant:** level-triggered and idempotent: a driver is told what shall be, never what to do next, and it refuses what is stale.

use crate::admin::OneOff;
use crate::concurrency::Desired;
use crate::ids::{DeployRef, Generation};
use crate::logs::LogLine;
use crate::processes::{Isolation, Seen};
use crate::release::Release;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What a driver can enforce here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// What isolates instances.
    pub isolation: Isolation,
    /// Whether the slug is seen at `/app`; otherwise at its real path.
    pub app_path: bool,
    /// What is not enforced, each as a line for people.
    pub missing: Vec<String>,
}

/// Why a driver refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A newer intent was already applied.
    #[error("generation {} is stale: {} was already applied", .0.0, .1.0)]
    Stale(Generation, Generation),
    /// The driver has ended.
    #[error("the driver has stopped")]
    Gone,
}

/// Where instances run: this host, or Kubernetes.
pub trait Driver: Send + Sync {
    /// What it can enforce.
    fn capabilities(&self) -> Capabilities;
    /// Makes the world so. Answers at once; what comes of it is reported as [`Seen`].
    fn apply(&self, desired: &Desired) -> Result<(), Refusal>;
    /// Starts an admin process of a release on these three descriptors. Its end is reported as [`Seen`] of its instance.
    fn start(&self, release: &Arc<Release>, one_off: &OneOff, io: Io) -> Result<(), Refusal>;
    /// Stops and forgets everything of a deploy.
    fn forget(&self, deploy: &DeployRef) -> Result<(), Refusal>;
}

/// Where a one-off reads and writes.
#[derive(Debug)]
pub enum Io {
    /// These descriptors: standard input, output, error.
    Given([OwnedFd; 3]),
    /// Nothing to read; what it writes goes to the deploy's log.
    Logged,
}

/// All that drivers tell the house.
pub trait Report: Send + Sync {
    /// The state of an instance or one-off.
    fn seen(&self, seen: Seen);
    /// A line of the platform about it.
    fn line(&self, deploy: &DeployRef, line: LogLine);
}
