//! Whether the coordinator works: each value is looked up when it is asked for; only the Labeler's own word is
//! kept for some seconds, because anyone may ask.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use http::StatusCode;
use serde::Serialize;
use trainyard_core::node::NodeState;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{api::Service, datasets::Health as LabelerHealth};

/// What works and what does not.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `healthy` or `unhealthy`.
    status: &'static str,
    /// Always `trainyard-coordinator`.
    service: &'static str,
    version: &'static str,
    /// `connected` or `unreadable`.
    database: &'static str,
    /// `running` or `not answering`.
    scheduler: &'static str,
    /// Jobs that have not ended.
    open_jobs: Option<u64>,
    /// Nodes that ever registered.
    nodes: Option<usize>,
    /// Nodes that take work.
    nodes_ready: Option<usize>,
    /// `healthy`, `unreachable` or `not configured`, as of five seconds ago at most.
    labeler: &'static str,
    /// The state of each tracker: shown only, nothing depends on them.
    trackers: BTreeMap<String, &'static str>,
}

/// The call.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new().routes(routes!(health))
}

/// Whether the coordinator works
///
/// 200 when the store can be read and the actors answer, else 503.
#[utoipa::path(
    get,
    path = "/health",
    tag = "health",
    responses(
        (status = 200, description = "All is well", body = Health),
        (status = 503, description = "Something does not answer", body = Health),
    )
)]
pub(super) async fn health(State(service): State<Service>) -> (StatusCode, Json<Health>) {
    let open = service.open_jobs();
    let nodes = service.all_nodes().await;
    let labeler = match service.data().labeler_health().await {
        None => "not configured",
        Some(LabelerHealth::Healthy) => "healthy",
        Some(LabelerHealth::Unreachable) => "unreachable",
    };
    let well = open.is_ok() && nodes.is_ok();
    let word = |fine: bool, good: &'static str, bad: &'static str| if fine { good } else { bad };
    let ready = nodes.as_ref().ok().map(|nodes| {
        let ready = |node: &&crate::api::Node| node.info.state == NodeState::Ready;
        nodes.iter().filter(ready).count()
    });
    let trackers = service.board().snapshot().into_iter();
    let trackers = trackers.map(|status| (status.name, status.state.name()));
    let health = Health {
        status: word(well, "healthy", "unhealthy"),
        service: "trainyard-coordinator",
        version: trainyard_proto::version(),
        database: word(open.is_ok(), "connected", "unreadable"),
        scheduler: word(nodes.is_ok(), "running", "not answering"),
        open_jobs: open.ok(),
        nodes: nodes.ok().map(|nodes| nodes.len()),
        nodes_ready: ready,
        labeler,
        trackers: trackers.collect(),
    };
    let status = match well {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(health))
}
