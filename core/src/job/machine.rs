//! The transitions, and what users want. Each function is one event; each says in which states it is taken. What tasks
//! say is in `tasks`.

use std::time::Duration;

use super::{Attempt, Effect, Event, Illegal, Job, JobState, Resume, Step, Tracker};
use crate::{
    failure::{FailureClass, Outcome, StopCause},
    ids::{AttemptNo, Rank},
    retry::{Again, Tried},
    time::Timestamp,
};

pub(super) fn step(job: &Job, now: Timestamp, event: Event) -> Result<Step, Illegal> {
    let mut next = Draft {
        job: job.clone(),
        effects: Vec::new(),
        now,
    };
    match event {
        Event::Prepared => next.prepared()?,
        Event::Placed {
            queued_at,
            allocations,
            secret,
        } => next.placed(queued_at, allocations, secret)?,
        Event::Preparing(task, detail) => next.preparing(task, detail)?,
        Event::Waiting(task, port) => next.waiting(task, port)?,
        Event::Started(task, at) => next.started(task, at)?,
        Event::Ended(task, end) => next.ended(task, end)?,
        Event::Stored(task, told) => next.stored(task, *told)?,
        Event::CancelRequested => next.cancel_requested()?,
        Event::RestartRequested => {
            next.job.begin_with(&Resume::default());
            next.restart_requested("restart")?;
        }
        Event::StartRequested(from) => next.start_requested(&from)?,
        Event::AttemptLost(task, why) => next.task_lost(task, why)?,
        Event::NodeLost(attempt, node, why) => next.node_lost(attempt, &node, why)?,
        Event::Heard(task) => next.heard(task)?,
        Event::Late(attempt, ranks) => next.late(attempt, ranks)?,
        Event::Hopeless(why) => next.hopeless(why)?,
        Event::MakeRoom(attempt, job) => next.make_room(attempt, job)?,
        Event::Vacate(attempt, why) => next.vacate(attempt, why)?,
        Event::Tracked(attempt, tracker, run) => next.tracked(attempt, tracker, run)?,
    }
    Ok(Step {
        job: next.job,
        effects: next.effects,
    })
}

/// What the platform has done to an attempt, and its job has not.
pub(super) const PLATFORM: [FailureClass; 3] = [
    FailureClass::Infrastructure,
    FailureClass::Lost,
    FailureClass::Preempted,
];

/// A job that is being changed.
pub(super) struct Draft {
    pub(super) job: Job,
    pub(super) effects: Vec<Effect>,
    pub(super) now: Timestamp,
}

impl Draft {
    fn prepared(&mut self) -> Result<(), Illegal> {
        self.only_in(&[JobState::Pending], "prepared")?;
        self.enter(JobState::Queued);
        self.effects.push(Effect::Enqueue);
        Ok(())
    }

    fn cancel_requested(&mut self) -> Result<(), Illegal> {
        match self.job.state {
            JobState::Pending | JobState::Queued => {
                self.job.cancel_requested = true;
                self.job.outcome = Some(cancelled(&self.job));
                self.effects.push(Effect::Dequeue);
                self.enter(JobState::Cancelled);
            }
            JobState::Starting | JobState::Running => {
                self.job.cancel_requested = true;
                self.stop(StopCause::Cancelled);
            }
            // The trainer is gone already: it ends as it ended, and is not tried again.
            JobState::Finishing => self.job.cancel_requested = true,
            JobState::Completed | JobState::Failed | JobState::Cancelled => {
                return Err(self.not_now("cancel"));
            }
        }
        Ok(())
    }

    /// What it waits for cannot come.
    fn hopeless(&mut self, why: String) -> Result<(), Illegal> {
        self.only_in(&[JobState::Pending, JobState::Queued], "hopeless")?;
        self.job.outcome = Some(Outcome {
            class: Some(FailureClass::Cancelled),
            message: why,
            ..Outcome::default()
        });
        self.effects.push(Effect::Dequeue);
        self.enter(JobState::Cancelled);
        Ok(())
    }

