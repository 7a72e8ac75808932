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
    Timestamp(i64::try_from(micros).unwrap_or(i64::MAX))
}
