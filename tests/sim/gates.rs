//! What must be true of jobs that wait for others, for a moment or for a place in their array: at each step, and at the
//! end.
//!
//! Pure reading. Called by the check.

use anyhow::{Context as _, Result, ensure};
use trainyard_coordinator::store::Store;
use trainyard_core::{
    ids::JobId,
    job::{Job, JobState},
};

use crate::{
    nature,
    plan::{Plan, Wish},
    told::Accepted,
};

/// How the coordinator begins to say that a job can never start.
const NEVER: &str = "it was to start when job ";

/// A job has its first attempt: all that it was to wait for has come.
pub(crate) fn has_opened(
    job: &Job,
    jobs: &[Job],
    (accepted, plan): (&Accepted, &Plan),
) -> Result<()> {
    let id = job.id;
    let state = |other: &JobId| {
        jobs.iter()
            .find(|job| job.id == *other)
            .map(|job| job.state)
    };
    for other in &job.spec.after {
        let done = state(other) == Some(JobState::Completed);
        ensure!(
            done || accepted.again(other.0) > 0,
            "job {id} has a place, and job {other}, which was to succeed first, is {:?}",
            state(other)
        );
    }
    for other in &job.spec.after_any {
        let over = state(other).is_some_and(JobState::is_terminal);
        ensure!(
            over || accepted.again(other.0) > 0,
            "job {id} has a place, and job {other}, which was to end first, is {:?}",
            state(other)
        );
    }
    if let Some(then) = job.spec.not_before.filter(|_| !plan.has_jumps()) {
        let now = i64::try_from(nature::wall_us()).unwrap_or(i64::MAX);
        ensure!(
            then.0 <= now,
            "job {id} has a place, and its time has not come"
        );
    }
    Ok(())
}

/// Of no array run more jobs at once than may.
pub(crate) fn arrays(jobs: &[Job]) -> Result<()> {
    for job in jobs {
        let Some(place) = job.spec.array.as_ref().filter(|place| place.id == job.id) else {
            continue;
        };
        let runs = jobs.iter().filter(|other| {
            let array = other.spec.array.as_ref();
            array.is_some_and(|other| other.id == place.id) && other.state.holds_resources()
        });
        let (runs, most) = (runs.count(), place.at_most.unwrap_or(u32::MAX));
        ensure!(
            u32::try_from(runs)? <= most,
            "{runs} jobs of array {} run at once, and {most} may",
            place.id
        );
    }
    Ok(())
}

/// Whether a job was refused because one that it was to follow had not succeeded.
pub(crate) fn was_hopeless(job: &Job) -> bool {
    let outcome = job.outcome.as_ref();
    job.state == JobState::Cancelled && outcome.is_some_and(|how| how.message.starts_with(NEVER))
}

/// It ran only after those that were to succeed, and was refused only for one of them, which it names.
pub(crate) fn end(job: &Job, wish: &Wish, (accepted, store): (&Accepted, &Store)) -> Result<()> {
    let id = job.id;
    let mut blamed = false;
    for other in wish
        .order
        .after
        .iter()
        .filter_map(|wish| accepted.of(*wish))
    {
        let found = store.job(JobId(other))?;
        let found = found.with_context(|| format!("INV-03: job {other} is gone"))?;
        let wavers = accepted.again(other) > 0;
        let good = found.state == JobState::Completed;
        ensure!(
            good || wavers || job.attempts.is_empty(),
            "job {id} ran, and job {other}, which was to succeed first, is {:?}",
            found.state
        );
        let named = job.outcome.as_ref().map(|how| how.message.as_str());
        let named = named.is_some_and(|words| words.starts_with(&format!("{NEVER}{other} ")));
        blamed |= named && (!good || wavers);
    }
    ensure!(
        blamed || !was_hopeless(job),
        "job {id} was refused for nothing: {:?}",
        job.outcome
    );
    Ok(())
}
