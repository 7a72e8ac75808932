//! One queue in a fixed order, without preemption: by submission or by duration, strictly or passing over.

use std::collections::{BTreeMap, BTreeSet};

use super::Floor;
use crate::engine::{Action, Player};

/// `(duration or 0, place in the trace)`.
type Turn = (i64, usize);

pub(super) struct InOrder<'a> {
    floor: Floor<'a>,
    by_duration: bool,
    strict: bool,
    /// Waiting jobs by their width: of equal ones only the first need be tried.
    waiting: BTreeMap<u32, BTreeSet<Turn>>,
}

impl<'a> InOrder<'a> {
    pub(super) fn new(floor: Floor<'a>, by_duration: bool, strict: bool) -> Self {
        Self {
            floor,
            by_duration,
            strict,
            waiting: BTreeMap::new(),
        }
    }
}

impl Player for InOrder<'_> {
    fn submit(&mut self, _now: i64, job: usize) {
        let row = self.floor.job(job);
        let turn = if self.by_duration { row.duration } else { 0 };
        self.waiting
            .entry(row.gpus)
            .or_default()
            .insert((turn, job));
    }

    fn finish(&mut self, _now: i64, job: usize) {
        self.floor.stop(job);
    }

    fn pass(&mut self, _now: i64) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut closed = BTreeSet::new();
        loop {
            let open = self
                .waiting
                .iter()
                .filter(|(gpus, _)| !closed.contains(*gpus));
            let heads = open.filter_map(|(gpus, turns)| Some((*turns.first()?, *gpus)));
            let Some((turn, gpus)) = heads.min() else {
                return actions;
            };
            if self.floor.start(turn.1) {
                actions.push(Action::Start(turn.1));
                self.waiting.entry(gpus).or_default().remove(&turn);
            } else if self.strict {
                return actions;
            } else {
                closed.insert(gpus);
            }
        }
    }

    fn wake(&self, _now: i64) -> Option<i64> {
        None
    }
}
