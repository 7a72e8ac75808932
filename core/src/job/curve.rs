//! Which points of a job count: each epoch once, also after attempts that went on from a checkpoint.
//!
//! By what the attempts themselves have reported: an attempt that goes on says with its first report which epochs it
//! does again, and what earlier attempts said of those is superseded. Nothing is ever removed.

use super::Job;
use crate::ids::{AttemptNo, Rank};

/// The points that count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Curve {
    /// Attempts that count, each with the epoch before which its points do; none for all.
    attempts: Vec<(AttemptNo, Option<u32>)>,
}

impl Curve {
    /// Whether a point of this attempt, rank and epoch counts: rank 0 speaks for the job.
    #[must_use]
    pub fn has(&self, attempt: AttemptNo, rank: Rank, epoch: u32) -> bool {
        let mut counted = self.attempts.iter();
        rank == Rank(0)
            && counted
                .any(|(of, before)| *of == attempt && before.is_none_or(|before| epoch < before))
    }
}

impl Job {
    /// The points of this job that count now.
    #[must_use]
    pub fn curve(&self) -> Curve {
        let mut attempts = Vec::new();
        let mut before: Option<u32> = None;
        let mut newest = self.attempts.last().map(|attempt| attempt.number);
        for attempt in self.attempts.iter().rev() {
            if newest.is_some_and(|newest| attempt.number > newest) {
                continue;
            }
            attempts.push((attempt.number, before));
            if attempt.anew {
                break;
            }
            // One in between began at the beginning, and has saved nothing since.
            newest = attempt.goes_on_from.filter(|from| {
                let mut others = self.attempts.iter();
                others.any(|one| one.anew && one.number > *from && one.number < attempt.number)
            });
            before = match (before, attempt.first_epoch) {
                (Some(known), Some(first)) => Some(known.min(first)),
                (known, first) => known.or(first),
            };
        }
        Curve { attempts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{JobId, NodeName},
        job::Attempt,
        sched::Allocation,
        spec::JobSpec,
        time::Timestamp,
    };

    const T: Timestamp = Timestamp(0);

    /// A job with these attempts: whether each began anew, and its first epoch.
    fn job(attempts: &[(bool, Option<u32>)]) -> Job {
        let mut job = Job::accepted(JobId(1), JobSpec::default(), String::new(), T);
        for (number, (anew, first_epoch)) in (1..).zip(attempts) {
            let allocation = Allocation {
                node: NodeName("n1".into()),
                cpus: 1,
                memory_bytes: 0,
                gpus: vec![],
                address: String::new(),
            };
            let secret = String::new().into();
            let placed = Attempt::placed(AttemptNo(number), allocation, vec![], (secret, T));
            job.attempts.push(Attempt {
                first_epoch: *first_epoch,
                anew: *anew,
                ..placed
            });
        }
        job
    }

    /// Of epochs 1 to 9, those of each attempt that count.
    fn counted(job: &Job) -> Vec<Vec<u32>> {
        let curve = job.curve();
        let of = |attempt: &Attempt| {
            let epochs = 1..10;
            epochs
                .filter(|epoch| curve.has(attempt.number, Rank(0), *epoch))
                .collect()
        };
        job.attempts.iter().map(of).collect()
    }

    #[test]
    fn an_attempt_that_goes_on_supersedes_what_it_does_again() {
        let waits = job(&[(true, Some(1)), (false, None)]);
        assert_eq!(counted(&waits)[0], (1..10).collect::<Vec<_>>());
        let on = job(&[(true, Some(1)), (false, Some(6))]);
        let expected: [Vec<u32>; 2] = [(1..6).collect(), (1..10).collect()];
        assert_eq!(counted(&on), expected);
        // The second one died at epoch 8 before its checkpoint, and the third went further back.
        let back = job(&[(true, Some(1)), (false, Some(6)), (false, Some(4))]);
        assert_eq!(counted(&back)[..2], [vec![1, 2, 3], vec![1, 2, 3]]);
        // Between the two the third stands alone.
        let thrice = job(&[(true, Some(1)), (false, Some(4)), (false, Some(6))]);
        let expected: [Vec<u32>; 2] = [vec![1, 2, 3], (1..6).collect()];
        assert_eq!(counted(&thrice)[..2], expected);
    }

    #[test]
    fn who_goes_on_from_an_attempt_before_one_that_began_anew_and_saved_nothing_shows_its_epochs() {
        let all = [
            (true, Some(1)),
            (true, Some(1)),
            (false, Some(4)),
            (false, None),
        ];
        let mut again = job(&all);
        again.attempts[2].goes_on_from = Some(AttemptNo(1));
        again.attempts[3].goes_on_from = Some(AttemptNo(3));
        let expected: [Vec<u32>; 4] = [vec![1, 2, 3], vec![], (1..10).collect(), (1..10).collect()];
        assert_eq!(counted(&again), expected);
        // As long as nothing is known of it, it goes on from the one before it.
        again.attempts[2].goes_on_from = None;
        assert!(counted(&again)[0].is_empty());
    }

    #[test]
    fn a_job_that_begins_anew_shows_nothing_of_what_was_before() {
        let again = job(&[
            (true, Some(1)),
            (false, Some(4)),
            (true, None),
            (false, None),
        ]);
        let shown = counted(&again);
        assert!(shown[0].is_empty() && shown[1].is_empty());
        assert_eq!((shown[2].len(), shown[3].len()), (9, 9));
        assert!(job(&[]).curve() == Curve::default());
    }
}
