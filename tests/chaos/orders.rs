//! What must be true at the end of jobs that waited for others, and of arrays.
//!
//! Changes nothing. Called by the check.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use tests::jobs::outcome;
use trainyard_proto::v1::{self, JobState};

use crate::{
    plan::{Until, Wish},
    record::Record,
};

/// How the coordinator begins to say that a job can never start.
const NEVER: &str = "it was to start when job ";

/// Whether a job was refused because one that it was to follow had not succeeded.
pub(crate) fn was_hopeless(job: &v1::Job) -> bool {
    let refused = job.state() == JobState::Cancelled && outcome(job).message.starts_with(NEVER);
    refused && job.attempts.is_empty()
}

/// A job began after the one that it was to follow had ended as it should, and was refused only if that had not.
pub(crate) fn followed(
    job: &v1::Job,
    (wish, record): (&Wish, &Record),
    jobs: &BTreeMap<u64, v1::Job>,
) -> Result<()> {
    let Some((before, until)) = wish.order.after else {
        ensure!(!was_hopeless(job), "it was refused, and followed nobody");
        return Ok(());
    };
    let other = record.lock().ids.get(&before).copied();
    let other = other.and_then(|id| jobs.get(&id));
    let other = other.with_context(|| format!("wish {before} is no job"))?;
    let (id, state) = (other.job_id, other.state());
    let good = until == Until::Ends || state == JobState::Completed;
    if was_hopeless(job) {
        record.count("jobs that could never start");
        ensure!(!good, "it was refused for job {id}, which is {state:?}");
        return Ok(());
    }
    let Some(first) = job.attempts.first() else {
        return Ok(());
    };
    record.count("jobs that followed another");
    let (placed, ended) = (micros(first.placed_at), micros(other.ended_at));
    ensure!(good, "it ran after job {id}, which is {state:?}");
    ensure!(
        ended.is_some() && ended <= placed,
        "it had a place at {placed:?}, and job {id} ended at {ended:?}"
    );
    Ok(())
}

/// Of no array more jobs ran at once than may.
pub(crate) fn arrays(jobs: &BTreeMap<u64, v1::Job>) -> Result<()> {
    let place = |job: &v1::Job| job.spec.as_ref().and_then(|spec| spec.array);
    for first in jobs.values() {
        let Some(array) = place(first).filter(|array| array.id == first.job_id) else {
            continue;
        };
        let members = jobs.values();
        let members = members.filter(|job| place(job).is_some_and(|of| of.id == array.id));
        let spans = members.flat_map(|job| &job.attempts).map(|attempt| {
            let until = micros(attempt.ended_at).unwrap_or(i128::MAX);
            (micros(attempt.placed_at).unwrap_or(0), until)
        });
        let spans: Vec<_> = spans.collect();
        let most = match array.at_most {
            0 => usize::MAX,
            most => usize::try_from(most)?,
        };
        for (begin, _) in &spans {
            let at_once = spans
                .iter()
                .filter(|(from, until)| from <= begin && begin < until);
            let at_once = at_once.count();
            ensure!(
                at_once <= most,
                "{at_once} jobs of array {} ran at once, and {most} may",
                array.id
            );
        }
    }
    Ok(())
}

pub(crate) fn micros(at: Option<prost_types::Timestamp>) -> Option<i128> {
    let at = at?;
    Some(i128::from(at.seconds) * 1_000_000 + i128::from(at.nanos) / 1_000)
}
