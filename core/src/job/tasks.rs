//! What tasks of the live attempt say, and what becomes of a gang by it: all of its tasks start or none does, and one
//! that fails ends the others.

use super::{
    Attempt, Blame, Effect, Illegal, JobState, Part, Told, Vacates,
    attempt::LATE,
    machine::{Draft, PLATFORM, keep},
};
use crate::{
    failure::{FailureClass, StopCause, TaskEnd},
    ids::{AttemptNo, JobId, NodeName, Rank, TaskKey},
    retry::OnLost,
    sched::Allocation,
    secret::Secret,
    time::Timestamp,
};

/// What the last lines of all ranks may take of a job's row, in bytes, and what each rank may have of it at least.
const LAST_LINES: usize = 512 << 10;
const LAST_LINES_OF_ONE: usize = 2 << 10;

impl Draft {
    pub(super) fn placed(
        &mut self,
        queued_at: Timestamp,
        allocations: Vec<Allocation>,
        secret: Secret,
    ) -> Result<(), Illegal> {
        self.only_in(&[JobState::Queued], "placed")?;
        let mut others = allocations.into_iter();
        // Queued anew since: that place may have been given to another job.
        let lead = others.next().filter(|_| self.job.state_since == queued_at);
        let Some(lead) = lead else {
            return Err(self.not_now("placed"));
        };
        let last = self.job.attempts.last();
        let number = AttemptNo(last.map_or(0, |attempt| attempt.number.0) + 1);
        let mut attempt = Attempt::placed(number, lead, others.collect(), (secret, self.now));
        attempt.anew = !self.job.spec.resume;
        let from = self.job.spec.resume_from.as_ref().filter(|_| !attempt.anew);
        attempt.goes_on_from = from.and_then(|path| self.job.saved_in.get(path).copied());
        let starts = attempt.parts().map(|(rank, part)| {
            let node = part.allocation.node.clone();
            Effect::Start(node, self.job.task(number, rank))
        });
        self.effects.extend(starts);
        self.job.attempts.push(attempt);
        self.job.not_before = None;
        self.enter(JobState::Starting);
        Ok(())
    }

    pub(super) fn preparing(&mut self, task: TaskKey, detail: String) -> Result<(), Illegal> {
        let now = self.now;
        let part = self.live_part(task)?;
        part.waits = false;
        self.only_in(&[JobState::Starting], "preparing")?;
        let attempt = self.live(task.attempt)?;
        if !attempt.is_gang() {
            self.job.reason = detail;
            return Ok(());
        }
        if let Some(part) = attempt.part_mut(task.rank) {
            part.heard_at = Some(now);
            part.detail.clone_from(&detail);
        }
        if attempt.blame.is_none() {
            let ready = attempt.parts().filter(|(_, part)| part.waits).count();
            let (size, name) = (attempt.world_size(), attempt.names(&[task.rank]));
            let said = if detail.is_empty() {
                "prepares"
            } else {
                &detail
            };
            self.job.reason = format!("{ready} of {size} ranks are ready; {name}: {said}");
        }
        Ok(())
    }

    /// The last one to be ready lets all go. One that is ready again, since its agent was restarted, follows the others.
    pub(super) fn waiting(&mut self, task: TaskKey, port: Option<u16>) -> Result<(), Illegal> {
        let now = self.now;
        self.only_in(&[JobState::Starting, JobState::Running], "waiting")?;
        self.live_part(task)?.waits = true;
        let attempt = self.live(task.attempt)?;
        if task.rank == Rank(0) {
            attempt.port = attempt.port.or(port);
        }
        let names = attempt.parts().filter(|(_, part)| !part.waits);
        let missing: Vec<_> = names.map(|(rank, _)| rank).collect();
        let (size, missing_names) = (attempt.world_size(), attempt.names(&missing));
        if attempt.blame.is_some() || attempt.leaves() {
            return Ok(());
        }
        if attempt.let_go_at.is_some() {
            let node = attempt
                .part(task.rank)
                .map(|part| part.allocation.node.clone());
            self.effects
                .extend(node.map(|node| Effect::Launch(node, task)));
            return Ok(());
        }
        if !missing.is_empty() {
            let ready = size.saturating_sub(u32::try_from(missing.len()).unwrap_or(u32::MAX));
            self.job.reason =
                format!("{ready} of {size} ranks are ready; waits for {missing_names}");
            return Ok(());
        }
        attempt.let_go_at = Some(now);
        let number = attempt.number;
        let parts = attempt
            .parts()
            .map(|(rank, part)| (rank, part.allocation.node.clone()));
        let parts: Vec<_> = parts.collect();
        let launches = parts.into_iter();
        let launches =
            launches.map(|(rank, node)| Effect::Launch(node, self.job.task(number, rank)));
        self.effects.extend(launches);
        self.job.reason = format!("all {size} ranks are ready and start");
        Ok(())
    }

