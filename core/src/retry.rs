//! When a job is tried again by itself, and where.
//!
//! Pure: by the class of a failure and what the job asks for. A failure of the job's own is never
//! tried again: it would end the same way.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{failure::FailureClass, time::Timestamp};

/// What becomes of an attempt whose node is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLost {
    /// A new attempt begins elsewhere; the old one is stopped when its node comes back.
    #[default]
    Retry,
    /// The node is waited for, however long it takes.
    Wait,
}

/// What becomes of a job that ran out of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMemory {
    /// It has failed.
    #[default]
    Fail,
    /// It is tried once more with half of its batch size.
    HalveBatch,
}

/// What a job asks for when an attempt of it fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryPolicy {
    /// New attempts after failures of class `infrastructure` or `lost`; 0 to 100.
    pub limit: u32,
    /// Before the first of them; doubled for each further one.
    pub backoff: Duration,
    /// When its node is lost.
    pub on_lost: OnLost,
    /// When memory runs out.
    pub out_of_memory: OnMemory,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            limit: 3,
            backoff: Duration::from_secs(10),
            on_lost: OnLost::default(),
            out_of_memory: OnMemory::default(),
        }
    }
}

/// The longest wait between two attempts.
pub const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// What has been tried since the job was last started by a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tried {
    /// Attempts that count against the limit.
    pub again: u32,
    /// The batch was halved.
    pub halved: bool,
    /// What it was before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u32>,
}

/// The next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// On another node, if there is one, not before this moment.
    Elsewhere {
        /// When.
        not_before: Timestamp,
    },
    /// At once, with half of the batch.
    HalfBatch,
    /// When there is room again, as often as that may be.
    WithRoom,
}

impl RetryPolicy {
    /// Whether a failure of this class leads to another attempt.
    #[must_use]
    pub fn again(&self, class: FailureClass, tried: &Tried, now: Timestamp) -> Option<Again> {
        match class {
            FailureClass::Infrastructure | FailureClass::Lost => {
                (tried.again < self.limit).then(|| Again::Elsewhere {
                    not_before: now.plus(self.wait(tried.again)),
                })
            }
            FailureClass::OutOfMemory => {
                let may = self.out_of_memory == OnMemory::HalveBatch && !tried.halved;
                may.then_some(Again::HalfBatch)
            }
            FailureClass::Preempted => Some(Again::WithRoom),
            FailureClass::User | FailureClass::Cancelled | FailureClass::Timeout => None,
        }
    }

    fn wait(&self, before: u32) -> Duration {
        let doubled = 1u32.checked_shl(before.min(20)).unwrap_or(u32::MAX);
        self.backoff.saturating_mul(doubled).min(LONGEST_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(0);

    fn tried(again: u32) -> Tried {
        Tried {
            again,
            ..Tried::default()
        }
    }

    #[test]
    fn what_is_nobodys_fault_is_tried_again_with_growing_patience_up_to_the_limit() {
        let policy = RetryPolicy::default();
        let waits: Vec<_> = (0..4)
            .map(|n| policy.again(FailureClass::Lost, &tried(n), NOW))
            .collect();
        let elsewhere = |seconds| {
            let not_before = NOW.plus(Duration::from_secs(seconds));
            Some(Again::Elsewhere { not_before })
        };
        assert_eq!(waits, [elsewhere(10), elsewhere(20), elsewhere(40), None]);
        let patient = RetryPolicy {
            limit: 100,
            ..policy
        };
        let late = patient.again(FailureClass::Infrastructure, &tried(60), NOW);
        assert_eq!(late, elsewhere(600));
    }

    #[test]
    fn what_the_job_did_itself_is_never_tried_again() {
        let policy = RetryPolicy::default();
        for class in [
            FailureClass::User,
            FailureClass::Cancelled,
            FailureClass::Timeout,
            FailureClass::OutOfMemory,
        ] {
            assert_eq!(policy.again(class, &tried(0), NOW), None, "{class:?}");
        }
    }

    #[test]
    fn whoever_made_room_goes_on_however_often_that_was_and_at_no_cost() {
        let policy = RetryPolicy {
            limit: 0,
            ..RetryPolicy::default()
        };
        let again = policy.again(FailureClass::Preempted, &tried(7), NOW);
        assert_eq!(again, Some(Again::WithRoom));
    }

    #[test]
    fn a_lack_of_memory_is_met_once_with_half_the_batch_when_the_job_asks_for_it() {
        let policy = RetryPolicy {
            limit: 0,
            out_of_memory: OnMemory::HalveBatch,
            ..RetryPolicy::default()
        };
        let first = policy.again(FailureClass::OutOfMemory, &tried(0), NOW);
        assert_eq!(first, Some(Again::HalfBatch));
        let halved = Tried {
            halved: true,
            ..Tried::default()
        };
        assert_eq!(policy.again(FailureClass::OutOfMemory, &halved, NOW), None);
    }
}
