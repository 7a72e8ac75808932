//! One queue in a fixed order, without preemption: by submission, by duration or by what is
//! predicted, strictly or passing over.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_core::sched::policy::ask::Gang;

use super::{Floor, past::Means};
use crate::engine::{Action, Player};

/// What the order goes by.
pub(super) enum By {
    Submission,
    Duration,
    /// GPU-seconds, as jobs that had ended at the submission say.
    Predicted(Means),
}

/// `(duration, service or 0, place in the trace)`.
type Turn = (i64, usize);

pub(super) struct InOrder<'a> {
    floor: Floor<'a>,
    by: By,
    strict: bool,
    /// Waiting jobs by how their GPUs are to lie: of equal ones only the first need be tried.
    waiting: BTreeMap<Gang, BTreeSet<Turn>>,
}

impl<'a> InOrder<'a> {
    pub(super) fn new(floor: Floor<'a>, by: By, strict: bool) -> Self {
        Self {
            floor,
            by,
            strict,
            waiting: BTreeMap::new(),
        }
    }
}

impl Player for InOrder<'_> {
    fn submit(&mut self, _now: i64, job: usize) {
        let row = self.floor.job(job);
        let turn = match &self.by {
            By::Submission => 0,
            By::Duration => row.duration,
            By::Predicted(means) => means.service(row),
        };
        self.waiting
            .entry(row.gang())
            .or_default()
            .insert((turn, job));
    }

    fn finish(&mut self, _now: i64, job: usize) {
        self.floor.stop(job);
        match &mut self.by {
            By::Predicted(means) => means.ended(self.floor.job(job)),
            By::Submission | By::Duration => {}
        }
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
