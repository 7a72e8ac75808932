//! The clock of measurements, and how its spans are written. Used by every measurement.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;

#[expect(
    clippy::disallowed_methods,
    reason = "a measurement reads the machine's clock"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Microseconds since 1970, the same in every process.
#[expect(
    clippy::disallowed_methods,
    reason = "a measurement reads the machine's clock"
)]
pub(crate) fn wall_us() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::try_from(since.as_micros())?)
}

pub(crate) fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1_000.0
}