    /// A trainer that is about to run begins as it was told; nobody changes that any more.
    fn start_requested(&mut self, from: &Resume) -> Result<(), Illegal> {
        match self.job.state {
            JobState::Pending | JobState::Queued | JobState::Starting
                if *from == Resume::default() => {}
            JobState::Pending | JobState::Queued => {
                self.job.begin_with(from);
                // Where the user says, and not where an attempt before that was.
                self.job.resumable = None;
            }
            JobState::Completed | JobState::Failed | JobState::Cancelled => {
                self.job.begin_with(from);
                let best = self.job.best_checkpoint.clone();
                let last = self.job.last_checkpoint.clone();
                let goes_on = self.job.goes_on();
                self.restart_requested("start")?;
                // The trainer may never be better, or end before it has saved anything: then these still are the
                // best and the last that there are, and the place to go on from once more.
                if goes_on {
                    self.job.best_checkpoint = best;
                    self.job.last_checkpoint = last;
                }
            }
            JobState::Starting | JobState::Running | JobState::Finishing => {
                return Err(self.not_now("start"));
            }
        }
        Ok(())
    }

    fn restart_requested(&mut self, event: &'static str) -> Result<(), Illegal> {
        self.only_in(
            &[JobState::Completed, JobState::Failed, JobState::Cancelled],
            event,
        )?;
        self.job.cancel_requested = false;
        if let Some(asked) = self.job.tried.batch_size {
            self.job.spec.batch_size = asked;
        }
        // No two wishes have the same moment: by it one is told from the one before.
        let same = self.job.asked_at == Some(self.now);
        let apart = Duration::from_micros(u64::from(same));
        self.job.asked_at = Some(self.now.plus(apart));
        let newest = self.job.attempts.last();
        self.job.asked_after = Some(newest.map_or(AttemptNo(0), |newest| newest.number));
        self.job.tried = Tried::default();
        self.job.failed_on.clear();
        self.job.resumable = None;
        self.job.outcome = None;
        self.job.progress = None;
        self.job.final_metrics.clear();
        self.job.best_checkpoint = None;
        self.job.last_checkpoint = None;
        self.job.started_at = None;
        self.job.ended_at = None;
        // Its user asks for it now, whatever was to be waited for before.
        self.job.not_before = None;
        self.job.mlflow_run_id = None;
        self.job.clearml_task_id = None;
        self.effects.push(Effect::Enqueue);
        self.enter(JobState::Queued);
        Ok(())
    }

    /// A fact about the newest attempt, live or over; a job that is queued anew shows nothing of it.
    fn tracked(&mut self, seen: AttemptNo, tracker: Tracker, run: String) -> Result<(), Illegal> {
        let newest = self.job.attempts.last().map(|attempt| attempt.number);
        let waits = matches!(self.job.state, JobState::Pending | JobState::Queued);
        if newest != Some(seen) || waits {
            return Err(Illegal::Fenced { seen, live: newest });
        }
        match tracker {
            Tracker::Mlflow => self.job.mlflow_run_id = Some(run),
            Tracker::Clearml => self.job.clearml_task_id = Some(run),
        }
        Ok(())
    }

    pub(super) fn again(&self, outcome: &Outcome) -> Option<Again> {
        let class = outcome.class.filter(|_| !self.job.cancel_requested)?;
        let vacates = self
            .job
            .attempts
            .last()
            .is_some_and(|last| last.vacates.is_some());
        // Its operator wanted that: it costs the job nothing, however it came to its end.
        if vacates && PLATFORM.contains(&class) {
            return Some(Again::WithRoom);
        }
        let again = self.job.spec.retry.again(class, &self.job.tried, self.now);
        let smallest = self.job.spec.batch_size < 2;
        again.filter(|again| !(smallest && *again == Again::HalfBatch))
    }

