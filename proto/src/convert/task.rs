//! Tasks: which, how they stand and how they ended.

use trainyard_core::{
    failure::{StopCause, TaskEnd},
    ids::{AttemptNo, JobId, Rank, TaskKey},
    task::{Ended, Phase, Report},
};

use super::{WireError, given, time, timestamp};
use crate::v1::{self, TaskPhase};

impl From<Report> for v1::TaskReport {
    fn from(core: Report) -> Self {
        let mut port = 0;
        let (phase, started, end) = match core.phase {
            Phase::Preparing => (TaskPhase::Preparing, None, None),
            Phase::Waiting(leased) => {
                port = leased.unwrap_or_default();
                (TaskPhase::Waiting, None, None)
            }
            Phase::Running(since) => (TaskPhase::Running, Some(since), None),
            Phase::Ended(ended) => {
                let phase = match ended.started {
                    Some(_) => TaskPhase::Exited,
                    None => TaskPhase::NotStarted,
                };
                (phase, ended.started, Some(end_of(*ended)))
            }
        };
        Self {
            task: Some(core.task.into()),
            phase: phase.into(),
            detail: core.detail,
            started_at: started.map(timestamp),
            end,
            port: port.into(),
            kept_from_seq: core.kept_from,
        }
    }
}

fn end_of(ended: Ended) -> v1::TaskEnd {
    v1::TaskEnd {
        ended_at: Some(timestamp(ended.at)),
        ..ended.end.into()
    }
}

impl TryFrom<v1::TaskReport> for Report {
    type Error = WireError;

    fn try_from(wire: v1::TaskReport) -> Result<Self, WireError> {
        let started = wire.started_at.as_ref().map(time);
        let phase = match wire.phase() {
            TaskPhase::Unspecified => return Err(WireError::Missing("report.phase")),
            TaskPhase::Preparing => Phase::Preparing,
            TaskPhase::Waiting => {
                let port = u16::try_from(wire.port);
                let port = port.map_err(|_large| WireError::Unknown("report.port"))?;
                Phase::Waiting((port > 0).then_some(port))
            }
            TaskPhase::Running => {
                Phase::Running(started.ok_or(WireError::Missing("report.started_at"))?)
            }
            TaskPhase::Exited | TaskPhase::NotStarted => {
                let end = wire.end.ok_or(WireError::Missing("report.end"))?;
                let at = end.ended_at.as_ref().map(time).unwrap_or_default();
                let end = end.into();
                Phase::Ended(Box::new(Ended { started, at, end }))
            }
        };
        Ok(Self {
            task: wire.task.ok_or(WireError::Missing("report.task"))?.into(),
            phase,
            detail: wire.detail,
            kept_from: wire.kept_from_seq,
        })
    }
}

impl From<TaskKey> for v1::TaskKey {
    fn from(core: TaskKey) -> Self {
        Self {
            job_id: core.job.0,
            attempt: core.attempt.0,
            rank: core.rank.0,
        }
    }
}

impl From<v1::TaskKey> for TaskKey {
    fn from(wire: v1::TaskKey) -> Self {
        Self {
            job: JobId(wire.job_id),
            attempt: AttemptNo(wire.attempt),
            rank: Rank(wire.rank),
        }
    }
}

impl From<StopCause> for v1::StopCause {
    fn from(core: StopCause) -> Self {
        match core {
            StopCause::Cancelled => Self::Cancelled,
            StopCause::TimeLimit => Self::TimeLimit,
            StopCause::Fenced => Self::Fenced,
            StopCause::PeerFailed => Self::PeerFailed,
            StopCause::Preempted => Self::Preempted,
        }
    }
}

/// `None` where the wire says unspecified. A cause that only a newer agent knows is the platform's, not the job's own end.
fn stop_cause(wire: i32) -> Option<StopCause> {
    match v1::StopCause::try_from(wire) {
        Ok(v1::StopCause::Unspecified) => None,
        Ok(v1::StopCause::Cancelled) => Some(StopCause::Cancelled),
        Ok(v1::StopCause::TimeLimit) => Some(StopCause::TimeLimit),
        Ok(v1::StopCause::PeerFailed) => Some(StopCause::PeerFailed),
        Ok(v1::StopCause::Preempted) => Some(StopCause::Preempted),
        Ok(v1::StopCause::Fenced) | Err(_) => Some(StopCause::Fenced),
    }
}

impl From<TaskEnd> for v1::TaskEnd {
    fn from(core: TaskEnd) -> Self {
        let cause = core.stop_cause.map(v1::StopCause::from).unwrap_or_default();
        Self {
            exit_code: core.exit_code,
            signal: core.signal,
            oom_killed: core.oom_killed,
            stop_cause: cause.into(),
            error: core.error.unwrap_or_default(),
            infrastructure: core.infrastructure,
            node_fault: core.node_fault,
            last_lines: core.last_lines,
            last_seq: core.last_seq,
            ended_at: None,
        }
    }
}

impl From<v1::TaskEnd> for TaskEnd {
    fn from(wire: v1::TaskEnd) -> Self {
        Self {
            exit_code: wire.exit_code,
            signal: wire.signal,
            oom_killed: wire.oom_killed,
            stop_cause: stop_cause(wire.stop_cause),
            error: given(wire.error),
            infrastructure: wire.infrastructure,
            node_fault: wire.node_fault,
            lost: false,
            last_lines: wire.last_lines,
            last_seq: wire.last_seq,
        }
    }
}
