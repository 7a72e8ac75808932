//! `TrackerService`: how the trackers do.

use tonic::{Request, Response, Status, async_trait};
use trainyard_proto::{
    convert::timestamp,
    v1::{self, tracker_service_server::TrackerService},
};

use super::caller;
use crate::{
    api::Service,
    trackers::{self, Kind, State},
};

/// The door; all is in the service.
#[derive(Debug)]
pub(super) struct TrackerDoor(pub(super) Service);

#[async_trait]
impl TrackerService for TrackerDoor {
    async fn list_trackers(
        &self,
        request: Request<v1::ListTrackersRequest>,
    ) -> Result<Response<v1::ListTrackersResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let all = self.0.trackers(&caller).await?;
        let trackers = all.into_iter().map(wire).collect();
        Ok(Response::new(v1::ListTrackersResponse { trackers }))
    }
}

fn wire(status: trackers::Status) -> v1::Tracker {
    let kind = match status.kind {
        Kind::Mlflow => v1::TrackerKind::Mlflow,
        Kind::Clearml => v1::TrackerKind::Clearml,
        Kind::Webhook => v1::TrackerKind::Webhook,
    };
    let state = match status.state {
        State::Off => v1::TrackerState::Off,
        State::Idle => v1::TrackerState::Idle,
        State::Sending => v1::TrackerState::Sending,
        State::Retrying => v1::TrackerState::Retrying,
        State::Refused => v1::TrackerState::Refused,
    };
    v1::Tracker {
        name: status.name,
        kind: kind.into(),
        state: state.into(),
        jobs_pending: status.jobs_pending,
        points_pending: status.points_pending,
        seconds_behind: status.seconds_behind,
        delivered: status.delivered,
        dropped: status.dropped,
        failures: status.failures,
        last_success_at: status.last_success.map(timestamp),
        last_error: status.last_error.unwrap_or_default(),
        last_error_at: status.last_error_at.map(timestamp),
    }
}
