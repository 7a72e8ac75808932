//! The one place of the process side that reads a clock.
//!
//! Owns two readings, wall time for what is written down and monotonic time for deadlines. It never
//! waits. The shim's loop calls it.
#![expect(
    clippy::disallowed_methods,
    reason = "the shim is a process of its own, outside the simulated world: real time is what it keeps"
)]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Wall time in microseconds since 1970.
pub(crate) fn wall_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_micros()).ok())
        .unwrap_or(0)
}

/// Monotonic time, for deadlines.
pub(crate) fn monotonic() -> Instant {
    Instant::now()
}
