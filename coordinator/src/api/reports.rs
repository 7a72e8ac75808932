//! Reports of trainers to the coordinator itself: whether they may, and handing them to their job.
//!
//! The part of the service that trainers speak to. Never reads what a report says. Called by the REST
//! door, and for the calls of agents beside their sessions.

use trainyard_core::{ids::JobId, job::Job};

use super::{ApiError, Service};
use crate::actors::{
    ask,
    job::{DirectReport, JobMsg},
    jobs::JobsMsg,
};

impl Service {
    /// Whether `secret` is that of the job's live attempt, before anything of a report is read.
    ///
    /// # Errors
    /// When it is not: then nothing is told about the job.
    pub fn may_report(&self, id: JobId, secret: &str) -> Result<(), ApiError> {
        let job = self.store().job(id)?;
        let live = job.as_ref().filter(|job| job.state.holds_resources());
        let hash = |text: &str| blake3::hash(text.as_bytes());
        let right = live
            .and_then(|job| job.attempt())
            .is_some_and(|attempt| hash(attempt.secret.expose()) == hash(secret));
        right.then_some(()).ok_or_else(ApiError::no_job)
    }

    /// A report that a trainer sends to the coordinator itself; on disk when this returns.
    ///
    /// # Errors
    /// When `secret` is not that of the job's live attempt: then nothing is told about the job.
    pub async fn report(
        &self,
        id: JobId,
        secret: String,
        report: DirectReport,
    ) -> Result<Job, ApiError> {
        let question = |reply| {
            let message = JobMsg::Direct {
                secret: secret.into(),
                report: Box::new(report),
                reply,
            };
            JobsMsg::Route(id, message)
        };
        match ask(&self.tree().jobs, question).await? {
            Ok(job) => Ok(job),
            Err(_) => Err(ApiError::no_job()),
        }
    }
}
