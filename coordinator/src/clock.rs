//! The one place that reads the machine's clock. Everything else is told the time.

use std::time::{SystemTime, UNIX_EPOCH};

use trainyard_core::time::Timestamp;

/// The time now.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one reader of the clock; all others are told the time"
)]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = since.map_or(0, |span| span.as_micros());
    let now = Timestamp(i64::try_from(micros).unwrap_or(i64::MAX));
    #[cfg(test)]
    let now = now.plus(ahead::AHEAD.get());
    now
}

/// The clock of one test, and of what runs on its thread, can be put forward.
#[cfg(test)]
pub(crate) mod ahead {
    use std::{cell::Cell, time::Duration};

    thread_local! {
        pub(super) static AHEAD: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// So much time passes at once.
    pub(crate) fn pass(time: Duration) {
        AHEAD.set(AHEAD.get() + time);
    }

    /// It is set back by so much, at most to the machine's.
    pub(crate) fn back(time: Duration) {
        AHEAD.set(AHEAD.get().saturating_sub(time));
    }
}
