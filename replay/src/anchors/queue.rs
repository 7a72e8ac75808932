//! One queue in a fixed order, without preemption: by submission or by duration, strictly or passing over.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_core::sched::policy::ask::Gang;

use super::Floor;
use crate::engine::{Action, Player};

/// `(duration or 0, place in the trace)`.
type Turn = (i64, usize);

pub(super) struct InOrder<'a> {
    floor: Floor<'a>,
    by_duration: bool,
    strict: bool,
    /// Waiting jobs by how their GPUs are to lie: of equal ones only the first need be tried.
    waiting: BTreeMap<Gang, BTreeSet<Turn>>,
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
            .entry(row.gang())
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
                .filter(|(gang, _)| !closed.contains(*gang));
            let heads = open.filter_map(|(gang, turns)| Some((*turns.first()?, *gang)));
            let Some((turn, gang)) = heads.min() else {
                return actions;
            };
            if self.floor.start(turn.1) {
                actions.push(Action::Start(turn.1));
                self.waiting.entry(gang).or_default().remove(&turn);
            } else if self.strict {
                return actions;
            } else {
                closed.insert(gang);
            }
        }
    }

    fn wake(&self, _now: i64) -> Option<i64> {
        None
    }
}
