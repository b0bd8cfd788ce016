//! An instance at its beginning, and what is written down of it then.

use super::{Instance, Key};
use crate::processes::adoption::Birth;
use dozen_core::disposability::health::Checks;
use dozen_core::disposability::{Life, Policy};
use dozen_core::ids::Generation;
use dozen_core::release::Release;
use jiff::Timestamp;
use std::sync::Arc;

impl Instance {
    pub(crate) fn new(release: Arc<Release>, generation: Generation, life: Life, policy: Policy, started: Timestamp) -> Self {
        Self {
            release,
            generation,
            life,
            policy,
            checks: Checks::default(),
            started,
            port: None,
            jail: None,
            incarnation: 0,
            routed: false,
            table: 0,
            leaving: None,
            pid: None,
            isolation: None,
            size: None,
            missing: Vec::new(),
            deadline: None,
            stopped: None,
        }
    }

    /// What is written down of it where it starts now.
    pub(crate) fn birth(&self, key: &Key) -> Birth {
        Birth {
            release: key.0,
            instance: key.1.clone(),
            generation: self.generation,
            port: None,
            started: Timestamp::now(),
            restarts: self.life.restarts,
            crashes: self.life.crashes(),
            size: self.size,
        }
    }
}