    /// The job runs when all of its trainers do.
    pub(super) fn started(&mut self, task: TaskKey, at: Timestamp) -> Result<(), Illegal> {
        self.live_part(task)?.started_at = Some(at);
        self.only_in(&[JobState::Starting], "started")?;
        self.job.started_at.get_or_insert(at);
        let attempt = self.live(task.attempt)?;
        let goes = attempt.leaves();
        if attempt.blame.is_none() && attempt.started_at().is_some() {
            let reason = std::mem::take(&mut self.job.reason);
            self.enter(JobState::Running);
            self.job.reason = if goes { reason } else { String::new() };
        }
        Ok(())
    }

    pub(super) fn ended(&mut self, task: TaskKey, mut end: TaskEnd) -> Result<(), Illegal> {
        let now = self.now;
        let live = self.live(task.attempt)?;
        let (goes, size) = (live.leaves(), live.world_size());
        // An agent that does not know this cause yet takes it for another.
        if goes && end.stop_cause == Some(StopCause::Fenced) {
            end.stop_cause = Some(StopCause::Preempted);
        }
        self.know_why(task, &mut end)?;
        let part = self.live_part(task)?;
        match &mut part.end {
            // Reported again until it is forgotten: the first report stands. But what its node cannot read any more
            // never comes, and is not waited for.
            Some(known) => known.last_seq = known.last_seq.min(end.last_seq),
            None => {
                shorten(&mut end.last_lines, size);
                part.end = Some(end);
                part.ended_at = Some(now);
            }
        }
        if self.job.state != JobState::Finishing {
            self.only_in(&[JobState::Starting, JobState::Running], "ended")?;
        }
        self.part_ended(task)
    }

    /// An agent that was started anew says no cause where the disk did not take it, or the time limit where that was over by
    /// then: here it is known.
    fn know_why(&mut self, task: TaskKey, end: &mut TaskEnd) -> Result<(), Illegal> {
        if !end.is_like_a_stop() || !matches!(end.stop_cause, None | Some(StopCause::TimeLimit)) {
            return Ok(());
        }
        let (limit, now) = (self.job.spec.time_limit, self.now);
        let live = self.live(task.attempt)?;
        // When it began is told by its node, whose clock may be another.
        let placed = live.placed_at;
        let began = |at| {
            if (placed..=now).contains(&at) {
                at
            } else {
                placed
            }
        };
        let over = live
            .started_at()
            .zip(limit)
            .map(|(at, limit)| began(at).plus(limit));
        // An agent that knows of no cause has seen that it was not its time limit.
        let goes_first = match (live.leaves_since, over) {
            (Some(told), Some(over)) => end.stop_cause.is_none() || told < over,
            (_, None) | (None, _) => end.stop_cause.is_none(),
        };
        if self.job.cancel_requested {
            end.stop_cause = Some(StopCause::Cancelled);
        } else if self.live(task.attempt)?.leaves() && goes_first {
            end.stop_cause = Some(StopCause::Preempted);
        }
        Ok(())
    }

    /// What follows of the end of a task: a failure ends the whole gang.
    fn part_ended(&mut self, task: TaskKey) -> Result<(), Illegal> {
        let attempt = self.live(task.attempt)?;
        let is_gang = attempt.is_gang();
        if let Some(part) = attempt.part_mut(task.rank) {
            part.over = is_gang && part.is_over();
        }
        let over = attempt.part(task.rank).filter(|part| part.is_over());
        let over = over.map(|part| part.allocation.node.clone());
        let failed = attempt.outcome_of(task.rank);
        let failed = failed.filter(|outcome| outcome.class.is_some());
        if attempt.has_ended() {
            if self.job.state != JobState::Finishing {
                self.enter(JobState::Finishing);
            }
            self.finish_if_drained(task);
            return Ok(());
        }
        let goes = attempt.blame.is_some() || attempt.leaves();
        if let Some(outcome) = failed.filter(|_| !goes) {
            let words = format!("{}: {}", attempt.names(&[task.rank]), outcome.message);
            self.end_gang(task.attempt, Blame::Failed(task.rank), &words)?;
        }
        if let Some(node) = over {
            self.effects.push(Effect::Release);
            self.effects.push(Effect::Forget(node, task));
        }
        Ok(())
    }

    /// Nobody goes on without these ranks.
    fn end_gang(&mut self, attempt: AttemptNo, blame: Blame, words: &str) -> Result<(), Illegal> {
        self.job.reason = format!("{words}; the other ranks are stopped");
        self.live(attempt)?.blame = Some(blame);
        self.stop(StopCause::PeerFailed);
        Ok(())
    }

