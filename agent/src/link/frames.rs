//! Frames to and from the coordinator: wire types outside, core types inside. Pure. Called by the
//! session.

use std::{collections::BTreeMap, time::Duration};

use trainyard_config::Secret;
use trainyard_core::{
    failure::StopCause, ids::TaskKey, snapshot::Snapshot, spec::JobSpec, task::Meeting,
};
use trainyard_proto::{
    convert::{WireError, span},
    v1::{self, ConnectRequest, connect_request::Frame},
};

use crate::{actors::runs::RunsMsg, board::Blocked, folder::Order, spool::Spooled};

/// What the coordinator wants of the tasks.
pub(super) fn order_of(start: v1::StartTask) -> Result<RunsMsg, WireError> {
    let task = key("start.task", start.task)?;
    let spec = start.spec.ok_or(WireError::Missing("start.spec"))?;
    Ok(RunsMsg::Start(Box::new(Order {
        task,
        spec: JobSpec::try_from(spec)?,
        gpu_uuids: start.gpu_uuids,
        world_size: start.world_size,
        secret: Secret::new(start.secret),
        snapshot: start.snapshot.map(Snapshot::try_from).transpose()?,
    })))
}

/// The word that a gang starts.
pub(super) fn launch_of(launch: v1::LaunchTask) -> Result<RunsMsg, WireError> {
    let task = key("launch.task", launch.task)?;
    let port = u16::try_from(launch.port).ok().filter(|port| *port > 0);
    let meeting = Meeting {
        addresses: launch.addresses,
        port: port.ok_or(WireError::Missing("launch.port"))?,
    };
    Ok(RunsMsg::Launch(task, meeting))
}

/// A stop; one without a cause is a fence: the coordinator does not want the task.
pub(super) fn stop_of(stop: v1::StopTask) -> Result<RunsMsg, WireError> {
    let cause = match stop.cause() {
        v1::StopCause::Cancelled => StopCause::Cancelled,
        v1::StopCause::TimeLimit => StopCause::TimeLimit,
        v1::StopCause::PeerFailed => StopCause::PeerFailed,
        v1::StopCause::Preempted => StopCause::Preempted,
        v1::StopCause::Fenced | v1::StopCause::Unspecified => StopCause::Fenced,
    };
    let grace = stop.grace_period.as_ref();
    let grace = grace.map(|grace| span("stop.grace_period", grace));
    Ok(RunsMsg::Stop {
        task: key("stop.task", stop.task)?,
        cause,
        grace: grace.transpose()?,
    })
}

/// The task that may be forgotten.
pub(super) fn forget_of(forget: v1::ForgetTask) -> Result<RunsMsg, WireError> {
    Ok(RunsMsg::Forget(key("forget.task", forget.task)?))
}

fn key(field: &'static str, wire: Option<v1::TaskKey>) -> Result<TaskKey, WireError> {
    wire.map(Into::into).ok_or(WireError::Missing(field))
}

/// The GPUs that get no jobs, as the coordinator hears of them.
pub(super) fn blocked(gpus: BTreeMap<String, Blocked>) -> Vec<v1::BlockedGpu> {
    let wire = |(uuid, Blocked { reason, .. })| v1::BlockedGpu { uuid, reason };
    gpus.into_iter().map(wire).collect()
}

/// How often to give a sign of life.
pub(super) fn heartbeat_of(welcome: &v1::Welcome) -> Result<Duration, WireError> {
    let interval = welcome.heartbeat_interval.as_ref();
    let interval = interval.ok_or(WireError::Missing("welcome.heartbeat_interval"))?;
    let interval = span("welcome.heartbeat_interval", interval)?;
    Ok(interval.max(Duration::from_millis(10)))
}

/// Records of one task, as they follow each other in its spool.
pub(super) fn batch(task: TaskKey, kept_from: u64, records: Vec<Spooled>) -> ConnectRequest {
    request(Frame::Batch(v1::RecordBatch {
        task: Some(task.into()),
        first_seq: records.first().map_or(0, |first| first.seq),
        records: records.into_iter().map(|one| one.record.into()).collect(),
        kept_from_seq: kept_from,
    }))
}

/// A frame to the coordinator.
pub(super) fn request(frame: Frame) -> ConnectRequest {
    ConnectRequest { frame: Some(frame) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_core::ids::{AttemptNo, JobId, Rank};

    fn task() -> TaskKey {
        TaskKey {
            job: JobId(7),
            attempt: AttemptNo(2),
            rank: Rank(0),
        }
    }

    #[test]
    fn a_stop_without_grace_leaves_it_to_the_job() {
        let stop = v1::StopTask {
            task: Some(task().into()),
            cause: v1::StopCause::Fenced.into(),
            grace_period: None,
        };
        let message = stop_of(stop).unwrap();
        let RunsMsg::Stop { cause, grace, .. } = message else {
            panic!("{message:?}");
        };
        assert_eq!((cause, grace), (StopCause::Fenced, None));
        assert!(stop_of(v1::StopTask::default()).is_err());
    }
}
