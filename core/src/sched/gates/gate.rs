//! What stands between a job and its consideration, as its specification says, and how those stand that it waits for.

use crate::{
    ids::JobId,
    job::JobState,
    spec::{ArrayPlace, JobSpec},
    time::Timestamp,
};

/// What stands between a job and its consideration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// Not before this moment.
    pub not_before: Option<Timestamp>,
    /// Not before these have succeeded.
    pub after: Vec<JobId>,
    /// Not before these have ended, well or ill.
    pub after_any: Vec<JobId>,
    /// Not while as many of its array run as may.
    pub array: Option<ArrayPlace>,
}

impl Gate {
    /// As the job's specification says.
    #[must_use]
    pub fn of(spec: &JobSpec) -> Self {
        Self {
            not_before: spec.not_before,
            after: spec.after.clone(),
            after_any: spec.after_any.clone(),
            array: spec.array.clone(),
        }
    }

    /// Jobs that it waits for.
    pub fn awaited(&self) -> impl Iterator<Item = JobId> + '_ {
        self.after.iter().chain(&self.after_any).copied()
    }

    /// Its array's number and limit, if that has one.
    pub(super) fn limited(&self) -> Option<(JobId, u32, u32)> {
        let place = self.array.as_ref()?;
        Some((place.id, place.index, place.at_most?))
    }

    pub(super) fn is_open(&self) -> bool {
        self.not_before.is_none() && self.awaited().next().is_none() && self.limited().is_none()
    }
}

/// How a job stands that others wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not ended.
    Open,
    /// It has completed.
    Succeeded,
    /// It has failed.
    Failed,
    /// Somebody has cancelled it, or it waited for one that did not succeed.
    Cancelled,
    /// Nobody knows it any more.
    Unknown,
}

impl Standing {
    /// Of a job in this state; of none where there is no such job.
    #[must_use]
    pub fn of(state: Option<JobState>) -> Self {
        match state {
            Some(
                JobState::Pending
                | JobState::Queued
                | JobState::Starting
                | JobState::Running
                | JobState::Finishing,
            ) => Self::Open,
            Some(JobState::Completed) => Self::Succeeded,
            Some(JobState::Failed) => Self::Failed,
            Some(JobState::Cancelled) => Self::Cancelled,
            None => Self::Unknown,
        }
    }
}
