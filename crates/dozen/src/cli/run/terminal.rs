//! The caller's terminal: what it is, and raw while a one-off has it.

use crate::api::wire;
use dozen_core::admin::TtySize;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What a one-off's own terminal is to be like. Who wants no colours here wants none from there.
pub(super) fn describe(colour: bool) -> wire::Terminal {
    let TtySize { rows, columns } = size();
    let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty()).map(|v| (name.to_owned(), v));
    let mut env: BTreeMap<String, String> = ["TERM", "COLORTERM", "NO_COLOR"].into_iter().filter_map(var).collect();
    if !colour {
        env.insert("NO_COLOR".to_owned(), "1".to_owned());
    }
    wire::Terminal { rows, columns, env }
}

/// How large it is now; as large as terminals once were where it does not say.
pub(super) fn size() -> TtySize {
    match tcgetwinsize(stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => TtySize { rows: size.ws_row, columns: size.ws_col },
        _ => TtySize { rows: 24, columns: 80 },
    }
}

/// The terminal passes on every byte as it is, until this is dropped.
pub(super) struct Raw {
    before: Termios,
    /// `None` once it was given back, so that nobody sets it after that.
    raw: Arc<Mutex<Option<Termios>>>,
}

impl Raw {
    pub(super) fn begin() -> rustix::io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before, raw: Arc::new(Mutex::new(Some(raw))) })
    }

    /// Makes it raw once more, as long as it is to be.
    pub(super) fn again(&self) -> impl Fn() + Send + 'static {
        let raw = self.raw.clone();
        move || {
            let raw = raw.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(raw) = &*raw {
                // A terminal that is gone is told of by its hang-up.
                let _ = tcsetattr(stdin(), OptionalActions::Now, raw);
            }
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let mut raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        *raw = None;
        // A terminal that is gone needs nothing given back.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}
