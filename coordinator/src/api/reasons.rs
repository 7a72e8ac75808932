//! Why jobs wait, in the words that their caller may read.
//!
//! Owns which numbers stand in them. The scheduler knows the reason. Part of the service.

use std::collections::BTreeMap;

use trainyard_core::{
    decision::unnamed,
    ids::JobId,
    job::{Job, JobState},
};

use super::{ApiError, Caller, Service, reader::Reader};
use crate::{
    actors::{ask, scheduler::SchedulerMsg},
    store::Store,
};

/// What lists say of who waits as long as the scheduler has yet to look at the queue that it found at its start: with a
/// hundred thousand jobs that takes a second, and lists need not wait for it.
const NOT_YET: &str =
    "the coordinator has just started, and its scheduler has not looked at the queue yet";

impl Service {
    /// The job with why it waits. Another job that is named there, or for which it makes room, has no number for whoever may
    /// not read that one.
    pub(super) async fn with_reason(&self, caller: &Caller, job: Job) -> Job {
        let waits = self.waits(waiting(std::slice::from_ref(&job))).await;
        told_to(&self.reader(caller), self.store(), job, &waits)
    }

    /// The same of many.
    pub(super) async fn with_reasons(
        &self,
        caller: &Caller,
        jobs: Vec<Job>,
    ) -> Result<Vec<Job>, ApiError> {
        let waiting = waiting(&jobs);
        let waits = if self.tree().has_looked.get().is_some() {
            self.waits(waiting).await
        } else {
            let not_yet = waiting.into_iter().map(|job| (job, NOT_YET.to_owned()));
            not_yet.collect()
        };
        let reader = self.reader(caller);
        let told = move |store: &Store| {
            let jobs = jobs.into_iter();
            Ok(jobs
                .map(|job| told_to(&reader, store, job, &waits))
                .collect())
        };
        self.blocking(told).await
    }

    /// What the scheduler says of all of them at once. Without an answer they are shown without a reason.
    async fn waits(&self, waiting: Vec<JobId>) -> BTreeMap<JobId, String> {
        if waiting.is_empty() {
            return BTreeMap::new();
        }
        let question = |reply| SchedulerMsg::Reasons(waiting.clone(), reply);
        let asked = ask(&self.tree().scheduler, question).await;
        let mut reasons = asked.unwrap_or_default().into_iter();
        let told = |job| (job, reasons.next().flatten().unwrap_or_default());
        waiting.into_iter().map(told).collect()
    }
}

/// Those of them that the scheduler has a reason for.
fn waiting(jobs: &[Job]) -> Vec<JobId> {
    let waiting = jobs.iter().filter(|job| job.state == JobState::Queued);
    waiting.map(|job| job.id).collect()
}

fn told_to(reader: &Reader, store: &Store, mut job: Job, waits: &BTreeMap<JobId, String>) -> Job {
    // One that cannot be read stays hidden.
    let hides = |id| reader.hides(store, id);
    let room = job.attempts.iter().filter_map(|one| one.makes_room_for);
    let room: Vec<JobId> = room.collect();
    // What its own trainers have said may speak of any job.
    job.reason = unnamed(&job.reason, |id| room.contains(&id) && hides(id));
    if let Some(waits) = waits.get(&job.id) {
        let waits = unnamed(waits, hides);
        // One that is tried again says why, beside what it waits for.
        job.reason = match job.reason.as_str() {
            "" => waits,
            why => format!("{why}; {waits}"),
        };
    }
    job
}
