//! Why jobs wait, and what would become of one: what the scheduler knows, with what holders' own progress says.
//!
//! Decides nothing about jobs. Called by the gRPC door.

use trainyard_core::{
    access::Permission,
    decision::unnamed,
    ids::JobId,
    job::{Event, Job},
    sched::{Explanation, QueuedJob, Short},
    spec::{Indices, JobSpec},
    time::Timestamp,
};
use trainyard_proto::status::Kind;

use super::{ApiError, Caller, Service, access::Target, reader::Reader, usage::with_place};
use crate::{
    actors::{ask, scheduler::SchedulerMsg},
    clock, datasets,
    store::{ReadError, Store},
};

/// A job that holds something where another waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Which.
    pub job: JobId,
    /// How far it is, of how many epochs.
    pub epochs: Option<(u32, u32)>,
    /// When it ends, if it goes on as it did.
    pub ends: Option<Timestamp>,
}

/// A node that could hold a task of the job, and does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortNode {
    /// What is short there.
    pub short: Short,
    /// Who holds something there, of those that the caller may see.
    pub holders: Vec<Holder>,
    /// How many others do.
    pub others: usize,
}

/// Why a job waits.
#[derive(Clone, Debug)]
pub struct Explained {
    /// What the scheduler says.
    pub why: Explanation,
    /// Node by node.
    pub nodes: Vec<ShortNode>,
}

impl Service {
    /// Why a job waits; nothing of one that does not.
    ///
    /// # Errors
    /// When there is no such job, or the caller may not see it.
    pub async fn explain(
        &self,
        caller: &Caller,
        id: JobId,
    ) -> Result<(Job, Option<Explained>), ApiError> {
        let job = self.job(caller, id).await?;
        let question = |reply| SchedulerMsg::Explain(id, reply);
        let why = ask(&self.tree().scheduler, question).await?;
        let why = match why {
            Some(why) => Some(self.explained(caller, *why).await?),
            None => None,
        };
        Ok((job, why))
    }

    /// Where a job would start at once, or why it would wait. Nothing is submitted, and nothing is prepared.
    ///
    /// # Errors
    /// As a submit's, but for what only shows when it is submitted: its dataset, and room for one more job in all.
    pub async fn foresee(
        &self,
        caller: &Caller,
        mut spec: JobSpec,
    ) -> Result<(Vec<String>, Option<Explained>), ApiError> {
        let violations = spec.check();
        if !violations.is_empty() {
            return Err(ApiError::invalid(violations));
        }
        datasets::fits(&spec, None)?;
        self.require(caller, Permission::SubmitJob, Target::New(spec.project_id))?;
        if let Some(text) = &spec.resume_from {
            self.may_begin_with(caller, ("resume_from", text))?;
        }
        self.awaited(caller, &spec)?;
        let indices = spec.indices.as_deref().map(Indices::parse);
        // Checked above.
        let size = indices
            .and_then(Result::ok)
            .map_or(1, |indices| indices.size());
        self.would_admit_to_project(&spec, size).await?;
        self.could_ever(caller, &spec)?;
        // What has ended is known, and need not be waited for.
        self.forget_ended(&mut spec)?;
        // Of an array its first job.
        spec.indices = None;
        let queued = Box::new(as_queued(caller, spec)?);
        let question = |reply| SchedulerMsg::Foresee(queued, reply);
        // Each takes a copy of all that the scheduler knows.
        let foreseen = async { Ok(ask(&self.tree().scheduler, question).await?) };
        let places = (self.dry_runs().as_ref(), "other dry runs are being made");
        let foreseen = with_place(places, foreseen).await?;
        let nodes = foreseen.nodes.unwrap_or_default();
        let why = match foreseen.why.filter(|_| nodes.is_empty()) {
            Some(why) => Some(self.explained(caller, why).await?),
            None => None,
        };
        Ok((nodes.into_iter().map(|node| node.0).collect(), why))
    }

    /// With what the rows of holders say, as far as the caller may see them.
    async fn explained(
        &self,
        caller: &Caller,
        mut why: Explanation,
    ) -> Result<Explained, ApiError> {
        let reader = self.reader(caller);
        let now = clock::now();
        let read = move |store: &Store| {
            let short = why.short.iter();
            let nodes: Result<Vec<_>, ReadError> = short
                .map(|short| short_node((store, &reader), short, now))
                .collect();
            why.words = unnamed(&why.words, |job| reader.hides(store, job));
            let nodes = reader.checked(nodes?)?;
            Ok(Explained { why, nodes })
        };
        self.blocking(read).await
    }
}

fn short_node(
    (store, reader): (&Store, &Reader),
    short: &Short,
    now: Timestamp,
) -> Result<ShortNode, ReadError> {
    let mut holders = Vec::new();
    for id in &short.holders {
        let job = store.job(*id)?;
        holders.extend(
            job.filter(|job| reader.reads(store, job))
                .map(|job| holder(&job, now)),
        );
    }
    let lacks = unnamed(&short.lacks, |job| reader.hides(store, job));
    Ok(ShortNode {
        others: short.holders.len() - holders.len(),
        short: Short {
            lacks,
            ..short.clone()
        },
        holders,
    })
}

/// What the scheduler would be told of such a job.
pub(super) fn as_queued(caller: &Caller, spec: JobSpec) -> Result<QueuedJob, ApiError> {
    let now = clock::now();
    let job = Job::accepted(JobId(u64::MAX), spec, caller.user.email.clone(), now);
    let step = job.step(now, Event::Prepared);
    let step = step.map_err(|error| ApiError::new(Kind::Internal, error.to_string()))?;
    Ok(step.job.queued())
}

/// By its own progress.
fn holder(job: &Job, now: Timestamp) -> Holder {
    Holder {
        job: job.id,
        epochs: job.epochs(),
        ends: job.expected_end(now),
    }
}
