//! What the planner is told of jobs: that they wait, hold something, or are gone, and what was known of them before.
//!
//! Owns that gates, queue, ledger and policy hear of it alike. Part of the planner.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Held, Planner,
    going::Going,
    names::{pieces_of, whole},
};
use crate::{
    ids::{JobId, NodeName},
    sched::{
        QueuedJob,
        ledger::{Allocation, NodeEntry},
        policy::{Holding, Seconds, Submission},
    },
    time::Timestamp,
    usage::Lately,
};

impl Planner {
    /// A job like this has run for so long, before the coordinator was started.
    pub fn learn(&mut self, queued: &QueuedJob, ran: Duration) {
        let asked = self.submission(queued);
        let gpus = asked.ask.gang.gpus();
        let history = &mut self.policy.history;
        let class = history.class(&asked.user, &asked.project, &asked.name, gpus);
        history.ended(class, whole(ran));
    }

    /// What jobs of a project had used, in GPU-seconds, of the span in which its GPU-hours are counted.
    pub fn has_used(&mut self, now: Timestamp, project: i64, gpu_seconds: f64) {
        let now = self.tick(now);
        let project = project.to_string();
        self.policy.has_used(now, &project, gpu_seconds);
    }

    /// What jobs had used lately when the coordinator was started.
    pub fn had_used_lately(&mut self, now: Timestamp, used: &Lately) {
        let (now, then) = (self.tick(now), self.seconds(used.at()));
        for (payer, gpu_seconds) in used.sums() {
            self.policy
                .had_used_lately((then, now), payer, *gpu_seconds);
        }
    }

    /// A job waits. Told twice, it stands once.
    pub fn queued(&mut self, now: Timestamp, queued: QueuedJob) {
        let job = queued.job;
        let known = self.queue.get(job);
        if known == Some(&queued) {
            return;
        }
        // Its user has asked for it again meanwhile.
        let anew = known.is_some_and(|known| known.queued_at != queued.queued_at);
        if anew && self.gates.never(job).is_some() {
            self.gates.gone(job, now);
        }
        let due = queued.is_due(now);
        let now = self.tick(now);
        let left = self.leaving.remove(&job).is_some();
        self.graces.remove(&job);
        self.seats.remove(&job);
        self.release(now, job);
        // Who has run since it was asked for was let through, and needs not be so again.
        let held = match queued.passed {
            Some(then) => {
                self.gates.placed(job, &queued.gate, then);
                false
            }
            None => self.gates.queued(job, queued.gate.clone()),
        };
        self.queue.insert(queued.clone());
        // It goes on to the place that it was promised, if it still asks for the same.
        if left && due && !held && self.policy.leaves_for(job.0, &self.ask_of(&queued)) {
            let done = whole(queued.has_run);
            self.policy.released_with(now, job.0, done, queued.in_vain);
            self.note_crossing(&queued);
            return;
        }
        self.policy.withdraw(now, job.0);
        if due && !held {
            self.submit(now, &queued);
        }
    }

    /// A job holds something: the store says so.
    pub fn holds(&mut self, at: Timestamp, held: Held) {
        let now = self.tick(at);
        let job = held.asked.job;
        self.queue.remove(job);
        let first = held.asked.passed.unwrap_or(held.since);
        self.gates.placed(job, &held.asked.gate, first);
        self.seats.remove(&job);
        self.shy.remove(&job);
        let nodes = || held.allocations.iter().map(|held| &held.node);
        let before: Vec<Allocation> = self.ledger.held_by(job).into_iter().cloned().collect();
        let differs = before != held.allocations;
        let mut touched: BTreeSet<NodeName> = BTreeSet::new();
        if differs {
            self.ledger.release(job);
            // It holds nothing any more: there is nothing to refuse.
            self.ledger.restore(job, held.allocations.clone()).ok();
            let (old, new) = (before.iter(), held.allocations.iter());
            let gone = old.filter(|one| !held.allocations.contains(one));
            let come = new.filter(|one| !before.contains(one));
            touched = gone.chain(come).map(|held| held.node.clone()).collect();
        }
        let known = self.policy.holds(job.0);
        if differs && known {
            for name in &touched {
                self.refresh(now, name);
            }
        }
        if let Some(for_job) = held.leaves_for.filter(|_| !known) {
            self.leaving.insert(job, Going::told(for_job, at));
        }
        self.note_grace(&held);
        let runs_since = held.runs_since.map(|since| self.seconds(since));
        if known {
            self.policy.saved(job.0, held.saved);
            if let Some(since) = runs_since {
                self.policy.began(now, job.0, since);
            }
            return;
        }
        self.policy.withdraw(now, job.0);
        let unknown: Vec<NodeName> = nodes()
            .filter(|name| !self.ixs.contains_key(*name))
            .cloned()
            .collect();
        for name in unknown {
            self.refresh(now, &name);
        }
        let pieces = held.allocations.iter().filter_map(|held| {
            let (ix, entry) = (self.ixs.get(&held.node)?, self.ledger.node(&held.node)?);
            Some(pieces_of(*ix, entry, self.policy.offer(*ix)?, held))
        });
        let holding = Holding {
            pieces: pieces.flatten().collect(),
            given: gpus_of(&held),
            asked: self.holder(&held),
            placed: self.seconds(held.since),
            since: runs_since,
            leaving: held.leaves_for.is_some(),
        };
        self.policy.adopt(now, &holding);
    }

    /// A job neither waits nor holds anything. One that has ended after running for so long is learnt from.
    pub fn gone(&mut self, at: Timestamp, job: JobId, ran: Option<Duration>) {
        let now = self.tick(at);
        self.queue.remove(job);
        self.gates.gone(job, at);
        self.seats.remove(&job);
        self.leaving.remove(&job);
        self.graces.remove(&job);
        self.shy.remove(&job);
        self.release(now, job);
        match ran {
            Some(ran) => self.policy.ended(now, job.0, whole(ran)),
            None => self.policy.withdraw(now, job.0),
        }
    }

    /// One that held something before it was known here.
    fn holder(&self, held: &Held) -> Submission {
        Submission {
            saved: held.saved,
            ..self.submission(&held.asked)
        }
    }

    fn release(&mut self, now: Seconds, job: JobId) {
        for held in self.ledger.release(job) {
            let entry = self.ledger.node(&held.node);
            // A GPU that is blocked counts as long as somebody has it.
            if entry.is_some_and(NodeEntry::has_blocked) {
                self.refresh(now, &held.node);
            }
        }
    }

    pub(super) fn submit(&mut self, now: Seconds, queued: &QueuedJob) {
        let asked = self.submission(queued);
        if !queued.avoid.is_empty() {
            self.shy.insert(queued.job, asked.ask.avoid.clone());
        }
        self.policy.submit(now, &asked);
        self.note_crossing(queued);
    }
}

/// How many GPUs it was given.
fn gpus_of(held: &Held) -> u32 {
    let gpus: usize = held.allocations.iter().map(|held| held.gpus.len()).sum();
    u32::try_from(gpus).unwrap_or(u32::MAX)
}
