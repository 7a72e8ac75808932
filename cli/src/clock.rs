//! The one place of the command line that reads the machine's clock: ages in tables need it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use trainyard_core::time::Timestamp;

/// The time now.
#[expect(
    clippy::disallowed_methods,
    reason = "the one reader of the clock in this crate; renderers are told the time"
)]
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = since.map_or(0, |span| span.as_micros());
    Timestamp(i64::try_from(micros).unwrap_or(i64::MAX))
}

/// Measures time from now on.
#[expect(
    clippy::disallowed_methods,
    reason = "the one reader of the clock in this crate; what is measured is told the time"
)]
pub(crate) fn stopwatch() -> impl Fn() -> Duration {
    let start = Instant::now();
    move || start.elapsed()
}
