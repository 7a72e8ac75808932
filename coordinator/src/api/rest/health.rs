//! Whether the coordinator works: each value is looked up when it is asked for.

use axum::{Json, extract::State};
use http::StatusCode;
use serde_json::{Value, json};
use trainyard_core::node::NodeState;

use crate::api::Service;

/// 200 when the store can be read and the actors answer, else 503.
pub(super) async fn health(State(service): State<Service>) -> (StatusCode, Json<Value>) {
    let open = service.open_jobs();
    let nodes = service.nodes().await;
    let well = open.is_ok() && nodes.is_ok();
    let word = |fine: bool, good: &'static str, bad: &'static str| if fine { good } else { bad };
    let ready = nodes.as_ref().ok().map(|nodes| {
        let ready = |node: &&crate::api::Node| node.info.state == NodeState::Ready;
        nodes.iter().filter(ready).count()
    });
    let shown = |status: crate::trackers::Status| (status.name, json!(status.state.name()));
    let trackers: serde_json::Map<_, _> =
        service.board().snapshot().into_iter().map(shown).collect();
    let answer = json!({
        "status": word(well, "healthy", "unhealthy"),
        "service": "trainyard-coordinator",
        "version": env!("CARGO_PKG_VERSION"),
        "database": word(open.is_ok(), "connected", "unreadable"),
        "scheduler": word(nodes.is_ok(), "running", "not answering"),
        "open_jobs": open.ok(),
        "nodes": nodes.ok().map(|nodes| nodes.len()),
        "nodes_ready": ready,
        // Shown only: nothing depends on them.
        "trackers": trackers,
    });
    let status = match well {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(answer))
}
