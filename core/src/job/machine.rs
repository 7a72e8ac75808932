//! The transitions. Each function is one event; each says in which states it is taken.

use super::{Attempt, Effect, Event, Illegal, Job, JobState, Resume, Step, Tracker};
use crate::{
    failure::{FailureClass, Outcome, StopCause, TaskEnd, judge},
    ids::AttemptNo,
    record::{Checkpoint, Completion, Progress},
    retry::{Again, OnLost, Tried},
    sched::Allocation,
    secret::Secret,
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
            allocation,
            secret,
        } => next.placed(queued_at, allocation, secret)?,
        Event::Preparing(attempt, detail) => next.preparing(attempt, detail)?,
        Event::Started(attempt, at) => next.started(attempt, at)?,
        Event::Ended(attempt, end) => next.ended(attempt, end)?,
        Event::Stored {
            attempt,
            seq,
            progress,
            completion,
            first_epoch,
            kept,
        } => {
            next.began_at(attempt, first_epoch)?;
            next.kept(kept);
            next.stored(attempt, seq, progress, completion)?;
        }
        Event::CancelRequested => next.cancel_requested()?,
        Event::RestartRequested => {
            next.job.begin_with(&Resume::default());
            next.restart_requested("restart")?;
        }
        Event::StartRequested(from) => next.start_requested(&from)?,
        Event::AttemptLost(attempt, why) => next.attempt_lost(attempt, why)?,
        Event::NodeLost(attempt, why) => next.node_lost(attempt, why)?,
        Event::Heard(attempt) => next.heard(attempt)?,
        Event::Tracked(attempt, tracker, run) => next.tracked(attempt, tracker, run)?,
    }
    Ok(Step {
        job: next.job,
        effects: next.effects,
    })
}

struct Draft {
    job: Job,
    effects: Vec<Effect>,
    now: Timestamp,
}

impl Draft {
    fn prepared(&mut self) -> Result<(), Illegal> {
        self.only_in(&[JobState::Pending], "prepared")?;
        self.enter(JobState::Queued);
        self.effects.push(Effect::Enqueue);
        Ok(())
    }

    fn placed(
        &mut self,
        queued_at: Timestamp,
        allocation: Allocation,
        secret: Secret,
    ) -> Result<(), Illegal> {
        self.only_in(&[JobState::Queued], "placed")?;
        // Queued anew since: that place may have been given to another job.
        if self.job.state_since != queued_at {
            return Err(self.not_now("placed"));
        }
        let last = self.job.attempts.last();
        let number = AttemptNo(last.map_or(0, |attempt| attempt.number.0) + 1);
        self.effects
            .push(Effect::Start(allocation.node.clone(), number));
        self.job.attempts.push(Attempt {
            number,
            allocation,
            secret,
            placed_at: self.now,
            started_at: None,
            ended_at: None,
            end: None,
            stored_seq: 0,
            completion: None,
            first_epoch: None,
            anew: !self.job.spec.resume,
            tried_again: false,
        });
        self.job.not_before = None;
        self.enter(JobState::Starting);
        Ok(())
    }

    fn preparing(&mut self, attempt: AttemptNo, detail: String) -> Result<(), Illegal> {
        self.live(attempt)?;
        self.only_in(&[JobState::Starting], "preparing")?;
        self.job.reason = detail;
        Ok(())
    }

    fn started(&mut self, attempt: AttemptNo, at: Timestamp) -> Result<(), Illegal> {
        let live = self.live(attempt)?;
        live.started_at = Some(at);
        self.only_in(&[JobState::Starting], "started")?;
        self.job.started_at.get_or_insert(at);
        self.enter(JobState::Running);
        Ok(())
    }

    fn ended(&mut self, attempt: AttemptNo, end: TaskEnd) -> Result<(), Illegal> {
        let now = self.now;
        let live = self.live(attempt)?;
        // Reported again until it is forgotten: the first report stands.
        if live.end.is_none() {
            live.end = Some(end);
            live.ended_at = Some(now);
        }
        if self.job.state != JobState::Finishing {
            self.only_in(&[JobState::Starting, JobState::Running], "ended")?;
            self.enter(JobState::Finishing);
        }
        self.finish_if_drained();
        Ok(())
    }

    fn stored(
        &mut self,
        attempt: AttemptNo,
        seq: u64,
        progress: Option<Box<Progress>>,
        completion: Option<Box<Completion>>,
    ) -> Result<(), Illegal> {
        let live = self.live(attempt)?;
        live.stored_seq = live.stored_seq.max(seq);
        if let Some(progress) = progress {
            keep(&mut self.job.last_checkpoint, progress.checkpoint.as_ref());
            keep(
                &mut self.job.best_checkpoint,
                progress.best_checkpoint.as_ref(),
            );
            // Where a checkpoint is stored says nothing of how far the trainer is.
            if self.job.progress.is_none() || !progress.only_checkpoints() {
                self.job.progress = Some(*progress);
            }
        }
        if let Some(word) = completion {
            keep(&mut self.job.last_checkpoint, word.last_checkpoint.as_ref());
            keep(&mut self.job.best_checkpoint, word.best_checkpoint.as_ref());
            self.job.final_metrics.clone_from(&word.final_metrics);
            if self.job.mlflow_run_id.is_none() {
                self.job.mlflow_run_id.clone_from(&word.mlflow_run_id);
            }
            self.live(attempt)?.completion = Some(*word);
        }
        self.finish_if_drained();
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
        self.job.asked_at = Some(self.now);
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
        self.job.mlflow_run_id = None;
        self.job.clearml_task_id = None;
        self.effects.push(Effect::Enqueue);
        self.enter(JobState::Queued);
        Ok(())
    }

