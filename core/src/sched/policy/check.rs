//! What must hold after every pass, whatever was decided. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cluster::{JobIx, NodeIx},
    job::{Job, State},
    plan::Plan,
    scheduler::Scheduler,
};

impl Scheduler {
    /// The first post-condition that does not hold, in words. In a build for tests all is counted anew; else what the
    /// plan names is.
    pub(super) fn broken(&self, plan: &Plan) -> Option<String> {
        let starts: BTreeSet<u64> = plan.starts.iter().map(|start| start.job).collect();
        if starts.len() != plan.starts.len() {
            return Some("a job starts twice".into());
        }
        if let Some(both) = plan.preempts.iter().find(|gone| starts.contains(&gone.job)) {
            return Some(format!("job {} starts and goes in one plan", both.job));
        }
        if cfg!(debug_assertions) {
            self.overdrawn().or_else(|| self.torn())
        } else {
            None
        }
    }

    fn known(&self) -> impl Iterator<Item = (JobIx, &Job)> {
        let jobs = self.jobs.iter();
        jobs.filter_map(|(ix, job)| Some((ix, job.as_ref()?)))
    }

    /// A node that gives more than it has, or thinks that it has more left than it does.
    fn overdrawn(&self) -> Option<String> {
        let mut held: BTreeMap<(NodeIx, u8), u32> = BTreeMap::new();
        for (_, job) in self.known() {
            for piece in &job.pieces {
                *held.entry((piece.node, piece.slot)).or_default() += piece.gpus;
            }
        }
        for ((node, slot), gpus) in held {
            let row = self.cluster.nodes.get(node)?;
            let Some(slot) = row.slots.get(usize::from(slot)) else {
                continue;
            };
            if slot.free() + gpus != slot.total.max(gpus) {
                let (free, total) = (slot.free(), slot.total);
                return Some(format!(
                    "node {node:?} holds {gpus} of {total} and has {free} left"
                ));
            }
        }
        None
    }

    /// A gang that has only a part of what it asks for.
    fn torn(&self) -> Option<String> {
        let mut known = self.known();
        let torn = known.find(|(_, job)| {
            let held: u32 = job.pieces.iter().map(|piece| piece.gpus).sum();
            let nothing = matches!(job.state, State::Waiting(_) | State::Later | State::Leaving);
            let alone = self.lanes.shapes[job.shape].ask.exclusive;
            let whole = held == job.gpus || alone && held > job.gpus || job.partial;
            !(whole || nothing && held == 0)
        });
        torn.map(|(_, job)| format!("job {} holds {:?} of {} GPUs", job.id, job.pieces, job.gpus))
    }
}
