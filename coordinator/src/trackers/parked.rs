//! Jobs that a tracker does not take for now: the walk goes on behind them, and each is tried by itself.
//!
//! Owns when each is tried again, and when the tracker itself is to be left alone instead: several jobs in
//! a row that it does not take, and none that it does. That a job is parked is a row, so a coordinator that
//! is started again tries it again. Bounded: when it is full the walk stands. Used by the actor.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use trainyard_core::{ids::JobId, time::Timestamp};

use super::{http::Failure, rows::ParkedRow};
use crate::store::{ReadError, Store};

/// Jobs that are left behind at once.
const MOST: usize = 1_000;
/// So many jobs that fail one after the other are no chance: the tracker is ill.
const SEVERAL: usize = 3;

/// The parked jobs of one tracker.
#[derive(Debug, Default)]
pub(super) struct Parked {
    jobs: BTreeMap<JobId, Waiting>,
    failing: Failing,
}

#[derive(Debug, Default)]
struct Waiting {
    tries: u32,
    due_at: Timestamp,
}

/// Jobs that failed since anything was taken.
#[derive(Debug, Default)]
pub(super) struct Failing {
    jobs: BTreeSet<JobId>,
    /// The last one for the sake of credentials.
    refused: bool,
}

impl Failing {
    /// Something was taken: the tracker is well.
    pub(super) fn taken(&mut self) {
        *self = Self::default();
    }

    /// A job was not taken; whether the tracker is to be left alone altogether. One that is refused `again` says
    /// nothing new of the tracker.
    pub(super) fn failed(&mut self, job: JobId, failure: &Failure, again: bool) -> bool {
        let refused = matches!(failure, Failure::Refused(_));
        if refused && again {
            return false;
        }
        self.refused = refused;
        if self.jobs.len() < SEVERAL {
            self.jobs.insert(job);
        }
        !failure.may_be_of_one_job() || self.jobs.len() >= SEVERAL
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(super) fn is_refused(&self) -> bool {
        self.refused
    }
}

impl Parked {
    /// As they were left, all due now.
    pub(super) fn open(store: &Store, tracker: &str) -> Result<Self, ReadError> {
        let rows = store.documents::<ParkedRow>(&format!("{tracker}/"))?;
        let jobs = rows.into_iter().map(|row| (row.job, Waiting::default()));
        Ok(Self {
            jobs: jobs.collect(),
            failing: Failing::default(),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.jobs.len() >= MOST
    }

    pub(super) fn holds(&self, job: JobId) -> bool {
        self.jobs.contains_key(&job)
    }

    /// The failure may be this job's alone.
    pub(super) fn may_take(&self, failure: &Failure) -> bool {
        failure.may_be_of_one_job() && !self.is_full()
    }

    /// The job is tried again after `wait`, which is made from how often it was tried.
    pub(super) fn put(&mut self, job: JobId, now: Timestamp, wait: impl FnOnce(u32) -> Duration) {
        let waiting = self.jobs.entry(job).or_default();
        waiting.due_at = now.plus(wait(waiting.tries));
        waiting.tries = waiting.tries.saturating_add(1);
    }

    pub(super) fn remove(&mut self, job: JobId) {
        self.jobs.remove(&job);
    }

    pub(super) fn failing(&self) -> &Failing {
        &self.failing
    }

    pub(super) fn failing_mut(&mut self) -> &mut Failing {
        &mut self.failing
    }

    /// Those that are due, the longest first.
    pub(super) fn due(&self, now: Timestamp, most: usize) -> Vec<JobId> {
        let due = self
            .jobs
            .iter()
            .filter(|(_, waiting)| waiting.due_at <= now);
        let mut due: Vec<_> = due.map(|(job, waiting)| (waiting.due_at, *job)).collect();
        due.sort_unstable();
        due.into_iter().take(most).map(|(_, job)| job).collect()
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.jobs.values().map(|waiting| waiting.due_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later() -> Failure {
        Failure::later("500")
    }

    #[test]
    fn a_job_or_two_that_fail_do_not_stop_the_others_and_several_do() {
        let mut failing = Failing::default();
        for _ in 0..10 {
            assert!(!failing.failed(JobId(1), &later(), false));
            assert!(!failing.failed(JobId(2), &later(), false));
        }
        assert!(failing.failed(JobId(3), &later(), false));
        failing.taken();
        assert!(!failing.failed(JobId(3), &later(), false));
        assert!(!failing.failed(JobId(1), &Failure::Refused("403".into()), false));
        assert!(failing.is_refused());
        assert!(failing.failed(JobId(2), &Failure::Refused("401".into()), false));
        failing.taken();
        assert!(!failing.is_refused());
        let gone = Failure::Away("no connection".into(), None);
        assert!(failing.failed(JobId(1), &gone, true));
    }

    #[test]
    fn jobs_that_are_refused_again_and_again_never_stop_the_others() {
        let mut failing = Failing::default();
        for job in 0..10 {
            let refused = Failure::Refused("403".into());
            assert!(!failing.failed(JobId(job), &refused, true));
        }
        assert!(failing.is_empty());
    }

    #[test]
    fn what_is_due_the_longest_comes_first_and_a_job_that_waits_does_not_come() {
        let mut parked = Parked::default();
        for (job, seconds) in [(1, 9), (2, 1), (3, 5)] {
            let wait = |_| Duration::from_secs(seconds);
            parked.put(JobId(job), Timestamp(0), wait);
        }
        assert_eq!(parked.next_due(), Some(Timestamp(1_000_000)));
        let due = parked.due(Timestamp(6_000_000), 9);
        assert_eq!(due, [JobId(2), JobId(3)]);
    }

    #[test]
    fn a_full_one_takes_no_more_and_what_is_not_a_jobs_fault_is_not_taken() {
        let mut parked = Parked::default();
        assert!(parked.may_take(&later()));
        assert!(!parked.may_take(&Failure::Away("no connection".into(), None)));
        for job in 0..1_000 {
            parked.put(JobId(job), Timestamp(0), |_| Duration::ZERO);
        }
        assert!(!parked.may_take(&later()));
    }
}
