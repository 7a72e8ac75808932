//! Jobs that wait, in the order in which they are looked at.
//!
//! Owns that order, so that nobody sorts or searches a long queue at each step. Decides nothing: the policy does. Called
//! by the planner.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::QueuedJob;
use crate::{ids::JobId, retry::LONGEST_WAIT, time::Timestamp};

/// Higher priorities first, then the older.
type Turn = (Reverse<i32>, Timestamp, JobId);

fn turn(queued: &QueuedJob) -> Turn {
    (Reverse(queued.priority), queued.age, queued.job)
}

/// The queue.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    jobs: BTreeMap<Turn, QueuedJob>,
    turns: BTreeMap<JobId, Turn>,
    /// Those that are tried again, by when.
    again: BTreeSet<(Timestamp, JobId)>,
    /// How many of each project wait.
    counts: BTreeMap<i64, u64>,
}

impl Queue {
    /// Adds a job, in place of what was known of it.
    pub fn insert(&mut self, queued: QueuedJob) {
        self.remove(queued.job);
        let turn = turn(&queued);
        self.turns.insert(queued.job, turn);
        self.again
            .extend(queued.not_before.map(|then| (then, queued.job)));
        if let Some(project) = queued.project {
            *self.counts.entry(project).or_default() += 1;
        }
        self.jobs.insert(turn, queued);
    }

    /// Takes a job out, if it is there.
    pub fn remove(&mut self, job: JobId) -> Option<QueuedJob> {
        let turn = self.turns.remove(&job)?;
        let queued = self.jobs.remove(&turn)?;
        if let Some(then) = queued.not_before {
            self.again.remove(&(then, job));
        }
        if let Some(project) = queued.project
            && let Some(count) = self.counts.get_mut(&project)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&project);
            }
        }
        Some(queued)
    }

    /// How many of a project wait.
    #[must_use]
    pub fn of_project(&self, project: i64) -> u64 {
        self.counts.get(&project).copied().unwrap_or_default()
    }

    /// One job.
    #[must_use]
    pub fn get(&self, job: JobId) -> Option<&QueuedJob> {
        self.jobs.get(self.turns.get(&job)?)
    }

    /// All of them: priority, then age.
    pub fn iter(&self) -> impl Iterator<Item = &QueuedJob> {
        self.jobs.values()
    }

    /// Those with higher numbers than this one, or all, by number.
    pub fn behind(&self, job: Option<JobId>) -> impl Iterator<Item = JobId> + '_ {
        let from = job.map_or(0, |job| job.0.saturating_add(1));
        self.turns.range(JobId(from)..).map(|(job, _)| *job)
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Jobs that may start from now on, and might not before.
    pub fn take_due(&mut self, now: Timestamp) -> Vec<JobId> {
        let due = |(then, _): &&(Timestamp, JobId)| now >= *then || then.since(now) > LONGEST_WAIT;
        let due: Vec<_> = self.again.iter().filter(due).copied().collect();
        for entry in &due {
            self.again.remove(entry);
        }
        due.into_iter().map(|(_, job)| job).collect()
    }

    /// When the next job may start that may not yet.
    #[must_use]
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let later = (Timestamp(now.0.saturating_add(1)), JobId(0))..;
        let (then, _) = self.again.range(later).next()?;
        // Further ahead than any wait: the clock was set back, and these are due already.
        (then.since(now) <= LONGEST_WAIT).then_some(*then)
    }
}

impl FromIterator<QueuedJob> for Queue {
    fn from_iter<T: IntoIterator<Item = QueuedJob>>(jobs: T) -> Self {
        let mut queue = Self::default();
        for queued in jobs {
            queue.insert(queued);
        }
        queue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::ResourceRequest;

    fn queued(id: u64, not_before: Option<i64>) -> QueuedJob {
        QueuedJob {
            not_before: not_before.map(Timestamp),
            ..QueuedJob::plain(JobId(id), ResourceRequest::default(), Timestamp(1))
        }
    }

    #[test]
    fn a_job_stands_in_one_place_however_often_it_is_told_of() {
        let mut queue: Queue = [queued(1, Some(50)), queued(2, None)].into_iter().collect();
        let mut urgent = queued(1, None);
        urgent.priority = 7;
        queue.insert(urgent);
        let order: Vec<u64> = queue.iter().map(|queued| queued.job.0).collect();
        assert_eq!(order, [1, 2]);
        assert_eq!(
            queue.next_due(Timestamp(10)),
            None,
            "its wait was taken back"
        );
        assert_eq!(
            queue.remove(JobId(1)).map(|queued| queued.priority),
            Some(7)
        );
        assert!(queue.remove(JobId(1)).is_none() && queue.get(JobId(2)).is_some());
    }

    #[test]
    fn those_of_a_project_are_counted_however_often_they_are_told_of() {
        let mut queue = Queue::default();
        let of = |id, project| QueuedJob {
            project,
            ..queued(id, None)
        };
        for (id, project) in [
            (1, Some(7)),
            (2, Some(7)),
            (1, Some(7)),
            (3, None),
            (4, Some(8)),
        ] {
            queue.insert(of(id, project));
        }
        assert_eq!((queue.of_project(7), queue.of_project(8)), (2, 1));
        queue.insert(of(2, Some(8)));
        queue.remove(JobId(1));
        queue.remove(JobId(1));
        assert_eq!((queue.of_project(7), queue.of_project(8)), (0, 2));
        assert!(!queue.counts.contains_key(&7));
    }

    #[test]
    fn the_next_to_be_due_is_the_first_after_now() {
        let queue: Queue = [
            queued(1, Some(10)),
            queued(2, Some(30)),
            queued(3, Some(20)),
        ]
        .into_iter()
        .collect();
        assert_eq!(queue.next_due(Timestamp(10)), Some(Timestamp(20)));
        assert_eq!(queue.next_due(Timestamp(20)), Some(Timestamp(30)));
        assert_eq!(queue.next_due(Timestamp(30)), None);
        let far = i64::try_from(LONGEST_WAIT.as_micros()).unwrap() + 1_000;
        let set_back: Queue = [queued(1, Some(far))].into_iter().collect();
        assert_eq!(set_back.next_due(Timestamp(0)), None, "it is due already");
    }
}
