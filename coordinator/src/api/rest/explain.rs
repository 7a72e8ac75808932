//! Why a job waits, and what would become of one that is not submitted.
//!
//! Parses and renders; the service decides. The same calls are in the gRPC door's `jobs`.

use axum::{Json, extract::State};
use serde::Serialize;
use trainyard_core::{ids::JobId, job::Job, sched::Change, sched::policy::Place, time::Timestamp};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    create,
    error::Answer,
    openapi::{About, Sending},
    request::{Body, Id, Reader, User},
    submission::TrainingJobRequest,
};
use crate::api::{Explained, Holder, Service, ShortNode};

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(explain))
        .routes(routes!(dry_run))
}

/// Why a job waits; times are UTC without a zone.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExplainView {
    /// The job.
    #[schema(value_type = u64)]
    job_id: JobId,
    /// How it stands: `pending`, `queued`, `starting`, `running`, `finishing`, `completed`, `failed` or `cancelled`.
    state: &'static str,
    /// Null for a job that does not wait.
    explanation: Option<ExplanationView>,
}

/// What would become of a job.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DryRunView {
    /// Where it would start at once; empty when it would wait.
    nodes: Vec<String>,
    /// Why it would wait; null when it would not.
    explanation: Option<ExplanationView>,
}

/// Why a job waits.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExplanationView {
    /// In one sentence.
    reason: String,
    /// Where it stands among those who wait; null while something keeps it from being looked at.
    place: Option<PlaceView>,
    /// Nodes that could hold a task of it, and what is short there.
    short_nodes: Vec<ShortNodeView>,
    /// Of so many more nodes it is not told.
    more_short_nodes: usize,
    /// Any one of these would start it now.
    changes: Vec<ChangeView>,
    /// Where no single change would: these together.
    together: Vec<ChangeView>,
    /// It is expected to start before this in one case of ten; null when that cannot be told, as the next two.
    expected_early: Option<String>,
    /// … in five of ten.
    expected_middle: Option<String>,
    /// … in nine of ten.
    expected_late: Option<String>,
}

/// A place among those who wait.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PlaceView {
    /// Jobs that are looked at before it.
    ahead: usize,
    /// Jobs that wait.
    waiting: usize,
    /// By what its place is what it is, in words.
    because: String,
}

/// What is short on a node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShortNodeView {
    /// The node.
    node: String,
    /// What is short, in words.
    lacks: String,
    /// Jobs that hold something there, or are promised it, as far as the caller may see them.
    holders: Vec<HolderView>,
    /// Further jobs there.
    others: usize,
}

/// A job that holds something.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HolderView {
    /// Which.
    #[schema(value_type = u64)]
    job_id: JobId,
    /// How far it is; null when that is not known, as the next two.
    epoch: Option<u32>,
    /// Of how many.
    total_epochs: Option<u32>,
    /// By its own progress.
    expected_end: Option<String>,
}

/// A change of what is asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChangeView {
    /// The field, such as `resources.gpus`.
    field: &'static str,
    /// What is asked for.
    from: String,
    /// What would do.
    to: String,
}

/// Why a job waits, and until when
///
/// What is short on which nodes, who holds it, the job's place in the order and why, which one change would start it now,
/// and when it is expected to start.
#[utoipa::path(
    get,
    path = "/training/jobs/{id}/explain",
    tag = "training",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The job")),
    responses((status = 200, description = "As it is now", body = ExplainView), About)
)]
pub(super) async fn explain(
    State(service): State<Service>,
    Reader(caller): Reader,
    Id(id): Id,
) -> Answer<ExplainView> {
    let (job, why) = service.explain(&caller, id).await?;
    let Job { id, state, .. } = job;
    Ok(Json(ExplainView {
        job_id: id,
        state: state.name(),
        explanation: why.map(ExplanationView::from),
    }))
}

/// Say what would become of a job, without submitting it
///
/// Takes what a submission takes, and refuses what that would refuse, but for what only shows when it is submitted: its
/// dataset, and room for one more job in all.
#[utoipa::path(
    post,
    path = "/training/jobs/dry-run",
    tag = "training",
    security(("token" = []), ("login" = [])),
    request_body = TrainingJobRequest,
    responses((status = 200, description = "As it is now", body = DryRunView), Sending)
)]
pub(super) async fn dry_run(
    State(service): State<Service>,
    User(caller): User,
    Body(body): Body,
) -> Answer<DryRunView> {
    let spec = create::spec(&body)?;
    let foreseen = service.foresee(&caller, spec).await;
    let (nodes, why) = foreseen.map_err(|error| create::refusal(&body, error))?;
    Ok(Json(DryRunView {
        nodes,
        explanation: why.map(ExplanationView::from),
    }))
}

impl From<Explained> for ExplanationView {
    fn from(explained: Explained) -> Self {
        let Explained { why, nodes } = explained;
        let told = |at: Timestamp| Some(at.to_naive_iso());
        let [early, middle, late] = match why.expected {
            Some(moments) => moments.map(told),
            None => [const { None }; 3],
        };
        Self {
            reason: why.words,
            place: why.place.as_ref().map(PlaceView::from),
            short_nodes: nodes.into_iter().map(ShortNodeView::from).collect(),
            more_short_nodes: why.short_more,
            changes: why.changes.into_iter().map(ChangeView::from).collect(),
            together: why.together.into_iter().map(ChangeView::from).collect(),
            expected_early: early,
            expected_middle: middle,
            expected_late: late,
        }
    }
}

impl From<&Place> for PlaceView {
    fn from(place: &Place) -> Self {
        Self {
            ahead: place.ahead,
            waiting: place.waiting,
            because: place.because(),
        }
    }
}

impl From<ShortNode> for ShortNodeView {
    fn from(node: ShortNode) -> Self {
        Self {
            node: node.short.node.0,
            lacks: node.short.lacks,
            holders: node.holders.into_iter().map(HolderView::from).collect(),
            others: node.others,
        }
    }
}

impl From<Holder> for HolderView {
    fn from(holder: Holder) -> Self {
        let (epoch, total_epochs) = holder.epochs.unzip();
        Self {
            job_id: holder.job,
            epoch,
            total_epochs,
            expected_end: holder.ends.map(Timestamp::to_naive_iso),
        }
    }
}

impl From<Change> for ChangeView {
    fn from(change: Change) -> Self {
        Self {
            field: change.field,
            from: change.from,
            to: change.to,
        }
    }
}
