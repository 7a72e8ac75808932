//! How long a tracker, a job or a delivery is left alone after something was not taken.
//!
//! Owns the waits and what makes them longer. Never waits itself. Used by the actor, the walk and the webhooks.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};

use super::http::Failure;

/// The first wait after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest one, which is also how long a tracker that is back may go unnoticed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The wait before the next try, after so many that failed before this one: as long as it was asked for.
pub(super) fn wait_after(failure: &Failure, failures: u32) -> Duration {
    match failure {
        Failure::Away(_, Some(wait)) | Failure::Later(_, Some(wait)) => (*wait).max(FIRST_WAIT),
        Failure::Refused(_) => LONGEST_WAIT,
        Failure::Away(..) | Failure::Later(..) | Failure::Never(_) | Failure::Ours(_) => {
            backoff(failures)
        }
    }
}

/// The wait after so many failures in a row: doubled each time, with jitter, bounded.
fn backoff(failures: u32) -> Duration {
    let mut waits = ExponentialBuilder::default()
        .with_min_delay(FIRST_WAIT)
        .with_max_delay(LONGEST_WAIT / 2)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .build();
    let nth = usize::try_from(failures.min(32)).unwrap_or(32);
    waits.nth(nth).unwrap_or(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_below_a_minute_however_often_it_fails() {
        for failures in [0, 1, 5, 40, u32::MAX] {
            let wait = backoff(failures);
            assert!(wait >= FIRST_WAIT && wait <= LONGEST_WAIT, "{wait:?}");
        }
        assert!(backoff(6) > backoff(0));
    }
}
