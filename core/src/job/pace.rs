//! How far the live attempt of a job is, and when it ends if it goes on as it did.
//!
//! Pure. Called where somebody waits for what the job holds.

use super::Job;
use crate::{record::Progress, time::Timestamp};

impl Job {
    /// The last epoch that the live attempt has ended, and of how many; none before it has said so: what an earlier
    /// attempt reported says nothing of this one.
    #[must_use]
    pub fn epochs(&self) -> Option<(u32, u32)> {
        let (_, said) = self.said_by_live()?;
        Some((said.epoch, said.total_epochs))
    }

    /// When the live attempt ends, if each epoch that is left takes as long as those took that it has ended; never before
    /// `now`. None before its first epoch has ended.
    #[must_use]
    pub fn expected_end(&self, now: Timestamp) -> Option<Timestamp> {
        let (started, said) = self.said_by_live()?;
        let first = self.live()?.first_epoch?;
        let done = said.epoch.checked_sub(first.saturating_sub(1))?;
        // The epoch that it is in now is not over: the span ends with the last one that is.
        let an_epoch = said.at.since(started).checked_div(done)?;
        let left = an_epoch.saturating_mul(said.total_epochs.saturating_sub(said.epoch));
        Some(said.at.plus(left).max(now))
    }

    fn said_by_live(&self) -> Option<(Timestamp, &Progress)> {
        let started = self.live()?.started_at()?;
        let said = self.progress.as_ref()?;
        (said.total_epochs > 0 && said.at >= started).then_some((started, said))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::{
        ids::{AttemptNo, JobId},
        job::{Attempt, JobState},
        sched::Allocation,
        spec::JobSpec,
    };

    fn at(seconds: u64) -> Timestamp {
        Timestamp(0).plus(Duration::from_secs(seconds))
    }

    /// A job whose attempt started then, and whose newest report is this: the end of an epoch, and when.
    fn job(started: u64, first: Option<u32>, (epoch, then): (u32, u64)) -> Job {
        let mut job = Job::accepted(JobId(1), JobSpec::default(), String::new(), at(0));
        let place = Allocation {
            node: crate::ids::NodeName("n1".into()),
            cpus: 1,
            memory_bytes: 0,
            gpus: Vec::new(),
            address: String::new(),
        };
        let secret = String::new().into();
        let mut attempt = Attempt::placed(AttemptNo(1), place, Vec::new(), (secret, at(started)));
        attempt.lead.started_at = Some(at(started));
        attempt.first_epoch = first;
        job.attempts = vec![attempt];
        job.state = JobState::Running;
        job.progress = Some(Progress {
            at: at(then),
            epoch,
            total_epochs: 10,
            step: None,
            values: BTreeMap::new(),
            has_metrics: true,
            checkpoint: None,
            best_checkpoint: None,
        });
        job
    }

    #[test]
    fn the_epoch_that_a_job_is_in_is_none_of_those_by_which_its_pace_is_known() {
        let first_of_ten = job(0, Some(1), (1, 100));
        for asked in [100, 150, 199] {
            assert_eq!(first_of_ten.expected_end(at(asked)), Some(at(1_000)));
        }
        // It is late: when it ends is not known, and not in the past.
        assert_eq!(first_of_ten.expected_end(at(1_500)), Some(at(1_500)));
        assert_eq!(first_of_ten.epochs(), Some((1, 10)));
    }

    #[test]
    fn epochs_of_earlier_attempts_are_none_that_this_one_has_done() {
        // Eight epochs in an earlier attempt; this one began at 5,000 s and goes on with the ninth.
        let fresh = job(5_000, None, (8, 800));
        assert_eq!(
            (fresh.expected_end(at(5_050)), fresh.epochs()),
            (None, None)
        );
        // It says that it has started, and has ended no epoch yet.
        let started = job(5_000, None, (0, 5_001));
        assert_eq!(started.expected_end(at(5_050)), None);
        let ninth = job(5_000, Some(9), (9, 5_600));
        assert_eq!(ninth.expected_end(at(5_700)), Some(at(6_200)));
    }
}
