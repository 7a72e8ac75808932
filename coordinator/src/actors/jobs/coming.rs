//! How many jobs of each project are on their way to the queue: they have been let in, and the scheduler does not know them.
//!
//! Owns the counts. Who submits begins before the queue is looked at; the committing thread ends once the scheduler was told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// All of them. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Coming(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    last: u64,
    /// How many jobs, by project and turn.
    jobs: BTreeMap<(i64, u64), u64>,
}

/// Jobs of one submission. Dropped, they are on their way no more.
#[derive(Debug)]
pub struct OnTheWay {
    all: Coming,
    project: i64,
    turn: u64,
}

impl Coming {
    /// From now on so many jobs are on their way.
    #[must_use]
    pub fn begin(&self, project: i64, jobs: u64) -> OnTheWay {
        let mut counts = self.lock();
        counts.last += 1;
        let turn = counts.last;
        counts.jobs.insert((project, turn), jobs);
        drop(counts);
        OnTheWay {
            all: self.clone(),
            project,
            turn,
        }
    }

    /// How many are.
    #[must_use]
    pub fn jobs(&self, project: i64) -> u64 {
        self.before(project, u64::MAX)
    }

    fn before(&self, project: i64, turn: u64) -> u64 {
        let counts = self.lock();
        let before = counts.jobs.range((project, 0)..(project, turn));
        before.map(|(_, jobs)| jobs).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OnTheWay {
    /// How many began before these and are on their way still; never more than when it was asked before.
    #[must_use]
    pub fn ahead(&self) -> u64 {
        self.all.before(self.project, self.turn)
    }
}

impl Drop for OnTheWay {
    fn drop(&mut self) {
        self.all.lock().jobs.remove(&(self.project, self.turn));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_on_their_way_count_for_their_project_and_for_who_comes_later_until_they_are_there() {
        let all = Coming::default();
        let first = all.begin(1, 3);
        let second = all.begin(1, 1);
        let other = all.begin(2, 5);
        assert_eq!((first.ahead(), second.ahead(), other.ahead()), (0, 3, 0));
        assert_eq!((all.jobs(1), all.jobs(2), all.jobs(3)), (4, 5, 0));
        drop(first);
        assert_eq!((second.ahead(), all.jobs(1)), (0, 1));
    }
}
