//! What is to be done now: who is let in, who starts, who makes room.
//!
//! Owns the way from the policy's plan to decisions with names. Part of the planner.

use std::collections::BTreeSet;

use super::{Decisions, Leaving, Planner, going::Going, names::whole, words};
use crate::{
    ids::JobId,
    sched::{
        Opened, QueuedJob,
        policy::{Preempt, Seconds},
    },
    time::Timestamp,
};

/// What is to be done is looked at so often at most before it is told.
const MOST_PASSES: usize = 4;

impl Planner {
    /// What is to be done now. Asked again at the same moment, it has nothing to add.
    pub fn solve(&mut self, at: Timestamp) -> Decisions {
        let mut decisions = Decisions::default();
        let now = self.tick(at);
        self.keep_up(now);
        if std::mem::take(&mut self.moved) {
            self.reconsider(now);
        }
        self.let_in(at, now, &mut decisions);
        // More than once only where the books differed, or somebody goes: one who had not come leaves its place at once, and
        // nodes that were kept for whoever it makes room for are anybody's.
        for _ in 0..MOST_PASSES {
            let plan = self.policy.pass(now);
            if plan.broken.is_some() {
                decisions.broken = plan.broken;
                break;
            }
            let mut again = !plan.preempts.is_empty();
            for preempt in &plan.preempts {
                self.send_off((at, now), preempt, &mut decisions);
            }
            for start in plan.starts {
                self.why.insert(JobId(start.job), words::of_start(&start));
                self.seats.insert(JobId(start.job), start.pieces);
            }
            again |= self.seat_all(at, &mut decisions.placements);
            if !again {
                break;
            }
        }
        decisions
    }

    /// Those whose gate has opened, or whose wait is over, are considered from now on.
    fn let_in(&mut self, at: Timestamp, now: Seconds, decisions: &mut Decisions) {
        let opened = self.open_gates(at, now);
        decisions.never = opened.never;
        decisions.through.clone_from(&opened.news);
        let due: BTreeSet<JobId> = self.queue.take_due(at).into_iter().collect();
        for job in due.into_iter().chain(opened.go) {
            let open = |_: &&QueuedJob| !self.gates.holds(job);
            let Some(queued) = self.queue.get(job).filter(open).cloned() else {
                continue;
            };
            if queued.is_due(at) {
                self.submit(now, &queued);
            } else {
                // The clock was set back since: it is looked at again when its time comes.
                self.queue.insert(queued);
            }
        }
    }

    /// A job is to make room. Where its own place was not free yet nobody has to be told.
    fn send_off(
        &mut self,
        (at, now): (Timestamp, Seconds),
        preempt: &Preempt,
        decisions: &mut Decisions,
    ) {
        let leaving = Leaving {
            job: JobId(preempt.job),
            for_job: JobId(preempt.for_job),
        };
        if self.seats.remove(&leaving.job).is_some() {
            let queued = self.queue.get(leaving.job);
            let known = queued.map(|queued| (whole(queued.has_run), queued.in_vain));
            let (done, in_vain) = known.unwrap_or_default();
            self.policy.released_with(now, preempt.job, done, in_vain);
            return;
        }
        let going = Going::told(leaving.for_job, at);
        self.leaving.insert(leaving.job, going);
        let why = words::of_leaving(preempt);
        decisions.room.insert(leaving.job, why);
        decisions.leaving.push(leaving);
    }

    fn open_gates(&mut self, at: Timestamp, now: Seconds) -> Opened {
        let opened = self.gates.open(at);
        let never = opened.never.iter().map(|(job, _)| job);
        for job in opened.back.iter().chain(never) {
            self.hold_back(now, *job);
        }
        for job in &opened.dated {
            if let Some(since) = self.gates.since(*job) {
                let since = self.seconds(since);
                self.policy.waits_since(now, job.0, since);
            }
        }
        opened
    }

    /// It is not to be considered any more, for now or for good; it stays in the queue.
    fn hold_back(&mut self, now: Seconds, job: JobId) {
        self.seats.remove(&job);
        self.shy.remove(&job);
        self.policy.withdraw(now, job.0);
    }
}
