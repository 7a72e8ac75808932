//! Numbers of jobs: none is given twice, also where the store is not what it was.
//!
//! Owns the next number. A store that was restored from a backup does not know the jobs that came after it, but agents that
//! still have their tasks do: what they name is passed over. Never forgets a number that it gave. Owned by the supervisor of jobs.

use trainyard_core::ids::JobId;

use crate::store::NEAR;

/// What was given, and what was heard of.
#[derive(Debug)]
pub(super) struct Numbers {
    last: JobId,
    heard: JobId,
}

impl Numbers {
    /// The last that was given.
    pub(super) fn after(last: JobId) -> Self {
        let heard = last;
        Self { last, heard }
    }

    /// What [`Numbers::give`] gives.
    pub(super) fn next(&self) -> JobId {
        JobId(self.last.max(self.heard).0.saturating_add(1))
    }

    /// The next one.
    pub(super) fn give(&mut self) -> JobId {
        self.last = self.next();
        self.last
    }

    /// An agent has something of this job. What lies too far ahead is not believed: one broken agent would use up the
    /// numbers.
    pub(super) fn hear_of(&mut self, job: JobId) {
        if job.0 <= self.last.0.saturating_add(NEAR) {
            self.heard = self.heard.max(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_an_agent_has_heard_of_is_not_given_and_one_far_ahead_is_not_believed() {
        let mut numbers = Numbers::after(JobId(3));
        numbers.hear_of(JobId(2));
        assert_eq!(numbers.give(), JobId(4));
        numbers.hear_of(JobId(9));
        numbers.hear_of(JobId(7));
        for far in [NEAR + 5, NEAR + 9, u64::MAX] {
            numbers.hear_of(JobId(far));
        }
        assert_eq!([numbers.give(), numbers.next()].map(|job| job.0), [10, 11]);
    }
}
