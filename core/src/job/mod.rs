//! The job machine: `(job, now, event) → (job, effects)`, and nothing else.
//!
//! `state` holds the states and the one table of legal edges, `machine` the transitions. A report
//! of an older attempt is `Illegal` data to log, never a transition. INV-04: no report ever leaves a
//! terminal state; only a user's restart does, with a new attempt.

mod curve;
mod machine;
mod state;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use curve::Curve;
pub use state::{EDGES, JobState};

use crate::{
    failure::{Outcome, StopCause, TaskEnd, judge},
    ids::{AttemptNo, JobId, NodeName},
    record::{Checkpoint, Completion, Progress},
    retry::Tried,
    sched::Allocation,
    secret::Secret,
    spec::JobSpec,
    time::Timestamp,
};

/// One placement and run of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// From 1.
    pub number: AttemptNo,
    /// Where and with what.
    pub allocation: Allocation,
    /// Known to this attempt's trainer alone; part of its callback URL.
    pub secret: Secret,
    /// When it was given its place.
    pub placed_at: Timestamp,
    /// When its trainer process started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How it ended; records may still be on their way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<TaskEnd>,
    /// All its records up to this number are stored.
    pub stored_seq: u64,
    /// The trainer's own last word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion: Option<Completion>,
    /// The epoch of its first report with metrics: what earlier attempts said of it and of later ones is
    /// superseded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_epoch: Option<u32>,
    /// It begins at the beginning: nothing that was reported before it counts.
    #[serde(default = "anew")]
    pub anew: bool,
    /// It failed, and the job was tried again by itself.
    #[serde(default)]
    pub tried_again: bool,
}

impl Attempt {
    /// How it ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        let end = self.end.as_ref()?;
        Some(judge(end, self.completion.as_ref()))
    }
}

/// As attempts were that have no word of it.
fn anew() -> bool {
    true
}

/// A job and its whole history: one row of the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// What was asked for.
    pub spec: JobSpec,
    /// By whom.
    pub submitted_by: String,
    /// The snapshot that it trains on, for its whole life; none without a `dataset_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// Where it stands.
    pub state: JobState,
    /// Since when.
    pub state_since: Timestamp,
    /// What its node does at present; the scheduler knows why it waits.
    pub reason: String,
    /// Oldest first.
    pub attempts: Vec<Attempt>,
    /// A user wants it stopped.
    pub cancel_requested: bool,
    /// When a user last asked for it to run: its place in the queue, however often it is tried again.
    #[serde(default)]
    pub asked_at: Option<Timestamp>,
    /// What has been tried since a user last started it.
    #[serde(default)]
    pub tried: Tried,
    /// It waits, before it is tried again, at least until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Where it was tried in vain since a user last started it: other nodes go before these.
    #[serde(default)]
    pub failed_on: BTreeSet<NodeName>,
    /// The newest checkpoint that is known to be in the artifact store: where another node can go on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumable: Option<Checkpoint>,
    /// The newest report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The best checkpoint so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_checkpoint: Option<Checkpoint>,
    /// The last checkpoint so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<Checkpoint>,
    /// As the trainer reported them at its end.
    pub final_metrics: BTreeMap<String, f64>,
    /// When the first trainer process started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it reached its terminal state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The run of its newest attempt at MLflow, once there is one: that of the tracker, else the one
    /// that the trainer named at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlflow_run_id: Option<String>,
    /// The task of its newest attempt at ClearML, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clearml_task_id: Option<String>,
}

/// Where attempts are runs that the job shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracker {
    /// An MLflow tracking server.
    Mlflow,
    /// A ClearML server.
    Clearml,
}

/// What happens to a job. Past tense: facts.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// All that the job needs is known.
    Prepared,
    /// The scheduler has given it a place.
    Placed {
        /// Since when the job had waited that was given the place: the fence against late ones.
        queued_at: Timestamp,
        /// The place.
        allocation: Allocation,
        /// Drawn by the caller, who has randomness.
        secret: Secret,
    },
    /// Its node is busy with it: fetching, building.
    Preparing(AttemptNo, String),
    /// The trainer process runs.
    Started(AttemptNo, Timestamp),
    /// The trainer process is gone, or never was.
    Ended(AttemptNo, TaskEnd),
    /// Records up to `seq` are stored; with what they said.
    Stored {
        /// Of which attempt.
        attempt: AttemptNo,
        /// Up to which number.
        seq: u64,
        /// The newest report among them.
        progress: Option<Box<Progress>>,
        /// The trainer's last word, if it was among them.
        completion: Option<Box<Completion>>,
        /// The epoch of the first report with metrics among them.
        first_epoch: Option<u32>,
        /// The newest last checkpoint among them that its agent has put into the artifact store.
        kept: Option<Checkpoint>,
    },
    /// A user wants it stopped.
    CancelRequested,
    /// A user wants it run again.
    RestartRequested,
    /// A user wants it started: one that waits is started anyway, one that has ended runs again.
    StartRequested(Resume),
    /// The attempt is gone: its node came back without a trace of it.
    AttemptLost(AttemptNo, String),
    /// Its node has been silent for longer than its lease.
    NodeLost(AttemptNo, String),
    /// Its node speaks of the attempt again, as of one that runs.
    Heard(AttemptNo),
    /// The attempt has this run at a tracker; may come long after its end.
    Tracked(AttemptNo, Tracker, String),
}

