//! Accepting jobs: the order of checks at a submit, and whether there is room for one more, new or run again.
//!
//! The part of the service that makes jobs. Decides nothing about them; the actors and the core do.
//! Called by both doors.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::OwnedSemaphorePermit;
use trainyard_core::{
    access::Permission,
    decision::Decision,
    job::{Job, JobState},
    sched::Wish,
    spec::{Indices, JobSpec, Violation},
};
use trainyard_proto::status::Kind;

use super::{ApiError, Caller, Service, access::Target};
use crate::{
    actors::{
        ask,
        jobs::{JobsMsg, OnTheWay, RequestKey, Submission},
    },
    clock, datasets,
    store::Change,
};

/// Submissions that may be under way at once; beyond it callers are told to try again.
pub(super) const UNDER_WAY: usize = 4_096;

/// A place among the submissions under way, with as many jobs as it makes.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    /// Jobs of arrays under way beyond one a submission.
    more: Arc<AtomicU64>,
    own: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.more.fetch_sub(self.own, Ordering::Relaxed);
    }
}

impl Service {
    /// Accepts a job, or all jobs of an array, of which the first is the answer; they are on disk when this returns.
    ///
    /// # Errors
    /// Every bad field at once; a key of another submission; a project that is not there or where the caller may not submit; a job
    /// larger than any node; no room on disk or in the queue.
    pub async fn submit(
        &self,
        caller: &Caller,
        spec: JobSpec,
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
        let asked = key.clone();
        match (self.accept(caller, spec, key).await, asked) {
            (Err(refused), Some(asked)) => self.under_way(caller, asked, refused).await,
            (submitted, _) => submitted,
        }
    }

    /// What is refused now was all right for an earlier try of the same submission, if that is on its way to the disk: its
    /// job is the answer to both.
    async fn under_way(
        &self,
        caller: &Caller,
        asked: RequestKey,
        refused: ApiError,
    ) -> Result<Job, ApiError> {
        let question = |reply| JobsMsg::OfKey(asked.clone(), reply);
        let Ok(job) = ask(&self.tree().jobs, question).await else {
            return Err(refused);
        };
        self.same_request(&asked)?;
        self.require(caller, Permission::ReadJob, Target::Job(&job))?;
        Ok(job)
    }

    async fn accept(
        &self,
        caller: &Caller,
        mut spec: JobSpec,
        key: Option<RequestKey>,
    ) -> Result<Job, ApiError> {
        if let Some(text) = &spec.resume_from {
            self.may_begin_with(caller, ("resume_from", text))?;
        }
        self.awaited(caller, &spec)?;
        let indices = spec.indices.take();
        // Checked above.
        let indices = indices.and_then(|text| Indices::parse(&text).ok());
        let size = indices.as_ref().map_or(1, Indices::size);
        let place = self.admit(size.into());
        let _place = self.noted(caller, place)?;
        let admitted = self.admit_to_project(&spec, size).await;
        let coming = self.noted(caller, admitted)?;
        let could = self.could_ever(caller, &spec);
        self.noted(caller, could)?;
        let snapshot = self.data().prepare(caller, &mut spec).await?;
        let submission = Submission {
            spec,
            submitted_by: caller.user.email.clone(),
            key: key.clone(),
            snapshot,
            indices,
            coming,
        };
        let question = |reply| JobsMsg::Submit(Box::new(submission), reply);
        let job = ask(&self.tree().jobs, question).await?;
        // Another one with this key may have come first.
        key.map_or(Ok(()), |asked| self.same_request(&asked))?;
        self.telemetry().submitted();
        Ok(job)
    }

    /// Refuses what no nodes could ever hold, or its project never have, with the nearest that they could.
    pub(super) fn could_ever(&self, caller: &Caller, spec: &JobSpec) -> Result<(), ApiError> {
        let wish = Wish {
            request: &spec.resources,
            nodes: spec.nodes,
            placement: &spec.placement,
        };
        match self.tree().offers.misfit(wish) {
            Some(unfit) => Err(ApiError::field(unfit.field(), unfit.to_string())),
            None => self.may_ever(caller, spec),
        }
    }

