//! What the scheduler is told of nodes that come, change and are lost.
//!
//! Owns that a node where tasks run that nobody wants gets no job. Part of the scheduler.

use std::collections::BTreeSet;

use trainyard_core::{
    ids::{AttemptNo, JobId, NodeName, SessionNo},
    job::{Event, Job},
    resources::Capacity,
};

use super::{NodeUp, State};
use crate::{actors::job::JobMsg, clock};

/// What a node has said when it registered.
#[derive(Debug)]
pub(super) struct Seen {
    session: SessionNo,
    /// Attempts that it ran and that were wanted then. One that is given up since, without a word of the node, runs on.
    runs: BTreeSet<(JobId, AttemptNo)>,
}

impl State {
    /// Jobs that the ledger sees on the node but the node has no trace of must hear of it.
    pub(super) fn node_up(&mut self, node: NodeUp) {
        let NodeUp { name, knows, .. } = node;
        let on_it = self.jobs_on(&name);
        let wanted = |(job, attempt): &(JobId, AttemptNo)| {
            on_it.contains(job) && self.attempts.get(job) == Some(attempt)
        };
        let (runs, strays): (BTreeSet<_>, BTreeSet<_>) = node.runs.into_iter().partition(wanted);
        let session = node.session;
        self.seen.insert(name.clone(), Seen { session, runs });
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
                self.tell(job, JobMsg::NoTrace(attempt, name.clone(), session));
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

    /// A job's newest attempt: where it was given up while its node says that it runs, the node is not free. The node may
    /// have come back before the job's word that it is lost there was on disk.
    pub(super) fn given_up(&mut self, job: &Job) {
        let Some(attempt) = job.attempts.last() else {
            return;
        };
        let (task, lives) = ((job.id, attempt.number), job.live().is_some());
        for (_, part) in attempt.parts().filter(|(_, part)| !lives || part.is_over()) {
            let node = &part.allocation.node;
            let seen = self.seen.get_mut(node);
            let runs = seen.is_some_and(|seen| seen.runs.remove(&task));
            if runs && part.end.as_ref().is_some_and(|end| end.lost) {
                self.shut(node, task);
            }
        }
    }

    /// What was said in an earlier session is of no account: the node has said since what it runs.
    pub(super) fn stray(&mut self, name: &NodeName, session: SessionNo, task: (JobId, AttemptNo)) {
        let seen = self.seen.get(name);
        if seen.is_some_and(|seen| seen.session == session) {
            self.shut(name, task);
        }
    }

    /// The node gets no job until this task has ended.
    fn shut(&mut self, name: &NodeName, task: (JobId, AttemptNo)) {
        let Some(node) = self.planner.ledger().node(name) else {
            return;
        };
        let (capacity, open) = (node.capacity.clone(), node.open);
        let strays = self.strays.entry(name.clone());
        let (wished, tasks) = strays.or_insert_with(|| (open, BTreeSet::new()));
        if tasks.insert(task) {
            let ((job, attempt), wished) = (task, *wished);
            tracing::warn!(node = %name, %job, %attempt, "it gets no job until this task, which nobody wants, has ended");
            self.set_node(name.clone(), capacity, wished);
        }
    }

    pub(super) fn stray_gone(&mut self, name: NodeName, task: (JobId, AttemptNo)) {
        if let Some(seen) = self.seen.get_mut(&name) {
            seen.runs.remove(&task);
        }
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

    /// It is closed by now, and has to say anew what it runs before it is not. Its strays stay until then: nobody knows
    /// that they have ended.
    pub(super) fn node_lost(&mut self, name: &NodeName, why: &str) {
        self.seen.remove(name);
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
