//! Tasks: which, and how they ended.

use trainyard_core::{
    failure::{StopCause, TaskEnd},
    ids::{AttemptNo, JobId, Rank, TaskKey},
};

use super::given;
use crate::v1;

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
        }
    }
}

/// `None` where the wire says unspecified.
fn stop_cause(wire: v1::StopCause) -> Option<StopCause> {
    match wire {
        v1::StopCause::Unspecified => None,
        v1::StopCause::Cancelled => Some(StopCause::Cancelled),
        v1::StopCause::TimeLimit => Some(StopCause::TimeLimit),
        v1::StopCause::Fenced => Some(StopCause::Fenced),
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
            stop_cause: stop_cause(wire.stop_cause()),
            error: given(wire.error),
            infrastructure: wire.infrastructure,
            last_lines: wire.last_lines,
            last_seq: wire.last_seq,
        }
    }
}
