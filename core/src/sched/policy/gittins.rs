//! The Gittins index of jobs like one another, from how long they ran.
//!
//! The rank of a job that has run for `a` seconds is what it costs, at best, to see one of its kind end: the least of
//! `E[time spent until it ends or I give up after d] / P(it ends within d)` over all `d`. Lower goes first. No duration
//! of a job that has not ended is in it.

use super::config::Seconds;

/// Tables have one row for each step of time already run; a step is a third longer than the one before, so that a
/// job's rank moves seldom.
const STEP: f64 = 1.35;
const FIRST: f64 = 30.0;
const ROWS: i32 = 44;
/// Fewer ends than this part of those who still run are chance, and not a kind that ends there.
const SUPPORT: f64 = 0.02;

/// What is known of a kind.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

/// At one step.
#[derive(Clone, Copy, Debug)]
struct Row {
    from: f64,
    rank: f64,
    /// Time that is left on average.
    mean: f64,
    /// Time that is left with 10, 50 and 90 % of those who got here.
    left: [f64; 3],
}

fn float(value: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let float = value as f64;
    float
}

fn seconds(value: Seconds) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^53")]
    let float = value as f64;
    float
}

/// Rounded up.
pub(super) fn whole(seconds: f64) -> Seconds {
    #[expect(clippy::cast_possible_truncation, reason = "rounds, and saturates")]
    let whole = seconds.ceil() as Seconds;
    whole
}

impl Table {
    /// From the run times of jobs that have ended.
    #[must_use]
    pub fn of(times: &[Seconds]) -> Self {
        let mut sorted: Vec<f64> = times.iter().map(|time| seconds(*time).max(1.0)).collect();
        sorted.sort_by(f64::total_cmp);
        let starts = (0..ROWS).map(|row| {
            if row == 0 {
                0.0
            } else {
                FIRST * STEP.powi(row - 1)
            }
        });
        Self {
            rows: starts.map(|from| Row::of(&sorted, from)).collect(),
        }
    }

    fn row(&self, ran: Seconds) -> Option<&Row> {
        let ran = seconds(ran);
        let place = self.rows.partition_point(|row| row.from <= ran);
        self.rows.get(place.saturating_sub(1))
    }

    /// The rank after so much time, in seconds.
    #[must_use]
    pub fn rank(&self, ran: Seconds) -> f64 {
        self.row(ran).map_or(f64::MAX, |row| row.rank)
    }

    /// The rank of one that cannot be stopped again: what it costs to see it end, however long that takes.
    #[must_use]
    pub fn mean(&self, ran: Seconds) -> f64 {
        self.row(ran).map_or(f64::MAX, |row| row.mean)
    }

    /// What is left after so much time by the median: of those who got as far as the last step, and beyond that median of
    /// those who got further. So the end that is expected of a job stays where it is until the job is late.
    #[must_use]
    pub fn median_left(&self, ran: Seconds) -> Option<Seconds> {
        let now = seconds(ran);
        let place = self.rows.partition_point(|row| row.from <= now);
        let mut rows = self.rows.iter().skip(place.saturating_sub(1));
        rows.find_map(|row| {
            let [_, middle, _] = row.left;
            let end = row.from + middle;
            (end > now).then(|| whole(end) - ran)
        })
    }

    /// What is left after so much time, with 10, 50 and 90 % of such jobs.
    #[must_use]
    pub fn left(&self, ran: Seconds) -> [f64; 3] {
        self.row(ran).map_or([0.0; 3], |row| row.left)
    }
}

impl Row {
    fn of(sorted: &[f64], from: f64) -> Self {
        let place = sorted.partition_point(|time| *time <= from);
        let alive = sorted.get(place..).unwrap_or_default();
        let count = float(alive.len());
        if alive.len() < 2 {
            // Older than all that were seen: as old again.
            let left = from.max(FIRST);
            return Self {
                from,
                rank: 2.0 * left,
                mean: 2.0 * left,
                left: [left / 8.0, left, left * 4.0],
            };
        }
        let least = (count * SUPPORT).max(1.0);
        let mut rank = f64::MAX;
        let mut spent = 0.0;
        for (ended, time) in (1usize..).zip(alive) {
            spent += time - from;
            let ended = float(ended);
            if ended >= least {
                rank = rank.min((spent + (count - ended) * (time - from)) / ended);
            }
        }
        let quantile = |part: usize| {
            let time = alive.get(alive.len() * part / 10).copied();
            time.unwrap_or(from) - from
        };
        Self {
            from,
            rank: rank.max(1.0),
            mean: (alive.iter().sum::<f64>() / count - from).max(1.0),
            left: [quantile(1), quantile(5), quantile(9)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_kinds_that_end_early_or_late_one_that_got_past_the_early_end_ranks_behind() {
        let mut times = vec![100; 90];
        times.extend([100_000; 10]);
        let table = Table::of(&times);
        assert!(table.rank(0) < 130.0, "{}", table.rank(0));
        assert!(table.rank(200) > 90_000.0, "{}", table.rank(200));
    }

    #[test]
    fn the_end_that_is_expected_stays_where_it_is_until_a_job_is_late() {
        let mut times = vec![1_000; 60];
        times.extend([5_000; 40]);
        let table = Table::of(&times);
        for ran in [0, 1, 31, 500, 819, 999] {
            assert_eq!(table.median_left(ran), Some(1_000 - ran));
        }
        assert_eq!(table.median_left(1_000), Some(4_000));
        assert_eq!(table.median_left(4_999), Some(1));
        assert!(table.median_left(6_000).is_some_and(|left| left > 0));
    }

    #[test]
    fn with_equal_times_the_older_goes_first() {
        let table = Table::of(&[3_600; 50]);
        assert!(table.rank(3_000) < table.rank(1_000));
        assert!(table.rank(1_000) < table.rank(0));
    }

    #[test]
    fn half_of_such_jobs_end_within_the_median_of_what_is_left() {
        let times: Vec<Seconds> = (1..=1_000).collect();
        let [low, mid, high] = Table::of(&times).left(0);
        assert!(
            (low - 101.0).abs() < 2.0 && (mid - 501.0).abs() < 2.0 && (high - 901.0).abs() < 2.0
        );
    }
}
