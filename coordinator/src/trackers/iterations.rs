//! The iteration of a point at trackers that know no epochs: one number that only grows.
//!
//! Pure. Such a tracker takes two points of one metric and iteration for one, so two points of an attempt
//! must never share it. Used by the feed, which keeps the state beside what it has sent.

use serde::{Deserialize, Serialize};

/// How the points of an attempt are counted so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Iterations {
    /// The highest iteration.
    last: Option<u64>,
    /// The step of the last point that had one.
    step: Option<u64>,
    /// What is added to steps: they have begun anew there.
    base: u64,
}

impl Iterations {
    /// The iteration of the next point. Without steps it is the epoch. With them it is the step, counted
    /// on where a trainer counts from the beginning in each epoch; whatever would not grow, such as an
    /// epoch that is reported again, is one more than the last.
    pub(super) fn next(&mut self, epoch: u32, step: Option<u64>) -> u64 {
        let stepless = step.is_none() && self.step.is_none();
        let least = self.last.map_or(0, |last| last.saturating_add(1));
        let wanted = step.map(|step| {
            if self.step.is_some_and(|seen| step <= seen) {
                self.base = self.last.unwrap_or(0);
            }
            self.step = Some(step);
            self.base.saturating_add(step)
        });
        let wanted = wanted.or_else(|| stepless.then(|| u64::from(epoch)));
        // ClearML's numbers are signed.
        let most = u64::MAX / 2;
        let iteration = wanted.unwrap_or(0).max(least).min(most);
        self.last = Some(iteration);
        iteration
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(points: &[(u32, Option<u64>)]) -> Vec<u64> {
        let mut iterations = Iterations::default();
        let next = |(epoch, step): &(u32, Option<u64>)| iterations.next(*epoch, *step);
        points.iter().map(next).collect()
    }

    #[test]
    fn without_steps_an_iteration_is_the_epoch() {
        assert_eq!(counted(&[(1, None), (2, None), (5, None)]), [1, 2, 5]);
    }

    #[test]
    fn an_epoch_that_is_reported_again_gets_an_iteration_of_its_own() {
        let points = [(1, None), (1, None), (1, None), (2, None), (7, None)];
        assert_eq!(counted(&points), [1, 2, 3, 4, 7]);
    }

    #[test]
    fn steps_of_the_whole_training_are_the_iterations() {
        let points = [(1, Some(100)), (1, Some(200)), (2, Some(300))];
        assert_eq!(counted(&points), [100, 200, 300]);
    }

    #[test]
    fn steps_that_begin_anew_in_each_epoch_are_counted_on() {
        let points = [
            (1, Some(10)),
            (1, Some(20)),
            (1, None),
            (2, Some(10)),
            (2, Some(20)),
            (2, None),
        ];
        assert_eq!(counted(&points), [10, 20, 21, 31, 41, 42]);
    }

    #[test]
    fn no_two_points_share_an_iteration_whatever_is_reported() {
        let points = [
            (1, None),
            (1, None),
            (2, None),
            (1, None),
            (2, Some(0)),
            (2, Some(0)),
            (3, Some(1)),
            (3, None),
            (9, Some(u64::MAX / 4)),
            (9, Some(3)),
        ];
        let found = counted(&points);
        assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
    }
}
