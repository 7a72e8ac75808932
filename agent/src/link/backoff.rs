//! How long to wait before the next try. Pure: the draw comes in as an argument.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
/// Nobody waits for a node much longer than this once its coordinator is there again.
const MOST: Duration = Duration::from_millis(2_500);

/// A wait of at most 100 ms after the first failure, twice as long after each further one, never
/// more than 2.5 s; all of it random (`draw` from 0 to 1), so that a crowd of agents spreads.
pub(super) fn wait(failures: u32, draw: f64) -> Duration {
    let most = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    most.min(MOST).mul_f64(draw.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_two_and_a_half_seconds_and_is_spread_over_all_of_it() {
        let most = |failures| wait(failures, 1.0).as_millis();
        assert_eq!([1, 2, 3].map(most), [100, 200, 400]);
        assert_eq!([7, 100, u32::MAX].map(most), [2_500; 3]);
        assert_eq!(wait(5, 0.0), Duration::ZERO);
        assert_eq!(wait(2, 0.5).as_millis(), 100);
    }
}
