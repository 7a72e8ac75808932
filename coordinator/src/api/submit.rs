//! Accepting jobs: the order of checks at a submit, and whether there is room for one more, new or run again.
//!
//! The part of the service that makes jobs. Decides nothing about them; the actors and the core do.
//! Called by both doors.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use trainyard_core::{access::Permission, job::Job, spec::JobSpec};
use trainyard_proto::status::Kind;

use super::{ApiError, Caller, Service, access::Target};
use crate::{
    actors::{
        ask,
        jobs::{JobsMsg, RequestKey, Submission},
    },
    datasets,
};

/// Submissions that may be under way at once; beyond it callers are told to try again.
pub(super) const UNDER_WAY: usize = 4_096;

impl Service {
    /// Accepts a job; it is on disk when this returns.
    ///
    /// # Errors
    /// Every bad field at once; a key of another submission; a project that is not there or where the caller may not submit; a job
    /// larger than any node; no room on disk or in the queue.
    pub async fn submit(
        &self,
        caller: &Caller,
        mut spec: JobSpec,
        key: Option<String>,
    ) -> Result<Job, ApiError> {
        let violations = spec.check();
        if !violations.is_empty() {
            return Err(ApiError::invalid(violations));
        }
        datasets::fits(&spec, None)?;
        self.require(caller, Permission::SubmitJob, Target::New(spec.project_id))?;
        let key = key.map(|key| RequestKey {
            key: format!("{}:{key}", caller.user.id),
            fingerprint: spec.fingerprint(),
        });
        if let Some(job) = self.submitted(key.as_ref())? {
            self.require(caller, Permission::ReadJob, Target::Job(&job))?;
            return Ok(job);
        }
        if let Some(text) = &spec.resume_from {
            self.may_begin_with(caller, ("resume_from", text))?;
        }
        let _permit = self.admit()?;
        let misfit = self.tree().offers.misfit(&spec.resources, spec.nodes);
        if let Some(unfit) = misfit {
            return Err(ApiError::field(unfit.field(), unfit.to_string()));
        }
        let snapshot = self.data().prepare(caller, &mut spec).await?;
        let submission = Submission {
            spec,
            submitted_by: caller.user.email.clone(),
            key: key.clone(),
            snapshot,
        };
        let question = |reply| JobsMsg::Submit(Box::new(submission), reply);
        let job = ask(&self.tree().jobs, question).await?;
        // Another one with this key may have come first.
        key.map_or(Ok(()), |asked| self.same_request(&asked))?;
        self.telemetry().submitted();
        Ok(job)
    }

    /// The job that a submission with this key has become.
    fn submitted(&self, key: Option<&RequestKey>) -> Result<Option<Job>, ApiError> {
        let Some(asked) = key else { return Ok(None) };
        let Some(id) = self.store().request_key(&asked.key)? else {
            return Ok(None);
        };
        self.same_request(asked)?;
        Ok(self.store().job(id)?)
    }

    /// Refuses a key that stands for another submission. Of keys from before this was kept nothing is known.
    fn same_request(&self, asked: &RequestKey) -> Result<(), ApiError> {
        let first = self.store().document::<RequestKey>(&asked.key)?;
        if first.is_none_or(|first| first.fingerprint == asked.fingerprint) {
            return Ok(());
        }
        let job = self.store().request_key(&asked.key)?.unwrap_or_default();
        let words = format!(
            "this Idempotency-Key has made job {job} from another submission; send the same one again to get that job, or choose another key"
        );
        Err(ApiError::new(Kind::Taken, words))
    }

    /// As [`Service::admit`], for a job that is to run again. One that has not ended has its room already, and so is
    /// not refused; but it may end before it is told, and then the place that is held here is its own.
    pub(super) fn admit_again(&self, job: &Job) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        match self.admit() {
            Err(_full) if !job.state.is_terminal() => Ok(None),
            place => place.map(Some),
        }
    }

    /// A place among the submissions under way, if there is room for one more job.
    fn admit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.store().room()?;
        let permit = Arc::clone(self.submits()).try_acquire_owned();
        let permit = permit.ok().ok_or_else(|| {
            let words = format!("{UNDER_WAY} submissions are under way; try again in a moment");
            ApiError::new(Kind::Exhausted, words)
        })?;
        let most = self.limits().open_jobs;
        // Those under way take room too, this one among them; one that is just stored counts twice for a moment.
        let under_way = UNDER_WAY.saturating_sub(self.submits().available_permits());
        if self
            .store()
            .open_jobs_known()
            .saturating_add(under_way as u64)
            > most
        {
            let words = format!(
                "{most} jobs wait or run already, which is the limit (limits.open_jobs); try again when some have ended"
            );
            return Err(ApiError::new(Kind::Exhausted, words));
        }
        Ok(permit)
    }
}