    /// Notes that a submission was refused for what it asks for or for a limit, unless that was noted of its user and for
    /// this field or limit lately. What the coordinator itself cannot do is no refusal.
    fn noted<T>(&self, caller: &Caller, asked: Result<T, ApiError>) -> Result<T, ApiError> {
        let Err(refused) = &asked else { return asked };
        let now = clock::now();
        let field = refused.violations.first();
        let field = field.map(|found| found.field.as_str());
        let of = field.or(refused.limit.as_deref());
        if of.is_some_and(|of| self.refusals().is_news(caller.user.id, of, now)) {
            let words = format!("{} asked in vain: {}", caller.user.email, refused.message);
            let note = Change::Note(vec![Decision::refused(now, words)]);
            // Nobody waits for it; one that finds the queue full is not worth waiting for.
            self.store().try_commit(vec![note], Box::new(|_| ())).ok();
        }
        asked
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

    /// As for a submit, of a job that is to run again. One that has not ended has its room already, and so is
    /// not refused; but it may end before it is told, and then the place that is held here is its own.
    pub(super) async fn admit_again(
        &self,
        job: &Job,
    ) -> Result<Option<(Place, Option<OnTheWay>)>, ApiError> {
        let coming = match job.state.is_terminal() {
            true => self.admit_to_project(&job.spec, 1).await?,
            false => None,
        };
        match self.admit(1) {
            Err(_full) if !job.state.is_terminal() => Ok(None),
            place => place.map(|place| Some((place, coming))),
        }
    }

    /// Each job that is waited for must be one that the caller may see, and that may still do what is waited for.
    pub(super) fn awaited(&self, caller: &Caller, spec: &JobSpec) -> Result<(), ApiError> {
        let mut found = Vec::new();
        for (field, jobs) in [("after", &spec.after), ("after_any", &spec.after_any)] {
            for id in jobs {
                let words = match self.readable(caller, *id) {
                    Ok(job) if field == "after" => did_not_succeed(&job),
                    Ok(_) => None,
                    Err(error) if error.kind == Kind::NotFound => Some(format!(
                        "names job {id}, which is not there or not yours to see; give numbers as `trainyard jobs` shows them"
                    )),
                    Err(error) => return Err(error),
                };
                found.extend(words.map(|message| Violation {
                    field: field.to_owned(),
                    message,
                }));
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        Err(ApiError {
            misfit: true,
            ..ApiError::invalid(found)
        })
    }

    /// Takes those out that it waits for and that have ended, as it wants: `awaited` has looked.
    pub(super) fn forget_ended(&self, spec: &mut JobSpec) -> Result<(), ApiError> {
        for jobs in [&mut spec.after, &mut spec.after_any] {
            for id in std::mem::take(jobs) {
                let job = self.store().job(id)?;
                if job.is_some_and(|job| !job.state.is_terminal()) {
                    jobs.push(id);
                }
            }
        }
        Ok(())
    }

    /// A place among the submissions under way, if there is room for so many more jobs.
    fn admit(&self, jobs: u64) -> Result<Place, ApiError> {
        self.store().room()?;
        let permit = Arc::clone(self.submits()).try_acquire_owned();
        let permit = permit.ok().ok_or_else(|| {
            let words = format!("{UNDER_WAY} submissions are under way; try again in a moment");
            ApiError::new(Kind::Exhausted, words)
        })?;
        let own = jobs.saturating_sub(1);
        let more = Arc::clone(self.more_under_way());
        let others = more.fetch_add(own, Ordering::Relaxed);
        let place = Place {
            _permit: permit,
            more,
            own,
        };
        let most = self.limits().open_jobs;
        // Those under way take room too, this one among them; one that is just stored counts twice for a moment.
        let under_way = UNDER_WAY.saturating_sub(self.submits().available_permits());
        let known = self.store().open_jobs_known();
        let open = known.saturating_add(under_way as u64);
        let open = open.saturating_add(others).saturating_add(own);
        if open <= most {
            return Ok(place);
        }
        let words = match own {
            0 => format!(
                "{most} jobs wait or run already, which is the limit (limits.open_jobs); try again when some have ended"
            ),
            _ => format!(
                "the array has {jobs} jobs, and {known} wait or run already of the {most} that may (limits.open_jobs); give fewer indices, or try again when some have ended"
            ),
        };
        Err(ApiError::limited("limits.open_jobs", words))
    }
}

/// What is wrong with waiting for the success of a job that has ended otherwise.
fn did_not_succeed(job: &Job) -> Option<String> {
    let became = match job.state {
        JobState::Failed => "has failed",
        JobState::Cancelled => "was cancelled",
        JobState::Pending
        | JobState::Queued
        | JobState::Starting
        | JobState::Running
        | JobState::Finishing
        | JobState::Completed => return None,
    };
    let id = job.id;
    Some(format!(
        "names job {id}, which {became}: run it again first, or name it in after_any, which waits for any end"
    ))
}
