//! Why jobs wait, in the words that their caller may read.
//!
//! Owns which numbers stand in them. The scheduler knows the reason. Part of the service.

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

impl Service {
    /// The job with why it waits. Another job that is named there, or for which it makes room, has no number for whoever may
    /// not read that one.
    pub(super) async fn with_reason(&self, caller: &Caller, job: Job) -> Job {
        let waits = self.waits(&job).await;
        told_to(&self.reader(caller), self.store(), job, waits)
    }

    /// The same of many.
    pub(super) async fn with_reasons(
        &self,
        caller: &Caller,
        jobs: Vec<Job>,
    ) -> Result<Vec<Job>, ApiError> {
        let mut rows = Vec::with_capacity(jobs.len());
        for job in jobs {
            let waits = self.waits(&job).await;
            rows.push((job, waits));
        }
        let reader = self.reader(caller);
        let told = move |store: &Store| {
            let rows = rows.into_iter();
            Ok(rows
                .map(|(job, waits)| told_to(&reader, store, job, waits))
                .collect())
        };
        self.blocking(told).await
    }

    /// What the scheduler says of it; nothing of one that does not wait. Without an answer it is shown without a reason.
    async fn waits(&self, job: &Job) -> Option<String> {
        match job.state {
            JobState::Queued => {
                let question = |reply| SchedulerMsg::Reason(job.id, reply);
                let reason = ask(&self.tree().scheduler, question).await;
                Some(reason.ok().flatten().unwrap_or_default())
            }
            JobState::Pending
            | JobState::Starting
            | JobState::Running
            | JobState::Finishing
            | JobState::Completed
            | JobState::Failed
            | JobState::Cancelled => None,
        }
    }
}

fn told_to(reader: &Reader, store: &Store, mut job: Job, waits: Option<String>) -> Job {
    // One that cannot be read stays hidden.
    let hides = |id| reader.hides(store, id);
    let room = job.attempts.iter().filter_map(|one| one.makes_room_for);
    let room: Vec<JobId> = room.collect();
    // What its own trainers have said may speak of any job.
    job.reason = unnamed(&job.reason, |id| room.contains(&id) && hides(id));
    if let Some(waits) = waits {
        let waits = unnamed(&waits, hides);
        // One that is tried again says why, beside what it waits for.
        job.reason = match job.reason.as_str() {
            "" => waits,
            why => format!("{why}; {waits}"),
        };
    }
    job
}
