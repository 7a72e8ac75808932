//! How the trackers do, for operators.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    error::{Answer, Refusal},
    openapi::Signed,
    request::User,
};
use crate::{api::Service, trackers::Status};

/// The routes of trackers, below `/api/v1`.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new().routes(routes!(trackers))
}

/// All trackers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TrackerList {
    trackers: Vec<TrackerView>,
}

/// A tracker. Errors hold no secrets; times are UTC without a zone.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TrackerView {
    /// Unique.
    name: String,
    /// `mlflow`, `clearml` or `webhook`.
    kind: &'static str,
    /// `off`, `idle`, `sending`, `retrying` or `refused`.
    state: &'static str,
    /// Jobs of which it lacks something.
    jobs_pending: u64,
    /// Points that it lacks; of a webhook, deliveries.
    points_pending: u64,
    /// Since when it lacks something.
    seconds_behind: u64,
    /// Points or deliveries that it took, ever.
    delivered: u64,
    /// Attempts, single parameters, metrics or tags of one, or deliveries that were given up, ever.
    dropped: u64,
    /// Calls that failed since the coordinator started.
    failures: u64,
    last_success_at: Option<String>,
    last_error: Option<String>,
    last_error_at: Option<String>,
}

impl From<Status> for TrackerView {
    fn from(status: Status) -> Self {
        Self {
            name: status.name,
            kind: status.kind.name(),
            state: status.state.name(),
            jobs_pending: status.jobs_pending,
            points_pending: status.points_pending,
            seconds_behind: status.seconds_behind,
            delivered: status.delivered,
            dropped: status.dropped,
            failures: status.failures,
            last_success_at: status.last_success.map(|at| at.to_naive_iso()),
            last_error: status.last_error,
            last_error_at: status.last_error_at.map(|at| at.to_naive_iso()),
        }
    }
}

/// Every tracker with its lag, also those that are off.
#[utoipa::path(
    get,
    path = "/trackers",
    tag = "trackers",
    responses((status = 200, description = "All trackers", body = TrackerList), Signed),
    security(("token" = []), ("login" = []))
)]
pub(super) async fn trackers(
    User(caller): User,
    State(service): State<Service>,
) -> Answer<TrackerList> {
    let all = service.trackers(&caller).await.map_err(Refusal::from)?;
    let trackers = all.into_iter().map(TrackerView::from).collect();
    Ok(Json(TrackerList { trackers }))
}
