//! Nodes as operators see them, and taking them out of service and back.
//!
//! Parses and renders; the service decides. The same calls are in the gRPC door's `nodes`; tokens and labels are in `nodes`
//! of this door, windows in `maintenance`.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, extract::State};
use serde::Serialize;
use trainyard_core::{
    node::NodeState,
    resources::{Capacity, Gpu},
    service::AtDeadline,
};
use trainyard_proto::http::{Bound, Fields, read};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    error::{Answer, Refusal},
    maintenance::ClosureView,
    openapi::{About, Sending, Signed},
    request::{Body, Named, User},
};
use crate::api::{NewDrain, Node, Service};

/// Seconds of the furthest deadline and of the longest window: 366 days.
pub(super) const LONGEST: i64 = 31_622_400;

/// A GPU of a node.
#[derive(Debug, Serialize, ToSchema)]
struct GpuView {
    uuid: String,
    model: String,
    memory_bytes: u64,
}

/// What a node has, or has left.
#[derive(Debug, Serialize, ToSchema)]
struct CapacityView {
    cpus: u32,
    memory_bytes: u64,
    gpus: Vec<GpuView>,
}

/// A node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeView {
    name: String,
    /// `ready`, `suspect` (silent, within its lease) or `lost`.
    state: &'static str,
    /// An operator has revoked its agent, and none has joined as it since: it counts no more as one that could hold a job.
    revoked: bool,
    /// `open`; `draining`: it gets no jobs, those that run go on; `vacating`: those that run are told to go; `drained`: it
    /// gets no jobs, and nothing runs there: no job, no task of an attempt that is over, and no process on a GPU.
    duty: &'static str,
    /// Why it gets no jobs, where operators want that: the reason of its drain, its maintenance, or both.
    drain_reason: Option<String>,
    /// The e-mail address of the operator who wants that.
    drained_by: Option<String>,
    /// In UTC: until then those that run may end by themselves.
    drain_deadline: Option<String>,
    /// What becomes then of those who are left: `preempt` or `wait`.
    at_deadline: Option<&'static str>,
    /// The window that is on, or comes next; of several that are on the one that ends last.
    maintenance: Option<ClosureView>,
    /// Why it gets no jobs, as its agent says.
    condition: Option<String>,
    capacity: CapacityView,
    free: CapacityView,
    /// Jobs that hold something there.
    job_ids: Vec<u64>,
    /// Tasks of attempts that are over and still run there.
    stray_tasks: usize,
    /// As its agent says, and over that as operators have set.
    labels: BTreeMap<String, String>,
    /// Of them those that operators have set.
    set_labels: BTreeMap<String, String>,
    /// GPUs that get no jobs, with the reasons.
    blocked_gpus: BTreeMap<String, String>,
    agent_version: String,
    /// In UTC.
    last_seen_at: String,
}

/// Why a node is to get no jobs.
#[derive(Debug, ToSchema)]
#[expect(
    dead_code,
    reason = "it only describes the body, which is read field by field"
)]
struct CordonRequest {
    /// For people.
    #[schema(max_length = 1_000)]
    reason: Option<String>,
}

/// Why a node is to get no jobs, and until when those that run may end by themselves.
#[derive(Debug, ToSchema)]
#[expect(
    dead_code,
    reason = "it only describes the body, which is read field by field"
)]
struct DrainRequest {
    /// For people.
    #[schema(max_length = 1_000)]
    reason: Option<String>,
    /// In seconds from now: until then those that run may end by themselves; 0 is at once [default: none, and those that run
    /// take as long as they take].
    #[schema(minimum = 0, maximum = 31_622_400)]
    deadline_seconds: Option<i64>,
    /// `preempt`: whoever is left then saves its work and goes on elsewhere, whether it is preemptible or not. `wait`: it
    /// goes on. Only with a deadline [default: preempt].
    #[schema(pattern = "^(preempt|wait)$")]
    at_deadline: Option<String>,
}

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(cordon))
        .routes(routes!(drain))
        .routes(routes!(resume))
}

/// List the nodes.
#[utoipa::path(
    get,
    path = "/nodes",
    tag = "nodes",
    responses((status = 200, description = "As they are now, by name", body = Vec<NodeView>), Signed),
    security(("token" = []), ("login" = []))
)]
pub(super) async fn list(
    State(service): State<Service>,
    User(caller): User,
) -> Answer<Vec<NodeView>> {
    let nodes = service.nodes(&caller).await?;
    Ok(Json(nodes.into_iter().map(NodeView::of).collect()))
}

/// Show a node.
#[utoipa::path(
    get,
    path = "/nodes/{name}",
    tag = "nodes",
    params(("name" = String, Path, description = "The node's name")),
    responses((status = 200, description = "As it is now", body = NodeView), About),
    security(("token" = []), ("login" = []))
)]
pub(super) async fn get(
    State(service): State<Service>,
    User(caller): User,
    Named(name): Named,
) -> Answer<NodeView> {
    Ok(Json(NodeView::of(service.node(&caller, &name).await?)))
}