    /// A gang waits in vain for some of its ranks: all give back what they hold, and the next attempt avoids those.
    pub(super) fn late(&mut self, attempt: AttemptNo, ranks: Vec<Rank>) -> Result<(), Illegal> {
        self.only_in(&[JobState::Starting], "late")?;
        let live = self.live(attempt)?;
        if live.blame.is_some() || live.leaves() || ranks.is_empty() {
            return Err(self.not_now("late"));
        }
        let words = format!("{}: {LATE}", live.names(&ranks));
        self.end_gang(attempt, Blame::Late(ranks), &words)
    }

    /// Its place is needed for another job: it saves its work, gives all back, and waits for a place of its own again.
    pub(super) fn make_room(&mut self, attempt: AttemptNo, other: JobId) -> Result<(), Illegal> {
        self.only_in(&[JobState::Starting, JobState::Running], "make room")?;
        let live = self.live(attempt)?;
        if live.blame.is_some() || live.leaves() || self.job.cancel_requested {
            return Err(self.not_now("make room"));
        }
        let now = self.now;
        let live = self.live(attempt)?;
        live.makes_room_for = Some(other);
        live.leaves_since = Some(now);
        self.job.reason = format!("makes room for job {other}: saves its work, and goes on later");
        self.stop(StopCause::Preempted);
        Ok(())
    }

    /// A node of it goes out of service: it saves its work, gives all back, and waits for a place elsewhere. Told again
    /// and again until it has gone.
    pub(super) fn vacate(&mut self, attempt: AttemptNo, why: String) -> Result<(), Illegal> {
        self.only_in(&[JobState::Starting, JobState::Running], "vacate")?;
        let live = self.live(attempt)?;
        if live.blame.is_some() || live.leaves() || self.job.cancel_requested {
            return Err(self.not_now("vacate"));
        }
        self.job.reason = format!("{why}; saves its work, and goes on elsewhere");
        let allowed = self.job.spec.preemptible;
        let now = self.now;
        let live = self.live(attempt)?;
        live.vacates = Some(Vacates { why, allowed });
        live.leaves_since = Some(now);
        self.stop(StopCause::Preempted);
        Ok(())
    }

    pub(super) fn stored(&mut self, task: TaskKey, told: Told) -> Result<(), Illegal> {
        let part = self.live_part(task)?;
        let before = part.is_over();
        part.stored_seq = part.stored_seq.max(told.seq);
        let over = part.is_over() && !before;
        if task.rank == Rank(0) {
            self.told(task.attempt, told)?;
        }
        if over {
            self.part_ended(task)?;
        }
        Ok(())
    }

    /// Which attempt has saved what is told of. What nobody can go on from any more is left out.
    fn note_saved(&mut self, attempt: AttemptNo, told: &Told) {
        let progress = told.progress.as_ref();
        let word = told.completion.as_ref();
        let all = [
            told.kept.as_ref(),
            progress.and_then(|told| told.checkpoint.as_ref()),
            progress.and_then(|told| told.best_checkpoint.as_ref()),
            word.and_then(|told| told.last_checkpoint.as_ref()),
            word.and_then(|told| told.best_checkpoint.as_ref()),
        ];
        let new = all.into_iter().flatten();
        let new: Vec<_> = new.map(|saved| saved.path.clone()).collect();
        if new.is_empty() {
            return;
        }
        let job = &mut self.job;
        let known = [&job.resumable, &job.last_checkpoint, &job.best_checkpoint];
        let known: Vec<_> = known.into_iter().flatten().map(|one| &one.path).collect();
        job.saved_in.retain(|path, _| known.contains(&path));
        job.saved_in
            .extend(new.into_iter().map(|path| (path, attempt)));
    }

    /// What rank 0 says is what the job shows.
    fn told(&mut self, attempt: AttemptNo, told: Told) -> Result<(), Illegal> {
        let live = self.live(attempt)?;
        live.first_epoch = live.first_epoch.or(told.first_epoch);
        self.note_saved(attempt, &told);
        keep(&mut self.job.resumable, told.kept.as_ref());
        if let Some(progress) = told.progress {
            keep(&mut self.job.last_checkpoint, progress.checkpoint.as_ref());
            keep(
                &mut self.job.best_checkpoint,
                progress.best_checkpoint.as_ref(),
            );
            // Where a checkpoint is stored says nothing of how far the trainer is.
            if self.job.progress.is_none() || !progress.only_checkpoints() {
                self.job.progress = Some(progress);
            }
        }
        if let Some(word) = told.completion {
            keep(&mut self.job.last_checkpoint, word.last_checkpoint.as_ref());
            keep(&mut self.job.best_checkpoint, word.best_checkpoint.as_ref());
            self.job.final_metrics.clone_from(&word.final_metrics);
            if self.job.mlflow_run_id.is_none() {
                self.job.mlflow_run_id.clone_from(&word.mlflow_run_id);
            }
            self.live(attempt)?.completion = Some(word);
        }
        Ok(())
    }

