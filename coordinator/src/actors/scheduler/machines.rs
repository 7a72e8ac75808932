//! What the scheduler is told of nodes that come, change and are lost.
//!
//! Owns that a node where tasks run that nobody wants gets no job. Part of the scheduler.

use trainyard_core::{
    ids::{AttemptNo, JobId, NodeName},
    job::Event,
    resources::Capacity,
};

use super::{NodeUp, State};
use crate::{actors::job::JobMsg, clock};

impl State {
    /// Jobs that the ledger sees on the node but the node has no trace of must hear of it.
    pub(super) fn node_up(&mut self, node: NodeUp) {
        let NodeUp { name, knows, .. } = node;
        let on_it = self.jobs_on(&name);
        let wanted = |(job, attempt): &(JobId, AttemptNo)| {
            on_it.contains(job) && self.attempts.get(job) == Some(attempt)
        };
        let mut strays = node.runs;
        strays.retain(|task| !wanted(task));
        if strays.is_empty() {
            self.strays.remove(&name);
        } else {
            tracing::warn!(node = %name, tasks = strays.len(), "it gets no job until tasks that nobody wants have ended");
            self.strays.insert(name.clone(), (node.open, strays));
        }
        self.set_node(name.clone(), node.capacity, node.open);
        for job in on_it {
            let attempt = self.attempts.get(&job).copied();
            if let Some(attempt) = attempt.filter(|attempt| !knows.contains(&(job, *attempt))) {
                self.tell(job, JobMsg::NoTrace(attempt, name.clone(), node.at));
            }
        }
    }

    pub(super) fn set_node(&mut self, name: NodeName, capacity: Capacity, open: bool) {
        self.dirty = true;
        let strays = self.strays.get_mut(&name);
        let clean = strays.is_none();
        if let Some((wished, _)) = strays {
            *wished = open;
        }
        let open = open && clean;
        self.planner.set_node(clock::now(), &name, capacity, open);
    }

    pub(super) fn stray_gone(&mut self, name: NodeName, task: (JobId, AttemptNo)) {
        let Some((open, strays)) = self.strays.get_mut(&name) else {
            return;
        };
        strays.remove(&task);
        let (open, is_last) = (*open, strays.is_empty());
        let node = self.planner.ledger().node(&name).filter(|_| is_last);
        if let Some(capacity) = node.map(|node| node.capacity.clone()) {
            self.strays.remove(&name);
            self.set_node(name, capacity, open);
        }
    }

    pub(super) fn node_lost(&mut self, name: &NodeName, why: &str) {
        for job in self.jobs_on(name) {
            if let Some(attempt) = self.attempts.get(&job).copied() {
                let event = Event::NodeLost(attempt, name.clone(), why.to_owned());
                self.tell(job, JobMsg::Event(event, None));
            }
        }
    }

    pub(super) fn jobs_on(&self, name: &NodeName) -> Vec<JobId> {
        let entry = self.planner.ledger().node(name);
        entry.map_or_else(Vec::new, |entry| entry.jobs().collect())
    }
}
