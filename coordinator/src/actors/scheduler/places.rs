//! What the scheduler is told of jobs, and places that are on their way to them.
//!
//! Owns that a place which is not answered yet is nobody else's. Part of the scheduler.

use trainyard_core::{
    job::{Event, Job, JobState},
    sched::{Allocation, Held, Leaving, QueuedJob, Standing},
    secret::Secret,
    time::Timestamp,
};

use super::State;
use crate::{actors::job::JobMsg, clock};

/// A placement on its way to its job, which holds it in the ledger until the job answers.
#[derive(Clone, Debug)]
pub(super) struct Proposal {
    pub(super) queued_at: Timestamp,
    pub(super) allocations: Vec<Allocation>,
    pub(super) secret: Secret,
    /// In words.
    pub(super) why: String,
}

impl From<Proposal> for JobMsg {
    fn from(proposal: Proposal) -> Self {
        let event = Event::Placed {
            queued_at: proposal.queued_at,
            allocations: proposal.allocations,
            secret: proposal.secret,
        };
        Self::Decided(event, proposal.why)
    }
}

impl State {
    pub(super) fn job_is(&mut self, job: Job) {
        self.dirty = true;
        // This is newer than what is being read.
        self.reading.remove(&job.id);
        // Before its place is free.
        self.given_up(&job);
        if job.state != JobState::Queued {
            self.notes.forget(job.id);
        }
        let now = clock::now();
        let Some(attempt) = job.live() else {
            if let Some(proposal) = self.unanswered_of(&job) {
                // Not answered yet, or lost on its way. It stays held: were it given to another
                // job, both could take it.
                self.tell(job.id, proposal.into());
                return;
            }
            self.unanswered.remove(&job.id);
            self.attempts.remove(&job.id);
            self.going.remove(&job.id);
            if job.state == JobState::Queued {
                let queued = job.queued();
                let known = self.planner.queue().get(job.id);
                let same = known.is_some_and(|known| known.queued_at == queued.queued_at);
                match self.planner.never(job.id).filter(|_| same) {
                    // That was lost on its way.
                    Some(why) => self.give_up(job.id, why),
                    None => self.waits(queued),
                }
            } else {
                let standing = Standing::of(Some(job.state));
                self.planner.stands(job.id, standing, job.ended_at);
                let ran = job.ran().filter(|_| job.state.is_terminal());
                self.planner.gone(now, job.id, ran);
            }
            return;
        };
        self.unanswered.remove(&job.id);
        self.attempts.insert(job.id, attempt.number);
        // Such a job does not take it, and goes soon.
        let ends = job.cancel_requested || attempt.blame.is_some();
        let goes = ends || attempt.leaves() || job.state == JobState::Finishing;
        match goes {
            true => self.going.insert(job.id),
            false => self.going.remove(&job.id),
        };
        if let Some(for_job) = self.planner.leaves_for(job.id).filter(|_| !goes) {
            // It was told before it was what it is now, or that was lost on its way.
            let leaving = Leaving {
                job: job.id,
                for_job,
            };
            self.make_room(leaving, None);
        }
        let held = Held {
            asked: job.queued(),
            allocations: job.allocations().into_iter().cloned().collect(),
            since: attempt.placed_at,
            runs_since: attempt.started_at(),
            saved: job.resumable.is_some(),
            leaves_for: attempt.makes_room_for,
            leaves_since: attempt.leaves_since,
            grace: job.spec.grace_period,
        };
        let gate = held.asked.gate.clone();
        self.planner.holds(now, held);
        self.unread.extend(self.planner.unknown(&gate));
    }

    /// A job waits. How those stand that it waits for is in the store: what changes after that is read is told.
    pub(super) fn waits(&mut self, queued: QueuedJob) {
        let gate = queued.gate.clone();
        self.planner.queued(clock::now(), queued);
        self.unread.extend(self.planner.unknown(&gate));
    }

    /// The placement that `job` has still to answer; one from before it was queued anew is none.
    fn unanswered_of(&self, job: &Job) -> Option<Proposal> {
        let proposal = self.unanswered.get(&job.id)?;
        let waits = job.state == JobState::Queued && job.state_since == proposal.queued_at;
        waits.then(|| proposal.clone())
    }

    /// One that is not placed yet hears of it when it is.
    pub(super) fn make_room(&self, leaving: Leaving, why: Option<String>) {
        if let Some(attempt) = self.attempts.get(&leaving.job) {
            let event = Event::MakeRoom(*attempt, leaving.for_job);
            let message = match why {
                Some(why) => JobMsg::Decided(event, why),
                None => JobMsg::Event(event, None),
            };
            self.tell(leaving.job, message);
        }
    }
}
