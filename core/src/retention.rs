//! How long points and lines of jobs are kept, and the keys of their submissions.
//!
//! Pure: from what jobs that have ended hold, which of it goes, the oldest first. Jobs that are open are not shown to it.

use std::time::Duration;

use crate::{ids::JobId, service::Steady, time::Timestamp};

/// What is asked for; nothing is removed without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Points go so long after their job's end.
    pub points: Option<Duration>,
    /// Lines go so long after their job's end.
    pub lines: Option<Duration>,
    /// Points and lines of all jobs together take no more bytes.
    pub bytes: Option<u64>,
    /// The key of a submission goes so long after its job was accepted.
    pub keys: Option<Duration>,
    /// What was decided goes after so long.
    pub events: Option<Duration>,
    /// Of what was decided so many rows are kept, the newest.
    pub events_most: Option<u64>,
}

impl Retention {
    /// No points and no lines are ever removed.
    #[must_use]
    pub fn keeps_rows(&self) -> bool {
        self.points.is_none() && self.lines.is_none() && self.bytes.is_none()
    }

    /// The same without what goes by its age.
    #[must_use]
    pub fn by_size(&self) -> Self {
        Self {
            bytes: self.bytes,
            events_most: self.events_most,
            ..Self::default()
        }
    }

    /// Jobs that were accepted before then do not keep the keys of their submissions, once they have ended.
    #[must_use]
    pub fn keys_before(&self, now: Timestamp) -> Option<Timestamp> {
        self.keys.map(|span| now.minus(span))
    }
}

/// A clock goes on from what is stored by no more than this at once, or is doubted for a while.
const GAP: Duration = Duration::from_secs(86_400);

/// Whether a clock says the truth, as far as that can be known: nothing goes by its age by a clock that is years ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belief {
    stored: Timestamp,
    steady: Steady,
}

impl Belief {
    /// From now on, over a store whose newest row was written then.
    #[must_use]
    pub fn from(stored: Timestamp, now: Timestamp) -> Self {
        let steady = Steady::from(now);
        Self { stored, steady }
    }

    /// It was looked at.
    pub fn look(&mut self, now: Timestamp) {
        self.steady.look(now);
    }

    /// Whether what is old by this clock may go: it is near to what is stored, or was not set for an hour.
    #[must_use]
    pub fn is_given(&self, now: Timestamp) -> bool {
        now.since(self.stored) <= GAP || self.steady.is_believed()
    }
}

/// What a job that has ended holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The job.
    pub job: JobId,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Bytes of points.
    pub points: u64,
    /// Bytes of lines.
    pub lines: u64,
}

/// Why something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is older than this.
    Age(Duration),
    /// All together took more bytes than this.
    Size(u64),
}

/// What goes of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The job.
    pub job: JobId,
    /// Its points.
    pub points: Option<Why>,
    /// Its lines.
    pub lines: Option<Why>,
}

