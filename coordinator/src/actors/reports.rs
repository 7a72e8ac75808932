//! A task report, parsed: from here on nobody sees wire types.

use trainyard_core::{failure::TaskEnd, ids::TaskKey, time::Timestamp};
use trainyard_proto::{
    convert::{WireError, time},
    v1::{self, TaskPhase},
};

/// How a task stands, as its agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which task.
    pub task: TaskKey,
    /// How it stands.
    pub phase: Phase,
    /// What the node does at present.
    pub detail: String,
}

/// The three ways in which a task can stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Fetching, building.
    Preparing,
    /// The trainer process runs, since then.
    Running(Timestamp),
    /// The process is gone, or there never was one; when it had started, if it had.
    Ended(Option<Timestamp>, TaskEnd),
}

impl TryFrom<v1::TaskReport> for Report {
    type Error = WireError;

    fn try_from(wire: v1::TaskReport) -> Result<Self, WireError> {
        let phase = match wire.phase() {
            TaskPhase::Unspecified => return Err(WireError::Missing("report.phase")),
            TaskPhase::Preparing => Phase::Preparing,
            TaskPhase::Running => {
                let started = wire.started_at.as_ref();
                Phase::Running(time(
                    started.ok_or(WireError::Missing("report.started_at"))?,
                ))
            }
            TaskPhase::Exited | TaskPhase::NotStarted => {
                let end = wire.end.ok_or(WireError::Missing("report.end"))?;
                Phase::Ended(wire.started_at.as_ref().map(time), end.into())
            }
        };
        Ok(Self {
            task: wire.task.ok_or(WireError::Missing("report.task"))?.into(),
            phase,
            detail: wire.detail,
        })
    }
}
