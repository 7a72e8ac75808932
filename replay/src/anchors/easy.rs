//! EASY backfill: the first that does not fit has nodes reserved for when they will be free; others may start beside it
//! if they end before, or do not need what it will.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_core::sched::policy::dense::Bits;

use super::{Floor, number};
use crate::engine::{Action, Player};

/// How long a job without a limit may run.
const NEVER: i64 = i64::MAX / 4;

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
        match (self.oracle, row.limit) {
            (true, _) => row.duration,
            (false, 0) => NEVER,
            (false, limit) => limit,
        }
    }

    fn start(&mut self, now: i64, job: usize, within: Option<&Bits>) -> bool {
        let started = self.floor.start_within(job, within);
        if started {
            self.waiting.remove(&job);
            let end = now.saturating_add(self.estimate(job));
            self.expected.insert(job, end);
        }
        started
    }

    /// When the first can start, and the nodes that it does not need.
    fn shadow(&self, now: i64, first: usize) -> (i64, Bits) {
        let mut then = self.floor.clone();
        let mut others = Bits::default();
        for node in then.cluster.keys() {
            others.set(node, true);
        }
        let mut ends: Vec<_> = self
            .expected
            .iter()
            .map(|(job, end)| (*end, *job))
            .collect();
        ends.sort_unstable();
        for (end, job) in ends {
            if let Some(pieces) = then.held.remove(&job) {
                then.cluster.give(number(job), &pieces);
            }
            if then.start_within(first, None) {
                for piece in then.held.get(&first).into_iter().flatten() {
                    others.set(piece.node, false);
                }
                return (end.max(now), others);
            }
        }
        (i64::MAX, others)
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
            if !self.start(now, first, None) {
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
        let (shadow, beside) = self.shadow(now, first);
        let others: Vec<usize> = self.waiting.iter().skip(1).copied().collect();
        for job in others {
            if self.floor.cluster.free_gpus() == 0 {
                break;
            }
            let ends_before = now.saturating_add(self.estimate(job)) <= shadow;
            let within = if ends_before { None } else { Some(&beside) };
            if self.start(now, job, within) {
                actions.push(Action::Start(job));
            }
        }
        actions
    }

    fn wake(&self, _now: i64) -> Option<i64> {
        None
    }
}