/// Where a trainer begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The checkpoint, as the trainer's node sees it; without one the job's last one.
    pub checkpoint: Option<String>,
    /// Go on where it ended, epochs and optimizer included; else only its weights are taken.
    pub whole: bool,
}

/// What is to be done once the changed job is stored. Imperative, plain data, safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Put it in the scheduler's queue.
    Enqueue,
    /// Take it out of the queue.
    Dequeue,
    /// Give its allocation back.
    Release,
    /// Tell the node to run the attempt.
    Start(NodeName, AttemptNo),
    /// Tell the node to stop it.
    Stop(NodeName, AttemptNo, StopCause),
    /// Tell the node that all is stored.
    Forget(NodeName, AttemptNo),
}

/// An event that the job's state does not allow; a fact to log or to answer, never a transition.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Illegal {
    /// The attempt is not the live one.
    #[error("attempt {} is not the live one ({live:?})", .seen.0)]
    Fenced {
        /// What the report carried.
        seen: AttemptNo,
        /// What is true.
        live: Option<AttemptNo>,
    },
    /// The state has no such edge.
    #[error("a {} job does not take '{event}'", .state.name())]
    NotNow {
        /// Where the job stands.
        state: JobState,
        /// What came.
        event: &'static str,
    },
}

/// A legal transition: the job as it is to be stored, and what to do then.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Step {
    /// The changed job.
    pub job: Job,
    /// To be carried out after it is stored, in order.
    pub effects: Vec<Effect>,
}

impl Job {
    /// A job just accepted.
    #[must_use]
    pub fn accepted(id: JobId, spec: JobSpec, submitted_by: String, now: Timestamp) -> Self {
        Self {
            id,
            spec,
            submitted_by,
            snapshot_id: None,
            created_at: now,
            state: JobState::Pending,
            state_since: now,
            reason: String::new(),
            attempts: Vec::new(),
            cancel_requested: false,
            asked_at: Some(now),
            tried: Tried::default(),
            not_before: None,
            failed_on: BTreeSet::new(),
            resumable: None,
            progress: None,
            outcome: None,
            best_checkpoint: None,
            last_checkpoint: None,
            final_metrics: BTreeMap::new(),
            started_at: None,
            ended_at: None,
            mlflow_run_id: None,
            clearml_task_id: None,
        }
    }

    /// Notes where the next attempt's trainer begins: afresh when nothing is wanted, or when there is
    /// no checkpoint to go on from.
    fn begin_with(&mut self, from: &Resume) {
        let last = self.last_checkpoint.as_ref().filter(|_| from.whole);
        let last = last.map(|checkpoint| checkpoint.path.clone());
        self.spec.resume_from = from.checkpoint.clone().or(last);
        self.spec.resume = from.whole && self.spec.resume_from.is_some();
    }

    /// Whether the next attempt goes on from where this job's own trainer was.
    fn goes_on(&self) -> bool {
        let own = [&self.last_checkpoint, &self.best_checkpoint];
        let mut paths = own.into_iter().flatten().map(|own| &own.path);
        self.spec.resume && paths.any(|path| Some(path) == self.spec.resume_from.as_ref())
    }

    /// The newest attempt, live or over.
    #[must_use]
    pub fn attempt(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// What the job holds now.
    #[must_use]
    pub fn allocation(&self) -> Option<&Allocation> {
        let live = self.attempts.last()?;
        self.state.holds_resources().then_some(&live.allocation)
    }

    /// Applies `event` at `now`.
    ///
    /// # Errors
    /// When the event is of a fenced attempt or the state does not allow it.
    pub fn step(&self, now: Timestamp, event: Event) -> Result<Step, Illegal> {
        machine::step(self, now, event)
    }
}

#[cfg(test)]
mod states_doc;
#[cfg(test)]
mod tests;
