//! The Procfile-only pack: anything executable, no language, the tree as it is.

use super::{Plan, PlanError};
use crate::codebase::Source;

/// A plan without steps for a source that has a Procfile.
pub(super) fn plan(source: &Source) -> Option<Result<Plan, PlanError>> {
    source.has("Procfile").then(|| {
        Ok(Plan {
            pack: "procfile",
            language: None,
            runtime: None,
            layer: None,
            steps: Vec::new(),
            env: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())],
            processes: Vec::new(),
            console: None,
            scratch: Vec::new(),
            cure: "Declare at least one process type in the Procfile, as `web: ./server --port $PORT`".into(),
            notes: Vec::new(),
        })
    })
}
