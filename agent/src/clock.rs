//! The one place where the agent reads the machine's clock; everything else is told the time. Never
//! waits. (The shim is a process of its own and has its own.)

use std::time::{SystemTime, UNIX_EPOCH};

use trainyard_core::time::Timestamp;

/// The time now.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one reader of the clock; all others are told the time"
)]
pub fn now() -> Timestamp {
    of(SystemTime::now())
}

/// A file's time as the core writes it.
#[must_use]
pub fn of(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH);
    let micros = since.map_or(0, |span| span.as_micros());
    Timestamp(i64::try_from(micros).unwrap_or(i64::MAX))
}
