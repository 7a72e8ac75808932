//! Jobs of this cluster as a replay takes them: what was asked for, when, and for how long it ran.
//!
//! Pure: from rows of jobs. Called by the coordinator for who replays its history, and by the command line for a file.

use std::time::Duration;

use crate::{
    ids::JobId,
    job::{Attempt, Job},
    spec::JobSpec,
    time::Timestamp,
};

/// A job that has run, or one of its runs when a user had it run again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastJob {
    /// Its number.
    pub job: JobId,
    /// When it was asked for.
    pub submitted_at: Timestamp,
    /// By whom.
    pub user: String,
    /// Its project.
    pub project: Option<i64>,
    /// Its name.
    pub name: String,
    /// Nodes, with as many GPUs on each; 0 where only all GPUs together were asked for, or where not all have as many.
    pub nodes: u32,
    /// GPUs in all; of one that had its nodes to itself all of theirs.
    pub gpus: u32,
    /// For how long its attempts ran; one that still runs as far as it has.
    pub ran: Duration,
    /// How long it may run.
    pub limit: Option<Duration>,
    /// It may be preempted.
    pub preemptible: bool,
    /// Higher first.
    pub priority: i32,
}

impl PastJob {
    /// The runs of a job, oldest first: a run is what was tried until it ended, or was asked for anew. One in which no
    /// trainer ever ran is left out.
    #[must_use]
    pub fn of(job: &Job, now: Timestamp) -> Vec<Self> {
        let last = job.last_asked();
        let mut runs: Vec<&[Attempt]> = Vec::new();
        let mut left = job.attempts.as_slice();
        while !left.is_empty() {
            let last = left.iter().position(|attempt| !attempt.tried_again);
            let end = last.map_or(left.len(), |last| last + 1);
            let Some((run, rest)) = left.split_at_checked(end) else {
                break;
            };
            runs.push(run);
            left = rest;
        }
        let newest = runs.len().saturating_sub(1);
        let of_run = |(place, run): (usize, &&[Attempt])| {
            let first = run.first()?;
            // When a user ran it again for the last time but one is not known any more: it is as if it had not waited.
            let asked = match place {
                // Also of one that was cancelled before it had a place, and asked for again.
                place if place == newest && last.is_before(first) => last.at.min(first.placed_at),
                0 => job.created_at,
                _ => first.placed_at,
            };
            // It was to wait for that moment before it ran for the first time.
            let opens = job.spec.not_before.filter(|_| place == 0);
            let submitted_at = asked.max(opens.unwrap_or(asked));
            Self::run(job, submitted_at, (run, now))
        };
        runs.iter().enumerate().filter_map(of_run).collect()
    }

    /// The newest moment that a row tells of: in a file from long ago, until when a job that runs there is known to have.
    #[must_use]
    pub fn newest(job: &Job) -> Timestamp {
        let attempts = job.attempts.iter();
        let of_attempts = attempts.flat_map(|attempt| {
            let placed = Some(attempt.placed_at);
            [placed, attempt.started_at(), attempt.ended_at()]
        });
        let told = job.progress.as_ref().map(|progress| progress.at);
        let all = of_attempts.flatten().chain(told).chain(job.ended_at);
        all.fold(job.state_since, Timestamp::max)
    }

    fn run(
        job: &Job,
        submitted_at: Timestamp,
        (run, now): (&[Attempt], Timestamp),
    ) -> Option<Self> {
        let live = job.live().map(|live| live.number);
        // What was done before it had to begin anew is not work that the job needs.
        let begun = run.iter().rposition(|attempt| attempt.anew);
        let (_, run) = run.split_at_checked(begun.unwrap_or_default())?;
        let spans = run.iter().filter_map(|attempt| {
            let ended = attempt.ended_at();
            let runs = (live == Some(attempt.number)).then_some(now);
            Some(ended.or(runs)?.since(attempt.started_at()?))
        });
        let ran: Duration = spans.sum();
        let spec = &job.spec;
        let (nodes, gpus) = size(spec, run);
        (!ran.is_zero()).then(|| Self {
            job: job.id,
            submitted_at,
            user: job.submitted_by.clone(),
            project: spec.project_id,
            name: spec.name.clone(),
            nodes,
            gpus,
            ran,
            limit: spec.time_limit,
            preemptible: spec.preemptible,
            priority: spec.priority,
        })
    }
}

/// Nodes, and GPUs in all, of the attempts of a run: what was asked for; of one that had its nodes to itself what it held in
/// the last of them.
fn size(spec: &JobSpec, run: &[Attempt]) -> (u32, u32) {
    let each = spec.nodes.max(1);
    let (nodes, gpus) = match spec.placement.gpus_total {
        Some(gpus) => (0, gpus),
        None => (each, each.saturating_mul(spec.resources.gpus)),
    };
    let last = run.last().filter(|_| spec.placement.exclusive);
    let parts = last.into_iter().flat_map(Attempt::parts);
    let held = parts.map(|(_, part)| part.allocation.gpus.len());
    let held: Vec<u32> = held
        .map(|gpus| u32::try_from(gpus).unwrap_or(u32::MAX))
        .collect();
    let all = held.iter().copied().fold(0, u32::saturating_add);
    // An older row may not say what it held.
    if all <= gpus {
        return (nodes, gpus);
    }
    let alike = held.iter().all(|here| Some(here) == held.first());
    (if alike { nodes } else { 0 }, all)
}

#[cfg(test)]
mod tests;
