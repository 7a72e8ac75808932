//! What may become of one job from one commit to the next: INV-04, INV-07, and that what was accepted of it stands.
//!
//! Owns how often each was seen to run again, and which losses were judged. Called by the check after each commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Result, ensure};
use trainyard_core::{
    failure::{FailureClass, StopCause, TaskEnd},
    job::{Attempt, Job, JobState},
    retry::OnLost,
};

use crate::{
    node::number,
    plan::Plan,
    silence::Silences,
    told::{Accepted, Cancelled},
    trace::Trace,
};

/// What the platform has done to an attempt, and its job has not.
pub(crate) const PLATFORM: [FailureClass; 3] = [
    FailureClass::Infrastructure,
    FailureClass::Lost,
    FailureClass::Preempted,
];

/// What was seen of all jobs.
#[derive(Debug)]
pub(crate) struct Turns {
    /// How often each was seen to run again, and how many attempts it had before that.
    again: BTreeMap<u64, (u32, usize)>,
    /// How many attempts each had when its cancel was accepted.
    cancelled: BTreeMap<u64, usize>,
    /// How each task ended, as it was first told.
    ends: BTreeMap<(u64, u32, u32), TaskEnd>,
    /// For how long nothing had held up the nodes of each attempt when it was told that its time was over.
    limits: BTreeMap<(u64, u32), Duration>,
    /// Attempts that newer ones have followed, as they were then.
    over: BTreeMap<(u64, u32), Attempt>,
    /// Tasks that were lost with their nodes.
    lost: BTreeSet<(u64, u32, u32)>,
    trace: Trace,
}

impl Turns {
    pub(crate) fn new(trace: Trace) -> Self {
        Self {
            again: BTreeMap::new(),
            cancelled: BTreeMap::new(),
            ends: BTreeMap::new(),
            limits: BTreeMap::new(),
            over: BTreeMap::new(),
            lost: BTreeSet::new(),
            trace,
        }
    }

    /// After a commit; `before` is the job as of the one before.
    pub(crate) fn look(
        &mut self,
        (before, job): (Option<&Job>, &Job),
        accepted: &Accepted,
        (plan, silences): (&Plan, &Silences),
    ) -> Result<()> {
        accepted.shows(job);
        self.note(before, job);
        if let Some(before) = before {
            self.stays(before, job, accepted)?;
        }
        self.runs_again(job, accepted)?;
        self.is_cancelled(job, accepted)?;
        self.losses(before, job, (plan, silences))?;
        self.first_words(job, silences)?;
        self.followed(job)
    }

    fn note(&self, before: Option<&Job>, job: &Job) {
        if before.map(|before| before.state) != Some(job.state) {
            let outcome = job.outcome.as_ref();
            let why = outcome.map(|outcome| (outcome.exit_code, outcome.class, &outcome.message));
            self.trace.note(format!(
                "job {}/{} is {} {why:?}",
                job.id,
                job.attempts.len(),
                job.state.name()
            ));
        }
    }

    /// INV-04: whoever has ended stays as it is, to the last word of how it ended, until a user asks for more.
    fn stays(&mut self, before: &Job, job: &Job, accepted: &Accepted) -> Result<()> {
        let id = job.id.0;
        if before.asked_at != job.asked_at {
            let seen = self.again.entry(id).or_default();
            *seen = (seen.0 + 1, before.attempts.len());
            ensure!(
                seen.0 <= accepted.again(id),
                "INV-04: job {id} was {} and is {}, and {} times somebody may have run it again",
                before.state.name(),
                job.state.name(),
                accepted.again(id)
            );
            self.cancelled.remove(&id);
        } else if before.state.is_terminal() {
            let how = |job: &Job| (job.state, job.ended_at, job.outcome.clone());
            ensure!(
                how(before) == how(job) && before.attempts.len() == job.attempts.len(),
                "INV-04: job {id} was {:?} and is {:?}",
                how(before),
                how(job)
            );
            let newest = before.attempts.last().zip(job.attempts.last());
            ensure!(
                newest.is_none_or(|(before, now)| same(before, now)),
                "INV-04: the last attempt of job {id}, which was over, has changed"
            );
        }
        Ok(())
    }

    /// Who was told that a job runs again finds it so.
    fn runs_again(&self, job: &Job, accepted: &Accepted) -> Result<()> {
        let id = job.id.0;
        let seen = self.again.get(&id).map_or(0, |seen| seen.0);
        ensure!(
            seen >= accepted.accepted_again(id),
            "job {id} was to run again {} times, and has {seen} times",
            accepted.accepted_again(id)
        );
        Ok(())
    }

