//! How far each tracker is: its cursor, what it has of each attempt, and deliveries that wait.
//!
//! Owns the documents. Never sends. Written by the tracker's own actor alone.

use serde::{Deserialize, Serialize};
use trainyard_core::{
    ids::{AttemptNo, JobId},
    time::Timestamp,
};

use super::{iterations::Iterations, names::Names, refusals::Refused};
use crate::store::Document;

/// A tracker: up to which change it has everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CursorRow {
    /// Its name.
    pub(super) tracker: String,
    /// The number of the last change that it has wholly.
    pub(super) change: u64,
    /// When it was seen that it lacks something; none while it has everything.
    #[serde(default)]
    pub(super) behind_since: Option<Timestamp>,
    /// Points or deliveries that it took, ever.
    #[serde(default)]
    pub(super) delivered: u64,
    /// Attempts, parts of them or deliveries that were given up, ever.
    #[serde(default)]
    pub(super) dropped: u64,
}

impl Document for CursorRow {
    const KIND: &'static str = "tracker";

    fn key(&self) -> String {
        self.tracker.clone()
    }
}

/// A job that a tracker does not take for now: the cursor has passed it, and it is tried by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ParkedRow {
    /// The tracker.
    pub(super) tracker: String,
    /// The job.
    pub(super) job: JobId,
    /// The change at which it was left behind.
    pub(super) change: u64,
}

impl ParkedRow {
    pub(super) fn key_of(tracker: &str, job: JobId) -> String {
        format!("{tracker}/{:020}", job.0)
    }
}

impl Document for ParkedRow {
    const KIND: &'static str = "tracker_parked";

    fn key(&self) -> String {
        Self::key_of(&self.tracker, self.job)
    }
}

/// What a tracker has of an attempt: each step is noted once it was taken there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunRow {
    /// The tracker.
    pub(super) tracker: String,
    /// The job.
    pub(super) job: JobId,
    /// Its attempt.
    pub(super) attempt: AttemptNo,
    /// On which server: a mark of its address; empty in rows from before it was kept.
    #[serde(default)]
    pub(super) server: String,
    /// Its creation was begun: it may be there although `run` is not known.
    #[serde(default)]
    pub(super) begun: bool,
    /// Its id there.
    #[serde(default)]
    pub(super) run: Option<String>,
    /// Parameters are there, and it is marked as running.
    #[serde(default)]
    pub(super) described: bool,
    /// All points up to this id are there.
    #[serde(default)]
    pub(super) last_point: u64,
    /// How its points are counted there.
    #[serde(default)]
    pub(super) iterations: Iterations,
    /// Under which names its metrics stand there.
    #[serde(default)]
    pub(super) names: Names,
    /// What of it was refused.
    #[serde(default)]
    pub(super) refused: Refused,
    /// The best checkpoint as it was last told.
    #[serde(default)]
    pub(super) best: Option<String>,
    /// The last checkpoint as it was last told.
    #[serde(default)]
    pub(super) last: Option<String>,
    /// Its end is there: nothing is left to do.
    #[serde(default)]
    pub(super) done: bool,
    /// Why nothing more is sent, if the tracker will never take it.
    #[serde(default)]
    pub(super) given_up: Option<String>,
}

impl RunRow {
    pub(super) fn key_of(tracker: &str, job: JobId, attempt: AttemptNo) -> String {
        format!("{tracker}/{:020}/{:010}", job.0, attempt.0)
    }

    pub(super) fn new(tracker: &str, job: JobId, attempt: AttemptNo) -> Self {
        Self {
            tracker: tracker.to_owned(),
            job,
            attempt,
            ..Self::default()
        }
    }

    /// Nothing is left to do.
    pub(super) fn is_over(&self) -> bool {
        self.done || self.given_up.is_some()
    }
}

impl Document for RunRow {
    const KIND: &'static str = "tracked_run";

    fn key(&self) -> String {
        Self::key_of(&self.tracker, self.job, self.attempt)
    }
}

/// Which changes of a job are in a webhook's outbox, or have left it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ToldRow {
    /// The webhook.
    pub(super) tracker: String,
    /// The job.
    pub(super) job: JobId,
    /// That it was submitted.
    pub(super) submitted: bool,
    /// The newest attempt whose start is told.
    pub(super) started: AttemptNo,
    /// The newest attempt whose end is told.
    pub(super) ended: AttemptNo,
    /// A cancel before any attempt, or between two, is told: since when it stood so.
    #[serde(default)]
    pub(super) cancelled_at: Option<Timestamp>,
    /// Checkpoints are told up to this point.
    pub(super) last_point: u64,
}

impl ToldRow {
    pub(super) fn key_of(tracker: &str, job: JobId) -> String {
        format!("{tracker}/{:020}", job.0)
    }
}

impl Document for ToldRow {
    const KIND: &'static str = "webhook_told";

    fn key(&self) -> String {
        Self::key_of(&self.tracker, self.job)
    }
}

/// A delivery that waits. Its body never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DeliveryRow {
    /// The webhook.
    pub(super) tracker: String,
    /// Ascending within the webhook.
    pub(super) number: u64,
    /// Of which job.
    pub(super) job: JobId,
    /// Which change.
    pub(super) event: String,
    /// The same whenever it is sent.
    pub(super) id: String,
    /// JSON.
    pub(super) body: String,
    /// When it came into the outbox.
    pub(super) since: Timestamp,
    /// How often it was tried.
    #[serde(default)]
    pub(super) tries: u32,
    /// Not before.
    #[serde(default)]
    pub(super) due_at: Timestamp,
}

impl DeliveryRow {
    pub(super) fn key_of(tracker: &str, number: u64) -> String {
        format!("{tracker}/{number:020}")
    }
}

impl Document for DeliveryRow {
    const KIND: &'static str = "webhook_delivery";

    fn key(&self) -> String {
        Self::key_of(&self.tracker, self.number)
    }
}

/// A delivery without its body: as it is read to count and to order, and never written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WaitingRow {
    pub(super) tracker: String,
    pub(super) number: u64,
    pub(super) job: JobId,
    pub(super) since: Timestamp,
    #[serde(default)]
    pub(super) due_at: Timestamp,
}

impl Document for WaitingRow {
    const KIND: &'static str = DeliveryRow::KIND;

    fn key(&self) -> String {
        DeliveryRow::key_of(&self.tracker, self.number)
    }
}
