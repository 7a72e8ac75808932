//! What has happened, in order: the same for the same seed. Never changes anything. Written by all parts.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

#[derive(Debug, Default)]
struct State {
    now: Duration,
    lines: Vec<String>,
}

/// The trace. A clone is the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace(Arc<Mutex<State>>);

impl Trace {
    /// So much time has passed since the beginning.
    pub(crate) fn at(&self, now: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).now = now;
    }

    pub(crate) fn note(&self, text: impl AsRef<str>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("{:>9.3} {}", state.now.as_secs_f64(), text.as_ref());
        state.lines.push(line);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.lines.clone()
    }
}