    /// Another attempt, from the last checkpoint that other nodes can reach.
    pub(super) fn try_again(&mut self, again: Again, outcome: &Outcome, ranks: &[Rank]) {
        let why = &outcome.message;
        let words = match again {
            Again::Elsewhere { not_before } => {
                self.avoid(ranks);
                self.job.tried.again += 1;
                self.job.not_before = Some(not_before);
                let (done, limit) = (self.job.tried.again, self.job.spec.retry.limit);
                format!("is tried again ({done} of {limit}): {why}")
            }
            Again::HalfBatch => {
                self.job.tried.halved = true;
                self.job.tried.batch_size = Some(self.job.spec.batch_size);
                self.job.spec.batch_size /= 2;
                let batch = self.job.spec.batch_size;
                format!("is tried again with batch_size {batch}: {why}")
            }
            Again::WithRoom => {
                let live = self.job.attempts.last();
                let other = live.and_then(|live| live.makes_room_for);
                let other = other.map_or_else(|| "another".to_owned(), |job| job.to_string());
                match live.and_then(|live| live.vacates.as_ref()) {
                    Some(vacates) => {
                        format!("left its place, and goes on elsewhere: {}", vacates.why)
                    }
                    None => format!("made room for job {other}, and goes on when there is room"),
                }
            }
        };
        if let Some(checkpoint) = &self.job.resumable {
            self.job.spec.resume_from = Some(checkpoint.path.clone());
            self.job.spec.resume = true;
        }
        if let Some(attempt) = self.job.attempts.last_mut() {
            attempt.tried_again = true;
        }
        self.job.final_metrics.clear();
        self.job.mlflow_run_id = None;
        self.job.clearml_task_id = None;
        self.effects.push(Effect::Enqueue);
        self.enter(JobState::Queued);
        self.job.reason = words;
    }

    /// Whose fault it was is given the job last.
    fn avoid(&mut self, ranks: &[Rank]) {
        let live = self.job.attempts.last();
        let part = |rank: &Rank| live?.part(*rank);
        let nodes = ranks.iter().filter_map(part);
        let nodes: Vec<_> = nodes.map(|part| part.allocation.node.clone()).collect();
        self.job.failed_on.extend(nodes);
    }

    /// Every task of the live attempt that has not ended.
    pub(super) fn stop(&mut self, cause: StopCause) {
        let Some(live) = self.job.attempts.last() else {
            return;
        };
        let open = live.parts().filter(|(_, part)| part.end.is_none());
        let stops = open.map(|(rank, part)| {
            let node = part.allocation.node.clone();
            Effect::Stop(node, self.job.task(live.number, rank), cause)
        });
        self.effects.extend(stops);
    }

    pub(super) fn enter(&mut self, state: JobState) {
        self.job.state = state;
        self.job.state_since = self.now;
        self.job.reason.clear();
        self.job.ended_at = state.is_terminal().then_some(self.now);
    }

    /// The live attempt, if that is the one meant.
    pub(super) fn live(&mut self, seen: AttemptNo) -> Result<&mut Attempt, Illegal> {
        let holds = self.job.state.holds_resources();
        let newest = self.job.attempts.last_mut();
        let live = newest.as_ref().filter(|_| holds).map(|a| a.number);
        match newest {
            Some(attempt) if live == Some(seen) => Ok(attempt),
            Some(_) | None => Err(Illegal::Fenced { seen, live }),
        }
    }

    pub(super) fn only_in(&self, states: &[JobState], event: &'static str) -> Result<(), Illegal> {
        if states.contains(&self.job.state) {
            Ok(())
        } else {
            Err(self.not_now(event))
        }
    }

    pub(super) fn not_now(&self, event: &'static str) -> Illegal {
        Illegal::NotNow {
            state: self.job.state,
            event,
        }
    }
}

pub(super) fn keep<T: Clone>(slot: &mut Option<T>, newer: Option<&T>) {
    if let Some(newer) = newer {
        *slot = Some(newer.clone());
    }
}

fn cancelled(job: &Job) -> Outcome {
    let again = job.attempts.last().is_some_and(|last| last.tried_again);
    let when = match job.tried == Tried::default() && !again {
        true => "before it started",
        false => "before it was tried again",
    };
    Outcome {
        class: Some(FailureClass::Cancelled),
        message: format!("cancelled by a user {when}"),
        ..Outcome::default()
    }
}