/// What goes now, by jobs, the oldest end first. `total` is what all jobs hold, open ones with them; `may` is asked of a job
/// before anything of it goes, and one that may not keeps all.
///
/// # Errors
/// Those of `may`.
pub fn due<E>(
    asked: &Retention,
    now: Timestamp,
    (total, mut held): (u64, Vec<Held>),
    mut may: impl FnMut(JobId) -> Result<bool, E>,
) -> Result<Vec<Due>, E> {
    held.sort_by_key(|held| (held.ended_at, held.job));
    let bound = asked.bytes.unwrap_or(u64::MAX);
    let aged = |span: Option<Duration>, held: &Held| {
        span.filter(|span| now.since(held.ended_at) > *span)
            .map(Why::Age)
    };
    // By age first: what goes anyway makes room.
    let ages = held.iter().map(|held| Due {
        job: held.job,
        points: aged(asked.points, held).filter(|_| held.points > 0),
        lines: aged(asked.lines, held).filter(|_| held.lines > 0),
    });
    let mut dues: Vec<Due> = ages.collect();
    let mut left = total;
    let mut refused = vec![false; held.len()];
    for ((due, held), refused) in dues.iter_mut().zip(&held).zip(&mut refused) {
        if due.points.is_none() && due.lines.is_none() {
            continue;
        }
        if may(held.job)? {
            left = left.saturating_sub(due.points.map_or(0, |_| held.points));
            left = left.saturating_sub(due.lines.map_or(0, |_| held.lines));
        } else {
            *refused = true;
            (due.points, due.lines) = (None, None);
        }
    }
    for ((due, held), refused) in dues.iter_mut().zip(&held).zip(refused) {
        if left <= bound {
            break;
        }
        let more =
            (due.points.is_none() && held.points > 0) || (due.lines.is_none() && held.lines > 0);
        if refused || !more || !may(held.job)? {
            continue;
        }
        for (why, bytes) in [(&mut due.points, held.points), (&mut due.lines, held.lines)] {
            if why.is_none() && bytes > 0 {
                *why = Some(Why::Size(bound));
                left = left.saturating_sub(bytes);
            }
        }
    }
    dues.retain(|due| due.points.is_some() || due.lines.is_some());
    Ok(dues)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn held(job: u64, ended_days_ago: u32) -> Held {
        Held {
            job: JobId(job),
            ended_at: Timestamp(-86_400_000_000 * i64::from(ended_days_ago)),
            points: 10,
            lines: 100,
        }
    }

    fn told(asked: Retention, total: u64, jobs: &[Held], kept: u64) -> Vec<(u64, bool, bool)> {
        let may = |job: JobId| Ok::<_, ()>(job.0 != kept);
        let dues = due(&asked, Timestamp(0), (total, jobs.to_vec()), may).unwrap();
        let short = |due: &Due| (due.job.0, due.points.is_some(), due.lines.is_some());
        dues.iter().map(short).collect()
    }

    #[test]
    fn nothing_goes_unless_it_is_asked_for() {
        let jobs = [held(1, 9_999)];
        assert!(Retention::default().keeps_rows());
        assert_eq!(Retention::default().keys_before(Timestamp(0)), None);
        assert_eq!(told(Retention::default(), u64::MAX, &jobs, 0), []);
    }

    #[test]
    fn a_clock_far_ahead_of_what_is_stored_is_believed_once_it_has_gone_on_for_an_hour() {
        let minutes = |minutes: u32| Timestamp(0).plus(Duration::from_secs(60) * minutes);
        let day = 24 * 60;
        let near = Belief::from(minutes(0), minutes(day));
        assert!(near.is_given(minutes(day)));
        let mut ahead = Belief::from(minutes(0), minutes(day + 1));
        let mut look = |at: u32| {
            ahead.look(minutes(at));
            ahead.is_given(minutes(at))
        };
        let mut first = (1..60).map(|minute| day + 1 + minute);
        assert!(!first.any(&mut look));
        assert!(look(day + 61));
        assert!(!look(900 * day), "it is set while it is looked at");
        assert!(look(day - 1), "and set right");
    }

    #[test]
    fn each_kind_goes_at_its_own_age_counted_from_the_end_and_not_a_moment_before() {
        let jobs = [held(1, 10), held(2, 30), held(3, 31)];
        let asked = Retention {
            points: Some(30 * DAY),
            lines: Some(9 * DAY),
            ..Retention::default()
        };
        let expected = [(3, true, true), (2, false, true), (1, false, true)];
        assert_eq!(told(asked, 330, &jobs, 0), expected);
        let expected = [(2, false, true), (1, false, true)];
        assert_eq!(told(asked, 330, &jobs, 3), expected, "one that may not");
    }

    #[test]
    fn the_oldest_go_until_the_rest_is_small_enough_and_one_that_may_not_is_passed_over() {
        let jobs = [held(1, 1), held(2, 3), held(3, 2)];
        let asked = |bytes| Retention {
            bytes: Some(bytes),
            ..Retention::default()
        };
        assert_eq!(told(asked(330), 330, &jobs, 0), []);
        assert_eq!(told(asked(329), 330, &jobs, 0), [(2, true, true)]);
        assert_eq!(told(asked(329), 330, &jobs, 2), [(3, true, true)]);
        // Open jobs hold the rest: all that has ended goes, and no more is to be had.
        assert_eq!(told(asked(0), 1_000, &jobs, 0).len(), 3);
    }

    #[test]
    fn what_goes_by_age_makes_room_before_anything_goes_by_size() {
        let jobs = [held(1, 50), held(2, 3)];
        let asked = Retention {
            lines: Some(30 * DAY),
            bytes: Some(120),
            ..Retention::default()
        };
        assert_eq!(told(asked, 220, &jobs, 0), [(1, false, true)]);
        let tight = Retention {
            bytes: Some(115),
            ..asked
        };
        let dues = due(&tight, Timestamp(0), (220, jobs.to_vec()), |_| {
            Ok::<_, ()>(true)
        })
        .unwrap();
        let first = dues.first().unwrap();
        assert_eq!(first.points, Some(Why::Size(115)));
        assert_eq!(first.lines, Some(Why::Age(30 * DAY)));
        assert_eq!(dues.len(), 1);
    }
}
