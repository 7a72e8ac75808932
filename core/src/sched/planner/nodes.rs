//! What the planner is told of nodes, and that the policy believes of them what the ledger says.
//!
//! Owns who is asked anew when a node changes. Part of the planner.

use std::collections::BTreeSet;

use super::{Planner, names::pieces_of};
use crate::{
    ids::{JobId, NodeName},
    resources::Capacity,
    sched::policy::{Seconds, cluster::Piece},
    time::Timestamp,
};

impl Planner {
    /// A node is known, or offers something else, or is open or closed.
    pub fn set_node(&mut self, now: Timestamp, name: &NodeName, capacity: Capacity, open: bool) {
        self.ledger.set_node(name.clone(), capacity, open);
        self.node_changed(now, name);
    }

    /// GPUs of a node that nobody gets for now.
    pub fn block(&mut self, now: Timestamp, name: &NodeName, gpus: BTreeSet<String>) {
        self.ledger.block(name.clone(), gpus);
        self.node_changed(now, name);
    }

    /// What a node is labelled with, each `key=value`.
    pub fn set_labels(&mut self, now: Timestamp, name: &NodeName, labels: BTreeSet<String>) {
        self.ledger.set_labels(name.clone(), labels);
        self.node_changed(now, name);
    }

    /// Where other nodes reach it.
    pub fn set_address(&mut self, now: Timestamp, name: &NodeName, address: String) {
        self.ledger.set_address(name.clone(), address);
        self.node_changed(now, name);
    }

    fn node_changed(&mut self, now: Timestamp, name: &NodeName) {
        let now = self.tick(now);
        self.upkeep.stale = true;
        let Some(offer) = self.ledger.node(name).map(|entry| self.offer_of(entry)) else {
            return;
        };
        let known = self.ixs.get(name);
        if known.is_some_and(|ix| self.policy.offer(*ix) == Some(&offer)) {
            return;
        }
        self.refresh(now, name);
        self.moved = true;
    }

    /// What the policy believes of a node is what the ledger says.
    pub(super) fn refresh(&mut self, now: Seconds, name: &NodeName) {
        let Some(entry) = self.ledger.node(name) else {
            return;
        };
        let offer = self.offer_of(entry);
        let Some(ix) = self.ixs.get(name).copied() else {
            let ix = self.policy.add_node(offer);
            self.ixs.insert(name.clone(), ix);
            self.names.insert(ix, name.clone());
            return;
        };
        let held = entry.held();
        let held = held.filter(|(job, _)| !self.leaving.contains_key(job));
        let mut held: Vec<(u64, Vec<Piece>)> = held
            .map(|(job, held)| (job.0, pieces_of(ix, entry, &offer, held)))
            .collect();
        let mut unseated = Vec::new();
        for (job, pieces) in &self.seats {
            let here = pieces.iter().filter(|piece| piece.node == ix);
            let here: Vec<Piece> = here.copied().collect();
            if here.is_empty() {
                continue;
            }
            // What is chosen and not free yet is somebody's too, as long as the node is what was asked for.
            if self.policy.place_stays_good(job.0, ix, &offer) {
                held.push((job.0, here));
            } else {
                unseated.push(*job);
            }
        }
        self.policy.change_node(now, ix, offer, &held);
        for job in unseated {
            self.unseat(now, job);
        }
    }

    /// The place that was chosen for a job is not to be had: it waits again.
    pub(super) fn unseat(&mut self, now: Seconds, job: JobId) {
        self.seats.remove(&job);
        self.leaving.remove(&job);
        self.policy.withdraw(now, job.0);
        if let Some(queued) = self.queue.get(job).cloned() {
            self.submit(now, &queued);
        }
    }

    /// Nodes have changed: who shuns some may have to take them now, or need not any more.
    pub(super) fn reconsider(&mut self, now: Seconds) {
        let shy: Vec<JobId> = self.shy.keys().copied().collect();
        for job in shy {
            let Some(queued) = self.queue.get(job).cloned() else {
                self.shy.remove(&job);
                continue;
            };
            if self.shy.get(&job) != Some(&self.shunned(&queued)) && self.policy.waits(job.0) {
                self.policy.withdraw(now, job.0);
                self.submit(now, &queued);
            }
        }
    }
}
