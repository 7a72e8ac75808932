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
/// Jobs of which the scheduler is asked at once: between two questions it places.
const AT_ONCE: usize = 32;

impl Service {
    /// The job with why it waits. Another job that is named there, or for which it makes room, has no number for whoever may
    /// not read that one.
    pub(super) async fn with_reason(&self, caller: &Caller, job: Job) -> Job {
        let waits = self.waits(true, waiting(std::slice::from_ref(&job))).await;
        told_to(&self.reader(caller), self.store(), job, &waits)
    }

    /// The same of many.
    pub(super) async fn with_reasons(
        &self,
        caller: &Caller,
        jobs: Vec<Job>,
    ) -> Result<Vec<Job>, ApiError> {
        let has_looked = self.tree().has_looked.get().is_some();
        let waits = self.waits(has_looked, waiting(&jobs)).await;
        let reader = self.reader(caller);
        let told = move |store: &Store| {
            let jobs = jobs.into_iter();
            Ok(jobs
                .map(|job| told_to(&reader, store, job, &waits))
                .collect())
        };
        self.blocking(told).await
    }

    async fn waits(&self, has_looked: bool, waiting: Vec<JobId>) -> BTreeMap<JobId, String> {
        let scheduler = &self.tree().scheduler;
        let asked = |some: Vec<JobId>| async move {
            let question = |reply| SchedulerMsg::Reasons(some, reply);
            ask(scheduler, question).await.ok()
        };
        reasons(has_looked, &waiting, asked).await
    }
}

/// What the scheduler says of them. Those of which it has not said when it does not answer are shown without a reason.
async fn reasons<F: Future<Output = Option<Vec<Option<String>>>>>(
    has_looked: bool,
    waiting: &[JobId],
    asked: impl Fn(Vec<JobId>) -> F,
) -> BTreeMap<JobId, String> {
    if !has_looked {
        let not_yet = |job: &JobId| (*job, NOT_YET.to_owned());
        return waiting.iter().map(not_yet).collect();
    }
    let mut told = BTreeMap::new();
    for some in waiting.chunks(AT_ONCE) {
        let Some(reasons) = asked(some.to_vec()).await else {
            break;
        };
        let reasons = some.iter().copied().zip(reasons);
        told.extend(reasons.map(|(job, reason)| (job, reason.unwrap_or_default())));
    }
    told
}

/// Those of them that the scheduler has a reason for.
fn waiting(jobs: &[Job]) -> Vec<JobId> {
    let waiting = jobs.iter().filter(|job| waits(job.state));
    waiting.map(|job| job.id).collect()
}

fn waits(state: JobState) -> bool {
    match state {
        JobState::Queued => true,
        JobState::Pending
        | JobState::Starting
        | JobState::Running
        | JobState::Finishing
        | JobState::Completed
        | JobState::Failed
        | JobState::Cancelled => false,
    }
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

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, future::ready};

    use super::*;

    #[tokio::test]
    async fn each_job_of_a_page_is_told_its_own_reason_and_nobody_is_asked_before_the_first_look() {
        let page: Vec<JobId> = (1..=70).rev().map(JobId).collect();
        let questions = RefCell::new(Vec::new());
        let answers = |some: Vec<JobId>| {
            let own = |job: &JobId| (job.0 != 5).then(|| format!("as {job} does"));
            let answers = some.iter().map(own).collect();
            questions.borrow_mut().push(some.len());
            ready(Some(answers))
        };
        let told = reasons(true, &page, &answers).await;
        assert_eq!(*questions.borrow(), [32, 32, 6]);
        assert_eq!(told.len(), 70);
        assert_eq!(told[&JobId(70)], "as 70 does");
        assert_eq!(told[&JobId(1)], "as 1 does");
        assert_eq!(told[&JobId(5)], "");

        questions.borrow_mut().clear();
        let told = reasons(false, &page, &answers).await;
        assert!(questions.borrow().is_empty());
        assert!(told.len() == 70 && told.values().all(|words| words == NOT_YET));
    }

    #[tokio::test]
    async fn a_scheduler_that_does_not_answer_is_not_asked_again_for_the_rest_of_a_page() {
        let page: Vec<JobId> = (1..=70).map(JobId).collect();
        let asked = RefCell::new(0);
        let told = reasons(true, &page, |some: Vec<JobId>| {
            *asked.borrow_mut() += 1;
            ready((*asked.borrow() == 1).then(|| vec![Some(String::new()); some.len()]))
        });
        assert_eq!(told.await.len(), 32);
        assert_eq!(*asked.borrow(), 2);
    }
}
