//! EASY backfill: the first that does not fit has nodes reserved for when they will be free; others may start beside it
//! if they end before, or do not need what it will.

use std::collections::{BTreeMap, BTreeSet};

use super::{Floor, number};
use crate::engine::{Action, Player};

pub(super) struct Easy<'a> {
    floor: Floor<'a>,
    oracle: bool,
    waiting: BTreeSet<usize>,
    /// When each running job is expected to end.
    expected: BTreeMap<usize, i64>,
}

impl<'a> Easy<'a> {
    pub(super) fn new(floor: Floor<'a>, oracle: bool) -> Self {
        Self {
            floor,
            oracle,
            waiting: BTreeSet::new(),
            expected: BTreeMap::new(),
        }
    }

    fn estimate(&self, job: usize) -> i64 {
        let row = self.floor.job(job);
        if self.oracle { row.duration } else { row.limit }
    }

    fn start(&mut self, now: i64, job: usize) -> bool {
        let started = self.floor.start(job);
        if started {
            self.waiting.remove(&job);
            self.expected.insert(job, now + self.estimate(job));
        }
        started
    }

    /// When the first can start, and the GPUs that are left beside it then.
    fn shadow(&self, now: i64, first: usize) -> (i64, u32) {
        let mut then = self.floor.clone();
        let mut ends: Vec<_> = self.expected.iter().map(|(job, end)| (*end, *job)).collect();
        ends.sort_unstable();
        for (end, job) in ends {
            if let Some(pieces) = then.held.remove(&job) {
                then.cluster.give(number(job), &pieces);
            }
            if then.start(first) {
                return (end.max(now), then.cluster.free_gpus());
            }
        }
        (i64::MAX, 0)
    }
}

impl Player for Easy<'_> {
    fn submit(&mut self, _now: i64, job: usize) {
        self.waiting.insert(job);
    }

    fn finish(&mut self, _now: i64, job: usize) {
        self.floor.stop(job);
        self.expected.remove(&job);
    }

    fn pass(&mut self, now: i64) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(first) = self.waiting.first().copied() {
            if !self.start(now, first) {
                break;
            }
            actions.push(Action::Start(first));
        }
        let Some(first) = self.waiting.first().copied() else {
            return actions;
        };
        if self.floor.cluster.free_gpus() == 0 {
            return actions;
        }
        let (shadow, mut beside) = self.shadow(now, first);
        let others: Vec<usize> = self.waiting.iter().skip(1).copied().collect();
        for job in others {
            if self.floor.cluster.free_gpus() == 0 {
                break;
            }
            let gpus = self.floor.job(job).gpus;
            let ends_before = now.saturating_add(self.estimate(job)) <= shadow;
            if (ends_before || gpus <= beside) && self.start(now, job) {
                actions.push(Action::Start(job));
                if !ends_before {
                    beside -= gpus;
                }
            }
        }
        actions
    }

    fn wake(&self, _now: i64) -> Option<i64> {
        None
    }
}
