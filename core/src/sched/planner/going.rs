//! Who was told to go, and by when it should have: so long a job waits at most for nodes that are chosen for it.
//!
//! Decides nothing. Part of the planner.

use std::{collections::BTreeSet, time::Duration};

use super::{Held, Planner};
use crate::{
    ids::{JobId, NodeName},
    sched::{
        ledger::NodeEntry,
        policy::{
            Expected,
            cluster::{NodeIx, Piece},
        },
    },
    time::Timestamp,
};

/// So long agents store the last checkpoint of a job that was stopped, as they are shipped (`checkpoints.after_stop_seconds`
/// of each agent's settings).
const AFTER_STOP: Duration = Duration::from_secs(60);

/// One that was told to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Going {
    pub(super) for_job: JobId,
    told: Timestamp,
}

impl Going {
    pub(super) fn told(for_job: JobId, told: Timestamp) -> Self {
        Self { for_job, told }
    }
}

impl Planner {
    /// Of one that holds something, as the store says it: how long it may take to save its work, and when it was told to.
    pub(super) fn note_grace(&mut self, held: &Held) {
        let job = held.asked.job;
        self.graces.insert(job, held.grace);
        if let (Some(going), Some(since)) = (self.leaving.get_mut(&job), held.leaves_since) {
            going.told = since;
        }
    }

    /// By when it should have gone.
    fn goes_by(&self, job: JobId, going: Going) -> Timestamp {
        let grace = self.graces.get(&job).copied().unwrap_or_default();
        going.told.plus(grace).plus(AFTER_STOP)
    }

    /// The nodes that are chosen for a job that waits.
    pub(super) fn chosen_nodes(&self, job: JobId) -> Option<BTreeSet<NodeIx>> {
        let nodes = |pieces: &Vec<Piece>| pieces.iter().map(|piece| piece.node).collect();
        let seat = self.seats.get(&job).map(nodes);
        seat.or_else(|| self.policy.promised(job.0))
    }

    /// Who has to go first of those who are told to: from these nodes, and, where its project is at its limit, from others.
    pub(super) fn leavers(&self, job: JobId, nodes: &BTreeSet<NodeIx>) -> BTreeSet<JobId> {
        let names = nodes.iter().filter_map(|ix| self.names.get(ix));
        let entries = names.filter_map(|name: &NodeName| self.ledger.node(name));
        let awaits = self.policy.awaits(job.0).into_iter().map(JobId);
        entries
            .flat_map(NodeEntry::jobs)
            .chain(awaits)
            .filter(|job| self.leaving.contains_key(job))
            .collect()
    }

    /// When a job starts for which nodes are chosen: at once where nobody is left there.
    pub(super) fn expected_there(
        &self,
        now: Timestamp,
        job: JobId,
        nodes: &BTreeSet<NodeIx>,
    ) -> Option<Expected> {
        let at = self.seconds(now);
        let leavers = self.leavers(job, nodes).into_iter();
        let going: Vec<(JobId, Going)> = leavers
            .filter_map(|job| Some((job, *self.leaving.get(&job)?)))
            .collect();
        let told = going.iter().map(|(_, going)| going.told).max();
        let until = going.iter().map(|(job, going)| self.goes_by(*job, *going));
        match (told, until.max()) {
            (Some(told), Some(until)) => {
                let (told, until) = (self.seconds(told), self.seconds(until));
                self.policy.expect_chosen(at, told, until)
            }
            (_, _) => Some([at; 3]),
        }
    }

    /// Of a job for which nodes are chosen: who should have left them by now and has not, in words.
    pub(super) fn overdue(&self, now: Timestamp, job: JobId) -> String {
        let nodes = self.chosen_nodes(job).unwrap_or_default();
        let leavers = self.leavers(job, &nodes).into_iter();
        let late = leavers.filter_map(|job| {
            let until = self.goes_by(job, *self.leaving.get(&job)?);
            (until <= now).then(|| {
                let until = until.moment(now);
                format!("; job {job} should have gone by {until}, and nobody knows when it will")
            })
        });
        late.take(3).collect()
    }
}