    /// Who was told that a job is cancelled finds it so: it has ended, or is to, and is not tried again.
    fn is_cancelled(&mut self, job: &Job, accepted: &Accepted) -> Result<()> {
        let id = job.id.0;
        let Some(how) = accepted.cancelled(id) else {
            return Ok(());
        };
        let state = job.state;
        let ended = state == JobState::Cancelled;
        ensure!(
            how == Cancelled::Asked || ended,
            "job {id} had no place when it was cancelled, and is {}",
            state.name()
        );
        ensure!(
            job.cancel_requested || state.is_terminal(),
            "the cancel of job {id} was accepted, and is forgotten: it is {}",
            state.name()
        );
        let attempts = self.cancelled.entry(id).or_insert(job.attempts.len());
        ensure!(
            *attempts == job.attempts.len(),
            "the cancel of job {id} was accepted, and it was tried again"
        );
        let class = job.outcome.as_ref().and_then(|outcome| outcome.class);
        ensure!(
            !(state == JobState::Failed && class.is_some_and(|class| PLATFORM.contains(&class))),
            "the cancel of job {id} was accepted, and it has failed with {class:?}"
        );
        Ok(())
    }

    /// An end is told again and again until it is forgotten: how it was first told stands. That fewer records are waited for
    /// may be found later.
    fn first_words(&mut self, job: &Job, silences: &Silences) -> Result<()> {
        for attempt in &job.attempts {
            for (rank, part) in attempt.parts() {
                let Some(end) = &part.end else {
                    continue;
                };
                let key = (job.id.0, attempt.number.0, rank.0);
                if end.stop_cause == Some(StopCause::TimeLimit) && !self.ends.contains_key(&key) {
                    let calm = silences.calm(number(&part.allocation.node.0)?);
                    let all = self.limits.entry((key.0, key.1)).or_insert(calm);
                    *all = calm.min(*all);
                }
                let known = self.ends.entry(key).or_insert_with(|| end.clone());
                ensure!(
                    end.last_seq <= known.last_seq,
                    "task {key:?} had told {} records at its end, and has {}",
                    known.last_seq,
                    end.last_seq
                );
                known.last_seq = end.last_seq;
                ensure!(
                    known == end,
                    "task {key:?} ended as {known:?}, and now as {end:?}"
                );
            }
        }
        Ok(())
    }

    /// INV-07: how the attempts ended that another one has followed.
    fn followed(&mut self, job: &Job) -> Result<()> {
        let Some((_live, over)) = job.attempts.split_last() else {
            return Ok(());
        };
        for attempt in over {
            let key = (job.id.0, attempt.number.0);
            let known = self.over.entry(key).or_insert_with(|| attempt.clone());
            ensure!(
                same(known, attempt),
                "INV-07: attempt {key:?} was followed, and changed"
            );
        }
        Ok(())
    }

    /// Nobody is lost whose node was heard within its lease, nor one that waits for its node.
    fn losses(
        &mut self,
        before: Option<&Job>,
        job: &Job,
        (plan, silences): (&Plan, &Silences),
    ) -> Result<()> {
        let id = job.id.0;
        let lease = Duration::from_secs(plan.cluster.lost_after.into());
        for attempt in &job.attempts {
            let key = attempt.number.0;
            for (rank, part) in attempt.parts() {
                let error = part.end.as_ref().and_then(|end| end.error.as_deref());
                let silent = error.is_some_and(|error| error.contains("was silent"));
                if !silent || !self.lost.insert((id, key, rank.0)) {
                    continue;
                }
                let node = &part.allocation.node.0;
                self.trace
                    .note(format!("{id}/{key} {rank} is lost with {node}"));
                ensure!(
                    silences.explain(number(node)?, lease),
                    "attempt {id}/{key} {rank} was lost with {node}, which no fault has kept silent for so long: {error:?}"
                );
                let waits = before.is_some_and(|before| waits(before, attempt));
                ensure!(
                    !waits || job.cancel_requested,
                    "attempt {id}/{key} {rank} was lost with {node}, and its job waits for it"
                );
            }
        }
        Ok(())
    }

    /// Who was last run again was tried since, but for one that could not start.
    pub(crate) fn tried_since(&self, job: &Job) -> bool {
        let before = self.again.get(&job.id.0).map(|seen| seen.1);
        before.is_none_or(|before| job.attempts.len() > before)
    }

    /// For how long nothing had held up the nodes of the last attempt, when its time was said to be over.
    pub(crate) fn calm(&self, job: &Job) -> Duration {
        let last = job.attempts.last().map_or(0, |last| last.number.0);
        let calm = self.limits.get(&(job.id.0, last)).copied();
        calm.unwrap_or_default()
    }

    /// Tasks that were lost with their nodes.
    pub(crate) fn lost(&self) -> usize {
        self.lost.len()
    }
}

/// Whether the job, as of the commit before, was to wait for the nodes of this attempt, whatever became of them.
fn waits(before: &Job, attempt: &Attempt) -> bool {
    let runs = matches!(before.state, JobState::Starting | JobState::Running);
    let same = before.attempts.last().map(|last| last.number) == Some(attempt.number);
    let ends = attempt.blame.is_some() || attempt.leaves() || before.cancel_requested;
    before.spec.retry.on_lost == OnLost::Wait && runs && same && !ends
}

/// Whether both ended alike.
fn same(one: &Attempt, other: &Attempt) -> bool {
    ends(one) == ends(other) && one.completion == other.completion
}

/// How each task of an attempt ended.
fn ends(attempt: &Attempt) -> Vec<Option<TaskEnd>> {
    let parts = attempt.parts().map(|(_, part)| part.end.clone());
    parts.collect()
}