    pub(super) fn task_lost(&mut self, task: TaskKey, why: String) -> Result<(), Illegal> {
        let now = self.now;
        // It was to stop, and it has: nobody else's fault.
        let cancelled = self.job.cancel_requested.then_some(StopCause::Cancelled);
        let live = self.live(task.attempt)?;
        let (ends, goes) = (live.blame.is_some(), live.leaves());
        let let_go = live.let_go_at.is_some();
        let part = self.live_part(task)?;
        // What never ran has nothing to do with why its gang failed; of one that was let go and is silent since then nobody
        // can say that. Who was to go anyway goes on from what was saved.
        let fresh = part.started_at.is_none() && !let_go;
        let stop_cause = cancelled
            .or_else(|| (ends && fresh).then_some(StopCause::PeerFailed))
            .or_else(|| goes.then_some(StopCause::Preempted));
        let end = part.end.get_or_insert_with(|| TaskEnd {
            stop_cause,
            error: Some(why),
            lost: true,
            ..TaskEnd::default()
        });
        // What was not delivered never will be.
        end.last_seq = part.stored_seq;
        part.ended_at.get_or_insert(now);
        self.part_ended(task)
    }

    /// Unknown is not failed: a job may want its node to be waited for. One that is to stop does not, and of one whose
    /// trainer has ended nothing is unknown but records that nobody has any more.
    pub(super) fn node_lost(
        &mut self,
        attempt: AttemptNo,
        node: &NodeName,
        why: String,
    ) -> Result<(), Illegal> {
        let live = self.live(attempt)?;
        let ends = live.blame.is_some();
        let leaves = live.leaves();
        let number = live.number;
        let Some(rank) = live.rank_on(node) else {
            return Err(self.not_now("node lost"));
        };
        let part = live.part(rank);
        if part.is_some_and(Part::is_over) {
            return Err(self.not_now("node lost"));
        }
        let ended = part.is_some_and(|part| part.end.is_some());
        let goes_on = matches!(self.job.state, JobState::Starting | JobState::Running);
        let asks = self.job.spec.retry.on_lost == OnLost::Wait;
        let waits = asks && goes_on && !ended && !ends && !self.job.cancel_requested && !leaves;
        if !waits {
            return self.task_lost(self.job.task(number, rank), why);
        }
        self.job.reason = format!("{why}; it is waited for, as the job asks (on_lost: wait)");
        Ok(())
    }

    pub(super) fn heard(&mut self, task: TaskKey) -> Result<(), Illegal> {
        self.live_part(task)?;
        self.only_in(&[JobState::Running], "heard")?;
        self.job.reason.clear();
        Ok(())
    }

    /// A finishing job is terminal once every record of its attempt is stored. `task` is the one whose end or whose
    /// records have just come.
    fn finish_if_drained(&mut self, task: TaskKey) {
        let Some(live) = self.job.attempts.last() else {
            return;
        };
        if self.job.state != JobState::Finishing {
            return;
        }
        let over = live.part(task.rank).filter(|part| part.is_over());
        let Some(node) = over.map(|part| part.allocation.node.clone()) else {
            return;
        };
        self.effects.push(Effect::Release);
        self.effects.push(Effect::Forget(node, task));
        if !live.parts().all(|(_, part)| part.is_over()) {
            return;
        }
        let (mut outcome, ranks) = live.verdict();
        // It would be tried again, had nobody asked for its end: that is how it ends.
        if self.job.cancel_requested && outcome.class.is_some_and(|class| PLATFORM.contains(&class))
        {
            outcome.class = Some(FailureClass::Cancelled);
            outcome.message = format!("cancelled by a user ({})", outcome.message);
        }
        if let Some(again) = self.again(&outcome) {
            self.try_again(again, &outcome, &ranks);
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

    /// A task of the live attempt.
    fn live_part(&mut self, task: TaskKey) -> Result<&mut Part, Illegal> {
        let live = self.live(task.attempt)?;
        let number = live.number;
        live.part_mut(task.rank).ok_or(Illegal::Fenced {
            seen: task.attempt,
            live: Some(number),
        })
    }
}

/// A rank's last lines are cut to its share: a job is written again with each step. The newest stay, one at least.
fn shorten(lines: &mut Vec<String>, world_size: u32) {
    let ranks = usize::try_from(world_size).unwrap_or(usize::MAX).max(1);
    let room = (LAST_LINES / ranks).max(LAST_LINES_OF_ONE);
    let mut used = 0;
    let newest = lines.iter().rev().take_while(|line| {
        used += line.len();
        used <= room
    });
    let kept = newest.count().max(1).min(lines.len());
    lines.drain(..lines.len() - kept);
}

#[cfg(test)]
mod tests;
