//! What users ask of a job that is there: that it stops, that it runs again, that it starts from a checkpoint.
//!
//! Owns who may ask for it, and what of it a state does not allow. The job's actor does it. Part of the service.

use std::time::Duration;

use futures::StreamExt;
use tokio::sync::OwnedMutexGuard;
use trainyard_core::{
    ids::JobId,
    job::{Event, Job, Resume},
};
use trainyard_proto::status::Kind;

use super::{ApiError, Caller, LONGEST_WAIT, Service, array};
use crate::actors::{
    ask,
    job::{ActError, JobMsg},
    jobs::JobsMsg,
};

/// Jobs of an array that are told to end at once.
const AT_ONCE: usize = 256;

impl Service {
    /// Asks for a stop, wherever the job stands; answers with the job as it is then.
    ///
    /// # Errors
    /// When there is no such job, the caller may not change it, or it is over.
    pub async fn cancel(&self, caller: &Caller, id: JobId) -> Result<Job, ApiError> {
        self.changeable(caller, id)?;
        let job = self.tell(id, Event::CancelRequested, "cancel").await?;
        Ok(self.with_reason(caller, job).await)
    }

    /// As [`Service::cancel`], of all jobs of the array that this one is of: this job, and how many are told to end.
    ///
    /// # Errors
    /// As [`Service::cancel`]; when the job is of no array; when some were not reached, with their numbers, after all
    /// others were told. Those that have ended already are none.
    pub async fn cancel_array(&self, caller: &Caller, id: JobId) -> Result<(Job, u32), ApiError> {
        let job = self.changeable(caller, id)?;
        let Some(place) = job.spec.array else {
            let words = format!("job {id} is of no array; cancel it alone");
            return Err(ApiError::new(Kind::Conflict, words));
        };
        let all = place.id.0..place.id.0.saturating_add(place.size.into());
        // The last ones first, so that none of them starts in the place of one that has gone.
        let all: Vec<JobId> = all.rev().map(JobId).collect();
        let mut answers = Vec::with_capacity(all.len());
        for some in all.chunks(AT_ONCE) {
            let stops = some.iter().map(async |job| {
                let answer = self.tell(*job, Event::CancelRequested, "cancel").await;
                (*job, answer.map(drop))
            });
            answers.extend(futures::future::join_all(stops).await);
        }
        let told = array::told(place.id, answers)?;
        Ok((self.job(caller, id).await?, told))
    }

    /// As [`Service::cancel`], and waits for the end, at most for the grace and `patience`, and no
    /// longer than clients wait for an answer.
    ///
    /// # Errors
    /// As [`Service::cancel`].
    pub async fn cancel_and_wait(
        &self,
        caller: &Caller,
        id: JobId,
        patience: Duration,
    ) -> Result<Job, ApiError> {
        let job = self.cancel(caller, id).await?;
        let follower = self.follower(id);
        let ended = async {
            let mut states = std::pin::pin!(follower.states());
            while states.next().await.is_some() {}
        };
        let limit = job.spec.grace_period.saturating_add(patience);
        let limit = limit.min(LONGEST_WAIT);
        // That it is still on its way out is no error: the answer shows it.
        tokio::time::timeout(limit, ended).await.ok();
        self.job(caller, id).await
    }

    /// Runs an ended job again.
    ///
    /// # Errors
    /// When there is no such job, the caller may not change it, it is not over, its snapshot is gone, or there is
    /// no room on disk or in the queue.
    pub async fn restart(&self, caller: &Caller, id: JobId) -> Result<Job, ApiError> {
        let job = self.changeable(caller, id)?;
        let admitted = self.admit_again(&job).await?;
        let held = self.hold_snapshot(id).await?;
        let job = self.tell(id, Event::RestartRequested, "restart").await?;
        drop((admitted, held));
        Ok(self.with_reason(caller, job).await)
    }

    /// Starts a job, from a checkpoint if one is wanted: one that waits is only told where to begin, one
    /// that has ended runs again.
    ///
    /// # Errors
    /// When there is no such job, the caller may not change it or not read the checkpoint, it runs
    /// already, or there is no room on disk or in the queue.
    pub async fn start(&self, caller: &Caller, id: JobId, from: Resume) -> Result<Job, ApiError> {
        let job = self.changeable(caller, id)?;
        let from = self.beginning_of(caller, &job, from)?;
        let admitted = self.admit_again(&job).await?;
        let held = self.hold_snapshot(id).await?;
        let job = self.tell(id, Event::StartRequested(from), "start").await?;
        drop((admitted, held));
        Ok(self.with_reason(caller, job).await)
    }

    /// Keeps the snapshot of an ended job from being deleted while the job is started again.
    async fn hold_snapshot(&self, id: JobId) -> Result<Option<OwnedMutexGuard<()>>, ApiError> {
        let job = self.store().job(id)?;
        let job = job.filter(|job| job.state.is_terminal());
        let snapshot = job.as_ref().and_then(|job| job.snapshot_id.as_deref());
        self.data().hold(snapshot).await
    }

    async fn tell(&self, id: JobId, event: Event, verb: &str) -> Result<Job, ApiError> {
        let question = |reply| JobsMsg::Route(id, JobMsg::Event(event, Some(reply)));
        match ask(&self.tree().jobs, question).await? {
            Ok(job) => Ok(job),
            Err(ActError::NotFound) => Err(ApiError::no_job()),
            Err(ActError::Illegal(_, state)) => {
                let words = format!("Cannot {verb} job with status '{}'", state.contract_name());
                Err(ApiError::new(Kind::Conflict, words))
            }
        }
    }
}
