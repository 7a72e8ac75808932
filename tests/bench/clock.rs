//! The clock of measurements, and how its spans are written. Used by every measurement.

use std::time::{Duration, Instant};

#[expect(
    clippy::disallowed_methods,
    reason = "a measurement reads the machine's clock"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1_000.0
}