    fn attempt_lost(&mut self, attempt: AttemptNo, why: String) -> Result<(), Illegal> {
        let now = self.now;
        // It was to stop, and it has: nobody else's fault.
        let stop_cause = self.job.cancel_requested.then_some(StopCause::Cancelled);
        let live = self.live(attempt)?;
        let end = live.end.get_or_insert_with(|| TaskEnd {
            stop_cause,
            error: Some(why),
            lost: true,
            ..TaskEnd::default()
        });
        // What was not delivered never will be.
        end.last_seq = live.stored_seq;
        live.ended_at.get_or_insert(now);
        if self.job.state != JobState::Finishing {
            self.enter(JobState::Finishing);
        }
        self.finish_if_drained();
        Ok(())
    }

    /// Unknown is not failed: a job may want its node to be waited for. One that is to stop does not, and of one whose
    /// trainer has ended nothing is unknown but records that nobody has any more.
    fn node_lost(&mut self, attempt: AttemptNo, why: String) -> Result<(), Illegal> {
        self.live(attempt)?;
        let goes_on = matches!(self.job.state, JobState::Starting | JobState::Running);
        let asks = self.job.spec.retry.on_lost == OnLost::Wait;
        let waits = asks && goes_on && !self.job.cancel_requested;
        if !waits {
            return self.attempt_lost(attempt, why);
        }
        self.job.reason = format!("{why}; it is waited for, as the job asks (on_lost: wait)");
        Ok(())
    }

    fn heard(&mut self, attempt: AttemptNo) -> Result<(), Illegal> {
        self.live(attempt)?;
        self.only_in(&[JobState::Running], "heard")?;
        self.job.reason.clear();
        Ok(())
    }

    fn began_at(&mut self, attempt: AttemptNo, epoch: Option<u32>) -> Result<(), Illegal> {
        let live = self.live(attempt)?;
        live.first_epoch = live.first_epoch.or(epoch);
        Ok(())
    }

    fn kept(&mut self, checkpoint: Option<Checkpoint>) {
        keep(&mut self.job.resumable, checkpoint.as_ref());
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

    /// A finishing job is terminal once every record of its attempt is stored.
    fn finish_if_drained(&mut self) {
        let Some(live) = self.job.attempts.last() else {
            return;
        };
        let Some(end) = &live.end else { return };
        if self.job.state != JobState::Finishing || live.stored_seq < end.last_seq {
            return;
        }
        let mut outcome = judge(end, live.completion.as_ref());
        // It would be tried again, had nobody asked for its end: that is how it ends.
        let platform = [FailureClass::Infrastructure, FailureClass::Lost];
        if self.job.cancel_requested && outcome.class.is_some_and(|class| platform.contains(&class))
        {
            outcome.class = Some(FailureClass::Cancelled);
            outcome.message = format!("cancelled by a user ({})", outcome.message);
        }
        let released = [
            Effect::Release,
            Effect::Forget(live.allocation.node.clone(), live.number),
        ];
        self.effects.extend(released);
        if let Some(again) = self.again(&outcome) {
            self.try_again(again, &outcome);
            return;
        }
        let state = match outcome.class {
            None => JobState::Completed,
            Some(FailureClass::Cancelled) => JobState::Cancelled,
            Some(_) => JobState::Failed,
        };
        self.job.outcome = Some(outcome);
        self.enter(state);
    }

    fn again(&self, outcome: &Outcome) -> Option<Again> {
        let class = outcome.class.filter(|_| !self.job.cancel_requested)?;
        let again = self.job.spec.retry.again(class, &self.job.tried, self.now);
        let smallest = self.job.spec.batch_size < 2;
        again.filter(|again| !(smallest && *again == Again::HalfBatch))
    }

    /// Another attempt, from the last checkpoint that other nodes can reach.
    fn try_again(&mut self, again: Again, outcome: &Outcome) {
        let why = &outcome.message;
        let words = match again {
            Again::Elsewhere { not_before } => {
                let node = self.job.attempts.last().map(|a| a.allocation.node.clone());
                self.job.failed_on.extend(node);
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

    fn stop(&mut self, cause: StopCause) {
        if let Some(live) = self.job.attempts.last() {
            self.effects.push(Effect::Stop(
                live.allocation.node.clone(),
                live.number,
                cause,
            ));
        }
    }

    fn enter(&mut self, state: JobState) {
        self.job.state = state;
        self.job.state_since = self.now;
        self.job.reason.clear();
        self.job.ended_at = state.is_terminal().then_some(self.now);
    }

    /// The live attempt, if that is the one meant.
    fn live(&mut self, seen: AttemptNo) -> Result<&mut Attempt, Illegal> {
        let holds = self.job.state.holds_resources();
        let newest = self.job.attempts.last_mut();
        let live = newest.as_ref().filter(|_| holds).map(|a| a.number);
        match newest {
            Some(attempt) if live == Some(seen) => Ok(attempt),
            Some(_) | None => Err(Illegal::Fenced { seen, live }),
        }
    }

    fn only_in(&self, states: &[JobState], event: &'static str) -> Result<(), Illegal> {
        if states.contains(&self.job.state) {
            Ok(())
        } else {
            Err(self.not_now(event))
        }
    }

    fn not_now(&self, event: &'static str) -> Illegal {
        Illegal::NotNow {
            state: self.job.state,
            event,
        }
    }
}

fn keep<T: Clone>(slot: &mut Option<T>, newer: Option<&T>) {
    if let Some(newer) = newer {
        *slot = Some(newer.clone());
    }
}

fn cancelled(job: &Job) -> Outcome {
    let when = match job.tried == Tried::default() {
        true => "before it started",
        false => "before it was tried again",
    };
    Outcome {
        class: Some(FailureClass::Cancelled),
        message: format!("cancelled by a user {when}"),
        ..Outcome::default()
    }
}