/// Give a node no new jobs; those that run go on for as long as they take.
#[utoipa::path(
    post,
    path = "/nodes/{name}/cordon",
    tag = "nodes",
    params(("name" = String, Path, description = "The node's name")),
    request_body = CordonRequest,
    responses((status = 200, description = "As it is now", body = NodeView), Sending),
    security(("token" = []), ("login" = []))
)]
pub(super) async fn cordon(
    State(service): State<Service>,
    User(caller): User,
    Named(name): Named,
    Body(body): Body,
) -> Answer<NodeView> {
    let asked = read(&body, |fields, _| NewDrain {
        reason: reason(fields),
        ..NewDrain::default()
    })?;
    let node = service.drain(&caller, &name, asked).await?;
    Ok(Json(NodeView::of(node)))
}

/// Empty a node by a deadline
///
/// It gets no new jobs at once, and those that run may end by themselves until then.
#[utoipa::path(
    post,
    path = "/nodes/{name}/drain",
    tag = "nodes",
    params(("name" = String, Path, description = "The node's name")),
    request_body = DrainRequest,
    responses((status = 200, description = "As it is now", body = NodeView), Sending),
    security(("token" = []), ("login" = []))
)]
pub(super) async fn drain(
    State(service): State<Service>,
    User(caller): User,
    Named(name): Named,
    Body(body): Body,
) -> Answer<NodeView> {
    let asked = read(&body, |fields, _| {
        let within = [Bound::Ge(0), Bound::Le(LONGEST)];
        let seconds = fields.whole_within("deadline_seconds", &within);
        let then = fields.one_of("at_deadline", &["preempt", "wait"]);
        NewDrain {
            reason: reason(fields),
            deadline: seconds.map(seconds_of),
            then: then.and_then(AtDeadline::named),
        }
    })?;
    let node = service.drain(&caller, &name, asked).await?;
    Ok(Json(NodeView::of(node)))
}

/// Give a node jobs again; a maintenance window that is on stays on.
#[utoipa::path(
    post,
    path = "/nodes/{name}/resume",
    tag = "nodes",
    params(("name" = String, Path, description = "The node's name")),
    responses((status = 200, description = "As it is now", body = NodeView), About),
    security(("token" = []), ("login" = []))
)]
pub(super) async fn resume(
    State(service): State<Service>,
    User(caller): User,
    Named(name): Named,
) -> Result<Json<NodeView>, Refusal> {
    Ok(Json(NodeView::of(service.resume(&caller, &name).await?)))
}

fn reason(fields: &mut Fields<'_>) -> String {
    fields.short_text("reason", 1_000).unwrap_or_default()
}

/// What was read within bounds.
pub(super) fn seconds_of(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

impl NodeView {
    fn of(node: Node) -> Self {
        let (duty, drain_reason) = (node.duty().name(), node.closed_for());
        let drained_by = node.drained_by();
        let Node { info, view } = node;
        let row = info.row;
        let strays = view.as_ref().map_or(0, |view| view.strays);
        let (free, jobs) = match view {
            Some(view) => (view.free, view.jobs),
            None => (row.capacity.clone(), Vec::new()),
        };
        Self {
            state: match info.state {
                NodeState::Ready => "ready",
                NodeState::Suspect => "suspect",
                NodeState::Lost => "lost",
            },
            revoked: row.revoked,
            duty,
            drain_reason,
            drained_by,
            drain_deadline: row.deadline.map(|deadline| deadline.at.to_naive_iso()),
            at_deadline: row.deadline.map(|deadline| deadline.then.name()),
            maintenance: info.window.map(ClosureView::of),
            condition: Some(info.condition).filter(|words| !words.is_empty()),
            labels: row.all_labels(),
            capacity: row.capacity.into(),
            free: free.into(),
            job_ids: jobs.into_iter().map(|job| job.0).collect(),
            stray_tasks: strays,
            set_labels: row.set_labels,
            blocked_gpus: info.blocked,
            agent_version: row.agent_version,
            last_seen_at: row.seen_at.to_naive_iso(),
            name: row.name.0,
        }
    }
}

impl From<Capacity> for CapacityView {
    fn from(capacity: Capacity) -> Self {
        Self {
            cpus: capacity.cpus,
            memory_bytes: capacity.memory_bytes,
            gpus: capacity.gpus.into_iter().map(GpuView::of).collect(),
        }
    }
}

impl GpuView {
    fn of(gpu: Gpu) -> Self {
        Self {
            uuid: gpu.uuid,
            model: gpu.model,
            memory_bytes: gpu.memory_bytes,
        }
    }
}
